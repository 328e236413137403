"""Composite views: SQL views that put the features of several views beside the rows of the first, the spine.

Each row of the spine gets of every other view what an online read at the row's event time would have got.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from psycopg import sql

from featurectl.core import sources
from featurectl.core.catalog import Catalog, Selection, View
from featurectl.core.db import Connection
from featurectl.core.offline import JoinedView, Relation, alias_of, joins
from featurectl.core.queries import query
from featurectl.core.schema import Change, columns_of, quoted, table_identifier
from featurectl.errors import DefinitionError

CREATED = "created_timestamp"
_COMMENT = re.compile(
    r"featurectl: rows of view .+ of project (?P<project>.+), definition (?P<hash>[0-9a-f]+)", re.DOTALL
)
_WITHOUT_ZONE = {"timestamp without time zone": "timestamp", "date": "date"}


@dataclass(frozen=True, slots=True)
class SqlView:
    """A SQL view that should exist. ``name`` is ``schema.table``; the comment changes with the statement.

    ``columns`` are its columns' names and types, in order.
    """

    name: str
    statement: str
    comment: str
    columns: tuple[tuple[str, str], ...]

    @property
    def creation(self) -> str:
        commented = query("composite", "comment_on_view").format(
            name=table_identifier(self.name), comment=sql.Literal(self.comment)
        )
        return f"{self.statement};\n{commented.as_string()}"


@dataclass(frozen=True, slots=True)
class ViewChanges:
    """What brings the SQL views to the wanted ones: before the tables they read are changed, and after."""

    before: tuple[Change, ...]
    after: tuple[Change, ...]


def parts_of(view: View, views: Sequence[View], place: str = "the catalog") -> tuple[Selection, ...]:
    """Return the views that a composite joins, the spine first, each with the features that are taken from it.

    A feature is that of the first listed view that has it. ``place`` names the composite's file in messages.

    Raises:
        DefinitionError: the definition contradicts itself or those of the views it lists.
    """
    owner = f"{place}: view '{view.name}'"
    listed = _listed(view, views, owner)
    _check(view, owner)
    _check_keys(view, listed, owner)
    taken: dict[str, list[str]] = {part.name: [] for part in listed}
    for field in view.fields:
        of = f"{place}: field '{field.name}' of view '{view.name}'"
        part = next((part for part in listed if part.field(field.name)), None)
        if part is None:
            raise DefinitionError(f"{of} is in none of the views {', '.join(taken)}; add the view that has it")
        found = part.field(field.name)
        if found and found.value_type != field.value_type:
            raise DefinitionError(
                f"{of} is {field.value_type} here and {found.value_type} in view '{part.name}'; give it that type"
            )
        taken[part.name].append(field.name)
    return tuple(Selection(part, tuple(taken[part.name])) for part in listed)


def _listed(view: View, views: Sequence[View], owner: str) -> list[View]:
    by_name = {other.name: other for other in views}
    names = list(dict.fromkeys(filter(None, (name.strip() for name in view.tags.get("views", "").split(",")))))
    if not names:
        raise DefinitionError(
            f"{owner} is computed from views; list them in its tag views, the one with its rows first"
        )
    for name in names:
        if name not in by_name:
            raise DefinitionError(f"{owner} joins view '{name}', which is not defined; views: {', '.join(by_name)}")
        if by_name[name].is_composite:
            raise DefinitionError(f"{owner} joins view '{name}', which joins others itself; list those instead")
        if not by_name[name].has_history:
            raise DefinitionError(f"{owner} joins view '{name}', whose features no SQL reads: Feast makes them")
    return [by_name[name] for name in names]


def _check(view: View, owner: str) -> None:
    if view.online:
        raise DefinitionError(f"{owner} is computed from views, which are for training only; set online=False")
    if not view.source_table or view.source_table.count(".") != 1:
        raise DefinitionError(f"{owner} is computed from views; it must be over a source with table='schema.table'")


def _check_keys(view: View, listed: Sequence[View], owner: str) -> None:
    spine = listed[0]
    if set(view.join_keys) != set(spine.join_keys):
        raise DefinitionError(
            f"{owner} is keyed by {_keys(view)} and has the rows of view '{spine.name}', keyed by {_keys(spine)}; "
            "give it the same entities"
        )
    for part in listed[1:]:
        if not set(part.join_keys) <= set(spine.join_keys):
            raise DefinitionError(
                f"{owner} joins view '{part.name}', keyed by {_keys(part)}, to rows keyed by {_keys(spine)} only; "
                "leave it out, or list first a view that has all keys"
            )


def _keys(view: View) -> str:
    return ", ".join(view.join_keys) or "nothing"


# --- the statement ---------------------------------------------------------------------------------------------------


def sql_views(connection: Connection, catalog: Catalog) -> list[SqlView]:
    """Return the SQL views of a catalog's composites; sources of the user's own are asked for their columns' types."""
    return [_sql_view(connection, catalog, view) for view in catalog.views if view.is_composite]


