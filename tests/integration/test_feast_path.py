"""Online reads through Feast's SDK, over SQLite, Redis and our own store: the same answers, and the real faults."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import pytest
import yaml
from feast import Entity, FeatureService, FeatureView, Field, RepoConfig, RequestSource
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import PostgreSQLSource
from feast.on_demand_feature_view import on_demand_feature_view
from feast.protos.feast.core.FeatureView_pb2 import FeatureView as FeatureViewProto
from feast.types import Float64, Int64
from feast.value_type import ValueType
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from featurectl.core.db import open_connection
from featurectl.core.serving.answer import Answer
from featurectl.core.serving.blocking import BlockingCalls
from featurectl.errors import DatabaseUnreachable, FeastUnavailable, NotFound, UsageError
from featurectl.manager import FeastFeatureStoreManager
from featurectl.plugin import foreign_stores
from featurectl.plugin.apply import apply
from featurectl.plugin.registry import feast_store
from tests.fix_foreign import (
    IDS,
    NOON,
    NOW,
    REGISTRY_FAULTS,
    SENTIMENT_VIEW,
    TECHNICAL_VIEW,
    ForeignRepo,
    RedisServer,
    break_registry,
    fill,
    materialize,
    mend_registry,
    set_online_store,
    silent_port,
)
from tests.fix_repository import Repo

T = TypeVar("T")
# Feast says so of every view on demand.
pytestmark = [
    pytest.mark.filterwarnings("ignore:On demand feature view is an experimental feature:RuntimeWarning"),
    pytest.mark.xdist_group("foreign"),  # materialized once
]

VIEWS = (TECHNICAL_VIEW, SENTIMENT_VIEW)


@pytest.fixture(params=["sqlite", "redis"])
def foreign(request: pytest.FixtureRequest) -> ForeignRepo:
    """A repository over each of the stores."""
    found: ForeignRepo = request.getfixturevalue(f"{request.param}_repo")
    return found


def using(
    repo: ForeignRepo, work: Callable[[FeastFeatureStoreManager], Awaitable[T]], timeout: float = 20, **options: Any
) -> T:
    """Do work with a manager of the repository."""

    async def run() -> T:
        async with repo.manager(timeout=timeout, **options) as manager:
            return await work(manager)

    return asyncio.run(run())


def read(
    repo: ForeignRepo, *features: str, ids: tuple[str, ...] = IDS, service: str | None = None, **options: Any
) -> Answer:
    """Read with a manager of its own."""
    return using(repo, lambda manager: manager.read_online(ids, features or None, service, **options))


def told(answer: Answer) -> list[Any]:
    """Return everything an answer says but where it is from."""
    return [
        (str(row.entity), view.view, view.event_timestamp, view.age, view.limit, view.features, view.statuses)
        for row in answer.by_entity()
        for view in row.views
    ]


async def until(manager: FeastFeatureStoreManager, good: Callable[[Answer], bool]) -> Answer:
    """Read again and again until the answer is good."""
    deadline = time.monotonic() + 10
    while True:
        answer = await manager.read_online(IDS, None, None)
        if good(answer):
            return answer
        assert time.monotonic() < deadline, answer.reasons
        await asyncio.sleep(0.05)


def paths(answer: Answer) -> str:
    return "+".join(answer.sources)


# --- the same answers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"allow_stale": True}, {"max_age": timedelta(minutes=20)}])
def test_a_foreign_store_gives_what_the_history_gives(foreign: ForeignRepo, options: dict[str, Any]) -> None:
    """Values, statuses, event times and ages; what is past its TTL is withheld or served by who asks, not by Feast."""
    first = read(foreign, **options)
    assert paths(first) == "feast"
    assert not first.reasons
    assert told(first) == told(read(foreign, backend="timescaledb", **options))
    by_id = {row.entity.symbol: {view.view: view for view in row.views} for row in first.by_entity()}
    old = by_id["OLDUSDT"][TECHNICAL_VIEW]
    assert old.event_timestamp == NOON - timedelta(days=1)
    assert old.statuses["rsi_14"] == "OUTSIDE_MAX_AGE"
    assert (old.features["rsi_14"] is not None) is options.get("allow_stale", False)
    assert by_id["NEWUSDT"][TECHNICAL_VIEW].features["ema_20"] is None
    assert by_id["NOSUCH"][TECHNICAL_VIEW].event_timestamp is None
    assert by_id["BTCUSDT"][SENTIMENT_VIEW].age == timedelta(minutes=15)


def test_our_own_store_through_feast(repo: Repo) -> None:
    """Feast's path over our store withholds nothing either, whatever the time is where the store is."""
    ours = ForeignRepo(repo.root, repo.url)
    fill(ours)
    ours.ok("materialize")
    for options in ({}, {"allow_stale": True}):
        through = read(ours, backend="feast", **options)
        assert paths(through) == "feast"
        assert told(through) == told(read(ours, backend="online", **options)) == told(read(ours, **options))
    assert paths(read(ours, "rsi_14")) == "online"


