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

Bar = tuple[datetime, float, float, float, float, float]


@dataclass(frozen=True, slots=True)
class MarketFiles:
    """The files of a synthetic market: one a series, and the late bars that arrive after them.

    One file has a gap of three bars, one a bad tick, one lacks a bar that ``late`` brings.
    """

    series: tuple[Path, ...]
    late: Path
    gap: str
    bad_tick: str


def write_market(directory: Path, *, now: datetime) -> MarketFiles:
    """Write candle files up to ``now``, the last bar of each still open, as downloads have it."""
    directory.mkdir(parents=True, exist_ok=True)
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
        tuple(files), _write(directory / "late_BTCUSDT_1h.csv", [late]), gap="ETHUSDT_1h", bad_tick="SOLUSDT_1h"
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


def _bad_tick(bar: Bar) -> Bar:
    """Return the bar with a high below its close, as a lost digit leaves it."""
    time, open_, high, low, close, volume = bar
    return (time, open_, high / 10, low, close, volume)


def _write(path: Path, bars: Sequence[Bar]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow(HEADER)
        writer.writerows([bar[0].isoformat(), *bar[1:]] for bar in bars)
    return path