def _sql_view(connection: Connection, catalog: Catalog, view: View) -> SqlView:
    assert view.source_table is not None
    first, *others = parts_of(view, catalog.views)
    parts = [_joined(connection, chosen) for chosen in (first, *others)]
    spine = Relation(parts[0].source, types=parts[0].types, at=first.view.timestamp_column)
    statement = query("composite", "create_view").format(
        schema=sql.Identifier(view.source_table.split(".", 1)[0]),
        name=table_identifier(view.source_table),
        columns=sql.SQL(",\n    ").join(_columns(view, parts, spine)),
        spine=spine.source,
        joins=joins(parts[1:], spine),
    )
    text = statement.as_string()
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    comment = f"featurectl: rows of view {view.name} of project {catalog.project}, definition {digest}"
    return SqlView(view.source_table, text, comment, tuple(_column_types(connection, view, first.view)))


def _joined(connection: Connection, chosen: Selection) -> JoinedView:
    """Return one view's part; its created timestamp is among its features."""
    view = chosen.view
    fields = [field for name in chosen.features if (field := view.field(name))]
    features = tuple((field.source_column, field.name) for field in fields)
    if view.created_column:
        features += ((view.created_column, CREATED),)
    return JoinedView(
        source=sources.source(view),
        keys=tuple((key, key) for key in view.join_keys),
        timestamp_column=view.timestamp_column,
        created_column=view.created_column,
        ttl=view.ttl,
        features=features,
        types=_types(connection, view),
        read_as={field.source_column: field.column_type for field in fields},
    )


def _types(connection: Connection, view: View) -> dict[str, str]:
    """Return the types of those of a source's columns that hold times without a zone; the tables we make have none."""
    if view.computed_from:
        return {}
    types = sources.column_types(connection, view)
    return {name: _WITHOUT_ZONE[kind] for name, kind in types.items() if kind in _WITHOUT_ZONE}


def _columns(view: View, parts: Sequence[JoinedView], spine: Relation) -> Iterator[sql.Composable]:
    """Return what the SQL view selects: keys, event and created timestamp, features."""
    for key in view.join_keys:
        yield sources.column(key, "spine")
    event = sources.epoch(sources.column(spine.at, "spine"), spine.types.get(spine.at, ""))
    yield _named(event, view.timestamp_column)
    yield _named(_created(parts), view.created_column or CREATED)
    places = {name: (index, column) for index, part in enumerate(parts) for column, name in part.features}
    for field in view.fields:
        index, column = places[field.name]
        value = _value(index, column, field.name)
        cast = sql.SQL("{}::{}").format(value, sql.SQL(field.column_type)) if index == 0 else value
        yield _named(cast, field.source_column)


def _column_types(connection: Connection, view: View, spine: View) -> Iterator[tuple[str, str]]:
    """Return the names and types of what the SQL view selects; a spine without a table yet tells no key's type."""
    if spine.computed_from and spine.source_table:
        types = columns_of(connection, spine.source_table)
    else:
        types = sources.column_types(connection, spine)
    for key in view.join_keys:
        yield key, types.get(key, "unknown")
    for name in (view.timestamp_column, view.created_column or CREATED):
        yield name, "timestamp with time zone"
    for field in view.fields:
        yield field.source_column, field.column_type


def _created(parts: Sequence[JoinedView]) -> sql.Composable:
    """Return when the newest of a row's parts was written."""
    written = [
        sources.epoch(_value(index, part.created_column, CREATED), part.type_of(part.created_column))
        for index, part in enumerate(parts)
        if part.created_column
    ]
    return sql.SQL("greatest({})").format(sources.commas(written)) if written else sql.SQL("NULL::timestamptz")


