"""``featurectl baseline``: the profiles that are saved, and the one that drift is measured from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer

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
from featurectl.core.clock import system_clock
from featurectl.core.db import open_database
from featurectl.core.statistics import baselines
from featurectl.core.statistics.baselines import Saved
from featurectl.core.times import iso, parse_window
from featurectl.statistics import save_profile

app = new_app(help="What features looked like in a window, kept to measure drift from.")

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="A profile's name.")]


@app.command("set", cls=Command)
def set_(
    context: typer.Context,
    name: NameArgument,
    start: StartOption = None,
    end: EndOption = None,
    views: ViewsOption = None,
    service: ServiceOption = None,
    features: FeaturesOption = None,
    entities: EntitiesOption = None,
    format: FormatOption = None,
    json: JsonOption = False,
    path: OutputOption = None,
) -> None:
    """Make a profile the baseline, which `featurectl drift` compares with.

    With a window, or a choice of features or entities, the profile is taken now, in place of one of that name. Without,
    it is one that was saved before, by `featurectl stats --save`.

    Example: featurectl baseline set 2023-q1 --start 2023-01-01 --end 2023-03-31
    """
    now, kind = system_clock(), output.choose_format(chosen(format, json), path)
    window, wanted = parse_window(start, end, now=now), features_chosen(views, service, features, entities)
    database = open_database(overrides(context))
    if any((start, end, views, service, features, entities)):
        saved = save_profile(database, wanted, window, name, now=now, baseline=True)
    else:
        with database.connect() as connection:
            saved = baselines.set_baseline(connection, database.config.project, name)
    diagnostics.note(f"the baseline is now '{saved.name}', of {saved.window}")
    output.emit(_list([saved]), kind, path)


@app.command("list", cls=Command)
def list_(
    context: typer.Context, format: FormatOption = None, json: JsonOption = False, path: OutputOption = None
) -> None:
    """List the profiles that are saved, the newest first.

    Example: featurectl baseline list
    """
    database = open_database(overrides(context))
    with database.connect(read_only=True) as connection:
        found = baselines.list_saved(connection, database.config.project)
    output.emit(_list(found), chosen(format, json), path)


@app.command("show", cls=Command)
def show(
    context: typer.Context,
    name: NameArgument,
    format: FormatOption = None,
    json: JsonOption = False,
    path: OutputOption = None,
) -> None:
    """Show the figures that a profile was saved with, of all entities together and of each.

    Example: featurectl baseline show 2023-q1
    """
    database = open_database(overrides(context))
    with database.connect(read_only=True) as connection:
        saved = baselines.find_saved(connection, database.config.project, name)
        found = baselines.read_statistics(connection, database.config.project, name)
    title = f"{saved.name}{' (the baseline)' if saved.is_baseline else ''}: {saved.window}, saved {iso(saved.saved_at)}"
    document = {"profile": _document(saved)}
    output.emit(statistics_report("baseline show", found, document, title=title), chosen(format, json), path)


@app.command("drop", cls=Command)
def drop(
    context: typer.Context,
    name: NameArgument,
    format: FormatOption = None,
    json: JsonOption = False,
    path: OutputOption = None,
) -> None:
    """Forget a profile.

    Example: featurectl baseline drop 2023-q1
    """
    database = open_database(overrides(context))
    with database.connect() as connection:
        dropped = baselines.drop(connection, database.config.project, name)
    diagnostics.note(f"profile '{dropped.name}' is gone{'; there is no baseline now' if dropped.is_baseline else ''}")
    output.emit(_list([dropped]), chosen(format, json), path)


def _document(saved: Saved) -> dict[str, Any]:
    return {
        "name": saved.name,
        "is_baseline": saved.is_baseline,
        "start": saved.window.start,
        "end": saved.window.end,
        "features": saved.features,
        "entities": saved.entities,
        "saved_at": saved.saved_at,
    }


def _list(found: Sequence[Saved]) -> output.Report:
    documents = [_document(one) for one in found]
    columns = list(documents[0]) if documents else ["name"]
    rows = [list(document.values()) for document in documents]
    heads = ["name", "baseline", "start", "end", "features", "entities", "saved"]
    grid = output.Grid(heads, rows, empty="no profile is saved; `featurectl stats --save NAME` saves one")
    return output.Report("baseline", {"profiles": documents}, columns, rows, grid)
