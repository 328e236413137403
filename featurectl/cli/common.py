"""The options that every command has, before its name or after it, and what they leave behind."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperOption

from featurectl.cli import diagnostics
from featurectl.core.config import Overrides


def overrides(context: typer.Context) -> Overrides:
    """Return what the common options say, wherever on the command line they stood."""
    root = context.find_root()
    given: Overrides = root.meta.setdefault("featurectl.overrides", Overrides())
    return given


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
