"""What the tables hold and what they cost: mode, chunks, size, age, policies."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from psycopg import sql

from featurectl.core import timescale
from featurectl.core.catalog import Catalog
from featurectl.core.db import Connection
from featurectl.core.queries import query
from featurectl.core.schema import quoted, table_identifier
from featurectl.core.sources import column
from featurectl.core.storage import TimeTable, rows_statement
from featurectl.core.timescale import Chunk, Extension, Hypertable
from featurectl.errors import NotFound

LEDGER = "featurectl"
_VIEW_KINDS = {"v", "m"}
# Bytes whose rows are counted within milliseconds; the planner guesses badly of tables that were never analysed.
_COUNTED = 8 * 2**20


@dataclass(frozen=True, slots=True)
class Holding:
    """What one table holds. ``mode`` is hypertable, table, view (a SQL view), online or ledger.

    Sizes are bytes with indexes; ``before`` and ``after`` are those of the compressed chunks. ``rows`` of a large
    table is what the planner thinks. The policies are those of the database; of an ordinary table, what `featurectl
    maintain` does.
    """

    table: str
    mode: str
    size: int | None = None
    rows: int | None = None
    oldest: datetime | None = None
    newest: datetime | None = None
    chunks: int | None = None
    compressed_chunks: int | None = None
    before: int | None = None
    after: int | None = None
    chunk_interval: timedelta | None = None
    compress_after: timedelta | None = None
    drop_after: timedelta | None = None
    next_job: datetime | None = None

    @property
    def compressed_share(self) -> float | None:
        """Which part of the chunks is compressed, from 0 to 1."""
        return self.compressed_chunks / self.chunks if self.chunks and self.compressed_chunks is not None else None

    @property
    def ratio(self) -> float | None:
        """How many times smaller the compressed chunks have become."""
        return self.before / self.after if self.before and self.after else None


def take_inventory(
    connection: Connection, tables: Sequence[TimeTable], catalog: Catalog, names: Sequence[str] = ()
) -> list[Holding]:
    """Look at the tables of these names, or at all: time tables, SQL views, online tables, and featurectl's own.

    Raises:
        NotFound: there is no such table.
    """
    by_name = {table.name: table for table in tables}
    views = [view.source_table for view in catalog.views if view.computed_from == "views" and view.source_table]
    online = [view.online_table for view in catalog.views if view.online_table]
    known = [*by_name, *views, *online, LEDGER]
    for name in names:
        if name not in known:
            raise NotFound.of("table", name, known, "`featurectl storage` shows them all")
    wanted = list(dict.fromkeys(names or known))
    relations = _relations(connection, wanted)
    extension = timescale.inspect(connection)
    hypertables = timescale.read_hypertables(connection, extension, [name for name in wanted if name in by_name])

    def look() -> Iterator[Holding]:
        for name in wanted:
            if name == LEDGER:
                yield Holding(LEDGER, "ledger", _ledger_size(connection))
            elif name not in relations:
                continue
            elif name in hypertables:
                yield _of_hypertable(connection, by_name[name], hypertables[name], extension)
            elif relations[name][0] in _VIEW_KINDS:
                yield Holding(name, "view")
            elif name in by_name:
                yield _of_table(connection, by_name[name], relations[name][1])
            else:
                yield Holding(name, "online", relations[name][1], _rows(connection, name, relations[name][1]))

    return list(look())


def _relations(connection: Connection, names: Iterable[str]) -> Mapping[str, tuple[str, int]]:
    """Return the kind and size of the relations that exist."""
    spelled = {quoted(name): name for name in names}
    rows = connection.execute(query("storage", "relations"), {"tables": list(spelled)})
    return {spelled[name]: (kind, size) for name, kind, size in rows}


def _ledger_size(connection: Connection) -> int:
    row = connection.execute(query("storage", "ledger_size")).fetchone()
    return int(row[0]) if row else 0


def _of_table(connection: Connection, table: TimeTable, size: int) -> Holding:
    oldest, newest = extent(connection, table)
    return Holding(
        table.name,
        "table",
        size,
        rows=_rows(connection, table.name, size),
        oldest=oldest,
        newest=newest,
        drop_after=table.drop_after,
    )


def _of_hypertable(connection: Connection, table: TimeTable, found: Hypertable, extension: Extension) -> Holding:
    chunks = timescale.read_chunks(connection, table.name)
    oldest, newest = _extent_of_chunks(connection, table, chunks)
    before, after = timescale.compressed_sizes(connection, table.name) if extension.has_columnstore else (None, None)
    size = timescale.size(connection, table.name)
    return Holding(
        table.name,
        "hypertable",
        size,
        rows=_rows(connection, table.name, size),
        oldest=oldest,
        newest=newest,
        chunks=len(chunks),
        compressed_chunks=sum(chunk.compressed for chunk in chunks),
        before=before,
        after=after,
        chunk_interval=found.chunk_interval,
        compress_after=found.compress_after,
        drop_after=found.drop_after,
        next_job=found.next_job,
    )


def _rows(connection: Connection, name: str, size: int) -> int:
    """Count the rows of a small table; of a large one, believe the planner."""
    small = size <= _COUNTED
    statement = query("storage", "count_rows" if small else "estimate").format(table=table_identifier(name))
    row = connection.execute(statement).fetchone()
    assert row is not None
    return int(row[0] if small else row[0][0]["Plan"]["Plan Rows"])


def extent(
    connection: Connection, table: TimeTable, part: tuple[sql.Composable, ...] = ()
) -> tuple[datetime | None, datetime | None]:
    """Return the oldest and newest time in a table, or in the part of it that conditions on its rows ``s`` choose.

    It costs two probes of the primary key for each entity, however many rows there are.
    """
    row = connection.execute(rows_statement("extent", table, part=part)).fetchone()
    assert row is not None
    return row[0], row[1]


def _extent_of_chunks(
    connection: Connection, table: TimeTable, chunks: Sequence[Chunk]
) -> tuple[datetime | None, datetime | None]:
    """Return the oldest and newest time in a hypertable, from the outermost chunks that have rows."""
    oldest = next(filter(None, (extent(connection, table, _within(table, chunk))[0] for chunk in chunks)), None)
    newest = next(filter(None, (extent(connection, table, _within(table, chunk))[1] for chunk in chunks[::-1])), None)
    return oldest, newest


def _within(table: TimeTable, chunk: Chunk) -> tuple[sql.Composable, ...]:
    bounds = (("{} >= {}", chunk.start), ("{} < {}", chunk.end))
    return tuple(sql.SQL(text).format(column(table.time), sql.Literal(instant)) for text, instant in bounds)
