"""Check a set-up from the configuration inwards; every finding comes with its fix."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path

import psycopg

from featurectl.core import catalog as catalogs
from featurectl.core import clock, compute, inventory, registry_age, registry_state, schema, storage, timescale
from featurectl.core.catalog import Catalog
from featurectl.core.config import FILE_NAME, Config, Overrides, load_config
from featurectl.core.db import Connection, Database
from featurectl.core.entity import TIMEFRAMES
from featurectl.core.queries import query
from featurectl.core.times import duration, iso
from featurectl.errors import ConfigError, DefinitionError, FeaturectlError

_SKEW = timedelta(seconds=5)
# Retention that runs every day may be so late.
_LATE = timedelta(days=1)
# Views of these have rows at instants of their own; others that are keyed by timeframe have one a bar.
_ROWS_EVERY = {"ticks": ["1m"], "signals": ["15m"]}
_INLINE_PASSWORD = re.compile(
    r"://[^\s:/@]*:(?!\$)[^\s@$]+@|[?&](?:ssl)?password=[^\s&$'\"]|^\s*password:\s*['\"]?[^\s$'\"]", re.MULTILINE
)


class Level(StrEnum):
    """How bad a finding is."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at; ``fix`` is what to do about it."""

    level: Level
    subject: str
    message: str
    fix: str = ""


def examine(overrides: Overrides | None, *, now: datetime) -> list[Finding]:
    """Look at everything that can be looked at; what depends on something broken is left out."""
    findings = list(_environment(now))
    try:
        config = load_config(overrides)
    except FeaturectlError as error:
        return [*findings, _broken("configuration", error)]
    findings += _configuration(config)
    database = Database(config)
    try:
        with database.connect(read_only=True) as connection:
            findings += _database(connection, database, now)
            findings += _definitions(connection, config, now)
    except FeaturectlError as error:
        findings.append(_broken("database", error))
    return findings


def _broken(subject: str, error: FeaturectlError) -> Finding:
    message, _, fix = str(error).rpartition("; ")
    return Finding(Level.ERROR, subject, message or fix, fix if message else "")


def _environment(now: datetime) -> Iterator[Finding]:
    if os.environ.get(clock.VARIABLE):
        yield Finding(
            Level.WARNING,
            "clock",
            f"{clock.VARIABLE} sets the clock to {iso(now)}",
            f"unset {clock.VARIABLE} for live data",
        )


def _configuration(config: Config) -> Iterator[Finding]:
    path = config.root / FILE_NAME
    where = "the embedded PostgreSQL" if config.database_url is None else "a server by URL"
    yield Finding(Level.OK, "configuration", f"{path}: project {config.project}, {where}")
    if not config.online_store_is_ours:
        yield Finding(
            Level.WARNING,
            "online store",
            f"{config.online_store} is not featurectl's; get-online reads it through Feast, materialize writes none",
            "fill it with `featurectl feast -- materialize-incremental …`",
        )
    holds_password = _INLINE_PASSWORD.search(path.read_text(encoding="utf-8")) is not None
    if holds_password:
        yield Finding(
            Level.WARNING,
            "secrets",
            f"{path} holds a password",
            "move it into an environment variable and write ${VARIABLE} there",
        )
    for secret in [config.root / ".env", *([path] if holds_password else [])]:
        yield from _readable(secret)


def _readable(path: Path) -> Iterator[Finding]:
    """Look whether others than its owner may read a file of secrets."""
    with contextlib.suppress(OSError):
        if path.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH):
            message = f"{path} may hold secrets, and others than its owner can read it"
            yield Finding(Level.WARNING, "secrets", message, f"chmod 600 {shlex.quote(str(path))}")


