"""What is answered, by which path and why, while something is broken: each fault once, with an online store of ours."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import pytest

import featurectl.core.serving.reader
import featurectl.opened
from featurectl.core.serving.answer import OnlineRows
from featurectl.core.serving.breaker import Breaker, State
from featurectl.core.serving.reader import Reader
from featurectl.errors import DatabaseError, LoginRefused, ReadTimeout, SchemaMissing
from featurectl.manager import FeastFeatureStoreManager
from tests import faults
from tests.drill import EVENT, MARKET, SENTIMENT, SLACK, TECHNICAL, VIEWS, Ground, bring_online, expected, fill
from tests.fix_database import create_database, drop_database
from tests.proxy import Proxy, proxy_to

IDS = ("S1USDT_1h", "S2USDT_1m")


@pytest.fixture(scope="module")
def ground(
    server: str, applied_repository: tuple[Path, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Ground]:
    """One for all tests of a process: each mends what it breaks."""
    root = tmp_path_factory.mktemp("fallback") / "market"
    shutil.copytree(applied_repository[0], root)
    name = f"featurectl_test_{uuid.uuid4().hex[:12]}"
    ground = Ground(root, create_database(server, name, applied_repository[1]))
    fill(ground)
    yield ground
    drop_database(server, name)


def run(ground: Ground, body: Callable[[FeastFeatureStoreManager], Awaitable[None]], **options: Any) -> None:
    """Run a test's body with a manager, closed at the end; nothing may go wrong beside it either."""
    beside: list[dict[str, Any]] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: beside.append(context))
        async with ground.manager(**{"timeout": 5.0, **options}) as manager:
            await body(manager)

    asyncio.run(main())
    assert beside == []


async def read(manager: FeastFeatureStoreManager, *views: str, **options: Any) -> OnlineRows:
    """Read all features of views, TECHNICAL where none is named; the values are what they must be, by any path."""
    chosen = views or (TECHNICAL,)
    names = [f"{view}:{feature}" for view in chosen for feature in VIEWS[view]]
    rows = await manager.get_online_features_rows(IDS, names, **options)
    assert list(rows) == [expected(entity_id, chosen) for entity_id in IDS]
    assert bool(rows.degraded) == bool(rows.answer.reasons)
    return rows


def sources(rows: OnlineRows) -> dict[str, str]:
    return {view.view.name: str(view.source) for view in rows.answer.views}


def breaker(manager: FeastFeatureStoreManager, view: str = TECHNICAL) -> Breaker | None:
    assert manager._reader is not None
    return next((one for (_, name), one in manager._reader.breakers.items() if name == view), None)


def state(manager: FeastFeatureStoreManager, view: str = TECHNICAL) -> State:
    found = breaker(manager, view)
    return found.state if found else State.CLOSED


def counted(manager: FeastFeatureStoreManager, view: str = TECHNICAL) -> tuple[int, int, dict[str, int]]:
    """Return a view's calls, how many were degraded, and the calls by path."""
    report = manager.counters()["views"][view]
    return report["calls"], report["degraded"], report["paths"]


async def until_closed(manager: FeastFeatureStoreManager, view: str = TECHNICAL, *, within: float = 8.0) -> None:
    """Go on reading until the view's first path is trusted again."""
    deadline = time.monotonic() + within
    while state(manager, view) is not State.CLOSED:
        assert time.monotonic() < deadline, f"the circuit of {view} stays open"
        await read(manager, view)
        await asyncio.sleep(0.05)


# --- the online table ------------------------------------------------------------------------------------------------


def test_the_history_answers_for_an_online_table_that_is_missing(ground: Ground) -> None:
    reason = f'relation "online.market__{TECHNICAL}" does not exist; run `featurectl apply`'

    async def body(manager: FeastFeatureStoreManager) -> None:
        with faults.table_missing(ground):
            states = []
            for _ in range(4):
                rows = await read(manager)
                assert (rows.source, rows.degraded) == ("timescaledb", reason)
                states.append(state(manager))
            assert states == [State.CLOSED, State.CLOSED, State.OPEN, State.OPEN]
            found = breaker(manager)
            assert found is not None
            assert (found.failures, found.opened, found.reason) == (3, 1, reason)  # the fourth read did not try
            assert counted(manager) == (4, 4, {"timescaledb": 4})
        await until_closed(manager)
        rows = await read(manager)
        assert (rows.source, rows.degraded) == ("online", None)
        # The probe, the read that took its path at once, and one more.
        assert (found.successes, found.reason) == (3, None)

    run(ground, body)


