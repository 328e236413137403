"""The rows that were refused: why, and what the file said."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv

from featurectl.core.tabular.files import RawRows
from featurectl.errors import OutputFileError


@dataclass(frozen=True)
class Rejected:
    """One refused row; ``index`` is its place among the rows that parsed."""

    index: int
    reason: str
    detail: str


@dataclass(frozen=True, eq=False)
class Rejects:
    """Refused rows: ``table`` has ``row`` (1-based data row), ``reason``, ``detail`` and the file's own columns."""

    counts: dict[str, int]
    table: pa.Table

    def __len__(self) -> int:
        return int(self.table.num_rows)


def write_rejects(path: str | Path, files: Iterable[tuple[str, Rejects]]) -> None:
    """Write the refused rows of several files into one CSV; its first column says which file.

    Raises:
        OutputFileError: the file can't be written.
    """
    empty = pa.schema([("file", pa.string()), ("row", pa.int64()), ("reason", pa.string()), ("detail", pa.string())])
    tables = [
        empty.empty_table(),
        *(_unique_names(rejects.table.add_column(0, "file", _repeated(name, len(rejects)))) for name, rejects in files),
    ]
    try:
        with Path(path).open("wb") as target:
            pyarrow.csv.write_csv(pa.concat_tables(tables, promote_options="default"), target)
    except OSError as error:
        raise OutputFileError(f"{path}: can't be written: {error.strerror or error}; name another file") from error


def _repeated(text: str, times: int) -> pa.Array:
    return pa.array([text] * times, pa.string())


def _unique_names(table: pa.Table) -> pa.Table:
    """Tell columns of one name apart: a file's own ``row`` or ``reason`` becomes ``row_2``, ``reason_2``."""
    seen: Counter[str] = Counter()
    names = []
    for name in table.column_names:
        seen[name] += 1
        names.append(name if seen[name] == 1 else f"{name}_{seen[name]}")
    return table.rename_columns(names)


def build_rejects(raw: RawRows, columns: tuple[str, ...], rejected: Iterable[Rejected]) -> Rejects:
    """Join the refused rows with those that have a wrong number of fields, in file order."""
    rejected = list(rejected)
    indexes = pa.array([row.index for row in rejected], pa.int64())
    parsed = [
        pa.array(raw.row_numbers[indexes.to_numpy()], pa.int64()),
        pa.array([row.reason for row in rejected], pa.string()),
        pa.array([row.detail for row in rejected], pa.string()),
        *(_as_strings(raw.column(position).take(indexes)) for position in range(len(columns))),
    ]
    table = pa.concat_tables([_table(parsed), _table(_bad_rows(raw, len(columns)))])
    table = table.take(pa.array(np.argsort(table.column(0).to_numpy(), kind="stable")))
    # In the order of their first row, so that the same file always gives the same text.
    counts = dict(Counter(table.column(1).to_pylist()))
    return Rejects(counts, table.rename_columns(["row", "reason", "detail", *columns]))


def _table(arrays: list[pa.Array]) -> pa.Table:
    return pa.table(arrays, names=[str(position) for position in range(len(arrays))])


def _bad_rows(raw: RawRows, width: int) -> list[pa.Array]:
    fields = [_fit(bad.fields, width) for bad in raw.bad_rows]
    return [
        pa.array([bad.row for bad in raw.bad_rows], pa.int64()),
        pa.array(["wrong number of fields"] * len(raw.bad_rows), pa.string()),
        pa.array([bad.detail for bad in raw.bad_rows], pa.string()),
        *(pa.array([row[position] for row in fields], pa.string()) for position in range(width)),
    ]


def _fit(fields: tuple[str, ...], width: int) -> list[str]:
    """Fill a short row up with blanks; put what a long row has too much into its last column."""
    padded = list(fields) + [""] * (width - len(fields))
    return [*padded[: width - 1], ",".join(padded[width - 1 :])]


def _as_strings(column: pa.ChunkedArray) -> pa.ChunkedArray:
    try:
        return column.cast(pa.string())
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid):
        # Lists, structs and bytes in a Parquet file's other columns.
        return pa.chunked_array([[None if value is None else str(value) for value in column.to_pylist()]], pa.string())
