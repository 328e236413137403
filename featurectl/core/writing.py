"""Arrow into tables: appended to one that exists, or saved as a new one; all of it or nothing."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from psycopg import sql

from featurectl.core import arrow_types, sources
from featurectl.core.arrow import ArrowConnection, Batches
from featurectl.core.offline import types_of
from featurectl.core.queries import query
from featurectl.errors import DatabaseError, PermissionDenied, UsageError

if TYPE_CHECKING:
    import pyarrow as pa

INCOMING = "featurectl_incoming"
VIEW = "featurectl_target"
_TEXTS = {"text", "_text"}


def append(connection: ArrowConnection, target: sql.Composable, data: pa.Table | Batches, *, name: str) -> int:
    """Append rows to a table within the connection's transaction, columns by name, cast to the table's types.

    Returns the number of rows.

    Raises:
        UsageError: the table, which errors call ``name``, lacks a column of the data.
    """
    types = types_of(connection, target)
    columns = data.schema.names
    missing = [column for column in columns if column not in types]
    if missing:
        raise UsageError(f"{name} has no column '{missing[0]}'; columns: {', '.join(types)}")
    given = {field.name: arrow_types.column_type(field.type, owner=field.name) for field in data.schema}
    connection.ingest(INCOMING, data, keep=False)
    rows = connection.execute(
        query("offline", "append").format(
            target=target,
            columns=sources.commas(map(sql.Identifier, columns)),
            values=sources.commas(_value(column, given[column], types[column]) for column in columns),
            incoming=sql.Identifier(INCOMING),
        )
    )
    connection.execute(sql.SQL("DROP TABLE {}").format(sql.Identifier(INCOMING)))
    return rows


def _value(column: str, given: str, wanted: str) -> sql.Composable:
    """Return a column's values; text is parsed, all else is converted as an assignment does it."""
    if wanted in _TEXTS or given not in _TEXTS | {"jsonb"}:
        return sources.column(column)
    return sql.SQL("{}::{}").format(sources.column(column), sql.Identifier(wanted))


@contextlib.contextmanager
def writable_query(connection: ArrowConnection, text: str, *, name: str) -> Iterator[sql.Identifier]:
    """Give a view of a query to write through: PostgreSQL passes rows on to the one table that a simple one reads.

    Raises:
        UsageError: the query is not that simple; ``name`` is the source's.
    """
    view = sql.Identifier(VIEW)
    connection.execute(sql.SQL("CREATE TEMPORARY VIEW {} AS {}").format(view, sources.plain(text)))
    try:
        yield view
    except PermissionDenied:
        raise
    except DatabaseError as error:
        raise UsageError(f"source '{name}' is a query that can't be written to ({error}); give it a table=") from error
    connection.execute(sql.SQL("DROP VIEW {}").format(view))


def table_exists(connection: ArrowConnection, name: str) -> bool:
    """Tell whether there is a table ``name``, ``table`` or ``schema.table``."""
    return bool(_place(connection, name)["exists"])


def save(connection: ArrowConnection, name: str, data: Batches) -> None:
    """Save rows as the table ``name``, within the connection's transaction; it takes the place of one that exists.

    Readers never see that one missing: it goes when the transaction ends, and the new one is there.
    """
    place = _place(connection, name)
    *schema, table = place["parts"]
    new = f"featurectl_{uuid.uuid4().hex}"
    stored = sql.Identifier(*schema, new)
    columns = arrow_types.columns_of(arrow_types.stored(data.schema))
    connection.execute(sql.SQL("CREATE TABLE {} ({})").format(stored, columns))
    connection.copy(data, new, schema=schema[-1] if schema else None)
    if place["exists"]:
        connection.execute(sql.SQL("DROP TABLE {}").format(sql.Identifier(*schema, table)))
    connection.execute(sql.SQL("ALTER TABLE {} RENAME TO {}").format(stored, sql.Identifier(table)))


def _place(connection: ArrowConnection, name: str) -> dict[str, Any]:
    (place,) = connection.table(query("offline", "place_of_table").format(name=sql.Literal(name))).to_pylist()
    return dict(place)


def ensure_table(connection: ArrowConnection, name: sql.Composable, schema: pa.Schema) -> None:
    """Create a table for data of a schema where there is none, and add the columns that one lacks."""
    columns = arrow_types.columns_of(schema)
    # Two sessions that find no table at the same moment would both make its type.
    connection.execute(query("schema", "lock_schema"))
    connection.execute(sql.SQL("CREATE TABLE IF NOT EXISTS {} ({})").format(name, columns))
    existing = types_of(connection, name)
    for field in schema:
        if field.name not in existing:
            kind = sql.SQL(arrow_types.column_type(field.type, owner=field.name))
            addition = sql.SQL("ALTER TABLE {} ADD COLUMN IF NOT EXISTS {} {}")
            connection.execute(addition.format(name, sql.Identifier(field.name), kind))
