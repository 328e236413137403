"""How far a feature has moved from what it was: measures of it, and what they are worth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from featurectl.core import tags
from featurectl.core.catalog import Field
from featurectl.core.statistics import arrays
from featurectl.core.statistics.arrays import Floats, percentile
from featurectl.core.statistics.describe import DAY, measurable
from featurectl.core.statistics.profile import (
    PIECES,
    Profile,
    Sample,
    is_pooled,
    shares_of,
    sketch_of,
)
from featurectl.core.times import from_microseconds

# A bin without values has this share: else its logarithm would be infinite.
FLOOR = 1e-4
# So many times what stretches of the reference differ from its rest is no chance.
BEYOND_CHANCE = 2.5
# Nor is a PSI past these: of independent values so much is left after division by their number; and what differs by
# the second is another distribution, whatever stretches of the reference do.
BEYOND_INDEPENDENT = 12.0
NEVER_CHANCE = 1.0
# Stretches no longer than this part of a reference are told apart from its rest.
LONGEST_STRETCH = PIECES // 4
# With fewer there is no telling how much they differ.
FEWEST_STRETCHES = 8


class Verdict(StrEnum):
    """What is to be made of a feature's drift."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"
    INSUFFICIENT = "insufficient data"


# The worst first; what can't be told comes before what is well.
SEVERITY = (Verdict.FAIL, Verdict.WARN, Verdict.INSUFFICIENT, Verdict.OK)


@dataclass(frozen=True, slots=True)
class Limits:
    """From where on a difference is a warning or a failure: of PSI, and of the share of nulls; and the least sample.

    ``psi_warn`` and ``psi_fail`` left out are those of a field's tags, else 0.1 and 0.25.
    """

    psi_warn: float | None = None
    psi_fail: float | None = None
    nulls_warn: float = 0.05
    nulls_fail: float = 0.2
    min_rows: int = 100

    def psi(self, field: Field) -> tuple[float, float]:
        """Return from where on a field's PSI is a warning, and a failure."""
        warn, fail = tags.drift_limits(field)
        warn, fail = self.psi_warn or warn or 0.1, self.psi_fail or fail or 0.25
        return min(warn, fail), fail


@dataclass(frozen=True, slots=True)
class Drift:
    """A feature's values in a window against those of the reference.

    ``entity`` is one, or ``*_1h`` for all of a timeframe together, or None for all of a view without timeframes.
    ``scale`` is price for a feature in units of price, which is not stationary by construction and compared as a share
    of the close. ``reference_rows`` and ``current_rows`` count values. ``psi`` is the population stability index over
    the reference's bins, natural logarithms; ``chance`` what it reaches without any drift, by how stretches of the
    reference differ from its rest. ``ks`` is the Kolmogorov-Smirnov distance, ``ks_pvalue`` that of independent rows,
    which they seldom are. ``js`` is the Jensen-Shannon distance, 0 to 1. ``wasserstein`` and ``median_shift`` are in
    standard deviations of the reference, ``spread_ratio`` is of interquartile ranges. ``null_change`` is that of the
    share of nulls. ``began`` is the day (UTC) from which on the rows are likeliest drifted.

    ``edges`` are the inner borders of the reference's bins, (-inf, e0], (e0, e1], … (ek, inf).
    """

    view: str
    feature: str
    entity: str | None
    scale: str
    verdict: Verdict
    reason: str
    reference_rows: int
    current_rows: int
    psi: float | None = None
    chance: float | None = None
    ks: float | None = None
    ks_pvalue: float | None = None
    js: float | None = None
    wasserstein: float | None = None
    null_change: float | None = None
    median_shift: float | None = None
    spread_ratio: float | None = None
    began: date | None = None
    edges: tuple[float, ...] = ()
    reference_shares: tuple[float, ...] = ()
    current_shares: tuple[float, ...] = ()

    @property
    def name(self) -> str:
        """The feature and whose it is, as people name it."""
        return f"{self.view}:{self.feature}{f' of {self.entity}' if self.entity else ''}"

    @property
    def is_pooled(self) -> bool:
        """Whether it is of several entities together."""
        return is_pooled(self.entity)

    @property
    def told(self) -> str:
        """How far it has moved and since when, in one line."""
        measure = "" if self.psi is None else f"PSI {self.psi:.2g}, "
        return f"{measure}{self.reason}{f', since {self.began}' if self.began else ''}"


