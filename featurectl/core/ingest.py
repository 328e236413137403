"""Candle files into market.candles, a file a transaction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from featurectl.core.db import Connection
from featurectl.core.entity import TIMEFRAMES
from featurectl.core.merging import SeriesTable, Written, write_series
from featurectl.core.queries import query
from featurectl.core.times import from_microseconds, iso
from featurectl.errors import InputFileError

if TYPE_CHECKING:
    from featurectl.core.candles import CandleFile, CandleSeries

CANDLES = SeriesTable(
    "market.candles",
    key=("symbol", "timeframe", "open_time"),
    time="open_time",
    # A file without them says nothing about those of another.
    kept=("quote_volume", "trade_count"),
)
COLUMNS = ("open_time", "open", "high", "low", "close", "volume", "quote_volume", "trade_count")


@dataclass(frozen=True, slots=True)
class Merged:
    """What one series of a file did to the table."""

    symbol: str
    timeframe: str
    bars: int
    new: int
    changed: int

    @property
    def unchanged(self) -> int:
        return self.bars - self.new - self.changed


def merge_candles(connection: Connection, file: CandleFile, *, now: datetime) -> list[Merged]:
    """Write a file's bars in one transaction; equal bars stay as they are, so that a second run changes nothing.

    Raises:
        InputFileError: 3d bars that would overlap those in the database.
    """
    with connection.transaction():
        for series in file.series:
            _refuse_other_days(connection, file.name, series)
        return [_merge(connection, series, now) for series in file.series]


def write_logged(
    connection: Connection, table: SeriesTable, key: Mapping[str, str], columns: Mapping[str, Any], *, now: datetime
) -> Written:
    """Write rows of one series of a symbol, and note from when to when it changed; `compute` looks for that."""
    written = write_series(connection, table, key, columns, now=now)
    if written.first is not None and written.last is not None:
        parameters = {
            "source": table.name,
            "symbol": key["symbol"],
            "first": from_microseconds(written.first),
            "last": from_microseconds(written.last),
        }
        connection.execute(query("changes", "log_change"), parameters)
    return written


def _refuse_other_days(connection: Connection, file: str, series: CandleSeries) -> None:
    """Hold 3d bars to the days of those that are there: any midnight may begin them, but only every third one.

    Raises:
        InputFileError: the file's bars would overlap those in the database.
    """
    if series.timeframe != "3d":
        return
    parameters = {"symbol": series.symbol, "timeframe": series.timeframe}
    row = connection.execute(query("candles", "first_bar"), parameters).fetchone()
    first = from_microseconds(series.open_time[0])
    if row and (row[0] - first) % TIMEFRAMES["3d"]:
        raise InputFileError(
            f"{file}: {series.symbol}: 3d bars open on {iso(first)}, those in the database on {iso(row[0])}; they "
            "would overlap, so use one vendor's"
        )


def _merge(connection: Connection, series: CandleSeries, now: datetime) -> Merged:
    key = {"symbol": series.symbol, "timeframe": series.timeframe}
    written = write_logged(connection, CANDLES, key, {name: getattr(series, name) for name in COLUMNS}, now=now)
    return Merged(series.symbol, series.timeframe, len(series), written.new, written.changed)
