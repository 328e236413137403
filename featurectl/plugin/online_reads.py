"""Online reads without the waiting: which statement answers a request, its parameters, and what its rows mean."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from feast import RepoConfig, utils
from feast.feature_service import FeatureService
from feast.feature_view import DUMMY_ENTITY_ID, DUMMY_ENTITY_VAL
from feast.infra.registry.base_registry import BaseRegistry
from feast.protos.feast.types.Value_pb2 import Value
from feast.type_map import feast_value_type_to_python_type, python_values_to_proto_values
from feast.types import FeastType, Int32, Int64, String
from feast.value_type import ValueType
from psycopg import sql

from featurectl.core import pgarray, sources
from featurectl.core.memo import Memo
from featurectl.core.queries import query
from featurectl.core.schema import table_identifier
from featurectl.errors import NotFound
from featurectl.plugin import online_tables
from featurectl.plugin.online_response import (
    NOT_FOUND,
    OUTSIDE_MAX_AGE,
    PRESENT,
    KeyColumn,
    NativeOnlineResponse,
    ViewColumns,
)
from featurectl.plugin.values import EPOCH, MICROSECONDS, Codec, codec_of

Rows = Sequence[tuple[Any, ...]]
GroupedFeatures = Sequence[tuple[Any, Sequence[str]]]

# PostgreSQL selects at most 1664 columns at once.
_MOST_COLUMNS = 1600
_INTEGERS = {Int32: 2**31, Int64: 2**63}


def microseconds(instant: datetime) -> int:
    """Return an instant as microseconds since 1970 UTC; a naive one is UTC, as in Feast."""
    age = instant - (EPOCH if instant.tzinfo else EPOCH.replace(tzinfo=None))
    return (age.days * 86400 + age.seconds) * MICROSECONDS + age.microseconds


# --- plans: made once for each choice of views, features and keys ----------------------------------------------------


@dataclass(frozen=True, slots=True)
class ViewRead:
    """One view's share of a statement; ``ttl`` in microseconds, ``None`` for unlimited."""

    view: Any
    features: tuple[str, ...]
    names: tuple[str, ...]
    codecs: tuple[Codec, ...]
    ttl: int | None


@dataclass(frozen=True, slots=True)
class Part:
    """A statement, the columns of the request its arrays come from and their types, and the views it reads."""

    statement: bytes
    keys: tuple[tuple[str, FeastType], ...]
    views: tuple[ViewRead, ...]

    def parameters(self, columns: Mapping[str, _RequestColumn], count: int) -> list[pgarray.Array]:
        # A view without entities has one row, under a key that no request gives.
        placeholder = [DUMMY_ENTITY_VAL] * count
        return [
            pgarray.array(codec_of(kind).sent_type, columns[name].sent(kind) if name in columns else placeholder)
            for name, kind in self.keys
        ]

    def view_columns(self, rows: Rows, now: int) -> list[ViewColumns]:
        """Take the rows apart by view, and withhold what is too old at ``now`` or not known yet."""
        columns: list[Sequence[Any]] = list(zip(*rows, strict=True))
        answer = []
        for read in self.views:
            events, *values = columns[: len(read.codecs) + 1]
            del columns[: len(read.codecs) + 1]
            statuses = _judge(events, read.ttl, now)
            if statuses is not None:
                events = [None if one == NOT_FOUND else event for one, event in zip(statuses, events, strict=True)]
                values = [
                    [value if one == PRESENT else None for one, value in zip(statuses, column, strict=True)]
                    for column in values
                ]
            answer.append(ViewColumns(read.view.name, read.names, read.codecs, events, statuses, values))
        return answer


def _judge(events: Sequence[int | None], ttl: int | None, now: int) -> list[int] | None:
    """Return the status of each row, or ``None`` where all are present: by far the most usual case."""
    oldest = None if ttl is None else now - ttl
    known = [event for event in events if event is not None]
    if len(known) == len(events) and max(known) <= now and (oldest is None or min(known) >= oldest):
        return None
    return [
        NOT_FOUND
        if event is None or event > now
        else OUTSIDE_MAX_AGE
        if oldest is not None and event < oldest
        else PRESENT
        for event in events
    ]


