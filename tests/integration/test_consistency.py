"""`consistency`: what is online, the history, and what is computed again, compared for a sample of entities."""

from __future__ import annotations

import asyncio
import csv
import io
import random
import shutil
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from featurectl import reads
from featurectl.core.catalog import Selection, View
from featurectl.core.consistency import Asked, Consistency, Difference, Pair, Tally, Verdict, find_differences
from featurectl.core.consistency import run as running
from featurectl.core.consistency.run import Setting
from featurectl.core.entity import EntityId
from featurectl.core.materialize import choose_views, materialize
from featurectl.core.serving.answer import Entities, Request, ViewAnswer
from featurectl.core.times import ALWAYS
from featurectl.errors import DefinitionError, InvalidEntityId, NotFound, UsageError
from featurectl.manager import FeastFeatureStoreManager
from tests.fix_database import create_database, drop_database
from tests.fix_foreign import NOW as FOREIGN_NOW
from tests.fix_foreign import ForeignRepo
from tests.fix_repository import Repo
from tests.market import FEATURES, HOUR, START, TECHNICAL, VIEW, Market, bars, define, put, random_bars

MINUTE, SECOND = timedelta(minutes=1), timedelta(seconds=1)
TICKS, SCORES, COMPOSITE = "market_features_view", "sentiment_features_view", "comprehensive_features_view"
BARS = 70
CLOSE = START + BARS * HOUR
NOW = CLOSE + 5 * MINUTE
TICKS_FROM = CLOSE - 10 * MINUTE
TABLES = [f"market.{name}" for name in ("candles", "order_book", "trades", "signals")]
TABLES += [f"features.{name}" for name in ("technical_indicators", "market_features", "sentiment_features")]
TABLES += [f"online.market__{view}" for view in (VIEW, TICKS, SCORES)]
ONLINE = f"online.market__{VIEW}"
MATCHES = ((Pair.ONLINE, 5 * 6 - 6), (Pair.COMPUTED, 5 * 6 - 6))


@pytest.fixture(scope="module")
def filled(server: str, applied_repository: tuple[Path, str]) -> Iterator[Market]:
    """A market of candles, ticks and scores, computed and online at NOW, and a copy of its tables."""
    root, template = applied_repository
    name = f"featurectl_test_consistency_{uuid.uuid4().hex[:12]}"
    repo = Repo(root, create_database(server, name, template))
    with repo.connect() as connection:
        market = Market(repo, connection)
        fill(market)
        connection.execute(b"CREATE SCHEMA saved")
        for table in TABLES:
            connection.execute(f"CREATE TABLE saved.{table.replace('.', '_')} AS TABLE {table}".encode())
        yield market
    drop_database(server, name)


@pytest.fixture
def market(filled: Market) -> Iterator[Market]:
    """The market, as it was."""
    yield Market(filled.repo, filled.connection)
    with filled.connection.transaction():
        for table in TABLES:
            saved = f"saved.{table.replace('.', '_')}"
            filled.connection.execute(f"DELETE FROM {table}".encode())
            filled.connection.execute(f"INSERT INTO {table} SELECT * FROM {saved}".encode())


@pytest.fixture
def apart(repo: Repo) -> Iterator[Market]:
    """A market whose tables and views a test may alter."""
    with repo.connect() as connection:
        yield Market(repo, connection)


def fill(market: Market) -> None:
    generator = np.random.default_rng(7)
    market.ingest(
        *(random_bars(generator, BARS, symbol=symbol) for symbol in ("BTCUSDT", "ETHUSDT", "SOLUSDT")),
        random_bars(generator, BARS, timeframe="15m", start=CLOSE - BARS * 15 * MINUTE),
        random_bars(generator, BARS - 20, symbol="OLDUSDT"),
        now=NOW,
    )
    put(market.connection, "order_book", [_book(TICKS_FROM + 7 * SECOND * row, row) for row in range(120)])
    put(market.connection, "trades", [_trade(TICKS_FROM + 5 * SECOND * row, row) for row in range(160)])
    days = [_score("*", "fear_greed_index", START + 24 * HOUR * day, 40 + day) for day in (0, 1, 2)]
    put(market.connection, "signals", [*days, _score("BTCUSDT", "news_sentiment", CLOSE - 30 * MINUTE, 0.25)])
    market.compute(now=NOW)
    bring_online(market)


def _book(time: datetime, row: int) -> dict[str, Any]:
    return {
        "symbol": "BTCUSDT",
        "time": time,
        "bid": 99.0 - row % 3,
        "bid_size": 1.0 + row % 5,
        "ask": 101.0,
        "ask_size": 2.0,
    }


