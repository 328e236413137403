"""Online writes without the waiting: rows of protobufs to columns of parameters, and the statement that takes them."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any

from feast import RepoConfig
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.types import FeastType
from psycopg import sql

from featurectl.core import pgarray, sources
from featurectl.core.announce import announced
from featurectl.core.queries import query
from featurectl.core.schema import table_identifier
from featurectl.errors import DefinitionError
from featurectl.plugin import online_tables
from featurectl.plugin.online_reads import microseconds
from featurectl.plugin.values import Codec, codec_of

Row = tuple[EntityKey, dict[str, Value], datetime, datetime | None]
Statement = tuple[bytes, list[pgarray.Array]]
_TIMES = ("event_timestamp", "created_timestamp")
_TIME = Codec("unix_timestamp_val", "timestamp with time zone", "timestamp with time zone")


def write_statements(config: RepoConfig, view: Any, rows: Sequence[Row]) -> list[Statement]:
    """Return the statements, one for each choice of features among the rows, that write them.

    Raises:
        DefinitionError: the view has no such feature or key, a key is null, or PostgreSQL can't hold a value.
    """
    if not rows:
        return []
    view = online_tables.with_keys(view, rows[0][0])
    keys = online_tables.key_types(view)
    return [_write_statement(config, view, keys, names, some) for names, some in _by_features(rows, keys)]


def _by_features(rows: Iterable[Row], keys: Mapping[str, Any]) -> list[tuple[list[str], list[Row]]]:
    """Group rows by the features they give; views on demand give their join keys among them."""
    groups: dict[frozenset[str], tuple[list[str], list[Row]]] = {}
    current: Any = None
    for row in rows:
        names = row[1].keys()
        if names != current:
            current = names
            _, group = groups.setdefault(frozenset(names), ([name for name in names if name not in keys], []))
        group.append(row)
    return list(groups.values())


def _write_statement(
    config: RepoConfig, view: Any, keys: Mapping[str, FeastType], features: Sequence[str], rows: Sequence[Row]
) -> Statement:
    types = online_tables.feature_types(view)
    for name in features:
        if name not in types:
            raise DefinitionError(f"view '{view.name}' has no feature '{name}'; features: {', '.join(types)}")
    codecs = {name: codec_of(kind) for name, kind in keys.items()}
    codecs |= dict.fromkeys(_TIMES, _TIME)
    codecs |= {name: codec_of(types[name]) for name in features}
    columns = {
        **_key_columns(view, codecs, list(keys), [row[0] for row in rows]),
        "event_timestamp": [_event(view, row[2]) for row in rows],
        "created_timestamp": [None if row[3] is None or is_missing(row[3]) else microseconds(row[3]) for row in rows],
    }
    values = [row[1] for row in rows]
    for name in features:
        columns[name] = codecs[name].sent([one[name] for one in values], _owner(view, name))
    parameters = [_array(view, name, codecs[name].sent_type, column) for name, column in columns.items()]
    table = online_tables.table_name(config, view)
    return _statement(table, tuple(keys), tuple(codecs.items()), config.online_store.force), parameters


def is_missing(instant: datetime | None) -> bool:
    """Tell whether a time is none: pandas, and Feast with it, has a NaT for that, which equals nothing."""
    return instant is None or instant != instant


def _event(view: Any, instant: Any) -> int:
    if is_missing(instant):
        raise DefinitionError(f"view '{view.name}': a row has no event time; leave such rows out")
    return microseconds(instant)


def _key_columns(
    view: Any, codecs: Mapping[str, Codec], names: Sequence[str], keys: Sequence[EntityKey]
) -> dict[str, list[Any]]:
    columns: list[list[Value]] = [[] for _ in names]
    order: list[str] = []
    for key in keys:
        if key.join_keys != order:
            order = list(key.join_keys)
            if set(order) != set(names):
                raise DefinitionError(f"view '{view.name}' has keys {', '.join(names)}; a row has {', '.join(order)}")
            positions = [order.index(name) for name in names]
        values = key.entity_values
        for column, position in zip(columns, positions, strict=True):
            column.append(values[position])
    sent = {}
    for name, column in zip(names, columns, strict=True):
        owner = f"view '{view.name}', join key '{name}'"
        sent[name] = codecs[name].sent(column, owner)
        if None in sent[name]:
            raise DefinitionError(f"{owner} is null in row {sent[name].index(None)} of the batch; leave such rows out")
    return sent


def _owner(view: Any, name: str) -> str:
    return f"view '{view.name}', feature '{name}'"


def _array(view: Any, name: str, kind: str, column: Sequence[Any]) -> pgarray.Array:
    try:
        return pgarray.array(kind, column)
    except (struct.error, OverflowError) as error:
        raise DefinitionError(f"{_owner(view, name)}: a value does not fit {kind}") from error


@lru_cache(maxsize=256)
def _statement(table: str, keys: tuple[str, ...], codecs: tuple[tuple[str, Codec], ...], force: bool) -> bytes:
    aliases = {name: f"c{index}" for index, (name, _) in enumerate(codecs)}
    values = {
        name: sql.SQL("{}::{}").format(sources.column(aliases[name], "r"), sql.SQL(codec.column_type))
        for name, codec in codecs
    }
    assigned = [name for name in values if name not in keys]
    overwrite = query("online", "overwrite").format(
        online=table_identifier(table),
        names=sources.commas(map(sql.Identifier, values)),
        values=sources.commas(values.values()),
        key_values=sources.commas(values[name] for name in keys),
        arrays=sources.commas(sql.SQL("%s::{}[]").format(sql.SQL(codec.sent_type)) for _, codec in codecs),
        aliases=sources.commas(map(sql.Identifier, aliases.values())),
        event=sources.column(aliases["event_timestamp"], "r"),
        created=sources.column(aliases["created_timestamp"], "r"),
        key=sources.commas(map(sql.Identifier, keys)),
        assigned=sources.commas(map(sql.Identifier, assigned)),
        assigned_values=sources.commas(sources.column(name, "excluded") for name in assigned),
    )
    write = overwrite if force else query("online", "write").format(overwrite=overwrite)
    return announced(write, table).as_bytes()