def _database(connection: Connection, database: Database, now: datetime) -> Iterator[Finding]:
    row = connection.execute(query("doctor", "server")).fetchone()
    assert row is not None
    version, server_now, role, name, may_create = row
    yield Finding(Level.OK, "database", f"PostgreSQL {version}, database {name}, role {role}")
    if not may_create and schema.pending_migrations(connection):
        yield Finding(
            Level.ERROR,
            "database",
            f"role {role} may not create schemas in {name}",
            f"GRANT CREATE ON DATABASE {name} TO {role}, or apply as the owner",
        )
    yield _zone(database)
    if not os.environ.get(clock.VARIABLE) and abs(server_now - datetime.now(UTC)) > _SKEW:
        apart = duration(abs(server_now - datetime.now(UTC)))
        yield Finding(
            Level.WARNING, "clock", f"this machine and the server differ by {apart}", "synchronize both with NTP"
        )
    yield _extension(timescale.inspect(connection))


def _zone(database: Database) -> Finding:
    """Look at the zone that sessions other than ours get."""
    with psycopg.connect(database.url(), autocommit=True, connect_timeout=5) as plain:
        row = plain.execute("SHOW timezone").fetchone()
    zone = row[0] if row else "unknown"
    if zone in ("UTC", "Etc/UTC", "GMT"):
        return Finding(Level.OK, "time zone", f"{zone}")
    return Finding(
        Level.WARNING,
        "time zone",
        f"the server's sessions are in {zone}; ours are in UTC, other tools' naive times would be shifted",
        "ALTER DATABASE … SET timezone = 'UTC'",
    )


def _extension(extension: timescale.Extension) -> Finding:
    if extension.notice:
        message, _, fix = extension.notice.rpartition("; ")
        return Finding(Level.WARNING, "timescaledb", message, fix)
    if extension.installed:
        license = f", licence {extension.license}" if extension.license else ""
        return Finding(Level.OK, "timescaledb", f"TimescaleDB {extension.installed}{license}")
    if extension.available:
        return Finding(
            Level.WARNING,
            "timescaledb",
            f"the server has TimescaleDB {extension.available}, this database does not use it",
            "CREATE EXTENSION timescaledb",
        )
    return Finding(Level.OK, "timescaledb", "not on this server: plain PostgreSQL tables")


def _definitions(connection: Connection, config: Config, now: datetime) -> Iterator[Finding]:
    pending = schema.pending_migrations(connection)
    if pending:
        yield Finding(
            Level.ERROR,
            "schema",
            f"featurectl's migrations are missing: {', '.join(one.name for one in pending)}",
            "run `featurectl apply`",
        )
        return
    catalog = catalogs.find_catalog(connection, config.project)
    if catalog is None or catalog.published_at is None:
        yield Finding(Level.ERROR, "catalog", f"project {config.project} has published none", "run `featurectl apply`")
        return
    yield Finding(Level.OK, "catalog", f"version {catalog.version}, published {iso(catalog.published_at)}")
    checks: tuple[Callable[[], Iterator[Finding]], ...] = (
        lambda: _registry(connection, config, catalog),
        lambda: _tables(connection, catalog),
        lambda: _storage(connection, config, catalog, now),
        lambda: _functions(config, catalog),
        lambda: _ttls(connection, catalog),
    )
    for check in checks:
        yield from check()


def _registry(connection: Connection, config: Config, catalog: Catalog) -> Iterator[Finding]:
    place = config.registry_file or config.registry_schema
    if place is None:
        yield Finding(Level.OK, "registry", "in another database or a remote file; only Feast reads it")
        return
    state = registry_state.read_state(connection, config)
    if not (place.is_file() if isinstance(place, Path) else schema.columns_of(connection, f"{place}.feature_views")):
        where = place if isinstance(place, Path) else f"in schema {place}"
        yield Finding(Level.ERROR, "registry", f"Feast's registry is not {where}", "run `featurectl apply`")
    elif state is None:
        message = f"not all of Feast's registry in {place} can be read, so nobody knows whether it has changed"
        yield Finding(Level.WARNING, "registry", message, f"grant this role SELECT on the tables of {place}")
    elif note := registry_age.registry_note(connection, config, catalog):
        message, _, fix = note.rpartition("; ")
        yield Finding(Level.WARNING, "registry", message, fix)
    else:
        views = [name.rpartition(" ")[2] for name in sorted(state.objects) if "view " in name]
        yield Finding(Level.OK, "registry", f"views: {', '.join(views) or 'none'}")