def _trade(time: datetime, row: int) -> dict[str, Any]:
    return {
        "symbol": "BTCUSDT",
        "time": time,
        "trade_id": str(row),
        "price": 100.0,
        "size": 0.5 + row % 7,
        "side": "buy",
    }


def _score(symbol: str, name: str, time: datetime, score: float) -> dict[str, Any]:
    return {"symbol": symbol, "name": name, "time": time, "score": score}


def bring_online(market: Market, *, now: datetime = NOW) -> None:
    materialize(market.connection, "market", choose_views(market.catalog, ()), ALWAYS, now=now)


def look(market: Market, *, now: datetime = NOW, **asked: Any) -> Consistency:
    return reads.consistency(market.repo.database, Asked(**asked), now=now, find=lambda *_: market.catalog)


def tally(found: Consistency, pair: Pair, view: str = VIEW) -> Tally:
    (one,) = (one for one in found.tallies if one.view == view and one.pair is pair)
    return one


def told(found: Consistency) -> dict[tuple[str, str], tuple[str | None, str | None]]:
    """Return the verdicts of what differs, by entity and feature: online, recomputed."""
    return {
        (one.entity, one.feature): (one.online_verdict, one.computed_verdict)
        for one in found.differences
        if one.view != COMPOSITE
    }


def change(market: Market, statement: str, *parameters: Any) -> None:
    assert market.connection.execute(statement.encode(), parameters).rowcount == 1


# --- clean data ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(8))
def test_clean_data_raise_nothing_whatever_the_sample(market: Market, seed: int) -> None:
    instant = NOW - random.Random(seed).randrange(0, 8) * 7 * MINUTE
    for as_of in (None, instant):
        found = look(market, sample=2, seed=seed, as_of=as_of)
        assert (found.findings(), found.differences, found.notes) == (0, (), ())
        assert tally(found, Pair.ONLINE).entities == 2
        assert tally(found, Pair.COMPUTED).of == 5


def test_counts_are_of_values_and_what_has_none_is_absent(market: Market) -> None:
    found = look(market)
    for pair, matches in MATCHES:
        one = tally(found, pair)
        assert (one.entities, one.of, one.features, one.match, one.absent) == (5, 5, 6, matches, 6), "OLDUSDT is stale"
    assert (tally(found, Pair.ONLINE, TICKS).match, tally(found, Pair.COMPUTED, TICKS).match) == (12, 12)
    assert tally(found, Pair.ONLINE, SCORES).match == 4 * 3, "a score of the whole market is every symbol's"
    assert tally(found, Pair.COMPUTED, COMPOSITE).match == 5 * 12, "its own TTL is a day"
    assert tally(found, Pair.ONLINE, COMPOSITE).reason == "for training only (online=False)"


def test_the_same_seed_takes_the_same_entities(market: Market) -> None:
    market.connection.execute(f"UPDATE {ONLINE} SET rsi_14 = rsi_14 + 1".encode())

    def taken(seed: int) -> set[str]:
        found = look(market, views=(VIEW,), sample=2, seed=seed, allow_stale=True)
        return {one.entity for one in found.differences}

    assert taken(1) == taken(1)
    assert len({frozenset(taken(seed)) for seed in range(8)}) > 2


# --- planted faults --------------------------------------------------------------------------------------------------


def test_an_altered_online_value_is_a_mismatch(market: Market) -> None:
    change(market, f"UPDATE {ONLINE} SET macd = macd + 1 WHERE symbol = 'ETHUSDT'")
    found = look(market)
    assert told(found) == {("ETHUSDT_1h", "macd"): (Verdict.MISMATCH, Verdict.MATCH)}
    (one,) = found.differences
    assert one.online == pytest.approx(one.offline + 1)
    assert one.recomputed == pytest.approx(one.offline, rel=1e-9)
    assert one.online_event == one.offline_event == one.recomputed_event == CLOSE
    assert (one.online_status, one.online_source) == ("PRESENT", "online")
    assert found.findings() == 1
    assert found.findings([Verdict.MISMATCH]) == 0


def test_a_deleted_online_row_is_missing(market: Market) -> None:
    change(market, f"DELETE FROM {ONLINE} WHERE symbol = 'SOLUSDT'")
    found = look(market)
    assert told(found) == {("SOLUSDT_1h", name): (Verdict.MISSING, Verdict.MATCH) for name in FEATURES}
    assert {(one.online, one.online_event, one.online_status) for one in found.differences} == {
        (None, None, "NOT_FOUND")
    }


def test_an_empty_online_table_is_missing_although_callers_are_served(market: Market) -> None:
    market.connection.execute(f"DELETE FROM {ONLINE}".encode())
    found = look(market, views=(VIEW,))
    assert set(told(found).values()) == {(Verdict.MISSING, Verdict.MATCH)}
    assert {one.online_source for one in found.differences} == {"timescaledb"}
    assert found.notes == (f"{VIEW}: the online table of view '{VIEW}' is empty; run `featurectl materialize`",)


