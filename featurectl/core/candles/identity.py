"""Find out whose candles these are: symbol and timeframe, from the arguments, the columns or the file's name."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from featurectl.core.candles.arrays import Ints
from featurectl.core.candles.filenames import symbol_in_file_name, timeframe_in_file_name
from featurectl.core.entity import TIMEFRAMES
from featurectl.errors import InputFileError

# Far above any exchange's names, and far below what an index entry holds.
MAX_SYMBOL = 100


@dataclass(frozen=True)
class Labels:
    """One name per row: ``names[codes[row]]``; code -1 where the row's cell names nothing usable."""

    names: tuple[str, ...]
    codes: Ints

    @classmethod
    def same(cls, name: str, rows: int) -> Labels:
        """Give every row the same name."""
        return cls((name,), np.zeros(rows, dtype=np.int64))


def normalize_symbol(text: str) -> str | None:
    """Write a symbol the house way: ``BTC/USDT`` is BTCUSDT, ``BTC/USDT:USDT`` is BTCUSDT:USDT; None if it is none.

    The part after ``:`` stays, because it tells a perpetual from the spot market of the same name.
    """
    pair, colon, settlement = re.sub(r"\s+", "", text).upper().partition(":")
    pair = re.sub(r"[/-]", "", pair)
    if not pair or pair in {"NULL", "NONE", "NAN"} or (colon and not settlement):
        return None
    symbol = pair + colon + settlement
    return symbol if symbol.isprintable() and len(symbol) <= MAX_SYMBOL else None


def normalize_timeframe(text: str) -> str | None:
    """Write a timeframe the house way: ``1H`` is 1h; None for an unknown one, among them ``1M``, the month."""
    text = text.strip()
    if text in TIMEFRAMES:
        return text
    if re.fullmatch(r"\d+M", text):
        return None
    return text.lower() if text.lower() in TIMEFRAMES else None


def resolve_symbols(
    argument: str | None, column: pa.ChunkedArray | None, column_name: str, rows: int, name: str
) -> Labels:
    """Find every row's symbol.

    Raises:
        InputFileError: nothing names one, or the argument contradicts the column.
    """
    given = _argument(argument, normalize_symbol, f"{name}: symbol '{argument}' is not a symbol; write it like BTCUSDT")
    labels = _column_labels(column, normalize_symbol)
    _refuse_contradiction("symbol", given, labels, column_name, name)
    if given is not None:
        return Labels.same(given, rows)
    if labels is not None and labels.names:
        return labels
    found = None if name == "-" else symbol_in_file_name(name)
    if found is None:
        missing = "no symbol column" if column is None else f"column '{column_name}' is blank"
        raise InputFileError(f"{name}: {missing}, and the file name does not say; give --symbol")
    return Labels.same(found, rows)


def resolve_timeframes(
    argument: str | None, column: pa.ChunkedArray | None, column_name: str, rows: int, name: str
) -> Labels | None:
    """Find every row's timeframe; None where only the spacing of the rows can tell.

    Raises:
        InputFileError: an unknown timeframe, or the argument contradicts the column.
    """
    given = _argument(argument, normalize_timeframe, f"{name}: {_unknown(argument)}")
    labels = _column_labels(column, normalize_timeframe)
    _refuse_contradiction("timeframe", given, labels, column_name, name)
    if given is not None:
        return Labels.same(given, rows)
    if labels is not None and labels.names:
        return labels
    unknown = _first_text(column)
    if unknown:
        raise InputFileError(f"{name}: column '{column_name}': {_unknown(unknown)}")
    return _timeframe_from_name(name, rows)


def _timeframe_from_name(name: str, rows: int) -> Labels | None:
    found = None if name == "-" else timeframe_in_file_name(name)
    if found is None:
        return None
    timeframe = normalize_timeframe(found)
    if timeframe is None:
        raise InputFileError(f"{name}: {_unknown(found)}; if the file name is wrong, give --timeframe")
    return Labels.same(timeframe, rows)


def _unknown(timeframe: str | None) -> str:
    month = " (M is month, m is minute)" if re.fullmatch(r"\s*\d+M\s*", timeframe or "") else ""
    return f"timeframe '{timeframe}' does not exist{month}; timeframes: {' '.join(TIMEFRAMES)}"


def _argument(argument: str | None, normalize: Callable[[str], str | None], message: str) -> str | None:
    if argument is None:
        return None
    given = normalize(argument)
    if given is None:
        raise InputFileError(message)
    return given


def _column_labels(column: pa.ChunkedArray | None, normalize: Callable[[str], str | None]) -> Labels | None:
    """Normalize a column's distinct values once each and give every row the code of its own."""
    if column is None:
        return None
    encoded = _strings(column).combine_chunks().dictionary_encode()
    found = [normalize(text) for text in encoded.dictionary.to_pylist()]
    names = tuple(dict.fromkeys(label for label in found if label is not None))
    code_of: dict[str | None, int] = {label: code for code, label in enumerate(names)}
    recode = np.array([code_of.get(label, -1) for label in found], dtype=np.int64)
    return Labels(names, recode[encoded.indices.to_numpy()])


def _strings(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return column.cast(pa.string()).fill_null("")


def _first_text(column: pa.ChunkedArray | None) -> str | None:
    if column is None:
        return None
    distinct = pc.unique(_strings(column)).to_pylist()
    return next((text for text in distinct if text.strip().lower() not in {"", "null", "none", "nan"}), None)


def _refuse_contradiction(what: str, given: str | None, labels: Labels | None, column_name: str, name: str) -> None:
    if given is None or labels is None:
        return
    others = [label for label in labels.names if label != given]
    if others:
        listed = ", ".join(others[:5]) + (", …" if len(others) > 5 else "")
        raise InputFileError(
            f"{name}: --{what} says {given}, column '{column_name}' says {listed}; "
            f"leave --{what} out, or check the file"
        )
