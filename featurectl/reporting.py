"""What a report's page shows, section by section: each is read by itself, and one that can't be hides no other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TypeVar

from featurectl.core import timescale
from featurectl.core.catalog import Catalog, Selection
from featurectl.core.checks import read_settings, run_checks
from featurectl.core.consistency import Asked as Sampled
from featurectl.core.db import Connection, Database, translated_errors
from featurectl.core.entity import TIMEFRAMES, EntityId, parse_entity_id, parse_id_or_symbol
from featurectl.core.freshness import FreshnessReport, newest_closed_bars, read_freshness
from featurectl.core.inventory import Holding, take_inventory
from featurectl.core.locks import has_ledger
from featurectl.core.redact import redact
from featurectl.core.report.checked import checks_section, consistency_section
from featurectl.core.report.coverage import cells_of, read_coverage
from featurectl.core.report.drifted import Figures, drift_section
from featurectl.core.report.model import (
    Checks,
    Compared,
    Coverage,
    Drift,
    Gathered,
    Head,
    Missing,
    Nulls,
    PriceCharts,
    Prices,
)
from featurectl.core.report.prices import read_prices
from featurectl.core.report.rows import newest_row, read_nulls
from featurectl.core.runs.ledger import Record, list_runs
from featurectl.core.runs.retries import ends_all
from featurectl.core.statistics.baselines import read_statistics
from featurectl.core.statistics.describe import By, FeatureStatistics
from featurectl.core.statistics.profile import pooled
from featurectl.core.storage import time_tables
from featurectl.core.times import ALWAYS, EPOCH, Window
from featurectl.errors import FeaturectlError, NotFound, UsageError
from featurectl.jobs import Progress
from featurectl.published import Find, published_catalog
from featurectl.reads import consistency
from featurectl.statistics import Chosen, DriftAsked, drift, statistics
from featurectl.version import __version__

DAYS, CHARTS, RUNS = 30, 3, 20
# Entities of a view that are read online and computed again; series whose values are compared with the reference.
SAMPLE, COMPARED = 10, 200
# Bars that make a series worth a chart.
_ENOUGH_BARS = 200

_Section = TypeVar("_Section")


@dataclass(frozen=True, slots=True)
class ReportAsked:
    """What a report is asked for with: ids and symbols, views, a window of event time, and what it is compared with.

    ``entities`` are those whose prices are drawn. Without an end the window ends with the newest data; without a
    start it is the last thirty days.
    """

    ids: tuple[str, ...] = ()
    entities: tuple[str, ...] = ()
    views: tuple[str, ...] = ()
    window: Window = ALWAYS
    baseline: str | None = None
    reference: Window | None = None
    title: str = ""


def report(
    database: Database,
    asked: ReportAsked,
    *,
    now: datetime,
    find: Find = published_catalog,
    progress: Progress = lambda done, total, label: None,
) -> Gathered:
    """Gather all that a page shows. A section that can't be read says why.

    Raises:
        SchemaMissing: nothing is applied.
        NotFound, InvalidEntityId: an id, a view or a baseline is not known.
        UsageError: what the window is to be compared with makes no sense.
        DatabaseUnreachable, Interrupted: nothing can be read any more.
    """
    with database.connect(read_only=True) as connection:
        gatherer = _Gatherer(database, connection, find(database, connection), asked, now)
        found: dict[str, object] = {}
        for done, (name, read) in enumerate(gatherer.sections):
            progress(done, len(gatherer.sections), name)
            found[name] = gatherer.guarded(name, read)
        return Gathered(head=gatherer.head(), **found)  # type: ignore[arg-type]


class _Gatherer:
    """One look at a repository: the sections of a page, each with a reader of its own."""

    def __init__(
        self, database: Database, connection: Connection, catalog: Catalog, asked: ReportAsked, now: datetime
    ) -> None:
        self.database, self.connection, self.catalog, self.asked, self.now = database, connection, catalog, asked, now
        self.bars = newest_closed_bars(connection, now)
        self.selections = _selections(catalog, asked.views)
        self.ids = [parse_id_or_symbol(text) for text in asked.ids]
        every = [EntityId(*key) for key in self.bars]
        self.series = [series for series in every if not self.ids or any(one.means(series) for one in self.ids)]
        self._check_ids()
        self.window = self._window()
        self.sections: list[tuple[str, Callable[[], object]]] = [
            ("coverage", self.coverage),
            ("freshness", self.freshness),
            ("nulls", self.nulls),
            ("drift", self.drift),
            ("prices", self.prices),
            ("checks", self.checks),
            ("consistency", self.consistency),
            ("runs", self.runs),
            ("storage", self.storage),
        ]

    def guarded(self, name: str, read: Callable[[], _Section]) -> _Section | Missing:
        """Return a section, or why it can't be read.

        Raises:
            DatabaseUnreachable, Interrupted: nothing can be read any more.
            UsageError: what the caller named to compare with is not there, or makes no sense.
        """
        try:
            with translated_errors(), self.connection.transaction():
                return read()
        except FeaturectlError as error:
            if ends_all(error):
                raise
            if name == "drift" and isinstance(error, UsageError) and (self.asked.baseline or self.asked.reference):
                raise
            return Missing(str(error), error)

    def head(self) -> Head:
        extension = timescale.inspect(self.connection)
        version = self.connection.info.server_version
        kind = f"PostgreSQL {version // 10000}.{version % 10000}"
        if extension.installed:
            kind = f"TimescaleDB {extension.installed} on {kind}"
        return Head(
            title=redact(self.asked.title) or f"Features of {self.catalog.project}",
            project=self.catalog.project,
            database=f"embedded {kind}" if self.database.is_embedded else kind,
            window=self.window,
            made_at=self.now,
            version=__version__,
            ids=self.asked.ids,
        )

    def _check_ids(self) -> None:
        for one in self.ids:
            if any(map(one.means, self.series)):
                continue
            views = [chosen.view for chosen in self.selections]
            if one.timeframe:
                views = [view for view in views if "timeframe" in view.join_keys]
            if not any(newest_row(self.connection, view, [one], self.now) for view in views):
                known = {str(EntityId(*key)) if one.timeframe else key[0] for key in self.bars}
                kind = "entity" if one.timeframe else "symbol"
                raise NotFound.of(kind, str(one), known, "`featurectl ingest` brings in more")
        for text in self.asked.entities:
            entity = parse_entity_id(text)
            if (entity.symbol, entity.timeframe) not in self.bars:
                known = {str(EntityId(*key)) for key in self.bars}
                raise NotFound.of("entity", text, known, "`featurectl ingest candles` brings in more")

    def _window(self) -> Window:
        """Return the window with both ends: without any, days up to the newest bar, or row where there are no bars.

        Nothing is of later than now, nor of before 1970.
        """
        end = max(min(self.asked.window.end or self._newest(), self.now), EPOCH + timedelta(days=DAYS))
        start = max(self.asked.window.start or _day(end) - timedelta(days=DAYS - 1), EPOCH)
        return Window(start, end).checked()

    def _newest(self) -> datetime:
        bars = [self.bars[one.symbol, one.timeframe] for one in self.series]
        if bars:
            return max(bars)
        rows = [newest_row(self.connection, chosen.view, self.ids, self.now) for chosen in self.selections]
        return max((row for row in rows if row), default=self.now)

    def coverage(self) -> Coverage | Missing:
        if not self.series:
            return Missing("There are no candles; `featurectl ingest candles` brings them in.")
        found = read_coverage(self.connection, [str(one) for one in self.series], self.window, now=self.now)
        return found if found.series else Missing("No bar is due in this window.")

    def freshness(self) -> FreshnessReport | Missing:
        symbols = tuple({one.symbol: None for one in self.ids})
        views = tuple(one.view.name for one in self.selections if one.view.online) if self.asked.views else ()
        if self.asked.views and not views:
            return Missing("None of these views is online.")
        found = read_freshness(self.connection, self.catalog, now=self.now, views=views, symbols=symbols)
        return found if found.views or found.unreadable else Missing("No view of this repository is online.")

    def nulls(self) -> Nulls | Missing:
        found = read_nulls(self.connection, self.selections, self.ids, self.window, cells_of(self.window))
        return found if found.rows or found.unreadable else Missing("No view has features that SQL can read.")

    def drift(self) -> Drift | Missing:
        entities, note = self._compared()
        chosen = Chosen(views=tuple(one.view.name for one in self.selections), entities=entities)
        asked = DriftAsked(chosen, self.window, self.asked.reference, self.asked.baseline)
        found = drift(self.database, asked, find=self._find)
        name = f"profile '{found.baseline}' of " if found.baseline else ""
        now = self._figures(chosen, self.window)
        if found.baseline:
            before = _by_feature(read_statistics(self.connection, self.catalog.project, found.baseline))
        else:
            before = self._figures(chosen, found.reference)
        section = drift_section(found.drifts, f"{name}{found.reference}", now, before)
        return replace(section, note=note) if isinstance(section, Drift) else section

    def _compared(self) -> tuple[list[EntityId] | None, str]:
        """Return the entities whose windows are compared, and a word about it: all, or some of very many."""
        if len(self.series) > COMPARED:
            some = self.series[:: -(-len(self.series) // COMPARED)]
            return some, f"{len(some)} of {len(self.series):,} series, evenly chosen, were compared"
        return (self.series if self.ids else None), ""

    def _figures(self, chosen: Chosen, window: Window) -> Figures:
        by = By.TIMEFRAME
        return _by_feature(statistics(self.database, chosen, window, now=self.now, by=by, find=self._find))

    def _find(self, database: Database, connection: Connection) -> Catalog:
        return self.catalog

    def checks(self) -> Checks | Missing:
        found = run_checks(
            self.connection,
            self.catalog,
            self.selections if self.asked.views else None,
            self.window,
            now=self.now,
            entities=self.asked.ids,
            settings=read_settings(self.database.config),
        )
        return checks_section(found)

    def consistency(self) -> tuple[Compared, ...] | Missing:
        # Values are compared whatever their age: that is what freshness is about.
        asked = Sampled(self.asked.ids, self.asked.views, sample=SAMPLE, allow_stale=True)
        return consistency_section(consistency(self.database, asked, now=self.now, find=self._find))

    def prices(self) -> PriceCharts | Missing:
        chosen = [parse_entity_id(text) for text in self.asked.entities] or self._default_entities()
        if not chosen:
            return Missing("There are no candles; `featurectl ingest candles` brings them in.")
        return PriceCharts(tuple(self._prices(chosen)), len(self.series))

    def _prices(self, chosen: Sequence[EntityId]) -> Iterator[Prices]:
        for entity in dict.fromkeys(chosen):
            yield read_prices(self.connection, entity, self.selections, self.window, now=self.now)

    def _default_entities(self) -> list[EntityId]:
        """Return a series of each of the first symbols with bars in the window, in a timeframe that fills a screen."""
        assert self.window.start and self.window.end
        by_symbol: dict[str, list[str]] = {}
        for one in sorted(self.series, key=str):
            if self.bars[one.symbol, one.timeframe] >= self.window.start:
                by_symbol.setdefault(one.symbol, []).append(one.timeframe)
        span = self.window.end - self.window.start
        return [EntityId(symbol, _telling(names, span)) for symbol, names in list(by_symbol.items())[:CHARTS]]

    def runs(self) -> tuple[Record, ...] | Missing:
        if not has_ledger(self.connection):
            return Missing("There is no ledger of runs that this role may read; run `featurectl apply`.")
        found = list_runs(self.connection, self.catalog.project, limit=RUNS)
        return tuple(found) or Missing("Nothing has run yet.")

    def storage(self) -> tuple[Holding, ...] | Missing:
        tables = time_tables(self.database.config, self.catalog)
        return tuple(take_inventory(self.connection, tables, self.catalog))


def _selections(catalog: Catalog, views: Sequence[str]) -> list[Selection]:
    """Return the features of views, or those of all views but composites, that SQL can read."""
    chosen = [catalog.view(name) for name in dict.fromkeys(views)] or [
        view for view in catalog.views if not view.is_composite
    ]
    # Those of the bars first.
    chosen.sort(key=lambda view: view.computed_from != "candles")
    return [Selection.whole(view) for view in chosen if view.has_history]


def _day(end: datetime) -> datetime:
    """Return when the day begins that an end lies in; midnight is the end of a day."""
    return (end - timedelta(microseconds=1)).replace(hour=0, minute=0, second=0, microsecond=0)


def _telling(timeframes: Sequence[str], span: timedelta) -> str:
    """Return the longest timeframe with enough bars in a window, or the shortest there is."""
    ordered = sorted(timeframes, key=lambda name: TIMEFRAMES[name], reverse=True)
    return next((name for name in ordered if span / TIMEFRAMES[name] >= _ENOUGH_BARS), ordered[-1])


def _by_feature(found: Sequence[FeatureStatistics]) -> Figures:
    """Return the figures of several entities together, of one timeframe each."""
    return {(one.view, one.feature, pooled(one.timeframe)): one for one in found if one.entity is None}
