"""What commands take, as Typer knows it, and a caller that tries command lines in this process.

A case runs with streams, an environment and a working directory of its own. Besides what it prints, its outcome says
what it would have written outside that directory, or started; neither is let happen.
"""

from __future__ import annotations

import io
import json
import os
import random
import signal
import sys
import tempfile
import threading
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import IO, Any, ClassVar
from unittest import mock

import typer

from featurectl.cli.app import COMMANDS, app, run
from featurectl.core import redact
from tests.odd_values import GOOD, ODD, TEXT, Kind, Words

# 70 is a bug of ours and 141 a reader that went away; everything else is in README.
CODES = frozenset({0, 1, 2, 3, 4, 5, 6, 130, 143})
# Seconds that the slowest case may take, and then some.
TOO_LONG = 20

# Where coverage keeps its data, which it writes when a process ends or becomes another.
_MEASURED = tuple(str(Path(name).parent) for name in filter(None, [os.environ.get("COVERAGE_FILE")]))


# --- parameters ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Parameter:
    """An option or an argument of a command; ``flag`` is what stands before its values, if anything."""

    flag: str
    kind: Kind
    values: int = 1
    choices: Words = ()
    is_common: bool = False

    def odd(self) -> Words:
        """Return the odd values of its kind."""
        return ODD[self.kind]

    def words(self, value: str, other: str = "") -> Words:
        """Return how the parameter is given with a value, and with another where it takes two."""
        if self.kind is Kind.FLAG:
            return (f"{self.flag}={value}",)
        values = (value, *[other or value] * (self.values - 1))
        return (self.flag, *values) if self.flag else values


_OUTPUTS = ("--output", "--rejects", "--metrics-file")
_METAVARS = {
    "TIME": Kind.TIME,
    "START": Kind.TIME,
    "END": Kind.TIME,
    "START END": Kind.TIME,
    "DURATION": Kind.DURATION,
    "SECONDS": Kind.NUMBER,
    "BARS": Kind.NUMBER,
    "N": Kind.NUMBER,
    "FILE": Kind.INPUT,
    "DIR": Kind.DIRECTORY,
    "ID": Kind.ID,
    "KIND:N": Kind.TARGET,
    "URL": Kind.URL,
    "NAME": Kind.NAME,
    "VIEW": Kind.NAME,
    "TABLE": Kind.NAME,
    "show ID": Kind.NAME,
}


def leaves() -> list[Words]:
    """Return every command there is, those of groups included."""
    root = typer.main.get_command(app)
    found: list[Words] = []
    for name, entry in COMMANDS.items():
        command: Any = root.get_command(None, name)  # type: ignore[attr-defined]
        found += [(name, inner) for inner in command.commands] if entry.group else [(name,)]
    return found


def parameters(words: Words) -> list[Parameter]:
    """Return the arguments and options of a command."""
    command: Any = typer.main.get_command(app)
    for word in words:
        command = command.get_command(None, word)
    return [_parameter(one) for one in command.params if one.name != "help"]


def _parameter(one: Any) -> Parameter:
    is_option = one.param_type_name == "option"
    flag = one.opts[-1] if is_option else ""
    if getattr(one, "is_flag", False):
        kind = Kind.FLAG
    elif flag == "--database-url":
        kind = Kind.DATABASE
    elif flag in _OUTPUTS:
        kind = Kind.OUTPUT
    else:
        kind = _METAVARS.get((one.metavar or "").strip("[].…"), Kind.TEXT)
    # Feast takes seconds to load.
    choices = tuple(str(choice) for choice in getattr(one.type, "choices", ()) if choice != "feast")
    return Parameter(flag, kind, max(one.nargs, 1), choices, not one.expose_value)


# --- the caller ------------------------------------------------------------------------------------------------------


class TookTooLong(BaseException):
    """A case did not end in its time."""


class Started(BaseException):
    """A case would have replaced this process by another program."""


