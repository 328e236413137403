"""The ledger of runs, their locks, and what becomes of them when the database goes away: on the real one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from psycopg import errors as pg

from featurectl import jobs
from featurectl.core import locks
from featurectl.core.compute import Request
from featurectl.core.db import Connection, translate
from featurectl.core.locks import IfLocked, Locking
from featurectl.core.runs import RunSettings, Session, Step, ledger, open_run
from featurectl.core.runs.retries import LONG_TRIES, Retries, is_transient
from featurectl.errors import (
    DatabaseUnreachable,
    Findings,
    Interrupted,
    LockHeld,
    LoginRefused,
    NotFound,
    PartlyDone,
    Skipped,
    Terminated,
    UsageError,
)
from featurectl.version import __version__
from tests.fix_repository import SCRIPT, Repo
from tests.integration.test_first_path import candles

NOW = datetime(2024, 5, 1, 12, tzinfo=UTC)
INGEST = ("ingest", "candles", "-", "--symbol", "BTCUSDT", "--timeframe", "1h")


def settings(command: str = "compute", **more: Any) -> RunSettings:
    return RunSettings(command, **{"retry_for": 5.0, **more})


def listed(repo: Repo, **wanted: Any) -> list[ledger.Record]:
    with repo.connect() as connection:
        return ledger.list_runs(connection, "market", **wanted)


def newest(repo: Repo) -> ledger.Record:
    return listed(repo)[0]


# --- the ledger ------------------------------------------------------------------------------------------------------


def test_a_run_is_there_from_its_start_and_says_at_its_end_what_it_did(repo: Repo) -> None:
    with open_run(repo.database, settings(arguments=["compute", "--full"]), now=NOW) as run:
        during = newest(repo)
        run.steps += [Step("compute", "a", read=5, written=3), Step("materialize", "b", 7, 1, 4, 2, 1)]
        run.catalog_hash = "hash"
    after = newest(repo)
    assert (during.verdict, during.exit_code, during.finished_at) == ("running", None, None)
    assert (after.verdict, after.exit_code, after.error) == ("done", 0, None)
    assert (after.rows_read, after.rows_written, after.rows_unchanged, after.rows_older) == (12, 4, 4, 2)
    assert after.rows_rejected == 1
    assert after.steps == [
        {"step": "compute", "name": "a", "read": 5, "written": 3},
        {"step": "materialize", "name": "b", "read": 7, "written": 1, "unchanged": 4, "older": 2, "rejected": 1},
    ]
    assert (after.arguments, after.version, after.catalog_hash) == (["compute", "--full"], __version__, "hash")
    assert after.config_hash == during.config_hash and len(after.config_hash) == 12
    assert after.pid == os.getpid()
    assert after.seconds is not None and after.finished_at == NOW + timedelta(seconds=after.seconds)
    assert after.started_at == NOW
    assert repo.advisory_locks() == 0


@pytest.mark.parametrize(
    ("error", "verdict", "code"),
    [
        (PartlyDone("half of it"), "partly done", 5),
        (Findings("one lags"), "findings", 1),
        (Skipped("locked"), "skipped", 0),
        (LockHeld("locked"), "failed", 4),
        (UsageError("what?"), "failed", 2),
        (Interrupted("called off"), "interrupted", 130),
        (KeyboardInterrupt(), "interrupted", 130),
        (Terminated(), "interrupted", 143),
        (RuntimeError("a bug"), "failed", 70),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_how_a_run_ended_is_what_it_was_ended_by(repo: Repo, error: BaseException, verdict: str, code: int) -> None:
    with pytest.raises(type(error)), open_run(repo.database, settings(), now=NOW):
        raise error
    found = newest(repo)
    assert (found.verdict, found.exit_code) == (verdict, code)
    assert found.error is not None and (str(error) in found.error)
    assert repo.advisory_locks() == 0


def test_a_run_that_was_killed_is_interrupted_at_once_and_told_so_by_the_next(repo: Repo) -> None:
    with repo.connect() as connection, open_run(repo.database, settings(), now=NOW) as run:
        connection.execute(
            b"INSERT INTO featurectl.runs (run_id, project, command, arguments, version, config_hash, started_at, "
            b"verdict, host, pid) VALUES ('killed', 'market', 'ingest', '[]', '0', '', now(), 'running', 'h', 1)"
        )
        assert {one.run_id: one.verdict for one in listed(repo)} == {run.run_id: "running", "killed": "interrupted"}
        assert [one.run_id for one in listed(repo, failed=True)] == ["killed"]
    assert repo.rows("SELECT verdict FROM featurectl.runs WHERE run_id = 'killed'") == [("running",)]
    with open_run(repo.database, settings(), now=NOW):
        pass
    ((verdict, error),) = repo.rows("SELECT verdict, error FROM featurectl.runs WHERE run_id = 'killed'")
    assert verdict == "interrupted" and "killed" in error


def test_a_process_that_is_killed_leaves_an_interrupted_run_and_no_lock(repo: Repo) -> None:
    repo.ok(*INGEST, input=candles(500))
    with standing_still(repo, "features.technical_indicators") as wait:
        process = start(repo, "compute")
        wait()
        process.kill()
        process.wait()
    deadline = time.monotonic() + 10
    while repo.advisory_locks():
        assert time.monotonic() < deadline, "the server did not notice"
        time.sleep(0.05)
    found = newest(repo)
    assert (found.command, found.pid, found.verdict, found.exit_code) == ("compute", process.pid, "interrupted", None)
    assert repo.json("compute")["series"][0]["inserted"] == 500


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_run_in_order(repo: Repo, number: signal.Signals) -> None:
    repo.ok(*INGEST, input=candles(500))
    with standing_still(repo, "features.technical_indicators") as wait:
        process = start(repo, "compute")
        wait()
        process.send_signal(number)
        code = process.wait(timeout=20)
        # The lock is free before the table is.
        assert (code, repo.advisory_locks()) == (130 if number == signal.SIGINT else 143, 0)
    found = newest(repo)
    assert (found.verdict, found.exit_code) == ("interrupted", code)
    assert repo.rows("SELECT count(*) FROM features.technical_indicators") == [(0,)]


def test_runs_are_listed_chosen_and_shown(repo: Repo) -> None:
    for hour, command in enumerate(("ingest candles", "compute", "materialize")):
        failing = pytest.raises(PartlyDone) if command == "compute" else nullcontext()
        with failing, open_run(repo.database, settings(command), now=NOW + timedelta(hours=hour)):
            if command == "compute":
                raise PartlyDone("half")
    runs = repo.json("runs")["runs"]
    assert [run["command"] for run in runs] == ["materialize", "compute", "ingest candles"]
    assert runs[1]["verdict"] == "partly done" and runs[1]["error"] == "half"
    since = (NOW + timedelta(hours=1)).isoformat()
    assert [run["command"] for run in repo.json("runs", "--since", since)["runs"]] == ["materialize", "compute"]
    assert [run["command"] for run in repo.json("runs", "--failed")["runs"]] == ["compute"]
    assert [run["command"] for run in repo.json("runs", "--limit", "1")["runs"]] == ["materialize"]
    assert repo.json("runs", "show", "last")["run"]["command"] == "materialize"
    name = runs[1]["run_id"]
    assert repo.json("runs", "show", name)["run"] == runs[1]
    assert repo.json("runs", "show", name[-6:])["run"] == runs[1]
    assert "partly done, exit code 5" in repo.ok("runs", "show", name, "--format", "table")
    for words, message in ((("show", "nothing"), "run 'nothing' not found"), (("show",), "write featurectl runs show")):
        done = repo.run("runs", *words)
        assert done.returncode == 2 and message in done.stderr


def test_an_id_that_may_be_of_two_runs_is_of_none(repo: Repo) -> None:
    for end in ("a1", "b1"):
        with open_run(repo.database, settings(run_id=f"20240501-{end}"), now=NOW):
            pass
    with repo.connect() as connection:
        with pytest.raises(UsageError, match="write more of it"):
            ledger.find_run(connection, "market", "20240501")
        with pytest.raises(NotFound):
            ledger.find_run(connection, "other", "20240501-a1")
        assert ledger.find_run(connection, "market", "a1").run_id == "20240501-a1"


def test_commands_write_what_they_were_asked_for_without_secrets(repo: Repo) -> None:
    url = repo.url + ("&" if "?" in repo.url else "?") + "password=s3cretOfTheTest"
    repo.ok(*INGEST, "--database-url", url, input=candles(), env={"FEATURECTL_RETRY_FOR": "1"})
    found = newest(repo)
    assert found.command == "ingest candles"
    assert (found.rows_read, found.rows_written, found.rows_rejected) == (60, 60, 0)
    assert "s3cretOfTheTest" not in repr(found)
    repo.ok("compute", "--symbol", "BTCUSDT")
    assert newest(repo).arguments == ["compute", "--symbol", "BTCUSDT"]
    assert (newest(repo).rows_read, newest(repo).rows_written) == (60, 60)
    repo.ok("materialize", "2024-01-01", "2024-01-02")
    found = newest(repo)
    assert found.window_start == datetime(2024, 1, 1, tzinfo=UTC) and found.window_end == datetime(
        2024, 1, 2, tzinfo=UTC
    )
    repo.ok("materialize")
    repo.ok("materialize", "2024-01-01", "2024-01-02")
    assert (newest(repo).rows_written, newest(repo).rows_older) == (0, 1)
    assert newest(repo).catalog_hash
    repo.run(*INGEST, input=b"nonsense")
    assert (newest(repo).verdict, newest(repo).exit_code) == ("failed", 2)


def test_a_program_is_in_the_ledger_like_a_command(repo: Repo) -> None:
    repo.ok(*INGEST, input=candles())
    jobs.compute(repo.database, Request(symbols=("BTCUSDT",), full=True), now=NOW)
    found = newest(repo)
    assert (found.command, found.rows_written) == ("compute", 60)
    assert found.arguments == ["symbols=('BTCUSDT',)", "window=the beginning .. the end", "full=True"]


def test_maintain_keeps_the_ledger_as_long_as_it_is_told(repo: Repo) -> None:
    for day in range(4):
        with open_run(repo.database, settings(run_id=f"day {day}"), now=NOW + timedelta(days=day)):
            pass
    for day in (1, 3):
        repo.rows(
            "INSERT INTO featurectl.materializations (project, view, incremental, window_end, entities, rows_written, "
            "rows_unchanged, rows_older, finished_at) VALUES ('market', 'v', true, now(), 1, 1, 0, 0, %s) RETURNING 1",
            NOW + timedelta(days=day),
        )
    at = {"FEATURECTL_NOW": (NOW + timedelta(days=10)).isoformat()}
    assert repo.json("maintain", env=at)["tables"] == []
    with (repo.root / "feature_store.yaml").open("a") as file:
        file.write("  keep_runs: 8d\n")
    counted = repo.json("maintain", "--dry-run", env=at)["tables"]
    assert [(one["table"], one["rows"]) for one in counted] == [
        ("featurectl.runs", 2),
        ("featurectl.backfills", 0),
        ("featurectl.materializations", 1),
    ]
    assert len(listed(repo)) == 5
    deleted = repo.json("maintain", env=at)["tables"]
    assert [one["rows"] for one in deleted] == [2, 0, 1]
    assert [one.run_id for one in listed(repo)][2:] == ["day 3", "day 2"]
    assert [(one.command, one.rows_written) for one in listed(repo)][:2] == [("maintain", 3), ("maintain", 0)]
    later = {"FEATURECTL_NOW": (NOW + timedelta(days=99)).isoformat()}
    repo.ok("maintain", env=later)
    assert repo.rows("SELECT count(*) FROM featurectl.materializations") == [(1,)]
    with (repo.root / "feature_store.yaml").open("a") as file:
        file.write("  keep_runs: 1h\n")
    done = repo.run("maintain")
    assert done.returncode == 2 and "keep_runs is not '1h'" in done.stderr


# --- locks -----------------------------------------------------------------------------------------------------------


def test_who_holds_a_lock_is_told_by_run_host_and_process(repo: Repo) -> None:
    with open_run(repo.database, settings("run"), now=NOW) as run, run.lock("run market"), repo.connect() as other:
        with pytest.raises(LockHeld) as refused:
            locks.take(other, "run market")
        (held,) = locks.held_locks(other, ["run market", "maintain"])
    assert (held.run_id, held.command, held.pid) == (run.run_id, "run", os.getpid())
    for word in (run.run_id, held.host, str(os.getpid()), "2024-05-01T12:00:00Z"):
        assert word and word in str(refused.value)


def test_skip_leaves_the_lock_to_its_holder(repo: Repo) -> None:
    with (
        repo.connect() as holder,
        repo.connect() as other,
        locks.lock(holder, "maintain"),
        pytest.raises(Skipped, match="maintain: locked by another session"),
    ):
        locks.take(other, "maintain", Locking(IfLocked.SKIP))


def test_wait_waits_until_the_lock_is_free(repo: Repo) -> None:
    with repo.connect() as holder, repo.connect() as other:
        locks.take(holder, "maintain")
        threading.Timer(0.3, holder.close).start()
        began = time.monotonic()
        locks.take(other, "maintain", Locking(IfLocked.WAIT, 20))
        assert 0.2 < time.monotonic() - began < 15
        assert other.execute(b"SHOW lock_timeout").fetchone() == ("0",)


def test_wait_gives_up_after_its_time(repo: Repo) -> None:
    with repo.connect() as holder, repo.connect() as other, locks.lock(holder, "maintain"):
        other.execute(b"SET lock_timeout = '7s'")
        with pytest.raises(LockHeld, match=r"locked by another session .* for longer than 0.2 s"):
            locks.take(other, "maintain", Locking(IfLocked.WAIT, 0.2))
        assert other.execute(b"SHOW lock_timeout").fetchone() == ("7s",)


@pytest.mark.parametrize(
    ("policy", "code", "verdict", "message"),
    [
        ("fail", 4, "failed", "error: compute features.technical_indicators: locked by run "),
        (
            "skip",
            0,
            "done",
            "technical_indicators_view left out: compute features.technical_indicators: locked by run ",
        ),
        ("wait", 4, "failed", "for longer than 1 s"),
    ],
)
def test_commands_have_a_policy_for_locks(repo: Repo, policy: str, code: int, verdict: str, message: str) -> None:
    repo.ok(*INGEST, input=candles())
    with open_run(repo.database, settings(), now=NOW) as run, run.lock("compute features.technical_indicators"):
        done = repo.run("compute", "--if-locked", policy, "--wait-for", "1s")
    assert done.returncode == code
    assert message in done.stderr
    assert newest(repo).verdict == verdict
    assert repo.rows("SELECT count(*) FROM features.technical_indicators") == [(0,)]


def test_a_wait_for_a_lock_is_as_long_as_it_was_said_to_be(repo: Repo) -> None:
    with open_run(repo.database, settings(), now=NOW) as run, run.lock("compute features.technical_indicators"):
        words = ("compute", "--if-locked", "wait", "--wait-for", "2s")
        done = repo.run(*words, env={"FEATURECTL_WRITE_TIMEOUT": "1"})
        assert run.attempt(lambda one: one.execute(b"SHOW statement_timeout").fetchone()) == ("1h",)
    assert done.returncode == 4 and "for longer than 2 s" in done.stderr


def test_a_wait_is_never_without_an_end_by_rounding(repo: Repo) -> None:
    with repo.connect() as holder, repo.connect() as other, locks.lock(holder, "maintain"):
        other.execute(b"SET statement_timeout = '5s'")
        began = time.monotonic()
        with pytest.raises(LockHeld):
            locks.take(other, "maintain", Locking(grace=0.0004))
        assert time.monotonic() - began < 3


def test_a_wait_in_vain_takes_its_time_as_well(repo: Repo) -> None:
    later = NOW + timedelta(hours=1)
    waits = settings(locking=Locking(IfLocked.WAIT, 0.2), clock=lambda: later)
    with repo.connect() as holder, open_run(repo.database, waits, now=NOW) as run:
        locks.take(holder, "run market")
        with pytest.raises(LockHeld), run.lock("run market"):
            pass
        assert run.now == later, "which metrics are as of"


def test_a_dry_run_waits_for_no_lock(repo: Repo) -> None:
    refused = repo.run("compute", "--dry-run", "--if-locked", "wait")
    assert refused.returncode == 2 and "--dry-run and --if-locked wait contradict each other" in refused.stderr
    with (repo.root / "feature_store.yaml").open("a") as file:
        file.write("  pipeline: {if_locked: wait}\n")
    with open_run(repo.database, settings(), now=NOW) as run, run.lock("run market"):
        done = repo.run("run", "--dry-run")
    assert done.returncode == 4 and f"run market: locked by run {run.run_id}" in done.stderr


def test_what_waited_for_a_lock_works_as_of_the_end_of_the_wait(repo: Repo) -> None:
    repo.ok(*INGEST, input=candles())
    later = NOW + timedelta(hours=1)
    waits = settings(locking=Locking(IfLocked.WAIT, 20), clock=lambda: later)
    with repo.connect() as holder:
        locks.take(holder, "compute features.technical_indicators")
        threading.Timer(0.5, holder.close).start()
        jobs.compute(repo.database, Request(), now=NOW, settings=waits)
    assert repo.rows("SELECT DISTINCT created_timestamp FROM features.technical_indicators") == [(later,)]
    with repo.connect() as holder, open_run(repo.database, waits, now=NOW) as run:
        locks.take(holder, "run market")
        threading.Timer(0.5, holder.close).start()
        assert run.now == NOW
        with run.lock("run market"):
            assert run.now == later


def test_a_lock_of_another_run_is_still_skipped_after_a_lost_connection(
    repo: Repo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("featurectl.core.runs.run.GRACE", 1.0)
    with repo.connect() as other:
        locks.take(other, "maintain")
        with open_run(repo.database, settings(locking=Locking(IfLocked.SKIP)), now=NOW) as run:
            other.execute(b"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() "
                          b"AND datname = current_database()")  # fmt: skip
            for shortest in (0.5, 0.0):
                began = time.monotonic()
                with pytest.raises(Skipped, match="maintain: locked by another session"), run.lock("maintain"):
                    pass
                assert shortest <= time.monotonic() - began < shortest + 5
            assert run.locking.grace == 0.0, "by now the old session is gone"


def test_a_run_of_which_everything_is_locked_is_skipped(repo: Repo) -> None:
    with open_run(repo.database, settings(), now=NOW) as run, run.lock("run market"):
        done = repo.run("run", "--if-locked", "skip")
    assert (done.returncode, done.stdout) == (0, "")
    assert f"skipped: run market: locked by run {run.run_id}" in done.stderr
    assert newest(repo).verdict == "skipped"


# --- the database goes away ------------------------------------------------------------------------------------------


def end_sessions(repo: Repo) -> None:
    statement = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
    repo.rows(f"{statement} AND pid <> pg_backend_pid()")


def test_work_goes_on_on_a_new_connection_with_the_same_locks(repo: Repo) -> None:
    said: list[str] = []
    tries = 0

    def work(connection: Connection) -> int:
        nonlocal tries
        tries += 1
        if tries == 1:
            end_sessions(repo)
        row = connection.execute(b"SELECT 42").fetchone()
        assert row
        return int(row[0])

    with open_run(repo.database, settings(say=said.append), now=NOW) as run, run.lock("run market"):
        assert run.attempt(work) == 42
        with repo.connect() as other, pytest.raises(LockHeld, match=run.run_id):
            locks.take(other, "run market")
    assert tries == 2
    assert len(said) == 1 and "trying again for 5 s" in said[0]
    assert newest(repo).verdict == "done"


def test_a_lock_that_somebody_took_meanwhile_is_not_taken_for_ours(repo: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("featurectl.core.runs.run.GRACE", 0.2)
    with repo.connect() as other:

        def work(connection: Connection) -> None:
            end = f"SELECT pg_terminate_backend({connection.info.backend_pid})"
            other.execute(end.encode())
            time.sleep(0.1)
            locks.take(other, "run market")
            connection.execute(b"SELECT 1")

        with pytest.raises(LockHeld), open_run(repo.database, settings(), now=NOW) as run, run.lock("run market"):
            run.attempt(work)
    assert newest(repo).exit_code == 4


def test_a_run_gives_up_in_its_time_and_the_ledger_is_told_when_it_can_be(repo: Repo) -> None:
    def work(connection: Connection) -> None:
        raise psycopg.OperationalError("server closed the connection unexpectedly")

    began = time.monotonic()
    with pytest.raises(DatabaseUnreachable), open_run(repo.database, settings(retry_for=0.5), now=NOW) as run:
        run.attempt(work)
    assert 0.3 < time.monotonic() - began < 10
    assert (newest(repo).verdict, newest(repo).exit_code) == ("failed", 3)


@pytest.mark.parametrize("kind", [pg.DeadlockDetected, pg.SerializationFailure, pg.AdminShutdown, pg.CannotConnectNow])
def test_conflicts_and_restarts_are_tried_again(repo: Repo, kind: type[psycopg.Error]) -> None:
    errors: Iterator[psycopg.Error] = iter([kind("first"), kind("second")])

    def work(connection: Connection) -> str:
        if error := next(errors, None):
            raise error
        return "done"

    with open_run(repo.database, settings(), now=NOW) as run:
        assert run.attempt(work) == "done"


@pytest.mark.parametrize(
    "error",
    [
        LoginRefused("no such user"),
        UsageError("what?"),
        pg.UniqueViolation("twice"),
        pg.QueryCanceled("canceling statement due to statement timeout"),
        pg.DiskFull("no space"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_will_fail_again_is_not_tried_again(error: Exception) -> None:
    calls = 0

    def work() -> None:
        nonlocal calls
        calls += 1
        raise error

    assert not is_transient(error)
    with pytest.raises(type(error)):
        Retries(5, lambda text: None).call(work)
    assert calls == 1


@pytest.mark.parametrize("state", ["54000", "54001", "55000", "55006", "58030", "58P01", "53100", "53200"])
def test_what_the_server_can_not_do_is_no_reason_to_look_for_it(state: str) -> None:
    error = translate(pg.lookup(state)("stack depth limit exceeded"))
    assert not isinstance(error, DatabaseUnreachable) and not is_transient(error)
    error.__cause__ = pg.lookup(state)("stack depth limit exceeded")
    assert not is_transient(error)


def test_work_that_takes_longer_than_the_deadline_is_not_tried_for_ever() -> None:
    tries = 0

    def work() -> None:
        nonlocal tries
        tries += 1
        assert tries < 9
        time.sleep(0.35)
        raise DatabaseUnreachable("gone again")

    with pytest.raises(DatabaseUnreachable):
        Retries(0.3, lambda text: None).call(work)
    assert tries == LONG_TRIES + 1


def test_work_that_went_well_for_long_may_fail_again() -> None:
    seconds = iter([0.0, 0.4, 0.4])

    def work() -> str:
        if (pause := next(seconds, None)) is None:
            return "done"
        time.sleep(pause)
        raise DatabaseUnreachable("gone")

    assert Retries(0.3, lambda text: None).call(work) == "done"


def test_a_server_that_does_not_answer_is_not_waited_for_several_times(
    repo: Repo, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = 0

    def silent(*arguments: Any, **named: Any) -> None:
        nonlocal tries
        tries += 1
        time.sleep(0.3)
        raise DatabaseUnreachable("timeout expired")

    monkeypatch.setattr("featurectl.core.db.Database.connect", silent)
    with pytest.raises(DatabaseUnreachable):
        Session(repo.database, 60, lambda text: None, first_contact=0.2).attempt(lambda connection: None)
    assert tries == 2


def test_the_deadline_counts_anew_when_work_gets_further() -> None:
    done: list[int] = []

    def work() -> str:
        time.sleep(0.2)
        done.append(1)
        if len(done) < 6:
            raise DatabaseUnreachable("gone")
        return "done"

    assert Retries(0.3, lambda text: None).call(work, lambda: len(done)) == "done"


def test_a_pause_between_two_tries_ends_with_the_deadline() -> None:
    def work() -> None:
        raise DatabaseUnreachable("gone")

    began = time.monotonic()
    with pytest.raises(DatabaseUnreachable):
        Retries(2.5, lambda text: None).call(work)
    assert 2.4 < time.monotonic() - began < 3.5, "waits get longer, up to 5 s"


def test_a_database_that_was_reached_is_waited_for_as_long_as_was_said_from_the_first_piece_of_work_on(
    repo: Repo,
) -> None:
    end = time.monotonic() + 0.5

    def work(connection: Connection) -> str:
        if time.monotonic() < end:
            raise psycopg.OperationalError("server closed the connection unexpectedly")
        return "done"

    session = Session(repo.database, 10, lambda text: None, first_contact=0)
    assert session.attempt(work) == "done"
    session.close()


def test_an_end_is_recorded_though_the_connection_was_lost_unnoticed(repo: Repo) -> None:
    said: list[str] = []
    with open_run(repo.database, settings(say=said.append), now=NOW) as run:
        run.attempt(lambda connection: connection.execute(b"SELECT 1"))
        end_sessions(repo)
    assert (newest(repo).verdict, newest(repo).exit_code, said) == ("done", 0, [])


def test_an_end_is_recorded_by_a_server_that_is_back_in_a_moment(repo: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    finish, failures = ledger.finish, iter([pg.AdminShutdown("ended"), pg.CannotConnectNow("starting up")] * 2)

    def late(*arguments: Any, **named: Any) -> None:
        if error := next(failures, None):
            raise error
        finish(*arguments, **named)

    monkeypatch.setattr(ledger, "finish", late)
    with open_run(repo.database, settings(), now=NOW):
        pass
    assert newest(repo).verdict == "done"


def test_an_end_that_can_not_be_recorded_is_told_of(repo: Repo) -> None:
    said: list[str] = []
    with open_run(repo.database, settings(say=said.append), now=NOW) as run:
        run.attempt(lambda connection: connection.execute(b"DROP TABLE featurectl.runs"))
    assert len(said) == 1 and "the ledger does not know how this run ended" in said[0]


def test_the_ledger_bears_what_a_text_of_the_database_does_not(repo: Repo) -> None:
    with pytest.raises(UsageError), open_run(repo.database, settings(), now=NOW) as run:
        run.steps.append(Step("ingest", "x.parquet", error="column a\0b"))
        raise UsageError("x.parquet: column a\0b")
    assert (newest(repo).verdict, newest(repo).error) == ("failed", r"x.parquet: column a\x00b")
    assert newest(repo).steps[0]["error"] == r"column a\x00b"


def test_the_deadline_counts_from_the_failure_and_not_from_the_start_of_long_work() -> None:
    tries: list[float] = []

    def work() -> str:
        tries.append(time.monotonic())
        if len(tries) == 1:
            time.sleep(0.6)  # work that goes well for longer than the deadline, and then loses its connection
            raise DatabaseUnreachable("gone")
        return "done"

    assert Retries(0.4, lambda text: None).call(work) == "done"
    assert len(tries) == 2


def test_a_deadlock_between_two_runs_ends_well(repo: Repo) -> None:
    """Two transactions that take the same two rows in opposite orders: one is rolled back, and does it again."""
    with repo.connect() as connection:
        connection.execute(b"CREATE TABLE deadlock AS SELECT g AS id, 0 AS value FROM generate_series(1, 2) AS g")
    meet = threading.Barrier(2)
    tries = []

    def work(connection: Connection, first: int, second: int) -> None:
        tries.append(first)
        with connection.transaction():
            connection.execute(b"UPDATE deadlock SET value = value + 1 WHERE id = %s", (first,))
            if len(tries) <= 2:
                meet.wait(10)
            connection.execute(b"UPDATE deadlock SET value = value + 1 WHERE id = %s", (second,))

    def one(first: int, second: int) -> None:
        with open_run(repo.database, settings(), now=NOW) as run:
            run.attempt(lambda connection: work(connection, first, second))

    threads = [threading.Thread(target=one, args=pair) for pair in ((1, 2), (2, 1))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert repo.rows("SELECT value FROM deadlock ORDER BY id") == [(2,), (2,)]
    assert len(tries) == 3
    assert [one.verdict for one in listed(repo)] == ["done", "done"]


def test_sessions_that_write_have_limits(repo: Repo) -> None:
    with open_run(repo.database, settings(), now=NOW) as run:
        shown = run.attempt(
            lambda connection: [
                connection.execute(f"SHOW {name}".encode()).fetchone()[0]  # type: ignore[index]
                for name in ("lock_timeout", "statement_timeout", "idle_in_transaction_session_timeout")
            ]
        )
    assert shown == ["30s", "1h", "1h"]


def test_a_table_that_is_locked_for_too_long_ends_a_run_and_not_the_night(repo: Repo) -> None:
    repo.ok(*INGEST, input=candles())
    with standing_still(repo, "features.technical_indicators"):
        done = repo.run("compute", env={"FEATURECTL_LOCK_TIMEOUT": "0.3"})
    assert done.returncode == 4
    assert "lock timeout" in done.stderr
    assert (newest(repo).verdict, newest(repo).exit_code) == ("failed", 4)


# --- dry runs --------------------------------------------------------------------------------------------------------


def test_a_dry_run_reports_what_a_run_does_and_keeps_nothing(repo: Repo) -> None:
    tables = ("market.candles", "features.technical_indicators", "online.market__technical_indicators_view")
    tables += ("featurectl.changes", "featurectl.computed_series", "featurectl.materializations", "featurectl.runs")
    tables += ("featurectl.backfills", "featurectl.backfill_chunks")

    def state() -> list[Any]:
        return [repo.rows(f"SELECT md5(string_agg(t::text, '' ORDER BY t::text)) FROM {name} AS t") for name in tables]

    commands: list[tuple[tuple[str, ...], bytes | None]] = [
        (INGEST, candles()),
        (("compute",), None),
        (("materialize",), None),
        (("backfill", "--from", "2024-01-01", "--to", "2024-01-04", "--chunk", "12h"), None),
        (("materialize", "2024-01-01", "2024-01-02", "--force"), None),
    ]
    for words, content in commands:
        before = state()
        rehearsed = repo.json(*words, "--dry-run", input=content)
        assert state() == before, words
        done = repo.json(*words, input=content)
        assert (rehearsed.pop("dry_run"), done.pop("dry_run")) == (True, False)
        for document in (rehearsed, done):
            document.get("window", {}).pop("end", None)
        assert rehearsed == done, words


# --- helpers ---------------------------------------------------------------------------------------------------------


def start(repo: Repo, *words: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [str(SCRIPT), *words],
        cwd=repo.root,
        env=repo.environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


@contextmanager
def standing_still(repo: Repo, table: str) -> Iterator[Any]:
    """Lock a table, so that what writes to it stands still; gives a function that waits until somebody does."""
    with repo.connect() as blocker, blocker.transaction():
        blocker.execute(f"LOCK TABLE {table} IN EXCLUSIVE MODE".encode())

        def wait() -> None:
            waiting = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
            deadline = time.monotonic() + 30
            while not repo.rows(waiting):
                assert time.monotonic() < deadline, "nobody waits"
                time.sleep(0.02)

        yield wait


def test_the_log_and_the_ledger_know_a_run_by_the_same_id(repo: Repo) -> None:
    done = repo.run("compute", "--log-format", "json")
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert lines and {line["run_id"] for line in lines} == {newest(repo).run_id}
