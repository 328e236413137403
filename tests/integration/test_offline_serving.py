"""Training sets of the manager: windows, spines of any form, targets, Feast's own answer, and being called off."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from featurectl.core import catalog as catalogs
from featurectl.core.catalog import Field, View
from featurectl.errors import (
    FeastUnavailable,
    InputFileError,
    InvalidEntityId,
    InvalidTime,
    NotFound,
    ReadTimeout,
    UsageError,
)
from featurectl.manager import FeastFeatureStoreManager
from tests.fix_foreign import break_registry
from tests.fix_repository import Repo
from tests.market import FEATURES, HOUR, START, Market, named, random_bars

SEED = 20240501
NOON = START + timedelta(days=5, hours=12)


@pytest.fixture(scope="module")
def filled(applied_repository: Any, server: str, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A repository with two symbols' features and some scores, for tests that change nothing."""
    import shutil
    import uuid

    from tests.fix_database import create_database, drop_database

    root, template = applied_repository
    directory = tmp_path_factory.mktemp("filled") / "market"
    shutil.copytree(root, directory)
    name = f"featurectl_test_{uuid.uuid4().hex[:12]}"
    repo = Repo(directory, create_database(server, name, template))
    random = np.random.default_rng(SEED)
    with repo.connect() as connection:
        market = Market(repo, connection)
        btc = random_bars(random, 132)
        market.ingest(btc, named(random_bars(random, 120), "ETHUSDT"), now=NOON)
        market.compute(now=NOON)
        for symbol in ("BTCUSDT", "ETHUSDT"):
            connection.execute(
                "INSERT INTO features.sentiment_features (symbol, event_timestamp, news_sentiment) VALUES "
                "(%s, %s, 0.5), (%s, %s, 'NaN')",
                (symbol, NOON - HOUR, symbol, NOON - HOUR / 2),
            )
    yield repo
    drop_database(server, name)


def on(repo: Repo, work: Callable[[FeastFeatureStoreManager], Awaitable[Any]], **options: Any) -> Any:
    """Do something with a manager whose clock stands at noon."""

    async def main() -> Any:
        settings = {"database_url": repo.url, "clock": lambda: NOON, **options}
        async with FeastFeatureStoreManager(repo.root, **settings) as manager:
            return await work(manager)

    return asyncio.run(main())


def offline(repo: Repo, *words: Any, **options: Any) -> pd.DataFrame:
    """Return a training set."""
    frame: pd.DataFrame = on(repo, lambda manager: manager.get_offline_features(*words, **options))
    return frame


def of_history(repo: Repo, symbol: str, start: datetime, end: datetime, names: str = "*") -> list[tuple[Any, ...]]:
    return repo.rows(
        f"SELECT {names} FROM features.technical_indicators WHERE symbol = %s AND event_timestamp BETWEEN %s AND %s "
        "ORDER BY event_timestamp",
        symbol,
        start,
        end,
    )


def publish(market: Market, view: View) -> None:
    """Publish the market's catalog with another view, or another definition of one."""
    others = [one for one in market.catalog.views if one.name != view.name]
    catalog = catalogs.hashed(replace(market.catalog, views=(*others, view)))
    catalogs.publish(market.connection, catalog, now=NOON, published_by="test")


# --- windows ---------------------------------------------------------------------------------------------------------


def test_a_window_has_a_row_for_each_event_time_id_by_id(filled: Repo) -> None:
    start, end = NOON - timedelta(days=1), NOON
    frame = offline(filled, ["ETHUSDT_1h", "BTCUSDT_1h"], ["macd", "rsi_14"], start_date=start, end_date=end)
    assert list(frame.columns) == ["entity_id", "symbol", "timeframe", "event_timestamp", "macd", "rsi_14"]
    wanted = [
        (f"{symbol}_1h", symbol, "1h", *row)
        for symbol in ("ETHUSDT", "BTCUSDT")
        for row in of_history(filled, symbol, start, end, "event_timestamp, macd, rsi_14")
    ]
    assert len(wanted) == 13 + 25
    assert [tuple(row) for row in frame.itertuples(index=False)] == wanted
    assert str(frame.dtypes["event_timestamp"]) == "datetime64[ns, UTC]"
    assert str(frame.dtypes["macd"]) == "float64"
    assert frame.attrs == {
        "source": "timescaledb",
        "degraded": None,
        "notes": [],
        "window": {"start": "2024-01-05T12:00:00Z", "end": "2024-01-06T12:00:00Z"},
    }


