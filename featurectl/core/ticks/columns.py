"""What files of order books, trades and signals have in common: a time column, a symbol in their names, and faults."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from featurectl.core.tabular.filenames import VENDORS, join_symbol, words
from featurectl.core.tabular.files import RawRows
from featurectl.core.tabular.header import Header
from featurectl.core.tabular.labels import Labels
from featurectl.core.tabular.numbers import BLANKS, NUMBER, Numbers
from featurectl.core.tabular.times import Times
from featurectl.core.tabular.verdicts import Verdicts, in_range

# The exchange's own clock comes before the time at which it sent the message.
TIME_NAMES = (
    "unix",
    "unixtimestamp",
    "timestamp",
    "timestampms",
    "timems",
    "time",
    "transacttime",
    "transactiontime",
    "tradetime",
    "eventtime",
    "datetime",
    "date",
)
TIME = "a time column (time, timestamp, time_ms, datetime or date)"
# Words around the symbol that are no part of it.
FILLERS = frozenset({"agg", "aggtrades", "book", "bookticker", "cm", "data", "depth", "futures"})
FILLERS |= {"level", "levels", "order", "orderbook", "quote", "quotes", "snapshot", "snapshots"}
FILLERS |= {"spot", "swap", "ticker", "tickers", "ticks", "trade", "trades", "um"}


def time_columns(header: Header, raw: RawRows) -> tuple[int | None, int | None]:
    """Find the time column, and the readable one beside it if there is one: an epoch can't be in another zone."""
    found = [header.keys.index(name) for name in TIME_NAMES if name in header.keys]
    epochs = [position for position in found if _is_epoch(raw.column(position))]
    if not epochs:
        return (found[0], None) if found else (None, None)
    return epochs[0], next((position for position in found if position not in epochs), None)


def _is_epoch(column: pa.ChunkedArray) -> bool:
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        return bool(pa.types.is_integer(column.type) or pa.types.is_floating(column.type))
    cells: list[Any] = column.slice(0, 1000).to_pylist()
    shown = next((cell.strip() for cell in cells if cell and cell.strip().lower() not in BLANKS), "")
    return re.fullmatch(NUMBER, shown) is not None


def symbol_in_file_name(name: str) -> str | None:
    """Find the symbol: what is left of the name without vendors, dates and words for the kind of data."""
    left = [word for word in words(name) if word.lower() not in VENDORS | FILLERS and not _is_date(word)]
    return join_symbol(left)


def _is_date(word: str) -> bool:
    # Six digits that make a day are a delivery contract's: BTCUSDT_210625.
    return word.isdigit() and not re.fullmatch(r"\d\d(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])", word)


def check_rows(
    times: Times, symbols: Labels, numbers: Mapping[str, Numbers], now: int, *, optional: Collection[str] = ()
) -> Verdicts:
    """Refuse rows without a symbol, a time from 2000 to now, or numbers; those of ``optional`` may be blank."""
    verdicts = Verdicts(len(symbols.codes))
    verdicts.refuse("unparsable", ~times.known, "time")
    verdicts.refuse("unparsable", symbols.codes < 0, "symbol")
    for field, column in numbers.items():
        verdicts.refuse("unparsable", column.unparsable, field)
    for field, column in numbers.items():
        wrong = np.isinf(column.values) if field in optional else ~np.isfinite(column.values)
        verdicts.refuse("non-finite", wrong, field)
    verdicts.refuse("time out of range", ~in_range(times, now), "time")
    return verdicts
