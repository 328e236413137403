"""The time tables and their life cycle: what ``feature_store.yaml`` says, and defaults that fit the grain."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from psycopg import sql

from featurectl.core.catalog import Catalog
from featurectl.core.config import FILE_NAME, Config
from featurectl.core.queries import query
from featurectl.core.schema import table_identifier
from featurectl.core.sources import column, conjunction, key_walk
from featurectl.core.times import duration, parse_duration
from featurectl.errors import ConfigError, InvalidTime

NEVER = "never"
KEYS = ("chunk_interval", "compress_after", "drop_after")
_SHORTEST, _LONGEST = timedelta(hours=1), timedelta(days=36500)


@dataclass(frozen=True, slots=True)
class TimeTable:
    """A table whose rows are of instants; its primary key is ``keys``, ``time`` and then ``rest``.

    Rows stay for ``drop_after`` and are compressed after ``compress_after``; ``None`` is never.
    """

    name: str
    keys: tuple[str, ...]
    time: str
    chunk_interval: timedelta
    compress_after: timedelta | None
    drop_after: timedelta | None = None
    rest: tuple[str, ...] = ()

    @property
    def identifier(self) -> sql.Identifier:
        return table_identifier(self.name)


_DAY = timedelta(days=1)
MARKET_TABLES = (
    TimeTable("market.candles", ("symbol", "timeframe"), "open_time", 30 * _DAY, 30 * _DAY),
    TimeTable("market.order_book", ("symbol",), "time", _DAY, 2 * _DAY),
    TimeTable("market.trades", ("symbol",), "time", _DAY, 2 * _DAY, rest=("trade_id",)),
    TimeTable("market.signals", ("symbol", "name"), "time", 90 * _DAY, 90 * _DAY),
)
# Chunk interval and age of compression, by what a view is computed from; a SQL view has no rows of its own.
_FEATURES = {"candles": (30 * _DAY, 30 * _DAY), "ticks": (7 * _DAY, 7 * _DAY), "signals": (90 * _DAY, 90 * _DAY)}


def time_tables(config: Config, catalog: Catalog) -> list[TimeTable]:
    """Return every time table with the life cycle it should have, tables of the market first.

    Raises:
        ConfigError: the settings name something that does not exist, or contradict themselves.
    """
    tables = {table.name: table for table in (*MARKET_TABLES, *_feature_tables(catalog))}
    place = f"{config.root / FILE_NAME}: featurectl.storage"
    for name in config.storage:
        if name not in tables:
            raise ConfigError(f"{place} names table '{name}', which is no time table; tables: {', '.join(tables)}")
    return [_configured(table, config.storage.get(table.name), f"{place}.{table.name}") for table in tables.values()]


def lifetimes(config: Config, catalog: Catalog) -> dict[str, timedelta]:
    """Return how long the rows of tables stay, of those from which any are dropped.

    Raises:
        ConfigError: as :func:`time_tables`.
    """
    return {table.name: table.drop_after for table in time_tables(config, catalog) if table.drop_after}


def _feature_tables(catalog: Catalog) -> Iterator[TimeTable]:
    for view in catalog.views:
        if view.source_table and view.computed_from in _FEATURES:
            yield TimeTable(view.source_table, view.join_keys, view.timestamp_column, *_FEATURES[view.computed_from])


def _configured(table: TimeTable, settings: Any, place: str) -> TimeTable:
    if settings is None:
        return table
    if not isinstance(settings, Mapping):
        raise ConfigError(f"{place} must be a mapping with some of {', '.join(KEYS)}")
    given = {str(name): _span(value, name, place) for name, value in settings.items()}
    _refuse_contradictions(given, place)
    drop_after = given.get("drop_after")
    # Defaults give way to a short life: whole chunks are dropped, and what is dropped first is not compressed.
    life = drop_after or _LONGEST
    compress_after = table.compress_after if table.compress_after and table.compress_after < life else None
    return replace(
        table,
        chunk_interval=given.get("chunk_interval") or min(table.chunk_interval, life),
        compress_after=given.get("compress_after", compress_after),
        drop_after=drop_after,
    )


def _refuse_contradictions(given: Mapping[str, timedelta | None], place: str) -> None:
    compress_after, chunk_interval, drop_after = (
        given.get(name) for name in ("compress_after", "chunk_interval", "drop_after")
    )
    if drop_after and compress_after and compress_after >= drop_after:
        raise ConfigError(
            f"{place}: rows would be dropped after {duration(drop_after)} and compressed after "
            f"{duration(compress_after)}; make compress_after shorter, or {NEVER}"
        )
    if drop_after and chunk_interval and chunk_interval > drop_after:
        raise ConfigError(
            f"{place}: rows would be dropped after {duration(drop_after)}, in chunks of {duration(chunk_interval)}; "
            "make chunk_interval as short as drop_after or shorter"
        )


def _span(value: Any, name: Any, place: str) -> timedelta | None:
    if name not in KEYS:
        raise ConfigError(f"{place} has no setting '{name}'; settings: {', '.join(KEYS)}")
    choices = "such as 12h, 7d, 2w or 2y" + ("" if name == "chunk_interval" else f", or {NEVER}")
    if value == NEVER and name != "chunk_interval":
        return None
    try:
        span = parse_duration(value if isinstance(value, str) else "")
    except InvalidTime:
        raise ConfigError(f"{place}.{name} is not {value!r}; write a duration {choices}") from None
    if not _SHORTEST <= span <= _LONGEST:
        raise ConfigError(f"{place}.{name} is {value}; write at least 1h and at most 100y")
    return span


def rows_statement(
    name: str, table: TimeTable, *, part: tuple[sql.Composable, ...] = (), **parts: sql.Composable
) -> sql.Composed:
    """Return a query of storage.sql that walks from entity to entity of a table and looks at the rows of each.

    ``part`` are conditions on the rows ``s`` that choose part of the table, such as one chunk.
    """
    same_entity = (sql.SQL("{} = {}").format(column(key), column(key, "entities")) for key in table.keys)
    return query("storage", name).format(
        table=table.identifier,
        time=column(table.time),
        entities=key_walk(table.identifier, table.keys, *part),
        rows_of_entity=conjunction([*same_entity, *part]),
        **parts,
    )
