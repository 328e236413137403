"""``featurectl stats``."""

from __future__ import annotations

from typing import Annotated

import typer

from featurectl.arguments import group
from featurectl.cli import diagnostics, output
from featurectl.cli.app import new_app
from featurectl.cli.features import EndOption, EntitiesOption, StartOption, features_chosen
from featurectl.cli.figures import statistics_report
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
from featurectl.core.times import parse_window
from featurectl.statistics import save_profile, statistics

app = new_app()


@app.command("stats", cls=Command)
def stats(
    context: typer.Context,
    views: ViewsOption = None,
    service: ServiceOption = None,
    features: FeaturesOption = None,
    entities: EntitiesOption = None,
    start: StartOption = None,
    end: EndOption = None,
    by: Annotated[
        str | None, typer.Option("--by", metavar="GROUP", help="A line for each entity, day (UTC) or timeframe.")
    ] = None,
    save: Annotated[
        str | None, typer.Option("--save", metavar="NAME", help="Save it as a profile, for `featurectl drift`.")
    ] = None,
    format: FormatOption = None,
    json: JsonOption = False,
    path: OutputOption = None,
) -> None:
    """Show what the history of features holds.

    By feature: rows, nulls (NaN is one), mean, deviation, percentiles, distinct values, zeros, outliers (modified
    z-score past 3.5), how old the newest value is, against the view's TTL, and the shape from p1 to p99. A narrow
    terminal shows fewer figures than files and JSON hold.

    Example: featurectl stats --view technical_indicators_view --start -30d

    Example: featurectl stats -f rsi_14 --by entity -o rsi.csv

    Example: featurectl stats --start 2023-01-01 --end 2023-03-31 --save 2023-q1
    """
    now, kind = system_clock(), output.choose_format(chosen(format, json), path)
    grouped, window = group(by), parse_window(start, end, now=now)
    wanted = features_chosen(views, service, features, entities)
    database = open_database(overrides(context))
    found = statistics(database, wanted, window, now=now, by=grouped, find=published_catalog)
    if window.start or window.end:
        diagnostics.note(f"window: {window}")
    if save is not None:
        saved = save_profile(database, wanted, window, save, now=now)
        diagnostics.note(f"saved as profile '{saved.name}': {saved.features} features of {saved.entities} entities")
    output.emit(statistics_report("stats", found, {"window": window.as_dict()}), kind, path)
    if not any(one.rows for one in found):
        diagnostics.warn("there are no rows of these features in this window; `featurectl status` shows what there is")
