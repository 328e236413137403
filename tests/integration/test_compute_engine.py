"""The compute engine's contract on real stores and registries: update, teardown_infra, materialize and the rest."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from feast import (
    BatchFeatureView,
    Entity,
    FeatureStore,
    FeatureView,
    Field,
    PushSource,
    RepoConfig,
    StreamFeatureView,
    ValueType,
)
from feast.aggregation import Aggregation
from feast.errors import FeatureViewNotFoundException
from feast.feature_view import FeatureViewState
from feast.infra.common.materialization_job import MaterializationJobStatus, MaterializationTask
from feast.infra.common.retrieval_task import HistoricalRetrievalTask
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import PostgreSQLSource
from feast.transformation.base import Transformation
from feast.types import Bool, Float64, Int64, Json, String, UnixTimestamp
from google.protobuf.message import DecodeError

from featurectl.core.db import Connection, open_connection
from featurectl.core.locks import lock, name_of_view
from featurectl.errors import ConfigError, DatabaseError, DefinitionError, SchemaMissing
from featurectl.plugin.engine import TimescaleComputeEngine
from featurectl.plugin.intervals import MICROSECOND, add, extended, merged, settle
from tests.fix_repository import Repo

HOUR = timedelta(hours=1)
START = datetime(2024, 1, 1, tzinfo=UTC)
NOW = START + timedelta(days=100)
DRIVER = Entity(name="driver", join_keys=["driver_id"], value_type=ValueType.INT64)

pytestmark = pytest.mark.filterwarnings("ignore:(Batch|Stream) feature views are experimental")


@dataclass
class Lab:
    """A database, and Feast stores over it with our engine."""

    url: str
    root: Path
    connection: Connection
    stores: list[FeatureStore] = field(default_factory=list)

    def config(self, *, registry: str = "sql", online: str = "ours", **engine: Any) -> RepoConfig:
        ours = {"type": "featurectl.plugin.online.TimescaleOnlineStore", "url": self.url}
        sqlite = {"type": "sqlite", "path": str(self.root / "online.db")}
        sql = {
            "registry_type": "sql",
            "path": self.url.replace("postgresql://", "postgresql+psycopg://", 1),
            "cache_ttl_seconds": 0,
        }
        return RepoConfig(
            project="lab",
            provider="local",
            registry=sql if registry == "sql" else {"path": str(self.root / "registry.db"), "cache_ttl_seconds": 0},
            offline_store={"type": "featurectl.plugin.offline.TimescaleOfflineStore", "url": self.url},
            online_store=sqlite if online == "sqlite" else {**ours, **({"force": True} if online == "forced" else {})},
            batch_engine={"type": "featurectl.plugin.engine.TimescaleComputeEngine", **engine},
            entity_key_serialization_version=3,
            repo_path=self.root,
        )

    def store(self, *views: Any, **config: Any) -> FeatureStore:
        """Open a store of its own; the views are applied."""
        store = FeatureStore(config=self.config(**config))
        self.stores.append(store)
        if views:
            store.apply([DRIVER, *views])
        return store

    def sql(self, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
        cursor = self.connection.execute(statement.encode(), parameters or None)
        return cursor.fetchall() if cursor.description else []

    def table(self, name: str = "stats", columns: str = "x double precision", key: bool = True) -> None:
        """Create a source with a driver, an event and a created time, and columns of its own."""
        primary = ", PRIMARY KEY (driver_id, ts)" if key else ""
        self.sql(f"CREATE TABLE {name} (driver_id bigint, ts timestamptz, created timestamptz, {columns}{primary})")

    def write(self, driver: int | None, hour: float, x: float, created: datetime = NOW, table: str = "stats") -> None:
        self.sql(f"INSERT INTO {table} VALUES (%s, %s, %s, %s)", driver, START + hour * HOUR, created, x)

    def online(self, view: str = "stats", columns: str = "driver_id, event_timestamp, x") -> list[tuple[Any, ...]]:
        return self.sql(f"SELECT {columns} FROM online.lab__{view} ORDER BY 1")


@pytest.fixture
def lab(clone: Callable[[str | None], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    monkeypatch.setenv("FEATURECTL_NOW", NOW.isoformat())
    url = clone(None)
    with open_connection(url, connect_timeout=10) as connection:
        made = Lab(url, tmp_path, connection)
        yield made
    for store in made.stores:
        close(store)


def close(store: FeatureStore) -> None:
    if store._provider is not None:
        asyncio.run(store.close())
    if engine := getattr(store.registry, "write_engine", None):
        engine.dispose()


def view(
    name: str = "stats",
    *,
    table: str | None = None,
    query: str | None = None,
    fields: dict[str, Any] | None = None,
    entities: Sequence[Entity] = (DRIVER,),
    mapping: dict[str, str] | None = None,
    kind: Any = FeatureView,
    **more: Any,
) -> Any:
    names = {"timestamp_field": "ts", "created_timestamp_column": "created", **more.pop("times", {})}
    source = PostgreSQLSource(
        name=f"{name}_source",
        table=table or (None if query else name),
        query=query,
        field_mapping=mapping or {},
        **names,
    )
    keys = [Field(name=entity.join_key, dtype=Int64) for entity in entities]
    return kind(
        name=name,
        entities=list(entities),
        ttl=timedelta(0),
        online=True,
        schema=[*keys, *(Field(name=field, dtype=dtype) for field, dtype in (fields or {"x": Float64}).items())],
        source=source,
        **more,
    )


def intervals(store: FeatureStore, name: str = "stats") -> list[tuple[datetime, datetime]]:
    """Return what the registry says a view was materialized for; the newest interval may stand between its fellows."""
    found = [tuple(one) for one in store.registry.get_any_feature_view(name, "lab").materialization_intervals]
    assert len(found) <= len(merged(found)) + 2
    return merged(found)


def hours(*pairs: tuple[float, float]) -> list[tuple[datetime, datetime]]:
    return [(START + first * HOUR, START + last * HOUR) for first, last in pairs]


def state(store: FeatureStore, name: str = "stats") -> FeatureViewState:
    return store.registry.get_any_feature_view(name, "lab").state


def read(store: FeatureStore, drivers: Sequence[int], features: Sequence[str] = ("stats:x",)) -> dict[str, list[Any]]:
    rows = [{"driver_id": driver} for driver in drivers]
    return store.get_online_features(features=list(features), entity_rows=rows).to_dict()


registries = pytest.mark.parametrize("registry", ["sql", "file"])


# --- update, teardown_infra and the two properties -------------------------------------------------------------------


def test_update_makes_what_the_engine_needs_in_a_bare_database(lab: Lab) -> None:
    lab.table()
    lab.store(view())
    assert lab.sql("SELECT count(*) FROM featurectl.materializations, featurectl.materialized_intervals") == [(0,)]


def test_update_forgets_what_deleted_views_were_materialized_for(lab: Lab) -> None:
    lab.table()
    lab.write(1, 1, 1.0)
    store = lab.store(view())
    store.materialize(START, START + HOUR)
    store.apply([DRIVER], objects_to_delete=[store.get_feature_view("stats")], partial=False)
    store.apply([DRIVER, view()])
    store.materialize(START + 5 * HOUR, START + 6 * HOUR)
    assert intervals(store) == hours((5, 6))


def test_teardown_infra_forgets_all(lab: Lab) -> None:
    lab.table()
    store = lab.store(view())
    store.materialize(START, START + HOUR)
    store.teardown()
    assert lab.sql("SELECT * FROM featurectl.materialized_intervals") == []


def test_the_engine_takes_all_views_at_once_and_writes_the_registry_itself(lab: Lab) -> None:
    lab.table()
    engine = lab.store(view()).provider.batch_engine
    assert isinstance(engine, TimescaleComputeEngine)
    assert (engine.supports_batch, engine.applies_materialization) == (True, True)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_parallel": 0}, "batch_engine: max_parallel: Input should be greater than or equal to 1"),
        ({"chunk_rows": "many"}, "batch_engine: chunk_rows: Input should be a valid integer"),
        ({"max_paralel": 2}, "batch_engine: max_paralel: Extra inputs are not permitted"),
    ],
)
def test_wrong_settings_are_named(lab: Lab, settings: dict[str, Any], message: str) -> None:
    lab.table()
    with pytest.raises(ConfigError, match=message):
        lab.store(view(), **settings)


def test_without_a_store_of_ours_the_engine_says_what_it_needs(lab: Lab) -> None:
    config = lab.config(online="sqlite")
    config = config.model_copy(update={"offline_config": "dask", "_offline_store": None})
    with pytest.raises(ConfigError, match="needs featurectl's online store or offline store"):
        TimescaleComputeEngine(repo_config=config, offline_store=None, online_store=None)


# --- materialize: what is read ---------------------------------------------------------------------------------------


def test_each_entity_gets_its_newest_row_of_the_window_both_ends_included(lab: Lab) -> None:
    lab.table()
    for driver, hour in ((1, 1), (1, 2), (1, 3), (2, 2), (3, 5)):
        lab.write(driver, hour, float(hour))
    store = lab.store(view())
    store.materialize(START + 1 * HOUR, START + 2 * HOUR)
    assert lab.online() == [(1, START + 2 * HOUR, 2.0), (2, START + 2 * HOUR, 2.0)]
    store.materialize(START + 2 * HOUR + MICROSECOND, START + 5 * HOUR - MICROSECOND)
    assert lab.online() == [(1, START + 3 * HOUR, 3.0), (2, START + 2 * HOUR, 2.0)]
    assert read(store, [1, 2, 3])["x"] == [3.0, 2.0, None]


def test_disable_event_timestamp_takes_everything_up_to_now(lab: Lab) -> None:
    lab.table()
    lab.sql("INSERT INTO stats VALUES (1, '1960-01-01Z', %s, 1)", NOW)
    lab.write(2, 1, 2.0)
    lab.sql("INSERT INTO stats VALUES (2, %s, %s, 3)", NOW + HOUR, NOW)
    store = lab.store(view())
    store.materialize(NOW, NOW, disable_event_timestamp=True)
    assert lab.online(columns="driver_id, x") == [(1, 1.0), (2, 2.0)]


def test_what_lies_ahead_of_the_clock_waits_and_the_registry_does_not_claim_it(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.table()
    for hour in (1, 3):
        lab.write(1, hour, float(hour))
    store = lab.store(view())
    monkeypatch.setenv("FEATURECTL_NOW", (START + 2 * HOUR).isoformat())
    store.materialize(START, START + 10 * HOUR)
    assert lab.online() == [(1, START + HOUR, 1.0)]
    assert intervals(store) == hours((0, 2))
    store.materialize(START + 5 * HOUR, START + 10 * HOUR)  # nothing but future
    assert intervals(store) == hours((0, 2))
    monkeypatch.setenv("FEATURECTL_NOW", (START + 4 * HOUR).isoformat())
    store.materialize_incremental(START + 10 * HOUR)
    assert lab.online() == [(1, START + 3 * HOUR, 3.0)]
    assert intervals(store) == hours((0, 4))


TYPED = {
    "numeric_column": ("numeric(12,3)", "12.5", Float64, 12.5),
    "real_column": ("real", "0.5", Float64, 0.5),
    "small_column": ("smallint", "7", Int64, 7),
    "whole_column": ("integer", "8", Int64, 8),
    "flag_as_number": ("boolean", "true", Int64, 1),
    "number_as_flag": ("integer", "2", Bool, True),
    "varchar_column": ("varchar(9)", "'ab'", String, "ab"),
    "char_column": ("char(4)", "'ab'", String, "ab"),
    "uuid_column": ("uuid", "'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'", String, "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
    "json_column": ("json", """'{"a": [1, 2]}'""", Json, {"a": [1, 2]}),
    "jsonb_column": ("jsonb", """'{"b": null}'""", Json, {"b": None}),
    "array_as_json": ("integer[]", "'{1,2}'", Json, [1, 2]),
    "local_time": ("timestamp", "'2024-01-01 05:00'", UnixTimestamp, START + 5 * HOUR),
    "day": ("date", "'2024-01-02'", UnixTimestamp, START + 24 * HOUR),
}


@pytest.mark.parametrize("event", ["timestamptz", "timestamp", "date"])
def test_every_source_type_is_cast_to_that_of_the_online_column(lab: Lab, event: str) -> None:
    columns = ", ".join(f"{name} {kind}" for name, (kind, *_) in TYPED.items())
    lab.sql(
        f"CREATE TABLE typed (driver_id integer, ts {event}, created {event}, {columns}, PRIMARY KEY (driver_id, ts))"
    )
    values = ", ".join(value for _, value, *_ in TYPED.values())
    lab.sql(f"INSERT INTO typed VALUES (1, '2024-01-03', '2024-01-03', {values})")
    store = lab.store(view("typed", fields={name: kind for name, (_, _, kind, _) in TYPED.items()}))
    store.materialize(START + 48 * HOUR, START + 48 * HOUR)
    (row,) = lab.online("typed", ", ".join(["event_timestamp", "created_timestamp", *TYPED]))
    midnight = START + 48 * HOUR
    assert row == (midnight, midnight, *(expected for *_, expected in TYPED.values()))


def test_an_integer_key_that_feast_calls_int64_is_still_walked_by_its_index(lab: Lab) -> None:
    lab.sql(
        "CREATE TABLE stats (driver_id integer, ts timestamp, created timestamp, x real, PRIMARY KEY (driver_id, ts))"
    )
    lab.sql(
        "INSERT INTO stats SELECT d, '2024-01-01'::timestamp + h * interval '1 hour', now(), h "
        "FROM generate_series(1, 50) AS d, generate_series(1, 400) AS h"
    )
    lab.sql("ANALYZE stats")
    store = lab.store(view())
    with counted_reads(lab) as read:
        store.materialize(START, START + 100 * HOUR)
    assert lab.online()[0] == (1, START + 100 * HOUR, 100.0) and len(lab.online()) == 50
    assert read() < 1000, "rows read of 20,000"


@dataclass
class Reads:
    lab: Lab

    def __enter__(self) -> Callable[[], int]:
        self.before = self.total()
        return lambda: self.total() - self.before

    def __exit__(self, *_: object) -> None: ...

    def total(self) -> int:
        # A session that has ended has told the statistics all it did; ours are read afresh.
        time.sleep(0.1)
        self.lab.sql("SELECT pg_stat_clear_snapshot()")
        ((rows,),) = self.lab.sql(
            "SELECT coalesce(sum(seq_tup_read + coalesce(idx_tup_fetch, 0)), 0)::bigint FROM pg_stat_user_tables "
            "WHERE relname = 'stats'"
        )
        return int(rows)


def counted_reads(lab: Lab) -> Reads:
    return Reads(lab)


def test_names_are_mapped_for_features_keys_and_times(lab: Lab) -> None:
    lab.sql('CREATE TABLE raw ("Driver" bigint, "At" timestamptz, "Made" timestamptz, "X %" double precision)')
    lab.sql("INSERT INTO raw VALUES (1, %s, %s, 1.5)", START + HOUR, NOW)
    mapping = {"Driver": "driver_id", "At": "ts", "Made": "created", "X %": "x"}
    store = lab.store(view("stats", table="raw", mapping=mapping))
    store.materialize(START, START + HOUR)
    assert lab.online(columns="driver_id, event_timestamp, created_timestamp, x") == [(1, START + HOUR, NOW, 1.5)]


def test_a_view_without_entities_has_one_row(lab: Lab) -> None:
    lab.sql("CREATE TABLE market (ts timestamptz, created timestamptz, x double precision)")
    for hour in (1, 3, 2):
        lab.sql("INSERT INTO market VALUES (%s, %s, %s)", START + hour * HOUR, NOW, hour)
    store = lab.store(view("market", entities=()))
    store.materialize(START, START + 9 * HOUR)
    assert read(store, [7], ["market:x"])["x"] == [3.0]
    assert lab.online("market", "x") == [(3.0,)]


def test_sources_of_every_kind_give_the_same(lab: Lab) -> None:
    lab.table()
    for driver in range(1, 6):
        for hour in range(driver):
            lab.write(driver, hour, float(hour))
    lab.sql("CREATE TABLE bare AS TABLE stats")
    lab.sql("INSERT INTO bare VALUES (NULL, %s, %s, 9)", START, NOW)
    lab.sql('CREATE TABLE "Mixed Case" AS TABLE stats')
    lab.sql("CREATE VIEW seen AS SELECT * FROM stats")
    lab.sql("CREATE TABLE parts (LIKE stats) PARTITION BY RANGE (ts)")
    lab.sql("CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM ('2024-01-01Z') TO ('2024-01-01 02:00Z')")
    lab.sql("CREATE TABLE parts_2 PARTITION OF parts DEFAULT")
    lab.sql("CREATE INDEX ON parts (driver_id, ts)")
    lab.sql("INSERT INTO parts TABLE stats")
    store = lab.store(
        view(),
        view("bare"),
        view("mixed", table='"Mixed Case"'),
        view("seen"),
        view("parts"),
        view("simple", query="SELECT * FROM stats"),
        view(
            "complex", query="SELECT driver_id, ts, max(created) AS created, sum(x) AS x FROM stats GROUP BY 1, 2 -- so"
        ),
    )
    store.materialize(START, START + 3 * HOUR)
    expected = [(driver, START + min(driver - 1, 3) * HOUR, float(min(driver - 1, 3))) for driver in range(1, 6)]
    for name in ("stats", "bare", "mixed", "seen", "parts", "simple", "complex"):
        assert lab.online(name) == expected, name


def test_a_million_rows_without_an_index_are_read_once(lab: Lab) -> None:
    lab.table(key=False)
    lab.sql(
        "INSERT INTO stats SELECT n %% 20000, %s + n * interval '1 second', %s, n FROM generate_series(1, 300000) AS n",
        START,
        NOW,
    )
    store = lab.store(view())
    with counted_reads(lab) as read:
        store.materialize(START, NOW)
    assert len(lab.online()) == 20000
    assert lab.online()[0] == (0, START + timedelta(seconds=300000), 300000.0)
    assert read() <= 300000


# --- materialize: what is written ------------------------------------------------------------------------------------


def test_an_old_window_leaves_newer_rows_alone_and_force_overwrites_them(lab: Lab) -> None:
    lab.table()
    for hour in (1, 9):
        lab.write(1, hour, float(hour))
    store = lab.store(view())
    store.materialize(START, START + 9 * HOUR)
    store.materialize(START, START + HOUR)
    assert lab.online() == [(1, START + 9 * HOUR, 9.0)]
    forced = lab.store(online="forced")
    forced.materialize(START, START + HOUR)
    assert lab.online() == [(1, START + HOUR, 1.0)]
    assert intervals(store) == hours((0, 9))


def test_of_equal_events_the_later_write_counts(lab: Lab) -> None:
    lab.table()
    lab.write(1, 1, 1.0, created=NOW - HOUR)
    store = lab.store(view())
    store.materialize(START, START + HOUR)
    for created, x, expected in ((NOW - 2 * HOUR, 2.0, 1.0), (NOW, 3.0, 3.0)):
        lab.sql("UPDATE stats SET created = %s, x = %s", created, x)
        store.materialize(START, START + HOUR)
        assert lab.online() == [(1, START + HOUR, expected)]


def test_an_incremental_run_misses_no_late_row(lab: Lab) -> None:
    lab.table()
    lab.write(1, 5, 5.0)
    store = lab.store(view())
    store.materialize(START, START + 6 * HOUR)
    lab.write(2, 3, 3.0)  # an entity that comes late, before the last run's end
    lab.write(1, 4, 4.0)  # and a row that is older than the one online
    store.materialize_incremental(START + 7 * HOUR)
    assert lab.online() == [(1, START + 5 * HOUR, 5.0), (2, START + 3 * HOUR, 3.0)]
    assert lab.sql(
        "SELECT incremental, window_start, entities, rows_written, rows_older, rows_unchanged "
        "FROM featurectl.materializations ORDER BY id"
    ) == [(False, START, 1, 1, 0, 0), (True, None, 2, 1, 0, 1)]


def test_without_its_online_table_a_view_says_so(lab: Lab) -> None:
    lab.table()
    store = lab.store(view())
    lab.sql("DROP TABLE online.lab__stats")
    with pytest.raises(SchemaMissing, match=r"view 'stats' has no online table online\.lab__stats; run"):
        store.materialize(START, NOW)
    lab.sql("CREATE TABLE online.lab__stats (driver_id bigint, event_timestamp timestamptz)")
    with pytest.raises(SchemaMissing, match=r"online.lab__stats has no column '(x|created_timestamp)'"):
        store.materialize(START, NOW)


# --- materialize: several views --------------------------------------------------------------------------------------


def slow(name: str, seconds: float) -> Any:
    """A view whose source takes its time."""
    return view(name, query=f"SELECT s.* FROM stats AS s, (SELECT pg_sleep({seconds})) AS z")


def broken(name: str) -> Any:
    """A view whose source can't be read."""
    return view(name, query="SELECT *, 1 / 0 AS y FROM stats", fields={"y": Float64})


