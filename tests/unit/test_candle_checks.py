"""Which rows are refused and why, what is counted, and that order and units do not matter."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featurectl.core.candles import CandleFile, Gap, read_candles
from featurectl.core.tabular.times import show_time

NOW = datetime(2024, 1, 1, tzinfo=UTC)
HEADER = "date,open,high,low,close,volume,quote_volume,count"
START = datetime(2021, 1, 4, tzinfo=UTC)  # a Monday


def read(lines: list[str], timeframe: str | None = "1h", **options: object) -> CandleFile:
    content = "\n".join([HEADER, *lines]).encode()
    arguments = {"symbol": "BTCUSDT", "timeframe": timeframe, "closed_before": NOW, **options}
    return read_candles(io.BytesIO(content), name="-", **arguments)


def bar(
    hour: float, open: object = 10, high: object = 12, low: object = 9, close: object = 11, volume: object = 5,
    quote: object = 50, count: object = 7,
) -> str:  # fmt: skip
    return f"{(START + timedelta(hours=hour)).isoformat()},{open},{high},{low},{close},{volume},{quote},{count}"


@pytest.mark.parametrize(
    ("line", "reason", "detail"),
    [
        ("yesterday,10,12,9,11,5,50,7", "unparsable", "column 'date': 'yesterday'"),
        ("now,10,12,9,11,5,50,7", "unparsable", "column 'date': 'now'"),
        ("2021-02-29,10,12,9,11,5,50,7", "unparsable", "column 'date': '2021-02-29'"),
        (",10,12,9,11,5,50,7", "unparsable", "column 'date': blank"),
        (bar(9, open="1.2.3"), "unparsable", "column 'open': '1.2.3'"),
        (bar(9, close="1_000"), "unparsable", "column 'close': '1_000'"),
        (bar(9, volume="much"), "unparsable", "column 'volume': 'much'"),
        (bar(9, count="seven"), "unparsable", "column 'count': 'seven'"),
        ("1,2,3", "wrong number of fields", "3 fields, not 8"),
        (bar(9, open="nan"), "non-finite", "column 'open': 'nan'"),
        (bar(9, high="inf"), "non-finite", "column 'high': 'inf'"),
        (bar(9, low="-Infinity"), "non-finite", "column 'low': '-Infinity'"),
        (bar(9, close=""), "non-finite", "column 'close': blank"),
        (bar(9, high="1e400"), "non-finite", "column 'high': '1e400'"),
        (bar(9, volume=""), "non-finite", "column 'volume': blank"),
        (bar(9, quote="inf"), "non-finite", "column 'quote_volume': 'inf'"),
        (bar(9, high=10.5), "high below open or close",
         "column 'high': '10.5', column 'open': '10', column 'close': '11'"),
        (bar(9, low=10.5), "low above open or close",
         "column 'low': '10.5', column 'open': '10', column 'close': '11'"),
        (bar(9, volume=-1), "negative volume", "column 'volume': '-1'"),
        (bar(9, quote=-1), "negative volume", "column 'quote_volume': '-1'"),
        (bar(9, open=0), "negative or zero price", "column 'open': '0'"),
        (bar(9, low=-3), "negative or zero price", "column 'low': '-3'"),
        (bar(9.5), "off-grid time", "no 1h bar opens at 2021-01-04T09:30:00Z"),
        ("19990101,10,12,9,11,5,50,7", "time out of range", "read as 1970-08-20T08:48:21Z"),
        ("2034-01-01,10,12,9,11,5,50,7", "time out of range", "read as 2034-01-01T00:00:00Z"),
        ("1999-12-31,10,12,9,11,5,50,7", "time out of range", "read as 1999-12-31T00:00:00Z"),
        ("-99999999999,10,12,9,11,5,50,7", "time out of range", "read as -99999999999000000 microseconds since 1970"),
        ("2024-01-01,10,12,9,11,5,50,7", "open", "closes at 2024-01-01T01:00:00Z"),
        ("2023-12-31T23:00:01,10,12,9,11,5,50,7", "off-grid time", "no 1h bar opens at 2023-12-31T23:00:01Z"),
        (bar(1, close=11.5), "duplicate, disagrees", "row 3 kept"),
        (bar(1, count=8), "duplicate, disagrees", "row 3 kept"),
        (bar(1, quote=""), "duplicate, disagrees", "row 3 kept"),
    ],
)  # fmt: skip
def test_a_bad_row_is_refused_with_its_reason_and_spoils_no_other(line: str, reason: str, detail: str) -> None:
    file = read([line, bar(0), bar(1), bar(2)])
    assert file.rejects.counts == {reason: 1}
    (row,) = file.rejects.table.to_pylist()
    assert (row["row"], row["reason"], row["detail"]) == (1, reason, detail)
    assert row["date"] == line.split(",")[0]
    assert file.open_bars == (reason == "open")
    assert (file.rows_read, len(file.series[0])) == (4, 3)


def test_a_bar_that_closes_at_the_very_instant_is_closed() -> None:
    file = read(["2023-12-31T22:00,10,12,9,11,5,50,7", "2023-12-31T23:00,10,12,9,11,5,50,7"])
    assert (len(file.series[0]), file.open_bars) == (2, 0)


@pytest.mark.parametrize("blank", ["", "NULL", "nan", "None", " "])
def test_blank_quote_volume_and_trade_count_are_nan_and_no_fault(blank: str) -> None:
    file = read([bar(0, quote=blank, count=blank), bar(1)])
    assert len(file.rejects) == 0
    np.testing.assert_array_equal(file.series[0].quote_volume, [np.nan, 50])
    np.testing.assert_array_equal(file.series[0].trade_count, [np.nan, 7])


def test_identical_duplicates_are_only_counted_and_the_later_of_two_that_disagree_is_kept() -> None:
    file = read(
        [bar(0, close=10.1), bar(1, count=""), bar(0, close=10.2), bar(1, count=""), bar(0, close=10.2), bar(2)]
    )
    assert file.identical_duplicates == 2
    assert file.rejects.table.select(["row", "detail"]).to_pylist() == [{"row": 1, "detail": "row 5 kept"}]
    assert file.series[0].close.tolist() == [10.2, 11, 11]


@pytest.mark.parametrize(
    ("timeframe", "days", "refused"),
    [
        ("1w", [0, 7, 14, 15], 1),
        ("1w", [1, 8, 15], 3),
        ("3d", [0, 3, 6, 9], 0),
        ("3d", [1, 4, 7, 10], 0),
        ("3d", [2, 5, 8, 9, 11], 1),
        ("3d", [0.5, 3.5, 6.5], 3),
        ("1d", [0, 1, 2, 2.5], 1),
    ],
)
def test_weeks_start_on_mondays_and_three_days_at_any_one_phase(
    timeframe: str, days: list[float], refused: int
) -> None:
    assert read([bar(day * 24) for day in days], timeframe).rejects.counts.get("off-grid time", 0) == refused


def test_gaps_name_the_first_missing_bar_and_their_length() -> None:
    (series,) = read([bar(hour) for hour in (0, 1, 2, 4, 5, 9)]).series
    assert series.gaps == (Gap(START + timedelta(hours=3), 1), Gap(START + timedelta(hours=6), 3))
    assert series.missing_bars == 4


def test_drop_last_leaves_out_the_newest_bar_whatever_the_order_of_the_rows() -> None:
    file = read([bar(2), bar(0), bar(1)], drop_last=True)
    assert (len(file.series[0]), file.dropped_last, len(file.rejects)) == (2, 1, 0)
    assert show_time(int(file.series[0].open_time[-1])) == "2021-01-04T01:00:00Z"


def test_drop_last_takes_no_closed_bar_where_the_newest_one_was_refused_as_open() -> None:
    file = read([bar(0), bar(1), bar(2)], drop_last=True, closed_before=START + timedelta(hours=2, minutes=5))
    assert (len(file.series[0]), file.dropped_last, file.open_bars) == (2, 0, 1)


def test_dropping_the_only_bar_leaves_no_series() -> None:
    file = read([bar(0)], drop_last=True)
    assert (file.series, file.dropped_last) == ((), 1)


def test_a_newest_bar_with_little_volume_is_hinted_at() -> None:
    usual = [bar(hour, volume=100) for hour in range(24)]
    hint = "the newest bar (BTCUSDT 1h 2021-01-05T00:00:00Z) looks unfinished; --drop-last leaves it out"
    assert read([*usual, bar(24, volume=24)]).warnings == (hint,)
    assert read([*usual, bar(24, volume=25)]).warnings == ()
    assert read([*usual, bar(24, volume=24)], drop_last=True).warnings == ()
    assert read([*usual[1:], bar(24, volume=24)]).warnings == ()
    # A bar after it was refused as open, so this one is finished.
    closed = START + timedelta(hours=25)
    assert read([*usual, bar(24, volume=24), bar(25)], closed_before=closed).warnings == ()


@pytest.mark.parametrize(
    "text",
    [
        "1609754400", "1609754400.0", "1.6097544e9", "1609754400000", "1609754400000.0", "1609754400000000",
        "1609754400000000000", " 1609754400 ", "2021-01-04 10:00:00", "2021-01-04T10:00:00Z", "2021-01-04 10:00",
        "2021-01-04T10:00:00.000000", "2021-01-04T10:00:00.000000000+00:00", "2021-01-04T12:00:00+02:00",
        "2021-01-04 04:30:00-0530", "2021-01-04 10:00:00 UTC", "2021/01/04 10:00:00", "2021-01-04 10-AM",
    ],
)  # fmt: skip
def test_every_way_to_write_a_time_is_understood_even_beside_others(text: str) -> None:
    file = read([bar(9), f"{text},10,12,9,11,5,50,7", bar(11)])
    assert len(file.rejects) == 0
    assert show_time(int(file.series[0].open_time[1])) == "2021-01-04T10:00:00Z"


def test_noon_and_midnight_on_the_twelve_hour_clock() -> None:
    lines = [f"2021-01-04 {hour},10,12,9,11,5,50,7" for hour in ("12-AM", "01-AM", "12-PM", "01-PM")]
    times = read(lines).series[0].open_time
    assert [show_time(int(time))[11:13] for time in times] == ["00", "01", "12", "13"]
    assert read(["2021-01-04 13-PM,10,12,9,11,5,50,7"]).rejects.counts == {"unparsable": 1}


WRITERS = [
    lambda time: str(int(time.timestamp())),
    lambda time: f"{time.timestamp():.1f}",
    lambda time: str(int(time.timestamp()) * 1000),
    lambda time: str(int(time.timestamp()) * 10**6),
    lambda time: str(int(time.timestamp()) * 10**9),
    lambda time: time.isoformat(),
    lambda time: time.strftime("%Y-%m-%d %H:%M:%S"),
    lambda time: time.strftime("%Y-%m-%d %I-%p"),
]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.data(), st.lists(st.integers(0, 500), min_size=30, max_size=60, unique=True))
def test_the_order_of_rows_and_the_unit_of_each_time_do_not_matter(data: st.DataObject, offsets: list[int]) -> None:
    hours = sorted({*offsets, *range(200, 240)})
    rows = [(START + timedelta(hours=hour), f"{10 + hour},{700 + hour},9,{11 + hour},{hour},,{hour}") for hour in hours]
    plain = read([f"{time.isoformat()},{rest}" for time, rest in rows])
    shuffled = data.draw(st.permutations(rows))
    writers = data.draw(st.lists(st.sampled_from(WRITERS), min_size=len(rows), max_size=len(rows)))
    mixed = read([f"{write(time)},{rest}" for write, (time, rest) in zip(writers, shuffled, strict=True)])
    assert (mixed.rejects.counts, mixed.warnings) == (plain.rejects.counts, plain.warnings)
    for field in ("open_time", "open", "high", "low", "close", "volume", "quote_volume", "trade_count"):
        np.testing.assert_array_equal(getattr(mixed.series[0], field), getattr(plain.series[0], field))
    assert mixed.series[0].gaps == plain.series[0].gaps


REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "candles"
needs_real_files = pytest.mark.skipif(not REAL.is_dir(), reason=f"the real market data is not at {REAL}")


def read_real(file_name: str) -> CandleFile:
    return read_candles(REAL / file_name, name=file_name, symbol=None, timeframe=None, closed_before=NOW)


@needs_real_files
@pytest.mark.parametrize(
    ("coin", "rows"), [("BTC", 23988), ("ETH", 23989), ("SOL", 23988), ("BNB", 23988), ("XRP", 23988)]
)
def test_the_real_binance_files_hold_the_five_outages(coin: str, rows: int) -> None:
    file = read_real(f"{coin}USDT_1h.csv.gz")
    (series,) = file.series
    assert (file.rows_read, len(series), len(file.rejects)) == (rows, rows, 0)
    assert (series.symbol, series.timeframe, series.missing_bars, len(series.gaps)) == (f"{coin}USDT", "1h", 12, 5)
    # The last row is the bar still open at download; BTC was downloaded late in its hour.
    assert any("looks unfinished" in warning for warning in file.warnings) == (coin != "BTC")


@needs_real_files
def test_the_real_cryptodatadownload_file_gives_its_documented_faults() -> None:
    file = read_real("cryptodatadownload_BTCUSDT_1h.csv.gz")
    (series,) = file.series
    assert (file.layout, file.rows_read, len(series)) == ("cryptodatadownload", 36062, 36062 - 2649)
    assert file.rejects.counts == {"duplicate, disagrees": 2649}
    assert file.warnings[0] == "91 rows: `date` and `unix` disagree; `unix` was used"
    refused = file.rejects.table
    times = refused.column("unix").cast("int64").to_numpy() * 1000
    kept = series.open[np.searchsorted(series.open_time, times)]
    # The kept block is rounded to cents; beyond that, 490 opens say something else.
    assert np.count_nonzero(np.abs(refused.column("open").cast("double").to_numpy() - kept) > 0.0101) == 490
