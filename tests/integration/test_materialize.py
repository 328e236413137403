"""Offline to online: windows and their ends, the guard, locks, the ledger, and the walk over the entities."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from psycopg import sql

from featurectl.core import sources
from featurectl.core.catalog import View
from featurectl.core.locks import lock
from featurectl.core.materialize import Failed, Materialized, choose_views, materialize
from featurectl.core.times import Window
from featurectl.errors import LockHeld, NotFound, UsageError
from tests.market import HOUR, MICROSECOND, START, TECHNICAL, VIEW, Market, bars, close_of

NOW = START + timedelta(days=100)
ONLINE = "online.market__technical_indicators_view"
ALL = Window(None, None)


def run(market: Market, window: Window = ALL, *, now: datetime = NOW, view: View | None = None) -> Materialized:
    (done,) = materialize(market.connection, "market", [view or market.view], window, now=now)
    assert isinstance(done, Materialized), done
    return done


def write(market: Market, hour: int, value: float | None, symbol: str = "A", created: datetime = NOW) -> None:
    market.connection.execute(
        f"INSERT INTO {TECHNICAL} (symbol, timeframe, event_timestamp, created_timestamp, rsi_14) "
        "VALUES (%s, '1h', %s, %s, %s) ON CONFLICT (symbol, timeframe, event_timestamp) "
        "DO UPDATE SET created_timestamp = excluded.created_timestamp, rsi_14 = excluded.rsi_14".encode(),
        (symbol, START + hour * HOUR, created, value),
    )


def stored(market: Market, table: str = ONLINE) -> list[tuple[str, int, datetime | None, float | None]]:
    """Return symbol, event time in hours, created timestamp and value of each online row."""
    rows = market.connection.execute(
        f"SELECT symbol, event_timestamp, created_timestamp, rsi_14 FROM {table} ORDER BY symbol".encode()
    )
    return [(symbol, round((event - START) / HOUR), created, value) for symbol, event, created, value in rows]


def done_counts(done: Materialized) -> tuple[int, int, int, int]:
    return done.entities, done.written, done.unchanged, done.older


# --- windows ---------------------------------------------------------------------------------------------------------


def test_each_entity_gets_its_newest_row(market: Market) -> None:
    for symbol, hours in {"A": (1, 2, 3), "B": (2,), "C": (5, 4)}.items():
        for hour in hours:
            write(market, hour, float(hour), symbol)
    assert done_counts(run(market)) == (3, 3, 0, 0)
    assert stored(market) == [("A", 3, NOW, 3.0), ("B", 2, NOW, 2.0), ("C", 5, NOW, 5.0)]


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        (0, 0, 2),
        (-1, 0, 2),
        (0, 1, 2),
        (1, 1, None),  # starts a microsecond after the row at 2, ends before the one at 3
        (-1, -1, None),  # ends a microsecond before the row at 2
    ],
)
def test_both_ends_of_a_window_belong_to_it_to_the_microsecond(
    market: Market, start: int, end: int, expected: int | None
) -> None:
    for hour in (1, 2, 3):
        write(market, hour, float(hour))
    at = START + 2 * HOUR
    run(market, Window(at + start * MICROSECOND, at + end * MICROSECOND))
    assert [row[1] for row in stored(market)] == ([] if expected is None else [expected])


def test_a_window_that_ends_in_the_future_is_refused_and_changes_nothing(market: Market) -> None:
    write(market, 1, 1.0)
    for window in (Window(START, NOW + MICROSECOND), Window(None, NOW + MICROSECOND)):
        with pytest.raises(
            UsageError, match=r"the window ends in the future: 2024-04-10T00:00:00\.000001Z is after now"
        ):
            run(market, window)
    assert stored(market) == []
    run(market, Window(START, NOW))
    assert len(stored(market)) == 1


def test_rows_of_the_future_wait(market: Market) -> None:
    write(market, 1, 1.0)
    write(market, 2, 2.0)
    run(market, now=START + 2 * HOUR - MICROSECOND)
    assert [row[1] for row in stored(market)] == [1]
    run(market, now=START + 2 * HOUR)
    assert [row[1] for row in stored(market)] == [2]


def test_an_incremental_run_skips_no_hole_and_no_late_row(market: Market) -> None:
    """It looks at all history, not at what came since the last run."""
    write(market, 1, 1.0, "A")
    write(market, 50, 50.0, "B")
    run(market, now=START + 60 * HOUR)
    write(market, 40, 40.0, "A")  # late: before the last run's end
    write(market, 30, 30.0, "C")  # a symbol that came late altogether
    assert done_counts(run(market, now=START + 61 * HOUR)) == (3, 2, 1, 0)
    assert [row[:2] for row in stored(market)] == [("A", 40), ("B", 50), ("C", 30)]


# --- the guard -------------------------------------------------------------------------------------------------------


def test_an_old_window_leaves_newer_online_rows_alone(market: Market) -> None:
    write(market, 9, 9.0)
    run(market)
    write(market, 2, 2.0, created=NOW + HOUR)
    assert done_counts(run(market, Window(START, START + 5 * HOUR))) == (1, 0, 0, 1)
    assert stored(market) == [("A", 9, NOW, 9.0)]


@pytest.mark.parametrize(
    ("created", "value", "written", "older", "expected"),
    [
        (NOW + MICROSECOND, 5.0, 1, 0, 5.0),  # a correction
        (NOW, 5.0, 1, 0, 5.0),  # equal stamps, another value: the source is right
        (NOW - MICROSECOND, 5.0, 0, 1, 1.0),  # written earlier than what is online
        (NOW, 1.0, 0, 0, 1.0),
        (NOW + HOUR, None, 1, 0, None),
    ],
)
def test_between_equal_events_the_later_write_counts(
    market: Market, created: datetime, value: float | None, written: int, older: int, expected: float | None
) -> None:
    write(market, 1, 1.0)
    run(market)
    write(market, 1, value, created=created)
    done = run(market)
    assert (done.written, done.older) == (written, older)
    assert stored(market)[0][3] == expected


def test_the_guard_holds_against_a_write_that_comes_in_between(market: Market) -> None:
    """The online row is locked by a writer with a newer one; when it commits, the older row does not replace it."""
    write(market, 1, 1.0)
    run(market)
    write(market, 2, 2.0)
    with market.repo.connect() as writer, market.repo.connect() as other:
        with writer.transaction():
            writer.execute(f"UPDATE {ONLINE} SET event_timestamp = %s, rsi_14 = 3".encode(), (START + 3 * HOUR,))
            thread, results = in_background(Market(market.repo, other))
            wait_until(market, "wait_event_type = 'Lock'")
        thread.join(20)
    assert results[0].written == 0
    assert [(row[1], row[3]) for row in stored(market)] == [(3, 3.0)]


def test_sources_without_created_timestamps_are_guarded_by_event_time(market: Market) -> None:
    view = replace(market.view, created_column=None)
    write(market, 3, 3.0)
    run(market, view=view)
    assert stored(market) == [("A", 3, None, 3.0)]
    write(market, 3, 4.0)
    assert done_counts(run(market, view=view)) == (1, 1, 0, 0)
    assert done_counts(run(market, Window(START, START + 2 * HOUR), view=view)) == (0, 0, 0, 0)
    assert stored(market) == [("A", 3, None, 4.0)]


def test_of_equal_events_in_a_source_the_latest_write_is_taken_and_a_null_stamp_is_the_oldest(market: Market) -> None:
    market.connection.execute(
        b"CREATE TABLE public.signals (symbol text, timeframe text, event_timestamp timestamptz, "
        b"created_timestamp timestamptz, rsi_14 float8)"
    )
    for created, value in ((None, 1.0), (NOW, 2.0), (NOW + HOUR, 3.0), (NOW - HOUR, 4.0)):
        market.connection.execute(
            b"INSERT INTO public.signals VALUES ('A', '1h', %s, %s, %s)", (START + HOUR, created, value)
        )
    view = sourced(market, table="public.signals")
    run(market, view=view)
    assert stored(market) == [("A", 1, NOW + HOUR, 3.0)]


# --- runs side by side -----------------------------------------------------------------------------------------------


def in_background(market: Market, window: Window = ALL) -> tuple[threading.Thread, list[Any]]:
    results: list[Any] = []
    arguments = (market.connection, "market", [market.view], window)
    thread = threading.Thread(target=lambda: results.extend(materialize(*arguments, now=NOW)))
    thread.start()
    return thread, results


def wait_until(market: Market, condition: str) -> None:
    """Wait until another session of this database is in a state."""
    statement = f"SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND {condition}".encode()
    for _ in range(400):
        if market.connection.execute(statement).fetchone():
            return
        time.sleep(0.02)
    raise AssertionError(f"no session came to {condition}")


def test_of_two_runs_at_once_one_is_told_who_holds_the_lock_and_nothing_is_lost(market: Market) -> None:
    market.connection.execute(b"SET lock_timeout = '10s'")
    for symbol in ("A", "B"):
        write(market, 1, 1.0, symbol)
    with market.repo.connect() as blocker, market.repo.connect() as other:
        with blocker.transaction():
            blocker.execute(f"LOCK TABLE {ONLINE} IN ACCESS EXCLUSIVE MODE".encode())
            thread, results = in_background(Market(market.repo, other))
            wait_until(market, "wait_event_type = 'Lock'")
            write(market, 2, 2.0, "B")
            (refused,) = materialize(market.connection, "market", [market.view], ALL, now=NOW)
        thread.join(20)
    assert isinstance(refused, Failed) and isinstance(refused.error, LockHeld)
    assert refused.error.exit_code == 4
    assert f"materialize market.{VIEW}: locked by another session (server process" in str(refused.error)
    assert done_counts(results[0]) == (2, 2, 0, 0)
    run(market)
    assert [row[:2] for row in stored(market)] == [("A", 1), ("B", 2)]


def test_many_runs_at_once_lose_nothing(market: Market) -> None:
    for symbol in "ABCDEFGH":
        for hour in range(20):
            write(market, hour, float(hour), symbol)
    windows = [Window(START, START + hour * HOUR) for hour in (3, 19, 7, 11)]
    connections = [market.repo.connect() for _ in windows]
    try:
        started = [
            in_background(Market(market.repo, connection), window)
            for connection, window in zip(connections, windows, strict=True)
        ]
        for thread, _ in started:
            thread.join(20)
    finally:
        for connection in connections:
            connection.close()
    results = [result for _, found in started for result in found]
    assert len(results) == 4
    ran = [result for result in results if isinstance(result, Materialized)]
    assert ran and all(isinstance(result.error, LockHeld) for result in results if isinstance(result, Failed))
    newest = max((result.window.end - START) // HOUR for result in ran if result.window.end)
    assert {row[1] for row in stored(market)} == {newest}
    run(market)
    assert {row[1] for row in stored(market)} == {19}


def test_a_lock_on_one_view_does_not_stop_the_others(market: Market) -> None:
    write(market, 1, 1.0)
    second = replace(market.view, name="second_view")
    with market.repo.connect() as other, lock(other, f"materialize market.{VIEW}"):
        results = materialize(market.connection, "market", [market.view, second], ALL, now=NOW)
    assert [type(result) for result in results] == [Failed, Materialized]


def test_a_run_that_fails_leaves_no_row_no_ledger_entry_and_no_lock(market: Market) -> None:
    write(market, 1, 1.0)
    market.connection.execute(b"ALTER TABLE featurectl.materializations ADD CHECK (entities < 1)")
    with pytest.raises(Exception, match="violates check constraint"):
        run(market)
    assert stored(market) == []
    with market.repo.connect() as other, lock(other, f"materialize market.{VIEW}"):
        pass


def test_every_run_is_in_the_ledger(market: Market) -> None:
    write(market, 3, 3.0)
    run(market, now=START + 4 * HOUR)
    run(market, Window(START, START + 3 * HOUR))
    write(market, 1, 1.0)
    run(market, Window(START, START + 2 * HOUR))
    rows = market.connection.execute(
        b"SELECT project, view, incremental, window_start, window_end, entities, rows_written, rows_unchanged, "
        b"rows_older, finished_at FROM featurectl.materializations ORDER BY id"
    ).fetchall()
    assert rows == [
        ("market", VIEW, True, None, START + 4 * HOUR, 1, 1, 0, 0, START + 4 * HOUR),
        ("market", VIEW, False, START, START + 3 * HOUR, 1, 0, 1, 0, NOW),
        ("market", VIEW, False, START, START + 2 * HOUR, 1, 0, 0, 1, NOW),
    ]


# --- views -----------------------------------------------------------------------------------------------------------


def sourced(market: Market, *, table: str | None = None, query: str | None = None, **changes: Any) -> View:
    """Return a view of one feature over a source of the test's own."""
    fields = tuple(field for field in market.view.fields if field.name == "rsi_14")
    return replace(market.view, source_table=table, source_query=query, fields=fields, **changes)


