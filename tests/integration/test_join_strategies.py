"""Both strategies of a point-in-time join, and an oracle that looks at every row, give the same rows."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from psycopg import sql

from featurectl.core import asof, retrieval
from featurectl.core.arrow import ArrowConnection, connect
from featurectl.core.db import Connection, open_connection, session_url
from featurectl.core.offline import JoinedView
from featurectl.core.retrieval import PointInTime, Strategy
from featurectl.core.spines import TableSpine

T0 = datetime(2024, 3, 10, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
HOUR = timedelta(hours=1)
DRAWS = 40
SEED = int(os.environ.get("FEATURECTL_TEST_SEED") or np.random.SeedSequence().entropy % 2**32)  # type: ignore[operator]

Row = tuple[Any, ...]


@pytest.fixture
def db(clone: Callable[[str | None], str]) -> Iterator[tuple[Connection, ArrowConnection]]:
    url = clone(None)
    with open_connection(url, connect_timeout=10) as connection, connect(session_url(url, connect_timeout=10)) as arrow:
        yield connection, arrow


class Drawn:
    """A view with its rows, over a table of its own."""

    def __init__(self, random: np.random.Generator, number: int) -> None:
        self.number = number
        self.keys = [["name", "code"], ["name"], ["code"], []][random.choice(4, p=[0.5, 0.2, 0.2, 0.1])]
        self.event_type = str(random.choice(["timestamptz", "timestamptz", "timestamp", "date"]))
        self.has_created = bool(random.random() < 0.7)
        ttls = [None, HOUR, HOUR / 2, timedelta(days=1), timedelta(0, 5, 7), MICROSECOND, timedelta(days=40_000)]
        self.ttl: timedelta | None = ttls[random.integers(len(ttls))]
        self.indexed = bool(random.random() < 0.5)
        self.rows = [self._row(random, value) for value in range(int(random.integers(0, 60)))]
        if self.rows:
            # Exact duplicates, values included; nothing tells which of them serves.
            self.rows += [self.rows[index] for index in random.integers(0, len(self.rows), 5)]

    def _row(self, random: np.random.Generator, value: int) -> Row:
        event = instant(random)
        if self.event_type == "date":
            event = event.replace(hour=0, minute=0, second=0, microsecond=0)
        # No two writes at one instant, at most one unwritten at an event: what serves is certain.
        created = T0 + timedelta(days=1, microseconds=value) if self.has_created and value else None
        if not self.has_created:
            event = T0 + value * (timedelta(days=1) if self.event_type == "date" else HOUR / 4)
        shown = None if random.random() < 0.1 else value
        return (name(random), code(random), event, created, shown, [value, None] if shown is not None else None)

    def create(self, connection: Connection) -> None:
        table = sql.Identifier(f"history_{self.number}")
        columns = sql.SQL(f"name text, code int, at {self.event_type}, written timestamptz, value numeric, list int[]")
        connection.execute(sql.SQL("CREATE TABLE {} ({})").format(table, columns))
        if self.indexed and self.keys:
            named = sql.SQL(", ").join(map(sql.Identifier, [*self.keys, "at"]))
            connection.execute(sql.SQL("CREATE INDEX ON {} ({})").format(table, named))
        with connection.cursor() as cursor:
            statement = sql.SQL("INSERT INTO {} VALUES (%s, %s, %s, %s, %s, %s)").format(table)
            cursor.executemany(statement, [(*row[:2], self._stored(row[2]), *row[3:]) for row in self.rows])

    def _stored(self, event: datetime) -> Any:
        return event if self.event_type == "timestamptz" else event.replace(tzinfo=None)

    def joined(self) -> JoinedView:
        return JoinedView(
            source=sql.Identifier(f"history_{self.number}"),
            keys=tuple((key, f"spine {key}") for key in self.keys),
            timestamp_column="at",
            created_column="written" if self.has_created else None,
            ttl=self.ttl,
            features=(("value", f"value_{self.number}"), ("list", f"list_{self.number}")),
        )

    def serving(self, key: dict[str, Any], at: datetime | None) -> tuple[Any, Any]:
        """Return the value and the list that serve."""
        row = self.row_serving(key, at)
        return (row[4], row[5]) if row else (None, None)

    def row_serving(self, key: dict[str, Any], at: datetime | None) -> Row | None:
        """Look at every row: the latest event that may serve, of equal ones the latest write."""
        found = [
            row
            for row in self.rows
            if at is not None
            and all(key[name] is not None and row[["name", "code"].index(name)] == key[name] for name in self.keys)
            and row[2] <= at
            and (self.ttl is None or at - row[2] <= self.ttl)
        ]
        return max(found, key=lambda row: (row[2], row[3] or datetime.min.replace(tzinfo=UTC)), default=None)


def name(random: np.random.Generator) -> str | None:
    return None if random.random() < 0.05 else str(random.choice(["", "a", "A", "é", "a b"]))


def code(random: np.random.Generator) -> int | None:
    return None if random.random() < 0.05 else int(random.integers(-1, 3))


def instant(random: np.random.Generator) -> datetime:
    """Return one of few instants, or a microsecond beside it, so that events collide and edges are met."""
    return T0 + int(random.integers(0, 24)) * HOUR / 2 + int(random.choice([-1, 0, 0, 1])) * MICROSECOND


def spine(random: np.random.Generator) -> TableSpine:
    count = int(random.integers(0, 120))
    columns: dict[str, Sequence[Any]] = {
        "spine name": pa.array([name(random) for _ in range(count)], pa.string()),
        "spine code": pa.array(
            [code(random) for _ in range(count)], random.choice([pa.int8(), pa.int64(), pa.float64()])
        ),
        "at": pa.array(
            [None if random.random() < 0.05 else instant(random) for _ in range(count)], pa.timestamp("us", tz="UTC")
        ),
        "label": pa.array(range(count)),
    }
    table = pa.table(columns)
    # Equal rows, in pieces, as files give them.
    order = random.integers(0, count, count) if count else []
    table = pa.concat_tables([table.take(pa.array(part, pa.int64())) for part in np.array_split(order, 3)])
    return TableSpine(table, table.column("at"), table.select(["spine name", "spine code"]))


def read(arrow: ArrowConnection, joined: PointInTime) -> pa.Table:
    with arrow.transaction():
        return joined.read(arrow, whole=bool(joined.strategy == Strategy.AUTO)).table()


def in_blocks_of(rows: int) -> Callable[[Iterable[pa.RecordBatch]], Iterator[pa.Table]]:
    """Cut a history into more blocks than its few bytes would make."""

    def cut(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
        for block in asof.blocks(batches):
            yield from (block.slice(start, rows) for start in range(0, block.num_rows, rows))

    return cut


def test_both_strategies_are_what_the_oracle_says(
    db: tuple[Connection, ArrowConnection], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the history is cut into on its way."""
    print(f"FEATURECTL_TEST_SEED={SEED}")
    random = np.random.default_rng(SEED)
    connection, arrow = db
    for draw in range(DRAWS):
        monkeypatch.setattr(retrieval, "blocks", in_blocks_of(int(random.choice([3, 20, 10**6], p=[0.2, 0.4, 0.4]))))
        monkeypatch.setattr(asof, "PROBED", int(random.choice([7, 10**6])))
        monkeypatch.setattr(retrieval, "BATCH_ROWS", int(random.choice([13, 10**6])))
        monkeypatch.setattr(retrieval, "CHUNK_VALUES", int(random.choice([1, 10**6])))
        views = [Drawn(random, draw * 10 + number) for number in range(int(random.integers(1, 4)))]
        for view in views:
            view.create(connection)
        wanted_rows = spine(random)
        where = f"FEATURECTL_TEST_SEED={SEED}, draw {draw}"
        tables = {
            strategy: read(arrow, PointInTime(wanted_rows, tuple(view.joined() for view in views), strategy))
            for strategy in Strategy
        }
        asked = wanted_rows.table.to_pylist()
        for strategy, table in tables.items():
            assert table.schema == tables[Strategy.SERVER].schema, where
            found = table.to_pylist()
            assert [row["label"] for row in found] == [row["label"] for row in asked], where
            for row, got in zip(asked, found, strict=True):
                key = {"name": row["spine name"], "code": row["spine code"]}
                for view in views:
                    value = (got[f"value_{view.number}"], got[f"list_{view.number}"])
                    assert value == view.serving(key, row["at"]), f"{where}, {strategy}, view {view.number}, {row}"


