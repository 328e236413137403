"""Files of order books, trades and signals into the database: what is written, counted, logged, and left alone."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from psycopg import errors

from featurectl.core.catalog import read_catalog
from featurectl.core.db import Connection
from featurectl.core.ingest_ticks import ORDER_BOOK, SIGNALS, TRADES, MergedTicks, declared_ranges, merge_ticks
from featurectl.core.ticks import read_order_book, read_signals, read_trades
from tests.fix_repository import DATA, Repo, needs_data

NOW = datetime(2024, 9, 1, tzinfo=UTC)
MS = 1723161255000
Log = list[tuple[Any, ...]]


@pytest.fixture
def connection(repo: Repo) -> Iterator[Connection]:
    with repo.connect() as connection:
        yield connection


def at(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(MS // 1000, UTC) + timedelta(milliseconds=milliseconds)


def trades(connection: Connection, *rows: str, header: str = "id,time,symbol,price,size,side") -> list[MergedTicks]:
    content = "\n".join([header, *rows]).encode()
    file = read_trades(io.BytesIO(content), name="-", symbol=None, now=NOW)
    return merge_ticks(connection, TRADES, file, now=NOW)


def counts(merged: list[MergedTicks]) -> list[tuple[Any, ...]]:
    return [(*one.key.values(), one.new, one.changed, one.unchanged) for one in merged]


def log(connection: Connection) -> Log:
    return connection.execute(
        "SELECT source, symbol, first_time, last_time FROM featurectl.changes ORDER BY id"
    ).fetchall()


def test_a_second_run_changes_nothing_and_logs_nothing(connection: Connection) -> None:
    rows = [f"1,{MS},A,10,1,buy", f"2,{MS + 7},A,11,1,", f"3,{MS},B,12,1,sell"]
    assert counts(trades(connection, *rows)) == [("A", 2, 0, 0), ("B", 1, 0, 0)]
    logged = log(connection)
    assert logged == [("market.trades", "A", at(0), at(7)), ("market.trades", "B", at(0), at(0))]
    before = connection.execute("SELECT * FROM market.trades ORDER BY symbol, trade_id").fetchall()
    assert counts(trades(connection, *reversed(rows))) == [("A", 0, 0, 2), ("B", 0, 0, 1)]
    assert connection.execute("SELECT * FROM market.trades ORDER BY symbol, trade_id").fetchall() == before
    assert log(connection) == logged


def test_corrected_and_late_rows_are_counted_and_logged_for_their_symbol_only(connection: Connection) -> None:
    trades(connection, f"1,{MS},A,10,1,buy", f"2,{MS + 7},A,11,1,buy", f"3,{MS},B,12,1,sell")
    before = len(log(connection))
    merged = trades(connection, f"1,{MS},A,10,2,buy", f"4,{MS + 3},A,11,1,buy", f"3,{MS},B,12,1,sell")
    assert counts(merged) == [("A", 1, 1, 0), ("B", 0, 0, 1)]
    assert log(connection)[before:] == [("market.trades", "A", at(0), at(3))]
    found = connection.execute("SELECT trade_id, size FROM market.trades WHERE symbol = 'A' ORDER BY time").fetchall()
    assert found == [("1", 2.0), ("4", 1.0), ("2", 1.0)]


def test_a_file_without_sides_leaves_those_that_are_known(connection: Connection) -> None:
    trades(connection, f"1,{MS},A,10,1,buy", f"2,{MS},A,10,1,")
    again = trades(connection, f"1,{MS},A,10,1", f"2,{MS},A,10,1", header="id,time,symbol,price,size")
    assert counts(again) == [("A", 0, 0, 2)]
    assert counts(trades(connection, f"2,{MS},A,10,1,sell")) == [("A", 0, 1, 0)]
    found = connection.execute("SELECT side FROM market.trades ORDER BY trade_id").fetchall()
    assert found == [("buy",), ("sell",)]


def test_a_file_is_written_whole_or_not_at_all(connection: Connection) -> None:
    connection.execute("ALTER TABLE market.trades ADD CHECK (price < 100)")
    with pytest.raises(errors.CheckViolation):
        trades(connection, f"1,{MS},A,10,1,buy", f"1,{MS},B,100,1,buy")
    assert connection.execute("SELECT count(*) FROM market.trades").fetchone() == (0,)
    assert log(connection) == []


def test_a_corrected_book_is_changed_and_an_instant_has_one_row(connection: Connection) -> None:
    def book(*rows: str) -> list[MergedTicks]:
        content = "\n".join(["time,symbol,bid,bid_size,ask,ask_size", *rows]).encode()
        file = read_order_book(io.BytesIO(content), name="-", symbol=None, now=NOW)
        return merge_ticks(connection, ORDER_BOOK, file, now=NOW)

    assert counts(book(f"{MS},A,10,1,11,1", f"{MS},A,10,2,11,2", f"{MS + 1},A,10,3,11,3")) == [("A", 2, 0, 0)]
    assert counts(book(f"{MS},A,10,2,11,0", f"{MS + 1},A,10,3,11,3")) == [("A", 0, 1, 1)]
    found = connection.execute("SELECT time, bid, bid_size, ask, ask_size FROM market.order_book ORDER BY time")
    assert found.fetchall() == [(at(0), 10, 2, 11, 0), (at(1), 10, 3, 11, 3)]
    assert log(connection) == [("market.order_book", "A", at(0), at(last)) for last in (1, 0)]


def test_signals_are_logged_once_and_keep_the_declared_ranges(connection: Connection) -> None:
    ranges = declared_ranges(read_catalog(connection, "market"))
    assert ranges == {"news_sentiment": (-1, 1), "social_sentiment": (-1, 1), "fear_greed_index": (0, 100)}
    content = "\n".join(
        [
            "time,symbol,name,score",
            f"{MS},A,news_sentiment,0.5",
            f"{MS + 9},A,social_sentiment,-1",
            f"{MS + 20},A,social_sentiment,-1.5",
            f"{MS},*,fear_greed_index,100",
        ]
    ).encode()
    file = read_signals(io.BytesIO(content), name="-", symbol=None, ranges=ranges, now=NOW)
    assert file.rejects.counts == {"score out of range": 1}
    merged = merge_ticks(connection, SIGNALS, file, now=NOW)
    wanted = [("*", "fear_greed_index"), ("A", "news_sentiment"), ("A", "social_sentiment")]
    assert counts(merged) == [(*key, 1, 0, 0) for key in wanted]
    assert log(connection) == [("market.signals", symbol, at(t), at(t)) for symbol, t in (("*", 0), ("A", 0), ("A", 9))]
    assert counts(merge_ticks(connection, SIGNALS, file, now=NOW)) == [(*key, 0, 0, 1) for key in wanted]
    assert len(log(connection)) == 3


# --- the console script ----------------------------------------------------------------------------------------------


def test_files_that_can_not_be_used_do_not_keep_the_others_from_it(repo: Repo, tmp_path: Path) -> None:
    header = "id,time,symbol,price,size"
    good, empty, bad = (tmp_path / f"{name}.csv" for name in ("good", "empty", "bad"))
    good.write_text(f"{header}\n1,{MS},A,10,1\n2,{MS},A,-1,1\n3,{MS},A,10,x\n3,{MS},A,10,1\n")
    empty.write_text(header)
    bad.write_text(f"{header}\n1,{MS},A,0,1\n")
    done = repo.run("ingest", "trades", good, empty, bad, "--rejects", tmp_path / "rejects.csv", "--json")
    assert done.returncode == 5
    assert "1 of 3 files read" in done.stderr
    assert f"{good}: rejected 2 rows: 1 negative or zero price, 1 unparsable; see" in done.stderr
    first, second, third = json.loads(done.stdout)["files"]
    assert (first["rows"], first["rejected"]) == (4, {"negative or zero price": 1, "unparsable": 1})
    assert [(one["symbol"], one["rows"], one["new"]) for one in first["series"]] == [("A", 2, 2)]
    assert "has a header but no rows" in second["error"]
    assert third["series"] == []
    rejects = pd.read_csv(tmp_path / "rejects.csv")
    assert rejects[["file", "row", "detail"]].values.tolist() == [
        [str(good), 2, "column 'price': '-1'"],
        [str(good), 3, "column 'size': 'x'"],
        [str(bad), 1, "column 'price': '0'"],
    ]
    assert repo.rows("SELECT count(*) FROM market.trades") == [(2,)]


def test_signals_need_the_published_catalog(repo: Repo, clone: Callable[[str | None], str]) -> None:
    content = f"time,score\n{MS},1\n".encode()
    done = Repo(repo.root, clone(None)).run("ingest", "signals", "-", "--name", "x", input=content)
    assert (done.returncode, done.stdout) == (2, "")
    assert "run `featurectl apply`" in done.stderr


@needs_data
def test_real_book_tickers(repo: Repo) -> None:
    files = [DATA / "microstructure" / f"{symbol}_book_ticker.csv.gz" for symbol in ("BTCUSDT", "ETHUSDT")]
    done = repo.json("ingest", "order-book", *files)
    logged = []
    for path, file in zip(files, done["files"], strict=True):
        frame = pd.read_csv(path)
        wanted = frame.drop_duplicates("time_ms", keep="last").sort_values("time_ms")
        symbol = path.name.partition("_")[0]
        assert (file["layout"], file["rows"], file["rejected"], file["warnings"]) == ("generic", len(frame), {}, [])
        assert file["superseded"] == len(frame) - len(wanted)
        (series,) = file["series"]
        assert (series["symbol"], series["rows"], series["new"]) == (symbol, len(wanted), len(wanted))
        found = repo.rows(
            "SELECT (extract(epoch FROM time) * 1000)::int8, symbol, bid, bid_size, ask, ask_size "
            "FROM market.order_book WHERE symbol = %s ORDER BY time",
            symbol,
        )
        assert found == list(wanted.itertuples(index=False, name=None))
        ends = pd.to_datetime(wanted["time_ms"].iloc[[0, -1]], unit="ms", utc=True)
        logged.append(("market.order_book", symbol, *ends))
    assert repo.rows("SELECT source, symbol, first_time, last_time FROM featurectl.changes ORDER BY id") == logged


@needs_data
def test_real_trades(repo: Repo) -> None:
    files = [DATA / "microstructure" / f"{symbol}_trades.csv.gz" for symbol in ("BTCUSDT", "ETHUSDT")]
    done = repo.json("ingest", "trades", *files)
    for path, file in zip(files, done["files"], strict=True):
        wanted = pd.read_csv(path).sort_values(["time_ms", "trade_id"])
        (series,) = file["series"]
        assert (file["rows"], file["rejected"], file["duplicates"]) == (len(wanted), {}, 0)
        assert (series["new"], series["changed"], series["unchanged"]) == (len(wanted), 0, 0)
        found = repo.rows(
            "SELECT trade_id::int8, (extract(epoch FROM time) * 1000)::int8, symbol, price, size, side = 'sell' "
            "FROM market.trades WHERE symbol = %s ORDER BY time, trade_id::int8",
            series["symbol"],
        )
        assert found == list(wanted.itertuples(index=False, name=None))


@needs_data
def test_real_fear_and_greed(repo: Repo) -> None:
    path = DATA / "sentiment" / "fear_greed_index.csv"
    done = repo.run("ingest", "signals", path, "--format", "csv")
    frame = pd.read_csv(path)
    assert done.returncode == 0
    assert done.stdout.splitlines() == [
        "file,symbol,name,rows,new,changed,unchanged,rejected,duplicates",
        f"{path},*,fear_greed_index,{len(frame)},{len(frame)},0,0,0,0",
    ]
    assert "the whole market (symbol *)" in done.stderr
    assert "disagree" not in done.stderr
    found = repo.rows("SELECT extract(epoch FROM time)::int8, score FROM market.signals ORDER BY time")
    assert found == list(frame[["timestamp", "value"]].itertuples(index=False, name=None))