def test_an_answer_from_history_says_all_that_one_from_online_says(ground: Ground) -> None:
    async def body(manager: FeastFeatureStoreManager) -> None:
        before = await read(manager, *VIEWS)
        with faults.table_missing(ground):
            after = await read(manager, *VIEWS)
        assert (after.statuses, after.ages, after.notes) == (before.statuses, before.ages, before.notes)

    run(ground, body)


def test_only_the_view_that_fails_is_answered_by_its_history(ground: Ground) -> None:
    async def body(manager: FeastFeatureStoreManager) -> None:
        with faults.column_missing(ground, MARKET):
            for _ in range(5):
                rows = await read(manager, *VIEWS)
                assert sources(rows) == {TECHNICAL: "online", MARKET: "timescaledb", SENTIMENT: "online"}
                assert rows.answer.reasons == {MARKET: "column o.bid_ask_spread does not exist; run `featurectl apply`"}
                assert rows.source == "online+timescaledb"
            assert [state(manager, view) for view in VIEWS] == [State.CLOSED, State.OPEN, State.CLOSED]
            assert counted(manager, MARKET) == (5, 5, {"timescaledb": 5})
            assert counted(manager, SENTIMENT) == (5, 0, {"online": 5})
        await until_closed(manager, MARKET)
        assert (await read(manager, *VIEWS)).source == "online"

    run(ground, body)


def test_the_history_answers_for_a_table_that_the_disk_has_lost(ground: Ground) -> None:
    """The server answers, and says that it can't read a file: that is the table's fault, not the connection's."""
    table = ground.online_table(TECHNICAL)
    name = table.rpartition(".")[2]
    mended = f"ALTER TABLE online.whole RENAME TO {name}"
    ground.execute(
        "CREATE FUNCTION public.lost() RETURNS boolean LANGUAGE plpgsql AS "
        "$$BEGIN RAISE 'could not open file \"base/5/1\"' USING ERRCODE = '58P01'; END$$",
        f"ALTER TABLE {table} RENAME TO whole",
        f"CREATE VIEW {table} AS SELECT * FROM online.whole WHERE public.lost()",
    )

    async def body(manager: FeastFeatureStoreManager) -> None:
        try:
            began = time.monotonic()
            rows = await read(manager)
            assert time.monotonic() - began < 1
            assert rows.source == "timescaledb"
            assert 'could not open file "base/5/1"' in (rows.degraded or "")
        finally:
            ground.execute(f"DROP VIEW {table}", mended)
        assert (await read(manager)).source == "online"

    run(ground, body)


def test_the_history_answers_for_what_was_never_materialized(ground: Ground) -> None:
    async def body(manager: FeastFeatureStoreManager) -> None:
        with faults.never_materialized(ground):
            for _ in range(5):
                rows = await read(manager, *VIEWS)
                assert sources(rows) == {TECHNICAL: "timescaledb", MARKET: "online", SENTIMENT: "online"}
                assert rows.degraded == f"the online table of view '{TECHNICAL}' is empty; run `featurectl materialize`"
            assert breaker(manager) is None, "there is nothing wrong with the path"
        rows = await read(manager, *VIEWS)
        assert (rows.source, rows.degraded) == ("online", None)

    run(ground, body)


def test_what_is_not_online_while_others_are_is_not_found(ground: Ground) -> None:
    """A value that was not materialized is not online: only where nothing is, the history answers."""
    table = ground.online_table(TECHNICAL)
    ground.execute(f"DELETE FROM {table} WHERE symbol = 'S1USDT'")

    async def body(manager: FeastFeatureStoreManager) -> None:
        rows = await manager.get_online_features_rows(["S1USDT_1h", "NOSUCH_1h"], ["rsi_14"])
        assert [row["rsi_14"] for row in rows] == [None, None]
        assert rows.statuses == [{"rsi_14": "NOT_FOUND"}] * 2
        assert (rows.source, rows.degraded) == ("online", None)

    try:
        run(ground, body)
    finally:
        bring_online(ground, TECHNICAL)


