"""TimescaleOfflineStore, contract by contract: a Feast repository of its own over tables of the test's own."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, RepoConfig, ValueType
from feast.data_source import PushSource
from feast.errors import FeastEntityDFMissingColumnsError, SavedDatasetLocationAlreadyExists
from feast.feature_logging import FeatureServiceLoggingSource, LoggingConfig
from feast.feature_view import DUMMY_ENTITY_ID, DUMMY_ENTITY_VAL
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import (
    PostgreSQLSource,
    SavedDatasetPostgreSQLStorage,
)
from feast.infra.offline_stores.file_source import FileSource
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.types import Decimal as DecimalType
from feast.types import Float64, Int64, String
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from featurectl.core.db import Connection, open_connection
from featurectl.errors import DatabaseError, StatementTimeout, UsageError
from featurectl.plugin.offline import PostgreSQLLoggingDestination, TimescaleOfflineStore, TimescaleOfflineStoreConfig

T0 = datetime(2024, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
MICROSECOND = timedelta(microseconds=1)
STRATEGIES = ("server", "local")

pytestmark = pytest.mark.filterwarnings(
    "ignore:Retrieving datasets is an experimental feature:RuntimeWarning",
    "ignore:Saving dataset is an experimental feature:RuntimeWarning",
    "ignore:On demand feature view is an experimental feature:RuntimeWarning",
)


@pytest.fixture
def url(clone: Callable[[str | None], str]) -> str:
    return clone(None)


@pytest.fixture
def db(url: str) -> Iterator[Connection]:
    with open_connection(url, connect_timeout=10) as connection:
        yield connection


Open = Callable[..., FeatureStore]


@pytest.fixture
def open_store(url: str, tmp_path: Path) -> Open:
    """Open a store with settings of the offline store's; all of a test share a registry."""

    def opened(**settings: Any) -> FeatureStore:
        config = RepoConfig(
            project="market",
            provider="local",
            registry=str(tmp_path / "registry.db"),
            offline_store={"type": "featurectl.plugin.offline.TimescaleOfflineStore", "url": url, **settings},
            online_store={"type": "sqlite", "path": str(tmp_path / "online.db")},
            entity_key_serialization_version=3,
        )
        return FeatureStore(config=config)

    return opened


@pytest.fixture
def store(open_store: Open) -> FeatureStore:
    return open_store()


def execute(db: Connection, *statements: str) -> None:
    for statement in statements:
        db.execute(statement.encode())


def rows(db: Connection, statement: str) -> list[tuple[Any, ...]]:
    return db.execute(statement.encode()).fetchall()


driver = Entity(name="driver", join_keys=["driver_id"], value_type=ValueType.INT64)
city = Entity(name="city", join_keys=["city"], value_type=ValueType.STRING)


def source(table: str = "driver_stats", created: str | None = "created") -> PostgreSQLSource:
    return PostgreSQLSource(
        name=table, table=f"public.{table}", timestamp_field="at", created_timestamp_column=created or ""
    )


def source_of(name: str, query: str) -> PostgreSQLSource:
    return PostgreSQLSource(name=name, query=query, timestamp_field="at", created_timestamp_column="created")


def view(name: str = "driver_stats", **arguments: Any) -> FeatureView:
    settings = {
        "entities": [driver],
        "ttl": timedelta(days=1),
        "schema": [Field(name="trips", dtype=Int64), Field(name="rate", dtype=Float64)],
        "source": source(),
        **arguments,
    }
    return FeatureView(name=name, **settings)


@pytest.fixture
def drivers(db: Connection, store: FeatureStore) -> FeatureStore:
    """A store with one view: driver 1 has hourly rows, one of them corrected; driver 2 has one row."""
    execute(
        db,
        "CREATE TABLE driver_stats (driver_id bigint, at timestamptz, created timestamptz, trips bigint, rate float8)",
        "CREATE INDEX ON driver_stats (driver_id, at)",
        "INSERT INTO driver_stats VALUES (1, '2024-01-01T00:00Z', '2024-01-01T00:01Z', 10, 0.1), "
        "(1, '2024-01-01T01:00Z', '2024-01-01T01:01Z', 11, 0.2), "
        "(1, '2024-01-01T01:00Z', '2024-01-05T00:00Z', 12, 0.3), "
        "(2, '2024-01-01T00:30Z', '2024-01-01T00:31Z', 20, NULL)",
    )
    store.apply([driver, city, view()])
    return store


def entities(*pairs: tuple[Any, datetime], **columns: Any) -> pd.DataFrame:
    frame = pd.DataFrame(pairs, columns=["driver_id", "event_timestamp"])
    return frame.assign(**columns)


FEATURES = ["driver_stats:trips", "driver_stats:rate"]


def values(job: Any, *names: str) -> list[Any]:
    found = job.to_arrow().to_pylist()
    return [tuple(row[name] for name in names) if len(names) > 1 else row[names[0]] for row in found]


# --- get_historical_features: what may be asked for ------------------------------------------------------------------


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_get_historical_features_joins_as_of_each_row(drivers: FeatureStore, open_store: Open, strategy: str) -> None:
    frame = entities(
        (2, T0 + HOUR), (1, T0 + 3 * HOUR), (1, T0), (3, T0), (1, T0 - MICROSECOND), (1, T0 + 3 * HOUR), label=range(6)
    )
    job = open_store(join_strategy=strategy).get_historical_features(frame, FEATURES)
    assert values(job, "label", "trips", "rate") == [
        (0, 20, None),
        (1, 12, 0.3),
        (2, 10, 0.1),
        (3, None, None),
        (4, None, None),
        (5, 12, 0.3),
    ]
    assert job.to_arrow().column_names == ["driver_id", "event_timestamp", "label", "trips", "rate"]
    assert job.to_arrow().schema.field("event_timestamp").type == pa.timestamp("us", tz="UTC")


def test_a_source_of_another_kind_is_not_read(drivers: FeatureStore) -> None:
    file = FileSource(name="file", path="x.parquet", timestamp_field="at")
    with pytest.raises(UsageError, match="source 'file' is a FileSource; this store reads a PostgreSQLSource"):
        TimescaleOfflineStore.pull_all_from_table_or_query(drivers.config, file, ["driver_id"], ["trips"], "at")


def test_a_job_runs_as_often_as_it_is_asked(drivers: FeatureStore) -> None:
    job = drivers.get_historical_features(entities((1, T0), (2, T0 + HOUR)), FEATURES)
    first = job.to_df()
    assert list(first["trips"]) == [10, 20]
    assert first.dtypes["trips"] == np.int64 and first.dtypes["rate"] == np.float64
    pd.testing.assert_frame_equal(job.to_df(), first)
    assert job.to_arrow().to_pylist() == job.to_arrow().to_pylist()


def test_missing_columns_are_feasts_own_error(drivers: FeatureStore) -> None:
    frame = entities((1, T0)).rename(columns={"driver_id": "driver"})
    with pytest.raises(FeastEntityDFMissingColumnsError, match="driver_id"):
        drivers.get_historical_features(frame, FEATURES)
    with pytest.raises(FeastEntityDFMissingColumnsError, match="driver_id"):
        drivers.get_historical_features("SELECT 1 AS driver, now() AS event_timestamp", FEATURES)


def test_the_event_column_is_inferred_as_feast_does(drivers: FeatureStore) -> None:
    frame = entities((1, T0)).rename(columns={"event_timestamp": "when"})
    job = drivers.get_historical_features(frame, FEATURES)
    assert (job.to_arrow().column_names, values(job, "trips")) == (["driver_id", "when", "trips", "rate"], [10])


