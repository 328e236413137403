"""Closed bars to features: find what is new or changed, load its warm-up, compute, merge."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from psycopg import sql

from featurectl.core import pgcopy
from featurectl.core.catalog import View
from featurectl.core.compute.bars import blocks, influenced, placed
from featurectl.core.compute.changes import Ledger, is_complete, one_state
from featurectl.core.compute.request import Computed, Request, Unseen
from featurectl.core.compute.rows import feature_series
from featurectl.core.db import Connection
from featurectl.core.entity import TIMEFRAMES, EntityId, length
from featurectl.core.functions import CANDLE_COLUMNS, FunctionSet
from featurectl.core.merging import Written, write_series
from featurectl.core.queries import query
from featurectl.core.schema import table_identifier
from featurectl.core.times import ALWAYS, microseconds, nearest_instant

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Int64 = NDArray[np.int64]
    Mask = NDArray[np.bool_]

SOURCE = "market.candles"
# So many of the newest bars are compared one by one with what their features were computed from, so that a correction
# by another program is found there, too. Of older ones only ingest tells.
LOOKBACK = 10_000
_BARS = {"open_time": pgcopy.TIMESTAMP} | dict.fromkeys(CANDLE_COLUMNS, pgcopy.FLOAT) | {"created": pgcopy.TIMESTAMP}


def list_series(connection: Connection) -> list[EntityId]:
    """Return the series that have candles, in timeframes that exist."""
    rows = (EntityId(*row) for row in connection.execute(query("candles", "list_series")))
    return [entity for entity in rows if entity.timeframe in TIMEFRAMES]


def read_bars(connection: Connection, series: EntityId, first_open: int, last_open: int) -> dict[str, Any]:
    """Return the bars that open from one instant to another: ``open_time``, the candle columns, and ``created``."""
    ends = {"first_open": nearest_instant(first_open), "last_open": nearest_instant(last_open)}
    return pgcopy.read(connection, query("candles", "bars"), _BARS, {**_key(series), **ends})


def bar_before(connection: Connection, series: EntityId, before: int, *, skipped: int) -> int | None:
    """Return when the bar opened that has so many others between it and an instant; nothing where there are fewer."""
    parameters = {**_key(series), "before": nearest_instant(before), "skipped": skipped}
    row = connection.execute(query("candles", "bar_before"), parameters).fetchone()
    return microseconds(row[0]) if row else None


def bar_after(connection: Connection, series: EntityId, after: int, *, skipped: int) -> int | None:
    """Return when the bar opened that has so many others between an instant and itself; nothing if there are fewer."""
    parameters = {**_key(series), "after": nearest_instant(after), "skipped": skipped}
    row = connection.execute(query("candles", "bar_after"), parameters).fetchone()
    return microseconds(row[0]) if row else None


def _key(series: EntityId) -> dict[str, str]:
    return {"symbol": series.symbol, "timeframe": series.timeframe}


def jobs(
    connection: Connection, view: View, functions: FunctionSet, request: Request, *, warmup: int, now: datetime
) -> list[CandleJob]:
    """Return one job for each symbol that the request wants."""
    timeframes: dict[str, list[str]] = {}
    for series in list_series(connection):
        if request.wants_symbol(series.symbol):
            timeframes.setdefault(series.symbol, []).append(series.timeframe)
    return [
        CandleJob(connection, view, functions, symbol, tuple(names), request, warmup, now)
        for symbol, names in timeframes.items()
        if any(map(request.wants_timeframe, names))
    ]


@dataclass(frozen=True, slots=True)
class CandleJob:
    """One view's features of one symbol, in all its timeframes."""

    connection: Connection
    view: View
    functions: FunctionSet
    symbol: str
    timeframes: tuple[str, ...]
    request: Request
    warmup: int
    now: datetime

    @property
    def entity(self) -> str:
        return self.symbol

    def run(self) -> list[Computed]:
        """Compute what is due; a run over everything takes note of the changes that it has seen."""
        ledger = Ledger(self.connection, self.view.source_table or "", self.symbol)
        chosen = tuple(filter(self.request.wants_timeframe, self.timeframes))
        everything = is_complete(self.request)
        if everything:
            ledger.announce(chosen)
        results = []
        with one_state(self.connection):
            for timeframe in chosen:
                changes = ledger.unseen(timeframe, [SOURCE], [self.symbol])
                changed_from = min((change.first for change in changes), default=None)
                results.append(_Series(self, timeframe, changed_from).compute())
                if everything:
                    ledger.mark_seen(timeframe, changes)
        return results

    def begin_whole(self) -> Unseen | None:
        """See :class:`Job`; bars are compared with what their features were computed from, so changes stay unseen."""
        chosen = tuple(filter(self.request.wants_timeframe, self.timeframes))
        if self.request.features or not all(map(self._holds_all, chosen)):
            return None
        Ledger(self.connection, self.view.source_table or "", self.symbol).announce(chosen)
        return dict.fromkeys(chosen, ())

    def end_whole(self, seen: Unseen) -> None:
        for timeframe in seen:
            _Series(self, timeframe, None).record(self.functions.hashes)

    def _holds_all(self, timeframe: str) -> bool:
        """Tell whether the window holds all closed bars."""
        window, bar = self.request.window, TIMEFRAMES[timeframe]
        key = {"symbol": self.symbol, "timeframe": timeframe}
        row = self.connection.execute(query("candles", "first_bar"), key).fetchone()
        from_first = row is None or window.start is None or window.start <= row[0] + bar
        return from_first and (window.end is None or window.end + bar > self.now)


