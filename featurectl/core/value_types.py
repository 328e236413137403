"""Feast's value types and the PostgreSQL column types that hold them, natively."""

from __future__ import annotations

from featurectl.errors import DefinitionError

COLUMN_TYPES: dict[str, str] = {
    "Float64": "double precision",
    "Float32": "real",
    "Int64": "bigint",
    "Int32": "integer",
    "String": "text",
    "Bool": "boolean",
    "Bytes": "bytea",
    "UnixTimestamp": "timestamp with time zone",
    "Array(Float64)": "double precision[]",
    "Array(Float32)": "real[]",
    "Array(Int64)": "bigint[]",
    "Array(Int32)": "integer[]",
    "Array(String)": "text[]",
    "Array(Bool)": "boolean[]",
    "Array(Bytes)": "bytea[]",
    "Array(UnixTimestamp)": "timestamp with time zone[]",
}


def column_type(value_type: str, *, owner: str) -> str:
    """Return the PostgreSQL type of a Feast type's column.

    Raises:
        DefinitionError: the type has no column type yet; ``owner`` names the field.
    """
    if value_type not in COLUMN_TYPES:
        raise DefinitionError(f"{owner} has type {value_type}; types: {', '.join(COLUMN_TYPES)}")
    return COLUMN_TYPES[value_type]
