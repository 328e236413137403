"""``featurectl compute``."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import typer

from featurectl import jobs
from featurectl.cli import diagnostics, output
from featurectl.cli.app import new_app
from featurectl.cli.options import FormatOption, JsonOption, OutputOption, chosen, overrides, split
from featurectl.cli.published import published_catalog
from featurectl.cli.writers import DryRunOption, LastOption, LockingWriter, run_settings, tell_dry_run, window_of
from featurectl.core import compute as core
from featurectl.core.clock import system_clock
from featurectl.core.db import open_database
from featurectl.core.times import ALWAYS, parse_window

app = new_app()

_Names = list[str] | None


@app.command("compute", cls=LockingWriter)
def compute(
    context: typer.Context,
    symbols: Annotated[
        _Names, typer.Option("--symbol", metavar="NAME", help="Only this symbol; again for more.")
    ] = None,
    timeframes: Annotated[
        _Names, typer.Option("--timeframe", metavar="NAME", help="Only this timeframe; again for more.")
    ] = None,
    start: Annotated[
        str | None, typer.Option("--start", metavar="TIME", help="Only bars that closed at TIME or later.")
    ] = None,
    end: Annotated[str | None, typer.Option("--end", metavar="TIME", help="Only bars that closed by TIME.")] = None,
    last: LastOption = None,
    full: Annotated[
        bool, typer.Option("--full", help="All bars of the window, not only new and changed ones.")
    ] = False,
    features: Annotated[
        _Names, typer.Option("-f", "--feature", metavar="NAME", help="Only this feature; again for more.")
    ] = None,
    dry_run: DryRunOption = False,
    format: FormatOption = None,
    json: JsonOption = False,
    path: OutputOption = None,
) -> None:
    """Compute features from candles, ticks and scores that are new or changed.

    A corrected bar recomputes the bars it influences, to the length of the warm-up, also those after --end; a corrected
    tick or score recomputes the rows it counts in, and changed functions everything. Times are ISO 8601 (UTC without a
    zone) or relative: -7d, now.

    Example: featurectl compute

    Example: featurectl compute --symbol BTCUSDT --full
    """
    now = system_clock()
    window = window_of(last, parse_window(start, end, now=now), now=now)
    request = core.Request(split(symbols), split(timeframes), window, full, split(features))
    find = partial(published_catalog, writes=True)
    settings = run_settings(context, dry_run=dry_run)
    with diagnostics.progress("compute") as progress:
        database = open_database(overrides(context))
        results = jobs.compute(database, request, now=now, settings=settings, find=find, progress=progress)
    if window != ALWAYS:
        diagnostics.note(f"window: {window}")
    output.emit(_report(results, dry_run), chosen(format, json), path)
    tell_dry_run(dry_run)
    if not results:
        diagnostics.warn(
            "there is nothing to compute from yet: no candles, order book, trades, or signals of a symbol; "
            "bring some in with `featurectl ingest`"
        )


def _report(results: list[core.Computed], dry_run: bool) -> output.Report:
    columns = list(jobs.COMPUTED)
    rows = jobs.rows_of(results, jobs.COMPUTED)
    return output.Report(
        command="compute",
        document={"dry_run": dry_run, "series": [dict(zip(columns, row, strict=True)) for row in rows]},
        columns=columns,
        rows=rows,
        table=output.Grid(["view", "entity", "rows", "new or changed", "inserted", "changed"], rows),
    )
