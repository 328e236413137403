"""Candle files into market.candles: staged with COPY, merged in one statement, a file a transaction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from psycopg import sql

from featurectl.core import pgcopy
from featurectl.core.db import Connection
from featurectl.core.entity import TIMEFRAMES
from featurectl.core.queries import query
from featurectl.core.times import iso
from featurectl.errors import InputFileError

if TYPE_CHECKING:
    from featurectl.core.candles import CandleFile, CandleSeries

COLUMNS = {"open_time": pgcopy.TIMESTAMP} | dict.fromkeys(
    ("open", "high", "low", "close", "volume", "quote_volume", "trade_count"), pgcopy.FLOAT
)


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
        connection.execute(query("candles", "create_staging"))
        for series in file.series:
            _refuse_other_days(connection, file.name, series)
        return [_merge(connection, series, now) for series in file.series]


def _refuse_other_days(connection: Connection, file: str, series: CandleSeries) -> None:
    """Hold 3d bars to the days of those that are there: any midnight may begin them, but only every third one.

    Raises:
        InputFileError: the file's bars would overlap those in the database.
    """
    if series.timeframe != "3d":
        return
    parameters = {"symbol": series.symbol, "timeframe": series.timeframe}
    row = connection.execute(query("candles", "first_bar"), parameters).fetchone()
    first = datetime.fromtimestamp(int(series.open_time[0]) // 1_000_000, UTC)
    if row and (row[0] - first) % TIMEFRAMES["3d"]:
        raise InputFileError(
            f"{file}: {series.symbol}: 3d bars open on {iso(first)}, those in the database on {iso(row[0])}; they "
            "would overlap, so use one vendor's"
        )


def _merge(connection: Connection, series: CandleSeries, now: datetime) -> Merged:
    arrays: Sequence[object] = [getattr(series, name) for name in COLUMNS]
    pgcopy.write(connection, sql.Identifier("staged_candles"), COLUMNS, arrays)  # type: ignore[arg-type]
    parameters = {"symbol": series.symbol, "timeframe": series.timeframe, "now": now}
    row = connection.execute(query("candles", "merge_staging"), parameters).fetchone()
    connection.execute(query("candles", "empty_staging"))
    assert row is not None
    return Merged(series.symbol, series.timeframe, len(series.open_time), row[0], row[1])
