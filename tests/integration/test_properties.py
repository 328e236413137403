"""What must hold whatever happens, on the real database: seeded draws; the seed is in the test's name and message."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pytest

from featurectl.core.catalog import View
from featurectl.core.entity import TIMEFRAMES, EntityId
from featurectl.core.materialize import Materialized, materialize
from featurectl.core.online import Source, Status
from featurectl.core.schema import table_identifier
from featurectl.core.times import Window
from tests.fix_repository import Repo
from tests.market import (
    FEATURES,
    HOUR,
    MICROSECOND,
    START,
    TECHNICAL,
    Market,
    close_of,
    closed_at,
    corrected,
    largest_deviation,
    named,
    random_bars,
    select,
    take,
    whole_table,
)

NOW = START + timedelta(days=4000)
ONLINE = "online.market__technical_indicators_view"
# After 400 bars (25/27) ** 400 = 4e-14 of a slow average's seed is left, and (13/14) ** 400 = 1e-13 of an RSI's.
WARMUP, TOLERANCE = 400, 1e-9


@pytest.fixture
def market(repo: Repo) -> Iterator[Market]:
    with repo.connect() as connection:
        yield Market(repo, connection, warmup=WARMUP)


def online(market: Market, window: Window = Window(None, None), now: datetime = NOW) -> Materialized:  # noqa: B008
    (done,) = materialize(market.connection, "market", [market.view], window, now=now)
    assert isinstance(done, Materialized), done
    return done


# --- no look-ahead ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("timeframe", ["1m", "1h", "1d"])
@pytest.mark.parametrize("seed", range(3))
def test_cutting_the_future_off_changes_no_earlier_value(market: Market, seed: int, timeframe: str) -> None:
    """Neither bars that are not there yet nor bars that have not closed yet are seen; not one bit differs."""
    random = np.random.default_rng(seed)
    series = random_bars(random, 500, timeframe=timeframe)
    market.ingest(series, now=NOW)
    market.compute(now=NOW)
    whole = market.features(timeframe=timeframe)
    for number, cut in enumerate(random.choice(500, 6, replace=False)):
        absent, unclosed = f"ABSENT{number}", f"UNCLOSED{number}"
        market.ingest(named(take(series, range(cut + 1)), absent), named(series, unclosed), now=NOW)
        now = close_of(series, cut) + TIMEFRAMES[timeframe] * random.uniform(0, 0.999)
        market.compute(now=now, symbols=(absent, unclosed), timeframes=(timeframe,))
        past = {event: values for event, values in whole.items() if event <= now}
        assert len(past) == cut + 1
        assert market.features(absent, timeframe) == past, f"seed {seed}, cut {cut}"
        assert market.features(unclosed, timeframe) == past, f"seed {seed}, cut {cut}"


@pytest.mark.parametrize("seed", range(3))
def test_no_feature_exists_before_its_bar_closes(market: Market, seed: int) -> None:
    """Whatever the clock and the window, the rows are those of closed bars, each at its close."""
    random = np.random.default_rng(seed)
    series = [random_bars(random, 40, symbol=f"S{at}", timeframe=name) for at, name in enumerate(TIMEFRAMES)]
    market.ingest(*series, now=NOW)
    now = START
    for _ in range(25):
        now += timedelta(hours=random.exponential(40))
        window = random_window(random, START, START + timedelta(days=60))
        market.compute(now=now, full=bool(random.random() < 0.3), window=window)
        rows = market.connection.execute(
            f"SELECT f.symbol, f.timeframe, f.event_timestamp, c.open_time FROM {TECHNICAL} AS f "
            "LEFT JOIN market.candles AS c ON c.symbol = f.symbol AND c.timeframe = f.timeframe "
            "AND c.open_time = f.event_timestamp - CASE right(f.timeframe, 1) "
            "WHEN 'm' THEN rtrim(f.timeframe, 'm')::int * interval '1 minute' "
            "WHEN 'h' THEN rtrim(f.timeframe, 'h')::int * interval '1 hour' "
            "WHEN 'd' THEN rtrim(f.timeframe, 'd')::int * interval '24 hours' "
            "ELSE rtrim(f.timeframe, 'w')::int * interval '168 hours' END".encode()
        ).fetchall()
        for symbol, timeframe, event, open_time in rows:
            assert open_time is not None, f"seed {seed}: {symbol}_{timeframe} at {event} is no bar's close"
            assert event <= now, f"seed {seed}: {symbol}_{timeframe} at {event} was not closed at {now}"
    market.compute(now=now)
    for one in series:
        closed = [event for event in closed_at(one) if event <= now]
        assert list(market.features(one.symbol, one.timeframe)) == closed, f"seed {seed}"


def random_window(random: np.random.Generator, first: datetime, last: datetime) -> Window:
    """Return a window, open at either end now and then."""
    start, end = sorted(first + (last - first) * share for share in random.random(2))
    return Window(None if random.random() < 0.3 else start, None if random.random() < 0.3 else end)


# --- incremental = full ----------------------------------------------------------------------------------------------


def as_one_full_run(market: Market, seed: int, count: int, steps: int) -> float:
    """Let bars arrive in random batches, with corrections and restricted runs between them; return the deviation.

    Compared is the same final market, under another name, computed by one full run.
    """
    random = np.random.default_rng(seed)
    final = random_bars(random, count)
    kept = np.flatnonzero(random.random(count) > 0.01)  # some bars never come: gaps
    # Old bars tend to come first, and a few come late; were it many, the last run would do everything again.
    place = kept + random.normal(0, count / 40, len(kept))
    place[random.choice(len(kept), 6, replace=False)] += random.uniform(0, count, 6)
    arrival = np.argsort(place)
    # An exchange's clock for some draws; in others every write happens at one instant.
    clocks = [NOW + HOUR * step * (seed % 2) for step in range(2 * steps + 1)]
    wrong: set[int] = set()
    for step, batch in enumerate(np.array_split(kept[arrival], steps)):
        spoiled = set(random.choice(batch, 2).tolist())
        market.ingest(take(final, sorted(set(batch.tolist()) - spoiled)), now=clocks[step])
        market.ingest(corrected(take(final, sorted(spoiled)), random), now=clocks[step])
        wrong |= spoiled
        mended = {row for row in wrong if random.random() < 0.6}
        wrong -= mended
        if mended:
            market.ingest(take(final, mended), now=clocks[step])
        if random.random() < 0.8:
            restricted = random_window(random, START, close_of(final, count - 1))
            window = restricted if random.random() < 0.5 else Window(None, None)
            market.compute(now=clocks[step], window=window, full=bool(random.random() < 0.1))
    market.ingest(take(final, sorted(wrong)), now=clocks[-1])
    market.compute(now=clocks[-1])
    market.ingest(named(take(final, kept), "REF"), now=NOW)
    market.compute(now=NOW, symbols=("REF",), full=True)
    found, wanted = market.features(), market.features("REF")
    assert len(wanted) == len(kept)
    return largest_deviation(found, wanted)


@pytest.mark.parametrize("seed", range(12))
def test_batches_in_any_order_with_corrections_are_one_full_run(market: Market, seed: int) -> None:
    deviation = as_one_full_run(market, seed, count=3000, steps=10)
    assert deviation < TOLERANCE, f"seed {seed}: {deviation:.1e}"


@pytest.mark.parametrize("seed", range(100, 103))
def test_so_they_are_with_the_default_warm_up_on_a_long_series(market: Market, seed: int) -> None:
    deviation = as_one_full_run(replace(market, warmup=1000), seed, count=15000, steps=8)
    assert deviation < TOLERANCE, f"seed {seed}: {deviation:.1e}"


@pytest.mark.parametrize("seed", range(3))
def test_bar_after_bar_is_one_full_run(market: Market, seed: int) -> None:
    """As cron does it: each run sees one or a few new bars."""
    random = np.random.default_rng(seed)
    series = random_bars(random, 700)
    market.ingest(series, named(series, "REF"), now=NOW)
    market.compute(now=close_of(series, 599), symbols=("BTCUSDT",))
    at = 599
    while at < 699:
        at = min(699, at + int(random.integers(1, 8)))
        (done,) = market.compute(now=close_of(series, at), symbols=("BTCUSDT",))
        assert done.inserted == done.stale and done.changed == 0
    market.compute(now=NOW, symbols=("REF",), full=True)
    deviation = largest_deviation(market.features(), market.features("REF"))
    assert deviation < TOLERANCE, f"seed {seed}: {deviation:.1e}"


@pytest.mark.parametrize("seed", range(5))
def test_restricted_runs_and_then_an_unrestricted_one_are_one_full_run(market: Market, seed: int) -> None:
    """Windows and symbols decide when a bar is computed, never to what."""
    random = np.random.default_rng(seed)
    series = {symbol: random_bars(random, 900, symbol=symbol) for symbol in ("A", "B", "C")}
    market.ingest(*series.values(), now=NOW)
    for step in range(10):
        symbols = tuple(random.choice(["A", "B", "C"], random.integers(1, 3), replace=False).tolist())
        window = random_window(random, START, close_of(series["A"], 899))
        market.compute(now=NOW, symbols=symbols, window=window)
        symbol = symbols[0]
        series[symbol] = mend = series[symbol]
        rows = random.choice(900, 3, replace=False)
        changed = corrected(take(mend, rows), random)
        for name in ("open", "high", "low", "close", "volume"):
            getattr(series[symbol], name)[sorted(rows)] = getattr(changed, name)
        market.ingest(changed, now=NOW + HOUR * step)
    market.compute(now=NOW)
    market.ingest(*(named(one, f"REF{symbol}") for symbol, one in series.items()), now=NOW)
    market.compute(now=NOW)
    for symbol in series:
        deviation = largest_deviation(market.features(symbol), market.features(f"REF{symbol}"))
        assert deviation < TOLERANCE, f"seed {seed}, {symbol}: {deviation:.1e}"


# --- online values never go back -------------------------------------------------------------------------------------

Stamp = tuple[datetime, datetime]


class Model:
    """What the tables must hold, by the rules alone."""

    def __init__(self) -> None:
        self.history: dict[tuple[str, datetime], tuple[datetime, float]] = {}
        self.online: dict[str, tuple[datetime, datetime, float]] = {}

    def materialize(self, window: Window, now: datetime) -> tuple[int, int, int, int]:
        """Return entities, written, unchanged, older."""
        first, last = window.start, window.end or now
        newest: dict[str, tuple[datetime, datetime, float]] = {}
        for (symbol, event), (created, value) in self.history.items():
            if event <= last and (first is None or event >= first):
                newest[symbol] = max(newest.get(symbol, (event, created, value)), (event, created, value))
        written = older = 0
        for symbol, row in newest.items():
            before = self.online.get(symbol)
            if before and row[:2] < before[:2]:
                older += 1
            elif row != before:
                self.online[symbol] = row
                written += 1
        return len(newest), written, len(newest) - written - older, older


def write(market: Market, symbol: str, event: datetime, created: datetime, value: float) -> None:
    market.connection.execute(
        f"INSERT INTO {TECHNICAL} (symbol, timeframe, event_timestamp, created_timestamp, ema_20) "
        "VALUES (%s, '1h', %s, %s, %s) ON CONFLICT (symbol, timeframe, event_timestamp) "
        "DO UPDATE SET created_timestamp = excluded.created_timestamp, ema_20 = excluded.ema_20".encode(),
        (symbol, event, created, value),
    )


def online_rows(market: Market) -> dict[str, tuple[datetime, datetime, float]]:
    columns = "symbol, event_timestamp, created_timestamp, ema_20"
    rows = market.connection.execute(f"SELECT {columns} FROM {ONLINE}".encode())
    return {symbol: (event, created, value) for symbol, event, created, value in rows}


@pytest.mark.parametrize("seed", range(12))
def test_a_backfill_never_moves_an_online_value_backwards(market: Market, seed: int) -> None:
    """Late rows, corrections, windows old and new in any order: online is what the rules say, and never goes back."""
    random, model = np.random.default_rng(seed), Model()
    symbols = [f"S{number}" for number in range(int(random.integers(1, 6)))]
    created = NOW - HOUR
    for step in range(60):
        kind, symbol = random.random(), str(random.choice(symbols))
        created += MICROSECOND * int(random.integers(0, 3))
        if kind < 0.5 or not model.history:
            event = START + HOUR * int(random.integers(0, 40))
            stamp = max(created, model.history.get((symbol, event), (START,))[0] + MICROSECOND)
            model.history[symbol, event] = (stamp, float(step))
            write(market, symbol, event, stamp, float(step))
            continue
        window = Window(None, None) if kind < 0.6 else random_window(random, START, START + 40 * HOUR)
        if kind < 0.7 and window.start:  # ends exactly on rows
            window = Window(START + HOUR * int(random.integers(0, 20)), START + HOUR * int(random.integers(20, 40)))
        before = online_rows(market)
        done = online(market, window)
        counted = (done.entities, done.written, done.unchanged, done.older)
        assert counted == model.materialize(window, NOW), f"seed {seed}, step {step}, {window}"
        after = online_rows(market)
        assert after == model.online, f"seed {seed}, step {step}, {window}"
        for name, row in before.items():
            assert after[name][:2] >= row[:2], f"seed {seed}, step {step}: {name} went back"
    # Whatever was left out by windows, one incremental run brings in.
    online(market)
    newest = {symbol: max(event for name, event in model.history if name == symbol) for symbol, _ in model.history}
    wanted = {symbol: (event, *model.history[symbol, event]) for symbol, event in newest.items()}
    assert online_rows(market) == wanted, f"seed {seed}"


@pytest.mark.parametrize("seed", range(4))
def test_reading_online_and_reading_history_agree(market: Market, seed: int) -> None:
    """As of any instant at or after the online row's, both give the newest row; before it, the history answers."""
    random = np.random.default_rng(seed)
    series = random_bars(random, 60)
    market.ingest(series, now=NOW)
    market.compute(now=NOW)
    online(market, Window(None, close_of(series, 49)), now=close_of(series, 49))
    features, closes = market.features(), closed_at(series)
    for _ in range(60):
        as_of = START + (closes[49] - START) * random.random() * 1.05
        if random.random() < 0.3:
            as_of = closes[int(random.integers(0, 50))] + MICROSECOND * int(random.integers(-1, 2))
        (row,) = market.read_online([select(market.view)], [EntityId("BTCUSDT", "1h")], as_of=as_of)
        known = [event for event in closes[:50] if event <= as_of]
        view = row.views[0]
        assert view.event_timestamp == (known[-1] if known else None), f"seed {seed}, {as_of}"
        if known and as_of - known[-1] <= HOUR:
            assert view.features == features[known[-1]], f"seed {seed}, {as_of}"
        else:
            assert set(view.features.values()) == {None}


