"""What a manager answers online: values against SQL, how old they may be, instants, keys, services, statuses."""

from __future__ import annotations

import asyncio
import shutil
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import numpy as np
import pandas as pd
import pytest
import talib

from featurectl.core.candles import read_candles
from featurectl.core.catalog import Selection
from featurectl.core.connections import AsyncPool
from featurectl.core.entity import EntityId
from featurectl.core.ingest import merge_candles
from featurectl.core.materialize import materialize
from featurectl.core.serving.answer import Entities, OnlineRows, Request
from featurectl.core.serving.paths import Backend, Deadline
from featurectl.core.serving.reader import Reader
from featurectl.core.serving.session import Session
from featurectl.core.times import Window
from featurectl.errors import InvalidEntityId, NotFound, UsageError
from featurectl.manager import FeastFeatureStoreManager
from tests.fix_database import create_database, drop_database
from tests.fix_repository import DATA, Repo, needs_data
from tests.market import FEATURES, HOUR, MICROSECOND, START, Market, bars, feature_rows, put, random_bars

pytestmark = pytest.mark.xdist_group("online serving")  # one market for all

NOON = START + 60 * HOUR
MINUTE, DAY = timedelta(minutes=1), timedelta(days=1)
TECHNICAL, MARKET, SENTIMENT = "technical_indicators_view", "market_features_view", "sentiment_features_view"
FLOW = ("bid_ask_spread", "order_book_imbalance", "trade_size_avg")
SCORES = ("news_sentiment", "social_sentiment", "fear_greed_index")
LIMITS = {TECHNICAL: HOUR, MARKET: 5 * MINUTE, SENTIMENT: 30 * MINUTE}
ONE_OF = {TECHNICAL: "atr", MARKET: "bid_ask_spread", SENTIMENT: "fear_greed_index"}
PRESENT, NULL, MISSING, STALE = "PRESENT", "NULL_VALUE", "NOT_FOUND", "OUTSIDE_MAX_AGE"


class Served:
    """A repository whose views were brought online at noon, and a manager of it; ``now`` is the manager's clock."""

    def __init__(self, market: Market) -> None:
        self.market = market
        self.now = NOON
        self.loop = asyncio.Runner()
        self.manager = FeastFeatureStoreManager(market.repo.root, database_url=market.repo.url, clock=lambda: self.now)

    def close(self) -> None:
        self.loop.run(self.manager.close())
        self.loop.close()

    def frame(self, ids: Sequence[str], *given: Any, **options: Any) -> pd.DataFrame:
        return self.loop.run(self.manager.get_online_features(ids, *given, **options))

    def rows(self, ids: Sequence[str], *given: Any, **options: Any) -> OnlineRows:
        return self.loop.run(self.manager.get_online_features_rows(ids, *given, **options))

    def one(self, id: str, feature: str, **options: Any) -> tuple[Any, str, str]:
        """Return a value, its status and where it came from."""
        answer = self.rows([id], [feature], **options)
        return answer[0][feature], answer.statuses[0][feature], answer.source

    def newest(self, view: str, id: str, at: datetime) -> tuple[datetime, dict[str, float | None]]:
        """Return the newest row of the history's own table up to an instant."""
        rows = feature_rows(self.market, view, id)
        event = max(event for event in rows if event <= at)
        return event, rows[event]


