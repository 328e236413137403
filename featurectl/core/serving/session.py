"""An asynchronous connection that reads with as little as possible between the caller and libpq."""

from __future__ import annotations

import asyncio
import struct
import threading
from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple, TypeVar

import psycopg
from psycopg import errors as pg
from psycopg import generators
from psycopg.abc import PQGen
from psycopg.adapt import Transformer
from psycopg.pq import ExecStatus, Format
from psycopg.pq.abc import PGresult
from psycopg.waiting import Ready, Wait, wait_async

from featurectl.core.pgarray import EPOCH_SHIFT, Array
from featurectl.core.times import microseconds

Rows = list[tuple[Any, ...]]
T = TypeVar("T")

READ, WRITE = int(Wait.R), int(Wait.W)

# More statements than that stay unprepared: a connection keeps what it has prepared for good.
MAX_PREPARED = 200

_instant = struct.Struct(">q").pack


class Query(NamedTuple):
    """A statement with ``$1``, ``$2``, …, each cast to its type in the text, and its parameters."""

    text: bytes
    parameters: tuple[Array | datetime, ...]

    def encoded(self) -> list[bytes]:
        return [
            one.data if isinstance(one, Array) else _instant(microseconds(one) - EPOCH_SHIFT) for one in self.parameters
        ]


class Session(psycopg.AsyncConnection[tuple[Any, ...]]):
    """A connection in autocommit mode for one task at a time; ask the pool for it."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._statement_names: dict[bytes, bytes] = {}
        self._result_loader = Transformer(self)
        self._until: float | None = None

    async def fetch(self, queries: Sequence[Query], *, until: float | None = None) -> list[Rows]:
        """Run queries, all in one round trip once they are prepared, and return the rows of each.

        Values arrive in binary and are the Python objects psycopg makes of their types. ``until`` is a time of the
        event loop's clock; it costs a fifth of what `asyncio.timeout_at` does.

        Raises:
            psycopg.Error: the server refused one of them, or the connection is lost.
            TimeoutError: the answer did not come in time; the connection is given up.
        """
        self._until = until
        try:
            names = [self._statement_names.get(query.text) or await self._prepare(query.text) for query in queries]
            results = await (self._run(names[0], queries[0]) if len(queries) == 1 else self._run_all(names, queries))
        finally:
            self._until = None
        return [self._rows(result) for result in results]

    async def _prepare(self, text: bytes) -> bytes:
        name = f"featurectl_{len(self._statement_names)}".encode() if len(self._statement_names) < MAX_PREPARED else b""
        self.pgconn.send_prepare(name, text)
        (result,) = await self.wait(generators.execute(self.pgconn))
        if result.status != ExecStatus.COMMAND_OK:
            raise pg.error_from_result(result, encoding=self.info.encoding)
        if name:
            self._statement_names[text] = name
        return name

    async def _run(self, name: bytes, query: Query) -> Sequence[PGresult]:
        self._send(name, query)
        results: Sequence[PGresult] = await self.wait(generators.execute(self.pgconn))
        return results

    async def _run_all(self, names: Sequence[bytes], queries: Sequence[Query]) -> Sequence[PGresult]:
        if b"" in names:
            # What is not prepared under a name is so until the next one.
            return [(await self._run(await self._prepare(one.text), one))[0] for one in queries]
        self.pgconn.enter_pipeline_mode()
        for name, query in zip(names, queries, strict=True):
            self._send(name, query)
        self.pgconn.pipeline_sync()
        results: Sequence[PGresult] = await self.wait(_pipelined(self.pgconn))
        self.pgconn.exit_pipeline_mode()
        return results

    def _send(self, name: bytes, query: Query) -> None:
        values = query.encoded()
        self.pgconn.send_query_prepared(name, values, [Format.BINARY] * len(values), Format.BINARY)

    def _rows(self, result: PGresult) -> Rows:
        if result.status != ExecStatus.TUPLES_OK:
            raise pg.error_from_result(result, encoding=self.info.encoding)
        self._result_loader.set_pgresult(result)
        return self._result_loader.load_rows(0, result.ntuples, tuple)

    async def wait(self, gen: PQGen[T], interval: float = 0.1, timeout: float | None = None) -> T:
        """Wait as psycopg does, but give a cancelled query up at once: whoever cancels has no time left."""
        try:
            if timeout is not None:
                return await wait_async(gen, self.pgconn.socket, interval=interval, timeout=timeout)
            return await self._wait(gen)
        except (asyncio.CancelledError, TimeoutError):
            self._abandon()
            raise

    async def _wait(self, gen: PQGen[T]) -> T:
        """Wait without the timer that psycopg sets at each step; the event loop hears of interrupts by itself."""
        loop, socket, until = asyncio.get_running_loop(), self.pgconn.socket, self._until
        try:
            awaited = next(gen)
            while True:
                ready: asyncio.Future[Ready] = loop.create_future()
                timer = loop.call_at(until, _expire, ready) if until is not None else None
                if awaited & READ:
                    loop.add_reader(socket, _wake, ready, Ready.R)
                if awaited & WRITE:
                    loop.add_writer(socket, _wake, ready, Ready.W)
                try:
                    came = await ready
                finally:
                    if timer is not None:
                        timer.cancel()
                    if awaited & READ:
                        loop.remove_reader(socket)
                    if awaited & WRITE:
                        loop.remove_writer(socket)
                awaited = gen.send(came)
        except TimeoutError:
            raise
        except OSError as error:
            raise psycopg.OperationalError("the connection is lost") from error
        except StopIteration as end:
            done: T = end.value
            return done

    def _abandon(self) -> None:
        """Close the connection without a word to the server, and have another thread tell it to stop the query."""
        cancel = self.pgconn.get_cancel()
        self.pgconn.finish()
        threading.Thread(target=_cancel, args=(cancel,), daemon=True).start()


def _wake(ready: asyncio.Future[Ready], came: Ready) -> None:
    if not ready.done():
        ready.set_result(came)


def _expire(ready: asyncio.Future[Ready]) -> None:
    if not ready.done():
        ready.set_exception(TimeoutError())


def _cancel(cancel: Any) -> None:
    try:
        cancel.cancel()
    except psycopg.Error:
        return  # the server is gone, and the query with it


def _pipelined(connection: Any) -> PQGen[list[PGresult]]:
    """Fetch the results of queries, up to the sync behind them; what follows an error is an aborted one."""
    yield from generators.send(connection)
    results: list[PGresult] = []
    while True:
        result = yield from generators.fetch(connection)
        if result is None:
            continue
        if result.status == ExecStatus.PIPELINE_SYNC:
            return results
        results.append(result)
