"""Turn Feast objects, from files or from a registry, into the catalog that every other command reads."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from feast import Entity, FeatureService, FeatureView, ValueType
from feast.feature_view import DUMMY_ENTITY_NAME
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import PostgreSQLSource
from feast.repo_contents import RepoContents
from feast.stream_feature_view import StreamFeatureView
from feast.types import from_value_type

from featurectl.core import catalog, composite, schema, tags
from featurectl.core.checks import expectations
from featurectl.core.config import Config
from featurectl.core.functions import FunctionSet, load_functions
from featurectl.core.value_types import column_type, key_type
from featurectl.errors import DefinitionError

RESERVED = ("event_timestamp", "created_timestamp", "source_created_timestamp")
# What a computed view is keyed by.
COMPUTED_KEYS = {
    "candles": ("symbol", "timeframe"),
    "ticks": ("symbol", "timeframe"),
    "signals": ("symbol",),
}
COMPUTED_SOURCES = (*COMPUTED_KEYS, "views")
COMPUTED_TYPES = ("Float64", "Float32", "Int64", "Int32")
# A century: beyond it, arithmetic with instants overflows.
MAX_TTL = timedelta(days=36500)

FileOf = Callable[[object], str]


def catalog_of(
    config: Config,
    contents: RepoContents,
    file_of: FileOf,
    *,
    refuse: Callable[[DefinitionError], None] | None = None,
) -> catalog.Catalog:
    """Return the catalog that a repository's objects make; ``file_of`` names an object's place in messages.

    A view that can't be in it is an error, or is left out where ``refuse`` takes the error.

    Raises:
        DefinitionError: a definition contradicts itself.
    """
    views: list[catalog.View] = []
    for view in views_of(contents):
        try:
            made = _view(config, view, contents, file_of(view))
            _check_table(config, made, views, file_of(view))
            views.append(made)
        except DefinitionError as error:
            if refuse is None:
                raise
            refuse(error)
    views = list(_with_composites(views, contents, file_of, refuse))
    services = [_service(service) for service in contents.feature_services]
    built = catalog.Catalog(
        project=config.project,
        entities=tuple(_entity(entity) for entity in real_entities(contents)),
        views=tuple(sorted(views, key=lambda view: view.name)),
        services=tuple(sorted(services, key=lambda service: service.name)),
    )
    return catalog.hashed(built)


def _check_table(config: Config, view: catalog.View, others: Sequence[catalog.View], place: str) -> None:
    """Refuse a computed view whose table is ours, or one that another view is computed into.

    Raises:
        DefinitionError: names the view and its table.
    """
    if not view.computed_from or not view.source_table:
        return
    owner, table = f"{place}: view '{view.name}'", view.source_table
    # Where Feast's own defaults are kept, registry and online tables stand in public, beside tables of any kind.
    ours = {"market", "featurectl", config.online_schema, config.registry_schema} - {"public"}
    if (schema_name := table.partition(".")[0]) in ours:
        raise DefinitionError(
            f"{owner} is computed into {table}, and schema {schema_name} is featurectl's; give its source a table in "
            "another schema, such as features"
        )
    for other in others:
        if other.computed_from and other.source_table == table:
            raise DefinitionError(f"{owner} and view '{other.name}' both name table {table}; rename one")


def _with_composites(
    views: Sequence[catalog.View],
    contents: RepoContents,
    file_of: FileOf,
    refuse: Callable[[DefinitionError], None] | None,
) -> Iterator[catalog.View]:
    """Yield the views, those that join others checked against them and with their features' descriptions."""
    defined = {view.name: view for view in views_of(contents)}
    for view in views:
        if not view.is_composite:
            yield view
            continue
        try:
            parts = composite.parts_of(view, views, file_of(defined[view.name]))
        except DefinitionError as error:
            if refuse is None:
                raise
            refuse(error)
            continue
        told = {one.name: one.description for part in parts for one in part.view.fields if one.name in part.features}
        fields = (replace(one, description=one.description or told[one.name]) for one in view.fields)
        yield replace(view, fields=tuple(fields))


def views_of(contents: RepoContents) -> list[FeatureView]:
    """Return the views that have rows of their own: all but those computed on demand.

    Those that join others come last, so that what is wrong with a view is said of that view and not of its copy.
    """
    views = [*contents.feature_views, *contents.stream_feature_views]
    return sorted(views, key=lambda view: (view.tags.get("computed_from") == "views", view.name))


def real_entities(contents: RepoContents) -> list[Entity]:
    """Return the entities without the one that stands for having none."""
    return [entity for entity in contents.entities if entity.name != DUMMY_ENTITY_NAME]


