"""``featurectl storage`` and ``featurectl maintain``."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import Annotated, Any

import typer

from featurectl import jobs
from featurectl.cli import diagnostics, output
from featurectl.cli.app import new_app
from featurectl.cli.options import Command, FormatOption, JsonOption, OutputOption, chosen, overrides
from featurectl.cli.published import published_catalog
from featurectl.cli.writers import LockingWriter, run_settings
from featurectl.core.clock import system_clock
from featurectl.core.db import open_database
from featurectl.core.inventory import Holding, take_inventory
from featurectl.core.maintain import Maintained
from featurectl.core.storage import NEVER, time_tables
from featurectl.core.times import duration

app = new_app()


@app.command("storage", cls=Command)
def storage(
    context: typer.Context,
    tables: Annotated[list[str] | None, typer.Argument(metavar="[TABLE]...", help="These tables only.")] = None,
    format: FormatOption = None,
    json: JsonOption = False,
    path: OutputOption = None,
) -> None:
    """Show what the tables hold: mode, chunks, size, age and policies.

    Rows of large tables are an estimate. Sizes are on disk, indexes included.

    Example: featurectl storage market.order_book market.trades
    """
    database = open_database(overrides(context))
    with database.connect(read_only=True) as connection:
        catalog = published_catalog(database, connection)
        holdings = take_inventory(connection, time_tables(database.config, catalog), catalog, tables or ())
    output.emit(_inventory(holdings), chosen(format, json), path)


@app.command("maintain", cls=LockingWriter)
def maintain(
    context: typer.Context,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count what is too old; delete nothing.")] = False,
    format: FormatOption = None,
    json: JsonOption = False,
    path: OutputOption = None,
) -> None:
    """Delete rows older than drop_after, where no policy of TimescaleDB does.

    Tables without a drop_after in feature_store.yaml keep everything; so does the ledger of runs without a keep_runs.
    Rows go in small transactions; an interrupted run can be started again.

    Example: featurectl maintain --dry-run
    """
    settings = run_settings(context, dry_run=dry_run)
    with diagnostics.progress("maintain") as progress:
        done = jobs.maintain(
            open_database(overrides(context)),
            now=system_clock(),
            settings=settings,
            find=partial(published_catalog, writes=True),
            progress=progress,
        )
    output.emit(_retention(done, dry_run), chosen(format, json), path)
    if not done:
        diagnostics.note("no table has a drop_after under featurectl.storage in feature_store.yaml; all rows stay")


def _inventory(holdings: list[Holding]) -> output.Report:
    documents = [
        {**asdict(one), "compressed_share": one.compressed_share, "compression_ratio": one.ratio} for one in holdings
    ]
    columns = list(documents[0]) if documents else []
    return output.Report(
        command="storage",
        document={"tables": documents},
        columns=columns,
        rows=[[_seconds(value) for value in document.values()] for document in documents],
        table=output.Grid(_COLUMNS, [_line(one) for one in holdings]),
    )


_COLUMNS = ["table", "mode", "size", "rows", "oldest", "newest", "chunks", "compressed", "ratio"]
_COLUMNS += ["compress after", "drop after", "next job"]


def _line(one: Holding) -> list[Any]:
    compressed = None if one.compressed_share is None else f"{one.compressed_share:.0%}"
    ratio = None if one.ratio is None else f"{one.ratio:.1f}"
    size = None if one.size is None else _bytes(one.size)
    aged = one.mode in ("table", "hypertable")
    ages = [_age(one.compress_after), _age(one.drop_after)] if aged else [None, None]
    times = [one.oldest, one.newest]
    return [one.table, one.mode, size, one.rows, *times, one.chunks, compressed, ratio, *ages, one.next_job]


def _age(span: Any) -> str:
    return duration(span) if span else NEVER


def _bytes(size: int) -> str:
    """Write a number of bytes as people read it: ``512 B``, ``3.4 MB``."""
    amount = float(size)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TB"


def _seconds(value: Any) -> Any:
    return value.total_seconds() if hasattr(value, "total_seconds") else value


def _retention(done: list[Maintained], dry_run: bool) -> output.Report:
    columns = ["table", "mode", "drop_after", "older_than", "rows", "chunks", "by_policy"]
    documents = [{name: getattr(one, name) for name in columns} for one in done]
    verb = "would delete" if dry_run else "deleted"
    shown = [[one.table, one.mode, duration(one.drop_after), one.older_than, _deleted(one)] for one in done]
    return output.Report(
        command="maintain",
        document={"dry_run": dry_run, "tables": documents},
        columns=columns,
        rows=[[_seconds(value) for value in document.values()] for document in documents],
        table=output.Grid(
            ["table", "mode", "drop after", "older than", verb], shown, empty="no table has a drop_after"
        ),
    )


def _deleted(one: Maintained) -> str:
    if one.by_policy:
        return "TimescaleDB's policy does it"
    return f"{one.rows} rows" if one.mode == "table" else f"{one.chunks} chunks"
