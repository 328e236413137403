"""Two windows of features, one against the other: the rows of both, or those of one and what is saved of the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from itertools import chain

from featurectl.core.arrow import ArrowConnection
from featurectl.core.catalog import Field, Selection
from featurectl.core.db import Connection
from featurectl.core.entity import EntityId
from featurectl.core.queries import query
from featurectl.core.sources import column_types, source
from featurectl.core.statistics import arrays
from featurectl.core.statistics.baselines import Kept
from featurectl.core.statistics.describe import By, FeatureStatistics, describe
from featurectl.core.statistics.drift import Drift, Limits, compare, missing, top_movers, unknown
from featurectl.core.statistics.profile import Profile, Sample, pooled, profiles, samples
from featurectl.core.statistics.rows import Rows, conditions, event, open_rows
from featurectl.core.times import ALWAYS, Window, iso

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Reader:
    """What reads rows: both connections to the database, and whose rows."""

    arrow: ArrowConnection
    connection: Connection
    entities: Sequence[EntityId] | None = None

    def rows(self, chosen: Selection, window: Window) -> AbstractContextManager[Rows]:
        """Fetch a view's rows in a window, with closes beside what is in units of price."""
        return open_rows(self.arrow, self.connection, chosen, self.entities, window, scaled=True)

    def newest(self, chosen: Selection) -> datetime | None:
        """Return the newest event time of a view's rows, whenever that was."""
        types = column_types(self.connection, chosen.view)
        statement = query("statistics", "newest_of_view").format(
            event=event(chosen.view, types),
            source=source(chosen.view),
            chosen=conditions(chosen.view, types, self.entities, ALWAYS),
        )
        row = self.connection.execute(statement).fetchone()
        return row[0] if row else None


def keep(reader: Reader, selections: Sequence[Selection], window: Window, *, now: datetime) -> list[Kept]:
    """Return what is to be saved of the features of a window: profiles and figures, pooled and by entity."""
    found = []
    for chosen in selections:
        with reader.rows(chosen, window) as rows:
            found += _kept(rows, window, now)
    return found


def _kept(rows: Rows, window: Window, now: datetime) -> list[Kept]:
    figures: dict[tuple[str, str | None], FeatureStatistics] = {}
    for by in (By.TIMEFRAME, By.ENTITY):
        figures |= {(one.feature, one.entity or pooled(one.timeframe)): one for one in describe(rows, now=now, by=by)}
    return [Kept(one, figures[one.feature, one.entity]) for one in profiles(rows, window)]


def profiles_of(reader: Reader, selections: Sequence[Selection], window: Window) -> list[Profile]:
    """Return the profiles of features over a window, pooled and by entity."""
    found = []
    for chosen in selections:
        with reader.rows(chosen, window) as rows:
            found += profiles(rows, window)
    return found


def find_drift(
    reader: Reader,
    selections: Sequence[Selection],
    reference: Iterable[Profile],
    current: Window,
    limits: Limits,
    *,
    progress: Progress = lambda _: None,
) -> list[Drift]:
    """Return how features of a window differ from profiles of them, pooled and by entity, the top movers first."""
    known = {(one.view, one.feature, one.entity): one for one in reference}
    found: list[Drift] = []
    for chosen in selections:
        progress(chosen.view.name)
        with reader.rows(chosen, current) as rows:
            found += _of_rows(rows, known, limits, _newest(reader, chosen, rows))
    return top_movers(found)


def _newest(reader: Reader, chosen: Selection, rows: Rows) -> str:
    """Say where the rows are that a window has none of."""
    if len(rows):
        return "no rows in the window"
    newest = reader.newest(chosen)
    return f"no rows in the window; the newest is of {iso(newest)}" if newest else "the view has no rows"


def _of_rows(
    rows: Rows, known: dict[tuple[str, str, str | None], Profile], limits: Limits, why_none: str
) -> list[Drift]:
    def of_field(field: Field) -> list[Drift]:
        ours = {key[2]: one for key, one in known.items() if key[:2] == (rows.view.name, field.name)}
        found = [_of_sample(rows, field, one, ours.pop(one.entity, None), limits) for one in samples(rows, field)]
        return found + [missing(one, why_none) for one in ours.values()]

    numbers = [field for field in rows.fields if field.name in rows.numeric]
    return list(chain.from_iterable(arrays.at_once(of_field, numbers)))


def _of_sample(rows: Rows, field: Field, sample: Sample, before: Profile | None, limits: Limits) -> Drift:
    if before is None:
        return unknown(rows.view.name, field, sample, "not in the reference")
    if before.scale != sample.scale:
        return unknown(rows.view.name, field, sample, f"the reference is of its {before.scale}")
    return compare(before, sample, field, limits)
