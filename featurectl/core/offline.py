"""Training sets: the statements that join views to a spine as of its instants, and that read what a join needs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from psycopg import sql

from featurectl.core import arrow_types, key_match, sources
from featurectl.core.catalog import Selection, View
from featurectl.core.entity import EntityId
from featurectl.core.online import key_of
from featurectl.core.queries import query
from featurectl.core.times import Window

if TYPE_CHECKING:
    from featurectl.core.arrow import ArrowConnection

# Names in a spine's relation that no column of a user's may have.
ROW = "__featurectl_row"
AT = "__featurectl_at"


@dataclass(frozen=True, slots=True)
class JoinedView:
    """One view's part of a join.

    ``keys`` pairs a column of the source with the spine's column that must equal it; ``features`` pairs a column of
    the source with its name in the result. Rows from before ``since`` do not serve; with ``written_before`` neither
    do those created after the spine's instant. ``types`` are those of the source's columns, where they are known;
    ``read_as`` names the type in which a column is wanted that has another one.
    """

    source: sql.Composable
    keys: tuple[tuple[str, str], ...]
    timestamp_column: str
    created_column: str | None
    ttl: timedelta | None
    features: tuple[tuple[str, str], ...]
    written_before: bool = False
    since: datetime | None = None
    types: Mapping[str, str] = field(default_factory=dict)
    read_as: Mapping[str, str] = field(default_factory=dict)

    def type_of(self, column: str | None) -> str:
        return self.types.get(column or "", "")

    def columns(self) -> list[str]:
        """Return the columns of the source that the join reads, each once."""
        named = [self.timestamp_column, *([self.created_column] if self.created_column else [])]
        return list(dict.fromkeys([*(key for key, _ in self.keys), *named, *(column for column, _ in self.features)]))


@dataclass(frozen=True, slots=True)
class Relation:
    """A spine as SQL: it has ``ROW`` where its order counts, and the columns of ``types``.

    ``at`` is its instant, a timestamptz unless ``types`` say otherwise. ``output`` pairs its columns that belong to
    the result with the types they are cast to, if any.
    """

    source: sql.Composable
    types: Mapping[str, str] = field(default_factory=dict)
    output: tuple[tuple[str, str | None], ...] = ()
    order: tuple[str, ...] = (ROW,)
    at: str = AT


def joined_view(chosen: Selection) -> JoinedView:
    """Return a selection of the catalog as a part of a join, keyed by the spine's columns of the same names."""
    view = chosen.view
    fields = [field for name in chosen.features if (field := view.field(name))]
    return JoinedView(
        source=sources.source(view),
        keys=tuple((key, key) for key in view.join_keys),
        timestamp_column=view.timestamp_column,
        created_column=view.created_column,
        ttl=view.ttl,
        features=tuple((field.source_column, field.name) for field in fields),
        read_as={field.source_column: _type_in_result(field.column_type) for field in fields},
    )


def _type_in_result(column_type: str) -> str:
    """Return the type a feature has in a result: its own, or text where Arrow has none for it."""
    scalar, is_array, _ = column_type.partition("[]")
    return f"text{is_array}" if scalar in ("numeric", "uuid", "jsonb") else column_type


def with_types(connection: ArrowConnection, view: JoinedView) -> JoinedView:
    """Ask the database for the types of the source's columns."""
    return replace(view, types=types_of(connection, view.source, view.columns()))


def types_of(
    connection: ArrowConnection, source: sql.Composable, columns: Iterable[str] | None = None
) -> dict[str, str]:
    """Return the types of a source's columns, of all of them where none are named."""
    names = sql.SQL("s.*") if columns is None else sources.commas(map(sources.column, columns))
    schema = connection.schema(sql.SQL("SELECT {} FROM {} AS s LIMIT 0").format(names, source))
    return {field.name: arrow_types.type_name(field) for field in schema}


