"""Rows kept by a manager: when the database is not asked, and what must never be served."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import random
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

import pytest

from featurectl.core.catalog import Selection
from featurectl.core.connections import AsyncPool
from featurectl.core.db import Connection
from featurectl.core.entity import parse_id_or_symbol
from featurectl.core.materialize import materialize_view
from featurectl.core.serving import listener
from featurectl.core.serving.answer import Answer, Entities, EntityFeatures, Request
from featurectl.core.serving.cache import OnlineCache
from featurectl.core.serving.paths import Backend, Deadline
from featurectl.core.serving.reader import Reader
from featurectl.core.serving.session import Query, Rows, Session
from featurectl.core.times import Window
from featurectl.errors import UsageError
from featurectl.manager import FeastFeatureStoreManager
from tests.fix_repository import Repo
from tests.market import FEATURES, HOUR, START, TECHNICAL, VIEW, Market

NOON = START + 12 * HOUR
MINUTE = timedelta(minutes=1)
ONLINE = f"online.market__{VIEW}"
LISTENERS = (
    "locktype = 'advisory' AND mode = 'ShareLock'"
    " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)
BTC, ETH, GONE = "BTCUSDT_1h", "ETHUSDT_1h", "GONEUSDT_1h"


class GatedSession(Session):
    """A connection whose answers, once they have arrived, wait for ``gate`` where there is one."""

    gate: asyncio.Event | None = None
    arrived = 0

    async def fetch(self, queries: Sequence[Query], *, until: float | None = None) -> list[Rows]:
        rows = await super().fetch(queries, until=until)
        GatedSession.arrived += 1
        if GatedSession.gate is not None:
            await GatedSession.gate.wait()
        return rows


async def read_within(reader: Reader, request: Request, seconds: float, **options: Any) -> Answer:
    return await reader.read(request, deadline=Deadline.after(seconds), **options)


class Served:
    """A reader that keeps rows, one that keeps none, and the clocks of both in plain sight."""

    def __init__(self, market: Market, seconds: float = 60.0, *, other: Repo | None = None, **options: Any) -> None:
        self.market = market
        self.now, self.seconds = NOON, 0.0
        self.loop = asyncio.Runner()
        self.heard: list[str] = []
        databases = market.repo.database, (other or market.repo).database
        pool = AsyncPool(lambda: databases[0].open_async(GatedSession), 4)
        self.cache = OnlineCache(
            seconds,
            lambda: databases[1].open_async(Session),
            pool,
            schema="online",
            clock=lambda: self.seconds,
            **options,
        )
        forget, self.listener = self.cache.forget_table, self.cache._listener
        self.listener._heard = lambda table: (forget(table), self.heard.append(table))[0]
        self.reader = Reader(pool, cache=self.cache)
        self.plain = Reader(AsyncPool(lambda: databases[0].open_async(Session), 1))

    def close(self) -> None:
        self.run(self.reader.close())
        self.run(self.plain.close())
        self.loop.close()

    def run(self, work: Awaitable[Any]) -> Any:
        async def done() -> Any:
            return await work

        return self.loop.run(done())

    def until(self, condition: Callable[[], Any], seconds: float = 5.0) -> float:
        """Run the event loop until something is so; return how many seconds that took."""

        async def wait() -> float:
            started = time.monotonic()
            while not condition():
                assert time.monotonic() - started < seconds, "it never came to that"
                await asyncio.sleep(0.002)
            return time.monotonic() - started

        return float(self.loop.run(wait()))

    def listen(self) -> None:
        """Have the cache begin to work, as the first read does."""

        async def start() -> None:
            self.listener.start_soon()

        self.loop.run(start())
        self.until(lambda: self.listener.is_listening)

    def request(self, ids: Sequence[str], *features: str, as_of: datetime | None = None, **options: Any) -> Request:
        chosen = Selection(self.market.view, features or FEATURES)
        entities = Entities(map(parse_id_or_symbol, ids))
        return Request((chosen,), entities, as_of or self.now, as_of is not None, **options)

    def answer(self, *ids: str, features: Sequence[str] = (), backend: Backend = Backend.AUTO) -> Answer:
        answer = self.run(read_within(self.reader, self.request(ids, *features), 2, backend=backend))
        assert isinstance(answer, Answer)
        return answer

    def read(self, id: str, feature: str = "rsi_14") -> tuple[Any, str, str]:
        """Return a value, its status, and where it came from."""
        (row,) = self.answer(id, features=[feature]).by_entity()
        (view,) = row.views
        return view.features[feature], view.statuses[feature], view.source

    @property
    def hits(self) -> int:
        return int(self.reader.counters.report()["views"][VIEW]["cache"]["hits"])

    def put(self, id: str, value: float | None, event: datetime = NOON) -> None:
        """Write a row of the history: each feature has the value."""
        insert(self.market.connection, id, value, event)

    def materialize(self, end: datetime = NOON, *, heard: bool = True) -> int:
        """Bring online what is known up to an instant; return how many rows that wrote."""
        before = len(self.heard)
        view, connection = self.market.view, self.market.connection
        done = materialize_view(connection, "market", view, Window(None, end), now=end)
        if heard and done.written:
            self.until(lambda: ONLINE in self.heard[before:])
        return done.written


def insert(connection: Connection, id: str, value: float | None, event: datetime) -> None:
    columns = ", ".join(["symbol", "timeframe", "event_timestamp", *FEATURES])
    changed = ", ".join(f"{name} = excluded.{name}" for name in FEATURES)
    connection.execute(
        f"INSERT INTO {TECHNICAL} ({columns}) VALUES ({', '.join(['%s'] * (3 + len(FEATURES)))}) "
        f"ON CONFLICT (symbol, timeframe, event_timestamp) DO UPDATE SET {changed}".encode(),
        (*id.rsplit("_", 1), event, *[value] * len(FEATURES)),
    )


@contextlib.contextmanager
def locked(repo: Repo) -> Iterator[None]:
    """Let nobody read the online table."""
    with repo.connect() as connection, connection.transaction():
        connection.execute(f"LOCK TABLE {ONLINE} IN ACCESS EXCLUSIVE MODE".encode())
        yield


@pytest.fixture
def serve(market: Market) -> Iterator[Callable[..., Served]]:
    """Make what reads the test's market, with a cache of the test's own choice."""
    made: list[Served] = []

    def make(*arguments: Any, **options: Any) -> Served:
        made.append(Served(market, *arguments, **options))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def served(serve: Callable[..., Served]) -> Served:
    """Bitcoin and ether online at noon, and a cache that listens."""
    served = serve()
    served.put(BTC, 1.0)
    served.put(ETH, 2.0)
    served.materialize(heard=False)
    served.listen()
    return served


def test_a_row_that_is_kept_is_served_without_the_database(served: Served) -> None:
    assert served.read(BTC) == (1.0, "PRESENT", "online")
    with locked(served.market.repo):
        assert served.read(BTC) == (1.0, "PRESENT", "online")
        # Another of its features was not read, nor was another entity: the history answers for a table out of reach.
        assert served.read(BTC, "atr") == (1.0, "PRESENT", "timescaledb")
        assert served.read(ETH) == (2.0, "PRESENT", "timescaledb")
    assert served.reader.counters.report()["views"][VIEW]["cache"] == {"hits": 1, "misses": 3}


def test_all_keys_of_a_view_are_read_when_one_is_not_kept(served: Served) -> None:
    served.answer(BTC)
    assert served.answer(BTC, ETH, BTC).rows()[1]["atr"] == 2.0
    with locked(served.market.repo):
        assert [row["ema_20"] for row in served.answer(ETH, BTC, ETH).rows()] == [2.0, 1.0, 2.0]
    assert served.hits == 1


def test_a_row_is_kept_for_the_seconds_and_no_longer(served: Served) -> None:
    served.read(BTC)
    served.market.connection.execute(f"UPDATE {ONLINE} SET rsi_14 = 7".encode())  # by hand: nobody is told
    served.seconds = 59.9
    assert served.read(BTC)[0] == 1.0
    served.seconds = 60.0
    assert served.read(BTC)[0] == 7.0
    assert served.hits == 1


def test_a_row_past_its_ttl_is_withheld_however_long_it_is_kept(served: Served) -> None:
    served.read(BTC)
    with locked(served.market.repo):
        served.now = NOON + HOUR
        assert served.read(BTC)[1] == "PRESENT"
        served.now += timedelta(microseconds=1)
        assert served.read(BTC) == (None, "OUTSIDE_MAX_AGE", "online")
        request = served.request([BTC], "rsi_14", allow_stale=True)
        assert served.run(read_within(served.reader, request, 2)).rows()[0]["rsi_14"] == 1.0
        request = served.request([BTC], "rsi_14", max_age=MINUTE)
        assert served.run(read_within(served.reader, request, 2)).rows()[0]["rsi_14"] is None
    assert served.hits == 4


def test_an_entity_that_is_not_there_is_remembered_too(served: Served) -> None:
    assert served.read(GONE) == (None, "NOT_FOUND", "online")
    with locked(served.market.repo):
        assert served.read(GONE) == (None, "NOT_FOUND", "online")
    served.put(GONE, 3.0)
    served.materialize()
    assert served.read(GONE) == (3.0, "PRESENT", "online")


def test_a_view_that_was_never_materialized_is_read_from_its_history_until_it_is(
    market: Market, serve: Callable[..., Served]
) -> None:
    served = serve()
    served.put(BTC, 1.0)
    served.listen()
    for _ in range(2):
        answer = served.answer(BTC)
        assert answer.sources == ("timescaledb",)
        assert "is empty; run" in answer.reasons[VIEW]
    served.materialize()
    assert served.read(BTC) == (1.0, "PRESENT", "online")


def test_a_materialize_of_another_process_is_heard_within_a_second(served: Served) -> None:
    served.read(BTC)
    served.put(BTC, 5.0, NOON + MINUTE)
    served.market.repo.ok("materialize", "--incremental", "--view", VIEW)
    assert served.until(lambda: served.heard) < 1
    served.now += MINUTE
    assert served.read(BTC) == (5.0, "PRESENT", "online")
    # The next one finds nothing to write, and nobody has to read anew.
    served.market.repo.ok("materialize", "--incremental", "--view", VIEW)
    with locked(served.market.repo):
        assert served.read(BTC) == (5.0, "PRESENT", "online")


def test_a_row_read_before_a_write_is_not_kept_after_it(served: Served) -> None:
    """The read has its answer in hand when the write is committed and announced."""

    async def race() -> Answer:
        GatedSession.gate, before = asyncio.Event(), GatedSession.arrived
        reading = asyncio.ensure_future(read_within(served.reader, served.request([BTC], "rsi_14"), 5))
        try:
            while GatedSession.arrived == before:
                await asyncio.sleep(0.001)
            served.put(BTC, 5.0)
            await asyncio.to_thread(served.materialize, heard=False)
            while ONLINE not in served.heard:
                await asyncio.sleep(0.001)
        finally:
            gate, GatedSession.gate = GatedSession.gate, None
            gate.set()
        return await reading

    assert served.loop.run(race()).rows()[0]["rsi_14"] == 1.0
    assert served.read(BTC)[0] == 5.0
    assert served.hits == 0


def test_nothing_is_kept_while_somebody_writes_who_does_not_know_of_us(
    market: Market, serve: Callable[..., Served]
) -> None:
    """A write that began before anybody listened is announced to nobody, whenever it is committed."""
    served = serve()
    served.put(BTC, 1.0)
    served.materialize(heard=False)
    with market.repo.connect() as writer, writer.transaction():
        insert(writer, BTC, 5.0, NOON)
        assert materialize_view(writer, "market", market.view, Window(None, NOON), now=NOON).written == 1
        for _ in range(2):
            assert served.read(BTC)[0] == 1.0
            served.run(asyncio.sleep(0.15))
        assert not served.listener.is_listening
    served.until(lambda: served.listener.is_listening)
    assert ONLINE not in served.heard
    assert served.read(BTC)[0] == 5.0


def test_writers_announce_nothing_where_nobody_listens(market: Market, serve: Callable[..., Served]) -> None:
    """One transaction with a NOTIFY can be committed at a time, on the whole server."""
    served = serve()
    with market.repo.connect() as bystander:
        bystander.execute("LISTEN featurectl_online")
        served.put(BTC, 1.0)
        assert served.materialize(heard=False) == 1
        bystander.execute("NOTIFY featurectl_online, 'the end'")
        assert [one.payload for one in bystander.notifies(timeout=5, stop_after=1)] == ["the end"]


def test_a_write_that_is_rolled_back_or_changes_nothing_invalidates_nothing(served: Served) -> None:
    served.read(BTC)
    assert served.materialize() == 0
    served.put(BTC, 5.0)
    with contextlib.suppress(ZeroDivisionError), served.market.connection.transaction():
        assert served.materialize(heard=False) == 1
        raise ZeroDivisionError
    served.market.connection.execute("NOTIFY featurectl_online, 'the end'")
    served.until(lambda: "the end" in served.heard)
    assert ONLINE not in served.heard
    with locked(served.market.repo):
        assert served.read(BTC)[0] == 1.0


def test_nothing_is_served_while_the_listener_is_lost(
    served: Served, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "PAUSE", 0.05)
    served.listener._pause = 0.05
    caplog.set_level(logging.INFO, "featurectl")
    served.read(BTC)
    served.market.connection.execute(f"SELECT pg_terminate_backend(pid) FROM pg_locks WHERE {LISTENERS}".encode())
    served.until(lambda: not served.listener.is_listening)
    served.market.connection.execute(f"UPDATE {ONLINE} SET rsi_14 = 7".encode())
    assert served.read(BTC)[0] == 7.0
    assert served.hits == 0
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "rows are not cached" in caplog.text
    served.run(asyncio.sleep(0.06))
    served.read(BTC)
    served.until(lambda: served.listener.is_listening)
    assert caplog.records[-1].levelname == "INFO"
    served.read(BTC)
    with locked(served.market.repo):
        assert served.read(BTC)[0] == 7.0
    served.put(BTC, 5.0, NOON + MINUTE)
    served.now += MINUTE
    served.materialize(served.now)
    assert served.read(BTC)[0] == 5.0


def test_nothing_is_kept_where_notifications_do_not_get_through(
    market: Market,
    serve: Callable[..., Served],
    clone: Callable[[str | None], str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As with a pooler in transaction mode: LISTEN works, and nothing ever comes. Here it is another database."""
    monkeypatch.setattr(listener, "HEARING", 0.2)
    served = serve(other=Repo(market.repo.root, clone(None)))
    served.put(BTC, 1.0)
    served.materialize(heard=False)
    served.read(BTC)
    served.until(lambda: caplog.records)
    assert "do not get through" in caplog.text
    assert served.read(BTC)[0] == 1.0
    assert len(served.cache) == 0


