"""``featurectl cron``: what the system's schedulers need to run the main job."""

from __future__ import annotations

from typing import Annotated

import typer

from featurectl.cli import output
from featurectl.cli.app import new_app
from featurectl.cli.options import Command, overrides
from featurectl.core.config import find_repository
from featurectl.core.repository import operations

app = new_app(help="Print crontab lines and systemd units for this repository.")


@app.command("show", cls=Command)
def show(
    context: typer.Context,
    systemd: Annotated[bool, typer.Option("--systemd", help="The systemd units, each below its file name.")] = False,
    logrotate: Annotated[bool, typer.Option("--logrotate", help="The file for /etc/logrotate.d.")] = False,
) -> None:
    """Print the crontab lines that run the main job and retention here.

    They hold the paths of this repository and this featurectl as they are now. Nothing is installed, and the database
    is not asked. Logs are rotated by the system, not by featurectl.

    Example: (crontab -l; featurectl cron show) | crontab -
    """
    files = operations(find_repository(explicit=overrides(context).repo))
    units = [f"# {name}\n{text}" for name, text in files.items() if name.endswith((".service", ".timer"))]
    wanted = [*(units if systemd else []), *([files["logrotate.conf"]] if logrotate else [])]
    output.write("\n".join(wanted or [files["crontab"]]))
