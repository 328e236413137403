"""Load a repository's Feast objects, check them, and turn them into the catalog that every other command reads."""

from __future__ import annotations

import ast
import contextlib
import io
import os
import re
import sys
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from feast import Entity, FeatureService, FeatureView, ValueType
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import PostgreSQLSource
from feast.repo_contents import RepoContents
from feast.types import from_value_type

from featurectl.core import catalog, schema
from featurectl.core.config import Config
from featurectl.core.functions import FunctionSet, importing_from, load_functions
from featurectl.core.value_types import column_type
from featurectl.errors import DefinitionError

RESERVED = ("event_timestamp", "created_timestamp", "source_created_timestamp")
COMPUTED_SOURCES = ("candles",)
COMPUTED_TYPES = ("Float64", "Float32", "Int64", "Int32")
# A century: beyond it, arithmetic with instants overflows.
MAX_TTL = timedelta(days=36500)


@dataclass(frozen=True)
class Definitions:
    """A repository's objects, the files they stand in, and the catalog they make."""

    contents: RepoContents
    files: dict[int, str]
    catalog: catalog.Catalog
    key_types: dict[str, str] = field(default_factory=dict)

    def file_of(self, item: object) -> str:
        return self.files.get(id(item), "the definitions")


def load_definitions(config: Config) -> Definitions:
    """Import every Python file of the repository, as Feast does, and check what they define.

    Raises:
        DefinitionError: a file can't be imported, or the definitions contradict themselves. The message names the file.
    """
    with working_in(config.root):
        contents = _import_all(config.root)
        files = _locate(config.root)
        objects = Definitions(contents, files, catalog.Catalog(config.project, (), (), ()))
        _refuse_duplicates(objects)
        views = tuple(_view(config, view, objects) for view in contents.feature_views)
    built = catalog.Catalog(
        project=config.project,
        entities=tuple(_entity(entity) for entity in _real_entities(contents)),
        views=tuple(sorted(views, key=lambda view: view.name)),
        services=tuple(sorted((_service(service) for service in contents.feature_services), key=lambda one: one.name)),
    )
    return Definitions(contents, files, catalog.hashed(built), _key_types(contents, files))


@contextlib.contextmanager
def working_in(root: Path) -> Iterator[None]:
    """Stand in the repository while Feast works: it finds modules by the working directory, and prints to stdout."""
    before = Path.cwd()
    os.chdir(root)
    try:
        with importing_from(root), contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        os.chdir(before)


def python_files(root: Path) -> list[Path]:
    """Return the files of a repository that Feast executes."""
    from feast.repo_operations import get_repo_files

    return list(get_repo_files(root))


def _import_all(root: Path) -> RepoContents:
    from feast.repo_operations import parse_repo

    sys.dont_write_bytecode = True
    for path in python_files(root):
        _check_syntax(path, _relative(path, root))
    try:
        return parse_repo(root)
    except DefinitionError:
        raise
    except (Exception, SystemExit) as error:
        raise DefinitionError(f"{_place_of(error, root)}{type(error).__name__}: {error}") from error


def _place_of(error: BaseException, root: Path) -> str:
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if Path(frame.filename).is_relative_to(root.resolve())
    ]
    return f"{_relative(Path(frames[-1].filename), root)} line {frames[-1].lineno}: " if frames else ""


def _check_syntax(path: Path, shown: str) -> None:
    """Refuse a file that is no Python before any other is executed.

    Raises:
        DefinitionError: names the file and the line.
    """
    try:
        ast.parse(path.read_bytes())
    except SyntaxError as error:
        line = f" line {error.lineno}" if error.lineno else ""
        raise DefinitionError(f"{shown}{line}: SyntaxError: {error.msg}") from error
    except ValueError as error:  # a NUL byte, before Python 3.11.4
        raise DefinitionError(f"{shown}: SyntaxError: {error}") from error


def _relative(path: Path, root: Path) -> str:
    resolved = path.resolve()
    return str(resolved.relative_to(root.resolve())) if resolved.is_relative_to(root.resolve()) else str(path)


def _locate(root: Path) -> dict[int, str]:
    """Return the file that each object is assigned in, by identity; importing a name elsewhere is not assigning it."""
    files: dict[int, str] = {}
    for path in python_files(root):
        shown = _relative(path, root)
        module = sys.modules.get(shown.removesuffix(".py").replace(os.sep, "."))
        for name in _assigned_names(path):
            value = getattr(module, name, None)
            files.setdefault(id(value), shown)
            source = getattr(value, "batch_source", None)
            if source is not None:
                files.setdefault(id(source), shown)
    return files


def _assigned_names(path: Path) -> Iterator[str]:
    for node in ast.parse(path.read_bytes()).body:
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        yield from (target.id for target in targets if isinstance(target, ast.Name))


def _refuse_duplicates(objects: Definitions) -> None:
    contents = objects.contents
    views = [*contents.feature_views, *contents.stream_feature_views, *contents.on_demand_feature_views]
    _unique("entity", _real_entities(contents), objects)
    _unique("view", views, objects)
    _unique("service", contents.feature_services, objects)
    _unique("source", contents.data_sources, objects)
    for kind, items in (("view", views), ("service", contents.feature_services)):
        for item in items:
            _check_name(f"{objects.file_of(item)}: {kind} '{item.name}'", item.name)


