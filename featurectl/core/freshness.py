"""How far behind the clock features are, by view and timeframe: at their source, computed, online, and as served."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from psycopg import sql

from featurectl.core import sources, tags
from featurectl.core.catalog import Catalog, View
from featurectl.core.compute.spans import merged, within
from featurectl.core.db import Connection, translated_errors
from featurectl.core.entity import MARKET, TIMEFRAMES, EntityId
from featurectl.core.gaps import ANY_TIMEFRAME, Declaration, declarations_if_any
from featurectl.core.materialize import choose_views
from featurectl.core.queries import query
from featurectl.core.runs.retries import ends_all
from featurectl.core.schema import columns_of, table_identifier
from featurectl.core.sources import column, conjunction, key_walk
from featurectl.core.times import EPOCH, microseconds
from featurectl.errors import FeaturectlError, NotFound, PartlyDone, SchemaMissing

_SMALLEST = timedelta(microseconds=1)
# Views of these have rows at instants of their own; those of candles have one a bar.
CADENCES = {"ticks": timedelta(minutes=1), "signals": timedelta(minutes=15)}
_TICKS = (("market.order_book", ("symbol",)), ("market.trades", ("symbol",)))
_SIGNALS = (("market.signals", ("symbol", "name")),)


@dataclass(frozen=True, slots=True)
class EntityClock:
    """One entity of a view: when its newest source row is from, and its newest features, computed and online.

    ``source`` of a view of candles is the close of the newest closed bar; of views that nothing computes it is unknown.
    """

    key: tuple[str, ...]
    source: datetime | None
    computed: datetime | None
    online: datetime | None


@dataclass(frozen=True, slots=True)
class Freshness:
    """A view in one timeframe: the newest instants of its entities, and how far the worst of them is behind ``now``.

    ``lag_bars`` counts the rows that are due and not online: bars, or minutes for features of ticks, or quarters of an
    hour for those of signals; ``None`` where nobody knows when rows are due. ``behind`` counts the entities of which
    newer rows could be online than are, ``stale`` those past their TTL, ``missing`` those with no online row at all.
    """

    view: str
    timeframe: str
    entities: int
    source: datetime | None
    computed: datetime | None
    materialized: datetime | None
    served: datetime | None
    lag_seconds: float | None
    lag_bars: int | None
    worst: str | None
    behind: int
    stale: int
    missing: int


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A view whose freshness could not be looked up, and why."""

    view: str
    error: FeaturectlError


@dataclass(frozen=True, slots=True)
class FreshnessReport:
    """How fresh views are, those of them that could not be read, and how many there are in all."""

    views: list[Freshness]
    unreadable: list[Unreadable]
    total: int

    @property
    def failure(self) -> FeaturectlError | None:
        """What there is to be said of unreadable views: their own error where all are, partly done otherwise."""
        if not self.unreadable:
            return None
        if len(self.unreadable) == self.total:
            return self.unreadable[0].error
        reasons = "; ".join(f"{one.view}: {one.error}" for one in self.unreadable)
        return PartlyDone(f"{len(self.unreadable)} of {self.total} views can't be looked at: {reasons}")


def read_freshness(
    connection: Connection,
    catalog: Catalog,
    *,
    now: datetime,
    views: Sequence[str] = (),
    symbols: Sequence[str] = (),
) -> FreshnessReport:
    """Return how fresh the online features are, of all entities or those of some symbols.

    Its cost depends on the number of entities, not on the length of their history. A view that can't be read does not
    hide the others. Bars that are declared known absent are not due.

    Raises:
        NotFound: a view does not exist, or none has a symbol.
        UsageError: a view that is named has no online table of ours.
        DatabaseUnreachable, Interrupted: nothing can be read any more.
    """
    market = _Market(connection, now)
    chosen = [view for view in choose_views(catalog, views) if view.has_history and view.join_keys]
    clocks: dict[str, list[EntityClock]] = {}
    unreadable: list[Unreadable] = []
    for view in chosen:
        try:
            with translated_errors(), connection.transaction():
                clocks[view.name] = entity_clocks(connection, view, market)
        except FeaturectlError as error:
            if ends_all(error):
                raise
            unreadable.append(Unreadable(view.name, error))
    readable = [view for view in chosen if view.name in clocks]
    if symbols and not unreadable:
        _check_symbols(symbols, {_value(view, one, "symbol") for view in readable for one in clocks[view.name]})
    declared = declarations_if_any(connection)
    found: list[Freshness] = []
    for view in readable:
        several = [one for one in clocks[view.name] if not symbols or _value(view, one, "symbol") in symbols]
        found += summarize(view, several, declared, now=now)
    return FreshnessReport(found, unreadable, len(chosen))


