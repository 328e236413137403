"""Read files of order books: the best bid and ask with their sizes, or levels of which the sizes are summed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

import numpy as np

from featurectl.core.tabular.arrays import Floats, Ints
from featurectl.core.tabular.columns import Columns
from featurectl.core.tabular.files import RawRows, read_rows
from featurectl.core.tabular.header import SYMBOL_NAMES, Header
from featurectl.core.tabular.labels import Labels, resolve_symbols
from featurectl.core.tabular.numbers import Numbers
from featurectl.core.tabular.times import Times
from featurectl.core.tabular.verdicts import Verdicts, explain_rejects, newest_of_each
from featurectl.core.ticks.columns import TIME, check_rows, symbol_in_file_name, time_columns
from featurectl.core.ticks.series import Series, TickFile, by_key, runs
from featurectl.core.times import microseconds
from featurectl.errors import InputFileError

NEEDED = f"{TIME}, bid, bid_size, ask and ask_size, or levels (bids[0].price, bids[0].amount, …)"
SIDES = ("bid", "ask")
SIZES = ("size", "qty", "quantity", "amount", "volume")
# bids[0].price, bid_price_1, bid_1_price: the names of columns that hold one level of one side.
_LEVEL = re.compile(rf"(bid|ask)s?(?:\[(\d+)\]\.?|(\d+))?(price|{'|'.join(SIZES)})(\d+)?")


@dataclass(frozen=True)
class Layout:
    """Where each thing is, as column positions; ``sizes`` has those of a side's levels, the best one first."""

    name: str
    time: int
    date: int | None
    symbol: int | None
    prices: Mapping[str, int]
    sizes: Mapping[str, tuple[int, ...]]

    @property
    def fields(self) -> dict[str, int]:
        """Give the numeric columns by the names that checks call them: bid, bid_size, bid_size 2, …"""
        deeper = {
            f"{side}_size {level}": position for side in SIDES for level, position in enumerate(self.sizes[side][1:], 2)
        }
        best = {f"{side}_size": self.sizes[side][0] for side in SIDES}
        return {**self.prices, **best, **deeper}


def read_order_book(
    source: str | Path | BinaryIO, *, name: str, symbol: str | None, now: datetime, levels: int = 1
) -> TickFile:
    """Read and check a CSV (plain, gzip, zip) or Parquet file of best quotes or depth snapshots.

    A series has ``time``, ``bid``, ``bid_size``, ``ask`` and ``ask_size``, one row an instant. Of several updates with
    the same time the last one is what the book was from then on; the ones before it lasted for less than the clock
    shows, and are counted as superseded, not refused. Where a symbol's rows have the newest first, the last is on top.

    Args:
        source: a path, or a binary stream such as stdin.
        name: what errors call the file, and where the symbol is looked for last; ``-`` says nothing.
        symbol: the symbol of all rows; None takes it from a column or the name.
        now: rows after this instant are refused.
        levels: so many levels of each side are summed up for its size; the prices are those of the best level.

    Raises:
        InputFileError: the file as a whole can't be used. Single bad rows are in ``rejects`` instead.
    """
    raw = read_rows(source, name)
    layout = recognize_layout(raw, name, levels)
    columns = Columns(raw, raw.columns, name)
    times = columns.times(layout.time)
    symbols = resolve_symbols(symbol, columns.texts(layout.symbol), symbol_in_file_name)
    numbers = {field: columns.numbers(position) for field, position in layout.fields.items()}
    verdicts = _check(times, symbols, numbers, microseconds(now))
    book = _book(numbers)
    kept, superseded = _last_states(verdicts, symbols.codes, times.microseconds)
    positions = {"time": layout.time, **({} if layout.symbol is None else {"symbol": layout.symbol}), **layout.fields}
    return TickFile(
        name=name,
        layout=layout.name,
        rows_read=raw.rows_read,
        series=by_key(
            Series(
                {"symbol": symbols.names[symbols.codes[rows[0]]]},
                {"time": times.microseconds[rows], **{field: values[rows] for field, values in book.items()}},
            )
            for rows in runs(kept, [symbols.codes])
        ),
        rejects=explain_rejects(columns, verdicts, positions, times),
        superseded=superseded,
        warnings=columns.disagreements(layout.date, layout.time, times, rounded=True),
    )


def recognize_layout(raw: RawRows, name: str, levels: int) -> Layout:
    """Find out what the columns hold, by their names.

    Raises:
        InputFileError: a needed column is missing or named twice, or there are fewer levels than asked for.
    """
    header = Header(raw.columns, name)
    if raw.headerless:
        raise InputFileError(f"{name}: has no header row; add one: {NEEDED}")
    time, date = time_columns(header, raw)
    found = _levels(header) or _best(header)
    if time is None or found is None:
        raise header.unrecognized(NEEDED)
    prices, sizes = found
    if levels > (deepest := min(map(len, sizes.values()))):
        deep = f"{deepest} levels" if deepest > 1 else "only the best level"
        raise InputFileError(f"{name}: has {deep}, --levels asks for {levels}; give --levels {deepest}")
    return Layout(
        name=_layout_name(header, deepest),
        time=time,
        date=date,
        symbol=header.only(*SYMBOL_NAMES),
        prices=prices,
        sizes={side: positions[:levels] for side, positions in sizes.items()},
    )


