"""Whose candles a file holds: layouts by header, symbols and timeframes by argument, column, name and spacing."""

from __future__ import annotations

import io
from datetime import UTC, datetime

import numpy as np
import pytest

from featurectl.core.candles import CandleFile, read_candles
from featurectl.core.candles.filenames import symbol_in_file_name, timeframe_in_file_name
from featurectl.core.candles.identity import normalize_timeframe
from featurectl.core.tabular.labels import normalize_symbol
from featurectl.errors import InputFileError

NOW = datetime(2024, 1, 1, tzinfo=UTC)
START = 1609459200


def read(content: str, name: str = "-", **options: object) -> CandleFile:
    arguments = {"symbol": None, "timeframe": None, "closed_before": NOW, **options}
    return read_candles(io.BytesIO(content.encode()), name=name, **arguments)


def bars(
    count: int = 4, step: int = 3600, header: str = "timestamp,open,high,low,close,volume", extra: str = ""
) -> str:
    rows = [f"{START + number * step},10,12,9,11,{number + 1}{extra}" for number in range(count)]
    return "\n".join([header, *rows]) + "\n"


KLINES = "\n".join(
    f"{1609459200000 + n * 3600000},10,12,9,11,5,{1609462799999 + n * 3600000},55.5,42,2,22,0" for n in range(3)
)
KLINES_HEADER = (
    "open_time,open,high,low,close,volume,"
    "close_time,quote_volume,count,taker_buy_volume,taker_buy_quote_volume,ignore\n"
)
API_HEADER = (
    "Open time,Open,High,Low,Close,Volume,Close time,Quote asset volume,Number of trades,"
    "Taker buy base asset volume,Taker buy quote asset volume,Ignore\n"
)


@pytest.mark.parametrize("header", ["", KLINES_HEADER, API_HEADER], ids=["headerless", "header", "API names"])
def test_binance_klines_are_read_with_and_without_header(header: str) -> None:
    file = read(header + KLINES, name="BTCUSDT-1h-2021-01.csv")
    (series,) = file.series
    assert (file.layout, file.rows_read, series.symbol, series.timeframe) == ("binance", 3, "BTCUSDT", "1h")
    assert series.open_time[0] == START * 1_000_000
    assert series.volume.tolist() == [5, 5, 5]
    assert series.quote_volume.tolist() == [55.5] * 3
    assert series.trade_count.tolist() == [42] * 3


def test_rejects_of_a_headerless_file_have_binance_column_names() -> None:
    table = read(KLINES.replace(",10,", ",x,", 1), symbol="A", timeframe="1h").rejects.table
    assert table.column_names == ["row", "reason", "detail", *KLINES_HEADER.strip().split(",")]
    assert table.to_pylist()[0]["detail"] == "column 'open': 'x'"


CDD_HEADER = "unix,date,symbol,open,high,low,close,Volume BTC,Volume USDT,tradecount"


def test_cryptodatadownload_takes_base_and_quote_volume_and_prefers_unix() -> None:
    rows = [
        "1502953200000,2017-08-17 07:00:00,BTC/USDT,10,12,9,11,7,70,900",
        "1502949600.0,2017-08-17 02-AM,BTC/USDT,10,12,9,11,6,60,NULL",
        "1502946000.0,2017-08-17 05-AM,BTC/USDT,10,12,9,11,5,50,",
    ]
    file = read("\n".join(["https://www.CryptoDataDownload.com", CDD_HEADER, *rows]))
    (series,) = file.series
    assert file.layout == "cryptodatadownload"
    assert file.warnings == ("1 row: `date` and `unix` disagree; `unix` was used",)
    assert (series.symbol, series.timeframe) == ("BTCUSDT", "1h")
    assert series.volume.tolist() == [5, 6, 7]
    assert series.quote_volume.tolist() == [50, 60, 70]
    np.testing.assert_array_equal(series.trade_count, [np.nan, np.nan, 900])