@pytest.mark.parametrize(("max_parallel", "least", "most"), [(3, 1.0, 2.5), (1, 3.0, 9.0)])
def test_views_run_in_parallel_up_to_the_setting(lab: Lab, max_parallel: int, least: float, most: float) -> None:
    lab.table(key=False)
    lab.write(1, 1, 1.0)
    store = lab.store(slow("a", 1), slow("b", 1), slow("c", 1), max_parallel=max_parallel)
    begin = time.monotonic()
    store.materialize(START, START + HOUR)
    assert least <= time.monotonic() - begin < most
    assert [lab.online(name) for name in "abc"] == [[(1, START + HOUR, 1.0)]] * 3


@registries
def test_a_view_that_fails_stops_no_other(lab: Lab, registry: str) -> None:
    lab.table()
    lab.write(1, 1, 1.0)
    store = lab.store(view("a", table="stats"), broken("b"), view("c", table="stats"), registry=registry)
    with pytest.raises(DatabaseError, match="division by zero"):
        store.materialize(START, START + HOUR)
    assert [lab.online(name, "driver_id") for name in "abc"] == [[(1,)], [], [(1,)]]
    assert [intervals(store, name) for name in "abc"] == [hours((0, 1)), [], hours((0, 1))]
    assert [state(store, name).name for name in "ac"] == ["AVAILABLE_ONLINE"] * 2
    assert state(store, "b") not in (FeatureViewState.MATERIALIZING, FeatureViewState.AVAILABLE_ONLINE)


