"""A Feast store on our online store alone, in a database of its own: small views, and rows of protobufs."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig
from feast.infra.online_stores.online_store import OnlineStore
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.type_map import python_values_to_proto_values
from feast.types import FeastType, Float64, Int64, String
from feast.value_type import ValueType

from featurectl.core.db import open_connection
from featurectl.plugin.online import TimescaleOnlineStore

PROJECT = "conform"
NOON = datetime(2024, 1, 3, 12, tzinfo=UTC)
DRIVER = Entity(name="driver", join_keys=["driver_id"], value_type=ValueType.INT64)
CITY = Entity(name="city", join_keys=["city_id"], value_type=ValueType.STRING)
KEY_TYPES = {"driver": Int64, "city": String}
JOIN_KEYS = {"driver": "driver_id", "city": "city_id"}


@dataclass
class Shop:
    """A Feast store, its online store, and the database behind them."""

    feast: FeatureStore
    url: str

    @property
    def config(self) -> RepoConfig:
        return self.feast.config

    @property
    def online(self) -> TimescaleOnlineStore:
        return self.feast._get_provider().online_store

    def rows(self, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
        with open_connection(self.url, connect_timeout=10) as connection:
            cursor = connection.execute(statement.encode(), parameters or None)
            return cursor.fetchall() if cursor.description else []

    def apply(self, *views: Any) -> None:
        entities = [DRIVER, CITY]
        self.feast.apply([*copy.deepcopy(entities), *views])

    def view(self, name: str) -> Any:
        return self.feast.registry.get_any_feature_view(name, PROJECT)

    def write(self, view: str, *rows: Any) -> None:
        self.online.online_write_batch(self.config, self.view(view), list(rows), None)

    def read(self, view: str, keys: Sequence[EntityKey], features: list[str] | None = None) -> list[Any]:
        return self.online.online_read(self.config, self.view(view), list(keys), features)

    def end_sessions(self) -> int:
        """Terminate every other session of the database; return their number."""
        others = "datname = current_database() AND pid <> pg_backend_pid()"
        return int(self.rows(f"SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE {others}")[0][0])

    def sessions(self) -> int:
        """Return how many other sessions the database has, once those that were closed have gone."""
        others = "datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
        counts: list[int] = []
        while len(counts) < 100 and counts[-3:] != [0] * 3:
            counts.append(int(self.rows(f"SELECT count(*) FROM pg_stat_activity WHERE {others}")[0][0]))
            if len(counts) >= 10 and len(set(counts[-10:])) == 1:
                break
            time.sleep(0.02)
        return counts[-1]


@contextlib.contextmanager
def open_shop(url: str, directory: Path, *, project: str = PROJECT, **online: Any) -> Iterator[Shop]:
    """Open a store with a file registry; its connections are closed at the end."""
    config = RepoConfig(
        project=project,
        provider="local",
        registry=str(directory / "registry.db"),
        repo_path=directory,
        entity_key_serialization_version=3,
        online_store={"type": "featurectl.plugin.online.TimescaleOnlineStore", "url": url, **online},
    )
    shop = Shop(FeatureStore(config=config), url)
    try:
        yield shop
    finally:
        asyncio.run(shop.feast.close())


def source(name: str) -> FileSource:
    return FileSource(name=name, path=f"{name}.parquet", timestamp_field="event_timestamp")


def feature_view(
    name: str,
    features: dict[str, FeastType],
    *,
    entities: Sequence[Entity] = (DRIVER,),
    ttl: timedelta = timedelta(0),
    **options: Any,
) -> FeatureView:
    """Return a view with typed features, keyed by ``driver_id`` (Int64) or ``city_id`` (String)."""
    keys = [Field(name=JOIN_KEYS[entity.name], dtype=KEY_TYPES[entity.name]) for entity in entities]
    schema = [*keys, *(Field(name=feature, dtype=kind) for feature, kind in features.items())]
    return FeatureView(
        name=name, entities=list(entities), ttl=ttl, schema=schema, source=source(f"{name}_source"), **options
    )


def hourly(**options: Any) -> FeatureView:
    """Return the view most tests use: ``hourly`` with the features ``price`` and ``size``."""
    return feature_view("hourly", {"price": Float64, "size": Int64}, **options)


def key(driver: int) -> EntityKey:
    return EntityKey(join_keys=["driver_id"], entity_values=[Value(int64_val=driver)])


def price(
    driver: int, value: float | None, event: datetime = NOON, created: datetime | None = None, **more: Value
) -> tuple[EntityKey, dict[str, Value], datetime, datetime | None]:
    """Return a row of ``hourly`` that gives a price."""
    return key(driver), {"price": Value() if value is None else Value(double_val=value), **more}, event, created


def protos(kind: FeastType, values: list[Any]) -> list[Value]:
    """Return values as Feast makes protobufs of them."""
    return python_values_to_proto_values(values, kind.to_value_type())


class GenericStore(TimescaleOnlineStore):
    """Our store with all of Feast's own read path over `online_read`: the oracle for what ours answers."""

    get_online_features = OnlineStore.get_online_features
    _read_features_per_fv = OnlineStore._read_features_per_fv
