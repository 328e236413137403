"""The only module that writes to stdout, and to ``-o`` files: tables on a terminal, JSON when piped, CSV, Parquet."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from featurectl.core.times import iso
from featurectl.errors import OutputFileError, UsageError, encodable

if TYPE_CHECKING:
    import pyarrow as pa
    from rich.console import Console

    from featurectl.core.arrow import Batches

FORMAT_VERSION = 1


class Format(StrEnum):
    """The formats every command that prints a result knows."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"
    PARQUET = "parquet"


@dataclass(frozen=True, slots=True)
class Grid:
    """Columns and rows as a table on a terminal shows them, with lines above and below, and other tables after it.

    ``styles`` are those of cells with certain texts, where colour is wanted.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    title: str = ""
    footer: Sequence[str] = ()
    empty: str = "nothing to show"
    styles: Mapping[str, str] = field(default_factory=dict)
    below: Sequence[Grid] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """A command's result: the stable JSON document, and the rows that CSV and Parquet hold.

    Tables show ``table`` where people want another layout than files.
    """

    command: str
    document: dict[str, Any]
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    table: Grid | None = None

    @property
    def grid(self) -> Grid:
        return self.table or Grid(self.columns, self.rows)


def emit(report: Report, format: Format | None = None, path: Path | None = None) -> None:
    """Write a report to stdout or, atomically, to ``path``."""
    chosen = choose_format(format, path)
    if chosen is Format.PARQUET:
        _emit_bytes(_parquet(report), path)
        return
    text = {Format.TABLE: _table, Format.JSON: _json, Format.CSV: _csv}[chosen](report)
    if path is None:
        write(text)
    else:
        with atomic_file(path) as handle:
            handle.write(encodable(text).encode())


def refresh(report: Report) -> None:
    """Show a report on the terminal in the place of what was there; what is longer than the terminal is cut."""
    from shutil import get_terminal_size  # 3 ms

    lines, room = _table(report).splitlines(), max(get_terminal_size().lines - 1, 2)
    if len(lines) > room:
        lines[room - 1 :] = [f"… and {len(lines) - room + 1} more lines"]
    shown = "\x1b[K\n".join(lines)
    write(f"\x1b[H{shown}\x1b[K\n\x1b[J")


PREVIEW_ROWS = 20


def emit_batches(command: str, batches: Batches, kind: Format, path: Path | None) -> int:
    """Write Arrow batches as they arrive; a table shows the first rows only. Returns the number of rows."""
    import pyarrow as pa

    writer = {Format.PARQUET: _batches_parquet, Format.CSV: _batches_csv}.get(kind)
    if writer is None:
        return _batches_whole(command, batches, kind, path)
    try:
        with atomic_file(path) if path else _stdout() as handle:
            return writer(batches, handle)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise UsageError(f"{kind} can't hold every column of the result ({error}); choose another format") from error


def _batches_parquet(batches: Batches, sink: IO[bytes]) -> int:
    import pyarrow.parquet as pq

    with pq.ParquetWriter(sink, batches.schema) as writer:
        return _each_batch(batches, writer.write_batch)


def _batches_csv(batches: Batches, sink: IO[bytes]) -> int:
    import pyarrow.csv

    with pyarrow.csv.CSVWriter(sink, batches.schema) as writer:
        return _each_batch(batches, writer.write_batch)


def _each_batch(batches: Batches, write_batch: Callable[[pa.RecordBatch], None]) -> int:
    rows = 0
    for batch in batches:
        write_batch(batch)
        rows += batch.num_rows
    return rows


def _batches_whole(command: str, batches: Batches, kind: Format, path: Path | None) -> int:
    table = batches.table()
    if kind is Format.JSON:
        report = Report(command, {"rows": table.to_pylist()}, table.column_names, [])
    else:
        shown = table.slice(0, PREVIEW_ROWS)
        rest = table.num_rows - shown.num_rows
        footer = [f"… and {rest} more rows; -o FILE.parquet keeps them all"] if rest else []
        rows = [list(row.values()) for row in shown.to_pylist()]
        report = Report(command, {}, table.column_names, rows, Grid(table.column_names, rows, footer=footer))
    emit(report, kind, path)
    return int(table.num_rows)


def write(text: str) -> None:
    """Write text to stdout."""
    with _stdout():
        sys.stdout.write(encodable(text))


@contextlib.contextmanager
def _stdout() -> Iterator[IO[bytes]]:
    """Write to stdout and flush it.

    Raises:
        BrokenPipeError: the reader went away.
        OutputFileError: the disk is full, or whatever else is behind stdout failed.
    """
    try:
        yield sys.stdout.buffer
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        give_up_stdout()
        raise OutputFileError(f"stdout can't be written: {error.strerror}; write to a file with -o FILE") from error


def give_up_stdout() -> None:
    """Send what stdout still holds to nowhere, so that Python's own flush at exit does not fail as well."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def choose_format(format: Format | None, path: Path | None) -> Format:
    """Return the format asked for, that of the file's suffix, a table on a terminal, or JSON.

    Raises:
        UsageError: the file's suffix says nothing and no format is given, or Parquet would go to a terminal.
    """
    chosen = _choose_format(format, path)
    if chosen is Format.PARQUET and path is None and sys.stdout.isatty():
        raise UsageError("Parquet is binary and stdout is a terminal; give -o FILE.parquet")
    return chosen


