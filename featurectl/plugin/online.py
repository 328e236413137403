"""TimescaleOnlineStore: Feast's online store as one typed row per entity, guarded by event time."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import cache, partial
from typing import Any, Literal, TypeVar

import psycopg
from feast import Entity, FeatureView, Field, RepoConfig
from feast.feature_service import FeatureService
from feast.infra.infra_object import InfraObject
from feast.infra.online_stores.online_store import OnlineStore
from feast.infra.registry.base_registry import BaseRegistry
from feast.infra.supported_async_methods import SupportedAsyncMethods
from feast.online_response import OnlineResponse
from feast.protos.feast.core.Registry_pb2 import Registry as RegistryProto
from feast.protos.feast.serving.ServingService_pb2 import GetOnlineFeaturesResponse
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.types import Bytes
from psycopg import errors as pg
from pydantic import field_validator

from featurectl.core import pgarray
from featurectl.core.clock import Clock, system_clock
from featurectl.core.config import SCHEMA_NAME, is_schema_name
from featurectl.core.connections import AsyncConnection, AsyncPool, Pool
from featurectl.core.db import Connection, open_connection, session_url, translated_errors
from featurectl.core.schema import Change
from featurectl.plugin import online_tables, publish
from featurectl.plugin.online_reads import GroupedFeatures, Planner, Request, Rows, unzip
from featurectl.plugin.online_response import PRESENT, ViewColumns
from featurectl.plugin.online_tables import PRECOMPUTED
from featurectl.plugin.online_writes import Row, write_statements
from featurectl.plugin.store_config import TimescaleStoreConfig
from featurectl.plugin.values import EPOCH

Statements = Sequence[tuple[bytes, list[pgarray.Array]]]
ReadRow = tuple[datetime | None, dict[str, Value] | None]
T = TypeVar("T")
_AsyncPools = weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, AsyncPool[AsyncConnection]]

# Writers of several choices of features may wait for each other in a circle; one is rolled back, and tries again.
_DEADLOCKS = 10


class TimescaleOnlineStoreConfig(TimescaleStoreConfig):
    """``db_schema`` is where the online tables stand; ``max_conn`` is the most connections a process opens.

    With ``force``, a write replaces what is there even where that is newer: for corrections.
    """

    type: Literal["featurectl.plugin.online.TimescaleOnlineStore"] = "featurectl.plugin.online.TimescaleOnlineStore"
    db_schema: str = "online"
    force: bool = False

    @field_validator("db_schema")
    @classmethod
    def _schema_name(cls, name: str) -> str:
        if not is_schema_name(name):
            raise ValueError(f"{name!r} is none; {SCHEMA_NAME}")
        return name


class TimescaleOnlineStore(OnlineStore):  # type: ignore[misc]
    """Rows are never moved back in event time; a value past its view's TTL is withheld as OUTSIDE_MAX_AGE.

    One store may be used by many threads and event loops at once. A lost connection is replaced, and what was asked of
    it is done once more: reads and guarded writes may be.
    """

    clock: Clock = staticmethod(system_clock)
    # Feast's own answer to this question imports every other store.
    _versioned_read_supported = True

    def __init__(self) -> None:
        self._pool: Pool | None = None
        self._async_pools: _AsyncPools = weakref.WeakKeyDictionary()
        self._opening = threading.Lock()
        self._planner = Planner()

    @property
    def async_supported(self) -> SupportedAsyncMethods:
        return SupportedAsyncMethods(read=True, write=True)

    # --- writing -----------------------------------------------------------------------------------------------------

    def online_write_batch(
        self, config: RepoConfig, table: FeatureView, data: list[Row], progress: Callable[[int], Any] | None
    ) -> None:
        """Upsert rows, each only where it is not older than the row it would replace, in one transaction."""
        self._execute(config, write_statements(config, table, data))
        if progress:
            progress(len(data))

    async def online_write_batch_async(
        self, config: RepoConfig, table: FeatureView, data: list[Row], progress: Callable[[int], Any] | None
    ) -> None:
        """Do what :meth:`online_write_batch` does without holding up the event loop."""
        await self._execute_async(config, write_statements(config, table, data))
        if progress:
            progress(len(data))

    def write_precomputed_vector(
        self, config: RepoConfig, feature_service_name: str, project: str, entity_key: EntityKey, vector_bytes: bytes
    ) -> None:
        """Keep a service's vector of one entity; the table for it is made when first needed."""
        view = FeatureView(
            name=f"{PRECOMPUTED}{feature_service_name}",
            entities=[],
            schema=[Field(name="vector", dtype=Bytes)],
            source=None,
        )
        table = online_tables.table_of(config, online_tables.with_keys(view, entity_key))
        self._apply(config, lambda connection: online_tables.changes_of(connection, [table]))
        row = (entity_key, {"vector": Value(bytes_val=vector_bytes)}, self.clock(), None)
        self.online_write_batch(config, view, [row], None)

    # --- reading -----------------------------------------------------------------------------------------------------

    def online_read(
        self,
        config: RepoConfig,
        table: FeatureView,
        entity_keys: list[EntityKey],
        requested_features: list[str] | None = None,
    ) -> list[ReadRow]:
        """Return each entity's event time and values, in the order of the keys; no TTL is applied here."""
        if not entity_keys:
            return []
        request = self._read_request(config, table, entity_keys, requested_features)
        return _read_rows(request, self._execute(config, request.statements()))

    async def online_read_async(
        self,
        config: RepoConfig,
        table: FeatureView,
        entity_keys: list[EntityKey],
        requested_features: list[str] | None = None,
    ) -> list[ReadRow]:
        """Do what :meth:`online_read` does without holding up the event loop."""
        if not entity_keys:
            return []
        request = self._read_request(config, table, entity_keys, requested_features)
        return _read_rows(request, await self._execute_async(config, request.statements()))

    def get_online_features(
        self,
        config: RepoConfig,
        features: list[str] | FeatureService,
        entity_rows: Any,
        registry: BaseRegistry,
        project: str,
        full_feature_names: bool = False,
        include_feature_view_version_metadata: bool = False,
    ) -> OnlineResponse:
        """Return the features of each entity row: all views in one round trip, and no protobuf unless it is asked for.

        Views on demand and precomputed services go Feast's own way, over the same reads.
        """
        options = (full_feature_names, include_feature_view_version_metadata)
        call = self._call(config, features, entity_rows, registry, project, *options)
        if call is None:
            return super().get_online_features(config, features, entity_rows, registry, project, *options)
        started = time.monotonic()
        answers = self._execute(config, call.statements())
        response = call.response(answers, self.clock())
        _count(response.views, time.monotonic() - started)
        return response

    async def get_online_features_async(
        self,
        config: RepoConfig,
        features: list[str] | FeatureService,
        entity_rows: Any,
        registry: BaseRegistry,
        project: str,
        full_feature_names: bool = False,
        include_feature_view_version_metadata: bool = False,
    ) -> OnlineResponse:
        """Do what :meth:`get_online_features` does without holding up the event loop."""
        options = (full_feature_names, include_feature_view_version_metadata)
        call = self._call(config, features, entity_rows, registry, project, *options)
        if call is None:
            return await super().get_online_features_async(config, features, entity_rows, registry, project, *options)
        started = time.monotonic()
        answers = await self._execute_async(config, call.statements())
        response = call.response(answers, self.clock())
        _count(response.views, time.monotonic() - started)
        return response

    def _call(
        self,
        config: RepoConfig,
        features: list[str] | FeatureService,
        entity_rows: Any,
        registry: BaseRegistry,
        project: str,
        full_feature_names: bool,
        with_versions: bool,
    ) -> Request | None:
        # Feast withholds a view while it is being materialized, or since a run was killed; our rows are always whole.
        if not getattr(registry, "serve_features_while_materializing", False):
            registry.serve_features_while_materializing = True
        call = self._planner.of_call(
            config, features, entity_rows, registry, project, full_feature_names, with_versions
        )
        if call is None:
            return None
        grouped, request = call
        self._check_versioned_read_support(grouped)
        return request

    def _read_request(
        self, config: RepoConfig, view: Any, keys: Sequence[EntityKey], features: Sequence[str] | None
    ) -> Request:
        wanted = features or [feature.name for feature in view.features]
        return self._planner.of_protos(config, [(online_tables.with_keys(view, keys[0]), wanted)], unzip(keys))

    def _read_features_per_fv(
        self,
        config: RepoConfig,
        grouped_refs: GroupedFeatures,
        join_key_values: Mapping[str, Sequence[Value]],
        entity_name_to_join_key_map: Mapping[str, str],
        online_features_response: GetOnlineFeaturesResponse,
        full_feature_names: bool,
        include_feature_view_version_metadata: bool,
    ) -> None:
        """Fill Feast's own response, all views in one round trip, with Feast's four statuses."""
        options = (full_feature_names, include_feature_view_version_metadata)
        request = self._planner.of_protos(config, grouped_refs, join_key_values, *options)
        answers = self._execute(config, request.statements())
        _fill(online_features_response, request, request.views(answers, self.clock()))

    async def _read_features_per_fv_async(
        self,
        config: RepoConfig,
        grouped_refs: GroupedFeatures,
        join_key_values: Mapping[str, Sequence[Value]],
        entity_name_to_join_key_map: Mapping[str, str],
        online_features_response: GetOnlineFeaturesResponse,
        full_feature_names: bool,
        include_feature_view_version_metadata: bool,
    ) -> None:
        """Do what :meth:`_read_features_per_fv` does without holding up the event loop."""
        options = (full_feature_names, include_feature_view_version_metadata)
        request = self._planner.of_protos(config, grouped_refs, join_key_values, *options)
        answers = await self._execute_async(config, request.statements())
        _fill(online_features_response, request, request.views(answers, self.clock()))

    # --- tables ------------------------------------------------------------------------------------------------------

    def update(
        self,
        config: RepoConfig,
        tables_to_delete: Sequence[FeatureView],
        tables_to_keep: Sequence[FeatureView],
        entities_to_delete: Sequence[Entity],
        entities_to_keep: Sequence[Entity],
        partial: bool,
    ) -> None:
        """Bring the online tables of the views kept to their definitions, and drop those of the views deleted.

        Where nothing changed nothing is locked. Tables of views that are not named stay, ``partial`` or not.
        """
        wanted = [online_tables.table_of(config, view) for view in tables_to_keep if online_tables.has_table(view)]
        # The plan of `featurectl apply` said that columns stay.
        drop_columns = not publish.is_left_to_caller()

        def changes(connection: Connection) -> list[Change]:
            unwanted = online_tables.tables_to_drop(connection, config, tables_to_delete)
            return online_tables.changes_of(connection, wanted, unwanted, drop_columns=drop_columns)

        self._apply(config, changes)
        publish.after_feast_applied(config, config.online_store)

    def plan(self, config: RepoConfig, desired_registry_proto: RegistryProto) -> list[InfraObject]:
        """Return the online tables that a registry needs; the plan that Feast makes next compares them with what is."""
        wanted = online_tables.planned_tables(config, desired_registry_proto)
        self._run(config, lambda connection: online_tables.tell_next_plan(config, connection, wanted))
        return list(wanted)

    def teardown(self, config: RepoConfig, tables: Sequence[FeatureView], entities: Sequence[Entity]) -> None:
        """Drop the online tables of the views, and what was precomputed for the project's services."""

        def changes(connection: Connection) -> list[Change]:
            unwanted = online_tables.tables_to_drop(connection, config, tables)
            precomputed = online_tables.precomputed_tables(connection, config)
            return online_tables.changes_of(connection, [], unwanted + precomputed)

        self._apply(config, changes)
        publish.after_feast_tore_down(config, config.online_store)

    def _apply(self, config: RepoConfig, changes: Callable[[Connection], Sequence[Change]]) -> None:
        self._run(config, lambda connection: online_tables.apply_changes(connection, changes))

    # --- connections -------------------------------------------------------------------------------------------------

    async def initialize(self, config: RepoConfig) -> None:
        """Open a connection for this event loop, so that the first request need not; more are opened on demand."""
        await self._execute_async(config, [(b"SELECT", [])])

    async def close(self) -> None:
        """Close the store's connections; what comes next opens others."""
        if self._pool is not None:
            self._pool.close()
        for loop, pool in list(self._async_pools.items()):
            if loop is asyncio.get_running_loop():
                await pool.close()
            elif not loop.is_running():
                pool.finish()

    def _execute(self, config: RepoConfig, statements: Statements) -> list[Rows]:
        """Run statements in one transaction, and return the rows of each."""

        def work(connection: Connection) -> list[Rows]:
            if len(statements) == 1:
                return [_rows(connection.execute(*statements[0], prepare=True, binary=True))]
            with connection.transaction():
                return [_rows(connection.execute(*one, prepare=True, binary=True)) for one in statements]

        return self._run(config, work) if statements else []

    async def _execute_async(self, config: RepoConfig, statements: Statements) -> list[Rows]:
        async def work(connection: AsyncConnection) -> list[Rows]:
            if len(statements) == 1:
                return [await _rows_async(await connection.execute(*statements[0], prepare=True, binary=True))]
            async with connection.transaction():
                return [
                    await _rows_async(await connection.execute(*one, prepare=True, binary=True)) for one in statements
                ]

        if not statements:
            return []
        with translated_errors():
            for _ in range(_DEADLOCKS):
                with contextlib.suppress(pg.DeadlockDetected):
                    return await self._async_pool(config).run(work)
            return await self._async_pool(config).run(work)

    def _run(self, config: RepoConfig, work: Callable[[Connection], T]) -> T:
        with translated_errors():
            for _ in range(_DEADLOCKS):
                with contextlib.suppress(pg.DeadlockDetected):
                    return self._sync_pool(config).run(work)
            return self._sync_pool(config).run(work)

    def _sync_pool(self, config: RepoConfig) -> Pool:
        pool = self._pool
        if pool is None or not pool.is_mine:
            with self._opening:
                if self._pool is None or not self._pool.is_mine:
                    self._pool = Pool(partial(_open, config.online_store), config.online_store.max_conn)
                pool = self._pool
        return pool

    def _async_pool(self, config: RepoConfig) -> AsyncPool[AsyncConnection]:
        loop = asyncio.get_running_loop()
        if loop not in self._async_pools or not self._async_pools[loop].is_mine:
            # A pool that somebody once waited for holds on to its loop, and so would this dictionary.
            for ended in [one for one in self._async_pools if one.is_closed()]:
                self._async_pools.pop(ended).finish()
            open = partial(_open_async, config.online_store)
            self._async_pools[loop] = AsyncPool(open, config.online_store.max_conn)
        return self._async_pools[loop]


