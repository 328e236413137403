"""Ticks of one symbol, read in bounded pieces and brought together by the minute.

A piece is bounded in ticks as well as in time, so that neither a busy day nor years of history take more memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from psycopg import sql

from featurectl.core import pgcopy
from featurectl.core.compute.windows import Minutes
from featurectl.core.db import Connection
from featurectl.core.functions import INPUTS, FeatureFunction, FunctionSet
from featurectl.core.queries import query
from featurectl.core.schema import table_identifier
from featurectl.core.sources import commas
from featurectl.core.times import microseconds, nearest_instant

if TYPE_CHECKING:
    from numpy.typing import NDArray

MINUTE = 60_000_000
# Of one piece: the ticks of one table that are read at once, and the minutes they may be of. Rows are made for at least
# so many minutes at once.
MANY_TICKS = 500_000
PIECE = 1440
STRETCH = 7 * 1440
_ORDER = {"order_book": ("time",), "trades": ("time", "trade_id")}
_SIDE = sql.SQL("CASE side WHEN 'buy' THEN 1::float8 WHEN 'sell' THEN -1 ELSE 'NaN' END")


class TickStream:
    """The ticks of a symbol and what functions give for them; ``read`` counts the ticks read so far.

    ``aggregates`` names the features that are wanted, and what is taken of each over a timeframe.
    """

    def __init__(
        self, connection: Connection, symbol: str, functions: FunctionSet, aggregates: Mapping[str, str]
    ) -> None:
        self.connection, self.symbol, self.aggregates = connection, symbol, aggregates
        self.tables = {table: part for table, part in by_table(functions).items() if set(part.hashes) & set(aggregates)}
        self.read = 0

    def stretches(self, first: int, end: int, reach: int) -> Iterator[tuple[Minutes, int, int]]:
        """Yield minutes together with the first and last instants, also in minutes, for which they suffice.

        Every instant after ``first``, up to ``end``, that has ticks in the ``reach`` minutes before it is of one
        stretch. The ticks are those from minute ``first`` to before minute ``end``.
        """
        minutes, done = None, first
        at = self._following(first)
        while at is not None and at < end:
            if minutes is not None and at - minutes.end > reach:
                minutes.extend(minutes.end + reach)
                yield minutes, done + 1, minutes.end
                minutes = None
            if minutes is None:
                minutes, done = Minutes(at - reach, at, self.aggregates), at
            found = self._add(minutes, at, min(at + PIECE, end))
            at = minutes.end if found else self._following(minutes.end)
            if minutes.end - done >= STRETCH:
                yield minutes, done + 1, minutes.end
                done = minutes.end
                minutes.drop_before(done + 1 - reach)
        if minutes is not None:
            minutes.extend(min(minutes.end + reach, end))
            yield minutes, done + 1, minutes.end

    def _following(self, minute: int) -> int | None:
        """Return the first minute at or after ``minute`` that has ticks."""
        instant = nearest_instant(minute * MINUTE)
        found = (first_tick(self.connection, table, self.symbol, instant) for table in self.tables)
        return min((tick // MINUTE for tick in found if tick is not None), default=None)

    def _add(self, minutes: Minutes, at: int, end: int) -> int:
        """Go on to minute ``end``, or as far as one piece reaches; return how many ticks there are from ``at`` on."""
        import numpy as np  # 0.1 s, and only compute needs it

        ticks = {}
        for table in self.tables:
            ticks[table], end = self._ticks(table, at, end)
        minutes.extend(end)
        before = self.read
        for table, columns in ticks.items():
            count = int(np.searchsorted(columns["time"], end * MINUTE))
            if count:
                self._aggregate(minutes, table, {name: values[:count] for name, values in columns.items()})
                self.read += count
        return self.read - before

    def _aggregate(self, minutes: Minutes, table: str, columns: dict[str, NDArray[Any]]) -> None:
        times = columns.pop("time")
        values = self.tables[table].compute(columns)
        minutes.add(times // MINUTE, {name: values[name] for name in values if name in self.aggregates})

    def _ticks(self, table: str, at: int, end: int) -> tuple[dict[str, NDArray[Any]], int]:
        """Return the ticks from minute ``at`` on, and the minute before which they are all there."""
        ticks = self.select(table, at, end, MANY_TICKS)
        if len(ticks["time"]) < MANY_TICKS:
            return ticks, end
        last = int(ticks["time"][-1]) // MINUTE
        return (ticks, last) if last > at else (self.select(table, at, at + 1, None), at + 1)

    def select(self, table: str, at: int, end: int, limit: int | None) -> dict[str, NDArray[Any]]:
        """Return at most so many ticks from minute ``at`` to before ``end``: their times, and what functions read."""
        needed = {name for feature in self.tables[table].ordered for name in feature.inputs}
        columns = [name for name in INPUTS["ticks"][table] if name in needed]
        statement = query("compute_ticks", "ticks").format(
            table=_identifier(table),
            columns=commas([sql.Identifier("time"), *map(_expression, columns)]),
            order=commas(map(sql.Identifier, _ORDER[table])),
        )
        parameters = {
            "symbol": self.symbol,
            "first": nearest_instant(at * MINUTE),
            "end": nearest_instant(end * MINUTE),
            "limit": limit,
        }
        kinds = {"time": pgcopy.TIMESTAMP} | dict.fromkeys(columns, pgcopy.FLOAT)
        return pgcopy.read(self.connection, statement, kinds, parameters)


def by_table(functions: FunctionSet) -> dict[str, FunctionSet]:
    """Return the functions by the table they are made of; those that need each other are of one."""
    parts: dict[str, list[FeatureFunction]] = {}
    for feature in functions.ordered:
        parts.setdefault(feature.table, []).append(feature)
    return {table: FunctionSet(functions.file, tuple(part)) for table, part in parts.items()}


def first_tick(connection: Connection, table: str, symbol: str, start: datetime | None = None) -> int | None:
    """Return the instant of a symbol's first tick, at or after ``start``, in microseconds since 1970."""
    statement = query("compute_ticks", "next_tick").format(table=_identifier(table))
    row = connection.execute(statement, {"symbol": symbol, "first": start or "-infinity"}).fetchone()
    return microseconds(row[0]) if row else None


def last_tick(connection: Connection, table: str, symbol: str, before: datetime) -> int | None:
    """Return the instant of a symbol's last tick before another instant, in microseconds since 1970."""
    statement = query("compute_ticks", "last_tick").format(table=_identifier(table))
    row = connection.execute(statement, {"symbol": symbol, "before": before}).fetchone()
    return microseconds(row[0]) if row else None


def _identifier(table: str) -> sql.Identifier:
    return table_identifier(f"market.{table}")


def _expression(column: str) -> sql.Composable:
    return _SIDE if column == "side" else sql.Identifier(column)