def point_in_time(spine: Relation, views: Sequence[JoinedView]) -> sql.Composed:
    """Return the statement that joins views to a spine: all its rows, in their order.

    A feature row with event time ``e`` serves a spine row at ``t`` when ``t - ttl <= e <= t``; among those the latest
    event counts, among equal events the latest write.
    """
    columns = [readable(sources.column(name, "spine"), name, kind) for name, kind in spine.output]
    columns += [sources.column(name, alias_of(index)) for index, view in enumerate(views) for _, name in view.features]
    return query("offline", "point_in_time").format(
        columns=sources.commas(columns),
        spine=spine.source,
        joins=joins(views, spine),
        order=sources.commas(sources.column(name, "spine") for name in spine.order),
    )


def readable(value: sql.Composable, name: str, kind: str | None) -> sql.Composable:
    """Return a value under its name in the result, cast to ``kind`` where Arrow could not hold it otherwise."""
    cast = sql.SQL("::{}").format(sql.SQL(kind)) if kind else sql.SQL("")
    return sql.SQL("{}{} AS {}").format(value, cast, sql.Identifier(name))


def feature_columns(view: JoinedView) -> list[sql.Composable]:
    """Return the view's features, under their names in the result."""
    return [_feature(view, column, name) for column, name in view.features]


def _feature(view: JoinedView, column: str, name: str) -> sql.Composable:
    given = view.type_of(column)
    kind = view.read_as.get(column) or arrow_types.read_as(given)
    cast = sql.SQL("{}::{}").format(sources.column(column), sql.SQL(kind)) if kind else sources.column(column)
    return readable(sources.without_nan(cast, kind or given), name, None)


def alias_of(index: int) -> str:
    """Return the name under which :func:`joins` puts a view beside the spine."""
    return f"view_{index}"


def joins(views: Sequence[JoinedView], spine: Relation) -> sql.Composed:
    """Return the joins that put beside each row of a relation called ``spine`` the row of each view that serves it."""
    return sql.SQL("\n").join(_join(index, view, spine) for index, view in enumerate(views))


def _join(index: int, view: JoinedView, spine: Relation) -> sql.Composed:
    event = sources.column(view.timestamp_column)
    at = sources.epoch(sources.column(spine.at, "spine"), spine.types.get(spine.at, "timestamptz"))
    limit = sources.as_instant(at, view.type_of(view.timestamp_column))
    conditions = [matched(view, spine, "spine"), sql.SQL("{} <= {}").format(event, limit)]
    if view.ttl is not None:
        # In seconds: a day is longer or shorter where clocks change.
        ttl = sql.Literal(f"{view.ttl // timedelta(microseconds=1)} microseconds")
        conditions.append(sql.SQL("{} >= {} - {}::interval").format(event, limit, ttl))
    if view.since is not None:
        since = sources.as_instant(sql.Literal(view.since), view.type_of(view.timestamp_column))
        conditions.append(sql.SQL("{} >= {}").format(event, since))
    if view.written_before and view.created_column:
        written = sources.as_instant(at, view.type_of(view.created_column))
        conditions.append(sql.SQL("{} <= {}").format(sources.column(view.created_column), written))
    return query("offline", "join_view").format(
        columns=sources.commas(feature_columns(view)),
        source=view.source,
        match=sources.conjunction(conditions),
        order=sources.newest_first(view.timestamp_column, view.created_column),
        alias=sql.Identifier(alias_of(index)),
    )


def matched(view: JoinedView, spine: Relation, alias: str) -> sql.Composable:
    """Hold a row of the source to the keys of a row of the spine."""
    return sources.conjunction(
        key_match.equal(sources.column(key), view.type_of(key), sources.column(of, alias), spine.types.get(of, ""))
        for key, of in view.keys
    )


