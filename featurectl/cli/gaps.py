"""``featurectl gaps``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any

import typer

from featurectl.cli import diagnostics, output
from featurectl.cli.app import new_app
from featurectl.cli.options import Command, FormatOption, JsonOption, OutputOption, chosen, overrides
from featurectl.core import gaps as core
from featurectl.core.clock import system_clock
from featurectl.core.db import Database, open_database
from featurectl.core.gaps import FOREVER, Declaration, Gap, SeriesGaps, Survey, end_of_range
from featurectl.core.schema import require_known
from featurectl.core.times import Window, parse_time, parse_window
from featurectl.errors import UsageError

app = new_app()

# Rows of a table; files and JSON hold all.
SHOWN_GAPS = 200


@app.command("gaps", cls=Command)
def gaps(
    context: typer.Context,
    ids: Annotated[
        list[str] | None,
        typer.Argument(metavar="[ID]...", help="BTCUSDT_1h, or BTCUSDT: all its timeframes. Default: all series."),
    ] = None,
    start: Annotated[str | None, typer.Option("--start", metavar="TIME", help="First open time.")] = None,
    end: Annotated[
        str | None,
        typer.Option("--end", metavar="TIME", help="Last open time; bars after the last one are looked for, too."),
    ] = None,
    fail_over: Annotated[
        int | None,
        typer.Option("--fail-over", metavar="N", min=0, help="Exit with 1 when more than N bars are missing."),
    ] = None,
    declare: Annotated[
        tuple[str, str] | None,
        typer.Option("--declare", metavar="START END", help="Declare bars known absent, by their open times."),
    ] = None,
    reason: Annotated[str | None, typer.Option("--reason", metavar="TEXT", help="Why they are, for --declare.")] = None,
    withdraw: Annotated[
        tuple[str, str] | None,
        typer.Option("--withdraw", metavar="START END", help="Take back what was declared of exactly this range."),
    ] = None,
    declared: Annotated[bool, typer.Option("--declared", help="List what is declared known absent.")] = False,
    format: FormatOption = None,
    json: JsonOption = False,
    path: OutputOption = None,
) -> None:
    """List missing bars by symbol and timeframe.

    Bars are expected from a series' first to its last; with --end, also after its last, as far as they had closed by
    then. What was never there, because the exchange was down, can be declared known absent: it is listed with its
    reason and does not count as missing. The id '*' declares for every symbol, '*_1h' for all their hours. A symbol
    that is traded no more is absent forever: nothing of it is due any more, and it lags no further.

    Example: featurectl gaps BTCUSDT_1h --start -30d --end now --fail-over 0

    Example: featurectl gaps BTCUSDT --declare 2021-04-20T02:00Z 2021-04-20T03:00Z --reason "exchange outage"

    Example: featurectl gaps FTTUSDT --declare 2022-11-15 forever --reason delisted
    """
    now, kind = system_clock(), chosen(format, json)
    range_ = declare or withdraw
    window = _range(*range_, now=now) if range_ else parse_window(start, end, now=now)
    _check(
        {"--start": start, "--end": end, "--fail-over": fail_over},
        {"--declare": declare, "--withdraw": withdraw, "--declared": declared or None},
        reason,
    )
    database = open_database(overrides(context))
    if declare:
        output.emit(_declare(database, ids or (), window, reason or "", now), kind, path)
    elif withdraw:
        output.emit(_withdraw(database, ids or (), window), kind, path)
    elif declared:
        output.emit(_list_declared(database, ids or ()), kind, path)
    else:
        with database.connect(read_only=True) as connection:
            survey = core.find_gaps(connection, ids or (), window, now=now)
        output.emit(_survey(survey, window), kind, path)
        _conclude(survey, window, fail_over)


def _range(start: str, end: str, *, now: datetime) -> Window:
    """Return the range that is declared, or was."""
    if end != end_of_range(FOREVER):
        return parse_window(start, end, now=now)
    return Window(parse_time(start, now=now), FOREVER)


def _check(searching: Mapping[str, Any], others: Mapping[str, Any], reason: str | None) -> None:
    """Refuse options that belong to different uses of the command."""
    given = [name for name, value in others.items() if value is not None]
    if len(given) > 1:
        raise UsageError(f"{' and '.join(given)} contradict each other; leave one out")
    stray = [name for name, value in searching.items() if value is not None]
    if given and stray:
        raise UsageError(f"{stray[0]} belongs to looking for gaps, not to {given[0]}; leave it out")
    if reason is not None and given != ["--declare"]:
        raise UsageError("--reason belongs to --declare START END; leave it out, or give both")
    if reason is None and given == ["--declare"]:
        raise UsageError("--declare needs a --reason, for example --reason 'exchange outage'")


def _declare(database: Database, ids: Sequence[str], window: Window, reason: str, now: datetime) -> output.Report:
    assert window.start and window.end
    with database.connect() as connection:
        require_known(connection)
        done = core.declare(connection, ids, window.start, window.end, reason, now=now)
    diagnostics.note(f"{_bars(done.bars)} missing in this range, known absent now")
    return _declarations("declared", done.declarations, known_absent=done.bars)


def _withdraw(database: Database, ids: Sequence[str], window: Window) -> output.Report:
    assert window.start and window.end
    with database.connect() as connection:
        require_known(connection)
        return _declarations("withdrawn", core.withdraw(connection, ids, window.start, window.end))


def _list_declared(database: Database, ids: Sequence[str]) -> output.Report:
    with database.connect(read_only=True) as connection:
        return _declarations("declared", core.read_declarations(connection, ids))


def _declarations(title: str, found: Sequence[Declaration], **counts: int) -> output.Report:
    columns = ["entity_id", "first", "last", "reason", "declared_at"]
    rows = [
        [str(one.entity), one.first, None if one.last == FOREVER else one.last, one.reason, one.declared_at]
        for one in found
    ]
    documents = [dict(zip(columns, row, strict=True)) for row in rows]
    shown = [[end_of_range(FOREVER) if value is None else value for value in row] for row in rows]
    grid = output.Grid(columns, shown, empty="no bars are declared known absent")
    return output.Report("gaps", {title: documents, **counts}, columns, rows, grid)


def _survey(survey: Survey, window: Window) -> output.Report:
    columns = ["entity_id", "first_missing", "last_missing", "bars", "known_absent", "reason"]
    rows = [_row(gap) for gap in survey.gaps]
    document = {
        "window": window.as_dict(),
        "missing": survey.missing,
        "known_absent": survey.known_absent,
        "gaps": [dict(zip(columns, row, strict=True)) for row in rows],
        "series": [_series(one) for one in survey.series],
    }
    shown = [[*row[:4], row[5]] for row in rows[:SHOWN_GAPS]]
    heads = ["entity", "first missing", "last missing", "bars", "known absent"]
    grid = output.Grid(heads, shown, footer=_footer(survey), empty="no bars are missing")
    return output.Report("gaps", document, columns, rows, grid)


def _row(gap: Gap) -> list[Any]:
    return [str(gap.entity), gap.first, gap.last, gap.bars, gap.known_absent, gap.reason]


def _series(one: SeriesGaps) -> dict[str, Any]:
    return {
        "entity_id": str(one.entity),
        "first_bar": one.first_bar,
        "last_bar": one.last_bar,
        "expected": one.expected,
        "missing": one.missing,
        "known_absent": one.known_absent,
    }


def _footer(survey: Survey) -> list[str]:
    """Say what a long table leaves out, and how much is missing of each series that lacks bars."""
    rest = len(survey.gaps) - SHOWN_GAPS
    lines = [f"… and {rest} more gaps; -o FILE.csv keeps them all"] if rest > 0 else []
    for one in survey.series:
        if one.gaps:
            absent = f"; {one.known_absent} more known absent" if one.known_absent else ""
            lines.append(f"{one.entity}: {one.missing} of {one.expected} bars missing{absent}")
    return lines


def _conclude(survey: Survey, window: Window, fail_over: int | None) -> None:
    """Say what was looked at.

    Raises:
        Exit: with 1, more bars are missing than may be.
    """
    if window.start or window.end:
        diagnostics.note(f"window: {window}")
    if not survey.series:
        diagnostics.note("there are no candles; `featurectl ingest candles` brings them in")
    if fail_over is not None and survey.missing > fail_over:
        diagnostics.warn(f"{_bars(survey.missing)} missing, more than the {fail_over} of --fail-over")
        raise typer.Exit(1)


def _bars(count: int) -> str:
    return "1 bar is" if count == 1 else f"{count} bars are"
