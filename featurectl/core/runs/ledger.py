"""featurectl.runs: what ran, when, with what arguments, and what became of it; also of what was killed."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg import sql

from featurectl.core.db import Connection
from featurectl.core.queries import query
from featurectl.core.redact import redact
from featurectl.core.runs.settings import COUNTS, RunSettings, Step
from featurectl.core.times import Window
from featurectl.errors import NotFound, UsageError
from featurectl.version import __version__

RUNNING, INTERRUPTED = "running", "interrupted"
# Of so many steps a run keeps what each did; of more, only those that failed.
MANY_STEPS = 200


@dataclass(frozen=True, slots=True)
class Record:
    """A run as the ledger has it; one that was killed is ``interrupted``. Times are UTC, ``seconds`` its duration."""

    run_id: str
    project: str
    command: str
    arguments: Sequence[str]
    version: str
    config_hash: str
    catalog_hash: str | None
    window_start: datetime | None
    window_end: datetime | None
    started_at: datetime
    finished_at: datetime | None
    seconds: float | None
    verdict: str
    exit_code: int | None
    rows_read: int
    rows_written: int
    rows_unchanged: int
    rows_older: int
    rows_rejected: int
    steps: Sequence[dict[str, Any]]
    error: str | None
    host: str
    pid: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended: its verdict, its exit code, and its error in one line."""

    verdict: str
    exit_code: int
    error: str | None = None


def begin(connection: Connection, project: str, settings: RunSettings, config_hash: str, *, now: datetime) -> None:
    """Note that a run has begun; runs that were killed before are told so."""
    connection.execute(_with_locks("close_killed"), {"project": project})
    connection.execute(
        query("runs", "begin_run"),
        {
            "run_id": settings.run_id,
            "project": project,
            "command": settings.command,
            "arguments": json.dumps([redact(word) for word in settings.arguments]),
            "version": __version__,
            "config_hash": config_hash,
            "started_at": now,
            "host": socket.gethostname(),
            "pid": os.getpid(),
        },
    )


def finish(
    connection: Connection,
    run_id: str,
    outcome: Outcome,
    steps: Sequence[Step],
    *,
    catalog_hash: str | None,
    window: Window,
    seconds: float,
    now: datetime,
) -> None:
    """Note how a run ended, and what it did."""
    shown = steps if len(steps) <= MANY_STEPS else [step for step in steps if step.error][:MANY_STEPS]
    connection.execute(
        query("runs", "finish_run"),
        {
            "run_id": run_id,
            "verdict": outcome.verdict,
            "exit_code": outcome.exit_code,
            "error": outcome.error and _storable(outcome.error),
            "catalog_hash": catalog_hash,
            "window_start": window.start,
            "window_end": window.end,
            "finished_at": now,
            "seconds": seconds,
            "steps": json.dumps([_without_secrets(step.as_dict()) for step in shown]),
            **{f"rows_{name}": sum(getattr(step, name) for step in steps) for name in COUNTS},
        },
    )


def _without_secrets(document: Mapping[str, Any]) -> dict[str, Any]:
    """Mask the secrets in a document's texts: in its JSON they are spelled otherwise, and a mask could break that."""
    return {name: _storable(value) if isinstance(value, str) else value for name, value in document.items()}


def _storable(text: str) -> str:
    """Return a text without secrets, and without the one character that PostgreSQL's texts don't hold."""
    return redact(text).replace("\0", r"\x00")


def list_runs(
    connection: Connection,
    project: str,
    *,
    since: datetime | None = None,
    failed: bool = False,
    limit: int | None = None,
    command: str | None = None,
) -> list[Record]:
    """Return runs, the newest first: those that began at ``since`` or later; only those that did not do their work.

    A run that says it is running and holds no lock was killed.
    """
    parameters = {"project": project, "since": since, "failed": failed, "limit": limit, "command": command}
    return [Record(*row) for row in connection.execute(_with_locks("list_runs"), parameters)]


def _with_locks(name: str) -> sql.Composed:
    return query("runs", name).format(runs_at_work=query("runs", "runs_at_work"))


def find_run(connection: Connection, project: str, name: str) -> Record:
    """Return the run of an id, of the beginning or end of one, or the ``last``.

    Raises:
        NotFound: there is none.
        UsageError: there are several.
    """
    rows = list_runs(connection, project, limit=1 if name == "last" else None)
    found = (
        rows if name == "last" else [row for row in rows if row.run_id.startswith(name) or row.run_id.endswith(name)]
    )
    if len(found) == 1:
        return found[0]
    if not found:
        raise NotFound.of("run", name, [row.run_id for row in rows[:12]], "`featurectl runs` lists them")
    raise UsageError(f"run '{name}' may be {found[0].run_id} or {found[1].run_id}; write more of it")


def newest_of(connection: Connection, project: str, command: str) -> Record | None:
    """Return the newest run of a command."""
    return next(iter(list_runs(connection, project, limit=1, command=command)), None)


def last_success(connection: Connection, project: str, command: str) -> datetime | None:
    """Return when a command last did all of its work."""
    row = connection.execute(query("runs", "last_success"), {"project": project, "command": command}).fetchone()
    return row[0] if row else None