@pytest.mark.parametrize(
    "key",
    [
        pd.Series([1, 2, 3], dtype="int8"),
        pd.Series([1, 2, 3], dtype="int32"),
        pd.Series([1, 2, 3], dtype="uint8"),
        pd.Series([1, 2, 3], dtype="uint64"),
        pd.Series([1.0, 2.0, None]),
        pd.Series([1, 2, None], dtype="Int64"),
        pd.Series([1, 2, 2.5]),
        pd.Series(["1", "2", "two"]),
        pd.Series(["1", "2", "two"], dtype="category"),
        pd.Series(["1", "2", None], dtype=pd.ArrowDtype(pa.large_string())),
        pd.Series([Decimal(1), Decimal(2), Decimal("1.5")], dtype=object),
    ],
    ids=lambda key: f"{key.dtype}-{key.iloc[2]}",
)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_keys_of_any_type_find_theirs(
    drivers: FeatureStore, open_store: Open, key: pd.Series[Any], strategy: str
) -> None:
    frame = pd.DataFrame({"driver_id": key, "event_timestamp": [T0 + HOUR] * 3})
    table = open_store(join_strategy=strategy).get_historical_features(frame, FEATURES).to_arrow()
    assert table["trips"].to_pylist() == [12, 20, None]
    assert table["driver_id"].to_pylist()[:2] == list(key)[:2]


KEYS: dict[str, list[Any]] = {
    "text": ["a", "b"],
    "varchar(9)": ["a", "b"],
    "char(5)": ["a", "b"],
    "uuid": [uuid.UUID(int=7), uuid.UUID(int=2**100)],
    "int": [-1, 2**31 - 1],
    "smallint": [-1, 7],
    "numeric(9,0)": [1, 5],
    "boolean": [True, False],
    "date": [date(2024, 1, 1), date(2024, 1, 2)],
}


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("kind", KEYS)
def test_keys_of_any_column_type_are_found(db: Connection, open_store: Open, kind: str, strategy: str) -> None:
    execute(
        db,
        f"CREATE TABLE keyed (key {kind}, at timestamptz, value bigint)",
        "CREATE INDEX ON keyed (key, at)",
    )
    with db.cursor() as cursor:
        pairs = [(key, T0, index) for index, key in enumerate(KEYS[kind])]
        cursor.executemany("INSERT INTO keyed VALUES (%s, %s, %s)", pairs)
    store = open_store(join_strategy=strategy)
    kinds = {int: ValueType.INT64, bool: ValueType.BOOL, date: ValueType.UNIX_TIMESTAMP}
    keyed = Entity(name="key", join_keys=["key"], value_type=kinds.get(type(KEYS[kind][0]), ValueType.STRING))
    schema = [Field(name="value", dtype=Int64)]
    store.apply([keyed, view("keyed", entities=[keyed], schema=schema, source=source("keyed", None))])
    spellings: list[list[Any]] = [KEYS[kind]]
    if kind == "uuid":
        spellings += [[str(key) for key in KEYS[kind]], [str(key).upper() for key in KEYS[kind]]]
    for keys in spellings:
        frame = pd.DataFrame({"key": [*keys[::-1], None], "event_timestamp": [T0 + HOUR] * 3})
        assert values(store.get_historical_features(frame, ["keyed:value"]), "value") == [1, 0, None]
    nonsense = pd.DataFrame({"key": ["nonsense"], "event_timestamp": [T0]})
    assert values(store.get_historical_features(nonsense, ["keyed:value"]), "value") == [None]


@pytest.mark.parametrize("kind", ["int", "uuid", "varchar(40)", "text"])
def test_a_key_of_another_type_still_goes_by_the_index(db: Connection, store: FeatureStore, kind: str) -> None:
    value = "md5(n::text)::uuid" if kind == "uuid" else f"n::{kind}"
    execute(
        db,
        f"CREATE TABLE keyed (key {kind}, at timestamptz, value bigint)",
        f"INSERT INTO keyed SELECT {value}, timestamptz '2024-01-01Z' + n * interval '1 s', n "
        "FROM generate_series(1, 20000) AS n",
        "CREATE INDEX ON keyed (key, at)",
        "ANALYZE keyed",
    )
    keyed = Entity(name="key", join_keys=["key"], value_type=ValueType.STRING)
    schema = [Field(name="value", dtype=Int64)]
    store.apply([keyed, view("keyed", entities=[keyed], schema=schema, source=source("keyed", None))])
    spellings = ["7", 7.0, 7] if kind != "uuid" else ["8f14e45f-ceea-467f-ab5a-0e3fb2e1d9a6"]
    (key,) = rows(db, "SELECT key FROM keyed WHERE value = 7")[0]
    for spelling in [str(key), *(spellings if kind == "int" else [])]:
        frame = pd.DataFrame({"key": [spelling], "event_timestamp": [T0 + HOUR]})
        job = store.get_historical_features(frame, ["keyed:value"])
        assert values(job, "value") == [7]
        plan = "\n".join(line for (line,) in rows(db, f"EXPLAIN (COSTS OFF) {job.to_sql()}"))
        assert "Index Cond" in plan and "Seq Scan" not in plan, plan


@pytest.mark.parametrize(
    "times",
    [
        lambda at: pd.Series([at.isoformat()]),
        lambda at: pd.Series([at], dtype=object),
        lambda at: pd.Series([at.replace(tzinfo=None)]),
        lambda at: pd.Series([pd.Timestamp(at).tz_convert("America/New_York")]),
        lambda at: pd.Series([pd.Timestamp(at) + pd.Timedelta(nanoseconds=999)]).dt.as_unit("ns"),
        lambda at: pd.Series([pd.Timestamp(at)]).dt.as_unit("us"),
    ],
    ids=["text", "objects", "naive", "another zone", "nanoseconds", "microseconds"],
)
def test_instants_of_any_spelling(drivers: FeatureStore, times: Callable[[datetime], pd.Series[Any]]) -> None:
    at = T0 + HOUR + MICROSECOND
    frame = pd.DataFrame({"driver_id": [1], "event_timestamp": times(at)})
    assert values(drivers.get_historical_features(frame, FEATURES), "event_timestamp", "trips") == [(at, 12)]


def test_other_columns_pass_through_as_they_are(drivers: FeatureStore) -> None:
    columns = {
        'a "b" 100%s': [1, 2],
        "order": pd.Series(["x", "y"], dtype="category"),
        "lists": [[1.5], None],
        "small": pd.Series([1, 2], dtype="int8"),
        "ids": [uuid.UUID(int=1), uuid.UUID(int=2)],
        "when": pd.to_datetime(["2024-01-01", None]),
        "day": [date(2024, 1, 1), None],
        "Ünïcode {x}": [None, None],
    }
    frame = entities((1, T0), (2, T0 + HOUR)).assign(**columns)
    job = drivers.get_historical_features(frame, FEATURES)
    found = job.to_df()
    assert list(found.columns) == [*frame.columns, "trips", "rate"]
    assert found.dtypes["small"] == np.int8 and found.dtypes["order"] == "category"
    assert found['a "b" 100%s'].to_list() == [1, 2] and found["day"].to_list() == [date(2024, 1, 1), None]
    assert found["ids"].to_list() == [str(uuid.UUID(int=1)), str(uuid.UUID(int=2))]
    assert found["trips"].to_list() == [10, 20]


