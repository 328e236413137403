"""The grid of a timeframe: which instants open a bar, how far rows are apart, which bars are missing."""

from __future__ import annotations

from datetime import timedelta

import numpy as np

from featurectl.core.entity import TIMEFRAMES, length
from featurectl.core.tabular.arrays import Bools, Ints
from featurectl.core.tabular.times import DAY

# 1970-01-05 was a Monday, and weeks start on Mondays.
FIRST_MONDAY = 4 * DAY
_NAMES = {span: name for name, span in TIMEFRAMES.items()}


def name_of(microseconds: int) -> str | None:
    """Give the timeframe of that length, if there is one."""
    return _NAMES.get(timedelta(microseconds=int(microseconds)))


def show_span(microseconds: int) -> str:
    """Write a length for a message: 1h, or 1:30:00 where no timeframe has it."""
    return name_of(microseconds) or str(timedelta(microseconds=int(microseconds)))


def off_grid(open_times: Ints, timeframe: str) -> Bools:
    """Mark the times at which no bar of the timeframe opens."""
    if timeframe == "1w":
        off: Bools = (open_times - FIRST_MONDAY) % length("1w") != 0
    elif timeframe == "3d":
        off = open_times % length("3d") != _three_day_phase(open_times)
    else:
        off = open_times % length(timeframe) != 0
    return off


def _three_day_phase(open_times: Ints) -> int:
    # Exchanges count their three days from different days, so the phase most rows have is the right one.
    midnights = open_times[open_times % DAY == 0]
    phases, counts = np.unique(midnights % length("3d"), return_counts=True)
    return int(phases[np.argmax(counts)]) if len(phases) else 0


def spacings(open_times: Ints) -> Ints:
    """Give the distances between consecutive distinct times, whatever their order."""
    distinct = np.unique(open_times)
    return distinct[1:] - distinct[:-1]


def most_common(distances: Ints) -> Ints:
    """Give the most common distance, or all that tie for it, shortest first."""
    values, counts = np.unique(distances, return_counts=True)
    return values[counts == counts.max()] if len(values) else values
