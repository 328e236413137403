"""How far features have drifted, as a report's page shows it: the farthest first, in the words of `drift`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from featurectl.core.report.model import (
    Distribution,
    Drift,
    Missing,
    Mover,
    Verdict,
    worst,
)

if TYPE_CHECKING:
    from featurectl.core.statistics.describe import FeatureStatistics
    from featurectl.core.statistics.drift import Drift as Drifted

# Lines of a table, and charts, that a page can hold.
MOST_MOVERS, MOST_DISTRIBUTIONS = 30, 24
_FIGURES = ("rows", "null_share", "mean", "std", "p1", "p50", "p99")
_HEADS = {"null_share": "null share"}
_PRICE = "price"

Figures = Mapping[tuple[str, str, str | None], "FeatureStatistics"]


def drift_section(found: Sequence[Drifted], reference: str, now: Figures, before: Figures) -> Drift | Missing:
    """Return the section of drift; ``now`` and ``before`` are figures by view, feature and pooled entity."""
    if not any(one.reference_shares or one.psi is not None for one in found):
        reasons = dict.fromkeys(one.reason for one in found)
        return Missing(f"There is nothing to compare the window with: {next(iter(reasons), 'it has no rows')}.")
    pooled = [one for one in found if one.is_pooled and one.reference_shares and one.current_shares]
    shown = pooled or [one for one in found if one.reference_shares and one.current_shares]
    told = [one for one in found if one.psi is not None or one.null_change]
    verdicts = [verdict_of(one.verdict) for one in found]
    return Drift(
        reference=reference,
        movers=tuple(_mover(one) for one in told[:MOST_MOVERS]),
        pooled=tuple(_mover(one) for one in told if one.is_pooled)[:MOST_MOVERS],
        total=len(found),
        moved=sum(one in (Verdict.WARN, Verdict.FAIL) for one in verdicts),
        unjudged=verdicts.count(Verdict.UNKNOWN),
        verdict=worst(verdicts),
        distributions=tuple(_distribution(one, now, before) for one in shown[:MOST_DISTRIBUTIONS]),
    )


def verdict_of(text: str) -> Verdict:
    return Verdict(text) if text in list(Verdict) else Verdict.UNKNOWN


def _mover(one: Drifted) -> Mover:
    return Mover(
        view=one.view,
        feature=one.feature,
        entity=one.entity or "",
        verdict=verdict_of(one.verdict),
        psi=one.psi,
        chance=one.chance,
        ks=one.ks,
        js=one.js,
        wasserstein=one.wasserstein,
        null_change=one.null_change,
        began=one.began,
        non_stationary=one.scale == _PRICE,
        note=one.reason,
    )


def _distribution(one: Drifted, now: Figures, before: Figures) -> Distribution:
    key = (one.view, one.feature, one.entity)
    current, reference = now.get(key), before.get(key)
    figures = tuple(
        (_HEADS.get(name, name), getattr(current, name, None), getattr(reference, name, None)) for name in _FIGURES
    )
    return Distribution(
        view=one.view,
        feature=f"{one.feature} {one.entity}" if one.entity else one.feature,
        verdict=verdict_of(one.verdict),
        edges=(float("-inf"), *one.edges, float("inf")),
        reference=one.reference_shares,
        current=one.current_shares,
        figures=figures if current or reference else (),
        note="bins are of shares of the close, figures as stored" if one.scale == _PRICE else "",
    )