def test_a_deleted_row_of_the_history_makes_the_online_one_extra(market: Market) -> None:
    change(market, f"DELETE FROM {TECHNICAL} WHERE symbol = 'ETHUSDT' AND event_timestamp = %s", CLOSE)
    found = look(market, views=(VIEW,), as_of=CLOSE)
    assert told(found) == {("ETHUSDT_1h", name): (Verdict.EXTRA, Verdict.STALE) for name in FEATURES}
    assert {one.offline_event for one in found.differences} == {CLOSE - HOUR}, (
        "as of the TTL's end the one before serves"
    )
    later = look(market, views=(VIEW,))
    assert set(told(later).values()) == {(Verdict.EXTRA, Verdict.STALE)}, "and after that none does"


def test_an_older_online_row_is_stale_and_not_a_mismatch(market: Market) -> None:
    older = f"UPDATE {ONLINE} AS o SET (event_timestamp, {', '.join(FEATURES)}) = (SELECT event_timestamp, "
    older += f"{', '.join(FEATURES)} FROM {TECHNICAL} AS t WHERE t.symbol = o.symbol AND t.timeframe = o.timeframe AND "
    older += "t.event_timestamp = %s) WHERE symbol = 'ETHUSDT'"
    change(market, older, CLOSE - HOUR)
    for instant in (CLOSE, NOW):  # the older row still served, and past its TTL
        found = look(market, views=(VIEW,), now=instant)
        assert told(found) == {("ETHUSDT_1h", name): (Verdict.STALE, Verdict.MATCH) for name in FEATURES}
        assert {(one.online_event, one.offline_event) for one in found.differences} == {(CLOSE - HOUR, CLOSE)}
        assert (found.findings(), found.findings([Verdict.STALE])) == (6, 0)
    change(market, f"UPDATE {ONLINE} SET atr = 0.5 WHERE symbol = 'ETHUSDT'")
    verdicts = told(look(market, views=(VIEW,)))
    assert verdicts["ETHUSDT_1h", "atr"][0] is Verdict.MISMATCH, "it never was what the history says of that hour"
    assert verdicts["ETHUSDT_1h", "macd"][0] is Verdict.STALE


def test_an_altered_value_of_the_history_is_not_what_its_candles_give(market: Market) -> None:
    where = "WHERE symbol = 'BTCUSDT' AND timeframe = '1h' AND event_timestamp = %s"
    change(market, f"UPDATE {TECHNICAL} SET ema_20 = ema_20 * 1.00001 {where}", CLOSE)
    found = look(market)
    assert told(found) == {("BTCUSDT_1h", "ema_20"): (Verdict.MISMATCH, Verdict.MISMATCH)}
    assert look(market, tolerance=1e-4).findings() == 0
    bring = [one for one in found.differences if one.view == VIEW]
    assert bring[0].recomputed == bring[0].online


def test_an_altered_candle_shows_in_what_is_computed_again(market: Market) -> None:
    where = "WHERE symbol = 'SOLUSDT' AND open_time = %s"
    change(market, f"UPDATE market.candles SET volume = volume + 1000 {where}", CLOSE - 5 * HOUR)
    found = look(market)
    assert told(found) == {("SOLUSDT_1h", "volume_sma_ratio"): (Verdict.MATCH, Verdict.MISMATCH)}
    (one,) = (one for one in found.differences if one.view == VIEW)
    rows = market.repo.rows("SELECT volume FROM market.candles WHERE symbol = 'SOLUSDT' ORDER BY open_time")
    volume = pd.Series([float(value) for (value,) in rows])
    assert one.recomputed == pytest.approx((volume / volume.rolling(20).mean()).iloc[-1], rel=1e-12)


def test_a_deleted_candle_makes_the_history_extra_and_a_new_one_makes_it_stale(market: Market) -> None:
    change(market, "DELETE FROM market.candles WHERE symbol = 'SOLUSDT' AND open_time = %s", CLOSE - HOUR)
    assert told(look(market, views=(VIEW,))) == {
        ("SOLUSDT_1h", name): (Verdict.MATCH, Verdict.EXTRA) for name in FEATURES
    }
    market.ingest(bars([100.0], symbol="ETHUSDT", start=CLOSE), now=NOW + HOUR)
    now = CLOSE + HOUR
    verdicts = told(look(market, views=(VIEW,), now=now))
    assert {verdicts["ETHUSDT_1h", name] for name in FEATURES} == {(Verdict.MATCH, Verdict.STALE)}


