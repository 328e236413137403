"""``featurectl consistency``."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, fields, replace
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
from featurectl.core.consistency import Asked, Consistency, Difference, Pair, Tally, Verdict
from featurectl.core.consistency.verdicts import FAULTS
from featurectl.core.db import open_database
from featurectl.core.times import iso, parse_time
from featurectl.errors import UsageError

app = new_app()

_PAIRS = {Pair.ONLINE: "online, history", Pair.COMPUTED: "history, recomputed"}


@app.command("consistency", cls=Command)
def consistency(
    context: typer.Context,
    ids: Annotated[
        list[str] | None,
        typer.Argument(metavar="[ID]...", help="BTCUSDT_1h, or BTCUSDT: all of that symbol. Default: all entities."),
    ] = None,
    views: ViewsOption = None,
    features: FeaturesOption = None,
    service: ServiceOption = None,
    sample: Annotated[
        int, typer.Option("--sample", metavar="N", min=1, help="Take so many entities of each view; all, if fewer.")
    ] = 100,
    seed: Annotated[int, typer.Option("--seed", metavar="S", help="Which ones: the same for the same S.")] = 0,
    as_of: Annotated[
        str | None, typer.Option("--as-of", metavar="TIME", help="As of TIME (ISO 8601, or -2h) and not now.")
    ] = None,
    tolerance: Annotated[
        float, typer.Option("--tolerance", metavar="REL", min=0, max=1, help="Relative difference that is none.")
    ] = 1e-9,
    allow_stale: Annotated[
        bool, typer.Option("--allow-stale", help="Compare values older than their TTL, too.")
    ] = False,
    accept: Annotated[
        list[str] | None,
        typer.Option("--accept", metavar="VERDICT", help="Stale, missing, extra or mismatch: listed, and no finding."),
    ] = None,
    fail_over: Annotated[
        int, typer.Option("--fail-over", metavar="N", min=0, help="Exit with 1 when more than N values differ.")
    ] = 0,
    rows: Annotated[
        int, typer.Option("--rows", metavar="N", min=0, help="Differences that a table shows; files hold all.")
    ] = 20,
    format: FormatOption = None,
    json: JsonOption = False,
    path: OutputOption = None,
) -> None:
    """Compare features online, in their history, and computed again.

    Of a sample of entities, each feature is read online as a caller would, then from the history as of the same
    instant, and computed again from the market's tables by the repository's functions for that row's event time.
    Nothing is written. Verdicts:
    match; mismatch (they differ); missing (the first has no value, the second has one); extra (the other way round);
    stale (the first is right, and the second has a newer row); absent (neither has a value within the TTL).

    Exit code 1: a verdict is neither match nor absent, and not one that --accept names.

    Example: featurectl consistency --sample 20 --accept stale

    Example: featurectl consistency BTCUSDT_1h -f rsi_14,macd --as-of 2024-05-01T12:00Z
    """
    now, kind, accepted = system_clock(), chosen(format, json), _accepted(split(accept))
    asked = Asked(
        ids=tuple(ids or ()),
        views=split(views),
        features=split(features),
        service=service,
        sample=sample,
        seed=seed,
        as_of=parse_time(as_of, now=now) if as_of else None,
        tolerance=tolerance,
        allow_stale=allow_stale,
    )
    with diagnostics.progress("consistency") as show:
        found = reads.consistency(
            open_database(overrides(context)), asked, now=now, find=published_catalog, progress=show
        )
    output.emit(_report(found, accepted, rows), kind, path)
    _conclude(found, accepted, fail_over)


def _accepted(names: Sequence[str]) -> tuple[Verdict, ...]:
    for name in names:
        if name.lower() not in FAULTS:
            raise UsageError(f"--accept {name}: verdicts that can be accepted: {', '.join(FAULTS)}")
    return tuple(Verdict(name.lower()) for name in names)


def _conclude(found: Consistency, accepted: Collection[Verdict], fail_over: int) -> None:
    """Say what else there is to know, and end with 1 where too much differs."""
    for note in found.notes:
        diagnostics.warn(note)
    if not any(getattr(tally, verdict) for tally in found.tallies for verdict in (Verdict.MATCH, *FAULTS)):
        diagnostics.warn(
            f"nothing was compared: no feature has a value within its TTL as of {iso(found.as_of)}; --as-of takes "
            "another instant, --allow-stale older values"
        )
    if (count := found.findings(accepted)) > fail_over:
        diagnostics.warn("1 value differs" if count == 1 else f"{count} values differ")
        raise typer.Exit(1)


def _report(found: Consistency, accepted: Collection[Verdict], most: int) -> output.Report:
    columns = [one.name for one in fields(Difference)]
    rows = [[getattr(one, name) for name in columns] for one in found.differences]
    document = {
        "as_of": found.as_of,
        "seed": found.seed,
        "tolerance": found.tolerance,
        "findings": found.findings(accepted),
        "views": [asdict(one) for one in found.tallies],
        "differences": [asdict(one) for one in found.differences],
        "notes": list(found.notes),
    }
    heads = ["view", "compared", "entities", "features", "match", *FAULTS, "absent", ""]
    table = output.Grid(
        heads,
        [_line(one) for one in found.tallies],
        f"as of {iso(found.as_of)}, seed {found.seed}, tolerance {found.tolerance:g}",
        empty="no view is defined",
        below=_differences(found.differences, most),
    )
    return output.Report("consistency", document, columns, rows, table)


def _line(one: Tally) -> list[Any]:
    counts = [one.match, *(getattr(one, verdict) for verdict in FAULTS), one.absent]
    if one.reason and not one.entities:
        counts = [None] * len(counts)
    return [one.view, _PAIRS[one.pair], f"{one.entities} of {one.of}", one.features, *counts, one.reason or ""]


def _differences(found: Sequence[Difference], most: int) -> list[output.Grid]:
    """Return a table for each view in which something differs, of not more than so many rows in all."""
    views: dict[str, list[Difference]] = {}
    for one in found[:most]:
        views.setdefault(one.view, []).append(one)
    heads = ["entity", "feature", "online", "at", "", "history", "at", "", "recomputed"]
    grids = [output.Grid(heads, [_shown(one) for one in several], view) for view, several in views.items()]
    if grids and len(found) > most:
        more = f"… and {len(found) - most} more; --rows N shows more, -o FILE.csv keeps them all"
        grids[-1] = replace(grids[-1], footer=[more])
    return grids


def _shown(one: Difference) -> list[Any]:
    return [
        one.entity,
        one.feature,
        _number(one.online),
        one.online_event,
        one.online_verdict,
        _number(one.offline),
        one.offline_event,
        one.computed_verdict,
        _number(one.recomputed),
    ]


def _number(value: Any) -> Any:
    """Write a number with all the digits in which it may differ."""
    return f"{value:.12g}" if isinstance(value, float) else value
