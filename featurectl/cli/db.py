"""``featurectl db``: the embedded PostgreSQL, or what can be said of a server by URL."""

from __future__ import annotations

import os
import shutil
from typing import Annotated, Any

import typer
from psycopg.conninfo import make_conninfo

from featurectl.cli import diagnostics, output
from featurectl.cli.app import new_app
from featurectl.cli.options import Command, FormatOption, JsonOption, OutputOption, chosen, overrides
from featurectl.core import embedded
from featurectl.core.db import Database, open_database, url_parts
from featurectl.core.redact import redact
from featurectl.core.roles import Roles, roles_sql
from featurectl.errors import UsageError

app = new_app(help="Start, stop and look at the embedded PostgreSQL.")

# What must not stand among a program's arguments, where the process list shows it.
_SECRETS = ("password", "sslpassword")


@app.command("start", cls=Command)
def start(
    context: typer.Context, format: FormatOption = None, json: JsonOption = False, path: OutputOption = None
) -> None:
    """Start the embedded PostgreSQL; it stays up until `featurectl db stop`.

    Example: featurectl db start
    """
    database = _embedded(context)
    embedded.ensure_running(embedded.data_dir(database.config.root))
    output.emit(_status(database), chosen(format, json), path)


@app.command("stop", cls=Command)
def stop(context: typer.Context) -> None:
    """Stop the embedded PostgreSQL.

    Example: featurectl db stop
    """
    database = _embedded(context)
    stopped = embedded.stop(embedded.data_dir(database.config.root))
    diagnostics.note("stopped" if stopped else "it was not running")


@app.command("status", cls=Command)
def status(
    context: typer.Context, format: FormatOption = None, json: JsonOption = False, path: OutputOption = None
) -> None:
    """Show where the database is and whether it answers; starts nothing.

    Example: featurectl db status
    """
    output.emit(_status(open_database(overrides(context))), chosen(format, json), path)


@app.command("url", cls=Command)
def url(context: typer.Context) -> None:
    """Print the embedded server's URL, for other programs; it holds no secret.

    Example: export FEATURECTL_DATABASE_URL="$(featurectl db url)"
    """
    output.write(f"{_embedded(context).url()}\n")


@app.command("shell", cls=Command, context_settings={"ignore_unknown_options": True})
def shell(
    context: typer.Context, words: Annotated[list[str] | None, typer.Argument(metavar="-- ARGS...")] = None
) -> None:
    """Open psql on the database; arguments after -- go to psql.

    Example: featurectl db shell -- -c 'TABLE featurectl.catalogs'
    """
    database = open_database(overrides(context))
    parts = url_parts(database.url())
    password = {"PGPASSWORD": str(parts["password"])} if parts.get("password") else {}
    place = make_conninfo(**{name: value for name, value in parts.items() if name not in _SECRETS})
    environment = {**os.environ, **password, "PGTZ": "UTC", "PGAPPNAME": "featurectl shell"}
    program = str(embedded.client_program("psql")) if database.is_embedded else shutil.which("psql")
    program = program or str(embedded.client_program("psql"))
    os.execvpe(program, ["psql", "-d", place, *(words or [])], environment)


@app.command("roles", cls=Command)
def roles(
    context: typer.Context,
    owner: Annotated[
        str | None, typer.Option("--owner", metavar="NAME", help="Who applies. Default: <project>_owner.")
    ] = None,
    writer: Annotated[
        str | None,
        typer.Option("--writer", metavar="NAME", help="Who ingests and computes. Default: <project>_writer."),
    ] = None,
    reader: Annotated[
        str | None, typer.Option("--reader", metavar="NAME", help="Who reads. Default: <project>_reader.")
    ] = None,
) -> None:
    """Print SQL that makes three roles with no more rights than they need; it connects to nothing.

    The owner applies, the writer ingests, computes and materializes, the reader reads. Look the SQL over, and run it
    as a superuser or the database's owner; it may run again at any time.

    Example: featurectl db roles > roles.sql
    """
    config = open_database(overrides(context)).config
    output.write(roles_sql(config, Roles.of(config.project, owner=owner, writer=writer, reader=reader)))


def _embedded(context: typer.Context) -> Database:
    database = open_database(overrides(context))
    if not database.is_embedded:
        raise UsageError("this repository uses a server by URL (FEATURECTL_DATABASE_URL); start, stop and ask it there")
    return database


def _status(database: Database) -> output.Report:
    facts = _embedded_facts(database) if database.is_embedded else _server_facts(database)
    rows = [[name, value] for name, value in facts.items()]
    return output.Report("db status", facts, ["fact", "value"], rows)


def _embedded_facts(database: Database) -> dict[str, Any]:
    status = embedded.status(embedded.data_dir(database.config.root))
    return {
        "mode": "embedded",
        "running": status.running,
        "version": status.version,
        "pid": status.pid,
        "started_at": status.started_at,
        "socket_directory": str(status.socket_dir) if status.socket_dir else None,
        "data_directory": str(status.data_dir),
        "size_bytes": status.size_bytes,
        "log": str(status.log_path),
    }


def _server_facts(database: Database) -> dict[str, Any]:
    with database.connect(read_only=True) as connection:
        info = connection.info
        return {
            "mode": "server",
            "running": True,
            "version": f"{info.server_version // 10000}.{info.server_version % 10000}",
            "url": redact(database.url()),
            "user": info.user,
        }