def test_a_series_that_was_never_computed_is_missing(market: Market) -> None:
    market.ingest(bars([100.0 + row for row in range(40)], symbol="NEWUSDT", start=CLOSE - 40 * HOUR), now=NOW)
    found = look(market, views=(VIEW,), ids=("NEWUSDT",))
    assert told(found) == {("NEWUSDT_1h", name): (Verdict.ABSENT, Verdict.MISSING) for name in FEATURES}
    assert {(one.offline, one.recomputed_event) for one in found.differences} == {(None, CLOSE)}


def test_nulls_match_nulls_and_differ_from_values(market: Market) -> None:
    change(market, f"UPDATE {ONLINE} SET rsi_14 = NULL, atr = 'NaN' WHERE symbol = 'ETHUSDT'")
    where = "WHERE symbol = 'ETHUSDT' AND event_timestamp = %s"
    change(market, f"UPDATE {TECHNICAL} SET macd = NULL, atr = 'NaN' {where}", CLOSE)
    assert told(look(market, views=(VIEW,))) == {
        ("ETHUSDT_1h", "rsi_14"): (Verdict.MISSING, Verdict.MATCH),
        ("ETHUSDT_1h", "macd"): (Verdict.EXTRA, Verdict.MISSING),
        ("ETHUSDT_1h", "atr"): (Verdict.MATCH, Verdict.MISSING),
    }


def test_features_of_ticks_are_computed_again_from_the_ticks(market: Market) -> None:
    size = "UPDATE market.trades SET size = size + 1 WHERE time = %s"
    change(market, size, TICKS_FROM + 5 * SECOND * 158)
    found = look(market, views=(TICKS,))
    trades = [one for one in found.differences if one.entity == "BTCUSDT_5m"]
    assert [(one.feature, one.online_verdict, one.computed_verdict) for one in trades] == [
        ("trade_size_avg", Verdict.MATCH, Verdict.MISMATCH)
    ]
    event = trades[0].offline_event
    assert event is not None
    sizes = market.repo.rows(
        "SELECT size::float8 FROM market.trades WHERE time >= %s AND time < %s", event - 5 * MINUTE, event
    )
    assert trades[0].recomputed == pytest.approx(np.mean(sizes), rel=1e-12)
    put(market.connection, "order_book", [_book(CLOSE - HOUR, 0)])
    market.connection.execute(b"DELETE FROM market.order_book WHERE time > %s", (TICKS_FROM - MINUTE,))
    assert told(look(market, views=(TICKS,), ids=("BTCUSDT_15m",)))["BTCUSDT_15m", "bid_ask_spread"] == (
        Verdict.MATCH,
        Verdict.EXTRA,
    )


def test_features_of_scores_are_computed_again_from_the_scores(market: Market) -> None:
    change(market, "UPDATE market.signals SET score = -1 WHERE name = 'news_sentiment'")
    found = look(market, views=(SCORES,))
    assert told(found) == {("BTCUSDT", "news_sentiment"): (Verdict.MATCH, Verdict.MISMATCH)}
    (one,) = found.differences
    assert (one.online, one.offline, one.recomputed) == (0.25, 0.25, -1.0)
    market.connection.execute(b"DELETE FROM market.signals WHERE name = 'news_sentiment'")
    assert told(look(market, views=(SCORES,))) == {("BTCUSDT", "news_sentiment"): (Verdict.MATCH, Verdict.EXTRA)}


def test_a_composite_is_compared_with_the_views_it_joins(market: Market) -> None:
    with market.connection.transaction(force_rollback=True):
        # Within this transaction alone: the command reads composites nowhere else.
        market.connection.execute(
            b"CREATE OR REPLACE VIEW features.comprehensive_features AS SELECT symbol, timeframe, event_timestamp, "
            b"created_timestamp, rsi_14, macd, ema_20, bollinger_bands_position, atr, volume_sma_ratio, "
            b"NULL::float8 AS bid_ask_spread, NULL::float8 AS order_book_imbalance, NULL::float8 AS trade_size_avg, "
            b"NULL::float8 AS news_sentiment, NULL::float8 AS social_sentiment, 1::float8 AS fear_greed_index "
            b"FROM features.technical_indicators"
        )
        asked, setting = Asked(views=(COMPOSITE,), ids=("BTCUSDT_15m",)), Setting(market.repo.root, 1000)
        found = find_differences(market.connection, market.catalog, asked, setting, _no_online, now=NOW)
    assert {one.feature: one.computed_verdict for one in found.differences} == {
        "bid_ask_spread": Verdict.MISSING,
        "order_book_imbalance": Verdict.MISSING,
        "trade_size_avg": Verdict.MISSING,
        "news_sentiment": Verdict.MISSING,
        "fear_greed_index": Verdict.MISMATCH,
    }


