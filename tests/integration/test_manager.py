"""The manager as users use it: its life, concurrency, calls that are cancelled or late, arguments, what it returns."""

from __future__ import annotations

import asyncio
import gc
import json
import pickle
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import featurectl
from featurectl import FeastFeatureStoreManager, get_offline_features, get_online_features
from featurectl.core import catalog as catalogs
from featurectl.core.catalog import Field
from featurectl.core.serving import answer
from featurectl.core.serving.paths import Deadline
from featurectl.errors import (
    ConfigError,
    DatabaseUnreachable,
    InvalidEntityId,
    InvalidTime,
    NotFound,
    ReadTimeout,
    RepositoryNotFound,
    SchemaMissing,
    UsageError,
)
from featurectl.opened import LOOK_AGAIN
from featurectl.shared import shared_manager
from tests.fix_foreign import silent_port
from tests.fix_repository import Repo
from tests.market import HOUR, START, Market

NOW = START + timedelta(minutes=30)
MINUTE = timedelta(minutes=1)
ONLINE = "online.market__technical_indicators_view"
NAMES = ["rsi_14", "macd"]


@pytest.fixture
def shop(market: Market) -> Repo:
    """A repository with online rows: A as of START, B without an RSI, OLD as of two hours before."""
    rows = [("A", START, 1.0), ("B", START, None), ("OLD", START - 2 * HOUR, 3.0)]
    with market.connection.cursor() as cursor:
        cursor.executemany(
            f"INSERT INTO {ONLINE} (symbol, timeframe, event_timestamp, rsi_14, macd) VALUES (%s, '1h', %s, %s, 7)",
            rows,
        )
    return market.repo


def manager_of(repo: Repo, **options: Any) -> FeastFeatureStoreManager:
    return FeastFeatureStoreManager(repo.root, **{"database_url": repo.url, "clock": lambda: NOW, **options})


def on(repo: Repo, work: Callable[[FeastFeatureStoreManager], Awaitable[Any]], **options: Any) -> Any:
    async def main() -> Any:
        async with manager_of(repo, **options) as manager:
            return await work(manager)

    return asyncio.run(main())


def sessions(repo: Repo, condition: str = "true") -> int:
    """Return how many other sessions of ours there are."""
    mine = "datname = current_database() AND pid <> pg_backend_pid() AND application_name = 'featurectl'"
    return int(repo.rows(f"SELECT count(*) FROM pg_stat_activity WHERE {mine} AND {condition}")[0][0])


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not await asyncio.to_thread(condition):
            await asyncio.sleep(0.02)


# --- its life --------------------------------------------------------------------------------------------------------


def test_what_was_just_applied_is_known_to_the_next_read(shop: Repo) -> None:
    """Though the catalog is looked at every few seconds only."""

    async def main(manager: FeastFeatureStoreManager) -> None:
        for name in ("added", "added_later"):
            with pytest.raises(NotFound, match=f"feature '{name}' not found"):
                await manager.get_online_features_rows(["A_1h"], [name])
            await asyncio.sleep(LOOK_AGAIN)
            with shop.connect() as connection:
                catalog = catalogs.read_catalog(connection, "market")
                view = catalog.view("technical_indicators_view")
                field = replace(view.fields[0], name=name)
                views = [replace(one, fields=(*one.fields, field)) if one is view else one for one in catalog.views]
                connection.execute(f"ALTER TABLE {ONLINE} ADD COLUMN {name} double precision DEFAULT 5".encode())
                changed = catalogs.hashed(replace(catalog, views=tuple(views)))
                catalogs.publish(connection, changed, now=NOW, published_by="test")
            assert (await manager.get_online_features_rows(["A_1h"], [name]))[0][name] == 5

    on(shop, main)


def test_it_is_initialized_and_closed_as_often_as_one_likes(shop: Repo) -> None:
    async def main() -> None:
        manager = manager_of(shop)
        await manager.close()
        await manager.initialize()
        await manager.initialize()
        assert (await manager.get_online_features_rows(["A_1h"], NAMES))[0]["rsi_14"] == 1
        await manager.close()
        await manager.close()
        await until(lambda: sessions(shop) == 1)  # the fixture's
        assert (await manager.get_online_features_rows(["A_1h"], NAMES))[0]["rsi_14"] == 1
        async with manager:
            assert (await manager.get_online_features_rows(["A_1h"], NAMES))[0]["rsi_14"] == 1
        await until(lambda: sessions(shop) == 1)

    asyncio.run(main())


def test_the_first_calls_initialize_it_once(shop: Repo) -> None:
    async def main() -> None:
        manager = manager_of(shop, pool_size=3)
        try:
            found = await asyncio.gather(*(manager.get_online_features_rows(["A_1h"], NAMES) for _ in range(20)))
            assert [rows[0]["macd"] for rows in found] == [7] * 20
            assert (await manager.health())["pool"] == {"size": 3, "open": 3, "in_use": 0, "idle": 3}
        finally:
            await manager.close()

    asyncio.run(main())


