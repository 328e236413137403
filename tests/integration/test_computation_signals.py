"""Signals to features: which scores count at a quarter of an hour, and what is computed again."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pytest

from featurectl.core.compute import Computed
from featurectl.core.compute.signals import SignalJob
from featurectl.core.times import Window
from featurectl.errors import DefinitionError
from tests.market import HOUR, MICROSECOND, START, Market, bars, define, feature_rows, put, whole_table

VIEW, TABLE = "sentiment_features_view", "features.sentiment_features"
QUARTER = timedelta(minutes=15)

Rows = dict[datetime, dict[str, float | None]]


def score(time: datetime, value: float, name: str = "news_sentiment", symbol: str = "BTCUSDT") -> dict[str, Any]:
    return {"symbol": symbol, "name": name, "time": time, "score": value}


def counts(results: Iterable[Computed]) -> dict[str, tuple[int, int, int]]:
    return {one.entity: (one.stale, one.inserted, one.changed) for one in results}


def values(market: Market, feature: str = "news_sentiment", symbol: str = "BTCUSDT") -> dict[timedelta, float | None]:
    """Return one feature by the time since the start."""
    return {at - START: row[feature] for at, row in feature_rows(market, VIEW, symbol).items()}


# --- which scores count -----------------------------------------------------------------------------------------------


def test_a_score_counts_from_its_time_to_the_end_of_its_validity(market: Market) -> None:
    put(market.connection, "signals", [score(START, 0.5)])
    market.compute(now=START + 10 * HOUR)
    assert values(market) == {QUARTER * place: 0.5 for place in range(9)}  # two hours, both ends included


@pytest.mark.parametrize(("shift", "first", "last"), [(-1, 0, 7), (0, 0, 8), (1, 1, 8)])
def test_both_ends_are_exact_to_the_microsecond(market: Market, shift: int, first: int, last: int) -> None:
    put(market.connection, "signals", [score(START + shift * MICROSECOND, 0.5)])
    market.compute(now=START + 10 * HOUR)
    assert (min(values(market)), max(values(market))) == (QUARTER * first, QUARTER * last)


def test_the_newest_score_wins_and_of_equal_times_the_symbols_own(market: Market) -> None:
    put(
        market.connection,
        "signals",
        [
            score(START, 0.1, symbol="*"),
            score(START, 0.2),
            score(START + 2 * QUARTER, 0.3, symbol="*"),
            score(START + 3 * QUARTER, 0.4),
            score(START, 30.0, "fear_greed_index", symbol="*"),
        ],
    )
    market.compute(now=START + 4 * QUARTER)
    assert list(values(market).values()) == [0.2, 0.2, 0.3, 0.4, 0.4]
    assert set(values(market, "fear_greed_index").values()) == {30.0}
    assert set(values(market, "social_sentiment").values()) == {None}


def test_the_markets_scores_are_every_known_symbols(market: Market) -> None:
    """Known by candles, an order book, trades or signals of any name; later ones from the beginning."""
    tick = {"symbol": "TRADED", "time": START, "trade_id": "1", "price": 1.0, "size": 1.0, "side": None}
    quote = {"symbol": "QUOTED", "time": START, "bid": 1.0, "bid_size": 1.0, "ask": 2.0, "ask_size": 1.0}
    market.ingest(bars([1.0], symbol="CANDLED"), now=START + HOUR)
    put(market.connection, "trades", [tick])
    put(market.connection, "order_book", [quote])
    put(market.connection, "signals", [score(START, 1.0, "whims", symbol="SIGNALLED")])
    put(market.connection, "signals", [score(START, 30.0, "fear_greed_index", symbol="*")])
    market.compute(now=START + HOUR)
    rows = market.connection.execute(f"SELECT symbol, count(*) FROM {TABLE} GROUP BY 1 ORDER BY 1".encode()).fetchall()
    assert rows == [("CANDLED", 5), ("QUOTED", 5), ("SIGNALLED", 5), ("TRADED", 5)]
    market.ingest(bars([1.0], symbol="LATER"), now=START + HOUR)
    found = counts(one for one in market.compute(now=START + 2 * HOUR) if one.view == VIEW)
    assert found.pop("LATER") == (9, 9, 0)
    assert set(found.values()) == {(4, 4, 0)}


def test_without_scores_there_are_no_rows_and_no_results(market: Market) -> None:
    market.ingest(bars([1.0], symbol="CANDLED"), now=START + HOUR)
    assert [one.view for one in market.compute(now=START + HOUR)] == ["technical_indicators_view"]
    put(market.connection, "signals", [score(START, 1.0, "whims")])
    market.compute(now=START + HOUR)
    assert feature_rows(market, VIEW, "BTCUSDT") == {}


def test_a_score_of_the_future_is_not_known_yet(market: Market) -> None:
    put(market.connection, "signals", [score(START, 0.1), score(START + 20 * QUARTER, 0.2)])
    market.compute(now=START + 4 * QUARTER)
    assert set(values(market).values()) == {0.1}
    market.compute(now=START + 21 * QUARTER - MICROSECOND)
    assert values(market)[20 * QUARTER] == 0.2


# --- exact, whatever comes when ---------------------------------------------------------------------------------------

VALIDITY = {
    "news_sentiment": 2 * HOUR,
    "short": 20 * timedelta(minutes=1),
    "fear_greed_index": 36 * HOUR,
    "mood": 3 * HOUR,
    "logarithm": HOUR,
}
FIELDS = {
    "news_sentiment": {},
    "short": {"validity": "20m"},
    "fear_greed_index": {"validity": "36h"},
    "mood": {"validity": "3h"},
    "logarithm": {"validity": "1h"},
}
CODE = """
import numpy as np
def news_sentiment(news_sentiment): return news_sentiment
def short(social): return social
def fear_greed_index(fear_greed_index): return fear_greed_index
def mood(short, social, fear_greed_index): return np.where(np.isnan(short), social, 2 * short) + fear_greed_index
def logarithm(whims): return np.log(whims)
"""


def oracle(scores: Iterable[dict[str, Any]], symbol: str, now: datetime) -> Rows:
    """Return the rows that have something to say, each from the scores by themselves."""
    known = [one for one in scores if one["symbol"] in (symbol, "*")]
    rows: Rows = {}
    if not known:
        return rows

    def newest(name: str, at: datetime, validity: timedelta) -> float | None:
        candidates = [one for one in known if one["name"] == name and one["time"] <= at]
        best = max(candidates, key=lambda one: (one["time"], one["symbol"] != "*"), default=None)
        return best["score"] if best and at - best["time"] <= validity else None

    times = sorted(one["time"] for one in known)
    at = times[0].replace(minute=0, second=0, microsecond=0)
    while at <= min(now, times[-1] + 36 * HOUR):
        row = {name: newest(name, at, VALIDITY[name]) for name in ("news_sentiment", "fear_greed_index")}
        row["short"] = newest("social", at, VALIDITY["short"])
        social = newest("social", at, VALIDITY["mood"]) if row["short"] is None else 2 * row["short"]
        index = row["fear_greed_index"]
        row["mood"] = None if social is None or index is None else social + index
        whims = newest("whims", at, VALIDITY["logarithm"])
        row["logarithm"] = float(np.log(whims)) if whims is not None and whims > 0 else None
        if any(value is not None for value in row.values()):
            rows[at] = row
        at += QUARTER
    return rows


def random_scores(random: np.random.Generator, count: int) -> list[dict[str, Any]]:
    """Return scores of two symbols and the market, many at the very ends of their validities; a few long gaps."""
    edges = [timedelta(0), MICROSECOND, -MICROSECOND, *(-span for span in VALIDITY.values())]
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for _ in range(count):
        name = str(random.choice(["news_sentiment", "social", "fear_greed_index", "whims", "unheard"]))
        at = START + QUARTER * int(random.choice([random.integers(0, 150), random.integers(1000, 1050)]))
        at += edges[random.integers(len(edges))] if random.random() < 0.7 else timedelta(seconds=random.uniform(0, 900))
        symbol = str(random.choice(["*", "*", "A", "B"]))
        found[symbol, name, at] = score(at, round(float(random.normal(0.3, 1)), 3), name, symbol)
    return list(found.values())


@pytest.mark.parametrize("seed", range(6))
def test_whatever_comes_when_the_table_is_what_the_scores_say(
    market: Market, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Late and corrected scores, the symbols' own and the market's, runs of a part between them: exact after each."""
    import featurectl.core.compute.signals as module

    random = np.random.default_rng(seed)
    monkeypatch.setattr(module, "MANY_QUARTERS", int(random.choice([7, 100, 2880])))
    define(market, VIEW, FIELDS, CODE)
    market.ingest(bars([1.0], symbol="C"), now=START + HOUR)
    final = random_scores(random, 70)
    arrival = sorted(
        range(len(final)), key=lambda at: final[at]["time"] + HOUR * random.exponential(2 + 20 * (at % 9 == 0))
    )
    known: dict[tuple[Any, ...], dict[str, Any]] = {}
    now = START
    for step, part in enumerate(np.array_split(np.array(arrival), 7)):
        new = [final[place] for place in part]
        new += [{**one, "score": 0.7} for one in known.values() if random.random() < 0.1]
        new = list({(one["symbol"], one["name"], one["time"]): one for one in new}.values())
        known.update({(one["symbol"], one["name"], one["time"]): one for one in new})
        put(market.connection, "signals", new)
        now = max(now, *(one["time"] for one in new)) + timedelta(minutes=int(random.integers(0, 200)))
        if random.random() < 0.4:
            window = Window(START + HOUR * random.uniform(0, 20), START + HOUR * random.uniform(20, 300))
            market.compute(now=now, window=window, full=bool(random.random() < 0.5))
        if random.random() < 0.4:
            market.compute(now=now, symbols=(str(random.choice(["A", "C"])),) if step else ("C",))
        if random.random() < 0.7 or step == 6:
            note = f"seed {seed}, step {step}, {now}"
            market.compute(now=now)
            for symbol in ("A", "B", "C"):
                found = feature_rows(market, VIEW, symbol)
                wanted = oracle(known.values(), symbol, now)
                assert found.keys() >= wanted.keys(), f"{note}, {symbol}"
                for at, row in found.items():
                    # A row whose scores were corrected to something without a logarithm stays, and says nothing.
                    assert row == wanted.get(at, dict.fromkeys(FIELDS)), f"{note}, {symbol}, {at}"
            assert {one[0] for one in counts(market.compute(now=now)).values()} == {0}, note
            full = counts(market.compute(now=now, full=True))
            assert {one[1:] for one in full.values()} == {(0, 0)}, note
    assert market.connection.execute("SELECT count(*) FROM featurectl.changes").fetchone() == (0,)