@pytest.mark.parametrize(
    ("volumes", "base", "quote"),
    [
        ("Volume BTC,Volume USDT", 1, 2),
        ("Volume USD,Volume BTC", 2, 1),
        ("Volume ETH,Volume BTC", 1, 2),
        ("volume_from,volume_to", 1, 2),
        ("Volume USDT,volume", 2, 1),
        ("volume,quote_asset_volume", 1, 2),
        ("turnover,Vol", 2, 1),
        ("Volume_BTC,other", 1, None),
        ("volume,volume_ma", 1, None),
    ],
)
def test_the_volume_columns_are_told_apart(volumes: str, base: int, quote: int | None) -> None:
    header = f"time,open,high,low,close,{volumes}\n"
    (series,) = read(header + "1609459200,10,12,9,11,1,2\n", symbol="BTCUSDT", timeframe="1h").series
    assert series.volume[0] == base
    np.testing.assert_array_equal(series.quote_volume, [np.nan if quote is None else quote])


def test_a_lone_quote_volume_is_not_taken_for_the_volume() -> None:
    with pytest.raises(InputFileError, match="columns not recognized"):
        read("time,open,high,low,close,Volume USDT\n1609459200,10,12,9,11,1\n", symbol="BTCUSDT")


@pytest.mark.parametrize("time", ["date", "timestamp"])
def test_freqtrade_and_ccxt_milliseconds_are_read(time: str) -> None:
    rows = [f"{(START + 300 * n) * 1000},10,12,9,11,5" for n in range(3)]
    file = read("\n".join([f"{time},open,high,low,close,volume", *rows]), name="BTC_USDT-5m.csv")
    assert (file.layout, file.series[0].symbol, file.series[0].timeframe) == ("freqtrade/ccxt", "BTCUSDT", "5m")


@pytest.mark.parametrize("time", ["open_time", "OPEN TIME", "Timestamp", "date", "Time", "DateTime", "unix"])
def test_header_names_match_regardless_of_case_spaces_and_underscores(time: str) -> None:
    header = f"{time},OPEN, High ,low_,Close,VOLUME,Pair,Trade Count,Interval"
    (series,) = read(bars(header=header, extra=",eth-usdt,7,1H")).series
    assert (series.symbol, series.timeframe, series.trade_count[0]) == ("ETHUSDT", "1h", 7)


@pytest.mark.parametrize(
    ("name", "symbol", "timeframe"),
    [
        ("BTCUSDT_1h.csv.gz", "BTCUSDT", "1h"),
        ("/data/2021/cryptodatadownload_BTCUSDT_1h.csv.gz", "BTCUSDT", "1h"),
        ("Binance_BTCUSDT_1h.csv", "BTCUSDT", "1h"),
        ("BTCUSDT-1h-2021-04.zip", "BTCUSDT", "1h"),
        ("BTC_USDT-1h.csv", "BTCUSDT", "1h"),
        ("BTC_USDT_1h.csv", "BTCUSDT", "1h"),
        ("btcusdt_15m.parquet", "BTCUSDT", "15m"),
        ("BTC_USDT_USDT-1h-futures.csv", "BTCUSDT:USDT", "1h"),
        ("BTCUSDT_210625-1h-2021-04.zip", "BTCUSDT_210625", "1h"),
        ("BTCUSD_PERP-1d.csv", "BTCUSD_PERP", "1d"),
        ("AAPL_1D.csv", "AAPL", "1d"),
        ("BTCUSDT_1h (1).csv", "BTCUSDT", "1h"),
        ("BTCUSDT.csv", "BTCUSDT", None),
        ("BTCUSDT_1M.csv", "BTCUSDT", "1M"),
        ("BTCUSDT_1h_from_1m.csv", "BTCUSDT", None),
        ("candles_1h.csv", None, "1h"),
        ("my_prices_1h.csv", None, "1h"),
        ("report_1h.csv", None, "1h"),
        ("data.csv", None, None),
        ("1h.csv", None, "1h"),
    ],
)
def test_a_file_name_says_symbol_and_timeframe_or_nothing(name: str, symbol: str | None, timeframe: str | None) -> None:
    assert (symbol_in_file_name(name), timeframe_in_file_name(name)) == (symbol, timeframe)