def test_the_oldest_rows_go_when_there_are_too_many(market: Market, serve: Callable[..., Served]) -> None:
    served = serve(max_rows=50)
    ids = [f"S{number}_1h" for number in range(60)]
    for number, id in enumerate(ids):
        served.put(id, float(number))
    served.materialize(heard=False)
    served.listen()
    for features in (("rsi_14",), ("atr",)):
        for number, id in enumerate(ids[:30]):
            served.seconds += 0.1
            assert served.answer(id, features=features).rows()[0][features[0]] == number
            assert len(served.cache) <= 50
    with locked(market.repo):
        assert served.read(ids[10])[0] == 10.0  # 30 rows of the one feature, and the newest 20 of the other
    assert served.read(ids[9])[0] == 9.0
    assert served.hits == 1
    served.answer(*ids)
    assert len(served.cache) == 50


def test_answers_are_those_without_a_cache(market: Market, serve: Callable[..., Served]) -> None:
    """Random writes, late ones and nulls among them, and reads of all kinds, at a clock that moves."""
    seed = 20240717
    print(f"seed {seed}")
    draw = random.Random(seed)
    served = serve(600.0)
    ids = [BTC, ETH, "BTCUSDT_5m", "SOLUSDT_1h", GONE]
    served.listen()
    degraded = 0
    for step in range(400):
        if step == 10:
            served.put(BTC, draw.random(), served.now)  # and nothing was materialized yet
        if step > 20 and draw.random() < 0.15:
            late = draw.choice([0, 0, 1, 40, 90, -10])
            served.put(draw.choice(ids[:4]), draw.choice([None, draw.random()]), served.now - late * MINUTE)
            if draw.random() < 0.8:
                served.materialize(served.now)
        served.now += draw.choice([0, 0, 1, 7, 30]) * MINUTE
        served.seconds += draw.choice([0, 0, 1, 150])
        options: dict[str, Any] = {
            "allow_stale": draw.random() < 0.2,
            "max_age": draw.choice([None, None, 20 * MINUTE]),
        }
        backend = draw.choice([Backend.AUTO, Backend.AUTO, Backend.ONLINE])
        if backend is Backend.AUTO and draw.random() < 0.3:
            options["as_of"] = served.now - draw.choice([-5, 0, 5, 60, 200]) * MINUTE
        features = draw.choice([FEATURES, FEATURES[:2], ("atr",)])
        request = served.request(draw.choices(ids, k=draw.randint(1, 3)), *features, **options)
        found = served.run(read_within(served.reader, request, 5, backend=backend))
        wanted = served.run(read_within(served.plain, request, 5, backend=backend))
        assert shown(found) == shown(wanted), f"seed {seed}, step {step}: {request}"
        degraded += bool(wanted.reasons)
    cache = served.reader.counters.report()["views"][VIEW]["cache"]
    assert min(cache["hits"], cache["misses"], degraded) > 0
    assert cache["hits"] > 100


