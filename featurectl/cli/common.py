"""The options that every command has, before its name or after it, and what they leave behind."""

from __future__ import annotations

from collections.abc import Callable
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


def _store(name: str, kind: Callable[[Any], Any]) -> Any:
    def callback(context: typer.Context, _: Any, value: Any) -> None:
        if value is not None:
            context.find_root().meta["featurectl.overrides"] = replace(overrides(context), **{name: kind(value)})

    return callback


def _switch(name: str) -> Any:
    def callback(_: typer.Context, __: Any, value: bool) -> None:
        if value:
            setattr(diagnostics, name, True)

    return callback


def _log_format(_: typer.Context, __: Any, value: str | None) -> None:
    if value is not None:
        diagnostics.set_log_format(value)


def common_options() -> list[TyperOption]:
    """Return the options that every command has; their values go into :func:`overrides` and the diagnostics."""

    def value(*names: str, field: str, kind: Callable[[Any], Any], metavar: str, help: str) -> TyperOption:
        text = float if kind is float else str
        callback = _store(field, kind)
        return TyperOption(
            param_decls=list(names), type=text, metavar=metavar, callback=callback, expose_value=False, help=help
        )

    def switch(*names: str, field: str, help: str) -> TyperOption:
        callback = _switch(field)
        return TyperOption(param_decls=list(names), is_flag=True, callback=callback, expose_value=False, help=help)

    repo = "The repository. Default: FEATURECTL_REPO, else feature_store.yaml here or above."
    database = "The database. Default: FEATURECTL_DATABASE_URL, else feature_store.yaml."
    timeout = "Give a read this long; 0: no limit. Default: 30, or statement_timeout."
    log_format = "How stderr is written: text, or json, an object a line. Default: FEATURECTL_LOG_FORMAT, else text."
    return [
        value("-C", "--repo", field="repo", kind=Path, metavar="DIR", help=repo),
        value("--database-url", field="database_url", kind=str, metavar="URL", help=database),
        value("--timeout", field="timeout", kind=float, metavar="SECONDS", help=timeout),
        TyperOption(
            param_decls=["--log-format"],
            type=str,
            metavar="FORMAT",
            callback=_log_format,
            expose_value=False,
            help=log_format,
        ),
        switch("-q", "--quiet", field="quiet", help="Only warnings and errors on stderr."),
        switch("--debug", field="debug", help="Show the traceback of an error."),
    ]