def test_times_are_datetimes_with_a_zone_or_words(filled: Repo) -> None:
    kolkata = pd.Timestamp(NOON - timedelta(hours=2)).tz_convert("Asia/Kolkata")
    frames = [
        offline(filled, ["BTCUSDT_1h"], ["rsi_14"], start_date=start, end_date=end)
        for start, end in (("-2h", "now"), (kolkata, pd.Timestamp(NOON)), ("2024-01-06T10:00", "2024-01-06T12:00Z"))
    ]
    assert [len(frame) for frame in frames] == [3, 3, 3]
    pd.testing.assert_frame_equal(frames[0], frames[1])
    pd.testing.assert_frame_equal(frames[0], frames[2])
    day = offline(filled, ["BTCUSDT_1h"], ["rsi_14"], None, "2024-01-06", "2024-01-06")
    assert list(day["event_timestamp"]) == [pd.Timestamp("2024-01-06", tz="UTC")]


def test_views_with_fewer_keys_join_and_a_nan_is_a_null(filled: Repo) -> None:
    names = ["rsi_14", "news_sentiment"]
    frame = offline(filled, ["BTCUSDT_1h"], names, start_date=NOON - HOUR, end_date=NOON)
    # The score of an hour ago is past its half hour at noon, where the newest is a NaN.
    assert list(frame["event_timestamp"]) == [NOON - HOUR, NOON - HOUR / 2, NOON]
    assert frame["news_sentiment"].tolist()[0] == 0.5
    assert frame["news_sentiment"].isna().tolist() == [False, True, True]
    alone = offline(filled, ["BTCUSDT"], ["news_sentiment"], start_date="-1h", end_date="now")
    assert alone[["entity_id", "symbol", "timeframe"]].values.tolist() == [["BTCUSDT", "BTCUSDT", None]] * 2


def test_a_service_is_a_choice_of_features(filled: Repo) -> None:
    service = "technical_indicators_service"
    frame = offline(filled, ["BTCUSDT_1h"], feature_service_name=service, start_date="-2h", end_date="now")
    assert list(frame.columns[4:]) == list(FEATURES)


def test_targets_stand_behind_the_features(filled: Repo) -> None:
    frame = offline(
        filled,
        ["BTCUSDT_1h"],
        ["rsi_14"],
        start_date="-3h",
        end_date="now",
        targets=["forward_return:1", "direction:2"],
    )
    assert list(frame.columns[4:]) == ["rsi_14", "forward_return_1", "direction_2"]
    closes = [
        close
        for (close,) in filled.rows(
            "SELECT close FROM market.candles WHERE symbol = 'BTCUSDT' ORDER BY open_time DESC LIMIT 4"
        )
    ][::-1]
    wanted = [after / before - 1 for before, after in pairwise(closes)]
    assert frame["forward_return_1"].tolist()[:3] == pytest.approx(wanted, rel=1e-12)
    assert frame["forward_return_1"].isna().tolist() == [False, False, False, True]
    assert frame["direction_2"].isna().tolist() == [False, False, True, True]


def test_an_empty_window_has_typed_columns_and_a_note(filled: Repo) -> None:
    frame = offline(filled, ["NOSUCH_1h"], ["rsi_14"], start_date="-1d", end_date="now")
    assert frame.empty
    assert str(frame.dtypes["rsi_14"]) == "float64"
    assert str(frame.dtypes["event_timestamp"]) == "datetime64[ns, UTC]"
    assert frame.attrs["notes"] == ["there are no features for these ids in this window"]