def shown(answer: Answer) -> tuple[list[EntityFeatures], list[dict[str, Any]], dict[str, str]]:
    return answer.by_entity(), answer.rows(), answer.reasons


def test_a_manager_keeps_rows_when_it_is_told_to(market: Market) -> None:
    insert(market.connection, BTC, 1.0, NOON)
    materialize_view(market.connection, "market", market.view, Window(None, NOON), now=NOON)

    async def read() -> None:
        options: dict[str, Any] = {"database_url": market.repo.url, "clock": lambda: NOON}
        async with FeastFeatureStoreManager(market.repo.root, cache_seconds=30, **options) as manager:
            rows = await manager.get_online_features_rows([BTC], ["rsi_14"])
            while "hits" not in str(manager.counters()) or not manager.counters()["views"][VIEW]["cache"]["hits"]:
                rows = await manager.get_online_features_rows([BTC], ["rsi_14"])
                await asyncio.sleep(0.005)
            assert (rows[0]["rsi_14"], rows.source) == (1.0, "online")
        async with FeastFeatureStoreManager(market.repo.root, **options) as manager:
            for _ in range(2):
                await manager.get_online_features_rows([BTC], ["rsi_14"])
            assert "cache" not in manager.counters()["views"][VIEW]

    asyncio.run(read())


