"""Spans of whole numbers, cut where labels begin and end, against the same with sets."""

from __future__ import annotations

from itertools import groupby

import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurectl.core.compute.spans import Labelled, Span, merged, split, topmost

numbers = st.integers(-8, 30)
labels = st.lists(st.tuples(st.tuples(numbers, numbers), st.sampled_from("abc")), max_size=8)
spans = st.lists(st.tuples(numbers, numbers), max_size=8).map(merged)


def label_of(number: int, labels: list[Labelled]) -> str | None:
    return next((label for (first, last), label in labels if first <= number <= last), None)


def runs(labelled: list[tuple[int, str | None]]) -> list[tuple[Span, str | None]]:
    """Return runs of consecutive numbers with the same label."""
    places = enumerate(labelled)
    groups = [[one for _, one in group] for _, group in groupby(places, lambda at: (at[1][0] - at[0], at[1][1]))]
    return [((group[0][0], group[-1][0]), group[0][1]) for group in groups]


@pytest.mark.parametrize(
    ("spans", "labels", "expected"),
    [
        ([(0, 9)], [], [((0, 9), None)]),
        ([(0, 9)], [((3, 5), "x")], [((0, 2), None), ((3, 5), "x"), ((6, 9), None)]),
        ([(0, 9)], [((-5, 30), "x")], [((0, 9), "x")]),
        ([(0, 9)], [((3, 5), "x"), ((4, 7), "y")], [((0, 2), None), ((3, 5), "x"), ((6, 7), "y"), ((8, 9), None)]),
        ([(0, 9)], [((4, 7), "y"), ((3, 5), "x")], [((0, 2), None), ((3, 3), "x"), ((4, 7), "y"), ((8, 9), None)]),
        ([(0, 3)], [((0, 1), "x"), ((2, 3), "x")], [((0, 3), "x")]),
        ([(0, 1), (5, 6)], [((1, 5), "x")], [((0, 0), None), ((1, 1), "x"), ((5, 5), "x"), ((6, 6), None)]),
        ([(0, 3)], [((2, 1), "x")], [((0, 3), None)]),
        ([], [((0, 3), "x")], []),
    ],
)
def test_spans_are_cut_by_labels_and_the_first_label_counts(
    spans: list[Span], labels: list[Labelled], expected: list[tuple[Span, str | None]]
) -> None:
    assert split(spans, labels) == expected


@given(spans, labels)
def test_each_number_keeps_its_place_and_gets_its_label(spans: list[Span], labels: list[Labelled]) -> None:
    members = [number for first, last in spans for number in range(first, last + 1)]
    assert split(spans, labels) == runs([(number, label_of(number, labels)) for number in members])


@given(labels)
def test_the_topmost_labels_are_disjoint_and_as_wide_as_can_be(labels: list[Labelled]) -> None:
    known = [(number, label) for number in range(-9, 32) if (label := label_of(number, labels))]
    assert topmost(labels) == runs(known)
