"""`featurectl status`: four clocks by view and timeframe, told from one look that changes nothing."""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import re
import select
import signal
import struct
import subprocess
import termios
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from featurectl.core.catalog import View
from featurectl.core.entity import TIMEFRAMES
from featurectl.core.freshness import Freshness, read_freshness
from featurectl.core.gaps import FOREVER, declare, withdraw
from featurectl.core.locks import lock
from featurectl.core.materialize import choose_views, materialize
from featurectl.core.schema import table_identifier
from featurectl.core.times import ALWAYS, iso
from featurectl.errors import NotFound, PartlyDone, SchemaMissing, UsageError
from tests.fix_command import Command
from tests.fix_repository import SCRIPT, Repo
from tests.market import VIEW, Market, bars, put

NOW = datetime(2024, 3, 4, 10, 20, tzinfo=UTC)  # a Monday
MARKET, SENTIMENT, TECHNICAL = "market_features_view", "sentiment_features_view", VIEW
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)


def at(text: str) -> datetime:
    """Return an instant of March 2024, or of its year."""
    return datetime.fromisoformat(f"2024-{text}" if "-" in text else f"2024-03-{text}").replace(tzinfo=UTC)


def look(market: Market, *, now: datetime = NOW, **request: Any) -> dict[tuple[str, str], Freshness]:
    report = read_freshness(market.connection, market.catalog, now=now, **request)
    assert not report.unreadable
    found = report.views
    by_name = {(one.view, one.timeframe): one for one in found}
    assert len(by_name) == len(found)
    return by_name


def clocks(one: Freshness) -> tuple[datetime | None, ...]:
    return one.source, one.computed, one.materialized, one.served


def counts(one: Freshness) -> tuple[int, int, int, int]:
    return one.entities, one.behind, one.stale, one.missing


def bring_online(market: Market, *, now: datetime = NOW) -> None:
    materialize(market.connection, "market", choose_views(market.catalog, ()), ALWAYS, now=now)


def rows_of(count: int, first: datetime, step: timedelta, **values: Any) -> list[dict[str, Any]]:
    return [{"time": first + step * row, **values} for row in range(count)]


def book(symbol: str, count: int, first: datetime, step: timedelta = timedelta(seconds=20)) -> list[dict[str, Any]]:
    return rows_of(count, first, step, symbol=symbol, bid=100.0, bid_size=1.0, ask=101.0, ask_size=1.0)


def score(symbol: str, time: datetime, name: str = "news_sentiment") -> dict[str, Any]:
    return {"symbol": symbol, "name": name, "time": time, "score": 0.5}


def define(market: Market, *views: View) -> None:
    object.__setattr__(market, "catalog", replace(market.catalog, views=(*market.catalog.views, *views)))


def own_view(market: Market, name: str, keys: str, *, ttl: float = 0, source: str | None = None, **given: Any) -> View:
    """Define a view of the user's own over research.<name>, whose columns but `value` and `at` are its keys."""
    columns = {part.split()[0]: part for part in keys.split(", ")}
    online = f"online.market__{name}"
    with market.connection.cursor() as cursor:
        cursor.execute("CREATE SCHEMA IF NOT EXISTS research")
        kind = given.pop("time_type", "timestamptz")
        cursor.execute(f"CREATE TABLE research.{name} ({keys}, at {kind}, value float8)".encode())
        wide = keys.replace("integer", "bigint").replace("uuid", "text")
        cursor.execute(
            f"CREATE TABLE {online} ({wide}, event_timestamp timestamptz, created_timestamp timestamptz, value float8, "
            f"PRIMARY KEY ({', '.join(columns)}))".encode()
        )
    template = market.catalog.view(TECHNICAL)
    view = replace(
        template,
        name=name,
        join_keys=tuple(columns),
        ttl_seconds=ttl,
        source_table=None if source else f"research.{name}",
        source_query=source,
        timestamp_column="at",
        created_column=None,
        online_table=online,
        computed_from=None,
        functions_file=None,
        fields=(replace(template.fields[0], name="value", source_column="value", tags={}),),
        tags={},
    )
    define(market, view)
    return view


# The clocks of candles


@pytest.fixture
def candles_of_all_lengths(market: Market) -> Market:
    """Bars that end at an hour, or days, before now, computed and online; one more hour has just begun."""
    closes = [100.0 + row % 7 for row in range(90)]
    series = [
        bars(closes[:83], timeframe="1h", start=at("01")),
        bars(closes[:20], timeframe="4h", start=at("01")),
        bars(closes[:30], timeframe="1d", start=at("02-01")),
        bars(closes[:20], timeframe="3d", start=at("01-01")),
        bars(closes[:9], timeframe="1w", start=at("01-01")),
    ]
    market.ingest(*series, now=NOW)
    market.compute(now=NOW)
    bring_online(market)
    return market


def test_clocks_of_candles_in_every_length(candles_of_all_lengths: Market) -> None:
    found = look(candles_of_all_lengths)
    closes = {"1h": "04T10:00", "4h": "04T08:00", "1d": "02", "3d": "01", "1w": "04"}
    lags = {"1h": (0, 0), "4h": (0, 0), "1d": (2, 2 * 86400), "3d": (1, 3 * 86400), "1w": (0, 0)}
    assert list(found) == [(TECHNICAL, timeframe) for timeframe in ("1h", "4h", "1d", "3d", "1w")]
    for (_, timeframe), one in found.items():
        close = at(closes[timeframe])
        served = close if timeframe == "1h" else None  # the others are past the view's hour
        assert clocks(one) == (close, close, close, served), timeframe
        assert counts(one) == (1, 0, int(served is None), 0), timeframe
        assert (one.lag_bars, one.lag_seconds) == lags[timeframe]
        assert one.worst == f"BTCUSDT_{timeframe}"


