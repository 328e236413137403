"""``featurectl materialize``."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

import typer

from featurectl import jobs
from featurectl.cli import diagnostics, output
from featurectl.cli.app import new_app
from featurectl.cli.options import (
    Command,
    FormatOption,
    JsonOption,
    OutputOption,
    ViewsOption,
    chosen,
    overrides,
    split,
)
from featurectl.cli.published import published_catalog
from featurectl.core import materialize as core
from featurectl.core.clock import system_clock
from featurectl.core.db import open_database
from featurectl.core.times import Window, parse_window
from featurectl.errors import UsageError

app = new_app()


@app.command("materialize", cls=Command)
def materialize(
    context: typer.Context,
    start: Annotated[str | None, typer.Argument(metavar="[START", help="Start of the window, included.")] = None,
    end: Annotated[
        str | None, typer.Argument(metavar="END]", help="End of the window, included; not after now.")
    ] = None,
    incremental: Annotated[
        bool, typer.Option("--incremental", help="Each entity's newest row up to now (the default without a window).")
    ] = False,
    views: ViewsOption = None,
    format: FormatOption = None,
    json: JsonOption = False,
    path: OutputOption = None,
) -> None:
    """Bring the newest features online.

    Each entity's newest row of the window, or up to now, goes online inside the database. An online row is never
    replaced by one with an earlier event time. Times are ISO 8601 (UTC without a zone) or relative: -7d, now.

    Example: featurectl materialize            (incremental, for cron)

    Example: featurectl materialize 2023-01-01 2023-12-30T19:00Z
    """
    now = system_clock()
    window = _window(start, end, incremental, now)
    find = partial(published_catalog, writes=True)
    with diagnostics.progress("materialize") as progress:
        database = open_database(overrides(context))
        results = jobs.materialize(database, split(views), window, now=now, find=find, progress=progress)
    diagnostics.note(f"window: {window}{' (incremental)' if window.start is None else ''}")
    if any(isinstance(one, core.Materialized) for one in results):
        output.emit(_report(results, window), chosen(format, json), path)
    core.raise_failures(results)


def _window(start: str | None, end: str | None, incremental: bool, now: Any) -> Window:
    if incremental and start:
        raise UsageError("--incremental takes no window; leave out START and END")
    if start and not end:
        raise UsageError(f"the window has a START, {start}, and no END; add one, for example now")
    window = parse_window(start, end, now=now)
    return Window(window.start, window.end or now)


def _report(results: list[core.Materialized | core.Failed], window: Window) -> output.Report:
    done = [one for one in results if isinstance(one, core.Materialized)]
    failed = [one for one in results if isinstance(one, core.Failed)]
    columns = list(jobs.MATERIALIZED)
    rows = jobs.rows_of(done, jobs.MATERIALIZED)
    return output.Report(
        command="materialize",
        document={
            "window": {"start": window.start, "end": window.end},
            "incremental": window.start is None,
            "views": [dict(zip(columns, row, strict=True)) for row in rows],
            "failed": [{"view": one.view, "error": str(one.error)} for one in failed],
        },
        columns=columns,
        rows=rows,
        table=output.Grid(["view", "entities", "written", "unchanged", "kept newer"], rows),
    )
