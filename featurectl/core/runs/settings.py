"""How a run goes about its work, and what it has come to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from featurectl.core.clock import Clock, new_run_id, system_clock
from featurectl.core.locks import REFUSE, Locking


def _unheard(text: str) -> None:
    """Say it to nobody."""


@dataclass(frozen=True, slots=True)
class RunSettings:
    """What a run is called and how it goes about its work.

    ``arguments`` are what it was asked for, free of secrets; ``retry_for`` is in seconds, ``None`` for what the
    configuration says; a ``dry_run`` does everything and keeps nothing of it; ``say`` is told what users should know.
    At its end a run writes ``metrics_file`` for Prometheus, and pings ``heartbeat``, a URL, which may be a secret. The
    ``clock`` is asked again after a wait.
    """

    command: str
    arguments: Sequence[str] = ()
    run_id: str = field(default_factory=new_run_id)
    locking: Locking = REFUSE
    retry_for: float | None = None
    dry_run: bool = False
    say: Callable[[str], None] = _unheard
    metrics_file: Path | None = None
    heartbeat: str | None = field(default=None, repr=False)
    clock: Clock = system_clock


@dataclass(slots=True)
class Step:
    """What a run did to one thing: a file, a view and entity, a view. Counts are of rows."""

    step: str
    name: str
    read: int = 0
    written: int = 0
    unchanged: int = 0
    older: int = 0
    rejected: int = 0
    error: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return it with those of its counts that are not zero."""
        counts = {name: getattr(self, name) for name in COUNTS if getattr(self, name)}
        return {"step": self.step, "name": self.name, **counts, **({"error": self.error} if self.error else {})}


COUNTS = ("read", "written", "unchanged", "older", "rejected")