def test_jobs_come_in_the_order_of_tasks_and_say_what_happened(lab: Lab) -> None:
    lab.table()
    lab.write(1, 1, 1.0)
    store = lab.store(slow("a", 0.3), broken("b"), view())
    views = [store.get_feature_view(name) for name in ("a", "b", "stats")]
    tasks = [MaterializationTask("lab", one, START, START + HOUR) for one in views]
    jobs = store.provider.batch_engine.materialize(store.registry, tasks)
    done, failed = MaterializationJobStatus.SUCCEEDED, MaterializationJobStatus.ERROR
    assert [job.status() for job in jobs] == [done, failed, done]
    assert [job.task for job in jobs] == tasks
    assert [type(job.error()) for job in jobs] == [type(None), DatabaseError, type(None)]
    assert len({job.job_id() for job in jobs}) == 3
    assert [(job.should_be_retried(), job.url()) for job in jobs] == [(False, None)] * 3
    (alone,) = store.provider.batch_engine.materialize(store.registry, tasks[2])
    assert alone.status() == done


# --- materialize: the registry ---------------------------------------------------------------------------------------


def test_merged_intervals_cover_the_same_instants_with_the_fewest() -> None:
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    chance = random.Random(seed)
    for _ in range(300):
        given = []
        for _ in range(chance.randrange(8)):
            start = chance.randrange(40)
            given.append((START + start * MICROSECOND, START + (start + chance.randrange(6)) * MICROSECOND))
        covered = {n for start, end in given for n in range(40 + 6) if start <= START + n * MICROSECOND <= end}
        result = merged(given)
        assert {n for s, e in result for n in range(46) if s <= START + n * MICROSECOND <= e} == covered
        assert len(result) == sum(n - 1 not in covered for n in covered), given
        assert result == sorted(result)


