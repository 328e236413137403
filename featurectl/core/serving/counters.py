"""How many reads there were, by which paths, with which statuses, and how long they took: per view, and in the log."""

from __future__ import annotations

import logging
import math
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from time import monotonic
from typing import Any

from featurectl.core.online import Source, Status
from featurectl.core.serving.answer import ViewAnswer
from featurectl.errors import FeaturectlError

_log = logging.getLogger("featurectl")

# Percentiles are those of the newest reads.
REMEMBERED = 2000
# A view is well again when its first path has answered every read for so many seconds.
WELL_AFTER = 5.0


class ViewCounters:
    """The counters of one view. ``hits`` are reads that the cache answered, ``misses`` those that it did not."""

    __slots__ = ("calls", "degraded", "degraded_at", "hits", "logged", "misses", "paths", "seconds", "statuses")

    def __init__(self) -> None:
        self.calls = self.degraded = self.hits = self.misses = 0
        self.paths: dict[str, int] = dict.fromkeys(Source, 0)
        self.statuses: dict[str, int] = dict.fromkeys(Status, 0)
        self.seconds: deque[float] = deque(maxlen=REMEMBERED)
        self.degraded_at: float | None = None
        self.logged = self.totals()

    def totals(self) -> Counter[str]:
        """Return all that is counted, by name."""
        own = Counter(calls=self.calls, degraded=self.degraded, hits=self.hits, misses=self.misses)
        return own + Counter(self.paths) + Counter(self.statuses)

    def report(self) -> dict[str, Any]:
        """Return plain numbers; latencies are in milliseconds."""
        cache = {"hits": self.hits, "misses": self.misses}
        return {
            "calls": self.calls,
            "degraded": self.degraded,
            "paths": {str(path): count for path, count in self.paths.items() if count},
            "statuses": {str(status): count for status, count in self.statuses.items()},
            "latency_ms": latencies(self.seconds),
            **({"cache": cache} if any(cache.values()) else {}),
        }

    def line(self, over: str) -> str | None:
        """Return in words what was counted since the last line; nothing of nothing."""
        totals = self.totals()
        new, self.logged = totals - self.logged, totals
        if not new["calls"]:
            return None
        values = sum(new[status] for status in Status)
        parts = [
            f"calls: {new['calls']}{over}",
            ", ".join(f"{rank} {ms:.2f} ms" for rank, ms in latencies(list(self.seconds)[-new["calls"] :]).items()),
            ", ".join(f"{path} {new[path]}" for path in Source if new[path]),
            ", ".join(f"{new[status] / values:.1%} {status}" for status in Status if new[status]),
            f"{new['degraded']} degraded" if new["degraded"] else "",
            f"{new['hits'] / (new['hits'] + new['misses']):.1%} from the cache" if new["hits"] else "",
        ]
        return "; ".join(filter(None, parts))


class Counters:
    """What a manager has answered since it was made; a call over several views counts in each.

    ``failed`` are the calls that raised an error, by its class. With ``log_seconds`` there is a line a view in the log
    every so often while there are reads, and one when its first path fails or answers again. ``clock`` is monotonic.
    """

    def __init__(self, log_seconds: float = 0.0, *, clock: Callable[[], float] = monotonic) -> None:
        self.failed: Counter[str] = Counter()
        self._views: dict[str, ViewCounters] = {}
        self._log_seconds = log_seconds
        self._clock = clock
        self._logged_at = clock()
        self._log_at = self._logged_at + log_seconds if log_seconds else math.inf
        self._failed_logged: Counter[str] = Counter()

    def count(self, answer: ViewAnswer, statuses: Mapping[Status, int], seconds: float) -> None:
        """Add a view's part of a call that took some seconds.

        A view whose rows come from two paths counts in both.
        """
        counters = self._of(answer.view.name)
        counters.calls += 1
        for source in answer.sources:
            counters.paths[source] += 1
        counters.seconds.append(seconds)
        for status, count in statuses.items():
            if count:
                counters.statuses[status] += count
        now = self._clock()
        if answer.reason is not None or counters.degraded_at is not None:
            self._note(counters, answer, now)
        if now >= self._log_at:
            self._log(now)

    def count_lookup(self, view: str, hit: bool) -> None:
        """Note whether the cache answered for a view."""
        counters = self._of(view)
        counters.hits += hit
        counters.misses += not hit

    def count_failure(self, error: FeaturectlError) -> FeaturectlError:
        """Add a call that had no answer; return the error, to raise it."""
        self.failed[type(error).__name__] += 1
        return error

    def report(self) -> dict[str, Any]:
        """Return all counters: ``views`` by name, and ``failed``."""
        views = {name: self._views[name].report() for name in sorted(self._views)}
        return {"failed": dict(self.failed), "views": views}

    def close(self) -> None:
        """Log what is not logged yet."""
        if self._log_seconds:
            self._log(self._clock())

    def _log(self, now: float) -> None:
        over = f" in {now - self._logged_at:.0f} s"
        for name in sorted(self._views):
            if line := self._views[name].line(over):
                _log.info("view '%s': %s", name, line)
        if failed := self.failed - self._failed_logged:
            kinds = ", ".join(f"{name} {count}" for name, count in failed.items())
            _log.info("failed calls: %s%s; %s", failed.total(), over, kinds)
        self._failed_logged = self.failed.copy()
        self._logged_at, self._log_at = now, now + self._log_seconds

    def _note(self, counters: ViewCounters, answer: ViewAnswer, now: float) -> None:
        """Keep track of whether a view is degraded, and log when that changes."""
        name, before = answer.view.name, counters.degraded_at
        if answer.reason is not None:
            counters.degraded += 1
            counters.degraded_at = now
            if before is None and self._log_seconds:
                _log.warning("view '%s' is degraded, %s answers: %s", name, answer.source, answer.reason)
        elif before is not None and answer.source is not Source.TIMESCALEDB and now - before >= WELL_AFTER:
            counters.degraded_at = None
            if self._log_seconds:
                _log.info("view '%s' is answered by %s again", name, answer.source)

    def _of(self, view: str) -> ViewCounters:
        counters = self._views.get(view)
        if counters is None:
            counters = self._views[view] = ViewCounters()
        return counters


def latencies(seconds: Iterable[float]) -> dict[str, float | None]:
    """Return the nearest-rank percentiles in milliseconds; nothing of nothing."""
    ordered = sorted(seconds)
    return {
        f"p{rank}": 1000 * ordered[-(-len(ordered) * rank // 100) - 1] if ordered else None for rank in (50, 95, 99)
    }
