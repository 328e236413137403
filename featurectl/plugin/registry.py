"""Compare definitions with Feast's registry, and bring the registry to them."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import psycopg
from feast import Entity, FeatureService, FeatureStore, FeatureView, ValueType
from feast.data_source import DataSource
from feast.errors import FeastError
from feast.inference import update_feature_views_with_inferred_features_and_entities
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import PostgreSQLSource
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.protos.feast.core.DataSource_pb2 import DataSource as DataSourceProto
from feast.protos.feast.core.Entity_pb2 import Entity as EntityProto
from feast.protos.feast.core.FeatureService_pb2 import FeatureService as FeatureServiceProto
from feast.protos.feast.core.FeatureView_pb2 import FeatureView as FeatureViewProto
from feast.protos.feast.core.OnDemandFeatureView_pb2 import OnDemandFeatureView as OnDemandFeatureViewProto
from feast.protos.feast.core.StreamFeatureView_pb2 import StreamFeatureView as StreamFeatureViewProto
from feast.repo_config import FeastConfigError
from feast.repo_contents import RepoContents
from feast.stream_feature_view import StreamFeatureView
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from psycopg import errors as pg
from psycopg import sql
from sqlalchemy.exc import DBAPIError

from featurectl.core.config import DATABASE_VARIABLE, Config
from featurectl.core.db import Connection, Database, translate
from featurectl.core.queries import query
from featurectl.core.times import duration
from featurectl.errors import ConfigError, DefinitionError
from featurectl.plugin.catalog import views_of
from featurectl.plugin.definitions import Definitions, working_in
from featurectl.plugin.publish import left_to_caller

Attributes = dict[str, str]


@dataclass(frozen=True, slots=True)
class RegistryChange:
    """One object that apply will create, update or delete; ``details`` says what of it changes."""

    action: str
    kind: str
    name: str
    details: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Kind:
    """How one kind of object is stored in the SQL registry, what lists it in others, and what of it is a change."""

    label: str
    table: str
    column: str
    listing: str
    read: Callable[[bytes], Any]
    attributes: Callable[[Any], Attributes]


def registry_changes(connection: Connection, database: Database, definitions: Definitions) -> list[RegistryChange]:
    """Return what differs between the registry and the definitions; reads only, and needs no registry to be there."""
    contents = definitions.contents
    wanted = {
        "entity": [entity for entity in contents.entities if not entity.name.startswith("__dummy")],
        "source": contents.data_sources,
        "view": contents.feature_views,
        "stream view": contents.stream_feature_views,
        "on-demand view": contents.on_demand_feature_views,
        "service": contents.feature_services,
    }
    changes: list[RegistryChange] = []
    existing = _stored(connection, database.config) if database.config.registry_schema else _listed(database)
    for kind in _KINDS:
        before, after = (
            {item.name: kind.attributes(item) for item in items if not item.name.startswith("__dummy")}
            for items in (existing[kind.label], wanted[kind.label])
        )
        changes += _compare(kind.label, before, after)
    return changes


def _compare(
    kind: str, existing: Mapping[str, Attributes], wanted: Mapping[str, Attributes]
) -> Iterator[RegistryChange]:
    for name, attributes in sorted(wanted.items()):
        if name not in existing:
            yield RegistryChange("create", kind, name)
        elif details := _differences(existing[name], attributes):
            yield RegistryChange("update", kind, name, details)
    for name in sorted(existing):
        if name not in wanted:
            yield RegistryChange("delete", kind, name)


def _differences(before: Attributes, after: Attributes) -> tuple[str, ...]:
    names = dict.fromkeys((*before, *after))
    return tuple(
        f"{name}: {before.get(name, '-')} -> {after.get(name, '-')}"
        for name in names
        if before.get(name) != after.get(name)
    )


def _stored(connection: Connection, config: Config) -> dict[str, list[Any]]:
    """Return what Feast's SQL registry in our database holds; Feast itself would create its tables to look."""
    return {kind.label: _rows(connection, config, kind) for kind in _KINDS}