def test_an_online_value_serves_from_its_event_to_the_end_of_its_ttl_to_the_microsecond(market: Market) -> None:
    series = random_bars(np.random.default_rng(0), 40)
    market.ingest(series, now=NOW)
    market.compute(now=NOW)
    online(market)
    before, last = close_of(series, 38), close_of(series, 39)
    for offset, event, source, status in (
        (-MICROSECOND, before, Source.TIMESCALEDB, Status.PRESENT),
        (timedelta(0), last, Source.ONLINE, Status.PRESENT),
        (HOUR, last, Source.ONLINE, Status.PRESENT),
        (HOUR + MICROSECOND, last, Source.ONLINE, Status.OUTSIDE_MAX_AGE),
    ):
        entities, selections = [EntityId("BTCUSDT", "1h")], [select(market.view)]
        (row,) = market.read_online(selections, entities, as_of=last + offset)
        (view,) = row.views
        assert (view.event_timestamp, view.source, set(view.statuses.values())) == (event, source, {status}), offset
        wanted = market.features()[event]
        assert view.features == (wanted if status is Status.PRESENT else dict.fromkeys(FEATURES)), offset
        (row,) = market.read_online(selections, entities, as_of=last + offset, allow_stale=True)
        assert row.views[0].features == wanted, offset


