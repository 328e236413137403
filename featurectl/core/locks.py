"""Named advisory locks: one run of a kind at a time; a lock ends with the session that holds it, whatever ends that."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

import psycopg
from psycopg import errors as pg

from featurectl.core.db import Connection
from featurectl.core.queries import query
from featurectl.core.times import iso
from featurectl.errors import LockHeld, Skipped

# Milliseconds, almost 25 days: PostgreSQL counts them in 32 bits.
_LONGEST_WAIT = 2**31 - 1
# How long a run that is to wait for a lock waits, in seconds, where nothing else is said.
PATIENCE = 600.0


class IfLocked(StrEnum):
    """What to do where another session holds a lock."""

    SKIP = "skip"
    WAIT = "wait"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Locking:
    """The policy for locks that others hold, and how many seconds to wait for one; 0 is no limit.

    Whatever the policy, one is waited for ``grace`` seconds: a session that was lost may keep its own for a moment.
    """

    policy: IfLocked = IfLocked.FAIL
    patience: float = 0
    grace: float = 0


REFUSE = Locking()
WAIT = Locking(IfLocked.WAIT)


@dataclass(frozen=True, slots=True)
class Held:
    """A lock that somebody holds: a run of the ledger, or a session that is none."""

    name: str
    run_id: str | None
    command: str | None
    host: str | None
    pid: int | None
    since: str | None

    def __str__(self) -> str:
        if self.run_id is None:
            client = f"client {self.host or 'local'}"
            return f"another session (server process {self.pid}, {client}, since {self.since or 'unknown'})"
        return f"run {self.run_id} ({self.command} on {self.host}, process {self.pid}, since {self.since})"


def name_of_view(project: str, view: str) -> str:
    """Return the name of the lock under which a view is materialized."""
    return f"materialize {project}.{view}"


def name_of_computation(table: str) -> str:
    """Return the name of the lock under which a feature table is computed."""
    return f"compute {table}"


def name_of_repository(project: str) -> str:
    """Return the name of the lock under which a repository's pipeline runs."""
    return f"run {project}"


@contextlib.contextmanager
def lock(connection: Connection, name: str, locking: Locking = REFUSE) -> Iterator[bool]:
    """Hold a named lock, such as ``materialize market.technical_indicators_view``; yields whether it waited for it.

    Raises:
        LockHeld: another session has it, and we do not wait for it, or did so for too long; the message says which.
        Skipped: another session has it, and the policy is to leave it that.
    """
    has_waited = take(connection, name, locking)
    try:
        yield has_waited
    finally:
        release(connection, name)


def release(connection: Connection, name: str) -> None:
    """Give a lock back; a broken connection has given its locks back already."""
    with contextlib.suppress(psycopg.Error):
        if not connection.closed:
            connection.execute(query("locks", "unlock"), _key(name))


def take(connection: Connection, name: str, locking: Locking = REFUSE) -> bool:
    """Take a named lock for as long as the session lives; return whether it had to be waited for.

    Raises:
        as :func:`lock`.
    """
    row = connection.execute(query("locks", "try_lock"), _key(name)).fetchone()
    if row and row[0]:
        return False
    waits = locking.policy is IfLocked.WAIT
    seconds = locking.patience if waits else locking.grace
    if (waits or seconds) and _wait(connection, name, seconds):
        return True
    held = f"{name}: locked by {holder(connection, name)}"
    if locking.policy is IfLocked.SKIP:
        raise Skipped(held)
    if waits:
        held += f", for longer than {seconds:g} s"
    raise LockHeld(f"{held}; run again when it has ended")


def _wait(connection: Connection, name: str, seconds: float) -> bool:
    """Wait in the server's queue, in which who came first is first; tell whether we have the lock.

    No other limit of the session's ends it.
    """
    before = connection.execute(query("locks", "show_limits")).fetchone()
    milliseconds = max(1, min(round(seconds * 1000), _LONGEST_WAIT)) if seconds else 0  # 0 is no limit
    limits = {"lock": f"{milliseconds}ms", "statement": "0"}
    connection.execute(query("locks", "set_limits"), limits)
    try:
        connection.execute(query("locks", "wait_for_lock"), _key(name))
    except pg.LockNotAvailable:
        return False
    finally:
        with contextlib.suppress(psycopg.Error):
            lock_limit, statement_limit = before or ("0", "0")
            connection.execute(query("locks", "set_limits"), {"lock": lock_limit, "statement": statement_limit})
    return True


def holder(connection: Connection, name: str) -> Held | str:
    """Return who holds a lock, as far as the database tells."""
    found = held_locks(connection, [name])
    return found[0] if found else "another run"


def held_locks(connection: Connection, names: list[str]) -> list[Held]:
    """Return those of the named locks that somebody holds, with their holders.

    Who is a run of the ledger is found by the lock that each run has on its own id.
    """
    statement = "holders_by_ledger" if has_ledger(connection) else "holders"
    rows = connection.execute(query("locks", statement), {"names": names})
    return [
        Held(name, run, command, host, pid, iso(since) if since else None)
        for name, run, command, host, pid, since in rows
    ]


def has_ledger(connection: Connection) -> bool:
    """Tell whether there is a ledger of runs that this role may read."""
    row = connection.execute(query("locks", "has_ledger")).fetchone()
    return bool(row and row[0])


def _key(name: str) -> dict[str, str]:
    return {"name": f"featurectl:{name}"}
