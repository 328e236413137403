"""What the database must look like, what it lacks, and the statements that bring it there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from psycopg import sql

from featurectl.core.catalog import Catalog, View
from featurectl.core.db import Connection
from featurectl.core.queries import SQL_DIRECTORY, query
from featurectl.errors import DefinitionError, SchemaMissing

# Longer names are cut by PostgreSQL without a word, and two of them may then be one.
MAX_IDENTIFIER_BYTES = 63


@dataclass(frozen=True, slots=True)
class Column:
    """A column as PostgreSQL's ``format_type`` writes it."""

    name: str
    type: str
    required: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """A table that should exist. ``name`` is ``schema.table``; an online table's comment says whose it is."""

    name: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    comment: str | None = None

    @property
    def identifier(self) -> sql.Identifier:
        return table_identifier(self.name)


@dataclass(frozen=True, slots=True)
class Change:
    """One step towards the wanted schema. A change without a statement is only reported."""

    summary: str
    statement: str | None = None
    drops: bool = False


def table_identifier(name: str) -> sql.Identifier:
    """Return ``schema.table`` as a quoted identifier."""
    return sql.Identifier(*name.split(".", 1))


def quoted(name: str) -> str:
    """Return ``schema.table`` quoted, as ``to_regclass`` and SQL text want it."""
    return table_identifier(name).as_string()


def online_table_name(project: str, view: str, schema: str = "online") -> str:
    """Return the name of a view's online table, which no other project and view have.

    It is ``<project>__<view>``; where PostgreSQL would cut that, or another pair could be meant by it, both words are
    shortened and a hash of the pair follows.
    """
    name = f"{project}__{view}"
    # Otherwise the view a__b of project p and the view b of project p__a would share a table.
    ambiguous = "__" in project or project.endswith("_")
    if ambiguous or len(name.encode()) > MAX_IDENTIFIER_BYTES:
        import hashlib  # 2 ms, and few names are so long

        digest = hashlib.sha256(f"{project}\0{view}".encode()).hexdigest()[:12]
        name = f"{_shortened(project)}__{_shortened(view)}__{digest}"
    return f"{schema}.{name}"


def _shortened(word: str) -> str:
    """Return as much of a word as leaves room for another, a hash, and what is between them."""
    return word.encode()[:23].decode(errors="ignore")


def online_table(name: str, keys: Mapping[str, str], features: Mapping[str, str], comment: str) -> Table:
    """Return the table that serves a view online, one typed row per entity; keys and features map names to types."""
    return Table(name, _columns(keys, "event_timestamp", "created_timestamp", features), tuple(keys), comment)


def online_comment(project: str, view: str) -> str:
    """Return what the online table of a view has for a comment: by it we know the tables we may alter and drop."""
    return f"featurectl: online rows of view {view} of project {project}"


def feature_table(view: View, key_types: Mapping[str, str]) -> Table:
    """Return the table that keeps the history of a view that `compute` fills, by the columns of its source."""
    assert view.source_table is not None
    keys = {key: key_types[key] for key in view.join_keys}
    features = {field.source_column: field.column_type for field in view.fields}
    columns = _columns(keys, view.timestamp_column, view.created_column or "created_timestamp", features)
    if view.computed_from == "candles":
        columns += (Column("source_created_timestamp", "timestamp with time zone"),)
    return Table(view.source_table, columns, (*view.join_keys, view.timestamp_column))


def _columns(keys: Mapping[str, str], event: str, created: str, features: Mapping[str, str]) -> tuple[Column, ...]:
    return (
        *(Column(name, kind, required=True) for name, kind in keys.items()),
        Column(event, "timestamp with time zone", required=True),
        Column(created, "timestamp with time zone"),
        *(Column(name, kind) for name, kind in features.items()),
    )


def wanted_tables(catalog: Catalog, key_types: Mapping[str, str], *, online: bool) -> list[Table]:
    """Return the tables that `apply` looks after: computed views' history and, where ours, online tables."""
    tables = [feature_table(view, key_types) for view in catalog.views if view.functions_file]
    if online:
        tables += [
            online_table(
                view.online_table,
                {key: key_types[key] for key in view.join_keys},
                {field.name: field.column_type for field in view.fields},
                online_comment(catalog.project, view.name),
            )
            for view in catalog.views
            if view.online_table
        ]
    return tables