def _no_online(chosen: Selection, entities: Sequence[EntityId]) -> ViewAnswer:
    raise AssertionError("it is for training only")


# --- what is compared ------------------------------------------------------------------------------------------------


def test_values_count_up_to_the_end_of_their_ttl(market: Market) -> None:
    ids = ("ETHUSDT_1h",)
    change(market, f"UPDATE {ONLINE} SET macd = macd + 1 WHERE symbol = 'ETHUSDT'")
    for now, differs in ((CLOSE, 1), (CLOSE + HOUR, 1), (CLOSE + HOUR + timedelta(microseconds=1), 0)):
        found = look(market, views=(VIEW,), ids=ids, now=now)
        assert found.findings() == differs, now
    assert (tally(found, Pair.ONLINE).absent, tally(found, Pair.COMPUTED).absent) == (6, 6)
    assert look(market, views=(VIEW,), ids=ids, now=now, allow_stale=True).findings() == 1


def test_as_of_an_instant_of_the_past_the_history_of_then_counts(market: Market) -> None:
    before = CLOSE - 3 * HOUR
    where = "WHERE symbol = 'ETHUSDT' AND event_timestamp = %s"
    change(market, f"UPDATE {TECHNICAL} SET macd = 0.5 {where}", before)
    found = look(market, views=(VIEW,), as_of=before + MINUTE)
    assert told(found) == {("ETHUSDT_1h", "macd"): (Verdict.MATCH, Verdict.MISMATCH)}
    assert found.differences[0].online_source == "timescaledb"
    with pytest.raises(UsageError, match="lies in the future"):
        look(market, as_of=NOW + SECOND)


def test_ids_symbols_views_and_features_say_what_is_looked_at(market: Market) -> None:
    def looked(**asked: Any) -> dict[str, int]:
        return {one.view: one.of for one in look(market, **asked).tallies if one.pair is Pair.COMPUTED}

    assert looked(ids=("BTCUSDT",)) == {COMPOSITE: 2, TICKS: 4, SCORES: 1, VIEW: 2}
    assert looked(ids=("BTCUSDT_1h", "ETHUSDT"), views=(VIEW, SCORES)) == {SCORES: 2, VIEW: 2}
    assert looked(features=("rsi_14",)) == {VIEW: 5}
    assert looked(service="sentiment_service") == {SCORES: 4}
    assert looked(service="market_analysis_service")[TICKS] == 4
    for several in ({"features": ("rsi_14",)}, {"service": "sentiment_service"}):
        with pytest.raises(UsageError, match="give views, feature names or a service, and one of them only"):
            looked(views=(TICKS,), **several)
    with pytest.raises(NotFound, match=r"^symbol 'NOSUCH' not found; symbols: BTCUSDT, ETHUSDT, OLDUSDT, SOLUSDT"):
        looked(ids=("NOSUCH",))
    with pytest.raises(NotFound, match=r"^entity 'ETHUSDT_4h' not found"):
        looked(ids=("ETHUSDT_4h",), views=(VIEW,))
    with pytest.raises(InvalidEntityId):
        looked(ids=("ETHUSDT_9h",))


def own(market: Market, **given: Any) -> View:
    """Define a view over a table that nothing computes, with an online row of B that differs."""
    with market.connection.cursor() as cursor:
        cursor.execute("CREATE SCHEMA research")
        cursor.execute("CREATE TABLE research.own (symbol text, at timestamptz, value bigint)")
        cursor.execute(
            "CREATE TABLE online.market__own (symbol text PRIMARY KEY, event_timestamp timestamptz, value bigint)"
        )
        cursor.execute("INSERT INTO research.own VALUES ('A', %(at)s, 1), ('B', %(at)s, 1000000000001)", {"at": CLOSE})
        cursor.execute("INSERT INTO online.market__own SELECT symbol, at, (value / 2) * 2 + 1 FROM research.own")
        cursor.execute("UPDATE online.market__own SET value = 1000000000002 WHERE symbol = 'B'")
    template = market.catalog.view(SCORES)
    field = replace(template.fields[0], name="value", source_column="value", column_type="bigint", tags={})
    plain = {"computed_from": None, "functions_file": None, "functions_hash": None, "created_column": None, "tags": {}}
    view = replace(
        template,
        name="own",
        source_table="research.own",
        timestamp_column="at",
        online_table="online.market__own",
        fields=(field,),
        **{**plain, **given},
    )
    object.__setattr__(market, "catalog", replace(market.catalog, views=(*market.catalog.views, view)))
    return view