def test_only_what_a_score_touches_is_computed_again(market: Market) -> None:
    put(market.connection, "signals", [score(START + QUARTER * place, 0.1) for place in range(400)])
    now = START + 100 * HOUR
    market.compute(now=now)
    put(market.connection, "signals", [score(START + 50 * HOUR + MICROSECOND, 0.9)])
    # 36 hours, for all that is known: the change does not say which signal it is of.
    assert counts(market.compute(now=now)) == {"BTCUSDT": (144, 0, 0)}
    put(market.connection, "signals", [score(START + 50 * HOUR, 0.9)])
    assert counts(market.compute(now=now)) == {"BTCUSDT": (145, 0, 1)}
    assert counts(market.compute(now=now + QUARTER)) == {"BTCUSDT": (1, 1, 0)}


def test_a_change_of_the_market_waits_for_every_symbol(market: Market) -> None:
    put(market.connection, "signals", [score(START, 0.1, symbol=symbol) for symbol in ("A", "B")])
    market.compute(now=START + HOUR)
    put(market.connection, "signals", [score(START, 7.0, "fear_greed_index", symbol="*")])
    assert counts(market.compute(now=START + HOUR, symbols=("A",))) == {"A": (5, 0, 5)}
    assert counts(market.compute(now=START + HOUR, symbols=("A",))) == {"A": (0, 0, 0)}
    assert market.connection.execute("SELECT count(*) FROM featurectl.changes").fetchone() == (1,)
    assert counts(market.compute(now=START + HOUR)) == {"A": (0, 0, 0), "B": (5, 0, 5)}
    assert market.connection.execute("SELECT count(*) FROM featurectl.changes").fetchone() == (0,)


