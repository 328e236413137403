"""A stretch of rows, and what functions give for parts of it: pure functions over arrays, oldest row first."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING

from featurectl.core.consistency.verdicts import SMALL
from featurectl.core.times import from_microseconds
from featurectl.errors import DefinitionError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]

# Functions that can't do with so few rows are looked at all the same.
FEW = 50

# The features of the rows from one place to before another, computed from no other rows.
Apply = Callable[[int, int], Mapping[str, "Floats"]]


@dataclass(frozen=True, slots=True)
class Deviation:
    """The largest difference that was found of a feature: of which entity, at which event time.

    ``value`` is computed from all rows, ``other`` from a part of them, as ``detail`` says; either may be ``None``.
    ``relative`` is infinite where only one of them is.
    """

    entity: str
    event_timestamp: datetime
    value: float | None
    other: float | None
    relative: float
    detail: str


@dataclass(slots=True)
class Probe:
    """Compares what functions give for all rows of stretches with what they give for parts; keeps the worst.

    ``worst`` is by feature; ``compared`` counts values; ``failures`` are what functions say of a few rows, by their
    number.
    """

    worst: dict[str, Deviation] = field(default_factory=dict)
    compared: dict[str, int] = field(default_factory=dict)
    failures: dict[int, str] = field(default_factory=dict)

    def note(self, other: Probe) -> None:
        """Take in what another one found."""
        for name, deviation in other.worst.items():
            self._keep(name, deviation)
        for name, count in other.compared.items():
            self.compared[name] = self.compared.get(name, 0) + count
        self.failures |= other.failures

    def relative(self, name: str) -> float:
        """Return the largest difference of a feature."""
        return self.worst[name].relative if name in self.worst else 0.0

    def compare(self, stretch: Stretch, part: Mapping[str, Floats], start: int, *, first: int, detail: str) -> None:
        """Compare the features of a part that begins at row ``start``, from row ``first`` of the stretch on."""
        import numpy as np

        for name, values in part.items():
            end = start + len(values)
            one, other = stretch.whole[name][first:end], values[first - start :]
            differences = relative_differences(one, other, stretch.scale(name))
            self.compared[name] = self.compared.get(name, 0) + int(np.count_nonzero(~(np.isnan(one) & np.isnan(other))))
            if not len(differences):
                continue
            place = int(np.argmax(differences))
            found = float(differences[place])
            if name not in self.worst or found > self.worst[name].relative:
                event = from_microseconds(stretch.events[first + place])
                self._keep(
                    name,
                    Deviation(stretch.entity, event, _number(one[place]), _number(other[place]), found, detail),
                )

    def _keep(self, name: str, deviation: Deviation) -> None:
        known = self.worst.get(name)
        if known is None or deviation.relative > known.relative:
            self.worst[name] = deviation


class Stretch:
    """Consecutive rows of an entity, by the event times of what is computed of them, with all their features."""

    def __init__(self, entity: str, events: Ints, apply: Apply) -> None:
        self.entity, self.events, self.apply = entity, events, apply
        self.whole = apply(0, len(events))
        self._scales: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self.events)

    def scale(self, name: str) -> float:
        """Return the largest magnitude that a feature has in the stretch."""
        import numpy as np

        if name not in self._scales:
            known = self.whole[name][~np.isnan(self.whole[name])]
            self._scales[name] = float(np.abs(known).max()) if len(known) else 0.0
        return self._scales[name]


def truncated(stretch: Stretch, ends: Iterable[int], rows: str) -> Probe:
    """Compare the features of all rows with those of the rows before some ends: they must not change.

    Raises:
        DefinitionError: a function fails; with a few rows only, that is noted.
    """
    probe = Probe()
    for end in sorted({end for end in ends if 0 < end < len(stretch)}):
        try:
            part = stretch.apply(0, end)
        except DefinitionError as error:
            if end > FEW:
                raise
            probe.failures[end] = str(error)
            continue
        detail = f"without the {len(stretch) - end} {rows} after it"
        probe.compare(stretch, part, 0, first=0, detail=detail)
    return probe


def begun_later(stretch: Stretch, starts: Iterable[int], warmup: int, rows: str) -> Probe:
    """Compare the features of all rows with those of the rows from some starts on, behind a warm-up."""
    probe = Probe()
    for start in sorted({start for start in starts if 0 < start < len(stretch) - warmup}):
        detail = f"with {warmup} {rows} of warm-up" if warmup else f"in a piece that begins at other {rows}"
        part = stretch.apply(start, len(stretch))
        probe.compare(stretch, part, start, first=start + warmup, detail=detail)
    return probe


def repeated(stretch: Stretch) -> Probe:
    """Compare the features with those of the very same rows, computed once more."""
    probe = Probe()
    probe.compare(stretch, stretch.apply(0, len(stretch)), 0, first=0, detail="computed once more")
    return probe


def relative_differences(one: Floats, other: Floats, scale: float) -> Floats:
    """Return how far numbers are apart: against the larger, or a thousandth of ``scale``; infinite where one is NaN."""
    import numpy as np

    with np.errstate(all="ignore"):
        larger = np.maximum(np.maximum(np.abs(one), np.abs(other)), SMALL * scale)
        found = np.where(one == other, 0.0, np.abs(one - other) / larger)
    found = np.where(np.isnan(one) ^ np.isnan(other), math.inf, found)
    result: Floats = np.where(np.isnan(one) & np.isnan(other), 0.0, found)
    return result


def _number(value: float) -> float | None:
    return None if value != value else float(value)
