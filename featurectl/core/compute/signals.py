"""Signals to features: at each quarter of an hour, what the newest scores gave that were still valid."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from featurectl.core import pgcopy, tags
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
from featurectl.core.compute.scores import ScoreFunctions, Scores
from featurectl.core.compute.spans import Span, within
from featurectl.core.compute.symbols import EVERYTHING, SIGNALS, symbols_in
from featurectl.core.db import Connection
from featurectl.core.entity import MARKET
from featurectl.core.functions import FunctionSet
from featurectl.core.merging import Written
from featurectl.core.queries import query
from featurectl.core.times import microseconds, nearest_instant

if TYPE_CHECKING:
    from featurectl.core.compute.scores import Floats, Ints

QUARTER = 900_000_000
# Quarters of an hour that are computed at once: those of 30 days.
MANY_QUARTERS = 30 * 96
_KINDS = {"time": pgcopy.TIMESTAMP, "score": pgcopy.FLOAT, "signal": pgcopy.FLOAT}
# A series of signals has no timeframe.
_NO_TIMEFRAME = ""


def symbols(connection: Connection) -> list[str]:
    """Return every symbol of which anything is known: the market's scores are theirs as well."""
    return sorted(symbols_in(connection, *EVERYTHING) - {MARKET})


def scored_symbols(connection: Connection) -> list[str]:
    """Return the symbols that there are scores of: all that are known where the whole market has some."""
    scored = symbols_in(connection, SIGNALS)
    return symbols(connection) if MARKET in scored else sorted(scored)


def jobs(
    connection: Connection, view: View, functions: FunctionSet, request: Request, *, now: datetime
) -> list[SignalJob]:
    """Return one job for each symbol that the request wants and that there are scores for.

    Raises:
        DefinitionError: a function reads nothing, or a tag can't be read.
    """
    features = request.features or tuple(field.name for field in view.fields)
    chosen = score_functions(view, functions.only(features))
    return [
        SignalJob(connection, view, chosen, features, symbol, request, now)
        for symbol in scored_symbols(connection)
        if request.wants_symbol(symbol)
    ]