@dataclass(frozen=True)
class Case:
    """A command line, with what its environment has besides, and what comes from stdin."""

    words: Words
    env: Mapping[str, str] = field(default_factory=dict)
    stdin: bytes = b""

    def __str__(self) -> str:
        short = [word if len(word) < 200 else f"{word[:20]}…({len(word)})" for word in self.words]
        return f"{self.env or ''} {short!r}"


@dataclass(frozen=True)
class Outcome:
    """What became of a case."""

    code: int
    stdout: str
    stderr: str
    outside: tuple[str, ...] = ()

    def faults(self, case: Case) -> Iterator[str]:
        """Yield what is wrong with it, whatever the case was."""
        if self.outside:
            yield f"leaves its folder: {self.outside}"
        if self.code not in CODES:
            yield f"exit code {self.code}"
        lines = self.stderr.removesuffix("\n").split("\n")
        told = [_told(line) for line in lines]
        errors = [text for level, text in told if level == "error"]
        if any("internal error" in text for _, text in told):
            yield "internal error"
        if "Traceback" in self.stderr and "--debug" not in case.words:
            yield "traceback"
        # A traceback says what the exception says, as it stands.
        if len(errors) != (self.code not in (0, 1)) and "--debug" not in case.words:
            yield f"{len(errors)} lines begin with error"
        if errors and told[-1][0] != "error":
            yield "the error has several lines"
        if any(unicodedata.category(one) == "Cc" for one in self.stderr.replace("\n", "")):
            yield "control characters on stderr"
        # The demo shows what it has done so far.
        if self.code in (2, 3, 4) and self.stdout and "demo" not in case.words:
            yield "something on stdout beside an error"
        if self.code in (0, 1, 5, 6) and self.stdout.startswith("{"):
            try:
                json.loads(self.stdout)
            except ValueError as error:
                yield f"stdout is not JSON: {error}"


def _told(line: str) -> tuple[str, str]:
    """Return the level of a line on stderr and what it says; lines of a JSON log are objects."""
    if line.startswith("{"):
        document = json.loads(line)
        return document["level"], document["message"]
    level, separator, text = line.partition(": ")
    return (level, text) if separator and level in ("error", "warning") else ("", line)


class Caller:
    """Runs command lines in this process, below ``folder``; what they may write is there, and in ``others``."""

    def __init__(self, folder: Path, *others: Path) -> None:
        self.folder = folder
        self.cases = 0
        self._guard = _guard()
        self._allowed = tuple(str(path) for path in (folder, *others))

    def call(self, case: Case) -> Outcome:
        """Run a case and return what became of it."""
        self.cases += 1
        known = set(redact._known)
        code, escaped = 0, ""
        with _streams(case.stdin) as raw, mock.patch.dict(os.environ, case.env), _threads(), _watchdog():
            with self._guard.watch(self._allowed):
                try:
                    code = run(case.words)
                except Started:
                    code = 0
                except TookTooLong:
                    code, escaped = 124, f"took more than {TOO_LONG} s"
                except BaseException as error:
                    code, escaped = 256, f"{type(error).__name__} escaped: {error}"
            sys.stdout.flush()
            sys.stderr.flush()
            out, err = (_content(stream) for stream in raw)
        # A process of its own knows no secrets of those before it.
        redact._known.intersection_update(known)
        return Outcome(code, out, err + escaped, tuple(self._guard.outside))


def _content(stream: IO[bytes]) -> str:
    stream.seek(0)
    return stream.read().decode("utf-8", "replace")


@contextmanager
def _streams(stdin: bytes) -> Iterator[tuple[IO[bytes], IO[bytes]]]:
    """Give the process streams as Python makes them: what stdout can't encode fails, what stderr can't is escaped."""
    before = sys.stdin, sys.stdout, sys.stderr
    with tempfile.TemporaryFile() as first, tempfile.TemporaryFile() as second:
        out = io.TextIOWrapper(first, "utf-8", "strict", newline="\n", write_through=True)
        err = io.TextIOWrapper(second, "utf-8", "backslashreplace", newline="\n", write_through=True)
        sys.stdin, sys.stdout, sys.stderr = io.TextIOWrapper(io.BytesIO(stdin)), out, err
        try:
            yield first, second
        finally:
            sys.stdin, sys.stdout, sys.stderr = before
            out.detach()
            err.detach()