def test_views_are_chosen_by_name_once_and_only_those_served_online(market: Market) -> None:
    online = [view.name for view in choose_views(market.catalog, [])]
    assert online == ["market_features_view", "sentiment_features_view", VIEW]
    assert choose_views(market.catalog, [VIEW, VIEW]) == [market.view]
    with pytest.raises(NotFound, match=f"view 'rsi' not found; views: .*{VIEW}"):
        choose_views(market.catalog, ["rsi"])
    training = replace(market.catalog, views=(replace(market.view, online=False, online_table=None),))
    assert choose_views(training, []) == []
    with pytest.raises(UsageError, match="is for training only"):
        choose_views(training, [VIEW])
    foreign = replace(market.catalog, views=(replace(market.view, online_table=None),))
    assert choose_views(foreign, []) == []
    with pytest.raises(UsageError, match="has no online table of ours"):
        choose_views(foreign, [VIEW])


def test_a_view_over_a_query_is_materialized(market: Market) -> None:
    for hour in range(5):
        write(market, hour, float(hour), "A")
        write(market, hour, 10.0 + hour, "B")
    view = sourced(market, query=f"SELECT * FROM {TECHNICAL} WHERE rsi_14 <> 14")
    assert done_counts(run(market, view=view)) == (2, 2, 0, 0)
    assert [(row[0], row[3]) for row in stored(market)] == [("A", 4.0), ("B", 13.0)]