def test_a_past_instant_is_answered_by_the_history(sqlite_repo: ForeignRepo) -> None:
    answer = read(sqlite_repo, f"{TECHNICAL_VIEW}:rsi_14", ids=("BTCUSDT_1h",), as_of=NOON - timedelta(hours=2))
    (row,) = answer.by_entity()
    assert row.views[0].event_timestamp == NOON - timedelta(hours=2)
    assert paths(answer) == "timescaledb"
    with pytest.raises(UsageError, match="holds no past"):
        read(sqlite_repo, "rsi_14", as_of=NOON, backend="feast")


def test_event_times_are_those_the_store_keeps(foreign: ForeignRepo) -> None:
    """Redis keeps them all, SQLite whole seconds."""
    late = NOON + timedelta(minutes=20, seconds=1, microseconds=234567)
    with foreign.connect() as connection:
        connection.execute(
            b"INSERT INTO features.sentiment_features (symbol, event_timestamp, created_timestamp, news_sentiment) "
            b"VALUES ('BTCUSDT', %s, %s, -0.5)",
            (late, NOW),
        )
    materialize(foreign)
    (row,) = read(foreign, "news_sentiment", ids=("BTCUSDT_1h",)).by_entity()
    assert row.views[0].features == {"news_sentiment": -0.5}
    kept = late if foreign.store.__class__ is RedisServer else late.replace(microsecond=0)
    assert row.views[0].event_timestamp == kept


# --- SQLite ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        pytest.param("delete", r"online.db, can't be read: No such file", id="deleted"),
        pytest.param("corrupt", "store can't be read: DatabaseError: file is not a database", id="corrupted"),
    ],
)
def test_a_broken_file_is_noticed_and_a_mended_one_too(sqlite_repo: ForeignRepo, fault: str, reason: str) -> None:
    """Both in a file that is open, and in one that is not yet."""
    good = told(read(sqlite_repo, backend="timescaledb"))

    async def work(manager: FeastFeatureStoreManager) -> None:
        assert paths(await manager.read_online(IDS, None, None)) == "feast"
        getattr(sqlite_repo.store, fault)()
        answer = await manager.read_online(IDS, None, None)
        assert paths(answer) == "timescaledb"
        assert told(answer) == good
        with pytest.raises(FeastUnavailable, match=reason):
            await manager.read_online(IDS, None, None, backend="feast")
        sqlite_repo.store.mend()
        assert told(await until(manager, lambda answer: paths(answer) == "feast")) == good

    using(sqlite_repo, work)
    getattr(sqlite_repo.store, fault)()
    answer = read(sqlite_repo)
    assert paths(answer) == "timescaledb"
    assert told(answer) == good
    with pytest.raises(FeastUnavailable, match=reason):
        read(sqlite_repo, backend="feast")


def test_a_file_that_was_replaced_is_read_anew(sqlite_repo: ForeignRepo) -> None:
    """An open connection would go on with the deleted one."""

    async def work(manager: FeastFeatureStoreManager) -> None:
        assert paths(await manager.read_online(IDS, None, None)) == "feast"
        sqlite_repo.store.delete()
        sqlite_repo.store.mend()
        with sqlite3.connect(sqlite_repo.store.path) as connection:
            connection.execute("DELETE FROM market_sentiment_features_view")
        connection.close()
        answer = await manager.read_online(("BTCUSDT_1h",), ["news_sentiment"], None, backend="feast")
        assert answer.by_entity()[0].views[0].event_timestamp is None

    using(sqlite_repo, work)


