"""The only module that writes to stderr: notes, warnings, errors and progress. Everything passes the redaction."""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from featurectl.core.redact import redact

_COLOURS = {"error": "31", "warning": "33", "note": "2"}

SECONDS_BETWEEN_LINES = 5.0

quiet = False
debug = False


def note(text: str) -> None:
    """Say what is going on; silent under ``--quiet``."""
    if not quiet:
        _write(text)


def warn(text: str) -> None:
    _write(text, "warning")


def error(text: str) -> None:
    _write(text, "error")


def failure(exception: BaseException) -> None:
    """Report an exception in one line; with ``--debug`` its traceback comes first."""
    if debug:
        sys.stderr.write(redact("".join(traceback.format_exception(exception))))
    error(" ".join(str(exception).split()))


def internal_failure(exception: BaseException) -> None:
    """Report an exception that is a bug of ours."""
    if debug:
        sys.stderr.write(redact("".join(traceback.format_exception(exception))))
    detail = " ".join(str(exception).split())
    error(f"internal error: {type(exception).__name__}: {detail}; run again with --debug and report it")


class Progress(Protocol):
    """What a long job tells of how far it is."""

    def __call__(self, done: int, total: int, label: str) -> None: ...


@contextmanager
def progress(title: str) -> Iterator[Progress]:
    """Show a bar on a terminal; elsewhere, for a job that takes long, a line now and then."""
    if quiet:
        yield lambda done, total, label: None
        return
    if not sys.stderr.isatty():
        yield _log_lines(title)
        return
    from rich.console import Console  # 0.1 s, and only on a terminal
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[label]}"))
    with Bar(*columns, TimeElapsedColumn(), console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=None, label="")
        yield lambda done, total, label: bar.update(task, completed=done, total=total, label=label)


def _log_lines(title: str) -> Progress:
    said = time.monotonic()

    def log(done: int, total: int, label: str) -> None:
        nonlocal said
        if time.monotonic() - said >= SECONDS_BETWEEN_LINES:
            said = time.monotonic()
            note(f"{title}: {done} of {total} done, at {label}")

    return log


def _write(text: str, kind: str = "") -> None:
    prefix = f"{kind}: " if kind else ""
    if kind and sys.stderr.isatty() and not os.environ.get("NO_COLOR"):
        prefix = f"\x1b[{_COLOURS[kind]}m{prefix}\x1b[0m"
    try:
        sys.stderr.write(f"{prefix}{redact(text)}\n")
        sys.stderr.flush()
    except OSError:
        # stderr is closed: there is nobody left to tell.
        return
