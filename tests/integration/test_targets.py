"""Targets of training sets, over windows and spines, against what pandas makes of the same candles."""

from __future__ import annotations

import csv
import os
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest

from featurectl.core import retrieval
from featurectl.core.arrow import ArrowConnection
from featurectl.core.entity import TIMEFRAMES, EntityId
from featurectl.core.targets import KINDS, parse_targets
from featurectl.core.times import Window
from featurectl.core.training import Wanted, over_spine, over_window, spine_of
from featurectl.errors import InputFileError, InvalidEntityId, UsageError
from tests.fix_repository import Repo
from tests.market import MICROSECOND, START, Market, random_bars, select

SEED = int(os.environ.get("FEATURECTL_TEST_SEED") or np.random.SeedSequence().entropy % 2**32)  # type: ignore[operator]


def insert_candles(market: Market, symbol: str, timeframe: str, closes: dict[datetime, float]) -> None:
    with market.connection.cursor() as cursor:
        cursor.executemany(
            b"INSERT INTO market.candles (symbol, timeframe, open_time, open, high, low, close, volume) "
            b"VALUES (%s, %s, %s, 1, 1, 1, %s, 1)",
            [(symbol, timeframe, at, close) for at, close in closes.items()],
        )


def insert_rows(market: Market, symbol: str, timeframe: str, times: list[datetime]) -> None:
    with market.connection.cursor() as cursor:
        cursor.executemany(
            b"INSERT INTO features.technical_indicators (symbol, timeframe, event_timestamp, rsi_14) "
            b"VALUES (%s, %s, %s, 50)",
            [(symbol, timeframe, at) for at in times],
        )


def random_closes(random: np.random.Generator, timeframe: str) -> dict[datetime, float]:
    """Return 60 bars with gaps, and prices that at times stay what they were."""
    closes = random.choice([90.0, 100.0, 100.5], 60) * np.where(
        random.random(60) < 0.5, 1, random.uniform(0.9, 1.1, 60)
    )
    step = TIMEFRAMES[timeframe]
    return {START + n * step: float(close) for n, close in enumerate(closes) if random.random() < 0.85}


def by_pandas(closes: dict[datetime, float], step: timedelta, at: list[datetime], now: datetime, ahead: int) -> Any:
    """Return base and future closes at instants: an as-of merge on the close times, and a lookup by open time."""
    bars = pd.Series(closes, dtype=float)
    bars.index = pd.DatetimeIndex(bars.index, tz="UTC").as_unit("us")
    bars = bars[bars.index + step <= pd.Timestamp(now)]
    known = pd.DataFrame({"at": bars.index + step, "opened": bars.index, "base": bars.to_numpy()})
    rows = pd.DataFrame({"at": pd.DatetimeIndex(at, tz="UTC").as_unit("us"), "row": range(len(at))}).sort_values("at")
    merged = pd.merge_asof(rows, known, on="at", tolerance=step - MICROSECOND).sort_values("row")
    future = bars.reindex(merged["opened"] + ahead * step).to_numpy()
    return merged["base"].to_numpy(), np.where(merged["opened"].isna(), np.nan, future)


def outcome(kind: str, base: Any, future: Any) -> Any:
    if kind == "log_return":
        return np.log(future) - np.log(base)
    return future / base - 1 if kind == "forward_return" else np.sign(future / base - 1)


