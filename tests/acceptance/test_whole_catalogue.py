"""The real files, end to end, against pandas: candles, books, trades and signals, online and in a training set."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.fix_database import create_database, drop_database
from tests.fix_repository import DATA, Repo, needs_data

pytestmark = [needs_data, pytest.mark.xdist_group("catalogue")]

SYMBOLS = ("BTCUSDT", "ETHUSDT")
NOW = datetime(2024, 8, 9, 1, tzinfo=UTC)
MARKET = ["bid_ask_spread", "order_book_imbalance", "trade_size_avg"]
MINUTES = {"1m": 1, "5m": 5, "15m": 15, "1h": 60}


@pytest.fixture(scope="module")
def market(
    server: str, applied_repository: tuple[Path, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Repo]:
    """A repository with all the real files in it, bars of a minute made of the trades, everything computed."""
    applied, template = applied_repository
    root = tmp_path_factory.mktemp("catalogue") / "market"
    shutil.copytree(applied, root)
    name = f"featurectl_test_{uuid.uuid4().hex[:12]}"
    repo = Repo(root, create_database(server, name, template))
    bars = [minute_bars(symbol, root.parent) for symbol in SYMBOLS]
    hours = [DATA / "candles" / f"{symbol}_1h.csv.gz" for symbol in SYMBOLS]
    ticks = DATA / "microstructure"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEATURECTL_NOW", NOW.isoformat())
        repo.ok("ingest", "candles", *bars, *hours, "--drop-last")
        repo.ok("ingest", "order-book", *(ticks / f"{symbol}_book_ticker.csv.gz" for symbol in SYMBOLS))
        repo.ok("ingest", "trades", *(ticks / f"{symbol}_trades.csv.gz" for symbol in SYMBOLS))
        repo.ok("ingest", "signals", DATA / "sentiment" / "fear_greed_index.csv")
        repo.ok("compute")
        repo.ok("materialize")
        yield repo
    drop_database(server, name)


def minute_bars(symbol: str, directory: Path) -> Path:
    """Make a candle file of a symbol's trades; the last bar is cut short, as downloads have it."""
    trades = read_trades(symbol)
    grouped = trades.groupby(trades.time.dt.floor("1min"))
    bars = grouped.price.agg(open="first", high="max", low="min", close="last").assign(volume=grouped["size"].sum())
    path = directory / f"{symbol}_1m.csv"
    bars.rename_axis("open_time").reset_index().to_csv(path, index=False)
    return path


def read_trades(symbol: str) -> pd.DataFrame:
    trades = pd.read_csv(DATA / "microstructure" / f"{symbol}_trades.csv.gz")
    return trades.assign(time=pd.to_datetime(trades.time_ms, unit="ms", utc=True)).sort_values(["time", "trade_id"])


def read_book(symbol: str) -> pd.DataFrame:
    """Read book updates; of several at one instant the last counts."""
    book = pd.read_csv(DATA / "microstructure" / f"{symbol}_book_ticker.csv.gz")
    book = book.drop_duplicates("time_ms", keep="last")
    return book.assign(time=pd.to_datetime(book.time_ms, unit="ms", utc=True))


def expected_market(symbol: str, minutes: int, at: pd.Timestamp) -> list[float]:
    """Return the three market features of a symbol over the minutes before an instant."""
    span = pd.Timedelta(minutes=minutes)
    book, trades = (
        frame[(frame.time >= at - span) & (frame.time < at)] for frame in (read_book(symbol), read_trades(symbol))
    )
    spread = (book.ask - book.bid) / ((book.ask + book.bid) / 2)
    imbalance = (book.bid_size - book.ask_size) / (book.bid_size + book.ask_size)
    return [spread.mean(), imbalance.mean(), trades["size"].mean()]


def expected_fear_greed(instants: pd.Series) -> pd.Series:
    """Return the newest index at each instant, as of the quarter of an hour before it, no older than 36 hours."""
    scores = pd.read_csv(DATA / "sentiment" / "fear_greed_index.csv")
    scores = scores.assign(time=pd.to_datetime(scores.timestamp, unit="s", utc=True)).sort_values("time")
    asked = pd.DataFrame({"time": instants.dt.floor("15min").astype(scores.time.dtype)})
    merged = pd.merge_asof(asked, scores[["time", "value"]], on="time", tolerance=pd.Timedelta(hours=36))
    return merged["value"]


