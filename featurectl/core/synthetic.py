"""A synthetic market for the demo: seeded, the same at every instant whenever it is asked, with real files' faults."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from featurectl.core.entity import TIMEFRAMES, EntityId

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SEED = 20_240_101
PRICES = {"BTCUSDT": 64_000.0, "ETHUSDT": 3_200.0, "SOLUSDT": 150.0}
HISTORY = {"5m": 1_500, "1h": 1_500, "4h": 1_500}
HEADER = ("open_time", "open", "high", "low", "close", "volume")
# Seconds of order book and trades, and between two of them; days of scores.
TICKS, BOOK_EVERY, TRADE_EVERY = 3 * 3600, 2, 3
SCORE_DAYS = 5

BOOK = ("time", "symbol", "bid", "bid_size", "ask", "ask_size")
TRADES = ("trade_id", "time", "symbol", "price", "size", "side")
SCORES = ("time", "symbol", "name", "score")

Bar = tuple[datetime, float, float, float, float, float]
Row = tuple[object, ...]


@dataclass(frozen=True, slots=True)
class MarketFiles:
    """The files of a synthetic market: one a series, and the late bars that arrive after them.

    One file has a gap of three bars, one a bad tick, one lacks a bar that ``late`` brings; one book is crossed once.
    """

    series: tuple[Path, ...]
    books: tuple[Path, ...]
    trades: tuple[Path, ...]
    scores: tuple[Path, ...]
    late: Path
    gap: str
    bad_tick: str


def write_market(directory: Path, *, now: datetime) -> MarketFiles:
    """Write files up to ``now``, the last bar of each series still open, as downloads have it."""
    directory.mkdir(parents=True, exist_ok=True)
    until = int(now.timestamp())
    files = []
    for symbol in PRICES:
        for timeframe in HISTORY:
            entity = EntityId(symbol, timeframe)
            bars = generate(entity, HISTORY[timeframe], now=now)
            if str(entity) == "ETHUSDT_1h":
                del bars[-203:-200]
            if str(entity) == "SOLUSDT_1h":
                bars[-50] = _bad_tick(bars[-50])
            if str(entity) == "BTCUSDT_1h":
                late = bars.pop(-6)
            files.append(_write(directory / f"{entity}.csv", bars))
    return MarketFiles(
        series=tuple(files),
        books=tuple(_write(directory / f"{symbol}_book.csv", _book(symbol, until), BOOK) for symbol in PRICES),
        trades=tuple(_write(directory / f"{symbol}_trades.csv", _trades(symbol, until), TRADES) for symbol in PRICES),
        scores=(
            _write(directory / "scores.csv", _scores(until), SCORES),
            _write(directory / "fear_greed_index.csv", _moods(until), ("time", "value")),
        ),
        late=_write(directory / "late_BTCUSDT_1h.csv", [late]),
        gap="ETHUSDT_1h",
        bad_tick="SOLUSDT_1h",
    )


def generate(entity: EntityId, bars: int, *, now: datetime) -> list[Bar]:
    """Return the newest bars of a series, the last one still open at ``now``.

    Prices depend on the instant alone, not on when or how often they are asked for.
    """
    import numpy as np  # 0.1 s, and only the demo needs it

    length = int(TIMEFRAMES[entity.timeframe].total_seconds())
    last = int(now.timestamp()) // length * length
    opens_at = np.arange(last - (bars - 1) * length, last + length, length, dtype=np.int64)
    opens, closes = _price(entity.symbol, opens_at), _price(entity.symbol, opens_at + length)
    noise = _noise(entity, opens_at // length)
    spread = 0.25 * np.abs(closes - opens) + opens * 0.0004 * np.sqrt(length / 300)
    highs = np.maximum(opens, closes) + spread * noise[:, 0]
    lows = np.minimum(opens, closes) - spread * noise[:, 1]
    volumes = length / 60 * (5 + 20 * noise[:, 2] ** 3) * (64_000 / PRICES[entity.symbol]) ** 0.5
    columns = (np.round(column, 6) for column in (opens, highs, lows, closes, volumes))
    times = [datetime.fromtimestamp(int(second), UTC) for second in opens_at]
    return [(time, *map(float, row)) for time, row in zip(times, np.column_stack(list(columns)), strict=True)]  # type: ignore[misc]


def _price(symbol: str, seconds: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return a price at each instant: waves from minutes to months, each shorter one smaller."""
    import numpy as np

    generator = np.random.default_rng([SEED, *symbol.encode()])
    periods = 1_200 * 1.37 ** np.arange(26)
    phases = generator.uniform(0, 2 * np.pi, len(periods))
    sizes = 0.0011 * (periods / periods[0]) ** 0.42 * generator.uniform(0.6, 1.4, len(periods))
    angles = 2 * np.pi * seconds[:, None] / periods[None, :] + phases
    prices: NDArray[np.float64] = PRICES[symbol] * np.exp((np.sin(angles) * sizes).sum(axis=1))
    return prices


