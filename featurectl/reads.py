"""Long reads, as the command line and the manager do them: each opens the database and finds the catalog itself."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from featurectl.core.catalog import Catalog, Selection
from featurectl.core.checks import CheckReport, read_settings, run_checks, selected
from featurectl.core.connections import AsyncPool
from featurectl.core.db import Connection, Database
from featurectl.core.entity import EntityId
from featurectl.core.online import Source
from featurectl.core.queries import query
from featurectl.core.services import describe, last_materialized
from featurectl.core.serving.answer import Answer, Entities, Request, ViewAnswer
from featurectl.core.serving.paths import Deadline
from featurectl.core.serving.reader import Reader
from featurectl.core.serving.session import Session
from featurectl.core.storage import lifetimes
from featurectl.core.targets import Target
from featurectl.core.times import ALWAYS, Window
from featurectl.core.training import Wanted, over_spine, over_window, spine_of, spine_of_window, with_features
from featurectl.errors import NotFound
from featurectl.plugin.foreign import FeastReads, unavailable
from featurectl.published import Find, notes_on, published_catalog

if TYPE_CHECKING:
    import pandas as pd

    from featurectl.core import lookahead as lookahead_
    from featurectl.core.arrow import Batches
    from featurectl.core.consistency import Asked, Consistency
    from featurectl.core.lookahead import Lookahead


@dataclass(frozen=True, slots=True)
class TrainingSet:
    """What a training set is asked for with: features and targets, for entities in a window, or for a spine."""

    features: tuple[str, ...] = ()
    service: str | None = None
    targets: tuple[Target, ...] = ()
    entities: Sequence[EntityId] = ()
    window: Window = ALWAYS
    spine: Path | pd.DataFrame | None = None


@dataclass(frozen=True, slots=True)
class Training:
    """A training set as it arrives: the columns of the spine, or the keys of a window, then ``wanted.names``."""

    wanted: Wanted
    batches: Batches
    source: Source


@contextlib.contextmanager
def open_training_set(
    database: Database,
    asked: TrainingSet,
    *,
    now: datetime,
    find: Find = published_catalog,
    source: Source | None = None,
) -> Iterator[Training]:
    """Read a training set from one snapshot of the database; through Feast's SDK where no SQL reads its features.

    ``source`` asks for one of them. Read the batches before it closes.

    Raises:
        SchemaMissing: nothing is applied.
        UsageError, NotFound, InputFileError: see :mod:`featurectl.core.training`.
        FeastUnavailable: Feast is needed and can't answer.
    """
    from featurectl.core.arrow import open_arrow  # 0.3 s: Arrow and ADBC

    with database.connect(read_only=True) as connection:
        catalog = find(database, connection)
        wanted = Wanted(_selected(database, catalog, asked, source), asked.targets, now)
        spine = spine_of(asked.spine, catalog, wanted) if asked.spine is not None else None
        taken = source or _source_of(wanted.features)
        with open_arrow(database) as arrow, arrow.transaction():
            if taken is Source.FEAST:
                spine = spine or spine_of_window(arrow, wanted, asked.entities, asked.window)
                found = _feast().features_of_spine(database, wanted.features, spine)
                batches = with_features(found, connection, wanted, spine)
            elif spine:
                batches = over_spine(arrow, connection, wanted, spine)
            else:
                batches = over_window(arrow, connection, wanted, asked.entities, asked.window)
            yield Training(wanted, batches, taken)


def _selected(database: Database, catalog: Catalog, asked: TrainingSet, source: Source | None) -> tuple[Selection, ...]:
    try:
        return catalog.select(asked.features, asked.service)
    except NotFound:
        is_beyond = any(one.name == asked.service and catalog.beyond(one) for one in catalog.services)
        if source is Source.TIMESCALEDB or (source is None and not is_beyond):
            raise
    beyond: Catalog = _feast().catalog_beyond(database, catalog)
    return beyond.select(asked.features, asked.service)


def _feast() -> ModuleType:
    """Return what reads through Feast.

    Raises:
        FeastUnavailable: Feast can't be imported.
    """
    try:
        from featurectl.plugin import training  # 7 s of CPU, once a process
    except ImportError as error:
        raise unavailable("Feast", error) from error
    return training


def _source_of(features: Sequence[Selection]) -> Source:
    return Source.TIMESCALEDB if all(chosen.view.has_history for chosen in features) else Source.FEAST


def training_frame(
    database: Database,
    asked: TrainingSet,
    *,
    now: datetime,
    source: Source | None = None,
    degraded: str | None = None,
) -> pd.DataFrame:
    """Return a training set as a DataFrame that knows its source and window, and what is wrong with it.

    Raises:
        as :func:`open_training_set`.
    """
    from featurectl.core.serving import frames

    notes: list[str] = []

    def find(database: Database, connection: Connection) -> Catalog:
        catalog = published_catalog(database, connection)
        notes.extend(notes_on(catalog, database, connection))
        return catalog

    with open_training_set(database, asked, now=now, find=find, source=source) as training:
        table = training.batches.table()
    spine = None if asked.spine is None or isinstance(asked.spine, Path) else asked.spine
    frame = frames.training_frame(table, training.wanted.names, spine)
    if frame.empty and asked.spine is None:
        notes.append("there are no features for these ids in this window")
    frame.attrs = {
        "source": str(training.source),
        "degraded": degraded,
        "notes": notes,
        "window": None if asked.spine is not None else asked.window.as_dict(),
    }
    return frame


def consistency(
    database: Database,
    asked: Asked,
    *,
    now: datetime,
    find: Find = published_catalog,
    progress: Callable[[int, int, str], None] = lambda index, total, view: None,
) -> Consistency:
    """Compare features online, in their history, and computed again, of a sample of entities of each view.

    They are read online as a manager reads them, and by connections of its own. Nothing is written.

    Raises:
        SchemaMissing: nothing is applied.
        UsageError, NotFound, DefinitionError: see :func:`featurectl.core.consistency.find_differences`.
    """
    from featurectl.core.consistency import find_differences
    from featurectl.core.consistency.run import Setting

    def read_online(chosen: Selection, entities: Sequence[EntityId]) -> ViewAnswer:
        wanted = Request((chosen,), Entities(entities), asked.as_of or now, asked.as_of is not None)
        return asyncio.run(_answer(database, wanted)).views[0]

    config = database.config
    with database.connect(read_only=True) as connection:
        catalog = find(database, connection)
        setting = Setting(config.root, config.warmup_bars, lifetimes(config, catalog))
        return find_differences(connection, catalog, asked, setting, read_online, now=now, on_view=progress)


def lookahead(
    database: Database,
    asked: lookahead_.Asked,
    *,
    now: datetime,
    find: Find = published_catalog,
    progress: Callable[[int, int, str], None] = lambda index, total, view: None,
) -> Lookahead:
    """Look at whether the functions of computed views use the future, or more of the past than the warm-up.

    Raises:
        SchemaMissing: nothing is applied.
        UsageError, NotFound, DefinitionError: see :func:`featurectl.core.lookahead.find_lookahead`.
    """
    from featurectl.core.lookahead import find_lookahead

    config = database.config
    with database.connect(read_only=True) as connection:
        catalog = find(database, connection)
        return find_lookahead(
            connection, catalog, asked, root=config.root, warmup=config.warmup_bars, now=now, on_view=progress
        )


async def _answer(database: Database, request: Request) -> Answer:
    """Read features online, as a caller would who is in no hurry."""
    pool = AsyncPool(lambda: database.open_async(Session), 1)
    reader = Reader(pool, foreign=FeastReads(database))
    try:
        return await reader.read(request, deadline=Deadline())
    finally:
        await reader.close()


@dataclass(frozen=True, slots=True)
class Checking:
    """What is to be checked: features, a service, views, or everything there is; of some entities, in a window."""

    features: tuple[str, ...] = ()
    service: str | None = None
    views: tuple[str, ...] = ()
    entities: tuple[str, ...] = ()
    window: Window = ALWAYS
    rules: tuple[str, ...] = ()
    rows: int = 0


def check_rows(
    database: Database,
    asked: Checking,
    *,
    now: datetime,
    find: Find = published_catalog,
    is_limited: bool = False,
) -> CheckReport:
    """Hold the history of features, and candles, to what is asked of them.

    It takes the time that it takes, unless the time of its statements ``is_limited`` as that of other reads.

    Raises:
        SchemaMissing: nothing is applied.
        ConfigError: feature_store.yaml says of checks what can't be used.
        UsageError, NotFound: see :func:`featurectl.core.checks.run_checks`.
    """
    settings = read_settings(database.config)
    with database.connect(read_only=True) as connection:
        catalog = find(database, connection)
        selections, candles = selected(catalog, asked.features, asked.service, asked.views)
        if not is_limited:
            connection.execute(query("checks", "unlimited"))
        return run_checks(
            connection,
            catalog,
            selections,
            asked.window,
            now=now,
            entities=asked.entities,
            rules=asked.rules,
            settings=settings,
            rows=asked.rows,
            candles=candles,
        )


def services(database: Database, name: str | None = None) -> list[dict[str, Any]]:
    """Return the feature services, or the one of a name, as :func:`featurectl.core.services.describe` does.

    Raises:
        SchemaMissing: nothing is applied.
        NotFound: there is no such service.
    """
    with database.connect(read_only=True) as connection:
        catalog = published_catalog(database, connection)
        chosen = catalog.services if name is None else (catalog.service(name),)
        materialized = last_materialized(connection, catalog.project)
        return [describe(catalog, service, materialized) for service in chosen]