@pytest.mark.parametrize(
    ("text", "symbol"),
    [
        ("BTC/USDT", "BTCUSDT"),
        (" btc-usdt ", "BTCUSDT"),
        ("BTC / USDT", "BTCUSDT"),
        ("BTC/USDT:USDT", "BTCUSDT:USDT"),
        ("BTCUSD_PERP", "BTCUSD_PERP"),
        ("", None),
        (" / ", None),
        ("BTC/USDT:", None),
        ("null", None),
        ("BTC\x00USDT", None),
    ],
)
def test_symbols_are_written_one_way(text: str, symbol: str | None) -> None:
    assert normalize_symbol(text) == symbol


def test_the_whole_market_has_no_candles() -> None:
    with pytest.raises(InputFileError, match=r"symbol '\*' is the whole market, which only signals have"):
        read(bars(), symbol="*")
    with pytest.raises(InputFileError, match="the file name does not say; give --symbol"):
        read(bars(), name="*_1h.csv")
    content = bars(header="timestamp,open,high,low,close,volume,symbol", extra=",A").replace(",2,A", ",2,*")
    file = read(content, name="BTCUSDT_1h.csv")
    assert [(series.symbol, len(series.volume)) for series in file.series] == [("A", 3)]
    assert file.rejects.table.column("detail").to_pylist() == ["column 'symbol': '*'"]
    market = read(content.replace(",A", ",*"), name="BTCUSDT_1h.csv", timeframe="1h")
    assert (market.series, market.rejects.counts) == ((), {"unparsable": 4})


def test_1h_in_capitals_is_an_hour_and_1m_in_capitals_is_no_minute() -> None:
    assert [normalize_timeframe(text) for text in ("1h", "1H", " 1d ", "1M", "1m", "7m", "")] == [
        "1h", "1h", "1d", None, "1m", None, None,
    ]  # fmt: skip


def test_arguments_come_before_columns_and_columns_before_the_name() -> None:
    header = "timestamp,open,high,low,close,volume,symbol,timeframe"
    with_columns = bars(header=header, extra=",ETHUSDT,1h")
    assert read(with_columns, name="BTCUSDT_5m.csv").series[0].symbol == "ETHUSDT"
    assert read(bars(), name="BTCUSDT_1h.csv", symbol="sol/usdt", timeframe="1H").series[0].symbol == "SOLUSDT"
    assert read(with_columns, symbol="ETH/USDT", timeframe="1h").series[0].symbol == "ETHUSDT"
    blank = bars(header=header, extra=", ,")
    assert read(blank, name="BTCUSDT_1h.csv").series[0].symbol == "BTCUSDT"


def test_an_argument_that_contradicts_a_column_is_an_error_naming_both() -> None:
    content = bars(header="timestamp,open,high,low,close,volume,ticker,interval", extra=",ETHUSDT,1h")
    with pytest.raises(InputFileError, match="--symbol says BTCUSDT, column 'ticker' says ETHUSDT"):
        read(content, symbol="BTCUSDT")
    with pytest.raises(InputFileError, match="--timeframe says 5m, column 'interval' says 1h"):
        read(content, timeframe="5m")
    perpetual = bars(header="timestamp,open,high,low,close,volume,symbol", extra=",BTC/USDT:USDT")
    with pytest.raises(InputFileError, match="--symbol says BTCUSDT, column 'symbol' says BTCUSDT:USDT"):
        read(perpetual, symbol="BTCUSDT")


