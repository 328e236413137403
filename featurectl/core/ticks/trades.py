"""Read files of trades: one execution a row, with an id of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa

from featurectl.core.tabular.arrays import Ints
from featurectl.core.tabular.columns import Columns
from featurectl.core.tabular.files import RawRows, read_rows
from featurectl.core.tabular.header import SYMBOL_NAMES, Header
from featurectl.core.tabular.labels import Labels, resolve_symbols
from featurectl.core.tabular.numbers import BLANKS
from featurectl.core.tabular.verdicts import Verdicts, explain_rejects, resolve_duplicates
from featurectl.core.ticks.columns import TIME, check_rows, symbol_in_file_name, time_columns
from featurectl.core.ticks.headerless import recognize_headerless
from featurectl.core.ticks.series import Series, TickFile, by_key, runs
from featurectl.core.ticks.trade_ids import TradeIds, read_trade_ids
from featurectl.core.times import microseconds

UNKNOWN = "unknown"
AGGREGATED = "aggregated trades have ids of their own; with the single trades of that time they would count twice"
NEEDED = f"{TIME}, trade_id or id, price, and size, qty or amount"
ID_NAMES = ("tradeid", "id", "aggtradeid", "tid")
SIZE_NAMES = ("size", "qty", "quantity", "amount", "volume")
MAKER_NAMES = ("buyerismaker", "isbuyermaker")
# What the aggressor did, by what a side column says, and by whether the buyer's order was the one that waited.
SIDES = {"buy": "buy", "b": "buy", "bid": "buy", "sell": "sell", "s": "sell", "ask": "sell", "unknown": UNKNOWN}
MAKER_SIDES = {"true": "sell", "t": "sell", "1": "sell", "false": "buy", "f": "buy", "0": "buy"}


@dataclass(frozen=True)
class Layout:
    """Where each thing is, as column positions; ``columns`` are the names rejects and messages use."""

    name: str
    columns: tuple[str, ...]
    time: int
    date: int | None
    symbol: int | None
    trade_id: int
    price: int
    size: int
    side: int | None
    sides: Mapping[str, str]
    """What the cells of the side column mean."""

    @property
    def positions(self) -> dict[str, int]:
        """Give the columns present by the names that checks call them."""
        fields = ("time", "symbol", "trade_id", "price", "size", "side")
        found = {field: getattr(self, field) for field in fields}
        return {field: position for field, position in found.items() if position is not None}


def read_trades(source: str | Path | BinaryIO, *, name: str, symbol: str | None, now: datetime) -> TickFile:
    """Read and check a CSV (plain, gzip, zip) or Parquet file of trades.

    A series has ``time``, ``trade_id``, ``price``, ``size`` and ``side``, ordered by time and id. ``side`` is the
    aggressor's: buy, sell, or null where the file does not say. Of rows with the same trade id the last one counts.

    Args:
        source: a path, or a binary stream such as stdin.
        name: what errors call the file, and where the symbol is looked for last; ``-`` says nothing.
        symbol: the symbol of all rows; None takes it from a column or the name.
        now: rows after this instant are refused.

    Raises:
        InputFileError: the file as a whole can't be used. Single bad rows are in ``rejects`` instead.
    """
    raw = read_rows(source, name)
    layout = recognize_layout(raw, name)
    columns = Columns(raw, layout.columns, name)
    times = columns.times(layout.time)
    symbols = resolve_symbols(symbol, columns.texts(layout.symbol), symbol_in_file_name)
    numbers = {field: columns.numbers(getattr(layout, field)) for field in ("price", "size")}
    ids = read_trade_ids(columns, layout.trade_id)
    sides = _read_sides(columns, layout)
    verdicts = check_rows(times, symbols, numbers, microseconds(now))
    verdicts.refuse("blank trade id", ids.blank, "trade_id")
    verdicts.refuse("unparsable", ids.unusable, "trade_id")
    verdicts.refuse("unparsable", sides.codes < 0, "side")
    price, size = numbers["price"].values, numbers["size"].values
    verdicts.refuse("negative or zero price", price <= 0, "price")
    verdicts.refuse("negative or zero size", size <= 0, "size")
    kept, duplicates = _unique(verdicts, symbols.codes, ids, [times.microseconds, price, size, sides.codes])
    side_names = pa.array([None if side == UNKNOWN else side for side in sides.names], pa.string())
    return TickFile(
        name=name,
        layout=layout.name,
        rows_read=raw.rows_read,
        series=by_key(
            Series(
                {"symbol": symbols.names[symbols.codes[rows[0]]]},
                {
                    "time": times.microseconds[rows],
                    "trade_id": ids.texts.take(pa.array(rows)),
                    "price": price[rows],
                    "size": size[rows],
                    "side": side_names.take(pa.array(sides.codes[rows])),
                },
            )
            for rows in runs(kept, [symbols.codes])
        ),
        rejects=explain_rejects(columns, verdicts, layout.positions, times),
        duplicates=duplicates,
        warnings=columns.disagreements(layout.date, layout.time, times, rounded=True),
        notes=(AGGREGATED,) if "aggTrades" in layout.name else (),
    )


def recognize_layout(raw: RawRows, name: str) -> Layout:
    """Find out what the columns hold, by their names, or by their cells where there is no header.

    Raises:
        InputFileError: a needed column is missing or named twice.
    """
    shape = recognize_headerless(raw, name) if raw.headerless else None
    header = Header(shape.columns if shape else raw.columns, name)
    time, date = time_columns(header, raw)
    trade_id, price = header.only(*ID_NAMES), header.only("price")
    size, side, maker = header.only(*SIZE_NAMES), header.only("side"), header.only(*MAKER_NAMES)
    if time is None or trade_id is None or price is None or size is None:
        raise header.unrecognized(NEEDED)
    return Layout(
        name=shape.name if shape else _layout_name(header),
        columns=header.columns,
        time=time,
        date=date,
        symbol=header.only(*SYMBOL_NAMES),
        trade_id=trade_id,
        price=price,
        size=size,
        side=maker if side is None else side,
        sides=MAKER_SIDES if side is None else SIDES,
    )


def _layout_name(header: Header) -> str:
    keys = set(header.keys)
    if "localtimestamp" in keys:
        return "tardis trades"
    if {"aggtradeid", "firsttradeid"} <= keys:
        return "binance aggTrades"
    if {"quoteqty", "isbuyermaker"} <= keys:
        return "binance trades"
    return "ccxt" if {"datetime", "amount", "side"} <= keys else "generic"


def _read_sides(columns: Columns, layout: Layout) -> Labels:
    """Read the aggressor's sides; code -1 where a cell says something else."""
    if layout.side is None:
        return Labels.same(UNKNOWN, len(columns))

    def normalize(text: str) -> str | None:
        text = text.strip().lower()
        return UNKNOWN if text in BLANKS else layout.sides.get(text)

    labels = columns.texts(layout.side).normalized(normalize)
    assert labels is not None
    return labels


def _unique(verdicts: Verdicts, symbols: Ints, ids: TradeIds, values: list[Any]) -> tuple[Ints, int]:
    """Keep the last row of each trade; gives them by symbol, time and id, and how many said the same again."""
    kept, duplicates = resolve_duplicates(verdicts, [symbols, ids.order], values)
    times = values[0]
    return kept[np.lexsort([times[kept], symbols[kept]])], duplicates
