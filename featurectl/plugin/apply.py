"""`plan` and `apply`: definitions to registry, schema and catalog; the same steps, shown or taken."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial

import psycopg
from psycopg import sql

from featurectl.core import catalog as catalogs
from featurectl.core import composite, registry_state, schema, sources, storage, timescale
from featurectl.core.db import Connection, Database
from featurectl.core.locks import lock
from featurectl.core.schema import Change
from featurectl.errors import DefinitionError, NotAllowed
from featurectl.plugin.catalog import views_of
from featurectl.plugin.definitions import Definitions, load_definitions
from featurectl.plugin.registry import (
    RegistryChange,
    apply_to_registry,
    forget_lost_views,
    learn_from_sources,
    registry_changes,
)
from featurectl.version import __version__

OnFiles = Callable[[Sequence[str]], None]


def _unheard(files: Sequence[str]) -> None:
    """Tell nobody."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What `apply` would do. ``catalog_version`` is the published one, ``None`` where there is none yet.

    ``notice`` says what this database's TimescaleDB can't do, where it can't do it all. ``composites`` are published
    views without rows of their own.
    """

    files: tuple[str, ...]
    registry: tuple[RegistryChange, ...]
    schema: tuple[Change, ...]
    catalog_version: int | None
    catalog_changes: bool
    notice: str | None = None
    composites: frozenset[str] = frozenset()

    @property
    def changes(self) -> int:
        return len(self.registry) + sum(change.statement is not None for change in self.schema) + self.catalog_changes

    @property
    def drops(self) -> list[str]:
        """What would be lost: tables dropped, views taken out of the registry."""
        tables = [change.summary for change in self.schema if change.drops]
        return tables + [
            f"delete {one.kind} {one.name}"
            for one in self.registry
            if one.action == "delete" and "view" in one.kind and one.name not in self.composites
        ]


@dataclass(frozen=True, slots=True)
class Applied:
    """What `apply` did, and the version the catalog has now."""

    plan: Plan
    catalog_version: int


def plan(database: Database, *, on_files: OnFiles = _unheard) -> Plan:
    """Compare the repository's definitions with the database; change nothing.

    ``on_files`` is told which files define them, before any of those is executed.

    Raises:
        DefinitionError: the definitions contradict themselves or the database.
    """
    definitions = _definitions(database, on_files)
    with database.connect(read_only=True) as connection:
        return _plan(connection, database, definitions)


def apply(database: Database, *, allow_drop: bool = False, now: datetime, on_files: OnFiles = _unheard) -> Applied:
    """Bring registry, schema and catalog to the repository's definitions.

    ``on_files`` is told which files define them, before any of those is executed.

    Raises:
        DefinitionError: the definitions contradict themselves or the database; nothing was changed.
        NotAllowed: something would be lost and ``allow_drop`` is not set; nothing was changed.
        LockHeld: another apply is at work.
    """
    definitions = _definitions(database, on_files)
    with database.connect() as connection, lock(connection, f"apply {database.config.project}"):
        planned = _plan(connection, database, definitions)
        if planned.drops and not allow_drop:
            raise NotAllowed(f"this would lose data: {'; '.join(planned.drops)}; allow it with --allow-drop")
        schema.migrate(connection)
        schema.execute(connection, planned.schema)
        if database.config.registry_schema:
            forget_lost_views(connection, database.config)
        apply_to_registry(database, definitions)
        version = catalogs.publish(
            connection,
            definitions.catalog,
            now=now,
            published_by=f"featurectl {__version__}",
            registry=registry_state.read_json(connection, database.config),
        )
    return Applied(planned, version or planned.catalog_version or 1)


def _definitions(database: Database, on_files: OnFiles) -> Definitions:
    learn = partial(learn_from_sources, database)
    return load_definitions(database.config, learn, on_files=on_files)


def _plan(connection: Connection, database: Database, definitions: Definitions) -> Plan:
    config = database.config
    migrations = schema.pending_migrations(connection)
    published = catalogs.find_catalog(connection, config.project) if not _is_new(connection) else None
    changes = schema.schema_changes(connection, config.registry_schema) if config.registry_schema else []
    changes += [Change(f"migrate featurectl's schema: {one.name}", one.statements) for one in migrations]
    wanted = schema.wanted_tables(definitions.catalog, definitions.key_types, online=config.online_store_is_ours)
    made_anew = set()
    for table in wanted:
        steps = schema.table_changes(connection, table)
        made_anew |= {table.name for step in steps if step.drops}
        changes += steps
    changes += _drops(connection, published, {table.name for table in wanted})
    extension = timescale.inspect(connection)
    tables = storage.time_tables(config, definitions.catalog)
    hypertables = timescale.read_hypertables(connection, extension, {table.name for table in tables} - made_anew)
    changes += timescale.storage_changes(tables, hypertables, extension)
    _check_sources(connection, definitions)
    sql_views = composite.view_changes(connection, definitions.catalog, rebuilt=made_anew)
    changes = [*sql_views.before, *changes, *sql_views.after]
    return Plan(
        files=_shown_files(definitions),
        registry=tuple(registry_changes(connection, database, definitions)),
        schema=tuple(changes),
        catalog_version=published.version if published else None,
        catalog_changes=published is None or published.content_hash != definitions.catalog.content_hash,
        notice=extension.notice,
        composites=frozenset(view.name for view in published.views if view.is_composite) if published else frozenset(),
    )


def _is_new(connection: Connection) -> bool:
    return not schema.columns_of(connection, "featurectl.catalogs")


def _shown_files(definitions: Definitions) -> tuple[str, ...]:
    functions = {view.functions_file for view in definitions.catalog.views if view.functions_file}
    return tuple(sorted({*definitions.files.values(), *functions}))


def _drops(connection: Connection, published: catalogs.Catalog | None, wanted: set[str]) -> Sequence[Change]:
    """Return the online tables that were published and are wanted no more; history tables stay and are reported."""
    views = published.views if published else ()
    online = sorted({view.online_table for view in views if view.online_table} - wanted)
    history = sorted({view.source_table for view in views if view.functions_file and view.source_table} - wanted)
    there = [name for name in (*online, *history) if schema.columns_of(connection, name)]
    return [
        schema.drop_table(name) if name in online else Change(f"keep table {name}, which no definition names any more")
        for name in there
    ]


def _check_sources(connection: Connection, definitions: Definitions) -> None:
    """Refuse a view over a table or query of the user's own that can't be read, or lacks one of its columns.

    Raises:
        DefinitionError: names the file, the field and the columns there are.
    """
    by_name = {view.name: view for view in views_of(definitions.contents)}
    for view in definitions.catalog.views:
        if view.computed_from or not view.has_history:
            continue
        place = f"{definitions.file_of(by_name[view.name])}: view '{view.name}'"
        columns = _source_columns(connection, view, place)
        needed = [*view.join_keys, view.timestamp_column, *([view.created_column] if view.created_column else [])]
        for name in needed + [field.source_column for field in view.fields]:
            if name not in columns:
                raise DefinitionError(
                    f"{place} needs column '{name}', which {view.source_table or 'its query'} does not have; "
                    f"columns: {', '.join(columns)}"
                )
        _check_keys(view, columns, definitions.key_types, place)


def _check_keys(view: catalogs.View, columns: dict[str, str], key_types: dict[str, str], place: str) -> None:
    for key in view.join_keys:
        found = "text" if columns[key] in ("character varying", "character") else columns[key]
        if found != key_types[key]:
            raise DefinitionError(
                f"{place} has join key '{key}', {found} in its source and {key_types[key]} by its entity; "
                "give the entity the value_type of the column"
            )


def _source_columns(connection: Connection, view: catalogs.View, place: str) -> dict[str, str]:
    """Return the columns of a view's source and their types."""
    try:
        cursor = connection.execute(sql.SQL("SELECT * FROM {} AS s LIMIT 0").format(sources.source(view)))
    except psycopg.Error as error:
        reason = error.diag.message_primary
        if reason is None:
            raise
        raise DefinitionError(f"{place} can't read its source: {reason}; correct its table or query") from error
    types = connection.adapters.types
    known = {column.name: types.get(column.type_code) for column in cursor.description or ()}
    return {name: info.regtype if info else "unknown" for name, info in known.items()}