def test_extended_intervals_cover_all_with_the_newest_last() -> None:
    (a, b, c, late) = hours((0, 2), (2, 4), (4, 5), (8, 9))
    assert extended([], [a], a) == [a]
    assert extended([a], hours((0, 4)), b) == [a, b]
    assert extended([a, b], hours((0, 5)), c) == [*hours((0, 4)), c]
    assert extended([a, late], [a, late], b) == [a, late, b]
    assert extended([a, b], hours((0, 4)), a) == hours((0, 4)), "done before: nothing new"
    assert extended([a, b], hours((0, 4)), None) == [a, b]
    assert extended([b], [a, late], None) == [*hours((0, 4)), late], "lost, and back"
    assert extended([a, late], [a, late], *hours((0, 9))) == hours((0, 9))


def test_extended_intervals_never_lose_an_instant() -> None:
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    chance = random.Random(seed)

    def some() -> list[tuple[datetime, datetime]]:
        starts = [chance.randrange(20) for _ in range(chance.randrange(4))]
        return hours(*((start, start + chance.randrange(4)) for start in starts))

    for _ in range(3000):
        before, known, newest = some(), merged(some()), (some() or [None])[0]
        result = extended(before, known, newest)
        assert merged(result) == merged([*before, *known, *([newest] if newest else [])]), (before, known, newest)
        assert len(result) <= max(len(merged(result)) + 2, len(before)), (before, known, newest)


