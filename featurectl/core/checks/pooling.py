"""From what is at fault of each entity to one outcome."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from featurectl.core.catalog import View
from featurectl.core.checks.report import Outcome, Severity, Verdict
from featurectl.core.checks.rows import Key
from featurectl.core.freshness import name_of_key

_VERDICTS = {Severity.WARN: Verdict.WARN, Severity.ERROR: Verdict.FAIL}


@dataclass(frozen=True, slots=True)
class Fault:
    """What is at fault of one entity: how many rows, the first and the last instant, and the worst measure."""

    key: Key
    rows: int
    first: datetime | None
    last: datetime | None
    worst: float | None


def faults_of(rows: Iterable[Sequence[Any]]) -> list[Fault]:
    """Return what a query found at fault by entity; a NaN is no measure."""
    return [Fault(tuple(key), count, first, last, number(worst)) for key, count, first, last, worst in rows]


def number(value: Any) -> float | None:
    """Return a measure, or nothing for a NaN."""
    return None if value is None or math.isnan(value) else float(value)


@dataclass(frozen=True, slots=True)
class Judged:
    """One rule on one target: what was looked at, and the faults; ``worst`` is of all rows, at fault or not.

    A rule that has ``offending`` rows beside its faults, as nulls below the limit, gives their number.
    """

    view: View
    feature: str
    rule: str
    severity: Severity
    limit: float | None
    entities: int
    rows: int
    faults: Sequence[Fault]
    worst: float | None = None
    offending: int | None = None
    note: str | None = None
    is_least: bool = False

    def outcome(self) -> Outcome:
        """Pool it."""
        offending = sum(one.rows for one in self.faults) if self.offending is None else self.offending
        worst = self._worst_fault
        return Outcome(
            view=self.view.name,
            feature=self.feature,
            rule=str(self.rule),
            severity=self.severity,
            verdict=_VERDICTS[self.severity] if self.faults else Verdict.OK,
            entities=self.entities,
            rows=self.rows,
            offending=offending,
            share=offending / self.rows if self.rows else None,
            limit=self.limit,
            worst=worst.worst if worst and self.worst is None else self.worst,
            worst_entity=name_of_key(self.view, worst.key) or None if worst else None,
            entities_offending=len(self.faults),
            first=min((one.first for one in self.faults if one.first), default=None),
            last=max((one.last for one in self.faults if one.last), default=None),
            note=self.note,
        )

    @property
    def _worst_fault(self) -> Fault | None:
        """The fault with the worst measure, of several the one with the most rows."""

        def badness(one: Fault) -> tuple[float, int]:
            worst = 0.0 if one.worst is None else one.worst
            return (-worst if self.is_least else worst), one.rows

        # Keys are in order, so that of equals it is always the same.
        return max(sorted(self.faults, key=lambda one: one.key), key=badness, default=None)
