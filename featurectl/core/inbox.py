"""A folder into which files of market data are put: what waits there, how it is read, and where it goes then.

Folders below it say what files hold: ``order-book/``, ``trades/``, ``signals/``, ``candles/``; files beside those are
candles. A file that was read goes to ``done/``, one that could not be used to ``failed/``, with its rejected rows and
its error beside it.
"""

from __future__ import annotations

import errno
import math
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from featurectl.core.db import Connection
from featurectl.core.ingesting import Ingested, ingest_file
from featurectl.core.runs import Run
from featurectl.errors import FeaturectlError, InputFileError, OutputFileError

DONE, FAILED = "done", "failed"
CANDLES, ORDER_BOOK, TRADES, SIGNALS = "candles", "order-book", "trades", "signals"
KINDS = (CANDLES, ORDER_BOOK, TRADES, SIGNALS)
# What programs call a file that they have not finished yet.
_UNFINISHED = (".part", ".partial", ".tmp", ".crdownload", ".filepart", ".download", "~")
# A file that was changed so many seconds ago or less may still be written to.
SETTLE = 2.0
# A file from so far in the future is not one that is written to by a machine whose clock is ahead.
FUTURE = 86400.0
# Modes of what was there a moment ago, and of a link that leads nowhere.
_GONE, _NOWHERE = 0, 1
# The longest name that file systems take, in bytes.
_LONGEST_NAME = 255


@dataclass(frozen=True, slots=True)
class Waiting:
    """A file in the inbox; ``name`` is its path below it, as it can be shown."""

    path: Path
    name: str
    kind: str


@dataclass(frozen=True, slots=True)
class Contents:
    """What is in an inbox: files to be read, files that may not be finished, and what says nothing.

    ``unreadable`` are folders that can't be read, and why.
    """

    files: tuple[Waiting, ...] = ()
    unfinished: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    unreadable: tuple[str, ...] = ()


def look_into(inbox: Path, *, settle: float = SETTLE) -> Contents:
    """Return what waits in an inbox, the oldest first: of two that hold the same bar, the newer file has its say.

    Raises:
        InputFileError: it is no folder, or can't be read.
    """
    files: list[tuple[int, Waiting]] = []
    unfinished, unknown, unreadable = [], [], []
    places = [(inbox, CANDLES)]
    for folder, kind in places:
        try:
            entries = sorted(folder.iterdir())
        except OSError as error:
            reason = f"{folder} can't be read: {error.strerror}"
            if folder == inbox:
                raise InputFileError(f"the inbox {reason}; make it, or name another") from error
            unreadable.append(reason)
            continue
        for path in entries:
            mode, changed = _look_at(path)
            known = path.name.replace("_", "-") if folder == inbox and stat.S_ISDIR(mode) else None
            if mode == _GONE or path.name.startswith(".") or path.name.lower().endswith(_UNFINISHED):
                continue
            if known in KINDS:
                places.append((path, known))
            elif known in (DONE, FAILED):
                continue
            elif not stat.S_ISREG(mode):
                unknown.append(_shown(path.relative_to(inbox)))
            elif _may_be_unfinished(changed, settle):
                unfinished.append(_shown(path.relative_to(inbox)))
            else:
                files.append((changed, Waiting(path, _shown(path.relative_to(inbox)), kind)))
    files.sort(key=lambda one: (one[0], one[1].path))
    return Contents(tuple(file for _, file in files), tuple(unfinished), tuple(unknown), tuple(unreadable))


def _look_at(path: Path) -> tuple[int, int]:
    """Return what a path is, by its mode, and when it was changed, in nanoseconds since 1970."""
    try:
        found = path.stat()
    except OSError:
        return (_NOWHERE if path.is_symlink() else _GONE), 0
    return found.st_mode, found.st_mtime_ns


def _may_be_unfinished(changed: int, settle: float) -> bool:
    return -FUTURE < time.time() - changed / 1e9 < settle