@registries
def test_intervals_that_meet_or_overlap_become_one(lab: Lab, registry: str) -> None:
    lab.table()
    store = lab.store(view(), registry=registry)
    for first, last in ((0, 2), (1, 3), (3, 4), (8, 9)):
        store.materialize(START + first * HOUR, START + last * HOUR)
    assert intervals(store) == hours((0, 4), (8, 9))
    store.materialize(START + 4 * HOUR + MICROSECOND, START + 5 * HOUR)  # the next microsecond: nothing lies between
    assert intervals(store) == hours((0, 5), (8, 9))
    store.materialize(START + 5 * HOUR + 2 * MICROSECOND, START + 6 * HOUR)
    assert len(intervals(store)) == 3
    newest = store.get_feature_view("stats").materialization_intervals[-1]
    assert newest == (START + 5 * HOUR + 2 * MICROSECOND, START + 6 * HOUR), "as it was asked for"
    for _ in range(3):
        store.materialize_incremental(START + 9 * HOUR)
    store.materialize(START, START + 9 * HOUR)
    assert intervals(store) == hours((0, 9))
    assert state(store) == FeatureViewState.AVAILABLE_ONLINE


RUN = """
import json, sys
from datetime import datetime
from feast import FeatureStore, RepoConfig
store = FeatureStore(config=RepoConfig(**json.loads(sys.argv[1])))
print("ready", flush=True)
for line in sys.stdin:
    start, end, *names = line.split()
    store.materialize(datetime.fromisoformat(start), datetime.fromisoformat(end), names or None)
    print("done", flush=True)
"""


def child(lab: Lab, **config: Any) -> subprocess.Popen[str]:
    """A process of its own that materializes what it is told to."""
    given = lab.config(**config)
    document = {
        "project": "lab",
        "provider": "local",
        "registry": given.registry_config,
        "offline_store": {"type": "featurectl.plugin.offline.TimescaleOfflineStore", "url": lab.url},
        "online_store": {"type": "featurectl.plugin.online.TimescaleOnlineStore", "url": lab.url},
        "batch_engine": given.batch_engine_config,
        "entity_key_serialization_version": 3,
        "repo_path": str(lab.root),
    }
    command = [sys.executable, "-c", RUN, json.dumps(document)]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=lab.root
    )
    assert process.stdout is not None
    while (line := process.stdout.readline()) != "ready\n":
        assert line, process.communicate()[1]
    return process


def tell(process: subprocess.Popen[str], *words: Any) -> None:
    assert process.stdin is not None
    process.stdin.write(" ".join(map(str, words)) + "\n")
    process.stdin.flush()


def test_two_processes_at_once_lose_no_interval(lab: Lab) -> None:
    """Each has a view of its own and one they share; every other hour of that is somebody's, all at the same time."""
    lab.table()
    lab.write(1, 1, 1.0)
    store = lab.store(view(), view("a", table="stats"), view("b", table="stats"))
    workers = {name: child(lab) for name in "ab"}
    for turn in range(8):
        for offset, (name, worker) in enumerate(workers.items()):
            hour = 4 * turn + 2 * offset
            tell(worker, (START + hour * HOUR).isoformat(), (START + (hour + 1) * HOUR).isoformat(), "stats", name)
    for worker in workers.values():
        _, errors = worker.communicate(timeout=120)
        assert worker.returncode == 0, errors
    assert intervals(store) == hours(*((2 * n, 2 * n + 1) for n in range(16)))
    assert intervals(store, "b") == hours(*((4 * n + 2, 4 * n + 3) for n in range(8)))


