"""Ticks to minutes to trailing windows, and the spans of instants that are due."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featurectl.core.compute.spans import merged, within
from featurectl.core.compute.windows import Minutes, trailing

AGGREGATES = {"mean": "mean", "sum": "sum", "min": "min", "max": "max"}
# Whole numbers and halves: their sums are exact in whatever order.
numbers = st.sampled_from([math.nan, math.inf, -1.5, 0.0, 0.5, 2.0, 7.0])
ticks = st.lists(st.tuples(st.integers(0, 59), numbers), max_size=80).map(
    lambda found: sorted(found, key=lambda t: t[0])
)


def minutes_of(found: list[tuple[int, float]], first: int, pieces: list[int]) -> Minutes:
    """Return minutes ``first`` to ``first + 60``, filled a piece after the other."""
    minutes = Minutes(first, first, AGGREGATES)
    for start, end in zip([0, *pieces], [*pieces, 60], strict=True):
        minutes.extend(first + end)
        part = [(minute, value) for minute, value in found if start <= minute < end]
        if part:
            places, values = np.array([minute for minute, _ in part]), np.array([value for _, value in part])
            minutes.add(first + places, dict.fromkeys(AGGREGATES, values))
    return minutes


def by_definition(found: list[tuple[int, float]], length: int, at: int) -> dict[str, float] | None:
    """Return what the window before minute ``at`` comes to; nothing without ticks."""
    inside = [value for minute, value in found if at - length <= minute < at]
    finite = [value for value in inside if math.isfinite(value)]
    if not inside:
        return None
    if not finite:
        return dict.fromkeys(AGGREGATES, math.nan)
    return {"mean": sum(finite) / len(finite), "sum": sum(finite), "min": min(finite), "max": max(finite)}


@settings(deadline=None)
@given(ticks, st.integers(1, 25), st.integers(-70, 70), st.lists(st.integers(1, 59), max_size=3).map(sorted))
def test_windows_are_what_the_definition_says(
    found: list[tuple[int, float]], length: int, first: int, pieces: list[int]
) -> None:
    minutes = minutes_of(found, first, pieces)
    at, features = minutes.rows(length, first + length, first + 60)
    rows = {int(one): {name: float(features[name][place]) for name in features} for place, one in enumerate(at)}
    wanted = {first + one: by_definition(found, length, one) for one in range(length, 61)}
    expected = {one: row for one, row in wanted.items() if row is not None}
    assert rows.keys() == expected.keys()
    for one, row in expected.items():
        assert rows[one] == pytest.approx(row, nan_ok=True, rel=0, abs=0), one


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(-100, 100))
def test_a_window_alone_equals_itself_among_others_bit_for_bit(seed: int, length: int, first: int) -> None:
    values = np.random.default_rng(seed).normal(size=120) * 10.0 ** np.random.default_rng(seed).integers(-9, 9, 120)
    for operation in (np.add, np.minimum, np.maximum):
        whole = trailing(values, first, length, operation)
        assert len(whole) == 120 - length + 1
        for start in range(len(whole)):
            (alone,) = trailing(values[start : start + length], first + start, length, operation)
            assert alone == whole[start], (seed, operation, start)
            assert alone == pytest.approx(operation.reduce(values[start : start + length]), rel=1e-9, abs=1e-9)


def test_sums_that_overflow_are_no_numbers_and_spoil_no_other_window() -> None:
    minutes = minutes_of([(1, 1e308), (1, 1e308), (3, 2.0)], 0, [])
    at, features = minutes.rows(2, 2, 6)
    assert at.tolist() == [2, 3, 4, 5]
    assert np.isnan(features["sum"]).tolist() == [True, True, False, False]
    assert features["max"].tolist() == [1e308, 1e308, 2.0, 2.0]


def test_minutes_that_are_dropped_change_nothing_after_them() -> None:
    random = np.random.default_rng(1)
    found = [
        (int(minute), float(value))
        for minute, value in zip(np.sort(random.integers(0, 60, 200)), random.normal(size=200), strict=True)
    ]
    whole, cut = minutes_of(found, 7, []), minutes_of(found, 7, [])
    cut.drop_before(30)
    assert (cut.first, cut.end) == (30, 67)
    for name, values in whole.rows(10, 40, 67)[1].items():
        assert values.tolist() == cut.rows(10, 40, 67)[1][name].tolist()


@pytest.mark.parametrize(
    ("spans", "expected"),
    [
        ([], []),
        ([(3, 2)], []),
        ([(1, 2), (3, 4)], [(1, 4)]),
        ([(5, 9), (1, 2)], [(1, 2), (5, 9)]),
        ([(1, 9), (2, 3), (9, 12), (14, 14)], [(1, 12), (14, 14)]),
    ],
)
def test_spans_that_meet_are_one(spans: list[tuple[int, int]], expected: list[tuple[int, int]]) -> None:
    assert merged(spans) == expected


def test_spans_are_cut_to_what_is_wanted() -> None:
    assert within([(1, 4), (6, 9), (11, 12)], 3, 7) == [(3, 4), (6, 7)]
    assert within([(1, 4)], 5, 9) == []


def test_spans_hold_the_numbers_they_were_made_of() -> None:
    random = np.random.default_rng(2)
    for _ in range(200):
        spans = [(int(a), int(a + b)) for a, b in random.integers(-3, 12, (4, 2))]
        wanted = sorted({one for first, last in spans for one in range(first, last + 1)})
        assert [one for first, last in merged(spans) for one in range(first, last + 1)] == wanted