@pytest.fixture(scope="module")
def served(
    server: str, applied_repository: tuple[Any, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    root, template = applied_repository
    name = f"featurectl_serving_{uuid.uuid4().hex[:12]}"
    repo = Repo(tmp_path_factory.mktemp("serving") / "market", create_database(server, name, template))
    shutil.copytree(root, repo.root)
    with repo.connect() as connection:
        made = Served(Market(repo, connection))
        fill(made.market)
        yield made
        made.close()
    drop_database(server, name)


@pytest.fixture(autouse=True)
def _at_noon(served: Served) -> None:
    served.now = NOON


def fill(market: Market) -> None:
    """Bring everything online at noon; the history goes on for an hour, in which nobody materializes."""
    random = np.random.default_rng(5)
    series = [
        random_bars(random, 61, symbol="BTCUSDT"),
        random_bars(random, 61, symbol="ETHUSDT"),
        random_bars(random, 19, symbol="NEWUSDT", start=NOON - 18 * HOUR),
        random_bars(random, 36, symbol="OLDUSDT"),
        random_bars(random, 132, symbol="BTCUSDT", timeframe="5m", start=NOON - 10 * HOUR),
    ]
    market.ingest(*series, now=NOON + HOUR)
    ticks = [NOON - HOUR + 30 * timedelta(seconds=place) for place in range(240)]
    sizes = random.gamma(2, 1, (240, 3))
    put(
        market.connection,
        "order_book",
        [
            {"symbol": "BTCUSDT", "time": time, "bid": 99.0, "bid_size": bid, "ask": 100.0 + spread, "ask_size": ask}
            for time, (bid, ask, spread) in zip(ticks, sizes.tolist(), strict=True)
        ],
    )
    trades = [
        {"symbol": "BTCUSDT", "time": time, "trade_id": str(place), "price": 99.5, "size": size, "side": "buy"}
        for place, (time, size) in enumerate(zip(ticks, sizes[:, 0].tolist(), strict=True))
    ]
    put(market.connection, "trades", trades)
    scores = [("BTCUSDT", "news_sentiment", -11, 0.25), ("ETHUSDT", "social_sentiment", -50, -0.5)]
    scores += [("BTCUSDT", "news_sentiment", 10, -0.75), ("*", "fear_greed_index", -720, 61.0)]
    put(
        market.connection,
        "signals",
        [
            {"symbol": symbol, "name": name, "time": NOON + minutes * MINUTE, "score": score}
            for symbol, name, minutes, score in scores
        ],
    )
    market.compute(now=NOON)
    bring_online(market, NOON)
    market.compute(now=NOON + HOUR)


def bring_online(market: Market, now: datetime) -> None:
    views = [view for view in market.catalog.views if view.online_table]
    for done in materialize(market.connection, "market", views, Window(None, None), now=now):
        assert hasattr(done, "written"), done


# --- values ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("view", "ids"),
    [
        (TECHNICAL, ["BTCUSDT_1h", "NEWUSDT_1h", "BTCUSDT_5m", "ETHUSDT_1h"]),
        (MARKET, ["BTCUSDT_1m", "BTCUSDT_1h", "BTCUSDT_5m", "BTCUSDT_15m"]),
        (SENTIMENT, ["ETHUSDT", "BTCUSDT"]),
    ],
)
def test_values_and_event_times_are_those_of_the_feature_table(served: Served, view: str, ids: list[str]) -> None:
    wanted = [served.newest(view, id, NOON) for id in ids]
    names = list(wanted[0][1])
    frame = served.frame(ids, [f"{view}:{name}" for name in names])
    assert list(frame.columns) == ["entity_id", "symbol", "timeframe", "event_timestamp", *names]
    assert list(frame.entity_id) == ids
    assert list(frame.symbol) == [id.partition("_")[0] for id in ids]
    assert str(frame.event_timestamp.dt.tz) == "UTC"
    assert frame.event_timestamp.tolist() == [event for event, _ in wanted]
    for name in names:
        found = [None if pd.isna(value) else value for value in frame[name]]
        assert found == [values[name] for _, values in wanted], name
    assert frame.attrs["source"] == "online"
    assert frame.attrs["degraded"] is None
    assert frame.attrs["statuses"] == [
        {name: NULL if value is None else PRESENT for name, value in values.items()} for _, values in wanted
    ]


def test_a_feature_that_its_series_is_too_short_for_is_null(served: Served) -> None:
    answer = served.rows(["NEWUSDT_1h"])
    assert (answer[0]["rsi_14"] is None, answer[0]["ema_20"], answer[0]["macd"]) == (False, None, None)
    assert [answer.statuses[0][name] for name in ("rsi_14", "ema_20", "macd")] == [PRESENT, NULL, NULL]


def test_rows_are_plain_python_and_say_what_the_frame_says(served: Served) -> None:
    ids = ["BTCUSDT_1h", "NEWUSDT_1h", "NOSUCH_1h"]
    rows, frame = served.rows(ids), served.frame(ids)
    assert {type(value) for row in rows for value in row.values()} <= {str, float, datetime, type(None)}
    assert [list(row) for row in rows] == [list(frame.columns)] * 3
    plain = frame.astype(object).where(frame.notna(), None).to_dict("records")
    assert [{**row, "event_timestamp": row["event_timestamp"]} for row in plain] == rows
    assert (rows.statuses, rows.ages) == (frame.attrs["statuses"], frame.attrs["ages"])


@needs_data
def test_the_real_bars_of_an_exchange(repo: Repo) -> None:
    """Bitcoin's hours on Binance: what is served of them is what TA-Lib makes of the whole file."""
    now = datetime(2024, 8, 9, 2, tzinfo=UTC)
    name = "BTCUSDT_1h.csv.gz"
    file = read_candles(DATA / "candles" / name, name=name, symbol=None, timeframe=None, closed_before=now)
    with repo.connect() as connection:
        real = Served(Market(repo, connection))
        merge_candles(connection, file, now=now)
        real.market.compute(now=now)
        bring_online(real.market, now)
        event, values = real.newest(TECHNICAL, "BTCUSDT_1h", now)
        real.now = event + 59 * MINUTE
        answer = real.rows(["BTCUSDT_1h"], FEATURES)
        real.close()
    assert (answer[0]["event_timestamp"], answer.source) == (event, "online")
    assert {name: answer[0][name] for name in FEATURES} == values
    assert set(answer.statuses[0].values()) == {PRESENT}
    series = file.series[0]
    place = int(np.searchsorted(series.open_time, int(event.timestamp() * 1e6) - 3_600_000_000))
    assert answer[0]["rsi_14"] == pytest.approx(talib.RSI(series.close[: place + 1], 14)[-1], rel=1e-9)
    assert answer[0]["atr"] == pytest.approx(
        talib.ATR(*(getattr(series, part)[: place + 1] for part in ("high", "low", "close")), 14)[-1], rel=1e-9
    )


# --- how old ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("view", LIMITS)
def test_a_value_serves_up_to_its_ttl_and_not_a_microsecond_longer(served: Served, view: str) -> None:
    feature, id = ONE_OF[view], "BTCUSDT" if view == SENTIMENT else "BTCUSDT_1h"
    event, values = served.newest(view, id, NOON)
    assert event == NOON
    for age in (timedelta(0), LIMITS[view] - MICROSECOND, LIMITS[view]):
        served.now = event + age
        assert served.one(id, feature) == (values[feature], PRESENT, "online"), age
    served.now = event + LIMITS[view] + MICROSECOND
    assert served.one(id, feature) == (None, STALE, "online")
    answer = served.rows([id], [feature])
    assert answer[0]["event_timestamp"] == event, "when it was is said all the same"
    assert answer.ages == [{feature: (LIMITS[view] + MICROSECOND).total_seconds()}]


def test_max_age_is_tighter_than_the_ttl_and_never_looser(served: Served) -> None:
    value = served.newest(TECHNICAL, "BTCUSDT_1h", NOON)[1]["atr"]
    served.now = NOON + 10 * MINUTE
    assert served.one("BTCUSDT_1h", "atr", max_age=10 * MINUTE) == (value, PRESENT, "online")
    assert served.one("BTCUSDT_1h", "atr", max_age=10 * MINUTE - MICROSECOND) == (None, STALE, "online")
    assert served.one("BTCUSDT_1h", "atr", max_age=timedelta(0)) == (None, STALE, "online")
    served.now = NOON
    assert served.one("BTCUSDT_1h", "atr", max_age=timedelta(0)) == (value, PRESENT, "online")
    served.now = NOON + 2 * HOUR
    assert served.one("BTCUSDT_1h", "atr", max_age=DAY) == (None, STALE, "online")


def test_max_age_holds_for_each_view_by_itself(served: Served) -> None:
    served.now = NOON + 4 * MINUTE
    answer = served.rows(["BTCUSDT_1h"], ["atr", "bid_ask_spread", "news_sentiment"], max_age=6 * MINUTE)
    assert set(answer.statuses[0].values()) == {PRESENT}
    served.now = NOON + 6 * MINUTE
    answer = served.rows(["BTCUSDT_1h"], ["atr", "bid_ask_spread", "news_sentiment"], max_age=6 * MINUTE)
    assert answer.statuses == [{"atr": PRESENT, "bid_ask_spread": STALE, "news_sentiment": PRESENT}]


def test_allow_stale_serves_what_is_too_old_and_still_calls_it_so(served: Served) -> None:
    event, values = served.newest(TECHNICAL, "OLDUSDT_1h", NOON)
    assert NOON - event == DAY
    (row,) = withheld = served.rows(["OLDUSDT_1h"], FEATURES)
    assert {row[name] for name in FEATURES} == {None}
    (row,) = answer = served.rows(["OLDUSDT_1h"], FEATURES, allow_stale=True)
    assert {name: row[name] for name in FEATURES} == values
    assert set(answer.statuses[0].values()) == set(withheld.statuses[0].values()) == {STALE}
    assert set(answer.ages[0].values()) == {DAY.total_seconds()}
    assert served.one("OLDUSDT_1h", "atr", allow_stale=True, max_age=MINUTE) == (values["atr"], STALE, "online")
    assert served.one("NOSUCH_1h", "atr", allow_stale=True) == (None, MISSING, "online")


def test_one_stale_entity_leaves_the_others_values_alone(served: Served) -> None:
    ids = ["BTCUSDT_1h", "OLDUSDT_1h", "ETHUSDT_1h"]
    answer = served.rows(ids, ["atr"])
    values = [served.newest(TECHNICAL, id, NOON)[1]["atr"] for id in ids]
    assert [row["atr"] for row in answer] == [values[0], None, values[2]]
    assert [one["atr"] for one in answer.statuses] == [PRESENT, STALE, PRESENT]
    assert [row["atr"] for row in served.rows(ids, ["atr"], allow_stale=True)] == values


# --- instants --------------------------------------------------------------------------------------------------------


def test_a_clock_before_the_online_row_gets_what_was_known_then(served: Served) -> None:
    """Clocks differ: a row of a moment ahead is nothing that a caller could have known."""
    served.now = NOON - MICROSECOND
    event, values = served.newest(TECHNICAL, "BTCUSDT_1h", served.now)
    assert event == NOON - HOUR
    answer = served.rows(["BTCUSDT_1h"], ["atr"])
    assert (answer[0]["event_timestamp"], answer[0]["atr"]) == (event, values["atr"])
    assert answer.source == "timescaledb"
    assert answer.degraded is None
    assert served.one("BTCUSDT_1h", "atr", backend="online") == (None, MISSING, "online")


@pytest.mark.parametrize("back", [timedelta(0), MICROSECOND, 30 * MINUTE, 90 * MINUTE, 40 * HOUR])
def test_as_of_the_past_is_what_the_history_knew(served: Served, back: timedelta) -> None:
    at = NOON - back
    served.now = NOON + HOUR
    event, values = served.newest(TECHNICAL, "BTCUSDT_1h", at)
    answer = served.rows(["BTCUSDT_1h"], FEATURES, as_of=at)
    assert {name: answer[0][name] for name in FEATURES} == values
    assert answer[0]["event_timestamp"] == event
    assert answer.ages == [dict.fromkeys(FEATURES, (at - event).total_seconds())]
    assert answer.source == ("timescaledb" if back else "online")
    assert answer.degraded is None, "the history is where the past is looked up"


def test_as_of_an_instant_that_the_online_row_is_too_old_for_reads_on_in_the_history(served: Served) -> None:
    """Nobody materialized since noon; the history knows the bar that closed at one."""
    served.now = NOON + 2 * HOUR
    at = NOON + HOUR + 5 * MINUTE
    event, values = served.newest(TECHNICAL, "BTCUSDT_1h", at)
    assert event == NOON + HOUR
    answer = served.rows(["BTCUSDT_1h", "OLDUSDT_1h"], ["atr"], as_of=at)
    assert [row["event_timestamp"] for row in answer] == [event, NOON - DAY]
    assert answer[0]["atr"] == values["atr"]
    assert answer.statuses == [{"atr": PRESENT}, {"atr": STALE}]


def test_as_of_before_the_first_row_there_is_nothing(served: Served) -> None:
    answer = served.rows(["BTCUSDT_1h"], ["atr"], as_of=START)
    assert (answer[0]["event_timestamp"], answer.statuses, answer.ages) == (None, [{"atr": MISSING}], [{"atr": None}])


def test_as_of_the_future_judges_ages_by_then(served: Served) -> None:
    value = served.newest(TECHNICAL, "ETHUSDT_1h", NOON)[1]["atr"]
    answer = served.rows(["ETHUSDT_1h"], ["atr"], as_of="+30m")
    assert (answer[0]["atr"], answer.statuses, answer.ages) == (value, [{"atr": PRESENT}], [{"atr": 1800.0}])
    answer = served.rows(["ETHUSDT_1h"], ["atr"], as_of="+3h")
    assert (answer[0]["atr"], answer.statuses) == (None, [{"atr": STALE}])


@pytest.mark.parametrize(
    "spelled",
    [
        NOON - HOUR,
        (NOON - HOUR).astimezone(timezone(timedelta(hours=5, minutes=30))),
        "2024-01-03T11:00:00Z",
        "2024-01-03T16:30:00+05:30",
        "2024-01-03 11:00",
        "-1h",
        "now-60m",
    ],
    ids=str,
)
def test_as_of_is_written_as_one_likes(served: Served, spelled: Any) -> None:
    frame = served.frame(["BTCUSDT_1h"], ["atr"], as_of=spelled)
    assert frame.attrs["as_of"] == "2024-01-03T11:00:00Z"
    assert frame["atr"].item() == served.newest(TECHNICAL, "BTCUSDT_1h", NOON - HOUR)[1]["atr"]


def test_as_of_now_is_the_plain_answer(served: Served) -> None:
    served.now = NOON + 7 * MINUTE
    plain, now = served.frame(["BTCUSDT_1h", "NEWUSDT_1h"]), served.frame(["BTCUSDT_1h", "NEWUSDT_1h"], as_of="now")
    pd.testing.assert_frame_equal(plain[["entity_id", *FEATURES]], now[["entity_id", *FEATURES]])
    assert plain.attrs["ages"][0]["atr"] == now.attrs["ages"][0]["atr"] == 420


# --- views, keys and services ----------------------------------------------------------------------------------------


def test_views_of_different_keys_and_times_in_one_answer(served: Served) -> None:
    """Both timeframes of a symbol share its sentiment; the row's time is that of its oldest values."""
    ids = ["BTCUSDT_1h", "BTCUSDT_5m", "ETHUSDT_1h"]
    served.now = at = NOON + 4 * MINUTE
    answer = served.rows(ids)
    assert list(answer[0])[4:] == answer.answer.features
    assert set(answer.answer.features) == {*FEATURES, *FLOW, *SCORES}
    for id, row, statuses in zip(ids, answer, answer.statuses, strict=True):
        wanted = served.newest(TECHNICAL, id, NOON)[1] | served.newest(SENTIMENT, id.partition("_")[0], NOON)[1]
        flow = served.newest(MARKET, id, NOON)[1] if id.startswith("BTC") else dict.fromkeys(FLOW)
        assert {name: row[name] for name in (*FEATURES, *SCORES)} == wanted, id
        assert {name: row[name] for name in FLOW} == flow, id
        assert {statuses[name] for name in FLOW} == ({PRESENT} if id.startswith("BTC") else {MISSING})
        assert row["event_timestamp"] == NOON
    assert answer[0]["news_sentiment"] == answer[1]["news_sentiment"] == 0.25
    assert answer.ages[2] == dict.fromkeys((*FEATURES, *SCORES), (at - NOON).total_seconds()) | dict.fromkeys(FLOW)


def test_the_row_s_time_is_that_of_its_oldest_view(served: Served) -> None:
    """A symbol's sentiment of a quarter past noon beside its indicators of noon."""
    served.now = NOON + 20 * MINUTE
    answer = served.rows(["BTCUSDT_1h"], ["news_sentiment", "atr"], as_of=served.now, backend="timescaledb")
    assert answer[0]["news_sentiment"] == -0.75
    assert answer.ages == [{"news_sentiment": 300.0, "atr": 1200.0}]
    assert answer[0]["event_timestamp"] == NOON


def test_a_service_gives_its_features_in_its_order(served: Served) -> None:
    frame = served.frame(["BTCUSDT_1h"], feature_service_name="market_analysis_service")
    assert list(frame.columns)[4:] == [*FLOW, *SCORES]
    assert frame.attrs["sources"] == {MARKET: "online", SENTIMENT: "online"}
    named = served.frame(["BTCUSDT_1h"], [*FLOW, *SCORES])
    pd.testing.assert_frame_equal(frame, named)


def test_a_service_for_training_is_not_served_online(served: Served) -> None:
    with pytest.raises(UsageError, match="is for training only"):
        served.rows(["BTCUSDT_1h"], None, "comprehensive_training_service")


def test_symbols_alone_where_nothing_is_keyed_by_a_timeframe(served: Served) -> None:
    answer = served.rows(["ETHUSDT", "BTCUSDT_1h", "BTCUSDT"], feature_service_name="sentiment_service")
    assert [(row["entity_id"], row["symbol"], row["timeframe"]) for row in answer] == [
        ("ETHUSDT", "ETHUSDT", None),
        ("BTCUSDT_1h", "BTCUSDT", "1h"),
        ("BTCUSDT", "BTCUSDT", None),
    ]
    assert [row["social_sentiment"] for row in answer] == [-0.5, None, None]
    assert [row["news_sentiment"] for row in answer] == [None, 0.25, 0.25]
    assert [row["fear_greed_index"] for row in answer] == [61.0, 61.0, 61.0]
    with pytest.raises(InvalidEntityId, match=rf"write <SYMBOL>_<timeframe>, .*: view '{TECHNICAL}' is keyed by"):
        served.rows(["BTCUSDT"], ["news_sentiment", "atr"])


def test_entities_stand_as_they_were_asked_for(served: Served) -> None:
    ids = ["ETHUSDT_1h", "NOSUCH_1h", "BTCUSDT_1h", "ETHUSDT_1h", "NOSUCH_1h", "ETHUSDT_1h"]
    answer = served.rows(ids, ["atr"])
    assert [row["entity_id"] for row in answer] == ids
    value = {id: answer[ids.index(id)]["atr"] for id in ids}
    assert [row["atr"] for row in answer] == [value[id] for id in ids]
    assert value["ETHUSDT_1h"] != value["BTCUSDT_1h"]
    assert [one["atr"] for one in answer.statuses] == [PRESENT, MISSING, PRESENT, PRESENT, MISSING, PRESENT]


@pytest.mark.parametrize(
    "ids",
    [
        ["ETHUSDT_1h", "BTCUSDT_5m"],
        # So many symbols and timeframes that few of their combinations are asked for.
        ["ETHUSDT_1h", "BTCUSDT_5m", "NEWUSDT_1d", "OLDUSDT_4h", "BTCUSDT_1w"],
        ["BTCUSDT_1h", "BTCUSDT_5m", "ETHUSDT_1h", "ETHUSDT_5m"],
    ],
    ids=len,
)
def test_keys_are_pairs_and_not_every_symbol_in_every_timeframe(served: Served, ids: list[str]) -> None:
    there = {"ETHUSDT_1h", "BTCUSDT_5m", "BTCUSDT_1h"}
    answer = served.rows(ids, ["atr"])
    assert [row["atr"] for row in answer] == [
        served.newest(TECHNICAL, id, NOON)[1]["atr"] if id in there else None for id in ids
    ]
    assert [one["atr"] for one in answer.statuses] == [PRESENT if id in there else MISSING for id in ids]
    counted = answer.answer.views[0].counts(NOON)
    assert (counted[PRESENT], counted[MISSING]) == (len(there & set(ids)), len(set(ids) - there))


def test_features_come_in_the_order_of_the_views_and_each_once(served: Served) -> None:
    frame = served.frame(["BTCUSDT_1h"], ["macd", "news_sentiment", f"{TECHNICAL}:atr", "macd", "atr"])
    assert list(frame.columns)[4:] == ["macd", "atr", "news_sentiment"]


# --- what is not there -----------------------------------------------------------------------------------------------


def test_ids_that_nobody_knows_are_not_found_beside_those_that_are(served: Served) -> None:
    frame = served.frame(["NOSUCH_1h", "BTCUSDT_1h"], ["atr", "news_sentiment"])
    assert frame[["atr", "news_sentiment"]].isna().to_numpy().tolist() == [[True, True], [False, False]]
    assert pd.isna(frame.event_timestamp[0])
    assert frame.attrs["statuses"][0] == {"atr": MISSING, "news_sentiment": MISSING}
    assert frame.attrs["ages"] == [{"atr": None, "news_sentiment": None}, {"atr": 0.0, "news_sentiment": 0.0}]
    assert frame.attrs["degraded"] is None
    alone = served.frame(["NOSUCH_1h"], ["atr"], with_status=True)
    assert str(alone.event_timestamp.dtype).startswith("datetime64")
    assert (alone["atr__status"].item(), pd.isna(alone.age_seconds.item())) == (MISSING, True)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (["rsi"], "feature 'rsi' not found; .*rsi_14"),
        ([f"{TECHNICAL}:news_sentiment"], f"feature 'news_sentiment' not found; .*{TECHNICAL}"),
        (["nowhere:atr"], "view 'nowhere' not found; "),
    ],
)
def test_a_feature_that_is_not_there_is_an_error_that_names_those_that_are(
    served: Served, wanted: list[str], message: str
) -> None:
    with pytest.raises(NotFound, match=message):
        served.rows(["BTCUSDT_1h"], wanted)