def test_a_frame_that_can_not_be_a_spine_is_refused(drivers: FeatureStore) -> None:
    twice = pd.concat([entities((1, T0)), pd.Series([1], name="driver_id")], axis=1)
    with pytest.raises(UsageError, match="two columns 'driver_id'"):
        drivers.get_historical_features(twice, FEATURES)
    with pytest.raises(UsageError, match="column 'mixed' of the entity DataFrame"):
        drivers.get_historical_features(entities((1, T0), (2, T0), mixed=[1, "x"]), FEATURES)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_no_rows_give_the_columns(drivers: FeatureStore, open_store: Open, strategy: str) -> None:
    store = open_store(join_strategy=strategy)
    empty = entities((1, T0)).head(0)
    for spine in (empty, empty.astype(object), "SELECT 1 AS driver_id, now() AS event_timestamp LIMIT 0"):
        job = store.get_historical_features(spine, FEATURES)
        assert (job.to_arrow().num_rows, job.to_arrow().column_names) == (
            0,
            ["driver_id", "event_timestamp", "trips", "rate"],
        )
        assert [batch.num_rows for batch in job.to_batches()] == [0]


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("mode", ["temp_table", "embed_query"])
@pytest.mark.parametrize("ending", ["", ";", " ; -- the end; really", " -- the end", "; /* 'done' */ "])
def test_a_query_is_a_spine_in_its_own_order(
    drivers: FeatureStore, open_store: Open, ending: str, mode: str, strategy: str
) -> None:
    spine = (
        "SELECT driver_id, at AS event_timestamp, 1.50::numeric AS price, ';--' AS text FROM driver_stats "
        f"ORDER BY trips DESC{ending}"
    )
    job = open_store(join_strategy=strategy, entity_select_mode=mode).get_historical_features(spine, FEATURES)
    wanted = [(2, 20, 1.5), (1, 12, 1.5), (1, 12, 1.5), (1, 10, 1.5)]
    assert values(job, "driver_id", "trips", "price") == wanted
    assert job.to_arrow().schema == job.schema()
    assert job.metadata.min_event_timestamp == T0
    assert job.metadata.max_event_timestamp == T0 + HOUR


@pytest.mark.parametrize("kind", ["timestamptz", "timestamp", "date"])
def test_a_query_may_have_instants_of_any_type(db: Connection, drivers: FeatureStore, kind: str) -> None:
    execute(db, "SET timezone = 'Asia/Kolkata'", "ALTER ROLE CURRENT_USER SET timezone = 'Asia/Kolkata'")
    try:
        instant = "2024-01-02" if kind == "date" else "2024-01-01 00:00:00"
        spine = f"SELECT 1 AS driver_id, {kind} '{instant}{'+00' if kind == 'timestamptz' else ''}' AS event_timestamp"
        found = values(drivers.get_historical_features(spine, FEATURES), "trips")
        assert found == [12 if kind == "date" else 10]
    finally:
        execute(db, "ALTER ROLE CURRENT_USER RESET timezone")


# --- get_historical_features: views ----------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("created", ["timestamptz", "timestamp", "date"])
@pytest.mark.parametrize("event", ["timestamptz", "timestamp", "date"])
def test_times_without_zone_are_utc(db: Connection, open_store: Open, event: str, created: str, strategy: str) -> None:
    execute(
        db,
        f"CREATE TABLE driver_stats (driver_id bigint, at {event}, created {created}, trips bigint, rate float8)",
        "SET timezone = 'UTC'",
        "INSERT INTO driver_stats VALUES (1, '2024-01-01', '2024-01-02', 1, 1), (1, '2024-01-01', '2024-01-03', 2, 2)",
        "INSERT INTO driver_stats VALUES (1, '2024-01-01', NULL, 3, 3)",
    )
    store = open_store(join_strategy=strategy)
    store.apply([driver, view()])
    day = timedelta(days=1)
    frame = entities((1, T0), (1, T0 - MICROSECOND), (1, T0 + day), (1, T0 + day + MICROSECOND))
    job = store.get_historical_features(frame, FEATURES)
    assert values(job, "trips") == [2, None, 2, None]
    execute(db, "SET timezone = 'America/New_York'")
    assert [row[2] for row in rows(db, job.to_sql())] == [2, None, 2, None]


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("ttl", [timedelta(0), None])
def test_a_ttl_of_nothing_is_unlimited(
    drivers: FeatureStore, open_store: Open, ttl: timedelta | None, strategy: str
) -> None:
    drivers.apply([driver, view("for_ever", ttl=ttl)])
    frame = entities((2, datetime(2200, 1, 1, tzinfo=UTC)))
    assert values(open_store(join_strategy=strategy).get_historical_features(frame, ["for_ever:trips"]), "trips") == [
        20
    ]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_ttl_ends_to_the_microsecond(drivers: FeatureStore, open_store: Open, strategy: str) -> None:
    ttl = timedelta(seconds=1, microseconds=7)
    drivers.apply([driver, view("short", ttl=ttl)])
    event = T0 + HOUR / 2
    frame = entities((2, event + ttl), (2, event + ttl + MICROSECOND), (2, event), (2, event - MICROSECOND))
    job = open_store(join_strategy=strategy).get_historical_features(frame, ["short:trips"])
    assert values(job, "trips") == [20, None, 20, None]


def test_filter_by_created_timestamp_shows_what_was_written_then(drivers: FeatureStore, open_store: Open) -> None:
    """A correction that came later hides nothing: the row it corrects still serves."""
    frame = entities((1, T0 + HOUR), (1, T0 + 2 * HOUR), (1, T0 + timedelta(days=4)), (1, T0))
    for strategy in STRATEGIES:
        job = open_store(join_strategy=strategy).get_historical_features(
            frame, FEATURES, filter_by_created_timestamp=True
        )
        assert values(job, "trips") == [10, 11, None, None]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_one_view_serves_twice_under_two_names(drivers: FeatureStore, open_store: Open, strategy: str) -> None:
    both = FeatureService(
        name="both",
        features=[
            view()[["trips"]].with_name(name).with_join_key_map({"driver_id": f"{name}_id"})
            for name in ("first", "second")
        ],
    )
    drivers.apply([both])
    frame = pd.DataFrame({"first_id": [1, 2], "second_id": [2, None], "event_timestamp": [T0 + HOUR, T0 + HOUR]})
    job = open_store(join_strategy=strategy).get_historical_features(frame, both, full_feature_names=True)
    assert values(job, "first__trips", "second__trips") == [(12, 20), (20, None)]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_views_without_entities_with_mapped_fields_and_over_queries(
    db: Connection, drivers: FeatureStore, open_store: Open, strategy: str
) -> None:
    execute(
        db,
        "CREATE TABLE world (at timestamptz, created timestamptz, mood float8)",
        "INSERT INTO world VALUES ('2024-01-01Z', NULL, 1), ('2024-01-01T02:00Z', NULL, 2)",
        'CREATE TABLE mapped (id bigint, t timestamptz, "Odd Name" text)',
        "INSERT INTO mapped VALUES (1, '2024-01-01Z', '100%')",
    )
    mapping = {"id": "driver_id", "Odd Name": "odd", "t": "at"}
    mapped = PostgreSQLSource(
        name="mapped", query="SELECT * FROM mapped; -- 100%", timestamp_field="at", field_mapping=mapping
    )
    world = view("world", entities=[], schema=[Field(name="mood", dtype=Float64)], source=source("world"))
    odd = view("odd_view", schema=[Field(name="odd", dtype=String)], source=mapped)
    drivers.apply([driver, view(), world, odd])
    frame = entities((1, T0 + HOUR), (7, T0 + 3 * HOUR), (None, T0))
    features = ["world:mood", "odd_view:odd", *FEATURES]
    job = open_store(join_strategy=strategy).get_historical_features(frame, features, full_feature_names=True)
    names = ("world__mood", "odd_view__odd", "driver_stats__trips")
    assert values(job, *names) == [(1.0, "100%", 12), (2.0, None, None), (1.0, None, None)]


