"""The one source of "now". Tests, and runs on old data, set it; nothing else in the package asks the system."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime

from featurectl.errors import InvalidTime

Clock = Callable[[], datetime]

VARIABLE = "FEATURECTL_NOW"


def system_clock() -> datetime:
    """Return the current UTC time, or the instant in ``FEATURECTL_NOW`` when that is set.

    Raises:
        InvalidTime: ``FEATURECTL_NOW`` is not an ISO 8601 instant with a zone.
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
    return instant.astimezone(UTC)
