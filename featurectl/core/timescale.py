"""Everything that speaks to TimescaleDB: what a database has of it, what it should have, and the way there."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from psycopg import sql

from featurectl.core.db import Connection
from featurectl.core.queries import query
from featurectl.core.schema import Change, quoted
from featurectl.core.storage import TimeTable
from featurectl.core.times import duration

# `create_hypertable` takes dimensions since the one, compression is called columnstore since the other.
OLDEST, COLUMNSTORE = (2, 13), (2, 18)
APACHE = "apache"
_PLAIN_NAME = re.compile(r"[a-z_][a-z0-9_]*")
_NULLS = re.compile(r"\s+nulls\s+(first|last)\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Extension:
    """TimescaleDB as this database has it: ``installed`` is its version, ``available`` what the server could create."""

    installed: str | None
    available: str | None
    license: str | None

    @property
    def has_hypertables(self) -> bool:
        return self._version >= OLDEST

    @property
    def has_policies(self) -> bool:
        """Whether jobs of its own drop old chunks."""
        return self.has_hypertables and self.license != APACHE

    @property
    def has_columnstore(self) -> bool:
        return self.has_policies and self._version >= COLUMNSTORE

    @property
    def _version(self) -> tuple[int, ...]:
        return tuple(int(part) for part in re.findall(r"\d+", self.installed or "")[:2])

    @property
    def notice(self) -> str | None:
        """What this extension can't do of what TimescaleDB can, and what to do about it; ``None`` where it can it all.

        There is nothing to say of a database without it.
        """
        if self.installed is None or self.has_columnstore:
            return None
        if not self.has_hypertables:
            return (
                f"TimescaleDB {self.installed} is too old: time tables stay ordinary tables, `featurectl maintain` "
                "deletes their old rows; upgrade it to 2.18 or later, then run `featurectl apply`"
            )
        if self.license == APACHE:
            return (
                f"TimescaleDB {self.installed} runs under the Apache licence: time tables are hypertables, nothing "
                "compresses them, and `featurectl maintain` drops old chunks; the community edition does both by itself"
            )
        return (
            f"TimescaleDB {self.installed} has no columnstore: hypertables are not compressed; upgrade it to 2.18 or "
            "later, then run `featurectl apply`"
        )


@dataclass(frozen=True, slots=True)
class Hypertable:
    """A hypertable as it is. The layout is that of compressed chunks; an age of ``None`` means that no policy is there.

    ``next_job`` is when the first of its policies runs next.
    """

    chunk_interval: timedelta
    segment_by: str = ""
    order_by: str = ""
    compress_after: timedelta | None = None
    drop_after: timedelta | None = None
    next_job: datetime | None = field(default=None, compare=False)


def inspect(connection: Connection) -> Extension:
    """Return what this database has of TimescaleDB."""
    installed = connection.execute(query("timescale", "extension")).fetchone()
    available = connection.execute(query("timescale", "available")).fetchone()
    license = connection.execute(query("timescale", "license")).fetchone() if installed else None
    return Extension(
        installed[0] if installed else None, available[0] if available else None, license[0] if license else None
    )


def allow_decompression(connection: Connection) -> None:
    """Let the transaction change as many rows of compressed chunks as it must: by default there is a limit."""
    connection.execute(query("timescale", "allow_decompression"))


def read_hypertables(connection: Connection, extension: Extension, names: Iterable[str]) -> dict[str, Hypertable]:
    """Return those of the tables that are hypertables, by name."""
    if not extension.has_hypertables:
        return {}
    spelled = {quoted(name): name for name in names}
    parameters = {"tables": list(spelled)}
    chunks = connection.execute(query("hypertables", "hypertables"), parameters).fetchall()
    settings = {}
    if extension.has_columnstore:
        rows = connection.execute(query("hypertables", "columnstore_settings"), parameters)
        settings = {name: (segment_by, order_by) for name, segment_by, order_by in rows}
    policies: dict[str, dict[str, timedelta]] = {}
    runs: dict[str, list[datetime]] = {}
    for name, procedure, seconds, next_start in connection.execute(query("hypertables", "policies"), parameters):
        policies.setdefault(name, {})[procedure] = timedelta(seconds=seconds)
        runs.setdefault(name, []).extend([next_start] if next_start else [])
    found = {}
    for name, seconds in chunks:
        segment_by, order_by = settings.get(name, (None, None))
        ages = policies.get(name, {})
        found[spelled[name]] = Hypertable(
            chunk_interval=timedelta(seconds=seconds),
            segment_by=normalized(segment_by),
            order_by=normalized(order_by),
            compress_after=ages.get("policy_compression"),
            drop_after=ages.get("policy_retention"),
            next_job=min(runs.get(name, []), default=None),
        )
    return found


def normalized(columns: str | None) -> str:
    """Return a list of columns such that two that mean the same are equal: no quotes, spaces or default null order."""
    words = _NULLS.sub(_null_order, (columns or "").replace('"', ""))
    return ", ".join(" ".join(column.split()).removesuffix(" ASC") for column in words.split(",") if column.strip())


def _null_order(match: re.Match[str]) -> str:
    """Leave out NULLS FIRST after DESC and NULLS LAST after anything else, which say what holds without them."""
    descends = match.string[: match.start()].rstrip().upper().endswith(" DESC")
    return "" if descends == (match[1].upper() == "FIRST") else f" NULLS {match[1].upper()}"


def storage_changes(tables: Iterable[TimeTable], found: Mapping[str, Hypertable], extension: Extension) -> list[Change]:
    """Return what turns the tables into hypertables with the life cycles they should have; nothing where they are."""
    if not extension.has_hypertables:
        return []
    return [change for table in tables for change in _table_changes(table, found.get(table.name), extension)]


def _table_changes(table: TimeTable, found: Hypertable | None, extension: Extension) -> Iterator[Change]:
    if found is None:
        yield Change(
            f"make {table.name} a hypertable in chunks of {duration(table.chunk_interval)}",
            _statement("create_hypertable", table, time=sql.Literal(table.time), interval=table.chunk_interval),
        )
        found = Hypertable(table.chunk_interval)
    if found.chunk_interval != table.chunk_interval:
        yield Change(
            f"new chunks of {table.name} span {duration(table.chunk_interval)}, not {duration(found.chunk_interval)}",
            _statement("set_chunk_interval", table, interval=table.chunk_interval),
        )
    if extension.has_columnstore:
        yield from _compression_changes(table, found)
    if extension.has_policies:
        yield from _policy_changes(_RETENTION, table, table.drop_after, found.drop_after)


def _compression_changes(table: TimeTable, found: Hypertable) -> Iterator[Change]:
    segment_by, order_by = layout(table)
    if table.compress_after and (normalized(segment_by), normalized(order_by)) != (found.segment_by, found.order_by):
        yield Change(
            f"lay {table.name} out by {segment_by}, then {order_by}, where it is compressed",
            _statement("enable_columnstore", table, segment_by=sql.Literal(segment_by), order_by=sql.Literal(order_by)),
        )
    yield from _policy_changes(_COMPRESSION, table, table.compress_after, found.compress_after)


# What each kind of policy does, and the queries that add and remove one.
_COMPRESSION = ("compress chunks of", "add_columnstore_policy", "remove_columnstore_policy")
_RETENTION = ("drop chunks of", "add_retention_policy", "remove_retention_policy")


def _policy_changes(
    kind: tuple[str, str, str], table: TimeTable, wanted: timedelta | None, found: timedelta | None
) -> Iterator[Change]:
    """Return what brings one policy of a table to the wanted age.

    Each statement is a change of its own: several in one would be one transaction, which a procedure can't end.
    """
    does, add, remove = kind
    if wanted == found:
        return
    if found is not None:
        yield Change(f"{does} {table.name} no more after {duration(found)}", _statement(remove, table))
    if wanted is not None:
        yield Change(f"{does} {table.name} after {duration(wanted)}", _statement(add, table, interval=wanted))


def layout(table: TimeTable) -> tuple[str, str]:
    """Return by which columns compressed rows of a table are kept together, and how they are sorted in there."""
    order = [f"{_column(table.time)} DESC", *map(_column, table.rest)]
    return ", ".join(map(_column, table.keys)), ", ".join(order)


def _column(name: str) -> str:
    return name if _PLAIN_NAME.fullmatch(name) else sql.Identifier(name).as_string()


def _statement(name: str, table: TimeTable, **parts: sql.Composable | timedelta) -> str:
    literals = {
        key: sql.Literal(interval(part)) if isinstance(part, timedelta) else part for key, part in parts.items()
    }
    place = table.identifier if name == "enable_columnstore" else sql.Literal(quoted(table.name))
    text = query("hypertables", name).format(table=place, **literals).as_string()
    return text.partition("\n")[2]


def interval(span: timedelta) -> str:
    """Return a span as PostgreSQL reads it, in days where it can be."""
    if span % timedelta(days=1):
        return f"{span // timedelta(minutes=1)} minutes"
    return f"{span // timedelta(days=1)} days"


def old_chunks(connection: Connection, table: TimeTable, before: datetime, *, drop: bool) -> int:
    """Count, or drop and count, the chunks of a hypertable all of whose rows are before an instant."""
    statement = query("hypertables", "drop_chunks" if drop else "old_chunks")
    parts = {"table": sql.Literal(quoted(table.name)), "instant": sql.Literal(before)}
    return len(connection.execute(statement.format(**parts)).fetchall())


@dataclass(frozen=True, slots=True)
class Chunk:
    """A part of a hypertable: its times are from ``start``, included, to ``end``."""

    start: datetime
    end: datetime
    compressed: bool


def read_chunks(connection: Connection, name: str) -> list[Chunk]:
    """Return the chunks of a hypertable, oldest first."""
    return [Chunk(*row) for row in connection.execute(query("hypertables", "chunks"), {"table": quoted(name)})]


def size(connection: Connection, name: str) -> int:
    """Return the bytes a hypertable takes on disk, indexes included."""
    row = connection.execute(query("hypertables", "size"), {"table": quoted(name)}).fetchone()
    return int(row[0]) if row and row[0] else 0


def compressed_sizes(connection: Connection, name: str) -> tuple[int | None, int | None]:
    """Return the bytes that a hypertable's compressed chunks took before, and those they take."""
    row = connection.execute(query("hypertables", "compressed_sizes"), {"table": quoted(name)}).fetchone()
    return (row[0], row[1]) if row else (None, None)