def plan_reads(
    config: RepoConfig, grouped: GroupedFeatures, columns: Collection[str], full_feature_names: bool = False
) -> tuple[Part, ...]:
    """Return the statements, nearly always one, that read features of views by the columns of a request.

    Raises:
        KeyError: the request has none of a view's join keys.
        NotFound: a view has no such feature.
    """
    parts: list[Part] = []
    chunk: list[tuple[ViewRead, Mapping[str, tuple[str, FeastType]]]] = []
    width = 0
    for view, features in grouped:
        read = _view_read(view, features, full_feature_names)
        if chunk and width + len(features) >= _MOST_COLUMNS:
            parts.append(_part(config, chunk))
            chunk, width = [], 0
        chunk.append((read, _match_keys(view, columns)))
        width += len(features) + 1
    return (*parts, _part(config, chunk))


def _view_read(view: Any, features: Sequence[str], full_feature_names: bool) -> ViewRead:
    types = online_tables.feature_types(view)
    for name in features:
        if name not in types:
            raise NotFound.of("feature", name, types, f"view '{view.name}' has no other")
    label = view.projection.name_to_use()
    ttl = getattr(view, "ttl", None)
    return ViewRead(
        view=view,
        features=tuple(features),
        names=tuple(f"{label}__{name}" if full_feature_names else name for name in features),
        codecs=tuple(codec_of(types[name]) for name in features),
        ttl=(ttl.days * 86400 + ttl.seconds) * MICROSECONDS + ttl.microseconds if ttl else None,
    )


def _match_keys(view: Any, columns: Collection[str]) -> dict[str, tuple[str, FeastType]]:
    """Return which column of the request holds each join key of a view; keys that none holds are left out."""
    types = online_tables.key_types(view)
    aliases = {alias: key for key, alias in view.projection.join_key_map.items()}
    matched = {aliases.get(name, name): name for name in columns if aliases.get(name, name) in types}
    if not matched and types.keys() == {DUMMY_ENTITY_ID}:
        matched = {DUMMY_ENTITY_ID: DUMMY_ENTITY_ID}
    if not matched:
        raise KeyError(f"Missing join key values for keys: {sorted(types)} of feature view '{view.name}'")
    return {key: (name, types[key]) for key, name in matched.items()}


def _part(config: RepoConfig, chunk: Sequence[tuple[ViewRead, Mapping[str, tuple[str, FeastType]]]]) -> Part:
    keys = list(dict.fromkeys(key for _, matched in chunk for key in matched.values()))
    names = {key: f"c{index}" for index, key in enumerate(keys)}
    aliases = [f"v{index}" for index in range(len(chunk))]
    statement = query("online", "read").format(
        columns=sources.commas(
            column for (read, _), alias in zip(chunk, aliases, strict=True) for column in _columns(read, alias)
        ),
        arrays=sources.commas(sql.SQL("%s::{}[]").format(sql.SQL(codec_of(kind).sent_type)) for _, kind in keys),
        names=sources.commas(sql.Identifier(name) for name in names.values()),
        views=sql.SQL("\n").join(
            query("online", "read_view").format(
                online=table_identifier(online_tables.table_name(config, read.view)),
                alias=sql.SQL(alias),
                match=_match(read, matched, names, alias),
            )
            for (read, matched), alias in zip(chunk, aliases, strict=True)
        ),
    )
    return Part(statement.as_bytes(), tuple(keys), tuple(read for read, _ in chunk))


def _columns(read: ViewRead, alias: str) -> Iterator[sql.Composable]:
    yield sources.column("event_timestamp", alias)
    for name, codec in zip(read.features, read.codecs, strict=True):
        yield sources.without_nan(sources.column(name, alias), codec.column_type)


def _match(
    read: ViewRead,
    matched: Mapping[str, tuple[str, FeastType]],
    names: Mapping[tuple[str, FeastType], str],
    alias: str,
) -> sql.Composable:
    if matched.keys() != online_tables.key_types(read.view).keys():
        return sql.SQL("FALSE")
    return sources.conjunction(
        sql.SQL("{} = {}::{}").format(
            sources.column(key, alias), sources.column(names[wanted], "k"), sql.SQL(codec_of(wanted[1]).column_type)
        )
        for key, wanted in matched.items()
    )


# --- requests: one call of get_online_features -----------------------------------------------------------------------


