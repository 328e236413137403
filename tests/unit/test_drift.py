"""How far windows of a feature are apart: measures are SciPy's, verdicts are those of cases with a known answer."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats
from scipy.signal import lfilter
from scipy.spatial import distance

from featurectl.core.catalog import Field
from featurectl.core.statistics.arrays import percentile
from featurectl.core.statistics.describe import Figures
from featurectl.core.statistics.drift import Drift, Limits, Verdict, compare, top_movers
from featurectl.core.statistics.profile import SKETCH, Profile, Sample, edges_of, profile, sketch_of
from featurectl.core.times import microseconds

Floats = NDArray[np.float64]
START = datetime(2024, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
FIELD = Field("f", "Float64", "double precision", "f", "", {})


def sample(values: Floats, start: datetime = START) -> Sample:
    """Return hourly values."""
    first = microseconds(start)
    at = first + np.arange(len(values), dtype=np.int64) * 3_600_000_000
    return Sample(None, at, np.asarray(values, dtype=np.float64), None)


def profile_of(values: Floats) -> Profile:
    one = sample(values)
    return profile("v", FIELD, one, (int(one.at[0]), int(one.at[-1])))


def drift(before: Floats, after: Floats, *, tags: dict[str, str] | None = None, **limits: Any) -> Drift:
    field = Field("f", "Float64", "double precision", "f", "", tags or {})
    later = START + len(before) * HOUR
    return compare(profile_of(before), sample(after, later), field, Limits(**limits))


def normal(count: int, seed: int) -> Floats:
    return np.random.default_rng(seed).normal(size=count)


# --- measures -------------------------------------------------------------------------------------------------------


def psi_of(before: Floats, after: Floats) -> float:
    """Compute the index by hand, over bins at the reference's 1st, 10th … 90th and 99th percentiles."""
    ranks = [0.01, *np.arange(1, 10) / 10, 0.99]
    edges = [-np.inf, *np.unique(np.quantile(before, ranks, method="inverted_cdf")), np.inf]
    total = 0.0
    for low, high in itertools.pairwise(edges):
        p, q = (max(1e-4, float(np.mean((low < one) & (one <= high)))) for one in (before, after))
        total += (q - p) * np.log(q / p)
    return total


@pytest.mark.parametrize("seed", range(5))
def test_measures_are_scipys_of_the_same_values(seed: int) -> None:
    """Of as many values as a sketch holds they are exact, of more to a thousandth of the distribution function."""
    random = np.random.default_rng(seed)
    for count in (200, SKETCH, 5_000):
        before, after = random.normal(size=count), random.normal(0.3, 1.2, size=count - 50)
        found = drift(before, after)
        slack = {"abs": 0.0021} if count > SKETCH else {"rel": 1e-12}
        assert found.psi == pytest.approx(psi_of(before, after), rel=1e-12)
        assert found.ks == pytest.approx(stats.ks_2samp(before, after).statistic, **slack)
        moved = stats.wasserstein_distance(before, after) / before.std(ddof=1)
        assert found.wasserstein == pytest.approx(moved, rel=0.02 if count > SKETCH else 1e-12)
        edges = [np.inf, *np.negative(found.edges[::-1]), np.inf]
        edges[0] = -np.inf  # negated, for numpy's bins hold their lower border, and these their upper one
        shares = [np.histogram(-one, edges)[0][::-1] / len(one) for one in (before, after)]
        assert (found.reference_shares, found.current_shares) == tuple(pytest.approx(tuple(one)) for one in shares)
        assert found.js == pytest.approx(distance.jensenshannon(*shares, base=2))
        assert found.median_shift == pytest.approx(
            (np.median(after) - np.median(before)) / before.std(ddof=1), abs=0.01 if count > SKETCH else 1e-12
        )
        assert found.spread_ratio == pytest.approx(stats.iqr(after) / stats.iqr(before), rel=0.02)
        assert (found.reference_rows, found.current_rows) == (count, count - 50)


def test_the_p_value_is_that_of_independent_rows() -> None:
    before, after = normal(400, 1), normal(300, 2) + 0.2
    wanted = stats.ks_2samp(before, after, method="asymp")
    assert drift(before, after).ks_pvalue == pytest.approx(wanted.pvalue, rel=0.15)  # SciPy's n is a rounded one


