"""Long reads, as the command line and the manager do them: each opens the database and finds the catalog itself."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from featurectl.core.catalog import Catalog, Selection
from featurectl.core.db import Connection, Database
from featurectl.core.entity import EntityId
from featurectl.core.online import Source
from featurectl.core.queries import query
from featurectl.core.services import describe, last_materialized
from featurectl.core.statistics import FeatureStatistics, feature_statistics
from featurectl.core.targets import Target
from featurectl.core.times import ALWAYS, Window
from featurectl.core.training import Wanted, over_spine, over_window, spine_of, spine_of_window, with_features
from featurectl.errors import NotFound
from featurectl.plugin.foreign import unavailable
from featurectl.published import Find, notes_on, published_catalog

if TYPE_CHECKING:
    import pandas as pd

    from featurectl.core.arrow import Batches


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


def statistics(
    database: Database,
    features: Sequence[str],
    service: str | None,
    entities: Sequence[EntityId] | None,
    window: Window,
) -> list[FeatureStatistics]:
    """Return what the history of features holds.

    Raises:
        SchemaMissing: nothing is applied.
        UsageError, NotFound: see :func:`featurectl.core.statistics.feature_statistics`.
    """
    with database.connect(read_only=True) as connection:
        chosen = published_catalog(database, connection).select(features, service)
        connection.execute(query("statistics", "unlimited"))
        return feature_statistics(connection, chosen, entities, window)


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