def test_a_change_during_a_run_is_for_the_next(market: Market, monkeypatch: pytest.MonkeyPatch) -> None:
    put(market.connection, "signals", [score(START, 0.1)])
    original = SignalJob._compute

    def meanwhile(job: SignalJob, state: Any, changes: Any) -> Computed:
        with market.repo.connect() as connection:
            put(connection, "signals", [score(START, 0.2)])
        return original(job, state, changes)

    with monkeypatch.context() as patch:
        patch.setattr(SignalJob, "_compute", meanwhile)
        market.compute(now=START + HOUR)
    assert set(values(market).values()) == {0.1}
    assert counts(market.compute(now=START + HOUR)) == {"BTCUSDT": (5, 0, 5)}


def test_changed_functions_and_validities_make_all_rows_again(market: Market) -> None:
    """Also of the field that reads the one whose validity changed; what is valid no more is null, and not as it was."""
    code = "def first(news): return news\n\ndef second(first): return 2 * first\n\ndef third(index): return index\n"
    fields = {"first": {"validity": "2h"}, "second": {}, "third": {}}
    define(market, VIEW, fields, code)
    put(market.connection, "signals", [score(START, 1.0, "news"), score(START + 100 * 24 * HOUR, 5.0, "index")])
    now = START + 101 * 24 * HOUR
    assert counts(market.compute(now=now)) == {"BTCUSDT": (18, 18, 0)}
    define(market, VIEW, {**fields, "first": {"validity": "1h"}}, code)
    assert counts(market.compute(now=now)) == {"BTCUSDT": (18, 0, 4)}
    assert values(market, "second")[4 * QUARTER] == 2.0 and values(market, "second")[5 * QUARTER] is None
    define(market, VIEW, {**fields, "first": {"validity": "1h"}}, code.replace("2 *", "3 *"))
    assert counts(market.compute(now=now)) == {"BTCUSDT": (18, 0, 5)}
    define(market, VIEW, fields, code.replace("2 *", "3 *"))
    assert counts(market.compute(now=now, features=("second",))) == {"BTCUSDT": (18, 0, 4)}
    assert counts(market.compute(now=now, features=("first",))) == {"BTCUSDT": (18, 0, 4)}
    assert counts(market.compute(now=now)) == {"BTCUSDT": (0, 0, 0)}
    define(market, VIEW, {**fields, "third": {"validity": "1h"}}, code.replace("2 *", "3 *"))
    assert counts(market.compute(now=now, features=("third",))) == {"BTCUSDT": (18, 0, 4)}
    assert counts(market.compute(now=now, features=("third",))) == {"BTCUSDT": (0, 0, 0)}
    assert counts(market.compute(now=now)) == {"BTCUSDT": (0, 0, 0)}


