"""Reads through Feast's SDK, as blocking calls: its registry read once, rows of any age from its online store.

Rows come from ``online_read``, which every online store has and where none judges their age: so whoever asks judges
it, as for rows of every other path. Only features computed on demand go through ``get_online_features``.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from time import monotonic
from typing import Any

import yaml
from feast import FeatureStore, RepoConfig
from feast.feature_view import DUMMY_ENTITY_ID, DUMMY_ENTITY_VAL
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.repo_config import FeastConfigError
from feast.type_map import feast_value_type_to_python_type
from feast.types import FeastType, Int32, Int64, String
from pydantic import ValidationError
from sqlalchemy.pool import NullPool

from featurectl.core.catalog import Catalog, Selection
from featurectl.core.config import DATABASE_VARIABLE, FILE_NAME
from featurectl.core.db import Database
from featurectl.core.online import Key
from featurectl.core.serving.answer import Found, Row
from featurectl.errors import FeastUnavailable, NotFound, UsageError
from featurectl.plugin import foreign_stores, online_tables
from featurectl.plugin.snapshot import read_snapshot
from featurectl.plugin.values import Codec, codec_of

# Feast's Redis store tells this event time for a row that is not there.
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# SQLite takes some thousand keys in one statement.
MOST_KEYS = 5000
# Seconds between two looks at the registry for what was not there.
LOOK_AGAIN = 1.0

# What SQLAlchemy's engines take for a pool, and not without one.
_POOL = ("pool_size", "max_overflow", "pool_timeout", "pool_use_lifo", "pool_recycle", "poolclass")
_VARIABLE = re.compile(r"\$(?:\{(?P<braced>[^}]*)\}|(?P<plain>\w+))")
# What entity ids can be keys of: text, as they are, and whole numbers.
_KEYS: dict[FeastType, Callable[[str], Value]] = {
    String: lambda text: Value(string_val=text),
    Int64: lambda text: Value(int64_val=int(text)),
    Int32: lambda text: Value(int32_val=int(text)),
}


class Sdk:
    """An opened Feast store; any thread may read."""

    def __init__(self, store: FeatureStore) -> None:
        self._store = store
        self._provider = store._get_provider()
        self._online: Any = self._provider.online_store
        self._looking = threading.Lock()
        self._turn = foreign_stores.turn(store.config)
        self.refresh()

    @property
    def store(self) -> FeatureStore:
        """Feast's own store."""
        return self._store

    def refresh(self) -> None:
        """Read the registry; where that fails, what was read before goes on serving."""
        self._snapshot = read_snapshot(self._store.registry, self._store.project)
        self._looked_at = monotonic()

    def _look_again(self) -> None:
        """Read the registry for what was not there, unless that was done a moment ago, or can't be done now."""
        with self._looking:
            if monotonic() - self._looked_at > LOOK_AGAIN:
                self._looked_at = monotonic()
                with contextlib.suppress(Exception):
                    self.refresh()

    def _view(self, name: str) -> Any:
        if name not in self._snapshot:
            self._look_again()
        return self._snapshot.view(name)

    def is_materialized(self, name: str) -> bool:
        """Tell whether a view was ever materialized, by the registry, and its store has not lost everything."""
        if foreign_stores.is_empty(self._online, self._store.config):
            return False
        if not (name in self._snapshot and self._snapshot.is_materialized(name)):
            self._look_again()
        return name in self._snapshot and self._snapshot.is_materialized(name)

    def beyond(self, catalog: Catalog) -> Catalog:
        """Return a catalog with what the registry has besides."""
        self._look_again()
        return self._snapshot.beyond(catalog)

    def close(self) -> None:
        with self._turn:
            asyncio.run(self._store.close())
            foreign_stores.close(self._online)

    # --- reading -----------------------------------------------------------------------------------------------------

    def read(self, selections: Sequence[Selection], keys: Sequence[Sequence[Key]]) -> list[Found]:
        """Return the rows of each selection's keys, of any age."""
        with self._turn:
            foreign_stores.prepare(self._online, self._store.config)
            try:
                return [self._read(chosen, list(wanted)) for chosen, wanted in zip(selections, keys, strict=True)]
            except Exception as error:
                foreign_stores.forget_connection(self._online, error)
                raise

    def _read(self, chosen: Selection, keys: list[Key]) -> Found:
        view = self._view(chosen.view.name)
        types = {field.name: field.dtype for field in view.features}
        if missing := [name for name in chosen.features if name not in types]:
            raise NotFound.of("feature", missing[0], types, f"view '{view.name}' has no other in Feast's registry")
        codecs = [codec_of(types[name]) for name in chosen.features]
        names = chosen.view.join_keys
        if isinstance(view, OnDemandFeatureView) and not view.write_to_online_store:
            return self._compute(view, names, chosen.features, codecs, keys)
        return self._stored(view, names, chosen.features, codecs, keys)

    def _stored(
        self, view: Any, names: Sequence[str], features: Sequence[str], codecs: Sequence[Codec], keys: list[Key]
    ) -> Found:
        sent = {key: entity for key in keys if (entity := _entity_key(view, names, key)) is not None}
        found: Found = {}
        for start in range(0, len(sent), MOST_KEYS):
            some = list(sent)[start : start + MOST_KEYS]
            # Feast's Redis store appends to the list of features.
            rows = self._provider.online_read(self._store.config, view, [sent[key] for key in some], list(features))
            found.update(_rows(view, some, rows, features, codecs))
        return found

    def _compute(
        self,
        view: OnDemandFeatureView,
        names: Sequence[str],
        features: Sequence[str],
        codecs: Sequence[Codec],
        keys: list[Key],
    ) -> Found:
        """Have Feast compute features; they are as old as the oldest row that they are computed from."""
        if view.source_request_sources:
            wanted = ", ".join(field.name for one in view.source_request_sources.values() for field in one.schema)
            raise UsageError(
                f"view '{view.name}' is computed from what a request gives, {wanted}; entity ids give none of it: read "
                "it with Feast's SDK"
            )
        events = self._oldest(view, names, keys)
        if not events:
            return {}
        there = list(events)
        response = self._provider.get_online_features(
            config=self._store.config,
            features=[f"{view.name}:{name}" for name in features],
            entity_rows=self._entity_rows(view, names, there),
            registry=self._snapshot.in_memory(),
            project=self._store.project,
        )
        vectors = dict(zip(response.proto.metadata.feature_names.val, response.proto.results, strict=True))
        columns = [_natives(codec, vectors[name].values) for name, codec in zip(features, codecs, strict=True)]
        return {key: (*key, events[key], *row) for key, row in zip(there, zip(*columns, strict=True), strict=True)}

    def _oldest(self, view: OnDemandFeatureView, names: Sequence[str], keys: list[Key]) -> dict[Key, datetime]:
        """Return the event time of the oldest row that each key has in the views that one on demand reads."""
        events: dict[Key, datetime] = {}
        for projection in view.source_feature_view_projections.values():
            source = self._snapshot.view(projection.name)
            own = [key for key in source.join_keys if key != DUMMY_ENTITY_ID]
            parts = {key: tuple(key[names.index(name)] for name in own) for key in keys}
            feature = projection.features[0]
            found = self._stored(source, own, [feature.name], [codec_of(feature.dtype)], list(set(parts.values())))
            for key, part in parts.items():
                if (row := found.get(part)) is not None:
                    events[key] = min(row[len(own)], events.get(key, row[len(own)]))
        return events

    def _entity_rows(self, view: OnDemandFeatureView, names: Sequence[str], keys: list[Key]) -> dict[str, list[Any]]:
        types = {name: kind for source in self._snapshot.sources_of(view) for name, kind in _key_types(source).items()}
        columns = zip(*keys, strict=True)
        return {
            name: [value if types[name] == String else int(value) for value in column]
            for name, column in zip(names, columns, strict=True)
        }


