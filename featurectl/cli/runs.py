"""``featurectl runs``."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer

from featurectl.cli import output
from featurectl.cli.app import new_app
from featurectl.cli.options import Command, FormatOption, JsonOption, OutputOption, chosen, overrides
from featurectl.core.clock import system_clock
from featurectl.core.db import open_database
from featurectl.core.runs import ledger
from featurectl.core.runs.ledger import Record
from featurectl.core.times import iso, parse_time
from featurectl.errors import UsageError

app = new_app()

_MANY, _MOST = 50, 1_000_000


@app.command("runs", cls=Command)
def runs(
    context: typer.Context,
    words: Annotated[
        list[str] | None, typer.Argument(metavar="[show ID]", help="Show this run in full; ID may be `last`.")
    ] = None,
    since: Annotated[
        str | None, typer.Option("--since", metavar="TIME", help="Runs that began at TIME or later: -1d.")
    ] = None,
    failed: Annotated[
        bool, typer.Option("--failed", help="Only those that did not do all of their work, or were killed.")
    ] = False,
    limit: Annotated[
        int | None,
        typer.Option("--limit", min=1, max=_MOST, metavar="N", help="The newest N; 50 unless told, all with --since."),
    ] = None,
    format: FormatOption = None,
    json: JsonOption = False,
    path: OutputOption = None,
) -> None:
    """List the runs of what writes, or show one.

    A run that was killed is `interrupted`; what it had not committed was rolled back.

    Example: featurectl runs --failed --since -1d

    Example: featurectl runs show last
    """
    name = _name(words or [])
    database = open_database(overrides(context))
    project = database.config.project
    with database.connect(read_only=True) as connection:
        if name:
            report = _one(ledger.find_run(connection, project, name))
        else:
            instant = parse_time(since, now=system_clock()) if since else None
            most = limit or (None if since else _MANY)
            report = _list(ledger.list_runs(connection, project, since=instant, failed=failed, limit=most))
    output.emit(report, chosen(format, json), path)


def _name(words: list[str]) -> str | None:
    if not words:
        return None
    if words[0] != "show" or len(words) != 2:
        raise UsageError(f"'{' '.join(words)}' is not `show ID`; write featurectl runs show ID, or show last")
    return words[1]


def _list(records: list[Record]) -> output.Report:
    columns = ["run_id", "command", "started_at", "seconds", "verdict", "exit_code", "rows_written", "error"]
    rows = [[getattr(one, name) for name in columns] for one in records]
    shown = [[*row[:3], _seconds(row[3]), *row[4:7], _short(row[7])] for row in rows]
    heads = ["run", "command", "started", "took", "verdict", "exit", "written", "error"]
    grid = output.Grid(heads, shown, empty="no runs")
    return output.Report("runs", {"runs": [asdict(one) for one in records]}, columns, rows, grid)


def _one(record: Record) -> output.Report:
    facts: dict[str, Any] = asdict(record)
    steps = facts["steps"]
    columns = ["step", "name", "read", "written", "unchanged", "older", "rejected", "error"]
    rows = [[step.get(name) for name in columns] for step in steps]
    window = f"{_instant(record.window_start)} .. {_instant(record.window_end)}"
    footer = [
        f"{record.command}: {record.verdict}, exit code {'-' if record.exit_code is None else record.exit_code}",
        f"began {iso(record.started_at)}, took {_seconds(record.seconds) or '-'}, window {window}",
        f"arguments: {' '.join(record.arguments) or '-'}",
        f"featurectl {record.version}, configuration {record.config_hash}, catalog {record.catalog_hash or '-'}",
        f"process {record.pid} on {record.host}",
        *([f"error: {record.error}"] if record.error else []),
    ]
    grid = output.Grid(columns, rows, title=record.run_id, footer=footer, empty="no steps")
    return output.Report("runs", {"run": facts}, columns, rows, grid)


def _instant(instant: Any) -> str:
    return iso(instant) if instant else "…"


def _seconds(seconds: float | None) -> str | None:
    return None if seconds is None else f"{seconds:.1f} s"


def _short(text: str | None) -> str | None:
    return text if text is None or len(text) <= 60 else f"{text[:59]}…"
