"""The only module that writes to stderr: notes, warnings, errors and progress. Everything passes the redaction."""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Protocol

from featurectl.core.clock import new_run_id, system_clock
from featurectl.core.redact import MASK, redact
from featurectl.core.times import iso
from featurectl.errors import InvalidTime, UsageError, encodable

_COLOURS = {"error": "31", "warning": "33", "note": "2"}

# Names of files and of features may hold what would look like another line, or move a terminal's cursor.
_CONTROLS = {code: rf"\x{code:02x}" for code in (*range(32), *range(127, 160))} | dict.fromkeys(map(ord, "\t\n\r"), " ")

SECONDS_BETWEEN_LINES = 5.0

LOG_FORMAT_VARIABLE = "FEATURECTL_LOG_FORMAT"
_URL_OPTION = "--database-url"
_FORMAT_OPTION = "--log-format"
# The common options that take a value, as they stand before a command's name.
VALUED = ("-C", "--repo", _URL_OPTION, "--timeout", _FORMAT_OPTION)

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
    run_id: str = field(default_factory=new_run_id)
    format: LogFormat = LogFormat.TEXT
    # What it was warned of, and is not warned of again.
    warned: set[str] = field(default_factory=set)
    # What is undone at its end, or when the format changes.
    others: ExitStack = field(default_factory=ExitStack)


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
        _invocation.others.close()
        quiet, debug, _invocation = before


def read_settings() -> None:
    """Take the log format from the command line, before that is parsed and found fault with, or the environment.

    Raises:
        UsageError: that of the environment can't be used.
    """
    words = list(_invocation.words)
    words = words[: words.index("--")] if "--" in words else words
    places = [place for place, word in enumerate(words) if word.partition("=")[0] == _FORMAT_OPTION]
    named = [words[place].partition("=")[2] or "".join(words[place + 1 : place + 2]) for place in places]
    # One that does not exist is refused when its turn comes.
    if known := [name for name in named if name in list(LogFormat)]:
        set_log_format(known[-1])
    elif given := os.environ.get(LOG_FORMAT_VARIABLE):
        set_log_format(given, LOG_FORMAT_VARIABLE)


def set_log_format(given: str, source: str = _FORMAT_OPTION) -> None:
    """Write stderr in this format from now on.

    Raises:
        UsageError: there is no such format.
    """
    if given not in list(LogFormat):
        raise UsageError(f"{source} '{given}' is no log format; formats: {', '.join(LogFormat)}")
    _invocation.format = LogFormat(given)
    _invocation.others.close()
    if _invocation.format is LogFormat.JSON:
        _invocation.others.enter_context(_logging_as_json())


@contextmanager
def _logging_as_json() -> Iterator[None]:
    """Write what libraries log, and Python's warnings, as lines of ours."""
    import logging  # 5 ms, which the text that Python writes itself costs only where there is something to log

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            level = "error" if record.levelno >= logging.ERROR else "warning"
            _write(" ".join(self.format(record).split()), level)

    handler, root = Handler(logging.WARNING), logging.getLogger()
    root.addHandler(handler)
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        root.removeHandler(handler)


def run_id() -> str:
    """Return the id of this command line."""
    return _invocation.run_id


def arguments() -> list[str]:
    """Return the command line without secrets, for the ledger, which holds UTF-8 only."""
    words = list(_invocation.words)
    for place, word in enumerate(words):
        if word == _URL_OPTION and place + 1 < len(words):
            words[place + 1] = MASK
        elif word.startswith(f"{_URL_OPTION}="):
            words[place] = f"{_URL_OPTION}={MASK}"
    return [redact(encodable(word)) for word in words]


def note(text: str) -> None:
    """Say what is going on; silent under ``--quiet``."""
    if not quiet:
        _write(text)


def warn(text: str) -> None:
    _write(text, "warning")


def warn_once(text: str) -> None:
    """Warn of what several steps of a command line come upon."""
    if text not in _invocation.warned:
        _invocation.warned.add(text)
        warn(text)


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
    text = "\n".join(line.translate(_CONTROLS) for line in text.split("\n"))
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

    label = TextColumn("{task.fields[label]}", markup=False)  # names of files and symbols, whatever they hold
    columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), label)
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
    document = {"time": iso(now), "level": level, "run_id": run_id(), "command": _command(), "message": text}
    return json.dumps(document, ensure_ascii=False)


def _command() -> str | None:
    """Return the command's name, with that of its group: as the ledger has it."""
    from featurectl.cli.app import COMMANDS

    names: list[str] = []
    words = iter(_invocation.words)
    for word in words:
        if word in VALUED:
            next(words, None)
        elif not word.startswith("-"):
            names.append(word)
            if len(names) > 1 or word not in COMMANDS or not COMMANDS[word].group:
                break
    return redact(" ".join(names)) or None