def _check_symbols(symbols: Sequence[str], known: set[str]) -> None:
    if unknown := [name for name in symbols if name not in known]:
        raise NotFound.of("symbol", unknown[0], known - {""}, "`featurectl ingest` brings data in")


def _value(view: View, clock: EntityClock, key: str) -> str:
    """Return the value of a join key, or nothing where a view has no such key."""
    return dict(zip(view.join_keys, clock.key, strict=True)).get(key, "")


@dataclass(frozen=True, slots=True)
class _Ends:
    """When the first and the newest row of a source are from."""

    first: datetime
    newest: datetime


class _Market:
    """The newest rows of the market's tables, each read once; ``now`` is the last instant that counts."""

    def __init__(self, connection: Connection, now: datetime) -> None:
        self.connection, self.now = connection, now
        self._bars: dict[tuple[str, str], datetime] | None = None
        self._rows: dict[str, dict[str, _Ends]] = {}

    def sources_of(self, view: View, known: Iterable[tuple[str, ...]]) -> dict[tuple[str, ...], datetime]:
        """Return the newest source row by the view's key: of the entities ``known``, and of those that lack features.

        A view that nothing computes has none.
        """
        if view.computed_from == "candles":
            return {_key(view, EntityId(*series)): close for series, close in self._closed_bars().items()}
        if view.computed_from == "ticks":
            return self._of_rows(view, self._ends(_TICKS), known, tags.timeframes(view))
        if view.computed_from == "signals":
            return self._of_rows(view, self._signals(), known, ("",))
        return {}

    def _of_rows(
        self,
        view: View,
        ends: Mapping[str, _Ends],
        known: Iterable[tuple[str, ...]],
        timeframes: Sequence[str],
    ) -> dict[tuple[str, ...], datetime]:
        """Return what :meth:`sources_of` does for a view with rows at instants of their own.

        Nothing is missing where no such instant has come yet, or where `compute` has looked and had nothing to say.
        """
        place = view.join_keys.index("symbol")
        # Of ticks also in timeframes that the view does not name: those of the symbol's candles.
        found = {key: ends[key[place]].newest for key in known if key[place] in ends}
        looked_at = set(self.connection.execute(query("freshness", "looked_at"), {"table": view.source_table}))
        step = CADENCES[view.computed_from or ""]
        for symbol, one in ends.items():
            if one.first <= EPOCH + (self.now - EPOCH) // step * step:
                names = (name for name in timeframes if (symbol, name) not in looked_at)
                found |= {_key(view, EntityId(symbol, name)): one.newest for name in names}
        return found

    def _closed_bars(self) -> dict[tuple[str, str], datetime]:
        if self._bars is None:
            self._bars = newest_closed_bars(self.connection, self.now)
        return self._bars

    def _signals(self) -> dict[str, _Ends]:
        """Return the signals by symbol; those of the whole market are every symbol's."""
        from featurectl.core.compute.symbols import EVERYTHING, symbols_in  # 0.05 s

        own = self._ends(_SIGNALS)
        market = own.pop(MARKET, None)
        if market is None:
            return own
        return {name: _merged(own.get(name), market) for name in symbols_in(self.connection, *EVERYTHING) - {MARKET}}

    def _ends(self, tables: Iterable[tuple[str, tuple[str, ...]]]) -> dict[str, _Ends]:
        ends: dict[str, _Ends] = {}
        for name, keys in tables:
            if name not in self._rows:
                rows = self.connection.execute(self._ends_of_rows(name, keys))
                self._rows[name] = {symbol: _Ends(first, newest) for symbol, first, newest in rows}
            ends |= {symbol: _merged(ends.get(symbol), one) for symbol, one in self._rows[name].items()}
        return ends

    def _ends_of_rows(self, name: str, keys: tuple[str, ...]) -> sql.Composed:
        table = table_identifier(name)
        return query("freshness", "ends_of_rows").format(
            entities=key_walk(table, keys),
            source=table,
            match=conjunction(sql.SQL("{} = {}").format(column(key), column(key, "entities")) for key in keys),
            now=sql.Literal(self.now),
        )