def plus(inputs: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame({"sum": inputs["trips"] + inputs["extra"]})


def test_views_on_demand_compute_over_a_stream_as_over_a_whole(db: Connection, drivers: FeatureStore) -> None:
    from feast import RequestSource

    request = RequestSource(name="request", schema=[Field(name="extra", dtype=Int64)])
    on_demand = OnDemandFeatureView(
        name="plus",
        sources=[view(), request],
        schema=[Field(name="sum", dtype=Int64)],
        udf=plus,
        udf_string="plus",
    )
    drivers.apply([driver, view(), on_demand])
    frame = entities((1, T0), (2, T0 + HOUR), extra=[5, 7])
    job = drivers.get_historical_features(frame, ["plus:sum", "driver_stats:trips"])
    assert values(job, "sum", "trips") == [(15, 10), (27, 20)]
    assert pa.Table.from_batches(job.to_batches()).to_pylist() == job.to_arrow().to_pylist()


# --- get_historical_features: a window in place of entities ----------------------------------------------------------


def test_a_window_of_one_view_has_its_rows_as_they_are(drivers: FeatureStore) -> None:
    """As in the stock store: corrected rows too, told apart by their created timestamps."""
    job = drivers.get_historical_features(features=FEATURES, start_date=T0 + HOUR / 2, end_date=T0 + HOUR)
    assert job.to_arrow().column_names == ["event_timestamp", "created_timestamp", "driver_id", "trips", "rate"]
    assert sorted(values(job, "event_timestamp", "driver_id", "trips")) == [
        (T0 + HOUR / 2, 2, 20),
        (T0 + HOUR, 1, 11),
        (T0 + HOUR, 1, 12),
    ]
    assert job.metadata.min_event_timestamp == T0 + HOUR / 2


def test_a_window_of_several_views_has_a_row_for_each_event(db: Connection, drivers: FeatureStore) -> None:
    """Nothing from before the window serves, as in the stock store; views with fewer keys are joined."""
    execute(
        db,
        "CREATE TABLE scores (driver_id bigint, at timestamptz, created timestamptz, score float8)",
        "INSERT INTO scores VALUES (1, '2023-12-31T23:00Z', NULL, 1), (1, '2024-01-01T00:15Z', NULL, 2)",
        "CREATE TABLE world (at timestamptz, created timestamptz, mood float8)",
        "INSERT INTO world VALUES ('2024-01-01T00:20Z', NULL, 3)",
    )
    scores = view("scores", schema=[Field(name="score", dtype=Float64)], source=source("scores"))
    world = view("world", entities=[], schema=[Field(name="mood", dtype=Float64)], source=source("world"))
    drivers.apply([driver, view(), scores, world])
    features = ["driver_stats:trips", "scores:score", "world:mood"]
    job = drivers.get_historical_features(features=features, start_date=T0, end_date=T0 + HOUR)
    assert job.to_arrow().column_names == ["event_timestamp", "driver_id", "trips", "score", "mood"]
    assert [tuple(row.values()) for row in job.to_arrow().to_pylist()] == [
        (T0, 1, 10, None, None),
        (T0 + HOUR / 4, 1, 10, 2.0, None),
        (T0 + HOUR / 2, 2, 20, None, 3.0),
        (T0 + HOUR, 1, 12, 2.0, 3.0),
    ]


def test_a_window_of_views_with_nothing_in_common_is_refused(db: Connection, drivers: FeatureStore) -> None:
    execute(db, "CREATE TABLE weather (city text, at timestamptz, created timestamptz, rain float8)")
    weather = view("weather", entities=[city], schema=[Field(name="rain", dtype=Float64)], source=source("weather"))
    drivers.apply([city, weather])
    with pytest.raises(UsageError, match="driver_stats: driver_id; weather: city"):
        drivers.get_historical_features(features=[*FEATURES, "weather:rain"], start_date=T0, end_date=T0)


# --- types -----------------------------------------------------------------------------------------------------------

INSTANT = datetime(2024, 5, 6, 7, 8, 9, 10, tzinfo=UTC)
COLUMNS: dict[str, tuple[str, Any, pa.DataType]] = {
    "smallint": ("7", 7, pa.int16()),
    "integer": ("7", 7, pa.int32()),
    "bigint": ("9223372036854775807", 2**63 - 1, pa.int64()),
    "real": ("1.5", 1.5, pa.float32()),
    "double precision": ("0.1", 0.1, pa.float64()),
    "numeric": ("1.25", 1.25, pa.float64()),
    "numeric(30,10)": ("1.25", 1.25, pa.float64()),
    "text": ("a", "a", pa.string()),
    "varchar(5)": ("a", "a", pa.string()),
    "char(3)": ("a", "a  ", pa.string()),
    "boolean": ("t", True, pa.bool_()),
    "bytea": (r"\x00ff", b"\x00\xff", pa.binary()),
    "date": ("2024-05-06", date(2024, 5, 6), pa.date32()),
    "time": ("01:02:03", datetime(1970, 1, 1, 1, 2, 3).time(), pa.time64("us")),
    "timestamp": ("2024-05-06 07:08:09.00001", INSTANT.replace(tzinfo=None), pa.timestamp("us")),
    "timestamptz": ("2024-05-06 07:08:09.00001+00", INSTANT, pa.timestamp("us", tz="UTC")),
    "uuid": (str(uuid.UUID(int=9)), str(uuid.UUID(int=9)), pa.string()),
    "json": ('{"a": [1]}', '{"a": [1]}', pa.string()),
    "jsonb": ('{"a": [1]}', '{"a": [1]}', pa.string()),
    "interval": ("1 day", "1 day", pa.string()),
    "inet": ("10.0.0.1", "10.0.0.1/32", pa.string()),
    "mood": ("happy", "happy", pa.string()),
    "smallint[]": ("{1,NULL}", [1, None], pa.list_(pa.int16())),
    "integer[]": ("{1,NULL}", [1, None], pa.list_(pa.int32())),
    "bigint[]": ("{1}", [1], pa.list_(pa.int64())),
    "real[]": ("{1.5}", [1.5], pa.list_(pa.float32())),
    "double precision[]": ("{0.1}", [0.1], pa.list_(pa.float64())),
    "numeric[]": ("{1.25,NULL}", [1.25, None], pa.list_(pa.float64())),
    "text[]": ('{a,"b,c"}', ["a", "b,c"], pa.list_(pa.string())),
    "varchar[]": ("{a}", ["a"], pa.list_(pa.string())),
    "boolean[]": ("{t,f}", [True, False], pa.list_(pa.bool_())),
    "bytea[]": (r'{"\\x00ff"}', [b"\x00\xff"], pa.list_(pa.binary())),
    "date[]": ("{2024-05-06}", [date(2024, 5, 6)], pa.list_(pa.date32())),
    "timestamp[]": ("{2024-05-06}", [datetime(2024, 5, 6)], pa.list_(pa.timestamp("us"))),
    "timestamptz[]": ("{2024-05-06Z}", [datetime(2024, 5, 6, tzinfo=UTC)], pa.list_(pa.timestamp("us", tz="UTC"))),
    "uuid[]": (f"{{{uuid.UUID(int=9)}}}", [str(uuid.UUID(int=9))], pa.list_(pa.string())),
    "jsonb[]": (r'{"{\"a\": 1}"}', ['{"a": 1}'], pa.list_(pa.string())),
    "mood[]": ("{happy}", ["happy"], pa.list_(pa.string())),
}


@pytest.fixture
def typed(db: Connection, store: FeatureStore) -> FeatureStore:
    """A view with a column of every type: driver 1 has values, driver 2 nulls."""
    declared = ", ".join(f"c{index} {kind}" for index, kind in enumerate(COLUMNS))
    execute(
        db,
        "CREATE TYPE mood AS ENUM ('happy')",
        f"CREATE TABLE typed (driver_id bigint, at timestamptz, {declared})",
        "INSERT INTO typed (driver_id, at) VALUES (2, '2024-01-01Z')",
    )
    texts = sql.SQL(", ").join(sql.Literal(text) for text, _, _ in COLUMNS.values())
    db.execute(sql.SQL("INSERT INTO typed VALUES (1, '2024-01-01Z', {})").format(texts))
    schema = [Field(name=f"c{index}", dtype=String) for index in range(len(COLUMNS))]
    store.apply([driver, view("typed", schema=schema, source=source("typed", None))])
    return store


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_type_comes_out_as_it_is(typed: FeatureStore, open_store: Open, strategy: str, tmp_path: Path) -> None:
    features = [f"typed:c{index}" for index in range(len(COLUMNS))]
    frame = entities((1, T0), (2, T0), (3, T0))
    job = open_store(join_strategy=strategy).get_historical_features(frame, features)
    table = job.to_arrow()
    first, second, third = table.to_pylist()
    for index, (kind, (_, value, arrow_type)) in enumerate(COLUMNS.items()):
        name = f"c{index}"
        assert table.schema.field(name).type == arrow_type, kind
        assert [first[name], second[name], third[name]] == [value, None, None], kind
    assert job.to_parquet(tmp_path / "typed.parquet") == 3
    assert pq.read_table(tmp_path / "typed.parquet").to_pylist() == table.to_pylist()
    assert len(job.to_df()) == 3


def test_pulls_give_every_type_too(typed: FeatureStore) -> None:
    one = typed.get_feature_view("typed")
    named = (typed.config, one.batch_source, ["driver_id"], [], "at", None)
    for pull in (
        TimescaleOfflineStore.pull_latest_from_table_or_query,
        TimescaleOfflineStore.pull_all_from_table_or_query,
    ):
        table = pull(*named, T0, T0).to_arrow()
        row = next(row for row in table.to_pylist() if row["driver_id"] == 1)
        for index, (kind, (_, value, arrow_type)) in enumerate(COLUMNS.items()):
            assert (table.schema.field(f"c{index}").type, row[f"c{index}"]) == (arrow_type, value), kind


def test_a_decimal_keeps_its_digits(db: Connection, store: FeatureStore) -> None:
    execute(
        db,
        "CREATE TABLE exact (driver_id bigint, at timestamptz, price numeric)",
        "INSERT INTO exact VALUES (1, '2024-01-01Z', 12345678901234567890.123456789)",
    )
    schema = [Field(name="price", dtype=DecimalType)]
    store.apply([driver, view("exact", schema=schema, source=source("exact", None))])
    job = store.get_historical_features(entities((1, T0)), ["exact:price"])
    assert values(job, "price") == ["12345678901234567890.123456789"]


# --- to_sql ----------------------------------------------------------------------------------------------------------


def test_to_sql_runs_by_itself_in_any_session(db: Connection, drivers: FeatureStore) -> None:
    frame = entities((1, T0 + HOUR), (2, T0 + HOUR), (None, T0), label=["it's", None, "100%"], lists=[[1], None, []])
    query = "SELECT driver_id, at AS event_timestamp FROM driver_stats ORDER BY trips DESC;"
    execute(db, "SET timezone = 'America/New_York'", "SET default_transaction_read_only = on")
    for spine in (frame, query, frame.head(0)):
        job = drivers.get_historical_features(spine, FEATURES)
        assert [list(row) for row in rows(db, job.to_sql())] == [
            list(row.values()) for row in job.to_arrow().to_pylist()
        ]
    pulled = TimescaleOfflineStore.pull_latest_from_table_or_query(
        drivers.config, source(), ["driver_id"], ["trips"], "at", "created", T0, T0 + HOUR
    )
    assert sorted(rows(db, pulled.to_sql())) == sorted(tuple(row.values()) for row in pulled.to_arrow().to_pylist())


# --- streams ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_stream_has_the_rows_of_the_whole(
    drivers: FeatureStore, open_store: Open, strategy: str, tmp_path: Path
) -> None:
    count = 200_000
    instants = [T0 + index * timedelta(milliseconds=40) for index in range(count)]
    frame = pd.DataFrame({"driver_id": np.arange(count) % 4, "event_timestamp": instants, "label": range(count)})
    job = open_store(join_strategy=strategy).get_historical_features(frame, FEATURES)
    batches = list(job.to_batches())
    assert len(batches) > (strategy == "local") and {batch.schema for batch in batches} == {job.schema()}
    whole = job.to_arrow()
    assert pa.Table.from_batches(batches).combine_chunks() == whole
    assert whole["label"].to_pylist() == list(range(count))
    assert job.to_parquet(tmp_path / "all.parquet") == count
    assert pq.read_table(tmp_path / "all.parquet").num_rows == count
    # Left in the middle, a stream takes its connection along.
    stream = job.to_batches()
    next(stream)
    stream.close()


