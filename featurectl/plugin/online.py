"""TimescaleOnlineStore: Feast's online store as one typed row per entity, guarded by event time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import psycopg
from feast import Entity, FeatureView, RepoConfig, utils
from feast.infra.online_stores.online_store import OnlineStore
from feast.protos.feast.serving.ServingService_pb2 import FieldStatus, GetOnlineFeaturesResponse
from feast.protos.feast.types.EntityKey_pb2 import EntityKey as EntityKeyProto
from feast.protos.feast.types.Value_pb2 import Value as ValueProto
from feast.type_map import feast_value_type_to_python_type, python_values_to_proto_values
from psycopg import sql

from featurectl.core import sources
from featurectl.core.clock import Clock, system_clock
from featurectl.core.db import Connection, open_connection, translated_errors
from featurectl.core.queries import query
from featurectl.core.schema import Change, Table, drop_table, execute, online_table, online_table_name, table_changes
from featurectl.core.value_types import column_type
from featurectl.plugin.publish import after_feast_applied, after_feast_tore_down
from featurectl.plugin.store_config import TimescaleStoreConfig

Row = tuple[datetime | None, dict[str, ValueProto] | None]


class TimescaleOnlineStoreConfig(TimescaleStoreConfig):
    """``db_schema`` is where the online tables stand."""

    type: Literal["featurectl.plugin.online.TimescaleOnlineStore"] = "featurectl.plugin.online.TimescaleOnlineStore"
    db_schema: str = "online"


class TimescaleOnlineStore(OnlineStore):  # type: ignore[misc]
    """Rows are never moved back in event time; a value past its view's TTL is withheld as OUTSIDE_MAX_AGE."""

    _connection: Connection | None = None
    clock: Clock = staticmethod(system_clock)

    def online_write_batch(
        self,
        config: RepoConfig,
        table: FeatureView,
        data: list[tuple[EntityKeyProto, dict[str, ValueProto], datetime, datetime | None]],
        progress: Callable[[int], Any] | None,
    ) -> None:
        """Upsert rows, each only where it is not older than the row it would replace."""
        by_features: dict[tuple[str, ...], list[dict[str, Any]]] = {}
        for key, values, event, created in data:
            row = {
                **_key_values(key),
                **{name: feast_value_type_to_python_type(value) for name, value in values.items()},
            }
            row |= {"event_timestamp": _aware(event), "created_timestamp": _aware(created)}
            by_features.setdefault(tuple(values), []).append(row)
        for features, rows in by_features.items():
            self._write(config, table, features, rows)
        if progress:
            progress(len(data))

    def _write(
        self, config: RepoConfig, table: FeatureView, features: Sequence[str], rows: list[dict[str, Any]]
    ) -> None:
        wanted = _table(config, table)
        names = [*wanted.key, "event_timestamp", "created_timestamp", *features]
        assigned = names[len(wanted.key) :]
        statement = query("online", "write").format(
            online=wanted.identifier,
            names=sources.commas(map(sql.Identifier, names)),
            values=sources.commas(map(sql.Placeholder, names)),
            key=sources.commas(map(sql.Identifier, wanted.key)),
            assigned=sources.commas(map(sql.Identifier, assigned)),
            assigned_values=sources.commas(sources.column(name, "excluded") for name in assigned),
        )

        def work(connection: Connection) -> None:
            with connection.transaction(), connection.cursor() as cursor:
                cursor.executemany(statement, rows)

        self._run(config, work)

    def online_read(
        self,
        config: RepoConfig,
        table: FeatureView,
        entity_keys: list[EntityKeyProto],
        requested_features: list[str] | None = None,
    ) -> list[Row]:
        """Return each entity's event time and values, in the order of the keys; no TTL is applied here."""
        features = requested_features or [feature.name for feature in table.features]
        found = self._read(config, table, entity_keys, features)
        kinds = {feature.name: feature.dtype.to_value_type() for feature in table.features}
        columns = [
            python_values_to_proto_values([row[index + 1] for row in found.values()], kinds[name])
            for index, name in enumerate(features)
        ]
        converted: dict[tuple[Any, ...], Row] = {}
        for position, (key, row) in enumerate(found.items()):
            values = {name: column[position] for name, column in zip(features, columns, strict=True)}
            converted[key] = (row[0], values)
        order = _table(config, table).key
        return [converted.get(_in_order(_key_values(key), order), (None, None)) for key in entity_keys]

    def _read(
        self, config: RepoConfig, table: FeatureView, entity_keys: Sequence[EntityKeyProto], features: Sequence[str]
    ) -> dict[tuple[Any, ...], tuple[Any, ...]]:
        wanted = _table(config, table)
        types = {column.name: column.type for column in wanted.columns}
        keys = {_in_order(_key_values(key), wanted.key) for key in entity_keys}
        statement = query("online", "read").format(
            columns=sources.commas(sources.column(name, "o") for name in (*wanted.key, "event_timestamp", *features)),
            arrays=sources.commas(sql.SQL("%s::{}[]").format(sql.SQL(types[name])) for name in wanted.key),
            names=sources.commas(map(sql.Identifier, wanted.key)),
            online=wanted.identifier,
        )
        parameters = [[key[index] for key in keys] for index in range(len(wanted.key))]
        rows = self._run(config, lambda connection: connection.execute(statement, parameters).fetchall())
        width = len(wanted.key)
        return {row[:width]: row[width:] for row in rows}

    def _read_features_per_fv(
        self,
        config: RepoConfig,
        grouped_refs: list[Any],
        join_key_values: dict[str, Any],
        entity_name_to_join_key_map: dict[str, Any],
        online_features_response: GetOnlineFeaturesResponse,
        full_feature_names: bool,
        include_feature_view_version_metadata: bool,
    ) -> None:
        """Fill the response a view at a time, with Feast's four statuses."""
        now = self.clock()
        for table, features in grouped_refs:
            values, positions, length = utils._get_unique_entities(table, join_key_values, entity_name_to_join_key_map)
            read = self.online_read(config, table, utils._get_entity_key_protos(values), features)
            # What lies ahead of the clock is not known yet.
            rows = [(None, None) if event is not None and event > now else (event, row) for event, row in read]
            expired = [_expired(row[0], table.ttl, now) for row in rows]
            served = [(row[0], None) if old else row for row, old in zip(rows, expired, strict=True)]
            utils._populate_response_from_feature_data(
                features,
                served,
                positions,
                online_features_response,
                full_feature_names,
                table,
                length,
                include_feature_view_version_metadata,
            )
            _correct_statuses(online_features_response.results[-len(features) :], expired, positions)

    def update(
        self,
        config: RepoConfig,
        tables_to_delete: Sequence[FeatureView],
        tables_to_keep: Sequence[FeatureView],
        entities_to_delete: Sequence[Entity],
        entities_to_keep: Sequence[Entity],
        partial: bool,
    ) -> None:
        """Create and extend the online tables of the views kept, drop those of the views deleted."""

        def work(connection: Connection) -> None:
            changes: list[Change] = [drop_table(_table_name(config, view)) for view in tables_to_delete]
            for view in tables_to_keep:
                if view.online:
                    changes += [
                        change for change in table_changes(connection, _table(config, view)) if not change.drops
                    ]
            execute(connection, changes)

        self._run(config, work)
        after_feast_applied(config, config.online_store)

    def teardown(self, config: RepoConfig, tables: Sequence[FeatureView], entities: Sequence[Entity]) -> None:
        """Drop the online tables of the views."""
        changes = [drop_table(_table_name(config, view)) for view in tables]
        self._run(config, lambda connection: execute(connection, changes))
        after_feast_tore_down(config, config.online_store)

    async def close(self) -> None:
        """Close the store's connection; what comes next opens another."""
        if self._connection is not None:
            self._connection.close()

    def _run(self, config: RepoConfig, work: Callable[[Connection], Any]) -> Any:
        """Do work on the store's connection; where that was lost, once more on a new one."""
        fresh = self._connection is None or self._connection.closed
        with translated_errors():
            try:
                return work(self._connected(config))
            except psycopg.OperationalError:
                if fresh or not (self._connection and self._connection.broken):
                    raise
            return work(self._connected(config))

    def _connected(self, config: RepoConfig) -> Connection:
        if self._connection is None or self._connection.closed:
            store: TimescaleOnlineStoreConfig = config.online_store
            self._connection = open_connection(store.conninfo(), connect_timeout=store.connect_timeout)
        return self._connection