# --- keys and values -------------------------------------------------------------------------------------------------


def _key_types(view: Any) -> dict[str, FeastType]:
    types = online_tables.key_types(view)
    if others := [f"{name} ({kind})" for name, kind in types.items() if kind not in _KEYS]:
        raise UsageError(f"view '{view.name}' is keyed by {', '.join(others)}; entity ids give text and whole numbers")
    return types


def _entity_key(view: Any, names: Sequence[str], key: Key) -> EntityKey | None:
    """Return a key as Feast's; ``None`` where it is of another type, so that no row has it."""
    types = _key_types(view)
    if types.keys() == {DUMMY_ENTITY_ID}:
        return EntityKey(join_keys=[DUMMY_ENTITY_ID], entity_values=[Value(string_val=DUMMY_ENTITY_VAL)])
    try:
        values = [_KEYS[types[name]](text) for name, text in zip(names, key, strict=True)]
    except ValueError:
        return None
    return EntityKey(join_keys=names, entity_values=values)


def _rows(
    view: Any, keys: Sequence[Key], read: Sequence[Any], features: Sequence[str], codecs: Sequence[Codec]
) -> Iterator[tuple[Key, Row]]:
    """Yield the rows of the keys that have one, of what Feast's ``online_read`` gives for them."""
    columns = [
        _natives(codec, [(values or {}).get(name, _NULL) for _, values in read])
        for name, codec in zip(features, codecs, strict=True)
    ]
    for index, (key, (event, _)) in enumerate(zip(keys, read, strict=True)):
        natives = [column[index] for column in columns]
        if event is not None and (instant := _aware(event)) != EPOCH:
            yield key, (*key, instant, *natives)
        elif any(value is not None for value in natives):
            raise FeastUnavailable(f"Feast's online store tells no event time for the rows of view '{view.name}'")


