"""The online store's connections: opened when needed, kept for the next caller, replaced when lost.

Two pools alike, one for threads and one for coroutines. Neither has threads or tasks of its own, so that a store works
in any thread and in any event loop, and costs nothing when it rests.
"""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import psycopg
from psycopg import errors as pg
from psycopg.pq import TransactionStatus

from featurectl.core import pgarray
from featurectl.core.db import Connection, open_connection, session_url
from featurectl.plugin.store_config import TimescaleStoreConfig

AsyncConnection = psycopg.AsyncConnection[tuple[Any, ...]]
T = TypeVar("T")


def _is_lost(connection: Connection | AsyncConnection, error: BaseException) -> bool:
    """Tell whether the same statement may well work on another connection.

    That is so when this one is gone, or when it has prepared a statement over a table that has since changed.
    """
    return connection.closed or (isinstance(error, pg.FeatureNotSupported) and "cached plan" in str(error))


def _is_reusable(connection: Connection | AsyncConnection) -> bool:
    return not connection.closed and connection.info.transaction_status is TransactionStatus.IDLE


def _finish(connections: deque[Any], owner: int) -> None:
    """Close connections without waiting; a forked child leaves those of its parent alone."""
    while connections and owner == os.getpid():
        connection = connections.pop()
        connection.pgconn.finish()


class Pool:
    """Connections for threads: each call has one to itself; at most ``max_conn`` are open."""

    def __init__(self, config: TimescaleStoreConfig) -> None:
        self._conninfo = config.conninfo()
        self._connect_timeout = config.connect_timeout
        self._slots = threading.BoundedSemaphore(config.max_conn)
        self._idle: deque[Connection] = deque()
        self._owner = os.getpid()
        weakref.finalize(self, _finish, self._idle, self._owner)

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

    def _open(self) -> Connection:
        connection = open_connection(self._conninfo, connect_timeout=self._connect_timeout)
        pgarray.register(connection)
        return connection

    def _put_back(self, connection: Connection) -> None:
        if _is_reusable(connection):
            self._idle.append(connection)
        else:
            connection.close()


class AsyncPool:
    """Connections for the coroutines of one event loop; at most ``max_conn`` are open."""

    def __init__(self, config: TimescaleStoreConfig) -> None:
        self._conninfo = session_url(config.conninfo(), connect_timeout=config.connect_timeout)
        self._slots = asyncio.Semaphore(config.max_conn)
        self._idle: deque[AsyncConnection] = deque()
        self._owner = os.getpid()
        weakref.finalize(self, _finish, self._idle, self._owner)

    async def run(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        """Do work on a connection; where that turns out to be lost, once more on a new one."""
        async with self._slots:
            kept = bool(self._idle)
            connection = self._idle.pop() if kept else await self._open()
            try:
                return await work(connection)
            except psycopg.Error as error:
                if not (kept and _is_lost(connection, error)):
                    raise
                await connection.close()
                connection = await self._open()
                return await work(connection)
            finally:
                await self._put_back(connection)

    async def close(self) -> None:
        """Close what is idle; a later call opens anew."""
        while self._idle:
            await self._idle.pop().close()

    def finish(self) -> None:
        """Close what is idle from outside the event loop, which is gone or busy elsewhere."""
        _finish(self._idle, self._owner)

    async def _open(self) -> AsyncConnection:
        connection = await psycopg.AsyncConnection.connect(self._conninfo, autocommit=True)
        pgarray.register(connection)
        return connection

    async def _put_back(self, connection: AsyncConnection) -> None:
        if _is_reusable(connection):
            self._idle.append(connection)
        else:
            await connection.close()
