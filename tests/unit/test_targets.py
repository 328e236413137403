"""Targets by hand: which bar is the base, which is ahead, and what becomes of the price between."""

from __future__ import annotations

import math

import numpy as np
import pytest

from featurectl.core.catalog import Catalog
from featurectl.core.targets import Bars, Target, option_for, parse_targets
from featurectl.errors import NotFound, UsageError

STEP = 100
# The bars that open at 300 and 400 are missing.
BARS = Bars(np.array([0, 100, 200, 500, 600]), np.array([10.0, 11.0, 12.0, 9.0, 18.0]))


def base_and_ahead(at: int, bars: int) -> tuple[float, float]:
    base, (ahead,) = BARS.closes(np.array([at]), STEP, [bars])
    return float(base[0]), float(ahead[0])


@pytest.mark.parametrize(
    ("at", "wanted"),
    [
        (99, math.nan),  # the first bar is not closed
        (100, 10.0),
        (199, 10.0),
        (200, 11.0),
        (300, 12.0),
        (399, 12.0),
        (400, math.nan),  # the bar that closes here is missing
        (599, math.nan),
        (600, 9.0),
        (799, 18.0),
        (800, math.nan),  # the newest bar could have another behind it
    ],
)
def test_the_base_is_the_newest_closed_bar_unless_one_is_missing_since(at: int, wanted: float) -> None:
    base, _ = base_and_ahead(at, 1)
    assert base == wanted or (math.isnan(base) and math.isnan(wanted))


def test_the_bar_ahead_is_found_by_its_time_and_not_by_counting_rows() -> None:
    assert base_and_ahead(100, 2) == (10.0, 12.0)
    assert math.isnan(base_and_ahead(100, 3)[1])
    assert base_and_ahead(100, 5) == (10.0, 9.0)
    assert base_and_ahead(100, 6) == (10.0, 18.0)
    assert math.isnan(base_and_ahead(100, 7)[1])
    assert math.isnan(base_and_ahead(400, 1)[1]), "a row without a base has no outcome"


def test_several_instants_and_distances_at_once() -> None:
    base, ahead = BARS.closes(np.array([650, 50, 150, 150]), STEP, [1, 2])
    np.testing.assert_array_equal(base, [9, np.nan, 10, 10])
    np.testing.assert_array_equal(ahead[0], [18, np.nan, 11, 11])
    np.testing.assert_array_equal(ahead[1], [np.nan, np.nan, 12, 12])


def test_a_series_without_bars_has_no_outcomes() -> None:
    base, (ahead,) = Bars(np.array([], np.int64), np.array([])).closes(np.array([0, 7]), STEP, [1])
    assert np.isnan(base).all() and np.isnan(ahead).all()


def test_outcomes_by_hand() -> None:
    base, ahead = np.array([10.0, 10.0, 10.0, np.nan, 10.0]), np.array([12.0, 10.0, 5.0, 10.0, np.nan])
    expected = {
        "forward_return": [0.2, 0, -0.5, np.nan, np.nan],
        "log_return": [math.log(1.2), 0, -math.log(2), np.nan, np.nan],
        "direction": [1, 0, -1, np.nan, np.nan],
    }
    for kind, values in expected.items():
        np.testing.assert_allclose(Target(kind, 1).outcome(base, ahead), values, rtol=1e-15, atol=1e-15)


@pytest.mark.parametrize("kind", ["forward_return", "log_return", "direction"])
def test_prices_of_nothing_give_nothing(kind: str) -> None:
    base, ahead = np.array([0.0, 10.0, -1.0, 1.0]), np.array([10.0, 0.0, 1.0, -1.0])
    assert np.isnan(Target(kind, 1).outcome(base, ahead)).all()


def test_targets_are_read_each_once_in_their_order() -> None:
    targets = parse_targets(["log_return:3", "direction:024", "log_return:3", "direction:24"])
    assert [target.name for target in targets] == ["log_return_3", "direction_24"]


@pytest.mark.parametrize("text", ["lag:3", "", "forward_return_3", "Forward_return:3"])
def test_an_unknown_kind_lists_the_choices(text: str) -> None:
    with pytest.raises(UsageError, match="write one of forward_return:N, log_return:N, direction:N"):
        parse_targets([text])


@pytest.mark.parametrize(
    "text", ["direction:0", "direction:", "direction", "direction:-1", "direction:1.5", "direction:1h"]
)
def test_a_number_of_bars_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"write direction:N with N from 1 to 1000000"):
        parse_targets([text])


def test_too_many_bars_are_refused() -> None:
    assert parse_targets(["direction:1000000"])
    with pytest.raises(UsageError, match="N from 1 to 1000000"):
        parse_targets(["direction:1000001"])


def test_a_target_is_no_feature_and_says_where_it_is_had() -> None:
    assert option_for("log_return_3") == "--target log_return:3"
    assert option_for("rsi_14") is None
    for online in (True, False):
        with pytest.raises(NotFound, match=r"`featurectl get-offline … --target forward_return:24`"):
            Catalog("p", (), (), ()).select(["forward_return_24"], online=online)