def rows_of_keys(view: JoinedView, keys: Relation, code: str, window: Window) -> sql.Composed:
    """Return the statement that reads a view's rows of a window for the keys of a table, with the key's ``code``.

    Its columns: ``code``, ``event`` and ``created`` (microseconds since 1970; a null is the least), and the features
    as ``f0``, ``f1``, …
    """
    created = (
        sources.epoch(sources.column(view.created_column), view.type_of(view.created_column))
        if view.created_column
        else sql.SQL("NULL::timestamptz")
    )
    renamed = replace(view, features=tuple((column, f"f{index}") for index, (column, _) in enumerate(view.features)))
    return query("offline", "rows_of_keys").format(
        code=sources.column(code, "wanted"),
        event=sources.epoch(sources.column(view.timestamp_column), view.type_of(view.timestamp_column)),
        created=created,
        features=sql.SQL("").join(sql.SQL(", {}").format(column) for column in feature_columns(renamed)),
        keys=keys.source,
        source=view.source,
        match=matched(view, keys, "wanted"),
        window=rows_in(view, window),
    )


def rows_in(view: JoinedView, window: Window) -> sql.Composable:
    """Hold a row of the view's source to a window of event time."""
    kind = view.type_of(view.timestamp_column)
    start = max(filter(None, (window.start, view.since)), default=None)
    return sources.within(view.timestamp_column, start, window.end, kind)


def window_statement(selections: Sequence[Selection], entities: Sequence[EntityId], window: Window) -> sql.Composed:
    """Return the statement for a training set over a window: one row an entity and event time of any of the views.

    Raises:
        UsageError: a view is keyed by something that entity ids do not give.
    """
    wanted = _wanted([chosen.view for chosen in selections], entities)
    if len(selections) == 1:
        return _window_of_view(selections[0], window, wanted)
    spine = _spine_of_window([chosen.view for chosen in selections], window, wanted)
    return point_in_time(spine, [joined_view(chosen) for chosen in selections])


def events_statement(views: Sequence[View], entities: Sequence[EntityId], window: Window) -> sql.Composed:
    """Return the statement for the rows of :func:`window_statement` without features: entities and event times.

    Raises:
        UsageError: as there.
    """
    return point_in_time(_spine_of_window(views, window, _wanted(views, entities)), [])


def _wanted(views: Sequence[View], entities: Sequence[EntityId]) -> Mapping[str, sql.Composable]:
    for view in views:
        for entity in entities:
            key_of(view, entity)
    return {
        "entity_ids": sql.Literal([str(entity) for entity in entities]),
        "symbols": sql.Literal([entity.symbol for entity in entities]),
        "timeframes": sql.Literal([entity.timeframe or None for entity in entities]),
    }


def _spine_of_window(views: Sequence[View], window: Window, wanted: Mapping[str, sql.Composable]) -> Relation:
    spine = query("offline", "spine_of_window").format(
        **wanted,
        at=sql.Identifier(AT),
        events=sql.SQL(" UNION ALL ").join(_events(view, window) for view in views),
    )
    columns = ("entity_id", "symbol", "timeframe", "event_timestamp")
    return Relation(spine, output=tuple((name, None) for name in columns), order=("position", AT))


def _window_of_view(chosen: Selection, window: Window, wanted: Mapping[str, sql.Composable]) -> sql.Composed:
    """Return the statement for one view alone: at each of its event times its own row serves, and needs no join."""
    return query("offline", "window_of_view").format(
        **wanted,
        event=_event(chosen.view),
        features=sources.commas(feature_columns(joined_view(chosen))),
        source=sources.source(chosen.view),
        match=sources.same_keys(chosen.view, "wanted"),
        window=sources.within(chosen.view.timestamp_column, window.start, window.end),
        written=sources.created(chosen.view),
    )


def _events(view: View, window: Window) -> sql.Composed:
    return query("offline", "events_of_view").format(
        event=_event(view),
        source=sources.source(view),
        match=sources.same_keys(view, "wanted"),
        window=sources.within(view.timestamp_column, window.start, window.end),
    )


def _event(view: View) -> sql.Composable:
    """Return a row's event time as an instant; without a zone it is UTC, as the session is."""
    return sql.SQL("{}::timestamptz").format(sources.column(view.timestamp_column))
