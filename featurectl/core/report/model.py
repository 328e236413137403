"""What a report's page shows, as plain data: each section is its own class, or says why it is not there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from enum import StrEnum

from featurectl.core.entity import EntityId
from featurectl.core.freshness import FreshnessReport
from featurectl.core.gaps import Gap
from featurectl.core.inventory import Holding
from featurectl.core.runs.ledger import Record
from featurectl.core.times import Window
from featurectl.errors import FeaturectlError


class Verdict(StrEnum):
    """What is to be thought of something; ``UNKNOWN`` where there is too little to tell."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"
    UNKNOWN = "unknown"


_SEVERITY = (Verdict.UNKNOWN, Verdict.OK, Verdict.WARN, Verdict.FAIL)


def worst(verdicts: Sequence[Verdict]) -> Verdict:
    """Return the worst of some verdicts; of none, that nothing is known."""
    return max(verdicts, key=_SEVERITY.index, default=Verdict.UNKNOWN)


@dataclass(frozen=True, slots=True)
class Missing:
    """A section that is not there, in one line; ``error`` where it should be and could not be read."""

    reason: str
    error: FeaturectlError | None = None


@dataclass(frozen=True, slots=True)
class Head:
    """Which repository and window the page is of, made when; ``ids`` where it is of some entities alone."""

    title: str
    project: str
    database: str
    window: Window
    made_at: datetime
    version: str
    ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Cells:
    """Days, or runs of days, one after another: those that begin at ``first + n * step``, as many as ``count``."""

    first: datetime
    step: timedelta
    count: int

    @property
    def starts(self) -> list[datetime]:
        return [self.first + index * self.step for index in range(self.count)]

    @property
    def days(self) -> int:
        """How many days a cell is of."""
        return self.step.days


@dataclass(frozen=True, slots=True)
class CoverageRow:
    """A series by cells: bars that should be there, those of them that are not, and those known absent.

    What is known absent is not missing.
    """

    entity: EntityId
    expected: tuple[int, ...]
    missing: tuple[int, ...]
    absent: tuple[int, ...]

    @property
    def share(self) -> float | None:
        """Which part of the bars that are due is there; ``None`` where none is due."""
        due = sum(self.expected) - sum(self.absent)
        return (due - sum(self.missing)) / due if due else None


@dataclass(frozen=True, slots=True)
class Coverage:
    """The bars of all series in the window, and the series that lack the most, by cells.

    ``gaps`` are the longest of ``gap_count``; the timeline shows those of the series that are shown.
    """

    cells: Cells
    rows: tuple[CoverageRow, ...]
    series: int
    expected: int
    missing: int
    known_absent: int
    gaps: tuple[Gap, ...]
    gap_count: int
    timeline: tuple[Gap, ...]

    @property
    def verdict(self) -> Verdict:
        if not self.expected:
            return Verdict.UNKNOWN
        if not self.missing:
            return Verdict.OK
        return Verdict.WARN if self.missing < self.expected * 0.01 else Verdict.FAIL


@dataclass(frozen=True, slots=True)
class NullRow:
    """A feature by cells: its rows, and those of them without a value."""

    view: str
    feature: str
    rows: tuple[int, ...]
    nulls: tuple[int, ...]

    @property
    def share(self) -> float | None:
        return sum(self.nulls) / sum(self.rows) if sum(self.rows) else None


@dataclass(frozen=True, slots=True)
class Nulls:
    """Features by cells, and the views of which nothing can be said, with the reason."""

    cells: Cells
    rows: tuple[NullRow, ...]
    unreadable: tuple[tuple[str, FeaturectlError], ...] = ()


@dataclass(frozen=True, slots=True)
class Distribution:
    """A feature in the window against its reference: shares by the same bins, and key figures of both.

    ``edges`` are one more than the shares; the outermost may be infinite. A figure nobody knows is ``None``.
    """

    view: str
    feature: str
    verdict: Verdict
    edges: tuple[float, ...]
    reference: tuple[float, ...]
    current: tuple[float, ...]
    figures: tuple[tuple[str, float | None, float | None], ...]
    note: str = ""


