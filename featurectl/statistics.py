"""What the history of features says: figures, profiles that are kept, and drift; each opens the database itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from featurectl.core.catalog import Catalog, Selection
from featurectl.core.db import Database
from featurectl.core.entity import EntityId
from featurectl.core.times import ALWAYS, EPOCH, Window
from featurectl.errors import UsageError
from featurectl.published import Find, catalog_to_write, published_catalog

if TYPE_CHECKING:
    from featurectl.core.statistics.baselines import Saved
    from featurectl.core.statistics.describe import By, FeatureStatistics
    from featurectl.core.statistics.drift import Drift, Limits
    from featurectl.core.statistics.profile import Profile


@dataclass(frozen=True, slots=True)
class Chosen:
    """Features by their names, a service or views, of all entities or of some; with none of them named, all."""

    features: tuple[str, ...] = ()
    service: str | None = None
    views: tuple[str, ...] = ()
    entities: Sequence[EntityId] | None = None

    def of(self, catalog: Catalog) -> tuple[Selection, ...]:
        """Return the features that are meant.

        Raises:
            NotFound, UsageError: see :meth:`featurectl.core.catalog.Catalog.select`.
        """
        return catalog.select(self.features, self.service, views=self.views)


def statistics(
    database: Database,
    chosen: Chosen,
    window: Window,
    *,
    now: datetime,
    by: By | None = None,
    find: Find = published_catalog,
) -> list[FeatureStatistics]:
    """Return what the history of features holds.

    Raises:
        SchemaMissing: nothing is applied.
        UsageError, NotFound: see :func:`featurectl.core.statistics.describe.feature_statistics`.
    """
    from featurectl.core.arrow import open_arrow
    from featurectl.core.statistics.describe import feature_statistics

    with database.connect(read_only=True) as connection:
        selections = chosen.of(find(database, connection))
        with open_arrow(database) as arrow, arrow.transaction():
            return feature_statistics(arrow, connection, selections, chosen.entities, window, now=now, by=by)


@dataclass(frozen=True, slots=True)
class DriftAsked:
    """Two windows of features to compare: ``current``, and a reference, a saved profile, or what there is of both.

    Without either the reference is the project's baseline, and without one the window before the current one, twelve
    times as long.
    """

    chosen: Chosen = Chosen()
    current: Window = ALWAYS
    reference: Window | None = None
    baseline: str | None = None
    limits: Limits | None = None


@dataclass(frozen=True, slots=True)
class DriftReport:
    """How features of a window differ from a reference, top movers first; ``baseline`` names it, if it is one."""

    current: Window
    reference: Window
    baseline: str | None
    drifts: tuple[Drift, ...]

    @property
    def overlap(self) -> bool:
        """Whether rows may be in both, which then look more alike than they are."""
        first, second = sorted((self.current, self.reference), key=lambda one: one.start or EPOCH)
        return first.end is None or first.end >= (second.start or EPOCH)


# Long enough to know how much stretches of it differ by chance.
REFERENCE_TIMES = 12


def drift(
    database: Database,
    asked: DriftAsked,
    *,
    find: Find = published_catalog,
    progress: Callable[[str], None] = lambda _: None,
) -> DriftReport:
    """Return how features of a window differ from those of another, or from a saved profile.

    Raises:
        SchemaMissing: nothing is applied.
        NotFound: an unknown view, feature, service or profile.
        UsageError: both a reference and a baseline; a view can't be read by SQL.
    """
    from featurectl.core.arrow import open_arrow
    from featurectl.core.statistics import baselines, windows
    from featurectl.core.statistics.drift import Limits

    if asked.reference and asked.baseline:
        raise UsageError("give a reference window or a baseline, not both")
    with database.connect(read_only=True) as connection:
        catalog = find(database, connection)
        selections = asked.chosen.of(catalog)
        saved = None
        if asked.baseline:
            saved = baselines.find_saved(connection, catalog.project, asked.baseline)
        elif asked.reference is None:
            saved = baselines.baseline_of(connection, catalog.project)
        reference = saved.window if saved else asked.reference or _before(asked.current)
        with open_arrow(database) as arrow, arrow.transaction():
            reader = windows.Reader(arrow, connection, asked.chosen.entities)
            if saved:
                names = [chosen.view.name for chosen in selections]
                profiles = baselines.read_profiles(connection, catalog.project, saved.name, names)
                profiles = _of_entities(profiles, asked.chosen.entities)
            else:
                progress("the reference")
                profiles = windows.profiles_of(reader, selections, reference)
            found = windows.find_drift(
                reader, selections, profiles, asked.current, asked.limits or Limits(), progress=progress
            )
    return DriftReport(asked.current, reference, saved.name if saved else None, tuple(found))


def _before(current: Window) -> Window:
    """Return the window before another one, and longer."""
    if current.start is None or current.end is None:
        raise UsageError("without a reference or a baseline the window needs a start and an end")
    return Window(
        current.start - REFERENCE_TIMES * (current.end - current.start), current.start - timedelta(microseconds=1)
    )


def _of_entities(profiles: list[Profile], entities: Sequence[EntityId] | None) -> list[Profile]:
    """Return what a saved profile has of some entities; what it has of all of them together is of no use then."""
    if entities is None:
        return profiles
    names = {str(one) for one in entities} | {one.symbol for one in entities}
    return [one for one in profiles if one.entity in names]


def save_profile(
    database: Database,
    chosen: Chosen,
    window: Window,
    name: str,
    *,
    now: datetime,
    baseline: bool = False,
    find: Find = catalog_to_write,
) -> Saved:
    """Save what features look like in a window, by a name; as the project's baseline if that is asked for.

    Raises:
        SchemaMissing: nothing is applied, or by an older featurectl.
        NotFound, UsageError: as :func:`statistics`; the name is blank; or the window holds no rows.
    """
    from featurectl.core.arrow import open_arrow
    from featurectl.core.statistics import baselines, windows

    name = baselines.check_name(name)
    with database.connect() as connection:
        catalog = find(database, connection)
        selections = chosen.of(catalog)
        with open_arrow(database) as arrow, arrow.transaction():
            kept = windows.keep(windows.Reader(arrow, connection, chosen.entities), selections, window, now=now)
        if not any(one.profile.rows for one in kept):
            raise UsageError(f"there are no rows in the window ({window}); nothing is saved")
        with connection.transaction():
            baselines.save(connection, catalog.project, name, window, kept, now=now)
            if baseline:
                baselines.set_baseline(connection, catalog.project, name)
            return baselines.find_saved(connection, catalog.project, name)
