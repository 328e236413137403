"""Publish the catalog where Feast alone applies, for the commands that never load Feast."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path

import psycopg
from feast import FeatureStore, RepoConfig
from feast.infra.registry.base_registry import BaseRegistry
from feast.repo_contents import RepoContents

from featurectl.core import catalog as catalogs
from featurectl.core import composite, registry_state, schema
from featurectl.core.clock import system_clock
from featurectl.core.config import Config, registry_schema_of
from featurectl.core.db import Connection, Database
from featurectl.errors import DefinitionError
from featurectl.plugin.catalog import catalog_of, key_types, views_of
from featurectl.plugin.store_config import TimescaleStoreConfig, connected

_log = logging.getLogger("featurectl")
_left_to_caller: ContextVar[bool] = ContextVar("featurectl_publishes_itself", default=False)


@contextlib.contextmanager
def left_to_caller() -> Iterator[None]:
    """Have the stores publish nothing: whoever calls Feast does it."""
    token = _left_to_caller.set(True)
    try:
        yield
    finally:
        _left_to_caller.reset(token)


def is_left_to_caller() -> bool:
    """Tell whether whoever calls Feast sees to what it does not: catalog, and what becomes of old columns."""
    return _left_to_caller.get()


def after_feast_applied(config: RepoConfig, store: TimescaleStoreConfig) -> None:
    """Publish what Feast has just put into its registry, to the database of ``store``.

    A file registry is written after the stores are told; its catalog is withdrawn, and read from the file when a
    command next wants it. Whatever fails is logged: Feast needs no catalog.
    """
    if is_left_to_caller():
        return
    try:
        with connected(store) as connection:
            if config.registry.registry_type == "file":
                withdraw(connection, config.project)
            else:
                ours = _core_config(config, store)
                # Before the contents: what changes in between is then noticed.
                registry = registry_state.read_json(connection, ours)
                _publish(connection, ours, _contents(FeatureStore(config=config)), registry)
    except Exception as error:  # Feast can't read everything back that it applies
        _log.warning("featurectl's catalog is not published: %s", error)


def after_feast_tore_down(config: RepoConfig, store: TimescaleStoreConfig) -> None:
    """Withdraw the catalog of a project that Feast has torn down."""
    with connected(store) as connection:
        withdraw(connection, config.project)


def publish_registry(database: Database) -> None:
    """Publish what a repository's registry holds, whatever kind it is; an empty one is not published.

    Raises:
        ConfigError: Feast can't use ``feature_store.yaml``.
    """
    from featurectl.plugin.registry import feast_store

    with feast_store(database) as store, database.connect() as connection:
        registry = registry_state.read_json(connection, database.config)
        contents = _contents(store)
        if views_of(contents):
            _publish(connection, database.config, contents, registry)


def withdraw(connection: Connection, project: str) -> None:
    """Take a project's catalog back, if it has published one."""
    if schema.columns_of(connection, "featurectl.catalogs"):
        catalogs.withdraw(connection, project)


def _core_config(config: RepoConfig, store: TimescaleStoreConfig) -> Config:
    online = config.online_store
    return Config(
        root=Path(config.repo_path or Path.cwd()),
        project=config.project,
        database_url=store.conninfo(),
        online_store=str(getattr(online, "type", "")),
        online_schema=str(getattr(online, "db_schema", "")) or "online",
        registry_schema=registry_schema_of(config.registry.model_dump(), store.conninfo()),
    )


def _contents(store: FeatureStore) -> RepoContents:
    registry: BaseRegistry = store.registry
    try:
        everything = {"project": store.project, "allow_cache": False}
        return RepoContents(
            projects=[],
            data_sources=[],
            feature_views=registry.list_feature_views(**everything),
            on_demand_feature_views=[],
            stream_feature_views=registry.list_stream_feature_views(**everything),
            label_views=[],
            entities=registry.list_entities(**everything),
            feature_services=registry.list_feature_services(**everything),
            permissions=[],
        )
    finally:
        if engine := getattr(registry, "write_engine", None):
            engine.dispose()


def _publish(connection: Connection, config: Config, contents: RepoContents, registry: str | None) -> None:
    def left_out(error: DefinitionError) -> None:
        _log.warning("left out of featurectl's catalog: %s", error)

    catalog = catalog_of(config, contents, lambda _: "the registry", refuse=left_out)
    schema.migrate(connection)
    for table in schema.wanted_tables(catalog, key_types(contents, lambda _: "the registry"), online=False):
        schema.execute(connection, [one for one in schema.table_changes(connection, table) if not one.drops])
    try:
        sql_views = composite.view_changes(connection, catalog)
        schema.execute(connection, [*sql_views.before, *sql_views.after])
    except (DefinitionError, psycopg.Error) as error:
        _log.warning("views that join others are left as they are: %s", error)
    catalogs.publish(connection, catalog, now=system_clock(), published_by="feast", registry=registry)
