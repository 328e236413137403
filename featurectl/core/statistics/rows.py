"""The rows of a view in a window, fetched once as Arrow and kept in a file, so that memory holds a column at a time."""

from __future__ import annotations

import contextlib
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import IO, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from psycopg import sql

from featurectl.core import sources, tags
from featurectl.core.arrow import ArrowConnection, Batches
from featurectl.core.catalog import Field, Selection, View
from featurectl.core.db import Connection
from featurectl.core.entity import TIMEFRAMES, EntityId
from featurectl.core.online import key_of
from featurectl.core.queries import query
from featurectl.core.statistics import arrays
from featurectl.core.statistics.arrays import Codes, Floats, Ints, Places
from featurectl.core.times import Window

# What stands for no key at all: of a view without entities, or of a null.
NOBODY = ""


@dataclass(frozen=True)
class Rows:
    """A view's rows in a window. ``entities`` and ``timeframes`` are the labels that the codes of each row mean.

    Numbers, those ``numeric``, come as float64, NaN where there is none; of other features it is known only where they
    have a value, as ones, and where not, as NaN. ``scaled`` are those in units of price.
    """

    view: View
    fields: tuple[Field, ...]
    numeric: frozenset[str]
    scaled: frozenset[str]
    file: IO[bytes]
    count: int
    with_closes: bool
    entities: tuple[str, ...]
    timeframes: tuple[str, ...]
    reading: threading.Lock = field(default_factory=threading.Lock)

    def __len__(self) -> int:
        return self.count

    @cached_property
    def at(self) -> Ints:
        """Event times in microseconds since 1970."""
        return self._column("at", np.int64)

    @cached_property
    def entity(self) -> Codes:
        return self._column("entity", np.int32)

    @cached_property
    def timeframe(self) -> Codes:
        return self._column("timeframe", np.int32)

    @cached_property
    def by_entity(self) -> list[tuple[str, Places | None]]:
        """The places of each entity's rows; ``None`` for all of them."""
        return arrays.labelled(self.entity, self.entities)

    @cached_property
    def by_timeframe(self) -> list[tuple[str, Places | None]]:
        """The places of each timeframe's rows; ``None`` for all of them."""
        return arrays.labelled(self.timeframe, self.timeframes)

    def values(self, feature: str) -> Floats:
        return self._column(f"value:{feature}", np.float64)

    def scaled_values(self, feature: str) -> Floats:
        """Return what a feature in units of price is as a share of the close at its time; NaN without a close."""
        shares = self.values(feature)
        closes = self._column("close", np.float64) if self.with_closes else None
        for part in arrays.chunks(len(shares)):
            with np.errstate(all="ignore"):
                shares[part] = np.nan if closes is None else shares[part] / closes[part]
        return shares

    def _column(self, name: str, kind: Any) -> NDArray[Any]:
        """Read one column of the file; the others stay out of memory."""
        with self.reading:
            return self._read(name, arrays.scratch(self.count, kind))

    def _read(self, name: str, found: NDArray[Any]) -> NDArray[Any]:
        source = pa.PythonFile(self.file, "r")
        place = pa.ipc.open_file(source).schema.get_field_index(name)
        reader = pa.ipc.open_file(source, options=pa.ipc.IpcReadOptions(included_fields=[place]))
        start = 0
        for index in range(reader.num_record_batches):
            part = reader.get_batch(index).column(0)
            found[start : start + len(part)] = part
            start += len(part)
        return found


@contextlib.contextmanager
def open_rows(
    arrow: ArrowConnection,
    connection: Connection,
    chosen: Selection,
    entities: Sequence[EntityId] | None,
    window: Window,
    *,
    scaled: bool = False,
) -> Iterator[Rows]:
    """Fetch a view's rows in a window, all or those of some entities; they are gone at the end.

    ``scaled`` fetches the close beside the features that are in units of price, too, where there are candles.

    Raises:
        UsageError: Feast makes the view's features from its source; or it is keyed by what entity ids do not give.
        DefinitionError: a feature's tag ``scale`` is none.
        OutputFileError: there is no room for the rows on the disk.
    """
    view = chosen.view
    fields = tuple(field for name in chosen.features if (field := view.field(name)))
    types = sources.column_types(connection, view)
    numeric = frozenset(field.name for field in fields if sources.is_number(field, types))
    priced = frozenset(field.name for field in fields if scaled and tags.is_price(field)) & numeric
    with_closes = bool(priced) and _has_closes(connection, view)
    statement = _statement(view, fields, types, numeric, conditions(view, types, entities, window), with_closes)
    labels: tuple[dict[str, int], dict[str, int]] = ({}, {})
    # On disk it has no name, and leaves nothing behind, however the process ends.
    with tempfile.SpooledTemporaryFile(arrays.IN_MEMORY) as file:
        with arrays.room_wanted():
            count = _keep(arrow.read(statement), file, labels)
        yield Rows(view, fields, numeric, priced, file, count, with_closes, tuple(labels[0]), tuple(labels[1]))


