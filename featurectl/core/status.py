"""What `featurectl status` shows: how fresh features are, what ran last, and who holds locks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from featurectl.core.catalog import Catalog
from featurectl.core.db import Connection
from featurectl.core.freshness import FreshnessReport, read_freshness
from featurectl.core.locks import Held, has_ledger, held_locks, name_of_computation, name_of_repository, name_of_view
from featurectl.core.queries import query
from featurectl.core.runs import ledger
from featurectl.core.runs.ledger import Record


@dataclass(frozen=True, slots=True)
class LastRun:
    """The newest run of a command, and when the command last did all of its work."""

    newest: Record
    last_success: datetime | None


@dataclass(frozen=True, slots=True)
class Status:
    """One look at a repository, as of ``now``."""

    now: datetime
    freshness: FreshnessReport
    runs: Sequence[LastRun]
    locks: Sequence[Held]


def read_status(
    connection: Connection,
    catalog: Catalog,
    *,
    now: datetime,
    views: Sequence[str] = (),
    symbols: Sequence[str] = (),
) -> Status:
    """Look at a repository; it changes nothing, and needs no more rights than to read.

    Raises:
        NotFound, UsageError: see :func:`featurectl.core.freshness.read_freshness`.
    """
    return Status(
        now,
        read_freshness(connection, catalog, now=now, views=views, symbols=symbols),
        _last_runs(connection, catalog.project) if has_ledger(connection) else [],
        held_locks(connection, lock_names(catalog)),
    )


def _last_runs(connection: Connection, project: str) -> list[LastRun]:
    commands = [command for (command,) in connection.execute(query("runs", "commands_run"), {"project": project})]
    newest = [ledger.newest_of(connection, project, command) for command in commands]
    return [LastRun(one, ledger.last_success(connection, project, one.command)) for one in newest if one]


def lock_names(catalog: Catalog) -> list[str]:
    """Return the names of all locks that work on a repository takes."""
    computed = {name_of_computation(view.source_table or "") for view in catalog.views if view.functions_file}
    online = {name_of_view(catalog.project, view.name) for view in catalog.views if view.online}
    return [name_of_repository(catalog.project), f"apply {catalog.project}", "maintain", *sorted(computed | online)]
