"""Candles held to rules of theirs, in one pass over them; and the bars that are missing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any

from psycopg import sql

from featurectl.core.catalog import View
from featurectl.core.checks.pooling import Fault, Judged, faults_of, number
from featurectl.core.checks.report import Offence
from featurectl.core.checks.rows import Key, Rows, Scope
from featurectl.core.checks.settings import CandleCheck, CandleRule, CheckSettings
from featurectl.core.db import Connection
from featurectl.core.entity import MARKET, TIMEFRAMES, EntityId
from featurectl.core.freshness import name_of_key
from featurectl.core.gaps import SeriesGaps, find_gaps
from featurectl.core.queries import query
from featurectl.core.times import Window

CANDLES = "market.candles"
# As a view: what the rules have to know of it.
CANDLES_VIEW = View(
    CANDLES, ("symbol", "timeframe"), 0, False, CANDLES, None, "open_time", "created_timestamp", computed_from="candles"
)
# Bars open at multiples of their length since some instant: weeks on a Monday, three days at any midnight.
_MONDAY, _EPOCH = "1970-01-05 00:00:00+00", "1970-01-01 00:00:00+00"
_GRIDS = {"3d": "1 day"}


class CandleChecks:
    """The rules that are on, held to the candles of a scope."""

    def __init__(self, connection: Connection, scope: Scope, settings: CheckSettings, rules: Iterable[CandleRule]):
        self._connection, self._scope = connection, scope
        self._rules = {rule: check for rule in rules if (check := settings.candles[rule]).severity is not None}
        self._rows = Rows.of(connection, CANDLES_VIEW, scope)
        self._in_bars = [rule for rule in self._rules if rule is not CandleRule.GAPS]
        self._gaps: list[SeriesGaps] = []

    def judge(self, *, now: datetime) -> Iterator[tuple[CandleRule, Judged]]:
        """Hold the bars to every rule."""
        faults: dict[CandleRule, list[Fault]] = {rule: [] for rule in self._in_bars}
        rows = entities = 0
        if self._in_bars:
            counts = self._rows.execute("totals", features=sql.SQL(""))
            rows, entities = sum(row[1] for row in counts), len(list(counts))
            parts = (self._by_series(index, rule) for index, rule in enumerate(self._in_bars))
            for index, *fault in self._look(sql.SQL(" UNION ALL ").join(parts)):
                faults[self._in_bars[index]] += faults_of([fault])
        for rule, check in self._rules.items():
            if rule is CandleRule.GAPS:
                yield rule, self._judged_gaps(check, now)
            else:
                yield rule, self._judged(rule, check, faults[rule], rows, entities)

    def _judged(self, rule: CandleRule, check: CandleCheck, faults: list[Fault], rows: int, entities: int) -> Judged:
        assert check.severity is not None
        longest = None
        if rule is CandleRule.STUCK_PRICE:  # runs that are short enough are told, too
            longest = max((fault.worst or 1 for fault in faults), default=1.0 if rows else None)
            faults = [fault for fault in faults if fault.rows]
        return Judged(CANDLES_VIEW, "", rule, check.severity, check.limit, entities, rows, faults, longest)

    # --- bars --------------------------------------------------------------------------------------------------------

    def _look(self, faults: sql.Composable, *further: sql.Composable) -> Iterable[tuple[Any, ...]]:
        """Judge every bar by itself and by the one before, and ask of those that look odd."""
        measured = [rule for rule in self._in_bars if rule is not CandleRule.STUCK_PRICE]
        odd: list[sql.Composable] = [sql.SQL("{} IS NOT NULL").format(sql.Identifier(rule)) for rule in measured]
        if len(measured) < len(self._in_bars):
            odd.append(sql.Identifier(CandleRule.STUCK_PRICE))
        chosen = sql.SQL(" AND ").join([self._rows.chosen, *further])
        return self._rows.execute(
            "judged_bars",
            chosen=chosen,
            measures=sql.SQL("").join(
                sql.SQL(",\n{} AS {}").format(self._measure(rule), sql.Identifier(rule)) for rule in measured
            ),
            any=sql.SQL(" OR ").join(odd),
            faults=faults,
        )

    def _measure(self, rule: CandleRule) -> sql.Composable:
        parts = {"bar": sql.Identifier("neighbours"), "limit": sql.Literal(self._rules[rule].limit)}
        return query("checks", str(rule)).format(**parts, grid=_by_timeframe(_grid), step=_by_timeframe(_step))

    def _by_series(self, index: int, rule: CandleRule) -> sql.Composable:
        place, limit = sql.Literal(index), self._rules[rule].limit
        if rule is CandleRule.STUCK_PRICE:
            runs = query("checks", "runs").format(same=sql.Identifier(rule))
            parts = {"number": place, "limit": sql.Literal(int(limit or 0)), "runs": runs}
            return query("checks", "runs_by_entity").format(**parts)
        measure = sql.Identifier(rule)
        return query("checks", "bars_by_entity").format(number=place, measure=measure, bars=self._bars(rule))

    def _bars(self, rule: CandleRule) -> sql.Composable:
        if rule is CandleRule.VOLUME_SPIKE:
            return query("checks", "spikes").format(limit=sql.Literal(self._rules[rule].limit))
        return query("checks", "bars_of_rule").format(measure=sql.Identifier(rule))

    # --- missing bars ------------------------------------------------------------------------------------------------

    def _judged_gaps(self, check: CandleCheck, now: datetime) -> Judged:
        assert check.severity is not None
        self._gaps = list(self._survey(now))
        limit = check.limit or 0
        faults, longest = [], 0
        for one in self._gaps:
            missing = [gap for gap in one.gaps if not gap.known_absent]
            longest = max([longest, *(gap.bars for gap in missing)])
            if found := [gap for gap in missing if gap.bars > limit]:
                key = (one.entity.symbol, one.entity.timeframe)
                worst = float(max(gap.bars for gap in found))
                faults.append(Fault(key, sum(gap.bars for gap in found), found[0].first, found[-1].last, worst))
        expected = sum(one.expected for one in self._gaps)
        whole = float(longest) if self._gaps else None
        return Judged(
            CANDLES_VIEW, "", CandleRule.GAPS, check.severity, check.limit, len(self._gaps), expected, faults, whole
        )

    def _survey(self, now: datetime) -> Iterator[SeriesGaps]:
        """Look for missing bars as `gaps` does; of the newest bars, where these begin in each timeframe."""
        keys = [key for key in self._rows.entity_keys() if key[1] in TIMEFRAMES]
        window, recent = self._scope.window, self._scope.recent
        if recent is None:
            ids = [str(EntityId(*key)) for key in keys] if self._scope.ids else []
            if keys:
                yield from find_gaps(self._connection, ids, window, now=now).series
            return
        for timeframe in dict.fromkeys(key[1] for key in keys):
            start = now - recent * TIMEFRAMES[timeframe]
            ids = [str(EntityId(*key)) for key in keys if key[1] == timeframe]
            ids = ids if self._scope.ids else [f"{MARKET}_{timeframe}"]
            yield from find_gaps(self._connection, ids, Window(start, window.end), now=now).series

    # --- the bars at fault -------------------------------------------------------------------------------------------

    def offences(self, rule: CandleRule, judged: Judged, most: int) -> Iterator[Offence]:
        """Return the newest bars at fault; of gaps the first of each, with how many are missing."""
        found = self._gap_offences(most) if rule is CandleRule.GAPS else self._bar_offences(rule, judged, most)
        for key, at, measure in found:
            entity = name_of_key(CANDLES_VIEW, key)
            yield Offence(CANDLES, "", str(rule), judged.severity, entity, at, number(measure))

    def _gap_offences(self, most: int) -> Iterable[tuple[Key, datetime, float]]:
        limit = self._rules[CandleRule.GAPS].limit or 0
        gaps = [gap for one in self._gaps for gap in one.gaps if not gap.known_absent and gap.bars > limit]
        gaps.sort(key=lambda gap: gap.first, reverse=True)
        return [((gap.entity.symbol, gap.entity.timeframe), gap.first, float(gap.bars)) for gap in gaps[:most]]

    def _bar_offences(self, rule: CandleRule, judged: Judged, most: int) -> Iterable[tuple[Key, datetime, float]]:
        listed = self._rows.listed([fault.key for fault in judged.faults])
        among = sql.SQL("({}) IN (SELECT * FROM unnest({}))").format(self._rows.group, listed["values"])
        rows = sql.Literal(most)
        if rule is not CandleRule.STUCK_PRICE:
            shown = query("checks", "bars_at_fault").format(
                measure=sql.Identifier(rule), bars=self._bars(rule), rows=rows
            )
            return ((tuple(key), at, measure) for key, at, measure in self._look(shown, among))
        runs = query("checks", "runs").format(same=sql.Identifier(rule))
        limit = sql.Literal(int(self._rules[rule].limit or 0))
        found = list(self._look(query("checks", "long_runs").format(runs=runs, limit=limit, rows=rows), among))
        ends: dict[str, Sequence[datetime | None]] = {
            "since": [first for _, first, _ in found],
            "until": [last for _, _, last in found],
        }
        runs_of = self._rows.listed([tuple(key) for key, _, _ in found], **ends)
        fault = query("checks", "is_in_run").format(**runs_of, event=self._rows.event)
        close = sql.SQL("s.close")
        return (
            (tuple(key), at, measure)
            for key, at, measure in self._rows.execute("rows_at_fault", fault=fault, value=close, rows=rows)
        )


def _by_timeframe(piece: Any) -> sql.Composable:
    """Return what a piece of SQL gives for a bar's timeframe; nothing for one that somebody made up by hand."""
    cases = (sql.SQL("WHEN {} THEN {}").format(sql.Literal(name), piece(name)) for name in TIMEFRAMES)
    return sql.SQL("CASE timeframe {} END").format(sql.SQL(" ").join(cases))


def _step(timeframe: str) -> sql.Composable:
    return sql.SQL("{}::interval").format(sql.Literal(TIMEFRAMES[timeframe]))


def _grid(timeframe: str) -> sql.Composable:
    """Return when the newest bar of a timeframe opened at or before an event."""
    step = sql.SQL("{}::interval").format(sql.Literal(_GRIDS[timeframe])) if timeframe in _GRIDS else _step(timeframe)
    origin = sql.SQL("{}::timestamptz").format(sql.Literal(_MONDAY if timeframe == "1w" else _EPOCH))
    return sql.SQL("date_bin({}, event, {})").format(step, origin)