def test_features_that_are_computed_arrive_online(market: Market) -> None:
    series = bars(range(100, 140))
    market.ingest(series, now=NOW)
    market.compute(now=NOW)
    run(market)
    ((*_, event, created, ema),) = market.connection.execute(
        f"SELECT event_timestamp, created_timestamp, ema_20 FROM {ONLINE}".encode()
    )
    assert (event, created, ema) == (close_of(series, 39), NOW, market.features()[event]["ema_20"])


# --- the walk over the entities --------------------------------------------------------------------------------------


def walked(market: Market, view: View) -> list[tuple[Any, ...]]:
    entities = sources.entity_list(market.connection, view)
    keys = sources.commas(map(sql.Identifier, view.join_keys))
    statement = sql.SQL("WITH RECURSIVE {} SELECT {} FROM entities").format(entities, keys)
    return market.connection.execute(statement).fetchall()


def distinct(market: Market, view: View, source: str) -> list[tuple[Any, ...]]:
    keys = ", ".join(view.join_keys)
    known = " AND ".join(f"{key} IS NOT NULL" for key in view.join_keys)
    statement = f"SELECT DISTINCT {keys} FROM {source} AS s WHERE {known} ORDER BY {keys}"
    return market.connection.execute(statement.encode()).fetchall()


