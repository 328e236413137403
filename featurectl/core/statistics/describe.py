"""The figures of features over rows: one line a feature, or one for each entity, timeframe or day of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from enum import StrEnum
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featurectl.core.arrow import ArrowConnection
from featurectl.core.catalog import Field, Selection
from featurectl.core.db import Connection
from featurectl.core.entity import EntityId
from featurectl.core.statistics import arrays
from featurectl.core.statistics.arrays import Floats, Places
from featurectl.core.statistics.rows import Rows, open_rows
from featurectl.core.times import ALWAYS, Window, from_microseconds, microseconds

DAY = 86_400_000_000
PERCENTILES = (1, 5, 25, 50, 75, 95, 99)
# Beyond it a square no longer fits a float64; such values, infinities among them, are left out of mean and deviation.
LARGEST = 1e150
# Modified z-scores past this are outliers (Iglewicz and Hoaglin).
OUTLYING = 3.5
BARS = 12
# Before any row.
NEVER = np.iinfo(np.int64).min


class By(StrEnum):
    """What the rows of a feature are grouped by."""

    ENTITY = "entity"
    DAY = "day"
    TIMEFRAME = "timeframe"


@dataclass(frozen=True, slots=True)
class FeatureStatistics:
    """One feature over rows of its view's source, or over those of one entity, timeframe or day (UTC).

    ``nulls`` are the rows without a value; a NaN is none, an infinity is one. ``std`` is the sample's (n - 1);
    ``mean`` and ``std`` are those of values up to 1e150 in size. Percentiles lie between values as numpy's do.
    ``outliers`` have a modified z-score above 3.5: 0.6745 (value - median) / MAD. ``age_seconds`` counts from the
    newest row with a value, ``stale_entities`` those whose newest is older than the view's TTL. The histogram has 12
    bins of one width from p1 to p99; what lies beyond counts in its first and last. What there is nothing to say of is
    ``None``: of a feature that is no number, there are counts alone. Instants and ``entities`` are those of the rows.
    """

    view: str
    feature: str
    value_type: str
    entity: str | None
    timeframe: str | None
    day: date | None
    rows: int
    nulls: int
    null_share: float | None
    mean: float | None
    std: float | None
    min: float | None
    p1: float | None
    p5: float | None
    p25: float | None
    p50: float | None
    p75: float | None
    p95: float | None
    p99: float | None
    max: float | None
    distinct: int | None
    zeros: int | None
    outliers: int | None
    entities: int
    stale_entities: int | None
    first_event_timestamp: datetime | None
    last_event_timestamp: datetime | None
    age_seconds: float | None
    ttl_seconds: float | None
    histogram: tuple[int, ...] | None
    histogram_edges: tuple[float, ...] | None


@dataclass(frozen=True, slots=True)
class Group:
    """Rows that are looked at together; ``places`` are theirs, ``None`` where they are all there are."""

    places: Places | None
    entity: str | None = None
    timeframe: str | None = None
    day: date | None = None


def feature_statistics(
    arrow: ArrowConnection,
    connection: Connection,
    selections: Sequence[Selection],
    entities: Sequence[EntityId] | None = None,
    window: Window = ALWAYS,
    *,
    now: datetime,
    by: By | None = None,
) -> list[FeatureStatistics]:
    """Return the statistics of features, in their order; without ``entities`` those of all.

    Raises:
        UsageError: Feast makes a view's features from its source; or it is keyed by what entity ids do not give.
    """
    found = []
    for chosen in selections:
        with open_rows(arrow, connection, chosen, entities, window) as rows:
            found += describe(rows, now=now, by=by)
    return found


def describe(rows: Rows, *, now: datetime, by: By | None = None) -> list[FeatureStatistics]:
    """Return the figures of each feature, in their order; of groups, those of a feature one after another."""
    parts = [(group, _Extent.of(rows, group)) for group in groups(rows, by)]

    def of_field(field: Field) -> list[FeatureStatistics]:
        values = rows.values(field.name)
        return [_of_group(rows, field, values, group, extent, now) for group, extent in parts]

    return list(chain.from_iterable(arrays.at_once(of_field, rows.fields)))


@dataclass(frozen=True, slots=True)
class _Extent:
    """The entities of a group's rows, by their codes, and the first and last event time."""

    entities: NDArray[np.int64]
    first: datetime | None
    last: datetime | None

    @classmethod
    def of(cls, rows: Rows, group: Group) -> _Extent:
        count = len(rows) if group.places is None else len(group.places)
        if not count:
            return cls(np.empty(0, dtype=np.int64), None, None)
        seen, ends = np.zeros(len(rows.entities), dtype=bool), list[int]()
        for part in arrays.chunks(count):
            seen[_part(rows.entity, group, part)] = True
            at = _part(rows.at, group, part)
            ends += [int(at.min()), int(at.max())]
        return cls(np.flatnonzero(seen), from_microseconds(min(ends)), from_microseconds(max(ends)))


def _part(values: NDArray[Any], group: Group, part: slice) -> NDArray[Any]:
    """Return what some rows of a group have."""
    return values[part] if group.places is None else values[group.places[part]]


