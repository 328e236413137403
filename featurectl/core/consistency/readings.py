"""Who there is of a view, and what its history and the market's tables say of them; all in the caller's transaction."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from psycopg import RawCursor, sql

from featurectl.core import sources, tags
from featurectl.core.catalog import Selection, View
from featurectl.core.composite import parts_of
from featurectl.core.compute import candles, signals, ticks
from featurectl.core.compute.again import Again, Recomputation, recomputation
from featurectl.core.consistency.verdicts import Row
from featurectl.core.db import Connection
from featurectl.core.entity import EntityId, parse_id_or_symbol
from featurectl.core.online import HistoryReads, Key, Keys, key_of
from featurectl.core.queries import query
from featurectl.core.schema import columns_of, table_identifier
from featurectl.errors import NotFound


def entities_of(connection: Connection, view: View, views: Sequence[View]) -> list[EntityId]:
    """Return the entities that a view's history, its online table or the market's tables have, in their order.

    A composite has those of the first view that it joins, whose keys an index has.
    """
    rows_of = parts_of(view, views)[0].view if view.is_composite else view
    found = {*_keys_of_source(connection, rows_of), *_keys_online(connection, view), *_of_market(connection, view)}
    return sorted(found, key=lambda one: (one.symbol, one.timeframe))


def meant(ids: Sequence[str], known: Sequence[Sequence[EntityId]]) -> list[list[EntityId]]:
    """Return of several lists of entities those that ids or symbols mean; without any, all.

    Raises:
        InvalidEntityId, NotFound: an id is none, or means none of all entities.
    """
    wanted = [parse_id_or_symbol(text) for text in ids]
    every = {entity for entities in known for entity in entities}
    for one in wanted:
        if not any(map(one.means, every)):
            names = {str(entity) if one.timeframe else entity.symbol for entity in every}
            kind = "entity" if one.timeframe else "symbol"
            raise NotFound.of(kind, str(one), names, "`featurectl entities symbol` lists the symbols")
    return [[one for one in entities if not wanted or any(id.means(one) for id in wanted)] for entities in known]


def _keys_of_source(connection: Connection, view: View) -> Iterable[EntityId]:
    if not view.has_history:
        return ()
    statement = query("consistency", "keys_of_source").format(
        entities=sources.entity_list(connection, view), keys=_texts(view, "entities")
    )
    return _ids(view, connection.execute(statement))


def _keys_online(connection: Connection, view: View) -> Iterable[EntityId]:
    if not view.online_table or not columns_of(connection, view.online_table):
        return ()
    statement = query("consistency", "keys_online").format(
        table=table_identifier(view.online_table), keys=_texts(view, "o")
    )
    return _ids(view, connection.execute(statement))


def _texts(view: View, alias: str) -> sql.Composable:
    return sources.commas(sql.SQL("{}::text").format(sources.column(key, alias)) for key in view.join_keys)


def _ids(view: View, keys: Iterable[Sequence[str]]) -> Iterable[EntityId]:
    for key in keys:
        values = dict(zip(view.join_keys, key, strict=True))
        yield EntityId(values["symbol"], values.get("timeframe", ""))


def _of_market(connection: Connection, view: View) -> Iterable[EntityId]:
    """Return the entities that there are candles, ticks or scores of."""
    if view.computed_from == "candles":
        return candles.list_series(connection)
    if view.computed_from == "ticks":
        names = tags.timeframes(view)
        return [EntityId(symbol, name) for symbol in ticks.symbols(connection) for name in names]
    if view.computed_from == "signals":
        return [EntityId(symbol, "") for symbol in signals.scored_symbols(connection)]
    return ()


class History:
    """The history of some features of a view."""

    def __init__(self, connection: Connection, chosen: Selection) -> None:
        self._connection, self._chosen = connection, chosen
        self._reads = HistoryReads(chosen, sources.column_types(connection, chosen.view))

    @property
    def features(self) -> tuple[str, ...]:
        return self._chosen.features

    def at(self, keys: Sequence[Key], instant: datetime) -> dict[Key, Row]:
        """Return the newest row of each key up to an instant, of whatever age."""
        if not keys:
            return {}
        wanted, width = Keys(keys), len(self._chosen.view.join_keys)
        arrays = [list(column) for column in zip(*wanted.distinct, strict=True)]
        # In binary, as an online read gets them: the text of a real is another number.
        statement = self._reads.query(wanted, instant).text
        cursor = RawCursor(self._connection).execute(statement, [*arrays, instant], binary=True)
        return {
            row[:width]: Row(row[width], dict(zip(self.features, row[width + 1 :], strict=True)))
            for row in cursor.fetchall()
        }


def computed_again(
    connection: Connection, chosen: Selection, views: Sequence[View], *, root: Path, warmup: int
) -> Recomputation | None:
    """Return what has features of a view again without reading them: by its functions, or from the views it joins.

    Raises:
        DefinitionError: a function is missing, or a tag can't be read.
    """
    view, features = chosen.view, chosen.features
    if view.is_composite:
        parts = [
            Selection(part.view, taken)
            for part in parts_of(view, views)
            if (taken := tuple(name for name in part.features if name in features))
        ]
        return OfViews(tuple((part.view, History(connection, part)) for part in parts))
    found = recomputation(connection, view, features, root=root, warmup=warmup)
    others = {
        field.name: field.column_type
        for field in view.fields
        if field.name in features and field.column_type not in ("double precision", "float8")
    }
    return AsStored(connection, found, others) if found and others else found


@dataclass(frozen=True, slots=True)
class OfViews:
    """Features of a composite, read one by one from the views that it joins."""

    parts: tuple[tuple[View, History], ...]

    def at(self, entity: EntityId, event: datetime) -> Again:
        """See :class:`Recomputation`."""
        values: dict[str, float | None] = {}
        for view, history in self.parts:
            key = key_of(view, entity)
            row = history.at([key], event).get(key)
            is_old = row is None or (view.ttl is not None and event - row.event > view.ttl)
            names = history.features
            values |= dict.fromkeys(names) if row is None or is_old else {name: row.values[name] for name in names}
        return Again(values)

    def newest(self, entity: EntityId, until: datetime) -> datetime | None:
        """See :class:`Recomputation`; a composite has the rows of its first view, of whatever age."""
        return None


@dataclass(frozen=True, slots=True)
class AsStored:
    """Features some of which are stored as another type than double precision: rounded as they are then."""

    connection: Connection
    inner: Recomputation
    types: Mapping[str, str]

    def at(self, entity: EntityId, event: datetime) -> Again:
        """See :class:`Recomputation`."""
        again = self.inner.at(entity, event)
        if not again.values:
            return again
        names = [name for name in self.types if name in again.values]
        values = sql.SQL(", ").join(
            sql.SQL("({}::float8)::{}").format(sql.Literal(again.values[name]), sql.SQL(self.types[name]))
            for name in names
        )
        statement = query("consistency", "as_stored").format(values=values)
        row = self.connection.execute(statement, binary=True).fetchone()
        return Again({**again.values, **dict(zip(names, row or (), strict=True))}, again.gone, again.scales)

    def newest(self, entity: EntityId, until: datetime) -> datetime | None:
        """See :class:`Recomputation`."""
        return self.inner.newest(entity, until)
