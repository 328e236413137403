"""The calendar of bars: how many there should be by series and day, and how many there are."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import pairwise

from featurectl.core.db import Connection
from featurectl.core.entity import length
from featurectl.core.gaps import Gap, SeriesGaps, find_gaps
from featurectl.core.report.model import Cells, Coverage, CoverageRow
from featurectl.core.times import Window, microseconds

# What a screen shows, and a page can hold: columns of a map, series, and gaps.
MOST_CELLS, MOST_SERIES, MOST_GAPS, MOST_SEGMENTS = 190, 40, 20, 1000
_STEPS = (1, 7, 28, 91, 364)
_DAY = timedelta(days=1)


def cells_of(window: Window) -> Cells:
    """Cut a window with both ends into UTC days, or into so many days each that the cells are not too many.

    A window that ends at midnight ends with the day before.
    """
    assert window.start and window.end
    first = window.start.replace(hour=0, minute=0, second=0, microsecond=0)
    days = max(1, -((first - window.end) // _DAY))
    step = next((step for step in _STEPS if days <= step * MOST_CELLS), -(-days // MOST_CELLS))
    return Cells(first, step * _DAY, -(-days // step))


def read_coverage(connection: Connection, ids: Sequence[str], window: Window, *, now: datetime) -> Coverage:
    """Survey the bars of these series or symbols, or of all; the rows are of those that lack the most.

    Raises:
        InvalidEntityId, NotFound: see :func:`featurectl.core.gaps.find_gaps`.
    """
    survey = find_gaps(connection, ids, window, now=now)
    cells = cells_of(window)
    due = [one for one in survey.series if one.expected]
    shown = sorted(due, key=lambda one: (-one.missing / one.expected, -one.known_absent, str(one.entity)))[:MOST_SERIES]
    gaps = sorted(survey.gaps, key=lambda gap: (gap.known_absent, -gap.bars, gap.first))
    return Coverage(
        cells=cells,
        rows=tuple(_row(one, cells, window) for one in shown),
        series=len(due),
        expected=sum(one.expected for one in due),
        missing=survey.missing,
        known_absent=survey.known_absent,
        gaps=tuple(gaps[:MOST_GAPS]),
        gap_count=len(gaps),
        timeline=_longest([gap for one in shown for gap in one.gaps]),
    )


def _longest(gaps: Sequence[Gap]) -> tuple[Gap, ...]:
    return tuple(sorted(gaps, key=lambda gap: gap.last - gap.first, reverse=True)[:MOST_SEGMENTS])


def _row(one: SeriesGaps, cells: Cells, window: Window) -> CoverageRow:
    grid = _Grid(one, cells)
    assert window.start
    first = max(0, grid.number(window.start))
    missing = grid.by_cell([gap for gap in one.gaps if not gap.known_absent])
    absent = grid.by_cell([gap for gap in one.gaps if gap.known_absent])
    return CoverageRow(one.entity, grid.spread(first, first + one.expected - 1), missing, absent)


class _Grid:
    """The bars of a series by number, from its first one on, and the cells that they open in."""

    def __init__(self, series: SeriesGaps, cells: Cells) -> None:
        self._first, self._length = microseconds(series.first_bar), length(series.entity.timeframe)
        self._cells = cells
        self._cuts = [self.number(start) for start in (*cells.starts, cells.first + cells.count * cells.step)]

    def number(self, instant: datetime) -> int:
        """Return the number of the first bar that opens at an instant or later."""
        return -((self._first - microseconds(instant)) // self._length)

    def spread(self, first: int, last: int) -> tuple[int, ...]:
        """Count the bars from one number to another by the cells that they open in."""
        cuts = self._cuts
        return tuple(max(0, min(last + 1, after) - max(first, start)) for start, after in pairwise(cuts))

    def by_cell(self, gaps: Sequence[Gap]) -> tuple[int, ...]:
        counts = [0] * self._cells.count
        for gap in gaps:
            first = self.number(gap.first)
            for index, count in enumerate(self.spread(first, first + gap.bars - 1)):
                counts[index] += count
        return tuple(counts)
