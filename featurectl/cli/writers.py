"""What the commands that write share: how they go about locks, a database that is away, and dry runs."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from featurectl.cli import diagnostics, output
from featurectl.core.locks import IfLocked, Locking
from featurectl.core.runs.heartbeat import checked
from featurectl.core.runs.settings import RunSettings
from featurectl.core.times import Window, parse_duration
from featurectl.errors import InvalidTime, UsageError

IfLockedOption = Annotated[
    IfLocked,
    typer.Option("--if-locked", help="Where another run holds a lock: fail (exit code 4), skip (0), or wait for it."),
]
WaitOption = Annotated[
    str, typer.Option("--wait-for", metavar="DURATION", help="How long --if-locked wait waits: 30s, 10m, 2h.")
]
RetryOption = Annotated[
    str | None,
    typer.Option(
        "--retry-for",
        metavar="DURATION",
        help="Try again for so long when the database goes away; 0s: not at all. Default: 60s, or retry_for.",
    ),
]
DryRunOption = Annotated[
    bool,
    typer.Option("--dry-run", help="Do it all in one transaction and keep nothing; the report says what would be."),
]
LastOption = Annotated[
    str | None, typer.Option("--last", metavar="DURATION", help="The window from so long ago to now: 90m, 2h, 7d.")
]
MetricsOption = Annotated[
    Path | None,
    typer.Option("--metrics-file", metavar="FILE", help="Write metrics for Prometheus' node exporter at the end."),
]
HeartbeatOption = Annotated[
    str | None,
    typer.Option("--heartbeat", metavar="URL", help="Ask for URL at the end; for URL/fail where it was no success."),
]
WAIT_FOR = "10m"


def run_settings(
    context: typer.Context,
    *,
    if_locked: IfLocked = IfLocked.FAIL,
    wait_for: str = WAIT_FOR,
    retry_for: str | None = None,
    dry_run: bool = False,
    metrics_file: Path | None = None,
    heartbeat: str | None = None,
) -> RunSettings:
    """Return how a command that writes goes about it, and what the ledger is to say that it was asked for.

    Raises:
        InvalidTime: a duration can't be read.
        UsageError: the heartbeat is no URL, or it is to wait for no time.
        OutputFileError: the metrics can't be written there.
    """
    if metrics_file:
        output.check_replaceable(metrics_file)
    url = checked(heartbeat) if heartbeat else None
    return RunSettings(
        command=" ".join(context.command_path.split()[1:]),
        arguments=diagnostics.arguments(),
        run_id=diagnostics.run_id(),
        locking=locking_of(if_locked, parse_duration(wait_for).total_seconds()),
        retry_for=None if retry_for is None else parse_duration(retry_for).total_seconds(),
        dry_run=dry_run,
        say=diagnostics.warn,
        metrics_file=metrics_file,
        heartbeat=url,
    )


def locking_of(if_locked: IfLocked, seconds: float) -> Locking:
    """Return the policy for locks.

    Raises:
        UsageError: it is to wait for no time, which the server takes for no limit.
    """
    if if_locked is IfLocked.WAIT and not seconds:
        raise UsageError("to wait for no time at all is not to wait; give a longer --wait-for, or --if-locked fail")
    return Locking(if_locked, seconds)


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