def test_rows_that_are_materialized_between_two_looks_are_found(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first look finds none, the second that the table has some: then those asked for are there too."""
    ground.execute(f"TRUNCATE {ground.online_table(TECHNICAL)}")
    ask = Reader._is_materialized

    async def late(self: Reader, *arguments: Any) -> bool:
        bring_online(ground, TECHNICAL)
        return await ask(self, *arguments)

    monkeypatch.setattr(Reader, "_is_materialized", late)

    async def body(manager: FeastFeatureStoreManager) -> None:
        rows = await read(manager)
        assert (rows.source, rows.degraded) == ("online", None)

    run(ground, body)


# --- a path that hangs -----------------------------------------------------------------------------------------------


def test_a_locked_table_costs_one_call_half_its_time_and_later_calls_none(ground: Ground) -> None:
    async def body(manager: FeastFeatureStoreManager) -> None:
        await read(manager)
        with faults.table_locked(ground):
            began = time.monotonic()
            rows = await read(manager)
            first = time.monotonic() - began
            assert 0.5 <= first < 0.5 + SLACK
            assert rows.source == "timescaledb"
            assert re.fullmatch(
                rf"the online table did not answer for {TECHNICAL} within 0\.\d+ s", rows.degraded or ""
            )
            assert state(manager) is State.OPEN
            began = time.monotonic()
            again = await read(manager)
            assert time.monotonic() - began < first / 2
            assert (again.source, again.degraded) == ("timescaledb", rows.degraded)
            assert (await read(manager, MARKET)).source == "online"
            await until(lambda: waiting(ground) == 0)  # the query that was given up is no more
        await until_closed(manager)
        assert (await read(manager)).degraded is None

    run(ground, body, timeout=1.0)


def test_a_path_that_is_well_again_answers_the_first_call_after_a_while(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where calls come so seldom that each of them finds a probe due."""
    monkeypatch.setattr(featurectl.core.serving.reader, "LONGEST_WAIT", 2.0)  # the machine may be slow

    async def body(manager: FeastFeatureStoreManager) -> None:
        await read(manager)
        with faults.table_locked(ground):
            assert (await read(manager, timeout=1.0)).source == "timescaledb"
        found = breaker(manager)
        assert found is not None
        found.seconds = lambda: time.monotonic() + 60
        assert (await read(manager)).degraded is None

    run(ground, body, timeout=20.0)


def test_callers_in_a_hurry_cost_others_nothing(ground: Ground) -> None:
    """A call that leaves a path no time to answer says nothing about it; three in a row that leave it little do."""

    async def body(manager: FeastFeatureStoreManager) -> None:
        for _ in range(5):
            with contextlib.suppress(ReadTimeout):
                await read(manager, timeout=1e-3)
        assert state(manager) is State.CLOSED
        assert (await read(manager)).degraded is None
        with faults.table_locked(ground):
            for opened in (State.CLOSED, State.CLOSED, State.OPEN):
                with contextlib.suppress(ReadTimeout):
                    await read(manager, timeout=0.2)
                assert state(manager) is opened
        with contextlib.suppress(ReadTimeout):
            await read(manager, timeout=0.01)
        # A probe has time of its own.
        began = time.monotonic()
        while state(manager) is not State.CLOSED:
            with contextlib.suppress(ReadTimeout):
                await read(manager, timeout=1e-3)
            await asyncio.sleep(0.05)
            assert time.monotonic() - began < 8

    run(ground, body)


def test_calls_that_wait_for_a_connection_do_not_wait_for_the_locked_table_too(ground: Ground) -> None:
    """Two of sixteen hang, with two connections; the others hear of it when their turn comes."""

    async def body(manager: FeastFeatureStoreManager) -> None:
        await asyncio.gather(read(manager), read(manager))
        with faults.table_locked(ground):
            began = time.monotonic()
            answers = await asyncio.gather(*(read(manager) for _ in range(16)))
            assert time.monotonic() - began < 2.0 + SLACK
            assert {rows.source for rows in answers} == {"timescaledb"}
            reason = f"the online table did not answer for {TECHNICAL} within "
            assert all((rows.degraded or "").startswith(reason) for rows in answers)
            found = breaker(manager)
            assert found is not None
            assert (found.failures, found.opened) == (2, 1)

    run(ground, body, timeout=2.0, pool_size=2)


def test_calls_that_wait_behind_a_locked_table_for_another_keep_to_their_first_path(ground: Ground) -> None:
    async def body(manager: FeastFeatureStoreManager) -> None:
        await read(manager, *VIEWS)
        with faults.table_locked(ground):
            slow = [asyncio.ensure_future(read(manager)) for _ in range(2)]
            await asyncio.sleep(0.05)
            others = await asyncio.gather(*(read(manager, MARKET) for _ in range(6)))
            assert {(rows.source, rows.degraded) for rows in others} == {("online", None)}
            assert {rows.source for rows in await asyncio.gather(*slow)} == {"timescaledb"}
            assert breaker(manager, MARKET) is None

    run(ground, body, timeout=2.0, pool_size=2)


def test_three_locked_tables_and_two_connections_leave_every_call_an_answer(ground: Ground) -> None:
    async def body(manager: FeastFeatureStoreManager) -> None:
        await read(manager, *VIEWS)
        with contextlib.ExitStack() as locked:
            for view in VIEWS:
                locked.enter_context(faults.table_locked(ground, view))
            answers = await asyncio.gather(*(read(manager, view) for view in VIEWS))
            assert {rows.source for rows in answers} == {"timescaledb"}
        for view in VIEWS:
            await until_closed(manager, view)

    run(ground, body, timeout=2.4, pool_size=2)


def test_a_probe_of_a_table_that_stays_locked_delays_nobody(ground: Ground) -> None:
    async def body(manager: FeastFeatureStoreManager) -> None:
        await read(manager)
        with faults.table_locked(ground):
            await read(manager)
            found = breaker(manager)
            assert found is not None
            end, worst = time.monotonic() + 1.9, 0.0
            while time.monotonic() < end:
                began = time.monotonic()
                assert (await read(manager)).source == "timescaledb"
                worst = max(worst, time.monotonic() - began)
                assert waiting(ground) <= 1
                await asyncio.sleep(0.02)
            assert worst < 0.6
            assert (found.failures, found.state) == (2, State.OPEN), "one probe, after a second"

    run(ground, body, timeout=1.6)


def test_a_statement_timeout_is_a_path_that_hangs(ground: Ground) -> None:
    text = (ground.root / "feature_store.yaml").read_text().replace("statement_timeout: 30", "statement_timeout: 0.2")

    async def body(manager: FeastFeatureStoreManager) -> None:
        with faults.table_locked(ground):
            began = time.monotonic()
            rows = await read(manager, TECHNICAL, MARKET)
            assert time.monotonic() - began < 1
            assert sources(rows) == {TECHNICAL: "timescaledb", MARKET: "timescaledb"}
            assert "canceling statement due to statement timeout" in (rows.degraded or "")
            assert state(manager) is State.OPEN
        await until_closed(manager)

    with faults.yaml_broken(ground, text):
        run(ground, body, timeout=20.0)


def test_a_call_ends_at_its_timeout_where_no_path_answers(ground: Ground) -> None:
    async def body(manager: FeastFeatureStoreManager) -> None:
        await read(manager)
        with faults.table_locked(ground), ground.connect() as connection, connection.transaction():
            connection.execute("LOCK TABLE features.technical_indicators IN ACCESS EXCLUSIVE MODE")
            began = time.monotonic()
            with pytest.raises(ReadTimeout, match="no answer within 1 s; give it more time"):
                await read(manager)
            assert 1.0 <= time.monotonic() - began < 1.0 + SLACK
            with pytest.raises(ReadTimeout, match=r"no answer within 0\.2 s"):
                await read(manager, timeout=0.2)
        assert manager.counters()["failed"] == {"ReadTimeout": 2}
        await until_closed(manager)

    run(ground, body, timeout=1.0)


def test_who_asks_for_one_path_gets_its_error_and_all_its_time(ground: Ground) -> None:
    async def body(manager: FeastFeatureStoreManager) -> None:
        with faults.table_missing(ground):
            with pytest.raises(SchemaMissing, match="does not exist; run `featurectl apply`"):
                await read(manager, backend="online")
            rows = await read(manager, backend="timescaledb")
            assert (rows.source, rows.degraded) == ("timescaledb", None)
        with faults.table_locked(ground):
            began = time.monotonic()
            with pytest.raises(ReadTimeout):
                await read(manager, backend="online", timeout=0.6)
            assert 0.6 <= time.monotonic() - began < 0.6 + SLACK

    run(ground, body)


def test_a_cancelled_call_gives_up_at_once_and_its_queries_with_it(ground: Ground) -> None:
    async def body(manager: FeastFeatureStoreManager) -> None:
        await read(manager, *VIEWS)
        with faults.table_locked(ground, MARKET):
            calls = [asyncio.ensure_future(read(manager, *VIEWS)) for _ in range(3)]
            await until(lambda: waiting(ground) == 3)
            began = time.monotonic()
            for call in calls:
                call.cancel()
            ended = await asyncio.gather(*calls, return_exceptions=True)
            assert time.monotonic() - began < 0.3
            assert all(isinstance(one, asyncio.CancelledError) for one in ended)
            await until(lambda: waiting(ground) == 0)
        assert breaker(manager, MARKET) is None, "it was not the path that failed"
        rows = await asyncio.gather(*(read(manager, *VIEWS) for _ in range(8)))
        assert {one.source for one in rows} == {"online"}
        assert manager.counters()["failed"] == {}

    run(ground, body, timeout=20.0)


def test_definitions_that_change_under_a_probe_leave_nothing_behind(ground: Ground) -> None:
    async def body(manager: FeastFeatureStoreManager) -> None:
        with faults.table_locked(ground):
            await read(manager)
            await asyncio.sleep(1.05)
            await read(manager)
            assert state(manager) is State.HALF_OPEN
            assert manager._reader is not None
            manager._reader.forget()
            assert breaker(manager) is None
            await asyncio.sleep(0.6)  # the probe ends
        assert breaker(manager) is None
        assert (await read(manager)).source == "online"

    run(ground, body, timeout=1.0)


def test_a_probe_that_finds_no_database_is_not_the_last(ground: Ground) -> None:
    async def body(manager: FeastFeatureStoreManager) -> None:
        with faults.table_locked(ground):
            await read(manager)
        await asyncio.sleep(1.05)
        with faults.connections_refused(ground):
            with pytest.raises(DatabaseError):
                await read(manager, timeout=0.5)
            await asyncio.sleep(0.1)
            found = breaker(manager)
            assert found is not None
            assert (found.failures, found.state) == (2, State.OPEN)
            assert "not currently accepting connections" in (found.reason or "")
        await until_closed(manager)

    run(ground, body, timeout=1.0)


# --- the database ----------------------------------------------------------------------------------------------------


def test_sessions_that_were_ended_between_two_calls_are_replaced(ground: Ground) -> None:
    async def body(manager: FeastFeatureStoreManager) -> None:
        for views in ((TECHNICAL,), (*VIEWS,)):
            await asyncio.gather(*(read(manager, *views) for _ in range(8)))
            terminate(ground)
            answers = await asyncio.gather(*(read(manager, *views) for _ in range(16)))
            assert {(rows.source, rows.degraded) for rows in answers} == {("online", None)}
        assert [breaker(manager, view) for view in VIEWS] == [None] * 3

    run(ground, body)


@pytest.mark.parametrize("views", [(TECHNICAL,), (MARKET, TECHNICAL), (TECHNICAL, MARKET, SENTIMENT)])
def test_a_session_that_is_ended_under_its_queries_is_replaced(ground: Ground, views: tuple[str, ...]) -> None:
    async def body(manager: FeastFeatureStoreManager) -> None:
        await read(manager, *views)
        with faults.table_locked(ground):
            call = asyncio.ensure_future(read(manager, *views))
            await until(lambda: waiting(ground) == 1)
            terminate(ground, "wait_event_type = 'Lock'")
            await until(lambda: waiting(ground) == 1)
        rows = await call
        assert (rows.source, rows.degraded) == ("online", None)

    run(ground, body, timeout=20.0)


def test_a_database_that_is_away_for_a_moment_is_waited_for(ground: Ground) -> None:
    """What a restart is to a client; the drill restarts a server."""

    async def body(manager: FeastFeatureStoreManager) -> None:
        for _ in range(2):  # at first with a manager that has not read anything yet
            with faults.connections_refused(ground):
                calls = [asyncio.ensure_future(read(manager, *VIEWS)) for _ in range(4)]
                await asyncio.sleep(0.3)
                assert not any(call.done() for call in calls)
            for rows in await asyncio.gather(*calls):
                assert (rows.source, rows.degraded) == ("online", None)
        assert [breaker(manager, view) for view in VIEWS] == [None] * 3

    run(ground, body, timeout=10.0)


def test_a_database_that_stays_away_ends_a_call_in_time_and_says_why(ground: Ground) -> None:
    async def body(manager: FeastFeatureStoreManager) -> None:
        await read(manager)
        with faults.connections_refused(ground):
            began = time.monotonic()
            with pytest.raises(DatabaseError, match=r"not currently accepting connections.*`featurectl doctor`"):
                await read(manager)
            assert 0.8 <= time.monotonic() - began < 1.0 + SLACK
        rows = await read(manager)
        assert (rows.source, rows.degraded) == ("online", None)

    run(ground, body, timeout=1.0)


def test_a_call_without_end_does_not_wait_for_ever(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(featurectl.core.serving.reader, "RETRY_SECONDS", 0.6)

    async def body(manager: FeastFeatureStoreManager) -> None:
        await read(manager)
        for _ in range(2):
            with faults.connections_refused(ground):
                began = time.monotonic()
                with pytest.raises(DatabaseError, match="not currently accepting connections"):
                    await read(manager)
                assert 0.4 <= time.monotonic() - began < 0.6 + SLACK
        assert (await read(manager)).degraded is None

    run(ground, body, timeout=None)


@pytest.mark.parametrize("timeout", [20.0, None])
def test_a_database_that_lets_the_role_in_no_more_is_not_waited_for(ground: Ground, timeout: float | None) -> None:
    role = f"featurectl_{uuid.uuid4().hex[:8]}"
    parts = urlsplit(ground.url)
    guest = urlunsplit(parts._replace(netloc=f"{role}:secret@{parts.netloc.rpartition('@')[2]}"))

    async def body(manager: FeastFeatureStoreManager) -> None:
        await read(manager)
        with ground.connect() as connection:
            connection.execute(f"ALTER ROLE {role} NOLOGIN".encode())
            connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s", [role])
        began = time.monotonic()
        with pytest.raises(LoginRefused, match="check user and password"):
            await read(manager)
        assert time.monotonic() - began < 3

    with ground.connect() as connection:
        connection.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'secret' IN ROLE pg_read_all_data".encode())
        try:
            run(ground, body, timeout=timeout, database_url=guest)
        finally:
            connection.execute(f"DROP ROLE {role}".encode())


# --- a server that says nothing ---------------------------------------------------------------------------------------


def test_a_server_that_goes_silent_costs_calls_their_time_and_the_event_loop_nothing(ground: Ground) -> None:
    """It takes what is sent and answers nobody, those who ask it to stop a query among them."""
    gaps: list[float] = []

    async def beat() -> None:
        while True:
            began = time.monotonic()
            await asyncio.sleep(0.01)
            gaps.append(time.monotonic() - began)

    with proxy_to(ground.url) as proxy:

        async def body(manager: FeastFeatureStoreManager) -> None:
            await read(manager)
            beating = asyncio.ensure_future(beat())
            proxy.silence()
            for options in ({}, {"backend": "online"}, {"backend": "timescaledb"}):
                began = time.monotonic()
                with pytest.raises(ReadTimeout, match="within 1 s"):
                    await read(manager, **options)
                assert 0.9 <= time.monotonic() - began < 1.0 + SLACK
            cancelled = asyncio.ensure_future(read(manager, timeout=20))
            await asyncio.sleep(0.1)
            cancelled.cancel()
            began = time.monotonic()
            with pytest.raises(asyncio.CancelledError):
                await cancelled
            assert (await manager.health(within=0.5))["status"] == "unavailable"
            with pytest.raises(ReadTimeout):
                await manager.list_feature_services(timeout=0.5)
            assert time.monotonic() - began < 2.5 + SLACK
            proxy.speak()
            await until_closed(manager)
            assert (await read(manager)).degraded is None
            beating.cancel()

        run(ground, body, timeout=1.0, database_url=proxy.url)
    assert max(gaps) < 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        pytest.param(TECHNICAL, "the catalog can't be read within 2 s; give it more time", id="catalog"),
        pytest.param('"online"."', "no answer within 2 s; give it more time", id="read"),
    ],
)
def test_a_command_at_a_server_that_goes_silent_ends_in_its_time(ground: Ground, words: str, said: str) -> None:
    with proxy_to(ground.url) as proxy:
        proxy.silence_at(words)
        process = get_online(ground, proxy, timeout="2")
        _, written = process.communicate(timeout=20)
    assert (process.returncode, written.decode()) == (3, f"error: {said}\n")


