"""Read features as they are now, or as of an instant: one probe a view, by key."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from psycopg import sql

from featurectl.core import sources
from featurectl.core.catalog import Selection, View
from featurectl.core.db import Connection
from featurectl.core.entity import EntityId
from featurectl.core.schema import table_identifier
from featurectl.errors import InvalidEntityId, UsageError


class Status(StrEnum):
    """Feast's words for what became of one value."""

    PRESENT = "PRESENT"
    NULL_VALUE = "NULL_VALUE"
    NOT_FOUND = "NOT_FOUND"
    OUTSIDE_MAX_AGE = "OUTSIDE_MAX_AGE"


class Source(StrEnum):
    """Where an answer came from."""

    ONLINE = "online"
    TIMESCALEDB = "timescaledb"


@dataclass(frozen=True, slots=True)
class ViewRow:
    """What one view holds for one entity at the instant of the read.

    ``age`` is that instant minus the event timestamp; both are ``None`` when the entity was not found.
    """

    view: str
    source: Source
    event_timestamp: datetime | None
    age: timedelta | None
    ttl: timedelta | None
    features: dict[str, Any]
    statuses: dict[str, Status]

    @property
    def stale(self) -> bool:
        return self.age is not None and self.ttl is not None and self.age > self.ttl


@dataclass(frozen=True, slots=True)
class EntityFeatures:
    """One entity's features, by view."""

    entity: EntityId
    views: tuple[ViewRow, ...]

    @property
    def found(self) -> bool:
        return any(view.event_timestamp is not None for view in self.views)


_Row = tuple[Any, ...]
_Key = tuple[str, ...]


def read_online(
    connection: Connection,
    selections: Sequence[Selection],
    entities: Sequence[EntityId],
    *,
    as_of: datetime,
    history: bool = False,
    allow_stale: bool = False,
) -> list[EntityFeatures]:
    """Return the features of each entity, in the order asked for, duplicates included.

    A value with event time ``e`` serves ``as_of`` when ``as_of - ttl <= e <= as_of``. Where the online row is newer
    than ``as_of``, the newest row of the view's history up to ``as_of`` answers; with ``history``, for questions about
    the past, also where there is no online row or it is past its TTL. A value older than the TTL is withheld as
    ``OUTSIDE_MAX_AGE`` unless ``allow_stale``.
    """
    by_view = [_read_view(connection, chosen, entities, as_of, history) for chosen in selections]
    return [
        EntityFeatures(
            entity,
            tuple(
                _view_row(chosen, rows.get(key_of(chosen.view, entity)), as_of, allow_stale)
                for chosen, rows in zip(selections, by_view, strict=True)
            ),
        )
        for entity in entities
    ]


def key_of(view: View, entity: EntityId) -> _Key:
    """Return the entity's join-key values in the order of the view's join keys.

    Raises:
        InvalidEntityId: the view is keyed by a timeframe and the id has none.
        UsageError: it is keyed by something that no id gives.
    """
    values = {"symbol": entity.symbol, "timeframe": entity.timeframe}
    if not entity.timeframe and "timeframe" in view.join_keys:
        raise InvalidEntityId(
            f"'{entity}' is not an entity id; write <SYMBOL>_<timeframe>, for example {entity}_1h: view '{view.name}' "
            f"is keyed by {' and '.join(view.join_keys)}"
        )
    try:
        return tuple(values[key] for key in view.join_keys)
    except KeyError as error:
        words = " ".join(f"-e {key}=…" for key in view.join_keys)
        raise UsageError(
            f"view '{view.name}' is keyed by {', '.join(view.join_keys)}; entity ids give symbol and timeframe only: "
            f"read it with `featurectl feast -- get-online-features {words} -f {view.name}:…`"
        ) from error


