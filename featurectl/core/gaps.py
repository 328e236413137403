"""Bars that are missing between others, and those of them that are known never to have been there."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from featurectl.core.compute.spans import Labelled, Span, split, within
from featurectl.core.db import Connection
from featurectl.core.entity import MARKET, TIMEFRAMES, EntityId, length, parse_id_or_symbol
from featurectl.core.queries import query
from featurectl.core.times import ALWAYS, Window, from_microseconds, iso, microseconds
from featurectl.errors import InvalidTime, NotFound, UsageError

ANY_TIMEFRAME = "*"
# The end of a range that has none: of a symbol that is traded no more.
FOREVER = datetime(9999, 12, 31, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Gap:
    """Consecutive missing bars of a series, by the open times of the first and the last; known absent for a reason."""

    entity: EntityId
    first: datetime
    last: datetime
    bars: int
    reason: str | None = None

    @property
    def known_absent(self) -> bool:
        return self.reason is not None


@dataclass(frozen=True, slots=True)
class SeriesGaps:
    """A series by the open times of its bars: how many there should be in the window, and which are not there."""

    entity: EntityId
    first_bar: datetime
    last_bar: datetime
    expected: int
    gaps: tuple[Gap, ...]

    @property
    def missing(self) -> int:
        """Count the missing bars that are not known absent."""
        return sum(gap.bars for gap in self.gaps if not gap.known_absent)

    @property
    def known_absent(self) -> int:
        """Count the missing bars that are."""
        return sum(gap.bars for gap in self.gaps if gap.known_absent)


@dataclass(frozen=True, slots=True)
class Survey:
    """What was looked at, series by series; the counts are those of all of them."""

    series: tuple[SeriesGaps, ...]

    @property
    def gaps(self) -> list[Gap]:
        return [gap for one in self.series for gap in one.gaps]

    @property
    def missing(self) -> int:
        return sum(one.missing for one in self.series)

    @property
    def known_absent(self) -> int:
        return sum(one.known_absent for one in self.series)


@dataclass(frozen=True, slots=True)
class Declaration:
    """Bars known to be absent, by their open times, both included; ``*`` is every symbol, or every timeframe."""

    symbol: str
    timeframe: str
    first: datetime
    last: datetime
    reason: str
    declared_at: datetime

    @property
    def entity(self) -> EntityId:
        return EntityId(self.symbol, "" if self.timeframe == ANY_TIMEFRAME else self.timeframe)

    def __str__(self) -> str:
        return f"{self.entity} {iso(self.first)} .. {end_of_range(self.last)}"

    def means(self, series: EntityId) -> bool:
        """Tell whether it is about a series, by its name or a star."""
        return _means(self.entity, series)


def end_of_range(last: datetime) -> str:
    """Write the end of a range, as users give it."""
    return "forever" if last == FOREVER else iso(last)


@dataclass(frozen=True, slots=True)
class _Bars:
    """The bars of a series, numbered from its first one, which is 0: that is the grid of 3d and 1w bars, too."""

    first: int
    length: int

    def opening(self, number: int) -> datetime:
        return from_microseconds(self.first + number * self.length)

    def at_or_before(self, instant: datetime) -> int:
        return (microseconds(instant) - self.first) // self.length

    def at_or_after(self, instant: datetime) -> int:
        return -((self.first - microseconds(instant)) // self.length)

    def closed_by(self, instant: datetime) -> int:
        return self.at_or_before(instant) - 1


@dataclass(frozen=True, slots=True)
class _Search:
    """The open times to look at, and by when a bar after the last one there is must have closed to be missing."""

    window: Window
    closed_by: datetime | None

    def numbers(self, bars: _Bars, last_bar: int) -> Span:
        """Return the numbers of the bars that should be there; the first is past the last where there are none."""
        low = max(0, bars.at_or_after(self.window.start)) if self.window.start else 0
        high = max(last_bar, bars.closed_by(self.closed_by)) if self.closed_by else last_bar
        return low, min(high, bars.at_or_before(self.window.end)) if self.window.end else high


def find_gaps(connection: Connection, ids: Sequence[str] = (), window: Window = ALWAYS, *, now: datetime) -> Survey:
    """Find the missing bars of these series or symbols, or of all, whose open times lie in the window.

    Bars should be there from a series' first to its last; where the window has an end, also after the last one, as
    far as they have closed by that end, and by now.

    Raises:
        InvalidEntityId: an id is neither an entity id nor a symbol.
        NotFound: there are no candles of one.
    """
    entities = [parse_id_or_symbol(text) for text in ids]
    search = _Search(window, min(window.end, now) if window.end else None)
    return _survey(connection, _chosen(_list_series(connection), entities), search)


def _list_series(connection: Connection) -> list[EntityId]:
    rows = connection.execute(query("candles", "list_series"))
    # Of a timeframe that somebody made up by hand, no one knows when its bars open.
    return [EntityId(symbol, timeframe) for symbol, timeframe in rows if timeframe in TIMEFRAMES]


def _chosen(known: Sequence[EntityId], wanted: Sequence[EntityId]) -> list[EntityId]:
    """Return the series that these ids, or symbols, mean; all of them where there are none."""
    for one in wanted:
        if str(one) != MARKET and not any(_means(one, series) for series in known):
            raise _unknown(one, known)
    return [series for series in known if not wanted or any(_means(one, series) for one in wanted)]


def _means(one: EntityId, series: EntityId) -> bool:
    return one.symbol in (MARKET, series.symbol) and one.timeframe in ("", series.timeframe)


def _unknown(one: EntityId, known: Sequence[EntityId]) -> NotFound:
    names = {str(series) if one.timeframe else series.symbol for series in known}
    kind = "entity" if one.timeframe else "symbol"
    return NotFound.of(kind, str(one), names, hint="`featurectl ingest candles` brings in more")


def _survey(connection: Connection, series: Sequence[EntityId], search: _Search) -> Survey:
    declared = read_declarations(connection)
    columns = {"symbols": [one.symbol for one in series], "timeframes": [one.timeframe for one in series]}
    extents = connection.execute(query("gaps", "extents"), columns).fetchall()
    return Survey(
        tuple(
            _examine(connection, EntityId(symbol, timeframe), (first, last), search, declared)
            for symbol, timeframe, first, last in extents
        )
    )


def _examine(
    connection: Connection,
    entity: EntityId,
    extent: tuple[datetime, datetime],
    search: _Search,
    declared: Sequence[Declaration],
) -> SeriesGaps:
    bars = _Bars(microseconds(extent[0]), length(entity.timeframe))
    last_bar = bars.at_or_before(extent[1])
    low, high = search.numbers(bars, last_bar)
    holes = [*_holes(connection, entity, bars, (low, min(high, last_bar))), (last_bar + 1, high)]
    parts = split(within(holes, low, high), _labels(entity, bars, declared))
    gaps = (
        Gap(entity, bars.opening(first), bars.opening(last), last - first + 1, reason)
        for (first, last), reason in parts
    )
    return SeriesGaps(entity, *extent, expected=max(0, high - low + 1), gaps=tuple(gaps))


def _holes(connection: Connection, entity: EntityId, bars: _Bars, numbers: Span) -> list[Span]:
    """Return the numbers of the bars that are missing between others; holes at the ends may be wider than asked."""
    first, last = numbers
    if first > last:
        return []
    parameters = {
        "symbol": entity.symbol,
        "timeframe": entity.timeframe,
        "first": bars.opening(first),
        "last": bars.opening(last),
        "length": TIMEFRAMES[entity.timeframe],
    }
    rows = connection.execute(query("gaps", "holes"), parameters)
    return [(bars.at_or_before(before) + 1, bars.at_or_after(after) - 1) for before, after in rows]


def _labels(entity: EntityId, bars: _Bars, declared: Iterable[Declaration]) -> list[Labelled]:
    """Return what is declared of a series with its reasons: first what names it, and of that what was said last."""
    ours = [one for one in declared if _means(one.entity, entity)]
    ours.sort(key=lambda one: one.declared_at, reverse=True)
    ours.sort(key=lambda one: (one.symbol == MARKET, one.timeframe == ANY_TIMEFRAME))
    return [((bars.at_or_after(one.first), bars.at_or_before(one.last)), one.reason) for one in ours]


def read_declarations(connection: Connection, ids: Sequence[str] = ()) -> list[Declaration]:
    """Return the bars known absent: all, or those that concern an id, whether they name it or a star.

    Raises:
        InvalidEntityId: an id is neither an entity id nor a symbol.
    """
    wanted = [parse_id_or_symbol(text) for text in ids]
    rows = [Declaration(*row) for row in connection.execute(query("gaps", "declared"))]
    return [row for row in rows if not wanted or any(_concerns(row.entity, one) for one in wanted)]


def declarations_if_any(connection: Connection) -> list[Declaration]:
    """Return the bars known absent; none where this role may not read them, or the schema is older than they are."""
    row = connection.execute(query("gaps", "can_read_declared")).fetchone()
    return read_declarations(connection) if row and row[0] else []


def _concerns(entity: EntityId, one: EntityId) -> bool:
    symbols, timeframes = {entity.symbol, one.symbol}, {entity.timeframe, one.timeframe}
    return (MARKET in symbols or len(symbols) == 1) and ("" in timeframes or len(timeframes) == 1)


@dataclass(frozen=True, slots=True)
class Declared:
    """What was declared, and how many bars are missing there now."""

    declarations: list[Declaration]
    bars: int


def declare(
    connection: Connection, ids: Sequence[str], first: datetime, last: datetime, reason: str, *, now: datetime
) -> Declared:
    """Declare the bars of these ids that open from ``first`` to ``last`` known absent; all ids or, on an error, none.

    Declared again they keep the later reason. A symbol means all its timeframes, ``*`` and ``*_1h`` all symbols,
    those to come included. A range that ends with :data:`FOREVER` is of a symbol that is traded no more.

    Raises:
        InvalidEntityId: an id is neither an entity id nor a symbol.
        NotFound: there are no candles of one.
        InvalidTime: the range ends before it starts, or in the future.
        UsageError: the reason is blank, or there are no ids.
    """
    Window(first, last).checked()
    if FOREVER != last > now or first > now:
        place = f"ends in the future ({iso(last)})" if first <= now else f"starts in the future ({iso(first)})"
        raise InvalidTime(f"the range {place}: those bars may still come; end it by now, or with forever")
    if not reason.strip():
        raise UsageError("the reason is blank; say why the bars are absent, for example 'exchange outage'")
    entities = _named(ids)
    known = _list_series(connection)
    _chosen(known, [one for one in entities if one.symbol != MARKET])
    with connection.transaction():
        values = {"first": first, "last": last, "reason": reason.strip(), "now": now}
        rows = [_returned(connection, "declare", one, values) for one in entities]
        named = [series for series in known if any(_means(one, series) for one in entities)]
        survey = _survey(connection, named, _Search(Window(first, last), closed_by=now))
    return Declared([row for row in rows if row], survey.known_absent)


def withdraw(connection: Connection, ids: Sequence[str], first: datetime, last: datetime) -> list[Declaration]:
    """Take declarations back, each with exactly this id and range; all of them or, on an error, none.

    Raises:
        InvalidEntityId: an id is neither an entity id nor a symbol.
        NotFound: there is no such declaration.
        UsageError: there are no ids.
    """
    entities = _named(ids)
    declared = [str(known) for known in read_declarations(connection)]
    with connection.transaction():
        rows = [_returned(connection, "withdraw", one, {"first": first, "last": last}) for one in entities]
        for one, row in zip(entities, rows, strict=True):
            if row is None:
                asked = f"{one} {iso(first)} .. {end_of_range(last)}"
                raise NotFound.of("declaration", asked, declared, hint="name one of them exactly")
    return [row for row in rows if row]


def _named(ids: Sequence[str]) -> list[EntityId]:
    """Return each id once."""
    if not ids:
        raise UsageError("give the ids whose bars are meant, for example BTCUSDT_1h, BTCUSDT, or '*' for every symbol")
    return list(dict.fromkeys(parse_id_or_symbol(text) for text in ids))


def _returned(connection: Connection, statement: str, one: EntityId, values: dict[str, object]) -> Declaration | None:
    key = {"symbol": one.symbol, "timeframe": one.timeframe or ANY_TIMEFRAME}
    row = connection.execute(query("gaps", statement), {**key, **values}).fetchone()
    return Declaration(*row) if row else None
