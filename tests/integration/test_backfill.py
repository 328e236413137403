"""Backfills: chunk by chunk the same as all at once, resumed where they were, and under the same locks as compute."""

from __future__ import annotations

import json
import threading
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest

from featurectl import jobs
from featurectl.core import locks
from featurectl.core.backfill import Plan, plan_of, with_functions
from featurectl.core.catalog import read_catalog
from featurectl.core.compute import Request
from featurectl.core.locks import IfLocked, Locking
from featurectl.core.runs import RunSettings, ledger, open_run
from featurectl.core.synthetic import write_market
from featurectl.core.times import Window
from featurectl.errors import NotFound, UsageError
from tests.fix_repository import Repo
from tests.integration.test_first_path import candles

NOW = datetime(2024, 5, 1, 12, 0, 30, tzinfo=UTC)
TABLES = ("features.technical_indicators", "features.market_features", "features.sentiment_features")
AT = {"FEATURECTL_NOW": NOW.isoformat()}


def contents(repo: Repo) -> dict[str, list[tuple[Any, ...]]]:
    return {table: repo.rows(f"SELECT t::text FROM {table} AS t ORDER BY 1") for table in TABLES}


def forget(repo: Repo) -> None:
    with repo.connect() as connection:
        connection.execute(f"TRUNCATE {', '.join(TABLES)}, featurectl.computed_series".encode())


@pytest.fixture
def filled(repo: Repo) -> Repo:
    """A market of candles, ticks and scores, of which nothing is computed."""
    files = write_market(repo.root / "data", now=NOW)
    for kind, paths in (
        ("candles", files.series[:2] + files.series[3:4]),
        ("order-book", files.books[:1]),
        ("trades", files.trades[:1]),
        ("signals", files.scores),
    ):
        repo.ok("ingest", kind, *paths, env=AT)
    return repo


def plan(start: str, end: datetime = NOW, days: float = 7, **more: Any) -> Plan:
    return Plan(Window(datetime.fromisoformat(start), end), timedelta(days=days), **more)


def backfill(repo: Repo, wanted: Plan | None, **more: Any) -> jobs.Backfill:
    return jobs.backfill(repo.database, wanted, now=NOW, settings=RunSettings("backfill", retry_for=2), **more)


# --- chunks ----------------------------------------------------------------------------------------------------------


def test_chunks_hold_every_instant_of_the_window_once() -> None:
    start, end = datetime(2024, 1, 1, tzinfo=UTC), datetime(2024, 1, 3, 12, tzinfo=UTC)
    chunks = Plan(Window(start, end), timedelta(days=1)).chunks()
    assert [chunk.start for chunk in chunks] == [start + timedelta(days=day) for day in range(3)]
    assert chunks[-1].end == end
    for before, after in pairwise(chunks):
        assert before.end is not None and before.end + timedelta(microseconds=1) == after.start
    whole = Plan(Window(start, start + timedelta(days=2)), timedelta(days=2)).chunks()
    assert [(chunk.start, chunk.end) for chunk in whole] == [
        (start, start + timedelta(days=2) - timedelta(microseconds=1)),
        (start + timedelta(days=2), start + timedelta(days=2)),
    ]


def test_a_plan_survives_json() -> None:
    wanted = plan("2024-01-01T00:00:00.000001+00:00", days=0.5, views=("a",), symbols=("b", "c"), functions=("f",))
    assert plan_of(json.loads(json.dumps(wanted.document()))) == wanted


def test_too_many_chunks_are_refused() -> None:
    with pytest.raises(UsageError, match="too many"):
        plan("2000-01-01T00:00+00:00", days=0.001).chunks()