def test_a_locked_file_costs_its_share_once(sqlite_repo: ForeignRepo) -> None:
    async def work(manager: FeastFeatureStoreManager) -> None:
        assert paths(await manager.read_online(IDS, None, None)) == "feast"
        with sqlite_repo.store.lock():
            seconds = []
            for _ in range(5):
                started = time.monotonic()
                answer = await manager.read_online(IDS, None, None, timeout=1)
                seconds.append(time.monotonic() - started)
                assert paths(answer) == "timescaledb"
                assert "did not answer" in answer.reasons[TECHNICAL_VIEW]
            assert seconds[0] < 0.8
            assert max(seconds[1:]) < 0.3
        await until(manager, lambda answer: paths(answer) == "feast")

    using(sqlite_repo, work)


# --- Redis -----------------------------------------------------------------------------------------------------------


def test_a_redis_server_dies_and_comes_back(redis_repo: ForeignRepo) -> None:
    good = told(read(redis_repo, backend="timescaledb"))

    async def work(manager: FeastFeatureStoreManager) -> None:
        assert paths(await manager.read_online(IDS, None, None)) == "feast"
        redis_repo.store.kill()
        started = time.monotonic()
        answer = await manager.read_online(IDS, None, None)
        assert time.monotonic() - started < 1
        assert told(answer) == good
        assert paths(answer) == "timescaledb"
        with pytest.raises(FeastUnavailable, match=r"ConnectionError: .*Connection refused"):
            await manager.read_online(IDS, None, None, backend="feast")
        redis_repo.store.start()
        assert told(await until(manager, lambda answer: paths(answer) == "feast")) == good

    using(redis_repo, work)


def test_a_restart_between_two_reads_is_not_noticed(redis_repo: ForeignRepo) -> None:
    """Connections to the server that was are replaced."""

    async def work(manager: FeastFeatureStoreManager) -> None:
        for _ in range(3):
            assert paths(await manager.read_online(IDS, None, None)) == "feast"
            redis_repo.store.kill()
            redis_repo.store.start()
        assert not (await manager.read_online(IDS, None, None)).reasons

    using(redis_repo, work)


def test_a_redis_server_that_hangs(redis_repo: ForeignRepo) -> None:
    async def work(manager: FeastFeatureStoreManager) -> None:
        assert paths(await manager.read_online(IDS, None, None)) == "feast"
        redis_repo.store.hang()
        started = time.monotonic()
        answers = await asyncio.gather(*(manager.read_online(IDS, None, None, timeout=1) for _ in range(16)))
        assert time.monotonic() - started < 1
        assert {paths(answer) for answer in answers} == {"timescaledb"}
        with pytest.raises(FeastUnavailable, match="Feast does not answer: 8 calls hang"):
            await manager.read_online(IDS, None, None, backend="feast", timeout=0.2)
        redis_repo.store.wake()
        await until(manager, lambda answer: paths(answer) == "feast")

    using(redis_repo, work)


def test_a_redis_server_that_lost_everything_is_not_believed(redis_repo: ForeignRepo) -> None:
    """As after a restart without its file: to Feast every entity is simply not there."""
    good = told(read(redis_repo, backend="timescaledb"))
    redis_repo.store.empty()
    answer = read(redis_repo)
    sources = {view.view.name: view.source for view in answer.views}
    assert sources[TECHNICAL_VIEW] == "timescaledb"
    assert told(answer) == good
    assert "holds nothing of view" in answer.reasons[TECHNICAL_VIEW]


def test_a_password_is_in_no_message(redis_repo: ForeignRepo) -> None:
    set_online_store(redis_repo.root, type="redis", connection_string=f"{redis_repo.store.address},password=hush-hush")
    with pytest.raises(FeastUnavailable) as caught:
        read(redis_repo, backend="feast")
    assert "hush" not in str(caught.value)
    assert "\n" not in str(caught.value)


# --- threads ---------------------------------------------------------------------------------------------------------


