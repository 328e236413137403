"""Read prices and volumes as float64, telling a blank from a value that is no number."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from featurectl.core.tabular.arrays import Bools, Floats, plain

NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"
# What files write for "no value" and for values that are not finite; lower case.
BLANKS = ("", "null", "none", "nan", "+nan", "-nan", "n/a", "na", "-")
INFINITIES = ("inf", "+inf", "infinity", "+infinity", "-inf", "-infinity")


@dataclass(frozen=True)
class Numbers:
    """Values, NaN where blank; ``unparsable`` marks what is neither a number nor blank."""

    values: Floats
    unparsable: Bools


def is_blank(numbers: Numbers) -> Bools:
    """Mark the cells that hold nothing."""
    blank: Bools = np.isnan(numbers.values) & ~numbers.unparsable
    return blank


def read_numbers(column: pa.ChunkedArray) -> Numbers:
    """Read a column of strings, integers, floats or decimals.

    Raises:
        TypeError: the column has a type that holds no numbers.
    """
    column = plain(column)
    kind = column.type
    if pa.types.is_string(kind):
        return _from_strings(column)
    if pa.types.is_null(kind):
        return _all_parsed(np.full(len(column), np.nan))
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return _all_parsed(_with_nan(column.cast(pa.float64(), safe=False)))
    raise TypeError(f"{kind} holds no numbers")


def _all_parsed(values: Floats) -> Numbers:
    return Numbers(values, np.zeros(len(values), dtype=bool))


def _with_nan(column: Any) -> Floats:
    values: Floats = column.to_numpy(zero_copy_only=False)
    return values.astype(np.float64, copy=False)


def _from_strings(column: pa.ChunkedArray) -> Numbers:
    text = pc.utf8_trim_whitespace(column.fill_null("").combine_chunks())
    try:
        return _all_parsed(_with_nan(text.cast(pa.float64())))
    except pa.ArrowInvalid:
        pass  # something is blank or no number: sort the cells first
    is_number = pc.match_substring_regex(text, NUMBER)
    values = _with_nan(pc.if_else(is_number, text, None).cast(pa.float64())).copy()
    lower = pc.utf8_lower(text)
    infinite = pc.is_in(lower, value_set=pa.array(INFINITIES)).to_numpy(zero_copy_only=False)
    values[infinite] = np.inf
    blank = pc.is_in(lower, value_set=pa.array(BLANKS)).to_numpy(zero_copy_only=False)
    return Numbers(values, ~(is_number.to_numpy(zero_copy_only=False) | infinite | blank))