# --- the same as compute ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("days", "workers"), [(10, 1), (3.3, 3)])
def test_a_backfill_of_everything_is_a_compute_of_everything(filled: Repo, days: float, workers: int) -> None:
    jobs.compute(filled.database, Request(full=True), now=NOW)
    whole = contents(filled)
    assert all(whole.values())
    forget(filled)
    done = backfill(filled, plan("2023-06-01T00:00+00:00", days=days), workers=workers, online=False)
    assert contents(filled) == whole
    assert sum(one.inserted for one in done.computed) == sum(map(len, whole.values()))
    # And compute knows that nothing is left to be done.
    again = jobs.compute(filled.database, Request(), now=NOW)
    assert sum(one.stale for one in again) == 0
    assert contents(filled) == whole


def test_what_a_backfill_leaves_out_the_next_compute_makes(filled: Repo) -> None:
    jobs.compute(filled.database, Request(full=True), now=NOW)
    whole = contents(filled)
    forget(filled)
    backfill(filled, plan("2024-04-20T00:00+00:00", datetime(2024, 4, 28, tzinfo=UTC), 2), online=False)
    part = contents(filled)
    assert 0 < len(part[TABLES[0]]) < len(whole[TABLES[0]])
    assert set(part[TABLES[0]]) < set(whole[TABLES[0]])
    jobs.compute(filled.database, Request(), now=NOW)
    assert contents(filled) == whole


def test_a_correction_is_computed_into_the_bars_after_the_window_too(repo: Repo) -> None:
    repo.ok("ingest", "candles", "-", "--symbol", "BTCUSDT", "--timeframe", "1h", input=candles(400), env=AT)
    repo.ok("compute", env=AT)
    repo.ok(
        "ingest", "candles", "-", "--symbol", "BTCUSDT", "--timeframe", "1h",
        input=b"open_time,open,high,low,close,volume\n2024-01-03T00:00Z,100,900,90,800,10", env=AT,
    )  # fmt: skip
    window = plan("2024-01-02T00:00+00:00", datetime(2024, 1, 4, tzinfo=UTC), 1)
    (done,) = [one for one in backfill(repo, window, online=False).computed if one.view.startswith("technical")]
    assert done.changed == 400 - 48  # the corrected bar, and all after it, within the warm-up
    filled = contents(repo)
    jobs.compute(repo.database, Request(full=True), now=NOW)
    assert contents(repo) == filled


def test_a_backfill_of_the_past_leaves_what_came_later_to_the_next_compute(filled: Repo) -> None:
    """Rows after the window were computed before; of those no change may be taken for seen."""
    jobs.compute(filled.database, Request(), now=NOW)
    for kind, table in (("trades", "market.trades"), ("signals", "market.signals")):
        ((first, last),) = filled.rows(f"SELECT min(time), max(time) FROM {table}")
        symbol = filled.rows(f"SELECT symbol FROM {table} ORDER BY symbol DESC LIMIT 1")[0][0]
        late = (last - timedelta(minutes=40)).isoformat()
        lines = {
            "trades": f"timestamp,symbol,trade_id,price,size,side\n{late},{symbol},late,100,9999,buy\n",
            "signals": f"time,symbol,name,score\n{late},{symbol},news_sentiment,0.123\n",
        }
        filled.ok("ingest", kind, "-", input=lines[kind].encode(), env=AT)
        start = (first - timedelta(days=1)).isoformat()
        backfill(filled, plan(start, first + timedelta(minutes=31), days=1), online=False)
    jobs.compute(filled.database, Request(), now=NOW)
    found = contents(filled)
    jobs.compute(filled.database, Request(full=True), now=NOW)
    assert contents(filled) == found
    assert any("9999" in row[0] or "0.123" in row[0] for table in TABLES for row in found[table])


# --- resuming --------------------------------------------------------------------------------------------------------


class _Stopped(Exception):
    """The test stops a backfill in its middle."""


def interrupted(repo: Repo, wanted: Plan, after: int, **more: Any) -> None:
    def progress(done: int, total: int, label: str) -> None:
        if done == after:
            raise _Stopped

    with pytest.raises(_Stopped):
        backfill(repo, wanted, progress=progress, **more)