def _table_name(config: RepoConfig, view: FeatureView) -> str:
    return online_table_name(config.project, view.name, config.online_store.db_schema)


def _table(config: RepoConfig, view: FeatureView) -> Table:
    owner = f"view '{view.name}'"
    keys = {key.name: column_type(str(key.dtype), owner=owner) for key in view.entity_columns}
    features = {feature.name: column_type(str(feature.dtype), owner=owner) for feature in view.features}
    return online_table(_table_name(config, view), keys, features)


def _key_values(key: EntityKeyProto) -> dict[str, Any]:
    return {
        name: feast_value_type_to_python_type(value)
        for name, value in zip(key.join_keys, key.entity_values, strict=True)
    }


def _in_order(values: Mapping[str, Any], names: Iterable[str]) -> tuple[Any, ...]:
    return tuple(values[name] for name in names)


def _aware(instant: datetime | None) -> datetime | None:
    """Read a naive instant as UTC, as Feast does."""
    return instant.replace(tzinfo=UTC) if instant is not None and instant.tzinfo is None else instant


def _expired(event: datetime | None, ttl: timedelta | None, now: datetime) -> bool:
    return event is not None and bool(ttl) and now - event > (ttl or timedelta(0))


def _correct_statuses(vectors: Iterable[Any], expired: Sequence[bool], positions: Iterable[Sequence[int]]) -> None:
    """Say NULL_VALUE for nulls and OUTSIDE_MAX_AGE for what the TTL withheld; Feast says PRESENT and NOT_FOUND."""
    old = {output for outputs, is_old in zip(positions, expired, strict=True) if is_old for output in outputs}
    for vector in vectors:
        for index, value in enumerate(vector.values):
            if index in old:
                vector.statuses[index] = FieldStatus.OUTSIDE_MAX_AGE
            elif vector.statuses[index] == FieldStatus.PRESENT and value.WhichOneof("val") is None:
                vector.statuses[index] = FieldStatus.NULL_VALUE