def _noise(entity: EntityId, positions: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return three uniform numbers a bar that depend on the series and the bar's place in time."""
    import numpy as np

    first = int(positions[0])
    key = int.from_bytes(str(entity).encode()[:8].ljust(8), "little") ^ SEED
    # One block of Philox gives four numbers: a bar's block is found by its position.
    generator = np.random.Generator(np.random.Philox(key=key, counter=first))
    return generator.random((len(positions), 4))[:, :3]


def _seconds(until: int, every: int, span: int = TICKS) -> NDArray[np.int64]:
    """Return every so manieth second of a span up to an instant."""
    import numpy as np

    return np.arange((until - span) // every * every, until + 1, every, dtype=np.int64)


def _book(symbol: str, until: int) -> list[Row]:
    """Return best bids and asks; one of BTCUSDT's is crossed."""
    seconds = _seconds(until, BOOK_EVERY)
    noise = _noise(EntityId(symbol, "book"), seconds // BOOK_EVERY)
    mid = _price(symbol, seconds)
    half = mid * (2e-5 + 4e-5 * noise[:, 0])
    columns = (mid - half, 0.1 + 4 * noise[:, 1], mid + half, 0.1 + 4 * noise[:, 2])
    rows = _rows(symbol, seconds, *columns)
    if symbol == "BTCUSDT":
        time, name, bid, bid_size, ask, ask_size = rows[-500]
        rows[-500] = (time, name, ask, bid_size, bid, ask_size)
    return rows


def _trades(symbol: str, until: int) -> list[Row]:
    seconds = _seconds(until, TRADE_EVERY)
    noise = _noise(EntityId(symbol, "trades"), seconds // TRADE_EVERY)
    price = _price(symbol, seconds) * (1 + 1e-4 * (noise[:, 0] - 0.5))
    rows = _rows(symbol, seconds, price, 0.001 + 0.5 * noise[:, 1] ** 3)
    sides = ["buy" if one else "sell" for one in noise[:, 2] > 0.5]
    return [(second, *row, side) for second, row, side in zip(seconds.tolist(), rows, sides, strict=True)]


def _scores(until: int) -> list[Row]:
    """Return what news and social media are said to feel about each symbol, every hour."""
    rows: list[Row] = []
    for symbol in PRICES:
        seconds = _seconds(until, 3600, SCORE_DAYS * 86_400)
        noise = _noise(EntityId(symbol, "scores"), seconds // 3600)
        for column, name in enumerate(("news_sentiment", "social_sentiment")):
            rows += [(*row[:2], name, row[2]) for row in _rows(symbol, seconds, 2 * noise[:, column] - 1)]
    return rows


def _moods(until: int) -> list[Row]:
    """Return the whole market's mood, every day."""
    import numpy as np

    days = _seconds(until, 86_400, SCORE_DAYS * 86_400)
    return [(row[0], row[2]) for row in _rows("*", days, np.round(50 + 40 * np.sin(days / 86_400 / 5)))]


def _rows(symbol: str, seconds: NDArray[np.int64], *columns: NDArray[np.float64]) -> list[Row]:
    import numpy as np

    times = [datetime.fromtimestamp(second, UTC) for second in seconds.tolist()]
    values = np.column_stack([np.round(column, 6) for column in columns]).tolist()
    return [(time, symbol, *row) for time, row in zip(times, values, strict=True)]


def _bad_tick(bar: Bar) -> Bar:
    """Return the bar with a high below its close, as a lost digit leaves it."""
    time, open_, high, low, close, volume = bar
    return (time, open_, high / 10, low, close, volume)


def _write(path: Path, rows: Sequence[Row], header: Sequence[str] = HEADER) -> Path:
    with path.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow(header)
        writer.writerows([one.isoformat() if isinstance(one, datetime) else one for one in row] for row in rows)
    return path
