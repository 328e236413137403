"""The result of reading candles: one series per symbol and timeframe, with the gaps in it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import numpy as np

from featurectl.core.entity import length
from featurectl.core.tabular.arrays import Floats, Ints
from featurectl.core.tabular.times import show_time
from featurectl.core.times import from_microseconds

# A bar cut short shows a fraction of the usual volume; a quarter of the median of a day of hours is rarely a real bar.
UNFINISHED_SHARE, UNFINISHED_WINDOW = 0.25, 24


@dataclass(frozen=True)
class Gap:
    """A run of missing bars: the open time of the first one, UTC, and how many there are."""

    first_missing: datetime
    bars: int


@dataclass(frozen=True, eq=False)
class CandleSeries:
    """The accepted bars of one symbol and timeframe, oldest first; all arrays have the same length.

    ``open_time`` is microseconds since 1970 UTC; ``quote_volume`` and ``trade_count`` are NaN where the file has none.
    """

    symbol: str
    timeframe: str
    open_time: Ints
    open: Floats
    high: Floats
    low: Floats
    close: Floats
    volume: Floats
    quote_volume: Floats
    trade_count: Floats
    gaps: tuple[Gap, ...]

    def __len__(self) -> int:
        return len(self.open_time)

    @property
    def missing_bars(self) -> int:
        """Count the bars missing between the first and the last one."""
        return sum(gap.bars for gap in self.gaps)


def build_series(symbol: str, timeframe: str, open_time: Ints, values: dict[str, Floats], rows: Ints) -> CandleSeries:
    """Assemble the bars at ``rows``, which are in order of open time and have no duplicates."""
    absent = np.full(len(rows), np.nan)
    picked = {field: column[rows] for field, column in values.items()}
    picked.setdefault("quote_volume", absent)
    picked.setdefault("trade_count", absent.copy())
    times = open_time[rows]
    return CandleSeries(symbol, timeframe, times, gaps=find_gaps(times, timeframe), **picked)


def find_gaps(open_time: Ints, timeframe: str) -> tuple[Gap, ...]:
    """Find where bars are missing in ascending open times that lie on the timeframe's grid."""
    step = length(timeframe)
    distances = np.diff(open_time)
    before = np.flatnonzero(distances > step)
    return tuple(Gap(from_microseconds(open_time[row] + step), int(distances[row] // step) - 1) for row in before)


def unfinished_hint(series: CandleSeries) -> str | None:
    """Say so when the newest bar's volume looks like that of a bar the download cut short."""
    if len(series) <= UNFINISHED_WINDOW:
        return None
    usual = float(np.median(series.volume[-1 - UNFINISHED_WINDOW : -1]))
    if not series.volume[-1] < UNFINISHED_SHARE * usual:
        return None
    newest = f"{series.symbol} {series.timeframe} {show_time(series.open_time[-1])}"
    return f"the newest bar ({newest}) looks unfinished; --drop-last leaves it out"
