"""Point-in-time joins as they run: a spine, views, and one of two strategies that give the same rows.

``server`` puts the spine into a temporary table and lets the database join it, row by row by an index: the cost is
that of the spine. ``local`` reads the rows that may serve as Arrow and joins them here: the cost is that of the
history, and small for each row of the spine.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING

from psycopg import sql

from featurectl.core import arrow_types, sources
from featurectl.core.arrow import ArrowConnection, Batches
from featurectl.core.asof import AsOf, blocks, encode
from featurectl.core.offline import (
    AT,
    ROW,
    JoinedView,
    Relation,
    feature_columns,
    point_in_time,
    rows_in,
    rows_of_keys,
    with_types,
)
from featurectl.core.spines import Chunk, Extent, QuerySpine, Spine, TableSpine
from featurectl.core.times import Window

if TYPE_CHECKING:
    import pyarrow as pa

KEYS = "featurectl_keys"
# Rows of a batch of the result, and values of features that a local join holds at once: of a result that is wanted
# whole more, because the history is read again for each chunk of the spine.
BATCH_ROWS = 65_536
CHUNK_VALUES = 4_000_000
WHOLE_VALUES = 8_000_000

# Seconds, measured by tests/bench/historical.py: for a row of the spine and a view, found by an index; for a unit of
# the planner's cost; for a row read; for a row of the spine joined here; and for what a join here takes in any case.
PROBE = 1.2e-5
COST = 1.5e-6
FETCH = 1.2e-6
PLACE = 1.0e-6
START = 0.15


class Strategy(StrEnum):
    """Where a point-in-time join runs; ``auto`` compares what both would cost."""

    AUTO = "auto"
    SERVER = "server"
    LOCAL = "local"


@dataclass(frozen=True, slots=True)
class PointInTime:
    """A point-in-time join that has not run yet."""

    spine: Spine
    views: tuple[JoinedView, ...]
    strategy: Strategy = Strategy.AUTO

    def statement(self, connection: ArrowConnection) -> sql.Composed:
        """Return one statement that needs nothing but the database."""
        return point_in_time(self.spine.inline(connection), self._typed(connection))

    def schema(self, connection: ArrowConnection) -> pa.Schema:
        """Return the result's columns without running the join."""
        features = [_features(connection, view) for view in self._typed(connection)]
        return _joined_schema(self.spine.output(connection), *features)

    def read(self, connection: ArrowConnection, *, whole: bool = False) -> Batches:
        """Run the join, within a transaction of the connection's; ``whole`` when all of it will be held at once."""
        views = self._typed(connection)
        extent = self.spine.extent(connection)
        rows = _chunk_rows(views, WHOLE_VALUES if whole else CHUNK_VALUES)
        if self._strategy(connection, views, extent, rows) is Strategy.LOCAL:
            return _local(connection, self.spine, views, rows)
        return _on_server(connection, self.spine, views)

    def _typed(self, connection: ArrowConnection) -> list[JoinedView]:
        return [with_types(connection, view) for view in self.views]

    def _strategy(
        self, connection: ArrowConnection, views: Sequence[JoinedView], extent: Extent, chunk: int
    ) -> Strategy:
        embedded = isinstance(self.spine, QuerySpine) and self.spine.embed
        if embedded or extent.first is None or not all(map(_can_be_local, views)):
            return Strategy.SERVER
        if self.strategy != Strategy.AUTO:
            return Strategy(self.strategy)
        server, local = _seconds(connection, self.spine.types(connection), views, extent, chunk)
        return Strategy.LOCAL if local < server else Strategy.SERVER


def _can_be_local(view: JoinedView) -> bool:
    """Tell whether the newest row serves: with rows that are hidden from some instants, an older one may."""
    kind = view.type_of(view.created_column)
    return not view.written_before and (not view.created_column or kind in ("timestamptz", "timestamp", "date"))


def _seconds(
    connection: ArrowConnection, types: dict[str, str], views: Sequence[JoinedView], extent: Extent, chunk: int
) -> tuple[float, float]:
    """Estimate how long the join takes on the server, and here in chunks of so many rows."""
    keys = {of for view in views for _, of in view.keys}
    # OFFSET keeps the planner from looking into it, and finding that nulls match nothing.
    one = sql.SQL("(SELECT {}now() AS {} OFFSET 0)").format(
        sql.SQL("").join(
            sql.SQL("NULL::{} AS {}, ").format(sql.SQL(types[key]), sql.Identifier(key)) for key in sorted(keys)
        ),
        sql.Identifier(AT),
    )
    probe = connection.plan(point_in_time(Relation(one, types, order=(AT,)), views))["Total Cost"]
    read = sql.SQL(" UNION ALL ").join(
        sql.SQL("SELECT 1 FROM {} AS s WHERE {}").format(view.source, rows_in(view, _window(view, extent)))
        for view in views
    )
    fetched = connection.plan(read)
    chunks = math.ceil(extent.rows / chunk)
    server = extent.rows * max(PROBE * len(views), COST * probe)
    local = START + chunks * (FETCH * fetched["Plan Rows"] + COST * fetched["Total Cost"])
    return server, local + extent.rows * PLACE * len(views)


