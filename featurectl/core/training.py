"""Training sets: features as of the instants of a window or of a spine, and what became of the price after them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from featurectl.core.catalog import Catalog, Selection
from featurectl.core.db import Connection
from featurectl.core.entity import EntityId
from featurectl.core.offline import events_statement, joined_view, window_statement
from featurectl.core.targets import KEYS, Closes, Target, with_targets
from featurectl.core.times import Window
from featurectl.errors import InvalidEntityId, UsageError

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    from featurectl.core.arrow import ArrowConnection, Batches
    from featurectl.core.spines import TableSpine


@dataclass(frozen=True, slots=True)
class Wanted:
    """The columns of a training set: features by view, and targets, which are read as they are known at ``now``."""

    features: tuple[Selection, ...]
    targets: tuple[Target, ...]
    now: datetime

    @property
    def names(self) -> list[str]:
        return [name for chosen in self.features for name in chosen.features] + [one.name for one in self.targets]


def over_window(
    arrow: ArrowConnection, connection: Connection, wanted: Wanted, entities: Sequence[EntityId], window: Window
) -> Batches:
    """Return a row for every event time that one of the views has in the window, entity by entity.

    ``connection`` is for the candles that targets need, while ``arrow`` is busy with the features.

    Raises:
        UsageError: the ids do not give what a view or a target is keyed by, or a target has the name of a feature.
    """
    _check(wanted, entities)
    batches = arrow.read(window_statement(wanted.features, list(dict.fromkeys(entities)), window))
    return _with_targets(batches, connection, wanted, window.start, window.end)


def over_spine(arrow: ArrowConnection, connection: Connection, wanted: Wanted, spine: TableSpine) -> Batches:
    """Return the rows of a spine, in their order, with the features as of their instants; within a transaction."""
    from featurectl.core.retrieval import PointInTime

    extent = spine.extent(arrow)
    batches = PointInTime(spine, tuple(map(joined_view, wanted.features))).read(arrow)
    return _with_targets(batches, connection, wanted, extent.first, extent.last, spine)


def spine_of_window(arrow: ArrowConnection, wanted: Wanted, entities: Sequence[EntityId], window: Window) -> TableSpine:
    """Return the rows of :func:`over_window` without their features: the event times of the views with a history.

    Raises:
        UsageError: none of the views has one; or as there.
    """
    from featurectl.core.spines import TableSpine

    _check(wanted, entities)
    views = [chosen.view for chosen in wanted.features if chosen.view.has_history]
    if not views:
        names = ", ".join(chosen.view.name for chosen in wanted.features)
        raise UsageError(f"no SQL reads the event times of {names}; give a spine with entity_id and event_timestamp")
    table = arrow.table(events_statement(views, list(dict.fromkeys(entities)), window))
    keys = dict.fromkeys(key for chosen in wanted.features for key in chosen.view.join_keys)
    return TableSpine(table, table.column("event_timestamp"), table.select(list(keys | dict.fromkeys(KEYS))))


def with_features(features: pa.Table, connection: Connection, wanted: Wanted, spine: TableSpine) -> Batches:
    """Return the rows of a spine, the features found for them elsewhere, and targets."""
    from featurectl.core.arrow import Batches

    table = spine.table
    for name, values in zip(features.column_names, features.columns, strict=True):
        table = table.append_column(name, values)
    instants = [instant for instant in spine.at.to_pylist() if instant is not None] if wanted.targets else []
    first, last = min(instants, default=None), max(instants, default=None)
    batches = Batches(table.schema, table.combine_chunks().to_batches())
    return _with_targets(batches, connection, wanted, first, last, spine)


def _with_targets(
    batches: Batches,
    connection: Connection,
    wanted: Wanted,
    first: datetime | None,
    last: datetime | None,
    spine: TableSpine | None = None,
) -> Batches:
    if not wanted.targets:
        return batches
    closes = Closes(connection, wanted.targets, first, last, now=wanted.now)
    return with_targets(batches, wanted.targets, closes, spine)


def spine_of(given: Path | pd.DataFrame, catalog: Catalog, wanted: Wanted) -> TableSpine:
    """Return the spine that a file or a DataFrame holds, with the keys that the features and targets need.

    Raises:
        InputFileError: it can't be read, or lacks a key.
        UsageError: two columns of the result would have one name.
    """
    from featurectl.core.spine import FRAME, read_spine, spine_of_frame

    keys = dict.fromkeys(key for chosen in wanted.features for key in chosen.view.join_keys)
    if wanted.targets:
        keys |= dict.fromkeys(KEYS)
    not_text = [entity.join_key for entity in catalog.entities if entity.value_type not in ("STRING", "UNKNOWN")]
    if isinstance(given, Path):
        spine = read_spine(given, list(keys), not_text=not_text)
        place, columns = str(given), spine.table.column_names
    else:
        spine = spine_of_frame(given, list(keys), not_text=not_text)
        place, columns = FRAME, list(given.columns)
    if clash := [name for name in wanted.names if name in columns]:
        raise UsageError(
            f"{place} has a column '{clash[0]}', which is a feature or target asked for; rename it, or leave it out"
        )
    _refuse_clash(wanted)
    return spine


def _check(wanted: Wanted, entities: Sequence[EntityId]) -> None:
    """Refuse what a window can't give.

    Raises:
        UsageError: targets of ids that have no timeframe, or with the name of a feature.
    """
    _refuse_clash(wanted)
    alone = [entity for entity in entities if not entity.timeframe]
    if wanted.targets and alone:
        raise InvalidEntityId(
            f"'{alone[0]}' is not an entity id; write <SYMBOL>_<timeframe>, for example {alone[0]}_1h: targets are "
            "made of bars, which have a timeframe"
        )


def _refuse_clash(wanted: Wanted) -> None:
    for target in wanted.targets:
        if wanted.names.count(target.name) > 1:
            raise UsageError(
                f"target '{target.kind}:{target.bars}' has the name of feature '{target.name}'; leave out one"
            )
