"""Equality of a source's key and a spine's of perhaps another type, such that an index of the source serves."""

from __future__ import annotations

from psycopg import sql

_INTEGERS = {"int2", "int4", "int8", "oid"}
_FLOATS = {"float4", "float8"}
_TEXTS = {"text", "varchar", "name", "char", "bpchar"}
_TIMES = {"date", "timestamp", "timestamptz"}

# Pandas turns integers beside nulls into doubles; a fraction equals no integer.
_WHOLE = "CASE WHEN {key} = trunc({key}) AND abs({key}) < 9.2e18 THEN {key}::int8 END"
_DIGITS = (
    "CASE WHEN {key} ~ '^[+-]?[0-9]{{1,19}}$' THEN "
    "CASE WHEN {key}::numeric BETWEEN -9223372036854775808 AND 9223372036854775807 THEN {key}::int8 END END"
)
_UUID = "CASE WHEN {key} ~* '^[0-9a-f]{{8}}(-?[0-9a-f]{{4}}){{3}}-?[0-9a-f]{{12}}$' THEN {key}::uuid END"


def equal(column: sql.Composable, kind: str, key: sql.Composable, key_kind: str) -> sql.Composed:
    """Return the condition that a column of type ``kind`` equals a key of type ``key_kind``; "" is an unknown type.

    The key is converted rather than the column, so that an index of the column can be used. A key that has no
    counterpart in the column's type equals nothing.
    """
    converted = _converted(kind, key_kind)
    if converted is None:
        return sql.SQL("{}::text = {}::text").format(column, key)
    return sql.SQL("{} = {}").format(column, sql.SQL(converted).format(key=key))


def _converted(kind: str, key_kind: str) -> str | None:
    """Return the key as the column's type, or nothing where only their texts can be compared."""
    if not kind or not key_kind or kind == key_kind:
        return "{key}"
    for family in (_INTEGERS, _FLOATS, _TIMES):
        if {kind, key_kind} <= family:
            return "{key}"
    if kind in _TEXTS:
        return "{key}::bpchar" if kind == "bpchar" else "{key}::text"
    if kind in _INTEGERS:
        if key_kind in _FLOATS or key_kind == "numeric":
            return _WHOLE
        return _DIGITS if key_kind in _TEXTS else None
    if kind in _FLOATS and key_kind in _INTEGERS | {"numeric"}:
        return "{key}::float8"
    if kind == "numeric" and key_kind in _INTEGERS | _FLOATS:
        return "{key}::numeric"
    if kind == "uuid" and key_kind in _TEXTS:
        return _UUID
    return None
