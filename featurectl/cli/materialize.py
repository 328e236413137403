"""``featurectl materialize``."""

from __future__ import annotations

from datetime import datetime
from functools import partial
from typing import Annotated

import typer

from featurectl import jobs
from featurectl.cli import diagnostics, output
from featurectl.cli.app import new_app
from featurectl.cli.options import FormatOption, JsonOption, OutputOption, ViewsOption, chosen, overrides, split
from featurectl.cli.published import published_catalog
from featurectl.cli.writers import DryRunOption, LastOption, LockingWriter, run_settings, tell_dry_run, window_of
from featurectl.core import materialize as core
from featurectl.core.clock import system_clock
from featurectl.core.db import open_database
from featurectl.core.times import Window, parse_window
from featurectl.errors import UsageError

app = new_app()


@app.command("materialize", cls=LockingWriter)
def materialize(
    context: typer.Context,
    start: Annotated[str | None, typer.Argument(metavar="[START", help="Start of the window, included.")] = None,
    end: Annotated[
        str | None, typer.Argument(metavar="END]", help="End of the window, included; not after now.")
    ] = None,
    incremental: Annotated[
        bool, typer.Option("--incremental", help="Each entity's newest row up to now (the default without a window).")
    ] = False,
    last: LastOption = None,
    views: ViewsOption = None,
    force: Annotated[
        bool, typer.Option("--force", help="Overwrite newer online rows too: for corrections of a window.")
    ] = False,
    dry_run: DryRunOption = False,
    format: FormatOption = None,
    json: JsonOption = False,
    path: OutputOption = None,
) -> None:
    """Bring the newest features online.

    Each entity's newest row of the window, or up to now, goes online inside the database. An online row is never
    replaced by one with an earlier event time, unless --force says so. Times are ISO 8601 (UTC without a zone) or
    relative: -7d, now.

    Example: featurectl materialize            (incremental, for cron)

    Example: featurectl materialize 2023-01-01 2023-12-30T19:00Z

    Example: featurectl materialize --last 2h --dry-run
    """
    now = system_clock()
    window = window_of(last, _window(start, end, incremental, now, last is not None), now=now)
    settings = run_settings(context, dry_run=dry_run)
    find = partial(published_catalog, writes=True)
    with diagnostics.progress("materialize") as progress:
        results = jobs.materialize(
            open_database(overrides(context)),
            split(views),
            window,
            now=now,
            force=force,
            settings=settings,
            find=find,
            progress=progress,
        )
    diagnostics.note(f"window: {window}{' (incremental)' if window.start is None else ''}")
    if any(isinstance(one, core.Materialized) for one in results):
        output.emit(_report(results, window, dry_run), chosen(format, json), path)
    core.raise_failures(results)
    tell_dry_run(dry_run)


def _window(start: str | None, end: str | None, incremental: bool, now: datetime, by_duration: bool) -> Window:
    if incremental and (start or by_duration):
        raise UsageError("--incremental takes no window; leave out START and END")
    if start and not end:
        raise UsageError(f"the window has a START, {start}, and no END; add one, for example now")
    window = parse_window(start, end, now=now)
    return window if by_duration else Window(window.start, window.end or now)


def _report(results: list[core.Materialized | core.Failed], window: Window, dry_run: bool) -> output.Report:
    done = [one for one in results if isinstance(one, core.Materialized)]
    failed = [one for one in results if isinstance(one, core.Failed)]
    columns = list(jobs.MATERIALIZED)
    rows = jobs.rows_of(done, jobs.MATERIALIZED)
    return output.Report(
        command="materialize",
        document={
            "dry_run": dry_run,
            "window": {"start": window.start, "end": window.end},
            "incremental": window.start is None,
            "views": [dict(zip(columns, row, strict=True)) for row in rows],
            "failed": [{"view": one.view, "error": str(one.error)} for one in failed],
        },
        columns=columns,
        rows=rows,
        table=output.Grid(["view", "entities", "written", "unchanged", "kept newer"], rows),
    )
