"""Whole columns as parameters: PostgreSQL arrays in binary, and timestamps as microseconds, past psycopg's loops.

Timestamps travel as int microseconds since 1970 UTC.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any

from psycopg import AsyncConnection
from psycopg.abc import Buffer
from psycopg.adapt import Dumper, Loader
from psycopg.pq import Format

from featurectl.core.db import Connection

# PostgreSQL counts from 2000-01-01.
EPOCH_SHIFT = 946_684_800_000_000
_NULL = b"\xff\xff\xff\xff"
# Below, setting numpy to work takes longer than the work.
_FEW = 64

# Element type: its OID, its array's OID, and how numpy and struct write one element of fixed width.
_TYPES: dict[str, tuple[int, int, str, str]] = {
    "double precision": (701, 1022, ">f8", "d"),
    "real": (700, 1021, ">f4", "f"),
    "bigint": (20, 1016, ">i8", "q"),
    "integer": (23, 1007, ">i4", "i"),
    "boolean": (16, 1000, "?", "?"),
    "timestamp with time zone": (1184, 1185, ">i8", "q"),
    "bytea": (17, 1001, "", ""),
    "text": (25, 1009, "", ""),
}
ELEMENT_TYPES = tuple(_TYPES)


class Array:
    """One parameter: a one-dimensional array, encoded."""

    __slots__ = ("data",)

    def __init__(self, data: bytes) -> None:
        self.data = data


# psycopg chooses by class how, and as what type, it sends a parameter.
_CLASSES: dict[str, type[Array]] = {name: type(f"Array of {name}", (Array,), {"__slots__": ()}) for name in _TYPES}


def array(element_type: str, values: Sequence[Any]) -> Array:
    """Encode values of an element type, ``None`` among them, as one parameter.

    Raises:
        struct.error: a number does not fit its type.
    """
    oid, _, record, code = _TYPES[element_type]
    nulls = None in values
    head = struct.pack(">iiiii", 1, nulls, oid, len(values), 1)
    if element_type == "timestamp with time zone":
        values = [None if value is None else value - EPOCH_SHIFT for value in values]
    if not code:
        body = _variable(values, element_type == "text")
    elif nulls or len(values) < _FEW:
        body = _fixed(values, struct.Struct(f">i{code}"))
    else:
        body = _columnar(values, record)
    return _CLASSES[element_type](head + body)


def _variable(values: Sequence[Any], text: bool) -> bytes:
    parts: list[bytes] = []
    length: Callable[[int], bytes] = struct.Struct(">i").pack
    for value in values:
        if value is None:
            parts.append(_NULL)
        else:
            content = value.encode() if text else value
            parts += (length(len(content)), content)
    return b"".join(parts)


def _fixed(values: Sequence[Any], record: struct.Struct) -> bytes:
    width, pack = record.size - 4, record.pack
    return b"".join(_NULL if value is None else pack(width, value) for value in values)


def _columnar(values: Sequence[Any], kind: str) -> bytes:
    import numpy as np  # 0.1 s, and only bulk work needs it

    content = np.empty(len(values), dtype=[("length", ">i4"), ("value", kind)])
    content["length"] = content.dtype["value"].itemsize
    content["value"] = values
    return content.tobytes()


class _ArrayDumper(Dumper):
    format = Format.BINARY

    def dump(self, obj: Any) -> Buffer | None:
        data: bytes = obj.data
        return data


_DUMPERS = {
    _CLASSES[name]: type(f"Dumper of {name}", (_ArrayDumper,), {"oid": oids[1]}) for name, oids in _TYPES.items()
}


class _MicrosecondsLoader(Loader):
    format = Format.BINARY

    def load(self, data: Buffer) -> int:
        return int.from_bytes(data, "big", signed=True) + EPOCH_SHIFT


def register(connection: Connection | AsyncConnection[tuple[Any, ...]]) -> None:
    """Let a connection take :func:`array` as a parameter, and read binary timestamps as microseconds since 1970 UTC."""
    for kind, dumper in _DUMPERS.items():
        connection.adapters.register_dumper(kind, dumper)
    connection.adapters.register_loader("timestamptz", _MicrosecondsLoader)
