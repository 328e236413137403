"""Read symbol and timeframe from a candle file's name, as exchanges, their mirrors and bots name such files."""

from __future__ import annotations

import re
from pathlib import PurePath

from featurectl.core.entity import TIMEFRAMES

SUFFIX = re.compile(r"\.(csv|tsv|txt|gz|gzip|zip|parquet|pq)$", re.IGNORECASE)
# Words around the symbol that are no part of it.
VENDORS = frozenset({"binance", "bitfinex", "bitstamp", "bybit", "coinbase", "cryptodatadownload", "gemini", "kraken"})
VENDORS |= {"kucoin", "okx", "poloniex"}
FILLERS = frozenset(
    {"candle", "candles", "data", "futures", "history", "klines", "ohlc", "ohlcv", "prices", "spot", "um"}
)
# A lower-case name is taken for a symbol only if it ends in one of these: `btcusdt_1h.csv` is, `prices_1h.csv` is not.
CASH = ("USDT", "USDC", "BUSD", "FDUSD", "TUSD", "USD", "EUR", "GBP", "TRY", "BRL", "JPY")


def timeframe_in_file_name(name: str) -> str | None:
    """Find the timeframe in a file name as it is written there (``1H``, ``1M``); None if there are none or several."""
    found = {_spelling(word) for word in _words(name) if _is_timeframe(word)}
    return found.pop() if len(found) == 1 else None


def symbol_in_file_name(name: str) -> str | None:
    """Find the symbol: what stands before the timeframe, vendors' names aside; None if that looks like no symbol."""
    words = _words(name)
    position = next((index for index, word in enumerate(words) if _is_timeframe(word)), None)
    before = [word for word in words[:position] if word.lower() not in VENDORS | FILLERS]
    if position is None:
        return _single(before[0]) if len(before) == 1 and _ends_in_cash(before[0]) else None
    futures = "futures" in (word.lower() for word in words[position:])
    return _join(before, futures)


def _words(name: str) -> list[str]:
    stem = PurePath(name).name
    while SUFFIX.search(stem):
        stem = SUFFIX.sub("", stem)
    return [word for word in re.split(r"[^\w:]+|_", stem) if word]


def _is_timeframe(word: str) -> bool:
    return word.lower() in TIMEFRAMES


def _spelling(word: str) -> str:
    # 1M is the month and must not turn into the minute.
    return word if word.endswith("M") else word.lower()


def _join(words: list[str], futures: bool) -> str | None:
    if len(words) == 1:
        return _single(words[0])
    if len(words) == 2 and re.fullmatch(r"\d{6}|PERP", words[1]):
        # Binance's delivery contracts: BTCUSDT_210625, BTCUSD_PERP.
        return "_".join(words).upper()
    if len(words) == 2 and (_is_upper(words[0] + words[1]) or words[1].upper() in CASH):
        return (words[0] + words[1]).upper()
    if len(words) == 3 and futures and _is_upper("".join(words)):
        # freqtrade writes BTC/USDT:USDT as BTC_USDT_USDT-1h-futures.
        return f"{words[0]}{words[1]}:{words[2]}".upper()
    return None


def _single(word: str) -> str | None:
    return word.upper() if _is_upper(word) or _ends_in_cash(word) else None


def _is_upper(word: str) -> bool:
    return word == word.upper() and any(character.isalpha() for character in word)


def _ends_in_cash(word: str) -> bool:
    return word.upper().endswith(CASH) and word.upper() not in CASH