def test_what_is_cheaper_is_chosen(db: tuple[Connection, ArrowConnection], monkeypatch: pytest.MonkeyPatch) -> None:
    """A small spine goes to the server, a large one comes here, and so does any where no index serves."""
    connection, arrow = db
    connection.execute(
        b"CREATE TABLE history AS SELECT (n % 10)::text AS name, n AS value, "
        b"timestamptz '2024-01-01Z' + n * interval '1 min' AS at FROM generate_series(1, 100000) AS n"
    )
    view = JoinedView(sql.SQL("history"), (("name", "name"),), "at", None, None, (("value", "value"),))

    def chosen(count: int) -> list[str]:
        read_here: list[str] = []
        monkeypatch.setattr(retrieval, "_local", lambda *_: read_here.append("local"))
        monkeypatch.setattr(retrieval, "_on_server", lambda *_: read_here.append("server"))
        at = pa.chunked_array([pa.array([T0] * count, pa.timestamp("us", tz="UTC"))])
        keys = pa.table({"name": ["1"] * count})
        with arrow.transaction():
            PointInTime(TableSpine(keys, at, keys), (view,)).read(arrow)
        return read_here

    connection.execute(b"ANALYZE history")
    assert chosen(1000) == ["local"], "without an index each row would read the whole table"
    connection.execute(b"CREATE INDEX ON history (name, at)")
    connection.execute(b"ANALYZE history")
    assert chosen(1000) == ["server"]
    assert chosen(300_000) == ["local"]
