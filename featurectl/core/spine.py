"""Spines: the entities and instants a training set is wanted for, from a CSV or Parquet file or a DataFrame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featurectl.core.entity import EntityId, parse_entity_id, parse_id_or_symbol
from featurectl.core.spines import TableSpine
from featurectl.errors import InputFileError, InvalidEntityId

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

# What messages call a spine that is no file.
FRAME = "the spine"
EVENT_NAMES = ("event_timestamp", "timestamp", "time")
ID_PARTS = EntityId.__slots__


def read_spine(path: Path, join_keys: Sequence[str], *, not_text: Sequence[str] = ()) -> TableSpine:
    """Read a spine with ``entity_id`` (or the join keys) and ``event_timestamp``; a time without a zone is UTC.

    Its output is the file's columns, the times as UTC. Keys are text but for those in ``not_text``, which keep the
    type the file gives them.

    Raises:
        InputFileError: the file can't be read, lacks a column, holds a time or an id that can't be read, or an id
            beside another symbol or timeframe.
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
    beside = ID_PARTS if _has_ids([*frame.columns, *levels], join_keys) else ()
    columns: dict[str, Any] = {}
    for name in ("entity_id", *beside, *join_keys, event_column):
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


def _has_ids(names: Sequence[Any], join_keys: Sequence[str]) -> bool:
    """Whether ``entity_id`` says the symbols and timeframes of a spine; not where it is just one of the keys."""
    is_key = "entity_id" in join_keys and set(join_keys) <= set(names)
    return "entity_id" in names and not is_key and not set(ID_PARTS).isdisjoint(join_keys)


def _with_keys(table: pa.Table, join_keys: Sequence[str], place: str) -> pa.Table:
    """Return the table with the keys that only its ids say.

    Raises:
        InputFileError: a key is nowhere, an id can't be read, or a column beside it says otherwise.
    """
    names = table.column_names
    has_ids = _has_ids(names, join_keys)
    missing = [key for key in join_keys if key not in names]
    if not set(missing) <= set(ID_PARTS if has_ids else ()):
        raise InputFileError(f"{place} has neither entity_id nor {' and '.join(missing)}; columns: {', '.join(names)}")
    if not has_ids:
        return table
    parts = _parts_of_ids(table, place, is_symbol_enough="timeframe" not in join_keys)
    _refuse_other_names(table, parts, place)
    for key in missing:
        table = table.append_column(key, parts[key])
    return table


def _parts_of_ids(table: pa.Table, place: str, *, is_symbol_enough: bool) -> dict[str, pa.Array]:
    """Return the symbols and timeframes of a table's ids; the timeframe of a symbol alone is empty."""
    import pyarrow as pa

    parse = parse_id_or_symbol if is_symbol_enough else parse_entity_id
    ids = _as_text(table.column("entity_id"), "entity_id", place).dictionary_encode().combine_chunks()
    try:
        entities = [None if text is None else parse(text) for text in ids.dictionary.to_pylist()]
    except InvalidEntityId as error:
        raise InputFileError(f"{place}: {error}") from error
    parts = {name: [getattr(entity, name) if entity else None for entity in entities] for name in ID_PARTS}
    return {name: pa.array(values, pa.string()).take(ids.indices) for name, values in parts.items()}


def _refuse_other_names(table: pa.Table, parts: Mapping[str, pa.Array], place: str) -> None:
    """Refuse a spine that names two entities in a row.

    Raises:
        InputFileError: names the first such row.
    """
    import pyarrow.compute as pc

    found = []
    for name in [name for name in parts if name in table.column_names]:
        given, meant = _as_text(table.column(name), name, place), parts[name]
        is_same = pc.fill_null(pc.or_kleene(pc.equal(meant, ""), pc.equal(given, meant)), False)
        row = pc.index(pc.if_else(pc.is_null(meant), pc.is_null(given), is_same), False).as_py()
        if row >= 0:
            found.append((row, name, given[row].as_py()))
    if found:
        row, name, value = min(found)
        shown, entity = (repr(one) if one else "null" for one in (value, table["entity_id"][row].as_py()))
        raise InputFileError(
            f"{place}: {name} {shown} in row {row + 1} is not that of entity_id {entity}; "
            f"rename or drop column '{name}'"
        )


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