def seen(store: FeatureStore, name: str) -> bool:
    """Whether a view has been materialized; a file registry may just now be half written."""
    with contextlib.suppress(FeatureViewNotFoundException, DecodeError):
        return bool(intervals(store, name))
    return False


@registries
def test_a_run_that_began_earlier_and_ends_later_takes_nothing_back(lab: Lab, registry: str) -> None:
    lab.table()
    lab.store(view(), view("a", table="stats"), registry=registry)
    early, late = lab.store(registry=registry), lab.store(registry=registry)
    thread = threading.Thread(target=lambda: early.materialize(START, START + HOUR))
    with lock(lab.connection, name_of_view("lab", "stats")):
        thread.start()
        wait_until(lambda: seen(late, "a"))
        late.materialize(START + 5 * HOUR, START + 6 * HOUR, ["a"])
    thread.join(20)
    assert [intervals(late, name) for name in ("stats", "a")] == [hours((0, 1)), hours((0, 1), (5, 6))]


@registries
def test_what_a_stale_copy_of_the_registry_took_away_comes_back(lab: Lab, registry: str) -> None:
    """Feast itself writes whole views, and whole files, from copies it read before others wrote."""
    lab.table()
    store = lab.store(view(), view("a", table="stats"), registry=registry)
    store.materialize(START, START + HOUR)
    other = lab.store(registry=registry)
    stale = {name: other.get_feature_view(name) for name in ("stats", "a")}
    file = lab.root / "registry.db"
    before = file.read_bytes() if registry == "file" else b""
    store.materialize(START + 5 * HOUR, START + 6 * HOUR)
    if before:
        file.write_bytes(before)
    for one in stale.values():
        one.state = FeatureViewState.MATERIALIZING
        other.registry.apply_feature_view(one, "lab")
    assert intervals(store) == hours((0, 1)), "the test's own premise"
    other.materialize(START + 8 * HOUR, START + 9 * HOUR, ["stats"])
    assert intervals(store) == hours((0, 1), (5, 6), (8, 9))
    assert state(store) == FeatureViewState.AVAILABLE_ONLINE
    if registry == "sql":
        other.materialize(START + 8 * HOUR, START + 9 * HOUR, ["a"])
    assert intervals(store, "a")[:2] == hours((0, 1), (5, 6))
    assert state(store, "a") == FeatureViewState.AVAILABLE_ONLINE


def test_many_threads_with_stores_of_their_own_lose_no_interval(lab: Lab) -> None:
    lab.table()
    lab.store(view())
    stores = [lab.store() for _ in range(8)]
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for turn in range(4):
                start = START + (number + 8 * turn) * 2 * HOUR
                stores[number].materialize(start, start + HOUR)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert intervals(stores[0]) == hours(*((2 * n, 2 * n + 1) for n in range(32)))


def sleeping(lab: Lab) -> list[tuple[Any, ...]]:
    return lab.sql(
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND state <> 'idle' "
        "AND pid <> pg_backend_pid() AND query LIKE '%pg_sleep%'"
    )


def wait_until(condition: Callable[[], Any], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.05)


@registries
def test_a_killed_run_leaves_nothing_stuck(lab: Lab, registry: str) -> None:
    lab.table(key=False)
    lab.write(1, 1, 1.0)
    store = lab.store(slow("stats", 0), registry=registry)
    store.materialize(START, START + HOUR)
    lab.write(1, 2, 2.0)
    store.apply([DRIVER, slow("stats", 60)])
    process = child(lab, registry=registry)
    tell(process, START.isoformat(), (START + 2 * HOUR).isoformat())
    wait_until(lambda: sleeping(lab))
    process.kill()
    process.communicate()
    fresh = lab.store(registry=registry)
    assert state(fresh) != FeatureViewState.MATERIALIZING
    assert read(fresh, [1])["x"] == [1.0]
    assert intervals(fresh) == hours((0, 1))
    # The server notices within a second that nobody waits for the statement, and gives its lock back.
    wait_until(lambda: not sleeping(lab), 10)
    fresh.apply([DRIVER, slow("stats", 0)])
    fresh.materialize(START, START + 2 * HOUR)
    assert read(fresh, [1])["x"] == [2.0]
    assert intervals(fresh) == hours((0, 2))


def test_ctrl_c_cancels_the_statements_and_rolls_back(lab: Lab) -> None:
    lab.table(key=False)
    lab.write(1, 1, 1.0)
    lab.store(slow("a", 60), slow("b", 60))
    process = child(lab)
    tell(process, START.isoformat(), (START + HOUR).isoformat())
    wait_until(lambda: len(sleeping(lab)) == 2)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=15)
    assert process.returncode == -signal.SIGINT and "KeyboardInterrupt" in errors
    assert not sleeping(lab)
    assert lab.online("a") == lab.online("b") == []


@pytest.mark.parametrize("name", [name_of_view("lab", "stats"), "registry lab"])
def test_a_run_waits_for_another_that_has_the_view_or_the_registry(lab: Lab, name: str) -> None:
    lab.table()
    lab.write(1, 1, 1.0)
    store = lab.store(view())
    thread = threading.Thread(target=lambda: store.materialize(START, START + HOUR))
    with lock(lab.connection, name):
        thread.start()
        thread.join(0.5)
        assert thread.is_alive() and lab.online() == []
    thread.join(20)
    assert len(lab.online()) == 1


