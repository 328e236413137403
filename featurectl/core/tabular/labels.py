"""Names that rows go by, such as symbols: one for all rows, or a column of them, written the house way."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from featurectl.core.entity import MARKET
from featurectl.core.tabular.arrays import Ints
from featurectl.errors import InputFileError

# Far above any exchange's names, and far below what an index entry holds.
MAX_SYMBOL = 100
Normalize = Callable[[str], str | None]


@dataclass(frozen=True)
class Labels:
    """One name per row: ``names[codes[row]]``; code -1 where the row's cell names nothing usable."""

    names: tuple[str, ...]
    codes: Ints

    @classmethod
    def same(cls, name: str, rows: int) -> Labels:
        """Give every row the same name."""
        return cls((name,), np.zeros(rows, dtype=np.int64))

    def without(self, name: str) -> Labels:
        """Take one name for nothing usable."""
        if name not in self.names:
            return self
        return Labels(self.names, np.where(self.codes == self.names.index(name), -1, self.codes))


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


@dataclass(frozen=True)
class Texts:
    """A column of strings of a file with ``rows`` rows; ``column`` is None where the file has none such."""

    column: pa.ChunkedArray | None
    name: str
    rows: int
    file: str

    def normalized(self, normalize: Normalize) -> Labels | None:
        """Normalize the distinct values once each and give every row the code of its own."""
        if self.column is None:
            return None
        encoded = self.column.fill_null("").combine_chunks().dictionary_encode()
        found = [normalize(text) for text in encoded.dictionary.to_pylist()]
        names = tuple(dict.fromkeys(label for label in found if label is not None))
        code_of: dict[str | None, int] = {label: code for code, label in enumerate(names)}
        recode = np.array([code_of.get(label, -1) for label in found], dtype=np.int64)
        return Labels(names, recode[encoded.indices.to_numpy()])


def stated_symbols(argument: str | None, texts: Texts) -> Labels | None:
    """Take every row's symbol, maybe ``*``, from the argument or the column; None where neither says one.

    Raises:
        InputFileError: the argument is no symbol, or contradicts the column.
    """
    message = f"symbol '{argument}' is not a symbol; write it like BTCUSDT"
    return stated("symbol", argument, texts, normalize_symbol, message)


def resolve_symbols(argument: str | None, texts: Texts, from_file_name: Normalize) -> Labels:
    """Find every row's symbol: in the argument, the column, or the file's name; ``*`` is none, only signals have it.

    Raises:
        InputFileError: nothing names one, or the argument is none or contradicts the column.
    """
    if argument is not None and normalize_symbol(argument) == MARKET:
        raise InputFileError(f"{texts.file}: symbol '{MARKET}' is the whole market, which only signals have; name one")
    labels = stated_symbols(argument, texts)
    if labels is not None:
        return labels.without(MARKET)
    found = None if texts.file == "-" else from_file_name(texts.file)
    if found is None:
        missing = "no symbol column" if texts.column is None else f"column '{texts.name}' is blank"
        raise InputFileError(f"{texts.file}: {missing}, and the file name does not say; give --symbol")
    return Labels.same(found, texts.rows)


def stated(what: str, argument: str | None, texts: Texts, normalize: Normalize, message: str) -> Labels | None:
    """Take every row's label from the argument or the column; None where neither says one.

    Raises:
        InputFileError: with ``message``, the argument can't be one; or it contradicts the column.
    """
    given = None if argument is None else normalize(argument)
    if argument is not None and given is None:
        raise InputFileError(f"{texts.file}: {message}")
    labels = texts.normalized(normalize)
    if given is not None:
        _refuse_contradiction(what, given, labels, texts)
        return Labels.same(given, texts.rows)
    return labels if labels is not None and labels.names else None


def _refuse_contradiction(what: str, given: str, labels: Labels | None, texts: Texts) -> None:
    others = [label for label in labels.names if label != given] if labels else []
    if others:
        shown = ", ".join(others[:5]) + (", …" if len(others) > 5 else "")
        raise InputFileError(
            f"{texts.file}: --{what} says {given}, column '{texts.name}' says {shown}; "
            f"leave --{what} out, or check the file"
        )