def newest_closed_bars(connection: Connection, now: datetime) -> dict[tuple[str, str], datetime]:
    """Return when the newest bar that has closed by ``now`` did so, by symbol and timeframe."""
    statement = query("freshness", "newest_closed_bars").format(series=query("candles", "list_series"))
    parameters = {"timeframes": list(TIMEFRAMES), "lengths": list(TIMEFRAMES.values()), "now": now}
    rows = connection.execute(statement, parameters)
    return {(symbol, timeframe): close for symbol, timeframe, close in rows if close}


def _merged(one: _Ends | None, other: _Ends) -> _Ends:
    return other if one is None else _Ends(min(one.first, other.first), max(one.newest, other.newest))


def _key(view: View, entity: EntityId) -> tuple[str, ...]:
    return tuple(getattr(entity, key) for key in view.join_keys)


def entity_clocks(connection: Connection, view: View, market: _Market) -> list[EntityClock]:
    """Return every entity that a view's source or its online table has, or should have by the market's tables."""
    rows = connection.execute(_statement(connection, view, market.now)).fetchall()
    known = {tuple(key): (computed, online) for computed, online, *key in rows}
    newest = market.sources_of(view, known)
    return [EntityClock(key, newest.get(key), *known.get(key, (None, None))) for key in sorted({*known, *newest})]


def _statement(connection: Connection, view: View, now: datetime) -> sql.Composed:
    if not (online := columns_of(connection, view.online_table or "")):
        raise SchemaMissing(f"view '{view.name}' has no online table {view.online_table}; run `featurectl apply`")
    kind = sources.column_types(connection, view).get(view.timestamp_column, "timestamptz")
    names = [sql.Identifier(key) for key in view.join_keys]
    return query("freshness", "clocks_of_view").format(
        entities=sources.entity_list(connection, view),
        # As they are online, where a key may have another type.
        entity_keys=sources.commas(
            sql.SQL("{}::{} AS {}").format(column(key, "entities"), sql.SQL(online[key]), sql.Identifier(key))
            for key in view.join_keys
        ),
        event=sources.epoch(column(view.timestamp_column), kind),
        source=sources.source(view),
        match=sources.same_keys(view, "entities"),
        until=sources.within(view.timestamp_column, None, now, kind),
        order=sources.newest_first(view.timestamp_column, None),
        key_texts=sources.commas(sql.SQL("{}::text").format(name) for name in names),
        key_names=sources.commas(names),
        online=table_identifier(view.online_table or ""),
    )


def summarize(
    view: View, clocks: Iterable[EntityClock], declared: Sequence[Declaration], *, now: datetime
) -> Iterator[Freshness]:
    """Sum a view's entities up by timeframe, the shortest first; a view without timeframes is one group."""
    groups: dict[str, list[EntityClock]] = {}
    for clock in clocks:
        groups.setdefault(_value(view, clock, "timeframe"), []).append(clock)
    order = list(TIMEFRAMES)
    for timeframe in sorted(groups, key=lambda name: (order.index(name) if name in order else len(order), name)):
        yield _summary(view, timeframe, groups[timeframe], declared, now)