@contextmanager
def _threads() -> Iterator[None]:
    """Have threads that fail say so on stderr, as they do outside pytest."""
    with mock.patch.object(threading, "excepthook", threading.__excepthook__):
        yield


@contextmanager
def _watchdog() -> Iterator[None]:
    def bark(_: int, __: FrameType | None) -> None:
        raise TookTooLong

    before = signal.signal(signal.SIGALRM, bark)
    signal.setitimer(signal.ITIMER_REAL, TOO_LONG)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class _Guard:
    """Hears, as an audit hook, of every file that Python opens, makes or removes, and of every program it starts."""

    # Of the arguments of each, those that name what is changed.
    _FILES: ClassVar[Mapping[str, slice]] = {
        "os.mkdir": slice(1),
        "os.remove": slice(1),
        "os.rmdir": slice(1),
        "os.rename": slice(2),
        "os.link": slice(1, 2),
        "os.symlink": slice(1, 2),
        "os.truncate": slice(1),
    }
    _PROGRAMS = frozenset({"subprocess.Popen", "os.exec", "os.fork", "os.posix_spawn", "os.system", "pty.spawn"})
    _WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

    def __init__(self) -> None:
        self.outside: list[str] = []
        self._allowed: Words | None = None

    @contextmanager
    def watch(self, allowed: Words) -> Iterator[None]:
        self.outside, self._allowed = [], (*allowed, *_MEASURED, "/dev/null", "/dev/full", "/proc")
        try:
            yield
        finally:
            self._allowed = None

    def hear(self, event: str, args: tuple[Any, ...]) -> None:
        if self._allowed is None:
            return
        if event == "open":
            if args[2] & self._WRITES:
                self._check(event, args[0])
        elif event in self._FILES:
            # Below a directory that is open, what is named is relative to that.
            if event == "os.truncate" or args[-1] < 0:
                for path in args[self._FILES[event]]:
                    self._check(event, path)
        elif event in self._PROGRAMS:
            if event == "os.exec":
                raise Started
            self.outside.append(f"{event} {args[:2]!r}")
            raise PermissionError(1, "the fuzz starts no programs")

    def _check(self, event: str, path: Any) -> None:
        if isinstance(path, int):
            return
        place = os.path.abspath(os.fsdecode(path))
        if "__pycache__" in place or any(place == one or place.startswith(f"{one}/") for one in self._allowed or ()):
            return
        self.outside.append(f"{event} {place}")
        raise PermissionError(1, "outside of the fuzz's folder")


_the_guard: list[_Guard] = []


def _guard() -> _Guard:
    """Return the one guard of this process: an audit hook can't be taken away."""
    if not _the_guard:
        _the_guard.append(_Guard())
        sys.addaudithook(_the_guard[0].hear)
    return _the_guard[0]


# --- random command lines --------------------------------------------------------------------------------------------


# Trying again for years where no server is, and a chunk a second of years.
_TOO_LONG_TOGETHER = frozenset({("--retry-for", "--database-url"), ("--chunk", "--from")})


def random_case(chance: random.Random, command: Words, plain: Callable[[Words], Words]) -> Case:
    """Return a command line of some parameters of a command, each with an odd value, or one of those it takes."""
    given = list(plain(command))
    chosen = chance.choices(parameters(command), k=chance.randint(1, 5))
    for one in chosen:
        if any((one.flag, other.flag) in _TOO_LONG_TOGETHER for other in chosen):
            continue
        is_odd = chance.random() < 0.5
        values = (*one.odd(), *TEXT) if is_odd else (one.choices or GOOD[one.kind])
        value, second = chance.choice(values), chance.choice(values)
        if one.kind is Kind.FLAG and chance.random() < 0.9:
            given.append(one.flag)
        else:
            given += one.words(value, second)
    if chance.random() < 0.1:
        given.insert(chance.randint(0, len(given)), chance.choice(TEXT))
    return Case(tuple(given))
