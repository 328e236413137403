"""A run at work: its connection, replaced when it is lost, its locks, and its row in the ledger."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, TypeVar

import psycopg
from psycopg import IsolationLevel

from featurectl.core import locks
from featurectl.core.config import FILE_NAME
from featurectl.core.db import Connection, Database, translated_errors
from featurectl.core.locks import IfLocked, Locking
from featurectl.core.runs import heartbeat, ledger
from featurectl.core.runs.ledger import INTERRUPTED, Outcome
from featurectl.core.runs.retries import Retries, nothing
from featurectl.core.runs.session import FIRST_CONTACT, Session
from featurectl.core.runs.settings import RunSettings, Step
from featurectl.core.times import ALWAYS, Window
from featurectl.errors import (
    DatabaseUnreachable,
    FeaturectlError,
    Findings,
    Interrupted,
    LockHeld,
    PartlyDone,
    Skipped,
    encodable,
)

if TYPE_CHECKING:
    from featurectl.core.checks import CheckReport
    from featurectl.core.statistics.drift import Drift

T = TypeVar("T")

# How many seconds the session that a run has lost may still have its locks.
GRACE = 10.0
_INTERNAL_ERROR = 70
_VERDICTS: tuple[tuple[type[FeaturectlError], str], ...] = (
    (Skipped, "skipped"),
    (PartlyDone, "partly done"),
    (Findings, "findings"),
    (Interrupted, INTERRUPTED),
)


class Run:
    """One run of something that writes. ``steps`` and ``window`` say what it did, for the ledger and for metrics.

    ``failure`` is what a run that came to its end will be told to have failed with. A dry run does everything in one
    transaction that is rolled back, and leaves no trace.
    """

    def __init__(self, database: Database, settings: RunSettings, now: datetime) -> None:
        self.database = database
        self.settings = settings
        # The instant as of which it works.
        self.now = now
        self.steps: list[Step] = []
        self.window: Window = ALWAYS
        self.catalog_hash: str | None = None
        self.failure: FeaturectlError | None = None
        self.outcome: Outcome | None = None
        self.seconds = 0.0
        # Views, and how many of their answers came by another path than the first, where that was looked at.
        self.degraded: dict[str, int] | None = None
        # What the rows were found to be like, where they were checked.
        self.checks: CheckReport | None = None
        # How far features have moved, where that was looked at.
        self.drifts: Sequence[Drift] = ()
        self._held: list[str] = []
        self._is_recorded = False
        limit = database.config.retry_for if settings.retry_for is None else settings.retry_for
        self._retry_for = 0 if settings.dry_run else limit
        self._session = Session(
            database, self._retry_for, settings.say, self._take_again, reconnects=not settings.dry_run
        )

    @property
    def run_id(self) -> str:
        return self.settings.run_id

    @property
    def locking(self) -> Locking:
        """The policy for locks; a session that was lost may keep its own for a moment."""
        return replace(self.settings.locking, grace=self._grace)

    @property
    def _grace(self) -> float:
        """For how many seconds more the session that this run has lost may keep its locks."""
        if not self._session.has_reconnected:
            return 0.0
        return max(0.0, GRACE - (time.monotonic() - self._session.connected_at))

    def attempt(self, work: Callable[[Connection], T], progress: Callable[[], object] = nothing) -> T:
        """Do work on the run's connection; what fails because the database is away is tried again on a new one.

        Work may be done twice, or may have been done when its connection is lost: it has to bear that. The time for
        which it is tried begins anew when ``progress`` returns another value than before: work has done more of it.

        Raises:
            LockHeld: another run took a lock of this one while it had no connection.
        """
        return self._session.attempt(work, progress)

    def worker(self) -> Session:
        """Return a session beside the run's own, for work under the run's locks; to be closed."""
        return Session(self.database, self._retry_for, self.settings.say, first_contact=self._retry_for)

    @contextlib.contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Hold a named lock for some of the run, whatever becomes of its connection.

        A run that had to wait for it begins there: its ``now`` is that of the clock then.

        Raises:
            LockHeld, Skipped: see :func:`featurectl.core.locks.lock`.
        """
        has_waited = False
        try:
            has_waited = self.attempt(lambda connection: locks.take(connection, name, self.locking))
        except LockHeld:
            has_waited = self.locking.policy is IfLocked.WAIT
            raise
        finally:
            self.now = self.settings.clock() if has_waited else self.now
        self._held.append(name)
        try:
            yield
        finally:
            self._held.remove(name)
            if connection := self._session.current:
                locks.release(connection, name)

    def _take_again(self, connection: Connection) -> None:
        """Take the run's locks on a connection that replaces one."""
        for name in (*([self._own_lock] if self._is_recorded else ()), *self._held):
            locks.take(connection, name, Locking(grace=GRACE))

    @property
    def _own_lock(self) -> str:
        """The lock that says that the run is at work."""
        return f"session {self.run_id}"

    def _begin(self, connection: Connection, now: datetime) -> None:
        if not locks.has_ledger(connection):
            return  # what the run needs is missing as well, and it will say so
        locks.take(connection, self._own_lock, Locking(grace=GRACE))
        config = self.database.config
        ledger.begin(connection, config.project, self.settings, _hash_of(self.database), now=now)
        self._is_recorded = True

    def _finish(self, now: datetime) -> None:
        """Write the end into the ledger, on a new connection where the run's is lost; else it is seen as killed."""
        if not self._is_recorded or self.outcome is None:
            return
        outcome = self.outcome
        # Where the run ended because the database is away, it is not waited for once more.
        patience = 0.0 if outcome.exit_code == DatabaseUnreachable.exit_code else min(self._retry_for, FIRST_CONTACT)
        try:
            Retries(patience, lambda reason: None, long_tries=0).call(lambda: self._write_end(outcome, now))
        except FeaturectlError as error:
            self.settings.say(f"the ledger does not know how this run ended, and shows it as interrupted: {error}")

    def _write_end(self, outcome: Outcome, now: datetime) -> None:
        """Write the end; twice where the connection turns out to be lost."""
        for is_last in (False, True):
            with translated_errors():
                connection = self._session.idle()
                try:
                    return ledger.finish(
                        connection,
                        self.run_id,
                        outcome,
                        self.steps,
                        catalog_hash=self.catalog_hash,
                        window=self.window,
                        seconds=self.seconds,
                        now=now + timedelta(seconds=self.seconds),
                    )
                except psycopg.OperationalError:
                    if is_last:
                        raise
                    connection.close()

    def _tell(self) -> None:
        """Tell those who watch how the run ended; that they can't be told makes it no worse."""
        if self.settings.dry_run or self.outcome is None or self.outcome.verdict == "skipped":
            return  # of a run that was left to another one that tells
        if self.settings.metrics_file:
            from featurectl.core.runs.metrics import write_metrics  # 0.1 s, and only where somebody looks

            write_metrics(self, self.settings.metrics_file, self.outcome, now=self.now)
        if self.settings.heartbeat:
            heartbeat.ping(self.settings.heartbeat, self.outcome.exit_code, self.settings.say)

    def look(self, read: Callable[[Connection], T]) -> T | None:
        """Read something on the run's connection, if the database can be reached; nothing where it can't."""
        if not self._is_recorded:
            return None
        try:
            with translated_errors():
                return read(self._session.idle())
        except FeaturectlError:
            return None


