"""``featurectl doctor``."""

from __future__ import annotations

from dataclasses import asdict

import typer

from featurectl.cli import output
from featurectl.cli.app import new_app
from featurectl.cli.options import Command, FormatOption, JsonOption, OutputOption, chosen, overrides
from featurectl.core.clock import system_clock
from featurectl.core.doctor import Level, examine

app = new_app()


@app.command("doctor", cls=Command)
def doctor(
    context: typer.Context, format: FormatOption = None, json: JsonOption = False, path: OutputOption = None
) -> None:
    """Check the set-up; every finding comes with its fix.

    Looks at configuration, database, time zone, extension, registry, catalog, functions and TTLs. Exits with 1 when
    something is broken; warnings alone exit with 0.

    Example: featurectl doctor
    """
    findings = examine(overrides(context), now=system_clock())
    broken = any(finding.level is Level.ERROR for finding in findings)
    output.emit(
        output.Report(
            command="doctor",
            document={"healthy": not broken, "findings": [asdict(finding) for finding in findings]},
            columns=["level", "subject", "message", "fix"],
            rows=[[str(one.level), one.subject, one.message, one.fix] for one in findings],
        ),
        chosen(format, json),
        path,
    )
    if broken:
        raise typer.Exit(1)
