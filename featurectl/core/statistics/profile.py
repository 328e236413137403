"""Profiles: what a feature looked like over a window, small enough to keep, and enough to compare another one with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from featurectl.core.catalog import Field
from featurectl.core.statistics.describe import LARGEST, labelled
from featurectl.core.statistics.rows import NOBODY, Floats, Ints, Rows
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
    parts = [(pooled(name), places) for name, places in labelled(rows.timeframe, rows.timeframes)]
    parts += [(name, places) for name, places in labelled(rows.entity, rows.entities) if name != NOBODY]
    for entity, places in parts:
        yield Sample(entity, rows.at[places], values[places], None if scaled is None else scaled[places])


def profiles(rows: Rows, window: Window) -> list[Profile]:
    """Return the profiles of the numbers among a view's features, of all entities and of each.

    A window without an end is that of the rows.
    """
    fields = [field for field in rows.fields if field.name in rows.numeric]
    extent = extent_of(rows.at, window)
    return [profile(rows.view.name, field, one, extent) for field in fields for one in samples(rows, field)]


def profile(view: str, field: Field, sample: Sample, extent: tuple[int, int]) -> Profile:
    """Return what lasts of a sample; ``extent`` is its window in microseconds since 1970."""
    there = ~np.isnan(sample.compared)
    values, at = sample.compared[there], sample.at[there]
    ordered = np.sort(values)
    edges = edges_of(ordered)
    pieces = counts_by(pieces_of(at, extent), PIECES, bins_of(values, edges), len(edges) + 1)
    usual = ordered[np.abs(ordered) <= LARGEST]
    return Profile(
        view=view,
        feature=field.name,
        entity=sample.entity,
        scale=sample.scale,
        rows=len(sample.values),
        nulls=int(np.count_nonzero(np.isnan(sample.values))),
        values=len(values),
        mean=float(usual.mean()) if len(usual) else None,
        std=float(usual.std(ddof=1)) if len(usual) > 1 else None,
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


def counts_by(groups: Ints, group_count: int, bins: Ints, bin_count: int) -> NDArray[np.int64]:
    """Return how many values lie in each bin, by group; shape (groups, bins)."""
    flat = np.bincount(groups * bin_count + bins, minlength=group_count * bin_count)
    return flat.reshape(group_count, bin_count)


def shares_of(counts: NDArray[np.float64]) -> Floats:
    """Return counts as shares of their sum; zeros where that is none."""
    total = counts.sum(axis=-1, keepdims=True)
    found: Floats = np.divide(counts, total, out=np.zeros_like(counts, dtype=np.float64), where=total > 0)
    return found
