"""Option types that commands share, and the options that every command has."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperOption

from featurectl.cli import diagnostics, output
from featurectl.cli.output import Format
from featurectl.core.config import Overrides
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

_RELATIVE_TIME = re.compile(r"-\d+(?:\.\d+)?[smhdw]", re.IGNORECASE)


def overrides(context: typer.Context) -> Overrides:
    """Return what the common options say, wherever on the command line they stood."""
    root = context.find_root()
    given: Overrides = root.meta.setdefault("featurectl.overrides", Overrides())
    return given


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


def _store(name: str) -> Any:
    def callback(context: typer.Context, _: Any, value: Any) -> None:
        if value is not None:
            context.find_root().meta["featurectl.overrides"] = replace(overrides(context), **{name: value})

    return callback


def _switch(name: str) -> Any:
    def callback(_: typer.Context, __: Any, value: bool) -> None:
        if value:
            setattr(diagnostics, name, True)

    return callback


def common_options() -> list[TyperOption]:
    """Return the options that every command has; their values go into :func:`overrides` and the diagnostics."""
    return [
        TyperOption(
            param_decls=["-C", "--repo"],
            type=str,
            metavar="DIR",
            callback=lambda context, _, value: _store("repo")(context, _, Path(value) if value else None),
            expose_value=False,
            help="The repository. Default: FEATURECTL_REPO, else feature_store.yaml here or above.",
        ),
        TyperOption(
            param_decls=["--database-url"],
            type=str,
            metavar="URL",
            callback=_store("database_url"),
            expose_value=False,
            help="The database. Default: FEATURECTL_DATABASE_URL, else feature_store.yaml.",
        ),
        TyperOption(
            param_decls=["--timeout"],
            type=float,
            metavar="SECONDS",
            callback=_store("timeout"),
            expose_value=False,
            help="Give a read this long. Default: 30, or statement_timeout.",
        ),
        TyperOption(
            param_decls=["-q", "--quiet"],
            is_flag=True,
            callback=_switch("quiet"),
            expose_value=False,
            help="Only warnings and errors on stderr.",
        ),
        TyperOption(
            param_decls=["--debug"],
            is_flag=True,
            callback=_switch("debug"),
            expose_value=False,
            help="Show the traceback of an error.",
        ),
    ]


def _check_outputs(parameters: dict[str, Any]) -> None:
    """Refuse a result that could not be written before the work begins, and not after it is done.

    Parameters are text here: Typer makes paths and choices of them when it calls the command.
    """
    paths = {name: Path(parameters[name]) for name in ("path", "rejects") if parameters.get(name)}
    if format := parameters.get("format"):
        format = Format(format)
    output.choose_format(chosen(format, parameters.get("json", False)), paths.get("path"))
    for path in paths.values():
        output.check_writable(path)
    if len({path.resolve() for path in paths.values()}) < len(paths):
        raise UsageError(f"--output and --rejects both name {paths['path']}; name two files")


class Command(TyperCommand):
    """A command with the common options, which takes ``-7d`` for a time and not for an option."""

    def __init__(self, *args: Any, **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        self.params.extend(common_options())

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        ours = args[: args.index("--")] if "--" in args else args
        times = [f"now{word}" if _RELATIVE_TIME.fullmatch(word) else word for word in ours]
        return super().parse_args(ctx, times + args[len(ours) :])

    def invoke(self, ctx: Any) -> Any:
        _check_outputs(ctx.params)
        return super().invoke(ctx)
