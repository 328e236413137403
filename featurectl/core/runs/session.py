"""A session that writes: a connection with limits, replaced when it is lost, and work tried again meanwhile."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import TypeVar

from psycopg import errors as pg
from psycopg.pq import TransactionStatus

from featurectl.core.db import Connection, Database, translated_errors
from featurectl.core.queries import query
from featurectl.core.runs.retries import Retries, nothing
from featurectl.errors import DatabaseUnreachable

T = TypeVar("T")

# Seconds for which a database is waited for that has not been reached yet: those of a restart.
FIRST_CONTACT = 5.0


class Session:
    """A connection for work that bears being done again; ``on_reconnect`` is called with each that replaces one.

    A database that was not reached before is waited for ``first_contact`` seconds, one that goes away ``retry_for``.
    One that is not to reconnect ends with its first connection, and the transaction in it.
    """

    def __init__(
        self,
        database: Database,
        retry_for: float,
        say: Callable[[str], None],
        on_reconnect: Callable[[Connection], None] = lambda connection: None,
        *,
        first_contact: float = FIRST_CONTACT,
        reconnects: bool = True,
    ) -> None:
        self._reconnects = reconnects
        self.has_reconnected = False
        # When it got the connection that it has, by the monotonic clock.
        self.connected_at = 0.0
        self._database = database
        self._retries = Retries(retry_for, say)
        # Who has not begun loses little by being told soon, and cron begins again.
        # To wait for an answer is no work that went well for long.
        self._first_contact = Retries(min(retry_for, first_contact), say, long_tries=0)
        self._on_reconnect = on_reconnect
        self._stack = contextlib.ExitStack()
        self._connection: Connection | None = None

    @property
    def current(self) -> Connection | None:
        """The connection that there is, if it is open."""
        return None if self._connection is None or self._connection.closed else self._connection

    def attempt(self, work: Callable[[Connection], T], progress: Callable[[], object] = nothing) -> T:
        """Do work on the connection; what fails because the database is away is tried again on a new one.

        ``progress`` is what :meth:`featurectl.core.runs.retries.Retries.call` says.
        """
        if self._connection is None and not self.has_reconnected:
            self._first_contact.call(lambda: self._try(lambda connection: None))
        return self._retries.call(lambda: self._try(work), progress)

    def _try(self, work: Callable[[Connection], T]) -> T:
        with translated_errors():
            return work(self.ready())

    def ready(self) -> Connection:
        """Return an open connection."""
        if self.current is not None:
            return self.current
        if self._connection is not None:
            if not self._reconnects:
                raise DatabaseUnreachable("the database ended this session, and nothing was kept; run it again")
            self.has_reconnected = True
            self._connection = None
            self._stack.close()
        connection = self._stack.enter_context(self._database.connect(unless_stopped=self.has_reconnected))
        self.connected_at = time.monotonic()
        try:
            set_limits(connection, self._database)
            if self.has_reconnected:
                self._on_reconnect(connection)
        except BaseException:
            self._stack.close()  # and with it the locks that it has already
            raise
        self._connection = connection
        return connection

    def idle(self) -> Connection:
        """Return an open connection in no transaction; what an interrupt has left in one is rolled back."""
        connection = self.ready()
        if connection.info.transaction_status is not TransactionStatus.IDLE:
            connection.close()
        return self.ready()

    def close(self) -> None:
        """Close the connection; what it held is free."""
        self._stack.close()


def set_limits(connection: Connection, database: Database) -> None:
    """Bound what a session that writes waits for, and end it when its client has died."""
    config = database.config
    limits = {"lock": config.lock_timeout, "statement": config.write_timeout, "idle": config.write_timeout}
    parameters = {name: f"{round(seconds * 1000)}ms" for name, seconds in limits.items()}
    connection.execute(query("runs", "session_limits"), parameters)
    with contextlib.suppress(pg.InvalidParameterValue):  # where the server's system can't tell
        connection.execute(query("runs", "notice_lost_client"))