def key_types(contents: RepoContents, file_of: FileOf) -> dict[str, str]:
    """Return the column type of every join key."""
    return {
        key: key_type(kind, owner=f"{file_of(view)}: join key '{key}' of view '{view.name}'")
        for view in views_of(contents)
        for key, kind in _keys(view, contents, file_of(view)).items()
    }


def check_name(owner: str, name: str) -> None:
    """Refuse a name that the command line and the file formats could not tell from several, or from none.

    Raises:
        DefinitionError: names ``owner``.
    """
    if not re.fullmatch(r"[\w.-]+", name):
        raise DefinitionError(f"{owner}: a name is letters, digits, underscores, dots and hyphens; rename it")


def is_transformed(view: FeatureView) -> bool:
    """Tell whether a view's features are made from its source by a function of Feast's, or from other views."""
    made = ("feature_transformation", "aggregations", "source_views")
    return any(getattr(view, name, None) for name in made)


def _entity(entity: Entity) -> catalog.Entity:
    return catalog.Entity(entity.name, entity.join_key, entity.value_type.name, entity.description, dict(entity.tags))


def _service(service: FeatureService) -> catalog.Service:
    features = tuple(
        (projection.name, feature.name)
        for projection in service.feature_view_projections
        for feature in (projection.features or [])
    )
    return catalog.Service(service.name, service.description, dict(service.tags), features)


def _keys(view: FeatureView, contents: RepoContents, place: str) -> dict[str, str]:
    """Return a view's join keys and their value types; Feast itself learns them only when it applies.

    Raises:
        DefinitionError: the view names an entity that is not defined.
    """
    entities = {entity.name: entity for entity in real_entities(contents)}
    learnt = {column.name: str(column.dtype) for column in view.entity_columns}
    keys = {}
    for name in view.entities:
        if name == DUMMY_ENTITY_NAME:
            continue
        if name not in entities:
            raise DefinitionError(f"{place}: view '{view.name}' has entity '{name}'; entities: {', '.join(entities)}")
        key, kind = entities[name].join_key, entities[name].value_type
        keys[key] = learnt.get(key) or ("String" if kind is ValueType.UNKNOWN else str(from_value_type(kind)))
    return keys


def _view(config: Config, view: FeatureView, contents: RepoContents, place: str) -> catalog.View:
    source = view.batch_source
    if not isinstance(source, PostgreSQLSource):
        kind = type(source).__name__ if source is not None else "no source"
        raise DefinitionError(f"{place}: view '{view.name}' has {kind}; featurectl reads a PostgreSQLSource")
    if isinstance(view, StreamFeatureView):
        view = _without_keys_among_features(view)
    mapped = {name: column for column, name in source.field_mapping.items()}
    if renamed := [key for key in view.join_keys if key in mapped]:
        raise DefinitionError(
            f"{place}: view '{view.name}' has join key '{renamed[0]}' under another name in its source; featurectl "
            "reads keys by their own names: rename the column in the source's query"
        )
    transformed = is_transformed(view)
    computed_from = _computed_from(view, place)
    keys = tuple(_keys(view, contents, place))
    built = catalog.View(
        name=view.name,
        join_keys=keys,
        ttl_seconds=_ttl(view, place).total_seconds(),
        online=bool(view.online),
        source_table=None if transformed else source._postgres_options._table or None,
        source_query=None if transformed else source._postgres_options._query or None,
        timestamp_column=mapped.get(source.timestamp_field, source.timestamp_field),
        created_column=mapped.get(source.created_timestamp_column, source.created_timestamp_column) or None,
        online_table=_online_table(config, view, place) if keys else None,
        computed_from=computed_from,
        functions_file=_functions_file(view, place, config.root) if computed_from in COMPUTED_KEYS else None,
        functions_hash=None,
        description=view.description,
        tags=dict(view.tags),
        fields=(),
    )
    _check_field_names(view, built, place)
    if computed_from not in COMPUTED_KEYS:
        built = replace(built, fields=_fields(view, place, {}))
        if computed_from:
            _check_tags(built, place)
        return built
    functions = _functions(view, built, place, config.root)
    descriptions = {feature.name: feature.description for feature in functions.ordered}
    built = replace(built, functions_hash=functions.code_hash, fields=_fields(view, place, descriptions))
    _check_tags(built, place)
    return built