@dataclass(frozen=True, slots=True)
class Mover:
    """How far a feature has moved from its reference; ``entity`` is empty where all entities are taken together.

    ``chance`` is the PSI that means nothing, because windows of the reference reach it without any drift.
    """

    view: str
    feature: str
    entity: str
    verdict: Verdict
    psi: float | None
    chance: float | None
    ks: float | None
    js: float | None
    wasserstein: float | None
    null_change: float | None
    began: date | None
    non_stationary: bool
    note: str = ""


@dataclass(frozen=True, slots=True)
class Drift:
    """The comparisons of features, the farthest movers first, ``total`` in all; ``reference`` says what with.

    ``pooled`` are those of all entities together. ``moved`` counts those whose verdict is a warning or a failure,
    ``unjudged`` those of which nobody can say.
    ``note`` says of which entities this is.
    """

    reference: str
    movers: tuple[Mover, ...]
    pooled: tuple[Mover, ...]
    total: int
    moved: int
    unjudged: int
    verdict: Verdict
    distributions: tuple[Distribution, ...]
    note: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one check found: how many rows are at fault, of how many."""

    rule: str
    target: str
    verdict: Verdict
    offending: int
    rows: int
    detail: str


@dataclass(frozen=True, slots=True)
class Checks:
    """The checks that found something, the worst first; ``total`` in all, of which ``passed`` found nothing.

    Of many only the worst are in ``outcomes``.
    """

    outcomes: tuple[Outcome, ...]
    total: int
    passed: int
    verdict: Verdict
    unreadable: tuple[tuple[str, FeaturectlError], ...] = ()


@dataclass(frozen=True, slots=True)
class Compared:
    """What two ways to the features of a view have in common: counts of entities' features by what was found.

    ``counts`` are matches, mismatches, missing, extra and stale ones.
    """

    view: str
    pair: str
    verdict: Verdict
    entities: int
    of: int
    counts: tuple[int, int, int, int, int]
    note: str


@dataclass(frozen=True, slots=True)
class Bucket:
    """The bars that opened within a bucket of time as one bar; ``count`` of them."""

    start: datetime
    open: float
    high: float
    low: float
    close: float
    volume: float
    count: int


@dataclass(frozen=True, slots=True)
class Point:
    """A feature's rows within a bucket: how many, how many with a value, and the last, least and greatest of these."""

    start: datetime
    rows: int
    values: int
    last: float | None
    least: float | None
    greatest: float | None


@dataclass(frozen=True, slots=True)
class Line:
    """A feature of an entity, bucket by bucket; buckets without rows are not there."""

    view: str
    feature: str
    points: tuple[Point, ...]


@dataclass(frozen=True, slots=True)
class Prices:
    """The bars of an entity and its features, in buckets of ``step``; ``bars`` is how many bars that are."""

    entity: EntityId
    first: datetime
    step: timedelta
    buckets: tuple[Bucket, ...]
    lines: tuple[Line, ...]

    @property
    def bars(self) -> int:
        return sum(one.count for one in self.buckets)


@dataclass(frozen=True, slots=True)
class PriceCharts:
    """The chosen entities, of so many; and those that nothing can be shown of, with the reason."""

    entities: tuple[Prices, ...]
    total: int
    without: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Gathered:
    """All that a page shows."""

    head: Head
    coverage: Coverage | Missing
    freshness: FreshnessReport | Missing
    nulls: Nulls | Missing
    drift: Drift | Missing
    prices: PriceCharts | Missing
    checks: Checks | Missing
    consistency: tuple[Compared, ...] | Missing
    runs: tuple[Record, ...] | Missing
    storage: tuple[Holding, ...] | Missing

    @property
    def failures(self) -> list[tuple[str, FeaturectlError]]:
        """Return the sections that could not be read, with their errors."""
        names = ("coverage", "freshness", "nulls", "drift", "prices", "checks", "consistency", "runs", "storage")
        sections = ((name, getattr(self, name)) for name in names)
        return [(name, one.error) for name, one in sections if isinstance(one, Missing) and one.error]