def test_a_run_that_fails_takes_no_interval_of_another_back(lab: Lab) -> None:
    """Feast then writes the whole view as it was when the run began."""
    lab.table()
    store, late = lab.store(view()), lab.store()
    store.materialize(START, START + HOUR)
    failures: list[Exception] = []

    def fail() -> None:
        try:
            store.materialize(START + 2 * HOUR, START + 3 * HOUR)
        except SchemaMissing as error:
            failures.append(error)

    thread = threading.Thread(target=fail)
    with lock(lab.connection, name_of_view("lab", "stats")):
        thread.start()
        wait_until(lambda: lab.sql("SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"))
        (other,) = hours((5, 6))
        add(lab.connection, "lab", "stats", other)
        settle(lab.connection, late.registry, "lab", ["stats"], newest={"stats": other}, now=NOW)
        lab.sql("DROP TABLE online.lab__stats")
    thread.join(20)
    assert failures
    assert intervals(late) == hours((0, 1), (5, 6))


# --- through Arrow ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk_rows", [1, 7, 10_000])
def test_every_row_of_every_chunk_reaches_a_foreign_store(lab: Lab, chunk_rows: int) -> None:
    lab.table()
    drivers = range(1, 101 if chunk_rows == 1 else 1001)
    lab.sql(
        "INSERT INTO stats SELECT n, %s + h * interval '1 hour', %s, n * 10 + h "
        "FROM generate_series(1, %s) AS n, generate_series(1, 3) AS h",
        START,
        NOW,
        len(drivers),
    )
    store = lab.store(view(), online="sqlite", chunk_rows=chunk_rows)
    store.materialize(START, START + 2 * HOUR)
    assert read(store, drivers)["x"] == [driver * 10.0 + 2 for driver in drivers]
    assert intervals(store) == hours((0, 2))
    assert state(store) == FeatureViewState.AVAILABLE_ONLINE


def test_a_foreign_store_gets_mapped_names_no_null_keys_and_views_without_entities(lab: Lab) -> None:
    lab.sql("CREATE TABLE raw (d bigint, at timestamptz, made timestamptz, y double precision)")
    for driver, y in ((1, 1.5), (None, 2.5)):
        lab.sql("INSERT INTO raw VALUES (%s, %s, %s, %s)", driver, START + HOUR, NOW, y)
    mapping = {"d": "driver_id", "at": "ts", "made": "created", "y": "x"}
    store = lab.store(
        view("stats", table="raw", mapping=mapping),
        view("market", table="raw", mapping=mapping, entities=()),
        online="sqlite",
    )
    store.materialize(START, START + HOUR)
    assert read(store, [1, 2])["x"] == [1.5, None]
    with contextlib.closing(sqlite3.connect(lab.root / "online.db")) as online:
        assert online.execute("SELECT count(*) FROM lab_stats").fetchone() == (1,)
    assert read(store, [7], ["market:x"])["x"][0] in (1.5, 2.5)


def doubled(frame: pd.DataFrame) -> pd.DataFrame:
    frame["z"] = frame["x"] * 2
    return frame


@pytest.mark.parametrize("online", ["ours", "sqlite"])
@pytest.mark.parametrize("mode", ["pandas", "python"])
def test_a_transformation_runs_over_all_rows_and_the_newest_go_online(lab: Lab, online: str, mode: str) -> None:
    lab.table(key=False)
    lab.write(None, 2, 9.0)
    for driver in (1, 2):
        for hour in range(1, 6):
            lab.write(driver, hour, float(driver * 10 + hour))
    transformed = view(kind=BatchFeatureView, fields={"z": Float64}, mode=mode, udf=doubled, udf_string="doubled")
    store = lab.store(transformed, online=online, chunk_rows=1)
    store.materialize(START, START + 4 * HOUR)
    assert read(store, [1, 2, 3], ["stats:z"])["z"] == [28.0, 48.0, None]
    assert intervals(store) == hours((0, 4))


def test_a_transformation_in_a_mode_that_needs_another_engine_is_refused(lab: Lab) -> None:
    lab.table()
    transformed = view(kind=BatchFeatureView, fields={"z": Float64}, mode="pandas", udf=doubled, udf_string="doubled")
    store = lab.store(transformed)
    # Feast writes one in SQL to its registry, and can't read it back.
    transformed.feature_transformation = Transformation(mode="sql", udf=str, udf_string="str")
    task = MaterializationTask("lab", transformed, START, NOW)
    (job,) = store.provider.batch_engine.materialize(store.registry, task)
    assert isinstance(job.error(), DefinitionError)
    assert str(job.error()) == (
        "view 'stats' has a transformation in mode 'sql', which does not run here; modes: pandas, python"
    )


def without_times(frame: pd.DataFrame) -> pd.DataFrame:
    return frame[["driver_id", "x"]]


def test_a_transformation_that_loses_a_column_is_named(lab: Lab) -> None:
    lab.table()
    lab.write(1, 1, 1.0)
    store = lab.store(view(kind=BatchFeatureView, mode="pandas", udf=without_times, udf_string="without_times"))
    with pytest.raises((DefinitionError, KeyError), match="ts"):
        store.materialize(START, NOW)


