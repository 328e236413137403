"""The connection that online reads use: many statements in a round trip, refusals, large parameters, lost servers."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from psycopg import errors

from featurectl.core import pgarray
from featurectl.core.connections import AsyncPool
from featurectl.core.serving import session
from featurectl.core.serving.session import Query, Session
from tests.fix_repository import Repo

INSTANT = datetime(2024, 5, 1, 12, 0, 0, 123456, tzinfo=UTC)


def on_session(repo: Repo, work: Callable[[Session], Awaitable[Any]]) -> Any:
    async def run() -> Any:
        async with await repo.database.open_async(Session) as connection:
            return await asyncio.wait_for(work(connection), 30)

    return asyncio.run(run())


def texts(*values: str) -> Query:
    return Query(b"SELECT unnest($1::text[])", (pgarray.array("text", values),))


def statement(number: int) -> Query:
    return Query(f"SELECT {number}, $1::timestamptz".encode(), (INSTANT,))


def test_queries_are_answered_in_their_order_with_python_s_types(repo: Repo) -> None:
    async def work(connection: Session) -> Any:
        return [await connection.fetch([statement(1), texts("a", "b"), texts(), statement(2)]) for _ in range(2)]

    rows = [[(1, INSTANT)], [("a",), ("b",)], [], [(2, INSTANT)]]
    assert on_session(repo, work) == [rows, rows]


def test_more_statements_than_a_connection_keeps(repo: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that came first stay prepared; the others are prepared anew each time, alone or with others."""
    monkeypatch.setattr(session, "MAX_PREPARED", 2)

    async def work(connection: Session) -> Any:
        answers = [await connection.fetch([statement(number) for number in range(5)]) for _ in range(2)]
        answers.append(await connection.fetch([statement(4)]))
        cursor = await connection.execute("SELECT count(*) FROM pg_prepared_statements WHERE name <> ''")
        return answers, await cursor.fetchone()

    answers, kept = on_session(repo, work)
    wanted = [[(number, INSTANT)] for number in range(5)]
    assert answers == [wanted, wanted, [wanted[4]]]
    assert kept == (2,)


@pytest.mark.parametrize("bad", [b"SELECT nothing FROM nowhere", b"SELECT 1 / (cardinality($1::text[]) - 1)"])
@pytest.mark.parametrize("beside", [0, 2])
def test_a_refused_query_leaves_the_connection_as_it_was(repo: Repo, bad: bytes, beside: int) -> None:
    """Whether it is refused when it is prepared or when it runs, alone or before others."""
    parameters = (pgarray.array("text", ["one"]),) if b"$1" in bad else ()

    async def work(connection: Session) -> Any:
        with pytest.raises((errors.UndefinedTable, errors.DivisionByZero)):
            await connection.fetch([Query(bad, parameters), *(statement(number) for number in range(beside))])
        return await connection.fetch([statement(1), statement(2)])

    assert on_session(repo, work) == [[(1, INSTANT)], [(2, INSTANT)]]


def test_parameters_larger_than_the_socket_holds(repo: Repo) -> None:
    values = [f"{number:0100d}" for number in range(300_000)]

    async def work(connection: Session) -> Any:
        query = Query(b"SELECT count(*), max(one) FROM unnest($1::text[]) AS one", (pgarray.array("text", values),))
        return await connection.fetch([query, texts("x")])

    assert on_session(repo, work) == [[(len(values), values[-1])], [("x",)]]


def test_a_server_process_that_ends_under_a_query_is_an_operational_error(repo: Repo) -> None:
    async def work(connection: Session) -> None:
        slow = asyncio.ensure_future(connection.fetch([Query(b"SELECT pg_sleep(20)", ())]))
        pid = connection.info.backend_pid
        while not repo.rows("SELECT 1 FROM pg_stat_activity WHERE pid = %s AND state = 'active'", pid):
            await asyncio.sleep(0.01)
        repo.rows("SELECT pg_terminate_backend(%s)", pid)
        with pytest.raises(psycopg.OperationalError):
            await slow
        assert connection.closed
        with pytest.raises(psycopg.OperationalError):
            await connection.fetch([statement(1)])

    on_session(repo, work)


def test_who_gives_a_query_up_goes_on_at_once_and_the_server_stops_it(repo: Repo) -> None:
    async def work(connection: Session) -> int:
        pid = connection.info.backend_pid
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await connection.fetch([Query(b"SELECT pg_sleep(20)", ())])
        assert connection.closed
        return pid

    pid = on_session(repo, work)
    for _ in range(500):
        if not repo.rows("SELECT 1 FROM pg_stat_activity WHERE pid = %s AND query LIKE '%%pg_sleep%%'", pid):
            return
        asyncio.run(asyncio.sleep(0.01))
    pytest.fail("the server still sleeps")