def _choose_format(format: Format | None, path: Path | None) -> Format:
    if format is not None:
        return format
    if path is not None:
        suffixes = {".json": Format.JSON, ".csv": Format.CSV, ".parquet": Format.PARQUET, ".txt": Format.TABLE}
        if path.suffix.lower() not in suffixes:
            raise UsageError(f"{path}: the suffix names no format; write {', '.join(suffixes)}, or give --format")
        return suffixes[path.suffix.lower()]
    from_environment = os.environ.get("FEATURECTL_FORMAT")
    if from_environment:
        try:
            return Format(from_environment)
        except ValueError:
            raise UsageError(f"FEATURECTL_FORMAT='{from_environment}'; formats: {', '.join(Format)}") from None
    return Format.TABLE if sys.stdout.isatty() else Format.JSON


def check_writable(path: Path) -> None:
    """Find out, before the work, whether its result can be written.

    Raises:
        OutputFileError: it can't.
    """
    with _writing(path):
        if path.is_dir():
            raise OutputFileError(f"{path} is a directory; name a file in it")
        if not _is_special(path):
            from tempfile import TemporaryFile  # 2 ms

            TemporaryFile(dir=real(path).parent).close()


def check_replaceable(path: Path) -> None:
    """Find out whether a file can take the place of ``path``, which is not written to but replaced.

    Raises:
        OutputFileError: it can't, or is a device or a pipe, which must stay one.
    """
    check_writable(path)
    if _is_special(path):
        raise OutputFileError(f"{path} is a device or a pipe, which no file may replace; name another file")