def test_types_are_those_of_the_definitions_whatever_a_column_holds(market: Market) -> None:
    market.connection.execute("CREATE TABLE features.kinds (symbol text, at timestamptz, n bigint, ok bool, t text)")
    rows = [("A", START, 2**53 + 1, True, "x"), ("A", START + HOUR, None, None, None)]
    with market.connection.cursor() as cursor:
        cursor.executemany("INSERT INTO features.kinds VALUES (%s, %s, %s, %s, %s)", rows)
    kinds = {"n": ("Int64", "bigint"), "ok": ("Bool", "boolean"), "t": ("String", "text")}
    view = replace(
        market.catalog.view("sentiment_features_view"),
        name="kinds",
        source_table="features.kinds",
        timestamp_column="at",
        created_column=None,
        online_table=None,
        computed_from=None,
        functions_file=None,
        fields=tuple(Field(name, *kind, name, "", {}) for name, kind in kinds.items()),
    )
    publish(market, view)
    for options in (
        {"entity_ids": ["A"], "start_date": START, "end_date": START + HOUR},
        {"spine": pd.DataFrame({"symbol": ["A", "A"], "time": [START, START + HOUR]})},
    ):
        frame = offline(market.repo, feature_names=[f"kinds:{name}" for name in kinds], **options)
        assert [str(frame.dtypes[name]) for name in kinds] == ["Int64", "boolean", "object"]
        assert frame["n"].tolist() == [2**53 + 1, pd.NA]
        assert frame["ok"].tolist() == [True, pd.NA]
        assert frame["t"].tolist() == ["x", None]


# --- spines ----------------------------------------------------------------------------------------------------------


def spine(**columns: Any) -> pd.DataFrame:
    events = [NOON, NOON - timedelta(days=400), NOON - 2 * HOUR, NOON - 2.5 * HOUR]
    ids = ["BTCUSDT_1h", "BTCUSDT_1h", "NOSUCH_1h", "ETHUSDT_1h"]
    return pd.DataFrame({"entity_id": ids, "event_timestamp": events, **columns})


def rsi_at(repo: Repo, symbol: str, at: datetime) -> float | None:
    found = of_history(repo, symbol, at - HOUR, at, "rsi_14")
    return found[-1][0] if found else None


def test_a_spine_keeps_rows_columns_and_index(filled: Repo) -> None:
    given = spine(label=pd.Categorical(["a", "b", "a", "b"]), weight=[1, 2, 3, 4])
    given[("odd", 1)] = [object() for _ in range(4)]
    given.index = pd.Index([7, 7, "x", None], name="row")
    before = given.copy()
    frame = offline(filled, spine=given, feature_names=["rsi_14"])
    assert list(frame.columns) == [*given.columns, "rsi_14"]
    assert frame.index.equals(given.index) and frame.index.name == "row"
    for name in ("entity_id", "label", "weight", ("odd", 1)):
        pd.testing.assert_series_equal(frame[name], given[name])
    wanted = [rsi_at(filled, "BTCUSDT", NOON), None, None, None]
    assert [None if pd.isna(value) else value for value in frame["rsi_14"]] == wanted
    assert wanted[0] is not None
    assert frame.attrs["window"] is None
    pd.testing.assert_frame_equal(given, before)


def test_a_spine_of_every_form_gives_the_same(filled: Repo, tmp_path: Path) -> None:
    given = spine()
    given.to_csv(tmp_path / "spine.csv", index=False)
    given.to_parquet(tmp_path / "spine.parquet", index=False)
    keys = pd.DataFrame({"symbol": [one.split("_")[0] for one in given["entity_id"]], "timeframe": "1h"})
    forms: dict[str, Any] = {
        "frame": given,
        "csv": tmp_path / "spine.csv",
        "text": str(tmp_path / "spine.parquet"),
        "keys": keys.assign(timestamp=given["event_timestamp"]),
        "naive": given.assign(event_timestamp=given["event_timestamp"].dt.tz_localize(None)),
        "words": given.assign(event_timestamp=given["event_timestamp"].map(str)),
        "elsewhere": given.assign(event_timestamp=given["event_timestamp"].dt.tz_convert("America/New_York")),
        "objects": given.astype({"event_timestamp": object}),
        "index": given.set_index(["entity_id", "event_timestamp"]),
        "arrow": given.astype({"entity_id": "string[pyarrow]"}),
        "categories": given.astype({"entity_id": "category"}),
    }
    for name, form in forms.items():
        frame = offline(filled, spine=form, feature_names=["rsi_14", "ema_20"])
        found = frame[["rsi_14", "ema_20"]].to_numpy()
        if name == "frame":
            wanted = found
        assert np.array_equal(found, wanted, equal_nan=True), name
        time_column = next((one for one in ("event_timestamp", "timestamp") if one in frame), None)
        if time_column:
            assert list(frame[time_column]) == list(given["event_timestamp"]), name
            assert str(frame.dtypes[time_column]) == "datetime64[ns, UTC]", name
    assert not np.isnan(wanted[0]).any()


