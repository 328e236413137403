"""What the commands that write share: how they go about locks, a database that is away, and dry runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperOption
from typer.main import get_click_type

from featurectl.cli import diagnostics, output
from featurectl.cli.options import Command
from featurectl.core.locks import PATIENCE, IfLocked, Locking
from featurectl.core.runs.heartbeat import checked
from featurectl.core.runs.settings import RunSettings
from featurectl.core.times import Window, parse_duration
from featurectl.errors import InvalidTime, UsageError

DryRunOption = Annotated[
    bool,
    typer.Option("--dry-run", help="Do it all in one transaction and keep nothing; the report says what would be."),
]
LastOption = Annotated[
    str | None, typer.Option("--last", metavar="DURATION", help="The window from so long ago to now: 90m, 2h, 7d.")
]
_META = "featurectl.writing"


@dataclass(frozen=True, slots=True)
class Writing:
    """How a command that writes is to go about it; ``None`` where nothing is said. Times are seconds."""

    if_locked: IfLocked | None = None
    wait_for: float | None = None
    retry_for: float | None = None
    metrics_file: Path | None = None
    heartbeat: str | None = field(default=None, repr=False)

    def over(self, other: Writing) -> Writing:
        """Return what this says, and the other where this says nothing."""
        pairs = {one.name: (getattr(self, one.name), getattr(other, one.name)) for one in fields(self)}
        return Writing(**{name: second if first is None else first for name, (first, second) in pairs.items()})


class Writer(Command):
    """A command whose runs are recorded, tried again and watched; its options are in :func:`writing`."""

    def writing_options(self) -> list[TyperOption]:
        """Return the options of how it goes about writing."""
        retry = "Try again for so long when the database goes away; 0s: not at all. Default: 60s, or retry_for."
        metrics = "Write metrics for Prometheus' node exporter at the end."
        heartbeat = "Ask for URL at the end; for URL/fail where it was no success."
        return [
            _option("--retry-for", str, retry, metavar="DURATION"),
            _option("--metrics-file", str, metrics, metavar="FILE"),
            _option("--heartbeat", str, heartbeat, metavar="URL"),
        ]

    def shared_options(self) -> list[TyperOption]:
        return [*self.writing_options(), *super().shared_options()]

    def prepare(self, ctx: Any) -> None:
        super().prepare(ctx)
        # Its function knows nothing of them.
        ctx.meta[_META] = {one.name: ctx.params.pop(one.name) for one in self.writing_options()}


class LockingWriter(Writer):
    """A command that does its work under locks, too."""

    def writing_options(self) -> list[TyperOption]:
        policies = get_click_type(annotation=IfLocked, parameter_info=typer.Option())
        policy = "Where another run holds a lock: fail (exit code 4, the default), skip (0), or wait for it."
        wait = f"How long --if-locked wait waits: 30s, 2h. Default: {PATIENCE / 60:g}m."
        return [
            _option("--if-locked", policies, policy),
            _option("--wait-for", str, wait, metavar="DURATION"),
            *super().writing_options(),
        ]


def _option(name: str, kind: Any, text: str, metavar: str | None = None) -> TyperOption:
    return TyperOption(param_decls=[name], type=kind, metavar=metavar, help=text)


def writing(context: typer.Context) -> Writing:
    """Return what the options of a :class:`Writer` say; of another command, nothing.

    Raises:
        InvalidTime: a duration can't be read.
        UsageError: the heartbeat is no URL.
    """
    given = {name: value for name, value in context.meta.get(_META, {}).items() if value is not None}
    return Writing(**{name: _READERS[name](value) for name, value in given.items()})


def _seconds(text: str) -> float:
    return parse_duration(text).total_seconds()


_READERS: Mapping[str, Callable[[str], Any]] = {
    "if_locked": IfLocked,
    "wait_for": _seconds,
    "retry_for": _seconds,
    "metrics_file": Path,
    "heartbeat": checked,
}


def run_settings(context: typer.Context, *, dry_run: bool = False, otherwise: Writing = Writing()) -> RunSettings:
    """Return how a command that writes goes about it, and what the ledger is to say that it was asked for.

    ``otherwise`` is for what its options do not say.

    Raises:
        as :func:`writing`.
        OutputFileError: the metrics can't be written there.
        UsageError: it is to wait for no time, which the server takes for no limit; a dry run is to wait.
    """
    given = writing(context)
    if dry_run and given.if_locked is IfLocked.WAIT:
        raise UsageError("--dry-run and --if-locked wait contradict each other: it would show what was before the wait")
    if dry_run and otherwise.if_locked is IfLocked.WAIT:
        otherwise = replace(otherwise, if_locked=None)
    chosen = given.over(otherwise)
    if chosen.metrics_file:
        output.check_replaceable(chosen.metrics_file)
    return RunSettings(
        command=" ".join(context.command_path.split()[1:]),
        arguments=diagnostics.arguments(),
        run_id=diagnostics.run_id(),
        locking=_locking(chosen.if_locked or IfLocked.FAIL, PATIENCE if chosen.wait_for is None else chosen.wait_for),
        retry_for=chosen.retry_for,
        dry_run=dry_run,
        say=diagnostics.warn,
        metrics_file=chosen.metrics_file,
        heartbeat=chosen.heartbeat,
    )


def _locking(policy: IfLocked, seconds: float) -> Locking:
    if policy is IfLocked.WAIT and not seconds:
        raise UsageError("to wait for no time at all is not to wait; give a longer --wait-for, or --if-locked fail")
    return Locking(policy, seconds)


def window_of(last: str | None, window: Window, *, now: datetime) -> Window:
    """Return the window that ``--last`` means, or the one that is given otherwise.

    Raises:
        UsageError: both are given.
        InvalidTime: the duration can't be read.
    """
    if last is None:
        return window
    if window.start or window.end:
        raise UsageError(f"--last {last} is a window of its own; leave out the other START and END")
    try:
        return Window(now - parse_duration(last), now)
    except OverflowError:
        raise InvalidTime(f"--last {last} begins before there was a calendar; write a shorter time") from None


def tell_dry_run(dry_run: bool) -> None:
    """Say that nothing was kept of what the report shows."""
    if dry_run:
        diagnostics.note("dry run: nothing of this was kept")