def _check_tags(built: catalog.View, place: str) -> None:
    """Read the tags of a view that featurectl computes; on other views `featurectl check` does."""
    try:
        tags.check(built)
        expectations.of_view(built)
    except DefinitionError as error:
        raise DefinitionError(f"{place}: view '{built.name}': {error}") from None


def _without_keys_among_features(view: StreamFeatureView) -> StreamFeatureView:
    """Return a stream view as it was defined: read from a registry, it has its keys among its features."""
    keys = set(view.join_keys)
    view = copy.copy(view)
    view.features = [feature for feature in view.features if feature.name not in keys]
    return view


def _ttl(view: FeatureView, place: str) -> timedelta:
    ttl: timedelta = view.ttl or timedelta(0)
    if not timedelta(0) <= ttl <= MAX_TTL:
        raise DefinitionError(
            f"{place}: view '{view.name}' has ttl={ttl}; give up to {MAX_TTL.days} days, or timedelta(0) for no limit"
        )
    return ttl


def _online_table(config: Config, view: FeatureView, place: str) -> str | None:
    if not (config.online_store_is_ours and view.online):
        return None
    try:
        return schema.online_table_name(config.project, view.name, config.online_schema)
    except DefinitionError as error:
        raise DefinitionError(f"{place}: {error}") from None


def _computed_from(view: FeatureView, place: str) -> str | None:
    kind: str | None = view.tags.get("computed_from")
    if kind is not None and kind not in COMPUTED_SOURCES:
        raise DefinitionError(
            f"{place}: view '{view.name}' has computed_from={kind}; choices: {', '.join(COMPUTED_SOURCES)}"
        )
    return kind


def _functions_file(view: FeatureView, place: str, root: Path) -> str:
    file = view.tags.get("functions", "indicators.py")
    if not file.endswith(".py"):
        raise DefinitionError(f"{place}: view '{view.name}' has functions={file}; name a Python file, beside this one")
    if place.endswith(".py"):
        return str(Path(place).parent / file)
    # A registry does not tell which file a view stood in.
    found = [path for path in root.glob(f"**/{file}") if not any(part.startswith(".") for part in path.parts)]
    if len(found) != 1:
        raise DefinitionError(f"{place}: view '{view.name}' has functions={file}, which {len(found)} files are called")
    return str(found[0].relative_to(root))


def _fields(view: FeatureView, place: str, descriptions: Mapping[str, str]) -> tuple[catalog.Field, ...]:
    mapping = {name: column for column, name in view.batch_source.field_mapping.items()}
    fields = []
    for item in view.features:
        owner = f"{place}: field '{item.name}' of view '{view.name}'"
        kind = str(item.dtype)
        fields.append(
            catalog.Field(
                name=item.name,
                value_type=kind,
                column_type=column_type(kind, owner=owner),
                source_column=mapping.get(item.name, item.name),
                # In the catalog only: Feast's own plan would see a difference it can't explain.
                description=item.description or descriptions.get(item.name, ""),
                tags=dict(item.tags),
            )
        )
    return tuple(fields)


def _check_field_names(view: FeatureView, built: catalog.View, place: str) -> None:
    seen = set()
    for item in view.features:
        owner = f"{place}: field '{item.name}' of view '{view.name}'"
        check_name(owner, item.name)
        if item.name in seen:
            raise DefinitionError(f"{owner} is there twice; rename or remove one")
        if item.name in RESERVED or item.name in built.join_keys:
            raise DefinitionError(f"{owner} has a name that the tables use themselves; rename it")
        if len(item.name.encode()) > schema.MAX_IDENTIFIER_BYTES:
            limit = f"the {schema.MAX_IDENTIFIER_BYTES} bytes PostgreSQL keeps"
            raise DefinitionError(f"{owner} is longer than {limit}; shorten it")
        seen.add(item.name)


def _functions(view: FeatureView, built: catalog.View, place: str, root: Path) -> FunctionSet:
    kind = built.computed_from or ""
    keys = COMPUTED_KEYS[kind]
    if set(built.join_keys) != set(keys) or not built.source_table or built.source_table.count(".") != 1:
        raise DefinitionError(
            f"{place}: view '{view.name}' is computed from {kind}; it must be keyed by {' and '.join(keys)}, over a "
            "source with table='schema.table'"
        )
    for item in view.features:
        if str(item.dtype) not in COMPUTED_TYPES:
            raise DefinitionError(
                f"{place}: field '{item.name}' of view '{view.name}' is computed and has type {item.dtype}; "
                f"types: {', '.join(COMPUTED_TYPES)}"
            )
    names = [item.name for item in view.features]
    return load_functions(root / (built.functions_file or ""), names, root=root, computed_from=kind)
