"""As-of joins outside the database: rows arrive as Arrow, DuckDB finds for each probe the one that serves it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

# What is held of a history at once, and how many rows of a spine are looked up in it at once.
BLOCK_BYTES = 16 * 1024 * 1024
PROBED = 262_144
# DuckDB's SQL, which is why it does not stand among PostgreSQL's.
NEWEST = """
SELECT p.row, f.position, f.event, f.created
FROM probes AS p
ASOF JOIN (
    SELECT code, event, arg_max(position, created) AS position, max(created) AS created
    FROM rows_read
    GROUP BY code, event
) AS f ON p.code = f.code AND p.at >= f.event
WHERE p.at::HUGEINT - f.event::HUGEINT <= $ttl
"""
_LEAST = -(2**63)
_ORDER = ("code", "event", "created")


@dataclass(frozen=True, slots=True)
class Probes:
    """Rows of a spine that ask for features: the codes of their keys, and their instants in microseconds.

    ``row`` says where in the spine they stand, ``total`` how many rows that has.
    """

    code: np.ndarray
    at: np.ndarray
    row: np.ndarray
    total: int


def encode(keys: pa.Table, at: pa.ChunkedArray) -> tuple[Probes, pa.Table]:
    """Number the distinct keys of a spine; return its probes, and the keys in the order of their codes.

    Rows with a null in a key or as their instant ask for nothing.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    total = len(at)
    known = np.array(pc.is_valid(at))
    codes = np.zeros(total, np.int64)
    for column in keys.columns:
        encoded = column.dictionary_encode().combine_chunks()
        if isinstance(encoded, pa.ChunkedArray):  # no rows, no chunk
            encoded = pa.array([], pa.dictionary(pa.int32(), column.type))
        known &= np.array(pc.is_valid(encoded))
        values = max(1, len(encoded.dictionary))
        bound = (codes.max(initial=0) + 1) * values
        codes = _renumbered(codes * values + encoded.indices.fill_null(0).to_numpy(), bound)
    row = np.flatnonzero(known)
    code = _renumbered(codes[row], codes.max(initial=0) + 1)
    first = np.zeros(code.max(initial=-1) + 1, np.int64)
    first[code] = row
    instants = at.cast(pa.int64()).fill_null(0).to_numpy()
    distinct = keys.take(pa.array(first)) if keys.num_columns else keys
    return Probes(code.astype(np.int32), instants[row], row, total), distinct


def _renumbered(numbers: np.ndarray, bound: int) -> np.ndarray:
    """Number the distinct values of numbers below ``bound`` from 0 on."""
    import numpy as np

    if bound > 4 * len(numbers) + 1_000_000:
        return np.asarray(np.unique(numbers, return_inverse=True)[1])
    seen = np.zeros(bound, np.bool_)
    seen[numbers] = True
    return np.asarray((np.cumsum(seen) - 1)[numbers])


class AsOf:
    """For each probe the newest row at or before its instant, within ``ttl``; of equal events the latest write."""

    def __init__(self, probes: Probes, ttl: timedelta | None, features: pa.Schema) -> None:
        import numpy as np
        import pyarrow as pa

        self._probes = probes
        self._ttl = ttl
        self._features = features
        self._rows: pa.Table = pa.schema([(field.name, _large(field.type)) for field in features]).empty_table()
        self._found = np.full(probes.total, -1, np.int64)
        self._event = np.full(probes.total, _LEAST, np.int64)
        self._created = np.full(probes.total, _LEAST, np.int64)
        self._compact = True

    def look_through(self, blocks: Iterable[pa.Table]) -> None:
        """Look for the probes' rows among ``code``, ``event``, ``created`` and the features, in any order."""
        with _duckdb() as connection:
            for block in blocks:
                self._add(connection, block)

    def _add(self, connection: Any, block: pa.Table) -> None:
        import pyarrow as pa

        self._keep_found()
        for matches in self._matches(connection, block):
            row, event, created = (matches[name] for name in ("row", "event", "created"))
            better = (event > self._event[row]) | ((event == self._event[row]) & (created >= self._created[row]))
            row = row[better]
            self._event[row], self._created[row] = event[better], created[better]
            self._found[row] = self._rows.num_rows + matches["position"][better]
        features = block.select(block.column_names[len(_ORDER) :]).rename_columns(self._rows.column_names)
        self._rows = pa.concat_tables([self._rows, features.cast(self._rows.schema)])
        self._compact = False

    def take(self, start: int, count: int) -> list[pa.Array]:
        """Return the features of some rows of the spine, null where nothing serves."""
        import pyarrow as pa

        found = self._found[start : start + count]
        taken = self._rows.take(pa.array(found, mask=found < 0))
        return [
            column.combine_chunks().cast(field.type) if column.num_chunks != 1 else column.chunk(0).cast(field.type)
            for column, field in zip(taken.columns, self._features, strict=True)
        ]

    def _keep_found(self) -> None:
        """Let go of the rows that serve no probe, so that no more are held than the spine has."""
        import numpy as np
        import pyarrow as pa

        if self._compact:
            return
        found = np.flatnonzero(self._found >= 0)
        self._rows = self._rows.take(pa.array(self._found[found])).combine_chunks()
        self._found[found] = np.arange(len(found))
        self._compact = True

    def _matches(self, connection: Any, block: pa.Table) -> Iterator[dict[str, np.ndarray]]:
        import numpy as np
        import pyarrow as pa

        rows = pa.table(
            {
                "code": block.column("code"),
                "event": block.column("event").cast(pa.int64()),
                "created": block.column("created").cast(pa.int64()).fill_null(_LEAST),
                "position": np.arange(block.num_rows, dtype=np.int32),
            }
        )
        ttl = 2**100 if self._ttl is None else self._ttl // timedelta(microseconds=1)
        connection.register("rows_read", rows)
        for start in range(0, len(self._probes.row), PROBED):
            part = slice(start, start + PROBED)
            probes = {"code": self._probes.code[part], "at": self._probes.at[part], "row": self._probes.row[part]}
            connection.register("probes", pa.table(probes))
            found = connection.sql(NEWEST, params={"ttl": ttl}).to_arrow_table()
            yield {name: found.column(name).to_numpy() for name in found.column_names}


def _large(kind: pa.DataType) -> pa.DataType:
    """Return the type that can hold more than 2 GB in one array."""
    import pyarrow as pa

    if pa.types.is_string(kind):
        return pa.large_string()
    if pa.types.is_binary(kind):
        return pa.large_binary()
    return pa.large_list(_large(kind.value_type)) if pa.types.is_list(kind) else kind


@contextlib.contextmanager
def _duckdb() -> Iterator[Any]:
    import duckdb  # 0.3 s, and only for large spines

    connection = duckdb.connect()
    try:
        yield connection
    finally:
        connection.close()


def blocks(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    """Gather batches into tables of about ``BLOCK_BYTES``."""
    import pyarrow as pa

    gathered: list[pa.RecordBatch] = []
    size = 0
    for batch in batches:
        gathered.append(batch)
        size += batch.nbytes
        if size >= BLOCK_BYTES:
            yield pa.Table.from_batches(gathered)
            gathered, size = [], 0
    if gathered:
        yield pa.Table.from_batches(gathered)