def _best(header: Header) -> tuple[dict[str, int], dict[str, tuple[int, ...]]] | None:
    """Find the columns of the best quotes: bid, bid_price, best_bid_price, bid_qty, …"""
    prices = {side: header.only(side, f"{side}price", f"best{side}", f"best{side}price") for side in SIDES}
    sizes = {side: header.only(*(f"{best}{side}{size}" for size in SIZES for best in ("", "best"))) for side in SIDES}
    if None in prices.values() or None in sizes.values():
        return None
    return (
        {side: position for side, position in prices.items() if position is not None},
        {side: (position,) for side, position in sizes.items() if position is not None},
    )


def _levels(header: Header) -> tuple[dict[str, int], dict[str, tuple[int, ...]]] | None:
    """Find the columns of a depth snapshot, whose levels count from 0 or 1."""
    found: dict[tuple[str, bool, int], int] = {}
    for position, key in enumerate(header.keys):
        match = _LEVEL.fullmatch(key)
        level = match and (match[2] or match[3] or match[5])
        if match and level:
            found.setdefault((match[1], match[4] == "price", int(level)), position)
    if not found:
        return None
    best = min(level for _, _, level in found)
    sizes = {side: tuple(_consecutive(found, side, best)) for side in SIDES}
    prices = {side: found[side, True, best] for side in SIDES if (side, True, best) in found}
    return (prices, sizes) if len(prices) == len(SIDES) and all(sizes.values()) else None


def _consecutive(found: Mapping[tuple[str, bool, int], int], side: str, level: int) -> list[int]:
    positions = []
    while (side, False, level) in found:
        positions.append(found[side, False, level])
        level += 1
    return positions


def _layout_name(header: Header, levels: int) -> str:
    if "localtimestamp" in header.keys:
        return "tardis quotes" if levels == 1 else "tardis book snapshot"
    if {"bestbidqty", "bestaskqty"} <= set(header.keys):
        return "binance book ticker"
    return "generic" if levels == 1 else "levels"


def _check(times: Times, symbols: Labels, numbers: Mapping[str, Numbers], now: int) -> Verdicts:
    # A thin book has fewer levels than the snapshot has columns.
    deeper = [field for field in numbers if " " in field]
    verdicts = check_rows(times, symbols, numbers, now, optional=deeper)
    values = {field: column.values for field, column in numbers.items()}
    for side in SIDES:
        verdicts.refuse("negative or zero price", values[side] <= 0, side)
    for field in [name for name in numbers if name not in SIDES]:
        verdicts.refuse("negative size", values[field] < 0, field)
    verdicts.refuse("crossed book", values["bid"] > values["ask"], *SIDES)
    verdicts.refuse("locked book", values["bid"] == values["ask"], *SIDES)
    return verdicts


def _book(numbers: Mapping[str, Numbers]) -> dict[str, Floats]:
    """Sum up the sizes of each side's levels; one that is blank holds nothing."""
    book = {side: numbers[side].values for side in SIDES}
    for side in SIDES:
        levels = [column.values for field, column in numbers.items() if field.startswith(f"{side}_size")]
        book[f"{side}_size"] = levels[0] if len(levels) == 1 else np.nansum(levels, axis=0)
    return {field: book[field] for field in ("bid", "bid_size", "ask", "ask_size")}


def _last_states(verdicts: Verdicts, symbols: Ints, times: Ints) -> tuple[Ints, int]:
    """Keep the last state of each symbol and instant; gives them in that order, and how many others there are."""
    rows = np.flatnonzero(verdicts.accepted)
    series = list(runs(rows[np.argsort(symbols[rows], kind="stable")], [symbols]))
    directions = [_direction(times[one]) for one in series]
    # A symbol with a single instant has no direction of its own: it goes with the others.
    newest_first = -1 in directions and 1 not in directions
    ordered = [
        one[::-1] if direction < 0 or (not direction and newest_first) else one
        for one, direction in zip(series, directions, strict=True)
    ]
    kept, superseded, _ = newest_of_each(np.concatenate([rows[:0], *ordered]), [symbols, times])
    return kept, len(superseded)


def _direction(times: Ints) -> int:
    """Tell how a symbol's rows are ordered: -1 the newest first, 0 all of one instant, else 1."""
    steps = np.diff(times)
    return 1 if np.any(steps > 0) else -int(np.any(steps < 0))
