"""The only module that writes to stderr: notes, warnings, errors and progress. Everything passes the redaction."""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Protocol

from featurectl.core.clock import system_clock
from featurectl.core.redact import MASK, redact
from featurectl.core.times import iso
from featurectl.errors import InvalidTime, UsageError

_COLOURS = {"error": "31", "warning": "33", "note": "2"}

# Names of files and of features may hold what would look like another line, or move a terminal's cursor.
_CONTROLS = {code: rf"\x{code:02x}" for code in (*range(32), *range(127, 160))} | dict.fromkeys(map(ord, "\t\n\r"), " ")

SECONDS_BETWEEN_LINES = 5.0

LOG_FORMAT_VARIABLE = "FEATURECTL_LOG_FORMAT"
_URL_OPTION = "--database-url"

quiet = False
debug = False


class LogFormat(StrEnum):
    """How lines on stderr are written: for people, or one JSON object a line."""

    TEXT = "text"
    JSON = "json"


@dataclass(slots=True)
class _Invocation:
    """One command line at work; its id is on every line of a JSON log, and in the ledger where it writes."""

    words: Sequence[str] = ()
    run_id: str = field(default_factory=lambda: f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{os.urandom(3).hex()}")
    format: LogFormat = LogFormat.TEXT


_invocation = _Invocation()


@contextmanager
def invocation(words: Sequence[str]) -> Iterator[None]:
    """Begin a command line: its own id, its own settings; those of one around it come back at its end."""
    global quiet, debug, _invocation
    before = quiet, debug, _invocation
    quiet = debug = False
    _invocation = _Invocation(words)
    try:
        yield
    finally:
        quiet, debug, _invocation = before


def read_environment() -> None:
    """Take the settings that the environment has.

    Raises:
        UsageError: one of them can't be used.
    """
    if given := os.environ.get(LOG_FORMAT_VARIABLE):
        set_log_format(given, LOG_FORMAT_VARIABLE)


def set_log_format(given: str, source: str = "--log-format") -> None:
    """Write stderr in this format from now on.

    Raises:
        UsageError: there is no such format.
    """
    if given not in list(LogFormat):
        raise UsageError(f"{source} '{given}' is no log format; formats: {', '.join(LogFormat)}")
    _invocation.format = LogFormat(given)


def run_id() -> str:
    """Return the id of this command line."""
    return _invocation.run_id


def arguments() -> list[str]:
    """Return the command line without secrets, for the ledger."""
    words = list(_invocation.words)
    for place, word in enumerate(words):
        if word == _URL_OPTION and place + 1 < len(words):
            words[place + 1] = MASK
        elif word.startswith(f"{_URL_OPTION}="):
            words[place] = f"{_URL_OPTION}={MASK}"
    return [redact(word) for word in words]


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
    _trace(exception)
    error(" ".join(str(exception).split()))


def internal_failure(exception: BaseException) -> None:
    """Report an exception that is a bug of ours."""
    _trace(exception)
    detail = " ".join(str(exception).split())
    error(f"internal error: {type(exception).__name__}: {detail}; run again with --debug and report it")


def _trace(exception: BaseException) -> None:
    """With ``--debug`` show where an exception comes from."""
    text = redact("".join(traceback.format_exception(exception))) if debug else ""
    if text and _invocation.format is LogFormat.JSON:
        text = _json_line(text, "debug") + "\n"
    sys.stderr.write(text)


class Progress(Protocol):
    """What a long job tells of how far it is."""

    def __call__(self, done: int, total: int, label: str) -> None: ...


@contextmanager
def progress(title: str) -> Iterator[Progress]:
    """Show a bar on a terminal; elsewhere, for a job that takes long, a line now and then."""
    if quiet:
        yield lambda done, total, label: None
        return
    if not sys.stderr.isatty() or _invocation.format is LogFormat.JSON:
        yield _log_lines(title)
        return
    from rich.console import Console  # 0.1 s, and only on a terminal
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[label]}"))
    with Bar(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=None, label="")
        yield lambda done, total, label: bar.update(task, completed=done, total=total, label=label)


def _log_lines(title: str) -> Progress:
    began = said = time.monotonic()

    def log(done: int, total: int, label: str) -> None:
        nonlocal said
        now = time.monotonic()
        if now - said >= SECONDS_BETWEEN_LINES:
            said = now
            left = f", about {(now - began) / done * (total - done):.0f} s to go" if done else ""
            note(f"{title}: {done} of {total} done, at {label}{left}")

    return log


def _write(text: str, kind: str = "") -> None:
    text = redact(text).translate(_CONTROLS)
    if _invocation.format is LogFormat.JSON:
        line = _json_line(text, kind or "info")
    else:
        prefix = f"{kind}: " if kind else ""
        if kind and sys.stderr.isatty() and not os.environ.get("NO_COLOR"):
            prefix = f"\x1b[{_COLOURS[kind]}m{prefix}\x1b[0m"
        line = f"{prefix}{text}"
    try:
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()
    except OSError:
        # stderr is closed: there is nobody left to tell.
        return


def _json_line(text: str, level: str) -> str:
    try:
        now = system_clock()
    except InvalidTime:
        now = datetime.now(UTC)
    command = next((word for word in _invocation.words if not word.startswith("-")), None)
    document = {"time": iso(now), "level": level, "run_id": run_id(), "command": command, "message": text}
    return json.dumps(document, ensure_ascii=False)
