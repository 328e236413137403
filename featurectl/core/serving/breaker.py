"""A circuit breaker: a path that fails again and again is left alone, and tried now and then."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from time import monotonic
from typing import Any


class State(StrEnum):
    """What a breaker lets through: everything, nothing, or one probe."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


@dataclass(slots=True)
class Breaker:
    """Opens after ``threshold`` failures in a row, or after one that took all its time.

    It lets a probe through ``pause`` seconds later; each probe that fails doubles that, up to ``longest_pause``.
    ``seconds`` is a monotonic clock.
    """

    threshold: int = 3
    pause: float = 1.0
    longest_pause: float = 30.0
    seconds: Callable[[], float] = field(default=monotonic, repr=False)
    reason: str | None = None
    failures: int = 0
    successes: int = 0
    opened: int = 0
    _in_a_row: int = 0
    _pauses: float = 0.0
    _probe_at: float | None = None
    _probing: bool = False

    @property
    def state(self) -> State:
        if self._probe_at is None:
            return State.CLOSED
        return State.HALF_OPEN if self._probing else State.OPEN

    @property
    def is_closed(self) -> bool:
        return self._probe_at is None

    def take_probe(self) -> bool:
        """Tell whether it is time for a probe; who is told so makes it, and reports what became of it."""
        if self._probe_at is None or self._probing or self.seconds() < self._probe_at:
            return False
        self._probing = True
        return True

    def succeeded(self) -> None:
        self.successes += 1
        self.reason, self._in_a_row, self._pauses, self._probe_at, self._probing = None, 0, 0.0, None, False

    def failed(self, reason: str, *, timed_out: bool = False, probe: bool = False) -> None:
        self.failures += 1
        self._in_a_row += 1
        self.reason = reason
        if self._probe_at is None:
            if not timed_out and self._in_a_row < self.threshold:
                return
            self.opened += 1
            self._pauses = self.pause
        elif probe:
            self._pauses = min(2 * self._pauses, self.longest_pause)
        else:
            # Whoever was under way when it opened adds nothing.
            return
        self._probe_at, self._probing = self.seconds() + self._pauses, False

    def report(self) -> dict[str, Any]:
        """Return state and counters, for `health`."""
        return {
            "state": str(self.state),
            "reason": self.reason,
            "failures": self.failures,
            "successes": self.successes,
            "opened": self.opened,
        }