def test_a_manager_reads_what_it_has_just_written(market: Market) -> None:
    """Whether or not it has been told by the database yet."""
    insert(market.connection, BTC, 1.0, NOON)

    async def read() -> None:
        options: dict[str, Any] = {"database_url": market.repo.url, "clock": lambda: NOON, "cache_seconds": 30}
        async with FeastFeatureStoreManager(market.repo.root, **options) as manager:
            await manager.materialize()
            while not (await manager.health())["cache"]["active"]:
                await manager.get_online_features_rows([BTC], ["rsi_14"])
                await asyncio.sleep(0.005)
            await manager.get_online_features_rows([BTC], ["rsi_14"])
            assert (await manager.health())["cache"]["rows"] == 1
            assert manager._reader is not None
            assert manager._reader.cache is not None
            socket = manager._reader.cache._listener._socket
            assert socket is not None
            asyncio.get_running_loop().remove_reader(socket)  # it hears nothing of this
            insert(market.connection, BTC, 5.0, NOON)
            await manager.materialize()
            assert (await manager.get_online_features_rows([BTC], ["rsi_14"]))[0]["rsi_14"] == 5.0

    asyncio.run(read())


@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf"), "5", True, None])
def test_seconds_that_are_none_are_refused(seconds: Any) -> None:
    with pytest.raises(UsageError, match="cache_seconds"):
        FeastFeatureStoreManager(cache_seconds=seconds)


