"""Features of single instants computed again from the market's tables, as `compute` would, with nothing written.

What stands in feature tables is not read, but for one question: whether some of what it was made of is gone since.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from featurectl.core import tags
from featurectl.core.catalog import View
from featurectl.core.compute import candles
from featurectl.core.compute.request import view_functions
from featurectl.core.compute.rows import FeatureRows, kept
from featurectl.core.compute.scores import ScoreFunctions
from featurectl.core.compute.signals import QUARTER, oldest_score, read_scores, score_functions
from featurectl.core.compute.tick_stream import MINUTE, TickStream, by_table, first_tick, last_tick
from featurectl.core.db import Connection
from featurectl.core.entity import EntityId, length
from featurectl.core.functions import CANDLE_COLUMNS, FunctionSet
from featurectl.core.times import from_microseconds, microseconds

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_BEGINNING = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Again:
    """The features of one instant; ``values`` is ``None`` where no row is due, and a value is where none is defined.

    ``gone`` are the features that can't be had again, because retention has taken what they were made of. ``scales``
    say how large a feature is in general: near zero that alone tells what is small.
    """

    values: Mapping[str, float | None] | None
    gone: frozenset[str] = frozenset()
    scales: Mapping[str, float] = field(default_factory=dict)


class Recomputation(Protocol):
    """The features of one view, of any entity and instant."""

    def at(self, entity: EntityId, event: datetime) -> Again:
        """Return the features of an instant.

        Raises:
            DefinitionError: a function fails.
        """

    def newest(self, entity: EntityId, until: datetime) -> datetime | None:
        """Return the newest instant, not after ``until``, at which there may be features."""


def recomputation(
    connection: Connection, view: View, features: Sequence[str], *, root: Path, warmup: int
) -> Recomputation | None:
    """Return what computes features of a view again; nothing of a view that featurectl does not compute.

    Raises:
        DefinitionError: a function is missing, or a tag can't be read.
    """
    if view.computed_from not in ("candles", "ticks", "signals"):
        return None
    functions = view_functions(view, root)
    if view.computed_from == "candles":
        return OfCandles(connection, view, functions.only(features), tuple(features), warmup)
    if view.computed_from == "ticks":
        return OfTicks(connection, view, functions, tuple(features))
    return OfSignals(connection, view, score_functions(view, functions.only(features)), tuple(features))


@dataclass(frozen=True, slots=True)
class OfCandles:
    """Features of bars, each from the bar and those of the warm-up before it."""

    connection: Connection
    view: View
    functions: FunctionSet
    features: tuple[str, ...]
    warmup: int

    def at(self, entity: EntityId, event: datetime) -> Again:
        """See :class:`Recomputation`."""
        opened = microseconds(event) - length(entity.timeframe)
        first = candles.bar_before(self.connection, entity, opened, skipped=self.warmup - 1) if self.warmup else opened
        start = microseconds(_BEGINNING) if first is None else first
        bars = candles.read_bars(self.connection, entity, start, opened)
        if not len(bars["open_time"]) or bars["open_time"][-1] != opened:
            return Again(None)
        if first is None and self._has_older(entity, int(bars["open_time"][0])):
            return Again(None, frozenset(self.features))
        computed = self.functions.compute({name: bars[name] for name in CANDLE_COLUMNS})
        return Again(
            {name: _number(computed[name][-1]) for name in self.features},
            scales={name: largest(computed[name]) for name in self.features},
        )

    def newest(self, entity: EntityId, until: datetime) -> datetime | None:
        """See :class:`Recomputation`."""
        bar = length(entity.timeframe)
        opened = candles.bar_before(self.connection, entity, microseconds(until) - bar + 1, skipped=0)
        return None if opened is None else from_microseconds(opened + bar)

    def _has_older(self, entity: EntityId, first_open: int) -> bool:
        """Tell whether there are features of bars before the first one: those were deleted."""
        oldest = _rows(self.connection, self.view, entity).following(microseconds(_BEGINNING))
        return oldest is not None and oldest < first_open + length(entity.timeframe)


@dataclass(frozen=True, slots=True)
class OfTicks:
    """Features of minutes, each from the ticks of the timeframe before it."""

    connection: Connection
    view: View
    functions: FunctionSet
    features: tuple[str, ...]

    def at(self, entity: EntityId, event: datetime) -> Again:
        """See :class:`Recomputation`."""
        minute, reach = microseconds(event) // MINUTE, length(entity.timeframe) // MINUTE
        if minute * MINUTE != microseconds(event):
            return Again(None)
        gone = self._gone(entity, minute * MINUTE)
        wanted = [name for name in self.features if name not in gone]
        values: dict[str, float | None] = {}
        if wanted:
            aggregates = {one.name: tags.aggregate(one) for one in self.view.fields if one.name in wanted}
            stream = TickStream(self.connection, entity.symbol, self.functions.only(wanted), aggregates)
            for minutes, start, end in stream.stretches(minute - reach, minute, reach):
                if start <= minute <= end:
                    told, features = minutes.rows(reach, minute, minute)
                    values = {name: _number(features[name][0]) for name in wanted} if len(told) else {}
        return Again(values or None, gone)

    def newest(self, entity: EntityId, until: datetime) -> datetime | None:
        """See :class:`Recomputation`."""
        now, reach = microseconds(until) // MINUTE, length(entity.timeframe) // MINUTE
        before = from_microseconds(now * MINUTE)
        tables = by_table(self.functions.only(self.features))
        ticks = (last_tick(self.connection, table, entity.symbol, before) for table in tables)
        newest = max((tick for tick in ticks if tick is not None), default=None)
        return None if newest is None else from_microseconds(min(now, newest // MINUTE + reach) * MINUTE)

    def _gone(self, entity: EntityId, event: int) -> frozenset[str]:
        groups = {table: list(part.hashes) for table, part in by_table(self.functions).items()}
        oldest = {table: first_tick(self.connection, table, entity.symbol) for table in groups}
        rows = _rows(self.connection, self.view, entity)
        stays = kept(rows, event, groups, oldest, reach=length(entity.timeframe), first=event)
        names = (name for table, floor in stays.floors.items() if floor > event for name in groups[table])
        return frozenset(names) & frozenset(self.features)


@dataclass(frozen=True, slots=True)
class OfSignals:
    """Features of quarters of an hour, each from the newest scores that are valid then."""

    connection: Connection
    view: View
    functions: ScoreFunctions
    features: tuple[str, ...]

    def at(self, entity: EntityId, event: datetime) -> Again:
        """See :class:`Recomputation`."""
        import numpy as np  # 0.1 s, and only compute needs it

        instant = microseconds(event)
        if instant % QUARTER:
            return Again(None)
        if self._is_gone(entity, instant):
            return Again(None, frozenset(self.features))
        scores = read_scores(self.connection, self.functions, entity.symbol, instant, instant)
        features, _ = self.functions.at(np.array([instant], dtype=np.int64), scores)
        # A row that has nothing to say any more stays, with nulls.
        return Again({name: _number(features[name][0]) for name in self.features})

    def newest(self, entity: EntityId, until: datetime) -> datetime | None:
        """See :class:`Recomputation`."""
        return from_microseconds(microseconds(until) // QUARTER * QUARTER)

    def _is_gone(self, entity: EntityId, event: int) -> bool:
        groups = {"": self.features}
        rows, oldest = _rows(self.connection, self.view, entity), oldest_score(self.connection, entity.symbol)
        stays = kept(rows, event, groups, {"": oldest}, reach=self.functions.reach, first=event)
        return any(floor > event for floor in stays.floors.values())


def largest(values: NDArray[np.float64]) -> float:
    """Return the largest magnitude among numbers, 0 without any."""
    import numpy as np

    known = values[~np.isnan(values)]
    return float(np.abs(known).max()) if len(known) else 0.0


def _rows(connection: Connection, view: View, entity: EntityId) -> FeatureRows:
    return FeatureRows(connection, view, {key: getattr(entity, key) for key in view.join_keys})


def _number(value: float) -> float | None:
    return None if value != value else float(value)
