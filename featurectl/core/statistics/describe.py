"""The figures of features over rows: one line a feature, or one for each entity, timeframe or day of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featurectl.core.arrow import ArrowConnection
from featurectl.core.catalog import Field, Selection
from featurectl.core.db import Connection
from featurectl.core.entity import EntityId
from featurectl.core.statistics.rows import Codes, Floats, Rows, open_rows
from featurectl.core.times import ALWAYS, EPOCH, Window, from_microseconds, microseconds

DAY = 86_400_000_000
PERCENTILES = (1, 5, 25, 50, 75, 95, 99)
# Beyond it a square no longer fits a float64; such values, infinities among them, are left out of mean and deviation.
LARGEST = 1e150
# Modified z-scores past this are outliers (Iglewicz and Hoaglin).
OUTLYING = 3.5
BARS = 12


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

    places: NDArray[np.int64] | None
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
    found = []
    for field in rows.fields:
        values = rows.values(field.name)
        found += [_of_group(rows, field, values, group, extent, now) for group, extent in parts]
    return found


@dataclass(frozen=True, slots=True)
class _Extent:
    """The entities of a group's rows, by their codes, and the first and last event time."""

    entities: NDArray[np.int64]
    first: datetime | None
    last: datetime | None

    @classmethod
    def of(cls, rows: Rows, group: Group) -> _Extent:
        at, entity = (_part(one, group) for one in (rows.at, rows.entity))
        if not len(at):
            return cls(np.empty(0, dtype=np.int64), None, None)
        return cls(np.flatnonzero(np.bincount(entity)), from_microseconds(at.min()), from_microseconds(at.max()))


def groups(rows: Rows, by: By | None) -> Iterator[Group]:
    """Yield the rows that are looked at together: all of them, or those of each entity, timeframe or day, sorted."""
    if by is None:
        yield Group(None)
    elif by is By.ENTITY:
        yield from (Group(places, entity=name or None) for name, places in labelled(rows.entity, rows.entities))
    elif by is By.TIMEFRAME:
        yield from (Group(places, timeframe=name or None) for name, places in labelled(rows.timeframe, rows.timeframes))
    else:
        days, codes = np.unique(rows.at // DAY, return_inverse=True)
        names = [from_microseconds(int(one) * DAY).date() for one in days]
        yield from (Group(places, day=names[code]) for code, places in split(codes, len(days)))


def labelled(codes: Codes, labels: Sequence[str]) -> Iterator[tuple[str, NDArray[np.int64]]]:
    """Yield each label with the places of its rows, in the order of labels."""
    parts = dict(split(codes, len(labels)))
    for code in sorted(parts, key=lambda code: labels[code]):
        yield labels[code], parts[code]


def split(codes: NDArray[np.integer], count: int) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Yield each code there is with the places of its rows, which keep their order."""
    small = codes.astype(np.uint16) if count < 2**16 else codes  # numpy sorts short integers by counting them
    order = np.argsort(small, kind="stable")
    counts = np.bincount(codes, minlength=count)
    ends = counts.cumsum()
    for code in np.flatnonzero(counts):
        yield int(code), order[ends[code] - counts[code] : ends[code]]


def _part(values: NDArray[Any], group: Group) -> NDArray[Any]:
    return values if group.places is None else values[group.places]


def _of_group(
    rows: Rows, field: Field, values: Floats, group: Group, extent: _Extent, now: datetime
) -> FeatureStatistics:
    values = _part(values, group)
    there = ~np.isnan(values)
    count, present = len(values), int(np.count_nonzero(there))
    age, stale = (None, None) if group.day else _ages(rows, group, there, extent, now)
    figures = Figures.of(values[there]) if field.name in rows.numeric else Figures()
    return FeatureStatistics(
        view=rows.view.name,
        feature=field.name,
        value_type=field.value_type,
        entity=group.entity,
        timeframe=group.timeframe,
        day=group.day,
        rows=count,
        nulls=count - present,
        null_share=(count - present) / count if count else None,
        **{name: getattr(figures, name) for name in Figures.__slots__},
        entities=len(extent.entities),
        stale_entities=stale,
        first_event_timestamp=extent.first,
        last_event_timestamp=extent.last,
        age_seconds=age,
        ttl_seconds=rows.view.ttl_seconds or None,
    )


def _ages(
    rows: Rows, group: Group, there: NDArray[np.bool_], extent: _Extent, now: datetime
) -> tuple[float | None, int | None]:
    """Return how old the newest value is, and of how many entities it is older than the TTL, or not there at all."""
    at, of = (_part(one, group)[there] for one in (rows.at, rows.entity))
    newest = np.full(len(rows.entities), microseconds(EPOCH) - DAY * 36_500, dtype=np.int64)
    np.maximum.at(newest, of, at)
    instant = microseconds(now)
    stale = None
    if rows.view.ttl is not None:
        oldest = instant - int(rows.view.ttl_seconds * 1e6)
        stale = int(np.count_nonzero(newest[extent.entities] < oldest))
    return (float(instant - at.max()) / 1e6 if len(at) else None), stale


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
        percentiles = [percentile(values, one) for one in PERCENTILES]
        named = dict(zip((f"p{one}" for one in PERCENTILES), map(_known, percentiles), strict=True))
        counts, edges = histogram(values, percentiles[0], percentiles[-1])
        mean, std = _moments(values)
        return cls(
            mean=mean,
            std=std,
            min=float(values[0]),
            max=float(values[-1]),
            **named,
            distinct=1 + int(np.count_nonzero(values[1:] != values[:-1])),
            zeros=_between(values, 0.0, 0.0),
            outliers=_outliers(values),
            histogram=counts,
            histogram_edges=edges,
        )


def percentile(values: Floats, percent: float) -> float:
    """Return a percentile of sorted values; between two of them it lies on the line."""
    place = (len(values) - 1) * percent / 100
    below = int(place)
    low, high = float(values[below]), float(values[min(below + 1, len(values) - 1)])
    with np.errstate(all="ignore"):
        return low if low == high or place == below else float(low + (np.float64(high) - low) * (place - below))


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


def _moments(values: Floats) -> tuple[float | None, float | None]:
    """Return mean and deviation of sorted values, those past all measure left out."""
    start, end = np.searchsorted(values, -LARGEST, side="left"), np.searchsorted(values, LARGEST, side="right")
    usual = values[start:end]
    if not len(usual):
        return None, None
    return float(usual.mean()), float(usual.std(ddof=1)) if len(usual) > 1 else None


def _between(values: Floats, low: float, high: float) -> int:
    """Count the sorted values in a range, both ends included."""
    return int(np.searchsorted(values, high, side="right") - np.searchsorted(values, low, side="left"))


def _outliers(values: Floats) -> int:
    """Count the sorted values whose modified z-score is past its limit.

    Where more than half of the values are the same, the mean deviation stands for the median one.
    """
    median = percentile(values, 50)
    with np.errstate(all="ignore"):
        away = np.abs(values - median)
        spread = float(np.median(away)) / 0.6745
        if not spread:
            finite = away[np.isfinite(away)]
            spread = 1.253314 * float(finite.mean()) if len(finite) else 0.0
    if not spread or not np.isfinite(spread):
        return int(np.count_nonzero(np.isinf(values)))
    return len(values) - _between(values, median - OUTLYING * spread, median + OUTLYING * spread)


def _known(value: float) -> float | None:
    return None if np.isnan(value) else value
