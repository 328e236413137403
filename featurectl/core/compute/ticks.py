"""Order book and trades to features: at each whole minute, what single ticks gave over the timeframe before it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from featurectl.core import tags
from featurectl.core.catalog import View
from featurectl.core.compute.changes import (
    BEGINNING,
    Change,
    Ledger,
    State,
    due,
    inside,
    is_complete,
    noted,
    one_state,
)
from featurectl.core.compute.request import Computed, Request, Unseen
from featurectl.core.compute.rows import FeatureRows, Kept, kept
from featurectl.core.compute.spans import Span, merged, within
from featurectl.core.compute.symbols import TICKS, symbols_in
from featurectl.core.compute.tick_stream import MINUTE, TickStream, by_table, first_tick
from featurectl.core.db import Connection
from featurectl.core.entity import TIMEFRAMES, EntityId, length
from featurectl.core.functions import FunctionSet
from featurectl.core.queries import query
from featurectl.core.times import microseconds

if TYPE_CHECKING:
    from featurectl.core.compute.windows import Floats, Ints


def symbols(connection: Connection) -> list[str]:
    """Return the symbols that have order book or trade rows."""
    return sorted(symbols_in(connection, *TICKS))


def jobs(
    connection: Connection, view: View, functions: FunctionSet, request: Request, *, now: datetime
) -> list[TickJob]:
    """Return one job for each symbol that the request wants."""
    return [
        TickJob(connection, view, functions, symbol, request, now)
        for symbol in symbols(connection)
        if request.wants_symbol(symbol)
    ]


@dataclass(slots=True)
class _Series:
    """One timeframe's features: the instants that are due, in minutes since 1970, and what has become of them."""

    timeframe: str
    minutes: int
    rows: FeatureRows
    state: State
    due: list[Span]
    kept: Kept
    computed: int = 0
    inserted: int = 0
    changed: int = 0


