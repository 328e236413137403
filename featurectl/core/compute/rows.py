"""The rows of one series in a feature table: which there are, which must stay as they are, and how others get in.

Instants are microseconds since 1970.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from psycopg import sql

from featurectl.core import pgcopy
from featurectl.core.catalog import View
from featurectl.core.db import Connection
from featurectl.core.merging import SeriesTable, Written, write_series
from featurectl.core.queries import query
from featurectl.core.schema import table_identifier
from featurectl.core.sources import column, conjunction
from featurectl.core.times import microseconds, nearest_instant

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]
    Mask = NDArray[np.bool_]

_NEVER = 2**62
_FLOAT8 = "double precision"


def feature_series(view: View) -> SeriesTable:
    """Return how the feature table of a computed view is written."""
    others = {field.source_column: field.column_type for field in view.fields if field.column_type != _FLOAT8}
    return SeriesTable(
        view.source_table or "",
        key=(*view.join_keys, view.timestamp_column),
        time=view.timestamp_column,
        created=view.created_column or "created_timestamp",
        types=others or None,
    )


@dataclass(frozen=True, slots=True)
class FeatureRows:
    """A series of features; ``key`` gives its symbol, and its timeframe where it has one."""

    connection: Connection
    view: View
    key: Mapping[str, str]

    def newest(self) -> int | None:
        """Return the instant of the newest row."""
        return self._instant(query("feature_rows", "newest_row"))

    def following(self, first: int) -> int | None:
        """Return the instant of the first row at ``first`` or after it."""
        return self._instant(query("feature_rows", "following_row"), first=_literal(first))

    def between(self, first: int, last: int) -> Ints:
        """Return the instants of the rows from ``first`` to ``last``."""
        places = self._places(first=_literal(first), last=_literal(last))
        statement = query("feature_rows", "rows_between").format(**places)
        return pgcopy.read(self.connection, statement, {"event": pgcopy.TIMESTAMP}, {})["event"]

    def has_values(self, features: Iterable[str], last: int) -> bool:
        """Tell whether a row at ``last`` or before it has a value of one of these features."""
        tests = (sql.SQL("{} IS NOT NULL").format(column(self._column(name), "t")) for name in features)
        places = self._places(last=_literal(last), any_value=sql.SQL(" OR ").join(tests))
        row = self.connection.execute(query("feature_rows", "has_values").format(**places)).fetchone()
        return row is not None and bool(row[0])

    def write(self, times: Ints, features: Mapping[str, Floats], *, now: datetime, insert: bool) -> Written:
        """Write these features, NaN for null; without ``insert`` only in rows that are there."""
        columns = {self._column(name): values for name, values in features.items()}
        table = feature_series(self.view)
        return write_series(self.connection, table, self.key, {table.time: times, **columns}, now=now, insert=insert)

    def _column(self, feature: str) -> str:
        field = self.view.field(feature)
        assert field is not None
        return field.source_column

    def _instant(self, statement: sql.SQL, **more: sql.Composable) -> int | None:
        row = self.connection.execute(statement.format(**self._places(**more))).fetchone()
        return microseconds(row[0]) if row else None

    def _places(self, **more: sql.Composable) -> dict[str, sql.Composable]:
        return {
            "table": table_identifier(self.view.source_table or ""),
            "event": sql.Identifier(self.view.timestamp_column),
            "series": conjunction(
                sql.SQL("{} = {}").format(column(name, "t"), sql.Literal(value)) for name, value in self.key.items()
            ),
            **more,
        }


@dataclass(frozen=True, slots=True)
class Kept:
    """Rows that stay as they are, because some of what they were computed from is gone by retention.

    Features are in groups by what they are computed from; ``floors`` has, for a group, the first instant for which
    all of that is still there. Rows after ``newest`` are new, and made from what there is.
    """

    newest: int | None
    floors: Mapping[str, int]

    def write(
        self,
        rows: FeatureRows,
        times: Ints,
        features: Mapping[str, Floats],
        groups: Mapping[str, Iterable[str]],
        *,
        now: datetime,
        insert: bool,
    ) -> Iterator[Written]:
        """Write the rows that may be written, and of others the groups that may be."""
        import numpy as np  # 0.1 s, and only compute needs it

        free = {group: self._free(group, times) for group in groups}
        whole = np.logical_and.reduce(list(free.values()))
        for names, chosen in [(features, whole), *((groups[group], free[group] & ~whole) for group in groups)]:
            if chosen.any():
                part = {name: features[name][chosen] for name in names}
                yield rows.write(times[chosen], part, now=now, insert=insert)

    def _free(self, group: str, times: Ints) -> Mask:
        free: Mask = times >= self.floors.get(group, -_NEVER)
        return free if self.newest is None else free | (times > self.newest)


def kept(
    rows: FeatureRows,
    newest: int | None,
    groups: Mapping[str, Iterable[str]],
    oldest: Mapping[str, int | None],
    *,
    reach: int,
    first: int,
) -> Kept:
    """Return which rows stay when those from ``first`` on are computed again, each from the ``reach`` before it.

    ``oldest`` has the first instant of what a group is computed from. Values of rows before it tell that there had
    been more.
    """
    floors = {}
    for group, names in groups.items():
        start = oldest[group]
        floor = _NEVER if start is None else start + reach
        if newest is None or first > newest or first >= floor:
            continue
        if rows.has_values(names, newest if start is None else start - 1):
            floors[group] = floor
    return Kept(newest, floors)


def _literal(instant: int) -> sql.Literal:
    return sql.Literal(nearest_instant(instant))
