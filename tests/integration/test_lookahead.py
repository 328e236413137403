"""`lookahead`: functions that use the future, or more of the past than the warm-up, are found; others are not."""

from __future__ import annotations

import csv
import io
import json
import shutil
import uuid
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from featurectl import reads
from featurectl.core.lookahead import Asked, Lookahead, Looked, Verdict
from featurectl.errors import DefinitionError, NotFound, UsageError
from tests.fix_database import create_database, drop_database
from tests.fix_repository import Repo
from tests.market import FEATURES, HOUR, START, VIEW, Market, put, random_bars

TICKS, SCORES = "market_features_view", "sentiment_features_view"
MARKET_FEATURES = ("bid_ask_spread", "order_book_imbalance", "trade_size_avg")
BARS = 2_600
NOW = START + BARS * HOUR
FILES = {VIEW: "indicators.py", TICKS: "market.py", SCORES: "sentiment.py"}


@pytest.fixture(scope="module")
def market(server: str, applied_repository: tuple[Path, str]) -> Iterator[Market]:
    """Two long series and a short one, ticks, and scores; nothing is computed, and no test writes to it."""
    root, template = applied_repository
    name = f"featurectl_test_lookahead_{uuid.uuid4().hex[:12]}"
    repo = Repo(root, create_database(server, name, template))
    with repo.connect() as connection:
        found = Market(repo, connection)
        random = np.random.default_rng(11)
        long = [random_bars(random, BARS, symbol=symbol) for symbol in ("BTCUSDT", "ETHUSDT")]
        found.ingest(*long, random_bars(random, 60, symbol="NEWUSDT", start=NOW - 60 * HOUR), now=NOW)
        put(connection, "trades", [trade(row) for row in range(600)])
        put(connection, "order_book", [book(row) for row in range(600)])
        put(connection, "signals", [score(row) for row in range(120)])
        yield found
    drop_database(server, name)


def trade(row: int) -> dict[str, Any]:
    time = NOW - timedelta(seconds=7 * (600 - row))
    return {
        "symbol": "BTCUSDT",
        "time": time,
        "trade_id": str(row),
        "price": 100.0,
        "size": 0.5 + row % 7,
        "side": "buy",
    }


def book(row: int) -> dict[str, Any]:
    time = NOW - timedelta(seconds=7 * (600 - row))
    return {"symbol": "BTCUSDT", "time": time, "bid": 99.0, "bid_size": 1.0 + row % 5, "ask": 101.0, "ask_size": 2.0}


def score(row: int) -> dict[str, Any]:
    return {"symbol": "BTCUSDT", "name": "news_sentiment", "time": NOW - (120 - row) * HOUR, "score": (row % 9) / 9}


@pytest.fixture
def with_code(market: Market, tmp_path: Path) -> Any:
    """Return the repository with more code in the file of a view's functions."""

    def make(view: str, code: str) -> Market:
        shutil.copytree(market.repo.root, tmp_path / "own")
        with (tmp_path / "own" / "feature_repo" / FILES[view]).open("a", encoding="utf-8") as file:
            file.write(f"\n\n{code}\n")
        return Market(Repo(tmp_path / "own", market.repo.url), market.connection)

    return make


def look(market: Market, *, now: datetime = NOW, **asked: Any) -> Lookahead:
    return reads.lookahead(market.repo.database, Asked(**asked), now=now)


def verdicts(found: Lookahead) -> dict[str, Verdict]:
    return {one.feature: one.verdict for one in found.features}


def of(found: Lookahead, feature: str) -> Looked:
    (one,) = (one for one in found.features if one.feature == feature)
    return one


@pytest.mark.parametrize("seed", range(5))
def test_the_functions_that_ship_are_clean(market: Market, seed: int) -> None:
    found = look(market, seed=seed, sample=8)
    social = dict.fromkeys(("social_sentiment", "fear_greed_index"), Verdict.UNKNOWN)
    clean = dict.fromkeys((*MARKET_FEATURES, "news_sentiment", *FEATURES), Verdict.OK)
    assert verdicts(found) == {**clean, **social}
    assert found.findings == []
    for name in (*FEATURES, *MARKET_FEATURES, "news_sentiment"):
        one = of(found, name)
        assert one.compared > 100
        for worst in (one.ahead, one.warmup):
            assert worst is not None
            assert worst.relative <= 1e-9
    assert of(found, "social_sentiment").reason == "there are no values to compare"
    assert found.notes == ("comprehensive_features_view is not looked at: its features are those of other views",)