def test_a_symbol_or_timeframe_beside_an_id_must_say_the_same(filled: Repo, tmp_path: Path) -> None:
    """The id names the entity of features and targets; who writes two into a row is told."""
    given = spine().assign(event_timestamp=[NOON - HOUR, NOON, NOON, START + 100 * HOUR])
    given.loc[1, "entity_id"] = None
    wanted = {"feature_names": ["rsi_14", "news_sentiment"], "targets": ["forward_return:1"]}
    names = [*wanted["feature_names"], "forward_return_1"]
    expected = offline(filled, spine=given, **wanted)[names]
    assert expected.notna().to_numpy().tolist() == [[True] * 3, [False] * 3, [False] * 3, [True, False, True]]
    parts = {"symbol": ["BTCUSDT", None, "NOSUCH", "ETHUSDT"], "timeframe": ["1h", None, "1h", "1h"]}
    wrong = {"symbol": ("BTCUSDT", None), "timeframe": ("4h", None)}
    for columns in ({"symbol"}, {"timeframe"}, {"symbol", "timeframe"}):
        same = given.assign(**{name: parts[name] for name in columns})
        for form in in_every_form(same, tmp_path):
            pd.testing.assert_frame_equal(offline(filled, spine=form, **wanted)[names], expected, check_names=False)
        for name in columns:
            for value in wrong[name]:
                other = same.assign(**{name: [*parts[name][:3], value]})
                shown = "null" if value is None else f"'{value}'"
                told = f"{name} {shown} in row 4 is not that of entity_id 'ETHUSDT_1h'; rename or drop column '{name}'"
                for form in in_every_form(other, tmp_path):
                    with pytest.raises(InputFileError, match=told):
                        offline(filled, spine=form, **wanted)


def in_every_form(given: pd.DataFrame, path: Path) -> list[Any]:
    given.to_csv(path / "spine.csv", index=False)
    given.to_parquet(path / "spine.parquet", index=False)
    return [given, path / "spine.csv", path / "spine.parquet"]


def test_a_spine_without_rows_and_one_of_nulls_are_answered(filled: Repo) -> None:
    empty = offline(filled, spine=spine().iloc[:0], feature_names=["rsi_14"])
    assert list(empty.columns) == ["entity_id", "event_timestamp", "rsi_14"] and empty.empty
    nulls = spine().assign(event_timestamp=pd.NaT, entity_id=None)
    assert offline(filled, spine=nulls, feature_names=["rsi_14"])["rsi_14"].isna().all()


BAD_SPINES: list[tuple[Any, str]] = [
    (pd.DataFrame({"event_timestamp": [NOON]}), "the spine has neither entity_id nor symbol and timeframe"),
    (pd.DataFrame({"entity_id": ["A_1h"]}), "the spine has no event_timestamp column; columns: entity_id"),
    (pd.DataFrame({"entity_id": ["A_1h"], "time": [7]}), "time holds int64, not times"),
    (pd.DataFrame({"entity_id": ["A_1h"], "time": ["noon"]}), "time 'noon' in row 1 is not ISO 8601"),
    (pd.DataFrame({"entity_id": ["A_1x"], "time": [NOON]}), "timeframe '1x' does not exist"),
    (pd.DataFrame({"entity_id": [["A"]], "time": [NOON]}), "the spine: entity_id holds list<.*>, not text"),
    (pd.DataFrame({"entity_id": ["A_1h"], "time": [NOON], "rsi_14": [1]}), "column 'rsi_14', which is a feature"),
    (pd.DataFrame([["A_1h", NOON, NOON]], columns=["entity_id", "time", "time"]), "two columns 'time'"),
    (pd.DataFrame({"entity_id": ["A_1h", 7], "time": [NOON, NOON]}), "entity_id can't be read"),
    (
        pd.DataFrame({"entity_id": ["A_1h", "A\n_1h"], "time": [NOON, NOON]}),
        r"the spine: 'A\\n_1h' is not an entity id; write <SYMBOL>_<timeframe>",
    ),
    (
        pd.DataFrame({"entity_id": ["A_1h", None], "time": [NOON, NOON], "symbol": ["A", "B\n"]}),
        r"the spine: symbol 'B\\n' in row 2 is not that of entity_id null; rename or drop column 'symbol'",
    ),
    (
        pd.DataFrame({"entity_id": ["A_1h"], "time": [NOON]}).set_index(pd.Index(["1d"], name="timeframe")),
        "the spine: timeframe '1d' in row 1 is not that of entity_id 'A_1h'; rename or drop column 'timeframe'",
    ),
    ("nowhere.csv", "nowhere.csv can't be read"),
]


