"""Binary COPY between PostgreSQL and numpy: what goes in comes out, to the bit."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from psycopg import sql

from featurectl.core import pgcopy
from featurectl.core.db import Connection, open_connection

TABLE = sql.Identifier("copied")
COLUMNS = {"at": pgcopy.TIMESTAMP, "value": pgcopy.FLOAT, "other": pgcopy.FLOAT}
# PostgreSQL's timestamps: 4714-11-24 BC to the end of the year 294276.
FIRST, LAST = -210_866_803_200_000_000, 9_223_371_331_199_999_999
SIGNALLING_NAN = struct.unpack(">d", bytes.fromhex("7ff0000000000001"))[0]
FLOATS = [
    0.0, -0.0, 1 / 3, math.pi, 5e-324, -5e-324, 2.2250738585072014e-308, 1.7976931348623157e308,
    -1.7976931348623157e308, math.inf, -math.inf, math.nan, 2.0**53 + 2, 1e-300, 0.1 + 0.2,
]  # fmt: skip
TIMES = [FIRST, -1, 0, 1, 946_684_800_000_000 - 1, 946_684_800_000_000, 1_704_067_200_000_001, LAST]


@pytest.fixture(scope="module")
def connection(server: str) -> Iterator[Connection]:
    with open_connection(server, connect_timeout=10) as connection:
        connection.execute("CREATE TEMPORARY TABLE copied (at timestamptz, value float8, other float8)")
        yield connection


@pytest.fixture(autouse=True)
def _empty(connection: Connection) -> None:
    connection.execute("TRUNCATE copied")


def read(connection: Connection, clause: str = "ORDER BY at", **parameters: object) -> dict[str, np.ndarray]:
    columns = "at, coalesce(value, 'NaN') AS value, coalesce(other, 'NaN') AS other"
    return pgcopy.read(connection, sql.SQL(f"SELECT {columns} FROM copied {clause}"), COLUMNS, parameters)


def write(connection: Connection, at: list[int], value: list[float], other: list[float]) -> None:
    numbers = {"value": np.array(value, dtype=np.float64), "other": np.array(other, dtype=np.float64)}
    pgcopy.write(connection, TABLE, {"at": np.array(at, dtype=np.int64), **numbers}, len(at))


def test_extreme_values_come_back_to_the_bit(connection: Connection) -> None:
    times = TIMES + [LAST - at for at in range(1, len(FLOATS) - len(TIMES) + 1)]
    write(connection, times, FLOATS, FLOATS[::-1])
    found = read(connection)
    order = np.argsort(times)
    assert found["at"].tolist() == sorted(times)
    assert found["value"].tobytes() == np.array(FLOATS)[order].tobytes()
    assert found["other"].tobytes() == np.array(FLOATS[::-1])[order].tobytes()
    assert [column.dtype for column in found.values()] == [np.int64, np.float64, np.float64]


def test_what_is_written_is_what_sql_sees(connection: Connection) -> None:
    write(connection, [0, -1, 1_704_067_200_000_001], [0.1, -0.0, math.inf], [1e300, 5e-324, math.nan])
    text = connection.execute("SELECT at::text, value::text, other::text FROM copied ORDER BY at").fetchall()
    assert text == [
        ("1969-12-31 23:59:59.999999+00", "-0", "5e-324"),
        ("1970-01-01 00:00:00+00", "0.1", "1e+300"),
        ("2024-01-01 00:00:00.000001+00", "Infinity", None),
    ]


def test_what_sql_writes_is_what_is_read(connection: Connection) -> None:
    instants = [datetime(1, 1, 1, tzinfo=UTC), datetime(1999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC), datetime.max]
    for instant in instants:
        connection.execute("INSERT INTO copied VALUES (%s, 0.1, -1)", (instant.replace(tzinfo=UTC),))
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    wanted = [(instant.replace(tzinfo=UTC) - epoch) // timedelta(microseconds=1) for instant in instants]
    assert read(connection)["at"].tolist() == wanted


def test_no_rows_are_empty_arrays_of_the_right_kinds(connection: Connection) -> None:
    found = read(connection)
    assert {name: (len(column), column.dtype) for name, column in found.items()} == {
        "at": (0, np.int64), "value": (0, np.float64), "other": (0, np.float64)
    }  # fmt: skip
    write(connection, [], [], [])
    assert connection.execute("SELECT count(*) FROM copied").fetchone() == (0,)


def test_arrays_that_are_parts_of_others_are_written_as_they_look(connection: Connection) -> None:
    times = np.arange(20, dtype=np.int64)[::-3]
    values = np.arange(40, dtype=np.float64).reshape(2, 20).T[::-3, 1]
    pgcopy.write(connection, TABLE, {"at": times, "value": values, "other": values}, len(times))
    found = read(connection, "ORDER BY at DESC")
    assert found["at"].tolist() == times.tolist() and found["value"].tolist() == values.tolist()


def test_what_is_read_may_be_changed(connection: Connection) -> None:
    write(connection, [1], [2.0], [3.0])
    found = read(connection)
    for column in found.values():
        column += 1
    assert [column.tolist() for column in found.values()] == [[2], [3.0], [4.0]]


def test_parameters_reach_the_query(connection: Connection) -> None:
    write(connection, [1, 2, 3], [0.1, 0.2, 0.3], [0, 0, 0])
    clause = "WHERE value > %(value)s AND at < %(until)s ORDER BY at"
    found = read(connection, clause, value=0.1, until=datetime(1970, 1, 1, 0, 0, 0, 3, tzinfo=UTC))
    assert found["at"].tolist() == [2]


def test_many_rows_come_in_many_messages(connection: Connection) -> None:
    count = 200_000
    times, values = np.arange(count, dtype=np.int64) * 60_000_000, np.random.default_rng(0).normal(size=count)
    pgcopy.write(connection, TABLE, {"at": times, "value": values, "other": -values}, count)
    found = read(connection)
    assert found["at"].tobytes() == times.tobytes()
    assert found["value"].tobytes() == values.tobytes() == (-found["other"]).tobytes()


def test_a_null_is_refused_and_not_read_as_something(connection: Connection) -> None:
    connection.execute("INSERT INTO copied VALUES (now(), 1, 2), (now(), NULL, 2), (now(), 3, 4)")
    with pytest.raises(ValueError, match="null"):
        pgcopy.read(connection, sql.SQL("SELECT at, value, other FROM copied"), COLUMNS, {})


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.tuples(st.integers(FIRST, LAST), st.floats(), st.floats(width=32)), max_size=20))
@example([(FIRST, SIGNALLING_NAN, -0.0), (LAST, math.nan, math.inf)])
def test_any_values_make_the_round_trip(connection: Connection, rows: list[tuple[int, float, float]]) -> None:
    connection.execute("TRUNCATE copied")
    columns = [list(column) for column in zip(*rows, strict=True)] if rows else [[], [], []]
    write(connection, *columns)  # type: ignore[arg-type]
    found = read(connection, "ORDER BY ctid")
    assert rows_of(found["at"], found["value"], found["other"]) == rows_of(*columns)


def rows_of(*columns: Sequence[float]) -> list[tuple[int, str, str]]:
    """Return rows that compare: a null is a NaN, whatever bits that had."""
    return [(int(at), float(value).hex(), float(other).hex()) for at, value, other in zip(*columns, strict=True)]


def test_rows_keep_their_order(connection: Connection) -> None:
    times = np.random.default_rng(0).permutation(1000).astype(np.int64)
    write(connection, times.tolist(), [1.0, math.nan] * 500, [2.0] * 1000)
    assert read(connection, "ORDER BY ctid")["at"].tolist() == times.tolist()


def test_texts_of_any_length_nulls_and_constants(connection: Connection) -> None:
    connection.execute(
        "CREATE TEMPORARY TABLE texts (symbol text, at timestamptz, id text, side text, written timestamptz)"
    )
    random = np.random.default_rng(1)
    ids = ["x" * int(random.integers(0, 40)) + "ü" * int(random.integers(0, 3)) for _ in range(500)]
    sides = [[None, "buy", "sell"][int(random.integers(3))] for _ in range(500)]
    # A slice: its buffers hold more than it shows.
    texts = pa.array([*ids, "more"])[:500]
    columns = {"at": np.arange(500), "id": texts, "side": pa.array(sides, pa.string())}
    pgcopy.write(connection, sql.Identifier("texts"), {"symbol": "BTC€", **columns, "written": 7}, 500)
    found = connection.execute("SELECT symbol, id, side, extract(epoch FROM written) * 1000000 FROM texts ORDER BY at")
    assert found.fetchall() == [("BTC€", *row, 7) for row in zip(ids, sides, strict=True)]
    connection.execute("DROP TABLE texts")


def test_any_places_of_nulls(connection: Connection) -> None:
    names = [f"c{number}" for number in range(70)]
    connection.execute(f"CREATE TEMPORARY TABLE holes ({', '.join(f'{name} float8' for name in names)})".encode())
    random = np.random.default_rng(2)
    values = np.where(random.random((300, 70)) < 0.3, np.nan, random.normal(size=(300, 70)))
    pgcopy.write(connection, sql.Identifier("holes"), dict(zip(names, values.T, strict=True)), 300)
    found = connection.execute("SELECT * FROM holes").fetchall()
    wanted = [tuple(None if math.isnan(value) else value for value in row) for row in values.tolist()]
    assert sorted(found, key=repr) == sorted(wanted, key=repr)
    connection.execute("DROP TABLE holes")