@pytest.mark.parametrize("first", [0.1, 20], ids=["early", "late"])
def test_times_that_come_earlier_later_and_not_at_all(repo: Repo, first: float) -> None:
    """A timer is kept from one query to the next, which has a time of its own."""

    async def work(connection: Session) -> float:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: wrong.append(context))

        async def sleep(seconds: float, within: float | None) -> None:
            query = Query(f"SELECT pg_sleep({seconds})".encode(), ())
            await connection.fetch([query], until=None if within is None else loop.time() + within)

        await sleep(0, 0.3)
        await sleep(0.5, 20)  # the first timer goes off in the middle of it
        await sleep(0, 0.1)
        await sleep(0.3, None)
        await sleep(0, first)
        begun = loop.time()
        with pytest.raises(TimeoutError):
            await sleep(20, 0.4)
        assert connection.closed
        return loop.time() - begun

    wrong: list[Any] = []
    waited = on_session(repo, work)
    assert not wrong
    assert 0.4 <= waited < 5


def test_what_comes_unasked_is_not_listened_to_for_ever(repo: Repo) -> None:
    """A notice makes the socket readable until somebody reads it; the event loop must not spin until then."""

    async def work(connection: Session) -> None:
        await connection.execute("LISTEN news")
        for _ in range(3):
            repo.rows("SELECT pg_notify('news', 'one')")
            await asyncio.sleep(0.1)
            used = time.process_time()
            await asyncio.sleep(0.3)
            assert time.process_time() - used < 0.15
            assert await connection.fetch([statement(1)]) == [[(1, INSTANT)]]

    on_session(repo, work)


def test_a_connection_leaves_no_file_descriptor_however_it_ends(repo: Repo) -> None:
    """Closed, given up, ended by the server, or dropped with its pool while the event loop goes on."""

    def opened() -> int:
        return len(os.listdir("/dev/fd"))

    async def end(way: str) -> None:
        pool = AsyncPool(lambda: repo.database.open_async(Session), 1)
        pids: list[int] = []

        async def ask(connection: Session) -> Any:
            pids.append(connection.info.backend_pid)
            return await connection.fetch([statement(1)])

        assert await pool.run(ask) == [[(1, INSTANT)]]
        if way == "closed":
            await pool.close()
        elif way == "given up":
            with pytest.raises(TimeoutError):
                await pool.run(
                    lambda one: one.fetch(
                        [Query(b"SELECT pg_sleep(20)", ())], until=asyncio.get_running_loop().time() + 0.05
                    )
                )
        elif way == "ended":
            while repo.rows("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = %s", pids[0]):
                await asyncio.sleep(0.01)
            assert await pool.run(ask) == [[(1, INSTANT)]]
            assert pids[0] != pids[-1]
            await pool.close()
        del pool

    async def run() -> None:
        for way in ("closed", "given up", "ended", "dropped"):
            await end(way)
            before = opened()
            for _ in range(5):
                await end(way)
                gc.collect()
                # Its descriptor's number goes to the next one, in the same event loop.
                await end("closed")
            for _ in range(200):
                if opened() <= before:
                    break
                await asyncio.sleep(0.02)
            assert opened() <= before, way

    repo.rows("SELECT 1")
    asyncio.run(run())


def test_a_connection_stays_registered_from_one_query_to_the_next(repo: Repo) -> None:
    async def work(connection: Session) -> None:
        watches = set()
        for _ in range(50):
            await connection.fetch([statement(1)])
            await asyncio.sleep(0)
            watches.add(connection._watch)
        assert len(watches) == 1

    on_session(repo, work)


def test_work_on_a_connection_that_is_lost_is_done_again_where_it_was_an_old_one(repo: Repo) -> None:
    async def run() -> list[int]:
        pool = AsyncPool(lambda: repo.database.open_async(Session), 1)
        calls = 0

        async def lose(connection: Session) -> None:
            nonlocal calls
            calls += 1
            connection.pgconn.finish()
            await connection.fetch([statement(1)])

        counts = []
        for _ in range(2):
            calls = 0
            with pytest.raises(psycopg.OperationalError):
                await pool.run(lose)
            counts.append(calls)
            assert await pool.run(lambda one: one.fetch([statement(1)])) == [[(1, INSTANT)]]
        assert pool.report() == {"size": 1, "open": 1, "in_use": 0, "idle": 1}
        await pool.close()
        return counts

    assert asyncio.run(run()) == [1, 2]


def test_too_many_open_files_are_named(repo: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(connection: Session) -> None:
        await connection.fetch([statement(1)])
        connection._stop_watching()

        def full(_: int) -> int:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

        with monkeypatch.context() as patched:
            patched.setattr(os, "dup", full)
            with pytest.raises(psycopg.OperationalError, match="the connection is lost: Too many open files"):
                await connection.fetch([statement(1)])
        await connection.close()
        gc.collect()

    on_session(repo, work)
