"""Read the ids of trades: numbers at most exchanges, texts such as UUIDs at others; always kept as texts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from featurectl.core.tabular.arrays import Bools, Ints
from featurectl.core.tabular.columns import Columns
from featurectl.core.tabular.numbers import BLANKS
from featurectl.errors import InputFileError

# Far above any exchange's ids (a UUID has 36 characters), and far below what an index entry holds.
MAX_LENGTH = 100


@dataclass(frozen=True)
class TradeIds:
    """Ids as texts; ``order`` has a number for each that sorts them and is equal for equal ids only."""

    texts: pa.StringArray
    order: Ints
    blank: Bools
    unusable: Bools


def read_trade_ids(columns: Columns, position: int) -> TradeIds:
    """Read a column of strings or whole numbers.

    Raises:
        InputFileError: the column has a type that holds no ids.
    """
    texts = pc.utf8_trim_whitespace(_strings(columns, position).fill_null("").combine_chunks())
    none = np.zeros(len(texts), dtype=bool)
    numbers = _whole_numbers(texts)
    if numbers is not None:
        return TradeIds(texts, numbers, none, none)
    if _bools(pc.ends_with(texts, ".0")).any():
        # What pandas makes of whole numbers in a column with a blank.
        texts = pc.replace_substring_regex(texts, r"^(\d+)\.0$", r"\1")
    blank = _bools(pc.is_in(pc.utf8_lower(texts), value_set=pa.array(BLANKS)))
    unusable = ~_bools(pc.utf8_is_printable(texts)) | (pc.utf8_length(texts).to_numpy() > MAX_LENGTH)
    order: Ints = pc.rank(texts, tiebreaker="dense").to_numpy().astype(np.int64)
    return TradeIds(texts, order, blank, unusable & ~blank)


def _strings(columns: Columns, position: int) -> pa.ChunkedArray:
    column = columns.raw.column(position)
    if not pa.types.is_floating(column.type):
        strings = columns.texts(position).column
        assert strings is not None
        return strings
    try:
        # Whole numbers that pandas made floats of because one was missing.
        return pc.if_else(pc.is_finite(column), column, None).cast(pa.int64()).cast(pa.string())
    except pa.ArrowInvalid:
        name = columns.names[position]
        raise InputFileError(f"{columns.file}: column '{name}': fractions are no trade ids; needed: ids") from None


def _whole_numbers(texts: pa.StringArray) -> Ints | None:
    """Give ids as numbers, if every one is a number and written the way numbers are."""
    try:
        numbers = texts.cast(pa.int64())
    except pa.ArrowInvalid:
        return None
    found: Ints | None = numbers.to_numpy() if numbers.cast(pa.string()).equals(texts) else None
    return found


def _bools(array: Any) -> Bools:
    bools: Bools = array.to_numpy(zero_copy_only=False)
    return bools
