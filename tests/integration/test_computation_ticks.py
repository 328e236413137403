"""Order book and trades to features: what stands at each minute, and what is computed again."""

from __future__ import annotations

import gzip
import io
import math
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd
import pytest

from featurectl.core import schema
from featurectl.core.catalog import publish, withdraw
from featurectl.core.compute import Computed
from featurectl.core.compute.ticks import TickJob
from featurectl.core.entity import TIMEFRAMES
from featurectl.core.ingest_ticks import ORDER_BOOK, TRADES, merge_ticks
from featurectl.core.ticks import read_order_book, read_trades
from featurectl.core.times import Window
from featurectl.errors import DefinitionError
from tests.fix_repository import DATA, needs_data
from tests.market import HOUR, MICROSECOND, START, Market, bars, define, feature_rows, put, whole_table

VIEW, TABLE = "market_features_view", "features.market_features"
MINUTE, SECOND = timedelta(minutes=1), timedelta(seconds=1)
# What single ticks give, for the oracle; the code below says the same over arrays.
FIELDS = {
    "spread": ("order_book", "mean", lambda book: (book["ask"] - book["bid"]) / ((book["ask"] + book["bid"]) / 2)),
    "imbalance": ("order_book", "mean", lambda book: quotient(book["bid_size"] - book["ask_size"], book)),
    "best_bid": ("order_book", "max", lambda book: book["bid"]),
    "volume": ("trades", "sum", lambda trade: trade["size"]),
    "signed": ("trades", "sum", lambda trade: {"buy": 1, "sell": -1, None: math.nan}[trade["side"]] * trade["size"]),
    "cheapest": ("trades", "min", lambda trade: trade["price"]),
    "worth": ("trades", "mean", lambda trade: trade["size"] * trade["price"]),
}
CODE = """
import numpy as np
def spread(bid, ask): return (ask - bid) / ((ask + bid) / 2)
def imbalance(bid_size, ask_size): return (bid_size - ask_size) / (bid_size + ask_size)
def best_bid(bid): return bid
def volume(size): return size
def signed(side, volume): return side * volume
def cheapest(price): return price
def worth(volume, price): return volume * price
"""

Rows = dict[datetime, dict[str, float | None]]


def quotient(difference: float, book: dict[str, Any]) -> float:
    total = book["bid_size"] + book["ask_size"]
    return difference / total if total else math.nan


def all_kinds(market: Market, timeframes: str = "1m,5m") -> None:
    """Have a view with every aggregate, over both tables."""
    define(
        market, VIEW, {name: {"aggregate": how} for name, (_, how, _) in FIELDS.items()}, CODE, timeframes=timeframes
    )


def trade(time: datetime, size: float = 1.0, *, id: str = "1", price: float = 10.0, **more: Any) -> dict[str, Any]:
    return {"symbol": "BTCUSDT", "time": time, "trade_id": id, "price": price, "size": size, "side": None, **more}


def book(time: datetime, bid: float = 9.0, ask: float = 11.0, **more: Any) -> dict[str, Any]:
    return {"symbol": "BTCUSDT", "time": time, "bid": bid, "bid_size": 1.0, "ask": ask, "ask_size": 1.0, **more}


def oracle(books: Sequence[dict[str, Any]], trades: Sequence[dict[str, Any]], length: timedelta, now: datetime) -> Rows:
    """Return what must stand in the table, each window from the ticks in it alone."""
    ticks = {"order_book": books, "trades": trades}
    times = sorted(tick["time"] for tick in (*books, *trades))
    values = {
        name: [(tick["time"], value(tick)) for tick in ticks[table]] for name, (table, _, value) in FIELDS.items()
    }
    rows: Rows = {}
    at = times[0].replace(second=0, microsecond=0) if times else now
    while (at := at + MINUTE) <= min(now, times[-1] + length):
        if any(at - length <= time < at for time in times):
            rows[at] = {
                name: taken(FIELDS[name][1], [number for time, number in values[name] if at - length <= time < at])
                for name in FIELDS
            }
    return rows