@pytest.mark.parametrize("id", ["BTCUSDT_7m", "BTCUSDT_1H", "_1h", "BTC USDT_1h", ""])
def test_what_is_no_id_is_refused_whatever_else_is_asked_for(served: Served, id: str) -> None:
    with pytest.raises(InvalidEntityId):
        served.rows(["BTCUSDT_1h", id], ["atr"])


# --- what is said beside the values ----------------------------------------------------------------------------------


def test_statuses_ages_and_sources_as_columns(served: Served) -> None:
    served.now = NOON + 10 * MINUTE
    frame = served.frame(["BTCUSDT_1h", "NEWUSDT_1h", "OLDUSDT_1h"], ["atr", "bid_ask_spread"], with_status=True)
    assert list(frame.columns)[6:] == ["source", "age_seconds", "atr__status", "bid_ask_spread__status"]
    assert frame["atr__status"].tolist() == [PRESENT, PRESENT, STALE]
    assert frame["bid_ask_spread__status"].tolist() == [STALE, MISSING, MISSING]
    assert frame["age_seconds"].tolist() == [600, 600, 600 + DAY.total_seconds()]
    assert frame["source"].tolist() == ["online"] * 3


def test_the_history_s_share_of_an_answer_is_labelled_row_by_row(served: Served) -> None:
    served.now = NOON + 2 * HOUR
    frame = served.frame(["BTCUSDT_1h", "NOSUCH_1h"], ["atr"], as_of=NOON - HOUR, with_status=True)
    # For what is not there, the history has the last word, too.
    assert frame["source"].tolist() == ["timescaledb", "timescaledb"]
    assert (frame.attrs["source"], frame.attrs["degraded"]) == ("timescaledb", None)
    assert frame.attrs["sources"] == {TECHNICAL: "timescaledb"}
    at = NOON - DAY + MINUTE
    mixed = served.frame(["BTCUSDT_1h", "NEWUSDT_1h", "OLDUSDT_1h"], ["atr"], as_of=at, with_status=True)
    assert mixed["source"].tolist() == ["timescaledb", "timescaledb", "online"]
    assert (mixed.attrs["source"], mixed.attrs["sources"]) == ("timescaledb+online", {TECHNICAL: "timescaledb+online"})
    before = dict(served.manager.counters()["views"][TECHNICAL]["paths"])
    served.frame(["BTCUSDT_1h"], ["atr"], as_of=NOON - HOUR)
    after = served.manager.counters()["views"][TECHNICAL]["paths"]
    assert (after["online"], after["timescaledb"]) == (before["online"], before["timescaledb"] + 1)