def test_what_keeps_it_from_starting_is_said_and_may_pass(shop: Repo, tmp_path: Any) -> None:
    async def nowhere() -> None:
        with pytest.raises(RepositoryNotFound, match=r"holds no feature_store\.yaml"):
            await FeastFeatureStoreManager(tmp_path / "nowhere").get_online_features(["A_1h"])
        with pytest.raises(DatabaseUnreachable, match=r"'none' on 127\.0\.0\.1:1"):
            async with FeastFeatureStoreManager(shop.root, database_url="postgresql://nobody@127.0.0.1:1/none"):
                pass

    asyncio.run(nowhere())

    async def later() -> None:
        manager = manager_of(shop)
        shop.rows("UPDATE featurectl.catalogs SET project = 'other' RETURNING 1")
        with pytest.raises(SchemaMissing, match="project 'market' has published no catalog"):
            await manager.get_online_features_rows(["A_1h"], NAMES)
        shop.rows("UPDATE featurectl.catalogs SET project = 'market' RETURNING 1")
        assert (await manager.get_online_features_rows(["A_1h"], NAMES))[0]["rsi_14"] == 1
        await manager.close()

    asyncio.run(later())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pool_size": 0}, "pool_size is 0; give a whole number of 1 or more"),
        ({"pool_size": 2.5}, "pool_size is 2.5"),
        ({"timeout": 0}, "timeout is 0; give a number of seconds above 0, or leave it out"),
        ({"timeout": "5"}, "timeout is '5'"),
        ({"cache_seconds": -1}, "cache_seconds is -1; give a number of seconds, 0 for none"),
        ({"log_seconds": None}, "log_seconds is None"),
        ({"repo": 5}, "repo is 5; give the path of a repository, or leave it out"),
        ({"database_url": 5}, "database_url is 5; give a URL, or leave it out"),
        ({"clock": 5}, "clock is 5; give a function that returns a datetime with a time zone"),
        ({"clock": datetime.now}, "clock is .*; give a function that returns a datetime with a time zone"),
    ],
)
def test_settings_that_can_not_be_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        FeastFeatureStoreManager(**options)


# --- processes and event loops ---------------------------------------------------------------------------------------


def test_a_manager_goes_from_an_event_loop_that_has_ended_to_the_next(shop: Repo) -> None:
    """With what it had in memory: nobody has heard since of what was written."""
    manager = manager_of(shop, cache_seconds=600)
    wrong: list[Any] = []

    async def read(*, kept: bool) -> Any:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: wrong.append(context))
        async with asyncio.timeout(20):
            while True:
                rows = await manager.get_online_features_rows(["A_1h"], NAMES)
                if not kept or manager.counters()["views"]["technical_indicators_view"].get("cache", {}).get("hits"):
                    return rows[0]["rsi_14"], rows.source
                await asyncio.sleep(0.02)

    for value in (1.0, 11.0, 12.0):
        shop.rows(f"UPDATE {ONLINE} SET rsi_14 = %s WHERE symbol = 'A' RETURNING 1", value)
        assert asyncio.run(read(kept=True)) == (value, "online")
        assert not asyncio.run(manager.list_feature_services())[0]["by_feast"]
    asyncio.run(manager.close())
    gc.collect()
    assert not wrong
    asyncio.run(until(lambda: sessions(shop) == 1))


def test_a_manager_in_use_in_another_event_loop_says_so(shop: Repo) -> None:
    async def main(manager: FeastFeatureStoreManager) -> None:
        def elsewhere() -> list[str]:
            said = []
            for call in (
                lambda: manager.get_online_features_rows(["A_1h"], NAMES),
                manager.list_feature_services,
                manager.initialize,
                manager.close,
            ):
                with pytest.raises(UsageError) as refused:
                    asyncio.run(call())  # type: ignore[arg-type]
                said.append(str(refused.value))
            return said

        said = await asyncio.to_thread(elsewhere)
        assert set(said) == {"this manager is in use in another event loop; make one for each"}
        assert (await manager.get_online_features_rows(["A_1h"], NAMES))[0]["rsi_14"] == 1

    on(shop, main)


