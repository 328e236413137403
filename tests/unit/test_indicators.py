"""The six indicators: hand-computed numbers, plain-Python loops, published values, and the edges of the definition."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurectl.core.functions import CANDLE_COLUMNS, load_functions
from tests.fix_repository import CHECKOUT, DATA
from tests.market import FEATURES

FUNCTIONS = load_functions(CHECKOUT / "feature_repo" / "indicators.py", FEATURES, root=CHECKOUT)
# How many bars of a series have no value yet.
FIRST_NULLS = dict.fromkeys(FEATURES, 19) | {"rsi_14": 14, "macd": 25, "atr": 14}
PUBLISHED = DATA / "reference" / "stock_indicators_default.csv"

Optional = list[float | None]


def indicators(close: Sequence[float], **columns: Sequence[float]) -> dict[str, np.ndarray]:
    """Return the features of bars of which only the columns that matter are given."""
    given = {name: np.asarray(columns.get(name, close), dtype=np.float64) for name in CANDLE_COLUMNS}
    return FUNCTIONS.compute(given)


# --- ten numbers by hand each ----------------------------------------------------------------------------------------


def hand(name: str, first: int, numbers: Sequence[Any], close: Sequence[float], **columns: Sequence[float]) -> Any:
    assert len(numbers) == 10
    return pytest.param(name, first, [float(number) for number in numbers], close, columns, id=name)


ROOT19 = math.sqrt(19)


@pytest.mark.parametrize(
    ("name", "first", "numbers", "close", "columns"),
    [
        # On a straight line an EMA of n bars lags by (n - 1) / 2 bars.
        hand("ema_20", 19, [10.5, 11.5, 12.5, 13.5, 14.5, 15.5, 16.5, 17.5, 18.5, 19.5], range(1, 30)),
        # So the MACD is 12.5 - 5.5; a jump by 351 = 13 * 27 then moves it by 351 * (2/13 - 2/27) = 28, and what is
        # left of each part shrinks by 11/13 and 25/27 a bar.
        hand(
            "macd",
            25,
            [
                7,
                7,
                7 + 351 * (Fraction(25, 27) - Fraction(11, 13)),
                7 + 351 * (Fraction(25, 27) ** 2 - Fraction(11, 13) ** 2),
                7 + 351 * (Fraction(25, 27) ** 3 - Fraction(11, 13) ** 3),
                7 + 351 * (Fraction(25, 27) ** 4 - Fraction(11, 13) ** 4),
                7 + 351 * (Fraction(25, 27) ** 5 - Fraction(11, 13) ** 5),
                7 + 351 * (Fraction(25, 27) ** 6 - Fraction(11, 13) ** 6),
                7 + 351 * (Fraction(25, 27) ** 7 - Fraction(11, 13) ** 7),
                7 + 351 * (Fraction(25, 27) ** 8 - Fraction(11, 13) ** 8),
            ],
            [*range(1, 28), *range(28 + 351, 36 + 351)],
        ),
        # Up by 2, down by 1: after 14 changes the mean gain is 1 and the mean loss 1/2; each is then 13/14 of itself
        # plus 1/14 of the change.
        hand(
            "rsi_14",
            14,
            [
                Fraction(200, 3),
                Fraction(3000, 43),
                Fraction(39000, 587),
                Fraction(117080, 1683),
                Fraction(7610200, 114883),
                Fraction(114299000, 1647143),
                Fraction(1485887000, 22488507),
                Fraction(4465669080, 64493747),
                Fraction(290268490200, 4402920563),
                Fraction(4363805995000, 63141123543),
            ],
            [100 + at // 2 + 2 * (at % 2) for at in range(24)],
        ),
        # Nineteen bars at 0 and one at 20: mean 1, deviation sqrt(19).
        hand(
            "bollinger_bands_position",
            19,
            [0.5 + ROOT19 / 4, *[0.5 - 1 / (4 * ROOT19)] * 9],
            [*[0] * 19, 20, *[0] * 9],
        ),
        # True ranges of 2, then one gap of 14 up to a high of +16, then 2 again.
        hand(
            "atr",
            14,
            [
                2,
                2,
                3,
                Fraction(41, 14),
                Fraction(561, 196),
                Fraction(7685, 2744),
                Fraction(105393, 38416),
                Fraction(1446941, 537824),
                Fraction(19885881, 7529536),
                Fraction(273575525, 105413504),
            ],
            [*[50] * 16, *[65] * 8],
            high=[*[51] * 16, *[66] * 8],
            low=[*[49] * 16, *[64] * 8],
        ),
        # Volumes 1, 2, 3, …: the mean of the last 20 is 9.5 below the newest.
        hand(
            "volume_sma_ratio",
            19,
            [Fraction(2 * volume, 2 * volume - 19) for volume in range(20, 30)],
            [1.0] * 29,
            volume=range(1, 30),
        ),
    ],
)
def test_ten_numbers_by_hand(
    name: str, first: int, numbers: list[float], close: Sequence[float], columns: dict[str, Sequence[float]]
) -> None:
    found = indicators(close, **columns)[name][first : first + 10]
    assert found.tolist() == pytest.approx(numbers, rel=1e-13)


# --- loops -----------------------------------------------------------------------------------------------------------


def loop_ema(values: Sequence[float], period: int, first: int) -> Optional:
    """Seed with the plain mean of the ``period`` values that end at ``first``."""
    out: Optional = [None] * len(values)
    if len(values) <= first:
        return out
    average = math.fsum(values[first - period + 1 : first + 1]) / period
    out[first] = average
    for at in range(first + 1, len(values)):
        average += (values[at] - average) * 2 / (period + 1)
        out[at] = average
    return out


def loop_ema_20(bars: dict[str, list[float]]) -> Optional:
    return loop_ema(bars["close"], 20, 19)


def loop_macd(bars: dict[str, list[float]]) -> Optional:
    """TA-Lib starts the fast average where the slow one starts, at bar 25."""
    fast, slow = loop_ema(bars["close"], 12, 25), loop_ema(bars["close"], 26, 25)
    return [None if a is None or b is None else a - b for a, b in zip(fast, slow, strict=True)]


def wilder(values: Sequence[float], period: int) -> Optional:
    """Average ``values[1:]`` by Wilder's smoothing; ``values[0]`` has no predecessor and does not count."""
    out: Optional = [None] * len(values)
    if len(values) <= period:
        return out
    average = math.fsum(values[1 : period + 1]) / period
    out[period] = average
    for at in range(period + 1, len(values)):
        average = (average * (period - 1) + values[at]) / period
        out[at] = average
    return out


