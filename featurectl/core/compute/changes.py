"""What was written to order book, trades and signals, and which series of features are up to date with it.

Whoever writes to those tables notes in the same transaction which times of a symbol it wrote. A series of features is
up to date with the changes it has seen, up to an instant, with certain functions.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from psycopg import IsolationLevel
from psycopg.pq import TransactionStatus

from featurectl.core.compute.request import Request, Unseen
from featurectl.core.compute.spans import Span, merged, within
from featurectl.core.db import Connection
from featurectl.core.queries import query
from featurectl.core.times import ALWAYS, Window, microseconds, nearest_instant

# Further back than any time that PostgreSQL holds, in whatever unit.
BEGINNING = -(2**62)


@dataclass(frozen=True, slots=True)
class Change:
    """Times of one source that were written to, in microseconds since 1970."""

    id: int
    source: str
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class State:
    """With which functions a series was computed, and up to when, in microseconds since 1970."""

    hashes: Mapping[str, str] = field(default_factory=dict)
    until: int | None = None

    def knows(self, hashes: Mapping[str, str]) -> bool:
        """Tell whether the series was computed with these functions."""
        return all(self.hashes.get(name) == code for name, code in hashes.items())

    def extended(self, hashes: Mapping[str, str], until: int) -> State:
        """Return the state after all up to ``until`` was computed with these functions."""
        known = self.until is not None and self.knows(hashes)
        return State(hashes, max(until, self.until or until) if known else until)


@dataclass(frozen=True, slots=True)
class Ledger:
    """What is noted of a symbol's series in a feature table; a series without a timeframe has the timeframe ''."""

    connection: Connection
    table: str
    symbol: str

    def announce(self, timeframes: Sequence[str]) -> None:
        """Have all changes kept from now on. To be committed before the first of these series is computed."""
        self._execute("announce_series", timeframes=list(timeframes))

    def states(self) -> dict[str, State]:
        rows = self.connection.execute(query("changes", "series_states"), self._series)
        return {name: State(hashes, until and microseconds(until)) for name, hashes, until in rows}

    def unseen(self, timeframe: str, sources: Sequence[str], symbols: Sequence[str]) -> list[Change]:
        """Return what was written for these symbols and a series has not been marked to have seen."""
        parameters = {**self._series, "timeframe": timeframe, "sources": list(sources), "symbols": list(symbols)}
        rows = self.connection.execute(query("changes", "unseen_changes"), parameters)
        return [Change(id, source, microseconds(first), microseconds(last)) for id, source, first, last in rows]

    def mark_seen(self, timeframe: str, changes: Iterable[Change]) -> None:
        if ids := [change.id for change in changes]:
            self._execute("mark_seen", timeframe=timeframe, ids=ids)

    def note(self, timeframe: str, state: State | None) -> None:
        """Note what state a series is in from now on, if that is known."""
        if state is not None and state.until is not None:
            until = nearest_instant(state.until)
            self._execute("note_series", timeframe=timeframe, hashes=json.dumps(dict(state.hashes)), until=until)

    def note_whole(self, seen: Unseen, hashes: Mapping[str, str], until: int, reach: Callable[[str], int]) -> None:
        """Note that series were computed in parts, all of them up to ``until``, and what they have seen by that.

        ``reach`` says for how many microseconds a row of a series looks back.
        """
        states = self.states()
        for timeframe, changes in seen.items():
            state = states.get(timeframe, State()).extended(hashes, until)
            self.note(timeframe, state)
            self.mark_seen(timeframe, _made(changes, state, until, reach=reach(timeframe)))

    def forget_others(self, timeframes: Sequence[str]) -> None:
        """Forget the states of series that are computed no more: no change need wait for them."""
        self._execute("forget_series", timeframes=list(timeframes))

    @property
    def _series(self) -> dict[str, str]:
        return {"table": self.table, "symbol": self.symbol}

    def _execute(self, name: str, **parameters: object) -> None:
        self.connection.execute(query("changes", name), {**self._series, **parameters})


def forget_seen(connection: Connection) -> None:
    """Drop the changes that every series has seen which would have to: those that some view is computed into.

    What is noted of the tables of other views goes too; should one come back, it is computed from its beginning.
    """
    connection.execute(query("changes", "forget_seen"))


def forget_symbols(connection: Connection, table: str, symbols: Iterable[str]) -> None:
    """Forget the series of all symbols but these: there is nothing left of which a feature table has theirs."""
    connection.execute(query("changes", "forget_symbols"), {"table": table, "symbols": list(symbols)})


def due(state: State, hashes: Mapping[str, str], changed: Iterable[Span], *, step: int, last: int) -> list[Span]:
    """Return the instants up to ``last`` for which a series in this state is to be computed.

    They are those of ``changed`` and those after the state's, or all, where the functions are others than before. All
    are numbers of a grid with an instant every ``step`` microseconds.
    """
    if state.until is None or not state.knows(hashes):
        return [(BEGINNING, last)]
    return within(merged([*changed, (state.until // step + 1, last)]), BEGINNING, last)


def inside(spans: Iterable[Span], window: Window, *, step: int) -> list[Span]:
    """Return the parts of spans of such a grid that lie in a window."""
    first = -(-microseconds(window.start) // step) if window.start else BEGINNING
    last = microseconds(window.end) // step if window.end else -BEGINNING
    return within(spans, first, last)


def _made(changes: Iterable[Change], state: State, until: int, *, reach: int) -> list[Change]:
    """Return those of changes that a series in this state has seen, of which all up to ``until`` was computed.

    Rows after that which were there before may lack what was written up to ``reach`` microseconds before them.
    """
    is_end = state.until is None or state.until <= until
    return [change for change in changes if is_end or change.last + reach <= until]


def is_complete(request: Request) -> bool:
    """Tell whether a run makes all features, at all times; only then has it seen the changes it found."""
    return request.window == ALWAYS and not request.features


def noted(state: State, hashes: Mapping[str, str], until: int, request: Request) -> State | None:
    """Return the state of a series after a run up to ``until``; nothing where the run did only a part of the times.

    One of certain features makes them like the others, which are as they were.
    """
    if request.window != ALWAYS:
        return None
    return State({**state.hashes, **hashes}, state.until) if request.features else State(hashes, until)


@contextlib.contextmanager
def one_state(connection: Connection) -> Iterator[None]:
    """Run a transaction that sees one state of the database: what is committed meanwhile is for the next one.

    Within a transaction it is a part of that, which has been told what it sees.
    """
    if connection.info.transaction_status is not TransactionStatus.IDLE:
        with connection.transaction():
            yield
        return
    connection.isolation_level = IsolationLevel.REPEATABLE_READ
    try:
        with connection.transaction():
            yield
    finally:
        connection.isolation_level = None
