"""Bars to features: which bars count, what is computed again, and what the table then holds."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from featurectl.core.compute import Computed
from featurectl.core.entity import TIMEFRAMES
from featurectl.core.locks import lock
from featurectl.core.times import Window
from featurectl.errors import DefinitionError, LockHeld, NotFound, UsageError
from tests.fix_repository import Repo
from tests.market import (
    FEATURES,
    HOUR,
    MICROSECOND,
    START,
    TECHNICAL,
    Market,
    bars,
    close_of,
    closed_at,
    corrected,
    largest_deviation,
    named,
    random_bars,
    take,
    whole_table,
)

NOW = START + timedelta(days=400)


@pytest.fixture
def market(repo: Repo) -> Iterator[Market]:
    with repo.connect() as connection:
        yield Market(repo, connection, warmup=60)


def counts(results: list[Computed]) -> list[tuple[str, int, int, int, int]]:
    return [(one.entity, one.rows, one.stale, one.inserted, one.changed) for one in results]


def test_a_bar_becomes_a_row_at_its_close(market: Market) -> None:
    series = bars(range(100, 140))
    market.ingest(series, now=NOW)
    assert counts(market.compute(now=NOW)) == [("BTCUSDT_1h", 40, 40, 40, 0)]
    rows = market.features()
    assert list(rows) == closed_at(series)
    assert next(iter(rows)) == START + HOUR
    assert rows[close_of(series, 19)]["ema_20"] == 109.5
    assert set(next(iter(rows.values())).values()) == {None}


def test_the_close_is_the_open_and_the_timeframe(market: Market) -> None:
    market.ingest(*(bars(range(1, 6), timeframe=name) for name in TIMEFRAMES), now=NOW)
    market.compute(now=NOW)
    for name, length in TIMEFRAMES.items():
        assert list(market.features(timeframe=name)) == [START + length * (at + 1) for at in range(5)], name


@pytest.mark.parametrize("timeframe", ["1m", "1h", "1d", "1w"])
def test_a_bar_counts_from_the_microsecond_it_closes(market: Market, timeframe: str) -> None:
    series = bars(range(1, 31), timeframe=timeframe)
    market.ingest(series, now=NOW)
    close = close_of(series, 24)
    (before,) = market.compute(now=close - MICROSECOND)
    assert (before.rows, before.inserted) == (24, 24)
    assert max(market.features(timeframe=timeframe)) == close_of(series, 23)
    (after,) = market.compute(now=close)
    assert (after.rows, after.stale, after.inserted, after.changed) == (25, 1, 1, 0)
    assert max(market.features(timeframe=timeframe)) == close


def test_an_open_bar_is_not_computed_even_when_everything_is(market: Market) -> None:
    series = bars(range(1, 31))
    market.ingest(series, now=NOW)
    now = close_of(series, 24) + timedelta(minutes=59)
    market.compute(now=now, full=True, window=Window(START, close_of(series, 29)))
    assert max(market.features()) == close_of(series, 24)


def test_an_open_bar_does_not_colour_closed_ones(market: Market) -> None:
    series = random_bars(np.random.default_rng(1), 50)
    market.ingest(series, named(take(series, range(40)), "CUT"), now=NOW)
    market.compute(now=close_of(series, 39))
    assert market.features() == market.features("CUT")


def test_only_new_bars_are_computed(market: Market) -> None:
    series = random_bars(np.random.default_rng(2), 100)
    market.ingest(take(series, range(90)), now=NOW)
    market.compute(now=NOW)
    before = market.features()
    market.ingest(series, now=NOW)
    assert counts(market.compute(now=NOW)) == [("BTCUSDT_1h", 100, 10, 10, 0)]
    after = market.features()
    assert {event: after[event] for event in before} == before
    assert counts(market.compute(now=NOW)) == [("BTCUSDT_1h", 100, 0, 0, 0)]


def test_a_corrected_bar_recomputes_itself_and_the_warm_up_after_it(market: Market) -> None:
    series = random_bars(np.random.default_rng(3), 200)
    market.ingest(series, now=NOW)
    market.compute(now=NOW)
    before = market.connection.execute(f"SELECT * FROM {TECHNICAL} ORDER BY event_timestamp".encode()).fetchall()
    market.ingest(corrected(take(series, [100]), np.random.default_rng(0)), now=NOW + HOUR)
    assert counts(market.compute(now=NOW + HOUR)) == [("BTCUSDT_1h", 200, 1, 0, 61)]
    after = market.connection.execute(f"SELECT * FROM {TECHNICAL} ORDER BY event_timestamp".encode()).fetchall()
    assert [at for at in range(200) if before[at] != after[at]] == list(range(100, 161))


def test_a_correction_that_alters_no_feature_is_noticed_once(market: Market) -> None:
    series = bars(range(100, 140))
    market.ingest(series, now=NOW)
    market.compute(now=NOW)
    before = market.features()
    market.connection.execute(
        b"UPDATE market.candles SET trade_count = 7, created_timestamp = %s WHERE open_time = %s", (NOW + HOUR, START)
    )
    assert counts(market.compute(now=NOW + HOUR))[0][2:] == (1, 0, 1)
    assert counts(market.compute(now=NOW + HOUR))[0][2:] == (0, 0, 0)
    assert market.features() == before


def test_a_late_bar_fills_its_gap_and_corrects_what_follows(market: Market) -> None:
    series = random_bars(np.random.default_rng(4), 120)
    market.ingest(take(series, [*range(50), *range(53, 120)]), named(series, "WHOLE"), now=NOW)
    market.compute(now=NOW)
    with_gap = market.features()
    assert len(with_gap) == 117
    market.ingest(take(series, range(50, 53)), now=NOW)
    assert counts(market.compute(now=NOW))[0] == ("BTCUSDT_1h", 120, 3, 3, 60)
    assert with_gap[close_of(series, 53)] != market.features()[close_of(series, 53)]
    # What the hole did to bars further than the warm-up away is all that may be left of it.
    near = closed_at(series)[:113]
    found, wanted = market.features(), market.features("WHOLE")
    assert largest_deviation({at: found[at] for at in near}, {at: wanted[at] for at in near}) < 1e-9


def test_older_history_put_before_a_series_fills_its_first_bars(market: Market) -> None:
    series = random_bars(np.random.default_rng(5), 100)
    market.ingest(take(series, range(40, 100)), named(series, "WHOLE"), now=NOW)
    market.compute(now=NOW)
    assert market.features()[close_of(series, 45)]["rsi_14"] is None
    market.ingest(take(series, range(40)), now=NOW)
    assert counts(market.compute(now=NOW))[0] == ("BTCUSDT_1h", 100, 40, 40, 60)
    assert largest_deviation(market.features(), market.features("WHOLE")) < 1e-9


def test_equal_clocks_do_not_hide_a_second_correction(market: Market) -> None:
    """Each write of a row moves its created timestamp on, if only by a microsecond."""
    series, random = random_bars(np.random.default_rng(6), 60), np.random.default_rng(0)
    market.ingest(series, now=NOW)
    market.compute(now=NOW)
    last = take(series, [59])
    for number in range(1, 4):
        last = corrected(last, random)
        market.ingest(last, now=NOW)
        assert counts(market.compute(now=NOW))[0][2:] == (1, 0, 1)
        ((created, source_created),) = market.connection.execute(
            f"SELECT created_timestamp, source_created_timestamp FROM {TECHNICAL} WHERE event_timestamp = %s".encode(),
            (close_of(series, 59),),
        )
        assert created == source_created == NOW + number * MICROSECOND
    market.ingest(named(take(series, range(59)), "REF"), named(last, "REF"), now=NOW)
    market.compute(now=NOW)
    assert market.features() == market.features("REF")


def test_a_clock_that_goes_back_hides_nothing_and_moves_no_created_timestamp_back(market: Market) -> None:
    series = random_bars(np.random.default_rng(7), 40)
    market.ingest(series, now=NOW)
    market.compute(now=NOW)
    market.ingest(corrected(take(series, [39]), np.random.default_rng(0)), now=NOW - HOUR)
    assert counts(market.compute(now=NOW - HOUR))[0][2:] == (1, 0, 1)
    ((newest,),) = market.connection.execute(f"SELECT max(created_timestamp) FROM {TECHNICAL}".encode())
    assert newest == NOW + MICROSECOND


def test_a_window_is_of_closes_and_both_its_ends_belong_to_it(market: Market) -> None:
    series = bars(range(100, 150))
    market.ingest(series, now=NOW)
    window = Window(close_of(series, 10), close_of(series, 12))
    assert counts(market.compute(now=NOW, window=window))[0][2] == 3
    market.ingest(named(series, "FULL"), now=NOW)
    market.compute(now=NOW, symbols=("FULL",), full=True, window=window)
    assert list(market.features("FULL")) == [close_of(series, at) for at in (10, 11, 12)]
    inside = Window(window.start + MICROSECOND, window.end - MICROSECOND)  # type: ignore[operator]
    market.ingest(named(series, "INSIDE"), now=NOW)
    market.compute(now=NOW, symbols=("INSIDE",), full=True, window=inside)
    assert list(market.features("INSIDE")) == [close_of(series, 11)]


def test_bars_outside_the_window_are_computed_again_only_where_they_were_up_to_date(market: Market) -> None:
    """A stale bar outside it stays stale, so that a later run takes what it influences along."""
    market = replace(market, warmup=400)
    series = random_bars(np.random.default_rng(10), 1000)
    market.ingest(series, now=NOW)
    market.compute(now=NOW)
    final = corrected(take(series, [50, 400]), np.random.default_rng(0))
    market.ingest(final, now=NOW + HOUR)
    window = Window(close_of(series, 40), close_of(series, 60))
    assert counts(market.compute(now=NOW + HOUR, window=window))[0][2:] == (1, 0, 400)
    assert counts(market.compute(now=NOW + HOUR))[0][2:] == (1, 0, 351)
    others = take(series, [at for at in range(1000) if at not in (50, 400)])
    market.ingest(named(others, "REF"), named(final, "REF"), now=NOW)
    market.compute(now=NOW)
    assert largest_deviation(market.features(), market.features("REF")) < 1e-9


def test_a_window_uses_the_history_before_it(market: Market) -> None:
    series = random_bars(np.random.default_rng(8), 100)
    market.ingest(series, named(series, "WHOLE"), now=NOW)
    market.compute(now=NOW, symbols=("BTCUSDT",), window=Window(close_of(series, 55), None))
    market.compute(now=NOW, symbols=("WHOLE",))
    whole = market.features("WHOLE")
    assert market.features() == {event: whole[event] for event in closed_at(series)[55:]}


def test_symbols_and_timeframes_choose_series(market: Market) -> None:
    closes = range(100, 130)
    series = [bars(closes, symbol=symbol, timeframe=timeframe) for symbol in ("A", "B") for timeframe in ("1h", "4h")]
    market.ingest(*series, now=NOW)
    assert [one[0] for one in counts(market.compute(now=NOW, symbols=("B",), timeframes=("4h",)))] == ["B_4h"]
    assert [one[0] for one in counts(market.compute(now=NOW, timeframes=("4h",)))] == ["A_4h", "B_4h"]
    assert [(one[0], one[3]) for one in counts(market.compute(now=NOW))] == [
        ("A_1h", 30), ("A_4h", 0), ("B_1h", 30), ("B_4h", 0)
    ]  # fmt: skip
    with pytest.raises(NotFound, match="symbol 'C' not found; symbols: A, B"):
        market.compute(now=NOW, symbols=("C",))
    with pytest.raises(NotFound, match="timeframe '1d' not found"):
        market.compute(now=NOW, timeframes=("1d",))


def test_no_candles_are_no_work(market: Market) -> None:
    assert market.compute(now=NOW) == []
    market.ingest(bars(range(1, 5)), now=NOW)
    assert counts(market.compute(now=START)) == [("BTCUSDT_1h", 0, 0, 0, 0)]
    assert market.features() == {}


def test_undefined_values_are_null(market: Market) -> None:
    """A band without width, a mean volume of nothing: null, and no NaN or infinity in any row of the table."""
    market.ingest(bars([5.0] * 50, volume=[*[3.0] * 20, *[0.0] * 30], spread=0), now=NOW)
    market.compute(now=NOW)
    rows = list(market.features().values())
    assert {row["bollinger_bands_position"] for row in rows} == {None}
    assert [row["volume_sma_ratio"] for row in rows[18:21]] == [None, 1.0, 0.0]
    assert {row["volume_sma_ratio"] for row in rows[39:]} == {None}
    assert rows[-1]["ema_20"] == 5.0 and rows[-1]["atr"] == 0.0


def test_what_a_function_makes_of_infinity_is_null(market: Market) -> None:
    functions(market).write_text(
        "import numpy as np\n"
        + "\n".join(f"def {name}(close): return close * np.nan" for name in FEATURES[2:])
        + "\ndef rsi_14(close): return np.where(close > 2, np.inf, -np.inf)"
        + "\ndef macd(close): return np.where(close > 2, close, np.nan)",
        encoding="utf-8",
    )
    market.ingest(bars([1.0, 2.0, 3.0]), now=NOW)
    market.compute(now=NOW)
    assert [tuple(row.values()) for row in market.features().values()] == [
        (None, None, None, None, None, None),
        (None, None, None, None, None, None),
        (None, 3.0, None, None, None, None),
    ]


def test_a_function_that_fails_leaves_its_series_as_it_was(market: Market) -> None:
    series = bars(range(100, 140))
    market.ingest(take(series, range(30)), now=NOW)
    market.compute(now=NOW)
    before = whole_table(market.connection, TECHNICAL)
    market.ingest(series, now=NOW)
    file = functions(market)
    good = file.read_text(encoding="utf-8")
    file.write_text(f"{good}\n\ndef atr(high): return high[1:]\n", encoding="utf-8")
    with pytest.raises(DefinitionError, match=r"indicators.py: atr returned shape \(39,\) for 40 rows"):
        market.compute(now=NOW)
    assert whole_table(market.connection, TECHNICAL) == before
    file.write_text(good, encoding="utf-8")
    assert counts(market.compute(now=NOW))[0][2:] == (10, 10, 0)


def test_the_connection_is_as_it_was_after_a_run(market: Market) -> None:
    market.ingest(bars(range(100, 140)), now=NOW)
    market.compute(now=NOW)
    assert market.connection.autocommit and market.connection.isolation_level is None
    assert market.connection.execute("SELECT to_regclass('pg_temp.staged_features')").fetchone() == (None,)


def test_a_second_run_is_refused_while_one_is_at_work(market: Market) -> None:
    market.ingest(bars(range(100, 140)), now=NOW)
    with market.repo.connect() as other, lock(other, f"compute {TECHNICAL}"):
        with pytest.raises(LockHeld, match="locked by another session"):
            market.compute(now=NOW)
        assert market.features() == {}
    assert counts(market.compute(now=NOW))[0][3] == 40


def test_bars_that_arrive_during_a_run_wait_for_the_next(market: Market) -> None:
    """A run reads one state of the candles: a bar corrected between its two reads is not marked as done."""
    series = random_bars(np.random.default_rng(9), 80)
    market.ingest(series, now=NOW)
    reading, written = threading.Event(), threading.Event()

    def correct() -> None:
        reading.wait(20)
        with market.repo.connect() as other:
            late = corrected(take(series, [70]), np.random.default_rng(0))
            Market(market.repo, other).ingest(late, now=NOW + HOUR)
        written.set()

    import featurectl.core.compute.candles as module

    original = module._Series._write

    def slow_write(job: object, *arguments: object) -> object:
        reading.set()
        assert written.wait(20)
        return original(job, *arguments)  # type: ignore[arg-type]

    thread = threading.Thread(target=correct)
    thread.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module._Series, "_write", slow_write)
        assert counts(market.compute(now=NOW))[0][2:] == (80, 80, 0)
    thread.join()
    assert counts(market.compute(now=NOW))[0][2:] == (1, 0, 10)


def test_a_project_without_computed_views_is_told_how_to_have_one(market: Market) -> None:
    object.__setattr__(market, "catalog", replace(market.catalog, views=()))
    with pytest.raises(UsageError, match="no view is computed; tag one with computed_from=candles"):
        market.compute(now=NOW)


def functions(market: Market) -> Path:
    return market.repo.root / (market.view.functions_file or "")


def mark(market: Market, **values: float) -> None:
    """Put numbers into the feature rows that no function gives, so that a column that is written again shows."""
    for name, value in values.items():
        market.connection.execute(f"UPDATE {TECHNICAL} SET {name} = {value}".encode())


def column(market: Market, name: str) -> set[float | None]:
    return {row[name] for row in market.features().values()}


def edit_function(market: Market, before: str, after: str) -> None:
    text = functions(market).read_text(encoding="utf-8")
    assert text.count(before) == 1
    functions(market).write_text(text.replace(before, after), encoding="utf-8")


def test_a_changed_function_rewrites_its_own_column_only(market: Market) -> None:
    market.ingest(bars(range(100, 140)), now=NOW)
    market.compute(now=NOW)
    mark(market, rsi_14=-1, ema_20=-2)
    edit_function(market, "talib.EMA(close, timeperiod=20)", "talib.EMA(close, timeperiod=20) + 1")
    assert counts(market.compute(now=NOW))[0][2:] == (40, 0, 40)
    assert column(market, "rsi_14") == {-1}
    assert market.features()[START + 20 * HOUR]["ema_20"] == 110.5
    assert counts(market.compute(now=NOW))[0][2:] == (0, 0, 0)


def test_new_bars_and_a_changed_function_in_one_run(market: Market) -> None:
    market = replace(market, warmup=1000)
    series = random_bars(np.random.default_rng(4), 200)
    market.ingest(take(series, range(150)), now=NOW)
    market.compute(now=NOW)
    market.ingest(series, named(series, "REF"), now=NOW)
    edit_function(market, "talib.EMA(close, timeperiod=20)", "talib.EMA(close, timeperiod=20) + 1")
    market.compute(now=NOW)
    assert largest_deviation(market.features(), market.features("REF")) < 1e-9


def test_what_functions_share_makes_all_of_them_stale(market: Market) -> None:
    market.ingest(bars(range(100, 140)), now=NOW)
    market.compute(now=NOW)
    mark(market, rsi_14=-1)
    functions(market).write_text(functions(market).read_text() + "\n\nSHARED = 1\n", encoding="utf-8")
    market.compute(now=NOW)
    assert -1 not in column(market, "rsi_14")


def test_features_named_are_computed_where_there_are_rows(market: Market) -> None:
    series = bars(range(100, 140))
    market.ingest(take(series, range(30)), now=NOW)
    market.compute(now=NOW)
    mark(market, rsi_14=-1, ema_20=-2)
    market.ingest(series, now=NOW)
    assert counts(market.compute(now=NOW, features=("rsi_14",)))[0][2:] == (0, 0, 0)
    assert counts(market.compute(now=NOW, features=("rsi_14",), full=True))[0][2:] == (30, 0, 30)
    assert -1 not in column(market, "rsi_14") and column(market, "ema_20") == {-2}
    # The ten new bars have waited, and no feature has been forgotten about them.
    assert counts(market.compute(now=NOW))[0][2:] == (10, 10, 0)
    with pytest.raises(NotFound, match="computed feature 'rsi' not found; computed features: atr, "):
        market.compute(now=NOW, features=("rsi",))


def test_features_outlive_the_candles_that_retention_took(market: Market) -> None:
    """What can't be computed as it was stays as it is, whatever is asked for."""
    market = replace(market, warmup=500)
    series = random_bars(np.random.default_rng(5), 800)
    market.ingest(series, now=NOW)
    market.compute(now=NOW)
    before = market.features()
    cut = START + 100 * HOUR
    market.connection.execute(b"DELETE FROM market.candles WHERE open_time < %s", (cut,))
    mark(market, ema_20=-2)
    market.compute(now=NOW, full=True)
    after = market.features()
    assert after.keys() == before.keys()
    kept = {event for event, row in after.items() if row["ema_20"] == -2}
    # The first bar that is left closes an hour after the cut; after the warm-up of 500 bars nothing is missing.
    assert kept == {event for event in before if event < cut + 501 * HOUR}
    assert largest_deviation(
        {event: row for event, row in after.items() if event not in kept},
        {event: row for event, row in before.items() if event not in kept},
    ) < 1e-9  # fmt: skip


