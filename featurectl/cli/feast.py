"""``featurectl feast -- …``."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from featurectl.cli import diagnostics, output
from featurectl.cli.app import new_app
from featurectl.cli.options import Command, overrides
from featurectl.core import schema
from featurectl.core.config import DATABASE_VARIABLE
from featurectl.core.db import Database, open_database
from featurectl.core.redact import redact
from featurectl.errors import UsageError

app = new_app()

# The console script may not be on PATH; the module is where this interpreter is.
_FEAST = "from feast.cli.cli import cli; cli(prog_name='feast')"
# Feast's command that prints feature_store.yaml with the values of its variables, passwords among them.
_SHOWS_SETTINGS = "configuration"


@app.command("feast", cls=Command, context_settings={"ignore_unknown_options": True})
def feast(
    context: typer.Context,
    words: Annotated[list[str] | None, typer.Argument(metavar="-- ARGS...", help="Arguments for feast.")] = None,
) -> None:
    """Run Feast's own command line in this repository.

    It finds the database's URL in its environment.

    Example: featurectl feast -- materialize-incremental 2024-05-01T12:00:00
    """
    _check_extras(words or [])
    database = open_database(overrides(context))
    _prepare(database)
    environment = {**os.environ, DATABASE_VARIABLE: database.sqlalchemy_url()}
    command = [sys.executable, "-c", _FEAST, *(words or [])]
    # Feast's output is its own: it goes where ours would.
    run = _run_masked if _SHOWS_SETTINGS in command else _run
    code = run(command, database.config.root, environment)
    if code:
        diagnostics.note(f"feast exited with {code}")
        raise typer.Exit(code if code > 0 else 128 - code)


def _run(command: Sequence[str], root: Path, environment: Mapping[str, str]) -> int:
    return subprocess.run(command, cwd=root, env=environment, check=False).returncode


def _run_masked(command: Sequence[str], root: Path, environment: Mapping[str, str]) -> int:
    done = subprocess.run(command, cwd=root, env=environment, stdout=subprocess.PIPE, check=False)
    output.write(redact(done.stdout.decode(errors="replace")))
    return done.returncode


def _check_extras(words: list[str]) -> None:
    if "ui" in words and find_spec("grpc") is None:
        raise UsageError("Feast's UI needs grpcio; run `pip install 'featurectl[ui]'`")


def _prepare(database: Database) -> None:
    """Make the registry's schema: Feast makes tables, but no schema."""
    if name := database.config.registry_schema:
        with database.connect() as connection:
            schema.execute(connection, schema.schema_changes(connection, name))