def _check_name(owner: str, name: str) -> None:
    """Refuse a name that the command line and the file formats could not tell from several, or from none."""
    if not re.fullmatch(r"[\w.-]+", name):
        raise DefinitionError(f"{owner}: a name is letters, digits, underscores, dots and hyphens; rename it")


def _unique(kind: str, items: Iterable[Any], objects: Definitions) -> None:
    seen: dict[str, Any] = {}
    for item in items:
        other = seen.setdefault(item.name.lower(), item)
        if other is not item:
            places = " and in ".join(dict.fromkeys((objects.file_of(other), objects.file_of(item))))
            raise DefinitionError(f"{kind} '{item.name}' is defined twice, in {places}; rename or remove one")


def _real_entities(contents: RepoContents) -> list[Entity]:
    from feast.feature_view import DUMMY_ENTITY_NAME

    return [entity for entity in contents.entities if entity.name != DUMMY_ENTITY_NAME]


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
        DefinitionError: the view names an entity that no file defines.
    """
    entities = {entity.name: entity for entity in _real_entities(contents)}
    keys = {}
    for name in view.entities:
        if name.startswith("__dummy"):
            continue
        if name not in entities:
            raise DefinitionError(f"{place}: view '{view.name}' has entity '{name}'; entities: {', '.join(entities)}")
        kind = entities[name].value_type
        keys[entities[name].join_key] = "String" if kind is ValueType.UNKNOWN else str(from_value_type(kind))
    return keys


def _key_types(contents: RepoContents, files: dict[int, str]) -> dict[str, str]:
    return {
        key: column_type(kind, owner=f"{place}: join key '{key}' of view '{view.name}'")
        for view in contents.feature_views
        for place in [files.get(id(view), "the definitions")]
        for key, kind in _keys(view, contents, place).items()
    }


def _view(config: Config, view: FeatureView, objects: Definitions) -> catalog.View:
    place = objects.file_of(view)
    source = view.batch_source
    if not isinstance(source, PostgreSQLSource):
        kind = type(source).__name__ if source is not None else "no source"
        raise DefinitionError(f"{place}: view '{view.name}' has {kind}; featurectl reads a PostgreSQLSource")
    table, text = source._postgres_options._table or None, source._postgres_options._query or None
    computed_from = view.tags.get("computed_from")
    keys = tuple(_keys(view, objects.contents, place))
    built = catalog.View(
        name=view.name,
        join_keys=keys,
        ttl_seconds=_ttl(view, place).total_seconds(),
        online=bool(view.online),
        source_table=table,
        source_query=text,
        timestamp_column=source.timestamp_field,
        created_column=source.created_timestamp_column or None,
        online_table=_online_table(config, view, place) if keys else None,
        computed_from=computed_from,
        functions_file=_functions_file(view, place) if computed_from else None,
        functions_hash=None,
        description=view.description,
        tags=dict(view.tags),
        fields=(),
    )
    _check_field_names(view, built, place)
    if not computed_from:
        return replace(built, fields=_fields(view, place, {}))
    functions = _functions(view, built, place, config.root)
    descriptions = {feature.name: feature.description for feature in functions.ordered}
    return replace(built, functions_hash=functions.code_hash, fields=_fields(view, place, descriptions))


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


def _functions_file(view: FeatureView, place: str) -> str:
    kind = view.tags["computed_from"]
    if kind not in COMPUTED_SOURCES:
        raise DefinitionError(
            f"{place}: view '{view.name}' has computed_from={kind}; choices: {', '.join(COMPUTED_SOURCES)}"
        )
    file = view.tags.get("functions", "indicators.py")
    if not file.endswith(".py"):
        raise DefinitionError(f"{place}: view '{view.name}' has functions={file}; name a Python file, beside this one")
    return str(Path(place).parent / file)


def _fields(view: FeatureView, place: str, descriptions: dict[str, str]) -> tuple[catalog.Field, ...]:
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
        _check_name(owner, item.name)
        if item.name in seen:
            raise DefinitionError(f"{owner} is there twice; rename or remove one")
        if item.name in RESERVED or item.name in built.join_keys:
            raise DefinitionError(f"{owner} has a name that the tables use themselves; rename it")
        if len(item.name.encode()) > schema.MAX_IDENTIFIER_BYTES:
            limit = f"the {schema.MAX_IDENTIFIER_BYTES} bytes PostgreSQL keeps"
            raise DefinitionError(f"{owner} is longer than {limit}; shorten it")
        seen.add(item.name)


def _functions(view: FeatureView, built: catalog.View, place: str, root: Path) -> FunctionSet:
    if set(built.join_keys) != {"symbol", "timeframe"} or not built.source_table or built.source_table.count(".") != 1:
        raise DefinitionError(
            f"{place}: view '{view.name}' is computed from candles; it must be keyed by symbol and timeframe, over a "
            "source with table='schema.table'"
        )
    for item in view.features:
        if str(item.dtype) not in COMPUTED_TYPES:
            raise DefinitionError(
                f"{place}: field '{item.name}' of view '{view.name}' is computed and has type {item.dtype}; "
                f"types: {', '.join(COMPUTED_TYPES)}"
            )
    return load_functions(root / (built.functions_file or ""), [item.name for item in view.features], root=root)
