"""Closed bars to features: find what is new or changed, load its warm-up, compute, merge."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from psycopg import IsolationLevel, sql

from featurectl.core import pgcopy
from featurectl.core.catalog import Catalog, View
from featurectl.core.db import Connection
from featurectl.core.entity import TIMEFRAMES, EntityId
from featurectl.core.functions import CANDLE_COLUMNS, FunctionSet, load_functions
from featurectl.core.locks import lock
from featurectl.core.queries import query
from featurectl.core.schema import table_identifier
from featurectl.core.sources import commas
from featurectl.core.times import ALWAYS, Window
from featurectl.errors import NotFound, UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Int64 = NDArray[np.int64]
    Mask = NDArray[np.bool_]

MICROSECOND = timedelta(microseconds=1)
_EPOCH = datetime.fromisoformat("1970-01-01T00:00:00+00:00")
_BARS = {"open_time": pgcopy.TIMESTAMP} | dict.fromkeys(CANDLE_COLUMNS, pgcopy.FLOAT) | {"created": pgcopy.TIMESTAMP}


@dataclass(frozen=True, slots=True)
class Computed:
    """What became of one series: bars looked at, bars new or changed, feature rows inserted and altered."""

    view: str
    entity: EntityId
    bars: int
    stale: int
    inserted: int
    changed: int


@dataclass(frozen=True, slots=True)
class Request:
    """Which features to bring up to date: ``full`` recomputes all bars of the window, else only stale ones."""

    symbols: tuple[str, ...] = ()
    timeframes: tuple[str, ...] = ()
    window: Window = ALWAYS
    full: bool = False


def choose_series(connection: Connection, request: Request) -> list[EntityId]:
    """Return the series with candles that the request names.

    Raises:
        NotFound: a symbol or timeframe named has no candles.
    """
    series = [EntityId(*row) for row in connection.execute(query("candles", "list_series"))]
    hint = "`featurectl ingest candles FILE` brings them in"
    for symbol in request.symbols:
        if symbol not in {one.symbol for one in series}:
            raise NotFound.of("symbol", symbol, {one.symbol for one in series}, hint)
    for timeframe in request.timeframes:
        if timeframe not in {one.timeframe for one in series}:
            raise NotFound.of("timeframe", timeframe, {one.timeframe for one in series}, hint)
    return [
        one
        for one in series
        if (not request.symbols or one.symbol in request.symbols)
        and (not request.timeframes or one.timeframe in request.timeframes)
        and one.timeframe in TIMEFRAMES
    ]


def compute(
    connection: Connection,
    catalog: Catalog,
    request: Request,
    *,
    root: Path,
    warmup: int,
    now: datetime,
    on_series: Callable[[int, int, EntityId], None] = lambda index, total, entity: None,
) -> list[Computed]:
    """Bring the computed views up to date, a series at a time, each in a transaction of its own.

    Returns one result a view and series. A series is one symbol in one timeframe.

    Raises:
        UsageError: the project defines no computed view.
        DefinitionError: a function is missing or fails.
        LockHeld: another compute run is at work on the same view.
    """
    views = [view for view in catalog.views if view.computed_from == "candles"]
    if not views:
        raise UsageError(
            "no view is computed from candles; tag one with computed_from=candles, then `featurectl apply`"
        )
    series = choose_series(connection, request)
    results = []
    for number, view in enumerate(views):
        functions = view_functions(view, root)
        with lock(connection, f"compute {view.source_table}"):
            for index, entity in enumerate(series):
                on_series(number * len(series) + index, len(views) * len(series), entity)
                job = _SeriesJob(connection, view, functions, entity, warmup, now)
                results.append(job.run(request))
    return results


def view_functions(view: View, root: Path) -> FunctionSet:
    """Load the functions of a computed view from the repository."""
    file = root / (view.functions_file or "")
    return load_functions(file, [field.name for field in view.fields], root=root)


@dataclass(frozen=True, slots=True)
class _SeriesJob:
    """One view's features of one series."""

    connection: Connection
    view: View
    functions: FunctionSet
    entity: EntityId
    warmup: int
    now: datetime

    def run(self, request: Request) -> Computed:
        import numpy as np  # 0.1 s, and only compute needs it

        self.connection.isolation_level = IsolationLevel.REPEATABLE_READ
        try:
            with self.connection.transaction():
                open_times, created = self._closed_bars()
                known = self._functions_are_known()
                stale = created != (self._created_when_computed(open_times) if known else -1)
                wanted = self._in_window(open_times, request.window)
                # A stale bar outside the window stays so: else no later run would redo what it influences.
                target = influenced(stale & wanted, self.warmup) & (wanted | ~stale)
                if request.full:
                    target |= wanted
                inserted, changed = self._write(open_times, target) if target.any() else (0, 0)
                if not known and wanted.all():
                    self._record_functions()
        finally:
            self.connection.isolation_level = None
        count = int(np.count_nonzero(stale & wanted))
        return Computed(self.view.name, self.entity, len(open_times), count, inserted, changed)

    @property
    def _series(self) -> dict[str, str]:
        return {"symbol": self.entity.symbol, "timeframe": self.entity.timeframe}

    @property
    def _bar(self) -> int:
        return TIMEFRAMES[self.entity.timeframe] // MICROSECOND

    def _functions_are_known(self) -> bool:
        """Tell whether the series was computed with the functions as they are now."""
        parameters = {**self._series, "table": self.view.source_table}
        row = self.connection.execute(query("compute", "computed_with"), parameters).fetchone()
        return row is not None and row[0] == self.functions.code_hash

    def _record_functions(self) -> None:
        parameters = {**self._series, "table": self.view.source_table, "functions_hash": self.functions.code_hash}
        self.connection.execute(query("compute", "record_computed"), parameters)

    def _closed_bars(self) -> tuple[Int64, Int64]:
        parameters = {**self._series, "last_open": self.now - TIMEFRAMES[self.entity.timeframe]}
        kinds = {"open_time": pgcopy.TIMESTAMP, "created": pgcopy.TIMESTAMP}
        bars = pgcopy.read(self.connection, query("candles", "closed_bars"), kinds, parameters)
        return bars["open_time"], bars["created"]

    def _created_when_computed(self, open_times: Int64) -> Int64:
        """Return, for each bar, the state of the candle its features were computed from; -1 without features."""
        import numpy as np

        statement = query("compute", "computed_bars").format(
            event=sql.Identifier(self.view.timestamp_column), table=table_identifier(self.view.source_table or "")
        )
        kinds = {"event": pgcopy.TIMESTAMP, "created": pgcopy.TIMESTAMP}
        rows = pgcopy.read(self.connection, statement, kinds, self._series)
        found = np.full(len(open_times), -1, dtype=np.int64)
        closes = open_times + self._bar
        _, at_bar, at_row = np.intersect1d(closes, rows["event"], assume_unique=True, return_indices=True)
        found[at_bar] = rows["created"][at_row]
        return found

    def _in_window(self, open_times: Int64, window: Window) -> Mask:
        closes = open_times + self._bar
        inside: Mask = closes == closes
        if window.start:
            inside &= closes >= microseconds(window.start)
        if window.end:
            inside &= closes <= microseconds(window.end)
        return inside

    def _write(self, open_times: Int64, target: Mask) -> tuple[int, int]:
        names = [field.source_column for field in self.view.fields]
        columns = sql.SQL("").join(sql.SQL(", {} float8 NOT NULL").format(sql.Identifier(name)) for name in names)
        self.connection.execute(query("compute", "create_staging").format(columns=columns))
        for first, last in blocks(target, self.warmup):
            self._stage(open_times, target, first, last, names)
        row = self.connection.execute(self._merge_statement(names), {**self._series, "now": self.now}).fetchone()
        assert row is not None
        return row[0], row[1]

    def _stage(self, open_times: Int64, target: Mask, first: int, last: int, names: Sequence[str]) -> None:
        start = max(0, first - self.warmup)
        parameters = {
            **self._series,
            "first_open": _EPOCH + int(open_times[start]) * MICROSECOND,
            "last_open": _EPOCH + int(open_times[last]) * MICROSECOND,
        }
        bars = pgcopy.read(self.connection, query("candles", "bars"), _BARS, parameters)
        features = self.functions.compute({name: bars[name] for name in CANDLE_COLUMNS})
        keep = target[start : last + 1]
        kinds = {"event_timestamp": pgcopy.TIMESTAMP, "source_created_timestamp": pgcopy.TIMESTAMP}
        pgcopy.write(
            self.connection,
            sql.Identifier("staged_features"),
            kinds | dict.fromkeys(names, pgcopy.FLOAT),
            [
                bars["open_time"][keep] + self._bar,
                bars["created"][keep],
                *(features[field.name][keep] for field in self.view.fields),
            ],
        )

    def _merge_statement(self, names: Sequence[str]) -> sql.Composed:
        assigned = [sql.Identifier(name) for name in (*names, "source_created_timestamp")]

        def qualified(alias: str) -> sql.Composable:
            return commas(sql.SQL("{}.{}").format(sql.Identifier(alias), name) for name in assigned)

        return query("compute", "merge_staging").format(
            table=table_identifier(self.view.source_table or ""),
            event=sql.Identifier(self.view.timestamp_column),
            created=sql.Identifier(self.view.created_column or "created_timestamp"),
            features=_after_commas(sql.Identifier(name) for name in names),
            staged=_after_commas(sql.SQL("nullif({}, 'NaN')").format(sql.Identifier(name)) for name in names),
            assigned=commas(assigned),
            assigned_values=qualified("excluded"),
            existing_values=qualified("f"),
        )


def _after_commas(parts: Any) -> sql.Composable:
    return sql.SQL("").join(sql.SQL(", {}").format(part) for part in parts)


def microseconds(instant: datetime) -> int:
    """Return an instant as microseconds since 1970 UTC."""
    return (instant - _EPOCH) // MICROSECOND


def influenced(stale: Mask, warmup: int) -> Mask:
    """Return the bars whose features depend on a stale bar: the bar itself and the ``warmup`` bars after it."""
    import numpy as np

    positions = np.arange(len(stale))
    newest_stale = np.maximum.accumulate(np.where(stale, positions, -warmup - 1)) if len(stale) else positions
    result: Mask = positions - newest_stale <= warmup
    return result


def blocks(target: Mask, warmup: int) -> list[tuple[int, int]]:
    """Return first and last positions of the spans to compute; spans whose warm-ups would overlap are one."""
    import numpy as np

    positions = np.flatnonzero(target)
    if not len(positions):
        return []
    breaks = np.flatnonzero(np.diff(positions) > warmup)
    firsts = positions[np.r_[0, breaks + 1]]
    lasts = positions[np.r_[breaks, len(positions) - 1]]
    return [(int(first), int(last)) for first, last in zip(firsts, lasts, strict=True)]