@pytest.fixture
def long_market(market: Market, monkeypatch: pytest.MonkeyPatch) -> Market:
    """A market of which only the newest 50 bars are compared one by one."""
    monkeypatch.setattr("featurectl.core.compute.candles.LOOKBACK", 50)
    return market


def test_a_run_looks_at_the_newest_bars_only(long_market: Market) -> None:
    series = random_bars(np.random.default_rng(6), 400)
    long_market.ingest(take(series, range(390)), now=NOW)
    assert counts(long_market.compute(now=NOW)) == [("BTCUSDT_1h", 390, 390, 390, 0)]
    long_market.compute(now=NOW)  # the changes that the first run saw, it had not noted before
    assert counts(long_market.compute(now=NOW)) == [("BTCUSDT_1h", 110, 0, 0, 0)]
    long_market.connection.execute(
        b"UPDATE market.candles SET close = close * 1.01, created_timestamp = %s WHERE open_time >= %s",
        (NOW + HOUR, START + 380 * HOUR),
    )
    assert counts(long_market.compute(now=NOW))[0][2:] == (10, 0, 10)


def test_bars_that_ingest_corrected_are_found_wherever_they_are(long_market: Market) -> None:
    long_market = replace(long_market, warmup=300)
    series = random_bars(np.random.default_rng(7), 1500)
    long_market.ingest(series, now=NOW)
    long_market.compute(now=NOW)
    late = corrected(take(series, [700, 1100]), np.random.default_rng(0))
    long_market.ingest(late, now=NOW + HOUR)
    assert counts(long_market.compute(now=NOW + HOUR))[0][2:] == (2, 0, 602)
    assert counts(long_market.compute(now=NOW + HOUR))[0][2:] == (0, 0, 0)
    long_market.ingest(named(series, "REF"), named(late, "REF"), now=NOW)
    long_market.compute(now=NOW)
    assert largest_deviation(long_market.features(), long_market.features("REF")) < 1e-6