def test_a_symbol_that_nothing_names_is_asked_for() -> None:
    with pytest.raises(InputFileError, match="-: no symbol column, and the file name does not say; give --symbol"):
        read(bars())
    with pytest.raises(InputFileError, match="column 'symbol' is blank, and the file name does not say"):
        read(bars(header="timestamp,open,high,low,close,volume,symbol", extra=","))
    with pytest.raises(InputFileError, match="symbol '/' is not a symbol"):
        read(bars(), symbol="/")


def test_one_file_may_hold_several_symbols_and_timeframes() -> None:
    header = "timestamp,open,high,low,close,volume,symbol,timeframe"
    content = bars(header=header, extra=",ETHUSDT,1h") + "".join(
        bars(step=step, extra=extra).split("\n", 1)[1]
        for step, extra in [(300, ",BTCUSDT,5m"), (3600, ",BTCUSDT,1h"), (3600, ",BTC/USDT:USDT,1h")]
    )
    file = read(content)
    assert [(one.symbol, one.timeframe, len(one)) for one in file.series] == [
        ("BTCUSDT", "5m", 4),
        ("BTCUSDT", "1h", 4),
        ("BTCUSDT:USDT", "1h", 4),
        ("ETHUSDT", "1h", 4),
    ]


def test_rows_without_a_usable_symbol_or_timeframe_are_refused() -> None:
    header = "timestamp,open,high,low,close,volume,symbol,interval"
    content = (
        bars(header=header, extra=",BTCUSDT,1h") + "1609480800,10,12,9,11,5,,1h\n1609484400,10,12,9,11,5,BTCUSDT,1M\n"
    )
    rejects = read(content).rejects
    assert rejects.counts == {"unparsable": 2}
    assert rejects.table.column("detail").to_pylist() == [
        "column 'symbol': blank, column 'interval': '1h'",
        "column 'symbol': 'BTCUSDT', column 'interval': '1M'",
    ]


def test_an_unknown_timeframe_lists_the_known_ones() -> None:
    with pytest.raises(InputFileError, match="timeframe '7m' does not exist; timeframes: 1m 3m"):
        read(bars(), symbol="A", timeframe="7m")
    with pytest.raises(InputFileError, match=r"timeframe '1M' does not exist \(M is month, m is minute\)"):
        read(bars(), symbol="A", timeframe="1M")
    with pytest.raises(InputFileError, match=r"timeframe '1M' does not exist .* if the file name is wrong"):
        read(bars(), name="BTCUSDT_1M.csv")
    with pytest.raises(InputFileError, match="column 'interval': timeframe '1M' does not exist"):
        read(bars(header="timestamp,open,high,low,close,volume,interval", extra=",1M"), symbol="A")


@pytest.mark.parametrize(("step", "timeframe"), [(60, "1m"), (3600, "1h"), (86400, "1d"), (3 * 86400, "3d")])
def test_the_spacing_tells_the_timeframe_when_nothing_names_it(step: int, timeframe: str) -> None:
    assert read(bars(step=step), symbol="A").series[0].timeframe == timeframe


def test_a_spacing_that_tells_no_timeframe_asks_for_it() -> None:
    with pytest.raises(InputFileError, match=r"too few rows to tell the timeframe .* give --timeframe"):
        read(bars(count=2), symbol="A")
    with pytest.raises(InputFileError, match="rows are 0:01:30 apart, which is no timeframe; give --timeframe"):
        read(bars(step=90), symbol="A")


def test_a_timeframe_that_contradicts_the_spacing_is_an_error_naming_both() -> None:
    with pytest.raises(InputFileError, match="rows are 1h apart, not 1m; give --timeframe 1h"):
        read(bars(), symbol="A", timeframe="1m")
    with pytest.raises(InputFileError, match="rows are 1m apart, not 1h"):
        read(bars(step=60), name="BTCUSDT_1h.csv")
    assert len(read(bars(count=1), symbol="A", timeframe="1m").series[0]) == 1
