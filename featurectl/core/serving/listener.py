"""Hears which online tables are written to, on a connection of its own that no task waits at."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import weakref
from collections import deque
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Any

import psycopg

from featurectl.core.connections import AsyncConnection, AsyncPool, finish
from featurectl.core.queries import query
from featurectl.core.redact import redact
from featurectl.errors import DatabaseError

_log = logging.getLogger("featurectl")

# Seconds until a connection that was lost, or could not be had, is tried again; doubled each time it can't.
PAUSE, LONGEST_PAUSE = 1.0, 60.0
# Seconds within which we hear what we say ourselves.
HEARING = 2.0
WRITERS_PAUSE = 0.1


class Listener:
    """Calls ``heard`` with the name of each online table that is written to, ``deaf`` when it hears of none any more.

    ``open`` makes its connection; ``pool`` has others to the same database. ``schema`` is where the online tables
    stand. No task waits for what comes: a loop may end without anybody closing the listener.
    """

    def __init__(
        self,
        open: Callable[[], Awaitable[AsyncConnection]],
        pool: AsyncPool[Any],
        *,
        schema: str,
        heard: Callable[[str], None],
        deaf: Callable[[], None],
    ) -> None:
        self.is_listening = False
        self._open, self._pool, self._schema = open, pool, schema
        self._heard, self._deaf = heard, deaf
        self._connections: deque[AsyncConnection] = deque()
        self._starting: asyncio.Task[None] | None = None
        self._pause, self._try_at = PAUSE, 0.0
        self._was_lost = False
        self._socket: int | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._owner = os.getpid()
        weakref.finalize(self, finish, self._connections, self._owner)

    def start_soon(self) -> None:
        """Begin to listen beside what the caller does, unless that was tried a moment ago."""
        if self._starting is None and monotonic() >= self._try_at:
            self._starting = asyncio.ensure_future(self._start())

    async def close(self) -> None:
        """Stop listening."""
        if self._starting is not None:
            self._starting.cancel()
            await asyncio.wait([self._starting])
        self._disconnect()

    def abandon(self) -> None:
        """Stop listening where the event loop has ended, or is another process's."""
        self._socket, self._starting = None, None
        self._disconnect()

    async def _start(self) -> None:
        """Begin to listen; where that can't be, say so in the log, and try again later."""
        try:
            connection = await self._open()
            self._connections.append(connection)
            await self._make_sure(connection)
        except Exception as error:  # whatever it is, nothing is heard
            self._lose(error)
        else:
            self._attach(connection)
        finally:
            self._starting = None
            if not self.is_listening:
                self._disconnect()

    async def _make_sure(self, connection: AsyncConnection) -> None:
        """Listen, and wait until no write goes unheard any more.

        Raises:
            DatabaseError: something on the way to the server holds notifications back.
        """
        await connection.execute(query("online_cache", "listen"))
        hello = f"hello {os.urandom(8).hex()}"
        await self._pool.run(lambda session: session.execute(query("online_cache", "say"), {"text": hello}))
        async with contextlib.aclosing(connection.notifies(timeout=HEARING)) as notifications:
            async for one in notifications:
                if one.payload == hello:
                    break
            else:
                raise DatabaseError("notifications do not get through, as is so behind a pooler in transaction mode")
        await connection.execute(query("online_cache", "be_told"))
        # Who was writing before that tells nobody.
        untold = await self._writers(connection)
        while untold:
            await asyncio.sleep(WRITERS_PAUSE)
            untold &= await self._writers(connection)

    async def _writers(self, connection: AsyncConnection) -> set[str]:
        cursor = await connection.execute(query("online_cache", "writers"), {"schema": self._schema})
        return {transaction for (transaction,) in await cursor.fetchall()}

    def _attach(self, connection: AsyncConnection) -> None:
        self._socket, self._loop = connection.fileno(), asyncio.get_running_loop()
        self._loop.add_reader(self._socket, self._take, connection)
        if self._was_lost:
            _log.info("writes to online tables are heard of again, and rows cached")
        self.is_listening, self._was_lost, self._pause = True, False, PAUSE
        # What came along with the last statement's result does not make the socket readable.
        self._take(connection)

    def _take(self, connection: AsyncConnection) -> None:
        """Take in what has arrived."""
        try:
            connection.pgconn.consume_input()
            while notification := connection.pgconn.notifies():
                self._heard(notification.extra.decode())
        except psycopg.Error as error:
            self._lose(error)

    def _lose(self, error: Exception) -> None:
        self._disconnect()
        self._try_at, self._pause = monotonic() + self._pause, min(2 * self._pause, LONGEST_PAUSE)
        if not self._was_lost:
            reason = redact(" ".join(str(error).split()))
            _log.warning("rows are not cached: writes to online tables are not heard of: %s", reason)
        self._was_lost = True

    def _disconnect(self) -> None:
        if self._socket is not None and self._loop is not None:
            # libpq may have closed it already; the loop is still to forget it.
            self._loop.remove_reader(self._socket)
            self._socket = None
        if self.is_listening:
            self.is_listening = False
            self._deaf()
        finish(self._connections, self._owner)