def table_changes(connection: Connection, table: Table) -> list[Change]:
    """Return what turns the table in the database into the wanted one.

    History is never dropped here. Online rows can be had again: a column of another type is made anew.

    Raises:
        DefinitionError: a column of a history table has another type, or an online table's name is taken.
    """
    existing = columns_of(connection, table.name)
    if not existing:
        return [Change(f"create table {table.name}", _create(table))]
    if table.comment:
        _refuse_foreign(connection, table)
    key = primary_key_of(connection, table.name)
    rebuilt = _rebuilt(table, key, existing)
    if rebuilt and table.comment:
        return [rebuilt]
    changes = [change for column in table.columns for change in _column_changes(table, column, existing)]
    changes += [
        Change(f"keep column {table.name}.{name}, which no definition names any more")
        for name in obsolete_columns(table, existing)
    ]
    return [*changes, rebuilt] if rebuilt else changes


def _column_changes(table: Table, column: Column, existing: Mapping[str, str]) -> list[Change]:
    found = existing.get(column.name)
    if found is None:
        return [Change(f"add column {table.name}.{column.name} {column.type}", _add(table, column))]
    if found == column.type:
        return []
    if not table.comment:
        raise DefinitionError(
            f"{table.name}.{column.name} is {found} in the database and {column.type} in the definitions; give the "
            "field another name, or alter the column by hand"
        )
    again = f"{_drop_column(table, column.name)};\n{_add(table, column)}"
    return [Change(f"empty column {table.name}.{column.name}: {found} becomes {column.type}", again, drops=True)]


def _rebuilt(table: Table, key: Sequence[str], existing: Mapping[str, str]) -> Change | None:
    types = {column.name: column.type for column in table.columns}
    # A key column of another type is an error in a history table; here only online ones get that far.
    before = {name: existing[name] if table.comment else types.get(name) for name in key}
    after = {name: types[name] for name in table.key}
    if before == after:
        return None
    return Change(
        f"rebuild table {table.name}: its key is ({_key_text(before, after)}) and becomes ({_key_text(after, before)})",
        f"{_drop(table.name)};\n{_create(table)}",
        drops=True,
    )


def _key_text(key: Mapping[str, str | None], other: Mapping[str, str | None]) -> str:
    """Write a key's columns, and the types of those that differ in nothing else."""
    same_names = key.keys() == other.keys()
    return ", ".join(f"{name} {kind}" if same_names else name for name, kind in key.items())


def obsolete_columns(table: Table, existing: Iterable[str]) -> list[str]:
    """Return those of a table's columns that nothing names any more."""
    wanted = {column.name for column in table.columns}
    return [name for name in existing if name not in wanted]


def drop_columns(connection: Connection, table: Table) -> list[Change]:
    """Return the changes that drop a table's obsolete columns, and the values in them."""
    return [
        Change(f"drop column {table.name}.{name}", _drop_column(table, name), drops=True)
        for name in obsolete_columns(table, columns_of(connection, table.name))
    ]


def is_online_table(connection: Connection, name: str, comment: str) -> bool:
    """Tell whether a table that exists is the online table with this comment, and not one of the user's own.

    One without a comment is recognized by its columns: key, event and created timestamp stand first.
    """
    (found,) = connection.execute(query("schema", "comment_of"), {"table": quoted(name)}).fetchone() or (None,)
    if found is not None:
        return bool(found == comment)
    key = primary_key_of(connection, name)
    columns = list(columns_of(connection, name))
    return bool(key) and columns[: len(key) + 2] == [*key, "event_timestamp", "created_timestamp"]


def _refuse_foreign(connection: Connection, table: Table) -> None:
    if not is_online_table(connection, table.name, table.comment or ""):
        raise DefinitionError(
            f"{table.name} exists and is not the online table of its view; rename that table, or set another "
            "db_schema for the online store"
        )


def drop_table(name: str) -> Change:
    """Return the change that removes a table and everything in it."""
    return Change(f"drop table {name}", _drop(name), drops=True)


def columns_of(connection: Connection, table: str) -> dict[str, str]:
    """Return a relation's columns and types; empty where it does not exist."""
    rows = connection.execute(query("schema", "columns_of"), {"table": quoted(table)}).fetchall()
    return dict(cast("list[tuple[str, str]]", rows))


def primary_key_of(connection: Connection, table: str) -> tuple[str, ...]:
    """Return the columns of a table's primary key."""
    return tuple(row[0] for row in connection.execute(query("schema", "primary_key_of"), {"table": quoted(table)}))


def execute(connection: Connection, changes: Iterable[Change]) -> None:
    """Run the statements of the changes."""
    for change in changes:
        if change.statement:
            connection.execute(sql.SQL(change.statement))


