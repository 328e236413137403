"""An asynchronous connection that reads with as little as possible between the caller and libpq."""

from __future__ import annotations

import asyncio
import struct
import threading
from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

import psycopg
from psycopg import errors as pg
from psycopg import generators
from psycopg.abc import PQGen
from psycopg.adapt import Transformer
from psycopg.pq import ExecStatus, Format
from psycopg.pq.abc import PGresult
from psycopg.waiting import wait_async

from featurectl.core.pgarray import EPOCH_SHIFT, Array
from featurectl.core.times import microseconds

Rows = list[tuple[Any, ...]]

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

    async def fetch(self, queries: Sequence[Query]) -> list[Rows]:
        """Run queries, all in one round trip once they are prepared, and return the rows of each.

        Values arrive in binary and are the Python objects psycopg makes of their types.

        Raises:
            psycopg.Error: the server refused one of them, or the connection is lost.
        """
        names = [self._statement_names.get(query.text) or await self._prepare(query.text) for query in queries]
        results = await (self._run(names[0], queries[0]) if len(queries) == 1 else self._run_all(names, queries))
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

    async def wait(self, gen: PQGen[Any], interval: float = 0.1, timeout: float | None = None) -> Any:
        """Wait as psycopg does, but give a cancelled query up at once: whoever cancels has no time left."""
        try:
            return await wait_async(gen, self.pgconn.socket, interval=interval, timeout=timeout)
        except asyncio.CancelledError:
            self._abandon()
            raise

    def _abandon(self) -> None:
        """Close the connection without a word to the server, and have another thread tell it to stop the query."""
        cancel = self.pgconn.get_cancel()
        self.pgconn.finish()
        threading.Thread(target=_cancel, args=(cancel,), daemon=True).start()


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