@dataclass(frozen=True, slots=True)
class _Series:
    """One timeframe of a job; ``changed_from`` is the first time written to since, in microseconds since 1970."""

    job: CandleJob
    timeframe: str
    changed_from: int | None

    def compute(self) -> Computed:
        import numpy as np  # 0.1 s, and only compute needs it

        functions, request = self.job.functions, self.job.request
        hashes = self._computed_with()
        outdated = [name for name, code in functions.hashes.items() if hashes.get(name) != code]
        whole = bool(outdated or request.full or request.features or request.window != ALWAYS)
        since = self._first_of_window() if whole else self._since()
        start = None if since is None else self._warmup_before(since)
        last = self._last_influenced()
        open_times, created = self._closed_bars(start, last)
        events, computed_from = self._computed_bars(start, last)
        found = placed(events, computed_from, open_times + self._bar)
        inside = self._in_window(open_times)
        if start is not None and since is not None:
            inside &= open_times >= since
        wanted = inside & ~self._cut_off(open_times, events, found)
        if request.floor:
            wanted &= open_times + self._bar >= microseconds(request.floor)
        current = created == found
        if len(outdated) == len(functions.ordered):
            current[:] = False
        target, rest = np.zeros_like(wanted), np.zeros_like(wanted)
        if not request.features:
            # A stale bar outside the window stays so: else no later run would redo what it influences.
            target = influenced(wanted & ~current, self.job.warmup) & (wanted | current)
            target |= wanted & request.full
        else:
            outdated = [name for name in request.features if request.full or name in outdated]
        if outdated:
            rest = wanted & (found >= 0) & ~target
        stale = (wanted & target & (~current | bool(outdated))) | rest
        written = [*self._write(open_times, target), *self._write(open_times, rest, outdated)]
        if outdated and inside.all():
            self._record(hashes, outdated)
        return Computed(
            view=self.job.view.name,
            entity=f"{self.job.symbol}_{self.timeframe}",
            rows=len(open_times),
            stale=int(np.count_nonzero(stale)),
            inserted=sum(one.new for one in written),
            changed=sum(one.changed for one in written),
        )

    @property
    def _id(self) -> EntityId:
        return EntityId(self.job.symbol, self.timeframe)

    @property
    def _key(self) -> dict[str, str]:
        return _key(self._id)

    @property
    def _bar(self) -> int:
        return length(self.timeframe)

    def _computed_with(self) -> dict[str, str]:
        """Return the hashes of the functions with which the series was last computed as a whole."""
        parameters = {**self._key, "table": self.job.view.source_table}
        row = self.job.connection.execute(query("compute", "computed_with"), parameters).fetchone()
        return row[0] if row else {}

    def _record(self, before: dict[str, str], features: Sequence[str]) -> None:
        now = self.job.functions.hashes
        self.record(
            {name: now[name] if name in features else before[name] for name in now if name in {*features, *before}}
        )

    def record(self, hashes: Mapping[str, str]) -> None:
        """Note with which functions, by feature, the series was computed as a whole."""
        parameters = {**self._key, "table": self.job.view.source_table, "feature_hashes": json.dumps(dict(hashes))}
        self.job.connection.execute(query("compute", "record_computed"), parameters)

    def _since(self) -> int | None:
        """Return the first open time to look at; of changes before it, ingest would have told."""
        row = self.job.connection.execute(self._of_features("newest_computed"), self._key).fetchone()
        if row is None:
            return None
        compared = microseconds(row[0]) - LOOKBACK * self._bar
        return compared if self.changed_from is None else min(compared, self.changed_from)

    def _warmup_before(self, since: int) -> int | None:
        """Return the open time from which there are enough bars before ``since``; nothing where there are not."""
        return bar_before(self.job.connection, self._id, since, skipped=self.job.warmup - 1)

    def _first_of_window(self) -> int | None:
        """Return the open time of the window's first bar; bars before it are its warm-up."""
        window = self.job.request.window
        return microseconds(window.start) - self._bar if window.start else None

    def _last_influenced(self) -> datetime:
        """Return the open time of the last bar that one of the window can influence; else of the last closed bar."""
        closed, end = self.job.now - TIMEFRAMES[self.timeframe], self.job.request.window.end
        if end is None:
            return closed
        after = microseconds(end) - self._bar
        found = bar_after(self.job.connection, self._id, after, skipped=self.job.warmup)
        return closed if found is None else min(closed, nearest_instant(found))

    def _closed_bars(self, start: int | None, last: datetime) -> tuple[Int64, Int64]:
        parameters = {**self._key, "first_open": _instant(start), "last_open": last}
        kinds = {"open_time": pgcopy.TIMESTAMP, "created": pgcopy.TIMESTAMP}
        bars = pgcopy.read(self.job.connection, query("candles", "closed_bars"), kinds, parameters)
        return bars["open_time"], bars["created"]

    def _computed_bars(self, start: int | None, last: datetime) -> tuple[Int64, Int64]:
        """Return the event times that have features, and the state of the candle each was computed from."""
        kinds = {"event": pgcopy.TIMESTAMP, "created": pgcopy.TIMESTAMP}
        ends = {"first_open": _instant(start), "last_event": last + TIMEFRAMES[self.timeframe]}
        parameters = {**self._key, **ends}
        rows = pgcopy.read(self.job.connection, self._of_features("computed_bars"), kinds, parameters)
        return rows["event"], rows["created"]

    def _of_features(self, name: str) -> sql.Composed:
        return query("compute", name).format(
            event=sql.Identifier(self.job.view.timestamp_column),
            table=table_identifier(self.job.view.source_table or ""),
        )

    def _in_window(self, open_times: Int64) -> Mask:
        window, closes = self.job.request.window, open_times + self._bar
        inside: Mask = closes == closes
        if window.start:
            inside &= closes >= microseconds(window.start)
        if window.end:
            inside &= closes <= microseconds(window.end)
        return inside

    def _cut_off(self, open_times: Int64, events: Int64, found: Int64) -> Mask:
        """Mark bars whose features can't be had again, because the candles before them are gone by retention."""
        import numpy as np

        cut = np.zeros(len(found), dtype=bool)
        if len(events) and len(found) and events[0] < open_times[0] + self._bar:
            cut[: self.job.warmup] = found[: self.job.warmup] >= 0
        return cut

    def _write(self, open_times: Int64, target: Mask, features: Sequence[str] | None = None) -> Iterator[Written]:
        """Compute all features of the target's bars, or some of those that have features already."""
        functions = self.job.functions if features is None else self.job.functions.only(features)
        for first, last in blocks(target, self.job.warmup):
            start = max(0, first - self.job.warmup)
            bars = read_bars(self.job.connection, self._id, open_times[start], open_times[last])
            computed = functions.compute({name: bars[name] for name in CANDLE_COLUMNS})
            keep = target[start : last + 1]
            columns = {self.job.view.timestamp_column: bars["open_time"][keep] + self._bar}
            for field in self.job.view.fields:
                if features is None or field.name in features:
                    columns[field.source_column] = computed[field.name][keep]
            if features is None:
                columns["source_created_timestamp"] = bars["created"][keep]
            table = feature_series(self.job.view)
            yield write_series(
                self.job.connection, table, self._key, columns, now=self.job.now, insert=features is None
            )


def _instant(start: int | None) -> datetime:
    return datetime.min.replace(tzinfo=UTC) if start is None else nearest_instant(start)
