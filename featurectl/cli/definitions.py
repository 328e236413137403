"""``featurectl plan`` and ``featurectl apply``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from featurectl.cli import diagnostics, output
from featurectl.cli.app import new_app
from featurectl.cli.options import Command, FormatOption, JsonOption, OutputOption, chosen, overrides
from featurectl.cli.writers import run_settings
from featurectl.core.clock import system_clock
from featurectl.core.db import Database, open_database
from featurectl.core.runs import Step, open_run

if TYPE_CHECKING:
    from featurectl.plugin.apply import Plan

app = new_app()


@app.command("plan", cls=Command)
def plan(
    context: typer.Context,
    detailed_exitcode: Annotated[
        bool, typer.Option("--detailed-exitcode", help="Exit with 1 when there is something to change.")
    ] = False,
    format: FormatOption = None,
    json: JsonOption = False,
    path: OutputOption = None,
) -> None:
    """Show what apply would change; change nothing.

    The Python files of the repository are executed to read the definitions; they are listed before.

    Example: featurectl plan --detailed-exitcode
    """
    database = _reachable(open_database(overrides(context)))
    diagnostics.note("reading the definitions (Feast takes some seconds to load) …")
    from featurectl.plugin import apply as steps  # 2 s and more: it loads Feast

    planned = steps.plan(database, on_files=_tell_files)
    output.emit(_report("plan", planned), chosen(format, json), path)
    if planned.notice:
        diagnostics.warn(planned.notice)
    for loss in planned.drops:
        diagnostics.warn(f"{loss}: apply does it with --allow-drop only")
    makes = "`featurectl apply --allow-drop`" if planned.drops else "`featurectl apply`"
    diagnostics.note(f"{planned.changes} changes; {makes} makes them" if planned.changes else "nothing to change")
    if detailed_exitcode and planned.changes:
        raise typer.Exit(1)


@app.command("apply", cls=Command)
def apply(
    context: typer.Context,
    allow_drop: Annotated[
        bool, typer.Option("--allow-drop", help="Drop online tables and registrations of views that are gone.")
    ] = False,
    format: FormatOption = None,
    json: JsonOption = False,
    path: OutputOption = None,
) -> None:
    """Bring registry, schema and catalog to the definitions.

    The Python files of the repository are executed to read the definitions; they are listed before.

    Example: featurectl apply
    """
    database = _reachable(open_database(overrides(context)))
    diagnostics.note("reading the definitions (Feast takes some seconds to load) …")
    from featurectl.plugin import apply as steps  # 2 s and more: it loads Feast

    now = system_clock()
    with open_run(database, run_settings(context), now=now) as run:
        applied = steps.apply(database, allow_drop=allow_drop, now=now, on_files=_tell_files)
        run.steps.append(Step("apply", f"catalog version {applied.catalog_version}", written=applied.plan.changes))
    output.emit(_report("apply", applied.plan, applied.catalog_version), chosen(format, json), path)
    if applied.plan.notice:
        diagnostics.warn(applied.plan.notice)
    done = f"{applied.plan.changes} changes made" if applied.plan.changes else "nothing to change"
    diagnostics.note(f"{done}; catalog version {applied.catalog_version}")


def _tell_files(files: Sequence[str]) -> None:
    diagnostics.note(f"executes: {', '.join(files)}")


def _reachable(database: Database) -> Database:
    """Return a database that answers: what is wrong with it is said before Feast takes its seconds, not after."""
    with database.connect():
        return database


def _report(command: str, plan: Plan, version: int | None = None) -> output.Report:
    rows: list[list[Any]] = [
        [change.action, change.kind, change.name, "; ".join(change.details)] for change in plan.registry
    ]
    rows += [
        ["run" if change.statement else "report", "schema", change.summary, change.statement or ""]
        for change in plan.schema
    ]
    if plan.catalog_changes:
        before = f"version {plan.catalog_version}" if plan.catalog_version else "none yet"
        rows.append(
            ["publish", "catalog", f"version {version or (plan.catalog_version or 0) + 1}", f"before: {before}"]
        )
    return output.Report(
        command=command,
        document={
            "changes": plan.changes,
            "registry": [
                {"action": one.action, "kind": one.kind, "name": one.name, "details": list(one.details)}
                for one in plan.registry
            ],
            "schema": [{"summary": one.summary, "statement": one.statement, "drops": one.drops} for one in plan.schema],
            "catalog": {"version": version or plan.catalog_version, "changes": plan.catalog_changes},
            "files": list(plan.files),
            "notice": plan.notice,
        },
        columns=["action", "kind", "name", "detail"],
        rows=rows,
        table=_grid(plan, rows, statements=command == "plan"),
    )


def _grid(plan: Plan, rows: list[list[Any]], *, statements: bool) -> output.Grid:
    short = [[*row[:3], row[3] if row[1] != "schema" else ""] for row in rows]
    ddl = (
        [f"{change.statement.strip().rstrip(';')};\n" for change in plan.schema if change.statement]
        if statements
        else []
    )
    return output.Grid(
        ["action", "kind", "name", "detail"], short, footer=["", *ddl] if ddl else [], empty="nothing to change"
    )
