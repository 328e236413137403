"""Instants and windows as people write them: ISO 8601, a date, ``now``, ``-7d``, ``now-90m``. Always UTC inside."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from featurectl.errors import InvalidTime

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_DURATION = re.compile(r"(?P<amount>[0-9]{1,6})(?P<unit>[smhdwy])")
_RELATIVE = re.compile(r"(?:now)?(?P<sign>[-+])(?P<amount>\d+(?:\.\d+)?)(?P<unit>[smhdw])", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Window:
    """A span of event time, UTC, both ends included; ``None`` leaves an end open."""

    start: datetime | None
    end: datetime | None

    def checked(self) -> Window:
        """Return the window itself.

        Raises:
            InvalidTime: it starts after it ends.
        """
        if self.start and self.end and self.start > self.end:
            raise InvalidTime(f"the window starts ({iso(self.start)}) after it ends ({iso(self.end)}); swap them")
        return self

    def as_dict(self) -> dict[str, str | None]:
        """Return both ends as text."""
        return {"start": iso(self.start) if self.start else None, "end": iso(self.end) if self.end else None}

    def __str__(self) -> str:
        first = iso(self.start) if self.start else "the beginning"
        last = iso(self.end) if self.end else "the end"
        return f"{first} .. {last}"


ALWAYS = Window(None, None)


def parse_time(text: str, *, now: datetime) -> datetime:
    """Read an instant; one without a zone is UTC, a date alone is its midnight.

    Raises:
        InvalidTime: the text is neither ISO 8601 nor relative, or lies outside what a timestamp holds.
    """
    stripped = text.strip()
    if stripped.lower() == "now":
        return now
    try:
        if relative := _RELATIVE.fullmatch(stripped):
            amount = float(relative["amount"]) * (-1 if relative["sign"] == "-" else 1)
            return now + timedelta(**{_UNITS[relative["unit"].lower()]: amount})
        instant = datetime.fromisoformat(stripped)
        return instant.replace(tzinfo=UTC) if instant.tzinfo is None else instant.astimezone(UTC)
    except (ValueError, OverflowError):
        raise InvalidTime(
            f"'{text}' is not a time; write ISO 8601 (2024-05-01T12:00:00Z, 2024-05-01) or relative (-7d, -90m, now)"
        ) from None


def parse_window(start: str | None, end: str | None, *, now: datetime) -> Window:
    """Read both ends of a window.

    Raises:
        InvalidTime: an end can't be read, or the start lies after the end.
    """
    return Window(parse_time(start, now=now) if start else None, parse_time(end, now=now) if end else None).checked()


def iso(instant: datetime) -> str:
    """Write an instant as ISO 8601 UTC with a Z, fractions only where there are any."""
    return instant.astimezone(UTC).isoformat().replace("+00:00", "Z")


def microseconds(instant: datetime) -> int:
    """Return an instant as microseconds since 1970 UTC."""
    return (instant - EPOCH) // timedelta(microseconds=1)


def from_microseconds(count: int) -> datetime:
    """Return the instant that is so many microseconds after 1970 UTC."""
    return EPOCH + timedelta(microseconds=int(count))


def nearest_instant(count: int) -> datetime:
    """Return the same; past all instants there are, the first or the last of them."""
    try:
        return from_microseconds(count)
    except OverflowError:
        return (datetime.min if count < 0 else datetime.max).replace(tzinfo=UTC)


def parse_duration(text: str) -> timedelta:
    """Read a length of time: a whole number and s, m, h, d, w or y, a year having 365 days.

    Raises:
        InvalidTime: the text is none.
    """
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise InvalidTime(f"'{text}' is not a duration; write a whole number and a unit: 30s, 90m, 12h, 7d, 2w, 2y")
    amount = int(match["amount"])
    return timedelta(days=365 * amount) if match["unit"] == "y" else timedelta(**{_UNITS[match["unit"]]: amount})


def duration(span: timedelta) -> str:
    """Write a span the way people say it, two units at most: ``2d 3h``, ``45s``."""
    seconds = int(abs(span.total_seconds()))
    parts = []
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m"), (1, "s")):
        count, seconds = divmod(seconds, size)
        if count:
            parts.append(f"{count}{unit}")
    return " ".join(parts[:2]) or "0s"
