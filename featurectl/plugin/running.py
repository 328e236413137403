"""The work of a materialization, as far as Ctrl-C must reach it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Collection, Iterator
from concurrent.futures import Future, wait
from typing import Any

import psycopg

from featurectl.core.db import Connection, open_connection
from featurectl.core.queries import query
from featurectl.errors import Interrupted
from featurectl.plugin.store_config import TimescaleStoreConfig


class Running:
    """Connections at work in several threads, and a way to stop them all."""

    def __init__(self) -> None:
        self._connections: set[Connection] = set()
        self._stopped = threading.Event()
        # Clients of foreign stores need not bear several threads.
        self.foreign_writes = threading.Lock()

    @contextlib.contextmanager
    def connection(self, store: TimescaleStoreConfig) -> Iterator[Connection]:
        """Connect to a store's database; its statements end when they are cancelled, or soon after we are killed."""
        with open_connection(store.conninfo(), connect_timeout=store.connect_timeout) as connection:
            with contextlib.suppress(psycopg.Error):
                connection.execute(query("runs", "notice_lost_client"))
            self._connections.add(connection)
            try:
                self.check()
                yield connection
            finally:
                self._connections.discard(connection)

    def check(self) -> None:
        """Leave here when all work is to stop.

        Raises:
            Interrupted: it is.
        """
        if self._stopped.is_set():
            raise Interrupted("interrupted; what was not finished was rolled back")

    def cancel(self, futures: Collection[Future[Any]]) -> None:
        """Cancel statements until all work has ended: a thread may be between two of them."""
        self._stopped.set()
        pending = set(futures)
        while pending:
            for connection in list(self._connections):
                with contextlib.suppress(psycopg.Error):
                    connection.cancel_safe(timeout=1)
            pending = wait(pending, timeout=0.1).not_done