def loop_rsi_14(bars: dict[str, list[float]]) -> Optional:
    close = bars["close"]
    changes = [0.0, *(close[at] - close[at - 1] for at in range(1, len(close)))]
    gains = wilder([max(change, 0) for change in changes], 14)
    losses = wilder([max(-change, 0) for change in changes], 14)
    return [
        None if gain is None or loss is None else 100 * gain / (gain + loss) if gain + loss else 0.0
        for gain, loss in zip(gains, losses, strict=True)
    ]


def loop_atr(bars: dict[str, list[float]]) -> Optional:
    high, low, close = bars["high"], bars["low"], bars["close"]
    ranges = [0.0] + [
        max(high[at] - low[at], abs(high[at] - close[at - 1]), abs(low[at] - close[at - 1]))
        for at in range(1, len(close))
    ]
    return wilder(ranges, 14)


def loop_bollinger_bands_position(bars: dict[str, list[float]]) -> Optional:
    out: Optional = []
    for at, close in enumerate(bars["close"]):
        window = bars["close"][at - 19 : at + 1]
        if at < 19 or min(window) == max(window):
            out.append(None)
            continue
        mean = math.fsum(window) / 20
        deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in window) / 20)
        out.append((close - (mean - 2 * deviation)) / (4 * deviation))
    return out


def loop_volume_sma_ratio(bars: dict[str, list[float]]) -> Optional:
    out: Optional = []
    for at, volume in enumerate(bars["volume"]):
        total = math.fsum(bars["volume"][at - 19 : at + 1])
        out.append(None if at < 19 or not total else volume * 20 / total)
    return out


LOOPS: dict[str, Callable[[dict[str, list[float]]], Optional]] = {
    "rsi_14": loop_rsi_14,
    "macd": loop_macd,
    "ema_20": loop_ema_20,
    "bollinger_bands_position": loop_bollinger_bands_position,
    "atr": loop_atr,
    "volume_sma_ratio": loop_volume_sma_ratio,
}


def walk(seed: int, count: int) -> dict[str, list[float]]:
    """Return bars at exchange prices: two decimals, calm and wild stretches, bars without trades."""
    random = np.random.default_rng(seed)
    close = np.round(30_000 * np.exp(np.cumsum(random.normal(0, 0.004, count) * random.choice([0, 1, 8], count))), 2)
    return {
        "close": close.tolist(),
        "high": np.round(close * (1 + random.gamma(2, 0.002, count)), 2).tolist(),
        "low": np.round(close * (1 - random.gamma(2, 0.002, count)), 2).tolist(),
        "volume": (random.gamma(2, 50, count) * (random.random(count) > 0.1)).tolist(),
    }


@pytest.mark.parametrize("name", FEATURES)
@pytest.mark.parametrize("seed", range(5))
def test_an_indicator_is_its_loop(name: str, seed: int) -> None:
    market = walk(seed, 1200)
    found = indicators(**market)[name]  # type: ignore[arg-type]
    wanted = LOOPS[name](market)
    assert np.isnan(found).tolist() == [value is None for value in wanted]
    assert np.isnan(found).sum() >= FIRST_NULLS[name]
    # A difference of two averages is as exact as the averages.
    absolute = 1e-11 * 30_000 if name == "macd" else 1e-12
    for at, value in enumerate(wanted):
        if value is not None:
            assert found[at] == pytest.approx(value, rel=1e-9, abs=absolute), (seed, at)