def test_a_loop_that_ends_without_closing_anything_says_nothing(
    market: Market, caplog: pytest.LogCaptureFixture
) -> None:
    """Warnings are errors here, those of forgotten connections and tasks among them."""
    insert(market.connection, BTC, 1.0, NOON)
    materialize_view(market.connection, "market", market.view, Window(None, NOON), now=NOON)

    async def read(pause: float) -> None:
        manager = FeastFeatureStoreManager(market.repo.root, database_url=market.repo.url, cache_seconds=30)
        await manager.get_online_features_rows([BTC], ["rsi_14"])
        await asyncio.sleep(pause)  # it has begun to listen, or is about to
        assert manager._reader is not None
        assert manager._reader.cache is not None
        assert manager._reader.cache._listener.is_listening is bool(pause)

    for pause in (0.3, 0.0):
        asyncio.run(read(pause))
        gc.collect()
        loop = asyncio.new_event_loop()
        loop.run_until_complete(read(0.3))
        loop.close()
        gc.collect()
    assert [record for record in caplog.records if record.name == "asyncio"] == []
    for _ in range(100):
        (count,) = market.connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
            " AND backend_type = 'client backend'"
        ).fetchone() or (None,)
        if not count:
            return
        time.sleep(0.02)
    raise AssertionError("connections are left")


def test_rows_are_forgotten_with_the_definitions(served: Served) -> None:
    served.read(BTC)
    served.market.connection.execute(f"UPDATE {ONLINE} SET rsi_14 = 7".encode())
    served.reader.forget()
    assert served.read(BTC)[0] == 7.0


def test_closing_ends_the_listener(served: Served) -> None:
    served.read(BTC)
    served.run(served.reader.close())
    assert len(served.cache) == 0
    for _ in range(100):
        if not served.market.connection.execute(f"SELECT FROM pg_locks WHERE {LISTENERS}".encode()).fetchall():
            return
        time.sleep(0.02)
    raise AssertionError("it still holds its lock")
