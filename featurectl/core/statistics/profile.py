"""Profiles: what a feature looked like over a window, small enough to keep, and enough to compare another one with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from featurectl.core.catalog import Field
from featurectl.core.statistics import arrays
from featurectl.core.statistics.arrays import Floats, Ints
from featurectl.core.statistics.describe import measurable
from featurectl.core.statistics.rows import NOBODY, Rows
from featurectl.core.times import Window, microseconds

# So many values, each as far from the next in rank, stand for a distribution: its function is kept to a thousandth.
SKETCH = 500
# Borders of bins, as ranks: tenths, whose outermost are cut once more, for tails weigh little in a tenth.
RANKS = (0.01, *(tenth / 10 for tenth in range(1, 10)), 0.99)
# A window is cut into so many pieces of one length; how they differ tells what differences are chance.
PIECES = 64


@dataclass(frozen=True, slots=True)
class Profile:
    """A feature of one entity, or of several together, over a window.

    ``entity`` is an entity's name; ``*_1h`` is all those of a timeframe, and ``None`` all those of a view without one.

    ``values`` counts the rows that have one; with ``scale`` price these are shares of the close, and ``nulls`` still
    counts the nulls of the feature itself. ``sketch`` holds the values themselves, sorted, or, of more than 500, those
    at the ranks (i + 1/2) / 500. ``edges`` are the borders of bins at the 1st, 10th, 20th … 90th and 99th percentiles:
    (-inf, e0], (e0, e1], … (ek, inf); a value that is several of them fills a bin by itself. ``pieces`` are
    the counts of the values by bin in 64 pieces of the window, shape (64, bins).
    """

    view: str
    feature: str
    entity: str | None
    scale: str
    rows: int
    nulls: int
    values: int
    mean: float | None
    std: float | None
    sketch: tuple[float, ...]
    edges: tuple[float, ...]
    pieces: tuple[tuple[int, ...], ...]

    @property
    def shares(self) -> Floats:
        """The share of the values in each bin."""
        return shares_of(np.array(self.pieces, dtype=np.float64).reshape(-1, len(self.edges) + 1).sum(axis=0))

    @property
    def null_share(self) -> float:
        return self.nulls / self.rows if self.rows else 0.0


@dataclass(frozen=True, slots=True)
class Sample:
    """The values of a feature of one entity, or of all, over a window, as they are, NaN where there is none."""

    entity: str | None
    at: Ints
    values: Floats
    scaled: Floats | None

    @property
    def compared(self) -> Floats:
        """The values that are compared: shares of the close for a feature in units of price."""
        return self.values if self.scaled is None else self.scaled

    @property
    def scale(self) -> str:
        return "value" if self.scaled is None else "price"

    def sorted(self) -> Floats:
        """Return the values that are compared, without the NaNs."""
        found = arrays.scratch(len(self.compared), np.float64)
        for part in arrays.chunks(len(found)):
            found[part] = self.compared[part]
        found = arrays.present(found)
        found.sort()
        return found

    def counts(
        self, edges: Floats | Sequence[float], group_count: int, group: Callable[[Ints], NDArray[np.integer]]
    ) -> Ints:
        """Count what is compared by groups of event times and by bins, the last of which holds NaNs.

        ``group`` gives the group of each of some event times; shape (groups, bins + 1).
        """
        width = len(edges) + 2
        counts = np.zeros(group_count * width, dtype=np.int64)
        for part in arrays.chunks(len(self.at)):
            values = self.compared[part]
            bins = np.where(np.isnan(values), width - 1, bins_of(values, edges))
            counts += np.bincount(group(self.at[part]) * width + bins, minlength=len(counts))
        return counts.reshape(group_count, width)


def pooled(timeframe: str | None) -> str | None:
    """Return what all entities of a timeframe are called together; those of different ones are never mixed."""
    return f"*_{timeframe}" if timeframe else None


def is_pooled(entity: str | None) -> bool:
    """Tell whether that is what several entities are called."""
    return entity is None or entity.startswith("*")


def samples(rows: Rows, field: Field) -> Iterator[Sample]:
    """Yield the samples of all entities together, by timeframe, then that of each entity."""
    values = rows.values(field.name)
    scaled = rows.scaled_values(field.name) if field.name in rows.scaled else None
    parts = [(pooled(name), places) for name, places in rows.by_timeframe]
    parts += [(name, places) for name, places in rows.by_entity if name != NOBODY]
    for entity, places in parts:
        shares = None if scaled is None else arrays.taken(scaled, places)
        yield Sample(entity, arrays.taken(rows.at, places), arrays.taken(values, places), shares)


def profiles(rows: Rows, window: Window) -> list[Profile]:
    """Return the profiles of the numbers among a view's features, of all entities and of each.

    A window without an end is that of the rows.
    """
    fields = [field for field in rows.fields if field.name in rows.numeric]
    extent = extent_of(rows.at, window)

    def of_field(field: Field) -> list[Profile]:
        return [profile(rows.view.name, field, one, extent) for one in samples(rows, field)]

    return list(chain.from_iterable(arrays.at_once(of_field, fields)))


def profile(view: str, field: Field, sample: Sample, extent: tuple[int, int]) -> Profile:
    """Return what lasts of a sample; ``extent`` is its window in microseconds since 1970."""
    ordered = sample.sorted()
    edges = edges_of(ordered)
    pieces = sample.counts(edges, PIECES, lambda at: pieces_of(at, extent))[:, :-1]
    mean, std = arrays.moments(measurable(ordered))
    return Profile(
        view=view,
        feature=field.name,
        entity=sample.entity,
        scale=sample.scale,
        rows=len(sample.values),
        nulls=arrays.missing(sample.values),
        values=len(ordered),
        mean=mean,
        std=std,
        sketch=tuple(map(float, sketch_of(ordered))),
        edges=tuple(map(float, edges)),
        pieces=tuple(tuple(map(int, one)) for one in pieces),
    )


def extent_of(at: Ints, window: Window) -> tuple[int, int]:
    """Return a window in microseconds since 1970, the rows' own ends where it has none."""
    first, last = (int(at.min()), int(at.max())) if len(at) else (0, 0)
    start, end = (microseconds(one) if one else None for one in (window.start, window.end))
    return (first if start is None else start), (last if end is None else end)