def test_a_command_at_a_server_that_goes_silent_ends_by_a_signal(ground: Ground) -> None:
    with proxy_to(ground.url) as proxy:
        proxy.silence_at('"online"."')
        process = get_online(ground, proxy, timeout="60")
        time.sleep(2)
        process.terminate()
        began = time.monotonic()
        _, written = process.communicate(timeout=20)
        assert time.monotonic() - began < 5
    assert (process.returncode, b"Traceback" in written) == (143, False)


def get_online(ground: Ground, proxy: Proxy, *, timeout: str) -> subprocess.Popen[bytes]:
    words = ["-C", str(ground.root), "--timeout", timeout, "get-online", "S1USDT_1h"]
    return subprocess.Popen(
        [Path(sys.executable).parent / "featurectl", *words],
        env={**os.environ, "FEATURECTL_DATABASE_URL": proxy.url},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


# --- definitions, registry and Feast ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "broken",
    [
        faults.registry_unreachable,
        faults.registry_empty,
        faults.registry_unreadable,
        faults.catalog_missing,
        faults.yaml_broken,
    ],
)
def test_what_was_read_of_the_definitions_goes_on_serving(
    ground: Ground, monkeypatch: pytest.MonkeyPatch, broken: faults.Broken
) -> None:
    monkeypatch.setattr(featurectl.opened, "CATALOG_SECONDS", 0.05)

    async def body(manager: FeastFeatureStoreManager) -> None:
        with broken(ground):
            for _ in range(10):
                rows = await read(manager, *VIEWS)
                assert (rows.source, rows.degraded) == ("online", None)
                await asyncio.sleep(0.02)
        assert (await read(manager, *VIEWS)).source == "online"

    run(ground, body)


