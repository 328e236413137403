"""What others watch runs by: metrics for Prometheus, a heartbeat, and logs that a program reads."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from featurectl import pipeline
from featurectl.cli import diagnostics
from featurectl.cli.common import common_options
from featurectl.core.locks import lock
from featurectl.core.redact import redact
from featurectl.core.runs import RunSettings, heartbeat, open_run
from featurectl.errors import UsageError
from tests.fix_command import Command, Ended
from tests.fix_repository import Repo
from tests.integration.test_first_path import candles
from tests.integration.test_pipeline import put, settings, trades

NOW = "2024-01-03T12:00:00+00:00"
LATER = "2024-01-03T13:30:00+00:00"
CLOSED = "postgresql://nobody@127.0.0.1:1/nothing"
PROJECT = {"project": "market", "command": "run"}
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture(autouse=True)
def _now(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEATURECTL_NOW", NOW)


@pytest.fixture
def page(tmp_path: Path) -> Path:
    return tmp_path / "featurectl.prom"


def samples(text: str) -> Samples:
    """Return what Prometheus reads of a page, by names without their prefix, and labels."""
    found = {}
    for family in text_string_to_metric_families(text):
        assert family.documentation and family.type == "gauge"
        for sample in family.samples:
            key = sample.name.removeprefix("featurectl_"), frozenset(sample.labels.items())
            assert sample.name.startswith("featurectl_") and key not in found
            found[key] = sample.value
    return found


def value(path: Path, name: str, **labels: str) -> float | None:
    """Return a value of a page; labels that are not given are those of the pipeline's run."""
    wanted = {**PROJECT, **labels} if name.startswith("run_") else {"project": "market", **labels}
    return samples(path.read_text()).get((name, frozenset(wanted.items())))


def ledger(repo: Repo) -> list[tuple[Any, ...]]:
    return repo.rows("SELECT verdict, exit_code, seconds, finished_at FROM featurectl.runs ORDER BY number")


def fail(error: BaseException) -> Callable[..., Any]:
    """Return a function that fails, whatever it is given."""

    def failing(*_: Any, **__: Any) -> Any:
        raise error

    return failing


# Metrics


def test_the_page_says_what_the_run_did_and_how_far_features_lag(repo: Repo, command: Command, page: Path) -> None:
    put(repo, "BTCUSDT_1h.csv", candles(58) + b"\nrubbish,1,2,3,4,5\n")
    put(repo, "BTCUSDT_4h.csv", b"open_time,open,high,low,close,volume\n2024-01-03T04:00:00Z,1,1,1,1,1\n")
    put(repo, "trades/BTCUSDT.csv", trades(10))
    command("run", "--metrics-file", page, code=0)
    ((verdict, code, seconds, finished),) = ledger(repo)
    assert (verdict, code, page.stat().st_mode & 0o044) == ("done", 0, 0o044), "another user's exporter reads it"
    assert value(page, "run_success") == 1 and value(page, "run_exit_code") == 0
    assert value(page, "run_duration_seconds") == seconds > 0
    assert value(page, "run_last_success_timestamp_seconds") == pytest.approx(finished.timestamp())
    assert value(page, "run_finished_timestamp_seconds") == pytest.approx(finished.timestamp())
    columns = ("read", "written", "unchanged", "older", "rejected")
    rows = repo.rows(f"SELECT {', '.join(f'rows_{name}' for name in columns)} FROM featurectl.runs")[0]
    assert [value(page, "run_rows", kind=name) for name in columns] == list(rows)
    assert rows[0] > 70 and rows[4] == 1
    (info,) = [dict(labels) for name, labels in samples(page.read_text()) if name == "run_info"]
    assert info["verdict"] == "done" and "run_id" not in info
    views = {(one["view"], one["timeframe"]): one for one in command("status").document["views"]}
    assert len(views) == 7 and views["technical_indicators_view", "1h"]["lag_bars"] == 2
    for (view, timeframe), one in views.items():
        labels = {"view": view, "timeframe": timeframe}
        for name, column in (("lag_bars", "lag_bars"), ("lag_seconds", "lag_seconds"), ("entities", "entities")):
            assert value(page, name, **labels) == one[column], (name, labels)
        for name in ("stale", "missing", "behind"):
            assert value(page, f"{name}_entities", **labels) == one[name], (name, labels)
    assert value(page, "stale_entities", view="technical_indicators_view", timeframe="4h") == 1
    degraded = {view: value(page, "degraded_answers", view=view) for view, _ in views}
    assert set(degraded.values()) == {0.0}