def test_calls_that_hang_keep_a_bounded_number_of_threads() -> None:
    release = threading.Event()

    async def work() -> None:
        calls = BlockingCalls(3)
        for _ in range(3):
            started = time.monotonic()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.02):
                    await calls.run(release.wait)
            assert time.monotonic() - started < 0.5
        assert calls.hanging == 3
        with pytest.raises(FeastUnavailable, match="Feast does not answer: 3 calls hang"):
            await calls.run(release.wait)
        assert sum(thread.name == "featurectl-feast" for thread in threading.enumerate()) == 3
        release.set()
        while calls.hanging:
            await asyncio.sleep(0.01)
        assert await asyncio.gather(*(calls.run(lambda: 7) for _ in range(9))) == [7] * 9
        with pytest.raises(ZeroDivisionError):
            await calls.run(lambda: 1 // 0)

    asyncio.run(work())


def test_a_call_that_never_returns_keeps_no_process_from_its_end() -> None:
    code = """
import asyncio, socket, sys
from featurectl.core.serving.blocking import BlockingCalls

async def main():
    server = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
    try:
        async with asyncio.timeout(0.1):
            await BlockingCalls().run(lambda: server.recv(1))
    except TimeoutError:
        print("given up")

asyncio.run(main())
"""
    with silent_port() as port:
        words = [sys.executable, "-c", code, str(port)]
        done = subprocess.run(words, capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout) == (0, "given up\n"), done.stderr


def test_a_redis_server_without_a_word_keeps_its_threads_for_seconds() -> None:
    """A connection to a machine that is gone would never end by itself; what the user set is kept."""
    for given, wanted in (
        ("h:1", "h:1,socket_timeout=10,socket_connect_timeout=5"),
        ("h:1,socket_timeout=3", "h:1,socket_timeout=3,socket_connect_timeout=5"),
    ):
        online = {"type": "redis", "connection_string": given}
        config = RepoConfig(project="p", provider="local", registry="r.db", online_store=online)
        foreign_stores.configure(config)
        assert config.online_store.connection_string == wanted


def script(repo: Repo, body: str, before: str = "") -> subprocess.CompletedProcess[str]:
    """Run coroutine code in a process of its own, where ``manager`` is the repository's."""
    code = f"""
import asyncio, sys
from datetime import datetime
{textwrap.dedent(before)}
from featurectl.manager import FeastFeatureStoreManager

async def main():
    manager = FeastFeatureStoreManager({str(repo.root)!r}, clock=lambda: datetime.fromisoformat({NOW.isoformat()!r}))
{textwrap.indent(textwrap.dedent(body), "    ")}

asyncio.run(main())
"""
    words = [sys.executable, "-c", code]
    return subprocess.run(words, env=repo.environment(), capture_output=True, text=True, timeout=60, check=False)


# --- Feast and its registry ------------------------------------------------------------------------------------------


def test_without_feast_the_history_answers(sqlite_repo: ForeignRepo) -> None:
    done = script(
        sqlite_repo,
        """
        from featurectl.errors import DatabaseUnreachable, FeastUnavailable
        async with manager:
            rows = await manager.get_online_features_rows(["BTCUSDT_1h"], ["rsi_14"])
            print(rows.source, rows.degraded, rows[0]["rsi_14"])
            try:
                await manager.get_online_features_rows(["BTCUSDT_1h"], ["rsi_14"], backend="feast")
            except FeastUnavailable as error:
                print("refused:", error)
        """,
        """
        class NoFeast:
            def find_spec(self, name, path=None, target=None):
                if name.partition(".")[0] == "feast":
                    raise ModuleNotFoundError(f"No module named '{name}'", name=name)
        sys.meta_path.insert(0, NoFeast())
        """,
    )
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first.startswith("timescaledb Feast is not installed: No module named 'feast' 52.5")
    assert second == "refused: Feast is not installed: No module named 'feast'"


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        pytest.param("garbage", "Feast's registry can't be read: DecodeError", id="garbage"),
        pytest.param("renamed", 'relation "feature_views" does not exist', id="renamed"),
        pytest.param("empty", f"view '{TECHNICAL_VIEW}' not found; views: none; Feast's registry has no", id="empty"),
        pytest.param("gone", "relation .* does not exist", id="gone"),
    ],
)
def test_a_broken_registry_is_missed_at_the_start_only(sqlite_repo: ForeignRepo, how: str, reason: str) -> None:
    good = told(read(sqlite_repo, backend="timescaledb"))

    async def before(manager: FeastFeatureStoreManager) -> None:
        assert paths(await manager.read_online(IDS, None, None)) == "feast"
        break_registry(sqlite_repo, how)
        manager._reader.foreign.refresh()  # type: ignore[union-attr]
        await asyncio.gather(manager._reader.foreign._refreshing)  # type: ignore[union-attr]
        answer = await manager.read_online(IDS, None, None)
        assert told(answer) == good
        assert paths(answer) == ("timescaledb" if how == "empty" else "feast")

    async def after(manager: FeastFeatureStoreManager) -> None:
        answer = await manager.read_online(IDS, None, None)
        assert paths(answer) == "timescaledb"
        assert told(answer) == good
        with pytest.raises(FeastUnavailable, match=reason):
            await manager.read_online(IDS, [f"{TECHNICAL_VIEW}:rsi_14"], None, backend="feast")
        mend_registry(sqlite_repo, how)
        assert told(await until(manager, lambda answer: paths(answer) == "feast")) == good

    using(sqlite_repo, before)
    using(sqlite_repo, after)
    assert how in REGISTRY_FAULTS


