"""Which bars a stale bar takes with it, and in which spans they are computed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurectl.core.compute.bars import blocks, influenced
from featurectl.core.times import microseconds

masks = st.lists(st.booleans(), max_size=60).map(lambda flags: np.array(flags, dtype=bool))
warmups = st.integers(0, 12)


def mask(text: str) -> np.ndarray:
    return np.array([character == "x" for character in text], dtype=bool)


@pytest.mark.parametrize(
    ("stale", "warmup", "expected"),
    [
        ("", 3, ""),
        (".....", 3, "....."),
        ("x......", 3, "xxxx..."),
        ("..x....", 0, "..x...."),
        ("..x....", 2, "..xxx.."),
        ("......x", 3, "......x"),
        ("x...x..", 3, "xxxxxxx"),
        ("x....x..", 3, "xxxx.xxx"),
        ("xx......", 2, "xxxx...."),
        ("x", 1000, "x"),
    ],
)
def test_a_stale_bar_takes_the_bars_after_it_to_the_length_of_the_warm_up(
    stale: str, warmup: int, expected: str
) -> None:
    assert influenced(mask(stale), warmup).tolist() == mask(expected).tolist()


@given(masks, warmups)
def test_influence_is_what_the_definition_says(stale: np.ndarray, warmup: int) -> None:
    expected = [bool(stale[max(0, at - warmup) : at + 1].any()) for at in range(len(stale))]
    assert influenced(stale, warmup).tolist() == expected


@pytest.mark.parametrize(
    ("target", "warmup", "expected"),
    [
        ("", 3, []),
        (".....", 3, []),
        ("xxxxx", 3, [(0, 4)]),
        ("..x..", 3, [(2, 2)]),
        ("x..x..", 3, [(0, 3)]),
        ("x...x.", 3, [(0, 0), (4, 4)]),
        ("x.x", 0, [(0, 0), (2, 2)]),
    ],
)
def test_spans_that_share_a_warm_up_are_one(target: str, warmup: int, expected: list[tuple[int, int]]) -> None:
    assert blocks(mask(target), warmup) == expected


@given(masks, warmups)
def test_spans_hold_every_target_once_and_no_target_of_another_span_in_their_warm_up(
    target: np.ndarray, warmup: int
) -> None:
    spans = blocks(target, warmup)
    loaded = [range(max(0, first - warmup), last + 1) for first, last in spans]
    staged = [at for span in loaded for at in span if target[at]]
    assert staged == np.flatnonzero(target).tolist()
    assert all(target[first] and target[last] for first, last in spans)


def test_instants_are_counted_from_1970_in_utc() -> None:
    assert microseconds(datetime(1970, 1, 1, tzinfo=UTC)) == 0
    assert microseconds(datetime(1970, 1, 2, tzinfo=UTC)) == 86_400_000_000
    assert microseconds(datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)) == -1
    india = timezone(timedelta(hours=5, minutes=30))
    assert microseconds(datetime(1970, 1, 1, 5, 30, 0, 7, tzinfo=india)) == 7
