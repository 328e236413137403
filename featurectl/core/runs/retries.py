"""What is worth another try, and when: errors of a database that comes back, with back-off, within a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import psycopg
from psycopg import errors as pg

from featurectl.core.db import is_lost
from featurectl.core.threads import check_called_off
from featurectl.errors import DatabaseUnreachable, Interrupted, LoginRefused

T = TypeVar("T")

# Seconds between two looks at whether the work was called off.
_PAUSE = 0.2
FIRST_WAIT, LONGEST_WAIT = 0.1, 5.0
# How often work that took longer than the deadline may fail without having got further.
LONG_TRIES = 3
_CONFLICTS = (pg.DeadlockDetected, pg.SerializationFailure)


def ends_all(error: BaseException) -> bool:
    """Tell whether an error of one piece of work ends the others, too: it was called off, or the database is away."""
    return isinstance(error, Interrupted) or is_transient(error)


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
            return is_lost(cause)
        cause = cause.__cause__
    return False


def nothing() -> object:
    """Return the same at all times: work of one piece makes no progress before it is done."""
    return None


class Retries:
    """Tries again for so many seconds, counted from the first failure since work last made progress.

    Work in one piece that went well for longer than that may fail ``long_tries`` times more.
    """

    def __init__(self, seconds: float, say: Callable[[str], None], *, long_tries: int = LONG_TRIES) -> None:
        self._seconds = seconds
        self._say = say
        self._long_tries = long_tries

    def call(self, work: Callable[[], T], progress: Callable[[], object] = nothing) -> T:
        """Return what work returns; what is transient is tried again, what it fails with at last is raised.

        What ``progress`` returns is another value once work has done more of what it will not do again.
        """
        from tenacity import RetryCallState, Retrying, retry_if_exception, wait_random_exponential  # 0.05 s

        deadline: float | None = None
        done, long_tries, began = progress(), self._long_tries, 0.0
        backoff = wait_random_exponential(multiplier=FIRST_WAIT, max=LONGEST_WAIT)

        def before(_: RetryCallState) -> None:
            nonlocal began
            began = time.monotonic()

        def note(_: RetryCallState) -> None:
            nonlocal deadline, done, long_tries
            now = time.monotonic()
            if (now_done := progress()) != done:
                deadline, done, long_tries = None, now_done, self._long_tries
            elif now - began > self._seconds and long_tries:
                deadline, long_tries = None, long_tries - 1
            deadline = deadline or now + self._seconds

        def left() -> float:
            return (deadline or 0.0) - time.monotonic()

        def tell(state: RetryCallState) -> None:
            if state.outcome and state.attempt_number in (1, 5, 10, 20):
                reason = " ".join(str(state.outcome.exception()).split())
                self._say(f"{reason}; trying again for {self._seconds:g} s")

        retrying = Retrying(
            retry=retry_if_exception(is_transient),
            before=before,
            after=note,
            wait=lambda state: max(0.0, min(backoff(state), left())),
            stop=lambda state: left() <= 0,
            sleep=_sleep,
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