def forget_intervals(repo: Repo, view: str) -> None:
    """Have the registry say that a view was never materialized."""
    statement = "SELECT feature_view_proto FROM feast.feature_views WHERE feature_view_name = %s"
    proto = FeatureViewProto.FromString(bytes(repo.rows(statement, view)[0][0]))
    assert proto.meta.materialization_intervals
    del proto.meta.materialization_intervals[:]
    update = b"UPDATE feast.feature_views SET feature_view_proto = %s WHERE feature_view_name = %s"
    with repo.connect() as connection:
        connection.execute(update, (proto.SerializeToString(), view))


def test_a_view_that_was_never_materialized_is_answered_by_the_history(sqlite_repo: ForeignRepo) -> None:
    """By the registry's intervals; what is materialized meanwhile is seen."""
    forget_intervals(sqlite_repo, SENTIMENT_VIEW)
    with sqlite3.connect(sqlite_repo.store.path) as connection:
        connection.execute("DELETE FROM market_sentiment_features_view")
    connection.close()

    async def work(manager: FeastFeatureStoreManager) -> None:
        answer = await manager.read_online(("BTCUSDT_1h",), ["news_sentiment", "rsi_14"], None)
        assert answer.by_entity()[0].views[0].features == {"news_sentiment": 0.25}
        assert answer.reasons == {
            SENTIMENT_VIEW: f"Feast's online store holds nothing of view '{SENTIMENT_VIEW}'; "
            "run `featurectl feast -- materialize`"
        }
        await asyncio.to_thread(materialize, sqlite_repo)
        answer = await manager.read_online(("BTCUSDT_1h",), ["news_sentiment"], None)
        assert paths(answer) == "feast"

    using(sqlite_repo, work)


# --- what the catalog does not know ----------------------------------------------------------------------------------


def apply_by_feast(repo: Repo, *objects: Any) -> None:
    """Apply more objects through Feast alone; the catalog stays as it is."""
    with feast_store(repo.database) as store:
        store.apply(list(objects))


def on_demand(repo: Repo, *more_sources: Any) -> Any:
    """Return a view on demand over the technical indicators and the sentiment."""
    with feast_store(repo.database) as store:
        sources = [store.get_feature_view(name) for name in VIEWS]

    @on_demand_feature_view(
        sources=[*sources, *more_sources], schema=[Field(name="mood", dtype=Float64)], mode="python"
    )
    def mood_view(inputs: dict[str, Any]) -> dict[str, Any]:
        pairs = zip(inputs["ema_20"], inputs["news_sentiment"], strict=True)
        return {"mood": [None if None in pair else pair[0] * pair[1] for pair in pairs]}

    return mood_view