def schema_changes(connection: Connection, name: str) -> list[Change]:
    """Return what makes a schema; nothing where it is, so that a role that may not create schemas can go on."""
    if connection.execute(query("schema", "schema_exists"), {"name": name}).fetchone():
        return []
    statement = sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(name)).as_string()
    return [Change(f"create schema {name}", statement)]


def _create(table: Table) -> str:
    schema = table.name.split(".", 1)[0]
    columns = [
        sql.SQL("{} {}{}").format(
            sql.Identifier(column.name),
            sql.SQL(column.type),
            sql.SQL(" NOT NULL" if column.required else ""),
        )
        for column in table.columns
    ]
    if table.key:
        key = sql.SQL(", ").join(map(sql.Identifier, table.key))
        columns.append(sql.SQL("PRIMARY KEY ({})").format(key))
    statement = sql.SQL("CREATE SCHEMA IF NOT EXISTS {};\nCREATE TABLE IF NOT EXISTS {} (\n    {}\n){}").format(
        sql.Identifier(schema), table.identifier, sql.SQL(",\n    ").join(columns), _comment(table)
    )
    return statement.as_string()


def _comment(table: Table) -> sql.Composable:
    if not table.comment:
        return sql.SQL("")
    return sql.SQL(";\nCOMMENT ON TABLE {} IS {}").format(table.identifier, sql.Literal(table.comment))


def _add(table: Table, column: Column) -> str:
    statement = sql.SQL("ALTER TABLE {} ADD COLUMN IF NOT EXISTS {} {}")
    kind = sql.SQL(column.type)
    return statement.format(table.identifier, sql.Identifier(column.name), kind).as_string()


def _drop_column(table: Table, name: str) -> str:
    statement = sql.SQL("ALTER TABLE {} DROP COLUMN IF EXISTS {}")
    return statement.format(table.identifier, sql.Identifier(name)).as_string()


def _drop(name: str) -> str:
    return sql.SQL("DROP TABLE IF EXISTS {}").format(table_identifier(name)).as_string()


# --- featurectl's own schema -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Migration:
    """A numbered, idempotent script of ``featurectl/sql/migrations``."""

    version: int
    name: str
    path: Path

    @property
    def statements(self) -> str:
        return self.path.read_text(encoding="utf-8")


def migrations() -> Sequence[Migration]:
    """Return all migrations this version knows, in order."""
    paths = sorted((SQL_DIRECTORY / "migrations").glob("[0-9]*.sql"))
    return [Migration(int(path.stem.partition("_")[0]), path.stem, path) for path in paths]


def pending_migrations(connection: Connection) -> list[Migration]:
    """Return the migrations this database has not seen.

    Raises:
        SchemaMissing: the database has seen migrations that this version does not know.
    """
    row = connection.execute(query("schema", "ledger_exists")).fetchone()
    known = migrations()
    if not row or not row[0]:
        return list(known)
    applied = {version for (version,) in connection.execute(query("schema", "applied_migrations"))}
    if reason := too_new(max(applied, default=0)):
        raise SchemaMissing(reason)
    return [migration for migration in known if migration.version not in applied]


def too_new(version: int) -> str | None:
    """Say that a database whose newest migration this is was made by a later featurectl; ``None`` where it was not."""
    known = max(migration.version for migration in migrations())
    if version <= known:
        return None
    return f"the database's schema is version {version} and this featurectl knows {known}; upgrade featurectl"


def too_old(version: int) -> str | None:
    """Say that a database whose newest migration this is waits for later ones; ``None`` where it does not."""
    known = max(migration.version for migration in migrations())
    if version >= known:
        return None
    return f"the database's schema is version {version} and this featurectl needs {known}; run `featurectl apply`"


def require_known(connection: Connection) -> None:
    """Refuse to write to a database whose schema is not this featurectl's.

    Raises:
        SchemaMissing: it is older or newer, or there is none.
    """
    if pending := pending_migrations(connection):
        raise SchemaMissing(too_old(pending[0].version - 1) or "")


def migrate(connection: Connection) -> list[Migration]:
    """Bring featurectl's own schema up, under a lock; return what was applied."""
    if not pending_migrations(connection):
        return []
    with connection.transaction():
        connection.execute(query("schema", "lock_schema"))
        pending = pending_migrations(connection)
        for migration in pending:
            connection.execute(sql.SQL(migration.statements))
            connection.execute(
                query("schema", "record_migration"), {"version": migration.version, "name": migration.name}
            )
    return pending
