"""The rows of a view that are checked: of a window, of some entities, or the newest of each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any

from psycopg import sql

from featurectl.core import sources
from featurectl.core.catalog import Field, View
from featurectl.core.db import Connection
from featurectl.core.entity import EntityId, parse_id_or_symbol
from featurectl.core.queries import query
from featurectl.core.times import ALWAYS, Window
from featurectl.errors import UsageError

Key = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Scope:
    """Which rows are looked at: those in a window, of some ids or of all, and only the ``recent`` newest of each."""

    window: Window = ALWAYS
    ids: tuple[EntityId, ...] = ()
    recent: int | None = None


@dataclass(frozen=True)
class Rows:
    """A view's rows within a scope, as pieces of SQL: ``relation`` stands after FROM, with ``chosen`` after WHERE."""

    connection: Connection
    view: View
    types: dict[str, str]
    entities: sql.Composable
    relation: sql.Composable
    chosen: sql.Composable
    window: Window

    @classmethod
    def of(cls, connection: Connection, view: View, scope: Scope) -> Rows:
        """Look up what a view's source is made of, and which of its entities the ids mean.

        Raises:
            UsageError: no SQL reads the view; or ids are given that its keys have nothing to do with.
        """
        types = sources.column_types(connection, view)
        kind = types.get(view.timestamp_column, "timestamptz")
        chosen = [sources.within(view.timestamp_column, scope.window.start, scope.window.end, kind)]
        if view.computed_from is None and view.join_keys:
            chosen = [sources.conjunction([*chosen, sources.known_keys(view)])]
        every = sources.entity_list(connection, view)
        whole = cls(connection, view, types, every, sources.source(view), chosen[0], scope.window)
        if scope.ids:
            found = [key for key in whole.entity_keys() if any(is_meant(view, key, one) for one in scope.ids)]
            every = query("checks", "named_entities").format(
                values=whole._columns(found), keys=sources.commas(map(sql.Identifier, view.join_keys))
            )
            chosen.append(sql.SQL("({}) IN (SELECT * FROM unnest({}))").format(whole.group, whole._columns(found)))
        if scope.recent is None:
            return cls(connection, view, types, every, whole.relation, sources.conjunction(chosen), scope.window)
        newest = query("checks", "newest_rows").format(
            entities=every,
            source=whole.relation,
            match=sources.same_keys(view, "entities"),
            chosen=chosen[0],
            order=sources.newest_first(view.timestamp_column, view.created_column),
            rows=sql.Literal(scope.recent),
        )
        return cls(connection, view, types, every, newest, sql.SQL("TRUE"), scope.window)

    def entity_keys(self) -> list[Key]:
        """Return the keys of the entities there are."""
        statement = query("checks", "entities").format(entities=self.entities, texts=self.texts_of("entities"))
        return [tuple(key) for (key,) in self.connection.execute(statement)]

    def execute(self, name: str, **parts: sql.Composable) -> Iterable[tuple[Any, ...]]:
        """Run a query of these rows; its pieces are theirs, and what is given."""
        own = {
            "source": self.relation,
            "chosen": self.chosen,
            "texts": self.texts,
            "event": self.event,
            "time": sources.column(self.view.timestamp_column),
            "group": self.group,
        }
        return self.connection.execute(query("checks", name).format(**{**own, **parts})).fetchall()

    @cached_property
    def event(self) -> sql.Composable:
        """The event time, as an instant."""
        kind = self.types.get(self.view.timestamp_column, "timestamptz")
        return sources.epoch(sources.column(self.view.timestamp_column), kind)

    @cached_property
    def texts(self) -> sql.Composable:
        """The keys as an array of texts."""
        return self.texts_of("s")

    def texts_of(self, alias: str) -> sql.Composable:
        columns = (sql.SQL("{}::text").format(sources.column(key, alias)) for key in self.view.join_keys)
        return sql.SQL("ARRAY[{}]::text[]").format(sources.commas(columns))

    @cached_property
    def group(self) -> sql.Composable:
        """The keys, to group by; all rows are one group where there are none."""
        return sources.commas(map(sources.column, self.view.join_keys)) if self.view.join_keys else sql.SQL("()")

    @cached_property
    def keys_before(self) -> sql.Composable:
        """The keys with a comma behind each."""
        parts = (sql.SQL("{}, ").format(sources.column(key)) for key in self.view.join_keys)
        return sql.SQL("").join(parts)

    def value(self, field: Field) -> sql.Composable:
        """Return a feature's value as it compares with itself: without NaN, and JSON as text."""
        kind = self.types.get(field.source_column, field.column_type)
        value = sources.column(field.source_column)
        if kind == "json":
            return sql.SQL("{}::text").format(value)
        return sql.SQL("nullif({}, 'NaN')").format(value) if kind in (*sources.FLOATS, "numeric") else value

    def shown(self, field: Field) -> sql.Composable:
        """Return a feature's value as it is told: a number, or text."""
        return sql.SQL("{}::{}").format(self.value(field), sql.SQL("float8" if self.is_number(field) else "text"))

    def is_number(self, field: Field) -> bool:
        return sources.is_number(field, self.types)

    def listed(self, keys: Sequence[Key], **columns: Sequence[datetime | None]) -> dict[str, sql.Composable]:
        """Return entities as pieces of a query: arrays to unnest, their names, and how a row is held to them."""
        values = [self._columns(keys)] if self.view.join_keys else []
        values += [sql.SQL("{}::timestamptz[]").format(sql.Literal(list(instants))) for instants in columns.values()]
        names = [*(sql.Identifier(f"k{number}") for number in range(len(self.view.join_keys)))]
        names += [sql.Identifier(name) for name in columns]
        match = sources.conjunction(
            sql.SQL("{} = {}").format(sources.column(key), sources.column(f"k{number}", "e"))
            for number, key in enumerate(self.view.join_keys)
        )
        return {"values": sources.commas(values), "names": sources.commas(names), "match": match}

    def _columns(self, keys: Sequence[Key]) -> sql.Composable:
        """Return keys as arrays, each of the type of its column."""
        return sources.commas(
            sql.SQL("{}::text[]{}").format(sql.Literal([key[number] for key in keys]), self._array_of(name))
            for number, name in enumerate(self.view.join_keys)
        )

    def _array_of(self, key: str) -> sql.Composable:
        kind = self.types.get(key, "text")
        return sql.SQL("" if kind in ("text", "unknown") else f"::{kind}[]")


def is_meant(view: View, key: Key, one: EntityId) -> bool:
    """Tell whether an id, or a symbol, means an entity; views keyed by symbol alone take the symbol of an id."""
    values = dict(zip(view.join_keys, key, strict=True))
    return values.get("symbol") == one.symbol and one.timeframe in ("", values.get("timeframe", one.timeframe))


def read_ids(texts: Iterable[str]) -> tuple[EntityId, ...]:
    """Read entity ids, or symbols.

    Raises:
        InvalidEntityId: one is neither.
    """
    return tuple(dict.fromkeys(map(parse_id_or_symbol, texts)))


def refuse_ids(view: View) -> UsageError:
    """Return what to say of ids that a view's keys have nothing to do with."""
    keys = ", ".join(view.join_keys) or "nothing"
    return UsageError(f"view '{view.name}' is keyed by {keys}; ids give symbol and timeframe: leave them out")
