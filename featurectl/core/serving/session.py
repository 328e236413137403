"""An asynchronous connection that reads with as little as possible between the caller and libpq."""

from __future__ import annotations

import asyncio
import contextlib
import struct
import threading
from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple, TypeVar

import psycopg
from psycopg import errors as pg
from psycopg import generators
from psycopg.abc import PQGen, PQGenConn
from psycopg.adapt import Transformer
from psycopg.pq import ExecStatus, Format
from psycopg.pq.abc import PGcancelConn, PGresult
from psycopg.waiting import wait_async, wait_conn

from featurectl.core.pgarray import EPOCH_SHIFT, Array
from featurectl.core.serving.watch import Watch
from featurectl.core.times import microseconds

Rows = list[tuple[Any, ...]]
T = TypeVar("T")

# More statements than that stay unprepared: a connection keeps what it has prepared for good.
MAX_PREPARED = 200
# Seconds that a server has to hear that a query is given up.
CANCEL_SECONDS = 5.0

_instant = struct.Struct(">q").pack


class Query(NamedTuple):
    """A statement with ``$1``, ``$2``, …, each cast to its type in the text, and its parameters."""

    text: bytes
    parameters: tuple[Array | str | datetime, ...]

    def encoded(self) -> list[bytes]:
        return [
            one.data
            if isinstance(one, Array)
            else one.encode()
            if isinstance(one, str)
            else _instant(microseconds(one) - EPOCH_SHIFT)
            for one in self.parameters
        ]


class Session(psycopg.AsyncConnection[tuple[Any, ...]]):
    """A connection in autocommit mode for one task at a time; ask the pool for it."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._statement_names: dict[bytes, bytes] = {}
        self._result_loader = Transformer(self)
        self._until: float | None = None
        self._watch: Watch | None = None

    async def fetch(self, queries: Sequence[Query], *, until: float | None = None) -> list[Rows]:
        """Run queries, all in one round trip once they are prepared, and return the rows of each.

        Values arrive in binary and are the Python objects psycopg makes of their types. ``until`` is a time of the
        event loop's clock; it costs a tenth of what `asyncio.timeout_at` does.

        Raises:
            psycopg.Error: the server refused one of them, or the connection is lost.
            TimeoutError: the answer did not come in time; the connection is given up.
        """
        self._until = until
        try:
            names = [self._statement_names.get(query.text) or await self._prepare(query.text) for query in queries]
            if len(queries) > 1:
                results = await self._run_all(names, queries)
            else:
                self._send(names[0], queries[0])
                results = await self.wait(generators.execute(self.pgconn))
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

    async def _run_all(self, names: Sequence[bytes], queries: Sequence[Query]) -> Sequence[PGresult]:
        if b"" in names:
            # What is not prepared under a name is so until the next one.
            results = []
            for query in queries:
                self._send(await self._prepare(query.text), query)
                results += await self.wait(generators.execute(self.pgconn))
            return results
        self.pgconn.enter_pipeline_mode()
        for name, query in zip(names, queries, strict=True):
            self._send(name, query)
        self.pgconn.pipeline_sync()
        results = await self.wait(_pipelined(self.pgconn))
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
            if self._watch is None or self._watch.is_over:
                self._watch = Watch(self.pgconn.socket)
            return await self._watch.drive(gen, self._until)
        except (asyncio.CancelledError, TimeoutError):
            self._abandon()
            raise
        except OSError as error:
            raise psycopg.OperationalError(f"the connection is lost: {error.strerror or error}") from error

    async def close(self) -> None:
        """Close the connection."""
        self._stop_watching()
        await super().close()

    def _abandon(self) -> None:
        """Close the connection without a word to the server, and have another thread tell it to stop the query."""
        self._stop_watching()
        # Where there is no memory or thread for it, the query ends by its own time-out.
        with contextlib.suppress(psycopg.Error, RuntimeError, MemoryError):
            threading.Thread(target=_cancel, args=(self.pgconn.cancel_conn(),), daemon=True).start()
        self.pgconn.finish()

    def _stop_watching(self) -> None:
        if self._watch is not None:
            self._watch.stop()


def _cancel(connection: PGcancelConn) -> None:
    """Tell the server to stop a query, step by step: libpq's own call keeps every thread of Python from running."""

    def ask() -> PQGenConn[None]:
        connection.start()
        yield from generators.cancel(connection)

    # Who does not answer runs the query to its time-out, or is gone.
    with contextlib.suppress(psycopg.Error):
        wait_conn(ask(), interval=CANCEL_SECONDS, timeout=CANCEL_SECONDS)


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
