"""Files of trades: layouts with and without header, ids, sides, which rows are refused and why."""

from __future__ import annotations

import io
import uuid
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from featurectl.core.ticks import Series, TickFile, read_trades
from featurectl.errors import InputFileError

NOW = datetime(2024, 9, 1, tzinfo=UTC)
MS = 1723161255000
HEADER = "trade_id,time_ms,symbol,price,size,buyer_is_maker"


def read(content: bytes | str, name: str = "-", **options: Any) -> TickFile:
    data = content.encode() if isinstance(content, str) else content
    arguments = {"symbol": None, "now": NOW, **options}
    return read_trades(io.BytesIO(data), name=name, **arguments)


def lines(*rows: str, header: str = HEADER) -> str:
    return "\n".join([header, *rows] if header else rows) + "\n"


def parquet(**columns: Any) -> bytes:
    target = io.BytesIO()
    pq.write_table(pa.table(columns), target)
    return target.getvalue()


def rows(series: Series) -> list[tuple[Any, ...]]:
    """The rows of a series as (milliseconds, id, price, size, side)."""
    columns = [series.columns[name] for name in ("trade_id", "price", "size", "side")]
    return list(zip((series.columns["time"] // 1000 - MS).tolist(), *(one.tolist() for one in columns), strict=True))


TRADES = [(0, "7", 10.5, 0.25, "sell"), (5, "8", 10.0, 0.5, "buy")]


@pytest.mark.parametrize(
    ("layout", "header", "content"),
    [
        ("generic", HEADER, [f"7,{MS},BTCUSDT,10.5,0.25,True", f"8,{MS + 5},BTCUSDT,10,0.5,False"]),
        ("generic", "Id,Time,Price,Qty,Side", ["7,2024-08-08T23:54:15Z,10.5,0.25,SELL", f"8,{MS + 5},10,.5,buy"]),
        (
            "binance trades",
            "id,price,qty,quote_qty,time,is_buyer_maker",
            [f"7,10.5,0.25,2.6,{MS},true", f"8,10,0.5,5,{MS + 5},false"],
        ),
        ("binance trades", "", [f"7,10.5,0.25,2.6,{MS},True,True", f"8,10,0.5,5,{MS + 5},False,True"]),
        ("binance trades", "", [f"7,10.5,0.25,2.6,{MS}000,true", f"8,10,0.5,5,{MS + 5}000,false"]),
        (
            "binance aggTrades",
            "agg_trade_id,price,quantity,first_trade_id,last_trade_id,transact_time,is_buyer_maker",
            [f"7,10.5,0.25,1,2,{MS},true", f"8,10,0.5,3,3,{MS + 5},false"],
        ),
        ("binance aggTrades", "", [f"7,10.5,0.25,1,2,{MS},True,True", f"8,10,0.5,3,3,{MS + 5},False,True"]),
        ("binance aggTrades", "", [f"7,10.5,0.25,1,2,{MS},true", f"8,10,0.5,3,3,{MS + 5},false"]),
        (
            "ccxt",
            "id,timestamp,datetime,symbol,side,price,amount,cost,takerOrMaker",
            [
                f"7,{MS},2024-08-08T23:54:15.000Z,BTC/USDT,sell,10.5,0.25,2.6,",
                f"8,{MS + 5},2024-08-08T23:54:15.005Z,BTC/USDT,buy,10,0.5,5,",
            ],
        ),
        (
            "tardis trades",
            "exchange,symbol,timestamp,local_timestamp,id,side,price,amount",
            [f"binance,BTCUSDT,{MS}000,{MS}900,7,sell,10.5,0.25", f"binance,BTCUSDT,{MS + 5}000,{MS}900,8,buy,10,0.5"],
        ),
    ],
)
def test_layouts_are_told_by_the_header_or_by_the_cells(layout: str, header: str, content: list[str]) -> None:
    file = read(lines(*content, header=header), name="BTCUSDT-trades-2024-08-08.csv")
    (series,) = file.series
    assert (file.layout, file.rows_read, file.rejects.counts, file.warnings) == (layout, 2, {}, ())
    assert series.key == {"symbol": "BTCUSDT"}
    assert rows(series) == TRADES
    assert bool(file.notes) == (layout == "binance aggTrades")


def test_a_damaged_first_row_does_not_hide_a_layout_without_header() -> None:
    content = lines(f"6,x,1,10,{MS},true", f"7,10.5,0.25,2.6,{MS},True", f"8,10,0.5,5,{MS + 5},False", header="")
    file = read(content, symbol="A")
    assert rows(file.series[0]) == TRADES
    assert file.rejects.table.column("detail").to_pylist() == ["column 'price': 'x'"]
    assert file.rejects.table.column_names[3:] == ["id", "price", "qty", "quote_qty", "time", "is_buyer_maker"]


@pytest.mark.parametrize(
    "row", [f"7,10,1,10,{MS},yes", f"7,10,1,10,{MS},1,1", f"7,ten,1,10,{MS},true", f"7,10,1,{MS}", "1,2,3,4,5,6,7,8,9"]
)
def test_cells_that_fit_no_layout_are_refused(row: str) -> None:
    # One row that happens to fit does not make it a layout.
    fitting = {6: f"7,10,1,10,{MS},true", 7: f"7,10,1,10,{MS},true,true"}.get(row.count(",") + 1, row)
    with pytest.raises(InputFileError, match="has no header row, and its columns are not those of binance trades"):
        read(lines(row, fitting, row, header=""), symbol="A")


@pytest.mark.parametrize(
    ("row", "reason", "detail"),
    [
        ("9,never,A,10,1,true", "unparsable", "column 'time_ms': 'never'"),
        (f"9,{MS},NULL,10,1,true", "unparsable", "column 'symbol': 'NULL'"),
        (f"9,{MS},*,10,1,true", "unparsable", "column 'symbol': '*'"),
        (f"9,{MS},A,1O,1,true", "unparsable", "column 'price': '1O'"),
        (f"9,{MS},A,10,few,true", "unparsable", "column 'size': 'few'"),
        (f"9,{MS},A,10,1,buy", "unparsable", "column 'buyer_is_maker': 'buy'"),
        (f"9\x07,{MS},A,10,1,true", "unparsable", "column 'trade_id': '9\x07'"),
        (f"{'9' * 101},{MS},A,10,1,true", "unparsable", f"column 'trade_id': '{'9' * 60}'"),
        (f"9,{MS},A,10,1,true,", "wrong number of fields", "7 fields, not 6"),
        (f",{MS},A,10,1,true", "blank trade id", "column 'trade_id': blank"),
        (f"None,{MS},A,10,1,true", "blank trade id", "column 'trade_id': 'None'"),
        (f"9,{MS},A,,1,true", "non-finite", "column 'price': blank"),
        (f"9,{MS},A,10,-inf,true", "non-finite", "column 'size': '-inf'"),
        (f"9,{MS},A,0.000,1,true", "negative or zero price", "column 'price': '0.000'"),
        (f"9,{MS},A,10,0,true", "negative or zero size", "column 'size': '0'"),
        (f"9,{MS},A,10,-1,true", "negative or zero size", "column 'size': '-1'"),
        ("9,1999-12-31T23:59:59Z,A,10,1,true", "time out of range", "read as 1999-12-31T23:59:59Z"),
        ("9,2024-09-01T00:00:01Z,A,10,1,true", "time out of range", "read as 2024-09-01T00:00:01Z"),
        (f"7,{MS},A,10.5,0.25,true", "duplicate, disagrees", None),
    ],
)
def test_a_row_is_refused_with_its_reason(row: str, reason: str, detail: str | None) -> None:
    file = read(lines(f"7,{MS},A,10,1,true", row))
    assert file.rejects.counts == {reason: 1} == file.faults
    assert file.rejects.table.column("row").to_pylist() == [2 if detail else 1]
    assert file.rejects.table.column("detail").to_pylist() == [detail or "row 2 kept"]
    assert (file.rows_read, len(file.series[0])) == (2, 1)


@pytest.mark.parametrize(
    "other",
    [f"7,{MS + 1},A,10,1,true", f"7,{MS},A,11,1,true", f"7,{MS},A,10,2,true", f"7,{MS},A,10,1,false"],
    ids=["time", "price", "size", "side"],
)
def test_of_rows_with_one_id_that_disagree_the_last_is_kept(other: str) -> None:
    first = f"7,{MS},A,10,1,true"
    file = read(lines(first, f"7,{MS},B,99,1,true", other))
    assert rows(file.series[0]) == rows(read(lines(other)).series[0])
    assert [series.key["symbol"] for series in file.series] == ["A", "B"]
    assert file.rejects.table.select(["row", "reason", "detail"]).to_pylist() == [
        {"row": 1, "reason": "duplicate, disagrees", "detail": "row 3 kept"}
    ]


def test_rows_that_say_the_same_again_are_counted() -> None:
    file = read(lines(f"7,{MS},A,10,1,true", f"7,{MS // 1000},a,1e1,1.0,1", f"8,{MS},A,10,1,true"))
    assert (file.duplicates, file.rejects.counts, len(file.series[0])) == (1, {}, 2)


def test_ids_are_texts_and_sorted_as_numbers_where_they_are_numbers() -> None:
    numbers = read(lines(f"10,{MS},A,1,1,true", f"9,{MS},A,1,1,true", f"1,{MS + 1},A,1,1,true"))
    assert [row[1] for row in rows(numbers.series[0])] == ["9", "10", "1"]
    texts = read(lines(f"b-1,{MS},A,1,1,true", f"007,{MS},A,1,1,true", f"7,{MS},A,1,1,true"))
    assert [row[1] for row in rows(texts.series[0])] == ["007", "7", "b-1"]
    zeros = read(lines(f"7,{MS},A,1,1,true", f"007,{MS},A,1,1,true"))
    assert [row[1] for row in rows(zeros.series[0])] == ["007", "7"]


def test_ids_that_pandas_made_floats_of_are_whole_again() -> None:
    assert rows(read(lines(f"7.0,{MS},A,1,1,true", f",{MS},A,1,1,true")).series[0])[0][1] == "7"
    columns = {"time": [MS, MS], "symbol": ["A", "A"], "price": [1.0, 1.0], "size": [1.0, 1.0]}
    file = read(parquet(id=[3735683259.0, None], **columns))
    assert [row[1] for row in rows(file.series[0])] == ["3735683259"]
    assert file.rejects.counts == {"blank trade id": 1}
    with pytest.raises(InputFileError, match="column 'id': fractions are no trade ids"):
        read(parquet(id=[1.5, 2.0], **columns))
    with pytest.raises(InputFileError, match=r"column 'id': list<.*> holds no text"):
        read(parquet(id=[[1], [2]], **columns))


@pytest.mark.parametrize(
    ("column", "cells", "sides"),
    [
        ("side", ["buy", "SELL", " Bid", "ask", "B", "s"], ["buy", "sell", "buy", "sell", "buy", "sell"]),
        ("side", ["unknown", "", "null", "-", "nan", "N/A"], [None] * 6),
        ("is_buyer_maker", ["true", "False", "1", "0", "T", "f"], ["sell", "buy", "sell", "buy", "sell", "buy"]),
        ("buyer_is_maker", ["", "true", "", "", "", ""], [None, "sell", None, None, None, None]),
    ],
)
def test_the_side_is_the_aggressors(column: str, cells: list[str], sides: list[str | None]) -> None:
    content = [f"{number},{MS},A,1,1,{cell}" for number, cell in enumerate(cells)]
    file = read(lines(*content, header=f"id,time,symbol,price,size,{column}"))
    assert (file.series[0].columns["side"].to_pylist(), file.rejects.counts) == (sides, {})


def test_the_side_may_be_missing_and_may_be_a_truth_value() -> None:
    columns = {"id": [1, 2], "time": [MS, MS], "symbol": ["A", "A"], "price": [1.0, 1.0], "size": [1, 1]}
    assert read(parquet(**columns)).series[0].columns["side"].to_pylist() == [None, None]
    with_side = read(parquet(**columns, buyer_is_maker=[True, False]))
    assert with_side.series[0].columns["side"].to_pylist() == ["sell", "buy"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lines("1,2,3", header="time,price,size"), "columns not recognized: time, price, size; needed: a time column"),
        (lines("1,2,3", header="id,price,size"), "needed: a time column (.*), trade_id or id, price, and size"),
        (lines(f"1,{MS},1,1", header="id,time,price,size"), "no symbol column, and the file name does not say"),
        (lines(f"1,{MS},1,1,A,1", header="id,time,price,size,symbol,id"), "column 'id' is there 2 times"),
    ],
)
def test_a_file_that_can_not_be_used_says_why(content: str, message: str) -> None:
    with pytest.raises(InputFileError, match=message):
        read(content)


def test_the_whole_market_has_no_trades() -> None:
    with pytest.raises(InputFileError, match=r"symbol '\*' is the whole market, which only signals have"):
        read(lines(f"1,{MS},1,1", header="id,time,price,size"), symbol="*")


@pytest.mark.parametrize("name_of", [str, lambda number: str(uuid.UUID(int=number))], ids=["numbers", "texts"])
def test_the_order_of_rows_and_repetitions_change_nothing(name_of: Any) -> None:
    seed = int(np.random.SeedSequence().generate_state(1)[0])
    print(f"seed {seed}")
    random = np.random.default_rng(seed)
    content = [
        f"{name_of(int(number))},{MS + int(at)},{symbol},{price:.8f},{size:.8f},{maker}"
        for symbol in ("A", "B", "C")
        for number, at, price, size, maker in zip(
            random.choice(10**9, 300, replace=False),
            random.integers(0, 50, 300),
            random.uniform(1, 9, 300),
            random.gamma(1, 1, 300) + 1e-6,
            random.choice(["true", "false"], 300),
            strict=True,
        )
    ]
    wanted = read(lines(*content))
    found = read(lines(*random.permutation([*content, *random.choice(content, 200)])))
    assert [rows(series) for series in found.series] == [rows(series) for series in wanted.series]
    assert [len(series) for series in found.series] == [300, 300, 300]
    assert (found.duplicates, len(found.rejects)) == (200, 0)
    for series in found.series:
        assert np.all(np.diff(series.columns["time"]) >= 0)
