"""Connections for reads and writes of a few rows: opened when needed, kept for the next caller, replaced when lost.

Two pools alike, one for any threads and one for the coroutines of one event loop. Neither has threads or tasks of its
own, so that it costs nothing when it rests. A process that is forked makes its own.
"""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar

import psycopg
from psycopg import errors as pg
from psycopg.pq import TransactionStatus

from featurectl.core.db import Connection

AsyncConnection = psycopg.AsyncConnection[tuple[Any, ...]]
T = TypeVar("T")
C = TypeVar("C", bound=AsyncConnection)


def _is_lost(connection: Connection | AsyncConnection, error: BaseException) -> bool:
    """Tell whether the same statement may well work on another connection.

    That is so when this one is gone, or when it has prepared a statement over a table that has since changed; the
    server says that in its own language.
    """
    return connection.closed or isinstance(error, pg.FeatureNotSupported)


def _is_reusable(connection: Connection | AsyncConnection) -> bool:
    return not connection.closed and connection.pgconn.transaction_status == TransactionStatus.IDLE


def finish(connections: deque[Any], owner: int) -> None:
    """Close connections without waiting; a forked child leaves those of its parent alone."""
    while connections and owner == os.getpid():
        connection = connections.pop()
        connection.pgconn.finish()


class Pool:
    """Connections for threads, made by ``open``: each call has one to itself; at most ``size`` are open."""

    def __init__(self, open: Callable[[], Connection], size: int) -> None:
        self._open = open
        self._slots = threading.BoundedSemaphore(size)
        self._idle: deque[Connection] = deque()
        self._owner = os.getpid()
        weakref.finalize(self, finish, self._idle, self._owner)

    @property
    def is_mine(self) -> bool:
        """Whether this process, and not the one it was forked from, opened the pool."""
        return self._owner == os.getpid()

    def run(self, work: Callable[[Connection], T]) -> T:
        """Do work on a connection; where that turns out to be lost, once more on a new one."""
        with self._slots:
            try:
                connection, kept = self._idle.pop(), True
            except IndexError:
                connection, kept = self._open(), False
            try:
                return work(connection)
            except psycopg.Error as error:
                if not (kept and _is_lost(connection, error)):
                    raise
                connection.close()
                connection = self._open()
                return work(connection)
            finally:
                self._put_back(connection)

    def close(self) -> None:
        """Close what is idle; a later call opens anew."""
        while self._idle:
            self._idle.pop().close()

    def _put_back(self, connection: Connection) -> None:
        if _is_reusable(connection):
            self._idle.append(connection)
        else:
            connection.close()


class AsyncPool(Generic[C]):
    """Connections for the coroutines of one event loop, made by ``open``; at most ``size`` are open.

    ``has_connected`` tells whether there ever was one, ``in_use`` how many are.
    """

    def __init__(self, open: Callable[[], Awaitable[C]], size: int) -> None:
        self._open = open
        self.size = size
        self.has_connected = False
        self.in_use = 0
        self._slots = asyncio.Semaphore(size)
        self._idle: deque[C] = deque()
        self._owner = os.getpid()
        weakref.finalize(self, finish, self._idle, self._owner)

    async def run(self, work: Callable[[C], Awaitable[T]], *, until: float | None = None) -> T:
        """Do work on a connection; where that turns out to be lost, once more on a new one.

        ``until``, a time of the event loop's clock, is how long a connection is waited for; work looks to its own time.

        Raises:
            TimeoutError: there was none in time.
        """
        kept = bool(self._idle) and not self._slots.locked()
        if kept:
            await self._slots.acquire()  # without waiting, and so without a timer
            connection = self._idle.pop()
        else:
            connection, kept = await self._take(until)
        self.in_use += 1
        try:
            return await work(connection)
        except psycopg.Error as error:
            if not (kept and _is_lost(connection, error)):
                raise
            await connection.close()
            async with asyncio.timeout_at(until):
                connection = await self._connect()
            return await work(connection)
        finally:
            if _is_reusable(connection):
                self._idle.append(connection)
            else:
                await connection.close()
            self.in_use -= 1
            self._slots.release()

    async def _take(self, until: float | None) -> tuple[C, bool]:
        """Wait for a connection; tell whether it is one that was kept."""
        async with asyncio.timeout_at(until):
            await self._slots.acquire()
            try:
                return (self._idle.pop(), True) if self._idle else (await self._connect(), False)
            except BaseException:
                self._slots.release()
                raise

    @property
    def is_mine(self) -> bool:
        """Whether this process, and not the one it was forked from, opened the pool."""
        return self._owner == os.getpid()

    def report(self) -> dict[str, int]:
        """Return how many connections there may be, are used, and rest, for `health`."""
        return {
            "size": self.size,
            "open": self.in_use + len(self._idle),
            "in_use": self.in_use,
            "idle": len(self._idle),
        }

    async def close(self) -> None:
        """Close what is idle; a later call opens anew."""
        while self._idle and self.is_mine:
            await self._idle.pop().close()

    def finish(self) -> None:
        """Close what is idle from outside the event loop, which is gone or busy elsewhere."""
        finish(self._idle, self._owner)

    async def _connect(self) -> C:
        connection = await self._open()
        self.has_connected = True
        return connection
