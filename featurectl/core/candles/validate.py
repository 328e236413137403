"""Check candles: prices, volumes, and times on the grid of the timeframe."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from featurectl.core.candles.grid import off_grid
from featurectl.core.entity import length
from featurectl.core.tabular.arrays import Bools, Floats, Ints
from featurectl.core.tabular.numbers import Numbers
from featurectl.core.tabular.times import DAY, Times, show_time
from featurectl.core.tabular.verdicts import Verdicts, in_range

PRICES = ("open", "high", "low", "close")
YEAR = 365 * DAY


@dataclass(frozen=True, eq=False)
class Rows:
    """What the rows say, understood but not checked. ``series`` is an index into ``identities``, -1 where unknown."""

    times: Times
    numbers: dict[str, Numbers]
    series: Ints
    identities: tuple[tuple[str, str], ...]

    def __len__(self) -> int:
        return len(self.series)

    @property
    def values(self) -> dict[str, Floats]:
        """Give the numeric columns without their marks."""
        return {field: numbers.values for field, numbers in self.numbers.items()}


def check_rows(rows: Rows, closed_before: int, written_at: int | None = None) -> Verdicts:
    """Check every row on its own; duplicates are for ``resolve_duplicates``."""
    verdicts = Verdicts(len(rows))
    _check_parsed(rows, verdicts)
    _check_values(rows.values, verdicts)
    _check_times(rows, verdicts, closed_before, written_at)
    return verdicts


def plausible_times(times: Times, closed_before: int) -> Bools:
    """Mark the times from 2000 to ten years after ``closed_before``: later ones are misread, not open."""
    return in_range(times, closed_before + 10 * YEAR)


def _check_parsed(rows: Rows, verdicts: Verdicts) -> None:
    verdicts.refuse("unparsable", ~rows.times.known, "time")
    verdicts.refuse("unparsable", rows.series < 0, "symbol", "timeframe")
    for field, numbers in rows.numbers.items():
        verdicts.refuse("unparsable", numbers.unparsable, field)


def _check_values(values: dict[str, Floats], verdicts: Verdicts) -> None:
    for field, column in values.items():
        optional = field in ("quote_volume", "trade_count")
        verdicts.refuse("non-finite", np.isinf(column) if optional else ~np.isfinite(column), field)
    for field in PRICES:
        verdicts.refuse("negative or zero price", values[field] <= 0, field)
    too_low = values["high"] < np.maximum(values["open"], values["close"])
    verdicts.refuse("high below open or close", too_low, "high", "open", "close")
    too_high = values["low"] > np.minimum(values["open"], values["close"])
    verdicts.refuse("low above open or close", too_high, "low", "open", "close")
    for field in [name for name in values if name not in PRICES]:
        verdicts.refuse("negative volume", values[field] < 0, field)


def _check_times(rows: Rows, verdicts: Verdicts, closed_before: int, written_at: int | None) -> None:
    times = rows.times.microseconds
    verdicts.refuse("time out of range", ~plausible_times(rows.times, closed_before), "time")
    for number, (_, timeframe) in enumerate(rows.identities):
        members = np.flatnonzero((rows.series == number) & verdicts.accepted)
        off = np.zeros(len(rows), dtype=bool)
        off[members] = off_grid(times[members], timeframe)
        verdicts.refuse("off-grid time", off, "time")
        still_open = (rows.series == number) & (times > closed_before - length(timeframe))
        if written_at is not None:
            # A bar that was open when the file was written is cut short in it for ever.
            still_open |= (rows.series == number) & (times <= written_at) & (times > written_at - length(timeframe))
        verdicts.refuse("open", still_open, "time")


def explain_time(rows: Rows, row: int, reason: str) -> str | None:
    """Say what is wrong with a bar's time, if that is what is wrong with it."""
    if reason not in ("off-grid time", "open"):
        return None
    microseconds, timeframe = int(rows.times.microseconds[row]), rows.identities[rows.series[row]][1]
    if reason == "off-grid time":
        return f"no {timeframe} bar opens at {show_time(microseconds)}"
    return f"closes at {show_time(microseconds + length(timeframe))}"
