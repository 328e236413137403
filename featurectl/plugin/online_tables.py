"""The online tables: what each view's looks like, and how `feast plan` gets to know them."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from feast import FeatureView, Field, RepoConfig, feature_store
from feast.diff.infra_diff import InfraDiff, InfraObjectDiff
from feast.diff.property_diff import PropertyDiff, TransitionType
from feast.feature_view import DUMMY_ENTITY_ID
from feast.infra.infra_object import InfraObject
from feast.infra.online_stores.helpers import compute_versioned_name
from feast.labeling.label_view import LabelView
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.protos.feast.core.InfraObject_pb2 import InfraObject as InfraObjectProto
from feast.protos.feast.core.Registry_pb2 import Registry as RegistryProto
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.stream_feature_view import StreamFeatureView
from feast.type_map import PROTO_VALUE_TO_VALUE_TYPE_MAP
from feast.types import FeastType, Invalid, String, from_value_type
from feast.value_type import ValueType
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from featurectl.core import schema
from featurectl.core.db import Connection, open_connection, translated_errors
from featurectl.core.queries import query
from featurectl.core.schema import MAX_IDENTIFIER_BYTES, Change, Table
from featurectl.core.value_types import column_type, key_type
from featurectl.errors import DefinitionError

# Feast keeps the vectors of a precomputed service in a view of its own making, which no registry knows.
PRECOMPUTED = "__precomputed__"
_OWN_COLUMNS = ("event_timestamp", "created_timestamp")

# The name and the comment of an online table.
Named = tuple[str, str]


def has_table(view: Any) -> bool:
    """Tell whether a view is served from a table: not so one computed on demand, or one for training only."""
    if isinstance(view, OnDemandFeatureView):
        return bool(view.write_to_online_store)
    return bool(getattr(view, "online", True))


def with_keys(view: Any, example: EntityKey) -> Any:
    """Return a view that says what its join keys are, where it does not yet as those of an entity key."""
    if view.entity_columns or list(example.join_keys) == [DUMMY_ENTITY_ID]:
        return view
    view = copy.copy(view)
    types = {name: _type_of(value) for name, value in zip(example.join_keys, example.entity_values, strict=True)}
    view.entity_columns = [Field(name=name, dtype=types[name]) for name in sorted(types)]
    return view


def _type_of(value: Value) -> FeastType:
    kind = PROTO_VALUE_TO_VALUE_TYPE_MAP.get(value.WhichOneof("val") or "")
    return from_value_type(kind) if kind else String


def key_types(view: Any) -> dict[str, FeastType]:
    """Return a view's join keys and their types; a view without entities has Feast's placeholder."""
    keys = {key.name: String if key.dtype == Invalid else key.dtype for key in view.entity_columns}
    return keys or {DUMMY_ENTITY_ID: String}


def feature_types(view: Any) -> dict[str, FeastType]:
    return {feature.name: feature.dtype for feature in view.features}


def table_name(config: RepoConfig, view: Any) -> str:
    """Return the table of a view, or of the version of it that is asked for, where Feast keeps versions apart."""
    return _named(config, _served_name(config, view))[0]


def _served_name(config: RepoConfig, view: Any) -> str:
    return str(compute_versioned_name(view, _has_versions(config)))


def _has_versions(config: RepoConfig) -> bool:
    return bool(config.registry.enable_online_feature_view_versioning)


def _named(config: RepoConfig, served: str) -> Named:
    name = schema.online_table_name(config.project, served, config.online_store.db_schema)
    return name, schema.online_comment(config.project, served)


def tables_to_drop(connection: Connection, config: RepoConfig, views: Iterable[Any]) -> list[Named]:
    """Return the tables of views, those of all their versions among them."""
    names = {view.name for view in views}
    versions = [one for one in tables_of_project(connection, config).values() if _view_of(config, one) in names]
    return [_named(config, one) for one in sorted(names.union(versions))]


def precomputed_tables(connection: Connection, config: RepoConfig) -> list[Named]:
    """Return the tables of what was precomputed for a project's services."""
    views = tables_of_project(connection, config).values()
    return [_named(config, view) for view in views if view.startswith(PRECOMPUTED)]


def _view_of(config: RepoConfig, served: str) -> str:
    return re.sub(r"_v\d+$", "", served) if _has_versions(config) else served


