"""A market for tests: seeded bars, their way into the database, and whole tables as Python rows."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
from psycopg import sql

from featurectl.core.candles import CandleFile, CandleSeries, Rejects
from featurectl.core.candles.series import build_series
from featurectl.core.catalog import Catalog, Selection, View, read_catalog
from featurectl.core.compute import Computed, Request, compute
from featurectl.core.connections import AsyncPool
from featurectl.core.db import Connection
from featurectl.core.entity import TIMEFRAMES, EntityId
from featurectl.core.ingest import Merged, merge_candles
from featurectl.core.schema import table_identifier
from featurectl.core.serving.answer import Entities, EntityFeatures
from featurectl.core.serving.answer import Request as OnlineRequest
from featurectl.core.serving.paths import Deadline
from featurectl.core.serving.reader import Reader
from featurectl.core.serving.session import Session
from tests.fix_repository import Repo

HOUR, MICROSECOND = timedelta(hours=1), timedelta(microseconds=1)
START = datetime(2024, 1, 1, tzinfo=UTC)  # a Monday, so that it is on every timeframe's grid
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
TECHNICAL = "features.technical_indicators"
VIEW = "technical_indicators_view"
FEATURES = ("rsi_14", "macd", "ema_20", "bollinger_bands_position", "atr", "volume_sma_ratio")
PRICE_UNIT = ("macd", "ema_20", "atr")


@dataclass(frozen=True)
class Market:
    """A repository's database with its catalog, and the core's verbs with their clocks in plain sight."""

    repo: Repo
    connection: Connection
    warmup: int = 1000
    catalog: Catalog = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "catalog", read_catalog(self.connection, "market"))

    @property
    def view(self) -> View:
        return self.catalog.view(VIEW)

    def read_online(
        self, selections: Sequence[Selection], entities: Sequence[EntityId], **request: Any
    ) -> list[EntityFeatures]:
        """Read as a manager does, at an instant of the test's own: ``as_of=…``."""
        wanted = OnlineRequest(tuple(selections), Entities(entities), **request)

        async def read() -> list[EntityFeatures]:
            database = self.repo.database
            reader = Reader(AsyncPool(lambda: database.open_async(Session), 1))
            try:
                return (await reader.read(wanted, deadline=Deadline.after(30))).by_entity()
            finally:
                await reader.close()

        return asyncio.run(read())

    def ingest(self, *series: CandleSeries, now: datetime) -> list[Merged]:
        return merge_candles(self.connection, candle_file(*series), now=now)

    def compute(
        self, *, now: datetime, drop_after: Mapping[str, timedelta] | None = None, **request: Any
    ) -> list[Computed]:
        return compute(
            self.connection,
            self.catalog,
            Request(**request),
            root=self.repo.root,
            warmup=self.warmup,
            now=now,
            drop_after=drop_after or {},
        )

    def features(self, symbol: str = "BTCUSDT", timeframe: str = "1h") -> dict[datetime, dict[str, float | None]]:
        """Return the features of a series by event time."""
        statement = f"SELECT event_timestamp, {', '.join(FEATURES)} FROM {TECHNICAL}"
        rows = self.connection.execute(
            f"{statement} WHERE symbol = %s AND timeframe = %s ORDER BY event_timestamp".encode(), (symbol, timeframe)
        )
        return {event: dict(zip(FEATURES, values, strict=True)) for event, *values in rows}


def candle_file(*series: CandleSeries) -> CandleFile:
    """Return what reading a file with these series, and nothing else, gives."""
    rejects = Rejects({}, pa.table({"row": [], "reason": [], "detail": []}))
    return CandleFile("-", "generic", sum(map(len, series)), series, rejects, (), 0, 0, 0)


def bars(
    closes: Sequence[float],
    *,
    symbol: str = "BTCUSDT",
    timeframe: str = "1h",
    start: datetime = START,
    volume: float | Sequence[float] = 10.0,
    spread: float | Sequence[float] = 1.0,
) -> CandleSeries:
    """Return consecutive bars that open where they close, ``spread`` below the high and above the low."""
    close = np.asarray(closes, dtype=np.float64)
    values = {
        "open": close,
        "high": close + spread,
        "low": close - spread,
        "close": close,
        "volume": np.broadcast_to(np.asarray(volume, dtype=np.float64), close.shape),
    }
    step = TIMEFRAMES[timeframe] // MICROSECOND
    opens = (start - EPOCH) // MICROSECOND + step * np.arange(len(close), dtype=np.int64)
    return build_series(symbol, timeframe, opens, values, np.arange(len(close)))


def random_bars(random: np.random.Generator, count: int, **options: Any) -> CandleSeries:
    """Return a market that drifts and jumps, whose volume is at times nothing."""
    moves = random.normal(0, 0.01, count) * random.choice([0.2, 1, 5], count, p=[0.3, 0.6, 0.1])
    closes = 100 * np.exp(np.cumsum(moves))
    volume = random.gamma(2, 50, count) * (random.random(count) > 0.03)
    return bars(closes, volume=volume, spread=closes * random.gamma(2, 0.002, count), **options)


def take(series: CandleSeries, rows: Iterable[int]) -> CandleSeries:
    """Return the bars at these places, oldest first."""
    order = np.array(sorted(rows), dtype=np.int64)
    values = {name: getattr(series, name) for name in ("open", "high", "low", "close", "volume")}
    return build_series(series.symbol, series.timeframe, series.open_time, values, order)


