"""SQL pieces over a view's source that materialization and point-in-time joins share."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import islice, permutations
from typing import Any

from psycopg import AsyncCursor, Cursor, sql

from featurectl.core.catalog import Field, View
from featurectl.core.db import Connection
from featurectl.core.queries import query
from featurectl.errors import UsageError

_COMMENTS = re.compile(r"(?:[\s;]|--[^\n]*(?:\n|\Z)|/\*.*?\*/)*", re.DOTALL)
# What a plan is made of that finds the next key by an index. Orders of the keys that are tried.
STEPS = {"Recursive Union", "CTE Scan", "WorkTable Scan", "Nested Loop", "Limit", "Result", "Subquery Scan"}
STEPS |= {"Index Scan", "Index Only Scan", "Append", "Merge Append", "Custom Scan"}
MAX_WALKS = 6
# By their names in SQL, and in PostgreSQL's catalog.
FLOATS = ("double precision", "real", "float8", "float4")
NUMBERS = (*FLOATS, "smallint", "integer", "bigint", "numeric")
_WITHOUT_ZONE = ("timestamp without time zone", "timestamp", "date")


def source(view: View) -> sql.Composable:
    """Return what stands after FROM: the source's table, or its query in parentheses.

    Both are the user's own SQL, from the feature repository, and stand as Feast's stock store would put them.

    Raises:
        UsageError: Feast makes the view's features from its source; no SQL reads them.
    """
    if not view.has_history:
        raise UsageError(
            f"view '{view.name}' has features that Feast makes from its source; read and materialize it with "
            "`featurectl feast -- …`"
        )
    return sql.SQL(view.source_table) if view.source_table else subquery(view.source_query or "")


def subquery(text: str) -> sql.Composable:
    """Return a query of the user's in parentheses, on lines of its own: it may end in a comment."""
    return sql.SQL("(\n{}\n)").format(plain(text))


def plain(text: str) -> sql.SQL:
    """Return a query of the user's without the semicolon that it may end in, and the comments behind that."""
    for semicolon in re.finditer(";", text):
        start = semicolon.start()
        # Within a string it is none.
        if text.count("'", 0, start) % 2 == 0 and _COMMENTS.fullmatch(text, start + 1):
            return sql.SQL(text[:start])
    return sql.SQL(text)


def column(name: str, alias: str = "s") -> sql.Composable:
    return sql.SQL("{}.{}").format(sql.SQL(alias), sql.Identifier(name))


def is_number(field: Field, types: Mapping[str, str]) -> bool:
    """Tell whether a feature holds numbers, by the types of its source's columns."""
    return types.get(field.source_column, field.column_type) in NUMBERS


def without_nan(value: sql.Composable, kind: str) -> sql.Composable:
    """Return a feature's value of a type; a NaN is a null on every path."""
    return sql.SQL("nullif({}, 'NaN')").format(value) if kind in FLOATS else value


def cast_to(value: sql.Composable, given: str, kind: str) -> sql.Composable:
    """Return a value of the source, whose type is ``given``, as something that PostgreSQL itself casts to a type."""
    value = sql.SQL(_CASTS.get((_family(given), _family(kind)), "{}")).format(value)
    cast = sql.SQL("{}::{}").format(value, sql.SQL(kind)) if kind in FLOATS else value
    return without_nan(cast, kind)


# Where PostgreSQL has no cast, or not the one that is meant.
_CASTS = {
    ("boolean", "number"): "{}::integer",
    ("number", "boolean"): "({} <> 0)",
    ("array", "jsonb"): "to_jsonb({})",
}


def _family(kind: str) -> str:
    if kind.endswith("[]"):
        return "array"
    return "number" if kind in _NUMBERS or kind.startswith("numeric") else kind


_NUMBERS = ("smallint", "integer", "bigint", "real", "double precision")


def commas(parts: Iterable[sql.Composable]) -> sql.Composable:
    return sql.SQL(", ").join(parts)


def conjunction(parts: Iterable[sql.Composable]) -> sql.Composable:
    """Join conditions with AND; no condition is TRUE."""
    conditions = list(parts)
    return sql.SQL(" AND ").join(conditions) if conditions else sql.SQL("TRUE")


def created(view: View) -> sql.Composable:
    """Return the created-timestamp column, or a null where the source has none."""
    return column(view.created_column) if view.created_column else sql.SQL("NULL::timestamptz")


def newest_first(timestamp_column: str, created_column: str | None) -> sql.Composable:
    """Order rows so that the first is the one that counts: latest event, then latest write."""
    parts = [sql.SQL("{} DESC").format(column(timestamp_column))]
    if created_column:
        parts.append(sql.SQL("{} DESC NULLS LAST").format(column(created_column)))
    return commas(parts)


def same_keys(view: View, alias: str) -> sql.Composable:
    """Hold a row of the source to the keys of ``alias``."""
    return conjunction(sql.SQL("{} = {}").format(column(key), column(key, alias)) for key in view.join_keys)


