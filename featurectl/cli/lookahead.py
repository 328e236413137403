"""``featurectl lookahead``."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Annotated, Any

import typer

from featurectl import reads
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
from featurectl.core.clock import system_clock
from featurectl.core.db import open_database
from featurectl.core.lookahead import Asked, Deviation, Lookahead, Looked, Verdict

app = new_app()


@app.command("lookahead", cls=Command)
def lookahead(
    context: typer.Context,
    ids: Annotated[
        list[str] | None,
        typer.Argument(metavar="[ID]...", help="BTCUSDT_1h, or BTCUSDT: all of that symbol. Default: all there are."),
    ] = None,
    views: ViewsOption = None,
    features: FeaturesOption = None,
    service: ServiceOption = None,
    sample: Annotated[
        int, typer.Option("--sample", metavar="N", min=1, help="At so many instants of each view's entities.")
    ] = 50,
    seed: Annotated[int, typer.Option("--seed", metavar="S", help="Which ones: the same for the same S.")] = 0,
    warmup: Annotated[
        int | None,
        typer.Option("--warmup", metavar="BARS", min=1, max=100_000, help="Try this warm-up. Default: warmup_bars."),
    ] = None,
    tolerance: Annotated[
        float, typer.Option("--tolerance", metavar="REL", min=0, max=1, help="Relative difference that is none.")
    ] = 1e-9,
    format: FormatOption = None,
    json: JsonOption = False,
    path: OutputOption = None,
) -> None:
    """Find functions that use the future, or more of the past than the warm-up.

    The functions in the repository's files are given stretches of the market's tables, and parts of them. What a
    feature is must not change where later rows are taken away (looks ahead), where only the warm-up is left before it
    (depends on warm-up), or, for ticks and signals, in pieces with other borders (depends on pieces). Nothing is
    written.

    Exit code 1: a function does one of these, or gives other values for the same rows (not repeatable).

    Example: featurectl lookahead

    Example: featurectl lookahead BTCUSDT_1h -f ema_20 --warmup 200
    """
    now, kind = system_clock(), chosen(format, json)
    asked = Asked(
        ids=tuple(ids or ()),
        views=split(views),
        features=split(features),
        service=service,
        sample=sample,
        seed=seed,
        warmup=warmup,
        tolerance=tolerance,
    )
    with diagnostics.progress("lookahead") as show:
        database = open_database(overrides(context))
        found = reads.lookahead(database, asked, now=now, find=published_catalog, progress=show)
    output.emit(_report(found), kind, path)
    for note in found.notes:
        diagnostics.note(note)
    if found.findings:
        diagnostics.warn("; ".join(_complaint(one) for one in found.findings))
        raise typer.Exit(1)


def _complaint(one: Looked) -> str:
    return f"{one.view}: {one.feature} {'is ' if one.verdict is Verdict.UNSTEADY else ''}{one.verdict}"


def _report(found: Lookahead) -> output.Report:
    columns = ["view", "feature", "verdict", "entities", "instants", "compared", "enough"]
    parts = ["entity", "event_timestamp", "value", "other", "relative", "detail"]
    rows = [
        [
            *(getattr(one, name) for name in columns),
            *(getattr(worst, part, None) for worst in (one.ahead, one.warmup) for part in parts),
            one.reason,
        ]
        for one in found.features
    ]
    document = {
        "warmup": found.warmup,
        "tolerance": found.tolerance,
        "seed": found.seed,
        "findings": len(found.findings),
        "features": [asdict(one) for one in found.features],
        "notes": list(found.notes),
    }
    heads = ["view", "feature", "verdict", "instants", "values", "later rows", "warm-up", "enough", ""]
    table = output.Grid(
        heads,
        [_line(one) for one in found.features],
        f"largest relative differences; warm-up {found.warmup} bars, tolerance {found.tolerance:g}, seed {found.seed}",
        below=_worst(found),
    )
    names = [f"{kind}_{part}" for kind in ("ahead", "warmup") for part in parts]
    return output.Report("lookahead", document, [*columns, *names, "reason"], rows, table)


def _line(one: Looked) -> list[Any]:
    differences = [_relative(one.ahead), _relative(one.warmup)]
    return [one.view, one.feature, one.verdict, one.instants, one.compared, *differences, one.enough, one.reason or ""]


def _relative(one: Deviation | None) -> str:
    if one is None:
        return "-"
    return "null" if math.isinf(one.relative) else f"{one.relative:.2g}"


def _worst(found: Lookahead) -> list[output.Grid]:
    """Show where each function that was found out differs most."""
    heads = ["feature", "entity", "at", "value", "other", ""]
    rows = []
    for one in found.findings:
        worst = one.warmup if one.verdict in (Verdict.WARMUP, Verdict.PIECES) else one.ahead
        if worst is not None:
            values = [f"{value:.12g}" if value is not None else None for value in (worst.value, worst.other)]
            rows.append([one.feature, worst.entity, worst.event_timestamp, *values, f"other: {worst.detail}"])
    return [output.Grid(heads, rows)] if rows else []
