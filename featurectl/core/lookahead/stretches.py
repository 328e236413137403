"""Where stretches of rows come from: bars, ticks, and quarters of an hour, each piece bounded."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from featurectl.core.catalog import Selection
from featurectl.core.compute import candles, signals, ticks
from featurectl.core.compute.request import view_functions
from featurectl.core.compute.scores import ScoreFunctions
from featurectl.core.compute.signals import QUARTER, next_score, oldest_score, read_scores, score_functions
from featurectl.core.compute.tick_stream import MINUTE, TickStream, first_tick, last_tick
from featurectl.core.db import Connection
from featurectl.core.entity import EntityId, length
from featurectl.core.functions import CANDLE_COLUMNS, FunctionSet
from featurectl.core.lookahead.probe import Stretch
from featurectl.core.times import microseconds, nearest_instant

if TYPE_CHECKING:
    from numpy.typing import NDArray

_BEGINNING = microseconds(datetime.min.replace(tzinfo=UTC))
# How many rows of ticks, and quarters of an hour, a stretch has.
TICKS, QUARTERS = 2_000, 4 * 96


class Source(Protocol):
    """Where a view's stretches come from."""

    @property
    def rows(self) -> str:
        """What its rows are called."""

    def entities(self) -> Sequence[EntityId]:
        """Return those that there is data of."""

    def stretches(
        self, entity: EntityId, count: int, chance: random.Random, from_first: bool
    ) -> Iterator[tuple[Stretch, int]]:
        """Yield stretches at so many instants, and each instant's place; the first may be the series' beginning."""


def source_of(connection: Connection, chosen: Selection, root: Path, warmup: int, now: datetime) -> Source:
    functions = view_functions(chosen.view, root).only(chosen.features)
    if chosen.view.computed_from == "candles":
        return OfCandles(connection, functions, warmup, now)
    if chosen.view.computed_from == "ticks":
        return OfTicks(connection, functions, now)
    return OfSignals(connection, score_functions(chosen.view, functions), now)


@dataclass(frozen=True, slots=True)
class OfCandles:
    """Bars: twice the warm-up before an instant, and as many as the warm-up after it."""

    connection: Connection
    functions: FunctionSet
    warmup: int
    now: datetime
    rows: str = "bars"

    def entities(self) -> Sequence[EntityId]:
        return candles.list_series(self.connection)

    def stretches(
        self, entity: EntityId, count: int, chance: random.Random, from_first: bool
    ) -> Iterator[tuple[Stretch, int]]:
        bar = length(entity.timeframe)
        first = candles.bar_after(self.connection, entity, _BEGINNING, skipped=0)
        last = candles.bar_before(self.connection, entity, microseconds(self.now) - bar + 1, skipped=0)
        if first is None or last is None or last < first:
            return
        # Where there are longer series than the warm-up, it is looked at, too.
        low = candles.bar_after(self.connection, entity, first, skipped=self.warmup)
        low = first if low is None or low > last else low
        for number in range(count):
            at = first if from_first and not number else chance.randint(low, last)
            start = candles.bar_before(self.connection, entity, at + 1, skipped=2 * self.warmup)
            end = candles.bar_after(self.connection, entity, at, skipped=self.warmup - 1)
            bars = candles.read_bars(
                self.connection, entity, first if start is None else start, last if end is None else min(end, last)
            )
            yield self._stretch(entity, bars), _place(bars["open_time"], at)

    def _stretch(self, entity: EntityId, bars: dict[str, NDArray[Any]]) -> Stretch:
        def apply(start: int, end: int) -> Any:
            return self.functions.compute({name: bars[name][start:end] for name in CANDLE_COLUMNS})

        return Stretch(str(entity), bars["open_time"] + length(entity.timeframe), apply)


@dataclass(frozen=True, slots=True)
class OfTicks:
    """Book updates or trades: some from an instant on."""

    connection: Connection
    functions: FunctionSet
    now: datetime
    rows: str = "ticks"

    def entities(self) -> Sequence[EntityId]:
        return [EntityId(symbol, "") for symbol in ticks.symbols(self.connection)]

    def stretches(
        self, entity: EntityId, count: int, chance: random.Random, from_first: bool
    ) -> Iterator[tuple[Stretch, int]]:
        stream = TickStream(
            self.connection, entity.symbol, self.functions, dict.fromkeys(self.functions.hashes, "mean")
        )
        for table in stream.tables:
            first = first_tick(self.connection, table, entity.symbol)
            last = last_tick(self.connection, table, entity.symbol, self.now)
            if first is None or last is None:
                continue
            for number in range(count):
                instant = nearest_instant(first if from_first and not number else chance.randint(first, last))
                tick = first_tick(self.connection, table, entity.symbol, instant)
                if tick is not None and tick <= last:
                    yield self._stretch(stream, table, tick // MINUTE, last // MINUTE + 1), 0

    def _stretch(self, stream: TickStream, table: str, start: int, end: int) -> Stretch:
        columns = stream.select(table, start, end, TICKS)
        times = columns.pop("time")

        def apply(first: int, last: int) -> Any:
            return stream.tables[table].compute({name: values[first:last] for name, values in columns.items()})

        return Stretch(stream.symbol, times, apply)


@dataclass(frozen=True, slots=True)
class OfSignals:
    """Quarters of an hour: those of some days from one on that has a score."""

    connection: Connection
    functions: ScoreFunctions
    now: datetime
    rows: str = "quarters of an hour"

    def entities(self) -> Sequence[EntityId]:
        return [EntityId(symbol, "") for symbol in signals.scored_symbols(self.connection)]

    def stretches(
        self, entity: EntityId, count: int, chance: random.Random, from_first: bool
    ) -> Iterator[tuple[Stretch, int]]:
        import numpy as np  # 0.1 s, and only compute needs it

        first, last = oldest_score(self.connection, entity.symbol), microseconds(self.now)
        for number in range(count if first is not None and first <= last else 0):
            assert first is not None
            at = first if from_first and not number else chance.randint(first, last)
            score = next_score(self.connection, self.functions, entity.symbol, at)
            if score is None or score > last:
                continue
            instants = np.arange(-(-score // QUARTER), min(score // QUARTER + QUARTERS, last // QUARTER + 1)) * QUARTER
            if len(instants):
                yield self._stretch(entity, instants), 0

    def _stretch(self, entity: EntityId, instants: Any) -> Stretch:
        scores = read_scores(self.connection, self.functions, entity.symbol, int(instants[0]), int(instants[-1]))

        def apply(start: int, end: int) -> Any:
            return self.functions.at(instants[start:end], scores)[0]

        return Stretch(str(entity), instants, apply)


def _place(open_times: NDArray[Any], at: int) -> int:
    import numpy as np

    return max(0, int(np.searchsorted(open_times, at, side="right")) - 1)
