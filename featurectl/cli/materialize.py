"""``featurectl materialize``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

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
from featurectl.errors import PartlyDone, UsageError

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
    database = open_database(overrides(context))
    with database.connect() as connection, diagnostics.progress("materialize") as progress:
        catalog = published_catalog(database, connection, writes=True)
        chosen_views = core.choose_views(catalog, split(views))
        results = core.materialize(
            connection,
            database.config.project,
            chosen_views,
            window,
            now=now,
            on_view=lambda index, view: progress(index, len(chosen_views), view.name),
        )
    diagnostics.note(f"window: {window}{' (incremental)' if window.start is None else ''}")
    if any(isinstance(one, core.Materialized) for one in results):
        output.emit(_report(results, window), chosen(format, json), path)
    _finish(results)


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
    columns = ["view", "entities", "written", "unchanged", "older"]
    rows = [[one.view, one.entities, one.written, one.unchanged, one.older] for one in done]
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


def _finish(results: list[core.Materialized | core.Failed]) -> None:
    """Leave with the error of the views that failed: its own where all failed, partly done otherwise."""
    failed = [one for one in results if isinstance(one, core.Failed)]
    if not failed:
        return
    if len(failed) == len(results):
        raise failed[0].error
    reasons = "; ".join(str(one.error) for one in failed)
    raise PartlyDone(f"{len(results) - len(failed)} of {len(results)} views done: {reasons}")