def _read_view(
    connection: Connection, chosen: Selection, entities: Sequence[EntityId], as_of: datetime, history: bool
) -> dict[_Key, tuple[Source, _Row]]:
    keys = list(dict.fromkeys(key_of(chosen.view, entity) for entity in entities))
    rows: dict[_Key, tuple[Source, _Row]] = {
        key: (Source.ONLINE, row) for key, row in _fetch(connection, online_statement(chosen), chosen.view, keys)
    }
    unanswered = [key for key, (_, row) in rows.items() if row[0] > as_of]
    for key in unanswered:
        del rows[key]
    if history:
        unanswered = [key for key in keys if key not in rows or _expired(chosen.view, rows[key][1][0], as_of)]
    if unanswered and chosen.view.has_history:
        found = _fetch(connection, history_statement(chosen), chosen.view, unanswered, as_of=as_of)
        rows.update({key: (Source.TIMESCALEDB, row) for key, row in found})
    return rows


def _fetch(
    connection: Connection, statement: sql.Composed, view: View, keys: Sequence[_Key], **parameters: Any
) -> Iterable[tuple[_Key, _Row]]:
    width = len(view.join_keys)
    columns = {f"key{index}": [key[index] for key in keys] for index in range(width)}
    for row in connection.execute(statement, {**columns, **parameters}):
        yield row[:width], row[width:]


def online_statement(chosen: Selection) -> sql.Composed:
    """Return the statement that reads online rows by key; parameters ``key0``, ``key1``, … are arrays."""
    view = chosen.view
    if view.online_table is None:
        raise UsageError(f"view '{view.name}' is not in an online store of ours; read it with `featurectl feast -- …`")
    return sql.SQL("SELECT {columns} FROM {keys} JOIN {table} AS o USING ({names})").format(
        columns=sources.commas(
            sources.column(name, "o") for name in (*view.join_keys, "event_timestamp", *chosen.features)
        ),
        keys=_keys(view),
        table=table_identifier(view.online_table),
        names=_key_names(view),
    )


def history_statement(chosen: Selection) -> sql.Composed:
    """Return the statement that reads the newest row up to ``as_of`` of each key from the view's source."""
    view = chosen.view
    fields = [field for name in chosen.features if (field := view.field(name))]
    statement = sql.SQL(
        "SELECT {keys}, r.* FROM {wanted} CROSS JOIN LATERAL (SELECT {columns} FROM {source} AS s "
        "WHERE {match} AND {event} <= %(as_of)s ORDER BY {order} LIMIT 1) AS r"
    )
    return statement.format(
        keys=sources.commas(sources.column(key, "k") for key in view.join_keys),
        wanted=_keys(view),
        columns=sources.commas(
            sources.column(name) for name in (view.timestamp_column, *(field.source_column for field in fields))
        ),
        source=sources.source(view),
        match=sources.same_keys(view, "k"),
        event=sources.column(view.timestamp_column),
        order=sources.newest_first(view.timestamp_column, view.created_column),
    )


def _keys(view: View) -> sql.Composed:
    arrays = [sql.SQL("{}::text[]").format(sql.Placeholder(f"key{index}")) for index in range(len(view.join_keys))]
    return sql.SQL("unnest({}) AS k({})").format(sources.commas(arrays), _key_names(view))


def _key_names(view: View) -> sql.Composable:
    return sources.commas(sql.Identifier(key) for key in view.join_keys)


def _expired(view: View, event_timestamp: datetime, as_of: datetime) -> bool:
    return view.ttl is not None and as_of - event_timestamp > view.ttl


def _view_row(chosen: Selection, found: tuple[Source, _Row] | None, as_of: datetime, allow_stale: bool) -> ViewRow:
    view = chosen.view
    if found is None:
        statuses = dict.fromkeys(chosen.features, Status.NOT_FOUND)
        return ViewRow(view.name, Source.ONLINE, None, None, view.ttl, dict.fromkeys(chosen.features), statuses)
    source, (event_timestamp, *values) = found
    values = [None if isinstance(value, float) and not math.isfinite(value) else value for value in values]
    age = as_of - event_timestamp
    expired = _expired(view, event_timestamp, as_of)
    features: dict[str, Any] = dict(zip(chosen.features, values, strict=True))
    statuses = {
        name: Status.OUTSIDE_MAX_AGE if expired else Status.NULL_VALUE if value is None else Status.PRESENT
        for name, value in features.items()
    }
    if expired and not allow_stale:
        features = dict.fromkeys(chosen.features)
    return ViewRow(view.name, source, event_timestamp, age, view.ttl, features, statuses)