@contextlib.contextmanager
def open_run(database: Database, settings: RunSettings, *, now: datetime) -> Iterator[Run]:
    """Begin a run: connect, and note it in the ledger; at the end note what became of it.

    Raises:
        DatabaseUnreachable: nothing answers there, or it refuses us.
    """
    run, began = Run(database, settings, now), time.monotonic()
    try:
        if settings.dry_run:
            with _rehearsal(run._session.ready()):
                yield run
        else:
            run.attempt(lambda connection: run._begin(connection, now))
            yield run
        run.outcome = _outcome(run.failure) if run.failure else Outcome("done", 0)
    except BaseException as error:
        run.outcome = _outcome(error)
        raise
    finally:
        run.seconds = time.monotonic() - began
        try:
            run._finish(now)
            run._tell()
        finally:
            run._session.close()


@contextlib.contextmanager
def _rehearsal(connection: Connection) -> Iterator[None]:
    """Keep nothing of what is done; it sees one state of the database, and the rows it changes are locked so long."""
    connection.isolation_level = IsolationLevel.REPEATABLE_READ
    with translated_errors(), connection.transaction(force_rollback=True):
        yield


def _outcome(error: BaseException) -> Outcome:
    if isinstance(error, FeaturectlError):
        verdict = next((verdict for kind, verdict in _VERDICTS if isinstance(error, kind)), "failed")
        return Outcome(verdict, error.exit_code, " ".join(str(error).split()))
    if isinstance(error, (KeyboardInterrupt, asyncio.CancelledError)):
        reason = "interrupted by a signal; what was not finished was rolled back"
        return Outcome(INTERRUPTED, int(getattr(error, "exit_code", 130)), reason)
    return Outcome("failed", _INTERNAL_ERROR, encodable(f"{type(error).__name__}: {' '.join(str(error).split())}"))


def _hash_of(database: Database) -> str:
    """Return a hash of feature_store.yaml as it stands, without the secrets that its variables stand for."""
    try:
        content = (database.config.root / FILE_NAME).read_bytes()
    except OSError:
        return ""
    return hashlib.sha256(content).hexdigest()[:12]