def _window(view: JoinedView, extent: Extent) -> Window:
    """Return the event times of the rows that may serve a spine."""
    assert extent.first is not None
    start = None
    if view.ttl is not None and extent.first - datetime.min.replace(tzinfo=UTC) > view.ttl:
        start = extent.first - view.ttl
    return Window(start, extent.last)


def _chunk_rows(views: Sequence[JoinedView], values: int) -> int:
    features = sum(len(view.features) for view in views)
    return max(BATCH_ROWS, values // max(8, features))


# --- on the server ---------------------------------------------------------------------------------------------------


def _on_server(connection: ArrowConnection, spine: Spine, views: Sequence[JoinedView]) -> Batches:
    relation = spine.relation(connection)
    features = connection.read(point_in_time(relation, views))
    if not isinstance(spine, TableSpine):
        return features
    schema = _joined_schema(spine.table.schema, features.schema)
    return Batches(schema, _beside(spine.table, features, schema))


def _beside(table: pa.Table, features: Batches, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """Put the features beside the spine's rows; there is exactly one row of each."""
    start = 0
    for batch in filter(len, features):
        yield _batch(table.slice(start, batch.num_rows), batch.columns, schema)
        start += batch.num_rows


def _batch(output: pa.Table, features: Sequence[pa.Array], schema: pa.Schema) -> pa.RecordBatch:
    import pyarrow as pa

    columns = [
        column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.unify_dictionaries().chunks)
        for column in output.columns
    ]
    return pa.RecordBatch.from_arrays([*columns, *features], schema=schema)


def _joined_schema(output: pa.Schema, *features: pa.Schema) -> pa.Schema:
    import pyarrow as pa

    return pa.schema([*output, *(field for schema in features for field in schema)])


# --- here ------------------------------------------------------------------------------------------------------------


def _local(connection: ArrowConnection, spine: Spine, views: Sequence[JoinedView], rows: int) -> Batches:
    features = [_features(connection, view) for view in views]
    schema = _joined_schema(spine.output(connection), *features)
    return Batches(schema, _joined_here(connection, spine, views, rows, features, schema))


def _features(connection: ArrowConnection, view: JoinedView) -> pa.Schema:
    columns = sources.commas(feature_columns(view))
    statement = sql.SQL("SELECT {} FROM {} AS s").format(columns, view.source)
    return arrow_types.without_notes(connection.schema(statement))


def _joined_here(
    connection: ArrowConnection,
    spine: Spine,
    views: Sequence[JoinedView],
    rows: int,
    features: Sequence[pa.Schema],
    schema: pa.Schema,
) -> Iterator[pa.RecordBatch]:
    import pyarrow as pa

    keys = list(dict.fromkeys(of for view in views for _, of in view.keys))
    types = spine.types(connection)
    for chunk in spine.chunks(connection, keys, rows):
        joined = [_as_of(connection, chunk, view, types, names) for view, names in zip(views, features, strict=True)]
        for start in range(0, chunk.output.num_rows, BATCH_ROWS):
            taken = [array for one in joined for array in one.take(start, BATCH_ROWS)]
            yield _batch(chunk.output.slice(start, BATCH_ROWS), taken, schema)
        # Let go of one before the next is read.
        del chunk, joined, taken
        pa.default_memory_pool().release_unused()


def _as_of(
    connection: ArrowConnection, chunk: Chunk, view: JoinedView, types: dict[str, str], features: pa.Schema
) -> AsOf:
    import pyarrow as pa
    import pyarrow.compute as pc

    names = list(dict.fromkeys(of for _, of in view.keys))
    probes, distinct = encode(chunk.keys.select(names), chunk.at)
    asof = AsOf(probes, view.ttl, features)
    if not len(probes.row):
        return asof
    span = pc.min_max(chunk.at.filter(pc.is_valid(chunk.at))).as_py()
    window = _window(view, Extent(len(probes.row), span["min"], span["max"]))
    if names:
        codes = pa.array(range(distinct.num_rows), pa.int32())
        connection.ingest(KEYS, distinct.append_column(ROW, codes), keep=False)
        keys = Relation(sql.Identifier(KEYS), types)
    else:
        keys = Relation(sql.SQL("(SELECT 0 AS {})").format(sql.Identifier(ROW)))
    asof.look_through(blocks(connection.read(rows_of_keys(view, keys, ROW, window))))
    if names:
        connection.execute(sql.SQL("DROP TABLE {}").format(sql.Identifier(KEYS)))
    return asof
