"""Retention where no policy of TimescaleDB does it: rows deleted in small transactions, chunks dropped."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial

from psycopg import sql

from featurectl.core import timescale
from featurectl.core.db import Connection
from featurectl.core.locks import REFUSE, Locking, lock
from featurectl.core.queries import query
from featurectl.core.storage import TimeTable, rows_statement
from featurectl.core.timescale import Hypertable

# Rows of one transaction: an interrupted run has done all but the last of them, and nobody waits long for its locks.
BATCH_ROWS = 10_000


@dataclass(frozen=True, slots=True)
class Maintained:
    """What retention did to a table, or would do: rows deleted from a table, or whole chunks of a hypertable dropped.

    ``by_policy`` says that TimescaleDB's own job does it, and nothing was done here.
    """

    table: str
    mode: str
    drop_after: timedelta
    older_than: datetime
    rows: int = 0
    chunks: int = 0
    by_policy: bool = False


def maintain(
    connection: Connection,
    tables: Iterable[TimeTable],
    *,
    now: datetime,
    dry_run: bool = False,
    batch_rows: int = BATCH_ROWS,
    on_rows: Callable[[int, str, int], None] = lambda index, table, rows: None,
    locking: Locking = REFUSE,
) -> list[Maintained]:
    """Delete what is older than its table's ``drop_after``; a dry run only counts it.

    Each batch is a transaction. ``on_rows`` gets the place of the table, its name, and the rows deleted so far.

    Raises:
        LockHeld, Skipped: another run is at it.
    """
    limited = [table for table in tables if table.drop_after]
    extension = timescale.inspect(connection)
    with lock(connection, "maintain", locking):
        hypertables = timescale.read_hypertables(connection, extension, [table.name for table in limited])
        results = []
        for index, table in enumerate(limited):
            report = partial(on_rows, index, table.name)
            report(0)
            if hypertable := hypertables.get(table.name):
                results.append(_drop_chunks(connection, table, hypertable, now, dry_run))
            else:
                results.append(_delete_rows(connection, table, now, 0 if dry_run else batch_rows, report))
        return results


def _drop_chunks(
    connection: Connection, table: TimeTable, hypertable: Hypertable, now: datetime, dry_run: bool
) -> Maintained:
    life, before = limit(table, now)
    if hypertable.drop_after is not None:
        return Maintained(table.name, "hypertable", life, before, by_policy=True)
    chunks = timescale.old_chunks(connection, table, before, drop=not dry_run)
    return Maintained(table.name, "hypertable", life, before, chunks=chunks)


def _delete_rows(
    connection: Connection, table: TimeTable, now: datetime, batch_rows: int, report: Callable[[int], None]
) -> Maintained:
    """Delete a table's old rows in batches; a batch of none only counts them."""
    life, before = limit(table, now)
    if not batch_rows:
        return Maintained(table.name, "table", life, before, rows=count_old(connection, table, before))
    statement = rows_statement("delete_old", table, instant=sql.Literal(before), rows=sql.Literal(batch_rows))
    rows, deleted = 0, batch_rows
    while deleted == batch_rows:
        deleted = connection.execute(statement).rowcount
        rows += deleted
        report(rows)
    return Maintained(table.name, "table", life, before, rows=rows)


def limit(table: TimeTable, now: datetime) -> tuple[timedelta, datetime]:
    """Return how long rows of a table stay, and the instant before which they are too old."""
    assert table.drop_after is not None
    return table.drop_after, now - table.drop_after


def count_old(connection: Connection, table: TimeTable, before: datetime) -> int:
    """Count the rows of a table that are before an instant."""
    row = connection.execute(rows_statement("count_old", table, instant=sql.Literal(before))).fetchone()
    assert row is not None
    return int(row[0])


# What a ledger keeps of the past, and which of its rows are old.
_LEDGERS = {
    "featurectl.runs": "delete_old_runs",
    "featurectl.backfills": "delete_old_backfills",
    "featurectl.materializations": "delete_old_materializations",
}


def forget_runs(
    connection: Connection, project: str, keep: timedelta, *, now: datetime, dry_run: bool = False
) -> list[Maintained]:
    """Delete what the ledgers have of runs that ended longer ago than ``keep``; a dry run only counts it.

    Backfills that were not finished stay, and the newest materialization of each view.
    """
    results = []
    for table, name in _LEDGERS.items():
        with connection.transaction(force_rollback=dry_run):
            rows = connection.execute(query("runs", name), {"project": project, "before": now - keep}).rowcount
        results.append(Maintained(table, "table", keep, now - keep, rows=rows))
    return results
