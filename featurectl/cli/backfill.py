"""``featurectl backfill``."""

from __future__ import annotations

from datetime import datetime, timedelta
from functools import partial
from typing import Annotated

import typer

from featurectl import jobs
from featurectl.cli import diagnostics, output
from featurectl.cli.app import new_app
from featurectl.cli.options import FormatOption, JsonOption, OutputOption, ViewsOption, chosen, overrides, split
from featurectl.cli.published import published_catalog
from featurectl.cli.writers import DryRunOption, LockingWriter, run_settings, tell_dry_run
from featurectl.core.backfill import Plan
from featurectl.core.clock import system_clock
from featurectl.core.db import open_database
from featurectl.core.materialize import Materialized
from featurectl.core.times import Window, duration, iso, parse_duration, parse_window
from featurectl.errors import UsageError

app = new_app()

_CHUNK = "7d"
_LONGEST = timedelta(days=36500)


@app.command("backfill", cls=LockingWriter)
def backfill(
    context: typer.Context,
    start: Annotated[
        str | None, typer.Option("--from", metavar="TIME", help="Start of the window of event time, included.")
    ] = None,
    end: Annotated[
        str | None, typer.Option("--to", metavar="TIME", help="End of the window, included. Default: now.")
    ] = None,
    chunk: Annotated[
        str | None, typer.Option("--chunk", metavar="DURATION", help="Commit after so much event time. Default: 7d.")
    ] = None,
    workers: Annotated[
        int, typer.Option("--jobs", min=1, max=64, metavar="N", help="Views and symbols done side by side.")
    ] = 1,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on with the unfinished backfill of this window; without --from, of any."),
    ] = False,
    views: ViewsOption = None,
    symbols: Annotated[
        list[str] | None, typer.Option("--symbol", metavar="NAME", help="Only this symbol; again for more.")
    ] = None,
    timeframes: Annotated[
        list[str] | None, typer.Option("--timeframe", metavar="NAME", help="Only this timeframe; again for more.")
    ] = None,
    online: Annotated[
        bool, typer.Option("--materialize/--no-materialize", help="Bring the window's newest rows online at the end.")
    ] = True,
    force: Annotated[
        bool, typer.Option("--force", help="Overwrite newer online rows too: for corrections of a window.")
    ] = False,
    dry_run: DryRunOption = False,
    format: FormatOption = None,
    json: JsonOption = False,
    path: OutputOption = None,
) -> None:
    """Compute the features of a long window again, chunk by chunk.

    Each chunk is a transaction of its own: what an interrupt leaves undone, --resume does. All rows of the window are
    computed, stale or not. Times are ISO 8601 (UTC without a zone) or relative: -30d, now.

    Example: featurectl backfill --from 2023-01-01 --to 2023-12-31 --chunk 30d --jobs 2

    Example: featurectl backfill --resume
    """
    now = system_clock()
    plan = _plan(start, end, chunk, split(views), split(symbols), split(timeframes), now=now)
    if plan is None and not resume:
        raise UsageError("a backfill needs a window; give it --from TIME (and --to TIME), or --resume")
    settings = run_settings(context, dry_run=dry_run)
    with diagnostics.progress("backfill") as progress:
        done = jobs.backfill(
            open_database(overrides(context)),
            plan,
            now=now,
            resume=resume,
            workers=workers,
            online=online,
            force=force,
            settings=settings,
            find=partial(published_catalog, writes=True),
            progress=progress,
        )
    diagnostics.note(f"window: {done.plan.window}, in chunks of {duration(done.plan.chunk)}")
    output.emit(_report(done, dry_run), chosen(format, json), path)
    tell_dry_run(dry_run)
    if done.failure:
        raise done.failure


def _plan(
    start: str | None,
    end: str | None,
    chunk: str | None,
    views: tuple[str, ...],
    symbols: tuple[str, ...],
    timeframes: tuple[str, ...],
    *,
    now: datetime,
) -> Plan | None:
    """Return what is asked for; nothing where no window is named, so that an unfinished backfill says it."""
    window = parse_window(start, end, now=now)
    if window.start is None:
        if end or chunk or views or symbols or timeframes:
            raise UsageError("--to, --chunk, --view, --symbol and --timeframe are of a window; give it --from TIME")
        return None
    if window.end and window.end > now:
        raise UsageError(f"--to {iso(window.end)} is in the future: features of then can't be computed yet")
    length = parse_duration(chunk or _CHUNK)
    if length <= timedelta(0):
        raise UsageError(f"--chunk {chunk} is no time at all; write at least 1m")
    if length > _LONGEST:
        raise UsageError(f"--chunk {chunk} is longer than any window; write at most {_LONGEST.days}d")
    Window(window.start, window.end or now).checked()
    return Plan(window, length, views, symbols, timeframes)


def _report(done: jobs.Backfill, dry_run: bool) -> output.Report:
    columns = list(jobs.BACKFILLED)
    rows = jobs.rows_of(done.computed, jobs.BACKFILLED)
    online = [one for one in done.materialized if isinstance(one, Materialized)]
    failed = [one for one in done.materialized if not isinstance(one, Materialized)]
    shown = [
        f"{one.view} online: {one.written} written, {one.unchanged} unchanged, {one.older} newer" for one in online
    ]
    return output.Report(
        command="backfill",
        document={
            "dry_run": dry_run,
            "window": done.plan.window.as_dict(),
            "chunk_seconds": done.plan.chunk.total_seconds(),
            "series": [dict(zip(columns, row, strict=True)) for row in rows],
            "online": [
                dict(zip(jobs.MATERIALIZED, row, strict=True)) for row in jobs.rows_of(online, jobs.MATERIALIZED)
            ],
            "failed": [{"view": one.view, "error": str(one.error)} for one in failed],
        },
        columns=columns,
        rows=rows,
        table=output.Grid(
            ["view", "symbol", "chunks", "done before", "rows", "inserted", "changed"], rows, footer=shown
        ),
    )
