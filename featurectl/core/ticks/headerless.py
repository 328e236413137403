"""Binance's dumps of trades without a header row, told apart by what their cells hold."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from featurectl.core.tabular.arrays import Bools
from featurectl.core.tabular.files import RawRows
from featurectl.core.tabular.numbers import read_numbers
from featurectl.errors import InputFileError

# So many rows are looked at, and most of them must fit: single rows may be damaged.
SAMPLE = 1000
TRUTHS = ("true", "false")


@dataclass(frozen=True)
class Shape:
    """A layout without a header: its columns in their order; those named ``is_…`` hold true or false."""

    name: str
    columns: tuple[str, ...]


_TRADES = ("id", "price", "qty", "quote_qty", "time", "is_buyer_maker")
_AGGREGATED = (
    "agg_trade_id",
    "price",
    "quantity",
    "first_trade_id",
    "last_trade_id",
    "transact_time",
    "is_buyer_maker",
)
# Spot files have a column more than those of futures.
SHAPES = (
    Shape("binance trades", _TRADES),
    Shape("binance trades", (*_TRADES, "is_best_match")),
    Shape("binance aggTrades", _AGGREGATED),
    Shape("binance aggTrades", (*_AGGREGATED, "is_best_match")),
)


def recognize_headerless(raw: RawRows, name: str) -> Shape:
    """Find the shape that most of the first rows have.

    Raises:
        InputFileError: they have none of them.
    """
    for shape in SHAPES:
        if len(shape.columns) == len(raw.columns) and 2 * np.count_nonzero(_fits(raw, shape)) > _sampled(raw):
            return shape
    known = "; ".join(f"{shape.name}: {', '.join(shape.columns)}" for shape in SHAPES)
    raise InputFileError(f"{name}: has no header row, and its columns are not those of {known}; add a header")


def _sampled(raw: RawRows) -> int:
    return min(SAMPLE, len(raw.row_numbers))


def _fits(raw: RawRows, shape: Shape) -> Bools:
    fits = np.ones(_sampled(raw), dtype=bool)
    for position, column in enumerate(shape.columns):
        cells = raw.column(position).slice(0, SAMPLE)
        if column.startswith("is_"):
            truths = pc.is_in(pc.utf8_lower(pc.utf8_trim_whitespace(cells)), value_set=pa.array(TRUTHS))
            fits &= truths.to_numpy(zero_copy_only=False)
        else:
            fits &= np.isfinite(read_numbers(cells).values)
    return fits
