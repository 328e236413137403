"""Option types that commands share, and the class of all commands."""

from __future__ import annotations

import re
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperOption

from featurectl.cli import output
from featurectl.cli.common import common_options, overrides
from featurectl.cli.output import Format
from featurectl.errors import UsageError

FormatOption = Annotated[
    Format | None,
    typer.Option("--format", help="table, json, csv or parquet. Default: a table on a terminal, JSON when piped."),
]
OutputOption = Annotated[
    Path | None,
    typer.Option(
        "-o", "--output", metavar="FILE", help="Write to FILE, whole or not at all; its suffix says the format."
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="The same as --format json.")]
FeaturesOption = Annotated[
    list[str] | None,
    typer.Option(
        "-f", "--feature", metavar="NAME", help="A feature, or view:feature; again, or comma-separated, for more."
    ),
]
ServiceOption = Annotated[str | None, typer.Option("--service", metavar="NAME", help="All features of a service.")]
ViewsOption = Annotated[
    list[str] | None, typer.Option("--view", metavar="NAME", help="A view; again, or comma-separated, for more.")
]

__all__ = ["Command", "chosen", "overrides", "split"]

# The parameters that name a file to be written, and their options.
_OUTPUTS = {"path": "--output", "rejects": "--rejects", "metrics_file": "--metrics-file"}
_RELATIVE_TIME = re.compile(r"-\d+(?:\.\d+)?[smhdw]", re.IGNORECASE)


def split(values: list[str] | None) -> tuple[str, ...]:
    """Return the names of a repeatable option whose values may hold commas.

    Raises:
        UsageError: the option is given and names nothing; no name at all would mean everything.
    """
    names = tuple(name.strip() for value in values or () for name in value.split(",") if name.strip())
    if values and not names:
        raise UsageError(f"'{','.join(values)}' holds no name; write names with commas between them, or leave it out")
    return names


def chosen(format: Format | None, json: bool) -> Format | None:
    """Return the format that ``--format`` and ``--json`` ask for.

    Raises:
        UsageError: they ask for two.
    """
    if json and format not in (None, Format.JSON):
        raise UsageError(f"--json and --format {format} contradict each other; leave one out")
    return Format.JSON if json else format


def _check_outputs(parameters: dict[str, Any]) -> None:
    """Refuse a result that could not be written before the work begins, and not after it is done.

    Parameters are text here: Typer makes paths and choices of them when it calls the command.
    """
    paths = {flag: Path(parameters[name]) for name, flag in _OUTPUTS.items() if parameters.get(name)}
    if format := parameters.get("format"):
        format = Format(format)
    output.choose_format(chosen(format, parameters.get("json", False)), paths.get("--output"))
    for path in paths.values():
        output.check_writable(path)
    for (one, path), (other, second) in combinations(paths.items(), 2):
        if output.real(path) == output.real(second):
            raise UsageError(f"{one} and {other} both name {path}; name two files")
    inputs = {output.real(name) for name in (*(parameters.get("files") or ()), parameters.get("spine")) if name}
    for path in paths.values():
        if output.real(path) in inputs:
            raise UsageError(f"{path} is an input of this command and would be overwritten; name another file")


class Command(TyperCommand):
    """A command with the common options, which takes ``-7d`` for a time and not for an option."""

    def __init__(self, *args: Any, **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        self.params.extend(self.shared_options())

    def shared_options(self) -> list[TyperOption]:
        """Return the options that the command's function does not name."""
        return common_options()

    def prepare(self, ctx: Any) -> None:
        """Look at what was given before the command's function is called with it."""
        _check_outputs(ctx.params)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        ours = args[: args.index("--")] if "--" in args else args
        takers = {name for option in self.params if not getattr(option, "is_flag", True) for name in option.opts}
        # The parser would take the word for an option, but not where it is the value of one.
        words = [
            f"now{word}" if before not in takers and _RELATIVE_TIME.fullmatch(word) else word
            for before, word in zip(["", *ours], ours, strict=False)
        ]
        return super().parse_args(ctx, words + args[len(ours) :])

    def invoke(self, ctx: Any) -> Any:
        self.prepare(ctx)
        return super().invoke(ctx)