def is_walked(market: Market, view: View) -> bool:
    return "UNION ALL" in sources.entity_list(market.connection, view).as_string()


SYMBOLS: list[list[str]] = [
    [],
    ["A"],
    ["A", "A", "A"],
    ["B", "A", "Z", "a", "A_1", "AB", "", "ZZ", "é", "0"],
    [f"S{number:03}" for number in range(150)],
]


@pytest.mark.parametrize("symbols", SYMBOLS, ids=["none", "one", "one often", "odd names", "many"])
def test_entities_walked_by_index_are_the_distinct_ones(market: Market, symbols: Sequence[str]) -> None:
    for hour, symbol in enumerate(symbols):
        write(market, hour, 1.0, symbol)
        if hour % 3 == 0:
            market.connection.execute(
                f"INSERT INTO {TECHNICAL} (symbol, timeframe, event_timestamp) VALUES (%s, '4h', %s)".encode(),
                (symbol, START + hour * HOUR),
            )
    for keys in (("symbol", "timeframe"), ("timeframe", "symbol"), ("symbol",)):
        view = replace(market.view, join_keys=keys)
        assert is_walked(market, view)
        assert sorted(walked(market, view)) == sorted(distinct(market, view, TECHNICAL)), keys


@pytest.mark.parametrize("symbols", SYMBOLS[:4], ids=["none", "one", "one often", "odd names"])
def test_entities_of_a_query_a_sql_view_and_a_bare_table_are_the_distinct_ones(
    market: Market, symbols: Sequence[str]
) -> None:
    for hour, symbol in enumerate(symbols):
        write(market, hour, float(hour), symbol)
    market.connection.execute(f"CREATE VIEW public.seen AS SELECT * FROM {TECHNICAL} WHERE rsi_14 > 0".encode())
    market.connection.execute(f"CREATE TABLE public.bare AS TABLE {TECHNICAL}".encode())
    query = f"SELECT * FROM {TECHNICAL} WHERE rsi_14 < 5"
    for view, source in (
        (sourced(market, query=query), f"({query})"),
        (sourced(market, table="public.seen"), "public.seen"),
        (sourced(market, table="bare"), "bare"),
    ):
        assert source != "bare" or not is_walked(market, view)
        assert sorted(walked(market, view)) == sorted(distinct(market, view, source))