# --- what changes ----------------------------------------------------------------------------------------------------


def test_the_next_read_sees_what_was_materialized_and_an_old_bar_moves_nothing_back(market: Market) -> None:
    seen = Served(market)
    closes = [100.0 + place % 7 for place in range(40)]
    whole = bars(closes, start=NOON - 40 * HOUR)
    market.ingest(whole, now=NOON)
    market.compute(now=NOON)
    bring_online(market, NOON)
    first = seen.rows(["BTCUSDT_1h"], ["ema_20"])
    # The newest bar is corrected: the value changes, its time does not.
    market.ingest(bars([90.0], start=NOON - HOUR), now=NOON)
    market.compute(now=NOON + MINUTE)
    assert seen.rows(["BTCUSDT_1h"], ["ema_20"]) == first
    bring_online(market, NOON + MINUTE)
    second = seen.rows(["BTCUSDT_1h"], ["ema_20"])
    assert second[0]["event_timestamp"] == first[0]["event_timestamp"] == NOON
    assert second[0]["ema_20"] == seen.newest(TECHNICAL, "BTCUSDT_1h", NOON)[1]["ema_20"] != first[0]["ema_20"]
    # A backfill of an older window leaves the newest row where it is.
    view = market.catalog.view(TECHNICAL)
    materialize(market.connection, "market", [view], Window(START, NOON - 5 * HOUR), now=NOON + MINUTE)
    assert seen.rows(["BTCUSDT_1h"], ["ema_20"]) == second
    seen.close()


