"""Read symbol and timeframe from a candle file's name."""

from __future__ import annotations

from featurectl.core.entity import TIMEFRAMES
from featurectl.core.tabular.filenames import VENDORS, ends_in_cash, join_symbol, single_symbol, words

# Words around the symbol that are no part of it.
FILLERS = frozenset(
    {"candle", "candles", "data", "futures", "history", "klines", "ohlc", "ohlcv", "prices", "spot", "um"}
)


def timeframe_in_file_name(name: str) -> str | None:
    """Find the timeframe in a file name as it is written there (``1H``, ``1M``); None if there are none or several."""
    found = {_spelling(word) for word in words(name) if _is_timeframe(word)}
    return found.pop() if len(found) == 1 else None


def symbol_in_file_name(name: str) -> str | None:
    """Find the symbol: what stands before the timeframe, vendors' names aside; None if that looks like no symbol."""
    parts = words(name)
    position = next((index for index, word in enumerate(parts) if _is_timeframe(word)), None)
    before = [word for word in parts[:position] if word.lower() not in VENDORS | FILLERS]
    if position is None:
        return single_symbol(before[0]) if len(before) == 1 and ends_in_cash(before[0]) else None
    return join_symbol(before, futures="futures" in (word.lower() for word in parts[position:]))


def _is_timeframe(word: str) -> bool:
    return word.lower() in TIMEFRAMES


def _spelling(word: str) -> str:
    # 1M is the month and must not turn into the minute.
    return word if word.endswith("M") else word.lower()
