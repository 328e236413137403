"""Market data files one after the other: read, written a file a transaction, and what became of each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import psycopg

from featurectl.core.db import Connection
from featurectl.core.runs import Run, Step
from featurectl.errors import DatabaseError, FeaturectlError, InputFileError, PartlyDone, encodable

if TYPE_CHECKING:
    from featurectl.core.tabular.rejects import Rejects


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


class MergedSeries(Protocol):
    """What one series of a file did to its table."""

    @property
    def new(self) -> int: ...
    @property
    def changed(self) -> int: ...
    @property
    def unchanged(self) -> int: ...


File = TypeVar("File", bound=MarketFile)
Merged = TypeVar("Merged", bound=MergedSeries)


@dataclass(frozen=True, slots=True)
class Ingested(Generic[File, Merged]):
    """One file's outcome: what was read and written, or the ``error`` that kept it from that, or came after it."""

    name: str
    file: File | None
    merged: Sequence[Merged]
    error: FeaturectlError | None = None

    @property
    def failed(self) -> bool:
        """Nothing of the file could be used; a file of nothing but an open bar is no failure."""
        return self.file is None or bool(self.file.faults and not self.merged)

    @property
    def failure(self) -> FeaturectlError | None:
        """Why nothing of it could be used."""
        if not self.failed:
            return None
        return self.error or InputFileError(f"{self.name}: not one of its rows could be used; --rejects FILE lists why")


def ingest_files(
    run: Run,
    names: Sequence[str],
    read: Callable[[str], File],
    write: Callable[[Connection, File], Sequence[Merged]],
    *,
    on_file: Callable[[int, int, str], None] = lambda index, total, name: None,
) -> list[Ingested[File, Merged]]:
    """Ingest files one by one; one that can't be used does not keep the others from it."""
    results: list[Ingested[File, Merged]] = []
    for index, name in enumerate(names):
        on_file(index, len(names), Path(name).name)
        results.append(ingest_file(run, name, read, write))
    run.failure = failure_of(results)
    return results


def ingest_file(
    run: Run, name: str, read: Callable[[str], File], write: Callable[[Connection, File], Sequence[Merged]]
) -> Ingested[File, Merged]:
    """Read a file and write what it holds in one transaction, which is tried again where the database goes away.

    Raises:
        DatabaseError: the database can't be written to, whatever the file.
    """
    try:
        file = read(name)
        merged = run.attempt(lambda connection: write(connection, file))
    except InputFileError as error:
        return _unused(run, name, error)
    except DatabaseError as error:
        if not isinstance(error.__cause__, (psycopg.DataError, psycopg.IntegrityError)):
            raise
        # What the rows are, and not the state of the database, is what it refuses.
        return _unused(run, name, InputFileError(f"{name}: {error}"))
    done = Ingested(name, file, merged)
    run.steps.append(
        Step(
            "ingest",
            encodable(name),
            read=file.rows_read,
            written=sum(one.new + one.changed for one in merged),
            unchanged=sum(one.unchanged for one in merged),
            rejected=sum(file.faults.values()),
            error=str(done.failure) if done.failure else None,
        )
    )
    return done


def _unused(run: Run, name: str, error: InputFileError) -> Ingested[Any, Any]:
    run.steps.append(Step("ingest", encodable(name), error=str(error)))
    return Ingested(name, None, [], error)


def failure_of(results: Sequence[Ingested[File, Merged]]) -> FeaturectlError | None:
    """Return what several files came to: the error of a single one, or how many could not be used."""
    failures = [one.failure for one in results if one.failure]
    if not failures or len(results) == 1:
        return failures[0] if failures else None
    message = f"{len(results) - len(failures)} of {len(results)} files read; the warnings above say what to do about "
    some = len(failures) < len(results)
    return PartlyDone(f"{message}the others") if some else InputFileError(f"{message}them")