def test_features_on_demand_are_answered_by_feast(foreign: ForeignRepo) -> None:
    """They are as old as the oldest row that they are made of, and live as long as the shortest-lived."""
    view = on_demand(foreign)
    apply_by_feast(foreign, view, FeatureService(name="moods", features=[view]))
    parts = read(foreign, "ema_20", "news_sentiment", ids=("BTCUSDT_1h",))
    values = {name: value for one in parts.by_entity()[0].views for name, value in one.features.items()}
    for options in ({"service": "moods"}, {}, {"backend": "feast"}):
        names = () if "service" in options else ("mood",)
        answer = read(foreign, *names, **options)  # type: ignore[arg-type]
        assert paths(answer) == "feast"
        rows = {str(row.entity): row.views[0] for row in answer.by_entity()}
        assert rows["BTCUSDT_1h"].features == {"mood": values["ema_20"] * values["news_sentiment"]}
        assert rows["BTCUSDT_1h"].event_timestamp == NOON
        assert rows["BTCUSDT_1h"].limit == timedelta(minutes=30)
        assert rows["ETHUSDT_1h"].statuses == {"mood": "NULL_VALUE"}
        assert rows["OLDUSDT_1h"].statuses == {"mood": "OUTSIDE_MAX_AGE"}
        assert rows["NOSUCH_1h"].statuses == {"mood": "NOT_FOUND"}
    both = read(foreign, "mood_view:mood", "rsi_14")
    assert [view.view.name for view in both.views] == ["mood_view", TECHNICAL_VIEW]
    with pytest.raises(UsageError, match="has features that Feast makes"):
        read(foreign, "mood", backend="timescaledb")


def halved_of_ours(repo: Repo) -> tuple[ForeignRepo, FeatureView, Any]:
    """Fill a repository with an online store of ours; return a view of it, and one on demand over that."""
    ours = ForeignRepo(repo.root, repo.url)
    fill(ours)
    ours.ok("materialize")
    with feast_store(ours.database) as store:
        source = store.get_feature_view(TECHNICAL_VIEW)

    @on_demand_feature_view(sources=[source], schema=[Field(name="halved", dtype=Float64)], mode="python")
    def halved_view(inputs: dict[str, Any]) -> dict[str, Any]:
        return {"halved": [None if one is None else one / 2 for one in inputs["ema_20"]]}

    return ours, source, halved_view


def test_features_on_demand_over_our_own_store(repo: Repo) -> None:
    """What is past its TTL there is made of what is there, too, and withheld by who asks."""
    ours, _, halved = halved_of_ours(repo)
    apply_by_feast(ours, halved)
    answer = read(ours, "halved", "ema_20", ids=("BTCUSDT_1h", "OLDUSDT_1h"), allow_stale=True)
    assert set(answer.sources) == {"feast", "online"}
    for row in answer.by_entity():
        made, stored = row.views
        assert made.features["halved"] == stored.features["ema_20"] / 2
        assert (made.event_timestamp, made.statuses["halved"]) == (stored.event_timestamp, stored.statuses["ema_20"])


@pytest.mark.filterwarnings("ignore")
def test_a_service_of_features_that_are_stored_and_on_demand_is_answered_whole(repo: Repo) -> None:
    """Whether the catalog was published with it or before: each view by its own path, a training set by Feast."""
    ours, source, halved = halved_of_ours(repo)
    apply_by_feast(ours, halved, FeatureService(name="both", features=[source[["ema_20"]], halved]))

    async def work(manager: FeastFeatureStoreManager) -> None:
        (row,) = await manager.get_online_features_rows(["BTCUSDT_1h"], feature_service_name="both")
        assert row["ema_20"] is not None
        assert row["halved"] == row["ema_20"] / 2
        window = {"start_date": NOON - timedelta(hours=3), "end_date": NOON}
        frame = await manager.get_offline_features(["BTCUSDT_1h"], feature_service_name="both", **window)
        assert (len(frame), frame.attrs["source"]) == (4, "feast")
        assert frame["halved"].tolist() == (frame["ema_20"] / 2).tolist()
        assert frame["ema_20"].iloc[-1] == row["ema_20"]
        for asked in (
            manager.get_offline_features(["BTCUSDT_1h"], feature_service_name="both", backend="timescaledb", **window),
            manager.get_feature_statistics(feature_service_name="both"),
        ):
            with pytest.raises(NotFound, match="service 'both' has features of view 'halved_view', which only Feast"):
                await asked
        info = await manager.get_feature_service_info("both")
        assert [one["name"] for one in info["features"]] == ["ema_20"]
        assert ([view["name"] for view in info["views"]], info["by_feast"]) == ([TECHNICAL_VIEW], ["halved_view"])

    using(ours, work)
    assert "made by Feast" in ours.ok("services", "both", "--format", "table")
    window = ("--start", (NOON - timedelta(hours=3)).isoformat(), "--end", NOON.isoformat())
    done = ours.run("get-offline", "BTCUSDT_1h", "--service", "both", *window, "--json")
    assert "Feast reads these features" in done.stderr
    rows = json.loads(done.stdout)["rows"]
    assert len(rows) == 4
    assert [row["halved"] for row in rows] == [row["ema_20"] / 2 for row in rows]


