"""Files of order books: layouts and levels by header, which rows are refused and why, one row an instant."""

from __future__ import annotations

import io
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from featurectl.core.ticks import Series, TickFile, read_order_book
from featurectl.core.ticks.columns import symbol_in_file_name
from featurectl.errors import InputFileError

NOW = datetime(2024, 9, 1, tzinfo=UTC)
MS = 1723161254000  # 2024-08-08T23:54:14Z
HEADER = "time_ms,symbol,bid,bid_size,ask,ask_size"


def read(content: bytes | str, name: str = "-", **options: Any) -> TickFile:
    data = content.encode() if isinstance(content, str) else content
    arguments = {"symbol": None, "now": NOW, **options}
    return read_order_book(io.BytesIO(data), name=name, **arguments)


def lines(*rows: str, header: str = HEADER) -> str:
    return "\n".join([header, *rows]) + "\n"


def rows(series: Series) -> list[tuple[float, ...]]:
    """The rows of a series as (milliseconds, bid, bid_size, ask, ask_size)."""
    columns = [series.columns[name] for name in ("bid", "bid_size", "ask", "ask_size")]
    return list(zip((series.columns["time"] // 1000 - MS).tolist(), *(one.tolist() for one in columns), strict=True))


QUOTE = [(0, 10.0, 1.5, 11.0, 2.5)]


@pytest.mark.parametrize(
    ("layout", "header", "row"),
    [
        ("generic", HEADER, f"{MS},BTCUSDT,10,1.5,11,2.5"),
        ("generic", "Timestamp,Bid Price,Bid Qty,Ask Price,Ask Qty", "2024-08-08T23:54:14Z,10,1.5,11,2.5"),
        ("generic", "datetime;ask_amount;ask;bid_amount;bid", "2024-08-08 23:54:14;2.5;11;1.5;10"),
        (
            "binance book ticker",
            "update_id,best_bid_price,best_bid_qty,best_ask_price,best_ask_qty,transaction_time,event_time",
            f"7,10,1.5,11,2.5,{MS},{MS + 4}",
        ),
        (
            "tardis quotes",
            "exchange,symbol,timestamp,local_timestamp,ask_amount,ask_price,bid_price,bid_amount",
            f"binance,btcusdt,{MS}000,{MS}123,2.5,11,10,1.5",
        ),
        (
            "tardis book snapshot",
            "exchange,symbol,timestamp,local_timestamp,asks[0].price,asks[0].amount,bids[0].price,bids[0].amount,"
            "asks[1].price,asks[1].amount,bids[1].price,bids[1].amount",
            f"binance,BTCUSDT,{MS}000,{MS}123,11,2.5,10,1.5,12,7,9,8",
        ),
        (
            "levels",
            "time,bid_price_1,bid_size_1,bid_price_2,bid_size_2,ask_price_1,ask_size_1,ask_price_2,ask_size_2",
            f"{MS},10,1.5,9,8,11,2.5,12,7",
        ),
        ("generic", "unix,bid1_price,bid1_qty,ask1_price,ask1_qty", f"{MS / 1000},10,1.5,11,2.5"),
    ],
)
def test_layouts_are_told_by_the_header(layout: str, header: str, row: str) -> None:
    file = read(lines(row, header=header), name="data/BTCUSDT-bookTicker-2024-08-08.csv.gz")
    (series,) = file.series
    assert (file.layout, file.rows_read, len(file.rejects), file.warnings) == (layout, 1, 0, ())
    assert series.key == {"symbol": "BTCUSDT"}
    assert list(series.columns) == ["time", "bid", "bid_size", "ask", "ask_size"]
    assert series.columns["time"].dtype == np.int64
    assert rows(series) == QUOTE


SNAPSHOT = "time,symbol," + ",".join(
    f"{side}s[{level}].{what}" for level in range(3) for side in ("ask", "bid") for what in ("price", "amount")
)


def test_sizes_are_summed_over_levels_and_prices_are_those_of_the_best() -> None:
    content = lines(f"{MS},A,11,2.5,10,1.5,12,7,9,8,13,100,8,200", header=SNAPSHOT)
    assert rows(read(content).series[0]) == QUOTE
    assert rows(read(content, levels=2).series[0]) == [(0, 10, 9.5, 11, 9.5)]
    assert rows(read(content, levels=3).series[0]) == [(0, 10, 209.5, 11, 109.5)]
    with pytest.raises(InputFileError, match=r"has 3 levels, --levels asks for 4; give --levels 3"):
        read(content, levels=4)
    with pytest.raises(InputFileError, match=r"has only the best level, --levels asks for 2; give --levels 1"):
        read(lines(f"{MS},BTCUSDT,10,1.5,11,2.5"), levels=2)


def test_levels_that_a_thin_book_lacks_hold_nothing_but_nonsense_in_them_is_refused() -> None:
    content = lines(
        f"{MS},A,11,2.5,10,1.5,,,9,8,,,,",
        f"{MS + 1},A,11,2.5,10,1.5,12,x,9,8,,,,",
        f"{MS + 2},A,11,2.5,10,1.5,12,-1,9,8,,,,",
        f"{MS + 3},A,11,,10,1.5,12,1,9,8,,,,",
        header=SNAPSHOT,
    )
    file = read(content, levels=3)
    assert rows(file.series[0]) == [(0, 10, 9.5, 11, 2.5)]
    assert file.rejects.table.column("detail").to_pylist() == [
        "column 'asks[1].amount': 'x'",
        "column 'asks[1].amount': '-1'",
        "column 'asks[0].amount': blank",
    ]
    # Levels that are not summed up are not looked at.
    assert len(read(content, levels=1).series[0]) == 3


@pytest.mark.parametrize(
    ("row", "reason", "detail"),
    [
        ("yesterday,A,10,1,11,1", "unparsable", "column 'time_ms': 'yesterday'"),
        (",A,10,1,11,1", "unparsable", "column 'time_ms': blank"),
        (f"{MS},,10,1,11,1", "unparsable", "column 'symbol': blank"),
        (f"{MS},*,10,1,11,1", "unparsable", "column 'symbol': '*'"),
        (f"{MS},A,ten,1,11,1", "unparsable", "column 'bid': 'ten'"),
        (f"{MS},A,10,1,11,1 BTC", "unparsable", "column 'ask_size': '1 BTC'"),
        (f"{MS},A,10,1,11", "wrong number of fields", "5 fields, not 6"),
        (f"{MS},A,nan,1,11,1", "non-finite", "column 'bid': 'nan'"),
        (f"{MS},A,10,1,inf,1", "non-finite", "column 'ask': 'inf'"),
        (f"{MS},A,10,,11,1", "non-finite", "column 'bid_size': blank"),
        (f"{MS},A,0,1,11,1", "negative or zero price", "column 'bid': '0'"),
        (f"{MS},A,-10,1,-9,1", "negative or zero price", "column 'bid': '-10'"),
        (f"{MS},A,10,1,11,-1", "negative size", "column 'ask_size': '-1'"),
        (f"{MS},A,12,1,11,1", "crossed book", "column 'bid': '12', column 'ask': '11'"),
        (f"{MS},A,11,1,11.0,1", "locked book", "column 'bid': '11', column 'ask': '11.0'"),
        ("899999999,A,10,1,11,1", "time out of range", "read as 1998-07-09T15:59:59Z"),
        ("1725148800001,A,10,1,11,1", "time out of range", "read as 2024-09-01T00:00:00.001000Z"),
    ],
)
def test_a_row_is_refused_with_its_reason(row: str, reason: str, detail: str) -> None:
    file = read(lines(f"{MS},A,10,1,11,1", row))
    assert file.rejects.counts == {reason: 1} == file.faults
    assert file.rejects.table.column("row").to_pylist() == [2]
    assert file.rejects.table.column("detail").to_pylist() == [detail]
    assert file.rejects.table.column_names == ["row", "reason", "detail", *HEADER.split(",")]
    assert (file.rows_read, len(file.series[0])) == (2, 1)


def test_a_book_may_be_empty_and_a_row_may_be_of_this_very_instant() -> None:
    file = read(lines(f"{MS},A,10,0,11,0", "2024-09-01T00:00:00Z,A,10,1,11,1"))
    assert (len(file.series[0]), len(file.rejects)) == (2, 0)


def test_of_several_states_of_an_instant_the_last_counts_and_the_others_are_no_rejects() -> None:
    content = lines(
        f"{MS},A,10,1,11,1", f"{MS},B,20,1,21,1", f"{MS},A,10,2,11,2", f"{MS + 1},A,10,3,11,3", f"{MS},A,12,9,11,9"
    )
    file = read(content)
    assert [rows(series) for series in file.series] == [[(0, 10, 2, 11, 2), (1, 10, 3, 11, 3)], [(0, 20, 1, 21, 1)]]
    assert (file.superseded, file.rejects.counts, file.duplicates) == (1, {"crossed book": 1}, 0)


def test_where_the_newest_is_first_the_first_state_of_an_instant_counts() -> None:
    content = [f"{MS},A,10,1,11,1", f"{MS},A,10,2,11,2", f"{MS + 1},A,10,3,11,3"]
    forward, backward = read(lines(*content)), read(lines(*content[::-1]))
    assert rows(forward.series[0]) == rows(backward.series[0]) == [(0, 10, 2, 11, 2), (1, 10, 3, 11, 3)]
    assert forward.superseded == backward.superseded == 1


def test_each_symbol_of_a_file_has_an_order_of_its_own() -> None:
    falling = ["1,A,10,3,11,3", "0,A,10,2,11,2", "0,A,10,1,11,1", "1,B,20,3,21,3", "0,B,20,2,21,2", "0,B,20,1,21,1"]
    instant = ["0,C,30,2,31,2", "0,C,30,1,31,1"]
    rising = ["0,D,40,1,41,1", "0,D,40,2,41,2", "1,D,40,3,41,3"]

    def sizes(content: list[str]) -> dict[str, list[float]]:
        file = read(lines(*(f"{MS + int(row[0])}{row[1:]}" for row in content)))
        assert file.superseded == len(content) - sum(map(len, file.series))
        return {series.key["symbol"]: series.columns["bid_size"].tolist() for series in file.series}

    # A symbol of one instant goes with the others, where those agree; else its last row counts.
    assert sizes([*falling, *instant]) == {"A": [2, 3], "B": [2, 3], "C": [2]}
    assert sizes([*falling, *instant, *rising]) == {"A": [2, 3], "B": [2, 3], "C": [1], "D": [2, 3]}
    assert sizes([*instant, *rising]) == {"C": [1], "D": [2, 3]}


def test_a_row_out_of_order_does_not_turn_the_file_around() -> None:
    file = read(lines(f"{MS + 9},A,10,1,11,1", f"{MS},A,10,1,11,1", f"{MS},A,10,2,11,2", f"{MS + 1},A,10,3,11,3"))
    assert rows(file.series[0]) == [(0, 10, 2, 11, 2), (1, 10, 3, 11, 3), (9, 10, 1, 11, 1)]


def test_units_of_time_are_told_row_by_row() -> None:
    file = read(lines(f"{MS // 1000},A,10,1,11,1", f"{MS + 1},A,10,1,11,1", f"{MS + 2}000000,A,10,1,11,1"))
    assert [row[0] for row in rows(file.series[0])] == [0, 1, 2]


def test_the_epoch_is_used_where_a_readable_time_disagrees() -> None:
    header = "datetime,timestamp,bid,bid_size,ask,ask_size"
    content = lines(
        f"2024-08-08T23:54:14.000Z,{MS},10,1,11,1", f"2024-08-08T19:54:14.500Z,{MS + 500},10,1,11,1", header=header
    )
    file = read(content, symbol="A")
    assert [row[0] for row in rows(file.series[0])] == [0, 500]
    # Whichever of them comes first in the order of preference.
    swapped = read(content.replace("datetime,timestamp", "timestamp,time_ms"), symbol="A")
    assert [row[0] for row in rows(swapped.series[0])] == [0, 500]
    assert swapped.warnings == ("1 row: `timestamp` and `time_ms` disagree; `time_ms` was used",)
    blank = read(content.replace("2024-08-08T19:54:14.500Z", ""), symbol="A")
    assert blank.warnings == ()
    assert file.warnings == ("1 row: `datetime` and `timestamp` disagree; `timestamp` was used",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lines("1,2,3", header="time,bid,ask"), "columns not recognized: time, bid, ask; needed: a time column"),
        (lines("1,2,3,4", header="bid,bid_size,ask,ask_size"), "columns not recognized"),
        (lines("1,2,3,4,5,6", header="time,bid,bid,bid_size,ask,ask_size"), "column 'bid' is there 2 times"),
        (f"{MS},A,10,1,11,1\n", "has no header row; add one: a time column"),
        (lines(), "has a header but no rows"),
        (lines(f"{MS},,10,1,11,1"), "column 'symbol' is blank, and the file name does not say; give --symbol"),
        (lines(f"{MS},10,1,11,1", header="time,bid,bid_size,ask,ask_size"), "no symbol column"),
    ],
)
def test_a_file_that_can_not_be_used_says_why(content: str, message: str) -> None:
    with pytest.raises(InputFileError, match=message):
        read(content)


def test_the_symbol_comes_from_the_option_the_column_or_the_name() -> None:
    plain = lines(f"{MS},10,1,11,1", header="time,bid,bid_size,ask,ask_size")
    assert read(plain, symbol="btc/usdt").series[0].key == {"symbol": "BTCUSDT"}
    assert read(plain, name="x/ETHUSDT_book_ticker.csv.gz").series[0].key == {"symbol": "ETHUSDT"}
    both = lines(f"{MS},A,10,1,11,1", f"{MS},B/C,10,1,11,1")
    assert [series.key for series in read(both).series] == [{"symbol": "A"}, {"symbol": "BC"}]
    with pytest.raises(InputFileError, match="--symbol says A, column 'symbol' says BC"):
        read(both, symbol="A")


def test_the_whole_market_has_no_order_book() -> None:
    market = lines(f"{MS},*,10,1,11,1")
    # Neither the option nor the file's name gives rows of the market to one symbol.
    file = read(market, name="BTCUSDT_book_ticker.csv")
    assert (file.series, file.rejects.counts) == ((), {"unparsable": 1})
    with pytest.raises(InputFileError, match=r"--symbol says A, column 'symbol' says \*"):
        read(market, symbol="A")
    for symbol in ("*", " */ "):
        with pytest.raises(InputFileError, match=r"symbol '\*' is the whole market, which only signals have; name one"):
            read(market, symbol=symbol)
    with pytest.raises(InputFileError, match="the file name does not say; give --symbol"):
        read(lines(f"{MS},10,1,11,1", header="time,bid,bid_size,ask,ask_size"), name="*_book_ticker.csv")


@pytest.mark.parametrize(
    ("name", "symbol"),
    [
        ("BTCUSDT-bookTicker-2024-08-08.zip", "BTCUSDT"),
        ("data/BTCUSDT-aggTrades-2024-08.csv", "BTCUSDT"),
        ("BTCUSDT-trades-2024-08-08.csv.gz", "BTCUSDT"),
        ("binance-futures_book_snapshot_25_2024-08-08_BTCUSDT.csv.gz", "BTCUSDT"),
        ("BTCUSDT_210625-trades-2021-06-25.csv", "BTCUSDT_210625"),
        ("eth-usdt trades.csv", "ETHUSDT"),
        ("ethusdt.parquet", "ETHUSDT"),
        ("trades.csv", None),
        ("my trades 20240808.csv", None),
        ("BTCUSDT_ETHUSDT_SOLUSDT_trades.csv", None),
    ],
)
def test_file_names_say_the_symbol(name: str, symbol: str | None) -> None:
    assert symbol_in_file_name(name) == symbol


def test_parquet_is_read_by_its_types() -> None:
    table = pa.table(
        {
            "time": pa.array([MS, MS, None], pa.timestamp("ms", "Asia/Kolkata")),
            "symbol": pa.array(["A", "A", "A"]).dictionary_encode(),
            "bid": [10.0, 10.0, 10.0],
            "bid_size": pa.array([1, 2, 3], pa.int32()),
            "ask": [11.0, 11.0, 11.0],
            "ask_size": [1.0, 2.0, None],
        }
    )
    target = io.BytesIO()
    pq.write_table(table, target)
    file = read(target.getvalue())
    assert rows(file.series[0]) == [(0, 10, 2, 11, 2)]
    assert (file.superseded, file.rejects.counts) == (1, {"unparsable": 1})


def test_a_file_of_bad_rows_only_gives_no_series() -> None:
    file = read(lines("1,2", "3"), symbol="A")
    assert (file.series, file.rows_read, file.rejects.counts) == ((), 2, {"wrong number of fields": 2})


def test_the_order_of_rows_and_repetitions_change_nothing() -> None:
    seed = int(np.random.SeedSequence().generate_state(1)[0])
    print(f"seed {seed}")
    random = np.random.default_rng(seed)
    content = [
        f"{MS + int(at)},{symbol},{bid:.8f},{size:.8f},{bid + 1:.8f},{size:.8f}"
        for symbol in ("A", "B", "C")
        for at, bid, size in zip(
            random.choice(5000, 300, replace=False), random.uniform(1, 9, 300), random.gamma(1, 1, 300), strict=True
        )
    ]
    wanted = read(lines(*content))
    again = [*content, *random.choice(content, 200)]
    found = read(lines(*random.permutation(again)))
    assert [rows(series) for series in found.series] == [rows(series) for series in wanted.series]
    assert [series.key for series in found.series] == [{"symbol": symbol} for symbol in "ABC"]
    assert found.superseded == 200
    for series in found.series:
        assert np.all(np.diff(series.columns["time"]) > 0)
