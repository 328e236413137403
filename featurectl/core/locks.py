"""Named advisory locks: one run of a kind at a time; a lock ends with the session that holds it, whatever ends that."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import psycopg

from featurectl.core.db import Connection
from featurectl.core.queries import query
from featurectl.core.times import iso
from featurectl.errors import LockHeld


@contextlib.contextmanager
def lock(connection: Connection, name: str, *, wait: bool = False) -> Iterator[None]:
    """Hold a named lock, such as ``materialize market.technical_indicators_view``.

    Raises:
        LockHeld: another session has it, and we do not ``wait`` for it; the message says which.
    """
    parameters = {"name": f"featurectl:{name}"}
    if wait:
        connection.execute(query("locks", "wait_for_lock"), parameters)
    else:
        _try(connection, name, parameters)
    try:
        yield
    finally:
        # A broken connection has given its locks back already.
        with contextlib.suppress(psycopg.OperationalError):
            if not connection.closed:
                connection.execute(query("locks", "unlock"), parameters)


def _try(connection: Connection, name: str, parameters: dict[str, str]) -> None:
    row = connection.execute(query("locks", "try_lock"), parameters).fetchone()
    if not row or not row[0]:
        raise LockHeld(f"{name}: locked by {_holder(connection, parameters)}; run again when it has ended")


def _holder(connection: Connection, parameters: dict[str, str]) -> str:
    row = connection.execute(query("locks", "holder"), parameters).fetchone()
    if row is None:
        return "another run"
    pid, application, client, started = row
    return f"another run ({application}, server process {pid}, client {client}, since {iso(started)})"