def real(path: str | Path) -> Path:
    """Return a path with its links followed; one whose links go round in a circle as it is."""
    return Path(os.path.realpath(path))  # Path.resolve raises RuntimeError there, up to Python 3.12


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary path beside ``path`` that takes its place at the end, or goes away on failure.

    Raises:
        OutputFileError: the file can't be written.
    """
    check_writable(path)
    if _is_special(path):
        with _writing(path):
            yield path
        return
    from tempfile import mkstemp

    with _writing(path):
        target = real(path)
        handle, name = mkstemp(prefix=".featurectl-", suffix=path.suffix, dir=target.parent)
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            os.chmod(temporary, target.stat().st_mode & 0o777 if target.exists() else 0o666 & ~_umask())
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)


def _is_special(path: Path) -> bool:
    """Tell whether ``path`` is a device or a pipe, such as /dev/null: written to, never replaced."""
    return path.exists() and not path.is_file()


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputFileError(f"{path} can't be written: {error.strerror}; name another file") from error


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[IO[bytes]]:
    """Open ``path`` for writing; it appears whole or not at all."""
    with atomic_path(path) as temporary, temporary.open("wb") as handle:
        yield handle


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _emit_bytes(content: bytes, path: Path | None) -> None:
    if path is not None:
        with atomic_file(path) as handle:
            handle.write(content)
    else:
        with _stdout() as handle:
            handle.write(content)


def _json(report: Report) -> str:
    document = {"format_version": FORMAT_VERSION, "command": report.command, **report.document}
    indent = 2 if sys.stdout.isatty() else None
    settings: dict[str, Any] = {"default": plain, "ensure_ascii": False, "allow_nan": False, "indent": indent}
    try:
        return json.dumps(document, **settings) + "\n"
    except ValueError:
        return json.dumps(_finite(document), **settings) + "\n"


def _finite(value: Any) -> Any:
    """Return a document with null for NaN and infinity, which JSON can't hold and a table of one's own may."""
    if isinstance(value, dict):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def plain(value: Any) -> Any:
    """Return what JSON can hold for a value it does not know."""
    if isinstance(value, datetime):
        return iso(value)
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value).hex()
    if isinstance(value, dict):
        return json.dumps(value, default=plain, ensure_ascii=False)
    return str(value)


def _csv(report: Report) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(report.columns)
    writer.writerows([_csv_cell(value) for value in row] for row in report.rows)
    return buffer.getvalue()


def _csv_cell(value: Any) -> Any:
    if value is None:
        return ""
    if isinstance(value, (list, tuple)):
        return " ".join(str(item) for item in value)
    if isinstance(value, (str, int, float)):
        return value
    return plain(value)


def _parquet(report: Report) -> bytes:
    import pyarrow as pa  # 0.3 s, and only for this format
    import pyarrow.parquet as pq

    def array(values: list[Any]) -> pa.Array:
        try:
            return pa.array(values)
        except (pa.ArrowException, UnicodeEncodeError, OverflowError):
            # A column of several types, or of what no type of Arrow holds.
            return pa.array([None if value is None else encodable(cell(value)) for value in values])

    data = {name: array([row[index] for row in report.rows]) for index, name in enumerate(report.columns)}
    sink = io.BytesIO()
    pq.write_table(pa.table(data), sink)
    return sink.getvalue()


def _table(report: Report) -> str:
    from rich.console import Console  # 0.1 s, and only for tables

    buffer = io.StringIO()
    terminal = sys.stdout.isatty()
    console = Console(file=buffer, force_terminal=terminal, width=None if terminal else 200, highlight=False)
    for number, grid in enumerate((report.grid, *report.grid.below)):
        if number:
            console.print()
        _print_grid(console, grid)
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines()) + "\n"


def _print_grid(console: Console, grid: Grid) -> None:
    from rich.table import Table
    from rich.text import Text

    styles = {} if os.environ.get("NO_COLOR") or not sys.stdout.isatty() else grid.styles
    table = Table(box=None, pad_edge=False, header_style="" if os.environ.get("NO_COLOR") else "bold")
    for index, name in enumerate(grid.columns):
        numbers = any(_is_number(row[index]) for row in grid.rows)
        table.add_column(name, justify="right" if numbers else "left", overflow="fold")
    for row in grid.rows:
        table.add_row(*(Text(text, style=styles.get(text, "")) for text in map(cell, row)))
    if grid.title:
        console.print(Text(grid.title))
    console.print(table if grid.rows else Text(grid.empty))
    for line in grid.footer:
        console.print(Text(line))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


_CELLS: dict[type, Callable[[Any], str]] = {
    type(None): lambda value: "-",
    bool: lambda value: "yes" if value else "no",
    float: lambda value: f"{value:.6g}" if math.isfinite(value) else "-",
    datetime: iso,
    dict: plain,
    bytes: plain,
}


def cell(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(str(item) for item in value)
    return _CELLS.get(type(value), str)(value)
