"""What is worth another try, and when: errors of a database that comes back, with back-off, within a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import psycopg
from psycopg import errors as pg

from featurectl.core.threads import check_called_off
from featurectl.errors import DatabaseUnreachable, LoginRefused

T = TypeVar("T")

# Seconds between two looks at whether the work was called off.
_PAUSE = 0.2
FIRST_WAIT, LONGEST_WAIT = 0.1, 5.0
_CONFLICTS = (pg.DeadlockDetected, pg.SerializationFailure)


def is_transient(error: BaseException) -> bool:
    """Tell whether the same work may well succeed in a moment.

    That is so where the server is away, restarting or full, or another transaction was in the way; not where it
    refuses us, or the work itself is at fault.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, LoginRefused):
            return False
        if isinstance(cause, (*_CONFLICTS, DatabaseUnreachable)):
            return True
        if isinstance(cause, psycopg.Error):
            return _is_lost(cause)
        cause = cause.__cause__
    return False


def _is_lost(error: psycopg.Error) -> bool:
    """Tell whether a connection was lost, or not to be had; those errors have no class of SQL states but 08 and 57."""
    if isinstance(error, pg.QueryCanceled):
        return False
    state = error.sqlstate or ""
    return isinstance(error, psycopg.OperationalError) and (not state or state[:2] in ("08", "57") or state == "53300")


class Retries:
    """Tries again for so many seconds, counted from the first failure of a series of them."""

    def __init__(self, seconds: float, say: Callable[[str], None]) -> None:
        self._seconds = seconds
        self._say = say
        self._failing_since = 0.0

    def call(self, work: Callable[[], T]) -> T:
        """Return what work returns; what is transient is tried again, what it fails with at last is raised."""
        from tenacity import RetryCallState, Retrying, retry_if_exception, wait_random_exponential  # 0.05 s

        began = self._failing_since = 0.0

        def before(_: RetryCallState) -> None:
            nonlocal began
            began = time.monotonic()

        def is_over(_: RetryCallState) -> bool:
            now = time.monotonic()
            # Work that went well for long is not the failure that it went on from.
            if not self._failing_since or now - began > self._seconds:
                self._failing_since = now
            return now - self._failing_since >= self._seconds

        def tell(state: RetryCallState) -> None:
            if state.outcome and state.attempt_number in (1, 5, 10, 20):
                reason = " ".join(str(state.outcome.exception()).split())
                self._say(f"{reason}; trying again for {self._seconds:g} s")

        retrying = Retrying(
            retry=retry_if_exception(is_transient),
            wait=wait_random_exponential(multiplier=FIRST_WAIT, max=LONGEST_WAIT),
            stop=is_over,
            sleep=_sleep,
            before=before,
            before_sleep=tell,
            reraise=True,
        )
        return retrying(work)


def _sleep(seconds: float) -> None:
    """Sleep, unless the work is called off."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        check_called_off()
        time.sleep(min(left, _PAUSE))