class _RequestColumn:
    """A column of the entity rows, in the forms it is needed in."""

    def __init__(self, name: str, values: Sequence[Any], kind: FeastType | None) -> None:
        self.name = name
        self._kind = kind
        self._sent: dict[FeastType, Sequence[Any]] = {}
        self._protos: Sequence[Value] | None = None
        if _is_plain(values, kind):
            self._plain: Sequence[Any] | None = values
        else:
            value_type = kind.to_value_type() if kind is not None else ValueType.UNKNOWN
            self._plain = None
            self._protos = python_values_to_proto_values(list(values), value_type)

    @classmethod
    def of_protos(cls, name: str, protos: Sequence[Value]) -> _RequestColumn:
        column = cls(name, (), String)
        column._plain, column._protos = None, protos
        return column

    def sent(self, kind: FeastType) -> Sequence[Any]:
        """Return the values as the elements of the array that is sent to a key of a type."""
        if self._plain is not None and kind == self._kind:
            # PostgreSQL holds no NUL, so that no row has such a key.
            return [None if "\0" in one else one for one in self._plain] if kind == String else self._plain
        if kind not in self._sent:
            protos = self._protos if self._protos is not None else codec_of(self._kind).protos(self._plain or ())
            self._sent[kind] = codec_of(kind).sent(protos, f"join key '{self.name}'")
        return self._sent[kind]

    def key_column(self) -> KeyColumn:
        """Return the column as it stands in the response."""
        if self._plain is not None:
            return KeyColumn(self.name, codec_of(self._kind), self._plain, self._plain)
        protos = self._protos or ()
        pythons = [feast_value_type_to_python_type(one) for one in protos]
        return KeyColumn(self.name, codec_of(String), pythons, pythons, protos)


def _is_plain(values: Sequence[Any], kind: FeastType | None) -> bool:
    """Tell whether values go as they are: strings and integers, of exactly those classes, without a null."""
    classes = set(map(type, values))
    if kind == String:
        return classes == {str}
    return kind in _INTEGERS and classes == {int} and -_INTEGERS[kind] <= min(values) and max(values) < _INTEGERS[kind]


@dataclass(frozen=True, slots=True)
class Request:
    """A call of ``get_online_features``, ready for its statements to be run."""

    parts: tuple[Part, ...]
    columns: Mapping[str, _RequestColumn]
    count: int
    versions: tuple[tuple[str, int], ...]

    def statements(self) -> list[tuple[bytes, list[pgarray.Array]]]:
        return [(part.statement, part.parameters(self.columns, self.count)) for part in self.parts]

    def views(self, answers: Sequence[Rows], now: datetime) -> list[ViewColumns]:
        instant = microseconds(now)
        pairs = zip(self.parts, answers, strict=True)
        return [view for part, rows in pairs for view in part.view_columns(rows, instant)]

    def response(self, answers: Sequence[Rows], now: datetime) -> NativeOnlineResponse:
        keys = [column.key_column() for column in self.columns.values()]
        return NativeOnlineResponse(keys, self.views(answers, now), self.versions)