def test_a_view_that_nothing_computes_is_compared_online_and_offline(apart: Market) -> None:
    market = apart
    own(market)
    found = look(market, views=("own",))
    assert told(found) == {("B", "value"): (Verdict.MISMATCH, None)}, "whole numbers have no tolerance"
    assert tally(found, Pair.COMPUTED, "own").reason == "not recomputed: featurectl does not compute it"


def test_views_that_ids_do_not_name_say_so(apart: Market) -> None:
    market = apart
    own(market, join_keys=("venue",))
    found = look(market, views=("own",))
    assert {one.reason for one in found.tallies} == {"it is keyed by venue; entity ids give symbol and timeframe only"}
    object.__setattr__(market, "catalog", replace(market.catalog, views=market.catalog.views[:-1]))
    unreadable = replace(
        market.catalog.view(VIEW), name="made", source_table=None, source_query=None, computed_from=None
    )
    object.__setattr__(market, "catalog", replace(market.catalog, views=(unreadable,)))
    assert {one.reason for one in look(market).tallies} == {
        "Feast makes its features from its source; no SQL reads their history"
    }


def test_values_are_computed_again_as_their_columns_hold_them(apart: Market) -> None:
    code = "\n\n".join(f"def {name}(close): return close / 3" for name in ("rsi_14", "macd", "atr"))
    view = define(apart, VIEW, {"rsi_14": {}, "macd": {}, "atr": {}}, code)
    kinds = {"rsi_14": "real", "macd": "bigint", "atr": "double precision"}
    apart.connection.execute(b"DROP VIEW features.comprehensive_features")
    for name, kind in kinds.items():
        for table in (TECHNICAL, ONLINE):
            apart.connection.execute(f"ALTER TABLE {table} ALTER COLUMN {name} TYPE {kind}".encode())
    fields = tuple(replace(field, column_type=kinds[field.name]) for field in view.fields)
    object.__setattr__(apart, "catalog", replace(apart.catalog, views=(replace(view, fields=fields),)))
    now = START + 3 * HOUR
    apart.ingest(bars([100.0, 101.0, 103.7]), now=now)
    apart.compute(now=now)
    bring_online(apart, now=now)
    found = look(apart, now=now)
    assert (found.findings(), tally(found, Pair.COMPUTED).match) == (0, 3)


def test_what_retention_has_taken_the_sources_of_is_not_computed_again(market: Market) -> None:
    gone = [
        ("DELETE FROM market.candles WHERE open_time < %s", CLOSE - 5 * HOUR),
        ("DELETE FROM market.trades WHERE time < %s", CLOSE - 2 * MINUTE),
        ("DELETE FROM market.signals WHERE time < %s", CLOSE - HOUR),
    ]
    for statement, instant in gone:
        market.connection.execute(statement.encode(), (instant,))
    found = look(market)
    assert found.findings() == 0
    reason = "24 values not recomputed: what they were made of is gone by retention"
    assert tally(found, Pair.COMPUTED).reason == reason
    assert tally(found, Pair.COMPUTED, TICKS).match > 0, "the order book is whole"
    assert "not recomputed" in (tally(found, Pair.COMPUTED, TICKS).reason or "")
    assert "not recomputed" in (tally(found, Pair.COMPUTED, SCORES).reason or "")


def test_a_function_that_fails_is_told(market: Market, tmp_path: Path) -> None:
    shutil.copytree(market.repo.root, tmp_path / "own")
    broken = Market(Repo(tmp_path / "own", market.repo.url), market.connection)
    with (tmp_path / "own" / "feature_repo" / "indicators.py").open("a") as file:
        file.write("\n\ndef rsi_14(close): return close[1:]\n")
    with pytest.raises(DefinitionError, match="rsi_14 returned shape"):
        look(broken, features=("rsi_14",))
    assert look(broken, features=("macd",)).findings() == 0


# --- while others write ----------------------------------------------------------------------------------------------


@dataclass
class Between:
    """Reads online as the command does, and does something between that and the look at the history."""

    market: Market
    work: Callable[[int], None]
    calls: int = 0

    def look(self, **asked: Any) -> Consistency:
        wanted, market = Asked(**(asked or {"views": (VIEW,)})), self.market

        def read_online(chosen: Selection, entities: Sequence[EntityId]) -> ViewAnswer:
            answer = read(market, chosen, entities)
            self.work(self.calls)
            self.calls += 1
            return answer

        setting = Setting(market.repo.root, 1000)
        with market.repo.connect() as connection:
            return find_differences(connection, market.catalog, wanted, setting, read_online, now=NOW)


def read(market: Market, chosen: Selection, entities: Sequence[EntityId]) -> ViewAnswer:
    request = Request((chosen,), Entities(entities), NOW)
    return asyncio.run(reads._answer(market.repo.database, request)).views[0]