def _tables(connection: Connection, catalog: Catalog) -> Iterator[Finding]:
    for view in catalog.views:
        for name in filter(None, (view.source_table if view.computed_from else None, view.online_table)):
            if not schema.columns_of(connection, name):
                yield Finding(Level.ERROR, "tables", f"{name} of {view.name} is missing", "run `featurectl apply`")


def _storage(connection: Connection, config: Config, catalog: Catalog, now: datetime) -> Iterator[Finding]:
    try:
        tables = storage.time_tables(config, catalog)
    except ConfigError as error:
        yield _broken("storage", error)
        return
    present = [table for table in tables if schema.columns_of(connection, table.name)]
    extension = timescale.inspect(connection)
    hypertables = timescale.read_hypertables(connection, extension, [table.name for table in present])
    differences = [one.summary for one in timescale.storage_changes(present, hypertables, extension)]
    if differences:
        yield Finding(
            Level.WARNING,
            "storage",
            f"the tables differ from feature_store.yaml: {'; '.join(differences)}",
            "run `featurectl apply`",
        )
    else:
        modes = f"{len(hypertables)} hypertables, {len(present) - len(hypertables)} ordinary tables"
        yield Finding(Level.OK, "storage", modes)
    for table in present:
        yield from _retention(connection, table, hypertables.get(table.name), now)


def _retention(
    connection: Connection, table: storage.TimeTable, hypertable: timescale.Hypertable | None, now: datetime
) -> Iterator[Finding]:
    """Look for rows that should be gone. Whole chunks are dropped, so a hypertable's are those that all lie before."""
    if table.drop_after is None:
        return
    if hypertable is None:
        oldest, _ = inventory.extent(connection, table)
    else:
        oldest = next((chunk.end for chunk in timescale.read_chunks(connection, table.name)), None)
    if oldest is None or now - oldest <= table.drop_after + _LATE:
        return
    by_policy = hypertable is not None and hypertable.drop_after is not None
    yield Finding(
        Level.WARNING,
        "retention",
        f"{table.name} has rows of {iso(oldest)}, which drop_after, {duration(table.drop_after)}, should have removed",
        "look at its policy: SELECT * FROM timescaledb_information.job_errors"
        if by_policy
        else "run `featurectl maintain`, every day",
    )


def _functions(config: Config, catalog: Catalog) -> Iterator[Finding]:
    for view in catalog.views:
        if not view.functions_file:
            continue
        try:
            functions = compute.view_functions(view, config.root)
            yield Finding(
                Level.OK, "functions", f"{functions.file}: {len(functions.ordered)} functions for {view.name}"
            )
        except DefinitionError as error:
            yield Finding(Level.ERROR, "functions", str(error), "mend the file, then `featurectl apply`")


def _ttls(connection: Connection, catalog: Catalog) -> Iterator[Finding]:
    used = {row[1] for row in connection.execute(query("candles", "list_series"))}
    bars = [name for name in TIMEFRAMES if name in used]
    for view in catalog.views:
        if view.ttl is None or not view.online:
            continue
        distances = _ROWS_EVERY.get(view.computed_from or "", bars if "timeframe" in view.join_keys else [])
        long = [name for name in distances if TIMEFRAMES[name] > view.ttl]
        if long:
            yield Finding(
                Level.WARNING,
                "ttl",
                f"{view.name} has a TTL of {duration(view.ttl)}, shorter than the {', '.join(long)} between its rows: "
                "its features are stale most of the time",
                f"raise the ttl in the definitions to {duration(TIMEFRAMES[long[-1]])} and run `featurectl apply`",
            )