def test_a_function_without_inputs_is_refused(market: Market) -> None:
    define(market, VIEW, {"first": {}}, "def first(): return 1")
    put(market.connection, "signals", [score(START, 1.0)])
    with pytest.raises(DefinitionError, match=r"sentiment\.py: first has no input; give it the name of a signal"):
        market.compute(now=START + HOUR)


def test_rows_whose_scores_are_gone_stay_as_they_are(market: Market) -> None:
    put(market.connection, "signals", [score(START + HOUR * place, 0.1 * place) for place in range(100)])
    put(
        market.connection, "signals", [score(START + 24 * HOUR * place, 30.0, "fear_greed_index") for place in range(4)]
    )
    now = START + 100 * HOUR
    market.compute(now=now)
    before = whole_table(market.connection, TABLE)
    for gone in (40 * HOUR, 100 * HOUR):
        market.connection.execute("DELETE FROM market.signals WHERE time < %s", (START + gone,))
        assert {one[1:] for one in counts(market.compute(now=now, full=True)).values()} <= {(0, 0)}
        assert whole_table(market.connection, TABLE) == before
    put(market.connection, "signals", [score(now + QUARTER, 0.5)])
    assert counts(market.compute(now=now + QUARTER)) == {"BTCUSDT": (1, 1, 0)}
