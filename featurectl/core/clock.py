"""The one source of "now". Tests, and runs on old data, set it; nothing else in the package asks the system."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime

from featurectl.errors import InvalidTime

Clock = Callable[[], datetime]

VARIABLE = "FEATURECTL_NOW"
# Warm-ups, lifetimes and targets reach back and ahead of now, and must not fall off the calendar.
_FIRST_YEAR, _LAST_YEAR = 1970, 2999


def system_clock() -> datetime:
    """Return the current UTC time, or the instant in ``FEATURECTL_NOW`` when that is set.

    Raises:
        InvalidTime: ``FEATURECTL_NOW`` is not an ISO 8601 instant with a zone, or of another age.
    """
    fixed = os.environ.get(VARIABLE)
    if not fixed:
        return datetime.now(UTC)
    try:
        instant = datetime.fromisoformat(fixed)
    except ValueError:
        instant = None
    if instant is None or instant.tzinfo is None:
        raise InvalidTime(f"{VARIABLE}='{fixed}' is not an ISO 8601 time with a zone; for example 2024-05-01T12:00:00Z")
    if not _FIRST_YEAR <= instant.year <= _LAST_YEAR:
        raise InvalidTime(
            f"{VARIABLE}='{fixed}' is no time for a market; write a year from {_FIRST_YEAR} to {_LAST_YEAR}"
        )
    return instant.astimezone(UTC)


def new_run_id() -> str:
    """Return an id that sorts by the system's time and is nobody else's: ``20240501T120000-3f9a2c``."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{os.urandom(3).hex()}"
