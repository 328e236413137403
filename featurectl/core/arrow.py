"""Arrow straight out of PostgreSQL and into it, through ADBC, with its errors turned into ours."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

import psycopg
from psycopg import sql

from featurectl.core.db import Database, translate
from featurectl.core.redact import redact
from featurectl.errors import DatabaseError, DatabaseUnreachable, FeaturectlError

if TYPE_CHECKING:
    import pyarrow as pa


class Batches:
    """A query's result as it arrives. Read it before its connection closes."""

    def __init__(self, reader: pa.RecordBatchReader) -> None:
        self._reader = reader
        self.schema: pa.Schema = reader.schema

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        import pyarrow as pa

        batches = iter(self._reader)
        while True:
            try:
                batch = next(batches, None)
            except (pa.ArrowException, OSError) as error:
                raise DatabaseUnreachable(f"the database: {_reason(error)}; run the command again") from error
            if batch is None:
                return
            yield batch

    def table(self) -> pa.Table:
        """Return the whole result."""
        import pyarrow as pa

        return pa.Table.from_batches(list(self), self.schema)


class ArrowConnection:
    """An ADBC connection in autocommit mode. Temporary tables live as long as it does."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        # A cursor that goes away takes the stream it feeds with it.
        self._cursors: list[Any] = []

    def read(self, statement: sql.Composable) -> Batches:
        """Run a query and return its batches as they arrive."""
        cursor = self._connection.cursor()
        self._cursors.append(cursor)
        with translated_errors():
            cursor.execute(statement.as_string())
            return Batches(cursor.fetch_record_batch())

    def table(self, statement: sql.Composable) -> pa.Table:
        """Run a query and return the whole result."""
        return self.read(statement).table()

    def ingest(self, name: str, data: pa.Table) -> None:
        """Create a temporary table that holds ``data``, and let the planner know its size."""
        with translated_errors(), self._connection.cursor() as cursor:
            cursor.adbc_ingest(name, data, mode="create", temporary=True)
            cursor.execute(sql.SQL("ANALYZE {}").format(sql.Identifier(name)).as_string())

    def close(self) -> None:
        for cursor in self._cursors:
            cursor.close()
        self._connection.close()

    def save(self, name: str, data: pa.Table, *, mode: Literal["create", "replace"]) -> None:
        """Write ``data`` to an ordinary table, ``schema.table`` or ``table``."""
        schema, _, table = name.rpartition(".")
        with translated_errors(), self._connection.cursor() as cursor:
            cursor.adbc_ingest(table, data, mode=mode, db_schema_name=schema or None)


@contextlib.contextmanager
def connect(url: str) -> Iterator[ArrowConnection]:
    """Connect to ``url`` (see :meth:`Database.libpq_url`); close at the end."""
    import adbc_driver_postgresql.dbapi as adbc  # 0.1 s with pyarrow on top

    with translated_errors(connecting=True):
        connection = adbc.connect(url, autocommit=True)
        # PGTZ wins over what the URL says, and an interval of a day depends on the zone.
        with connection.cursor() as cursor:
            cursor.execute("SET timezone = 'UTC'")
    with contextlib.closing(ArrowConnection(connection)) as arrow_connection:
        yield arrow_connection


@contextlib.contextmanager
def open_arrow(database: Database) -> Iterator[ArrowConnection]:
    """Connect to a repository's database; whoever calls has read its catalog, and heard what is wrong with it."""
    with connect(database.libpq_url()) as connection:
        yield connection


@contextlib.contextmanager
def translated_errors(*, connecting: bool = False) -> Iterator[None]:
    """Turn ADBC's errors into this package's."""
    import adbc_driver_manager

    try:
        yield
    except adbc_driver_manager.Error as error:
        raise _translate(error, connecting) from error


def _reason(error: Any) -> str:
    """Return the server's own words in one line, without the driver's before them and the statement behind."""
    lines = str(error).splitlines()
    told = next((line.partition("ERROR:")[2] for line in lines if "ERROR:" in line), " ".join(lines))
    return redact(" ".join(told.split()))


def _translate(error: Any, connecting: bool) -> FeaturectlError:
    text = _reason(error)
    code = getattr(error, "sqlstate", None)
    if code:
        with contextlib.suppress(KeyError):
            return translate(psycopg.errors.lookup(code)(text))
    return DatabaseUnreachable(f"the database can't be reached: {text}") if connecting else DatabaseError(text)