def test_a_bar_goes_from_clock_to_clock(candles_of_all_lengths: Market) -> None:
    market, later = candles_of_all_lengths, at("04T12:00")  # at the very close of a bar
    key = (TECHNICAL, "1h")

    def hour() -> Freshness:
        return look(market, now=later)[key]

    assert clocks(hour()) == (at("04T11:00"), at("04T10:00"), at("04T10:00"), None), "the bar that was open closed"
    assert (hour().lag_bars, hour().behind, hour().stale) == (2, 1, 1)
    market.ingest(bars([105.0], timeframe="1h", start=at("04T11:00")), now=later)
    assert clocks(hour())[:2] == (at("04T12:00"), at("04T10:00"))
    assert clocks(look(market, now=later - timedelta(microseconds=1))[key])[0] == at("04T11:00")
    market.compute(now=later)
    assert clocks(hour()) == (at("04T12:00"), at("04T12:00"), at("04T10:00"), None)
    assert (hour().lag_bars, hour().behind) == (2, 1)
    bring_online(market, now=later)
    assert clocks(hour()) == (at("04T12:00"),) * 4
    assert (hour().lag_bars, hour().lag_seconds, *counts(hour())) == (0, 0, 1, 0, 0, 0)
    assert hour().served == look(market, now=later + HOUR)[key].served, "an hour old, the limit included"
    assert look(market, now=later + HOUR + timedelta(microseconds=1))[key].served is None


def test_entities_that_were_never_computed_are_missing(candles_of_all_lengths: Market) -> None:
    market = candles_of_all_lengths
    market.ingest(bars([1.0, 2.0], symbol="ETHUSDT", start=at("04T08:00")), now=NOW)
    market.ingest(bars([1.0], symbol="NEWUSDT", start=at("04T10:00")), now=NOW)  # its first bar is open
    one = look(market)[TECHNICAL, "1h"]
    assert (counts(one), one.worst) == ((2, 1, 0, 1), "ETHUSDT_1h")
    assert (one.lag_bars, one.materialized) == (0, at("04T10:00")), "of those that are online"
    market.compute(now=NOW)
    assert counts(look(market)[TECHNICAL, "1h"]) == (2, 1, 0, 1)
    bring_online(market)
    assert counts(look(market)[TECHNICAL, "1h"]) == (2, 0, 0, 0)
    with pytest.raises(NotFound, match="symbol 'NEWUSDT' not found; symbols: BTCUSDT, ETHUSDT"):
        look(market, symbols=["NEWUSDT"])


def test_a_symbol_that_retired_lags_until_its_rows_go(candles_of_all_lengths: Market) -> None:
    market = candles_of_all_lengths
    market.ingest(bars([1.0] * 24, symbol="OLDUSDT", start=at("02-01")), now=NOW)
    market.compute(now=NOW)
    bring_online(market)
    one = look(market)[TECHNICAL, "1h"]
    assert (one.worst, one.lag_bars, *counts(one)) == ("OLDUSDT_1h", 31 * 24 + 10, 2, 0, 1, 0)
    assert (one.served, one.lag_seconds) == (at("04T10:00"), (31 * 24 + 10) * 3600)
    alone = look(market, symbols=["BTCUSDT"])[TECHNICAL, "1h"]
    assert (alone.lag_bars, alone.entities) == (0, 1)
    for table in ("market.candles", "features.technical_indicators"):
        market.connection.execute(f"DELETE FROM {table} WHERE symbol = 'OLDUSDT'".encode())
    one = look(market)[TECHNICAL, "1h"]
    assert (one.worst, one.lag_bars, one.entities) == ("OLDUSDT_1h", 31 * 24 + 10, 2), "it is still online"
    market.connection.execute("DELETE FROM online.market__technical_indicators_view WHERE symbol = 'OLDUSDT'")
    assert look(market)[TECHNICAL, "1h"] == replace(alone, entities=1)


def test_online_rows_from_after_now_lag_by_nothing_and_serve_nobody(candles_of_all_lengths: Market) -> None:
    market, before = candles_of_all_lengths, at("03T12:30")
    one = look(market, now=before)[TECHNICAL, "1h"]
    assert clocks(one) == (at("03T12:00"), at("03T12:00"), at("04T10:00"), None)
    assert (one.lag_bars, one.lag_seconds, *counts(one)) == (0, 0, 1, 0, 0, 0)
    months_before = look(market, now=at("01-01T00:00"))
    assert {clocks(one)[:2] for one in months_before.values()} == {(None, None)}
    assert {(one.lag_bars, *counts(one)) for one in months_before.values()} == {(0, 1, 0, 0, 0)}