def sketch_of(ordered: Floats) -> Floats:
    """Return sorted values, or of more than :data:`SKETCH` those in the middle of so many equal parts."""
    if len(ordered) <= SKETCH:
        return ordered
    ranks = (np.arange(SKETCH) + 0.5) / SKETCH
    return ordered[np.ceil(ranks * len(ordered) - 1e-9).astype(np.int64) - 1]


def edges_of(ordered: Floats) -> Floats:
    """Return the inner borders of the bins of sorted values.

    A value that is several of the quantiles fills a bin by itself, so that it is seen when it moves to either side.
    """
    if not len(ordered):
        return ordered
    # Less a hair: 0.7 times 10 is more than 7.
    places = np.ceil(np.array(RANKS) * len(ordered) - 1e-9).astype(np.int64)
    quantiles = ordered[np.maximum(places, 1) - 1]
    distinct, times = np.unique(quantiles, return_counts=True)
    return np.unique(np.r_[distinct, np.nextafter(distinct[times > 1], -np.inf)])


def bins_of(values: Floats, edges: Floats | Sequence[float]) -> Ints:
    """Return the bin of each value: the number of borders below it."""
    found: Ints = np.searchsorted(np.asarray(edges, dtype=np.float64), values, side="left")
    return found


def pieces_of(at: Ints, extent: tuple[int, int]) -> Ints:
    """Return in which piece of a window each instant lies."""
    start, length = extent[0], max(1, extent[1] - extent[0])
    # Floats are exact enough here, and products of microseconds overflow.
    return np.clip(((at - start) / length * PIECES).astype(np.int64), 0, PIECES - 1)


def shares_of(counts: NDArray[np.float64]) -> Floats:
    """Return counts as shares of their sum; zeros where that is none."""
    total = counts.sum(axis=-1, keepdims=True)
    found: Floats = np.divide(counts, total, out=np.zeros_like(counts, dtype=np.float64), where=total > 0)
    return found