def score_functions(view: View, functions: FunctionSet) -> ScoreFunctions:
    """Return functions of a view with the validities that its fields name.

    Raises:
        DefinitionError: a function reads nothing, or a tag can't be read.
    """
    validities = {field.name: tags.validity(field) // timedelta(microseconds=1) for field in view.fields}
    return ScoreFunctions(functions, validities)


def read_scores(
    connection: Connection, functions: ScoreFunctions, symbol: str, first: int, last: int
) -> dict[str, Scores]:
    """Return the scores that may count for a symbol from instant ``first`` to ``last``, by the name of the signal."""
    names = functions.signals
    parameters = {
        "symbols": _scored(symbol),
        "names": names,
        "first": nearest_instant(first - functions.reach),
        "last": nearest_instant(last),
    }
    found = pgcopy.read(connection, query("compute_signals", "scores"), _KINDS, parameters)
    of = {name: found["signal"] == place for place, name in enumerate(names, 1)}
    return {name: Scores(found["time"][chosen], found["score"][chosen]) for name, chosen in of.items()}


def oldest_score(connection: Connection, symbol: str) -> int | None:
    """Return when the first score was given that counts for a symbol, in microseconds since 1970."""
    row = connection.execute(query("compute_signals", "oldest_score"), {"symbols": _scored(symbol)}).fetchone()
    return microseconds(row[0]) if row and row[0] else None


def next_score(connection: Connection, functions: ScoreFunctions, symbol: str, first: int) -> int | None:
    """Return when the first score was given, at or after an instant, that functions read for a symbol."""
    parameters = {"symbols": _scored(symbol), "names": functions.signals, "first": nearest_instant(first)}
    row = connection.execute(query("compute_signals", "next_score"), parameters).fetchone()
    return microseconds(row[0]) if row and row[0] else None


def _scored(symbol: str) -> list[str]:
    """Return whose scores count for a symbol: its own, and the whole market's."""
    return [symbol, MARKET]


@dataclass(frozen=True, slots=True)
class SignalJob:
    """One view's features of one symbol: those of ``features``, by their functions and the functions they need."""

    connection: Connection
    view: View
    functions: ScoreFunctions
    features: tuple[str, ...]
    symbol: str
    request: Request
    now: datetime

    @property
    def entity(self) -> str:
        return self.symbol

    def run(self) -> list[Computed]:
        """Compute what is due, in one transaction, and note what the next run need not do again.

        Raises:
            DefinitionError: a function fails.
        """
        ledger = Ledger(self.connection, self.view.source_table or "", self.symbol)
        if is_complete(self.request):
            ledger.announce([_NO_TIMEFRAME])
        with one_state(self.connection):
            state = ledger.states().get(_NO_TIMEFRAME, State())
            changes = ledger.unseen(_NO_TIMEFRAME, [SIGNALS], self._symbols)
            result = self._compute(state, changes)
            until = microseconds(self.now) // QUARTER * QUARTER
            ledger.note(_NO_TIMEFRAME, noted(state, self._hashes, until, self.request))
            if is_complete(self.request):
                ledger.mark_seen(_NO_TIMEFRAME, changes)
        return [result]

    def begin_whole(self) -> Unseen | None:
        """See :class:`Job`."""
        oldest, start = oldest_score(self.connection, self.symbol), self.request.window.start
        if self.request.features or (oldest and start and microseconds(start) > _up(oldest) * QUARTER):
            return None
        ledger = Ledger(self.connection, self.view.source_table or "", self.symbol)
        ledger.announce([_NO_TIMEFRAME])
        return {_NO_TIMEFRAME: ledger.unseen(_NO_TIMEFRAME, [SIGNALS], self._symbols)}

    def end_whole(self, seen: Unseen) -> None:
        ledger = Ledger(self.connection, self.view.source_table or "", self.symbol)
        until = microseconds(self.request.window.end or self.now) // QUARTER * QUARTER
        ledger.note_whole(seen, self._hashes, until, reach=lambda _: self.functions.reach)

    @property
    def _symbols(self) -> list[str]:
        return _scored(self.symbol)

    @property
    def _hashes(self) -> dict[str, str]:
        hashes = self.functions.hashes
        return {name: hashes[name] for name in self.features}

    def _compute(self, state: State, changes: Iterable[Change]) -> Computed:
        rows = FeatureRows(self.connection, self.view, {"symbol": self.symbol})
        newest, oldest = rows.newest(), oldest_score(self.connection, self.symbol)
        # Without rows nothing is up to date, whatever was noted.
        spans = self._due(State() if self.request.full or newest is None else state, changes, oldest)
        stays = Kept(newest, {})
        if spans:
            fields = {"": [field.name for field in self.view.fields]}
            first = spans[0][0] * QUARTER
            stays = kept(rows, newest, fields, {"": oldest}, reach=self.functions.reach, first=first)
        read = computed = 0
        written: list[Written] = []
        for instants in self._pieces(rows, newest, spans):
            scores = read_scores(self.connection, self.functions, self.symbol, int(instants[0]), int(instants[-1]))
            told, features = self._features(rows, newest, instants, scores)
            read += sum(len(one.times) for one in scores.values())
            computed += len(told)
            insert = not self.request.features
            written += stays.write(rows, told, features, {"": self.features}, now=self.now, insert=insert)
        return Computed(
            view=self.view.name,
            entity=self.symbol,
            rows=read,
            stale=computed,
            inserted=sum(one.new for one in written),
            changed=sum(one.changed for one in written),
        )

    def _due(self, state: State, changes: Iterable[Change], oldest: int | None) -> list[Span]:
        """Return the quarters of an hour, counted from 1970, that are to be computed."""
        if oldest is None:
            return []
        reach = self.functions.reach
        touched = [(_up(change.first), (change.last + reach) // QUARTER) for change in changes]
        spans = due(state, self._hashes, touched, step=QUARTER, last=microseconds(self.now) // QUARTER)
        first = max(_up(oldest), self.request.first_of_grid(QUARTER))
        return within(inside(spans, self.request.window, step=QUARTER), first, -BEGINNING)

    def _pieces(self, rows: FeatureRows, newest: int | None, spans: Iterable[Span]) -> Iterator[Ints]:
        """Yield the instants that are due, some at a time, without long spans that have neither scores nor rows."""
        import numpy as np  # 0.1 s, and only compute needs it

        for first, last in spans:
            at = self._following(rows, newest, first)
            while at is not None and at <= last:
                end = min(at + MANY_QUARTERS, last + 1)
                yield np.arange(at, end) * QUARTER
                at = self._following(rows, newest, end)

    def _following(self, rows: FeatureRows, newest: int | None, quarter: int) -> int | None:
        """Return the first quarter of an hour, from one on, at which a score may be valid or a row is."""
        instant = quarter * QUARTER
        score = next_score(self.connection, self.functions, self.symbol, instant - self.functions.reach)
        row = rows.following(instant) if newest is not None and newest >= instant else None
        return min((max(quarter, _up(one)) for one in (score, row) if one is not None), default=None)

    def _features(
        self, rows: FeatureRows, newest: int | None, instants: Ints, scores: Mapping[str, Scores]
    ) -> tuple[Ints, dict[str, Floats]]:
        """Return the features where there is one; a row that is there and has nothing to say any more is told so."""
        import numpy as np

        features, valid = self.functions.at(instants, scores)
        wanted = {name: features[name] for name in self.features}
        told = valid & ~np.logical_and.reduce([np.isnan(values) for values in wanted.values()])
        first, last = int(instants[0]), int(instants[-1])
        if newest is not None and newest >= first:
            told |= np.isin(instants, rows.between(first, last))
        return instants[told], {name: values[told] for name, values in wanted.items()}


def _up(instant: int) -> int:
    """Return the first quarter of an hour at an instant or after it."""
    return -(-instant // QUARTER)