def compare(reference: Profile, current: Sample, field: Field, limits: Limits) -> Drift:
    """Return how a sample differs from a profile, and what that is worth."""
    values, rows = current.sorted(), len(current.values)
    null_change = None
    if reference.rows and rows:
        null_change = arrays.missing(current.values) / rows - reference.null_share
    judged = [_judge_nulls(reference, rows, null_change, limits)]
    measures: dict[str, float | None] = {}
    shares: Floats = np.empty(0)
    if reference.values and len(values):
        places = np.searchsorted(values, reference.edges, side="right")
        shares = shares_of(np.diff(np.r_[0, places, len(values)]).astype(np.float64))
        measures = _measures(reference, values, shares)
    judged.append(_judge_values(reference, len(values), measures, limits.psi(field), limits.min_rows))
    verdict, reason = min(judged, key=lambda one: SEVERITY.index(one[0]))
    return Drift(
        view=reference.view,
        feature=reference.feature,
        entity=reference.entity,
        scale=reference.scale,
        verdict=verdict,
        reason=reason,
        reference_rows=reference.values,
        current_rows=len(values),
        null_change=null_change,
        began=_began(reference, current) if verdict in (Verdict.WARN, Verdict.FAIL) else None,
        edges=reference.edges,
        reference_shares=tuple(map(float, reference.shares)) if reference.values else (),
        current_shares=tuple(map(float, shares)),
        **measures,
    )


def psi(reference: Floats, current: Floats) -> NDArray[np.float64]:
    """Return the population stability index of shares by bin, along the last axis."""
    before, after = np.maximum(reference, FLOOR), np.maximum(current, FLOOR)
    found: NDArray[np.float64] = ((after - before) * np.log(after / before)).sum(axis=-1)
    return found


def chance(reference: Profile, values: int) -> float:
    """Return the PSI that so many values are likely to reach without any drift.

    Rows that follow each other are alike, so that their number says little. How much a stretch of the reference, as
    long as the values, differs from all of its rest says what is usual; the largest such difference is taken, in
    measure of the two sizes, and with a margin, as long as it is not more than the number of independent values
    explains. Of clean windows about one in a hundred gets past it, however slowly a feature wanders.
    """
    counts = np.array(reference.pieces, dtype=np.float64)
    length = int(np.clip(round(PIECES * values / reference.values), 1, LONGEST_STRETCH))
    sums = np.vstack([np.zeros(counts.shape[1]), counts.cumsum(axis=0)])
    stretches = sums[length:] - sums[:-length]
    rest = sums[-1] - stretches
    sizes, others = stretches.sum(axis=1), rest.sum(axis=1)
    usable = (sizes > 0) & (others > 0)
    if not usable.any():
        return float("inf")
    differences = psi(shares_of(rest[usable]), shares_of(stretches[usable]))
    measure = 1 / sizes[usable] + 1 / others[usable]
    sizes_now = 1 / reference.values + 1 / values
    usual = BEYOND_CHANCE * float((differences / measure).max()) * sizes_now
    return min(usual, max(NEVER_CHANCE, BEYOND_INDEPENDENT * persistence(reference) * sizes_now))


