"""COPY in binary, straight between PostgreSQL and numpy, for rows whose columns are all eight bytes wide and not null.

Timestamps travel as int64 microseconds since 1970 UTC.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from psycopg import sql

from featurectl.core.db import Connection

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FLOAT, TIMESTAMP = ">f8", ">i8"
_SIGNATURE = b"PGCOPY\n\xff\r\n\x00" + bytes(8)
_TRAILER = b"\xff\xff"
# PostgreSQL counts from 2000-01-01.
_EPOCH_SHIFT = 946_684_800_000_000


def _record(columns: Mapping[str, str]) -> np.dtype[Any]:
    import numpy as np  # 0.1 s, and only bulk work needs it

    fields: list[tuple[str, str]] = [("_count", ">i2")]
    for name, kind in columns.items():
        fields += [(f"_length_{name}", ">i4"), (name, kind)]
    return np.dtype(fields)


def read(
    connection: Connection, query: sql.Composable, columns: Mapping[str, str], parameters: Mapping[str, Any]
) -> dict[str, NDArray[Any]]:
    """Return a query's columns as arrays.

    Raises:
        ValueError: a value is null or not eight bytes wide.
    """
    import numpy as np

    with connection.cursor() as cursor:
        statement = sql.SQL("COPY ({}) TO STDOUT (FORMAT BINARY)").format(query)
        with cursor.copy(statement, parameters) as copy:
            content = b"".join(bytes(block) for block in copy)
    record = _record(columns)
    rows, rest = divmod(len(content) - len(_SIGNATURE) - len(_TRAILER), record.itemsize)
    table = np.frombuffer(content, dtype=record, count=rows, offset=len(_SIGNATURE))
    if rest or any((table[f"_length_{name}"] != 8).any() for name in columns):
        raise ValueError(f"a value of {', '.join(columns)} is null or not eight bytes wide")
    arrays = {name: table[name].astype(kind[1:]) for name, kind in columns.items()}
    for name, kind in columns.items():
        if kind == TIMESTAMP:
            arrays[name] += _EPOCH_SHIFT
    return arrays


def write(
    connection: Connection, table: sql.Composable, columns: Mapping[str, str], arrays: Sequence[NDArray[Any]]
) -> None:
    """Append equally long arrays, one for each column, to a table."""
    import numpy as np

    content = np.empty(len(arrays[0]), dtype=_record(columns))
    content["_count"] = len(columns)
    for (name, kind), values in zip(columns.items(), arrays, strict=True):
        content[f"_length_{name}"] = 8
        content[name] = values - _EPOCH_SHIFT if kind == TIMESTAMP else values
    statement = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT BINARY)").format(
        table, sql.SQL(", ").join(map(sql.Identifier, columns))
    )
    with connection.cursor() as cursor, cursor.copy(statement) as copy:
        copy.write(_SIGNATURE)
        copy.write(content.tobytes())
        copy.write(_TRAILER)