def test_targets_of_a_spine_are_what_pandas_makes_of_the_candles(
    market: Market, arrow: ArrowConnection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every timeframe, bars missing, instants at closes, a microsecond beside them and between; the future unknown."""
    print(f"FEATURECTL_TEST_SEED={SEED}")
    random = np.random.default_rng(SEED)
    monkeypatch.setattr(retrieval, "BATCH_ROWS", 100)
    series = {(symbol, timeframe): random_closes(random, timeframe) for symbol in "AB" for timeframe in TIMEFRAMES}
    for (symbol, timeframe), closes in series.items():
        insert_candles(market, symbol, timeframe, closes)
    now = START + timedelta(days=40, hours=7, minutes=30)
    rows = []
    for symbol, timeframe in [*series] * 40:
        step = TIMEFRAMES[timeframe]
        between = random.choice([0, 0, -1, 1, int(random.integers(0, step // MICROSECOND))])
        rows.append((symbol, timeframe, START + int(random.integers(-3, 66)) * step + int(between) * MICROSECOND))
    rows += [("A", "7m", START), ("C", "1h", START), (None, "1h", START), ("A", None, START), ("A", "1h", None)]
    random.shuffle(rows)
    symbols, timeframes, times = zip(*rows, strict=True)
    table = pa.table(
        {
            "label": range(len(rows)),
            "symbol": pa.array(symbols, pa.string()),
            "timeframe": pa.array(timeframes, pa.string()),
            "event_timestamp": pa.array(times, pa.timestamp("us", tz="UTC")),
        }
    )
    pyarrow.parquet.write_table(table, tmp_path / "spine.parquet")
    ahead = [1, int(random.integers(2, 30))]
    targets = parse_targets([f"{kind}:{bars}" for kind in KINDS for bars in ahead])
    wanted = Wanted((select(market.catalog.view("sentiment_features_view")),), targets, now)
    spine = spine_of(tmp_path / "spine.parquet", market.catalog, wanted)
    with arrow.transaction():
        table = over_spine(arrow, market.connection, wanted, spine).table()
    found = table.to_pandas()
    assert found["label"].tolist() == list(range(len(rows)))
    seen = 0
    for (symbol, timeframe), closes in series.items():
        chosen = found[(found["symbol"] == symbol) & (found["timeframe"] == timeframe)].dropna(subset="event_timestamp")
        at = [time.to_pydatetime() for time in chosen["event_timestamp"]]
        for target in targets:
            expected = outcome(target.kind, *by_pandas(closes, TIMEFRAMES[timeframe], at, now, target.bars))
            where = f"FEATURECTL_TEST_SEED={SEED}: {symbol}_{timeframe} {target}"
            np.testing.assert_allclose(chosen[target.name], expected, rtol=1e-12, atol=1e-14, err_msg=where)
            seen += np.isfinite(expected).sum()
    assert seen > 1000, "the test looks at nothing"
    known = found["symbol"].isin(["A", "B"]) & found["timeframe"].isin(TIMEFRAMES) & found["event_timestamp"].notna()
    for target in targets:
        assert found.loc[~known, target.name].isna().tolist() == [True] * 5
        assert table[target.name].null_count == found[target.name].isna().sum(), "NaN in place of null"


def test_targets_of_a_window_stand_behind_the_features_of_each_entity(market: Market, arrow: ArrowConnection) -> None:
    series = {
        ("A", "1h"): random_bars(np.random.default_rng(1), 50),
        ("B", "4h"): random_bars(np.random.default_rng(2), 50),
    }
    for (symbol, timeframe), bars in series.items():
        step = TIMEFRAMES[timeframe]
        insert_candles(market, symbol, timeframe, {START + n * step: float(c) for n, c in enumerate(bars.close)})
        insert_rows(market, symbol, timeframe, [START + (n + 1) * step for n in range(50)])
    wanted = Wanted((select(market.view, "rsi_14"),), parse_targets(["forward_return:2"]), START + timedelta(days=30))
    window = Window(START + timedelta(hours=5), START + timedelta(hours=46))
    found = over_window(arrow, market.connection, wanted, [EntityId("B", "4h"), EntityId("A", "1h")], window).table()
    assert found.column_names == ["entity_id", "symbol", "timeframe", "event_timestamp", "rsi_14", "forward_return_2"]
    assert found["entity_id"].to_pylist() == ["B_4h"] * 10 + ["A_1h"] * 42
    expected = [series["B", "4h"].close[n + 3] / series["B", "4h"].close[n + 1] - 1 for n in range(10)]
    expected += [series["A", "1h"].close[n + 6] / series["A", "1h"].close[n + 4] - 1 for n in range(42)]
    assert found["forward_return_2"].to_pylist() == pytest.approx(expected, rel=1e-12)


def test_a_bar_that_is_not_closed_yet_is_no_future_and_no_base(market: Market, arrow: ArrowConnection) -> None:
    """Even where the file that was ingested holds it."""
    hour = timedelta(hours=1)
    insert_candles(market, "A", "1h", {START + n * hour: 100.0 + n for n in range(4)})
    insert_rows(market, "A", "1h", [START + n * hour for n in range(1, 5)])

    def targets(now: datetime) -> list[float | None]:
        wanted = Wanted((select(market.view, "rsi_14"),), parse_targets(["forward_return:1"]), now)
        found = over_window(arrow, market.connection, wanted, [EntityId("A", "1h")], Window(START, START + 9 * hour))
        return found.table()["forward_return_1"].to_pylist()

    first, second, third = 101 / 100 - 1, 102 / 101 - 1, 103 / 102 - 1
    assert targets(START + 4 * hour) == pytest.approx([first, second, third, None])
    assert targets(START + 4 * hour - MICROSECOND) == pytest.approx([first, second, None, None])
    assert targets(START + 2 * hour) == pytest.approx([first, None, None, None])
    assert targets(START) == [None] * 4


def test_candles_are_read_once_a_series_and_only_the_time_that_is_needed(
    market: Market, arrow: ArrowConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    from featurectl.core import targets as module

    hour = timedelta(hours=1)
    insert_candles(market, "A", "1h", {START + n * hour: 100.0 + n for n in range(100)})
    insert_rows(market, "A", "1h", [START + n * hour for n in range(1, 100)])
    read: list[int] = []
    original = module.pgcopy.read

    def counted(*arguments: Any) -> Any:
        arrays = original(*arguments)
        read.append(len(arrays["close"]))
        return arrays

    monkeypatch.setattr(module.pgcopy, "read", counted)
    wanted = Wanted((select(market.view, "rsi_14"),), parse_targets(["direction:1", "direction:5"]), START + 200 * hour)
    window = Window(START + 50 * hour, START + 60 * hour)
    found = over_window(arrow, market.connection, wanted, [EntityId("A", "1h")], window).table()
    assert found["direction_5"].to_pylist() == [1.0] * 11
    assert read == [17], "bars that open from two before the window to four behind it"


# --- what is refused -------------------------------------------------------------------------------------------------


def spine_file(path: Path, header: str, *lines: str) -> Path:
    (path / "spine.csv").write_text("\n".join([header, *lines]) + "\n")
    return path / "spine.csv"


def test_a_spine_without_timeframes_has_no_targets(market: Market, tmp_path: Path) -> None:
    """Though its features need none."""
    path = spine_file(tmp_path, "symbol,event_timestamp", "A,2024-01-01")
    scores = (select(market.catalog.view("sentiment_features_view")),)
    assert spine_of(path, market.catalog, Wanted(scores, (), START)).table.num_rows == 1
    with pytest.raises(InputFileError, match="has neither entity_id nor timeframe; columns: symbol, event_timestamp"):
        spine_of(path, market.catalog, Wanted(scores, parse_targets(["direction:1"]), START))


def test_a_column_of_the_targets_name_is_refused(market: Market, tmp_path: Path) -> None:
    wanted = Wanted((select(market.view),), parse_targets(["direction:1"]), START)
    path = spine_file(tmp_path, "entity_id,event_timestamp,direction_1", "A_1h,2024-01-01,1")
    with pytest.raises(UsageError, match=r"column 'direction_1', which is a feature or target asked for"):
        spine_of(path, market.catalog, wanted)


def test_a_feature_of_the_targets_name_is_refused(market: Market, arrow: ArrowConnection, tmp_path: Path) -> None:
    wanted = Wanted((select(market.view, "rsi_14", "direction_1"),), parse_targets(["direction:1"]), START)
    with pytest.raises(UsageError, match="target 'direction:1' has the name of feature 'direction_1'"):
        over_window(arrow, market.connection, wanted, [EntityId("A", "1h")], Window(START, START))
    path = spine_file(tmp_path, "entity_id,event_timestamp", "A_1h,2024-01-01")
    with pytest.raises(UsageError, match="target 'direction:1' has the name of feature 'direction_1'"):
        spine_of(path, market.catalog, wanted)


def test_a_symbol_alone_has_no_targets(market: Market, arrow: ArrowConnection) -> None:
    scores = (select(market.catalog.view("sentiment_features_view")),)
    wanted = Wanted(scores, parse_targets(["direction:1"]), START)
    with pytest.raises(InvalidEntityId, match=r"'A' is not an entity id; .*for example A_1h: targets are made of bars"):
        over_window(arrow, market.connection, wanted, [EntityId("A", "")], Window(START, START))


# --- the command -----------------------------------------------------------------------------------------------------


def test_every_format_has_the_targets(market: Market, repo: Repo, tmp_path: Path) -> None:
    hour = timedelta(hours=1)
    insert_candles(market, "A", "1h", {START + n * hour: 100.0 + n for n in range(4)})
    insert_rows(market, "A", "1h", [START + hour, START + 3 * hour])
    clock = {"FEATURECTL_NOW": (START + timedelta(days=9)).isoformat()}
    words = ["get-offline", "A_1h", "--start", START.isoformat(), "--end", "now", "-f", "rsi_14"]
    words += ["--target", "forward_return:2,direction:1", "--target", "log_return:3"]
    document = repo.json(*words, env=clock)
    assert [tuple(row.values())[4:] for row in document["rows"]] == [
        (50.0, pytest.approx(0.02), 1.0, pytest.approx(np.log(1.03))),
        (50.0, None, 1.0, None),
    ]
    repo.ok(*words, "-o", tmp_path / "set.parquet", env=clock)
    table = pyarrow.parquet.read_table(tmp_path / "set.parquet")
    assert table.column_names[4:] == ["rsi_14", "forward_return_2", "direction_1", "log_return_3"]
    assert [type.__str__() for type in table.schema.types[5:]] == ["double"] * 3
    assert table["direction_1"].to_pylist() == [1.0, 1.0]
    spine = spine_file(tmp_path, "entity_id,event_timestamp", f"A_1h,{(START + hour).isoformat()}")
    text = repo.ok(
        "get-offline", "--spine", spine, "-f", "rsi_14", "--target", "direction:1", "--format", "csv", env=clock
    )
    assert [row["direction_1"] for row in csv.DictReader(text.splitlines())] == ["1"]