def test_a_timeout_ends_a_job(drivers: FeatureStore) -> None:
    slow = "SELECT 1 AS driver_id, now() AS event_timestamp FROM pg_sleep(5)"
    job = drivers.get_historical_features(slow, FEATURES)
    with pytest.raises(StatementTimeout):
        job.to_arrow(timeout=1)


# --- pull_latest_from_table_or_query, pull_all_from_table_or_query ---------------------------------------------------


@pytest.mark.parametrize("indexed", [True, False])
@pytest.mark.parametrize("as_query", [True, False])
def test_pull_latest_takes_each_entitys_newest_row(
    db: Connection, drivers: FeatureStore, indexed: bool, as_query: bool
) -> None:
    if not indexed:
        execute(db, "DROP INDEX driver_stats_driver_id_at_idx")
    origin = source_of("q", "SELECT * FROM driver_stats; -- all") if as_query else source()
    named = (drivers.config, origin, ["driver_id"], ["trips"], "at", "created")
    pull = TimescaleOfflineStore.pull_latest_from_table_or_query
    wanted = {(1, 12, T0 + HOUR), (2, 20, T0 + HOUR / 2)}
    assert set(values(pull(*named, T0, T0 + HOUR), "driver_id", "trips", "at")) == wanted
    assert values(pull(*named, T0, T0 + HOUR - MICROSECOND), "trips") == [10, 20]
    assert values(pull(*named, T0 + HOUR + MICROSECOND, T0 + 9 * HOUR), "trips") == []