def test_a_sketch_keeps_the_distribution_to_a_thousandth() -> None:
    values = np.sort(np.random.default_rng(3).lognormal(size=12_345))
    sketch = sketch_of(values)
    assert len(sketch) == SKETCH and set(sketch) <= set(values)
    assert stats.ks_2samp(values, sketch).statistic <= 0.5 / SKETCH + 1 / len(values)
    assert list(sketch_of(values[:SKETCH])) == list(values[:SKETCH])


def test_bins_are_frozen_with_the_reference() -> None:
    """What falls out of all of them on either side counts in the outermost."""
    found = drift(normal(500, 1), np.r_[np.full(250, -99.0), np.full(250, 99.0)])
    assert found.current_shares == (0.5, *[0.0] * 10, 0.5)
    assert found.edges == profile_of(normal(500, 1)).edges


def test_a_value_that_fills_bins_has_one_of_its_own() -> None:
    values = np.sort(np.r_[np.zeros(600), normal(400, 5)])
    edges = edges_of(values)
    counts = np.histogram(values, [-np.inf, *np.nextafter(edges, np.inf), np.inf])[0]
    assert 600 in counts and len(edges) <= 11
    assert drift(values, np.r_[np.full(600, -1e-9), values[values != 0]]).verdict is Verdict.FAIL


# --- verdicts -------------------------------------------------------------------------------------------------------

CASES: dict[str, tuple[Callable[[Floats], Floats], Verdict, str]] = {
    "identical": (lambda x: x, Verdict.OK, ""),
    "shifted by 0.1 sigma": (lambda x: x + 0.1, Verdict.OK, ""),
    "shifted by 0.35 sigma": (lambda x: x + 0.37, Verdict.WARN, "median +0."),
    "shifted by half a sigma": (lambda x: x - 0.55, Verdict.FAIL, "median -0."),
    "shifted by one sigma": (lambda x: x + 1, Verdict.FAIL, "median +"),
    "widened by a third": (lambda x: x * 1.33, Verdict.WARN, "wider: spread x1."),
    "twice as wide": (lambda x: x * 2, Verdict.FAIL, "wider: spread x"),
    "a third as wide": (lambda x: x / 3, Verdict.FAIL, "narrower: spread x0.3"),
    "fat-tailed": (lambda x: stats.t.ppf(stats.norm.cdf(x), 3), Verdict.WARN, ""),
    "fat-tailed of the same deviation": (
        lambda x: stats.t.ppf(stats.norm.cdf(x), 3) / 3**0.5,
        Verdict.WARN,
        "narrower",
    ),
    "constant": (lambda x: np.full_like(x, 0.3), Verdict.FAIL, "constant"),
    "all null": (lambda x: np.full_like(x, np.nan), Verdict.FAIL, "nulls 0.0% -> 100.0%"),
    "a tenth null": (lambda x: np.where(np.arange(len(x)) % 10 == 0, np.nan, x), Verdict.WARN, "nulls 0.0% -> 10.0%"),
    "a third null": (lambda x: np.where(np.arange(len(x)) % 3 == 0, np.nan, x), Verdict.FAIL, "nulls 0.0% -> 33.3%"),
    "few rows": (lambda x: x[:99] + 5, Verdict.INSUFFICIENT, "the window has 99 rows, 100 needed"),
}


@pytest.mark.parametrize("name", CASES)
def test_constructed_windows_get_the_verdict_they_deserve(name: str) -> None:
    change, verdict, because = CASES[name]
    for seed in range(8):
        random = np.random.default_rng(seed)
        found = drift(random.normal(size=8_000), change(random.normal(size=8_000)))
        assert found.verdict is verdict, (seed, found)
        assert because in found.reason, found.reason
        assert (found.began is None) == (verdict in (Verdict.OK, Verdict.INSUFFICIENT))


def test_constants_and_nulls_of_the_reference() -> None:
    constant, nothing = np.full(500, 7.0), np.full(500, np.nan)
    same = drift(constant, constant)
    assert (same.verdict, same.psi, same.wasserstein, same.js) == (Verdict.OK, 0, 0, 0)
    for value in (6.0, 8.0, np.nextafter(7.0, 8)):
        moved = drift(constant, np.full(500, value))
        assert (moved.verdict, moved.wasserstein, moved.reason) == (
            Verdict.FAIL,
            None,
            "no longer constant, or at another value",
        )
    assert drift(nothing, nothing).verdict is Verdict.INSUFFICIENT
    assert drift(nothing, constant).reason == "nulls 100.0% -> 0.0%"
    assert drift(np.zeros(1), normal(200, 1)).reason == "the reference has 1 rows, 100 needed"