def test_symbols_beyond_ascii_are_found_whatever_the_client_s_encoding(
    shop: Repo, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.rows(f"UPDATE {ONLINE} SET symbol = 'MÜNZE' WHERE symbol = 'A' RETURNING 1")
    monkeypatch.setenv("PGCLIENTENCODING", "LATIN1")

    async def main(manager: FeastFeatureStoreManager) -> None:
        (row,) = await manager.get_online_features_rows(["MÜNZE_1h"], NAMES)
        assert (row["symbol"], row["rsi_14"]) == ("MÜNZE", 1.0)
        assert (await manager.get_feature_statistics(["rsi_14"], entity_ids=["MÜNZE_1h"]))["rows"].tolist() == [0]

    on(shop, main)


def test_opening_choosing_and_reading_share_the_time_of_a_call(shop: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    """What only Feast may know is looked for in a registry that is locked, for the most of it."""
    from featurectl.opened import Opened

    async def main(manager: FeastFeatureStoreManager) -> None:
        chosen = await manager._opened.select((tuple(NAMES), None), Deadline())  # type: ignore[union-attr]

        async def slowly(*_: Any) -> Any:
            await asyncio.sleep(0.9)
            return chosen

        monkeypatch.setattr(Opened, "_select_beyond", slowly)
        with shop.connect() as connection, connection.transaction():
            connection.execute(f"LOCK TABLE {ONLINE}, features.technical_indicators IN ACCESS EXCLUSIVE MODE".encode())
            for words in ({"timeout": 1.0}, {}):
                began = time.monotonic()
                with pytest.raises(ReadTimeout, match="no answer within 1 s"):
                    await manager.get_online_features_rows(["A_1h"], ["no_view:x"], **words)  # type: ignore[arg-type]
                assert 1.0 <= time.monotonic() - began < 1.85
                manager._opened._selections.clear()  # type: ignore[union-attr]

    on(shop, main, timeout=1.0)


def test_a_forked_process_opens_its_own_and_leaves_its_parent_s_alone(shop: Repo) -> None:
    """Neither reads the other's answers, and the parent goes on hearing of its own."""
    program = """
        import asyncio, os, sys
        from datetime import UTC, datetime
        from featurectl import FeastFeatureStoreManager

        now = datetime(2024, 1, 1, 0, 30, tzinfo=UTC)
        manager = FeastFeatureStoreManager(sys.argv[1], clock=lambda: now, timeout=3)

        async def read(name):
            rows = await manager.get_online_features_rows(["A_1h"], [name])
            return rows[0][name], rows.source

        async def closed():
            await manager.close()

        def forked(*work):
            child = os.fork()
            if child == 0:
                code = 1
                try:
                    for one, wanted in work:
                        found = asyncio.run(one())
                        assert found == wanted, found
                    code = 0
                finally:
                    os._exit(code)
            return os.waitpid(child, 0)[1]

        async def parent():
            for _ in range(3):
                assert await read("rsi_14") == (1.0, "online")
                assert forked((lambda: read("macd"), (7.0, "online")), (closed, None)) == 0
                assert await read("rsi_14") == (1.0, "online")
                assert forked((closed, None)) == 0
            assert await read("macd") == (7.0, "online")
            await manager.close()

        asyncio.run(parent())
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), shop.root],
        env=shop.environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


# --- concurrency, cancellation, timeouts -----------------------------------------------------------------------------


def test_a_hundred_tasks_share_two_connections(shop: Repo) -> None:
    async def main(manager: FeastFeatureStoreManager) -> None:
        ids = ["A_1h", "B_1h", "OLD_1h", "NO_1h"]
        found = await asyncio.gather(
            *(manager.get_online_features_rows(ids[number % 4 :] + ids[: number % 4], NAMES) for number in range(100))
        )
        for number, rows in enumerate(found):
            assert [row["entity_id"] for row in rows] == ids[number % 4 :] + ids[: number % 4]
            assert {row["entity_id"]: row["macd"] for row in rows} == dict(zip(ids, (7, 7, None, None), strict=True))
        assert (await manager.health())["pool"] == {"size": 2, "open": 2, "in_use": 0, "idle": 2}
        assert sessions(shop) == 2 + 1

    on(shop, main, pool_size=2)


def test_a_read_cancelled_midway_leaves_nothing_running_and_a_pool_that_works(shop: Repo) -> None:
    waiting = "state = 'active' AND wait_event_type = 'Lock'"

    async def main(manager: FeastFeatureStoreManager) -> None:
        with shop.connect() as locker, locker.transaction():
            locker.execute(f"LOCK TABLE {ONLINE} IN ACCESS EXCLUSIVE MODE")
            tasks = [
                asyncio.ensure_future(manager.get_online_features_rows(["A_1h"], NAMES, timeout=60)) for _ in range(5)
            ]
            await until(lambda: sessions(shop, waiting) == 2)
            started = time.monotonic()
            for task in tasks:
                task.cancel()
            done = await asyncio.gather(*tasks, return_exceptions=True)
            assert time.monotonic() - started < 0.5
            assert all(isinstance(one, asyncio.CancelledError) for one in done)
            await until(lambda: sessions(shop, waiting) == 0)
        assert (await manager.get_online_features_rows(["A_1h"], NAMES))[0]["rsi_14"] == 1
        report = await manager.health()
        assert report["status"] == "ok"
        assert report["pool"]["in_use"] == 0

    on(shop, main, pool_size=2)


def test_a_call_has_its_own_time(shop: Repo) -> None:
    async def main(manager: FeastFeatureStoreManager) -> None:
        with shop.connect() as locker, locker.transaction():
            locker.execute(f"LOCK TABLE {ONLINE} IN ACCESS EXCLUSIVE MODE")
            for seconds in (0.2, 0.6):
                started = time.monotonic()
                with pytest.raises(ReadTimeout, match=f"{seconds:g} s"):
                    await manager.get_online_features_rows(["A_1h"], NAMES, backend="online", timeout=seconds)
                assert seconds <= time.monotonic() - started < seconds + 0.3
        assert (await manager.get_online_features_rows(["A_1h"], NAMES))[0]["rsi_14"] == 1

    on(shop, main)


def test_the_first_call_has_its_own_time_too(shop: Repo) -> None:
    async def main() -> None:
        manager = manager_of(shop)
        with shop.connect() as locker, locker.transaction():
            locker.execute("LOCK TABLE featurectl.catalogs IN ACCESS EXCLUSIVE MODE")
            started = time.monotonic()
            with pytest.raises(ReadTimeout, match=r"no answer within 0\.3 s"):
                await manager.get_online_features_rows(["A_1h"], NAMES, timeout=0.3)
            assert time.monotonic() - started < 1
        assert (await manager.get_online_features_rows(["A_1h"], NAMES, timeout=30))[0]["rsi_14"] == 1
        await manager.close()

    asyncio.run(main())


# --- arguments -------------------------------------------------------------------------------------------------------

WEST = timezone(timedelta(hours=-12))
BAD_CALLS: list[tuple[tuple[Any, ...], dict[str, Any], type[Exception], str]] = [
    (("A_1h",), {}, UsageError, r"entity_ids is a list of ids, not the text 'A_1h'; write \['A_1h'\]"),
    (([],), {}, UsageError, "entity_ids is empty; name at least one, for example BTCUSDT_1h"),
    ((None,), {}, UsageError, "entity_ids is a list of ids, not None"),
    ((7,), {}, UsageError, "entity_ids is a list of ids, not 7"),
    ((["A_1h", 7],), {}, InvalidEntityId, "entity_ids holds 7, which is a int and not text"),
    ((["A_1h", None],), {}, InvalidEntityId, "entity_ids holds None"),
    (([["A_1h"]],), {}, InvalidEntityId, r"entity_ids holds \['A_1h'\], which is a list and not text"),
    ((pd.Series(["A_1h", np.nan]),), {}, InvalidEntityId, "entity_ids holds nan"),
    ((["A_1x"],), {}, InvalidEntityId, "timeframe '1x' does not exist"),
    ((["A"],), {}, InvalidEntityId, "'A' is not an entity id; write <SYMBOL>_<timeframe>, for example A_1h"),
    ((["A b_1h"],), {}, InvalidEntityId, "'A b_1h' is not an entity id"),
    ((["A_1h"], "rsi_14"), {}, UsageError, r"feature_names is a list of names, not the text 'rsi_14'"),
    ((["A_1h"], []), {}, UsageError, "feature_names is empty; leave it out for all of them"),
    ((["A_1h"], ["rsi_14", 7]), {}, UsageError, "feature_names holds 7"),
    ((["A_1h"], ["rsi"]), {}, NotFound, "feature 'rsi' not found; features: atr, .*; "),
    ((["A_1h"], ["no_view:rsi_14"]), {}, NotFound, "view 'no_view' not found; views: "),
    ((["A_1h"], None, "no_service"), {}, NotFound, "service 'no_service' not found; services: .*technical_indicators"),
    ((["A_1h"], NAMES, "sentiment_service"), {}, UsageError, "give feature names or a service, not both"),
    ((["A_1h"], NAMES), {"as_of": datetime(2024, 1, 1)}, InvalidTime, "as_of is 2024-01-01 .* has no time zone"),
    ((["A_1h"], NAMES), {"as_of": date(2024, 1, 1)}, InvalidTime, "as_of is datetime.date"),
    ((["A_1h"], NAMES), {"as_of": pd.NaT}, InvalidTime, "as_of is NaT"),
    ((["A_1h"], NAMES), {"as_of": "yesterday"}, InvalidTime, "'yesterday' is not a time"),
    ((["A_1h"], NAMES), {"as_of": "-1h", "backend": "online"}, UsageError, "an online store holds no past"),
    ((["A_1h"], NAMES), {"max_age": -MINUTE}, UsageError, "max_age is .*; give a timedelta of 0 or more"),
    ((["A_1h"], NAMES), {"max_age": 60}, UsageError, "max_age is 60; give a timedelta"),
    ((["A_1h"], NAMES), {"backend": "redis"}, UsageError, "backend 'redis' does not exist; backends: auto, online"),
    ((["A_1h"], NAMES), {"timeout": -1}, UsageError, "timeout is -1; give a number of seconds above 0"),
    ((["A_1h"], NAMES), {"timeout": float("nan")}, UsageError, "timeout is nan"),
    ((["A_1h"], NAMES), {"timeout": True}, UsageError, "timeout is True; give a number of seconds above 0"),
    ((["A_1h"], NAMES), {"timeout": 10**400}, UsageError, "timeout is 10{59}…; give a number of seconds"),
    ((["A_1h"], NAMES), {"allow_stale": "False"}, UsageError, "allow_stale is 'False'; give True or False"),
    ((["A_1h"], NAMES), {"as_of": datetime.max.replace(tzinfo=WEST)}, InvalidTime, "as_of is 9999.* no time in UTC"),
    ((["A_1h"], None, ""), {}, UsageError, "feature_service_name is ''; give the name of a service"),
    ((["A_1h"], None, ["a"]), {}, UsageError, r"feature_service_name is \['a'\]; give the name of a service"),
    ((["A_1h"], NAMES), {"max_ages": MINUTE}, TypeError, "unexpected keyword argument 'max_ages'"),
]


def test_a_call_that_does_not_fit_says_what_does(shop: Repo) -> None:
    async def main(manager: FeastFeatureStoreManager) -> None:
        for words, options, kind, message in BAD_CALLS:
            for read in (manager.get_online_features_rows, manager.get_online_features):
                with pytest.raises(kind, match=message) as refused:
                    await read(*words, **options)
                assert "\n" not in str(refused.value)
        # What was refused has broken nothing.
        assert (await manager.health())["status"] == "ok"

    on(shop, main)


def test_other_calls_that_do_not_fit_say_so_before_they_do_anything(shop: Repo) -> None:
    async def main(manager: FeastFeatureStoreManager) -> None:
        for call, message in (
            (lambda: manager.get_online_features(["A_1h"], NAMES, with_status="no"), "with_status is 'no'"),
            (lambda: manager.compute_features(full="no"), "full is 'no'; give True or False"),
            (lambda: manager.materialize(end=""), "'' is not a time"),
            (lambda: manager.materialize(end=0), "end is 0; give a datetime"),
            (lambda: manager.get_feature_statistics(feature_service_name=5), "feature_service_name is 5"),
            (lambda: manager.get_offline_features(feature_service_name={}), "feature_service_name is {}"),
            (lambda: manager.get_feature_service_info(None), "name is None; give the name of a service"),
            (lambda: manager.health(within="5"), "within is '5'; give a number of seconds"),
        ):
            with pytest.raises(UsageError, match=message):
                await call()  # type: ignore[no-untyped-call]

    on(shop, main)


def test_ids_come_in_any_sequence(shop: Repo) -> None:
    ids = ["A_1h", "NO_1h", "A_1h", "B_1h"]
    forms = [ids, tuple(ids), np.array(ids), pd.Series(ids), pd.Index(ids), iter(ids), dict.fromkeys(ids)]

    async def main(manager: FeastFeatureStoreManager) -> None:
        for form in forms:
            answer._maker.cache_clear()  # it would give the function of an equal name
            rows = await manager.get_online_features_rows(form, np.array(NAMES))
            wanted = list(form) if isinstance(form, dict) else ids
            assert [row["entity_id"] for row in rows] == wanted
            assert [row["rsi_14"] for row in rows] == [{"A_1h": 1}.get(one) for one in wanted]
            assert {type(row[name]) for row in rows for name in ("entity_id", "symbol", "timeframe")} == {str}
            assert {type(name) for row in rows for name in row} == {str}

    on(shop, main)


def test_features_stand_in_the_order_asked_for_and_once(shop: Repo) -> None:
    async def main(manager: FeastFeatureStoreManager) -> None:
        frame = await manager.get_online_features(["A_1h"], ["macd", "technical_indicators_view:rsi_14", "macd"])
        assert list(frame.columns) == ["entity_id", "symbol", "timeframe", "event_timestamp", "macd", "rsi_14"]

    on(shop, main)


# --- what it returns -------------------------------------------------------------------------------------------------


def test_a_frame_has_values_and_attrs_what_they_are_worth(shop: Repo) -> None:
    ids = ["OLD_1h", "A_1h", "NO_1h", "B_1h", "A_1h"]
    frame = on(shop, lambda manager: manager.get_online_features(ids, NAMES))
    assert frame["entity_id"].tolist() == ids
    assert frame["symbol"].tolist() == ["OLD", "A", "NO", "B", "A"]
    assert frame["timeframe"].tolist() == ["1h"] * 5
    events = [START - 2 * HOUR, START, None, START, START]
    assert [None if pd.isna(one) else one for one in frame["event_timestamp"]] == events
    assert frame["rsi_14"].isna().tolist() == [True, False, True, True, False]
    assert frame["macd"].isna().tolist() == [True, False, True, False, False]
    assert [str(kind) for kind in frame.dtypes[3:]] == ["datetime64[ns, UTC]", "float64", "float64"]
    statuses = ["OUTSIDE_MAX_AGE", "PRESENT", "NOT_FOUND", "NULL_VALUE", "PRESENT"]
    assert frame.attrs == {
        "source": "online",
        "sources": {"technical_indicators_view": "online"},
        "degraded": None,
        "statuses": [
            {"rsi_14": status, "macd": "PRESENT" if status == "NULL_VALUE" else status} for status in statuses
        ],
        "ages": [{"rsi_14": age, "macd": age} for age in (9000.0, 1800.0, None, 1800.0, 1800.0)],
        "as_of": "2024-01-01T00:30:00Z",
        "notes": [],
    }
    assert json.dumps(frame.attrs)


def test_attrs_follow_a_frame_without_being_copied_each_time(shop: Repo, tmp_path: Path) -> None:
    """They come out of pickles and Parquet files as plain lists, for readers that have no featurectl."""
    frame = on(shop, lambda manager: manager.get_online_features(["A_1h", "NO_1h"], NAMES))
    said = {name: frame.attrs[name] for name in ("statuses", "ages")}
    derived = frame.set_index("entity_id")[["rsi_14"]].dropna()
    assert all(derived.attrs[name] is value for name, value in said.items())
    frame.to_parquet(tmp_path / "frame.parquet")
    for read in (pickle.loads(pickle.dumps(frame)), pd.read_parquet(tmp_path / "frame.parquet")):
        assert read.attrs == frame.attrs
        assert {type(read.attrs[name]) for name in said} == {list}


def test_statuses_come_as_columns_on_request(shop: Repo) -> None:
    frame = on(shop, lambda manager: manager.get_online_features(["A_1h", "NO_1h"], NAMES, with_status=True))
    assert list(frame.columns[4:]) == [*NAMES, "source", "age_seconds", "rsi_14__status", "macd__status"]
    assert frame["source"].tolist() == ["online", "online"]
    assert frame["age_seconds"].tolist()[0] == 1800 and np.isnan(frame["age_seconds"][1])
    assert frame["rsi_14__status"].tolist() == ["PRESENT", "NOT_FOUND"]


def test_a_column_has_the_type_of_its_definition_whatever_it_holds(market: Market) -> None:
    kinds = {"n": ("Int64", "bigint"), "ok": ("Bool", "boolean"), "t": ("String", "text"), "f": ("Float32", "real")}
    market.connection.execute(
        "CREATE TABLE online.kinds (symbol text PRIMARY KEY, event_timestamp timestamptz, "
        "created_timestamp timestamptz, n bigint, ok boolean, t text, f real, source text)"
    )
    market.connection.execute(
        "INSERT INTO online.kinds VALUES ('A', %s, NULL, %s, true, 'x', 0.5, 's')", (NOW, 2**53 + 1)
    )
    market.connection.execute("INSERT INTO online.kinds VALUES ('FAR', '4000-01-01Z', NULL)")
    fields = tuple(Field(name, *kind, name, "", {}) for name, kind in {**kinds, "source": ("String", "text")}.items())
    view = replace(
        market.catalog.view("sentiment_features_view"),
        name="kinds",
        online_table="online.kinds",
        fields=fields,
        ttl_seconds=0,
    )
    catalog = catalogs.hashed(replace(market.catalog, views=(*market.catalog.views, view)))
    catalogs.publish(market.connection, catalog, now=NOW, published_by="test")

    async def main(manager: FeastFeatureStoreManager) -> None:
        names = [f"kinds:{name}" for name in kinds]
        for ids in (["A", "NO"], ["NO"]):
            frame = await manager.get_online_features(ids, names)
            assert [str(frame.dtypes[name]) for name in kinds] == ["Int64", "boolean", "object", "float32"]
        frame = await manager.get_online_features(["A", "NO"], names)
        assert frame["n"].tolist() == [2**53 + 1, pd.NA]
        assert frame["ok"].tolist() == [True, pd.NA]
        assert frame["timeframe"].tolist() == [None, None]
        with pytest.raises(UsageError, match="with_status has a column 'source', which is a feature"):
            await manager.get_online_features(["A"], ["kinds:source"], with_status=True)
        # Nanoseconds end in 2262.
        far = await manager.get_online_features(["FAR"], names, allow_stale=True, as_of="4000-06-01")
        assert far["event_timestamp"][0].year == 4000

    on(market.repo, main)


def test_max_age_is_tighter_than_the_ttl_and_never_wider(shop: Repo) -> None:
    async def statuses(manager: FeastFeatureStoreManager, **options: Any) -> list[str]:
        rows = await manager.get_online_features_rows(["A_1h", "OLD_1h"], ["macd"], **options)
        assert [row["macd"] is not None for row in rows] == [
            one["macd"] == "PRESENT" or options.get("allow_stale", False) for one in rows.statuses
        ]
        return [one["macd"] for one in rows.statuses]

    async def main(manager: FeastFeatureStoreManager) -> None:
        present, old = "PRESENT", "OUTSIDE_MAX_AGE"
        assert await statuses(manager) == [present, old]
        assert await statuses(manager, max_age=30 * MINUTE) == [present, old]
        assert await statuses(manager, max_age=30 * MINUTE - timedelta(microseconds=1)) == [old, old]
        assert await statuses(manager, max_age=timedelta(0)) == [old, old]
        assert await statuses(manager, max_age=timedelta(days=9)) == [present, old]
        assert await statuses(manager, max_age=timedelta(0), allow_stale=True) == [old, old]

    on(shop, main)


def test_the_rows_form_says_the_same_as_the_frame(shop: Repo) -> None:
    async def main(manager: FeastFeatureStoreManager) -> None:
        ids = ["OLD_1h", "A_1h", "NO_1h", "B_1h"]
        rows, frame = [
            await read(ids, NAMES) for read in (manager.get_online_features_rows, manager.get_online_features)
        ]
        assert (rows.source, rows.degraded, list(rows.notes)) == ("online", None, [])
        assert (rows.statuses, rows.ages) == (frame.attrs["statuses"], frame.attrs["ages"])
        for row, line in zip(rows, frame.to_dict("records"), strict=True):
            assert row == {name: None if pd.isna(value) else value for name, value in line.items()}

    on(shop, main)


# --- work ------------------------------------------------------------------------------------------------------------


def test_work_that_is_cancelled_is_rolled_back_and_its_lock_is_free(market: Market) -> None:
    from tests.market import random_bars

    market.ingest(random_bars(np.random.default_rng(7), 200), now=START + 200 * HOUR)
    repo, now = market.repo, START + 200 * HOUR
    waiting = "state = 'active' AND wait_event_type = 'Lock'"

    async def main() -> None:
        async with manager_of(repo, clock=lambda: now) as manager:
            for work, table in (
                (manager.compute_features, "features.technical_indicators"),
                (manager.materialize, ONLINE),
            ):
                with repo.connect() as locker, locker.transaction():
                    locker.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
                    task = asyncio.ensure_future(work())
                    await until(lambda: sessions(repo, waiting) == 1)
                    started = time.monotonic()
                    task.cancel()
                    with pytest.raises(asyncio.CancelledError):
                        await task
                    assert time.monotonic() - started < 1
                    assert sessions(repo, waiting) == 0
                    assert sessions(repo, "pid IN (SELECT pid FROM pg_locks WHERE locktype = 'advisory')") == 0
                    with pytest.raises(ReadTimeout, match=r"not done within 0\.3 s"):
                        await work(timeout=0.3)
                assert repo.rows(f"SELECT count(*) FROM {table}") == [(0,)]
                done = await work()
                assert repo.rows(f"SELECT count(*) > 0 FROM {table}") == [(True,)]
                assert not done.empty
            assert done.columns.tolist() == ["view", "entities", "written", "unchanged", "older"]

    asyncio.run(main())


# --- without a manager of one's own ----------------------------------------------------------------------------------


def test_public_names_are_these() -> None:
    assert featurectl.__all__ == ["FeastFeatureStoreManager", "get_offline_features", "get_online_features"]
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        featurectl.nothing  # noqa: B018


def test_functions_share_a_manager_of_each_repository_and_loop(shop: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEATURECTL_DATABASE_URL", shop.url)
    monkeypatch.setenv("FEATURECTL_NOW", NOW.isoformat())
    monkeypatch.chdir(shop.root)
    managers = []

    async def main() -> None:
        frame = await get_online_features(["A_1h"], NAMES, with_status=True)
        assert frame["rsi_14"].tolist() == [1.0]
        frame = await get_offline_features(["A_1h"], NAMES, start_date="-1h", end_date="now", repo=shop.root)
        assert frame.empty
        managers.append(await shared_manager())
        assert await shared_manager(shop.root) is managers[-1]
        with pytest.raises(ConfigError, match="holds no"):
            await get_online_features(["A_1h"], repo=shop.root.parent)

    asyncio.run(main())
    asyncio.run(main())
    assert managers[0] is not managers[1]
    threads = [threading.Thread(target=asyncio.run, args=(main(),)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(one) for one in managers}) == 5
    asyncio.run(until(lambda: sessions(shop) == 1))


def test_nobody_needs_to_close_the_shared_manager(shop: Repo) -> None:
    program = """
        import asyncio, gc, sys
        from featurectl import get_offline_features, get_online_features

        async def once():
            rows = [get_online_features(["A_1h"], ["rsi_14"]) for _ in range(5)]
            rows.append(get_offline_features(["A_1h"], ["rsi_14"], start_date="-1h", end_date="now"))
            frames = await asyncio.gather(*rows)
            assert frames[0]["rsi_14"].tolist() == [1.0], frames[0]

        async def cancelled():
            task = asyncio.ensure_future(once())
            await asyncio.sleep(0.05)
            # It is under way when the loop ends.

        for main in (once, cancelled, once):
            asyncio.run(main())
            gc.collect()
        # Loops that are closed without a word, one before another, one before the end.
        for _ in range(2):
            loop = asyncio.new_event_loop()
            loop.run_until_complete(once())
            loop.close()
            asyncio.run(once())
        loop = asyncio.new_event_loop()
        loop.run_until_complete(once())
        loop.close()
        gc.collect()
        from featurectl.shared import _shared
        assert len(_shared) == 1, _shared
    """
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(program)],
        env=shop.environment({"FEATURECTL_REPO": str(shop.root), "FEATURECTL_NOW": NOW.isoformat()}),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_rows_form_loads_no_pandas(shop: Repo) -> None:
    program = """
        import asyncio, sys
        from featurectl import FeastFeatureStoreManager

        async def main():
            async with FeastFeatureStoreManager() as manager:
                print((await manager.get_online_features_rows(["A_1h"], ["rsi_14"]))[0]["rsi_14"])

        asyncio.run(main())
        print([name for name in ("pandas", "numpy", "pyarrow", "feast", "rich") if name in sys.modules])
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        env=shop.environment({"FEATURECTL_REPO": str(shop.root), "FEATURECTL_NOW": NOW.isoformat()}),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.splitlines() == ["1.0", "[]"]


# --- health ----------------------------------------------------------------------------------------------------------


def test_health_tells_of_everything_and_raises_nothing(shop: Repo, tmp_path: Any) -> None:
    async def main(manager: FeastFeatureStoreManager) -> None:
        await manager.get_online_features_rows(["A_1h", "NO_1h"], NAMES)
        report = await manager.health()
        assert json.dumps(report)
        assert (report["status"], report["error"]) == ("ok", None)
        assert report["database"]["reachable"] and report["database"]["latency_ms"] > 0
        assert report["database"]["version"].split(".")[0].isdigit()
        assert report["catalog"]["project"] == "market" and report["catalog"]["version"] >= 1
        assert report["counters"]["views"]["technical_indicators_view"]["calls"] == 1
        assert report["pool"]["size"] == 8
        # The online table goes away: three reads find that out, and the history answers.
        with shop.connect() as connection:
            connection.execute(f"ALTER TABLE {ONLINE} RENAME TO gone")
        for _ in range(3):
            rows = await manager.get_online_features_rows(["A_1h"], NAMES)
            assert rows.source == "timescaledb" and rows.degraded
        report = await manager.health()
        assert report["status"] == "degraded"
        (path,) = report["paths"]
        assert (path["source"], path["view"], path["state"]) == ("online", "technical_indicators_view", "open")
        assert "gone" not in path["reason"] and "does not exist" in path["reason"]

    on(shop, main)

    async def broken() -> None:
        manager = FeastFeatureStoreManager(tmp_path / "nowhere")
        report = await manager.health()
        assert report["status"] == "unavailable" and "holds no feature_store.yaml" in report["error"]
        assert report["database"]["reachable"] is False
        manager = FeastFeatureStoreManager(shop.root, database_url="postgresql://nobody@127.0.0.1:1/none")
        report = await manager.health()
        assert report["status"] == "unavailable" and "127.0.0.1" in report["database"]["error"]
        await manager.close()

    asyncio.run(broken())


def test_health_has_a_time_of_its_own_where_the_database_hangs(shop: Repo) -> None:
    async def main(port: int) -> None:
        manager = FeastFeatureStoreManager(shop.root, database_url=f"postgresql://nobody@127.0.0.1:{port}/none")
        started = time.monotonic()
        report = await manager.health(within=0.3)
        assert time.monotonic() - started < 1
        assert report["status"] == "unavailable"
        assert report["database"]["error"] == "no answer within 0.3 s"
        await manager.close()

    with silent_port() as port:
        asyncio.run(main(port))