def test_an_interrupted_backfill_is_resumed_where_it_was(filled: Repo) -> None:
    wanted = plan("2024-02-01T00:00+00:00", days=10)
    jobs.compute(filled.database, Request(window=wanted.window, full=True), now=NOW)
    whole = contents(filled)
    forget(filled)
    interrupted(filled, wanted, 4)
    assert filled.rows("SELECT count(*) FROM featurectl.backfill_chunks") == [(4,)]
    done = backfill(filled, None, resume=True).computed
    assert sum(one.resumed for one in done) == 4
    assert sum(one.chunks for one in done) == len(done) * len(wanted.chunks()) - 4
    assert contents(filled) == whole
    with pytest.raises(UsageError, match="no unfinished backfill to resume"):
        backfill(filled, None, resume=True)


def test_only_the_same_backfill_is_resumed(filled: Repo) -> None:
    wanted = plan("2024-04-01T00:00+00:00", days=10)
    interrupted(filled, wanted, 4)
    ((written,),) = filled.rows("SELECT sum(rows_written) FROM featurectl.backfill_chunks")
    with filled.connect() as connection:
        assert ledger.list_runs(connection, "market")[0].rows_written == written > 0, "an interrupted run has done that"
    other = backfill(filled, plan("2024-04-01T00:00+00:00", days=20), resume=True)
    assert sum(one.resumed for one in other.computed) == 0
    same = backfill(filled, wanted, resume=True)
    assert sum(one.resumed for one in same.computed) == 4


def test_a_backfill_is_not_resumed_with_other_functions(filled: Repo) -> None:
    wanted = plan("2024-04-01T00:00+00:00", days=10)
    interrupted(filled, wanted, 2)
    path = filled.root / "feature_repo" / "indicators.py"
    path.write_text(
        path.read_text().replace("def atr(", "def atr(close):\n    return close * 0 + 7.0\n\n\ndef _atr(", 1)
    )
    with pytest.raises(UsageError, match="other functions"):
        backfill(filled, None, resume=True)
    anew = backfill(filled, wanted, resume=True)
    assert sum(one.resumed for one in anew.computed) == 0


def test_a_window_without_an_end_ends_when_the_backfill_begins(filled: Repo) -> None:
    open_end = Plan(Window(datetime(2023, 1, 1, tzinfo=UTC), None), timedelta(days=200))
    later = NOW + timedelta(minutes=7)
    waits = RunSettings("backfill", retry_for=2, locking=Locking(IfLocked.WAIT, 20), clock=lambda: later)
    path = filled.root / "feature_repo" / "indicators.py"
    with filled.connect() as holder:
        locks.take(holder, "compute features.technical_indicators")

        def release() -> None:
            path.write_text(path.read_text().replace("def atr(", "def atr(close):\n    return close\n\n\ndef _atr(", 1))
            holder.close()

        threading.Timer(0.7, release).start()
        done = jobs.backfill(filled.database, open_end, now=NOW, settings=waits, online=False)
    assert done.plan.window.end == later
    with filled.connect() as connection:
        catalog = read_catalog(connection, "market")
    assert with_functions(catalog, done.plan, filled.root) == done.plan, "those that it was done with"
    again = jobs.compute(filled.database, Request(), now=later)
    assert sum(one.stale for one in again if one.view.startswith("technical")) == 0, "and it was a whole one"


def test_a_backfill_to_now_is_resumed_to_where_it_went(filled: Repo) -> None:
    open_end = Plan(Window(datetime(2024, 4, 1, tzinfo=UTC), None), timedelta(days=10))
    interrupted(filled, open_end, 4)
    later = NOW + timedelta(hours=1)
    done = jobs.backfill(filled.database, open_end, now=later, resume=True, online=False)
    assert done.plan.window.end == NOW
    assert sum(one.resumed for one in done.computed) == 4