def taken(how: str, numbers: list[float]) -> float | None:
    finite = [number for number in numbers if math.isfinite(number)]
    if not finite:
        return None
    total = math.fsum(finite)
    return {"mean": total / len(finite), "sum": total, "min": min(finite), "max": max(finite)}[how]


def agree(found: Rows, wanted: Rows, note: str) -> None:
    """Compare to 1e-12 of the value, or of 1 where terms of both signs go into it."""
    assert list(found) == list(wanted), note
    for at, row in wanted.items():
        for name, value in row.items():
            other = found[at][name]
            same = (
                other == value if other is None or value is None else abs(other - value) <= 1e-12 * max(1, abs(value))
            )
            assert same, (note, at, name, other, value)


def counts(results: list[Computed]) -> dict[str, tuple[int, int, int]]:
    return {one.entity: (one.stale, one.inserted, one.changed) for one in results}


# --- which rows there are, and what stands in them --------------------------------------------------------------------


def test_a_row_holds_the_ticks_of_the_bar_that_closes_at_it(market: Market) -> None:
    """The window begins with its first microsecond and ends before the minute itself."""
    times = [START - MICROSECOND, START, START + MINUTE - MICROSECOND, START + MINUTE]
    put(market.connection, "trades", [trade(time, 2.0**place) for place, time in enumerate(times)])
    market.compute(now=START + 2 * MINUTE)
    rows = feature_rows(market, VIEW, "BTCUSDT_1m")
    assert {at - START: row["trade_size_avg"] for at, row in rows.items()} == {
        timedelta(0): 1.0,
        MINUTE: 3.0,
        2 * MINUTE: 8.0,
    }
    assert {row["bid_ask_spread"] for row in rows.values()} == {None}
    hour = feature_rows(market, VIEW, "BTCUSDT_1h")
    assert [row["trade_size_avg"] for row in hour.values()] == [1.0, 7 / 3, 15 / 4]