FUTURE = {
    "the next bar": "def rsi_14(close): return np.roll(close, -1)",
    "a centred mean": "def rsi_14(close): return np.convolve(close, np.ones(5) / 5, 'same')",
    "the whole series": "def rsi_14(close): return (close - close.mean()) / close.std()",
    "the last bar": "def rsi_14(close): return close / close[-1]",
    "a backward fill": """
def rsi_14(close):
    import pandas as pd
    return pd.Series(talib.RSI(close, timeperiod=14)).bfill().to_numpy()
""",
    "the length": "def rsi_14(close): return close * len(close)",
}


@pytest.mark.parametrize("kind", FUTURE)
def test_a_function_that_uses_the_future_is_found(with_code: Any, kind: str) -> None:
    found = look(with_code(VIEW, FUTURE[kind]), features=("rsi_14", "ema_20"), sample=6)
    assert verdicts(found) == {"rsi_14": Verdict.AHEAD, "ema_20": Verdict.OK}


def test_where_it_looks_ahead_is_what_the_bars_say(with_code: Any) -> None:
    market = with_code(VIEW, FUTURE["the next bar"])
    one = of(look(market, ids=("ETHUSDT",), features=("rsi_14",), sample=10), "rsi_14")
    assert one.ahead is not None
    assert (one.ahead.entity, one.entities) == ("ETHUSDT_1h", 1)
    ((following,),) = market.repo.rows(
        "SELECT close FROM market.candles WHERE symbol = 'ETHUSDT' AND open_time = %s", one.ahead.event_timestamp
    )
    assert one.ahead.value == following, "the bar that opens where the feature's own bar closes"
    assert one.ahead.relative == pytest.approx(
        abs(one.ahead.value - one.ahead.other) / max(one.ahead.value, one.ahead.other)
    )


def test_a_feature_made_of_one_that_looks_ahead_does_too(with_code: Any) -> None:
    market = with_code(VIEW, "def rsi_14(close): return np.roll(close, -1)\n\ndef atr(rsi_14): return rsi_14 / 2")
    assert verdicts(look(market, features=("atr", "macd"), sample=4)) == {"atr": Verdict.AHEAD, "macd": Verdict.OK}


@pytest.mark.parametrize(
    "code",
    [
        "def rsi_14(close): return talib.EMA(close, timeperiod=500)",
        "def rsi_14(close): return np.cumsum(close)",
        "def rsi_14(close): return np.maximum.accumulate(close)",
        "def rsi_14(close): return talib.SMA(close, timeperiod=1500)",
    ],
)
def test_a_function_that_needs_more_than_the_warm_up_is_found(with_code: Any, code: str) -> None:
    one = of(look(with_code(VIEW, code), features=("rsi_14",), sample=12), "rsi_14")
    assert (one.verdict, one.enough) == (Verdict.WARMUP, None)
    assert one.warmup is not None
    assert one.warmup.relative > 1e-9
    assert one.warmup.detail == "with 1000 bars of warm-up"
    assert one.ahead is not None
    assert one.ahead.relative == 0


def test_the_least_warm_up_that_suffices_is_told(market: Market, with_code: Any) -> None:
    found = look(market, features=FEATURES, sample=8)
    assert of(found, "volume_sma_ratio").enough == of(found, "bollinger_bands_position").enough == 125
    assert of(found, "ema_20").enough == 250, "(19/21)^125 is 4e-6, (19/21)^250 is 1e-11"
    assert of(found, "rsi_14").enough == of(found, "atr").enough == 500, "(13/14)^250 is 9e-9"
    short = look(market, features=FEATURES, sample=8, warmup=100)
    assert verdicts(short) == {
        **dict.fromkeys(("rsi_14", "macd", "ema_20", "atr"), Verdict.WARMUP),
        **dict.fromkeys(("bollinger_bands_position", "volume_sma_ratio"), Verdict.OK),
    }
    assert look(market, features=FEATURES, sample=8, warmup=100, tolerance=0.1).findings == []


def test_an_ema_differs_by_what_its_weights_say(market: Market) -> None:
    """Behind a warm-up of n bars an EMA remembers its seed, the mean of the first 20, with weight (19/21)^(n - 19)."""
    one = of(look(market, ids=("BTCUSDT",), features=("ema_20",), sample=10, warmup=100), "ema_20").warmup
    assert one is not None
    rows = market.repo.rows(
        "SELECT open_time + interval '1 hour', close FROM market.candles WHERE symbol = 'BTCUSDT' ORDER BY open_time"
    )
    events, closes = [row[0] for row in rows], np.array([row[1] for row in rows])
    last = events.index(one.event_timestamp)

    def ema(start: int) -> float:
        value = closes[start : start + 20].mean()
        for close in closes[start + 20 : last + 1]:
            value += (close - value) * 2 / 21
        return float(value)

    assert one.other == pytest.approx(ema(last - 100), rel=1e-12)
    assert one.value == pytest.approx(ema(0), rel=1e-6)


