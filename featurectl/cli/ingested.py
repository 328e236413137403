"""What the `ingest` commands share: one file after the other, what to say about each, and how to end."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from featurectl.cli import diagnostics, output
from featurectl.cli.writers import tell_dry_run
from featurectl.core import ingesting
from featurectl.core.db import Connection, Database
from featurectl.core.ingesting import File, Ingested, Merged, failure_of
from featurectl.core.runs import RunSettings, open_run
from featurectl.core.schema import require_known

FilesArgument = Annotated[list[str], typer.Argument(metavar="FILE...", help="CSV, CSV.gz, ZIP, Parquet; - is stdin.")]
SymbolOption = Annotated[
    str | None, typer.Option("--symbol", metavar="NAME", help="The symbol, where no column says it.")
]
RejectsOption = Annotated[
    Path | None, typer.Option("--rejects", metavar="FILE", help="Write rejected rows and reasons to FILE (CSV).")
]


def ingest_files(
    database: Database,
    settings: RunSettings,
    names: Sequence[str],
    read: Callable[[str], File],
    write: Callable[[Connection, File], Sequence[Merged]],
    *,
    now: datetime,
) -> list[Ingested[File, Merged]]:
    """Ingest files as a run of its own.

    Raises:
        SchemaMissing: nothing is applied, or the schema is another version's.
    """
    with open_run(database, settings, now=now) as run, diagnostics.progress("ingest") as progress:
        run.attempt(require_known)
        return ingesting.ingest_files(run, names, read, write, on_file=progress)


def conclude(
    results: Sequence[Ingested[File, Merged]],
    report: output.Report,
    notes: Callable[[File], Iterable[str]],
    format: output.Format | None,
    path: Path | None,
    rejects: Path | None,
    dry_run: bool,
) -> None:
    """Write the rejects, say what there is to say about each file, print the report.

    Raises:
        InputFileError: no file could be used.
        PartlyDone: some of several could not.
    """
    if rejects:
        _write_rejects(rejects, results)
    for one in results:
        if one.file:
            _explain(one.name, one.file, rejects, notes)
    if not all(one.failed for one in results):
        output.emit(replace(report, document={"dry_run": dry_run, **report.document}), format, path)
    tell_dry_run(dry_run)
    _finish(results)


def _write_rejects(path: Path, results: Sequence[Ingested[File, Merged]]) -> None:
    """Write the rejects of all files into one CSV; with several files a column says which."""
    from featurectl.core.tabular.rejects import write_rejects

    read = [(one.name, one.file.rejects) for one in results if one.file]
    with output.atomic_path(path) as temporary:
        write_rejects(temporary, read)


def _explain(name: str, file: File, rejects: Path | None, notes: Callable[[File], Iterable[str]]) -> None:
    for text in file.warnings:
        diagnostics.warn(f"{name}: {text}")
    if file.faults:
        reasons = ", ".join(f"{number} {reason}" for reason, number in file.faults.items())
        where = f"see {rejects}" if rejects else "--rejects FILE lists them"
        diagnostics.warn(f"{name}: rejected {count(sum(file.faults.values()), 'row')}: {reasons}; {where}")
    for text in notes(file):
        diagnostics.note(text)


def count(number: int, noun: str) -> str:
    """Write a number of things: 1 row, 2 rows."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _finish(results: Sequence[Ingested[File, Merged]]) -> None:
    """Leave with the error of a single file, or say how many of several failed."""
    if len(results) > 1:
        for one in results:
            if one.failure:
                diagnostics.warn(str(one.failure))
    if failure := failure_of(results):
        raise failure