def test_every_timeframe_is_a_trailing_length(market: Market) -> None:
    """Of the view's tag and of the symbol's candles, a week as well: a row each minute while the tick is within."""
    market.ingest(*(bars([1.0], timeframe=name) for name in TIMEFRAMES), now=START + 400 * HOUR)
    put(market.connection, "trades", [trade(START + 30 * SECOND, 5.0)])
    market.compute(now=START + 200 * HOUR)
    for name, length in TIMEFRAMES.items():
        rows = feature_rows(market, VIEW, f"BTCUSDT_{name}")
        assert (min(rows), max(rows), len(rows)) == (START + MINUTE, START + length, length // MINUTE), name
        assert {row["trade_size_avg"] for row in rows.values()} == {5.0}, name


def test_a_tick_whose_number_is_none_makes_a_row_and_no_value(market: Market) -> None:
    put(market.connection, "order_book", [book(START, bid_size=0.0, ask_size=0.0)])
    market.compute(now=START + MINUTE)
    (row,) = feature_rows(market, VIEW, "BTCUSDT_1m").values()
    assert row == {"bid_ask_spread": 0.2, "order_book_imbalance": None, "trade_size_avg": None}


def test_tables_that_no_function_reads_make_no_rows(market: Market) -> None:
    define(market, VIEW, {"trade_size_avg": {}}, "def trade_size_avg(size): return size")
    put(market.connection, "order_book", [book(START)])
    put(market.connection, "trades", [trade(START + 5 * MINUTE)])
    market.compute(now=START + HOUR)
    assert list(feature_rows(market, VIEW, "BTCUSDT_1m")) == [START + 6 * MINUTE]


def test_ticks_of_the_minute_that_is_not_over_wait(market: Market) -> None:
    put(market.connection, "trades", [trade(START), trade(START + 90 * SECOND, 3.0)])
    market.compute(now=START + 119 * SECOND)
    assert list(feature_rows(market, VIEW, "BTCUSDT_5m")) == [START + MINUTE]
    market.compute(now=START + 2 * MINUTE)
    assert [row["trade_size_avg"] for row in feature_rows(market, VIEW, "BTCUSDT_5m").values()] == [1.0, 2.0]


def test_pieces_do_not_show(market: Market, monkeypatch: pytest.MonkeyPatch) -> None:
    """However few ticks are held at once, in whatever spans, the same numbers come out, bit for bit."""
    import featurectl.core.compute.tick_stream as module

    all_kinds(market, "1m,5m,1h")
    random = np.random.default_rng(5)
    books, trades = random_ticks(random, 300, 8 * HOUR)
    put(market.connection, "order_book", books)
    put(market.connection, "trades", trades)
    now = START + 12 * HOUR
    market.compute(now=now)
    agree(feature_rows(market, VIEW, "BTCUSDT_5m"), oracle(books, trades, 5 * MINUTE, now), "whole")
    for many, piece, stretch in ((7, 1440, 10), (50, 3, 1), (1, 1440, 100_000)):
        for name, value in (("MANY_TICKS", many), ("PIECE", piece), ("STRETCH", stretch)):
            monkeypatch.setattr(module, name, value)
        for one in market.compute(now=now, full=True):
            assert (one.inserted, one.changed) == (0, 0), (many, piece, stretch, one)
            assert one.stale == len(feature_rows(market, VIEW, one.entity))


# --- what is computed again -------------------------------------------------------------------------------------------


def random_ticks(
    random: np.random.Generator, count: int, span: timedelta
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return order books and trades in bursts and on whole minutes, with gaps, ties and sizes of nothing."""
    anchors = random.uniform(0, span / SECOND, 12)

    def time() -> datetime:
        seconds = float(random.choice(anchors) + random.exponential(120))
        at = START + timedelta(seconds=round(seconds, int(random.integers(-1, 7))))
        return at.replace(second=0, microsecond=0) if random.random() < 0.1 else at

    def size() -> float:
        return float(random.choice([0.0, round(random.gamma(1, 5), 3)]))

    bids = {time(): float(random.uniform(9, 10)) for _ in range(count)}
    books = [
        book(at, bid, bid + float(random.choice([0.01, 0.5])), bid_size=size(), ask_size=size())
        for at, bid in bids.items()
    ]
    sides = ["buy", "sell", None]
    times = [time() for _ in range(count)]
    trades = [
        trade(at, size(), id=str(place % 3), price=float(random.uniform(9, 11)), side=sides[random.integers(3)])
        for place, at in enumerate([*times, *times[:20]])
    ]
    return books, list({(one["time"], one["trade_id"]): one for one in trades}.values())


@pytest.mark.parametrize("seed", range(8))
def test_whatever_comes_when_the_table_is_what_the_ticks_say(market: Market, seed: int) -> None:
    """Late and corrected ticks, both tables, runs of a part between them, a timeframe more: exact after every run."""
    random = np.random.default_rng(seed)
    all_kinds(market)
    books, trades = random_ticks(random, 60, 6 * HOUR)
    arriving: list[tuple[float, str, dict[str, Any]]] = []
    for table, ticks in (("order_book", books), ("trades", trades)):
        for tick in ticks:
            due = (
                (tick["time"] - START) / HOUR + random.exponential(0.2) + random.uniform(0, 8) * (random.random() < 0.1)
            )
            arriving.append((due, table, tick))
            if random.random() < 0.1:
                name = "bid_size" if table == "order_book" else "size"
                arriving.append((due + random.exponential(1), table, {**tick, name: 7.5}))
    arriving.sort(key=lambda one: one[0])
    known: dict[str, dict[tuple[Any, ...], dict[str, Any]]] = {"order_book": {}, "trades": {}}
    now, timeframes = START, ["1m", "5m"]
    for step, part in enumerate(np.array_split(np.arange(len(arriving)), 8)):
        for table, ticks in known.items():
            new = [arriving[place][2] for place in part if arriving[place][1] == table]
            ticks.update({(tick["time"], tick.get("trade_id")): tick for tick in new})
            put(market.connection, table, list({(one["time"], one.get("trade_id")): one for one in new}.values()))
        now = max(now, START + HOUR * arriving[part[-1]][0]) + SECOND * int(random.integers(0, 200))
        if step == 4:
            market.ingest(bars([1.0], timeframe="1h"), now=now)
            timeframes.append("1h")
        if random.random() < 0.4:
            window = Window(START + HOUR * random.uniform(0, 3), START + HOUR * random.uniform(3, 9))
            market.compute(now=now, window=window, full=bool(random.random() < 0.5))
        if random.random() < 0.3:
            market.compute(now=now, timeframes=("5m",))
        if random.random() < 0.7 or step == 7:
            note = f"seed {seed}, step {step}, {now}"
            market.compute(now=now)
            for name in timeframes:
                wanted = oracle(
                    list(known["order_book"].values()), list(known["trades"].values()), TIMEFRAMES[name], now
                )
                agree(feature_rows(market, VIEW, f"BTCUSDT_{name}"), wanted, f"{note}, {name}")
            again = counts(market.compute(now=now))
            assert {one[0] for one in again.values()} == {0}, note
            if step % 3 == 1:
                full = counts(market.compute(now=now, full=True))
                assert {one[1:] for one in full.values()} == {(0, 0)}, note
    assert market.connection.execute("SELECT count(*) FROM featurectl.changes").fetchone() == (0,)


def test_only_what_a_tick_touches_is_computed_again(market: Market) -> None:
    put(market.connection, "trades", [trade(START + MINUTE * place) for place in range(600)])
    now = START + 10 * HOUR
    market.compute(now=now)
    at = START + 5 * HOUR
    put(market.connection, "trades", [trade(at, 3.0, id="late")])
    found = counts(market.compute(now=now))
    assert found == {
        "BTCUSDT_1m": (1, 0, 1),
        "BTCUSDT_5m": (5, 0, 5),
        "BTCUSDT_15m": (15, 0, 15),
        "BTCUSDT_1h": (60, 0, 60),
    }
    assert {one.stale for one in market.compute(now=now)} == {0}
    one_more = counts(market.compute(now=now + MINUTE))
    assert one_more == {"BTCUSDT_1m": (0, 0, 0)} | {f"BTCUSDT_{name}": (1, 1, 0) for name in ("5m", "15m", "1h")}


def test_ticks_of_other_programs_are_found_at_the_end_and_by_full(market: Market) -> None:
    put(market.connection, "trades", [trade(START)])
    market.compute(now=START + HOUR)
    put(market.connection, "trades", [trade(START + 5 * SECOND, 3.0), trade(START + HOUR)], logged=False)
    market.compute(now=START + HOUR + MINUTE)
    rows = feature_rows(market, VIEW, "BTCUSDT_1m")
    assert [row["trade_size_avg"] for row in rows.values()] == [1.0, 1.0]
    market.compute(now=START + HOUR + MINUTE, full=True)
    assert feature_rows(market, VIEW, "BTCUSDT_1m")[START + MINUTE]["trade_size_avg"] == 2.0


def test_a_clock_that_goes_back_leaves_no_row_out_of_date(market: Market) -> None:
    put(market.connection, "trades", [trade(START + MINUTE * place) for place in range(120)])
    market.compute(now=START + 2 * HOUR)
    put(market.connection, "trades", [trade(START + HOUR, 9.0, id="late")])
    market.compute(now=START + HOUR)
    market.compute(now=START + 2 * HOUR)
    assert feature_rows(market, VIEW, "BTCUSDT_1m")[START + HOUR + MINUTE]["trade_size_avg"] == 5.0
    assert {one[1:] for one in counts(market.compute(now=START + 2 * HOUR, full=True)).values()} == {(0, 0)}


def test_changed_functions_and_tags_make_all_rows_again(market: Market) -> None:
    code = "def a(size): return size\n\ndef b(size): return 2 * size\n"
    define(market, VIEW, {"a": {}, "b": {}}, code, timeframes="5m")
    put(market.connection, "trades", [trade(START + 20 * SECOND * place, float(place)) for place in range(30)])
    now = START + HOUR
    assert counts(market.compute(now=now)) == {"BTCUSDT_5m": (14, 14, 0)}
    define(market, VIEW, {"a": {}, "b": {}}, f"# Not a word of code.\n{code}", timeframes="5m")
    assert counts(market.compute(now=now)) == {"BTCUSDT_5m": (0, 0, 0)}
    define(market, VIEW, {"a": {"aggregate": "max"}, "b": {}}, code, timeframes="5m")
    assert counts(market.compute(now=now)) == {"BTCUSDT_5m": (14, 0, 14)}
    define(market, VIEW, {"a": {"aggregate": "max"}, "b": {}}, code.replace("2", "3"), timeframes="5m")
    assert counts(market.compute(now=now)) == {"BTCUSDT_5m": (14, 0, 14)}
    assert feature_rows(market, VIEW, "BTCUSDT_5m")[START + MINUTE] == {"a": 2.0, "b": 3.0}
    assert counts(market.compute(now=now)) == {"BTCUSDT_5m": (0, 0, 0)}


def test_one_feature_is_filled_in_where_there_are_rows(market: Market) -> None:
    code = "def a(size): return size\n\ndef b(a): return 2 * a\n"
    define(market, VIEW, {"a": {}}, code, timeframes="5m")
    put(market.connection, "trades", [trade(START + MINUTE * place, float(place)) for place in range(10)])
    market.compute(now=START + 5 * MINUTE)
    define(market, VIEW, {"a": {}, "b": {}}, code, timeframes="5m")
    put(market.connection, "trades", [trade(START + MINUTE, 5.0, id="late")])
    now = START + 10 * MINUTE
    assert counts(market.compute(now=now, features=("b",))) == {"BTCUSDT_5m": (10, 0, 5)}
    rows = feature_rows(market, VIEW, "BTCUSDT_5m")
    assert rows[START + 2 * MINUTE] == {"a": 0.5, "b": 4.0}  # the late trade waits for a run of everything
    assert counts(market.compute(now=now)) == {"BTCUSDT_5m": (10, 5, 4)}
    assert feature_rows(market, VIEW, "BTCUSDT_5m")[START + 2 * MINUTE] == {"a": 2.0, "b": 4.0}
    assert {one[1:] for one in counts(market.compute(now=now, full=True)).values()} == {(0, 0)}


def test_a_function_that_fails_leaves_everything_as_it_was(market: Market) -> None:
    define(market, VIEW, {"a": {}}, "def a(size): return size[1:]")
    put(market.connection, "trades", [trade(START)])
    with pytest.raises(DefinitionError, match=r"market.py: a returned shape \(0,\) for 1 rows"):
        market.compute(now=START + HOUR)
    assert market.connection.isolation_level is None
    define(market, VIEW, {"a": {}}, "def a(size): return size")
    assert counts(market.compute(now=START + HOUR))["BTCUSDT_1m"] == (1, 1, 0)


def test_a_table_that_was_emptied_is_filled_again(market: Market) -> None:
    put(market.connection, "trades", [trade(START)])
    market.compute(now=START + HOUR)
    market.connection.execute(f"TRUNCATE {TABLE}".encode())
    assert counts(market.compute(now=START + HOUR))["BTCUSDT_1h"] == (60, 60, 0)


# --- changes are seen once by everyone --------------------------------------------------------------------------------


def another_project(market: Market) -> Market:
    """Return the same market with a feature table of its own."""
    view = replace(market.catalog.view(VIEW), source_table="features.other")
    table = schema.feature_table(view, {"symbol": "text", "timeframe": "text"})
    schema.execute(market.connection, schema.table_changes(market.connection, table))
    other = Market(market.repo, market.connection)
    object.__setattr__(other, "catalog", replace(other.catalog, project="other", content_hash="", views=(view,)))
    publish(market.connection, other.catalog, now=START, published_by="a test")
    return other


def changes(market: Market) -> int:
    ((number,),) = market.connection.execute("SELECT count(*) FROM featurectl.changes")
    return int(number)


def test_a_change_waits_for_every_table_that_was_computed_without_it(market: Market) -> None:
    other = another_project(market)
    put(market.connection, "trades", [trade(START)])
    now = START + HOUR
    market.compute(now=now)
    assert changes(market) == 0  # the other table is computed from the beginning, and needs no change for that
    assert counts(other.compute(now=now))["BTCUSDT_1m"] == (1, 1, 0)
    put(market.connection, "trades", [trade(START, 2.0, id="late")])
    assert counts(other.compute(now=now))["BTCUSDT_1m"] == (1, 0, 1)
    assert changes(market) == 1
    assert counts(other.compute(now=now))["BTCUSDT_1m"] == (0, 0, 0)
    assert counts(market.compute(now=now))["BTCUSDT_1m"] == (1, 0, 1)
    assert changes(market) == 0


def test_a_project_that_left_holds_no_changes_and_starts_anew_when_it_comes_back(market: Market) -> None:
    other = another_project(market)
    put(market.connection, "trades", [trade(START)])
    for one in (market, other):
        one.compute(now=START + HOUR)
    withdraw(market.connection, "other")
    put(market.connection, "trades", [trade(START, 3.0)])
    market.compute(now=START + HOUR)
    assert changes(market) == 0
    publish(market.connection, other.catalog, now=START, published_by="a test")
    assert counts(other.compute(now=START + HOUR))["BTCUSDT_1m"] == (1, 0, 1)


def test_runs_over_a_part_hold_the_change_for_the_rest(market: Market) -> None:
    put(market.connection, "trades", [trade(START + MINUTE * place) for place in range(60)])
    now = START + HOUR
    market.compute(now=now)
    put(market.connection, "trades", [trade(START + 30 * MINUTE, 2.0, id="late")])
    market.compute(now=now, timeframes=("5m",))
    market.compute(now=now, window=Window(START, START + 40 * MINUTE))
    market.compute(now=now, features=("trade_size_avg",))
    assert changes(market) == 1
    assert {name: found[2] for name, found in counts(market.compute(now=now)).items()} == {
        "BTCUSDT_1m": 0, "BTCUSDT_5m": 0, "BTCUSDT_15m": 0, "BTCUSDT_1h": 0,
    }  # fmt: skip
    assert changes(market) == 0
    assert {one[1:] for one in counts(market.compute(now=now, full=True)).values()} == {(0, 0)}


def test_a_timeframe_that_was_left_out_for_a_while_is_made_again(market: Market) -> None:
    put(market.connection, "trades", [trade(START)])
    market.compute(now=START + HOUR)
    view = market.catalog.view(VIEW)
    define_tags(market, timeframes="1m,5m")
    put(market.connection, "trades", [trade(START, 3.0)])
    market.compute(now=START + HOUR)
    define_tags(market, timeframes=view.tags["timeframes"])
    assert counts(market.compute(now=START + HOUR))["BTCUSDT_1h"] == (60, 0, 60)


def define_tags(market: Market, **tags: str) -> None:
    views = (replace(one, tags={**one.tags, **tags}) if one.name == VIEW else one for one in market.catalog.views)
    object.__setattr__(market, "catalog", replace(market.catalog, views=tuple(views)))


@pytest.mark.parametrize("first_time", [True, False])
def test_a_change_during_a_run_is_for_the_next(
    market: Market, monkeypatch: pytest.MonkeyPatch, first_time: bool
) -> None:
    """Even when another table's run sees the change and would drop it."""
    other = another_project(market)
    put(market.connection, "trades", [trade(START + MINUTE * place) for place in range(10)])
    now = START + HOUR
    other.compute(now=now)
    if not first_time:
        market.compute(now=now)
    original = TickJob._compute

    def meanwhile(job: TickJob, series: Any) -> int:
        monkeypatch.setattr(TickJob, "_compute", original)
        with market.repo.connect() as connection:
            put(connection, "trades", [trade(START, 4.0, id="late")])
            elsewhere = replace(other, connection=connection)
            object.__setattr__(elsewhere, "catalog", other.catalog)
            assert counts(elsewhere.compute(now=now))["BTCUSDT_1m"] == (1, 0, 1)
        return original(job, series)

    monkeypatch.setattr(TickJob, "_compute", meanwhile)
    market.compute(now=now)
    assert feature_rows(market, VIEW, "BTCUSDT_1m")[START + MINUTE]["trade_size_avg"] == 1.0
    assert changes(market) == 1
    assert counts(market.compute(now=now))["BTCUSDT_1m"] == (1, 0, 1)
    assert changes(market) == 0


# --- retention --------------------------------------------------------------------------------------------------------


def delete_before(market: Market, table: str, instant: datetime) -> None:
    market.connection.execute(f"DELETE FROM market.{table} WHERE time < %s".encode(), (instant,))


def test_rows_whose_ticks_are_gone_stay_as_they_are(market: Market) -> None:
    random = np.random.default_rng(3)
    put(market.connection, "trades", [trade(START + MINUTE * place, random.random()) for place in range(120)])
    put(market.connection, "order_book", [book(START + MINUTE * place, random.uniform(8, 9)) for place in range(120)])
    now = START + 2 * HOUR
    market.compute(now=now)
    before = whole_table(market.connection, TABLE)
    delete_before(market, "order_book", START + 100 * MINUTE + SECOND)
    delete_before(market, "trades", START + 50 * MINUTE)
    assert {one[1:] for one in counts(market.compute(now=now, full=True)).values()} == {(0, 0)}
    assert whole_table(market.connection, TABLE) == before
    # New rows are made of what there is, and a correction counts where all of it is there.
    put(market.connection, "trades", [trade(START + 60 * MINUTE, 5.0)])
    found = counts(market.compute(now=now + MINUTE))
    assert {name: one[1:] for name, one in found.items()} == {
        "BTCUSDT_1m": (0, 1), "BTCUSDT_5m": (1, 5), "BTCUSDT_15m": (1, 11), "BTCUSDT_1h": (1, 11),
    }  # fmt: skip


def test_new_rows_are_made_of_what_retention_left(market: Market) -> None:
    """Even where their timeframe reaches back to what is gone, and a correction has rows of that time looked at."""
    put(market.connection, "trades", [trade(START + MINUTE * place) for place in range(120)])
    now = START + 2 * HOUR
    market.compute(now=now)
    delete_before(market, "trades", START + 90 * MINUTE)
    put(market.connection, "trades", [trade(START + 100 * MINUTE, 5.0), trade(now, 4.0)])
    assert counts(market.compute(now=now + MINUTE))["BTCUSDT_1h"] == (21, 1, 0)
    assert feature_rows(market, VIEW, "BTCUSDT_1h")[now + MINUTE]["trade_size_avg"] == (29 + 5 + 4) / 31


def test_rows_stay_when_all_ticks_of_a_table_are_gone(market: Market) -> None:
    put(market.connection, "trades", [trade(START + MINUTE * place) for place in range(30)])
    put(market.connection, "order_book", [book(START + MINUTE * place) for place in range(30)])
    market.compute(now=START + HOUR)
    before = whole_table(market.connection, TABLE)
    for table in ("trades", "order_book"):
        delete_before(market, table, START + HOUR)
        market.compute(now=START + HOUR, full=True)
        assert whole_table(market.connection, TABLE) == before


# --- the real files ---------------------------------------------------------------------------------------------------


@needs_data
def test_real_book_tickers_and_trades_give_what_pandas_makes_of_them(market: Market) -> None:
    """Two files a symbol, the trades in two halves with the later one first, and a run between them."""
    folder, now = DATA / "microstructure", datetime(2024, 8, 9, 2, tzinfo=UTC)
    for symbol in ("BTCUSDT", "ETHUSDT"):
        file = folder / f"{symbol}_book_ticker.csv.gz"
        merge_ticks(market.connection, ORDER_BOOK, read_order_book(file, name=file.name, symbol=None, now=now), now=now)
        file = folder / f"{symbol}_trades.csv.gz"
        lines = gzip.decompress(file.read_bytes()).splitlines(keepends=True)
        middle = len(lines) // 2
        for part in (lines[middle:], lines[1:middle]):
            content = io.BytesIO(b"".join([lines[0], *part]))
            merge_ticks(market.connection, TRADES, read_trades(content, name="-", symbol=None, now=now), now=now)
            market.compute(now=datetime(2024, 8, 8, 23, 57, 30, tzinfo=UTC))
    market.compute(now=now)
    names = ("bid_ask_spread", "order_book_imbalance", "trade_size_avg")
    for symbol in ("BTCUSDT", "ETHUSDT"):
        books = pd.read_csv(folder / f"{symbol}_book_ticker.csv.gz").drop_duplicates("time_ms", keep="last")
        trades = pd.read_csv(folder / f"{symbol}_trades.csv.gz")
        books["spread"] = (books.ask - books.bid) / ((books.ask + books.bid) / 2)
        books["imbalance"] = (books.bid_size - books.ask_size) / (books.bid_size + books.ask_size)
        first = min(books.time_ms.min(), trades.time_ms.min()) // 60_000
        last = max(books.time_ms.max(), trades.time_ms.max()) // 60_000
        for timeframe, minutes in (("1m", 1), ("5m", 5), ("15m", 15), ("1h", 60)):
            wanted: Rows = {}
            for minute in range(first + 1, last + minutes + 1):
                span = ((minute - minutes) * 60_000, minute * 60_000)
                quotes = books[books.time_ms.between(*span, inclusive="left")]
                deals = trades[trades.time_ms.between(*span, inclusive="left")]
                means = (quotes.spread.mean(), quotes.imbalance.mean(), deals["size"].mean())
                row = {name: None if math.isnan(mean) else float(mean) for name, mean in zip(names, means, strict=True)}
                wanted[datetime.fromtimestamp(int(minute) * 60, UTC)] = row
            agree(feature_rows(market, VIEW, f"{symbol}_{timeframe}"), wanted, f"{symbol}_{timeframe}")
        assert last - first == 6, "every minute of the files has ticks"


def test_rows_that_retention_deletes_are_not_made_again(market: Market) -> None:
    put(market.connection, "trades", [trade(START + MINUTE * place) for place in range(60)])
    now, drop_after = START + HOUR, {TABLE: 10 * MINUTE}
    market.compute(now=now, drop_after=drop_after)
    expected = [now - place * MINUTE for place in range(10, -1, -1)]
    assert list(feature_rows(market, VIEW, "BTCUSDT_1m")) == expected
    assert {one[1:] for one in counts(market.compute(now=now, drop_after=drop_after, full=True)).values()} == {(0, 0)}


def test_a_run_over_one_timeframe_sees_its_changes_once(market: Market) -> None:
    put(market.connection, "trades", [trade(START + MINUTE * place) for place in range(60)])
    now = START + HOUR
    market.compute(now=now)
    for place in (30, 40):
        put(market.connection, "trades", [trade(START + place * MINUTE, 2.0, id=f"late {place}")])
        done = counts(market.compute(now=now, timeframes=("1m",)))
        assert done["BTCUSDT_1m"] == (1, 0, 1)
    assert changes(market) == 2
    market.compute(now=now)
    assert changes(market) == 0


def test_a_symbol_without_ticks_holds_no_changes(market: Market) -> None:
    put(market.connection, "trades", [trade(START), {**trade(START), "symbol": "GONE"}])
    market.compute(now=START + HOUR)
    put(market.connection, "trades", [{**trade(START, 2.0), "symbol": "GONE"}])
    market.connection.execute(b"DELETE FROM market.trades WHERE symbol = 'GONE'")
    market.compute(now=START + HOUR)
    assert changes(market) == 0
