"""``featurectl check``."""

from __future__ import annotations

import math
from dataclasses import asdict, fields
from typing import Annotated, Any

import typer

from featurectl.cli import diagnostics, output
from featurectl.cli.app import new_app
from featurectl.cli.options import (
    Command,
    FeaturesOption,
    FormatOption,
    JsonOption,
    OutputOption,
    ServiceOption,
    ViewsOption,
    chosen,
    overrides,
    split,
)
from featurectl.cli.published import published_catalog
from featurectl.core.checks import CheckReport, Offence, Outcome, Severity, Verdict, describe
from featurectl.core.clock import system_clock
from featurectl.core.db import open_database
from featurectl.core.times import parse_window
from featurectl.reads import Checking, check_rows

app = new_app()

# Findings that the last line on stderr tells of.
TOLD = 3
COLUMNS = [one.name for one in fields(Outcome)]
OFFENCES = [one.name for one in fields(Offence)]


@app.command("check", cls=Command)
def check(
    context: typer.Context,
    ids: Annotated[
        list[str] | None,
        typer.Argument(metavar="[ID]...", help="BTCUSDT_1h, or BTCUSDT: all its timeframes. Default: all there are."),
    ] = None,
    views: ViewsOption = None,
    service: ServiceOption = None,
    features: FeaturesOption = None,
    start: Annotated[
        str | None,
        typer.Option("--start", metavar="TIME", help="First event time; of candles open time. Default: the beginning."),
    ] = None,
    end: Annotated[str | None, typer.Option("--end", metavar="TIME", help="Last one. Default: the end.")] = None,
    rules: Annotated[
        list[str] | None,
        typer.Option("--rule", metavar="NAME", help="Only this rule; again, or comma-separated, for more."),
    ] = None,
    rows: Annotated[
        int,
        typer.Option(
            "--rows",
            min=0,
            max=100_000,
            metavar="N",
            help="List the newest N offending rows of each rule and target; CSV and Parquet then hold these.",
        ),
    ] = 0,
    fail_on: Annotated[
        Severity, typer.Option("--fail-on", help="Exit with 1 where an error was found, or a warning, too.")
    ] = Severity.ERROR,
    format: FormatOption = None,
    json: JsonOption = False,
    path: OutputOption = None,
) -> None:
    """Hold features to what their tags ask, and candles to their rules.

    Rules of features are tags of their fields: min, max, max_null_share, unique, max_stuck and freshness. Those of
    candles are ohlc_order, positive_price, negative_volume, off_grid, stuck_price, price_jump, volume_spike and gaps;
    feature_store.yaml, checks: sets their limits. Without --view, --service or -f, all views are looked at but those
    that join others, and the candles; --view market.candles is the candles alone. Without --start it is all of the
    history: cron wants --start -2d, or so.

    Example: featurectl check --start -2d --fail-on warn

    Example: featurectl check BTCUSDT_1h -f rsi_14 --rows 10

    Example: featurectl check --view market.candles --rule gaps,stuck_price -o findings.csv --rows 1000
    """
    given, now, kind = overrides(context), system_clock(), output.choose_format(chosen(format, json), path)
    asked = Checking(
        features=split(features),
        service=service,
        views=split(views),
        entities=tuple(ids or ()),
        window=parse_window(start, end, now=now),
        rules=split(rules),
        rows=rows,
    )
    database = open_database(given)
    found = check_rows(database, asked, now=now, find=published_catalog, is_limited=given.timeout is not None)
    output.emit(_report(found, fail_on, with_rows=rows > 0), kind, path)
    if start or end:
        diagnostics.note(f"window: {found.window}")
    _conclude(found, fail_on)


def _report(found: CheckReport, fail_on: Severity, *, with_rows: bool) -> output.Report:
    rows = [[getattr(one, name) for name in COLUMNS] for one in found.outcomes]
    offences = [[getattr(one, name) for name in OFFENCES] for one in found.offences]
    document = {
        "window": found.window.as_dict(),
        "findings": len(found.findings),
        "failed": bool(found.at_least(fail_on)),
        "outcomes": [asdict(one) for one in found.outcomes],
        **({"rows": [asdict(one) for one in found.offences]} if with_rows else {}),
        "unreadable": [{"view": one.view, "error": str(one.error)} for one in found.unreadable],
    }
    grid = output.Grid(_HEADS, _lines(found), footer=_footer(found), empty="there is nothing to check")
    if with_rows:
        return output.Report("check", document, OFFENCES, offences, grid)
    return output.Report("check", document, COLUMNS, rows, grid)


_HEADS = ["verdict", "target", "rule", "rows", "offending", "share", "limit", "worst", "entity", "first", "last"]


def _lines(found: CheckReport) -> list[list[Any]]:
    """Return a line for each rule that had something to look at; the findings first."""
    fine = [one for one in found.outcomes if one.verdict is Verdict.OK and one.rows]
    features = [one.feature for one in found.outcomes]
    several = {name for name in features if len({one.view for one in found.outcomes if one.feature == name}) > 1}
    return [_line(one, several) for one in (*found.findings, *fine)]


def _line(one: Outcome, several: set[str]) -> list[Any]:
    target = one.feature if one.feature and one.feature not in several else one.target
    share = None if one.share is None else "<0.01%" if 0 < one.share < 1e-4 else f"{one.share:.2%}"
    worst = str(one.worst) if one.worst is not None and math.isinf(one.worst) else one.worst
    instants = [one.first, one.last] if one.verdict is not Verdict.OK else [None, None]
    measures = [one.rows, one.offending, share, one.limit, worst, one.worst_entity]
    return [str(one.verdict), target, one.rule, *measures, *instants]


def _footer(found: CheckReport) -> list[str]:
    lines = [f"{one.view}: {one.error}" for one in found.unreadable]
    lines += [f"{one.target} {one.rule}: {one.note}" for one in found.outcomes if one.note]
    views = dict.fromkeys(one.view for one in found.outcomes)
    lines += [f"{view}: no rows" for view in views if not any(one.rows for one in found.outcomes if one.view == view)]
    lines += [f"{view}: declares nothing of this" for view in found.undeclared]
    lines += [
        f"{one.rule}: {one.entity} {output.plain(one.at) if one.at else '-'} {_shown(one.value)}"
        + (f" {one.feature}" if one.feature else "")
        for one in found.offences
    ]
    return lines


def _shown(value: float | str | None) -> str:
    return "null" if value is None else f"{value:.6g}" if isinstance(value, float) else value


def _conclude(found: CheckReport, fail_on: Severity) -> None:
    """Say what was found.

    Raises:
        FeaturectlError: a view can't be read.
        Exit: with 1, something as bad as ``fail_on`` was found.
    """
    bad = found.at_least(fail_on)
    others = [one for one in found.findings if one not in bad]
    for one in others[:TOLD]:
        diagnostics.warn(describe(one))
    if len(others) > TOLD:
        diagnostics.warn(f"and {len(others) - TOLD} more warnings")
    if bad:
        told = "; ".join(describe(one) for one in bad[:TOLD])
        rest = f"; and {len(bad) - TOLD} more" if len(bad) > TOLD else ""
        diagnostics.warn(f"{len(bad)} of {len(found.outcomes)} checks failed: {told}{rest}")
    if found.failure:
        raise found.failure
    if bad:
        raise typer.Exit(1)