def renew(market: Market, number: int) -> None:
    """Correct the newest features of every series, and bring them online, in one transaction."""
    with market.connection.transaction():
        market.connection.execute(
            f"UPDATE {TECHNICAL} SET rsi_14 = rsi_14 + 1, created_timestamp = created_timestamp + interval '1 second' "
            "WHERE event_timestamp = %s".encode(),
            (CLOSE,),
        )
        bring_online(market)


def test_a_materialization_between_the_readings_is_no_difference(market: Market) -> None:
    between = Between(market, lambda number: renew(market, number) if not number else None)
    found = between.look()
    assert tally(found, Pair.ONLINE).match == 24
    assert {one.online_verdict for one in found.differences} == {Verdict.MATCH}, (
        "features are not what bars give any more"
    )
    assert between.calls == 3, "all, those that differ once more, and those that had changed anew"


def test_history_and_candles_are_of_one_state(market: Market, monkeypatch: pytest.MonkeyPatch) -> None:
    original = running.computed_again

    def after_a_correction(*given: Any, **more: Any) -> Any:
        market.connection.execute(b"UPDATE market.candles SET close = close * 2")
        return original(*given, **more)

    monkeypatch.setattr(running, "computed_again", after_a_correction)
    assert look(market, views=(VIEW,)).findings() == 0
    assert look(market, views=(VIEW,)).findings() > 0, "the next look sees it"


def test_symbols_of_any_name_are_compared(market: Market) -> None:
    name = """x'; DROP TABLE market.candles; -- %s {} $1 "y\\"""
    market.ingest(random_bars(np.random.default_rng(1), 40, symbol=name, start=CLOSE - 40 * HOUR), now=NOW)
    market.compute(now=NOW)
    bring_online(market)
    found = look(market, views=(VIEW,))
    assert (found.findings(), tally(found, Pair.COMPUTED).match) == (0, 30)
    change(market, f"UPDATE {ONLINE} SET macd = macd + 1 WHERE symbol = %s", name)
    assert [one.entity for one in look(market, views=(VIEW,)).differences] == [f"{name}_1h"]


def test_what_changes_at_every_look_is_left_out(market: Market) -> None:
    found = Between(market, lambda number: renew(market, number)).look(features=("macd", "rsi_14"))
    assert [one.online_verdict for one in found.differences] == []
    assert found.notes == (f"{VIEW}: 4 entities change all the time and were left out",)
    assert tally(found, Pair.ONLINE).entities == 1


def test_a_difference_that_stays_is_told_although_others_change(market: Market) -> None:
    change(market, f"UPDATE {ONLINE} SET macd = macd + 1 WHERE symbol = 'ETHUSDT'")

    def work(number: int) -> None:
        change(market, f"UPDATE {ONLINE} SET event_timestamp = event_timestamp WHERE symbol = 'ETHUSDT'")

    assert told(Between(market, work).look()) == {("ETHUSDT_1h", "macd"): (Verdict.MISMATCH, Verdict.MATCH)}


def test_writers_at_work_raise_no_alarm(market: Market) -> None:
    stop = threading.Event()

    def write() -> None:
        with market.repo.connect() as connection:
            other = Market(market.repo, connection)
            number = 0
            while not stop.is_set():
                renew(other, number)
                number += 1

    thread = threading.Thread(target=write)
    thread.start()
    try:
        verdicts = [
            one.online_verdict
            for seed in range(12)
            for one in look(market, features=("rsi_14",), seed=seed).differences
        ]
    finally:
        stop.set()
        thread.join()
    assert set(verdicts) <= {Verdict.MATCH}


# --- a foreign store -------------------------------------------------------------------------------------------------


@pytest.mark.xdist_group("foreign")  # materialized once
def test_a_foreign_store_is_read_through_feast(sqlite_repo: ForeignRepo) -> None:
    found = reads.consistency(sqlite_repo.database, Asked(views=(VIEW,)), now=FOREIGN_NOW)
    assert found.findings() == 0
    assert tally(found, Pair.ONLINE).match >= 12
    with sqlite_repo.connect() as connection:
        connection.execute(f"UPDATE {TECHNICAL} SET macd = macd + 1 WHERE symbol = 'BTCUSDT'".encode())
    found = reads.consistency(sqlite_repo.database, Asked(views=(VIEW,)), now=FOREIGN_NOW)
    assert told(found) == {("BTCUSDT_1h", "macd"): (Verdict.MISMATCH, Verdict.MISMATCH)}
    assert found.differences[0].online_source == "feast"


# --- the command -----------------------------------------------------------------------------------------------------


