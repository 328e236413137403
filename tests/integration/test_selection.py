"""What the whole catalogue does to choosing features: names that views repeat, keys that views differ in."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from featurectl.core import offline
from featurectl.core.arrow import open_arrow
from featurectl.core.catalog import Catalog
from featurectl.core.entity import EntityId, parse_id_or_symbol
from featurectl.core.online import key_of
from featurectl.core.times import Window
from featurectl.errors import InvalidEntityId, UsageError
from tests.fix_repository import Repo
from tests.market import FEATURES, START, Market

COMPOSITE, TECHNICAL = "comprehensive_features_view", "technical_indicators_view"
MARKET, SENTIMENT = "market_features_view", "sentiment_features_view"
MARKET_FEATURES = ("bid_ask_spread", "order_book_imbalance", "trade_size_avg")
SCORES = ("news_sentiment", "social_sentiment", "fear_greed_index")
OWN = {TECHNICAL: FEATURES, MARKET: MARKET_FEATURES, SENTIMENT: SCORES}


def chosen(
    catalog: Catalog, *features: str, service: str | None = None, online: bool = False
) -> dict[str, tuple[str, ...]]:
    return {one.view.name: one.features for one in catalog.select(features, service, online=online)}


def fill(market: Market, at: datetime = START) -> None:
    """Give A and B, in 1h and 1m, one row of each view at an instant, in history and online."""
    for schema in ("features.", "online.market__"):
        suffix = "_view" if schema != "features." else ""
        for symbol in "AB":
            for timeframe in ("1h", "1m"):
                for table, names in (("technical_indicators", FEATURES), ("market_features", MARKET_FEATURES)):
                    market.connection.execute(
                        f"INSERT INTO {schema}{table}{suffix} (symbol, timeframe, event_timestamp, {', '.join(names)}) "
                        f"VALUES (%s, %s, %s{', %s' * len(names)})".encode(),
                        (symbol, timeframe, at, *range(len(names))),
                    )
            market.connection.execute(
                f"INSERT INTO {schema}sentiment_features{suffix} (symbol, event_timestamp, {', '.join(SCORES)}) "
                "VALUES (%s, %s, 7, 8, 9)".encode(),
                (symbol, at),
            )


# --- names -----------------------------------------------------------------------------------------------------------


def test_without_names_every_feature_comes_once_from_its_own_view(market: Market) -> None:
    assert chosen(market.catalog) == OWN
    assert chosen(market.catalog, online=True) == OWN


@pytest.mark.parametrize("online", [True, False])
def test_a_name_is_that_of_its_own_view(market: Market, online: bool) -> None:
    names = ("rsi_14", "news_sentiment", "trade_size_avg")
    wanted = {TECHNICAL: ("rsi_14",), SENTIMENT: ("news_sentiment",), MARKET: ("trade_size_avg",)}
    assert chosen(market.catalog, *names, online=online) == wanted


def test_a_composite_is_read_where_it_is_named(market: Market) -> None:
    assert chosen(market.catalog, f"{COMPOSITE}:rsi_14", "atr") == {COMPOSITE: ("rsi_14",), TECHNICAL: ("atr",)}
    every = (*FEATURES, *MARKET_FEATURES, *SCORES)
    assert chosen(market.catalog, service="comprehensive_training_service") == {COMPOSITE: every}
    with pytest.raises(UsageError, match=f"feature 'atr' is asked for from {COMPOSITE} and {TECHNICAL}"):
        market.catalog.select([f"{COMPOSITE}:atr", "atr"])


def test_a_feature_that_only_a_composite_has_is_its_own(market: Market) -> None:
    views = tuple(view for view in market.catalog.views if view.name != MARKET)
    catalog = replace(market.catalog, views=views)
    assert chosen(catalog, "trade_size_avg") == {COMPOSITE: ("trade_size_avg",)}
    assert chosen(catalog) == {COMPOSITE: MARKET_FEATURES, SENTIMENT: SCORES, TECHNICAL: FEATURES}


def test_a_name_that_two_own_views_have_lists_both_and_not_the_composite(market: Market) -> None:
    double = replace(market.view, name="double")
    catalog = replace(market.catalog, views=(*market.catalog.views, double))
    with pytest.raises(UsageError, match=f"'atr' is in several views; write one of {TECHNICAL}:atr, double:atr$"):
        catalog.select(["atr"])


@pytest.mark.parametrize("words", [{"service": "comprehensive_training_service"}, {"features": [f"{COMPOSITE}:atr"]}])
def test_what_is_for_training_only_is_not_served_online(market: Market, words: dict[str, str]) -> None:
    with pytest.raises(
        UsageError, match=f"'{COMPOSITE}' is for training only .* read it with `featurectl get-offline`"
    ):
        market.catalog.select(**words, online=True)


# --- keys ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["BTCUSDT", "BTC_USDT", "005930", "BTC-PERP", "A"])
def test_a_symbol_alone_is_read_as_one(text: str) -> None:
    assert parse_id_or_symbol(text) == EntityId(text, "")
    assert str(EntityId(text, "")) == text
    assert parse_id_or_symbol(f"{text}_1h") == EntityId(text, "1h")


@pytest.mark.parametrize(
    "text", ["", "_1h", "BTCUSDT_1H", "BTCUSDT_7m", "BTCUSDT_60", "BTCUSDT_", "BTC USDT", "BTC\x00"]
)
def test_what_is_meant_as_an_id_is_no_symbol(text: str) -> None:
    with pytest.raises(InvalidEntityId):
        parse_id_or_symbol(text)


def test_a_symbol_alone_is_no_key_of_bars(market: Market) -> None:
    alone = EntityId("BTCUSDT", "")
    assert key_of(market.catalog.view(SENTIMENT), alone) == ("BTCUSDT",)
    with pytest.raises(
        InvalidEntityId, match=f"for example BTCUSDT_1h: view '{MARKET}' is keyed by symbol and timeframe"
    ):
        key_of(market.catalog.view(MARKET), alone)
    selections = market.catalog.select(["news_sentiment", "atr"])
    with pytest.raises(InvalidEntityId, match=f"for example BTCUSDT_1h: view '{TECHNICAL}'"):
        offline.window_statement(selections, [EntityId("A", "1h"), alone], Window(START, START))


def test_views_of_symbols_and_of_bars_answer_together(market: Market) -> None:
    fill(market)
    selections = market.catalog.select((), "market_analysis_service", online=True)
    entities = [EntityId("A", "1m"), EntityId("A", "1h"), EntityId("C", "1h")]
    rows = market.read_online(selections, entities, as_of=START + timedelta(minutes=10))
    found = [{name: status.value for view in row.views for name, status in view.statuses.items()} for row in rows]
    both = dict.fromkeys(MARKET_FEATURES, "OUTSIDE_MAX_AGE") | dict.fromkeys(SCORES, "PRESENT")
    assert found == [both, both, dict.fromkeys((*MARKET_FEATURES, *SCORES), "NOT_FOUND")]


def test_a_window_of_symbols_alone_has_no_timeframe(market: Market) -> None:
    fill(market)
    selections = market.catalog.select((), "sentiment_service")
    entities = [EntityId("B", ""), EntityId("A", "1h"), EntityId("A", "")]
    with open_arrow(market.repo.database) as arrow:
        found = arrow.table(offline.window_statement(selections, entities, Window(START, START))).to_pylist()
    assert [tuple(row.values()) for row in found] == [
        ("B", "B", None, START, 7.0, 8.0, 9.0),
        ("A_1h", "A", "1h", START, 7.0, 8.0, 9.0),
        ("A", "A", None, START, 7.0, 8.0, 9.0),
    ]


def test_a_window_has_a_row_at_every_event_time_of_any_view(market: Market) -> None:
    fill(market)
    market.connection.execute(
        b"INSERT INTO features.market_features (symbol, timeframe, event_timestamp, trade_size_avg) "
        b"SELECT 'A', '1h', %s + n * interval '1 min', n FROM generate_series(1, 3) AS n",
        (START,),
    )
    with open_arrow(market.repo.database) as arrow:
        statement = offline.window_statement(
            market.catalog.select(), [EntityId("A", "1h")], Window(START, START + timedelta(minutes=2))
        )
        found = arrow.table(statement).to_pylist()
    assert [row["event_timestamp"] for row in found] == [START + timedelta(minutes=n) for n in range(3)]
    assert [(row["trade_size_avg"], row["rsi_14"], row["fear_greed_index"]) for row in found] == [
        (2.0, 0.0, 9.0),
        (1.0, 0.0, 9.0),
        (2.0, 0.0, 9.0),
    ]


# --- the commands ----------------------------------------------------------------------------------------------------


def test_the_commands_choose_as_the_catalog_does(market: Market, repo: Repo) -> None:
    fill(market)
    clock = {"FEATURECTL_NOW": (START + timedelta(minutes=1)).isoformat()}
    (both,) = repo.json("get-online", "A_1m", "--service", "market_analysis_service", env=clock)["results"]
    assert both["features"] == dict(zip((*MARKET_FEATURES, *SCORES), (0, 1, 2, 7, 8, 9), strict=True))
    (alone,) = repo.json("get-online", "A", "--service", "sentiment_service", env=clock)["results"]
    assert (alone["entity_id"], alone["timeframe"], alone["features"]["news_sentiment"]) == ("A", None, 7.0)
    done = repo.run("get-online", "A", env=clock)
    assert (done.returncode, "for example A_1h: view" in done.stderr) == (2, True)
    window = ("--start", START.isoformat(), "--end", "now")
    (row,) = repo.json("get-offline", "A_1h", *window, env=clock)["rows"]
    assert set(row) == {"entity_id", "symbol", "timeframe", "event_timestamp", *FEATURES, *MARKET_FEATURES, *SCORES}


def test_a_composite_shows_what_it_is_made_of(repo: Repo) -> None:
    text = repo.ok("views", COMPOSITE, "--format", "table")
    assert f"joins: {TECHNICAL} (its rows), {MARKET} (ttl 5m), {SENTIMENT} (ttl 30m)" in text
    (line,) = [line for line in text.splitlines() if line.startswith("trade_size_avg")]
    assert line.split()[:3] == ["trade_size_avg", "Float64", MARKET]
