"""What an online read asks the database, and what its values are called: one probe a view, by key."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from functools import cached_property

from psycopg import sql

from featurectl.core import pgarray, sources
from featurectl.core.catalog import Field, Selection, View
from featurectl.core.entity import EntityId
from featurectl.core.schema import table_identifier
from featurectl.core.serving.session import Query
from featurectl.errors import InvalidEntityId, UsageError

Key = tuple[str, ...]


class Status(StrEnum):
    """Feast's words for what became of one value."""

    PRESENT = "PRESENT"
    NULL_VALUE = "NULL_VALUE"
    NOT_FOUND = "NOT_FOUND"
    OUTSIDE_MAX_AGE = "OUTSIDE_MAX_AGE"


class Source(StrEnum):
    """Where an answer came from: our online tables, a foreign online store through Feast's SDK, or the history."""

    ONLINE = "online"
    FEAST = "feast"
    TIMESCALEDB = "timescaledb"


def key_of(view: View, entity: EntityId) -> Key:
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


class Keys(list[Key]):
    """Keys of one view, in the order asked for, and the parameters that they make."""

    @cached_property
    def distinct(self) -> list[Key]:
        return list(dict.fromkeys(self))

    @cached_property
    def columns(self) -> tuple[pgarray.Array, ...]:
        """The distinct keys, an array a join key."""
        return tuple(pgarray.array("text", column) for column in zip(*self.distinct, strict=True))

    @cached_property
    def grid(self) -> tuple[pgarray.Array, ...] | None:
        """The distinct values of each join key, where most of their combinations are keys."""
        if self._combinations > 2 * len(self.distinct):
            return None
        return tuple(pgarray.array("text", column) for column in self._values)

    @property
    def is_whole_grid(self) -> bool:
        """Whether all combinations are keys."""
        return self._combinations == len(self.distinct)

    @cached_property
    def _values(self) -> list[list[str]]:
        return [list(dict.fromkeys(column)) for column in zip(*self.distinct, strict=True)]

    @cached_property
    def _combinations(self) -> int:
        return math.prod(map(len, self._values))


class OnlineReads:
    """The queries that read some features of a view from its online table; its rows: keys, event time, features."""

    def __init__(self, chosen: Selection) -> None:
        self.view = view = chosen.view
        if view.online_table is None:
            raise UsageError(
                f"view '{view.name}' is not in an online store of ours; read it with `featurectl feast -- …`"
            )
        fields = [field for name in chosen.features if (field := view.field(name))]
        parts = {
            "columns": sources.commas(
                [
                    *(sources.column(name, "o") for name in (*view.join_keys, "event_timestamp")),
                    *(sources.without_nan(sources.column(field.name, "o"), field.column_type) for field in fields),
                ]
            ),
            "table": table_identifier(view.online_table),
            "keys": _keys(view),
            "names": sources.commas(sql.Identifier(key) for key in view.join_keys),
            "among": sources.conjunction(
                sql.SQL("{} = ANY(${}::text[])").format(sources.column(key, "o"), sql.SQL(str(index + 1)))
                for index, key in enumerate(view.join_keys)
            ),
            "equal": sources.conjunction(
                sql.SQL("{} = ${}::text").format(sources.column(key, "o"), sql.SQL(str(index + 1)))
                for index, key in enumerate(view.join_keys)
            ),
        }
        self._joined = _text("SELECT {columns} FROM {keys} JOIN {table} AS o USING ({names})", parts)
        self._among = _text("SELECT {columns} FROM {table} AS o WHERE {among}", parts)
        self._single = _text("SELECT {columns} FROM {table} AS o WHERE {equal}", parts)

    def query(self, keys: Keys) -> Query:
        """Return the query for the rows of some keys; other keys' rows may come along."""
        if len(keys.distinct) == 1:
            # The server plans this for good; an array of one looks to it as if it were worth a plan each time.
            return Query(self._single, keys.distinct[0])
        # One scan of the index finds a grid in half the time of a join.
        if keys.grid is not None:
            return Query(self._among, keys.grid)
        return Query(self._joined, keys.columns)


class HistoryReads:
    """The queries that read from a view's source the newest row up to an instant; rows as those of OnlineReads.

    ``types`` are the types of the source's columns: each value is cast to what it is online.
    """

    def __init__(self, chosen: Selection, types: Mapping[str, str]) -> None:
        self.view = view = chosen.view
        fields = [field for name in chosen.features if (field := view.field(name))]
        event = sources.column(view.timestamp_column)
        parts = {
            "read": sources.commas([*(sources.column(key, "k") for key in view.join_keys), sql.SQL("r.*")]),
            "wanted": _keys(view),
            "columns": sources.commas(
                [sql.SQL("{}::timestamptz").format(event), *(_as_online(field, types) for field in fields)]
            ),
            "source": sources.source(view),
            "match": sources.same_keys(view, "k"),
            "event": event,
            "as_of": sources.as_instant(
                sql.SQL(f"${len(view.join_keys) + 1}::timestamptz"), types.get(view.timestamp_column, "timestamptz")
            ),
            "order": sources.newest_first(view.timestamp_column, view.created_column),
        }
        self._text = _text(
            "SELECT {read} FROM {wanted} CROSS JOIN LATERAL (SELECT {columns} FROM {source} AS s "
            "WHERE {match} AND {event} <= {as_of} ORDER BY {order} LIMIT 1) AS r",
            parts,
        )

    def query(self, keys: Keys, as_of: datetime) -> Query:
        return Query(self._text, (*keys.columns, as_of))


def emptiness(view: View) -> Query:
    """Return the query that tells whether a view's online table holds any row."""
    assert view.online_table is not None
    return Query(_text("SELECT EXISTS (SELECT FROM {table})", {"table": table_identifier(view.online_table)}), ())


def _text(template: str, parts: Mapping[str, sql.Composable]) -> bytes:
    return sql.SQL(template).format(**parts).as_bytes()


def _keys(view: View) -> sql.Composable:
    if not view.join_keys:
        return sql.SQL("(SELECT) AS k")
    arrays = [sql.SQL("${}::text[]").format(sql.SQL(str(index + 1))) for index in range(len(view.join_keys))]
    names = sources.commas(sql.Identifier(key) for key in view.join_keys)
    return sql.SQL("unnest({}) AS k({})").format(sources.commas(arrays), names)


def _as_online(field: Field, types: Mapping[str, str]) -> sql.Composable:
    given = types.get(field.source_column, field.column_type)
    value = sources.cast_to(sources.column(field.source_column), given, field.column_type)
    return value if given == field.column_type else sql.SQL("({})::{}").format(value, sql.SQL(field.column_type))
