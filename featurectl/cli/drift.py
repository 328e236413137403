"""``featurectl drift``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from featurectl.cli import diagnostics, output
from featurectl.cli.app import new_app
from featurectl.cli.features import EntitiesOption, features_chosen
from featurectl.cli.figures import short
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
)
from featurectl.cli.published import published_catalog
from featurectl.core.clock import system_clock
from featurectl.core.db import open_database
from featurectl.core.times import Window, parse_window
from featurectl.errors import UsageError
from featurectl.statistics import DriftAsked, DriftReport, drift

if TYPE_CHECKING:
    from featurectl.core.statistics.drift import Drift, Limits

app = new_app()

SHOWN = 40
USUAL = timedelta(days=7)


class FailOn(StrEnum):
    """From which verdict on the exit code is 1."""

    WARN = "warn"
    FAIL = "fail"


@app.command("drift", cls=Command)
def drift_(
    context: typer.Context,
    baseline: Annotated[
        str | None,
        typer.Option(
            "--baseline", metavar="NAME", help="Compare with this profile. Default: the baseline, if one is set."
        ),
    ] = None,
    reference: Annotated[
        tuple[str, str] | None, typer.Option("--reference", metavar="START END", help="Compare with this window.")
    ] = None,
    current: Annotated[
        tuple[str, str] | None,
        typer.Option("--current", metavar="START END", help="What is compared. Default: -7d now."),
    ] = None,
    views: ViewsOption = None,
    service: ServiceOption = None,
    features: FeaturesOption = None,
    entities: EntitiesOption = None,
    psi: Annotated[
        tuple[float, float] | None,
        typer.Option("--psi", metavar="WARN FAIL", help="Limits of PSI. Default: by the fields' tags, else 0.1 0.25."),
    ] = None,
    nulls: Annotated[
        tuple[float, float],
        typer.Option("--nulls", metavar="WARN FAIL", help="Limits of the change of the share of nulls."),
    ] = (0.05, 0.2),
    min_rows: Annotated[
        int, typer.Option("--min-rows", metavar="N", min=2, help="Judge no window with fewer values.")
    ] = 100,
    fail_on: Annotated[FailOn, typer.Option("--fail-on", help="Exit with 1 from this verdict on.")] = FailOn.FAIL,
    rows: Annotated[
        int, typer.Option("--rows", metavar="N", min=1, max=1_000_000, help="Lines of the table; files hold all.")
    ] = SHOWN,
    format: FormatOption = None,
    json: JsonOption = False,
    path: OutputOption = None,
) -> None:
    """Tell which features have moved from what they were, top movers first.

    By feature, of all entities together and of each: PSI over the reference's own quantile bins, Kolmogorov-Smirnov,
    Jensen-Shannon and Wasserstein distances (the last in deviations of the reference), and the change of the share of
    nulls. A PSI counts when it is past its limit and past chance: past what stretches of the reference, as long as the
    window, differ from its rest. Features in units of price (tag scale: price) are compared as shares of the close.
    Without a reference or baseline, the window before is the reference, twelve times as long.

    Example: featurectl drift --current -7d now

    Example: featurectl drift --reference 2022-06-01 2022-06-30 --current 2023-03-01 2023-03-31

    Example: featurectl drift --baseline 2023-q1 --view technical_indicators_view --fail-on warn
    """
    now, kind = system_clock(), output.choose_format(chosen(format, json), path)
    asked = DriftAsked(
        features_chosen(views, service, features, entities),
        _window(current, now) or Window(now - USUAL, now),
        _window(reference, now),
        baseline,
        _limits(psi, nulls, min_rows),
    )
    database = open_database(overrides(context))
    found = drift(database, asked, find=published_catalog)
    diagnostics.note(f"reference: {f'profile {found.baseline!r}, ' if found.baseline else ''}{found.reference}")
    diagnostics.note(f"current: {found.current}")
    if found.overlap:
        diagnostics.warn("the windows overlap: rows that are in both make them look more alike than they are")
    output.emit(_report(found, rows), kind, path)
    _conclude(found.drifts, fail_on)


def _window(given: tuple[str, str] | None, now: datetime) -> Window | None:
    return parse_window(*given, now=now) if given else None


def _limits(psi: tuple[float, float] | None, nulls: tuple[float, float], min_rows: int) -> Limits:
    from featurectl.core.statistics.drift import Limits  # 0.1 s: numpy

    for name, pair in (("--psi", psi), ("--nulls", nulls)):
        if pair and not 0 < pair[0] <= pair[1] < float("inf"):
            raise UsageError(f"{name} {pair[0]:g} {pair[1]:g}: give two numbers above 0, the lower one first")
    warn, fail = psi or (None, None)
    return Limits(warn, fail, *nulls, min_rows)


def _report(found: DriftReport, shown: int) -> output.Report:
    documents = [asdict(one) for one in found.drifts]
    columns = [name for name in (documents[0] if documents else {}) if not name.endswith(("shares", "edges"))]
    rows = [[document[name] for name in columns] for document in documents]
    document = {
        "current": found.current.as_dict(),
        "reference": found.reference.as_dict(),
        "baseline": found.baseline,
        "verdicts": _counts(found.drifts),
        "drift": documents,
    }
    heads = ["verdict", "feature", "entity", "psi", "chance", "ks", "js", "wasserstein", "nulls", "began", "because"]
    rest = len(found.drifts) - shown
    footer = [f"… and {rest} more; --rows N shows them, -o FILE.csv keeps all"] if rest > 0 else []
    if found.drifts:
        footer.append(", ".join(f"{count} {verdict}" for verdict, count in _counts(found.drifts).items()))
    if any(one.scale == "price" for one in found.drifts[:shown]):
        footer.append("* in units of price, not stationary by construction: compared as a share of the close")
    lines = [_line(one) for one in found.drifts[:shown]]
    grid = output.Grid(heads, lines, footer=footer, empty="there are no features to compare", styles=VERDICT_STYLES)
    return output.Report("drift", document, columns, rows, grid)


def _counts(found: Sequence[Drift]) -> dict[str, int]:
    """Count each verdict, the worst first."""
    from featurectl.core.statistics.drift import SEVERITY  # 0.1 s: numpy

    return {str(verdict): sum(one.verdict == verdict for one in found) for verdict in SEVERITY}


VERDICT_STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red", "error": "bold red", "insufficient data": "dim"}


def _line(one: Drift) -> list[Any]:
    measures = [short(value) for value in (one.psi, one.chance, one.ks, one.js, one.wasserstein)]
    change = None if one.null_change is None else f"{one.null_change:+.1%}" if abs(one.null_change) >= 0.0005 else "0%"
    name = f"{one.feature}{'*' if one.scale == 'price' else ''}"
    return [
        str(one.verdict),
        name,
        one.entity or "all",
        *(value if value is None else float(f"{value:.3g}") for value in measures),
        change,
        one.began and one.began.isoformat(),
        one.reason,
    ]


def _conclude(found: Sequence[Drift], fail_on: FailOn) -> None:
    """Say how many features have drifted.

    Raises:
        Exit: with 1, there are some of the verdict that the caller minds, or of a worse one.
    """
    minded = {FailOn.WARN: ("warn", "fail"), FailOn.FAIL: ("fail",)}[fail_on]
    bad = [one for one in found if one.verdict in minded]
    if bad:
        names = list(dict.fromkeys(one.feature for one in bad))
        diagnostics.warn(f"drift in {len(names)} feature{'' if len(names) == 1 else 's'}: {', '.join(names)}")
        raise typer.Exit(1)