def test_keys_that_are_null_are_no_entities_and_stop_no_walk(market: Market) -> None:
    market.connection.execute(
        b"CREATE TABLE public.loose (symbol text, timeframe text, event_timestamp timestamptz, "
        b"created_timestamp timestamptz, rsi_14 float8)"
    )
    view = sourced(market, table="public.loose")
    keys = [(None, None), ("A", None), (None, "1h"), ("B", "1h"), ("B", None), ("C", "1h"), ("C", "4h")]
    for indexed in (False, True):
        market.connection.execute(b"TRUNCATE public.loose")
        if indexed:
            market.connection.execute(b"CREATE INDEX ON public.loose (symbol, timeframe, event_timestamp)")
        for count, key in enumerate(keys, 1):
            market.connection.execute(b"INSERT INTO public.loose VALUES (%s, %s, %s, %s, 1)", (*key, START + HOUR, NOW))
            run(market, Window(START, START), view=view)  # looks at every entity, writes nothing
            full = [key for key in keys[:count] if None not in key]
            assert sorted(walked(market, view)) == sorted(full), (indexed, count)
    assert is_walked(market, view)
    assert done_counts(run(market, view=view)) == (3, 3, 0, 0)


def test_the_walk_reads_the_index_and_sorts_nothing(market: Market) -> None:
    """Its cost is that of the entities, not of their history."""
    for symbol in range(20):
        market.connection.execute(
            f"INSERT INTO {TECHNICAL} (symbol, timeframe, event_timestamp) "
            "SELECT %s, '1h', %s + n * interval '1 hour' FROM generate_series(1, 500) AS n".encode(),
            (f"S{symbol}", START),
        )
    market.connection.execute(f"ANALYZE {TECHNICAL}".encode())
    for keys in (("symbol", "timeframe"), ("timeframe", "symbol")):
        entities = sources.entity_list(market.connection, replace(market.view, join_keys=keys))
        statement = sql.SQL("EXPLAIN (COSTS OFF) WITH RECURSIVE {} SELECT * FROM entities").format(entities)
        plan = "\n".join(line for (line,) in market.connection.execute(statement))
        assert "Seq Scan" not in plan and "Sort" not in plan, f"{keys}:\n{plan}"
