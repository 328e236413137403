"""Spines: the entities and instants a training set is wanted for, a table that is here or a query of the database."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import count
from typing import TYPE_CHECKING, Protocol

from psycopg import sql

from featurectl.core import arrow_types, sources
from featurectl.core.arrow import ArrowConnection
from featurectl.core.offline import AT, ROW, Relation, readable
from featurectl.core.queries import query

if TYPE_CHECKING:
    import pyarrow as pa

SPINE = "featurectl_spine"


@dataclass(frozen=True, slots=True)
class Chunk:
    """Consecutive rows of a spine: what of them belongs to the result, their instants, and their keys."""

    output: pa.Table
    at: pa.ChunkedArray
    keys: pa.Table


@dataclass(frozen=True, slots=True)
class Extent:
    """How many rows a spine has, and its first and last instants; ``None`` where it has none."""

    rows: int
    first: datetime | None
    last: datetime | None


class Spine(Protocol):
    """The entities and instants a training set is wanted for."""

    def types(self, connection: ArrowConnection) -> dict[str, str]: ...

    def relation(self, connection: ArrowConnection) -> Relation: ...

    def inline(self, connection: ArrowConnection) -> Relation: ...

    def extent(self, connection: ArrowConnection) -> Extent: ...

    def output(self, connection: ArrowConnection) -> pa.Schema: ...

    def chunks(self, connection: ArrowConnection, keys: Sequence[str], rows: int) -> Iterator[Chunk]: ...


class TableSpine:
    """A spine that is an Arrow table here; ``output`` goes into the result as it is."""

    def __init__(self, output: pa.Table, at: pa.ChunkedArray, keys: pa.Table) -> None:
        self.table = output.replace_schema_metadata(None)
        self.at = at
        self.keys = keys

    def types(self, connection: ArrowConnection) -> dict[str, str]:
        return {field.name: arrow_types.column_type(field.type, owner=field.name) for field in self.keys.schema}

    def relation(self, connection: ArrowConnection) -> Relation:
        """Upload keys and instants; the result's other columns are here already."""
        import pyarrow as pa

        numbers = pa.array(range(len(self.at)), pa.int64())
        upload = self.keys.append_column(AT, self.at).append_column(ROW, numbers)
        connection.ingest(SPINE, upload, keep=False)
        return Relation(sql.Identifier(SPINE), self.types(connection))

    def inline(self, connection: ArrowConnection) -> Relation:
        """Return the rows themselves as SQL."""
        import pyarrow as pa

        table = self.table
        for name in self.keys.column_names:
            if name not in table.column_names:
                table = table.append_column(name, self.keys.column(name))
        numbers = pa.array(range(table.num_rows), pa.int64())
        table = table.append_column(AT, self.at).append_column(ROW, numbers)
        output = tuple((name, None) for name in self.table.column_names)
        return Relation(_values(arrow_types.writable(table)), self.types(connection), output)

    def extent(self, connection: ArrowConnection) -> Extent:
        import pyarrow.compute as pc

        span = pc.min_max(self.at).as_py()
        return Extent(len(self.at), span["min"], span["max"])

    def output(self, connection: ArrowConnection) -> pa.Schema:
        return self.table.schema

    def chunks(self, connection: ArrowConnection, keys: Sequence[str], rows: int) -> Iterator[Chunk]:
        for start in range(0, len(self.at), rows):
            part = arrow_types.writable(self.keys.select(list(keys)).slice(start, rows))
            yield Chunk(self.table.slice(start, rows), self.at.slice(start, rows), part)