# --- published values ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def published() -> dict[str, np.ndarray]:
    if not PUBLISHED.is_file():
        pytest.skip("the published indicator values (../shared/data/reference) are not on this machine")
    with PUBLISHED.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    names = [name for name in rows[0] if name != "date"]
    return {name: np.array([float(row[name] or "nan") for row in rows]) for name in names}


def published_value(name: str, values: dict[str, np.ndarray]) -> np.ndarray:
    if name == "bollinger_bands_position":
        return (values["close"] - values["bb_lower"]) / (values["bb_upper"] - values["bb_lower"])
    return values[{"ema_20": "ema20", "rsi_14": "rsi14", "atr": "atr14", "macd": "macd"}[name]]


@pytest.mark.parametrize(
    ("name", "first", "tolerance"),
    [
        ("ema_20", 0, 1e-9),
        ("rsi_14", 0, 1e-9),
        ("bollinger_bands_position", 0, 1e-9),
        ("atr", 0, 1e-9),
        # TA-Lib seeds the fast average later than the publisher does; the difference has died out by then.
        ("macd", 150, 1e-6),
    ],
)
def test_indicators_are_the_published_ones(
    published: dict[str, np.ndarray], name: str, first: int, tolerance: float
) -> None:
    columns = {column: published[column] for column in ("high", "low", "volume")}
    found = indicators(published["close"], **columns)[name][first:]  # type: ignore[arg-type]
    wanted = published_value(name, published)[first:]
    assert np.isnan(found).tolist() == np.isnan(wanted).tolist()
    known = ~np.isnan(wanted)
    assert known.sum() > 340
    deviation = np.abs(found - wanted)[known].max()
    assert deviation <= tolerance, f"largest deviation of {name}: {deviation:.2e}"


# --- edges -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FEATURES)
def test_the_first_bars_are_null_and_the_next_is_not(name: str) -> None:
    found = np.isnan(indicators(**walk(1, 60))[name])  # type: ignore[arg-type]
    assert found[: FIRST_NULLS[name]].all()
    assert not found[FIRST_NULLS[name]]


@pytest.mark.parametrize("name", FEATURES)
@pytest.mark.parametrize("shortfall", [0, 1, "all but one"])
def test_a_series_too_short_is_null_throughout(name: str, shortfall: int | str) -> None:
    length = 1 if isinstance(shortfall, str) else FIRST_NULLS[name] - shortfall
    found = indicators(**walk(2, length))[name]  # type: ignore[arg-type]
    assert len(found) == length and np.isnan(found).all()


@pytest.mark.parametrize("price", [0.1, 1 / 3, 27_123.45, 1e-8, 1e12])
def test_a_band_without_width_has_no_position(price: float) -> None:
    """Also where the mean of twenty equal prices is not that price in floating point, and after wild times."""
    found = indicators([*walk(3, 50)["close"], *[price] * 60, price * 1.01])["bollinger_bands_position"]
    assert not np.isnan(found[19:69]).any()
    assert np.isnan(found[69:110]).all()
    assert found[110] == pytest.approx(0.5 + ROOT19 / 4, rel=1e-6)


def test_volume_has_no_ratio_to_a_mean_of_nothing() -> None:
    """Also after volumes whose running sum would leave a remainder."""
    volume = [*[0.1, 0.7, 1e9, 1 / 3] * 10, *[0.0] * 25, 5.0]
    found = indicators([1.0] * len(volume), volume=volume)["volume_sma_ratio"]
    assert not np.isnan(found[19:59]).any()
    assert np.isnan(found[59:65]).all()
    assert found[65] == 20


def test_a_bar_without_trades_has_ratio_zero_where_others_traded() -> None:
    found = indicators([1.0] * 21, volume=[*[10.0] * 20, 0.0])["volume_sma_ratio"]
    assert found[19:].tolist() == [1.0, 0.0]


@given(
    st.lists(st.floats(1e-6, 1e9, allow_nan=False), min_size=30, max_size=90),
    st.integers(1, 90),
    st.lists(st.floats(0, 1e12), min_size=90, max_size=90),
)
def test_no_indicator_looks_ahead_and_none_is_infinite(closes: list[float], cut: int, volumes: list[float]) -> None:
    """Cutting the future off changes no bit of an earlier value."""
    columns = {"high": [price * 1.5 for price in closes], "low": [price / 2 for price in closes]}
    columns["volume"] = volumes[: len(closes)]
    whole = indicators(closes, **columns)
    past = indicators(closes[:cut], **{name: values[:cut] for name, values in columns.items()})
    for name in FEATURES:
        assert not np.isinf(whole[name]).any()
        assert whole[name][:cut].tobytes() == past[name].tobytes(), name