def groups(rows: Rows, by: By | None) -> Iterator[Group]:
    """Yield the rows that are looked at together: all of them, or those of each entity, timeframe or day, sorted."""
    if by is None:
        yield Group(None)
    elif by is By.ENTITY:
        yield from (Group(places, entity=name or None) for name, places in rows.by_entity)
    elif by is By.TIMEFRAME:
        yield from (Group(places, timeframe=name or None) for name, places in rows.by_timeframe)
    else:
        days = arrays.multiples(rows.at, DAY)
        codes = arrays.codes_of(rows.at, DAY, days)
        names = [from_microseconds(int(one) * DAY).date() for one in days]
        yield from (Group(places, day=names[code]) for code, places in arrays.split(codes, len(days)))


def _of_group(
    rows: Rows, field: Field, values: Floats, group: Group, extent: _Extent, now: datetime
) -> FeatureStatistics:
    """Return a feature's figures in a group of rows; of a group of all of them ``values`` are sorted in place."""
    values = arrays.taken(values, group.places)
    count, nulls = len(values), arrays.missing(values)
    age, stale = (None, None) if group.day else _ages(rows, group, values, extent, now)
    figures = Figures.of(arrays.present(values)) if field.name in rows.numeric else Figures()
    return FeatureStatistics(
        view=rows.view.name,
        feature=field.name,
        value_type=field.value_type,
        entity=group.entity,
        timeframe=group.timeframe,
        day=group.day,
        rows=count,
        nulls=nulls,
        null_share=nulls / count if count else None,
        **{name: getattr(figures, name) for name in Figures.__slots__},
        entities=len(extent.entities),
        stale_entities=stale,
        first_event_timestamp=extent.first,
        last_event_timestamp=extent.last,
        age_seconds=age,
        ttl_seconds=rows.view.ttl_seconds or None,
    )


def _ages(rows: Rows, group: Group, values: Floats, extent: _Extent, now: datetime) -> tuple[float | None, int | None]:
    """Return how old the newest value is, and of how many entities it is older than the TTL, or not there at all."""
    newest = np.full(len(rows.entities), NEVER, dtype=np.int64)
    for part in arrays.chunks(len(values)):
        there = ~np.isnan(values[part])
        at, of = (_part(one, group, part)[there] for one in (rows.at, rows.entity))
        np.maximum.at(newest, of, at)
    instant, last = microseconds(now), int(newest.max(initial=NEVER))
    stale = None
    if rows.view.ttl is not None:
        oldest = instant - int(rows.view.ttl_seconds * 1e6)
        stale = int(np.count_nonzero(newest[extent.entities] < oldest))
    return (float(instant - last) / 1e6 if last > NEVER else None), stale


@dataclass(frozen=True, slots=True)
class Figures:
    """What there is to be said of numbers, none of which is a NaN."""

    mean: float | None = None
    std: float | None = None
    min: float | None = None
    p1: float | None = None
    p5: float | None = None
    p25: float | None = None
    p50: float | None = None
    p75: float | None = None
    p95: float | None = None
    p99: float | None = None
    max: float | None = None
    distinct: int | None = None
    zeros: int | None = None
    outliers: int | None = None
    histogram: tuple[int, ...] | None = None
    histogram_edges: tuple[float, ...] | None = None

    @classmethod
    def of(cls, values: Floats) -> Figures:
        """Return the figures of an array, which is sorted in place."""
        if not len(values):
            return cls(distinct=0, zeros=0, outliers=0)
        values.sort()
        percentiles = [arrays.percentile(values, one) for one in PERCENTILES]
        named = dict(zip((f"p{one}" for one in PERCENTILES), map(_known, percentiles), strict=True))
        counts, edges = histogram(values, percentiles[0], percentiles[-1])
        mean, std = arrays.moments(measurable(values))
        return cls(
            mean=mean,
            std=std,
            min=float(values[0]),
            max=float(values[-1]),
            **named,
            distinct=arrays.distinct(values),
            zeros=arrays.between(values, 0.0, 0.0),
            outliers=_outliers(values),
            histogram=counts,
            histogram_edges=edges,
        )


def histogram(
    values: Floats, low: float, high: float, bars: int = BARS
) -> tuple[tuple[int, ...] | None, tuple[float, ...] | None]:
    """Count sorted values in bins of one width, what lies beyond in the first and the last; none without a width."""
    with np.errstate(all="ignore"):
        edges = np.linspace(low, high, bars + 1)
    if not np.isfinite(edges).all() or (edges[1:] <= edges[:-1]).any():
        return None, None
    inner = np.searchsorted(values, edges[1:-1], side="left")
    counts = np.diff(np.r_[0, inner, len(values)])
    return tuple(map(int, counts)), tuple(map(float, edges))


def measurable(ordered: Floats) -> Floats:
    """Return those of sorted values that are not past all measure."""
    start, end = np.searchsorted(ordered, -LARGEST, side="left"), np.searchsorted(ordered, LARGEST, side="right")
    return ordered[start:end]


def _outliers(values: Floats) -> int:
    """Count the sorted values whose modified z-score is past its limit.

    Where more than half of the values are the same, the mean deviation stands for the median one.
    """
    median = arrays.percentile(values, 50)
    spread = 0.0
    if np.isfinite(median):
        spread = arrays.median_distance(values, median) / 0.6745 or 1.253314 * arrays.mean_distance(values, median)
    if not spread or not np.isfinite(spread):
        return int(arrays.between(values, -np.inf, -np.inf) + arrays.between(values, np.inf, np.inf))
    return len(values) - arrays.between(values, median - OUTLYING * spread, median + OUTLYING * spread)


def _known(value: float) -> float | None:
    return None if np.isnan(value) else value