def test_what_a_request_must_give_is_said(sqlite_repo: ForeignRepo) -> None:
    asked = RequestSource(name="asked", schema=[Field(name="factor", dtype=Float64)])
    apply_by_feast(sqlite_repo, on_demand(sqlite_repo, asked))
    with pytest.raises(UsageError, match="computed from what a request gives, factor"):
        read(sqlite_repo, "mood")


def test_views_of_feast_alone(sqlite_repo: ForeignRepo) -> None:
    """Applied and materialized by Feast after the catalog was published; keys are numbers, a column is renamed."""
    number = Entity(name="number", join_keys=["number"], value_type=ValueType.INT64)
    with sqlite_repo.connect() as connection:
        connection.execute(b"CREATE TABLE late (symbol text, timeframe text, at timestamptz, v float8, n bigint)")
        rows = [("A", "1h", NOON, float("nan"), 3), ("B", "1h", NOON, 1.5, None)]
        connection.cursor().executemany(b"INSERT INTO late VALUES (%s, %s, %s, %s, %s)", rows)
    with feast_store(sqlite_repo.database) as store:
        entities = [store.get_entity("symbol"), store.get_entity("timeframe")]
    late = FeatureView(
        name="late_view",
        entities=entities,
        ttl=timedelta(hours=1),
        schema=[Field(name="value", dtype=Float64), Field(name="n", dtype=Int64)],
        source=PostgreSQLSource(name="late", table="public.late", timestamp_field="at", field_mapping={"v": "value"}),
    )
    numbered = FeatureView(
        name="numbered_view",
        entities=[number],
        schema=[Field(name="number", dtype=Int64), Field(name="twice", dtype=Int64)],
        source=PostgreSQLSource(
            name="numbered",
            query="SELECT 7::bigint AS number, 14::bigint AS twice, at FROM late LIMIT 1",
            timestamp_field="at",
        ),
    )
    apply_by_feast(sqlite_repo, number, late, numbered)
    with feast_store(sqlite_repo.database) as store:
        store.materialize(NOON - timedelta(days=1), NOW, ["late_view"])
    answer = read(sqlite_repo, "value", "late_view:n", ids=("A_1h", "B_1h", "C_1h"))
    assert paths(answer) == "feast"
    assert [row.views[0].features for row in answer.by_entity()] == [
        {"value": None, "n": 3},
        {"value": 1.5, "n": None},
        {"value": None, "n": None},
    ]
    assert answer.by_entity()[0].views[0].limit == timedelta(hours=1)
    with pytest.raises(
        UsageError, match="view 'numbered_view' is keyed by number; entity ids give symbol and timeframe"
    ):
        read(sqlite_repo, "twice")


def test_a_symbol_that_is_a_number(sqlite_repo: ForeignRepo) -> None:
    """The key of a view is a whole number in Feast; what is none has no row."""
    with sqlite_repo.connect() as connection:
        connection.execute(b"CREATE TABLE listed AS SELECT 7::bigint AS symbol, 14::bigint AS twice, %s AS at", [NOON])
    definitions = """
from datetime import timedelta
from feast import Entity, FeatureView, Field, ValueType
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import PostgreSQLSource
from feast.types import Int64

symbol = Entity(name="symbol", join_keys=["symbol"], value_type=ValueType.INT64)
listed = FeatureView(
    name="listed", entities=[symbol], ttl=timedelta(0), schema=[Field(name="twice", dtype=Int64)],
    source=PostgreSQLSource(name="listed", table="public.listed", timestamp_field="at"),
)
"""
    for file in sqlite_repo.root.glob("feature_repo/*.py"):
        file.unlink()
    (sqlite_repo.root / "definitions.py").write_text(definitions)
    with contextlib.suppress(OSError):
        (sqlite_repo.root / "feature_repo").rmdir()
    apply(sqlite_repo.database, allow_drop=True, now=NOW)
    with feast_store(sqlite_repo.database) as store:
        store.materialize(NOON - timedelta(days=1), NOW)
    answer = read(sqlite_repo, ids=("7", "007", "8", "BTCUSDT"))
    assert paths(answer) == "feast"
    assert [row.views[0].features["twice"] for row in answer.by_entity()] == [14, 14, None, None]


