"""Arrow's types and PostgreSQL's: what a column of one becomes in the other.

PostgreSQL's types go by their catalog names here (``int8``, ``_text`` for ``text[]``), as ADBC reports them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from psycopg import sql

from featurectl.errors import UsageError

if TYPE_CHECKING:
    import pyarrow as pa

    from featurectl.core.arrow import Batches

# What ADBC reads into Arrow types of its own.
_NATIVE = {"bool", "bytea", "char", "name", "int2", "int4", "int8", "float4", "float8", "text", "varchar", "bpchar"}
_NATIVE |= {"date", "time", "timestamp", "timestamptz"}
_NATIVE |= {f"_{name}" for name in _NATIVE}
# As Feast's stock store gives them. Everything else comes as text.
_READ_AS = {"numeric": "float8", "_numeric": "_float8", "oid": "int8", "_oid": "_int8"}


def type_name(field: pa.Field) -> str:
    """Return PostgreSQL's name of a column's type, for a field of :meth:`ArrowConnection.schema`."""
    return str((field.metadata or {}).get(b"POSTGRESQL:type", b"").decode())


def without_notes(schema: pa.Schema) -> pa.Schema:
    """Return a schema without PostgreSQL's notes on its columns."""
    import pyarrow as pa

    return pa.schema([field.remove_metadata() for field in schema])


def read_as(kind: str) -> str | None:
    """Return the type a column must be cast to before Arrow can hold it, or nothing where it can as it is."""
    if kind in _NATIVE or not kind:
        return None
    return _READ_AS.get(kind, "_text" if kind.startswith("_") else "text")


def column_type(kind: pa.DataType, *, owner: str) -> str:
    """Return the type of the column that holds values of an Arrow type.

    Raises:
        UsageError: none does; ``owner`` names the column.
    """
    import pyarrow as pa

    types = pa.types
    if types.is_dictionary(kind):
        return column_type(kind.value_type, owner=owner)
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return f"_{column_type(kind.value_type, owner=owner)}"
    for is_kind, name in (
        (types.is_boolean, "bool"),
        (types.is_uint64, "numeric"),
        (types.is_decimal, "numeric"),
        (types.is_float64, "float8"),
        (types.is_floating, "float4"),
        (types.is_date, "date"),
        (types.is_time, "time"),
        (types.is_duration, "interval"),
        (_is_text, "text"),
        (_is_bytes, "bytea"),
    ):
        if is_kind(kind):
            return name
    if types.is_timestamp(kind):
        return "timestamptz" if kind.tz else "timestamp"
    if types.is_map(kind) or types.is_struct(kind):
        return "jsonb"
    if types.is_integer(kind):
        # An unsigned one needs a bit more.
        bits = kind.bit_width + types.is_unsigned_integer(kind)
        return "int2" if bits <= 16 else "int4" if bits <= 32 else "int8"
    raise UsageError(f"column '{owner}' holds {kind}, which the database can't take; convert it, or leave it out")


def _is_text(kind: pa.DataType) -> bool:
    import pyarrow as pa

    types = pa.types
    # A column of nulls alone has no type of its own.
    return bool(
        types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind) or types.is_null(kind)
    )


def _is_bytes(kind: pa.DataType) -> bool:
    import pyarrow as pa

    types = pa.types
    return bool(
        types.is_binary(kind)
        or types.is_large_binary(kind)
        or types.is_fixed_size_binary(kind)
        or types.is_binary_view(kind)
    )


def columns_of(schema: pa.Schema) -> sql.Composable:
    """Return the columns of a table that holds data of this schema, as ``CREATE TABLE`` wants them."""
    return sql.SQL(", ").join(
        sql.SQL("{} {}").format(sql.Identifier(field.name), sql.SQL(column_type(field.type, owner=field.name)))
        for field in schema
    )


def create_temporary(name: str, schema: pa.Schema, *, keep: bool) -> sql.Composed:
    """Return the statement that creates a temporary table; without ``keep`` it goes with the transaction."""
    return sql.SQL("CREATE TEMPORARY TABLE {} ({}) ON COMMIT {}").format(
        sql.Identifier(name), columns_of(stored(schema)), sql.SQL("PRESERVE ROWS" if keep else "DROP")
    )


def stored(schema: pa.Schema) -> pa.Schema:
    """Return the schema in which :func:`writable` gives data: maps and structs are JSON text."""
    import pyarrow as pa

    return pa.schema([pa.field(field.name, _copied_as(field.type)) for field in schema])


def writable(data: pa.Table) -> pa.Table:
    """Return data as types that ADBC copies."""
    for index, field in enumerate(data.schema):
        wanted = _copied_as(field.type)
        if _is_json(field.type):
            data = data.set_column(index, field.name, _as_json(data.column(index)))
        elif wanted != field.type:
            data = data.set_column(index, field.name, data.column(index).cast(wanted))
    return data


def writable_batches(data: Batches) -> pa.RecordBatchReader:
    """Return data as types that ADBC copies, as it arrives."""
    import pyarrow as pa

    schema = stored(data.schema)
    parts = (writable(pa.Table.from_batches([batch])).to_batches() for batch in data)
    return pa.RecordBatchReader.from_batches(schema, (batch for part in parts for batch in part))


def _is_json(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_map(kind) or pa.types.is_struct(kind))


def _as_json(column: pa.ChunkedArray) -> pa.Array:
    import json

    import pyarrow as pa

    values = column.to_pylist(maps_as_pydicts="strict")
    return pa.array([None if value is None else json.dumps(value) for value in values], pa.large_string())


def _copied_as(kind: pa.DataType) -> pa.DataType:
    """Return the type as which ADBC copies values of ``kind`` into a column of :func:`column_type`."""
    import pyarrow as pa

    types = pa.types
    if types.is_dictionary(kind):
        return _copied_as(kind.value_type)
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return pa.list_(_copied_as(kind.value_type))
    if types.is_uint64(kind):
        return pa.decimal128(20, 0)
    if types.is_float16(kind):
        return pa.float32()
    if types.is_date(kind):
        return pa.date32()
    if types.is_time(kind):
        return pa.time64("us")
    if types.is_timestamp(kind):
        return pa.timestamp("us", tz="UTC" if kind.tz else None)
    if _is_text(kind) or _is_json(kind):
        return pa.large_string()
    if _is_bytes(kind):
        return pa.large_binary()
    return kind
