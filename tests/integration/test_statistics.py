"""Statistics of features: they are what numpy, SciPy and pandas make of the same rows."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from featurectl.core.arrow import ArrowConnection
from featurectl.core.catalog import Field, Selection, View
from featurectl.core.entity import EntityId, parse_id_or_symbol
from featurectl.core.statistics import arrays
from featurectl.core.statistics.describe import By, FeatureStatistics, feature_statistics
from featurectl.core.times import ALWAYS, Window
from featurectl.errors import InvalidTime, NotFound, OutputFileError, UsageError
from featurectl.manager import FeastFeatureStoreManager
from tests.fix_repository import Repo
from tests.market import HOUR, START, Market, select

SEEDS = (1, 2, 3)
NOW = START + timedelta(days=30)
KINDS = {"f": "double precision", "r": "real", "n": "bigint", "d": "numeric", "ok": "boolean", "t": "text"}
NUMBERS = ("f", "r", "n", "d")
MEASURES = ("mean", "std", "min", "max", "p1", "p5", "p25", "p50", "p75", "p95", "p99")
Row = tuple[Any, ...]


def kinds_view(market: Market, rows: Sequence[Row], **changes: Any) -> View:
    """Return a view over a table of these rows: symbol, timeframe, at, and a column of each kind."""
    columns = ", ".join(f"{name} {kind}" for name, kind in KINDS.items())
    market.connection.execute(f"CREATE TABLE public.kinds (symbol text, timeframe text, at timestamptz, {columns})")
    with market.connection.cursor() as cursor:
        cursor.executemany(f"INSERT INTO public.kinds VALUES ({', '.join(['%s'] * (3 + len(KINDS)))})", rows)
    fields = tuple(Field(name, "Float64", kind, name, "", {}) for name, kind in KINDS.items())
    named = {"source_table": "public.kinds", "timestamp_column": "at", "created_column": None}
    return replace(market.view, name="kinds", fields=fields, **{**named, **changes})


def random_rows(random: np.random.Generator, count: int) -> list[Row]:
    def some(value: Any) -> Any:
        return None if random.random() < 0.2 else value

    return [
        (
            str(random.choice(["A", "B"])),
            str(random.choice(["1h", "4h"])),
            NOW - int(random.integers(0, 50)) * HOUR,
            some(float("nan") if random.random() < 0.1 else 1e6 + random.normal()),
            some(float(np.float32(random.normal()))),
            some(int(random.integers(-5, 5))),
            some(round(float(random.normal()), 3)),
            some(bool(random.random() < 0.5)),
            some("x"),
        )
        for _ in range(count)
    ]


def check(found: FeatureStatistics, rows: Sequence[Row], *, with_ages: bool = True) -> None:
    """Hold one feature's statistics to numpy's, SciPy's and pandas' of the same rows."""
    column = 3 + list(KINDS).index(found.feature)
    there = [row for row in rows if row[column] is not None and row[column] == row[column]]
    values = [row[column] for row in there]
    assert (found.rows, found.nulls) == (len(rows), len(rows) - len(values)), found
    assert found.null_share == (pytest.approx(found.nulls / len(rows)) if rows else None)
    assert found.entities == len({row[:2] for row in rows})
    assert found.first_event_timestamp == min((row[2] for row in rows), default=None)
    assert found.last_event_timestamp == max((row[2] for row in rows), default=None)
    assert found.ttl_seconds == 3600
    if with_ages:
        newest = {row[:2]: max((one[2] for one in there if one[:2] == row[:2]), default=START) for row in rows}
        assert found.stale_entities == sum(NOW - one > HOUR for one in newest.values())
        assert found.age_seconds == ((NOW - max(newest.values())).total_seconds() if there else None)
    told = [getattr(found, name) for name in MEASURES]
    if found.feature not in NUMBERS:
        assert told == [None] * len(MEASURES), found
        return
    series = pd.Series(np.array(values, dtype=np.float64))
    wanted = [series.mean(), series.std(), series.min(), series.max()]
    wanted += list(series.quantile([0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99]))
    for one, other in zip(told, wanted, strict=True):
        assert one == (None if np.isnan(other) else pytest.approx(float(other), rel=1e-9, abs=1e-12)), found
    assert (found.distinct, found.zeros) == (series.nunique(), int((series == 0).sum()))
    assert found.outliers == outliers_of(series), found
    if found.histogram is None:
        assert len(series) == 0 or found.p1 == found.p99
        return
    edges = np.linspace(found.p1, found.p99, 13)
    assert list(found.histogram) == list(np.histogram(series.clip(found.p1, found.p99), bins=edges)[0])
    assert found.histogram_edges == pytest.approx(tuple(edges))


def outliers_of(series: pd.Series) -> int:
    """Count modified z-scores past 3.5, as Iglewicz and Hoaglin have them."""
    if series.empty:
        return 0
    away = (series - series.median()).abs()
    spread = stats.median_abs_deviation(series) / 0.6745 or 1.253314 * away.mean()
    return int((away > 3.5 * spread).sum()) if spread else 0


def described(market: Market, arrow: ArrowConnection, view: View, **options: Any) -> list[FeatureStatistics]:
    return feature_statistics(arrow, market.connection, [select(view)], **{"now": NOW, **options})


@pytest.mark.parametrize("seed", SEEDS)
def test_statistics_are_numpys(market: Market, arrow: ArrowConnection, seed: int) -> None:
    random = np.random.default_rng(seed)
    rows = random_rows(random, 300)
    view = kinds_view(market, rows)
    start, end = NOW - 40 * HOUR, NOW - 10 * HOUR
    for ids in (None, ["A_1h"], ["A_1h", "B_4h", "A_1h"], ["NO_1h"]):
        entities = None if ids is None else [parse_id_or_symbol(one) for one in ids]
        for window in (ALWAYS, Window(start, end), Window(None, start), Window(end, None)):
            found = described(market, arrow, view, entities=entities, window=window)
            assert [one.feature for one in found] == list(KINDS)
            wanted = [
                row
                for row in rows
                if (ids is None or f"{row[0]}_{row[1]}" in ids)
                and (window.start is None or row[2] >= window.start)
                and (window.end is None or row[2] <= window.end)
            ]
            for one in found:
                check(one, wanted)


@pytest.mark.parametrize("by", By)
def test_groups_are_those_of_pandas(market: Market, arrow: ArrowConnection, by: By) -> None:
    """Of each entity, timeframe or day there is what there would be of its rows alone, in order."""
    rows = random_rows(np.random.default_rng(4), 300)
    found = described(market, arrow, kinds_view(market, rows), by=by)
    key = {
        By.ENTITY: lambda row: f"{row[0]}_{row[1]}",
        By.TIMEFRAME: lambda row: row[1],
        By.DAY: lambda row: row[2].date(),
    }[by]
    names = sorted({key(row) for row in rows})
    assert [(one.feature, getattr(one, by)) for one in found] == [
        (feature, name) for feature in KINDS for name in names
    ]
    for one in found:
        part = [row for row in rows if key(row) == getattr(one, by)]
        if by is By.DAY:
            assert (one.age_seconds, one.stale_entities) == (None, None)  # what is past is no staler for it
        check(one, part, with_ages=by is not By.DAY)


def test_one_value_has_no_deviation_and_none_has_nothing(market: Market, arrow: ArrowConnection) -> None:
    row = ("A", "1h", START, 2.5, None, 7, None, True, None)
    found = {one.feature: one for one in described(market, arrow, kinds_view(market, [row]))}
    assert (found["f"].mean, found["f"].std, found["f"].p25, found["f"].max) == (2.5, None, 2.5, 2.5)
    assert (found["f"].distinct, found["f"].outliers, found["f"].histogram) == (1, 0, None)
    assert (found["r"].nulls, found["r"].null_share, found["r"].mean) == (1, 1.0, None)
    assert (found["ok"].rows, found["ok"].nulls, found["ok"].mean, found["ok"].distinct) == (1, 0, None, None)


def test_infinities_are_values_that_have_no_mean(market: Market, arrow: ArrowConnection) -> None:
    """They count, are the greatest and least, and outliers; mean and deviation are of the others."""
    values = [1.0, 2.0, 3.0, 4.0, float("inf"), float("-inf"), 1e200]
    rows = [("A", "1h", START + index * HOUR, value, *[None] * 5) for index, value in enumerate(values)]
    found = described(market, arrow, kinds_view(market, rows))[0]
    assert (found.rows, found.nulls, found.mean, found.min, found.max) == (7, 0, 2.5, float("-inf"), float("inf"))
    assert found.std == pytest.approx(np.std([1, 2, 3, 4], ddof=1))
    assert (found.p50, found.distinct, found.outliers) == (3, 7, 3)


def test_a_source_may_be_a_query_with_times_that_have_no_zone(market: Market, arrow: ArrowConnection) -> None:
    rows = random_rows(np.random.default_rng(9), 50)
    query = "SELECT k.*, k.at AT TIME ZONE 'UTC' AS naive FROM public.kinds AS k -- whose times are UTC"
    view = kinds_view(market, rows, source_table=None, source_query=query, timestamp_column="naive")
    window = Window(NOW - 30 * HOUR, NOW - 5 * HOUR)
    wanted = [row for row in rows if window.start <= row[2] <= window.end]  # type: ignore[operator]
    market.connection.execute("SET timezone = 'Asia/Kolkata'")
    for one in described(market, arrow, view, window=window):
        check(one, wanted)


def test_rows_that_go_to_disk_say_the_same(
    market: Market, arrow: ArrowConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    view = kinds_view(market, random_rows(np.random.default_rng(6), 300))
    wanted = {by: described(market, arrow, view, by=by) for by in (None, *By)}
    monkeypatch.setattr(arrays, "IN_MEMORY", 1)
    assert {by: described(market, arrow, view, by=by) for by in (None, *By)} == wanted
    monkeypatch.setattr("tempfile.tempdir", "/nowhere")
    with pytest.raises(OutputFileError, match=r"^no room for rows in /nowhere: .*; TMPDIR names another folder"):
        described(market, arrow, view)


def test_a_view_without_entities_is_one_group(market: Market, arrow: ArrowConnection) -> None:
    rows = random_rows(np.random.default_rng(5), 30)
    view = kinds_view(market, rows, join_keys=())
    (pooled, *_), (grouped, *_) = (described(market, arrow, view, by=by) for by in (None, By.ENTITY))
    assert (pooled.rows, pooled.entities, grouped.rows, grouped.entity) == (30, 1, 30, None)


def test_a_view_keyed_by_symbol_takes_the_symbol_of_an_id(market: Market, arrow: ArrowConnection) -> None:
    market.connection.execute(
        "INSERT INTO features.sentiment_features (symbol, event_timestamp, news_sentiment) "
        "VALUES ('A', %s, 1), ('A', %s, 3), ('B', %s, 9)",
        (START, START + HOUR, START),
    )
    chosen = [Selection(market.catalog.view("sentiment_features_view"), ("news_sentiment",))]
    for ids in ([EntityId("A", "1h"), EntityId("A", "4h")], [EntityId("A", "")]):
        (found,) = feature_statistics(arrow, market.connection, chosen, ids, now=NOW)
        assert (found.rows, found.entities, found.mean, found.p50) == (2, 1, 2, 2)


# --- as the manager gives them ---------------------------------------------------------------------------------------


def frame_of(repo: Repo, *words: Any, **options: Any) -> pd.DataFrame:
    async def main() -> pd.DataFrame:
        async with FeastFeatureStoreManager(repo.root, database_url=repo.url, clock=lambda: NOW) as manager:
            return await manager.get_feature_statistics(*words, **options)

    return asyncio.run(main())


def test_the_manager_gives_a_row_for_each_feature(market: Market) -> None:
    market.connection.execute(
        "INSERT INTO features.technical_indicators (symbol, timeframe, event_timestamp, rsi_14, macd) "
        "SELECT symbol, '1h', %s + i * interval '1 hour', i, nullif(i, 3) "
        "FROM generate_series(0, 4) AS i, unnest(ARRAY['A', 'B']) AS symbol",
        (START,),
    )
    frame = frame_of(market.repo, ["rsi_14", "macd", "news_sentiment"])
    assert list(frame.columns) == list(FeatureStatistics.__slots__)
    assert frame["feature"].tolist() == ["rsi_14", "macd", "news_sentiment"]
    assert frame["rows"].tolist() == [10, 10, 0]
    assert frame["nulls"].tolist() == [0, 2, 0]
    assert frame["mean"].tolist()[0] == 2 and np.isnan(frame["mean"].iloc[2])
    assert frame["std"].iloc[0] == pytest.approx(np.std([0, 1, 2, 3, 4] * 2, ddof=1))
    assert [str(frame.dtypes[name]) for name in ("rows", "mean", "last_event_timestamp", "entities")] == [
        "int64",
        "float64",
        "datetime64[ns, UTC]",
        "int64",
    ]
    assert frame.attrs == {"window": {"start": None, "end": None}, "degraded": None}
    some = frame_of(market.repo, ["rsi_14"], entity_ids=["A_1h"], start_date=START + HOUR, end_date="now")
    assert some[["rows", "min", "max", "entities"]].values.tolist() == [[4, 1, 4, 1]]
    assert some.attrs["window"] == {"start": "2024-01-01T01:00:00Z", "end": "2024-01-31T00:00:00Z"}
    service = frame_of(market.repo, feature_service_name="technical_indicators_service")
    assert len(service) == 6
    by_entity = frame_of(market.repo, ["rsi_14"], by="entity")
    assert by_entity[["entity", "rows", "p50"]].values.tolist() == [["A_1h", 5, 2], ["B_1h", 5, 2]]


def test_what_does_not_fit_is_refused(market: Market, arrow: ArrowConnection) -> None:
    with pytest.raises(NotFound, match="feature 'rsi' not found"):
        frame_of(market.repo, ["rsi"])
    with pytest.raises(InvalidTime, match=r"start_date is 2024-01-01 .* no time zone"):
        frame_of(market.repo, start_date=datetime(2024, 1, 1))
    with pytest.raises(UsageError, match="by='week' does not exist; choices: entity, day, timeframe"):
        frame_of(market.repo, by="week")
    with pytest.raises(UsageError, match="entity_ids is empty"):
        frame_of(market.repo, entity_ids=[])
    transformed = replace(market.view, source_table=None)
    with pytest.raises(UsageError, match="has features that Feast makes from its source"):
        described(market, arrow, transformed)
