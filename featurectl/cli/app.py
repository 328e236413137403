"""The root: a table of commands, imported when they are called, and the one boundary that ends in exit codes."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from typer._click.exceptions import NoArgsIsHelpError
from typer.core import TyperGroup

from featurectl.cli import diagnostics
from featurectl.cli.common import common_options
from featurectl.errors import FeaturectlError, Skipped, UsageError
from featurectl.version import __version__

INTERNAL_ERROR = 70
BROKEN_PIPE = 141


@dataclass(frozen=True, slots=True)
class Entry:
    """A command or group: the module that holds its Typer app, and what the root's help says of it."""

    module: str
    help: str
    group: bool = False


COMMANDS = {
    "init": Entry("repository", "Make a feature repository."),
    "demo": Entry("demo", "Take a synthetic market through the main job."),
    "plan": Entry("definitions", "Show what apply would change; change nothing."),
    "apply": Entry("definitions", "Bring registry, schema and catalog to the definitions."),
    "ingest": Entry("ingest", "Read market data files into the database.", group=True),
    "compute": Entry("compute", "Compute features from candles, ticks and scores that are new or changed."),
    "materialize": Entry("materialize", "Bring the newest features online."),
    "backfill": Entry("backfill", "Compute the features of a long window again, chunk by chunk."),
    "run": Entry("run", "Ingest, compute, materialize and check as one run, for cron."),
    "runs": Entry("runs", "List the runs of what writes, or show one."),
    "status": Entry("status", "Show how fresh the features are, the last runs, and who holds locks."),
    "get-online": Entry("online", "Read features as they are now, or as of an instant."),
    "get-offline": Entry("offline", "Build a training set, point-in-time correct."),
    "services": Entry("catalog", "List feature services, or show one."),
    "views": Entry("catalog", "List feature views, or show one."),
    "entities": Entry("catalog", "List entities, or show one."),
    "stats": Entry("stats", "Show what the history of features holds."),
    "baseline": Entry("baseline", "What features looked like in a window, kept to measure drift from.", group=True),
    "drift": Entry("drift", "Tell which features have moved from what they were, top movers first."),
    "check": Entry("check", "Hold features to what their tags ask, and candles to their rules."),
    "gaps": Entry("gaps", "List missing bars by symbol and timeframe."),
    "consistency": Entry("consistency", "Compare features online, in their history, and computed again."),
    "lookahead": Entry("lookahead", "Find functions that use the future, or more of the past than the warm-up."),
    "report": Entry("report", "Write a page that shows whether the features are right, fresh, complete and stable."),
    "storage": Entry("storage", "Show what the tables hold: mode, chunks, size, age and policies."),
    "maintain": Entry("storage", "Delete rows older than drop_after, where no policy of TimescaleDB does."),
    "doctor": Entry("doctor", "Check the set-up; every finding comes with its fix."),
    "db": Entry("db", "Start, stop and look at the embedded PostgreSQL.", group=True),
    "cron": Entry("cron", "Print crontab lines and systemd units for this repository.", group=True),
    "feast": Entry("feast", "Run Feast's own command line in this repository."),
}


class RootGroup(TyperGroup):
    """Imports a command when it is called, and turns every error into one line and an exit code."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.params.extend(common_options())

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        module = importlib.import_module(f"featurectl.cli.{entry.module}")
        group = typer.main.get_group(module.app)
        if not entry.group:
            return group.commands[cmd_name]
        group.name = cmd_name
        return group

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.help) for name, entry in COMMANDS.items()])

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        sys.exit(self._run(list(sys.argv[1:] if args is None else args), prog_name or "featurectl"))

    def _run(self, args: list[str], prog_name: str) -> int:
        """Run a command and return its exit code.

        Not through TyperGroup.main, which has codes of its own for an interrupt and a closed pipe, and no words.
        """
        with diagnostics.invocation(args):
            return self._code_of(args, prog_name)

    def _code_of(self, args: list[str], prog_name: str) -> int:
        try:
            diagnostics.read_settings()
            _refuse_empty(args)
            with self.make_context(prog_name, args) as context:
                self.invoke(context)
            return 0
        except typer.Exit as end:
            return end.exit_code
        except Skipped as skipped:
            diagnostics.note(f"skipped: {skipped}")
            return skipped.exit_code
        except FeaturectlError as error:
            diagnostics.failure(error)
            return error.exit_code
        except (KeyboardInterrupt, typer.Abort) as end:
            diagnostics.error("interrupted; what was not finished was rolled back")
            return int(getattr(end, "exit_code", 130))
        except BrokenPipeError:
            # The reader went away: nothing to say, and nobody to say it to.
            from featurectl.cli import output

            output.give_up_stdout()
            return BROKEN_PIPE
        except Exception as error:
            if hasattr(error, "format_message") and hasattr(error, "exit_code"):
                return _usage_error(error)
            if isinstance(error, FileNotFoundError) and _is_nowhere():
                diagnostics.error("the working directory is gone; change into one that is there")
                return UsageError.exit_code
            diagnostics.internal_failure(error)
            return INTERNAL_ERROR


def _refuse_empty(args: list[str]) -> None:
    """Refuse an empty argument: it is an unset shell variable, and would mean "everything" or "here"."""
    for before, word in zip(["featurectl", *args], args, strict=False):
        if word == "--":
            return
        if not word or (word.startswith("--") and word.endswith("=") and word.count("=") == 1):
            place = word or f"the argument after {before}"
            raise UsageError(f"{place} is empty; give it a value (is a shell variable unset?), or leave it out")


def _is_nowhere() -> bool:
    """Tell whether the directory that we were started in has been removed since."""
    try:
        os.getcwd()
    except FileNotFoundError:
        return True
    return False


def _usage_error(error: Any) -> int:
    if isinstance(error, NoArgsIsHelpError):
        for line in error.format_message().splitlines():
            diagnostics.note(line)
        return int(error.exit_code)
    context = getattr(error, "ctx", None)
    hint = f"; see `{context.command_path} --help`" if context else ""
    diagnostics.error(f"{error.format_message().rstrip('.')}{hint}")
    return int(error.exit_code)


app = typer.Typer(
    cls=RootGroup,
    name="featurectl",
    add_completion=False,
    rich_markup_mode=None,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def run(words: Sequence[str]) -> int:
    """Run one command line in this process and return its exit code; settings of the caller's own stay."""
    try:
        app(list(words))
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def _version(value: bool) -> None:
    if value:
        from featurectl.cli import output

        output.write(f"featurectl {__version__}\n")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Run a Feast feature store for market data on TimescaleDB.

    Results go to stdout, everything else to stderr. Exit codes: 0 done, 1 findings, 2 usage or configuration,
    3 database unreachable, 4 lock held, 5 partly done, 6 degraded under --strict, 130 interrupted, 143 terminated.
    """


def new_app(**settings: Any) -> typer.Typer:
    """Return a Typer app with the house's settings, for one module of commands."""
    return typer.Typer(add_completion=False, rich_markup_mode=None, no_args_is_help=True, **settings)