def test_infinities_are_compared_as_values() -> None:
    found = drift(normal(500, 1), np.r_[normal(300, 2), np.full(200, np.inf)])
    assert found.verdict is Verdict.FAIL and found.current_shares[-1] >= 0.4
    assert found.wasserstein is not None and np.isfinite(found.wasserstein)


def test_limits_are_those_of_flags_then_of_tags() -> None:
    before, after = normal(4_000, 1), normal(4_000, 2) + 0.37
    assert drift(before, after).verdict is Verdict.WARN
    assert drift(before, after, tags={"psi_warn": "0.2"}).verdict is Verdict.OK
    assert drift(before, after, tags={"psi_fail": "0.11"}).verdict is Verdict.FAIL
    assert drift(before, after, tags={"psi_fail": "0.05"}).verdict is Verdict.FAIL
    assert drift(before, after, tags={"psi_fail": "0.11"}, psi_warn=0.3, psi_fail=0.4).verdict is Verdict.OK
    assert drift(before[:300], after[:300], min_rows=301).verdict is Verdict.INSUFFICIENT


def test_top_movers_come_first() -> None:
    before = normal(2_000, 1)
    found = [drift(before, before + step) for step in (0, 0.4, 2, 1)] + [drift(before, before[:50])]
    verdicts = [one.verdict for one in top_movers(found)]
    assert verdicts == [Verdict.FAIL, Verdict.FAIL, Verdict.WARN, Verdict.INSUFFICIENT, Verdict.OK]
    assert top_movers(found)[0].median_shift == pytest.approx(2, abs=0.05)


@pytest.mark.parametrize("seed", range(3))
def test_the_day_it_began_is_found(seed: int) -> None:
    """Of a level, a spread, and nulls that change on a day of the window; or before it."""
    random = np.random.default_rng(seed)
    before, after = random.normal(size=24 * 60), random.normal(size=24 * 30)
    later = np.arange(len(after)) >= 24 * 20
    first = (START + 60 * timedelta(days=1)).date()
    for changed in (after + later * 1.5, after * np.where(later, 4, 1), np.where(later, np.nan, after)):
        assert abs((drift(before, changed).began or date.min) - (first + timedelta(days=20))) <= timedelta(days=1)
    assert drift(before, after + 1).began == first


# --- chance ---------------------------------------------------------------------------------------------------------


def wandering(memory: float, count: int, random: np.random.Generator) -> Floats:
    """Return an autoregression of unit deviation; ``memory`` is its correlation from row to row."""
    noise = random.normal(size=count + 1_000) * (1 - memory**2) ** 0.5
    values: Floats = lfilter([1], [1, -memory], noise)[1_000:]
    return values


@pytest.mark.parametrize("memory", [0.0, 0.8, 0.95, 0.98])
def test_clean_windows_raise_nothing(memory: float) -> None:
    """Of 100 windows, however slowly they wander: four at most; PSI alone would raise most of the slow ones."""
    alone = raised = 0
    for seed in range(100):
        values = wandering(memory, 24 * 210, np.random.default_rng(seed))
        found = drift(values[: 24 * 180], values[24 * 180 :])
        alone += found.psi >= 0.1
        raised += found.verdict in (Verdict.WARN, Verdict.FAIL)
    assert raised <= 4, f"{raised} of 100 clean windows, memory {memory}"
    if memory >= 0.95:
        assert alone >= 25  # else this shows nothing


@pytest.mark.parametrize("memory", [0.8, 0.95])
def test_what_moved_is_found_although_it_wanders(memory: float) -> None:
    found = 0
    for seed in range(25):
        values = wandering(memory, 24 * 210, np.random.default_rng(seed))
        found += drift(values[: 24 * 180], values[24 * 180 :] + 2).verdict is Verdict.FAIL
    assert found >= 24


# --- figures --------------------------------------------------------------------------------------------------------


def test_a_percentile_lies_where_numpys_does() -> None:
    values = np.sort(normal(37, 1))
    for percent in (0, 1, 5, 25, 50, 75, 95, 99, 100):
        assert percentile(values, percent) == pytest.approx(np.percentile(values, percent), rel=1e-12)


def test_figures_of_one_value_and_of_none() -> None:
    one = Figures.of(np.array([3.0]))
    assert (one.mean, one.std, one.p1, one.p99, one.distinct, one.outliers, one.histogram) == (
        3,
        None,
        3,
        3,
        1,
        0,
        None,
    )
    assert Figures.of(np.empty(0)).mean is None