def test_pull_without_keys_or_features(drivers: FeatureStore) -> None:
    latest = TimescaleOfflineStore.pull_latest_from_table_or_query
    job = latest(drivers.config, source(), [], ["trips"], "at", "created", T0, T0 + HOUR)
    assert job.to_arrow().to_pylist() == [
        {"trips": 12, "at": T0 + HOUR, "created": datetime(2024, 1, 5, tzinfo=UTC), DUMMY_ENTITY_ID: DUMMY_ENTITY_VAL}
    ]
    job = latest(drivers.config, source(), ["driver_id"], [], "at", "created", T0, T0 + HOUR)
    assert job.to_arrow().column_names == ["driver_id", "at", "created", "trips", "rate"]
    everything = TimescaleOfflineStore.pull_all_from_table_or_query(
        drivers.config, source(), ["driver_id"], ["trips"], "at"
    )
    assert sorted(values(everything, "trips")) == [10, 11, 12, 20]


def test_pull_latest_is_flat_in_history(db: Connection, drivers: FeatureStore) -> None:
    execute(
        db,
        "INSERT INTO driver_stats SELECT n % 5, timestamptz '2024-01-01Z' + n * interval '1 s', NULL, n, n "
        "FROM generate_series(1, 50000) AS n",
        "ANALYZE driver_stats",
    )
    job = TimescaleOfflineStore.pull_latest_from_table_or_query(
        drivers.config, source(), ["driver_id"], ["trips"], "at", "created", T0, T0 + timedelta(days=9)
    )
    plan = rows(db, f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {job.to_sql()}")[0][0][0]["Plan"]
    assert plan["Shared Hit Blocks"] + plan["Shared Read Blocks"] < 200
    assert len(job.to_arrow()) == 5


# --- offline_write_batch ---------------------------------------------------------------------------------------------


def new_rows(**columns: Any) -> pd.DataFrame:
    at = T0 + 9 * HOUR
    frame = pd.DataFrame(
        {"rate": [0.5, None], "trips": [5, 6], "driver_id": [1, 2], "at": [at, at], "created": [at] * 2}
    )
    return frame.assign(**columns)


def test_write_to_offline_store_appends_by_name(db: Connection, drivers: FeatureStore) -> None:
    drivers.write_to_offline_store("driver_stats", new_rows())
    assert rows(db, "SELECT driver_id, trips, rate FROM driver_stats WHERE at > '2024-01-01T08:00Z' ORDER BY 1") == [
        (1, 5, 0.5),
        (2, 6, None),
    ]
    job = drivers.get_historical_features(entities((1, T0 + 10 * HOUR)), FEATURES)
    assert values(job, "trips") == [5]
    with pytest.raises(ValueError, match="missing_expected_columns"):
        drivers.write_to_offline_store("driver_stats", new_rows(more=1))


def test_push_goes_to_the_offline_store(db: Connection, drivers: FeatureStore) -> None:
    from feast.data_source import PushMode

    push = PushSource(name="push", batch_source=source())
    drivers.apply([driver, view("pushed", source=push), push])
    drivers.push("push", new_rows(), to=PushMode.OFFLINE)
    assert rows(db, "SELECT count(*) FROM driver_stats WHERE at > '2024-01-01T08:00Z'") == [(2,)]


def test_a_batch_is_written_whole_or_not_at_all(db: Connection, drivers: FeatureStore) -> None:
    execute(db, "ALTER TABLE driver_stats ADD CHECK (trips < 100)")
    seen: list[int] = []
    write = TimescaleOfflineStore.offline_write_batch
    with pytest.raises(DatabaseError, match="violates check constraint"):
        write(drivers.config, view(), pa.Table.from_pandas(new_rows(trips=[5, 100])), seen.append)
    assert rows(db, "SELECT count(*) FROM driver_stats") == [(4,)] and seen == []
    write(drivers.config, view(), pa.Table.from_pandas(new_rows().set_index(pd.Index([4, 4]))), seen.append)
    assert rows(db, "SELECT count(*) FROM driver_stats") == [(6,)] and seen == [2]


def test_columns_are_cast_mapped_and_checked(db: Connection, store: FeatureStore) -> None:
    execute(
        db,
        "CREATE TABLE wide (id uuid, t timestamp, n numeric(9,2), j jsonb, m jsonb, s smallint, words text[], "
        "more text DEFAULT 'as given')",
    )
    mapping = {"id": "key", "n": "price", "t": "at"}
    keyed = Entity(name="key", join_keys=["key"], value_type=ValueType.STRING)
    origin = PostgreSQLSource(name="wide", table="wide", timestamp_field="at", field_mapping=mapping)
    names = ("price", "j", "m", "s", "words")
    schema = [Field(name=name, dtype=String) for name in names]
    wide = view("wide", entities=[keyed], schema=schema, source=origin)
    store.apply([keyed, wide])
    table = pa.table(
        {
            "price": ["1.25"],
            "key": [str(uuid.UUID(int=3))],
            "at": pa.array([T0], pa.timestamp("ns", tz="UTC")),
            "j": ['{"a": 1}'],
            "m": pa.array([{"b": 2}]),
            "s": pa.array([7], pa.int64()),
            "words": pa.array([["x"]]).cast(pa.list_(pa.large_string())),
        }
    )
    TimescaleOfflineStore.offline_write_batch(store.config, wide, table, None)
    assert rows(db, "SELECT * FROM wide") == [
        (uuid.UUID(int=3), T0.replace(tzinfo=None), Decimal("1.25"), {"a": 1}, {"b": 2}, 7, ["x"], "as given")
    ]
    for wrong, message in (
        (table.append_column("nosuch", pa.array([1])), "wide has no column 'nosuch'"),
        (table.drop_columns(["s"]), "rows for view 'wide' lack the column 's'"),
        (table.drop_columns(["key"]), "lack the column 'id'"),
    ):
        with pytest.raises(UsageError, match=message):
            TimescaleOfflineStore.offline_write_batch(store.config, wide, wrong, None)


def test_a_query_of_one_table_is_written_through_and_no_other(db: Connection, drivers: FeatureStore) -> None:
    simple = source_of("simple", "SELECT * FROM driver_stats -- all of it")
    TimescaleOfflineStore.offline_write_batch(
        drivers.config, view(source=simple), pa.Table.from_pandas(new_rows()), None
    )
    assert rows(db, "SELECT count(*) FROM driver_stats") == [(6,)]
    grouped = source_of("grouped", "SELECT DISTINCT * FROM driver_stats")
    with pytest.raises(UsageError, match="source 'grouped' is a query that can't be written to"):
        TimescaleOfflineStore.offline_write_batch(
            drivers.config, view(source=grouped), pa.Table.from_pandas(new_rows()), None
        )
    assert rows(db, "SELECT count(*) FROM driver_stats") == [(6,)]


# --- write_logged_features -------------------------------------------------------------------------------------------


def logged(store: FeatureStore, table: str = "logs.served") -> FeatureService:
    config = LoggingConfig(destination=PostgreSQLLoggingDestination(table_name=table))
    service = FeatureService(name="service", features=[view()], logging_config=config)
    store.apply([driver, view(), service])
    return service


def logs(store: FeatureStore, service: FeatureService, count: int = 3) -> pa.Table:
    schema = FeatureServiceLoggingSource(service, store.project).get_schema(store.registry)
    instants = [T0 + index * HOUR for index in range(count)]
    given: dict[str, list[Any]] = {
        "driver_id": list(range(count)),
        "driver_stats__trips": [7, None, 9][:count],
        "__log_timestamp": instants,
        "__log_date": [instant.date() for instant in instants],
        "__request_id": [f"r{index}" for index in range(count)],
    }
    rows = [{name: given.get(name, [None] * count)[index] for name in schema.names} for index in range(count)]
    return pa.Table.from_pylist(rows, schema=schema)


@pytest.mark.parametrize("as_path", [True, False])
def test_logs_are_appended_and_retrieved(db: Connection, drivers: FeatureStore, as_path: bool, tmp_path: Path) -> None:
    execute(db, "CREATE SCHEMA logs")
    service = logged(drivers)
    service = drivers.get_feature_service("service")
    table = logs(drivers, service)
    for number in range(2):
        if as_path:
            directory = tmp_path / str(number)
            directory.mkdir()
            pq.write_table(table.slice(0, 1), directory / "a.parquet")
            pq.write_table(table.slice(1), directory / "b.parquet")
            drivers.write_logged_features(directory, service)
        else:
            drivers.write_logged_features(table, service)
    job = drivers._get_provider().retrieve_feature_service_logs(
        service, T0, T0 + HOUR, drivers.config, drivers.registry
    )
    found = job.to_arrow().to_pylist()
    assert sorted(row["__request_id"] for row in found) == ["r0", "r0", "r1", "r1"]
    assert [row["driver_stats__trips"] for row in found if row["__request_id"] == "r0"] == [7, 7]
    assert rows(db, "SELECT count(*) FROM logs.served") == [(6,)]


def test_a_table_of_logs_grows_with_its_service(db: Connection, drivers: FeatureStore) -> None:
    execute(db, 'CREATE TABLE served ("__request_id" text)')
    service = logged(drivers, "served")
    drivers.write_logged_features(logs(drivers, service), service)
    assert rows(db, 'SELECT "__request_id", driver_stats__trips FROM served ORDER BY 1') == [
        ("r0", 7),
        ("r1", None),
        ("r2", 9),
    ]


def test_logs_go_to_a_destination_of_ours_only(drivers: FeatureStore) -> None:
    from feast.infra.offline_stores.file_source import FileLoggingDestination

    service = logged(drivers)
    service.logging_config = LoggingConfig(destination=FileLoggingDestination(path="x"))
    with pytest.raises(UsageError, match="logs go to a PostgreSQLLoggingDestination, not to a FileLoggingDestination"):
        drivers.write_logged_features(logs(drivers, service), service)


# --- persist ---------------------------------------------------------------------------------------------------------


def test_a_dataset_is_saved_once_and_replaced_when_asked(db: Connection, drivers: FeatureStore) -> None:
    execute(db, "CREATE SCHEMA sets")
    storage = SavedDatasetPostgreSQLStorage(table_ref='sets."Labels"')
    job = drivers.get_historical_features(entities((1, T0), (2, T0 + HOUR), label=["a", "b"]), FEATURES)
    saved = drivers.create_saved_dataset(job, "labels", storage)
    assert saved.to_df()["trips"].to_list() == [10, 20]
    assert drivers.get_saved_dataset("labels").to_arrow().num_rows == 2
    assert rows(db, 'SELECT label, trips FROM sets."Labels" ORDER BY 1') == [("a", 10), ("b", 20)]
    other = drivers.get_historical_features(
        "SELECT 1 AS driver_id, timestamptz '2024-01-01Z' AS event_timestamp", FEATURES
    )
    with pytest.raises(SavedDatasetLocationAlreadyExists, match="Labels"):
        other.persist(storage)
    assert rows(db, 'SELECT count(*) FROM sets."Labels"') == [(2,)]
    drivers.create_saved_dataset(other, "labels", storage, allow_overwrite=True)
    assert rows(db, 'SELECT driver_id, trips FROM sets."Labels"') == [(1, 10)]
    assert rows(db, "SELECT count(*) FROM pg_tables WHERE schemaname = 'sets'") == [(1,)]


def test_readers_never_see_a_replaced_dataset_missing(db: Connection, drivers: FeatureStore, url: str) -> None:
    storage = SavedDatasetPostgreSQLStorage(table_ref="labels")
    job = drivers.get_historical_features(entities((1, T0), (2, T0 + HOUR)), FEATURES)
    job.persist(storage)
    counts: set[int] = set()
    stop = threading.Event()

    def read() -> None:
        with open_connection(url, connect_timeout=10) as reader:
            while not stop.is_set():
                counts.add(rows(reader, "SELECT count(*) FROM labels")[0][0])

    thread = threading.Thread(target=read)
    thread.start()
    try:
        for _ in range(8):
            job.persist(storage, allow_overwrite=True)
    finally:
        stop.set()
        thread.join()
    assert counts == {2}


def test_a_failed_save_leaves_what_was(db: Connection, drivers: FeatureStore) -> None:
    storage = SavedDatasetPostgreSQLStorage(table_ref="labels")
    drivers.get_historical_features(entities((1, T0)), FEATURES).persist(storage)
    broken = "SELECT 1 AS driver_id, now() AS event_timestamp, 1 / (n - 1) AS x FROM generate_series(1, 2) AS n"
    with pytest.raises(DatabaseError, match="division by zero"):
        drivers.get_historical_features(broken, FEATURES).persist(storage, allow_overwrite=True)
    assert rows(db, "SELECT driver_id, trips FROM labels") == [(1, 10)]


# --- validate_data_source, get_table_column_names_and_types_from_data_source -----------------------------------------


def test_a_source_is_validated_before_it_is_used(drivers: FeatureStore, caplog: pytest.LogCaptureFixture) -> None:
    validate = TimescaleOfflineStore().validate_data_source
    validate(drivers.config, source())
    assert not caplog.messages
    validate(drivers.config, source("nosuch"))
    assert 'can\'t be read yet: relation "public.nosuch" does not exist' in caplog.text
    with pytest.raises(UsageError, match="source 'driver_stats' has no column 'nosuch'; columns: driver_id, at"):
        validate(drivers.config, source(created="nosuch"))


def test_every_column_has_a_type_that_feast_knows(typed: FeatureStore) -> None:
    origin = typed.get_feature_view("typed").batch_source
    found = dict(TimescaleOfflineStore().get_table_column_names_and_types_from_data_source(typed.config, origin))
    known = origin.source_datatype_to_feast_value_type()
    assert ValueType.UNKNOWN not in {known(kind) for kind in found.values()}
    by_kind = {kind: known(found[f"c{index}"]) for index, kind in enumerate(COLUMNS)}
    assert by_kind["numeric(30,10)"] == ValueType.DOUBLE and by_kind["numeric[]"] == ValueType.DOUBLE_LIST
    assert by_kind["mood"] == by_kind["inet"] == ValueType.STRING and by_kind["varchar[]"] == ValueType.STRING_LIST
    assert by_kind["timestamptz[]"] == ValueType.UNIX_TIMESTAMP_LIST and by_kind["uuid"] == ValueType.UUID
    stock = dict(origin.get_table_column_names_and_types(typed.config))
    assert {name: kind for name, kind in stock.items() if kind != "unknown"}.items() <= {
        **found,
        **{name: kind for name, kind in stock.items() if kind in ("character[]", "time without time zone[]")},
    }.items()


def test_features_are_inferred_from_the_source(db: Connection, drivers: FeatureStore) -> None:
    inferred = view("inferred", schema=[])
    drivers.apply([driver, inferred])
    found = drivers.get_feature_view("inferred")
    assert {(field.name, str(field.dtype)) for field in found.features} == {("trips", "Int64"), ("rate", "Float64")}
    assert [(key.name, str(key.dtype)) for key in found.entity_columns] == [("driver_id", "Int64")]


@pytest.mark.parametrize("form", ["url", "parts"])
def test_feasts_own_connection_works_with_our_configuration(url: str, drivers: FeatureStore, form: str) -> None:
    """A PostgreSQLSource connects by itself, with Feast's settings."""
    parts = conninfo_to_dict(url)
    settings = {
        "host": parts.get("host", "localhost"),
        "port": int(parts.get("port", 5432)),
        "database": parts["dbname"],
        "user": parts.get("user", "postgres"),
        "password": parts.get("password", ""),
    }
    config = TimescaleOfflineStoreConfig(**({"url": url} if form == "url" else settings))
    drivers.config._offline_store = config
    assert ("trips", "bigint") in list(source().get_table_column_names_and_types(drivers.config))
    assert values(drivers.get_historical_features(entities((1, T0)), FEATURES), "trips") == [10]


# --- monitoring ------------------------------------------------------------------------------------------------------


def test_compute_monitoring_metrics(drivers: FeatureStore) -> None:
    metrics = TimescaleOfflineStore.compute_monitoring_metrics(
        drivers.config, source(), [("trips", "numeric"), ("driver_id", "categorical")], "at", T0, T0 + HOUR
    )
    trips, ids = metrics
    assert (trips["row_count"], trips["null_count"], trips["min_val"], trips["max_val"]) == (4, 0, 10.0, 20.0)
    assert sum(trips["histogram"]["counts"]) == 4
    assert ids["histogram"]["values"] == [{"value": "1", "count": 3}, {"value": "2", "count": 1}]
    early = TimescaleOfflineStore.compute_monitoring_metrics(
        drivers.config, source(), [("trips", "numeric")], "at", T0, T0
    )
    assert early[0]["row_count"] == 1


@pytest.mark.parametrize("kind", ["timestamptz", "timestamp", "date"])
def test_monitoring_counts_in_utc_whatever_the_zone(db: Connection, drivers: FeatureStore, kind: str) -> None:
    name = db.info.dbname
    db.execute(sql.SQL("ALTER DATABASE {} SET timezone = 'Asia/Kolkata'").format(sql.Identifier(name)))
    execute(
        db,
        f"CREATE TABLE zoned (at {kind}, x float8)",
        "SET timezone = 'UTC'",
        "INSERT INTO zoned VALUES ('2024-01-01', 1), ('2024-01-02', 2)",
    )
    zoned = source("zoned", None)
    newest = TimescaleOfflineStore.get_monitoring_max_timestamp(drivers.config, zoned, "at")
    assert newest == T0 + timedelta(days=1)
    (metric,) = TimescaleOfflineStore.compute_monitoring_metrics(
        drivers.config, zoned, [("x", "numeric")], "at", T0, T0 + timedelta(hours=23)
    )
    assert (metric["row_count"], metric["mean"]) == (1, 1.0)


def test_monitoring_metrics_are_kept_queried_and_cleared(drivers: FeatureStore) -> None:
    config = drivers.config
    TimescaleOfflineStore.ensure_monitoring_tables(config)
    TimescaleOfflineStore.ensure_monitoring_tables(config)
    metric = {
        "project_id": "market",
        "feature_view_name": "driver_stats",
        "feature_name": "trips",
        "metric_date": date(2024, 1, 1),
        "granularity": "daily",
        "data_source_type": "batch",
        "computed_at": T0,
        "max_event_timestamp": T0 + HOUR,
        "is_baseline": True,
        "feature_type": "numeric",
        "row_count": 4,
        "null_count": 0,
        "null_rate": 0.0,
        "mean": 13.25,
        "histogram": {"bins": [1.0], "counts": [4], "bin_width": 1.0},
    }
    TimescaleOfflineStore.save_monitoring_metrics(config, "feature", [metric])
    TimescaleOfflineStore.save_monitoring_metrics(config, "feature", [{**metric, "row_count": 5}])
    filters = {"feature_view_name": "driver_stats"}
    query = TimescaleOfflineStore.query_monitoring_metrics
    (found,) = query(config, "market", "feature", filters, date(2024, 1, 1), date(2024, 1, 1))
    assert (found["row_count"], found["is_baseline"]) == (5, True)
    histogram = found["histogram"]
    assert (json.loads(histogram) if isinstance(histogram, str) else histogram) == metric["histogram"]
    assert query(config, "market", "feature", filters, date(2024, 1, 2)) == []
    TimescaleOfflineStore.clear_monitoring_baseline(config, "market", "driver_stats")
    assert query(config, "market", "feature", filters)[0]["is_baseline"] is False


# --- what a job leaves, and what it needs ----------------------------------------------------------------------------


def test_jobs_at_once_do_not_clash_and_nothing_stays(db: Connection, drivers: FeatureStore) -> None:
    jobs = [drivers.get_historical_features(entities((1 + index % 2, T0 + HOUR)), FEATURES) for index in range(6)]
    found: dict[int, list[Any]] = {}
    threads = [
        threading.Thread(target=lambda at=index: found.__setitem__(at, values(jobs[at], "trips")))
        for index in range(len(jobs))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {index: [12 if index % 2 == 0 else 20] for index in range(6)}
    assert rows(db, "SELECT relname FROM pg_class WHERE relname LIKE 'featurectl_%'") == []


KILLED = """
import os, signal, sys
import featurectl.core.arrow as arrow
from psycopg import sql
import pyarrow as pa
with arrow.connect(sys.argv[1]) as connection, connection.transaction():
    connection.ingest("featurectl_spine", pa.table({"x": [1]}), keep=False)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_process_that_dies_leaves_no_table(db: Connection, url: str) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, url], timeout=60, check=False)
    assert done.returncode == -9
    for _ in range(100):
        left = rows(db, "SELECT count(*) FROM pg_class WHERE relname = 'featurectl_spine'")
        if left == [(0,)]:
            break
        threading.Event().wait(0.05)
    assert left == [(0,)]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_role_that_may_only_read_can_retrieve(
    db: Connection, drivers: FeatureStore, open_store: Open, url: str, strategy: str
) -> None:
    role = f"reader_{uuid.uuid4().hex[:12]}"
    name = sql.Identifier(role)
    db.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'only-reads'").format(name))
    try:
        db.execute(sql.SQL("GRANT SELECT ON driver_stats TO {}").format(name))
        execute(db, "REVOKE CREATE ON SCHEMA public FROM PUBLIC")
        parts = conninfo_to_dict(url)
        settings = {
            "url": None,
            "host": parts.get("host", "localhost"),
            "port": int(parts.get("port", 5432)),
            "database": parts["dbname"],
            "user": role,
            "password": "only-reads",
        }
        job = open_store(join_strategy=strategy, **settings).get_historical_features(entities((1, T0)), FEATURES)
        assert values(job, "trips") == [10]
    finally:
        db.execute(sql.SQL("DROP OWNED BY {}").format(name))
        db.execute(sql.SQL("DROP ROLE {}").format(name))


def test_a_file_is_whole_or_as_it_was(drivers: FeatureStore, tmp_path: Path) -> None:
    text = "SELECT i AS driver_id, now() AS at, 1 / (200000 - i) AS trips FROM generate_series(1, 200000) AS i"
    failing = PostgreSQLSource(name="failing", query=text, timestamp_field="at")
    job = TimescaleOfflineStore.pull_all_from_table_or_query(drivers.config, failing, ["driver_id"], ["trips"], "at")
    path = tmp_path / "out" / "set.parquet"
    path.parent.mkdir()
    path.write_text("what was there before")
    with pytest.raises(DatabaseError, match="division by zero"):
        job.to_parquet(path)
    assert path.read_text() == "what was there before"
    assert list(path.parent.iterdir()) == [path]