class Planner:
    """Makes requests; keeps the plans of those it has seen."""

    _MOST_KEPT = 256

    def __init__(self) -> None:
        self._plans: Memo[Any, tuple[Part, ...]] = Memo(self._MOST_KEPT)
        self._contexts: dict[Any, tuple[Any, ...]] = {}
        self._edition: tuple[int, datetime | None] | None = None

    def of_call(
        self,
        config: RepoConfig,
        features: list[str] | FeatureService,
        entity_rows: Any,
        registry: BaseRegistry,
        project: str,
        full_feature_names: bool,
        with_versions: bool,
    ) -> tuple[GroupedFeatures, Request] | None:
        """Return the views of a call and its request; ``None`` where the call needs more than a read of views.

        Raises:
            ValueError: the entity rows differ in their columns.
            KeyError: they hold none of a view's join keys.
        """
        if getattr(features, "precompute_online", False):
            return None
        context = self._context(registry, project, features, full_feature_names)
        _, on_demand, join_keys_by_name, types, join_keys, grouped, _, request_data, _ = context
        if on_demand or request_data:
            return None
        given, count = _columns_of(entity_rows)
        kinds = _kinds(grouped, types)
        columns = {}
        for name, values in given.items():
            key = _join_key(name, join_keys, join_keys_by_name)
            if key is not None:
                columns[key] = _RequestColumn(key, values, kinds.get(key))
        if not count:
            raise KeyError(f"No values provided for keys: {sorted(columns) or sorted(join_keys)}")
        parts = self._plan(config, grouped, columns, full_feature_names)
        return grouped, Request(parts, columns, count, _versions(grouped) if with_versions else ())

    def _context(
        self, registry: BaseRegistry, project: str, features: list[str] | FeatureService, full_feature_names: bool
    ) -> tuple[Any, ...]:
        """Return what Feast resolves of a request; kept, as Feast does, until its copy of the registry is another.

        Feast keeps that for one registry in a process; two stores that take turns would resolve every request anew.
        """
        name = features.name if isinstance(features, FeatureService) else tuple(features)
        key = (isinstance(features, FeatureService), name, project, full_feature_names)
        edition = (id(registry), getattr(registry, "cached_registry_proto_created", None))
        if edition != self._edition or len(self._contexts) >= self._MOST_KEPT:
            self._contexts, self._edition = {}, edition
        kept = self._contexts
        is_valid = getattr(registry, "is_cache_valid", None)
        context = kept.get(key) if is_valid is not None and is_valid() else None
        if context is None:
            # Reading may refresh the registry; what was kept is then of no use to the next request.
            context = kept[key] = utils._get_cached_request_context(registry, project, features, full_feature_names)
        return context

    def of_protos(
        self,
        config: RepoConfig,
        grouped: GroupedFeatures,
        protos: Mapping[str, Sequence[Value]],
        full_feature_names: bool = False,
        with_versions: bool = False,
    ) -> Request:
        """Return the request that reads views by columns of protobufs."""
        columns = {name: _RequestColumn.of_protos(name, values) for name, values in protos.items()}
        count = len(next(iter(protos.values()), ()))
        parts = self._plan(config, grouped, columns, full_feature_names)
        return Request(parts, columns, count, _versions(grouped) if with_versions else ())

    def _plan(
        self, config: RepoConfig, grouped: GroupedFeatures, columns: Mapping[str, Any], full: bool
    ) -> tuple[Part, ...]:
        # The plan keeps its views, so that no other view can get the identity of one of them.
        views = tuple((id(view), *features) for view, features in grouped)
        key = (config.project, config.online_store.db_schema, views, tuple(columns), full)
        return self._plans.get(key) or self._plans.keep(key, plan_reads(config, grouped, columns, full))


def _kinds(grouped: GroupedFeatures, types: Mapping[str, ValueType]) -> dict[str, FeastType]:
    """Return the types of the columns of a request, by the views that are read."""
    kinds = {}
    for view, _ in grouped:
        for name, kind in online_tables.key_types(view).items():
            kinds[view.projection.join_key_map.get(name, name)] = kind
    return {name: kind for name, kind in kinds.items() if name in types}


def _join_key(name: str, join_keys: Collection[str], by_entity: Mapping[str, str]) -> str | None:
    if name in join_keys:
        return name
    if name in by_entity:
        warnings.warn("Using entity name is deprecated. Use join_key instead.", stacklevel=2)
        return by_entity[name]
    return None


def _columns_of(entity_rows: Any) -> tuple[dict[str, Sequence[Any]], int]:
    """Return entity rows, given as rows or as columns, as columns, and their number."""
    if isinstance(entity_rows, list):
        names = entity_rows[0].keys()
        if any(row.keys() != names for row in entity_rows):
            raise ValueError("All entity_rows must have the same keys.")
        return {name: [row[name] for row in entity_rows] for name in names}, len(entity_rows)
    columns: dict[str, Sequence[Any]] = {
        name: list(getattr(values, "val", values)) for name, values in entity_rows.items()
    }
    lengths = set(map(len, columns.values()))
    if len(lengths) != 1:
        raise ValueError("All entity rows must have the same columns.")
    return columns, lengths.pop()


def _versions(grouped: GroupedFeatures) -> tuple[tuple[str, int], ...]:
    versions: dict[str, int] = {}
    for view, _ in grouped:
        name = view.projection.name_alias or view.projection.name
        versions.setdefault(name, getattr(view, "current_version_number", 0) or 0)
    return tuple(versions.items())


def unzip(keys: Iterable[Any]) -> dict[str, list[Value]]:
    """Return entity keys as columns; a key that lacks a column has a null there."""
    columns: dict[str, list[Value]] = {}
    for index, key in enumerate(keys):
        for name, value in zip(key.join_keys, key.entity_values, strict=True):
            columns.setdefault(name, [Value()] * index).append(value)
        for values in columns.values():
            if len(values) == index:
                values.append(Value())
    return columns
