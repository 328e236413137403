"""Training sets: point-in-time joins of views to a spine, inside the database, out as Arrow."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta

from psycopg import sql

from featurectl.core import sources
from featurectl.core.catalog import Selection, View
from featurectl.core.entity import EntityId
from featurectl.core.online import key_of
from featurectl.core.queries import query
from featurectl.core.times import Window


@dataclass(frozen=True, slots=True)
class JoinedView:
    """One view's part of a join.

    ``keys`` pairs a column of the source with the spine's column that must equal it; ``features`` pairs a column of
    the source with its name in the result.
    """

    source: sql.Composable
    keys: tuple[tuple[str, str], ...]
    timestamp_column: str
    order: sql.Composable
    ttl: timedelta | None
    features: tuple[tuple[str, str], ...]
    not_after: tuple[str, str] | None = None


def joined_view(chosen: Selection) -> JoinedView:
    """Return a selection of the catalog as a part of a join, keyed by the spine's columns of the same names."""
    view = chosen.view
    fields = [field for name in chosen.features if (field := view.field(name))]
    return JoinedView(
        source=sources.source(view),
        keys=tuple((key, key) for key in view.join_keys),
        timestamp_column=view.timestamp_column,
        order=sources.newest_first(view.timestamp_column, view.created_column),
        ttl=view.ttl,
        features=tuple((field.source_column, field.name) for field in fields),
    )


def point_in_time(
    spine: sql.Composable,
    spine_columns: Sequence[str],
    event_column: str,
    views: Sequence[JoinedView],
    order: Sequence[str],
) -> sql.Composed:
    """Return the statement that joins views to a spine: all its rows, in the order of ``order``.

    A feature row with event time ``e`` serves a spine row at ``t`` when ``t - ttl <= e <= t``; among those the latest
    event counts, among equal events the latest write.
    """
    return query("offline", "point_in_time").format(
        spine_columns=sources.commas(sources.column(name, "spine") for name in spine_columns),
        features=sql.SQL("").join(
            sql.SQL(", {}.{}").format(_alias(index), sql.Identifier(name))
            for index, view in enumerate(views)
            for _, name in view.features
        ),
        spine=spine,
        joins=sql.SQL("\n").join(_join(index, view, event_column) for index, view in enumerate(views)),
        order=sources.commas(sources.column(name, "spine") for name in order),
    )


def _alias(index: int) -> sql.Identifier:
    return sql.Identifier(f"view_{index}")


def _join(index: int, view: JoinedView, event_column: str) -> sql.Composed:
    event = sources.column(view.timestamp_column)
    spine_event = sources.column(event_column, "spine")
    conditions = [sql.SQL("{} = {}").format(sources.column(key), sources.column(of, "spine")) for key, of in view.keys]
    if view.not_after:
        created, limit = view.not_after
        conditions.append(sql.SQL("{} <= {}").format(sources.column(created), sources.column(limit, "spine")))
    ttl: sql.Composable = sql.SQL("")
    if view.ttl is not None:
        ttl = sql.SQL(" AND {} >= {} - {}").format(event, spine_event, sql.Literal(view.ttl))
    return query("offline", "join_view").format(
        columns=sources.commas(
            sql.SQL("{} AS {}").format(sources.column(column), sql.Identifier(name)) for column, name in view.features
        ),
        source=view.source,
        match=sources.conjunction(conditions),
        event=event,
        spine_event=sql.Identifier(event_column),
        ttl=ttl,
        order=view.order,
        alias=_alias(index),
    )


def window_statement(selections: Sequence[Selection], entities: Sequence[EntityId], window: Window) -> sql.Composed:
    """Return the statement for a training set over a window: one row an entity and event time of any of the views.

    Raises:
        UsageError: a view is keyed by something that entity ids do not give.
    """
    for chosen in selections:
        key_of(chosen.view, entities[0])
    columns = ["entity_id", "symbol", "timeframe", "event_timestamp"]
    spine = query("offline", "spine_of_window").format(
        entity_ids=sql.Literal([str(entity) for entity in entities]),
        symbols=sql.Literal([entity.symbol for entity in entities]),
        timeframes=sql.Literal([entity.timeframe for entity in entities]),
        events=sql.SQL(" UNION ALL ").join(_events(chosen.view, window) for chosen in selections),
    )
    views = [joined_view(chosen) for chosen in selections]
    return point_in_time(spine, columns, "event_timestamp", views, ["position", "event_timestamp"])


def _events(view: View, window: Window) -> sql.Composed:
    return query("offline", "events_of_view").format(
        event=sources.column(view.timestamp_column),
        source=sources.source(view),
        match=sources.same_keys(view, "wanted"),
        window=sources.within(view.timestamp_column, window.start, window.end),
    )


def spine_statement(
    table: str, columns: Iterable[str], event_column: str, selections: Sequence[Selection], row_column: str
) -> sql.Composed:
    """Return the statement for a training set over a spine that stands in a temporary table, in its order."""
    views = [joined_view(chosen) for chosen in selections]
    return point_in_time(sql.Identifier(table), list(columns), event_column, views, [row_column])
