"""The command line: bodies of a few lines, no rules of its own."""

from __future__ import annotations

import os
import signal
import sys

# One URL says where the database is and we say how to talk to it; these would change either behind its back.
_DIVERTING = ("PGHOSTADDR", "PGSERVICE", "PGSERVICEFILE", "PGOPTIONS", "PGTZ", "PGDATESTYLE", "PGCLIENTENCODING")


def main() -> None:
    """Run the command line; the console script's entry point."""
    if any(word.startswith("--database-url") for word in sys.argv):
        from featurectl.cli.process_list import hide_password

        hide_password()
    _open_closed_streams()
    for name in _DIVERTING:
        os.environ.pop(name, None)
    try:
        signal.signal(signal.SIGTERM, _terminate)
        from featurectl.cli.app import app

        app()
    except KeyboardInterrupt as end:
        # Before there is a boundary, or after it: nothing was begun, or all was done.
        sys.exit(getattr(end, "exit_code", 130))


def _terminate(*_: object) -> None:
    """End as Ctrl-C does when cron or systemd says stop: transactions rolled back, temporary files removed."""
    from featurectl.errors import Terminated

    raise Terminated


def _open_closed_streams() -> None:
    """Give a process that was started with closed streams empty ones; files it opens would take their numbers."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115