def _summary(
    view: View, timeframe: str, clocks: Sequence[EntityClock], declared: Sequence[Declaration], now: datetime
) -> Freshness:
    step = TIMEFRAMES.get(timeframe) if view.computed_from == "candles" else CADENCES.get(view.computed_from or "")
    shift = step if step and view.computed_from == "candles" else timedelta(0)
    lags = {clock: _lag(clock, step, shift, _absent(view, clock, declared), now) for clock in clocks}
    worst = max(clocks, key=lambda clock: (clock.online is None, lags[clock] or timedelta(0)))
    known = [lag for lag in lags.values() if lag is not None]
    fresh = [clock.online for clock in clocks if clock.online and _is_served(clock.online, view, now)]
    lag = max(known, default=None)
    return Freshness(
        view=view.name,
        timeframe=timeframe,
        entities=len(clocks),
        source=_newest(clock.source for clock in clocks),
        computed=_newest(clock.computed for clock in clocks),
        materialized=_newest(clock.online for clock in clocks),
        served=max(fresh, default=None),
        lag_seconds=None if lag is None else lag.total_seconds(),
        lag_bars=None if lag is None or step is None else int(lag / step),
        worst=name_of_key(view, worst.key),
        behind=sum(is_behind(clock, view, now) for clock in clocks),
        stale=sum(clock.online is not None and _is_old(clock.online, view, now) for clock in clocks),
        missing=sum(clock.online is None for clock in clocks),
    )


def _newest(instants: Iterable[datetime | None]) -> datetime | None:
    return max((one for one in instants if one), default=None)


def name_of_key(view: View, key: Sequence[str]) -> str:
    """Return the id of an entity, or the values of keys that no id has."""
    values = dict(zip(view.join_keys, key, strict=True))
    if "symbol" in values and values.keys() <= {"symbol", "timeframe"}:
        return str(EntityId(values["symbol"], values.get("timeframe", "")))
    return "_".join(key)


def _is_old(online: datetime, view: View, now: datetime) -> bool:
    return view.ttl is not None and now - online > view.ttl


def _is_served(online: datetime, view: View, now: datetime) -> bool:
    return online <= now and not _is_old(online, view, now)


def _lag(
    clock: EntityClock, step: timedelta | None, shift: timedelta, absent: Iterable[Declaration], now: datetime
) -> timedelta | None:
    """Return how far the online row is behind the last that is due; nothing where there is none.

    What is known absent is not due. Rows are ``shift`` later than what they are of: a bar's are from its close.
    """
    if clock.online is None:
        return None
    # A series says itself where its grid lies. Instants are numbers of steps, or microseconds where rows have no grid.
    anchor = microseconds(clock.computed or clock.online)
    length, late = (step or _SMALLEST) // _SMALLEST, shift // _SMALLEST
    first, last = (microseconds(clock.online) - anchor) // length + 1, (microseconds(now) - anchor) // length
    spans = (
        (-((anchor - microseconds(one.first) - late) // length), (microseconds(one.last) + late - anchor) // length)
        for one in absent
    )
    missing = within(merged((low, high) for low, high in spans if low <= high), first, last)
    due = last - first + 1 - sum(high - low + 1 for low, high in missing)
    return (step or _SMALLEST) * max(due, 0)


def _absent(view: View, clock: EntityClock, declared: Iterable[Declaration]) -> list[Declaration]:
    """Return what is declared of an entity; what names a timeframe is about its bars, not about ticks or signals."""
    entity = EntityId(_value(view, clock, "symbol"), _value(view, clock, "timeframe"))
    of_bars = view.computed_from == "candles"
    return [one for one in declared if one.means(entity) and (of_bars or one.timeframe == ANY_TIMEFRAME)]


def is_behind(clock: EntityClock, view: View, now: datetime) -> bool:
    """Tell whether newer features could be online than are: computed ones, or those of a bar that is closed."""
    if clock.online is None or (clock.computed is not None and clock.online < clock.computed):
        return clock.computed is not None or clock.source is not None
    if view.computed_from == "candles":
        return clock.source is not None and clock.online < clock.source
    return False


def by_lag(found: Sequence[Freshness], most: int) -> list[Freshness]:
    """Return those that are more than so many bars behind, or miss entities."""
    return [one for one in found if one.missing or (one.lag_bars is not None and one.lag_bars > most)]