@dataclass(frozen=True, slots=True)
class TickJob:
    """One view's features of one symbol, in all its timeframes."""

    connection: Connection
    view: View
    functions: FunctionSet
    symbol: str
    request: Request
    now: datetime

    @property
    def entity(self) -> str:
        return self.symbol

    def run(self) -> list[Computed]:
        """Compute what is due, in one transaction, and note what the next run need not do again.

        Raises:
            DefinitionError: a function fails, or a tag can't be read.
        """
        timeframes = self._timeframes()
        chosen = [name for name in timeframes if self.request.wants_timeframe(name)]
        ledger = Ledger(self.connection, self.view.source_table or "", self.symbol)
        if is_complete(self.request):
            ledger.announce(chosen)
        with one_state(self.connection):
            states = ledger.states()
            changes = {name: ledger.unseen(name, TICKS, [self.symbol]) for name in chosen}
            oldest = {table: first_tick(self.connection, table, self.symbol) for table in self._groups}
            series = [self._series(name, states.get(name, State()), changes[name], oldest) for name in chosen]
            read = self._compute(series)
            until = microseconds(self.now) // MINUTE * MINUTE
            for one in series:
                ledger.note(one.timeframe, noted(one.state, self._hashes, until, self.request))
                if is_complete(self.request):
                    ledger.mark_seen(one.timeframe, changes[one.timeframe])
            if is_complete(self.request) and chosen == timeframes:
                ledger.forget_others(timeframes)
        return [self._result(one, read) for one in series]

    def begin_whole(self) -> Unseen | None:
        """See :class:`Job`."""
        firsts = (first_tick(self.connection, table, self.symbol) for table in self._groups)
        first = min((tick for tick in firsts if tick is not None), default=None)
        start = self.request.window.start
        if self.request.features or (first and start and microseconds(start) > (first // MINUTE + 1) * MINUTE):
            return None
        chosen = [name for name in self._timeframes() if self.request.wants_timeframe(name)]
        ledger = Ledger(self.connection, self.view.source_table or "", self.symbol)
        ledger.announce(chosen)
        return {name: ledger.unseen(name, TICKS, [self.symbol]) for name in chosen}

    def end_whole(self, seen: Unseen) -> None:
        ledger = Ledger(self.connection, self.view.source_table or "", self.symbol)
        until = microseconds(self.request.window.end or self.now) // MINUTE * MINUTE
        ledger.note_whole(seen, self._hashes, until, reach=length)

    @property
    def _features(self) -> tuple[str, ...]:
        """The features that are wanted."""
        return self.request.features or tuple(field.name for field in self.view.fields)

    @property
    def _aggregates(self) -> dict[str, str]:
        return {field.name: tags.aggregate(field) for field in self.view.fields if field.name in self._features}

    @property
    def _hashes(self) -> dict[str, str]:
        """What the wanted features depend on beside the ticks."""
        codes = self.functions.hashes
        return {name: f"{codes[name]} {how}" for name, how in self._aggregates.items()}

    @property
    def _groups(self) -> dict[str, list[str]]:
        """All features of the view by the table they are made of."""
        return {table: list(part.hashes) for table, part in by_table(self.functions).items()}

    def _timeframes(self) -> list[str]:
        """Return the timeframes of the view, and those of the symbol's candles."""
        parameters = {"timeframes": list(TIMEFRAMES), "symbol": self.symbol}
        rows = self.connection.execute(query("compute_ticks", "candle_timeframes"), parameters)
        wanted = {*tags.timeframes(self.view), *(name for (name,) in rows)}
        return [name for name in TIMEFRAMES if name in wanted]

    def _series(
        self, timeframe: str, state: State, changes: Iterable[Change], oldest: Mapping[str, int | None]
    ) -> _Series:
        rows = FeatureRows(self.connection, self.view, {"symbol": self.symbol, "timeframe": timeframe})
        newest, minutes = rows.newest(), length(timeframe) // MINUTE
        touched = [
            (change.first // MINUTE + 1, change.last // MINUTE + minutes)
            for change in changes
            if change.source.removeprefix("market.") in oldest
        ]
        # Without rows nothing is up to date, whatever was noted.
        before = State() if self.request.full or newest is None else state
        spans = due(before, self._hashes, touched, step=MINUTE, last=microseconds(self.now) // MINUTE)
        first = min((tick // MINUTE + 1 for tick in oldest.values() if tick is not None), default=-BEGINNING)
        first = max(first, self.request.first_of_grid(MINUTE))
        spans = within(inside(spans, self.request.window, step=MINUTE), first, -BEGINNING)
        stays = Kept(newest, {})
        if spans:
            start = spans[0][0] * MINUTE
            stays = kept(rows, newest, self._groups, oldest, reach=minutes * MINUTE, first=start)
        return _Series(timeframe, minutes, rows, state, spans, stays)

    def _compute(self, series: Iterable[_Series]) -> int:
        """Compute what is due of each series, and return how many ticks were read for it."""
        busy = [one for one in series if one.due]
        stream = TickStream(self.connection, self.symbol, self.functions.only(self._features), self._aggregates)
        reach = max((one.minutes for one in busy), default=0)
        for first, last in merged((start - one.minutes, end - 1) for one in busy for start, end in one.due):
            for minutes, start, end in stream.stretches(first, last + 1, reach):
                for one in busy:
                    for part in within(one.due, start, end):
                        self._write(one, *minutes.rows(one.minutes, *part))
        return stream.read

    def _write(self, series: _Series, minutes: Ints, features: Mapping[str, Floats]) -> None:
        groups = {table: [name for name in names if name in features] for table, names in self._groups.items()}
        groups = {table: names for table, names in groups.items() if names}
        insert = not self.request.features
        parts = series.kept.write(series.rows, minutes * MINUTE, features, groups, now=self.now, insert=insert)
        for written in parts:
            series.inserted += written.new
            series.changed += written.changed
        series.computed += len(minutes)

    def _result(self, series: _Series, read: int) -> Computed:
        return Computed(
            view=self.view.name,
            entity=str(EntityId(self.symbol, series.timeframe)),
            rows=read if series.due else 0,
            stale=series.computed,
            inserted=series.inserted,
            changed=series.changed,
        )