def persistence(reference: Profile) -> float:
    """Return how many rows in a row say as much as one that is independent of the others; 1 at least.

    It is the variance of the mean rank of stretches, against that of as many independent ranks; of several lengths the
    largest.
    """
    counts = np.array(reference.pieces, dtype=np.float64)
    shares = reference.shares
    ranks = shares.cumsum() - shares / 2 - 0.5
    spread = float((shares * ranks**2).sum())
    found = 1.0
    while spread and len(counts) >= FEWEST_STRETCHES:
        sizes = counts.sum(axis=1)
        means = (counts @ ranks)[sizes > 0] / sizes[sizes > 0]
        number = len(means)
        if number > 1:
            found = max(found, float((sizes[sizes > 0] * means**2).sum()) / (number - 1) / spread)
        counts = counts.reshape(len(counts) // 2, 2, -1).sum(axis=1)
    return found


def _measures(reference: Profile, ordered: Floats, shares: Floats) -> dict[str, float | None]:
    """Return what tells the sorted values of a sample from a profile."""
    from scipy import stats  # 1 s
    from scipy.spatial import distance

    sketch, other = np.array(reference.sketch), sketch_of(ordered)
    ks = float(stats.ks_2samp(sketch, other, method="asymp").statistic)
    sizes = reference.values * len(ordered) / (reference.values + len(ordered))
    before, after = measurable(sketch), measurable(other)
    moved = float(stats.wasserstein_distance(before, after)) if len(before) and len(after) else None
    js = float(distance.jensenshannon(reference.shares, shares, base=2))
    return {
        "psi": float(psi(reference.shares, shares)),
        "chance": chance(reference, len(ordered)),
        "ks": ks,
        "ks_pvalue": float(stats.kstwobign.sf(ks * np.sqrt(sizes))),
        "js": 0.0 if np.isnan(js) else js,  # of shares that differ by a rounding
        "wasserstein": _in_deviations(moved, reference.std),
        "median_shift": _in_deviations(_finite(percentile(ordered, 50) - percentile(sketch, 50)), reference.std),
        "spread_ratio": _ratio(_middle_half(ordered), _middle_half(sketch)),
    }


def _finite(number: float) -> float | None:
    return float(number) if np.isfinite(number) else None


def _in_deviations(distance: float | None, deviation: float | None) -> float | None:
    """Return a distance in deviations; nothing moved is 0 in any, and more than nothing has no measure without one."""
    if not distance or distance is None:
        return distance
    return distance / deviation if deviation else None


def _middle_half(ordered: Floats) -> float:
    with np.errstate(all="ignore"):
        return percentile(ordered, 75) - percentile(ordered, 25)


def _ratio(one: float, other: float) -> float | None:
    return _finite(one / other) if other and np.isfinite(one) else None


def _judge_nulls(reference: Profile, rows: int, change: float | None, limits: Limits) -> tuple[Verdict, str]:
    """Return what the share of nulls says."""
    if change is None or min(reference.rows, rows) < limits.min_rows:
        return Verdict.INSUFFICIENT, _too_few(reference.rows, rows, limits.min_rows, "rows")
    reason = f"nulls {reference.null_share:.1%} -> {reference.null_share + change:.1%}"
    if abs(change) >= limits.nulls_fail:
        return Verdict.FAIL, reason
    return (Verdict.WARN, reason) if abs(change) >= limits.nulls_warn else (Verdict.OK, "")


def _judge_values(
    reference: Profile,
    values: int,
    measures: dict[str, float | None],
    limits: tuple[float, float],
    least: int,
) -> tuple[Verdict, str]:
    """Return what the values say."""
    if min(reference.values, values) < least:
        closes = " with a close" if reference.scale == "price" else ""
        return Verdict.INSUFFICIENT, _too_few(reference.values, values, least, f"values{closes}")
    found, usual = measures["psi"] or 0.0, measures["chance"] or 0.0
    warn, fail = limits
    if found < warn:
        return Verdict.OK, ""
    if found <= usual:
        return Verdict.INSUFFICIENT, f"a window of this length reaches PSI {usual:.2g} by chance"
    return (Verdict.FAIL if found >= fail else Verdict.WARN), _told(measures)


def _too_few(reference: int, current: int, least: int, what: str) -> str:
    if reference < least and current < least:
        return f"{reference} and {current} {what}, {least} needed"
    where, count = ("the reference", reference) if reference < least else ("the window", current)
    return f"{where} has {count} {what}, {least} needed"


def _told(measures: dict[str, float | None]) -> str:
    """Return in which way values have moved."""
    shift, ratio = measures["median_shift"], measures["spread_ratio"]
    parts = []
    if shift is None:
        parts.append("no longer constant, or at another value")
    elif abs(shift) >= 0.1:
        parts.append(f"median {shift:+.2g} sd")
    if ratio is not None and not 0.8 <= ratio <= 1.25:
        parts.append("constant" if ratio == 0 else f"{'wider' if ratio > 1 else 'narrower'}: spread x{ratio:.2g}")
    return ", ".join(parts) or "another shape"


def _began(reference: Profile, current: Sample) -> date | None:
    """Return the day from which on rows are likeliest those of the drifted distribution.

    That is where the sum over the days from there on of log-likelihood ratios, of the drifted bins against those of
    the reference, is largest. Nulls are a bin of their own. What drifted looks like is first taken from the whole
    window, and then from the days found.
    """
    days = arrays.multiples(current.at, DAY)
    counts = current.counts(reference.edges, len(days), lambda at: np.searchsorted(days, at // DAY)).astype(np.float64)
    before = np.r_[np.array(reference.pieces, dtype=np.float64).sum(axis=0), reference.rows - reference.values]
    usual = np.maximum(shares_of(before), FLOOR)
    first = 0
    for _ in range(3):
        drifted = np.maximum(shares_of(counts[first:].sum(axis=0)), FLOOR)
        gains = (counts @ np.log(drifted / usual))[::-1].cumsum()[::-1]
        first = int(gains.argmax())
    return from_microseconds(int(days[first]) * DAY).date()


def missing(reference: Profile, why: str) -> Drift:
    """Return what there is to say of a feature that one of the windows does not have."""
    return Drift(
        reference.view,
        reference.feature,
        reference.entity,
        reference.scale,
        Verdict.INSUFFICIENT,
        why,
        reference_rows=reference.values,
        current_rows=0,
    )


def unknown(view: str, field: Field, current: Sample, why: str) -> Drift:
    """Return what there is to say of a feature that the reference does not have."""
    values = len(current.compared) - arrays.missing(current.compared)
    return Drift(
        view,
        field.name,
        current.entity,
        current.scale,
        Verdict.INSUFFICIENT,
        why,
        reference_rows=0,
        current_rows=values,
    )


def top_movers(found: Sequence[Drift]) -> list[Drift]:
    """Return the worst first, and of those alike the one that moved furthest."""
    return sorted(found, key=lambda one: (SEVERITY.index(one.verdict), -(one.psi or 0.0), -abs(one.null_change or 0.0)))
