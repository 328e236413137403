"""Spines: the entities and instants a training set is wanted for, from a CSV or Parquet file or a DataFrame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featurectl.core.entity import EntityId, parse_entity_id
from featurectl.core.spines import TableSpine
from featurectl.errors import InputFileError, InvalidEntityId

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

# What messages call a spine that is no file.
FRAME = "the spine"
EVENT_NAMES = ("event_timestamp", "timestamp", "time")


def read_spine(path: Path, join_keys: Sequence[str], *, not_text: Sequence[str] = ()) -> TableSpine:
    """Read a spine with ``entity_id`` (or the join keys) and ``event_timestamp``; a time without a zone is UTC.

    Its output is the file's columns, the times as UTC. Keys are text but for those in ``not_text``, which keep the
    type the file gives them.

    Raises:
        InputFileError: the file can't be read, lacks a column, or holds a time or an id that can't be read.
    """
    texts = [key for key in join_keys if key not in not_text]
    table = _read(path, ("entity_id", *texts))
    return _spine(table, _event_column(table.column_names, str(path)), str(path), join_keys, texts)


def spine_of_frame(frame: pd.DataFrame, join_keys: Sequence[str], *, not_text: Sequence[str] = ()) -> TableSpine:
    """Make a spine as :func:`read_spine` does, of the columns of a DataFrame, or levels of its index, that it needs.

    Its output is those alone.

    Raises:
        InputFileError: as there.
    """
    levels = [name for name in frame.index.names if name is not None and name not in frame.columns]
    event_column = _event_column([*frame.columns, *levels], FRAME)
    columns: dict[str, Any] = {}
    for name in ("entity_id", *join_keys, event_column):
        if name in frame.columns:
            columns[name] = frame[name]
        elif name in levels:
            columns[name] = frame.index.get_level_values(name)
    texts = [key for key in join_keys if key not in not_text]
    return _spine(_as_table(columns), event_column, FRAME, join_keys, texts)


def _as_table(columns: Mapping[str, Any]) -> pa.Table:
    import pyarrow as pa

    arrays = {}
    for name, values in columns.items():
        try:
            arrays[name] = pa.array(values, from_pandas=True)
        except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
            reason = " ".join(str(error).split())
            raise InputFileError(f"{FRAME}: {name} can't be read: {reason}") from error
    return pa.table(arrays)


def _spine(
    table: pa.Table, event_column: str, place: str, join_keys: Sequence[str], texts: Sequence[str]
) -> TableSpine:
    table = _as_texts(_with_times(table, event_column, place), texts, place)
    keys = _with_keys(table, join_keys, place).select(list(join_keys))
    return TableSpine(table, table.column(event_column), keys)


def _read(path: Path, text_columns: Sequence[str]) -> pa.Table:
    import pyarrow as pa  # 0.3 s, and only work on files needs it
    import pyarrow.csv
    import pyarrow.parquet

    try:
        with path.open("rb") as handle:
            magic = handle.read(4)
        if not magic:
            raise InputFileError(f"{path} is empty; a spine needs entity_id and event_timestamp")
        if magic == b"PAR1":
            return pyarrow.parquet.ParquetFile(path).read()
        # Left to itself, Arrow reads the symbol 005930 as a number.
        options = pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(text_columns, pa.string()))
        return pyarrow.csv.read_csv(path, convert_options=options)
    except (pa.ArrowInvalid, UnicodeDecodeError) as error:
        raise InputFileError(f"{path} is neither CSV nor Parquet: {' '.join(str(error).split())}") from error
    except OSError as error:
        raise InputFileError(f"{path} can't be read: {error.strerror or error}") from error


def _event_column(names: Sequence[Any], place: str) -> str:
    """Return the column of the instants; refuse columns that a result could not name.

    Raises:
        InputFileError: names the column.
    """
    for name in names:
        if name == "":
            raise InputFileError(f"{place} has a column without a name; name it, or leave it out")
        if names.count(name) > 1:
            raise InputFileError(f"{place} has two columns '{name}'; rename or leave out one")
    found = next((name for name in EVENT_NAMES if name in names), None)
    if found is None:
        raise InputFileError(f"{place} has no event_timestamp column; columns: {', '.join(map(str, names))}")
    return found


def _with_times(table: pa.Table, column: str, place: str) -> pa.Table:
    import pandas as pd  # 0.5 s; reads every spelling of ISO 8601
    import pyarrow as pa

    values = table.column(column)
    wanted = pa.timestamp("us", tz="UTC")
    if pa.types.is_timestamp(values.type):
        times = values.cast(pa.timestamp("us", tz=values.type.tz), safe=False)
        times = times.cast(wanted) if values.type.tz else times.cast(pa.int64()).cast(pa.timestamp("us")).cast(wanted)
    else:
        readable = (pa.types.is_string, pa.types.is_large_string, pa.types.is_date, pa.types.is_null)
        if not any(is_kind(values.type) for is_kind in readable):
            raise InputFileError(f"{place}: {column} holds {values.type}, not times; write ISO 8601")
        text = values.cast(pa.string()).to_pandas()
        parsed = pd.to_datetime(text, format="ISO8601", utc=True, errors="coerce")
        bad = text[parsed.isna() & text.notna() & (text != "")]
        if len(bad):
            raise InputFileError(f"{place}: {column} '{bad.iloc[0]}' in row {bad.index[0] + 1} is not ISO 8601")
        times = pa.chunked_array([pa.Array.from_pandas(parsed.dt.as_unit("us"), type=wanted)])
    return table.set_column(table.column_names.index(column), column, times)


def _with_keys(table: pa.Table, join_keys: Sequence[str], place: str) -> pa.Table:
    import pyarrow as pa

    missing = [key for key in join_keys if key not in table.column_names]
    if not missing:
        return table
    if "entity_id" not in table.column_names or not set(missing) <= set(EntityId.__slots__):
        raise InputFileError(
            f"{place} has neither entity_id nor {' and '.join(missing)}; columns: {', '.join(table.column_names)}"
        )
    ids = _as_text(table.column("entity_id"), "entity_id", place).dictionary_encode().combine_chunks()
    try:
        entities = [None if text is None else parse_entity_id(text) for text in ids.dictionary.to_pylist()]
    except InvalidEntityId as error:
        raise InputFileError(f"{place}: {error}") from error
    for key in missing:
        values = pa.array([getattr(entity, key) if entity else None for entity in entities], pa.string())
        table = table.append_column(key, values.take(ids.indices))
    return table


def _as_texts(table: pa.Table, names: Sequence[str], place: str) -> pa.Table:
    for index, name in enumerate(table.column_names):
        if name in names:
            table = table.set_column(index, name, _as_text(table.column(index), name, place))
    return table


def _as_text(values: pa.ChunkedArray, name: str, place: str) -> pa.ChunkedArray:
    """Return keys as PostgreSQL compares them: text, and null where a CSV has a blank cell."""
    import pyarrow as pa
    import pyarrow.compute as pc

    try:
        text = values.cast(pa.string())
    except pa.ArrowNotImplementedError:
        raise InputFileError(f"{place}: {name} holds {values.type}, not text") from None
    return pc.if_else(pc.equal(text, ""), pa.scalar(None, pa.string()), text)
