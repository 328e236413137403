"""Statistics of features: what the database computes is what numpy computes of the same rows."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd
import pytest

from featurectl.core.catalog import Field, Selection, View
from featurectl.core.entity import EntityId, parse_id_or_symbol
from featurectl.core.statistics import FeatureStatistics, feature_statistics
from featurectl.core.times import ALWAYS, Window
from featurectl.errors import InvalidTime, NotFound, UsageError
from featurectl.manager import FeastFeatureStoreManager
from tests.fix_repository import Repo
from tests.market import HOUR, START, Market, select

SEEDS = (1, 2, 3)
NOW = START + timedelta(days=30)
KINDS = {"f": "double precision", "r": "real", "n": "bigint", "d": "numeric", "ok": "boolean", "t": "text"}
NUMBERS = ("f", "r", "n", "d")
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
            START + int(random.integers(0, 50)) * HOUR,
            some(float("nan") if random.random() < 0.1 else 1e6 + random.normal()),
            some(float(np.float32(random.normal()))),
            some(int(random.integers(-5, 5))),
            some(round(float(random.normal()), 3)),
            some(bool(random.random() < 0.5)),
            some("x"),
        )
        for _ in range(count)
    ]


def check(found: FeatureStatistics, rows: Sequence[Row]) -> None:
    """Hold one feature's statistics to numpy's of the same rows."""
    column = 3 + list(KINDS).index(found.feature)
    values = [row[column] for row in rows if row[column] is not None and row[column] == row[column]]
    assert (found.count, found.nulls) == (len(rows), len(rows) - len(values)), found
    assert found.null_rate == (pytest.approx(found.nulls / len(rows)) if rows else None)
    assert found.entities == len({row[:2] for row in rows})
    assert found.first_event_timestamp == min((row[2] for row in rows), default=None)
    assert found.last_event_timestamp == max((row[2] for row in rows), default=None)
    told = [found.mean, found.std, found.min, found.p25, found.p50, found.p75, found.max]
    if found.feature not in NUMBERS or not values:
        assert told == [None] * 7, found
        return
    array = np.array(values, dtype=np.float64)
    deviation = array.std(ddof=1) if len(array) > 1 else None
    wanted = [array.mean(), deviation, array.min(), *np.percentile(array, [25, 50, 75]), array.max()]
    for one, other in zip(told, wanted, strict=True):
        assert one == (None if other is None else pytest.approx(float(other), rel=1e-9, abs=1e-12)), found


@pytest.mark.parametrize("seed", SEEDS)
def test_statistics_are_numpys(market: Market, seed: int) -> None:
    random = np.random.default_rng(seed)
    rows = random_rows(random, 300)
    view = kinds_view(market, rows)
    chosen = [select(view)]
    start, end = START + 10 * HOUR, START + 40 * HOUR
    for ids in (None, ["A_1h"], ["A_1h", "B_4h", "A_1h"], ["NO_1h"]):
        entities = None if ids is None else [parse_id_or_symbol(one) for one in ids]
        for window in (ALWAYS, Window(start, end), Window(None, start), Window(end, None)):
            found = feature_statistics(market.connection, chosen, entities, window)
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


def test_one_value_has_no_deviation_and_none_has_nothing(market: Market) -> None:
    row = ("A", "1h", START, 2.5, None, 7, None, True, None)
    found = {one.feature: one for one in feature_statistics(market.connection, [select(kinds_view(market, [row]))])}
    assert (found["f"].mean, found["f"].std, found["f"].p25, found["f"].max) == (2.5, None, 2.5, 2.5)
    assert (found["r"].nulls, found["r"].null_rate, found["r"].mean) == (1, 1.0, None)
    assert (found["ok"].count, found["ok"].nulls, found["ok"].mean) == (1, 0, None)


def test_a_source_may_be_a_query_with_times_that_have_no_zone(market: Market) -> None:
    rows = random_rows(np.random.default_rng(9), 50)
    query = "SELECT k.*, k.at AT TIME ZONE 'UTC' AS naive FROM public.kinds AS k -- whose times are UTC"
    view = kinds_view(market, rows, source_table=None, source_query=query, timestamp_column="naive")
    window = Window(START + 5 * HOUR, START + 30 * HOUR)
    wanted = [row for row in rows if window.start <= row[2] <= window.end]  # type: ignore[operator]
    market.connection.execute("SET timezone = 'Asia/Kolkata'")
    for one in feature_statistics(market.connection, [select(view)], None, window):
        check(one, wanted)


def test_a_view_keyed_by_symbol_takes_the_symbol_of_an_id(market: Market) -> None:
    market.connection.execute(
        "INSERT INTO features.sentiment_features (symbol, event_timestamp, news_sentiment) "
        "VALUES ('A', %s, 1), ('A', %s, 3), ('B', %s, 9)",
        (START, START + HOUR, START),
    )
    chosen = [Selection(market.catalog.view("sentiment_features_view"), ("news_sentiment",))]
    for ids in ([EntityId("A", "1h"), EntityId("A", "4h")], [EntityId("A", "")]):
        (found,) = feature_statistics(market.connection, chosen, ids)
        assert (found.count, found.entities, found.mean, found.p50) == (2, 1, 2, 2)


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
    columns = "view feature value_type count nulls null_rate mean std min p25 p50 p75 max"
    assert list(frame.columns) == [*columns.split(), "first_event_timestamp", "last_event_timestamp", "entities"]
    assert frame["feature"].tolist() == ["rsi_14", "macd", "news_sentiment"]
    assert frame["count"].tolist() == [10, 10, 0]
    assert frame["nulls"].tolist() == [0, 2, 0]
    assert frame["mean"].tolist()[0] == 2 and np.isnan(frame["mean"].iloc[2])
    assert frame["std"].iloc[0] == pytest.approx(np.std([0, 1, 2, 3, 4] * 2, ddof=1))
    assert [str(frame.dtypes[name]) for name in ("count", "mean", "last_event_timestamp", "entities")] == [
        "int64",
        "float64",
        "datetime64[ns, UTC]",
        "int64",
    ]
    assert frame.attrs == {"window": {"start": None, "end": None}, "degraded": None}
    some = frame_of(market.repo, ["rsi_14"], entity_ids=["A_1h"], start_date=START + HOUR, end_date="now")
    assert some[["count", "min", "max", "entities"]].values.tolist() == [[4, 1, 4, 1]]
    assert some.attrs["window"] == {"start": "2024-01-01T01:00:00Z", "end": "2024-01-31T00:00:00Z"}
    service = frame_of(market.repo, feature_service_name="technical_indicators_service")
    assert len(service) == 6


def test_what_does_not_fit_is_refused(market: Market) -> None:
    with pytest.raises(NotFound, match="feature 'rsi' not found"):
        frame_of(market.repo, ["rsi"])
    with pytest.raises(InvalidTime, match=r"start_date is 2024-01-01 .* no time zone"):
        frame_of(market.repo, start_date=datetime(2024, 1, 1))
    with pytest.raises(UsageError, match="entity_ids is empty"):
        frame_of(market.repo, entity_ids=[])
    transformed = replace(market.view, source_table=None)
    with pytest.raises(UsageError, match="has features that Feast makes from its source"):
        feature_statistics(market.connection, [select(transformed)])