def conditions(
    view: View, types: dict[str, str], entities: Sequence[EntityId] | None, window: Window
) -> sql.Composable:
    """Return what holds the rows of a source to entities and a window."""
    kind = types.get(view.timestamp_column, "timestamptz")
    parts = [sources.within(view.timestamp_column, window.start, window.end, kind)]
    if entities is not None and view.join_keys:
        wanted = zip(*{key_of(view, entity): None for entity in entities}, strict=True)
        parts.append(
            query("statistics", "among_entities").format(
                keys=sources.commas(map(sources.column, view.join_keys)),
                values=sources.commas(sql.SQL("{}::text[]").format(sql.Literal(list(values))) for values in wanted),
            )
        )
    return sources.conjunction(parts)


def event(view: View, types: dict[str, str]) -> sql.Composable:
    """Return a source's event time as an instant."""
    kind = types.get(view.timestamp_column, "timestamptz")
    return sources.epoch(sources.column(view.timestamp_column), kind)


def label(view: View) -> sql.Composable:
    """Return the name of a row's entity as text: the entity id, or for other keys their values."""
    if not view.join_keys:
        return sql.SQL("''")
    keys = ["symbol", "timeframe"] if set(view.join_keys) == {"symbol", "timeframe"} else view.join_keys
    return sql.SQL("concat_ws('_', {})").format(sources.commas(map(sources.column, keys)))


def _statement(
    view: View,
    fields: Sequence[Field],
    types: dict[str, str],
    numeric: frozenset[str],
    chosen: sql.Composable,
    with_closes: bool,
) -> sql.Composed:
    at = event(view, types)
    features = [
        sql.SQL("{} AS {}").format(_value(field, field.name in numeric), sql.Identifier(f"value:{field.name}"))
        for field in fields
    ]
    close = sql.SQL("c.close AS close")
    lengths = sql.SQL(" ").join(
        sql.SQL("WHEN {} THEN {}").format(sql.Literal(name), sql.Literal(length)) for name, length in TIMEFRAMES.items()
    )
    length = sql.SQL("CASE s.timeframe {} END").format(lengths)
    return query("statistics", "rows_of_view").format(
        entity=label(view),
        timeframe=sources.column("timeframe") if "timeframe" in view.join_keys else sql.SQL("''"),
        event=at,
        features=sources.commas([*features, close] if with_closes else features),
        source=sources.source(view),
        closes=query("statistics", "close_beside").format(event=at, length=length) if with_closes else sql.SQL(""),
        chosen=chosen,
    )


def _value(field: Field, is_number: bool) -> sql.Composable:
    value = sources.column(field.source_column)
    if is_number:
        return sources.without_nan(sql.SQL("{}::float8").format(value), "float8")
    return sql.SQL("CASE WHEN {} IS NOT NULL THEN 1::float8 END").format(value)


def _has_closes(connection: Connection, view: View) -> bool:
    if not {"symbol", "timeframe"} <= set(view.join_keys):
        return False
    row = connection.execute(query("statistics", "has_candles")).fetchone()
    return bool(row and row[0])


def _keep(batches: Batches, file: IO[bytes], labels: tuple[dict[str, int], dict[str, int]]) -> int:
    """Write rows as they arrive, with codes for labels and NaN for nulls; return how many there are."""
    names = batches.schema.names[3:]
    schema = pa.schema(
        [("entity", pa.int32()), ("timeframe", pa.int32()), ("at", pa.int64())]
        + [(name, pa.float64()) for name in names]
    )
    count = 0
    with pa.ipc.new_file(pa.PythonFile(file, "w"), schema) as writer:
        for batch in batches:
            codes = [_codes(batch.column(index), known) for index, known in enumerate(labels)]
            at = batch.column(2).cast(pa.timestamp("us", "UTC")).cast(pa.int64())
            values = [column.cast(pa.float64()).fill_null(float("nan")) for column in batch.columns[3:]]
            writer.write_batch(pa.record_batch([*codes, at, *values], schema=schema))
            count += batch.num_rows
    return count


def _codes(column: pa.Array, known: dict[str, int]) -> pa.Array:
    """Return the code of each label; one that is new gets the next."""
    encoded = column.fill_null(NOBODY).dictionary_encode()
    places = [known.setdefault(one, len(known)) for one in encoded.dictionary.to_pylist()]
    return pa.array(places, pa.int32()).take(encoded.indices)
