"""What two readings of a value say of each other, and how far numbers are apart."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import numpy as np
import pytest

from featurectl.core.consistency.verdicts import (
    Limits,
    Row,
    Verdict,
    computed_verdicts,
    of_values,
    online_verdicts,
    relative_difference,
)
from featurectl.core.lookahead.probe import Stretch, begun_later, relative_differences, truncated

NOON = datetime(2024, 1, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
ALWAYS, TODAY = Limits(None, 1e-9), Limits(NOON - HOUR, 1e-9)


@pytest.mark.parametrize(
    ("one", "other", "verdict"),
    [
        (1.0, 1.0, Verdict.MATCH),
        (1.0, 1.0 + 9e-10, Verdict.MATCH),
        (1.0, 1.0 + 2e-9, Verdict.MISMATCH),
        (1e9, 1e9 + 0.5, Verdict.MATCH),
        (0.0, -0.0, Verdict.MATCH),
        (0.0, 1e-300, Verdict.MISMATCH),
        (1.0, -1.0, Verdict.MISMATCH),
        (None, None, Verdict.MATCH),
        (math.nan, None, Verdict.MATCH),
        (None, 1.0, Verdict.MISSING),
        (math.nan, 0.0, Verdict.MISSING),
        (1.0, None, Verdict.EXTRA),
        (math.inf, math.inf, Verdict.MATCH),
        (math.inf, -math.inf, Verdict.MISMATCH),
        (math.inf, 1.0, Verdict.MISMATCH),
        (10**12 + 1, 10**12, Verdict.MISMATCH),
        (5, 5.0, Verdict.MATCH),
        (Decimal("0.1"), 0.1, Verdict.MATCH),
        (True, False, Verdict.MISMATCH),
        ("a", "a", Verdict.MATCH),
        ("a", "b", Verdict.MISMATCH),
        ([1.0, 2.0], [1.0, 2.0 + 1e-12], Verdict.MATCH),
        ([1.0, 2.0], [1.0], Verdict.MISMATCH),
        ([1.0, 2.0], [1.0, 2.1], Verdict.MISMATCH),
        (b"x", b"x", Verdict.MATCH),
        (NOON, NOON + HOUR, Verdict.MISMATCH),
    ],
)
def test_values_are_compared_as_what_they_are(one: Any, other: Any, verdict: Verdict) -> None:
    assert of_values(one, other, 1e-9) is verdict


def test_near_zero_the_feature_s_own_size_says_what_is_small() -> None:
    assert of_values(1e-12, 2e-12, 1e-9) is Verdict.MISMATCH
    assert of_values(1e-12, 2e-12, 1e-9, scale=10.0) is Verdict.MATCH
    assert of_values(100.0, 100.001, 1e-9, scale=10.0) is Verdict.MISMATCH
    assert relative_difference(0.0, 1e-5, scale=10.0) == pytest.approx(1e-3)


def test_arrays_are_compared_as_single_numbers_are() -> None:
    random = np.random.default_rng(3)
    values = np.array([0.0, -0.0, 1.0, -1.0, 1e-12, 1e12, math.nan, *random.normal(size=20)])
    one, other = (part.ravel() for part in np.meshgrid(values, values))
    for scale in (0.0, 50.0):
        found = relative_differences(one, other, scale)
        single = [relative_difference(float(a), float(b), scale) for a, b in zip(one, other, strict=True)]
        assert found.tolist() == pytest.approx(single)


def row(hours: float, value: Any = 1.0) -> Row:
    return Row(NOON - hours * HOUR, {"f": value})


@pytest.mark.parametrize(
    ("online", "same", "newest", "limits", "verdict"),
    [
        (None, None, None, TODAY, Verdict.ABSENT),
        (None, None, row(0), TODAY, Verdict.MISSING),
        (None, None, row(0, None), TODAY, Verdict.ABSENT),
        (None, None, row(1), TODAY, Verdict.MISSING),
        (None, None, row(1.1), TODAY, Verdict.ABSENT),
        (None, None, row(1.1), ALWAYS, Verdict.MISSING),
        (row(0), None, None, TODAY, Verdict.EXTRA),
        (row(0, None), None, None, TODAY, Verdict.ABSENT),
        (row(1.1), None, None, TODAY, Verdict.ABSENT),
        (row(0), row(0), row(0), TODAY, Verdict.MATCH),
        (row(0), row(0, 2.0), row(0, 2.0), TODAY, Verdict.MISMATCH),
        (row(1), row(1), row(0), TODAY, Verdict.STALE),
        (row(1), row(1, 2.0), row(0), TODAY, Verdict.MISMATCH),
        (row(2), row(2), row(0), TODAY, Verdict.STALE),
        (row(2), None, row(0), TODAY, Verdict.STALE),
        (row(1), None, row(0), TODAY, Verdict.EXTRA),
        (row(2), row(2, 3.0), row(2, 3.0), TODAY, Verdict.ABSENT),
        (row(2), row(2, 3.0), row(2, 3.0), ALWAYS, Verdict.MISMATCH),
    ],
)
def test_online_is_judged_by_the_history(
    online: Row | None, same: Row | None, newest: Row | None, limits: Limits, verdict: Verdict
) -> None:
    assert online_verdicts(["f"], online, same, newest, limits) == {"f": verdict}


@pytest.mark.parametrize(
    ("offline", "again", "due", "verdict"),
    [
        (None, None, None, Verdict.ABSENT),
        (None, row(0), NOON, Verdict.MISSING),
        (None, None, NOON, Verdict.ABSENT),
        (None, row(2), NOON - 2 * HOUR, Verdict.ABSENT),
        (row(0), row(0), NOON, Verdict.MATCH),
        (row(0), row(0), None, Verdict.MATCH),
        (row(0), row(0, 2.0), NOON, Verdict.MISMATCH),
        (row(0), None, None, Verdict.EXTRA),
        (row(0), row(0, None), None, Verdict.EXTRA),
        (row(0, None), row(0), None, Verdict.MISSING),
        (row(1), row(1), NOON, Verdict.STALE),
        (row(1), row(1, 2.0), NOON, Verdict.MISMATCH),
        (row(2), None, NOON, Verdict.STALE),
        (row(2), None, None, Verdict.ABSENT),
    ],
)
def test_the_history_is_judged_by_what_is_computed_again(
    offline: Row | None, again: Row | None, due: datetime | None, verdict: Verdict
) -> None:
    assert computed_verdicts(["f"], offline, again, due, TODAY, {}) == {"f": verdict}


def stretch(function: Any, rows: int = 40) -> Stretch:
    values = np.arange(1.0, rows + 1)
    return Stretch("A", np.arange(rows) * 1_000_000, lambda start, end: {"f": function(values[start:end])})


def test_what_is_cut_off_is_compared_at_every_row_before_the_cut() -> None:
    assert truncated(stretch(np.cumsum), [1, 7, 39], "rows").relative("f") == 0
    found = truncated(stretch(lambda values: np.append(values[1:], np.nan)), [0, 7, 40, 99], "rows")
    assert (found.relative("f"), found.compared["f"]) == (math.inf, 7), "one cut lies within"
    worst = found.worst["f"]
    assert (worst.value, worst.other, worst.detail) == (8.0, None, "without the 33 rows after it")
    assert worst.event_timestamp == datetime(1970, 1, 1, 0, 0, 6, tzinfo=UTC)


def test_behind_the_warm_up_a_later_beginning_makes_no_difference() -> None:
    def mean_of_three(values: Any) -> Any:
        return np.array([values[max(0, place - 2) : place + 1].mean() for place in range(len(values))])

    assert begun_later(stretch(mean_of_three), [5, 20], 2, "rows").relative("f") == 0
    found = begun_later(stretch(mean_of_three), [5, 20], 1, "rows").worst["f"]
    assert (found.value, found.other) == (6.0, 6.5), "the mean of 5, 6, 7 and of 6, 7"
    assert begun_later(stretch(mean_of_three), [39], 2, "rows").compared == {}, "nothing is left to compare"