def test_the_last_success_survives_failures_and_a_database_that_is_away(
    repo: Repo, command: Command, page: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(repo, "trades/bad.csv")
    command("run", "--metrics-file", page, code=5)
    assert value(page, "run_last_success_timestamp_seconds") is None, "there was none yet"
    put(repo, "BTCUSDT_1h.csv", candles())
    command("run", "--metrics-file", page, code=0)
    success = value(page, "run_last_success_timestamp_seconds")
    assert success == pytest.approx(datetime.fromisoformat(NOW).timestamp(), abs=30)
    monkeypatch.setenv("FEATURECTL_NOW", LATER)
    put(repo, "trades/bad.csv")
    command("run", "--metrics-file", page, code=5)
    assert value(page, "run_last_success_timestamp_seconds") == success
    assert (value(page, "run_success"), value(page, "run_exit_code")) == (0, 5)
    assert value(page, "lag_bars", view="technical_indicators_view", timeframe="1h") == 1
    away = command("run", "--metrics-file", page, "--database-url", CLOSED, "--retry-for", "0s", code=3)
    assert "127.0.0.1:1" in away.err
    assert value(page, "run_last_success_timestamp_seconds") == success
    assert (value(page, "run_success"), value(page, "run_exit_code")) == (0, 3)
    assert not [name for name, _ in samples(page.read_text()) if name.startswith("lag_")], "nobody knows"
    page.unlink()
    command("run", "--metrics-file", page, "--step", "check", "--max-lag", "0", code=1)
    assert value(page, "run_last_success_timestamp_seconds") == success, "the ledger knows"


def test_a_page_of_rubbish_is_replaced(command: Command, page: Path) -> None:
    page.write_bytes(b'{"\xff": not a page\n')
    command("run", "--metrics-file", page, "--database-url", CLOSED, "--retry-for", "0s", code=3)
    assert value(page, "run_exit_code") == 3


def test_every_command_that_writes_has_a_page(repo: Repo, command: Command, page: Path) -> None:
    (repo.root / "BTCUSDT_1h.csv").write_bytes(candles())
    words = {"ingest candles": ("BTCUSDT_1h.csv",), "compute": (), "materialize": ()}
    for name, rest in words.items():
        command(*name.split(), *rest, "--metrics-file", page, code=0)
        assert value(page, "run_success", command=name) == 1
    assert value(page, "missing_entities", view="technical_indicators_view", timeframe="1h") == 0
    command("compute", "--symbol", "NONE", "--metrics-file", page, code=2)
    assert value(page, "run_exit_code", command="compute") == 2


def test_nobody_ever_reads_half_a_page(repo: Repo, page: Path) -> None:
    page.write_text("# HELP featurectl_run_success x\n# TYPE featurectl_run_success gauge\nfeaturectl_run_success 1\n")
    names: set[frozenset[str]] = set()
    is_over = threading.Event()

    def poll() -> None:
        while not is_over.is_set():
            text = page.read_text()
            names.add(frozenset(name for name, _ in samples(text)) if text.endswith("\n") else frozenset(["torn"]))

    reader = threading.Thread(target=poll)
    reader.start()
    try:
        for _ in range(50):
            with open_run(repo.database, RunSettings("run", metrics_file=page), now=datetime.fromisoformat(NOW)):
                pass
    finally:
        is_over.set()
        reader.join()
    assert names <= {frozenset(["run_success"]), frozenset(name for name, _ in samples(page.read_text()))}
    assert [path.name for path in page.parent.glob("featurectl*")] == [page.name], "nothing lies beside it"


def test_a_page_that_cannot_be_written_is_refused_before_the_work(repo: Repo, command: Command, tmp_path: Path) -> None:
    put(repo, "BTCUSDT_1h.csv", candles())
    os.mkfifo(tmp_path / "pipe")  # and so /dev/null, which a new file would replace
    reasons = {"none/x.prom": "No such file", "": "is a directory", "pipe": "is a device or a pipe"}
    for name, reason in reasons.items():
        assert reason in command("run", "--metrics-file", tmp_path / name, code=2).err
    settings(repo, "metrics_file: none/x.prom")
    assert "No such file" in command("run", code=2).err
    assert (repo.root / "inbox" / "BTCUSDT_1h.csv").exists() and ledger(repo) == []
    assert not (tmp_path / "pipe").is_file()


def test_a_page_that_can_no_longer_be_written_is_no_failure(repo: Repo, tmp_path: Path) -> None:
    said: list[str] = []
    folder = tmp_path / "folder"
    folder.mkdir()
    run = RunSettings("run", metrics_file=folder / "x.prom", say=said.append)
    with open_run(repo.database, run, now=datetime.fromisoformat(NOW)):
        folder.rmdir()
    assert said == [
        f"metrics file {folder}/x.prom can't be written: No such file or directory; name another with --metrics-file"
    ]
    assert [row[:2] for row in ledger(repo)] == [("done", 0)]


def test_a_link_to_a_page_stays_one(command: Command, page: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.prom"
    link.symlink_to(page.name)
    command("run", "--metrics-file", link, code=0)
    assert link.is_symlink() and value(page, "run_success") == 1


def test_degraded_answers_are_counted(repo: Repo, command: Command, page: Path) -> None:
    put(repo, "BTCUSDT_1h.csv", candles())
    put(repo, "BTCUSDT_4h.csv", b"open_time,open,high,low,close,volume\n2024-01-03T04:00:00Z,1,1,1,1,1\n")
    command("run", "--metrics-file", page, code=0)
    with repo.connect() as connection:
        connection.execute("ALTER TABLE online.market__technical_indicators_view RENAME COLUMN macd TO gone")
    command("run", "--step", "check", "--metrics-file", page, code=1)
    assert value(page, "degraded_answers", view="technical_indicators_view") == 2, "one entity of each timeframe"
    assert value(page, "run_success") == 0


# The heartbeat


@dataclass
class Listener:
    """A server that is asked for URLs; ``answer`` writes what it answers."""

    url: str
    paths: list[str] = field(default_factory=list)
    answer: Callable[[BaseHTTPRequestHandler], None] = lambda handler: respond(handler, 200)

    def heard(self) -> list[str]:
        found, self.paths[:] = list(self.paths), []
        return found


def respond(handler: BaseHTTPRequestHandler, status: int) -> None:
    handler.send_response(status)
    handler.send_header("Content-Length", "2")
    handler.end_headers()
    handler.wfile.write(b"OK")


@pytest.fixture
def listener() -> Iterator[Listener]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            listening.paths.append(self.path)
            with contextlib.suppress(OSError):
                listening.answer(self)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        listening = Listener(f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield listening
        server.shutdown()
        thread.join()


SECRET = "ping/3f9a2c71-secret"


def test_the_heartbeat_tells_success_from_failure(repo: Repo, command: Command, listener: Listener) -> None:
    url = f"{listener.url}/{SECRET}"
    put(repo, "BTCUSDT_1h.csv", candles(58))
    command("run", "--heartbeat", url, code=0)
    assert listener.heard() == [f"/{SECRET}"]
    command("run", "--max-lag", "0", f"--heartbeat={url}/", code=1)
    assert listener.heard() == [f"/{SECRET}/fail"]
    put(repo, "trades/bad.csv")
    command("run", "--heartbeat", f"{url}?rid=1", code=5)
    assert listener.heard() == [f"/{SECRET}/fail?rid=1"]
    command("run", "--heartbeat", url, "--database-url", CLOSED, "--retry-for", "0s", code=3)
    assert listener.heard() == [f"/{SECRET}/fail"]
    command("compute", "--heartbeat", url, code=0)
    assert listener.heard() == [f"/{SECRET}"]
    (repo.root / "BTCUSDT_1h.csv").write_bytes(b"")
    command("ingest", "candles", "BTCUSDT_1h.csv", "--heartbeat", listener.url, code=2)
    assert listener.heard() == ["/fail"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "look_into", fail(KeyboardInterrupt()))
        command("run", "--heartbeat", url, code=130)
    assert listener.heard() == [f"/{SECRET}/fail"]
    settings(repo, 'heartbeat_url: "${HEARTBEAT}"')
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEARTBEAT", url)
        command("run", code=0)
    assert listener.heard() == [f"/{SECRET}"]


def test_neither_a_dry_run_nor_one_that_is_skipped_is_told_of(
    repo: Repo, command: Command, listener: Listener, page: Path
) -> None:
    told = ("--heartbeat", f"{listener.url}/{SECRET}", "--metrics-file", page)
    command("run", "--dry-run", *told, code=0)
    with repo.connect() as connection, lock(connection, "run market"):
        command("run", "--if-locked", "skip", *told, code=0)
        assert listener.heard() == [] and not page.exists()
        command("run", *told, code=4)
    assert listener.heard() == [f"/{SECRET}/fail"] and value(page, "run_exit_code") == 4


def hang(handler: BaseHTTPRequestHandler) -> None:
    time.sleep(1.5)


def drip(handler: BaseHTTPRequestHandler) -> None:
    """Answer so slowly that no single read waits for long."""
    for byte in b"HTTP/1.0 200 OK\r\n" + b"x" * 80:
        handler.wfile.write(bytes([byte]))
        handler.wfile.flush()
        time.sleep(0.1)


def test_a_heartbeat_that_nobody_hears_is_a_warning(
    command: Command, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeat, "SECONDS", 0.4)
    answers: dict[str, Callable[[BaseHTTPRequestHandler], None]] = {
        "500 Internal Server Error": lambda handler: respond(handler, 500),
        "404 Not Found": lambda handler: respond(handler, 404),
        "no answer within 0.4 s|timed out": hang,
        "no answer within 0.4 s": drip,
        "BadStatusLine|Remote end closed|not an answer": lambda handler: handler.wfile.write(b"not an answer\r\n\r\n"),
    }
    for reason, answer in answers.items():
        listener.answer = answer
        began = time.monotonic()
        done = command("run", "--heartbeat", f"{listener.url}/{SECRET}", code=0)
        assert time.monotonic() - began < 8
        (line,) = done.err.splitlines()
        assert line.startswith("warning: the heartbeat at 127.0.0.1 was not heard: "), line
        assert any(one in line for one in reason.split("|")), line
    done = command("run", "--heartbeat", f"http://127.0.0.1:1/{SECRET}", code=0)
    assert "Connection refused; check the URL" in done.err
    done = command("run", "--heartbeat", f"http://nowhere.invalid/{SECRET} x", code=0)
    assert "the heartbeat at nowhere.invalid was not heard" in done.err and SECRET not in done.err


@pytest.mark.parametrize("url", ["ftp://host/x", "host/path", "http://", "http://[::1/x", "https://me:pw123@host/x"])
def test_what_is_no_heartbeat_is_refused_and_not_repeated(command: Command, url: str) -> None:
    done = command("run", "--heartbeat", url, code=2)
    assert done.err == "error: the heartbeat is not a URL that can be asked for; write https://host/path\n"


def test_who_knows_the_path_can_ping_and_so_nobody_is_told(
    repo: Repo, command: Command, listener: Listener, page: Path
) -> None:
    url = f"{listener.url}/{SECRET}?key=t0pS3cret"
    listener.answer = lambda handler: respond(handler, 500)
    put(repo, "trades/bad.csv")
    (repo.root / "feature_repo" / "indicators.py").write_text(f"raise ValueError('{url}')\n")
    put(repo, "BTCUSDT_1h.csv", candles())
    told = [command("run", "--heartbeat", url, "--metrics-file", page, "--log-format", "json", "--debug", code=5)]
    told += [command("run", f"--heartbeat={url}", "--metrics-file", page, code=5), command("runs", "show", "last")]
    settings(repo, f"heartbeat_url: {url}\nmax_lag: {url}")
    told.append(command("run", code=2))
    texts = [one.out + one.err for one in told] + [page.read_text()]
    texts += [row for (row,) in repo.rows("SELECT r::text FROM featurectl.runs AS r")]
    assert len(texts) == 7
    for text in texts:
        assert SECRET not in text and "t0pS3cret" not in text
    assert "***" in texts[0]


def test_a_word_that_is_a_path_is_not_masked_everywhere(repo: Repo, command: Command, listener: Listener) -> None:
    done = command("run", "--heartbeat", f"{listener.url}/step", "--step", "compute", code=0)
    assert "step" in done.document["results"][0] if done.document["results"] else done.document["steps"]
    (arguments,) = repo.rows("SELECT arguments FROM featurectl.runs")[0]
    assert arguments == ["run", "--heartbeat", f"{listener.url}***", "--step", "compute"]
    assert redact("a step of the run") == "a step of the run"


# Logs that a program reads

LINE = {"time", "level", "run_id", "command", "message"}


def log_of(ended: Ended) -> list[dict[str, Any]]:
    """Return the lines of a log: each of them has everything, and the same run."""
    for line in ended.log:
        assert set(line) == LINE and line["message"], line
        assert datetime.fromisoformat(line["time"]) and line["level"] in ("info", "warning", "error", "debug")
    assert len({line["run_id"] for line in ended.log}) == 1
    return ended.log


# What is wrong on a command line, and the command that its lines name.
FAULTY: list[tuple[tuple[str, ...], str | None]] = [
    (("run", "--bogus", "--log-format", "json"), "run"),
    (("run", "--bogus", "--log-format=json"), "run"),
    (("--bogus", "--log-format", "json", "run"), "run"),
    (("--log-format", "json", "run", "--step", "nonsense"), "run"),
    (("run", "--max-lag", "much", "--log-format", "json"), "run"),
    (("run", "", "--log-format", "json"), "run"),
    (("frobnicate", "--log-format", "json"), "frobnicate"),
    (("-C", "/nowhere", "run", "--log-format", "json"), "run"),
    (("--repo", "/nowhere", "--timeout", "3", "compute", "--log-format", "json"), "compute"),
    (("ingest", "candles", "--log-format", "json"), "ingest candles"),
    (("ingest", "-C", "/nowhere", "trades", "x.csv", "--log-format", "json"), "ingest trades"),
    (("ingest", "--log-format", "json"), "ingest"),
    (("--log-format", "json"), None),
    (("--log-format", "xml", "run", "--log-format", "json"), "run"),
    (("status", "--log-format", "json", "--timeout", "soon"), "status"),
]


def test_what_is_wrong_with_a_command_line_is_said_in_its_format(command: Command) -> None:
    for words, name in FAULTY:
        done = command(*words)
        assert done.code == 2 and done.err, words
        log = log_of(done)
        assert [line["command"] for line in log] == [name] * len(log), words
        assert log[-1]["level"] == "error", words
    named = {name for option in common_options() if not option.is_flag for name in option.opts}
    assert named == set(diagnostics.VALUED), "the options whose values are no commands"


def test_the_environment_chooses_the_format_and_the_option_wins(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEATURECTL_LOG_FORMAT", "json")
    (line,) = log_of(command("run", "--log-format", "xml", code=2))
    assert line["message"] == "--log-format 'xml' is no log format; formats: text, json"
    assert command("run", "--log-format", "text", "--bogus", code=2).err.startswith("error: ")
    assert len(log_of(command("run", "--bogus", code=2))) == 1
    monkeypatch.setenv("FEATURECTL_LOG_FORMAT", "xml")
    assert command("run", code=2).err == "error: FEATURECTL_LOG_FORMAT 'xml' is no log format; formats: text, json\n"
    assert len(log_of(command("run", "--log-format", "json", "--bogus", code=2))) == 1
    assert command("run", "--log-format", "text", code=0).err == ""
    monkeypatch.delenv("FEATURECTL_LOG_FORMAT")
    assert command("run", "--log-format", "json", "--", "--log-format", code=2).log
    assert command("run", "--", "--log-format", "json", code=2).err.startswith("error: ")


def test_the_run_of_a_log_is_that_of_the_ledger(repo: Repo, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnostics, "SECONDS_BETWEEN_LINES", 0.0)
    put(repo, "BTCUSDT_1h.csv", candles())
    put(repo, "trades/bad.csv")
    done = command("--log-format", "json", "run", code=5)
    log = log_of(done)
    levels = [line["level"] for line in log]
    assert levels[-1] == "error" and "warning" in levels and levels.count("info") > 3
    assert {line["command"] for line in log} == {"run"} and log[0]["time"] == "2024-01-03T12:00:00Z"
    for step in ("ingest: 0 of 2 done, at BTCUSDT_1h.csv", "compute: ", "materialize: 0 of 3 done", "check: 0 of 2"):
        assert [line for line in log if line["message"].startswith(step)], step
    assert "files could not be used" in log[-1]["message"]
    assert repo.rows("SELECT run_id FROM featurectl.runs") == [(log[0]["run_id"],)]
    assert done.document["run_id"] == log[0]["run_id"]
    assert command("run", "--log-format", "json", "--quiet", code=0).log == []


def test_a_terminal_shows_lines_too(repo: Repo, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnostics, "SECONDS_BETWEEN_LINES", 0.0)
    put(repo, "BTCUSDT_1h.csv", candles())
    import sys

    monkeypatch.setattr(type(sys.stderr), "isatty", lambda _: True)
    log = log_of(command("run", "--log-format", "json", "--format", "json", code=0))
    assert len(log) > 3 and not any("\x1b" in line["message"] for line in log)


def test_what_libraries_say_is_a_line_as_well(repo: Repo, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    look_into, root = pipeline.look_into, logging.getLogger()

    def talkative(*arguments: Any, **named: Any) -> Any:
        warnings.warn("two\nlines of 100 % {text}", UserWarning, stacklevel=1)
        logging.getLogger("featurectl").warning("of ours: %s", {"a": "b"})
        logging.getLogger("some.library").error("of another\nword", exc_info=ValueError("x"))
        logging.getLogger("some.library").info("too quiet")
        logging.basicConfig()  # as Feast's own command line does
        logging.getLogger("after").warning("after that")
        return look_into(*arguments, **named)

    before = list(root.handlers)
    for handler in before:
        root.removeHandler(handler)  # pytest's
    monkeypatch.setattr(pipeline, "look_into", talkative)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            log = log_of(command("run", "--log-format", "json", code=0))
            shown = warnings.showwarning
        assert root.handlers == [] and shown is warnings.showwarning
    finally:
        root.handlers[:] = before
    said = [(line["level"], line["message"]) for line in log]
    assert len(said) == 4
    assert said[0][0] == "warning" and "UserWarning: two lines of 100 % {text}" in said[0][1]
    assert said[1] == ("warning", "of ours: {'a': 'b'}")
    assert said[2][0] == "error" and said[2][1].startswith("of another word") and "ValueError: x" in said[2][1]
    assert said[3] == ("warning", "after that")


def test_a_bug_an_interrupt_and_a_traceback_are_lines(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "look_into", fail(RuntimeError("odd\nthing")))
    (line,) = log_of(command("run", "--log-format", "json", code=70))
    assert line["message"].startswith("internal error: RuntimeError: odd thing;")
    log = log_of(command("run", "--log-format", "json", "--debug", code=70))
    assert [one["level"] for one in log] == ["debug", "error"] and "Traceback" in log[0]["message"]
    monkeypatch.setattr(pipeline, "look_into", fail(KeyboardInterrupt()))
    (line,) = log_of(command("run", "--log-format", "json", code=130))
    assert line["level"] == "error" and "interrupted" in line["message"]


def test_a_password_before_the_command_is_on_no_line(command: Command) -> None:
    url = "postgresql://me:hunter2@127.0.0.1:1/market"
    for words in (("--database-url", url, "run"), ("run", "--database-url", url), (url, "run")):
        log = log_of(command("--log-format", "json", *words, "--retry-for", "0s"))
        assert "hunter2" not in json.dumps(log)
    assert log[0]["command"] == "postgresql://me:***@127.0.0.1:1/market"


def test_applying_definitions_loads_feast_and_every_line_stays_one(repo: Repo) -> None:
    done = repo.run("apply", "--log-format", "json", env={"PYTHONWARNINGS": "default"})
    assert done.returncode == 0, done.stderr
    assert log_of(Ended(done.returncode, done.stdout, done.stderr))


def test_a_log_format_is_one_of_two() -> None:
    with pytest.raises(UsageError, match="no log format"):
        diagnostics.set_log_format("yaml")
