"""Rows of one series into its table: copied straight in where nothing can be in the way, else compared and merged.

Counts are those of a comparison before the merge, so that they hold for compressed chunks of a hypertable as well; a
row that is there already as it is costs no write, and no decompression.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeAlias

from psycopg import sql

from featurectl.core import pgcopy, timescale
from featurectl.core.db import Connection
from featurectl.core.queries import query
from featurectl.core.schema import table_identifier
from featurectl.core.sources import column, commas, conjunction
from featurectl.core.times import from_microseconds, microseconds
from featurectl.errors import DatabaseError

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    Array: TypeAlias = NDArray[np.float64] | NDArray[np.int64] | pa.StringArray

# From so many staged rows on, statistics are worth their time.
_MANY = 1_000


@dataclass(frozen=True, slots=True)
class SeriesTable:
    """A table of series: ``key`` is its primary key, ``time`` the column of it that orders a series.

    ``types`` gives the columns whose type is not that of the values written; where a column of ``kept`` is null in
    what is written, what is there stays.
    """

    name: str
    key: tuple[str, ...]
    time: str
    created: str = "created_timestamp"
    types: Mapping[str, str] | None = None
    kept: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Written:
    """How many rows were new, and how many others than before; from when to when they were, in microseconds."""

    new: int
    changed: int
    first: int | None = field(default=None, compare=False)
    last: int | None = field(default=None, compare=False)

    def __add__(self, other: Written) -> Written:
        return Written(
            self.new + other.new,
            self.changed + other.changed,
            min((one.first for one in (self, other) if one.first is not None), default=None),
            max((one.last for one in (self, other) if one.last is not None), default=None),
        )


def write_series(
    connection: Connection,
    table: SeriesTable,
    series: Mapping[str, str],
    columns: Mapping[str, Array],
    *,
    now: datetime,
    insert: bool = True,
) -> Written:
    """Write rows of one series within a transaction; rows that are there as they are stay untouched.

    ``series`` gives the constant part of the key, ``columns`` the rest of it and the values, as equally long arrays
    in order of time, unique by the key: int64 microseconds for instants, float64 with NaN for null, Arrow strings.
    Without ``insert`` only rows that are there are changed.

    Raises:
        DatabaseError: the merge wrote another number of rows than the comparison found.
    """
    import numpy as np  # 0.1 s, and only bulk work needs it

    times = columns[table.time]
    if not len(times):
        return Written(0, 0)
    parameters = {"series": " ".join([table.name, *series.values()])}
    connection.execute(query("merging", "lock_series"), parameters)
    writing = _Writing(connection, table, series, int(times[0]), int(times[-1]), now)
    first, last = writing.extent()
    meets = np.zeros(len(times), dtype=bool) if first is None else (times >= first) & (times <= last)
    written = writing.merge(_take(columns, meets), insert=insert) if meets.any() else Written(0, 0)
    if meets.all() or not insert:
        return written
    apart = _take(columns, ~meets)
    return written + (writing.merge(apart, insert=True) if table.types else writing.copy(apart))


def _take(columns: Mapping[str, Array], rows: NDArray[np.bool_]) -> dict[str, Array]:
    import numpy as np

    if rows.all():
        return dict(columns)
    return {
        name: values[rows] if isinstance(values, np.ndarray) else values.filter(_mask(rows))
        for name, values in columns.items()
    }


def _mask(rows: NDArray[np.bool_]) -> pa.BooleanArray:
    import pyarrow as pa

    return pa.array(rows)


@dataclass(frozen=True, slots=True)
class _Writing:
    """One series being written: ``first`` and ``last`` are the span of its rows, in microseconds since 1970."""

    connection: Connection
    table: SeriesTable
    series: Mapping[str, str]
    first: int
    last: int
    now: datetime

    def extent(self) -> tuple[int | None, int]:
        """Return the first and last instants of what is there already within the span."""
        row = self.connection.execute(query("merging", "extent").format(**self._places())).fetchone()
        assert row is not None
        return (microseconds(row[0]), microseconds(row[1])) if row[0] else (None, 0)

    def copy(self, columns: Mapping[str, Array]) -> Written:
        """Append rows of which none is there."""
        times = columns[self.table.time]
        content = {**self.series, **columns, self.table.created: microseconds(self.now)}
        pgcopy.write(self.connection, table_identifier(self.table.name), content, len(times))
        return Written(len(times), 0, int(times[0]), int(times[-1]))

    def merge(self, columns: Mapping[str, Array], *, insert: bool) -> Written:
        """Write rows of which some may be there."""
        rows = len(columns[self.table.time])
        definitions = [sql.SQL("{} {}").format(sql.Identifier(name), _type(values)) for name, values in columns.items()]
        self.connection.execute(query("merging", "create_staging").format(columns=commas(definitions)))
        pgcopy.write(self.connection, sql.Identifier("staged_rows"), columns, rows)
        if rows > _MANY:
            self.connection.execute(query("merging", "analyze_staging"))
        self.connection.execute(self._differing(columns, insert))
        counting = query("merging", "count_differing").format(time=sql.Identifier(self.table.time))
        row = self.connection.execute(counting).fetchone()
        assert row is not None
        new, changed, *span = row
        written = Written(new, changed, *(at and microseconds(at) for at in span))
        if written.new + written.changed:
            timescale.allow_decompression(self.connection)
            cursor = self.connection.execute(self._merging(columns))
            if cursor.rowcount != written.new + written.changed:
                raise DatabaseError(
                    f"{self.table.name}: {cursor.rowcount} rows written, {written.new + written.changed} expected; "
                    "nothing of this was kept: run it again"
                )
        self.connection.execute(query("merging", "drop_staging"))
        return written

    def _differing(self, columns: Mapping[str, Array], insert: bool) -> sql.Composed:
        key = [name for name in columns if name in self.table.key]
        values = [name for name in columns if name not in self.table.key]
        return query("merging", "find_differing").format(
            **self._places(),
            columns=commas(
                sql.SQL("{} AS {}").format(self._staged(name), sql.Identifier(name)) for name in (*key, *values)
            ),
            match=conjunction(sql.SQL("{} = {}").format(column(name, "t"), column(name)) for name in key),
            insert=sql.Literal(insert),
            staged=commas(map(self._staged, values)),
            existing=commas(column(name, "t") for name in values),
        )

    def _staged(self, name: str) -> sql.Composable:
        """Return a staged column as the table will have it."""
        value = column(name)
        if self.table.types and name in self.table.types:
            value = sql.SQL("{}::{}").format(value, sql.SQL(self.table.types[name]))
        return sql.SQL("coalesce({}, {})").format(value, column(name, "t")) if name in self.table.kept else value

    def _merging(self, columns: Mapping[str, Array]) -> sql.Composed:
        assigned = [name for name in columns if name not in self.table.key] + [self.table.created]
        return query("merging", "merge_differing").format(
            **self._places(),
            names=commas(map(sql.Identifier, (*self.series, *columns))),
            values=commas([*map(sql.Literal, self.series.values()), *map(sql.Identifier, columns)]),
            now=sql.Literal(self.now),
            key=commas(map(sql.Identifier, self.table.key)),
            assigned=commas(map(sql.Identifier, assigned)),
            assigned_values=commas(column(name, "excluded") for name in assigned),
        )

    def _places(self) -> dict[str, Any]:
        return {
            "table": table_identifier(self.table.name),
            "time": sql.Identifier(self.table.time),
            "created": sql.Identifier(self.table.created),
            "series": conjunction(
                sql.SQL("{} = {}").format(column(name, "t"), sql.Literal(value)) for name, value in self.series.items()
            ),
            "first": sql.Literal(from_microseconds(self.first)),
            "last": sql.Literal(from_microseconds(self.last)),
        }


def _type(values: Array) -> sql.SQL:
    import numpy as np

    if not isinstance(values, np.ndarray):
        return sql.SQL("text")
    return sql.SQL("timestamptz" if values.dtype.kind == "i" else "float8")