def corrected(series: CandleSeries, random: np.random.Generator) -> CandleSeries:
    """Return the same bars with other prices and volumes."""
    factor = random.uniform(0.8, 1.25, len(series))
    names = ("open", "high", "low", "close", "volume")
    return replace(series, **{name: getattr(series, name) * factor for name in names})


def named(series: CandleSeries, symbol: str) -> CandleSeries:
    return replace(series, symbol=symbol)


def close_of(series: CandleSeries, row: int) -> datetime:
    """Return when a bar closes."""
    return EPOCH + int(series.open_time[row]) * MICROSECOND + TIMEFRAMES[series.timeframe]


def closed_at(series: CandleSeries) -> list[datetime]:
    return [close_of(series, row) for row in range(len(series))]


def whole_table(connection: Connection, table: str) -> list[tuple[Any, ...]]:
    """Return every column of every row, in an order that depends on the rows only."""
    statement = sql.SQL("SELECT * FROM {} AS t ORDER BY t::text").format(table_identifier(table))
    return connection.execute(statement).fetchall()


def largest_deviation(
    found: Mapping[datetime, Mapping[str, float | None]], wanted: Mapping[datetime, Mapping[str, float | None]]
) -> float:
    """Return the largest relative difference; features in units of price are measured against the EMA.

    The rows and the places of nulls must be the same.
    """
    assert found.keys() == wanted.keys()
    largest = 0.0
    for event, row in wanted.items():
        for name, value in row.items():
            other = found[event][name]
            assert (value is None) == (other is None), (event, name, value, other)
            if value is None or other is None:
                continue
            assert math.isfinite(value) and math.isfinite(other), (event, name)
            # Where the MACD crosses zero, or a band is thin, only the scale it comes from says what is small.
            scale = max(abs(value), abs(other), 1e-3 * (row["ema_20"] or 0) if name in PRICE_UNIT else 1e-3)
            largest = max(largest, abs(value - other) / scale)
    return largest


def select(view: View, *features: str) -> Selection:
    """Return these features of a view, or all of them."""
    return Selection(view, features or tuple(field.name for field in view.fields))


def put(connection: Connection, table: str, rows: Sequence[Mapping[str, Any]], *, logged: bool = True) -> None:
    """Write rows over those of their keys, in one transaction, and log the change as ingest does.

    Tables are order_book, trades and signals.
    """
    if not rows:
        return
    keys = {"order_book": ["symbol", "time"], "trades": ["symbol", "time", "trade_id"]}
    key = keys.get(table, ["symbol", "name", "time"])
    names = list(rows[0])
    values = [name for name in names if name not in key]
    statement = sql.SQL("INSERT INTO {} ({}) VALUES ({}) ON CONFLICT ({}) DO UPDATE SET ({}) = ROW ({})").format(
        sql.Identifier("market", table),
        *(sql.SQL(", ").join(map(make, part)) for make, part in ((sql.Identifier, names), (sql.Placeholder, names))),
        *(sql.SQL(", ").join(map(sql.Identifier, part)) for part in (key, values)),
        sql.SQL(", ").join(sql.SQL("excluded.{}").format(sql.Identifier(name)) for name in values),
    )
    with connection.transaction(), connection.cursor() as cursor:
        cursor.executemany(statement, rows)
        for symbol in {row["symbol"] for row in rows} if logged else ():
            times = [row["time"] for row in rows if row["symbol"] == symbol]
            cursor.execute(
                "INSERT INTO featurectl.changes (source, symbol, first_time, last_time) VALUES (%s, %s, %s, %s)",
                (f"market.{table}", symbol, min(times), max(times)),
            )


def define(market: Market, view: str, fields: Mapping[str, Mapping[str, str]], code: str, **tags: str) -> View:
    """Give a computed view other fields, by their tags, and their functions; return it as the market has it now."""
    before = market.catalog.view(view)
    (market.repo.root / (before.functions_file or "")).write_text(code, encoding="utf-8")
    template = before.fields[0]
    made = tuple(replace(template, name=name, source_column=name, tags=dict(own)) for name, own in fields.items())
    after = replace(before, fields=made, tags={**before.tags, **tags})
    table = table_identifier(before.source_table or "")
    for name in fields:
        column = sql.Identifier(name)
        market.connection.execute(sql.SQL("ALTER TABLE {} ADD COLUMN IF NOT EXISTS {} float8").format(table, column))
    views = tuple(after if one.name == view else one for one in market.catalog.views)
    object.__setattr__(market, "catalog", replace(market.catalog, views=views))
    return after


def feature_rows(market: Market, view: str, entity: str) -> dict[datetime, dict[str, float | None]]:
    """Return the features of an entity, BTCUSDT or BTCUSDT_1h, by event time."""
    known = market.catalog.view(view)
    names = [field.name for field in known.fields]
    keys = dict(zip(("symbol", "timeframe"), entity.rsplit("_", 1), strict=False))
    statement = sql.SQL("SELECT event_timestamp, {} FROM {} WHERE {} ORDER BY 1").format(
        sql.SQL(", ").join(map(sql.Identifier, names)),
        table_identifier(known.source_table or ""),
        sql.SQL(" AND ").join(sql.SQL("{} = {}").format(sql.Identifier(key), keys[key]) for key in keys),
    )
    rows = market.connection.execute(statement)
    return {event: dict(zip(names, values, strict=True)) for event, *values in rows}
