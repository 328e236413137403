"""``featurectl status``."""

from __future__ import annotations

import sys
import time
from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any

import typer

from featurectl.cli import diagnostics, output
from featurectl.cli.app import new_app
from featurectl.cli.options import Command, FormatOption, JsonOption, OutputOption, chosen, overrides, split
from featurectl.cli.published import published_catalog
from featurectl.core.clock import system_clock
from featurectl.core.db import Database, open_database
from featurectl.core.freshness import Freshness, by_lag
from featurectl.core.status import LastRun, Status, read_status
from featurectl.core.times import duration, iso
from featurectl.errors import Terminated, UsageError

app = new_app()


@app.command("status", cls=Command)
def status(
    context: typer.Context,
    views: Annotated[list[str] | None, typer.Argument(metavar="[VIEW]...", help="These views only.")] = None,
    symbols: Annotated[
        list[str] | None, typer.Option("--symbol", metavar="NAME", help="Only this symbol; again for more.")
    ] = None,
    max_lag: Annotated[
        int | None,
        typer.Option(
            "--max-lag", min=0, metavar="BARS", help="Exit with 1 past so many bars, or where one is missing."
        ),
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Look again and again, until Ctrl-C.")] = False,
    interval: Annotated[
        float, typer.Option("--interval", min=0.2, max=3600, metavar="SECONDS", help="Between two looks of --watch.")
    ] = 2.0,
    format: FormatOption = None,
    json: JsonOption = False,
    path: OutputOption = None,
) -> None:
    """Show how fresh the features are, the last runs, and who holds locks.

    By view and timeframe: the newest source row, the newest computed and online features, the newest that a read gets
    (within the TTL), and how far the worst entity is behind, in bars (minutes for features of ticks, quarters of an
    hour for those of signals).

    Example: featurectl status --max-lag 2
    """
    database = open_database(overrides(context))
    kind = output.choose_format(chosen(format, json), path)
    if watch and not (kind is output.Format.TABLE and path is None and sys.stdout.isatty()):
        raise UsageError("--watch refreshes a table in place; leave out --format and -o, and run it on a terminal")

    def look() -> Status:
        return _look(database, tuple(views or ()), split(symbols))

    if watch:
        _watch(look, interval)
        return
    found = look()
    output.emit(_report(found), kind, path)
    late = by_lag(found.freshness.views, max_lag) if max_lag is not None else []
    if late:
        diagnostics.warn("; ".join(_complaint(one) for one in late))
    if found.freshness.failure:
        raise found.freshness.failure
    if late:
        raise typer.Exit(1)


def _look(database: Database, views: tuple[str, ...], symbols: tuple[str, ...]) -> Status:
    now = system_clock()
    with database.connect(read_only=True) as connection:
        catalog = published_catalog(database, connection)
        return read_status(connection, catalog, now=now, views=views, symbols=symbols)


def _watch(look: Any, interval: float) -> None:
    try:
        while True:
            output.refresh(_report(look()))
            time.sleep(interval)
    except Terminated:
        raise
    except KeyboardInterrupt:
        return  # that is how one leaves it


def _complaint(one: Freshness) -> str:
    name = f"{one.view} {one.timeframe}".strip()
    if one.missing:
        return f"{name}: {one.missing} of {one.entities} entities are not online"
    return f"{name}: {one.worst} lags by {one.lag_bars} bars"


def _report(found: Status) -> output.Report:
    columns = ["view", "timeframe", "entities", "source", "computed", "materialized", "served", "lag_bars"]
    columns += ["lag_seconds", "worst", "behind", "stale", "missing"]
    rows = [[getattr(one, name) for name in columns] for one in found.freshness.views]
    heads = [
        "view",
        "timeframe",
        "entities",
        "source",
        "computed",
        "online",
        "served",
        "lag",
        "behind",
        "stale",
        "missing",
    ]
    document = {
        "now": found.now,
        "views": [asdict(one) for one in found.freshness.views],
        "unreadable": [{"view": one.view, "error": str(one.error)} for one in found.freshness.unreadable],
        "runs": [_run_document(one) for one in found.runs],
        "locks": [asdict(one) for one in found.locks],
    }
    title = f"as of {iso(found.now)}"
    footer = [
        *(f"{one.view}: {one.error}" for one in found.freshness.unreadable),
        "",
        *(_run_line(one, found.now) for one in found.runs),
        *(f"locked: {one.name} by {one}" for one in found.locks),
    ]
    grid = output.Grid(
        heads, [_line(one, found.now) for one in found.freshness.views], title, footer, "no view is online"
    )
    return output.Report("status", document, columns, rows, grid)


def _line(one: Freshness, now: datetime) -> list[Any]:
    clocks = [_ago(instant, now) for instant in (one.source, one.computed, one.materialized, one.served)]
    lag = _lag(one)
    return [one.view, one.timeframe or "-", one.entities, *clocks, lag, one.behind, one.stale, one.missing]


def _ago(instant: datetime | None, now: datetime) -> str | None:
    if instant is None:
        return None
    return f"{duration(now - instant)} ago" if instant <= now else f"in {duration(instant - now)}"


def _lag(one: Freshness) -> str | None:
    if one.lag_bars is not None:
        return f"{one.lag_bars} bar{'' if one.lag_bars == 1 else 's'}"
    return None if one.lag_seconds is None else f"{one.lag_seconds:.0f} s"


def _run_document(one: LastRun) -> dict[str, Any]:
    names = ["run_id", "command", "started_at", "finished_at", "seconds", "verdict", "exit_code", "error"]
    return {**{name: getattr(one.newest, name) for name in names}, "last_success": one.last_success}


def _run_line(one: LastRun, now: datetime) -> str:
    newest = one.newest
    success = f"last success {_ago(one.last_success, now)}" if one.last_success else "never a success"
    error = f": {newest.error}" if newest.error else ""
    return f"{newest.command}: {newest.verdict}, began {_ago(newest.started_at, now)}; {success}{error}"
