"""Numbers of single ticks to numbers of the minutes they are of, and from these to trailing windows of minutes.

Minutes are counted from 1970 UTC. What a window comes to depends on what is in it and on where it lies, and on nothing
before or after it: a window computed alone equals, bit by bit, the same window computed among a year of others.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]


class Minutes:
    """What the ticks of consecutive minutes came to, from minute ``first`` to before minute ``end``.

    ``aggregates`` says what is taken of each feature: mean, sum, min or max.
    """

    def __init__(self, first: int, end: int, aggregates: Mapping[str, str]) -> None:
        self.first, self.aggregates = first, aggregates
        self._ticks = _filled(end - first, 0)
        self._counts = {name: _filled(end - first, 0) for name in aggregates}
        self._values = {name: _filled(end - first, _identity(how)) for name, how in aggregates.items()}

    @property
    def end(self) -> int:
        return self.first + len(self._ticks)

    def extend(self, end: int) -> None:
        """Go on to minute ``end``, so far with no ticks in the new minutes."""
        import numpy as np

        more = Minutes(self.end, end, self.aggregates)
        self._ticks = np.concatenate([self._ticks, more._ticks])
        for mine, theirs in ((self._counts, more._counts), (self._values, more._values)):
            for name in mine:
                mine[name] = np.concatenate([mine[name], theirs[name]])

    def add(self, minutes: Ints, values: Mapping[str, Floats]) -> None:
        """Add the ticks of these minutes, in order of time, and the numbers they give for each of some features.

        A number that is not finite is none, but its tick counts as one. A feature has the ticks of one table, and those
        of a minute come all at once.
        """
        import numpy as np

        at = minutes - self.first
        starts, counts = _groups(at)
        self._ticks[at[starts]] += counts
        for name, numbers in values.items():
            finite = np.isfinite(numbers)
            places, groups, group_counts = at, starts, counts
            if not finite.all():
                numbers, places = numbers[finite], at[finite]
                groups, group_counts = _groups(places)
            if len(groups):
                self._counts[name][places[groups]] = group_counts
                with np.errstate(all="ignore"):  # what overflows becomes null, and needs no words
                    self._values[name][places[groups]] = _operation(self.aggregates[name]).reduceat(numbers, groups)

    def drop_before(self, minute: int) -> None:
        """Forget the minutes before ``minute``."""
        cut = max(0, minute - self.first)
        self.first += cut
        self._ticks = self._ticks[cut:].copy()
        for arrays in (self._counts, self._values):
            for name, array in arrays.items():
                arrays[name] = array[cut:].copy()

    def rows(self, length: int, first: int, last: int) -> tuple[Ints, dict[str, Floats]]:
        """Return the minutes from ``first`` to ``last`` whose window has ticks, and what the features come to there.

        The window of minute ``t`` is the ``length`` minutes before it.
        """
        import numpy as np

        inside = slice(first - length - self.first, last - self.first)
        start = first - length
        ticks = trailing(self._ticks[inside], start, length, np.add)
        present = np.flatnonzero(ticks)
        features = {}
        for name, how in self.aggregates.items():
            counts = trailing(self._counts[name][inside], start, length, np.add)[present]
            values = trailing(self._values[name][inside], start, length, _operation(how))[present]
            with np.errstate(all="ignore"):  # without numbers there is no mean
                taken = values / counts if how == "mean" else values
            features[name] = np.where((counts > 0) & np.isfinite(taken), taken, np.nan)
        return first + present, features


def trailing(values: NDArray[Any], first: int, length: int, operation: np.ufunc) -> NDArray[Any]:
    """Return ``operation`` over each run of ``length`` consecutive values, of which the first is of place ``first``.

    Blocks of that length lie at fixed places; a run is the end of one and the beginning of the next, so that two
    running results, which start at the border between them, give it in time that does not depend on the length.
    """
    import numpy as np

    lead = first % length
    # What fills the blocks up at either end is in no run that is returned.
    padded = np.zeros(-(-(lead + len(values)) // length) * length, dtype=values.dtype)
    padded[lead : lead + len(values)] = values
    blocks = padded.reshape(-1, length)
    starts = np.arange(lead, lead + len(values) - length + 1)
    ends = starts + length - 1
    with np.errstate(all="ignore"):  # sums that overflow
        forward = operation.accumulate(blocks, axis=1).ravel()
        backward = operation.accumulate(blocks[:, ::-1], axis=1)[:, ::-1].ravel()
        return np.where(starts % length == 0, forward[ends], operation(backward[starts], forward[ends]))


def _groups(places: Ints) -> tuple[Ints, Ints]:
    """Return where runs of equal places start, and how long they are."""
    import numpy as np

    if not len(places):
        return _filled(0, 0), _filled(0, 0)
    starts = np.r_[0, np.flatnonzero(np.diff(places)) + 1]
    return starts, np.diff(np.r_[starts, len(places)])


def _filled(length: int, value: float) -> NDArray[Any]:
    import numpy as np

    return np.full(max(0, length), value, dtype=np.float64 if isinstance(value, float) else np.int64)


def _operation(how: str) -> np.ufunc:
    import numpy as np

    return {"mean": np.add, "sum": np.add, "min": np.minimum, "max": np.maximum}[how]


def _identity(how: str) -> float:
    return {"mean": 0.0, "sum": 0.0, "min": float("inf"), "max": float("-inf")}[how]
