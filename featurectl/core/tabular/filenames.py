"""Take file names apart, and find the symbol in them, as exchanges, their mirrors and bots name such files."""

from __future__ import annotations

import re
from pathlib import PurePath

SUFFIX = re.compile(r"\.(csv|tsv|txt|gz|gzip|zip|parquet|pq)$", re.IGNORECASE)
# Words around the symbol that are no part of it.
VENDORS = frozenset({"binance", "bitfinex", "bitstamp", "bybit", "coinbase", "cryptodatadownload", "gemini", "kraken"})
VENDORS |= {"kucoin", "okx", "poloniex"}
# A lower-case name is taken for a symbol only if it ends in one of these: `btcusdt_1h.csv` is, `prices_1h.csv` is not.
CASH = ("USDT", "USDC", "BUSD", "FDUSD", "TUSD", "USD", "EUR", "GBP", "TRY", "BRL", "JPY")


def stem(name: str) -> str:
    """Give a file's name without its folder and its suffixes: ``data/btc.csv.gz`` is btc."""
    bare = PurePath(name).name
    while SUFFIX.search(bare):
        bare = SUFFIX.sub("", bare)
    return bare


def words(name: str) -> list[str]:
    """Split a file's name into words."""
    return [word for word in re.split(r"[^\w:]+|_", stem(name)) if word]


def join_symbol(words: list[str], *, futures: bool = False) -> str | None:
    """Make one symbol of the words it was written in; None if they look like none."""
    if len(words) == 1:
        return single_symbol(words[0])
    if len(words) == 2 and re.fullmatch(r"\d{6}|PERP", words[1]):
        # Binance's delivery contracts: BTCUSDT_210625, BTCUSD_PERP.
        return "_".join(words).upper()
    if len(words) == 2 and (_is_upper(words[0] + words[1]) or words[1].upper() in CASH):
        return (words[0] + words[1]).upper()
    if len(words) == 3 and futures and _is_upper("".join(words)):
        # freqtrade writes BTC/USDT:USDT as BTC_USDT_USDT-1h-futures.
        return f"{words[0]}{words[1]}:{words[2]}".upper()
    return None


def single_symbol(word: str) -> str | None:
    """Give the symbol that one word is; None if it looks like none."""
    return word.upper() if _is_upper(word) or ends_in_cash(word) else None


def ends_in_cash(word: str) -> bool:
    """Tell whether a word ends in a currency that prices are quoted in, and is more than that."""
    return word.upper().endswith(CASH) and word.upper() not in CASH


def _is_upper(word: str) -> bool:
    return word == word.upper() and any(character.isalpha() for character in word)