# --- running again ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_running_anything_again_changes_nothing(market: Market, seed: int) -> None:
    """Whole tables, created timestamps included, are row for row what they were."""
    random = np.random.default_rng(seed)
    series = [random_bars(random, 500, symbol=name) for name in ("A", "B")]
    holes = take(series[1], np.flatnonzero(random.random(500) > 0.05))
    market.ingest(series[0], holes, now=NOW)
    market.compute(now=NOW)
    market.ingest(fixed := corrected(take(series[0], random.choice(500, 5, replace=False)), random), now=NOW + HOUR)
    market.compute(now=NOW + HOUR)
    online(market)
    steps: dict[str, Any] = {
        "ingest": lambda now: market.ingest(fixed, holes, now=now),
        "compute": lambda now: market.compute(now=now),
        "compute a window": lambda now: market.compute(now=now, window=random_window(random, START, NOW)),
        "materialize": lambda now: online(market, now=now),
        "materialize a window": lambda now: online(market, random_window(random, START, NOW), now=now),
    }
    before = state(market)
    assert [len(rows) for rows in before] == [500 + len(holes), 500 + len(holes), 2]
    for number, name in enumerate(random.permutation(list(steps) * 3)):
        steps[name](NOW + HOUR * number)
        assert state(market) == before, f"seed {seed}: {name} changed something"


@pytest.mark.parametrize("seed", range(3))
def test_a_full_run_again_changes_nothing(market: Market, seed: int) -> None:
    """The same bars give the same bits, so that not even a full run writes a row twice."""
    random = np.random.default_rng(seed)
    market.ingest(random_bars(random, 900), now=NOW)
    window = random_window(random, START, START + 900 * HOUR)
    market.compute(now=NOW, full=True)
    market.compute(now=NOW, full=True, window=window)
    before = state(market)
    (done,) = market.compute(now=NOW + HOUR, full=True, window=window)
    assert (done.inserted, done.changed) == (0, 0)
    assert state(market) == before, f"seed {seed}"


def state(market: Market) -> list[list[tuple[Any, ...]]]:
    return [whole_table(market.connection, table) for table in ("market.candles", TECHNICAL, ONLINE)]


def test_the_online_table_is_the_views_own(market: Market) -> None:
    """What the tests above look at is what the catalog names."""
    view: View = market.view
    assert view.online_table == ONLINE and view.source_table == TECHNICAL
    assert [field.name for field in view.fields] == list(FEATURES)
    assert table_identifier(ONLINE).as_string() == '"online"."market__technical_indicators_view"'