@pytest.mark.parametrize(("given", "message"), BAD_SPINES)
def test_a_bad_spine_is_refused_by_name(filled: Repo, given: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message) as refused:
        offline(filled, spine=given, feature_names=["rsi_14"])
    assert "\n" not in str(refused.value)


# --- what does not fit -----------------------------------------------------------------------------------------------

WINDOW = {"start_date": "-1d", "end_date": "now"}
BAD_CALLS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({}, UsageError, "give entity_ids with start_date and end_date, or spine"),
    ({"entity_ids": ["A_1h"], "start_date": "-1d"}, UsageError, "give start_date and end_date"),
    ({"entity_ids": ["A_1h"], "spine": spine()}, UsageError, "spine names entities and times itself"),
    ({"spine": spine(), "start_date": "-1d"}, UsageError, "spine names entities and times itself"),
    ({"spine": [1]}, UsageError, "spine is a list; give a pandas DataFrame"),
    (
        {"entity_ids": "A_1h", **WINDOW},
        UsageError,
        r"entity_ids is a list of ids, not the text 'A_1h'; write \['A_1h'\]",
    ),
    ({"entity_ids": [], **WINDOW}, UsageError, "entity_ids is empty"),
    ({"entity_ids": ["A_1x"], **WINDOW}, InvalidEntityId, "timeframe '1x' does not exist"),
    ({"entity_ids": ["A"], "feature_names": ["rsi_14"], **WINDOW}, InvalidEntityId, "'A' is not an entity id"),
    ({"entity_ids": ["A_1h"], "start_date": datetime(2024, 1, 1), "end_date": NOON}, InvalidTime, "has no time zone"),
    ({"entity_ids": ["A_1h"], "start_date": NOON.date(), "end_date": NOON}, InvalidTime, "start_date is datetime.date"),
    ({"entity_ids": ["A_1h"], "start_date": "monday", "end_date": NOON}, InvalidTime, "'monday' is not a time"),
    ({"entity_ids": ["A_1h"], "start_date": NOON, "end_date": START}, InvalidTime, "starts .* after it ends"),
    ({"entity_ids": ["A_1h"], "feature_names": ["rsi"], **WINDOW}, NotFound, "feature 'rsi' not found; features: atr"),
    ({"entity_ids": ["A_1h"], "feature_names": "rsi_14", **WINDOW}, UsageError, "feature_names is a list of names"),
    ({"entity_ids": ["A_1h"], "feature_service_name": "no", **WINDOW}, NotFound, "service 'no' not found; services: "),
    ({"entity_ids": ["A_1h"], "targets": ["up:1"], **WINDOW}, UsageError, "target 'up:1' does not exist"),
    (
        {"entity_ids": ["A"], "targets": ["direction:1"], "feature_names": ["news_sentiment"], **WINDOW},
        UsageError,
        "bars",
    ),
    ({"entity_ids": ["A_1h"], "backend": "online", **WINDOW}, UsageError, "an online store holds no past"),
    (
        {"entity_ids": ["A_1h"], "backend": "redis", **WINDOW},
        UsageError,
        "backend 'redis' does not exist; backends: auto",
    ),
    ({"entity_ids": ["A_1h"], "timeout": 0, **WINDOW}, UsageError, "timeout is 0"),
    ({"entity_ids": ["A_1h"], "max_age": 1, **WINDOW}, TypeError, "max_age"),
]