def _rows(connection: Connection, config: Config, kind: _Kind) -> list[Any]:
    place = sql.Identifier(config.registry_schema or "public", kind.table)
    there = connection.execute(query("schema", "columns_of"), {"table": place.as_string()}).fetchall()
    if not there:
        return []
    names = [sql.Identifier(one) for one in (kind.column.replace("_proto", "_name"), kind.column)]
    statement = sql.SQL("SELECT {}, {} FROM {} WHERE project_id = %s").format(*names, place)
    rows = connection.execute(statement, [config.project])
    return [_read(kind, name, bytes(data), f"{config.registry_schema}.{kind.table}") for name, data in rows]


def _read(kind: _Kind, name: str, data: bytes, table: str) -> Any:
    try:
        return kind.read(data)
    except DecodeError as error:
        raise DefinitionError(
            f"Feast's registry is damaged: {kind.label} '{name}' in {table} can't be read; restore it, or delete its "
            "row and run `featurectl apply`"
        ) from error


def _listed(database: Database) -> dict[str, list[Any]]:
    """Return what a registry of another kind holds, as Feast tells it."""
    with feast_store(database) as store:
        return {
            kind.label: getattr(store.registry, kind.listing)(project=store.project, allow_cache=False)
            for kind in _KINDS
        }


def _common(item: Any) -> Attributes:
    attributes = {"description": item.description, "owner": getattr(item, "owner", "") or ""}
    return attributes | {f"tag {name}": value for name, value in sorted(item.tags.items())}


def _entity(entity: Entity) -> Attributes:
    return {"join key": entity.join_key, "type": entity.value_type.name, **_common(entity)}


def _source(source: DataSource | None) -> Attributes:
    if source is None:
        return {}
    attributes = {"timestamp": source.timestamp_field or "", "created": source.created_timestamp_column or ""}
    attributes |= {f"column {column}": name for column, name in sorted(source.field_mapping.items())}
    if isinstance(source, PostgreSQLSource):
        # Feast's own comparison of sources forgets the table.
        attributes |= {"table": source._postgres_options._table, "query": source._postgres_options._query}
    return attributes | _common(source)


def _view(view: FeatureView) -> Attributes:
    attributes = {
        "entities": ", ".join(view.entities),
        "ttl": duration(view.ttl or timedelta(0)),
        "online": str(view.online),
        "source": view.batch_source.name if view.batch_source else "",
    }
    attributes |= {f"source {name}": value for name, value in _source(view.batch_source).items()}
    # Read from a registry, a stream view has its keys among its features.
    keys = {column.name for column in view.entity_columns}
    for item in view.features:
        if item.name in keys:
            continue
        attributes[f"field {item.name}"] = str(item.dtype)
        attributes |= {f"field {item.name} {name}": value for name, value in _common(item).items()}
    return attributes | _common(view)


def _on_demand_view(view: OnDemandFeatureView) -> Attributes:
    return {f"field {item.name}": str(item.dtype) for item in view.features} | _common(view)


def _service(service: FeatureService) -> Attributes:
    features = {
        f"feature {projection.name}:{item.name}": "yes"
        for projection in service.feature_view_projections
        for item in projection.features
    }
    return features | _common(service)


def _reader(kind: Any, proto: Any) -> Callable[[bytes], Any]:
    return lambda data: kind.from_proto(proto.FromString(data))


_KINDS = (
    _Kind("entity", "entities", "entity_proto", "list_entities", _reader(Entity, EntityProto), _entity),
    _Kind(
        "source",
        "data_sources",
        "data_source_proto",
        "list_data_sources",
        _reader(DataSource, DataSourceProto),
        _source,
    ),
    _Kind(
        "view",
        "feature_views",
        "feature_view_proto",
        "list_feature_views",
        _reader(FeatureView, FeatureViewProto),
        _view,
    ),
    _Kind(
        "stream view",
        "stream_feature_views",
        "feature_view_proto",
        "list_stream_feature_views",
        _reader(StreamFeatureView, StreamFeatureViewProto),
        _view,
    ),
    _Kind(
        "on-demand view",
        "on_demand_feature_views",
        "feature_view_proto",
        "list_on_demand_feature_views",
        _reader(OnDemandFeatureView, OnDemandFeatureViewProto),
        _on_demand_view,
    ),
    _Kind(
        "service",
        "feature_services",
        "feature_service_proto",
        "list_feature_services",
        _reader(FeatureService, FeatureServiceProto),
        _service,
    ),
)