def test_a_series_no_longer_than_the_warm_up_says_that_it_was_not_looked_at(market: Market) -> None:
    one = of(look(market, ids=("NEWUSDT_1h",), features=("ema_20",)), "ema_20")
    assert (one.verdict, one.enough) == (Verdict.OK, None)
    assert one.reason == "the warm-up is not looked at: no series is longer"


def test_a_function_that_draws_lots_is_not_repeatable(with_code: Any) -> None:
    market = with_code(VIEW, "def rsi_14(close): return np.random.default_rng().random(len(close))")
    one = of(look(market, features=("rsi_14",), sample=3), "rsi_14")
    assert one.verdict is Verdict.UNSTEADY
    assert one.ahead is not None
    assert one.ahead.detail == "computed once more"


@pytest.mark.parametrize(
    ("view", "code", "verdict"),
    [
        (TICKS, "def trade_size_avg(size): return np.roll(size, -1)", Verdict.AHEAD),
        (TICKS, "def trade_size_avg(size): return size / size.mean()", Verdict.AHEAD),
        (TICKS, "def trade_size_avg(size): return np.cumsum(size)", Verdict.PIECES),
        (TICKS, "def trade_size_avg(size): return np.diff(size, prepend=np.nan)", Verdict.PIECES),
        (SCORES, "def news_sentiment(news_sentiment): return np.roll(news_sentiment, -1)", Verdict.AHEAD),
        (SCORES, "def news_sentiment(news_sentiment): return np.fmax.accumulate(news_sentiment)", Verdict.PIECES),
    ],
)
def test_functions_of_ticks_and_scores_stand_alone(with_code: Any, view: str, code: str, verdict: Verdict) -> None:
    found = look(with_code(view, code), views=(view,), sample=5)
    assert [one.verdict for one in found.findings] == [verdict]


def test_functions_that_can_not_do_with_a_few_rows_are_looked_at_all_the_same(with_code: Any) -> None:
    found = look(with_code(VIEW, FUTURE["a centred mean"]), features=("rsi_14",), sample=3)
    assert found.findings
    assert found.notes == tuple(
        f"with {rows} bars only, feature_repo/indicators.py: rsi_14 returned shape (5,) for {rows} rows"
        for rows in (1, 2)
    )


def test_a_function_that_fails_is_an_error(with_code: Any) -> None:
    with pytest.raises(DefinitionError, match="rsi_14 returned shape"):
        look(with_code(VIEW, "def rsi_14(close): return close[1:]"), features=("rsi_14",))


def test_only_bars_that_are_closed_are_looked_at(with_code: Any) -> None:
    market = with_code(
        VIEW, "def rsi_14(close):\n    assert len(close) <= 50, 'a bar that is open'\n    return close / 2"
    )
    now = START + 50 * HOUR + HOUR / 2
    one = of(look(market, features=("rsi_14",), now=now), "rsi_14")
    assert (one.verdict, one.entities) == (Verdict.OK, 2)
    with pytest.raises(DefinitionError, match="a bar that is open"):
        look(market, features=("rsi_14",), now=START + 51 * HOUR)


def test_names_say_what_is_looked_at(market: Market) -> None:
    assert {one.view for one in look(market, service="market_analysis_service", sample=2).features} == {TICKS, SCORES}
    with pytest.raises(UsageError, match="one of them only"):
        look(market, views=("technical_indicators_view",), features=("rsi_14",))
    with pytest.raises(UsageError, match=r"no function to look at; comprehensive_features_view is not looked at"):
        look(market, views=("comprehensive_features_view",))
    with pytest.raises(NotFound, match=r"^symbol 'NOSUCH' not found"):
        look(market, ids=("NOSUCH",))


def test_the_command_shows_where_and_ends_with_1(market: Market, with_code: Any) -> None:
    env = {"FEATURECTL_NOW": NOW.isoformat()}
    clean = market.repo.json("lookahead", "--sample", "2", env=env)
    assert (clean["command"], clean["findings"], clean["warmup"]) == ("lookahead", 0, 1000)
    repo = with_code(VIEW, FUTURE["the whole series"]).repo
    words: Sequence[str] = ("lookahead", "-f", "rsi_14,atr", "--sample", "3")
    done = repo.call(*words, "--format", "table", env=env)
    assert done.returncode == 1
    assert "warning: technical_indicators_view: rsi_14 looks ahead" in done.stderr
    assert "bars after it" in done.stdout
    done = repo.call(*words, "--json", env=env)
    document = json.loads(done.stdout)["features"]
    assert [(one["feature"], one["verdict"]) for one in document] == [("rsi_14", "looks ahead"), ("atr", "ok")]
    (row, _) = csv.DictReader(io.StringIO(repo.call(*words, "--format", "csv", env=env).stdout))
    assert (row["verdict"], row["ahead_entity"]) == ("looks ahead", document[0]["ahead"]["entity"])