def test_a_read_under_old_definitions_leaves_nothing_behind_for_those_under_new_ones(market: Market) -> None:
    """A view of the same name has another table by now; in the online store, or in the history."""
    market.ingest(bars([100.0 + place % 7 for place in range(40)], start=NOON - 40 * HOUR), now=NOON)
    market.compute(now=NOON)
    bring_online(market, NOON)
    old = market.catalog.view(TECHNICAL)
    for table, copy in ((old.online_table, "online.copied"), (old.source_table, "features.copied")):
        market.connection.execute(f"CREATE TABLE {copy} AS TABLE {table}".encode())
        market.connection.execute(f"UPDATE {copy} SET atr = -1".encode())
    new = replace(old, online_table="online.copied", source_table="features.copied")

    async def values(backend: Backend) -> list[Any]:
        database = market.repo.database
        reader = Reader(AsyncPool(lambda: database.open_async(Session), 1))
        found = []
        for view in (old, new, old):
            request = Request((Selection(view, ("atr",)),), Entities([EntityId("BTCUSDT", "1h")]), NOON)
            found += [
                row["atr"] for row in (await reader.read(request, backend=backend, deadline=Deadline.after(30))).rows()
            ]
        await reader.close()
        return found

    for backend in (Backend.ONLINE, Backend.TIMESCALEDB):
        first, second, third = asyncio.run(values(backend))
        assert first == third > 0
        assert second == -1
