"""Arrow straight out of PostgreSQL and into it, through ADBC, with its errors turned into ours."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import sql

from featurectl.core import arrow_types
from featurectl.core.db import Database, translate
from featurectl.core.redact import redact
from featurectl.core.threads import interruptible
from featurectl.errors import DatabaseError, DatabaseUnreachable, FeaturectlError, StatementTimeout

if TYPE_CHECKING:
    import pyarrow as pa


class Batches:
    """A query's result as it arrives. Read it before its connection closes."""

    def __init__(self, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> None:
        self.schema = schema
        self._batches = batches

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        return iter(self._batches)

    def table(self) -> pa.Table:
        """Return the whole result."""
        import pyarrow as pa

        return pa.Table.from_batches(list(self), self.schema)


class ArrowConnection:
    """An ADBC connection in autocommit mode. Temporary tables live as long as it does, or as its transaction."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        # A cursor that goes away takes the stream it feeds with it.
        self._cursors: list[Any] = []

    def read(self, statement: sql.Composable) -> Batches:
        """Run a query and return its batches as they arrive, without PostgreSQL's notes on the columns."""
        cursor = self._connection.cursor()
        self._cursors.append(cursor)
        with translated_errors():
            cursor.execute(statement.as_string())
            reader = cursor.fetch_record_batch()
        schema = arrow_types.without_notes(reader.schema)
        return Batches(schema, _arriving(reader, schema))

    def table(self, statement: sql.Composable) -> pa.Table:
        """Run a query and return the whole result."""
        return self.read(statement).table()

    def schema(self, statement: sql.Composable) -> pa.Schema:
        """Return the columns of a query without running it, with PostgreSQL's names of their types as metadata."""
        with translated_errors(), self._connection.cursor() as cursor:
            return cursor.adbc_execute_schema(statement.as_string())

    def plan(self, statement: sql.Composable) -> dict[str, Any]:
        """Return the planner's plan of a query."""
        import json

        with translated_errors(), self._connection.cursor() as cursor:
            # COPY, by which all else comes, takes no EXPLAIN.
            cursor.adbc_statement.set_options(**{"adbc.postgresql.use_copy": "false"})
            cursor.execute(sql.SQL("EXPLAIN (FORMAT JSON) {}").format(statement).as_string())
            plan: dict[str, Any] = json.loads(cursor.fetchone()[0])[0]["Plan"]
        return plan

    def execute(self, statement: sql.Composable) -> int:
        """Run a statement that returns nothing; return how many rows it changed, -1 where the server does not say."""
        with translated_errors(), self._connection.cursor() as cursor:
            cursor.execute(statement.as_string())
            return int(cursor.rowcount)

    def ingest(self, name: str, data: pa.Table | Batches, *, keep: bool = True) -> None:
        """Create a temporary table that holds ``data``, and let the planner know its size.

        Without ``keep`` it goes with the transaction.
        """
        self.execute(arrow_types.create_temporary(name, data.schema, keep=keep))
        self.copy(data, name, temporary=True)
        self.execute(sql.SQL("ANALYZE {}").format(sql.Identifier(name)))

    def copy(self, data: pa.Table | Batches, table: str, *, schema: str | None = None, temporary: bool = False) -> None:
        """Append ``data`` to a table whose columns have the types of :func:`arrow_types.stored`."""
        rows = arrow_types.writable_batches(data) if isinstance(data, Batches) else arrow_types.writable(data)
        with translated_errors(), self._connection.cursor() as cursor:
            cursor.adbc_ingest(table, rows, mode="append", temporary=temporary, db_schema_name=schema)

    @contextlib.contextmanager
    def transaction(self, *, timeout: float | None = None) -> Iterator[None]:
        """Run what is inside in one transaction, over one snapshot; ``timeout`` is in seconds, for each statement."""
        import adbc_driver_manager

        with translated_errors():
            self._connection.adbc_connection.set_autocommit(False)
        try:
            self.execute(sql.SQL("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
            if timeout:
                limit = sql.Literal(max(1, round(timeout * 1000)))
                self.execute(sql.SQL("SET LOCAL statement_timeout = {}").format(limit))
            yield
            self._close_cursors()
            with translated_errors():
                self._connection.commit()
        finally:
            # Nothing of this matters any more where the connection is lost, or left in the middle of a stream.
            with contextlib.suppress(adbc_driver_manager.Error):
                self._close_cursors()
                self._connection.rollback()
                self._connection.adbc_connection.set_autocommit(True)

    def _close_cursors(self) -> None:
        while self._cursors:
            self._cursors.pop().close()

    def cancel(self) -> None:
        """Have the server stop what this connection runs; from another thread."""
        import adbc_driver_manager

        # A server that can't be reached runs nothing for us.
        with contextlib.suppress(adbc_driver_manager.Error):
            self._connection.adbc_cancel()

    def close(self) -> None:
        self._close_cursors()
        self._connection.close()


def _arriving(reader: pa.RecordBatchReader, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    import pyarrow as pa

    batches = iter(reader)
    while True:
        try:
            batch = next(batches, None)
        except (pa.ArrowException, OSError) as error:
            raise _broken(error) from error
        if batch is None:
            return
        yield pa.RecordBatch.from_arrays(batch.columns, schema=schema)


@contextlib.contextmanager
def connect(url: str) -> Iterator[ArrowConnection]:
    """Connect to ``url`` (see :meth:`Database.libpq_url`); close at the end."""
    import adbc_driver_postgresql.dbapi as adbc  # 0.1 s with pyarrow on top

    with translated_errors(connecting=True):
        connection = adbc.connect(url, autocommit=True)
    with contextlib.closing(ArrowConnection(connection)) as arrow_connection, interruptible(arrow_connection.cancel):
        # PGTZ wins over what the URL says, and an interval of a day depends on the zone.
        arrow_connection.execute(sql.SQL("SET timezone = 'UTC'"))
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


def _broken(error: Any) -> FeaturectlError:
    """Return what ended a stream: a statement that failed half-way, or a connection that was lost."""
    text = str(error)
    if "statement timeout" in text:
        return StatementTimeout(f"{_reason(error)}; give it more time")
    if "ERROR:" in text:
        return DatabaseError(f"the database refused: {_reason(error)}")
    return DatabaseUnreachable(f"the database: {_reason(error)}; run the command again")


def _translate(error: Any, connecting: bool) -> FeaturectlError:
    text = _reason(error)
    code = getattr(error, "sqlstate", None)
    if code:
        with contextlib.suppress(KeyError):
            return translate(psycopg.errors.lookup(code)(text))
    return DatabaseUnreachable(f"the database can't be reached: {text}") if connecting else DatabaseError(text)
