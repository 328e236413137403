"""Rows of a series into its table: new, changed and unchanged ones, whichever way they are written."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from featurectl.core.db import Connection, open_connection, translated_errors
from featurectl.core.merging import SeriesTable, Written, write_series
from featurectl.core.times import from_microseconds
from featurectl.errors import DatabaseError

NOW = datetime(2024, 5, 1, tzinfo=UTC)
LATER = NOW + timedelta(hours=1)
TABLE = SeriesTable("public.ticks", key=("symbol", "at", "id"), time="at", kept=("extra",))

Row = tuple[int, str, float | None, float | None]


@pytest.fixture
def url(clone: Callable[[str | None], str]) -> str:
    url = clone(None)
    with open_connection(url, connect_timeout=10) as connection:
        connection.execute(
            "CREATE TABLE ticks (symbol text, at timestamptz, id text, value float8, extra float8, "
            "created_timestamp timestamptz NOT NULL, PRIMARY KEY (symbol, at, id))"
        )
    return url


@pytest.fixture
def connection(url: str) -> Iterator[Connection]:
    with open_connection(url, connect_timeout=10) as connection:
        yield connection


def write(
    connection: Connection, rows: list[Row], *, now: datetime = NOW, table: SeriesTable = TABLE, **options: Any
) -> Written:
    rows = sorted(rows, key=lambda row: row[0])
    columns = {
        "at": np.array([row[0] for row in rows], dtype=np.int64),
        "id": pa.array([row[1] for row in rows], pa.string()),
        "value": np.array([row[2] for row in rows], dtype=np.float64),
        "extra": np.array([row[3] for row in rows], dtype=np.float64),
    }
    with connection.transaction():
        return write_series(connection, table, {"symbol": "BTC"}, columns, now=now, **options)


def content(connection: Connection) -> list[tuple[Any, ...]]:
    rows = connection.execute(
        "SELECT extract(epoch FROM at) * 1000000, id, value, extra, created_timestamp FROM ticks ORDER BY at, id"
    )
    return [(int(at), *row) for at, *row in rows]


def test_the_first_rows_are_all_new(connection: Connection) -> None:
    rows: list[Row] = [(1, "a", 1.0, None), (1, "bb", None, 2.0), (5, "c", 3.0, 3.0)]
    assert write(connection, rows) == Written(3, 0)
    assert content(connection) == [(*row, NOW) for row in rows]


def test_rows_that_are_there_stay_untouched(connection: Connection) -> None:
    rows: list[Row] = [(at, "a", float(at), None) for at in range(10)]
    write(connection, rows)
    assert write(connection, rows, now=LATER) == Written(0, 0)
    assert {row[-1] for row in content(connection)} == {NOW}


def test_new_and_changed_rows_are_told_apart_within_and_beyond_what_is_there(connection: Connection) -> None:
    write(connection, [(at, "a", 1.0, 1.0) for at in (10, 20, 30)])
    rows: list[Row] = [
        (5, "a", 1, 1),
        (10, "a", 1, 1),
        (15, "a", 1, 1),
        (20, "a", 2, 1),
        (30, "b", 1, 1),
        (40, "a", 1, 1),
    ]
    assert write(connection, rows, now=LATER) == Written(4, 1)
    assert [(row[0], row[1], row[2], row[-1]) for row in content(connection)] == [
        (5, "a", 1, LATER), (10, "a", 1, NOW), (15, "a", 1, LATER), (20, "a", 2, LATER), (30, "a", 1, NOW),
        (30, "b", 1, LATER), (40, "a", 1, LATER),
    ]  # fmt: skip


def test_a_value_may_become_null_but_a_kept_one_stays(connection: Connection) -> None:
    write(connection, [(1, "a", 1.0, 1.0)])
    assert write(connection, [(1, "a", None, None)], now=LATER) == Written(0, 1)
    assert content(connection) == [(1, "a", None, 1.0, LATER)]
    assert write(connection, [(1, "a", None, None)], now=LATER) == Written(0, 0)


def test_the_created_time_of_a_changed_row_grows_even_when_the_clock_goes_back(connection: Connection) -> None:
    write(connection, [(1, "a", 1.0, 1.0)])
    write(connection, [(1, "a", 2.0, 1.0)], now=NOW - timedelta(days=1))
    assert content(connection)[0][-1] == NOW + timedelta(microseconds=1)


def test_without_insert_only_rows_that_are_there_change(connection: Connection) -> None:
    write(connection, [(at, "a", 1.0, 1.0) for at in (10, 20)])
    rows: list[Row] = [(5, "a", 2, 2), (10, "a", 2, 2), (15, "a", 2, 2), (20, "a", 1, 1), (25, "a", 2, 2)]
    assert write(connection, rows, insert=False) == Written(0, 1)
    assert [row[:3] for row in content(connection)] == [(10, "a", 2.0), (20, "a", 1.0)]


def test_other_series_are_not_in_the_way(connection: Connection) -> None:
    connection.execute("INSERT INTO ticks VALUES ('ETH', 'epoch', 'a', 1, 1, now())")
    assert write(connection, [(0, "a", 1.0, 1.0)]) == Written(1, 0)


def test_types_of_the_table_are_those_compared(connection: Connection) -> None:
    connection.execute("ALTER TABLE ticks ALTER value TYPE real, ALTER extra TYPE bigint")
    table = replace(TABLE, types={"value": "real", "extra": "bigint"}, kept=())
    rows: list[Row] = [(1, "a", 0.1, 3.0), (2, "a", None, None)]
    assert write(connection, rows, table=table) == Written(2, 0)
    assert write(connection, rows, table=table) == Written(0, 0)
    assert [row[3] for row in content(connection)] == [3, None]


def test_a_series_is_written_by_one_at_a_time(connection: Connection, url: str) -> None:
    """The second writer waits for the first, and then finds its rows."""
    found: list[Written] = []

    def second() -> None:
        with open_connection(url, connect_timeout=10) as other:
            found.append(write(other, [(1, "a", 1.0, 1.0), (2, "a", 1.0, 1.0)]))

    with connection.transaction():
        assert write(connection, [(1, "a", 1.0, 1.0)]) == Written(1, 0)
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(0.3)
        assert thread.is_alive()
    thread.join(20)
    assert found == [Written(1, 0)]


@pytest.mark.parametrize("seed", range(8))
def test_any_order_of_writes_leaves_the_last_word(connection: Connection, seed: int) -> None:
    random = np.random.default_rng(seed)
    print(f"seed {seed}")
    expected: dict[tuple[int, str], tuple[float | None, float | None]] = {}
    for step in range(12):
        keys = {(int(random.integers(0, 30)), "abc"[random.integers(3)]) for _ in range(random.integers(1, 25))}
        rows: list[Row] = [(at, name, _number(random), _number(random)) for at, name in sorted(keys)]
        new = changed = 0
        for at, name, value, extra in rows:
            before = expected.get((at, name))
            after = (value, extra if extra is not None or before is None else before[1])
            new += before is None
            changed += before is not None and before != after
            expected[at, name] = after
        assert write(connection, rows, now=NOW + timedelta(minutes=step)) == Written(new, changed)
        assert {row[:2]: row[2:4] for row in content(connection)} == expected


def _number(random: np.random.Generator) -> float | None:
    return None if random.random() < 0.3 else float(random.integers(3))


def test_instants_are_exact_to_the_microsecond(connection: Connection) -> None:
    at = 1_723_161_254_087_123
    write(connection, [(at, "a", 1.0, 1.0)])
    row = connection.execute("SELECT at FROM ticks").fetchone()
    assert row == (from_microseconds(at),)


def test_a_merge_may_decompress_what_it_must_and_nothing_else_may(connection: Connection) -> None:
    """TimescaleDB's limit, which a plain server takes for a setting of the user's own, ends with the transaction."""
    name = "timescaledb.max_tuples_decompressed_per_dml_transaction"
    connection.execute(f"SET {name} = 100000".encode())
    write(connection, [(1, "a", 1.0, 1.0)])
    with connection.transaction():
        assert write(connection, [(1, "a", 2.0, 1.0)]) == Written(0, 1)
        assert connection.execute(f"SHOW {name}".encode()).fetchone() == ("0",)
    assert connection.execute(f"SHOW {name}".encode()).fetchone() == ("100000",)


def test_a_limit_of_the_server_is_no_server_that_is_away(connection: Connection) -> None:
    with pytest.raises(DatabaseError, match="too much; nothing of this was kept") as caught, translated_errors():
        connection.execute("DO $$ BEGIN RAISE EXCEPTION 'too much' USING ERRCODE = '53400'; END $$")
    assert type(caught.value) is DatabaseError