def _open(config: TimescaleStoreConfig) -> Connection:
    connection = open_connection(config.conninfo(), connect_timeout=config.connect_timeout)
    pgarray.register(connection)
    return connection


async def _open_async(config: TimescaleStoreConfig) -> AsyncConnection:
    conninfo = session_url(config.conninfo(), connect_timeout=config.connect_timeout)
    connection = await psycopg.AsyncConnection.connect(conninfo, autocommit=True)
    pgarray.register(connection)
    return connection


def _rows(cursor: psycopg.Cursor[tuple[Any, ...]]) -> Rows:
    return cursor.fetchall() if cursor.description else []


async def _rows_async(cursor: psycopg.AsyncCursor[tuple[Any, ...]]) -> Rows:
    return await cursor.fetchall() if cursor.description else []


def _read_rows(request: Request, answers: Sequence[Rows]) -> list[ReadRow]:
    """Return what Feast's `online_read` gives: an event time and protobufs by name for each row."""
    ((part,), (rows,)) = (request.parts, answers)
    (read,) = part.views
    events, *columns = zip(*rows, strict=True)
    protos = [codec.protos(column) for codec, column in zip(read.codecs, columns, strict=True)]
    values = zip(*protos, strict=True) if protos else [()] * len(events)
    return [
        (None, None)
        if event is None
        else (EPOCH + timedelta(microseconds=event), dict(zip(read.features, row, strict=True)))
        for event, row in zip(events, values, strict=True)
    ]


def _fill(response: GetOnlineFeaturesResponse, request: Request, views: Sequence[ViewColumns]) -> None:
    """Append what views answer to a response of Feast's making."""
    for view in views:
        response.metadata.feature_names.val.extend(view.names)
        response.results.extend(view.vectors())
    for name, version in request.versions:
        response.metadata.feature_view_metadata.add(name=name, version=version)


@cache
def _metrics() -> Any:
    try:
        from feast import metrics
    except ImportError:  # without prometheus_client
        return None
    return metrics


def _count(views: Sequence[ViewColumns], seconds: float) -> None:
    """Tell Feast's metrics, where they are switched on, what was read."""
    metrics = _metrics()
    if metrics is None or not metrics._config.online_features:
        return
    metrics.track_online_store_read(seconds)
    for view in views:
        count = sum(one == PRESENT for one in view.statuses) if view.statuses else len(view.events)
        present = count * len(view.names)
        metrics.track_feature_statuses(view.view, present, len(view.events) * len(view.names) - present)
