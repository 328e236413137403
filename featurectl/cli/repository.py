"""``featurectl init``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from featurectl.cli import diagnostics, output
from featurectl.cli.app import new_app
from featurectl.cli.options import Command, FormatOption, JsonOption, chosen
from featurectl.core.repository import Profile, make_repository

app = new_app()


@app.command("init", cls=Command)
def init(
    directory: Annotated[Path, typer.Argument(metavar="[DIR]", help="Where; made if it is not there.")] = Path(),
    profile: Annotated[
        Profile,
        typer.Option(
            "--profile", help="embedded: a PostgreSQL of its own; timescale: a server by FEATURECTL_DATABASE_URL."
        ),
    ] = Profile.EMBEDDED,
    project: Annotated[
        str | None, typer.Option("--project", metavar="NAME", help="The Feast project. Default: the directory's name.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite files that are there.")] = False,
    format: FormatOption = None,
    json: JsonOption = False,
) -> None:
    """Make a feature repository.

    It holds feature_store.yaml, the definitions, and what belongs to them.

    Example: featurectl init market --profile timescale
    """
    made = make_repository(directory, profile, project=project, overwrite=force)
    output.emit(
        output.Report(
            command="init",
            document={
                "directory": str(made.root),
                "project": made.project,
                "profile": profile,
                "files": list(made.files),
            },
            columns=["file"],
            rows=[[name] for name in made.files],
            table=output.Grid(
                ["file"], [[name] for name in made.files], title=f"project {made.project} in {made.root}"
            ),
        ),
        chosen(format, json),
    )
    step = (
        "featurectl apply" if profile is Profile.EMBEDDED else "export FEATURECTL_DATABASE_URL, then featurectl apply"
    )
    here = "" if made.root == Path.cwd().resolve() else f"cd {shlex.quote(str(directory))}, "
    diagnostics.note(f"next: {here}{step}, featurectl ingest candles FILE")