def without_x(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.drop(columns="x")


def halved(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(x=frame["x"] / 2)


@pytest.mark.parametrize(
    ("function", "kind", "message"),
    [
        (without_x, Float64, "view 'stats' gets no column 'x'; columns: driver_id, ts, created"),
        (halved, Int64, "view 'stats', feature 'x' is Int64: Float value 0.5"),
    ],
    ids=["a column is missing", "a number does not fit"],
)
@pytest.mark.parametrize("online", ["ours", "sqlite"])
def test_what_a_transformation_gives_must_be_what_the_view_defines(
    lab: Lab, online: str, function: Callable[[pd.DataFrame], pd.DataFrame], kind: Any, message: str
) -> None:
    lab.table()
    lab.write(1, 1, 1.0)
    made = {"mode": "pandas", "udf": function, "udf_string": function.__name__}
    store = lab.store(view(kind=BatchFeatureView, fields={"x": kind}, **made), online=online)
    with pytest.raises(DefinitionError, match=message):
        store.materialize(START, NOW)
    assert intervals(store) == []


def without_created(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.drop(columns="created")


@pytest.mark.parametrize("online", ["ours", "sqlite"])
def test_a_transformation_may_leave_the_created_time_out(lab: Lab, online: str) -> None:
    lab.table()
    for hour in (1, 2):
        lab.write(1, hour, float(hour))
    made = {"mode": "pandas", "udf": without_created, "udf_string": "without_created"}
    store = lab.store(view(kind=BatchFeatureView, **made), online=online)
    store.materialize(START, START + 3 * HOUR)
    assert read(store, [1])["x"] == [2.0]


def test_aggregations_see_every_row_of_the_window(lab: Lab) -> None:
    rider = Entity(name="rider", join_keys=["driver_id"], value_type=ValueType.INT64)
    lab.table("clicks")
    for driver in (1, 2):
        for hour in range(1, 6):
            lab.write(driver, hour, float(driver * hour), table="clicks")
    times = {"timestamp_field": "ts", "created_timestamp_column": "created"}
    names = ("sum_x", "top", "avg_x")
    totals = StreamFeatureView(
        name="stats",
        entities=[rider],
        source=PushSource(name="pushed", batch_source=PostgreSQLSource(name="clicks", table="clicks", **times)),
        schema=[Field(name="driver_id", dtype=Int64), *(Field(name=name, dtype=Float64) for name in names)],
        aggregations=[
            Aggregation(column="x", function="sum"),
            Aggregation(column="x", function="max", name="top"),
            Aggregation(column="x", function="avg"),
        ],
        timestamp_field="ts",
    )
    store = lab.store(rider, totals)
    store.materialize(START, START + 4 * HOUR)
    assert read(store, [1, 2], ["stats:sum_x", "stats:top", "stats:avg_x"]) == {
        "driver_id": [1, 2],
        "sum_x": [10.0, 20.0],
        "top": [4.0, 8.0],
        "avg_x": [2.5, 5.0],
    }
    assert lab.online(columns="driver_id, event_timestamp") == [(1, START + 4 * HOUR), (2, START + 4 * HOUR)]


def test_a_view_derived_from_two_others_joins_their_rows(lab: Lab) -> None:
    lab.table("a")
    lab.sql("CREATE TABLE b (driver_id bigint, at timestamptz, made timestamptz, y double precision)")
    lab.sql("CREATE TABLE c (driver_id bigint, ts timestamptz, created timestamptz, x float8, y float8)")
    for driver in (1, 2):
        lab.write(driver, driver, float(driver), table="a")
        lab.sql("INSERT INTO b VALUES (%s, %s, %s, %s)", driver, START + HOUR, NOW, driver * 10)
    first = view("a")
    second = view("b", fields={"y": Float64}, times={"timestamp_field": "at", "created_timestamp_column": "made"})
    derived = BatchFeatureView(
        name="c",
        entities=[DRIVER],
        ttl=timedelta(0),
        online=True,
        schema=[Field(name="driver_id", dtype=Int64), Field(name="x", dtype=Float64), Field(name="y", dtype=Float64)],
        source=[first, second],
        sink_source=PostgreSQLSource(name="c", table="c", timestamp_field="ts", created_timestamp_column="created"),
    )
    store = lab.store(first, second, derived)
    store.materialize(START, START + 2 * HOUR, ["c"])
    assert lab.online("c", "driver_id, event_timestamp, x, y") == [
        (1, START + HOUR, 1.0, 10.0),
        (2, START + 2 * HOUR, 2.0, 20.0),
    ]


# --- get_historical_features, and Feast's own command ----------------------------------------------------------------


def test_get_historical_features_joins_the_view_to_its_entities(lab: Lab) -> None:
    lab.table()
    for hour in (1, 3):
        lab.write(1, hour, float(hour))
    store = lab.store(view())
    spine = pd.DataFrame({"driver_id": [1, 1], "event_timestamp": [START + 2 * HOUR, START + 3 * HOUR]})
    task = HistoricalRetrievalTask("lab", spine, store.get_feature_view("stats"), False, store.registry)
    job = store.provider.batch_engine.get_historical_features(store.registry, task)
    assert job.to_df()["x"].tolist() == [1.0, 3.0]


def test_get_historical_features_aggregates_what_each_entity_row_could_have_known(lab: Lab) -> None:
    lab.table()
    for hour in range(1, 6):
        lab.write(1, hour, float(hour))
    totals = view(kind=BatchFeatureView, fields={"sum_x": Float64}, aggregations=[Aggregation("x", "sum")])
    totals.ttl = 2 * HOUR
    store = lab.store(totals)
    spine = pd.DataFrame(
        {
            "driver_id": [1, 2, 1, 1],
            "event_timestamp": [START + hour * HOUR for hour in (4, 4, 2, 9)],
            "label": list("abcd"),
        }
    )
    task = HistoricalRetrievalTask("lab", spine, totals, False, store.registry)
    frame = store.provider.batch_engine.get_historical_features(store.registry, task).to_df()
    assert frame["label"].tolist() == list("abcd")
    assert frame["sum_x"].fillna(-1).tolist() == [2.0 + 3 + 4, -1, 1.0 + 2, -1]


def test_feasts_command_materializes_in_a_repository(repo: Repo) -> None:
    repo.rows(
        "INSERT INTO features.technical_indicators (symbol, timeframe, event_timestamp, rsi_14) "
        "VALUES ('BTCUSDT', '1h', '2024-01-01T01:00Z', 50) RETURNING 1"
    )
    repo.feast("materialize", "2024-01-01T00:00:00", "2024-01-01T01:00:00")
    assert repo.rows("SELECT rsi_14 FROM online.market__technical_indicators_view") == [(50.0,)]
    done = dict(repo.rows("SELECT view, entities FROM featurectl.materializations"))
    assert done == {"market_features_view": 0, "sentiment_features_view": 0, "technical_indicators_view": 1}