def test_what_is_served_is_what_a_reader_gets(
    candles_of_all_lengths: Market, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    market = candles_of_all_lengths
    for now in (NOW, at("04T11:00"), at("04T11:01"), at("03T12:30")):
        monkeypatch.setenv("FEATURECTL_NOW", iso(now))
        for timeframe in ("1h", "4h"):
            served = look(market, now=now)[TECHNICAL, timeframe].served
            answer = command("get-online", f"BTCUSDT_{timeframe}", "-f", "rsi_14").document["results"][0]
            view = answer["views"][TECHNICAL]
            is_read = answer["statuses"]["rsi_14"] in ("PRESENT", "NULL_VALUE") and view["source"] == "online"
            assert (view["event_timestamp"] if is_read else None) == (served and iso(served)), (now, timeframe)


# Those of ticks and signals


def test_clocks_of_ticks(market: Market) -> None:
    # The last row is from 10:19:40, so that the newest whole minute with something to say is 10:20.
    put(market.connection, "order_book", book("BTCUSDT", 30, at("04T10:10:00")))
    put(market.connection, "trades", [
        {"symbol": "ETHUSDT", "time": at("04T10:12:30"), "trade_id": "1", "price": 1.0, "size": 1.0, "side": "buy"}
    ])  # fmt: skip
    timeframes = ("1m", "5m", "15m", "1h")
    found = look(market)
    assert list(found) == [(MARKET, timeframe) for timeframe in timeframes]
    for one in found.values():
        assert clocks(one) == (at("04T10:19:40"), None, None, None)
        assert (counts(one), one.lag_bars) == ((2, 2, 0, 2), None)
    market.compute(now=at("04T10:15:30"))
    bring_online(market, now=at("04T10:15:30"))
    found = look(market)
    # Of ETHUSDT there is a minute with something to say at 10:13, five of them until 10:17, and so on.
    ends = {"1m": "04T10:13", "5m": "04T10:15", "15m": "04T10:15", "1h": "04T10:15"}
    for timeframe in timeframes:
        one = found[MARKET, timeframe]
        assert clocks(one) == (at("04T10:19:40"), *(at("04T10:15"),) * 3)
        behind = NOW - at(ends[timeframe])
        assert (one.lag_bars, one.lag_seconds) == (behind // MINUTE, behind.total_seconds())
        assert counts(one) == (2, 0, int(timeframe == "1m"), 0), "the TTL is five minutes, and includes the fifth"
        assert one.worst == ("ETHUSDT_1m" if timeframe == "1m" else one.worst)
    market.compute(now=NOW)
    assert look(market)[MARKET, "5m"].behind == 2
    bring_online(market)
    assert look(market)[MARKET, "5m"].behind == 0
    assert clocks(look(market)[MARKET, "1h"]) == (at("04T10:19:40"), *(NOW,) * 3)
    assert look(market, now=NOW + timedelta(seconds=59))[MARKET, "1h"].lag_bars == 0
    assert look(market, now=NOW + MINUTE)[MARKET, "1h"].lag_bars == 1


def test_ticks_are_due_in_the_lengths_of_the_candles_of_their_symbol(market: Market) -> None:
    market.ingest(bars([1.0] * 3, timeframe="4h", start=at("03T20:00")), now=NOW)
    put(market.connection, "order_book", book("BTCUSDT", 30, at("04T10:10:00")))
    market.compute(now=NOW)
    bring_online(market)
    one = look(market)[MARKET, "4h"]
    assert clocks(one) == (at("04T10:19:40"), *(NOW,) * 3) and one.lag_bars == 0


def test_clocks_of_signals(market: Market) -> None:
    put(market.connection, "signals", [score("BTCUSDT", at("04T09:50")), score("BTCUSDT", at("04T10:16"), "social")])
    one = look(market)[SENTIMENT, ""]
    assert (clocks(one), counts(one)) == ((at("04T10:16"), None, None, None), (1, 1, 0, 1))
    market.compute(now=at("04T10:05"))
    bring_online(market, now=at("04T10:05"))
    one = look(market)[SENTIMENT, ""]
    assert clocks(one) == (at("04T10:16"), *(at("04T10:00"),) * 3)
    assert (one.lag_bars, one.lag_seconds, counts(one), one.worst) == (1, 900, (1, 0, 0, 0), "BTCUSDT")
    assert look(market, now=at("04T10:30"))[SENTIMENT, ""].served == at("04T10:00")
    later = look(market, now=at("04T10:31"))[SENTIMENT, ""]
    assert (later.served, later.stale, later.lag_bars) == (None, 1, 2)


def test_scores_of_the_whole_market_are_every_symbols(market: Market) -> None:
    market.ingest(bars([1.0], start=at("04T08:00")), now=NOW)
    put(market.connection, "order_book", book("ETHUSDT", 3, at("04T10:10:00")))
    put(market.connection, "signals", [score("*", at("04T09:50"), "fear_greed_index")])
    put(market.connection, "signals", [score("SOLUSDT", at("04T10:00"))])
    one = look(market)[SENTIMENT, ""]
    assert (clocks(one), counts(one)) == ((at("04T10:00"), None, None, None), (3, 3, 0, 3))
    assert look(market, symbols=["BTCUSDT"])[SENTIMENT, ""].source == at("04T09:50")
    market.compute(now=NOW)
    bring_online(market)
    one = look(market)[SENTIMENT, ""]
    assert (clocks(one), counts(one)) == ((at("04T10:00"), *(at("04T10:15"),) * 3), (3, 0, 0, 0))
    alone = look(market, symbols=["BTCUSDT"])[SENTIMENT, ""]
    assert (alone.source, alone.entities) == (at("04T09:50"), 1)


def test_nothing_is_missing_before_it_is_due(market: Market) -> None:
    put(market.connection, "order_book", book("BTCUSDT", 3, at("04T10:20:01")))
    put(market.connection, "signals", [score("BTCUSDT", at("04T10:16"))])
    assert look(market, now=at("04T10:20:40")) == {}
    assert {one.missing for one in look(market, now=at("04T10:21")).values()} == {1}
    assert set(look(market, now=at("04T10:29:59"))) == {(MARKET, name) for name in ("1m", "5m", "15m", "1h")}
    assert look(market, now=at("04T10:30"))[SENTIMENT, ""].missing == 1


def test_nothing_is_missing_that_no_function_has_a_word_for(market: Market) -> None:
    """A strategy's own signals, and ticks of which a function makes nothing, are computed and leave no rows."""
    put(market.connection, "signals", [score("BTCUSDT", at("04T09:50"), "my_strategy")])
    assert look(market)[SENTIMENT, ""].missing == 1, "nobody has looked yet"
    market.compute(now=NOW)
    bring_online(market)
    assert look(market) == {}
    put(market.connection, "signals", [score("BTCUSDT", at("04T10:05"), "my_strategy")])
    assert look(market) == {}
    put(market.connection, "signals", [score("BTCUSDT", at("04T10:06"))])
    market.compute(now=NOW)
    assert look(market)[SENTIMENT, ""].behind == 1


# Views of one's own


def test_a_view_that_nothing_computes_has_no_source_and_no_bars(market: Market) -> None:
    own_view(market, "sensors", "sensor integer")
    market.connection.execute(
        "INSERT INTO research.sensors VALUES (7, '2024-03-04 08:20Z', 1), (7, '2024-03-04 09:20Z', 2), "
        "(7, '2024-03-04 10:21Z', 3), (12, '2024-02-04 10:20Z', 1)"
    )
    one = look(market)["sensors", ""]
    assert (clocks(one), counts(one)) == ((None, at("04T09:20"), None, None), (2, 2, 0, 2))
    bring_online(market)
    one = look(market)["sensors", ""]
    assert clocks(one) == (None, *(at("04T09:20"),) * 3)
    assert (one.lag_bars, one.lag_seconds, one.worst) == (None, 29 * 86400, "12"), "29 days of February"
    assert counts(one) == (2, 0, 0, 0), "without a TTL nothing is stale"


def test_keys_of_every_kind_meet_those_online(market: Market) -> None:
    own_view(market, "ids", "id uuid, timeframe varchar(5)", ttl=3600, time_type="timestamp")
    known, other = uuid.UUID(int=1), uuid.UUID(int=2)
    for key in (known, other):
        market.connection.execute("INSERT INTO research.ids VALUES (%s, '1h', '2024-03-04 10:00', 1)", (key,))
    market.connection.execute(
        "INSERT INTO online.market__ids VALUES (%s, '1h', '2024-03-04 10:00Z', now(), 1)", (str(known),)
    )
    one = look(market)["ids", "1h"]
    assert (clocks(one), counts(one)) == ((None, *(at("04T10:00"),) * 3), (2, 1, 0, 1))
    assert one.worst == f"{other}_1h"


def test_a_view_over_a_query_and_keys_in_another_order(market: Market) -> None:
    own_view(market, "turned", "timeframe text, symbol text", source="SELECT * FROM research.turned -- all of it")
    market.connection.execute("INSERT INTO research.turned VALUES ('1h', 'BTC_USDT', '2024-03-04 10:00Z', 1)")
    one = look(market, symbols=["BTC_USDT"])["turned", "1h"]
    assert (one.worst, one.computed, one.missing) == ("BTC_USDT_1h", at("04T10:00"), 1)


# Which views


def test_only_views_that_are_served_online_have_clocks(market: Market) -> None:
    with pytest.raises(UsageError, match="'comprehensive_features_view' is for training only"):
        look(market, views=["comprehensive_features_view"])
    with pytest.raises(NotFound, match="view 'nonsense' not found; views: comprehensive_features_view, market"):
        look(market, views=["nonsense"])
    assert look(market, views=[MARKET, MARKET]) == {}


def test_a_view_that_can_not_be_read_does_not_hide_the_others(market: Market) -> None:
    market.ingest(bars([1.0] * 3, start=at("04T07:00")), now=NOW)
    market.connection.execute("DROP TABLE online.market__technical_indicators_view")
    market.connection.execute("ALTER TABLE features.sentiment_features DROP COLUMN event_timestamp CASCADE")
    features = "INSERT INTO features.market_features (symbol, timeframe, event_timestamp, created_timestamp) "
    market.connection.execute(f"{features} VALUES ('A', '1h', '2024-03-04 10:00Z', now())".encode())
    for inside in (False, True):
        with market.connection.transaction() if inside else contextlib.nullcontext():
            report = read_freshness(market.connection, market.catalog, now=NOW, symbols=["A"])
            assert [(one.view, one.missing) for one in report.views] == [(MARKET, 1)], "and the session goes on"
    errors = {one.view: one.error for one in report.unreadable}
    assert errors.keys() == {SENTIMENT, TECHNICAL}
    assert all(isinstance(one, SchemaMissing) for one in errors.values())
    failure = report.failure
    assert isinstance(failure, PartlyDone)
    assert "2 of 3 views can't be looked at" in str(failure)
    assert f"view '{TECHNICAL}' has no online table online.market__{TECHNICAL}; run `featurectl apply`" in str(failure)
    alone = read_freshness(market.connection, market.catalog, now=NOW, views=[TECHNICAL], symbols=["nobody knows"])
    assert alone.failure is alone.unreadable[0].error


# What is known absent


def test_what_is_known_absent_is_not_due(market: Market) -> None:
    online = "INSERT INTO online.market__technical_indicators_view (symbol, timeframe, event_timestamp, "
    online += (
        "created_timestamp) VALUES ('A', '1h', '2024-03-04 05:00Z', now()), ('B', '1h', '2024-03-04 10:00Z', now())"
    )
    market.connection.execute(online.encode())

    def lag(now: datetime = NOW) -> int | None:
        return look(market, now=now)[TECHNICAL, "1h"].lag_bars

    assert lag() == 5, "the bar that opened at 9 has closed"
    market.ingest(bars([1.0], symbol="A", start=at("04T00:00")), now=NOW)
    declare(market.connection, ["A_1h"], at("04T09:00"), at("04T09:00"), "outage", now=NOW)
    assert lag() == 4
    declare(market.connection, ["A"], at("04T05:00"), at("04T08:59"), "outage", now=NOW)
    assert lag() == 0
    assert lag(at("04T11:00")) == 1, "the bar that opened at 10 is due, and those before it are not"
    declare(market.connection, ["*_1h"], at("04T10:00"), FOREVER, "nothing is traded any more", now=NOW)
    assert lag(at("04T11:00")) == 0
    assert lag(datetime(2999, 1, 1, tzinfo=UTC)) == 0
    withdraw(market.connection, ["*_1h"], at("04T10:00"), FOREVER)
    assert lag(at("04T11:00")) == 1
    declare(market.connection, ["*"], datetime(1, 1, 1, tzinfo=UTC), FOREVER, "nothing at all", now=NOW)
    assert lag(at("04T11:00")) == 0


def test_a_symbol_that_is_traded_no_more_lags_in_no_view(market: Market) -> None:
    for view, columns, values in (
        (MARKET, "symbol, timeframe", "'A', '1h'"),
        (SENTIMENT, "symbol", "'A'"),
        (TECHNICAL, "symbol, timeframe", "'A', '1h'"),
    ):
        market.connection.execute(
            f"INSERT INTO online.market__{view} ({columns}, event_timestamp, created_timestamp) "
            f"VALUES ({values}, '2024-03-04 05:00Z', now())".encode()
        )
    market.ingest(bars([1.0], symbol="A", start=at("04T04:00")), now=NOW)
    assert {one.lag_bars for one in look(market).values()} == {5, 5 * 60 + 20, 5 * 4 + 1}
    declare(market.connection, ["A_1h"], at("04T05:00"), FOREVER, "a timeframe no more", now=NOW)
    assert {one.lag_bars for one in look(market).values()} == {0, 5 * 60 + 20, 5 * 4 + 1}, "ticks and signals go on"
    declare(market.connection, ["A"], at("04T05:00"), FOREVER, "delisted", now=NOW)
    assert {one.lag_bars for one in look(market).values()} == {0}


def test_an_older_schema_knows_of_no_absence(market: Market) -> None:
    market.connection.execute("DROP TABLE featurectl.known_absent")
    assert look(market) == {}


def test_its_cost_does_not_grow_with_the_history(market: Market) -> None:
    """Of tables with an index on their keys no more rows are read than there are entities."""
    for table in ("features.technical_indicators", "features.market_features"):
        market.connection.execute(
            f"INSERT INTO {table} (symbol, timeframe, event_timestamp, created_timestamp) "
            "SELECT s, '1h', '2020-01-01Z'::timestamptz + n * interval '1h', now() "
            "FROM unnest(ARRAY['A', 'B']) AS s, generate_series(1, 20000) AS n".encode()
        )
    market.connection.execute("ANALYZE")
    market.connection.execute("SET statement_timeout = '2s'")
    read = "SELECT sum(seq_tup_read + idx_tup_fetch) FROM pg_stat_xact_user_tables WHERE schemaname = 'features'"
    with market.connection.transaction():
        assert look(market)[TECHNICAL, "1h"].entities == 2
        ((rows,),) = market.connection.execute(read.encode()).fetchall()
    assert rows < 100


# A naive model of it all


@dataclass(frozen=True)
class World:
    """Some rows, as Python has them: by table, keys and instant."""

    now: datetime
    bars: list[tuple[str, str, datetime]]
    ticks: list[tuple[str, datetime]]
    scores: list[tuple[str, datetime]]
    features: dict[str, list[tuple[tuple[str, ...], datetime]]]
    online: dict[str, dict[tuple[str, ...], datetime]]
    looked_at: set[tuple[str, str, str]]
    declared: set[tuple[str, str, datetime, datetime]]


TABLES = {
    TECHNICAL: ("features.technical_indicators", ("symbol", "timeframe"), HOUR),
    MARKET: ("features.market_features", ("symbol", "timeframe"), 5 * MINUTE),
    SENTIMENT: ("features.sentiment_features", ("symbol",), 30 * MINUTE),
}
STEPS = {MARKET: MINUTE, SENTIMENT: 15 * MINUTE}
LENGTHS = ("15m", "1h", "4h", "3d", "1w")


def draw(chance: random.Random) -> World:
    """Draw a market of a few symbols in which anything may be missing, late, early or gone."""
    now = NOW + timedelta(seconds=chance.choice([0, chance.randrange(-90000, 90000)]))
    symbols = chance.sample(["BTCUSDT", "ETH_USDT", "SOL", "*X"], chance.randint(1, 4))
    shares = [chance.choice([0, 0.3, 0.7, 1]) for _ in range(8)]
    bars, ticks, scores, looked_at = [], [], [], set()
    features: dict[str, list[tuple[tuple[str, ...], datetime]]] = {view: [] for view in TABLES}
    online: dict[str, dict[tuple[str, ...], datetime]] = {view: {} for view in TABLES}
    for symbol in symbols:
        for length in LENGTHS:
            step = TIMEFRAMES[length]
            start = at("01-01") + step * int((now - at("01-01")) / step) - step * chance.randint(0, 5)
            opens = [start + step * row for row in range(chance.randint(1, 7))]
            if chance.random() < shares[0]:
                bars += [(symbol, length, one) for one in opens]
            if chance.random() < shares[1]:
                features[TECHNICAL] += [((symbol, length), one + step) for one in opens if chance.random() < 0.7]
            if chance.random() < shares[2]:
                online[TECHNICAL][symbol, length] = chance.choice(opens) + step
        minute = now.replace(second=0, microsecond=0)
        if chance.random() < shares[3]:
            ticks += [(symbol, now + chance.randint(-200, 40) * timedelta(seconds=1)) for _ in range(4)]
        for length in ("1m", "5m", "15m", "1h", "4h"):
            if chance.random() < shares[4]:
                features[MARKET] += [((symbol, length), minute + MINUTE * chance.randint(-9, 2)) for _ in range(3)]
            if chance.random() < shares[5]:
                online[MARKET][symbol, length] = minute + MINUTE * chance.randint(-9, 2)
            if chance.random() < 0.2:
                looked_at.add((TABLES[MARKET][0], symbol, length))
        quarter = minute - timedelta(minutes=minute.minute % 15)
        if chance.random() < shares[6]:
            scores += [(symbol, now + chance.randint(-2000, 500) * timedelta(seconds=1)) for _ in range(3)]
        if chance.random() < shares[7]:
            features[SENTIMENT] += [((symbol,), quarter + 15 * MINUTE * chance.randint(-5, 2)) for _ in range(3)]
        if chance.random() < shares[7]:
            online[SENTIMENT][(symbol,)] = quarter + 15 * MINUTE * chance.randint(-5, 2)
        if chance.random() < 0.2:
            looked_at.add((TABLES[SENTIMENT][0], symbol, ""))
    if chance.random() < 0.3:
        scores += [("*", now + chance.randint(-2000, 500) * timedelta(seconds=1)) for _ in range(2)]
    declared = set()
    for _ in range(chance.choice([0, 0, 3, 12])):
        names = chance.choice([*symbols, "*"]), chance.choice([*LENGTHS, "*"])
        unit = chance.choice([MINUTE, 15 * MINUTE, HOUR, DAY])
        first = now + chance.randint(-12, 2) * unit
        declared.add(
            (*names, first, chance.choice([FOREVER, *(first + chance.randint(0, 4) * unit for _ in range(4))]))
        )
    return World(now, bars, ticks, scores, features, online, looked_at, declared)


def fill(market: Market, world: World) -> None:
    """Have the database hold the rows of a world, and no others."""
    execute = market.connection.execute
    execute(
        "TRUNCATE market.candles, market.order_book, market.trades, market.signals, features.technical_indicators, "
        "features.market_features, features.sentiment_features, online.market__technical_indicators_view, "
        "online.market__market_features_view, online.market__sentiment_features_view, featurectl.computed_series, "
        "featurectl.known_absent"
    )
    with market.connection.cursor() as cursor:
        candle = "INSERT INTO market.candles (symbol, timeframe, open_time, open, high, low, close, volume) "
        cursor.executemany(f"{candle} VALUES (%s, %s, %s, 1, 1, 1, 1, 1)".encode(), world.bars)
        books = "INSERT INTO market.order_book VALUES (%s, %s, 1, 1, 2, 1) ON CONFLICT DO NOTHING"
        deals = "INSERT INTO market.trades VALUES (%s, %s, '1', 1, 1) ON CONFLICT DO NOTHING"
        cursor.executemany(books.encode(), world.ticks[::2])
        cursor.executemany(deals.encode(), world.ticks[1::2])
        signal = "INSERT INTO market.signals (symbol, time, name, score) VALUES (%s, %s, %s, 0) ON CONFLICT DO NOTHING"
        cursor.executemany(signal.encode(), [(*one, f"s{row % 2}") for row, one in enumerate(world.scores)])
        looked = "INSERT INTO featurectl.computed_series (feature_table, symbol, timeframe, computed_until) "
        cursor.executemany(f"{looked} VALUES (%s, %s, %s, now())".encode(), world.looked_at)
        absent = "INSERT INTO featurectl.known_absent VALUES (%s, %s, %s, %s, 'a reason', now())"
        cursor.executemany(absent.encode(), world.declared)
        for view, (table, keys, _) in TABLES.items():
            for place, rows in ((table, world.features[view]), (f"online.market__{view}", world.online[view].items())):
                statement = sql.SQL("INSERT INTO {} ({}) VALUES ({}) ON CONFLICT DO NOTHING").format(
                    table_identifier(place),
                    sql.SQL(", ").join(map(sql.Identifier, (*keys, "event_timestamp", "created_timestamp"))),
                    sql.SQL(", ").join([sql.SQL("%s")] * (len(keys) + 1) + [sql.SQL("now()")]),
                )
                cursor.executemany(statement, [(*key, event) for key, event in rows])


def grid_up(instant: datetime, step: timedelta) -> datetime:
    """Return the first instant of a grid from midnight on that is not before another."""
    midnight = instant.replace(hour=0, minute=0, second=0, microsecond=0)
    found = midnight
    while found < instant:
        found += step
    return found


def expected_sources(world: World, view: str) -> dict[tuple[str, ...], tuple[datetime, bool]]:
    """Return the newest source row by entity, and whether there should be features of it."""
    found: dict[tuple[str, ...], tuple[datetime, bool]] = {}
    if view == TECHNICAL:
        for symbol, length, opened in world.bars:
            close = opened + TIMEFRAMES[length]
            if close <= world.now:
                found[symbol, length] = max(found.get((symbol, length), (close, True)), (close, True))
        return found
    rows = world.ticks if view == MARKET else world.scores
    rows = [row for row in rows if row[1] <= world.now]
    symbols = {symbol for symbol, _ in rows} - {"*"}
    whole = [time for symbol, time in rows if symbol == "*"]
    if whole:
        symbols |= {one[0] for one in world.bars} | {symbol for symbol, _ in world.ticks + world.scores} - {"*"}
    for symbol in symbols:
        times = [time for name, time in rows if name == symbol] + whole
        is_due = any(grid_up(time, STEPS[view]) <= world.now for time in times)
        lengths = ("1m", "5m", "15m", "1h", "4h") if view == MARKET else ("",)
        for length in lengths:
            key = (symbol, length) if view == MARKET else (symbol,)
            looked = (TABLES[view][0], symbol, length) in world.looked_at
            found[key] = (max(times), is_due and not looked and length != "4h")
    return found


def is_absent(world: World, view: str, key: tuple[str, ...], event: datetime, step: timedelta) -> bool:
    """Tell whether what a row at this instant would be made of is declared known absent."""
    opening = event - step if view == TECHNICAL else event
    for symbol, length, first, last in world.declared:
        is_meant = symbol in ("*", key[0]) and (length == "*" or (view == TECHNICAL and length == key[1]))
        if is_meant and first <= opening <= last:
            return True
    return False


def model(world: World) -> dict[tuple[str, str], Freshness]:
    """Return what there is to be told of a world, worked out row by row."""
    found = {}
    for view, (_, keys, ttl) in sorted(TABLES.items()):
        sources = expected_sources(world, view)
        computed: dict[tuple[str, ...], datetime] = {}
        for key, event in world.features[view]:
            if event <= world.now:
                computed[key] = max(event, computed.get(key, event))
        online = world.online[view]
        entities = {*computed, *online, *(key for key, (_, is_due) in sources.items() if is_due)}
        for length in sorted({key[1] if len(key) > 1 else "" for key in entities}):
            group = [key for key in entities if len(keys) == 1 or key[1] == length]
            step = TIMEFRAMES[length] if view == TECHNICAL else STEPS[view]
            lags = {}
            for key in group:
                if key in online:
                    due = computed.get(key, online[key])
                    while due + step <= world.now:
                        due += step
                    while due > world.now:
                        due -= step
                    lags[key] = timedelta(0)
                    while due > online[key]:
                        lags[key] += step if not is_absent(world, view, key, due, step) else timedelta(0)
                        due -= step
            served = [online[key] for key in group if key in online and timedelta(0) <= world.now - online[key] <= ttl]
            behind = 0
            for key in group:
                newest = computed.get(key)
                if view == TECHNICAL and key in sources:
                    newest = max(sources[key][0], newest or sources[key][0])
                if key not in online:
                    behind += newest is not None or key in sources
                else:
                    behind += newest is not None and newest > online[key]
            worst_lag = max(lags.values(), default=None)
            found[view, length] = Freshness(
                view=view,
                timeframe=length,
                entities=len(group),
                source=max((sources[key][0] for key in group if key in sources), default=None),
                computed=max((computed[key] for key in group if key in computed), default=None),
                materialized=max((online[key] for key in group if key in online), default=None),
                served=max(served, default=None),
                lag_seconds=None if worst_lag is None else worst_lag.total_seconds(),
                lag_bars=None if worst_lag is None else sum(1 for _ in steps_within(worst_lag, step)),
                worst=None,
                behind=behind,
                stale=sum(world.now - online[key] > ttl for key in group if key in online),
                missing=sum(key not in online for key in group),
            )
    return found


def steps_within(span: timedelta, step: timedelta) -> Iterator[None]:
    while span >= step:
        span -= step
        yield


WORLDS = 60


def test_every_number_is_what_a_naive_model_says(market: Market) -> None:
    first = int(os.environ.get("FEATURECTL_TEST_SEED", random.randrange(10**6)))
    groups = 0
    for seed in range(first, first + WORLDS):
        print(f"seed {seed}")
        world = draw(random.Random(seed))
        fill(market, world)
        found, wanted = look(market, now=world.now), model(world)
        assert {key: replace(one, worst=None) for key, one in found.items()} == wanted, f"seed {seed}: {world}"
        groups += len(found)
        for (view, length), one in found.items():
            key = tuple(one.worst.rsplit("_", 1)) if length else (one.worst,)  # type: ignore[union-attr]
            assert (key in world.online[view]) == (one.missing == 0), f"seed {seed}"
    assert groups > WORLDS


# On the command line


@pytest.fixture
def fresh(candles_of_all_lengths: Market, monkeypatch: pytest.MonkeyPatch) -> Market:
    monkeypatch.setenv("FEATURECTL_NOW", iso(NOW))
    return candles_of_all_lengths


def test_a_view_that_can_not_be_read_is_told_of_below_the_others(
    fresh: Market, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh.connection.execute("DROP TABLE online.market__sentiment_features_view")
    error = f"view '{SENTIMENT}' has no online table online.market__{SENTIMENT}; run `featurectl apply`"
    done = command("status", code=5)
    assert {one["view"] for one in done.document["views"]} == {TECHNICAL}
    assert done.document["unreadable"] == [{"view": SENTIMENT, "error": error}]
    assert f"error: 1 of 3 views can't be looked at: {SENTIMENT}: {error}\n" in done.err
    assert f"\n{SENTIMENT}: {error}\n" in command("status", "--format", "table", code=5).out
    monkeypatch.setenv("FEATURECTL_NOW", "2024-03-04T13:20:00Z")
    late = command("status", "--max-lag", "0", code=5)
    assert f"warning: {TECHNICAL} 1h: BTCUSDT_1h lags by 3 bars" in late.err
    assert command("status", SENTIMENT, code=2).err == f"error: {error}\n"
    assert command("status", TECHNICAL, code=0).document["unreadable"] == []


def test_the_document_and_the_exit_code(fresh: Market, command: Command) -> None:
    done = command("status", code=0)
    assert (done.document["now"], done.err) == ("2024-03-04T10:20:00Z", "")
    first = done.document["views"][0]
    assert first == {
        "view": TECHNICAL,
        "timeframe": "1h",
        "entities": 1,
        "source": "2024-03-04T10:00:00Z",
        "computed": "2024-03-04T10:00:00Z",
        "materialized": "2024-03-04T10:00:00Z",
        "served": "2024-03-04T10:00:00Z",
        "lag_seconds": 0.0,
        "lag_bars": 0,
        "worst": "BTCUSDT_1h",
        "behind": 0,
        "stale": 0,
        "missing": 0,
    }
    assert [one["lag_bars"] for one in done.document["views"]] == [0, 0, 2, 1, 0]
    command("status", "--max-lag", "2", code=0)
    done = command("status", "--max-lag", "1", code=1)
    assert done.err == f"warning: {TECHNICAL} 1d: BTCUSDT_1d lags by 2 bars\n" and done.document["views"]
    fresh.ingest(bars([1.0], symbol="ETHUSDT", start=at("04T08:00")), now=NOW)
    done = command("status", TECHNICAL, "--symbol", "BTCUSDT,ETHUSDT", "--max-lag", "2", code=1)
    assert done.err == f"warning: {TECHNICAL} 1h: 1 of 2 entities are not online\n"
    command("status", "--symbol", "BTCUSDT", "--max-lag", "2", code=0)
    assert "symbol 'BTCUSD' not found" in command("status", "--symbol", "BTCUSD", "--max-lag", "2", code=2).err
    assert "training only" in command("status", "comprehensive_features_view", code=2).err
    rows = command("status", "--format", "csv", code=0).out.splitlines()
    assert rows[1].startswith("technical_indicators_view,1h,2,2024-03-04T10:00:00Z,") and len(rows) == 6


def test_the_table(fresh: Market, command: Command) -> None:
    lines = command("status", "--format", "table", code=0).out.splitlines()
    assert lines[0] == "as of 2024-03-04T10:20:00Z"
    heads = ["view", "timeframe", "entities", "source", "computed", "online", "served", "lag", "behind"]
    assert re.split(r"\s{1,}", lines[1])[:9] == heads
    cells = [re.split(r"\s{2,}", line.strip()) for line in lines[2:7]]
    ago = "20m ago"
    assert cells[0][:8] == [TECHNICAL, "1h", "1", ago, ago, ago, ago, "0 bars"]
    assert cells[2][3:8] == ["2d 10h ago", "2d 10h ago", "2d 10h ago", "-", "2 bars"]
    assert cells[3][7] == "1 bar"
    assert max(map(len, lines)) <= 160


def test_an_empty_database_has_nothing_to_show(command: Command) -> None:
    done = command("status", "--max-lag", "0", code=0)
    assert (done.document["views"], done.document["runs"], done.document["locks"]) == ([], [], [])
    assert "no view is online" in command("status", "--format", "table", code=0).out


def test_last_runs_and_locks(fresh: Market, command: Command) -> None:
    command("materialize", code=0)
    command("compute", "--symbol", "NONE", code=2)
    command("compute", code=0)
    command("compute", "--symbol", "NONE", code=2)
    with lock(fresh.connection, "run market"), lock(fresh.connection, f"materialize market.{TECHNICAL}"):
        done = command("status", code=0)
    locks = {one["name"]: one for one in done.document["locks"]}
    assert set(locks) == {"run market", f"materialize market.{TECHNICAL}"}
    assert locks["run market"]["pid"] == fresh.connection.info.backend_pid
    runs = {one["command"]: one for one in done.document["runs"]}
    assert set(runs) == {"compute", "materialize"}
    assert (runs["materialize"]["verdict"], runs["materialize"]["exit_code"]) == ("done", 0)
    assert (runs["compute"]["verdict"], runs["compute"]["exit_code"]) == ("failed", 2)
    assert "symbol 'NONE' not found" in runs["compute"]["error"]
    for one in runs.values():
        assert one["last_success"] and one["started_at"] == "2024-03-04T10:20:00Z"
    assert runs["materialize"]["last_success"] == runs["materialize"]["finished_at"]
    lines = command("status", "--format", "table", code=0).out.splitlines()
    assert any(line.startswith("compute: failed, began 0s ago; last success in") for line in lines) or any(
        line.startswith("compute: failed, began 0s ago; last success 0s ago: symbol 'NONE'") for line in lines
    )


@pytest.fixture
def reader(repo: Repo) -> Iterator[Callable[..., str]]:
    """Make a role that may read all that is ours, but for some tables; returns its URL."""
    name = f"test_{uuid.uuid4().hex[:8]}_reads"
    with repo.connect() as connection:
        connection.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'x'".encode())
        for schema in ("featurectl", "market", "features", "online"):
            connection.execute(f"GRANT USAGE ON SCHEMA {schema} TO {name}".encode())
            connection.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO {name}".encode())

    def url(*hidden: str) -> str:
        with repo.connect() as connection:
            for table in hidden:
                connection.execute(f"REVOKE ALL ON {table} FROM {name}".encode())
        parts = conninfo_to_dict(repo.url)
        place = f"host={parts.get('host', 'localhost')}&port={parts.get('port', 5432)}"
        return f"postgresql://{name}:x@/{parts['dbname']}?{place}"

    yield url
    with repo.connect() as connection:
        connection.execute(f"DROP OWNED BY {name}".encode())
        connection.execute(f"DROP ROLE {name}".encode())


def test_a_role_that_may_only_read_sees_all_of_it(fresh: Market, command: Command, reader: Callable[..., str]) -> None:
    put(fresh.connection, "order_book", book("BTCUSDT", 30, at("04T10:10:00")))
    put(fresh.connection, "signals", [score("*", at("04T09:50"))])
    command("compute", code=0)
    with lock(fresh.connection, "run market"):
        whole = command("status", code=0).document
        seen = command("status", "--database-url", reader(), code=0).document
        for one in (whole, seen):
            assert one["locks"].pop()["pid"] == fresh.connection.info.backend_pid
        assert seen == whole and len(seen["views"]) == 14
    less = command("status", "--database-url", reader("featurectl.runs"), code=0).document
    assert less == {**whole, "runs": []}


# Again and again


class Terminal:
    """The console script on a terminal of some lines, and what that shows."""

    def __init__(self, repo: Repo, *words: str, lines: int = 40, columns: int = 160, **environment: str) -> None:
        self._shown = ""
        self._own, other = os.openpty()
        fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        given = {**repo.environment(environment), "TERM": "xterm"}
        for name in ("COLUMNS", "LINES"):
            given.pop(name, None)
        self.process = subprocess.Popen(
            [str(SCRIPT), *words],
            cwd=repo.root, env=given, stdin=other, stdout=other, stderr=other, start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(other, termios.TIOCSCTTY, 0),
        )  # fmt: skip
        os.close(other)

    def until(self, is_seen: Callable[[str], Any], seconds: float = 30) -> str:
        """Read until something is seen of what was written; return all of it."""
        end = time.monotonic() + seconds
        while not is_seen(self._shown):
            assert time.monotonic() < end, f"not seen:\n{self._shown}"
            if select.select([self._own], [], [], 0.2)[0]:
                try:
                    self._shown += os.read(self._own, 65536).decode()
                except OSError:
                    assert is_seen(self._shown), f"it ended:\n{self._shown}"
        return self._shown

    def press(self, key: bytes) -> None:
        os.write(self._own, key)

    def code(self) -> int:
        return self.process.wait(timeout=20)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._own)


HOME, END = "\x1b[H", "\x1b[J"


def looks(shown: str) -> list[str]:
    """Return the whole screens that were shown, one in the place of the other."""
    return [part.split(END)[0].replace("\r", "").replace("\x1b[K", "") for part in shown.split(HOME)[1:] if END in part]


def test_watching_refreshes_in_place_until_ctrl_c(fresh: Market) -> None:
    repo = fresh.repo
    words = ("status", "--watch", "--interval", "0.2")
    with contextlib.closing(Terminal(repo, *words, FEATURECTL_NOW=iso(NOW))) as terminal:
        terminal.until(lambda shown: len(looks(shown)) >= 2)
        fresh.ingest(bars([1.0], symbol="ETHUSDT", start=at("04T08:00")), now=NOW)
        shown = terminal.until(lambda shown: re.search(r"1h +2 ", looks(shown)[-1]))
        assert "Traceback" not in shown and shown.count("\n") < 40 * len(looks(shown)) + 40
        first = looks(shown)[0].splitlines()
        assert first[0] == "as of 2024-03-04T10:20:00Z" and re.search(r"1h +1 ", first[2])
        terminal.press(b"\x03")
        assert terminal.code() == 0
        left = terminal.until(lambda _: True)
        assert "interrupted" not in left and "Traceback" not in left


def test_watching_ends_with_the_process_that_is_told_to(fresh: Market) -> None:
    with contextlib.closing(Terminal(fresh.repo, "status", "--watch", lines=5)) as terminal:
        shown = terminal.until(lambda shown: len(looks(shown)) >= 1)
        # What is longer than the terminal would scroll, and the next look would not be in its place.
        assert looks(shown)[0].endswith("… and 5 more lines\n") and looks(shown)[0].count("\n") == 4
        terminal.process.send_signal(signal.SIGTERM)
        assert terminal.code() == 143


def test_watching_needs_a_terminal(fresh: Market, command: Command) -> None:
    for words in ((), ("--json",), ("--format", "table"), ("-o", "x.txt")):
        assert "--watch refreshes a table in place" in command("status", "--watch", *words, code=2).err
