"""``featurectl get-offline``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from featurectl.arguments import offline_source
from featurectl.cli import diagnostics, output
from featurectl.cli.app import new_app
from featurectl.cli.options import (
    Command,
    FeaturesOption,
    FormatOption,
    JsonOption,
    OutputOption,
    ServiceOption,
    chosen,
    overrides,
    split,
)
from featurectl.cli.published import published_catalog
from featurectl.core.clock import system_clock
from featurectl.core.entity import parse_id_or_symbol
from featurectl.core.online import Source
from featurectl.core.rescue import find_database
from featurectl.core.serving.paths import Backend
from featurectl.core.targets import parse_targets
from featurectl.core.times import parse_window
from featurectl.errors import UsageError
from featurectl.reads import TrainingSet, open_training_set

app = new_app()


@app.command("get-offline", cls=Command)
def get_offline(
    context: typer.Context,
    ids: Annotated[list[str] | None, typer.Argument(metavar="[ID...]", help="Entity ids: BTCUSDT_1h")] = None,
    start: Annotated[str | None, typer.Option("--start", metavar="TIME", help="First event time.")] = None,
    end: Annotated[str | None, typer.Option("--end", metavar="TIME", help="Last event time.")] = None,
    spine: Annotated[
        Path | None,
        typer.Option(
            "--spine", metavar="FILE", help="CSV or Parquet with entity_id and event_timestamp, in place of ids."
        ),
    ] = None,
    features: FeaturesOption = None,
    service: ServiceOption = None,
    target: Annotated[
        list[str] | None,
        typer.Option(
            "--target",
            metavar="KIND:N",
            help="forward_return:N, log_return:N or direction:N, N bars ahead; again, or comma-separated, for more.",
        ),
    ] = None,
    backend: Annotated[
        Backend, typer.Option("--backend", help="timescaledb or feast; auto takes Feast where no SQL reads a feature.")
    ] = Backend.AUTO,
    format: FormatOption = None,
    json: JsonOption = False,
    path: OutputOption = None,
) -> None:
    """Build a training set, point-in-time correct.

    Each row gets the features known at its event time, within their TTL. With ids and a window there is a row for
    every event time of the features asked for. With a spine, its rows stay all there, in their order, with their
    other columns; `symbol` and `timeframe` beside `entity_id` must say the same. Times without a zone are UTC. A
    target is null where its future is not there yet, or a bar is missing. Where all features asked for are keyed by
    symbol alone, a symbol is an id.

    Example: featurectl get-offline BTCUSDT_1h --start 2023-01-01 --end 2023-06-30 -o train.parquet

    Example: featurectl get-offline --spine labels.csv --service technical_indicators_service -o train.csv

    Example: featurectl get-offline BTCUSDT_1h --start -1w --end now -f rsi_14 --target forward_return:24,direction:1
    """
    now = system_clock()
    window = parse_window(start, end, now=now)
    _check(ids, start, end, spine)
    entities = [parse_id_or_symbol(text) for text in ids or ()]
    asked = TrainingSet(split(features), service, parse_targets(split(target)), entities, window, spine)
    kind, source = output.choose_format(chosen(format, json), path), offline_source(backend)
    database, rescue = find_database(overrides(context))
    if rescue is not None:
        diagnostics.warn(rescue.reason)
    with open_training_set(database, asked, now=now, find=published_catalog, source=source) as training:
        if training.source is Source.FEAST:
            diagnostics.note("Feast reads these features")
        if not spine:
            diagnostics.note(f"window: {window}")
        rows = output.emit_batches("get-offline", training.batches, kind, path)
    diagnostics.note(f"{rows} rows{f' in {path}' if path else ''}")
    if not rows:
        diagnostics.warn(
            "there are no features for these ids in this window; `featurectl entities symbol` shows what there is"
        )


def _check(ids: list[str] | None, start: str | None, end: str | None, spine: Path | None) -> None:
    if spine and (ids or start or end):
        raise UsageError("--spine names entities and times itself; leave out ids, --start and --end")
    if not spine and not ids:
        raise UsageError("give entity ids with --start and --end, or --spine FILE")
    if not spine and not (start and end):
        raise UsageError("give --start and --end, for example --start -30d --end now")
