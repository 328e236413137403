"""What two readings of a feature say of each other: pure functions over rows that were read."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any

# Near zero, differences are measured against this part of a feature's largest value.
SMALL = 1e-3


class Verdict(StrEnum):
    """What one reading of a value is against another, which is nearer to the source."""

    MATCH = "match"
    MISMATCH = "mismatch"
    MISSING = "missing"
    EXTRA = "extra"
    STALE = "stale"
    ABSENT = "absent"


FAULTS = (Verdict.MISMATCH, Verdict.MISSING, Verdict.EXTRA, Verdict.STALE)


class Pair(StrEnum):
    """Which readings are compared: online with the history, or the history with what is computed again."""

    ONLINE = "online"
    COMPUTED = "computed"


@dataclass(frozen=True, slots=True)
class Row:
    """The values of one entity at an event time; a value that is null or NaN is ``None``."""

    event: datetime
    values: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Difference:
    """A feature of an entity of which not all readings agree; a verdict of ``None``: those two were not compared.

    ``online`` is what a caller gets, whatever its age, with its status and source; ``offline`` the newest row of the
    history as of the same instant; ``recomputed`` what the market's tables give for that row's event time.
    """

    view: str
    entity: str
    feature: str
    online_verdict: Verdict | None
    computed_verdict: Verdict | None
    online: Any
    offline: Any
    recomputed: Any
    online_event: datetime | None
    offline_event: datetime | None
    recomputed_event: datetime | None
    online_status: str | None
    online_source: str | None


@dataclass(frozen=True, slots=True)
class Tally:
    """How many values of a view, one for each entity and feature, came to which verdict.

    ``entities`` were looked at ``of`` those there are. ``reason`` says why two readings were not compared, or why some
    values were not; ``absent`` counts values that neither reading has.
    """

    view: str
    pair: Pair
    entities: int
    of: int
    features: int
    match: int = 0
    mismatch: int = 0
    missing: int = 0
    extra: int = 0
    stale: int = 0
    absent: int = 0
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Consistency:
    """What a sample came to, view by view, and every difference; ``notes`` say what else a user should know."""

    as_of: datetime
    seed: int
    tolerance: float
    tallies: tuple[Tally, ...]
    differences: tuple[Difference, ...]
    notes: tuple[str, ...] = ()

    def findings(self, accepted: Collection[Verdict] = ()) -> int:
        """Count the verdicts that are neither a match nor absent nor accepted."""
        faults = [verdict for verdict in FAULTS if verdict not in accepted]
        return sum(getattr(tally, verdict) for tally in self.tallies for verdict in faults)


@dataclass(frozen=True, slots=True)
class Limits:
    """What counts at an instant: rows from ``oldest`` on, where there is a TTL; numbers alike to a relative tolerance.

    ``oldest`` itself still counts, as for a read.
    """

    oldest: datetime | None
    tolerance: float

    def serves(self, row: Row | None) -> bool:
        """Tell whether a row is young enough."""
        return row is not None and self.has(row.event)

    def has(self, event: datetime | None) -> bool:
        """Tell whether an event time is."""
        return event is not None and (self.oldest is None or event >= self.oldest)


def online_verdicts(
    features: Sequence[str], online: Row | None, same: Row | None, newest: Row | None, limits: Limits
) -> dict[str, Verdict]:
    """Compare what is online with the history: with ``same``, its row of that event time, and ``newest``, its newest.

    What is online is stale where it is as it was then, and the history has gone on.
    """
    if not (limits.serves(online) or limits.serves(newest)):
        return dict.fromkeys(features, Verdict.ABSENT)
    if online is None:
        assert newest is not None
        return _one_sided(features, newest, Verdict.MISSING)
    if same is None:
        if not limits.serves(online):  # what it was has gone by retention; what counts is newer
            return dict.fromkeys(features, Verdict.STALE)
        return _one_sided(features, online, Verdict.EXTRA)
    is_stale = newest is not None and newest.event > same.event
    return {name: _of_rows(name, online, same, is_stale, limits.tolerance) for name in features}


def computed_verdicts(
    features: Sequence[str],
    offline: Row | None,
    again: Row | None,
    due: datetime | None,
    limits: Limits,
    scales: Mapping[str, float],
) -> dict[str, Verdict]:
    """Compare the newest row of the history with what is computed again.

    ``again`` is of the same event time, or of ``due`` where the history has no row. The history is stale where a row is
    ``due`` that is newer than its own.
    """
    if not (limits.serves(offline) or limits.has(due)):
        return dict.fromkeys(features, Verdict.ABSENT)
    if offline is None:
        return _one_sided(features, again, Verdict.MISSING)
    is_stale = due is not None and due > offline.event
    if not limits.serves(offline):
        return dict.fromkeys(features, Verdict.STALE if is_stale else Verdict.ABSENT)
    if again is None:
        return _one_sided(features, offline, Verdict.EXTRA)
    return {name: _of_rows(name, offline, again, is_stale, limits.tolerance, scales) for name in features}


def _one_sided(features: Sequence[str], row: Row | None, verdict: Verdict) -> dict[str, Verdict]:
    values = row.values if row else {}
    return {name: Verdict.ABSENT if values.get(name) is None else verdict for name in features}


def _of_rows(
    name: str, one: Row, other: Row, is_stale: bool, tolerance: float, scales: Mapping[str, float] | None = None
) -> Verdict:
    verdict = of_values(one.values[name], other.values[name], tolerance, (scales or {}).get(name, 0.0))
    return Verdict.STALE if is_stale and verdict is Verdict.MATCH else verdict


def of_values(one: Any, other: Any, tolerance: float, scale: float = 0.0) -> Verdict:
    """Compare a value with one that is nearer to the source."""
    one, other = _known(one), _known(other)
    if one is None or other is None:
        return Verdict.MATCH if one is other else Verdict.MISSING if one is None else Verdict.EXTRA
    return Verdict.MATCH if are_alike(one, other, tolerance, scale) else Verdict.MISMATCH


def are_alike(one: Any, other: Any, tolerance: float, scale: float = 0.0) -> bool:
    """Tell whether two values are the same: numbers to a relative tolerance, lists value by value.

    A difference is relative to the larger of the two, or to a thousandth of ``scale``, if that is more.
    """
    if _is_number(one) and _is_number(other) and not (isinstance(one, int) and isinstance(other, int)):
        return one == other or relative_difference(float(one), float(other), scale) <= tolerance
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        pairs = zip(one, other, strict=False)
        return len(one) == len(other) and all(are_alike(*pair, tolerance) for pair in pairs)
    return bool(one == other)


def relative_difference(one: float, other: float, scale: float = 0.0) -> float:
    """Return how far two numbers are apart: against the larger, or a thousandth of ``scale``; infinite for NaN."""
    if one == other or (math.isnan(one) and math.isnan(other)):
        return 0.0
    difference = abs(one - other)
    return difference / max(abs(one), abs(other), SMALL * scale) if math.isfinite(difference) else math.inf


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, Decimal)) and not isinstance(value, bool)


def _known(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value
