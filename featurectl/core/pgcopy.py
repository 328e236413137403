"""COPY in binary, straight between PostgreSQL and arrays.

Timestamps travel as int64 microseconds since 1970 UTC, numbers as float64, texts as Arrow strings.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from psycopg import sql

from featurectl.core.db import Connection

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    Values: TypeAlias = NDArray[np.float64] | NDArray[np.int64] | pa.StringArray | str | int

FLOAT, TIMESTAMP = ">f8", ">i8"
_SIGNATURE = b"PGCOPY\n\xff\r\n\x00" + bytes(8)
_TRAILER = b"\xff\xff"
# PostgreSQL counts from 2000-01-01.
_EPOCH_SHIFT = 946_684_800_000_000
# Rows made into bytes at once.
_CHUNK = 20_000
_MANY_SHAPES = 1 << 40


def read(
    connection: Connection, query: sql.Composable, columns: Mapping[str, str], parameters: Mapping[str, Any]
) -> dict[str, NDArray[Any]]:
    """Return a query's columns as arrays; ``columns`` says which are ``FLOAT`` and which ``TIMESTAMP``.

    Raises:
        ValueError: a value is null or not eight bytes wide.
    """
    import numpy as np  # 0.1 s, and only bulk work needs it

    with connection.cursor() as cursor:
        statement = sql.SQL("COPY ({}) TO STDOUT (FORMAT BINARY)").format(query)
        with cursor.copy(statement, parameters) as copy:
            content = b"".join(bytes(block) for block in copy)
    record = _record({name: (8, kind) for name, kind in columns.items()})
    rows, rest = divmod(len(content) - len(_SIGNATURE) - len(_TRAILER), record.itemsize)
    table = np.frombuffer(content, dtype=record, count=rows, offset=len(_SIGNATURE))
    if rest or any((table[f"_length_{name}"] != 8).any() for name in columns):
        raise ValueError(f"a value of {', '.join(columns)} is null or not eight bytes wide")
    arrays = {name: table[name].astype(kind[1:]) for name, kind in columns.items()}
    for name, kind in columns.items():
        if kind == TIMESTAMP:
            arrays[name] += _EPOCH_SHIFT
    return arrays


def write(connection: Connection, table: sql.Composable, columns: Mapping[str, Values], rows: int) -> None:
    """Append rows to a table: each column is an array of that length, or one value for all rows.

    An int64 array and an int are instants, a float64 array numbers, whose NaN is a null, an Arrow array and a str
    texts.
    """
    statement = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT BINARY)").format(
        table, sql.SQL(", ").join(map(sql.Identifier, columns))
    )
    with connection.cursor() as cursor, cursor.copy(statement) as copy:
        copy.write(_SIGNATURE)
        for start in range(0, rows, _CHUNK):
            copy.write(_encode(columns, start, min(start + _CHUNK, rows)))
        copy.write(_TRAILER)


def _record(shapes: Mapping[str, tuple[int, str | None]]) -> np.dtype[Any]:
    """Return a row's layout, by each column's length in bytes (-1 for a null) and type."""
    import numpy as np

    fields: list[tuple[str, str]] = [("_count", ">i2")]
    for name, (_, kind) in shapes.items():
        fields.append((f"_length_{name}", ">i4"))
        if kind:
            fields.append((name, kind))
    return np.dtype(fields)


def _encode(columns: Mapping[str, Values], start: int, end: int) -> bytes:
    """Return rows as bytes, in their order: those of one layout are made together, and put where they belong."""
    import numpy as np

    part = {name: values if isinstance(values, (str, int)) else values[start:end] for name, values in columns.items()}
    groups = _alike(part, end - start)
    records = [_records(part, group) for group in groups]
    if len(records) == 1:
        return records[0].tobytes()
    widths = np.empty(end - start, dtype=np.int64)
    for group, made in zip(groups, records, strict=True):
        widths[group] = made.itemsize
    ends = np.cumsum(widths)
    content = np.empty(ends[-1], dtype=np.uint8)
    for group, made in zip(groups, records, strict=True):
        places = (ends[group] - made.itemsize)[:, None] + np.arange(made.itemsize)
        content[places] = made.view(np.uint8).reshape(len(group), made.itemsize)
    return content.tobytes()


def _alike(columns: Mapping[str, Values], rows: int) -> list[NDArray[np.int64]]:
    """Return the numbers of rows in groups whose bytes have one layout."""
    import numpy as np

    shape = np.zeros(rows, dtype=np.int64)
    for values in columns.values():
        lengths = _lengths(values)
        if lengths is not None:
            shape = shape * (int(lengths.max(initial=0)) + 2) + lengths + 1
            if shape.max(initial=0) > _MANY_SHAPES:
                shape = np.unique(shape, return_inverse=True)[1]
    order = np.argsort(shape, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(shape[order])) + 1)


def _lengths(values: Values) -> NDArray[np.int64] | None:
    """Return what tells the layouts of a column's values apart, -1 for a null; nothing where they are all alike."""
    import numpy as np

    if isinstance(values, (str, int)):
        return None
    if isinstance(values, np.ndarray):
        missing = np.isnan(values) if values.dtype.kind == "f" else None
        return None if missing is None or not missing.any() else -missing.astype(np.int64)
    import pyarrow.compute as pc

    lengths: NDArray[np.int64] = pc.binary_length(values).fill_null(-1).to_numpy().astype(np.int64)
    return lengths


def _records(columns: Mapping[str, Values], chosen: NDArray[np.int64]) -> NDArray[Any]:
    """Return rows of one layout."""
    import numpy as np

    parts = {name: _part(values, chosen) for name, values in columns.items()}
    shapes = {name: (length, kind) for name, (length, kind, _) in parts.items()}
    content = np.empty(len(chosen), dtype=_record(shapes))
    content["_count"] = len(columns)
    for name, (length, kind, values) in parts.items():
        content[f"_length_{name}"] = length
        if kind:
            content[name] = values
    return content


def _part(values: Values, chosen: NDArray[np.int64]) -> tuple[int, str | None, Any]:
    """Return the length, type and values of a column in rows of one layout."""
    import numpy as np

    if isinstance(values, str):
        encoded = values.encode()
        return len(encoded), f"S{len(encoded)}" if encoded else None, encoded
    if isinstance(values, int):
        return 8, TIMESTAMP, values - _EPOCH_SHIFT
    if isinstance(values, np.ndarray):
        taken = values[chosen]
        if taken.dtype.kind == "i":
            return 8, TIMESTAMP, taken - _EPOCH_SHIFT
        return (-1, None, None) if len(taken) and np.isnan(taken[0]) else (8, FLOAT, taken)
    return _texts(values, chosen)


def _texts(values: pa.StringArray, chosen: NDArray[np.int64]) -> tuple[int, str | None, Any]:
    import numpy as np
    import pyarrow as pa

    taken = values.take(pa.array(chosen)).cast(pa.binary())
    if not len(taken) or not taken[0].is_valid:
        return -1, None, None
    length = len(taken[0].as_py())
    if not length:
        return 0, None, None
    return length, f"S{length}", np.frombuffer(taken.buffers()[2], dtype=f"S{length}", count=len(taken))
