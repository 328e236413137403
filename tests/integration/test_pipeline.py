"""`featurectl run`: files from the inbox to features online, as one run that nothing odd in the inbox stops."""

from __future__ import annotations

import contextlib
import csv
import gzip
import os
import re
import socket
import threading
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from psycopg import sql

from featurectl.core import inbox, locks
from tests.fix_command import Command, Ended
from tests.fix_repository import Repo
from tests.integration.test_first_path import candles
from tests.integration.test_status import Terminal

NOW = "2024-01-03T12:00:00+00:00"
VIEWS = ("market_features_view", "sentiment_features_view", "technical_indicators_view")


@pytest.fixture(autouse=True)
def _now(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEATURECTL_NOW", NOW)


def put(repo: Repo, name: str, content: bytes = b"", *, age: float = 60.0) -> Path:
    """Put a file into the inbox that was last changed so many seconds ago."""
    path = repo.root / "inbox" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    touch(path, age=age)
    return path


def touch(path: Path, *, age: float) -> None:
    os.utime(path, (time.time() - age,) * 2)


def waiting(repo: Repo) -> list[str]:
    """Return the files of the inbox that are not yet in done/ or failed/."""
    return [name for name in files(repo) if not name.startswith(("done/", "failed/"))]


def files(repo: Repo) -> list[str]:
    folder = repo.root / "inbox"
    found = (str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())
    return sorted(name for name in found if name != ".gitignore")


def texts(repo: Repo, name: str) -> str:
    return (repo.root / "inbox" / name).read_text()


def settings(repo: Repo, text: str, *, at_top: bool = False) -> None:
    """Have feature_store.yaml say this of the pipeline, and nothing else: below `featurectl:`, or at the top."""
    path = repo.root / "feature_store.yaml"
    document = yaml.safe_load(path.read_text())
    document["featurectl"].pop("pipeline", None)
    (document if at_top else document["featurectl"])["pipeline"] = yaml.safe_load(text)
    path.write_text(yaml.safe_dump(document))


def candle_rows(repo: Repo) -> dict[str, int]:
    return dict(repo.rows("SELECT symbol || '_' || timeframe, count(*) FROM market.candles GROUP BY 1 ORDER BY 1"))


def everything(repo: Repo) -> dict[str, list[Any]]:
    """Return every row of every table that is ours."""
    with repo.connect() as connection:
        names = connection.execute(
            "SELECT schemaname, tablename FROM pg_tables "
            "WHERE schemaname IN ('market', 'features', 'online', 'featurectl') ORDER BY 1, 2"
        ).fetchall()
        assert len(names) > 15
        rows = sql.SQL("SELECT t::text FROM {} AS t ORDER BY 1")
        return {".".join(name): connection.execute(rows.format(sql.Identifier(*name))).fetchall() for name in names}


def book(count: int, *, first: str = "2024-01-03T11:00:00") -> bytes:
    start = datetime.fromisoformat(first).timestamp()
    lines = ["timestamp,symbol,bid,bid_size,ask,ask_size"]
    lines += [f"{int((start + 30 * row) * 1000)},BTCUSDT,100,{1 + row},101,2" for row in range(count)]
    return "\n".join(lines).encode()


def trades(count: int, *, first: str = "2024-01-03T11:00:00") -> bytes:
    start = datetime.fromisoformat(first).timestamp()
    lines = ["timestamp,symbol,trade_id,price,size,side"]
    lines += [f"{int((start + 30 * row) * 1000)},BTCUSDT,{row},100.5,{1 + row},buy" for row in range(count)]
    return "\n".join(lines).encode()


SCORES = b"time,symbol,name,score\n2024-01-03T11:00:00Z,BTCUSDT,news_sentiment,0.5\n"


def steps_of(ended: Ended, step: str) -> list[dict[str, Any]]:
    return [one for one in ended.document["results"] if one["step"] == step]


# The whole of it


def test_files_of_every_kind_become_features_online(repo: Repo, command: Command) -> None:
    put(repo, "BTCUSDT_1h.csv", candles())
    put(repo, "candles/ETHUSDT_1h.csv", candles(30, "2024-01-02T06:00:00"))
    put(repo, "order-book/book.csv", book(120))
    put(repo, "trades/trades.csv", trades(120))
    put(repo, "signals/scores.csv", SCORES)
    done = command("run", "--max-lag", "0", code=0)
    assert done.document["steps"] == ["ingest", "compute", "materialize", "check"]
    assert files(repo) == [
        "done/BTCUSDT_1h.csv",
        "done/candles/ETHUSDT_1h.csv",
        "done/order-book/book.csv",
        "done/signals/scores.csv",
        "done/trades/trades.csv",
    ]
    assert candle_rows(repo) == {"BTCUSDT_1h": 60, "ETHUSDT_1h": 30}
    ingested = {one["name"]: (one["read"], one["written"]) for one in steps_of(done, "ingest")}
    assert ingested == {
        "BTCUSDT_1h.csv": (60, 60),
        "candles/ETHUSDT_1h.csv": (30, 30),
        "order-book/book.csv": (120, 120),
        "signals/scores.csv": (1, 1),
        "trades/trades.csv": (120, 120),
    }
    assert {one["view"] for one in done.document["freshness"]} == set(VIEWS)
    assert not done.document["findings"] and not done.document["errors"]
    answer = command("get-online", "BTCUSDT_1h", "ETHUSDT_1h", code=0).document
    for result in answer["results"]:
        assert result["statuses"]["rsi_14"] == "PRESENT"
    statuses = answer["results"][0]["statuses"]
    assert {statuses[name] for name in ("bid_ask_spread", "trade_size_avg", "news_sentiment")} == {"PRESENT"}


def test_a_run_is_one_run_of_the_ledger(repo: Repo, command: Command) -> None:
    put(repo, "BTCUSDT_1h.csv", candles())
    done = command("run", code=0)
    rows = repo.rows("SELECT run_id, command, verdict, exit_code, rows_read, rows_written, steps FROM featurectl.runs")
    assert [row[:4] for row in rows] == [(done.document["run_id"], "run", "done", 0)]
    assert [step["step"] for step in rows[0][6]] == ["ingest", "compute", *["materialize"] * 3, "check"]
    results = done.document["results"]
    assert rows[0][4:6] == tuple(sum(one[name] or 0 for one in results) for name in ("read", "written"))
    again = command("run", code=0)
    assert not steps_of(again, "ingest")
    assert {one["written"] for one in again.document["results"]} == {0}


def test_without_anything_to_do_it_is_done(repo: Repo, command: Command) -> None:
    done = command("run", "--max-lag", "0", code=0)
    assert (done.document["freshness"], done.document["findings"], done.err) == ([], [], "")


# The inbox


def test_a_bad_file_keeps_the_others_from_nothing(repo: Repo, command: Command) -> None:
    put(repo, "AAAUSDT_1h.csv", b"this,is\nno,market data\n")
    put(repo, "BTCUSDT_1h.csv", candles())
    put(repo, "trades/zzz.csv", b"")
    done = command("run", code=5)
    assert candle_rows(repo) == {"BTCUSDT_1h": 60}
    assert files(repo) == [
        "done/BTCUSDT_1h.csv",
        "failed/AAAUSDT_1h.csv",
        "failed/AAAUSDT_1h.csv.error.txt",
        "failed/trades/zzz.csv",
        "failed/trades/zzz.csv.error.txt",
    ]
    assert "`featurectl ingest candles` reads it with options" in texts(repo, "failed/AAAUSDT_1h.csv.error.txt")
    assert "is empty" in texts(repo, "failed/trades/zzz.csv.error.txt")
    assert f"2 of 3 files could not be used (AAAUSDT_1h.csv, trades/zzz.csv); see {repo.root}/inbox/failed" in done.err
    rows = repo.rows("SELECT verdict, exit_code, error FROM featurectl.runs")
    assert rows[0][:2] == ("partly done", 5) and "2 of 3 files" in rows[0][2]
    assert command("get-online", "BTCUSDT_1h", code=0).document["results"][0]["statuses"]["rsi_14"] == "PRESENT"
    command("run", code=0)  # what is in failed/ waits for somebody, and not for the next run


def test_nothing_but_bad_files_is_partly_done_too(repo: Repo, command: Command) -> None:
    put(repo, "BTCUSDT_1h.csv", b"\n")
    done = command("run", code=5)
    assert "1 of 1 files could not be used" in done.err
    put(repo, "BTCUSDT_1h.csv", b"\n")
    command("run", "--step", "ingest", code=2)


def test_rejects_lie_beside_their_file(repo: Repo, command: Command) -> None:
    put(repo, "BTCUSDT_1h.csv", candles(5) + b"\n2024-01-01T05:00:00,1,2,3,4,5\nrubbish,1,2,3,4,5\n")
    put(repo, "order-book/ETHUSDT.csv", b"time,bid,bid_size,ask,ask_size\n2024-01-03T11:00:00Z,5,1,4,1\n")
    done = command("run", code=5)
    assert files(repo) == [
        "done/BTCUSDT_1h.csv",
        "done/BTCUSDT_1h.csv.rejects.csv",
        "failed/order-book/ETHUSDT.csv",
        "failed/order-book/ETHUSDT.csv.error.txt",
        "failed/order-book/ETHUSDT.csv.rejects.csv",
    ]
    path = repo.root / "inbox" / "done" / "BTCUSDT_1h.csv.rejects.csv"
    with path.open() as handle:
        rows = list(csv.DictReader(handle))
    assert [(row["file"], row["row"]) for row in rows] == [("BTCUSDT_1h.csv", "6"), ("BTCUSDT_1h.csv", "7")]
    assert path.stat().st_mode & 0o777 == 0o644
    assert {one["name"]: one["rejected"] for one in steps_of(done, "ingest")} == {
        "BTCUSDT_1h.csv": 2,
        "order-book/ETHUSDT.csv": 1,
    }
    assert "warning: BTCUSDT_1h.csv: rejected of 7 rows: 1 " in done.err
    # `run` has no --rejects: what is wrong stands in the file beside it.
    assert "--rejects" not in done.err + texts(repo, "failed/order-book/ETHUSDT.csv.error.txt")
    assert "ETHUSDT.csv.rejects.csv" in texts(repo, "failed/order-book/ETHUSDT.csv.error.txt")


def test_files_that_may_be_unfinished_wait(repo: Repo, command: Command) -> None:
    young = put(repo, "BTCUSDT_1h.csv", candles(), age=0)
    names = ["a.csv.part", "b.tmp", "C.CSV.PART", "d.csv~", ".e.csv", "trades/f.crdownload", "trades/.g.csv"]
    for name in names:
        put(repo, name, b"half a fi")
    done = command("run", code=0)
    assert not steps_of(done, "ingest") and waiting(repo) == sorted([*names, "BTCUSDT_1h.csv"])
    assert done.err.count("BTCUSDT_1h.csv was changed a moment ago") == 1
    touch(young, age=2.5)
    done = command("run", code=0)
    assert len(steps_of(done, "ingest")) == 1 and waiting(repo) == sorted(names)


def test_a_clock_that_is_ahead_keeps_no_file_for_ever(repo: Repo, command: Command) -> None:
    put(repo, "BTCUSDT_1h.csv", candles(), age=-30)  # whoever writes it may be on a machine whose clock is ahead
    put(repo, "ETHUSDT_1h.csv", candles(), age=-86400 * 365)
    command("run", code=0)
    assert files(repo) == ["BTCUSDT_1h.csv", "done/ETHUSDT_1h.csv"]


def test_how_long_a_file_has_to_rest_is_a_setting(repo: Repo, command: Command) -> None:
    settings(repo, "settle: 90s")
    put(repo, "BTCUSDT_1h.csv", candles(), age=60)
    put(repo, "ETHUSDT_1h.csv", candles(), age=100)
    command("run", code=0)
    assert waiting(repo) == ["BTCUSDT_1h.csv"]


def test_of_files_by_one_name_none_is_lost(repo: Repo, command: Command) -> None:
    for count in (5, 6, 7):
        put(repo, "trades/BTCUSDT.csv", trades(count) + b"\nrubbish,BTCUSDT,1,1,1,buy")
        command("run", code=0)
    found = [name for name in files(repo) if name.endswith("BTCUSDT.csv")]
    assert found[0] == "done/trades/BTCUSDT.csv" or "done/trades/BTCUSDT.csv" in found
    sizes = sorted((repo.root / "inbox" / name).read_bytes().count(b"\n") for name in found)
    assert sizes == [6, 7, 8], "the first line is the header"
    runs = [run for (run,) in repo.rows("SELECT run_id FROM featurectl.runs ORDER BY number")]
    assert {f"done/{run}/trades/BTCUSDT.csv" for run in runs[1:]} < set(found)
    assert len([name for name in files(repo) if name.endswith(".rejects.csv")]) == 3
    for _ in range(2):
        put(repo, "ETHUSDT_1h.csv", b"")
        command("run", code=5)
    assert len([name for name in files(repo) if name.endswith("ETHUSDT_1h.csv.error.txt")]) == 2


def test_a_run_killed_before_it_moves_a_file_does_no_harm(
    repo: Repo, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(repo, "BTCUSDT_1h.csv", candles())
    put(repo, "trades/BTCUSDT.csv", trades(50))

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(inbox, "_move", killed)
        command("run", code=130)
    assert waiting(repo) == ["BTCUSDT_1h.csv", "trades/BTCUSDT.csv"]
    assert candle_rows(repo) == {"BTCUSDT_1h": 60}
    done = command("run", code=0)
    counts = {one["name"]: (one["written"], one["unchanged"]) for one in steps_of(done, "ingest")}
    assert counts == {"BTCUSDT_1h.csv": (0, 60), "trades/BTCUSDT.csv": (50, 0)}
    assert waiting(repo) == []
    assert candle_rows(repo) == {"BTCUSDT_1h": 60}


def test_folders_that_say_nothing_are_left_alone_and_named(repo: Repo, command: Command) -> None:
    put(repo, "orderbook/BTCUSDT.csv", book(5))
    put(repo, "candles/deep/BTCUSDT_1h.csv", candles())
    put(repo, "order_book/BTCUSDT.csv", book(5))
    put(repo, ".hidden/BTCUSDT.csv", book(5))
    done = command("run", code=0)
    assert waiting(repo) == [".hidden/BTCUSDT.csv", "candles/deep/BTCUSDT_1h.csv", "orderbook/BTCUSDT.csv"]
    assert f"{repo.root}/inbox/orderbook is left alone" in done.err
    assert f"{repo.root}/inbox/candles/deep is left alone" in done.err
    assert ".hidden" not in done.err
    assert [one["name"] for one in steps_of(done, "ingest")] == ["order_book/BTCUSDT.csv"]


def test_an_inbox_that_is_named_must_be_there(repo: Repo, command: Command, tmp_path: Path) -> None:
    put(repo, "BTCUSDT_1h.csv", candles())
    command("run", "--step", "ingest", code=0)
    done = command("run", "--inbox", tmp_path / "none", code=5)
    assert re.search(r"the inbox \S+/none can't be read: No such file or directory; make it, or name another", done.err)
    assert {one["step"] for one in done.document["results"]} == {"compute", "materialize"}, "what can be done is done"
    command("run", "--step", "ingest", "--inbox", tmp_path / "none", code=2)
    (tmp_path / "file").touch()
    assert "Not a directory" in command("run", "--step", "ingest", "--inbox", tmp_path / "file", code=2).err
    settings(repo, f"inbox: {tmp_path}/none")
    assert "/none can't be read" in command("run", "--step", "ingest", code=2).err


def test_who_ingests_otherwise_needs_no_inbox(repo: Repo, command: Command) -> None:
    for path in (repo.root / "inbox").iterdir():
        path.unlink()
    (repo.root / "inbox").rmdir()
    (repo.root / "BTCUSDT_1h.csv").write_bytes(candles())
    command("ingest", "candles", "BTCUSDT_1h.csv", code=0)
    done = command("run", code=0)
    assert done.err == "" and steps_of(done, "compute")[0]["written"] == 60
    assert not (repo.root / "inbox").exists()


def test_an_inbox_elsewhere(repo: Repo, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in" / "box").mkdir(parents=True)
    path = tmp_path / "in" / "box" / "BTCUSDT_1h.csv"
    path.write_bytes(candles())
    touch(path, age=60)
    monkeypatch.chdir(tmp_path / "in")
    command("-C", repo.root, "run", "--inbox", "box", code=0)
    assert (tmp_path / "in" / "box" / "done" / "BTCUSDT_1h.csv").is_file()


# What should not be in an inbox


def junk() -> Iterator[tuple[str, bytes]]:
    noise = bytes(range(256)) * 20
    yield "noise.csv", noise
    yield "nulls.csv", b"open_time,open,high,low,close,volume\n\x00\x00\n" * 3
    yield "null_in_header.csv", b"open\x00time,a,b\n1,2,3\n"
    yield "noise.parquet", b"PAR1" + noise + b"PAR1"
    yield "cut.csv.gz", gzip.compress(candles())[:40]
    yield "not.csv.gz", candles(3)
    yield "noise.zip", b"PK\x03\x04" + noise
    yield "image.png", b"\x89PNG\r\n\x1a\n" + noise
    yield "empty", b""
    yield "blank.csv", b" \n\n \n"
    yield "README", b"Put files here.\n"
    yield "trades/noise.csv", noise
    yield "order-book/nulls.csv", b"\x00" * 1000
    yield "signals/words.csv", b"time,symbol,name,score\nnever,,,much\n"
    yield "signals/quote.csv", b'time,symbol,name,score\n"2024-01-03T11:00:00Z,BTCUSDT,news_sentiment,0.5\n'


def test_junk_fails_file_by_file_and_the_rest_goes_on(repo: Repo, command: Command) -> None:
    junks = dict(junk())
    for name, content in junks.items():
        put(repo, name, content)
    put(repo, "ZZZUSDT_1h.csv", candles())
    put(repo, "signals/zzz.csv", SCORES)
    done = command("run", "--debug", code=5)
    assert waiting(repo) == []
    assert candle_rows(repo) == {"ZZZUSDT_1h": 60}
    failed = {name for name in files(repo) if name.startswith("failed/")}
    for name in junks:
        assert {f"failed/{name}", f"failed/{name}.error.txt"} <= failed
    assert {f"done/{name}" for name in ("ZZZUSDT_1h.csv", "signals/zzz.csv")} < set(files(repo))
    assert "internal error" not in done.err and "report it" not in done.err
    verdicts = repo.rows("SELECT verdict, exit_code, jsonb_array_length(steps) > 15 FROM featurectl.runs")
    assert verdicts == [("partly done", 5, True)]


NAMES = [
    b"BTC\nUSDT_1h.csv",
    b"\xff\xfe.csv",
    "ÄÖ€😀_1h.csv".encode(),
    b"-rf.csv",
    b"%s {x} \\.csv",
    b"x" * 251 + b".csv",
    b"'; DROP TABLE x.csv",
    b"\x1b[31mred.csv",
]


def test_no_name_of_a_file_stops_a_run(repo: Repo, command: Command) -> None:
    folder = os.fsencode(repo.root / "inbox")
    for name in NAMES:
        for where in (b"", b"trades/"):
            path = Path(os.fsdecode(os.path.join(folder, where, name)))
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(b"rubbish\n")
            touch(path, age=60)
    put(repo, "zzz/x.csv")
    put(repo, "ZZZUSDT_1h.csv", candles())
    done = command("run", code=5)
    assert waiting(repo) == ["zzz/x.csv"]
    assert candle_rows(repo) == {"ZZZUSDT_1h": 60}
    for name in NAMES:
        assert os.path.exists(os.path.join(folder, b"failed", name))
        assert os.path.exists(os.path.join(folder, b"failed", b"trades", name))
    assert len([name for name in files(repo) if name.endswith(".error.txt")]) == 2 * len(NAMES)
    assert "\x1b" not in done.err and not re.search("^USDT", done.err, re.MULTILINE)
    assert repo.rows("SELECT verdict, jsonb_array_length(steps) >= 17 FROM featurectl.runs") == [("partly done", True)]
    named = [one["name"] for one in steps_of(done, "ingest")]
    named += [name for (name,) in repo.rows("SELECT s ->> 'name' FROM featurectl.runs, jsonb_array_elements(steps) s")]
    assert len(named) > 30 and all(name.isprintable() for name in named)
    assert "ÄÖ€😀_1h.csv" in named and "trades/\\xff\\xfe.csv" in named
    command("runs", "show", "last", code=0)


def test_what_is_no_file_is_left_alone(repo: Repo, command: Command, tmp_path: Path) -> None:
    folder = repo.root / "inbox"
    put(repo, "ZZZUSDT_1h.csv", candles())
    (folder / "a.csv").mkdir()
    os.mkfifo(folder / "b.csv")
    (folder / "c.csv").symlink_to(folder / "nowhere.csv")
    (folder / "d.csv").symlink_to("d.csv")
    with socket.socket(socket.AF_UNIX) as listener:
        os.chdir(folder)
        listener.bind("e.csv")
        os.chdir(repo.root)
        done = command("run", code=0)
    assert waiting(repo) == ["b.csv", "c.csv", "d.csv", "e.csv"] and (folder / "a.csv").is_dir()
    assert candle_rows(repo) == {"ZZZUSDT_1h": 60}
    for name in ("a.csv", "b.csv", "c.csv", "d.csv", "e.csv"):
        assert f"{folder}/{name} is left alone" in done.err


def test_a_terminal_bears_every_name_too(repo: Repo) -> None:
    put(repo, "[red]\N{ESCAPE}[2J_1h.csv", b"rubbish\n")
    put(repo, "ZZZUSDT_1h.csv", candles())
    repo.rows("INSERT INTO market.candles VALUES ('[/b]', '1h', '2024-01-01Z', 1, 1, 1, 1, 1) RETURNING 1")
    with contextlib.closing(Terminal(repo, "run", FEATURECTL_NOW=NOW)) as terminal:
        shown = terminal.until(lambda shown: "files could not be used" in shown)
        assert terminal.code() == 5
    assert candle_rows(repo) == {"ZZZUSDT_1h": 60, "[/b]_1h": 1}
    assert "\x1b[2J_1h" not in shown and "internal error" not in shown


def test_a_link_is_moved_and_not_what_it_points_to(repo: Repo, command: Command, tmp_path: Path) -> None:
    target = tmp_path / "BTCUSDT_1h.csv"
    target.write_bytes(candles())
    touch(target, age=60)
    (repo.root / "inbox" / "BTCUSDT_1h.csv").symlink_to(target)
    command("run", code=0)
    assert target.is_file() and (repo.root / "inbox" / "done" / "BTCUSDT_1h.csv").is_symlink()
    assert sum(candle_rows(repo).values()) == 60


def test_a_file_that_goes_away_meanwhile_is_nobodys_fault(
    repo: Repo, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("AAAUSDT", "BTCUSDT", "CCCUSDT")
    for name in names:
        put(repo, f"{name}_1h.csv", candles())
    look_at, reader = inbox._look_at, inbox._reader

    def gone(path: Path) -> Any:
        if path.name == "AAAUSDT_1h.csv":  # before it is looked at
            path.unlink()
        return look_at(path)

    def taken(file: inbox.Waiting, *arguments: Any) -> Any:
        if file.name == "BTCUSDT_1h.csv":  # before it is read
            file.path.unlink()
        return reader(file, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(inbox, "_look_at", gone)
        patch.setattr(inbox, "_reader", taken)
        done = command("run", code=0)
    assert candle_rows(repo) == {"CCCUSDT_1h": 60}
    assert "BTCUSDT_1h.csv was changed, or taken away, in the meantime" in done.err and "AAAUSDT" not in done.err
    assert files(repo) == ["done/CCCUSDT_1h.csv"]


@pytest.mark.parametrize("half", [candles(20), b"open_ti"], ids=["readable", "unreadable"])
def test_a_file_that_is_replaced_while_it_is_read_is_read_again(
    repo: Repo, command: Command, monkeypatch: pytest.MonkeyPatch, half: bytes
) -> None:
    path = put(repo, "BTCUSDT_1h.csv", half)
    ingest = inbox.ingest_file

    def replaced(*arguments: Any) -> Any:
        done = ingest(*arguments)
        (other := path.with_suffix(".tmp")).write_bytes(candles(60))
        other.replace(path)
        touch(path, age=50)
        return done

    with monkeypatch.context() as patch:
        patch.setattr(inbox, "ingest_file", replaced)
        done = command("run", code=0)
    assert "BTCUSDT_1h.csv was changed" in done.err
    assert files(repo) == ["BTCUSDT_1h.csv"], "neither done nor failed"
    command("run", code=0)
    assert files(repo) == ["done/BTCUSDT_1h.csv"] and candle_rows(repo) == {"BTCUSDT_1h": 60}


def test_a_file_that_is_written_to_since_it_was_listed_is_left(
    repo: Repo, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AAAUSDT", "BTCUSDT"):
        put(repo, f"{name}_1h.csv", candles())
    ingest = inbox.ingest_file

    def slow(*arguments: Any) -> Any:
        done = ingest(*arguments)
        touch(repo.root / "inbox" / "BTCUSDT_1h.csv", age=0)
        return done

    with monkeypatch.context() as patch:
        patch.setattr(inbox, "ingest_file", slow)
        done = command("run", code=0)
    assert "BTCUSDT_1h.csv was changed" in done.err
    assert files(repo) == ["BTCUSDT_1h.csv", "done/AAAUSDT_1h.csv"] and candle_rows(repo) == {"AAAUSDT_1h": 60}


def test_of_two_files_with_the_same_bars_the_newer_has_its_say(repo: Repo, command: Command) -> None:
    for name, age, close in (("BTCUSDT_1h.csv", 60, 107), ("candles/BTCUSDT_1h.csv", 600, 103)):
        line = f"open_time,open,high,low,close,volume\n2024-01-01T00:00Z,100,110,90,{close},1\n"
        put(repo, name, line.encode(), age=age)
        line = line.replace("2024-01-01", "2024-01-02")
        put(repo, name.replace("BTC", "ETH"), line.encode(), age=660 - age)
    command("run", code=0)
    found = dict(repo.rows("SELECT symbol, close FROM market.candles"))
    assert found == {"BTCUSDT": 107.0, "ETHUSDT": 103.0}


def test_a_run_that_waited_takes_what_came_meanwhile(
    repo: Repo, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    with repo.connect() as holder:
        locks.take(holder, "run market")

        def release() -> None:
            monkeypatch.setenv("FEATURECTL_NOW", "2024-01-03T13:00:00Z")
            put(repo, "trades/BTCUSDT.csv", trades(5, first="2024-01-03T12:30:00+00:00"))
            holder.close()

        monkeypatch.setenv("FEATURECTL_NOW", "2024-01-03T12:00:00Z")
        threading.Timer(1.0, release).start()
        command("run", "--if-locked", "wait", code=0)
    assert repo.rows("SELECT count(*) FROM market.trades") == [(5,)]
    assert files(repo) == ["done/trades/BTCUSDT.csv"]


def test_a_dry_run_whose_session_is_ended_keeps_nothing(
    repo: Repo, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(repo, "BTCUSDT_1h.csv", candles())
    command("run", code=0)
    put(repo, "ETHUSDT_1h.csv", candles())
    before, ingest = everything(repo), inbox.ingest_file

    def slow(*arguments: Any) -> Any:
        time.sleep(1.5)
        return ingest(*arguments)

    monkeypatch.setenv("FEATURECTL_WRITE_TIMEOUT", "1")
    with monkeypatch.context() as patch:
        patch.setattr(inbox, "ingest_file", slow)
        done = command("run", "--dry-run", code=3)
    assert "idle-in-transaction timeout" in done.err or "ended this session" in done.err
    assert everything(repo) == before


def test_the_check_tells_of_a_view_that_can_not_be_looked_at(repo: Repo, command: Command) -> None:
    put(repo, "BTCUSDT_1h.csv", candles())
    command("run", code=0)
    with repo.connect() as connection:
        connection.execute(b"DROP TABLE online.market__sentiment_features_view")
    done = command("run", "--step", "check", "--metrics-file", repo.root / "m.prom", code=1)
    (finding,) = done.document["findings"]
    assert finding.startswith("sentiment_features_view: view 'sentiment_features_view' has no online table")
    assert done.document["freshness"][0]["view"] == "technical_indicators_view"
    page = (repo.root / "m.prom").read_text()
    assert 'featurectl_view_readable{project="market",view="sentiment_features_view"} 0.0' in page
    assert 'featurectl_view_readable{project="market",view="technical_indicators_view"} 1.0' in page
    assert 'featurectl_lag_bars{project="market",timeframe="1h",view="technical_indicators_view"}' in page


def test_a_folder_that_cannot_be_read_keeps_the_others_from_nothing(
    repo: Repo, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(repo, "candles/BTCUSDT_1h.csv", candles())
    put(repo, "trades/BTCUSDT.csv", trades(5))
    listing = Path.iterdir

    def refused(path: Path) -> Iterator[Path]:
        if path.name == "trades":  # who is root may read everything
            raise PermissionError(13, "Permission denied")
        return listing(path)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "iterdir", refused)
        done = command("run", code=5)
    assert candle_rows(repo) == {"BTCUSDT_1h": 60}
    assert f"{repo.root}/inbox/trades can't be read: Permission denied" in done.err


def test_a_file_that_cannot_be_moved_is_ingested_and_told_of(repo: Repo, command: Command) -> None:
    put(repo, "BTCUSDT_1h.csv", candles())
    put(repo, "ETHUSDT_1h.csv", candles())
    put(repo, "trades/bad.csv", b"")
    done = repo.root / "inbox" / "done"
    done.symlink_to("/proc/self")  # where nobody can make a file
    ended = command("run", code=5)
    assert candle_rows(repo) == {"BTCUSDT_1h": 60, "ETHUSDT_1h": 60}
    assert [name for name in waiting(repo) if name.startswith("BTC")] == ["BTCUSDT_1h.csv"]
    assert f"BTCUSDT_1h.csv can't be moved to {done}" in ended.err and "ETHUSDT_1h.csv can't be moved" in ended.err
    assert (repo.root / "inbox" / "failed" / "trades" / "bad.csv").exists()
    ended = command("run", code=5)
    assert "2 of 2 files are ingested, and can't be moved (BTCUSDT_1h.csv, ETHUSDT_1h.csv)" in ended.err
    ((errors,),) = repo.rows("SELECT array_agg(s ->> 'error') FROM featurectl.runs, jsonb_array_elements(steps) AS s")
    assert len([error for error in errors if error and "can't be moved" in error]) == 4
    done.unlink()
    (done / "BTCUSDT_1h.csv").mkdir(parents=True)
    command("run", code=0)
    assert waiting(repo) == []


def test_files_move_between_file_systems(repo: Repo, command: Command) -> None:
    memory = Path("/dev/shm")
    if not memory.is_dir() or memory.stat().st_dev == repo.root.stat().st_dev:
        pytest.skip("there is one file system here")
    folder = memory / f"featurectl-{os.getpid()}"
    folder.mkdir()
    try:
        (repo.root / "inbox" / "candles").symlink_to(folder)
        (folder / "BTCUSDT_1h.csv").write_bytes(candles())
        touch(folder / "BTCUSDT_1h.csv", age=60)
        command("run", code=0)
        assert not any(folder.iterdir())
        assert (repo.root / "inbox" / "done" / "candles" / "BTCUSDT_1h.csv").read_bytes() == candles()
    finally:
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()


def test_a_file_that_the_database_refuses_fails_alone(
    repo: Repo, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    with repo.connect() as connection:
        connection.execute("ALTER TABLE market.candles ADD CHECK (symbol <> 'BADUSDT')")
    for name in ("AAAUSDT", "BADUSDT", "CCCUSDT"):
        put(repo, f"{name}_1h.csv", candles())
    done = command("run", code=5)
    assert candle_rows(repo) == {"AAAUSDT_1h": 60, "CCCUSDT_1h": 60}
    assert "failed/BADUSDT_1h.csv" in files(repo) and waiting(repo) == []
    assert "BADUSDT_1h.csv: the database refused" in done.err


# Steps and settings


CHOICES = {
    (): ["ingest", "compute", "materialize", "check"],
    ("--step", "check", "--step", "compute"): ["compute", "check"],
    ("--step", "materialize,ingest"): ["ingest", "materialize"],
    ("--skip-step", "check"): ["ingest", "compute", "materialize"],
    ("--skip-step", "check,ingest", "--skip-step", "compute"): ["materialize"],
}
REFUSED = {
    ("--step", "ingst"): "step 'ingst' not found; steps: ingest, compute, materialize, check",
    ("--skip-step", "ingst"): "step 'ingst' not found",
    ("--step", "check", "--skip-step", "ingest"): "contradict each other",
    ("--skip-step", "ingest,compute,materialize,check"): "leaves no step",
    ("--wait-for", "long"): "'long' is not a duration",
    ("--heartbeat", "ftp://host/x"): "not a URL",
    ("--max-lag", "-1"): "not in the range",
}


def test_flags_choose_the_steps(repo: Repo, command: Command) -> None:
    for words, steps in CHOICES.items():
        assert command("run", *words, code=0).document["steps"] == steps
    put(repo, "BTCUSDT_1h.csv", candles())
    for words, message in REFUSED.items():
        assert message in command("run", *words, code=2).err
    assert waiting(repo) == ["BTCUSDT_1h.csv"]
    assert repo.rows("SELECT count(*) FROM featurectl.runs") == [(len(CHOICES),)]
    for long in ("2w", "1y"):
        command("run", "--if-locked", "wait", "--wait-for", long, code=0)


def test_the_file_of_settings_is_heard_and_flags_win(repo: Repo, command: Command, tmp_path: Path) -> None:
    settings(repo, "steps: [check, ingest]\ninbox: elsewhere\nmetrics_file: out.prom")
    (repo.root / "elsewhere").mkdir()
    path = repo.root / "elsewhere" / "BTCUSDT_1h.csv"
    path.write_bytes(candles())
    touch(path, age=60)
    done = command("run", code=1)
    assert done.document["steps"] == ["ingest", "check"]
    assert (repo.root / "elsewhere" / "done").is_dir() and (repo.root / "out.prom").is_file()
    done = command("run", "--step", "compute", "--metrics-file", tmp_path / "other.prom", code=0)
    assert done.document["steps"] == ["compute"] and (tmp_path / "other.prom").is_file()


def test_a_section_at_the_top_of_the_file_does_as_well(repo: Repo, command: Command) -> None:
    settings(repo, "steps: [materialize]", at_top=True)
    assert command("run", code=0).document["steps"] == ["materialize"]
    settings(repo, "steps: [compute]")
    assert "two sections pipeline" in command("run", code=2).err


def test_views_that_are_named_are_the_only_ones_to_go_online_and_be_checked(repo: Repo, command: Command) -> None:
    settings(repo, "views: [technical_indicators_view]")
    put(repo, "BTCUSDT_1h.csv", candles())
    put(repo, "signals/scores.csv", SCORES)
    done = command("run", code=0)
    assert [one["name"] for one in steps_of(done, "materialize")] == ["technical_indicators_view"]
    assert {one["view"] for one in done.document["freshness"]} == {"technical_indicators_view"}
    assert len(steps_of(done, "compute")) == 2


def test_a_view_that_does_not_exist_fails_where_it_is_needed(repo: Repo, command: Command) -> None:
    settings(repo, "views: [nonsense]")
    put(repo, "BTCUSDT_1h.csv", candles())
    done = command("run", code=5)
    assert set(done.document["errors"]) == {"materialize", "check"}
    assert "view 'nonsense' not found" in done.err and candle_rows(repo) == {"BTCUSDT_1h": 60}


# What goes wrong


def test_a_function_that_fails_keeps_the_other_steps_from_nothing(repo: Repo, command: Command) -> None:
    put(repo, "BTCUSDT_1h.csv", candles())
    (repo.root / "feature_repo" / "indicators.py").write_text("def rsi_14(close):\n    return close / nothing\n")
    done = command("run", code=5)
    assert set(done.document["errors"]) == {"compute"} and candle_rows(repo) == {"BTCUSDT_1h": 60}
    assert [one["name"] for one in steps_of(done, "materialize")] == list(VIEWS)
    assert done.document["findings"], "features are missing that could be there"
    assert repo.rows("SELECT verdict FROM featurectl.runs") == [("partly done",)]


def test_findings_are_an_exit_code_of_their_own(repo: Repo, command: Command) -> None:
    put(repo, "BTCUSDT_1h.csv", candles(58))
    done = command("run", "--step", "ingest,check", code=1)
    assert done.document["findings"] == ["technical_indicators_view 1h: 1 of 1 entities are not online"]
    assert repo.rows("SELECT verdict, exit_code FROM featurectl.runs") == [("findings", 1)]
    command("run", code=0)
    put(repo, "BTCUSDT_1h.csv", candles(1, "2024-01-03T10:00:00"))
    done = command("run", "--skip-step", "compute", "--max-lag", "2", code=1)
    assert done.document["findings"] == ["technical_indicators_view 1h: 1 of 1 entities are behind their source"]
    with repo.connect() as connection:
        connection.execute("DELETE FROM market.candles WHERE open_time = '2024-01-03T10:00Z'")
    done = command("run", "--max-lag", "1", code=1)
    assert done.document["findings"] == ["technical_indicators_view 1h: BTCUSDT_1h lags by 2 bars, more than 1"]
    assert "BTCUSDT_1h lags by 2 bars" in done.err
    assert command("run", "--max-lag", "2", code=0).document["findings"] == []


def test_the_check_compares_online_with_history_where_it_is_told_to(repo: Repo, command: Command) -> None:
    put(repo, "BTCUSDT_1h.csv", candles(60))
    settings(repo, "consistency: 20")
    assert command("run", code=0).document["findings"] == []
    with repo.connect() as connection:
        connection.execute("UPDATE online.market__technical_indicators_view SET rsi_14 = rsi_14 + 1")
        connection.execute("UPDATE features.technical_indicators SET macd = macd + 1")
    first, second = command("run", "--step", "check", code=1).document["findings"]
    seed = re.search(r"--seed \d+", first)
    shows = f"; `featurectl consistency --sample 20 {seed and seed[0]}` shows them"
    assert [first, second] == [
        f"technical_indicators_view: 2 mismatch online against the history{shows}",
        f"technical_indicators_view: 1 mismatch in the history against what is recomputed{shows}",
    ]
    settings(repo, "consistency: 0")
    assert command("run", "--step", "check", code=0).document["findings"] == []


def test_the_check_looks_at_what_a_reader_gets(repo: Repo, command: Command) -> None:
    put(repo, "BTCUSDT_1h.csv", candles())
    command("run", code=0)
    with repo.connect() as connection:
        connection.execute("ALTER TABLE online.market__technical_indicators_view RENAME COLUMN macd TO gone")
    done = command("run", "--step", "check", code=1)
    assert done.document["findings"] == [
        "technical_indicators_view: 1 answers are degraded; `featurectl get-online` says why"
    ]


def test_symbols_that_make_no_id_are_checked_but_not_asked_for(repo: Repo, command: Command) -> None:
    put(repo, "BTCUSDT_1h.csv", candles())
    command("run", "--step", "ingest", code=0)
    with repo.connect() as connection:
        connection.execute("UPDATE market.candles SET symbol = 'BTC USDT'")
    done = command("run", code=0)
    assert done.document["freshness"][0]["worst"] == "BTC USDT_1h" and done.err == ""


# Dry runs


def test_a_dry_run_changes_nothing(repo: Repo, command: Command, tmp_path: Path) -> None:
    put(repo, "ADAUSDT_1h.csv", candles())
    command("run", code=0)
    put(repo, "BTCUSDT_1h.csv", candles(59) + b"\nrubbish,1,2,3,4,5\n")
    put(repo, "ADAUSDT_1h.csv", candles(30).replace(b",101,", b",103,"))
    put(repo, "bad.csv", b"")
    put(repo, "trades/BTCUSDT.csv", trades(50))
    put(repo, "signals/scores.csv", SCORES)
    before, there = everything(repo), {name: texts(repo, name) for name in files(repo)}
    rehearsed = command("run", "--dry-run", "--metrics-file", tmp_path / "x.prom", code=5)
    assert everything(repo) == before
    assert {name: texts(repo, name) for name in files(repo)} == there
    assert not list(tmp_path.glob("*.prom")) and "dry run: nothing of this was kept" in rehearsed.err
    assert "bad.csv" in rehearsed.err and "see " not in rehearsed.err
    real = command("run", code=5)
    assert [drop(one) for one in rehearsed.document["results"]] == [drop(one) for one in real.document["results"]]
    assert rehearsed.document["freshness"] == real.document["freshness"]
    assert rehearsed.document["dry_run"] and not real.document["dry_run"]
    assert waiting(repo) == [] and everything(repo) != before


def drop(result: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in result.items() if name != "error"}


def test_a_file_that_the_database_refuses_ends_no_dry_run(repo: Repo, command: Command) -> None:
    with repo.connect() as connection:
        connection.execute("ALTER TABLE market.candles ADD CHECK (symbol <> 'BADUSDT')")
    for name in ("AAAUSDT", "BADUSDT", "CCCUSDT"):
        put(repo, f"{name}_1h.csv", candles())
    done = command("run", "--dry-run", code=5)
    assert {one["name"]: one["written"] for one in steps_of(done, "ingest")} == {
        "AAAUSDT_1h.csv": 60,
        "BADUSDT_1h.csv": 0,
        "CCCUSDT_1h.csv": 60,
    }
    assert candle_rows(repo) == {}