def learn_from_sources(database: Database, contents: RepoContents) -> None:
    """Give views the fields and key types that their files leave out, as Feast learns them from the source's columns.

    Raises:
        DefinitionError: Feast can't learn them.
    """
    unknown = {entity.name for entity in contents.entities if entity.value_type is ValueType.UNKNOWN}
    views = [view for view in views_of(contents) if not view.features or unknown & set(view.entities)]
    if not views:
        return
    with feast_store(database) as store:
        update_feature_views_with_inferred_features_and_entities(store.provider, views, contents.entities, store.config)
    for service in contents.feature_services:
        service.infer_features(fvs_to_update={view.name: view for view in views})


def forget_lost_views(connection: Connection, config: Config) -> None:
    """Remove the versions of views that somebody took out of the SQL registry: Feast could not apply them again."""
    names = ("feature_view_version_history", "feature_views", "stream_feature_views", "on_demand_feature_views")
    tables = {name: sql.Identifier(config.registry_schema or "public", name) for name in (*names, "label_views")}
    statement = query("registry", "forget_lost_views").format(**tables)
    # Another version of Feast has other tables.
    with contextlib.suppress(pg.UndefinedTable, pg.UndefinedColumn), connection.transaction():
        connection.execute(statement, {"project": config.project})


def apply_to_registry(database: Database, definitions: Definitions) -> None:
    """Bring Feast's registry, and through our stores the online tables, to the definitions."""
    from feast.repo_operations import extract_objects_for_apply_delete

    with feast_store(database) as store, _sources_compared_with_their_table(), left_to_caller():
        registry = store.registry
        contents = definitions.contents
        if not contents.projects:
            contents.projects.append(_project(store))
        to_apply, to_delete, _, _ = extract_objects_for_apply_delete(store.project, registry, contents)
        store.apply(to_apply, objects_to_delete=to_delete, partial=False)


def _project(store: FeatureStore) -> Any:
    from feast.project import Project

    return Project(name=store.project, description=getattr(store.config, "project_description", None) or "")


@contextlib.contextmanager
def feast_store(database: Database) -> Iterator[FeatureStore]:
    """Open the repository as a Feast store, in its directory and with the database's URL in the environment."""
    with environment(database), working_in(database.config.root), translated_errors():
        store = FeatureStore(repo_path=str(database.config.root))
        try:
            yield store
        finally:
            _close(store)


def _close(store: FeatureStore) -> None:
    """Close what was opened of the online store, and of the registry, which has no method for it."""
    if store._provider is not None:
        asyncio.run(store.close())
    if engine := getattr(store._registry, "write_engine", None):
        engine.dispose()


@contextlib.contextmanager
def translated_errors() -> Iterator[None]:
    """Turn what Feast and its registry raise into this package's errors."""
    try:
        yield
    except FeastConfigError as error:
        raise ConfigError(f"Feast can't use feature_store.yaml: {error}") from error
    except psycopg.Error as error:
        raise translate(error) from error
    except DBAPIError as error:
        if isinstance(error.orig, psycopg.Error):
            raise translate(error.orig) from error
        raise
    except (FeastError, ValueError) as error:
        raise DefinitionError(f"Feast refuses the definitions: {error}") from error


@contextlib.contextmanager
def environment(database: Database) -> Iterator[None]:
    """Set the variable that ``feature_store.yaml`` names for the database, while Feast reads it."""
    before = os.environ.get(DATABASE_VARIABLE)
    os.environ[DATABASE_VARIABLE] = database.sqlalchemy_url()
    try:
        yield
    finally:
        if before is None:
            del os.environ[DATABASE_VARIABLE]
        else:
            os.environ[DATABASE_VARIABLE] = before


@contextlib.contextmanager
def _sources_compared_with_their_table() -> Iterator[None]:
    """Let a changed ``table=`` count: ``PostgreSQLSource.__eq__`` compares the query only, and Feast then skips it."""
    original = PostgreSQLSource.__eq__

    def equal(self: PostgreSQLSource, other: object) -> bool:
        same_table = getattr(getattr(other, "_postgres_options", None), "_table", None) == self._postgres_options._table
        return same_table and bool(original(self, other))

    PostgreSQLSource.__eq__ = equal
    try:
        yield
    finally:
        PostgreSQLSource.__eq__ = original