def table_of(config: RepoConfig, view: Any, keys: Mapping[str, FeastType] | None = None) -> Table:
    """Return the table that should serve a view.

    Raises:
        DefinitionError: a feature has a name the table needs itself, or one that PostgreSQL would cut.
    """
    key_columns = _columns(view.name, keys or key_types(view), "join key", key_type)
    # Feast counts the keys of some views among their features, too.
    types = {name: kind for name, kind in feature_types(view).items() if name not in key_columns}
    features = _columns(view.name, types, "feature", column_type)
    for name in features:
        if name in _OWN_COLUMNS:
            raise DefinitionError(f"view '{view.name}' has a feature '{name}', a column of its online table; rename it")
    name, comment = _named(config, _served_name(config, view))
    return schema.online_table(name, key_columns, features, comment)


def _columns(
    view: str, types: Mapping[str, FeastType], word: str, column_type_of: Callable[..., str]
) -> dict[str, str]:
    for name in types:
        if "%" in f"{view}{name}":
            raise DefinitionError(f"view '{view}', {word} '{name}': a name may not hold a %; rename it")
        if len(name.encode()) > MAX_IDENTIFIER_BYTES:
            limit = f"the {MAX_IDENTIFIER_BYTES} bytes PostgreSQL keeps of a name"
            raise DefinitionError(f"view '{view}': {word} '{name}' is longer than {limit}; shorten it")
    return {name: column_type_of(str(kind), owner=f"view '{view}': {word} '{name}'") for name, kind in types.items()}


def changes_of(
    connection: Connection, wanted: Iterable[Table], unwanted: Iterable[Named] = (), *, drop_columns: bool = True
) -> list[Change]:
    """Return what brings the online tables to what Feast wants; nothing where they are so already.

    ``drop_columns`` takes columns along that no feature names any more.

    Raises:
        DefinitionError: a table of the user's own has the name of an online table.
    """
    changes: list[Change] = []
    for table in wanted:
        changes += [change for change in schema.table_changes(connection, table) if change.statement]
        if drop_columns:
            changes += schema.drop_columns(connection, table)
    return changes + [
        schema.drop_table(name)
        for name, comment in unwanted
        if schema.columns_of(connection, name) and schema.is_online_table(connection, name, comment)
    ]


def tables_of_project(connection: Connection, config: RepoConfig) -> dict[str, str]:
    """Return the names of a project's online tables, whatever the registry says, and the views they serve."""
    rows = connection.execute(query("online", "project_tables"), {"schema": config.online_store.db_schema})
    comments = {f"{config.online_store.db_schema}.{name}": comment for name, comment in rows}
    head, _, tail = schema.online_comment(config.project, "\0").partition("\0")
    return {
        name: comment.removeprefix(head).removesuffix(tail)
        for name, comment in comments.items()
        if comment.startswith(head) and comment.endswith(tail)
    }


def lock_tables(connection: Connection) -> None:
    """Let one transaction at a time change online tables."""
    connection.execute(query("schema", "lock_schema"))


# --- feast plan ------------------------------------------------------------------------------------------------------


class OnlineTable(InfraObject):  # type: ignore[misc]
    """An online table as `feast plan` knows it; it creates, extends and drops itself."""

    def __init__(self, table: Table, conninfo: str) -> None:
        super().__init__(table.name)
        self.table = table
        self._conninfo = conninfo

    def to_infra_object_proto(self) -> InfraObjectProto:
        name = f"{type(self).__module__}.{type(self).__name__}"
        return InfraObjectProto(infra_object_class_type=name, custom_infra=self.to_proto())

    def to_proto(self) -> InfraObjectProto.CustomInfra:
        """Return the table and where it is, without the password."""
        place: dict[str, Any] = {**conninfo_to_dict(self._conninfo), "password": None}
        document = {
            "name": self.table.name,
            "comment": self.table.comment,
            "key": list(self.table.key),
            "columns": [[column.name, column.type, column.required] for column in self.table.columns],
            "conninfo": make_conninfo(**place),
        }
        return InfraObjectProto.CustomInfra(field=json.dumps(document).encode())

    @staticmethod
    def from_infra_object_proto(infra_object_proto: InfraObjectProto) -> OnlineTable:
        return OnlineTable.from_proto(infra_object_proto.custom_infra)

    @staticmethod
    def from_proto(custom_infra_proto: InfraObjectProto.CustomInfra) -> OnlineTable:
        document = json.loads(custom_infra_proto.field)
        columns = tuple(schema.Column(*column) for column in document["columns"])
        table = Table(document["name"], columns, tuple(document["key"]), document["comment"])
        return OnlineTable(table, document["conninfo"])

    def update(self) -> None:
        self._execute(lambda connection: changes_of(connection, [self.table]))

    def teardown(self) -> None:
        name = (self.table.name, self.table.comment or "")
        self._execute(lambda connection: changes_of(connection, [], [name]))

    def _execute(self, changes: Callable[[Connection], Sequence[Change]]) -> None:
        with translated_errors(), open_connection(self._conninfo, connect_timeout=10) as connection:
            apply_changes(connection, changes)


