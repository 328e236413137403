"""What the `ingest` commands share: one file after the other, what to say about each, and how to end."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Generic, Protocol, TypeVar

import typer

from featurectl.cli import diagnostics, output
from featurectl.errors import FeaturectlError, InputFileError, PartlyDone

if TYPE_CHECKING:
    from featurectl.core.tabular.rejects import Rejects

FilesArgument = Annotated[list[str], typer.Argument(metavar="FILE...", help="CSV, CSV.gz, ZIP, Parquet; - is stdin.")]
SymbolOption = Annotated[
    str | None, typer.Option("--symbol", metavar="NAME", help="The symbol, where no column says it.")
]
RejectsOption = Annotated[
    Path | None, typer.Option("--rejects", metavar="FILE", help="Write rejected rows and reasons to FILE (CSV).")
]


class MarketFile(Protocol):
    """A file that was read, whatever it holds."""

    @property
    def rows_read(self) -> int: ...
    @property
    def rejects(self) -> Rejects: ...
    @property
    def warnings(self) -> tuple[str, ...]: ...
    @property
    def faults(self) -> dict[str, int]: ...


File = TypeVar("File", bound=MarketFile)
Merged = TypeVar("Merged")


@dataclass(frozen=True, slots=True)
class Ingested(Generic[File, Merged]):
    """One file's outcome: what was read and written, or why it could not be."""

    name: str
    file: File | None
    merged: Sequence[Merged]
    error: FeaturectlError | None = None

    @property
    def failed(self) -> bool:
        """Nothing of the file could be used; a file of nothing but an open bar is no failure."""
        return self.file is None or bool(self.file.faults and not self.merged)


def ingest_files(
    names: Sequence[str], ingest: Callable[[str], tuple[File, Sequence[Merged]]]
) -> list[Ingested[File, Merged]]:
    """Ingest files one by one; one that can't be used does not keep the others from it."""
    results: list[Ingested[File, Merged]] = []
    with diagnostics.progress("ingest") as progress:
        for index, name in enumerate(names):
            progress(index, len(names), Path(name).name)
            try:
                results.append(Ingested(name, *ingest(name)))
            except InputFileError as error:
                results.append(Ingested(name, None, [], error))
    return results


def conclude(
    results: Sequence[Ingested[File, Merged]],
    report: output.Report,
    notes: Callable[[File], Iterable[str]],
    format: output.Format | None,
    path: Path | None,
    rejects: Path | None,
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
        output.emit(report, format, path)
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
    failed = [one for one in results if one.failed]
    if not failed:
        return
    errors = [
        one.error or InputFileError(f"{one.name}: not one of its rows could be used; --rejects FILE lists why")
        for one in failed
    ]
    if len(results) == 1:
        raise errors[0]
    for error in errors:
        diagnostics.warn(str(error))
    message = f"{len(results) - len(failed)} of {len(results)} files read; the warnings above say what to do about "
    raise PartlyDone(f"{message}the others") if len(failed) < len(results) else InputFileError(f"{message}them")