def _value(index: int, column: str, name: str) -> sql.Composable:
    """Return a column of a part: of the spine by its own name, of a joined one by its name in the result."""
    return sources.column(name, alias_of(index - 1)) if index else sources.column(column, "spine")


def _named(value: sql.Composable, name: str) -> sql.Composable:
    return sql.SQL("{} AS {}").format(value, sql.Identifier(name))


# --- the database ----------------------------------------------------------------------------------------------------


def view_changes(connection: Connection, catalog: Catalog, *, rebuilt: Collection[str] = ()) -> ViewChanges:
    """Return what brings the project's SQL views to the catalog's; ``rebuilt`` are tables that will be made anew.

    Raises:
        DefinitionError: a name is taken by something else, or a view must be dropped that others read.
    """
    existing = {
        name: (comment, set(reads)) for name, comment, reads in connection.execute(query("composite", "views_of_ours"))
    }
    wanted = {view.name: view for view in sql_views(connection, catalog)}
    before = [
        _drop(connection, name)
        for name, (comment, _) in existing.items()
        if name not in wanted and _project_of(comment) == catalog.project
    ]
    after = []
    for name, view in wanted.items():
        if name not in existing:
            _refuse_foreign(connection, name)
            after.append(Change(f"create view {name}", view.creation))
            continue
        comment, reads = existing[name]
        if reads & set(rebuilt):
            before.append(_drop(connection, name))
            after.append(Change(f"create view {name}", f"{view.creation}{_grants(connection, name)}"))
        elif not _is_same(comment, view, catalog.project):
            replacement = _replacement(connection, view)
            after.append(Change(f"replace view {name}, whose definition changed", replacement))
    return ViewChanges(tuple(before), tuple(after))


def _replacement(connection: Connection, view: SqlView) -> str:
    """Return what replaces a view; who may read it stays. Only one that keeps its columns can stay under others."""
    kept = tuple(columns_of(connection, view.name).items())
    if view.columns[: len(kept)] == kept:
        return view.creation
    return f"{_drop(connection, view.name).statement};\n{view.creation}{_grants(connection, view.name)}"


def _grants(connection: Connection, name: str) -> str:
    """Return statements that let those read a view, when it is made again, who may read it now."""
    statements = [
        query("composite", "grant_select_on" if may_grant else "grant_select").format(
            name=table_identifier(name), role=sql.Identifier(role) if role else sql.SQL("PUBLIC")
        )
        for role, may_grant in connection.execute(query("composite", "readers_of_view"), {"view": quoted(name)})
    ]
    return "".join(f";\n{statement.as_string()}" for statement in statements)


def _project_of(comment: str) -> str | None:
    found = _COMMENT.fullmatch(comment)
    return found["project"] if found else None


def _is_same(comment: str, view: SqlView, project: str) -> bool:
    """Tell whether a SQL view is the wanted one; projects may share one of the same definition.

    Raises:
        DefinitionError: it is another project's, and not the same.
    """
    found, wanted = _COMMENT.fullmatch(comment), _COMMENT.fullmatch(view.comment)
    if found and wanted and found["project"] != project:
        if found["hash"] == wanted["hash"]:
            return True
        raise DefinitionError(
            f"{view.name} is a view of project '{found['project']}' with another definition; give the source of one "
            "of them another table"
        )
    return comment == view.comment


def _refuse_foreign(connection: Connection, name: str) -> None:
    if columns_of(connection, name):
        raise DefinitionError(
            f"{name} exists and is not a view that featurectl made; rename it, or give the source another table"
        )


def _drop(connection: Connection, name: str) -> Change:
    """Return what drops a view.

    Raises:
        DefinitionError: something reads the view, so PostgreSQL would not drop it.
    """
    dependents = connection.execute(query("composite", "dependents_of_view"), {"view": quoted(name)}).fetchall()
    if dependents:
        raise DefinitionError(
            f"{name} must be dropped and is read by {', '.join(reader for (reader,) in dependents)}; drop it first, "
            "then apply, then make it again"
        )
    return Change(f"drop view {name}", query("composite", "drop_view").format(name=table_identifier(name)).as_string())