def apply_changes(connection: Connection, changes: Callable[[Connection], Sequence[Change]]) -> None:
    """Make the changes, in one transaction; where there are none, nothing is locked."""
    if not changes(connection):
        return
    with connection.transaction():
        lock_tables(connection)
        schema.execute(connection, changes(connection))


def planned_tables(config: RepoConfig, registry: RegistryProto) -> list[OnlineTable]:
    """Return the online tables that a registry needs."""
    entities = {entity.spec.name: entity.spec for entity in registry.entities}
    views: list[Any] = [FeatureView.from_proto(view) for view in registry.feature_views]
    views += [StreamFeatureView.from_proto(view) for view in registry.stream_feature_views]
    views += [LabelView.from_proto(view) for view in registry.label_views]
    views += [OnDemandFeatureView.from_proto(view) for view in registry.on_demand_feature_views]
    conninfo = config.online_store.conninfo()
    return [
        OnlineTable(table_of(config, view, _planned_keys(view, entities)), conninfo)
        for view in views
        if has_table(view)
    ]


def _planned_keys(view: Any, entities: Mapping[str, Any]) -> dict[str, FeastType]:
    """Return a view's keys by its entities: Feast copies them into the view only when it applies."""
    known = {key.name: key.dtype for key in view.entity_columns}
    for name in view.entities or ():
        if name in entities and entities[name].join_key not in known:
            kind = ValueType(entities[name].value_type)
            known[entities[name].join_key] = String if kind is ValueType.UNKNOWN else from_value_type(kind)
    return known


def tell_next_plan(config: RepoConfig, connection: Connection, wanted: Sequence[OnlineTable]) -> None:
    """Have the plan that Feast is about to make show the online tables.

    Feast compares the kinds of infrastructure it knows by name, and keeps no record of ours; the tables in the
    database are the record. Its comparison is replaced for the one call that follows `OnlineStore.plan`.
    """
    diffs = _diffs(config, connection, wanted)
    original = getattr(feature_store.diff_infra_protos, "original", feature_store.diff_infra_protos)

    def once(current: Any, new: Any, project: str | None = None) -> InfraDiff:
        feature_store.diff_infra_protos = original
        diff: InfraDiff = original(current, new, project=project)
        if project in (None, config.project):
            diff.infra_object_diffs += diffs
        return diff

    once.original = original  # type: ignore[attr-defined]
    feature_store.diff_infra_protos = once


def _diffs(config: RepoConfig, connection: Connection, wanted: Sequence[OnlineTable]) -> list[InfraObjectDiff]:
    existing = tables_of_project(connection, config)
    names = {one.name for one in wanted}
    views = {_view_of(config, served) for name, served in existing.items() if name in names}
    gone = [
        _diff(name, TransitionType.DELETE, [])
        for name, served in existing.items()
        if name not in names and _view_of(config, served) not in views and not served.startswith(PRECOMPUTED)
    ]
    return [_table_diff(connection, one.table) for one in wanted] + gone


def _table_diff(connection: Connection, table: Table) -> InfraObjectDiff:
    before = schema.columns_of(connection, table.name)
    after = {column.name: column.type for column in table.columns}
    if not before:
        return _diff(table.name, TransitionType.CREATE, [])
    properties = [
        PropertyDiff(name, before.get(name, "-"), after.get(name, "-"))
        for name in dict.fromkeys((*before, *after))
        if before.get(name) != after.get(name)
    ]
    return _diff(table.name, TransitionType.UPDATE if properties else TransitionType.UNCHANGED, properties)


def _diff(name: str, transition: TransitionType, properties: list[PropertyDiff]) -> InfraObjectDiff:
    return InfraObjectDiff(name, "PostgreSQL table", None, None, properties, transition)
