"""Feast's value types and the PostgreSQL column types that hold them, natively."""

from __future__ import annotations

import re

from featurectl.errors import DefinitionError

COLUMN_TYPES: dict[str, str] = {
    "Float64": "double precision",
    "Float32": "real",
    "Int64": "bigint",
    "Int32": "integer",
    "String": "text",
    "Bool": "boolean",
    "Bytes": "bytea",
    "PdfBytes": "bytea",
    "ImageBytes": "bytea",
    "UnixTimestamp": "timestamp with time zone",
    # PostgreSQL has no type that keeps the zone: the instant in UTC, then the zone, as RFC 9557 writes it.
    "ZonedTimestamp": "text",
    "Uuid": "uuid",
    "TimeUuid": "uuid",
    "Decimal": "numeric",
    "Map": "jsonb",
    "ScalarMap": "jsonb",
    "Json": "jsonb",
}

_COLLECTION = re.compile(r"(?:Array|Set)\((.+)\)", re.DOTALL)
_STRUCT = re.compile(r"Struct\(\{.+\}\)", re.DOTALL)


def column_type(value_type: str, *, owner: str) -> str:
    """Return the PostgreSQL type of a Feast type's column: arrays are native, what has structure is jsonb.

    Raises:
        DefinitionError: there is no such type; ``owner`` names the field.
    """
    kind = _column_type(value_type)
    if kind is None:
        listed = ", ".join(COLUMN_TYPES)
        raise DefinitionError(f"{owner} has type {value_type}; types: {listed}, Struct, and Array or Set of a type")
    return kind


def key_type(value_type: str, *, owner: str) -> str:
    """Return the PostgreSQL type of a join key's column.

    Raises:
        DefinitionError: there is no such type, or its values are no keys; ``owner`` names the join key.
    """
    kind = column_type(value_type, owner=owner)
    if kind == "jsonb" or kind.endswith("[]"):
        listed = ", ".join(name for name, column in COLUMN_TYPES.items() if column != "jsonb")
        raise DefinitionError(f"{owner} has type {value_type}, whose values are no keys; types: {listed}")
    return kind


def _column_type(value_type: str) -> str | None:
    if value_type in COLUMN_TYPES:
        return COLUMN_TYPES[value_type]
    if _STRUCT.fullmatch(value_type):
        return "jsonb"
    collection = _COLLECTION.fullmatch(value_type)
    element = _column_type(collection[1]) if collection else None
    if element is None:
        return None
    return "jsonb" if element == "jsonb" or element.endswith("[]") else f"{element}[]"