def _aware(event: datetime) -> datetime:
    """Return a time in UTC, as Feast's times are where they say nothing."""
    return event.replace(tzinfo=UTC) if event.tzinfo is None else event.astimezone(UTC)


_NULL = Value()


def _natives(codec: Codec, values: Sequence[Value]) -> list[Any]:
    """Return values as PostgreSQL gives those of the column that would hold them; NaN is null."""
    if codec.column_type == "jsonb":
        return [None if text is None else json.loads(text) for text in codec.sent(values, "the feature")]
    if codec.column_type == codec.sent_type and codec.field != "unix_timestamp_val":
        column = codec.sent(values, "the feature")
    elif codec.field == "zoned_timestamp_val":
        return codec.sent(values, "the feature")
    else:
        column = [feast_value_type_to_python_type(one) for one in values]
    return [_native(one) for one in column]


def _native(value: Any) -> Any:
    if isinstance(value, float) and math.isnan(value):
        return None
    return list(value) if isinstance(value, set) else value


# --- opening ---------------------------------------------------------------------------------------------------------


def open_sdk(database: Database, on_step: Callable[[str], None]) -> Sdk:
    """Open a repository as a Feast store; ``on_step`` is told what is done next, for the message of what fails.

    It neither changes the working directory nor the environment: other threads are at work.
    """
    on_step("feature_store.yaml")
    config = _repo_config(database)
    foreign_stores.configure(config)
    file = database.config.registry_file
    if file is not None and not file.is_file():
        # Feast would make an empty one.
        raise FeastUnavailable(f"Feast's registry, {file}, is not there; run `featurectl apply`")
    config.registry.cache_mode = "sync"
    if config.registry.registry_type == "sql":
        # Who reads makes no tables, and keeps no connection.
        config.registry.schema_mode = "skip"
        given = config.registry.sqlalchemy_config_kwargs.items()
        kept = {name: value for name, value in given if name not in _POOL}
        config.registry.sqlalchemy_config_kwargs = {**kept, "poolclass": NullPool}
    on_step("Feast's registry")
    return Sdk(FeatureStore(repo_path=str(database.config.root), config=config))


def _repo_config(database: Database) -> RepoConfig:
    path = database.config.root / FILE_NAME
    variables = {**os.environ, DATABASE_VARIABLE: database.sqlalchemy_url()}

    def value(match: re.Match[str]) -> str:
        return variables.get(match["braced"] or match["plain"] or "", match[0])

    text = _VARIABLE.sub(value, path.read_text(encoding="utf-8"))
    try:
        config = RepoConfig(**yaml.safe_load(text))
    except ValidationError as error:
        raise FeastConfigError(error, path) from error
    config.repo_path = database.config.root
    return config