def test_online_features_of_book_trades_and_mood(market: Repo) -> None:
    at = pd.Timestamp("2024-08-08T23:59:00Z")
    ids = [f"{symbol}_{timeframe}" for symbol in SYMBOLS for timeframe in MINUTES]
    asked = at + pd.Timedelta(seconds=30)
    answer = market.json("get-online", *ids, "--service", "market_analysis_service", "--as-of", asked.isoformat())
    for result in answer["results"]:
        wanted = expected_market(result["symbol"], MINUTES[result["timeframe"]], at)
        found = [result["features"][name] for name in MARKET]
        assert found == pytest.approx(wanted, rel=1e-9), result["entity_id"]
        assert {result["statuses"][name] for name in MARKET} == {"PRESENT"}
        assert result["views"]["market_features_view"]["event_timestamp"] == "2024-08-08T23:59:00Z"
        assert result["features"]["fear_greed_index"] == expected_fear_greed(pd.Series([asked]))[0] == 20
        assert result["statuses"]["news_sentiment"] == "NULL_VALUE"
    # What is online is from later; history has answered. At the newest instant the online rows do.
    assert {view["source"] for result in answer["results"] for view in result["views"].values()} == {"timescaledb"}
    newest = market.json("get-online", *ids, "--service", "sentiment_service", "--as-of", NOW.isoformat())
    assert {result["views"]["sentiment_features_view"]["source"] for result in newest["results"]} == {"online"}


def test_a_comprehensive_training_set_with_a_target(market: Repo, tmp_path: Path) -> None:
    path = tmp_path / "train.parquet"
    window = ("--start", "2023-01-01", "--end", NOW.isoformat())
    service = ("--service", "comprehensive_training_service")
    market.ok("get-offline", "BTCUSDT_1h", "BTCUSDT_1m", *window, *service, "--target", "forward_return:24", "-o", path)
    rows = pd.read_parquet(path)
    hours, minutes = (rows[rows.timeframe == name].reset_index(drop=True) for name in ("1h", "1m"))

    bars = pd.read_csv(DATA / "candles" / "BTCUSDT_1h.csv.gz", parse_dates=["date"]).iloc[:-1]
    bars = bars.assign(close_time=bars.date.dt.tz_localize("UTC") + pd.Timedelta(hours=1)).set_index("close_time")
    inside = bars.index[bars.index >= pd.Timestamp("2023-01-01", tz="UTC")]
    assert list(hours.event_timestamp) == list(inside)
    ahead = bars.close.reindex(inside + pd.Timedelta(hours=24)).to_numpy()
    np.testing.assert_allclose(hours.forward_return_24, ahead / bars.close[inside] - 1, rtol=1e-12)
    assert hours.forward_return_24.isna().sum() == 25  # the last day, and the bar before the one that is missing
    np.testing.assert_array_equal(hours.fear_greed_index, expected_fear_greed(hours.event_timestamp))
    # An EMA over 20 bars, the first value their mean.
    ema = bars.close.rolling(20).mean().iloc[19:20]
    ema = pd.concat([ema, bars.close.iloc[20:]]).ewm(alpha=2 / 21, adjust=False).mean()
    np.testing.assert_allclose(hours.ema_20, ema[inside], rtol=1e-9)
    assert hours[MARKET].isna().all().all()

    assert len(minutes) == read_trades("BTCUSDT").time.dt.floor("1min").nunique() - 1
    for row in minutes.itertuples():
        found = [getattr(row, name) for name in MARKET]
        wanted = expected_market("BTCUSDT", 1, row.event_timestamp)
        assert found == pytest.approx(wanted, rel=1e-9, nan_ok=True), row.event_timestamp
        assert row.fear_greed_index == 20
    assert minutes.forward_return_24.isna().all() and minutes.rsi_14.isna().all()