class QuerySpine:
    """A spine that a query of the user's gives; it runs once, into a temporary table that keeps its order."""

    def __init__(self, text: str, event_column: str, types: dict[str, str], *, embed: bool = False) -> None:
        self._text = text
        self._event = event_column
        self._types = types
        self.embed = embed

    @property
    def columns(self) -> list[str]:
        return list(self._types)

    def types(self, connection: ArrowConnection) -> dict[str, str]:
        return self._types

    def relation(self, connection: ArrowConnection) -> Relation:
        inline = self.inline(connection)
        return inline if self.embed else Relation(sql.Identifier(SPINE), inline.types, inline.output)

    def inline(self, connection: ArrowConnection) -> Relation:
        event = sources.epoch(sources.column(self._event, "q"), self._types[self._event])
        source = query("offline", "spine_of_query").format(
            row=sql.Identifier(ROW), at=sql.Identifier(AT), event=event, query=sources.subquery(self._text)
        )
        output = tuple((name, arrow_types.read_as(kind)) for name, kind in self._types.items())
        return Relation(source, self._types, output)

    def extent(self, connection: ArrowConnection) -> Extent:
        """Run the query and look at its rows; an embedded one is not run twice."""
        if self.embed:
            return Extent(0, None, None)
        name = sql.Identifier(SPINE)
        create = sql.SQL("CREATE TEMPORARY TABLE {} ON COMMIT DROP AS SELECT * FROM {} AS spine")
        connection.execute(create.format(name, self.inline(connection).source))
        connection.execute(sql.SQL("ANALYZE {}").format(name))
        return self._extent_of(connection, name)

    def summary(self, connection: ArrowConnection) -> Extent:
        """Return the extent alone."""
        return self._extent_of(connection, self.inline(connection).source)

    def _extent_of(self, connection: ArrowConnection, spine: sql.Composable) -> Extent:
        statement = query("offline", "extent_of_spine").format(spine=spine, at=sql.Identifier(AT))
        (row,) = connection.table(statement).to_pylist()
        return Extent(row["rows"], row["first"], row["last"])

    def output(self, connection: ArrowConnection) -> pa.Schema:
        inline = self.inline(connection)
        statement = sql.SQL("SELECT {} FROM {} AS spine").format(self._columns(inline.output), inline.source)
        return arrow_types.without_notes(connection.schema(statement))

    def chunks(self, connection: ArrowConnection, keys: Sequence[str], rows: int) -> Iterator[Chunk]:
        output = self.inline(connection).output
        for start in count(0, rows):
            chunk = self._chunk(connection, output, keys, start, start + rows)
            if not len(chunk.at):
                return
            yield chunk
            del chunk

    def _chunk(
        self,
        connection: ArrowConnection,
        output: Sequence[tuple[str, str | None]],
        keys: Sequence[str],
        start: int,
        end: int,
    ) -> Chunk:
        part = connection.table(
            query("offline", "rows_of_spine").format(
                columns=self._columns([*output, (AT, None)]),
                spine=sql.Identifier(SPINE),
                row=sources.column(ROW, "spine"),
                start=sql.Literal(start),
                end=sql.Literal(end),
            )
        )
        named = part.select([name for name, _ in output])
        return Chunk(named, part.column(AT), arrow_types.writable(named.select(list(keys))))

    def _columns(self, output: Sequence[tuple[str, str | None]]) -> sql.Composable:
        return sources.commas(readable(sources.column(name, "spine"), name, kind) for name, kind in output)


def _values(table: pa.Table) -> sql.Composable:
    """Return a table's rows as a subquery; a table without rows has its columns all the same."""
    types = [arrow_types.column_type(field.type, owner=field.name) for field in table.schema]
    names = sources.commas(map(sql.Identifier, table.column_names))
    if not table.num_rows:
        nulls = sources.commas(sql.SQL("NULL::{}").format(sql.SQL(kind)) for kind in types)
        return sql.SQL("(SELECT * FROM (VALUES ({})) AS v({}) WHERE false)").format(nulls, names)
    rows = zip(*(column.to_pylist() for column in table.columns), strict=True)
    listed = sources.commas(
        sql.SQL("({})").format(
            sources.commas(
                sql.SQL("{}::{}").format(sql.Literal(value), sql.SQL(kind))
                for value, kind in zip(row, types, strict=True)
            )
        )
        for row in rows
    )
    return sql.SQL("(SELECT * FROM (VALUES {}) AS v({}))").format(listed, names)
