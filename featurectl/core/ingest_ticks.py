"""Files of order books, trades and signals into their tables, a file a transaction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from featurectl.core import tags
from featurectl.core.catalog import Catalog
from featurectl.core.db import Connection
from featurectl.core.ingest import write_logged
from featurectl.core.merging import SeriesTable
from featurectl.core.times import from_microseconds

if TYPE_CHECKING:
    from featurectl.core.ticks import Series, TickFile

ORDER_BOOK = SeriesTable("market.order_book", key=("symbol", "time"), time="time")
# A file that says nothing of the sides says nothing about those of another.
TRADES = SeriesTable("market.trades", key=("symbol", "time", "trade_id"), time="time", kept=("side",))
SIGNALS = SeriesTable("market.signals", key=("symbol", "name", "time"), time="time")


@dataclass(frozen=True, slots=True)
class MergedTicks:
    """What one series of a file did to its table; ``key`` is its symbol, and its name if it is a signal's."""

    key: Mapping[str, str]
    rows: int
    new: int
    changed: int
    first: datetime
    last: datetime

    @property
    def unchanged(self) -> int:
        return self.rows - self.new - self.changed


def merge_ticks(connection: Connection, table: SeriesTable, file: TickFile, *, now: datetime) -> list[MergedTicks]:
    """Write a file's rows in one transaction; equal rows stay as they are, so that a second run changes nothing."""
    with connection.transaction():
        return [_merge(connection, table, series, now) for series in file.series]


def _merge(connection: Connection, table: SeriesTable, series: Series, now: datetime) -> MergedTicks:
    written = write_logged(connection, table, series.key, series.columns, now=now)
    first, last = (from_microseconds(series.columns["time"][end]) for end in (0, -1))
    return MergedTicks(series.key, len(series), written.new, written.changed, first, last)


def declared_ranges(catalog: Catalog) -> dict[str, tuple[float, float]]:
    """Return the least and the greatest score that the views computed from signals allow, by the signal's name."""
    return {
        field.name: tags.score_range(field)
        for view in catalog.views
        if view.computed_from == "signals"
        for field in view.fields
    }