def _identity(path: Path, settle: float) -> tuple[int, ...] | None:
    """Return what a file is recognized by; nothing where it may still be written to, or is gone."""
    try:
        found = path.stat()
    except OSError:
        return None
    if _may_be_unfinished(found.st_mtime_ns, settle):
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _shown(path: Path) -> str:
    """Return a path as text that a log, a table and a terminal can bear, whatever bytes it is made of."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def written_at(name: str) -> datetime | None:
    """Return when a file was last written; nothing for a pipe or what is not there."""
    path = Path(name)
    return datetime.fromtimestamp(path.stat().st_mtime, UTC) if name != "-" and os.path.isfile(path) else None


def ingest_waiting(
    run: Run,
    inbox: Path,
    file: Waiting,
    *,
    ranges: Mapping[str, tuple[float, float]],
    now: datetime,
    settle: float = SETTLE,
) -> Ingested[Any, Any] | None:
    """Ingest one file of an inbox, and move it to what it came to; in a dry run it stays.

    A run that is killed between the two leaves the file, which the next one reads again, and finds all of it there. So
    does one that can't move it, which is the ``error`` of what was ingested. A file that has been changed since it was
    looked for is not read, and one that is changed while it is read is left for the next run, too.

    Raises:
        DatabaseError: the database can't be written to; the file stays where it is.
    """
    before = _identity(file.path, settle)
    if before is None:
        return None
    read, write = _reader(file, ranges, now), _writer(file.kind, now)
    done = ingest_file(run, file.name, read, write)
    if done.failed and done.error is None:
        # `run` has no option for what `ingest` says here.
        rejects = f"{Path(file.name).name}.rejects.csv lists why"
        lists = "a dry run keeps no list of why" if run.settings.dry_run else rejects
        done = replace(done, error=InputFileError(f"{file.name}: not one of its rows could be used; {lists}"))
        run.steps[-1].error = str(done.error)
    if run.settings.dry_run:
        return done
    if _identity(file.path, -math.inf) != before:
        if done.failed:
            run.steps.pop()  # what is wrong with half a file says nothing of it
            return None
        run.settings.say(f"{file.name} was changed while it was read; the next run reads it again")
        return done
    try:
        _move(inbox, file, done, run.run_id)
    except OSError as error:
        place = inbox / (FAILED if done.failed else DONE)
        reason = f"{file.name} can't be moved to {place}: {error.strerror}; mend that, and it is read again"
        run.settings.say(reason)
        run.steps[-1].error = run.steps[-1].error or reason
        return done if done.error else replace(done, error=OutputFileError(reason))
    return done


def _reader(file: Waiting, ranges: Mapping[str, tuple[float, float]], now: datetime) -> Callable[[str], Any]:
    path = str(file.path)

    def read(name: str) -> Any:
        from featurectl.core import candles, ticks  # 0.3 s: they read with Arrow

        try:
            if file.kind == CANDLES:
                return candles.read_candles(
                    path, name=name, symbol=None, timeframe=None, closed_before=now, written_at=written_at(path)
                )
            if file.kind == ORDER_BOOK:
                return ticks.read_order_book(path, name=name, symbol=None, now=now)
            if file.kind == TRADES:
                return ticks.read_trades(path, name=name, symbol=None, now=now)
            return ticks.read_signals(path, name=name, symbol=None, signals=(), ranges=ranges, now=now)
        except FeaturectlError:
            raise
        except Exception as error:
            # A file that nobody foresaw must not stop all those that come after it.
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
            raise InputFileError(f"{name} can't be read ({reason}); look at it, and report it") from error

    return read


def _writer(kind: str, now: datetime) -> Callable[[Connection, Any], Sequence[Any]]:
    from featurectl.core.ingest import merge_candles
    from featurectl.core.ingest_ticks import ORDER_BOOK as BOOKS
    from featurectl.core.ingest_ticks import SIGNALS as SCORES
    from featurectl.core.ingest_ticks import TRADES as DEALS
    from featurectl.core.ingest_ticks import merge_ticks

    if kind == CANDLES:
        return lambda connection, file: merge_candles(connection, file, now=now)
    table = {ORDER_BOOK: BOOKS, TRADES: DEALS, SIGNALS: SCORES}[kind]
    return lambda connection, file: merge_ticks(connection, table, file, now=now)


def _move(inbox: Path, file: Waiting, done: Ingested[Any, Any], run_id: str) -> None:
    place, below = inbox / (FAILED if done.failed else DONE), file.path.relative_to(inbox)
    target = place / below
    if target.exists() or target.is_symlink():
        target = place / run_id / below  # what came before under this name stays
    target.parent.mkdir(parents=True, exist_ok=True)
    if done.file is not None and done.file.faults:
        _write_rejects(_beside(target, ".rejects.csv"), file.name, done)
    if done.failure:
        _beside(target, ".error.txt").write_text(_explained(file, done.failure), encoding="utf-8")
    try:
        os.replace(file.path, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        shutil.move(file.path, target)  # a folder of the inbox may be a link into another file system


def _explained(file: Waiting, failure: FeaturectlError) -> str:
    """Return what is to be said beside a file that failed; options that it names are those of another command."""
    reads = f"`featurectl ingest {file.kind}` reads it with options; or mend it and put it back."
    return f"{failure}\n{reads}\n"


def _beside(target: Path, suffix: str) -> Path:
    """Return the path of something that belongs to a file, whose name is cut where it would become too long."""
    name = os.fsencode(target.name)[: _LONGEST_NAME - len(suffix)]
    return target.with_name(os.fsdecode(name) + suffix)


def _write_rejects(path: Path, name: str, done: Ingested[Any, Any]) -> None:
    from featurectl.core.tabular.rejects import write_rejects

    assert done.file is not None
    handle, temporary = tempfile.mkstemp(prefix=".featurectl-", dir=path.parent)
    os.close(handle)
    write_rejects(Path(temporary), [(name, done.file.rejects)])
    os.chmod(temporary, 0o644)
    os.replace(temporary, path)