def within(
    timestamp_column: str, start: datetime | None, end: datetime | None, kind: str = "timestamptz"
) -> sql.Composable:
    """Hold a row of the source to a window of event time, both ends included; ``kind`` is the column's type."""
    bounds = (("{} >= {}", start), ("{} <= {}", end))
    event = column(timestamp_column)
    return conjunction(
        sql.SQL(bound).format(event, as_instant(sql.Literal(limit), kind)) for bound, limit in bounds if limit
    )


def as_instant(instant: sql.Composable, kind: str) -> sql.Composable:
    """Return an instant such that a column of type ``kind`` compares with it as UTC, whatever the session's zone."""
    return sql.SQL("({} AT TIME ZONE 'UTC')").format(instant) if kind in _WITHOUT_ZONE else instant


def epoch(value: sql.Composable, kind: str) -> sql.Composable:
    """Return a time column as an instant; without a zone it is UTC."""
    return sql.SQL("({}::timestamp AT TIME ZONE 'UTC')").format(value) if kind in _WITHOUT_ZONE else value


def column_types(connection: Connection, view: View) -> dict[str, str]:
    """Return the source's columns and their types, without type modifiers; a type of the user's own is ``unknown``."""
    return described(connection.execute(described_by(view)))


def described_by(view: View) -> sql.Composed:
    """Return a query whose columns are those of the source, and that has no rows."""
    return sql.SQL("SELECT * FROM {} AS s LIMIT 0").format(source(view))


def described(cursor: Cursor[Any] | AsyncCursor[Any]) -> dict[str, str]:
    """Return the columns of a query that was run, and their types."""
    types = cursor.connection.adapters.types
    found = {}
    for one in cursor.description or ():
        info = types.get(one.type_code)
        suffix = "[]" if info and info.array_oid == one.type_code else ""
        found[one.name] = f"{info.regtype}{suffix}" if info else "unknown"
    return found


def known_keys(view: View) -> sql.Composable:
    """Hold a row of the source to keys without nulls."""
    return conjunction(sql.SQL("{} IS NOT NULL").format(column(key)) for key in view.join_keys)


def entity_list(connection: Connection, view: View) -> sql.Composable:
    """Return the definition of a common table ``entities``: each distinct key of the source, once."""
    template = sql.SQL("entities AS (SELECT DISTINCT {keys} FROM {source} AS s WHERE {known})")
    return entity_walk(connection, view) or template.format(
        keys=commas(map(column, view.join_keys)), source=source(view), known=known_keys(view)
    )


def entity_walk(connection: Connection, view: View) -> sql.Composable | None:
    """Return :func:`entity_list` as a walk from key to key, or nothing where no index begins with the keys.

    Its cost depends on the number of entities and not on the length of their history.
    """
    if not view.join_keys:
        return sql.SQL("entities AS (SELECT 1)")
    if view.source_table and (keys := _keys_as_indexed(connection, view)):
        return _walk(view, keys)
    # Of a query, and of what is no table, only the planner knows.
    walks = (_walk(view, keys) for keys in permutations(view.join_keys))
    return next((walk for walk in islice(walks, MAX_WALKS) if _is_by_index(connection, walk)), None)


def _walk(view: View, keys: Sequence[str]) -> sql.Composable:
    return key_walk(source(view), keys)


def key_walk(place: sql.Composable, keys: Sequence[str], *conditions: sql.Composable) -> sql.Composable:
    """Return a recursive common table ``entities``: each distinct key of ``place`` without nulls, one after another.

    It is cheap where an index begins with the keys in this order. Further conditions choose among the rows ``s``.
    """
    template = sql.SQL(
        "entities AS ("
        "(SELECT {keys} FROM {source} AS s WHERE {known} ORDER BY {keys} LIMIT 1) "
        "UNION ALL "
        "SELECT following.* FROM entities CROSS JOIN LATERAL "
        "(SELECT {keys} FROM {source} AS s WHERE ({keys}) > ({entity_keys}) AND {known} ORDER BY {keys} LIMIT 1)"
        " AS following)"
    )
    known = conjunction([*(sql.SQL("{} IS NOT NULL").format(column(key)) for key in keys), *conditions])
    return template.format(
        keys=commas(map(column, keys)),
        source=place,
        known=known,
        entity_keys=commas(column(key, "entities") for key in keys),
    )


def _keys_as_indexed(connection: Connection, view: View) -> Sequence[str]:
    """Return the join keys in the order in which an index begins with them; nothing without such an index."""
    parameters = {"table": view.source_table, "columns": list(view.join_keys)}
    row = connection.execute(query("materialize", "keys_as_indexed"), parameters).fetchone()
    return row[0] if row else ()


def _is_by_index(connection: Connection, walk: sql.Composable) -> bool:
    """Tell whether the planner would take every step of a walk by an index."""
    statement = sql.SQL("EXPLAIN (FORMAT JSON) WITH RECURSIVE {} SELECT * FROM entities").format(walk)
    row = connection.execute(statement).fetchone()
    assert row is not None
    return {node["Node Type"] for node in _nodes(row[0][0]["Plan"])} <= STEPS


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for part in plan.get("Plans", ()):
        yield from _nodes(part)