def test_the_command_ends_with_1_where_something_differs(market: Market, tmp_path: Path) -> None:
    repo, env = market.repo, {"FEATURECTL_NOW": NOW.isoformat()}
    clean = repo.json("consistency", "--sample", "3", "--seed", "5", env=env)
    assert (clean["command"], clean["findings"], clean["seed"], clean["differences"]) == ("consistency", 0, 5, [])
    assert len(clean["views"]) == 8
    change(market, f"UPDATE {ONLINE} SET macd = macd + 1 WHERE symbol = 'ETHUSDT'")
    change(market, f"DELETE FROM {ONLINE} WHERE symbol = 'SOLUSDT'")
    done = repo.call("consistency", "--format", "table", "--rows", "2", env=env)
    assert done.returncode == 1
    assert "ETHUSDT_1h  macd" in done.stdout
    assert "… and 5 more; --rows N shows more" in done.stdout
    assert done.stderr.endswith("warning: 7 values differ\n")
    accepted = ("--accept", "missing", "--accept", "mismatch,stale")
    for words, code in ((("--fail-over", "6"), 1), (("--fail-over", "7"), 0), (accepted, 0), (accepted[:2], 1)):
        assert repo.call("consistency", *words, "--json", env=env).returncode == code, words
    rows = list(csv.DictReader(io.StringIO(repo.call("consistency", "--format", "csv", env=env).stdout)))
    assert [(row["entity"], row["feature"], row["online_verdict"]) for row in rows][:2] == [
        ("ETHUSDT_1h", "macd", "mismatch"),
        ("SOLUSDT_1h", "rsi_14", "missing"),
    ]
    assert list(rows[0]) == list(Difference.__dataclass_fields__)
    assert repo.call("consistency", "-o", tmp_path / "found.parquet", env=env).returncode == 1
    assert pq.read_table(tmp_path / "found.parquet").num_rows == 7


def test_the_command_says_where_nothing_was_compared_and_what_it_can_not_accept(market: Market) -> None:
    env = {"FEATURECTL_NOW": (NOW + 24 * HOUR).isoformat()}
    done = market.repo.call("consistency", "--view", VIEW, "--json", env=env)
    assert done.returncode == 0
    assert "nothing was compared: no feature has a value within its TTL" in done.stderr
    done = market.repo.call("consistency", "--accept", "match", env=env)
    assert (done.returncode, "verdicts that can be accepted: mismatch, missing" in done.stderr) == (2, True)


def test_the_manager_gives_a_row_for_each_difference(market: Market) -> None:
    def frame(*words: Any, **options: Any) -> pd.DataFrame:
        async def main() -> pd.DataFrame:
            repo = market.repo
            async with FeastFeatureStoreManager(repo.root, database_url=repo.url, clock=lambda: NOW) as manager:
                return await manager.check_consistency(*words, **options)

        return asyncio.run(main())

    clean = frame()
    assert (len(clean), clean.attrs["findings"], clean.attrs["as_of"], clean.attrs["degraded"]) == (0, 0, NOW, None)
    assert clean.attrs["views"] == [asdict(one) for one in look(market).tallies]
    change(market, f"UPDATE {ONLINE} SET macd = macd + 1 WHERE symbol = 'ETHUSDT'")
    (row,) = (every := frame()).to_dict("records")
    assert list(every.columns) == list(Difference.__dataclass_fields__)
    assert (row["entity"], row["feature"], row["online_verdict"], row["computed_verdict"]) == (
        "ETHUSDT_1h",
        "macd",
        "mismatch",
        "match",
    )
    assert row["online"] == pytest.approx(row["offline"] + 1) and row["online_event"] == CLOSE
    assert len(frame(["rsi_14"])) == len(frame(entity_ids=["BTCUSDT"])) == len(frame(tolerance=1)) == 0
    assert len(frame(feature_service_name="technical_indicators_service", entity_ids=["ETHUSDT_1h"])) == 1
    assert frame(as_of=NOW - 7 * HOUR).attrs["as_of"] == NOW - 7 * HOUR
    for options, message in (
        ({"tolerance": 2}, "tolerance is 2; give a number from 0 to 1"),
        ({"sample": 0}, "sample is 0; give a whole number of 1 or more"),
        ({"as_of": NOW + SECOND}, "lies in the future"),
        ({"allow_stale": "no"}, "allow_stale is 'no'; give True or False"),
    ):
        with pytest.raises(UsageError, match=message):
            frame(**options)


def test_nothing_is_written_and_rounds_are_bounded(market: Market) -> None:
    assert running.ROUNDS < 10
    before = market.repo.rows("SELECT sum(n_tup_ins + n_tup_upd + n_tup_del) FROM pg_stat_user_tables")
    look(market)
    assert market.repo.rows("SELECT sum(n_tup_ins + n_tup_upd + n_tup_del) FROM pg_stat_user_tables") == before