def test_a_failure_of_one_job_ends_all(filled: Repo) -> None:
    path = filled.root / "feature_repo" / "indicators.py"
    path.write_text(
        path.read_text().replace("def atr(", "def atr(close, high, low):\n    raise ValueError\n\ndef _(", 1)
    )
    done = filled.run("backfill", "--from", "2024-01-01", "--jobs", "3", env=AT)
    assert done.returncode == 2, done.stderr
    assert "atr" in done.stderr and "Traceback" not in done.stderr
    assert filled.advisory_locks() == 0


# --- online ----------------------------------------------------------------------------------------------------------


def test_a_backfill_moves_nothing_online_back_unless_forced(filled: Repo) -> None:
    filled.ok("compute", env=AT)
    filled.ok("materialize", env=AT)
    online_rows = "SELECT max(event_timestamp) FROM online.market__technical_indicators_view WHERE timeframe <> '5m'"
    newest = filled.rows(online_rows)
    words = ("backfill", "--from", "2024-04-01", "--to", "2024-04-10", "--view", "technical_indicators_view")
    done = filled.json(*words, env=AT)
    (online,) = done["online"]
    assert (online["written"], online["older"]) == (0, online["entities"])
    assert filled.rows(online_rows) == newest
    (forced,) = filled.json(*words, "--force", env=AT)["online"]
    assert forced["written"] == forced["entities"] > 0
    ((after,),) = filled.rows(online_rows)
    assert after == datetime(2024, 4, 10, tzinfo=UTC)
    filled.ok("materialize", env=AT)
    assert filled.rows(online_rows) == newest


def test_features_that_are_computed_and_not_online_are_told_of(filled: Repo) -> None:
    words = ("backfill", "--from", "2024-04-20", "--to", "2024-04-28", "--view", "technical_indicators_view")
    lock = "materialize market.technical_indicators_view"
    with open_run(filled.database, RunSettings("materialize"), now=NOW) as run, run.lock(lock):
        done = filled.call(*words, env=AT)
        left = filled.call(*words, "--if-locked", "skip", env=AT)
        forced = filled.call(*words, "--force", env=AT)
    assert done.returncode == 5
    assert "the features are computed, and not all online: materialize market.tech" in done.stderr
    command = "featurectl materialize 2024-04-20T00:00:00Z 2024-04-28T00:00:00Z --view technical_indicators_view"
    assert f"`{command}` brings them there" in done.stderr and f"`{command} --force` brings" in forced.stderr
    assert left.returncode == 0 and "technical_indicators_view left out: materialize market.tech" in left.stderr
    with filled.connect() as connection:
        verdicts = [one.verdict for one in ledger.list_runs(connection, "market", command="backfill")]
    assert verdicts == ["partly done", "done", "partly done"]
    assert filled.rows("SELECT count(*) FROM featurectl.backfills WHERE finished_at IS NULL") == [(0,)]


# --- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "a backfill needs a window"),
        (("--to", "2024-01-01"), "give it --from TIME"),
        (("--from", "2024-01-02", "--to", "2024-01-01"), "starts (2024-01-02T00:00:00Z) after it ends"),
        (("--from", "2024-01-01", "--to", "2030-01-01"), "is in the future"),
        (("--from", "2024-01-01", "--chunk", "0d"), "is no time at all"),
        (("--from", "2024-01-01", "--chunk", "soon"), "'soon' is not a duration"),
        (("--from", "2024-01-01", "--chunk", "1s"), "too many"),
        (("--from", "2024-01-01", "--view", "nothing"), "computed view 'nothing' not found"),
        (("--from", "2024-01-01", "--symbol", "NONE"), "symbol 'NONE' not found"),
        (("--resume",), "no unfinished backfill to resume"),
    ],
)
def test_bad_words(repo: Repo, words: tuple[str, ...], message: str) -> None:
    done = repo.run("backfill", *words, env=AT)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("error: ") == 1


def test_a_view_that_nothing_computes_has_no_backfill(repo: Repo) -> None:
    with pytest.raises(NotFound, match="comprehensive_features_view"):
        backfill(repo, plan("2024-01-01T00:00+00:00", views=("comprehensive_features_view",)))
