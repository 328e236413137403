"""How many reads there were, by which paths, with which statuses, and how long they took: per view."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from typing import Any

from featurectl.core.online import Source, Status

# Percentiles are those of the newest reads.
REMEMBERED = 2000


class ViewCounters:
    """The counters of one view."""

    __slots__ = ("calls", "degraded", "paths", "seconds", "statuses")

    def __init__(self) -> None:
        self.calls = 0
        self.degraded = 0
        self.paths: Counter[Source] = Counter()
        self.statuses: Counter[Status] = Counter()
        self.seconds: deque[float] = deque(maxlen=REMEMBERED)

    def report(self) -> dict[str, Any]:
        """Return plain numbers; latencies are in milliseconds."""
        return {
            "calls": self.calls,
            "degraded": self.degraded,
            "paths": {str(path): count for path, count in self.paths.items()},
            "statuses": {str(status): self.statuses[status] for status in Status},
            "latency_ms": {f"p{rank}": percentile(self.seconds, rank) for rank in (50, 95, 99)},
        }


class Counters:
    """What a manager has answered since it was made; ``failed`` are the calls that raised an error."""

    def __init__(self) -> None:
        self.failed = 0
        self._views: dict[str, ViewCounters] = {}

    def count(
        self, view: str, source: Source, seconds: float, statuses: Mapping[Status, int], *, degraded: bool
    ) -> None:
        """Add one view's part of one call."""
        counters = self._views.get(view)
        if counters is None:
            counters = self._views[view] = ViewCounters()
        counters.calls += 1
        counters.degraded += degraded
        counters.paths[source] += 1
        counters.seconds.append(seconds)
        for status, count in statuses.items():
            if count:
                counters.statuses[status] += count

    def report(self) -> dict[str, dict[str, Any]]:
        """Return the counters by view."""
        return {name: self._views[name].report() for name in sorted(self._views)}


def percentile(seconds: deque[float], rank: int) -> float | None:
    """Return the nearest-rank percentile in milliseconds; nothing of nothing."""
    if not seconds:
        return None
    ordered = sorted(seconds)
    return 1000 * ordered[max(0, -(-len(ordered) * rank // 100) - 1)]