def test_a_catalog_that_is_locked_delays_no_read(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    """Looking at it again takes the only connection, and gives it back."""
    monkeypatch.setattr(featurectl.opened, "CATALOG_SECONDS", 0.05)
    monkeypatch.setattr(featurectl.opened, "LOOK_SECONDS", 0.3)

    async def body(manager: FeastFeatureStoreManager) -> None:
        with ground.connect() as connection, connection.transaction():
            connection.execute("LOCK TABLE featurectl.catalogs IN ACCESS EXCLUSIVE MODE")
            for _ in range(3):
                await asyncio.sleep(0.06)
                began = time.monotonic()
                assert (await read(manager)).source == "online"
                assert time.monotonic() - began < 0.3 + SLACK

    run(ground, body, timeout=5.0, pool_size=1)


def test_our_online_tables_are_read_where_feast_can_t_be_imported(ground: Ground) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_FEAST, str(ground.root), ground.url],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "online None\ntimescaledb None\n", "")


WITHOUT_FEAST = f"""
import asyncio, sys
from datetime import datetime

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "feast":
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Refuse())
from featurectl import FeastFeatureStoreManager

async def main():
    now = datetime.fromisoformat("{EVENT.isoformat()}")
    async with FeastFeatureStoreManager(sys.argv[1], database_url=sys.argv[2], clock=lambda: now) as manager:
        for backend in ("auto", "timescaledb"):
            rows = await manager.get_online_features_rows(["S1USDT_1h"], backend=backend)
            assert None not in rows[0].values() or "NULL_VALUE" in rows.statuses[0].values()
            print(rows.source, rows.degraded)

asyncio.run(main())
"""


# --- what the server sees --------------------------------------------------------------------------------------------


def waiting(ground: Ground) -> int:
    """Return how many sessions of ours wait for a lock."""
    with ground.connect() as connection:
        found = connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock' "
            "AND application_name = 'featurectl'"
        ).fetchone()
    return int(found[0]) if found else 0


def terminate(ground: Ground, condition: str = "true") -> None:
    ground.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() "
        f"AND pid <> pg_backend_pid() AND backend_type = 'client backend' AND {condition}"
    )


async def until(condition: Callable[[], bool], *, within: float = 5.0) -> None:
    deadline = time.monotonic() + within
    while not await asyncio.to_thread(condition):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)
