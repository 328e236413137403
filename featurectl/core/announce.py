"""Writes to online tables tell of themselves, so that rows kept elsewhere are not served any longer.

PostgreSQL lets one transaction with a NOTIFY commit at a time, on the whole server: eight writers at once lose half of
their speed by it, and more where commits are slow. So nothing is sent unless somebody listens, which a lock says.
"""

from __future__ import annotations

from psycopg import sql

from featurectl.core.db import Connection
from featurectl.core.queries import query


def announce(connection: Connection, table: str) -> None:
    """Tell, at the end of the transaction, that an online table was written to in it."""
    connection.execute(_announcement(table, sql.SQL("(SELECT)")))


def announced(write: sql.Composable, table: str) -> sql.Composed:
    """Return an INSERT into an online table as a statement that tells of itself."""
    announcement = _announcement(table, sql.SQL("(SELECT FROM written LIMIT 1)"))
    return query("online_cache", "announced").format(write=write, announce=announcement)


def _announcement(table: str, written: sql.Composable) -> sql.Composed:
    return query("online_cache", "announce").format(table=sql.Literal(table), written=written)
