"""What a check came to: one outcome a rule and target, the rows at fault on request, and what could not be read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from featurectl.core.freshness import Unreadable
from featurectl.core.times import Window
from featurectl.errors import FeaturectlError, PartlyDone


class Severity(StrEnum):
    """What a finding is: a warning, or an error."""

    WARN = "warn"
    ERROR = "error"


class Verdict(StrEnum):
    """What became of a rule."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Outcome:
    """One rule on one target, all entities together.

    ``view`` is market.candles for rules of candles, ``feature`` empty for rules of rows and bars; ``severity`` is what
    a finding would be. ``rows`` were looked at, ``offending`` of them are at fault; for gaps these are the bars that
    should be there, and those that are missing; for freshness entities. ``worst`` is in the measure of ``limit``: the
    least or greatest value, the greatest share of nulls, the longest run in rows or gap in bars, the greatest age in
    seconds, jump or ratio. ``worst_entity``, ``first`` and ``last`` are those at fault: instants are event times, of
    candles open times; ``None`` where there are none.
    """

    view: str
    feature: str
    rule: str
    severity: Severity
    verdict: Verdict
    entities: int
    rows: int
    offending: int
    share: float | None
    limit: float | None
    worst: float | None
    worst_entity: str | None
    entities_offending: int
    first: datetime | None
    last: datetime | None
    note: str | None = None

    @property
    def target(self) -> str:
        """The feature, the view, or the candles."""
        return f"{self.view}:{self.feature}" if self.feature else self.view


@dataclass(frozen=True, slots=True)
class Offence:
    """A row at fault: whose it is, its event time (of candles the open time), and its value in the rule's measure."""

    view: str
    feature: str
    rule: str
    severity: Severity
    entity: str
    at: datetime | None
    value: float | str | None


@dataclass(frozen=True, slots=True)
class CheckReport:
    """What was found in ``window``, the offending rows that were asked for, and views that can't be read of ``total``.

    ``undeclared`` are views that were asked for and declare no expectations.
    """

    outcomes: list[Outcome]
    offences: list[Offence]
    unreadable: list[Unreadable]
    window: Window
    total: int
    undeclared: Sequence[str] = ()

    @property
    def findings(self) -> list[Outcome]:
        """What is at fault: errors first, then by the share of rows."""
        found = [one for one in self.outcomes if one.verdict is not Verdict.OK]
        return sorted(found, key=lambda one: (one.severity is Severity.WARN, -(one.share or 0)))

    def at_least(self, severity: Severity) -> list[Outcome]:
        """Return the findings that are as bad as that, or worse."""
        return [one for one in self.findings if severity is Severity.WARN or one.severity is Severity.ERROR]

    @property
    def failure(self) -> FeaturectlError | None:
        """What there is to be said of unreadable views: their own error where all are, partly done otherwise."""
        if not self.unreadable:
            return None
        if len(self.unreadable) == self.total:
            return self.unreadable[0].error
        reasons = "; ".join(f"{one.view}: {one.error}" for one in self.unreadable)
        return PartlyDone(f"{len(self.unreadable)} of {self.total} views can't be checked: {reasons}")


def describe(one: Outcome) -> str:
    """Return a finding in one line, as logs and the ledger have it."""
    what = f"{one.offending} of {one.rows} {_THINGS.get(one.rule, 'rows')}"
    limit = "" if one.limit is None else f", limit {one.limit:g}"
    worst = "" if one.worst is None else f", worst {one.worst:g}"
    entity = f" ({one.worst_entity})" if one.worst_entity else ""
    return f"{one.target} {one.rule}: {what}{limit}{worst}{entity}"


_THINGS = {"gaps": "bars", "freshness": "entities"}