def test_a_name_that_nobody_knows_costs_no_feast(sqlite_repo: ForeignRepo) -> None:
    done = script(
        sqlite_repo,
        """
        from featurectl.errors import NotFound
        async with manager:
            for features, service in ((["rsi_15"], None), (["no_view:rsi_14"], None), (None, "no_service")):
                try:
                    await manager.get_online_features_rows(["BTCUSDT_1h"], features, service)
                except NotFound as error:
                    print(error)
        print("feast" in sys.modules)
        """,
    )
    assert done.returncode == 0, done.stderr
    first, second, third, loaded = done.stdout.splitlines()
    assert first.startswith("feature 'rsi_15' not found")
    assert second.startswith("view 'no_view' not found")
    assert third.startswith("service 'no_service' not found")
    assert loaded == "False"
    apply_by_feast(sqlite_repo, on_demand(sqlite_repo))
    with pytest.raises(NotFound, match=r"feature 'mod' not found; features: .*mood"):
        read(sqlite_repo, "mod")


# --- without the database ---------------------------------------------------------------------------------------------


def test_feast_answers_while_the_database_is_away(sqlite_repo: ForeignRepo) -> None:
    """Where neither the online store nor the registry is in it; once it is back, its catalog and its history are."""
    with feast_store(sqlite_repo.database) as store:
        registry = store.registry.proto()
    (sqlite_repo.root / "data" / "registry.db").write_bytes(registry.SerializeToString())
    set_in_yaml(sqlite_repo.root, registry="data/registry.db")
    good = told(read(sqlite_repo, f"{TECHNICAL_VIEW}:ema_20", "news_sentiment"))
    with silent_port() as port:
        away = ForeignRepo(sqlite_repo.root, f"postgresql://nobody@127.0.0.1:{port}/nowhere?connect_timeout=2")
    answer = read(away, f"{TECHNICAL_VIEW}:ema_20", "news_sentiment")
    assert told(answer) == good
    assert paths(answer) == "feast"
    assert "and have no history" in (answer.degraded or "")
    with pytest.raises(NotFound, match="feature 'rsi_15' not found"):
        read(away, "rsi_15")
    (sqlite_repo.root / "data" / "registry.db").unlink()
    with pytest.raises(DatabaseUnreachable):
        read(away, "ema_20")


def test_the_database_comes_back(sqlite_repo: ForeignRepo, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("featurectl.opened.CATALOG_SECONDS", 0.05)
    with feast_store(sqlite_repo.database) as store:
        registry = store.registry.proto()
    (sqlite_repo.root / "data" / "registry.db").write_bytes(registry.SerializeToString())
    set_in_yaml(sqlite_repo.root, registry="data/registry.db")

    def let_in(connections: bool) -> None:
        name = sql.Identifier(conninfo_to_dict(sqlite_repo.url)["dbname"])
        with open_connection(server, connect_timeout=10) as connection:
            statement = sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS {}")
            connection.execute(statement.format(name, sql.Literal(connections)))

    async def run() -> None:
        let_in(False)
        manager = sqlite_repo.manager(timeout=20)
        try:
            assert "not currently accepting connections" in (
                (await manager.read_online(IDS, ["news_sentiment"], None)).degraded or ""
            )
            let_in(True)
            answer = await until(manager, lambda answer: answer.degraded is None)
            assert {view.view.has_history for view in answer.views} == {True}
        finally:
            let_in(True)
            await manager.close()

    asyncio.run(run())


def set_in_yaml(root: Path, **settings: Any) -> None:
    path = root / "feature_store.yaml"
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    path.write_text(yaml.safe_dump({**document, **settings}, sort_keys=False), encoding="utf-8")
