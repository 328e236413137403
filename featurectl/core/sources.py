"""SQL pieces over a view's source that materialization and point-in-time joins share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

from psycopg import sql

from featurectl.core.catalog import View
from featurectl.core.db import Connection
from featurectl.core.queries import query
from featurectl.core.schema import quoted
from featurectl.errors import UsageError


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
    return sql.SQL("(\n{}\n)").format(sql.SQL(text))


def column(name: str, alias: str = "s") -> sql.Composable:
    return sql.SQL("{}.{}").format(sql.SQL(alias), sql.Identifier(name))


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


def within(timestamp_column: str, start: datetime | None, end: datetime | None) -> sql.Composable:
    """Hold a row of the source to a window of event time, both ends included."""
    bounds = (("{} >= {}", start), ("{} <= {}", end))
    event = column(timestamp_column)
    return conjunction(sql.SQL(bound).format(event, sql.Literal(limit)) for bound, limit in bounds if limit)


def entity_list(connection: Connection, view: View) -> sql.Composable:
    """Return the definition of a common table ``entities``: each distinct key of the source, once.

    Where an index begins with the keys it is walked from key to key, so that the cost depends on the number of
    entities and not on the length of their history.
    """
    if not view.join_keys:
        return sql.SQL("entities AS (SELECT 1)")
    keys = _keys_as_indexed(connection, view)
    known = conjunction(sql.SQL("{} IS NOT NULL").format(column(key)) for key in view.join_keys)
    if not keys:
        template = sql.SQL("entities AS (SELECT DISTINCT {keys} FROM {source} AS s WHERE {known})")
        return template.format(keys=commas(column(key) for key in view.join_keys), source=source(view), known=known)
    template = sql.SQL(
        "entities AS ("
        "(SELECT {keys} FROM {source} AS s WHERE {known} ORDER BY {keys} LIMIT 1) "
        "UNION ALL "
        "SELECT following.* FROM entities CROSS JOIN LATERAL "
        "(SELECT {keys} FROM {source} AS s WHERE ({keys}) > ({entity_keys}) AND {known} ORDER BY {keys} LIMIT 1)"
        " AS following)"
    )
    return template.format(
        keys=commas(column(key) for key in keys),
        source=source(view),
        known=known,
        entity_keys=commas(column(key, "entities") for key in keys),
    )


def _keys_as_indexed(connection: Connection, view: View) -> Sequence[str]:
    """Return the join keys in the order in which an index begins with them; nothing without such an index."""
    table = view.source_table
    if not table or '"' in table:
        return ()
    parameters = {"table": quoted(table) if "." in table else table, "columns": list(view.join_keys)}
    row = connection.execute(query("materialize", "keys_as_indexed"), parameters).fetchone()
    return row[0] if row else ()