@pytest.mark.parametrize(("words", "kind", "message"), BAD_CALLS)
def test_a_call_that_does_not_fit_says_what_does(
    filled: Repo, words: dict[str, Any], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        offline(filled, **words)


# --- an end before its end -------------------------------------------------------------------------------------------

RUNNING = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"


@pytest.fixture
def slow(market: Market) -> Repo:
    """A repository whose technical indicators take the server minutes."""
    market.connection.execute(
        "INSERT INTO features.technical_indicators (symbol, timeframe, event_timestamp, rsi_14) "
        "SELECT 'A', '1h', %s + i * interval '1 hour', i FROM generate_series(1, 20) AS i",
        (START,),
    )
    query = "SELECT t.*, pg_sleep(5) AS nap FROM features.technical_indicators AS t"
    publish(market, replace(market.view, source_table=None, source_query=query))
    return market.repo


def sessions(repo: Repo, condition: str = "") -> int:
    """Return how many sessions there are beside this one's, once they stay the same."""
    return int(
        repo.rows(f"{RUNNING} AND application_name = 'featurectl' AND pid <> pg_backend_pid() {condition}")[0][0]
    )


WAYS: dict[str, dict[str, Any]] = {
    "window": {"entity_ids": ["A_1h"], "start_date": START, "end_date": NOON},
    "spine": {"spine": pd.DataFrame({"entity_id": ["A_1h"] * 9, "event_timestamp": [START + 5 * HOUR] * 9})},
}


@pytest.mark.parametrize("way", WAYS)
def test_a_cancelled_task_stops_the_statement_on_the_server(slow: Repo, way: str) -> None:
    async def main() -> float:
        async with FeastFeatureStoreManager(slow.root, database_url=slow.url, clock=lambda: NOON) as manager:
            task = asyncio.ensure_future(manager.get_offline_features(feature_names=["rsi_14"], **WAYS[way]))
            await until(lambda: sessions(slow, "AND query LIKE '%%pg_sleep%%' AND state = 'active'") == 1)
            started = time.monotonic()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            took = time.monotonic() - started
            # The manager's own connection is all that is left, and it answers.
            assert sessions(slow, "AND query LIKE '%%pg_sleep%%'") == 0
            assert (await manager.health())["status"] == "ok"
            return took

    assert asyncio.run(main()) < 1.5


def test_a_timeout_raises_and_leaves_nothing_running(slow: Repo) -> None:
    started = time.monotonic()
    with pytest.raises(ReadTimeout, match=r"not done within 0\.5 s; give it more time"):
        offline(slow, feature_names=["rsi_14"], timeout=0.5, **WAYS["window"])
    assert 0.5 <= time.monotonic() - started < 3
    assert sessions(slow, "AND state = 'active'") == 0


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not await asyncio.to_thread(condition):
            await asyncio.sleep(0.02)


def test_calls_beyond_the_pool_wait_for_their_turn(filled: Repo) -> None:
    async def main(manager: FeastFeatureStoreManager) -> tuple[list[int], int]:
        most = 0

        async def watch() -> None:
            nonlocal most
            while True:
                most = max(most, await asyncio.to_thread(sessions, filled))
                await asyncio.sleep(0.01)

        watching = asyncio.ensure_future(watch())
        words = {"entity_ids": ["BTCUSDT_1h"], "feature_names": ["rsi_14"], "start_date": "-5h", "end_date": "now"}
        frames = await asyncio.gather(*(manager.get_offline_features(**words) for _ in range(12)))
        watching.cancel()
        return [len(frame) for frame in frames], most

    lengths, most = on(filled, main, pool_size=2)
    assert lengths == [6] * 12
    # One connection of the manager's own, and two of each training set.
    assert most <= 1 + 2 * 2


# --- through Feast ---------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")
def test_feast_gives_the_same_with_another_label(filled: Repo) -> None:
    names = [*FEATURES, "news_sentiment"]
    for words in (
        {
            "entity_ids": ["ETHUSDT_1h", "BTCUSDT_1h"],
            "start_date": "-1d",
            "end_date": "now",
            "targets": ["direction:1"],
        },
        {"spine": pd.concat([spine(label=[1, 2, 3, 4]), spine().assign(event_timestamp=pd.NaT)])},
    ):
        ours, feasts = (offline(filled, feature_names=names, backend=one, **words) for one in ("timescaledb", "feast"))
        pd.testing.assert_frame_equal(ours, feasts)
        assert (ours.attrs["source"], feasts.attrs["source"]) == ("timescaledb", "feast")
        assert not ours["rsi_14"].isna().all()


@pytest.mark.filterwarnings("ignore")
def test_features_that_no_sql_reads_come_through_feast(market: Market) -> None:
    random = np.random.default_rng(SEED)
    market.ingest(random_bars(random, 132), now=NOON)
    market.compute(now=NOON)
    market.connection.execute(
        "INSERT INTO features.sentiment_features (symbol, event_timestamp, news_sentiment) VALUES ('BTCUSDT', %s, 0.5)",
        (NOON - HOUR / 2,),
    )
    repo, names = market.repo, ["rsi_14", "news_sentiment"]
    given = spine(label=[1, 2, 3, 4])
    window = {"entity_ids": ["BTCUSDT_1h"], "start_date": NOON - 2 * HOUR, "end_date": NOON}
    wanted = {
        "spine": offline(repo, spine=given, feature_names=names),
        "window": offline(repo, feature_names=names, **window),
    }
    publish(market, replace(market.view, source_table=None))
    for way, options in {"spine": {"spine": given}, "window": window}.items():
        frame = offline(repo, feature_names=names, **options)
        assert frame.attrs["source"] == "feast"
        if way == "window":
            # The scores alone say which event times there are.
            wanted[way] = wanted[way][wanted[way]["event_timestamp"] == NOON - HOUR / 2].reset_index(drop=True)
        pd.testing.assert_frame_equal(frame, wanted[way])
    with pytest.raises(UsageError, match="no SQL reads the event times of technical_indicators_view; give a spine"):
        offline(repo, feature_names=["rsi_14"], **window)
    with pytest.raises(UsageError, match="has features that Feast makes from its source"):
        offline(repo, spine=given, feature_names=["rsi_14"], backend="timescaledb")
    # A view that the catalog does not have, and Feast does.
    views = tuple(view for view in market.catalog.views if view.name != market.view.name)
    less = catalogs.hashed(replace(market.catalog, views=views, services=()))
    catalogs.publish(market.connection, less, now=NOON, published_by="test")
    named = ["technical_indicators_view:rsi_14", "news_sentiment"]
    with pytest.raises(NotFound, match="view 'technical_indicators_view' not found"):
        offline(repo, spine=given, feature_names=named)
    frame = offline(repo, spine=given, feature_names=named, backend="feast")
    pd.testing.assert_frame_equal(frame, wanted["spine"])
    break_registry(repo, "gone")
    with pytest.raises(FeastUnavailable, match="Feast's registry can't be read"):
        offline(repo, spine=given, feature_names=named, backend="feast")


def test_without_feast_its_answer_is_unavailable(filled: Repo) -> None:
    program = """
        import asyncio, sys
        from featurectl import get_offline_features
        from featurectl.errors import FeastUnavailable

        sys.modules["feast"] = None
        words = {"entity_ids": ["BTCUSDT_1h"], "feature_names": ["rsi_14"], "start_date": "-1h", "end_date": "now"}

        async def main():
            print(len(await get_offline_features(**words)))
            try:
                await get_offline_features(**words, backend="feast")
            except FeastUnavailable as error:
                print(error)

        asyncio.run(main())
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        env=filled.environment({"FEATURECTL_REPO": str(filled.root), "FEATURECTL_NOW": NOON.isoformat()}),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    rows, reason = done.stdout.splitlines()
    assert rows == "2"
    assert reason.startswith("Feast is not installed: ")


def test_utc_is_what_the_sessions_have(filled: Repo) -> None:
    frame = offline(filled, ["BTCUSDT_1h"], ["rsi_14"], start_date="-1h", end_date="now")
    assert frame["event_timestamp"].iloc[-1].to_pydatetime() == NOON.astimezone(UTC)
