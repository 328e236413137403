"""Recognize the layout of a candle file by its header: which column holds what."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from featurectl.core.tabular.header import DATE_NAMES, SYMBOL_NAMES, Header, first
from featurectl.errors import InputFileError

NEEDED = "a time column (open_time, timestamp, date, time or datetime), open, high, low, close and volume"

# In order of preference. CryptoDataDownload's `unix` comes first: its `date` is now and then in another zone.
TIME_NAMES = ("unix", "unixtimestamp", "opentime", "opentimestamp", "timestamp", "datetime", "time", "date")
VOLUME_NAMES = ("volume", "basevolume", "vol", "basevol", "baseassetvolume")
QUOTE_VOLUME_NAMES = (
    "quotevolume",
    "quoteassetvolume",
    "quotevol",
    "volumequote",
    "volquote",
    "quotecurrencyvolume",
    "turnover",
)
TRADE_COUNT_NAMES = (
    "tradecount",
    "count",
    "numberoftrades",
    "trades",
    "tradescount",
    "numtrades",
    "ntrades",
    "numoftrades",
    "tradenum",
)
TIMEFRAME_NAMES = ("timeframe", "interval", "tf")
# Currencies that only ever quote a price, so "Volume USDT" is the quote volume.
QUOTE_CURRENCIES = frozenset({"usd", "usdt", "usdc", "busd", "fdusd", "tusd", "dai", "eur", "gbp", "jpy", "krw", "try"})

BINANCE_COLUMNS = (
    "open_time",
    "open",
    "high",
    "low",
    "close",
    "volume",
    "close_time",
    "quote_volume",
    "count",
    "taker_buy_volume",
    "taker_buy_quote_volume",
    "ignore",
)


@dataclass(frozen=True)
class Layout:
    """Where each thing is, as column positions; ``columns`` are the names rejects and messages use."""

    name: str
    columns: tuple[str, ...]
    time: int
    open: int
    high: int
    low: int
    close: int
    volume: int
    quote_volume: int | None = None
    trade_count: int | None = None
    symbol: int | None = None
    timeframe: int | None = None
    date: int | None = None
    """The second, human-readable time column beside an epoch one, if there is one."""

    @property
    def values(self) -> dict[str, int]:
        """Give the numeric columns present, required ones first, as field -> position."""
        positions = {
            "open": self.open,
            "high": self.high,
            "low": self.low,
            "close": self.close,
            "volume": self.volume,
            "quote_volume": self.quote_volume,
            "trade_count": self.trade_count,
        }
        return {field: position for field, position in positions.items() if position is not None}


def recognize_layout(columns: Sequence[str], headerless: bool, name: str) -> Layout:
    """Find out what the columns hold, by their names regardless of case, spaces and underscores.

    Raises:
        InputFileError: a needed column is missing or named twice, or there is no header and it is not Binance's.
    """
    if headerless:
        if len(columns) != len(BINANCE_COLUMNS):
            raise InputFileError(
                f"{name}: has no header row, and {len(columns)} columns instead of Binance's 12; add a header: {NEEDED}"
            )
        columns = BINANCE_COLUMNS
    header = Header(tuple(columns), name)
    keys = header.keys
    prices = {field: header.only(field) for field in ("open", "high", "low", "close")}
    time = first(keys, TIME_NAMES)
    volume, quote_volume = _volumes(keys)
    if time is None or volume is None or None in prices.values():
        raise header.unrecognized(NEEDED)
    return Layout(
        name=_layout_name(keys, time),
        columns=header.columns,
        time=time,
        volume=volume,
        quote_volume=quote_volume,
        trade_count=first(keys, TRADE_COUNT_NAMES),
        symbol=first(keys, SYMBOL_NAMES),
        timeframe=first(keys, TIMEFRAME_NAMES),
        date=first(keys, DATE_NAMES) if keys[time].startswith("unix") else None,
        **{field: position for field, position in prices.items() if position is not None},
    )


def _volumes(keys: Sequence[str]) -> tuple[int | None, int | None]:
    """Find the base and the quote volume; `Volume BTC, Volume USDT` says it by currency, or else by order."""
    base, quote = first(keys, VOLUME_NAMES), first(keys, QUOTE_VOLUME_NAMES)
    by_currency = [position for position, name in enumerate(keys) if re.fullmatch(r"volume[a-z0-9]+", name)]
    by_currency = [position for position in by_currency if position != quote]
    in_quote = [position for position in by_currency if keys[position].removeprefix("volume") in QUOTE_CURRENCIES]
    if base is not None:
        return base, quote if quote is not None else next(iter(in_quote), None)
    if len(in_quote) == 1:
        quote = quote if quote is not None else in_quote[0]
        by_currency.remove(in_quote[0])
    if not by_currency:
        return None, quote
    return by_currency[0], quote if quote is not None else next(iter(by_currency[1:]), None)


def _layout_name(keys: Sequence[str], time: int) -> str:
    if {"closetime", "ignore"} <= set(keys):
        return "binance"
    if keys[time] == "unix" and "date" in keys:
        return "cryptodatadownload"
    if list(keys) in ([time_name, "open", "high", "low", "close", "volume"] for time_name in ("date", "timestamp")):
        return "freqtrade/ccxt"
    return "generic"