def test_changes_wait_for_every_timeframe(long_market: Market) -> None:
    series = [random_bars(np.random.default_rng(8), 400, timeframe=name) for name in ("1h", "4h")]
    long_market.ingest(*series, now=NOW)
    long_market.compute(now=NOW)
    for one in series:
        long_market.ingest(corrected(take(one, [20]), np.random.default_rng(0)), now=NOW + HOUR)
    assert counts(long_market.compute(now=NOW + HOUR, timeframes=("1h",)))[0][2:] == (1, 0, 61)
    assert [one[2:] for one in counts(long_market.compute(now=NOW + HOUR))] == [(0, 0, 0), (1, 0, 61)]


def test_rows_that_retention_deletes_are_not_made_again(market: Market) -> None:
    market = replace(market, warmup=1000)
    series = random_bars(np.random.default_rng(9), 400)
    market.ingest(series, now=NOW)
    now, life = close_of(series, 399), 100 * HOUR
    drop_after = {TECHNICAL: life}
    assert counts(market.compute(now=now, drop_after=drop_after)) == [("BTCUSDT_1h", 400, 101, 101, 0)]
    assert min(market.features()) == now - life
    for request in ({}, {"full": True}):
        assert counts(market.compute(now=now + HOUR, drop_after=drop_after, **request))[0][3:] == (0, 0), request
    edit_function(market, "talib.EMA(close, timeperiod=20)", "talib.EMA(close, timeperiod=20) + 1")
    assert counts(market.compute(now=now + HOUR, drop_after=drop_after))[0][2:] == (100, 0, 100)
    assert counts(market.compute(now=now + HOUR, drop_after=drop_after))[0][2:] == (0, 0, 0)
