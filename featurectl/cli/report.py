"""``featurectl report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from featurectl import reporting
from featurectl.cli import diagnostics, output
from featurectl.cli.app import new_app
from featurectl.cli.options import Command, ViewsOption, overrides, split
from featurectl.cli.published import published_catalog
from featurectl.core.clock import system_clock
from featurectl.core.db import open_database
from featurectl.core.report.model import Gathered
from featurectl.core.times import parse_window
from featurectl.errors import PartlyDone, UsageError

app = new_app()

_SUFFIXES = (".html", ".htm")


class PageCommand(Command):
    """A command whose result is a page, in a file."""

    def prepare(self, ctx: Any) -> None:
        path = Path(ctx.params["page"])
        if str(path) == "-":
            raise UsageError("a page of some megabytes is nothing for stdout; name a file: -o report.html")
        if path.suffix.lower() not in _SUFFIXES:
            raise UsageError(f"{path}: the page is HTML; name a file with .html at its end")
        output.check_writable(path)
        super().prepare(ctx)


@app.command("report", cls=PageCommand)
def report(
    context: typer.Context,
    ids: Annotated[
        list[str] | None,
        typer.Argument(metavar="[ID]...", help="Only BTCUSDT_1h, or BTCUSDT: all its timeframes. Default: everything."),
    ] = None,
    page: Annotated[
        Path, typer.Option("-o", "--output", metavar="FILE", help="The page to write, whole or not at all.")
    ] = Path("report.html"),
    start: Annotated[
        str | None, typer.Option("--start", metavar="TIME", help="First event time. Default: 30 days with the end's.")
    ] = None,
    end: Annotated[
        str | None, typer.Option("--end", metavar="TIME", help="Last event time. Default: the newest bar's close.")
    ] = None,
    views: ViewsOption = None,
    entities: Annotated[
        list[str] | None,
        typer.Option("--entity", metavar="ID", help="Draw the price and the features of this one; again for more."),
    ] = None,
    baseline: Annotated[
        str | None, typer.Option("--baseline", metavar="NAME", help="Compare the window with this baseline.")
    ] = None,
    reference: Annotated[
        tuple[str, str] | None,
        typer.Option("--reference", metavar="START END", help="Compare it with this one. Default: the one before it."),
    ] = None,
    title: Annotated[str, typer.Option("--title", metavar="TEXT", help="The page's title.")] = "",
) -> None:
    """Write a page that shows whether the features are right, fresh, complete and stable.

    One HTML file that loads nothing from anywhere: coverage and gaps, freshness, checks, drift and distributions,
    nulls, prices with features, recent runs and storage. A section that can't be read says why, and hides no other;
    the exit code is 5 then. Findings are in the page and change no exit code: `check`, `drift` and `gaps` have theirs.

    Example: featurectl report -o report.html

    Example: featurectl report BTCUSDT --start 2022-06-01 --end 2022-07-01 --entity BTCUSDT_1h -o june.html
    """
    from featurectl.core.report.page import render, require_plotly  # charts and HTML, when they are wanted

    require_plotly()
    now = system_clock()
    asked = reporting.ReportAsked(
        ids=tuple(ids or ()),
        entities=split(entities),
        views=split(views),
        window=parse_window(start, end, now=now),
        baseline=baseline,
        reference=parse_window(*reference, now=now) if reference else None,
        title=title,
    )
    if baseline and reference:
        raise UsageError("--baseline and --reference contradict each other; leave one out")
    database = open_database(overrides(context))
    with diagnostics.progress("report") as progress:
        gathered = reporting.report(database, asked, now=now, find=published_catalog, progress=progress)
    with output.atomic_file(page) as handle:
        size = handle.write(render(gathered).encode("utf-8", "backslashreplace"))
    _conclude(gathered, page, size)


def _conclude(gathered: Gathered, page: Path, size: int) -> None:
    """Say what was written, and in a line what it says.

    Raises:
        PartlyDone: some sections could not be read.
    """
    from featurectl.core.report.page import cards
    from featurectl.core.report.page import size as bytes_of

    diagnostics.note(f"window: {gathered.head.window}")
    diagnostics.note(
        f"{page}: {bytes_of(size)}; " + ", ".join(f"{one.title.lower()}: {one.verdict}" for one in cards(gathered))
    )
    if gathered.failures:
        reasons = "; ".join(f"{name}: {error}" for name, error in gathered.failures)
        raise PartlyDone(f"{len(gathered.failures)} sections of {page} can't be read: {reasons}")
