"""Whether Feast's registry has changed since the catalog was published, told without Feast.

Every command that reads the catalog looks: what compares definitions is loaded where something was written.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import psycopg
from psycopg import errors as pg
from psycopg import sql

from featurectl.core.catalog import Catalog
from featurectl.core.config import Config
from featurectl.core.connections import AsyncConnection
from featurectl.core.db import Connection
from featurectl.core.queries import query

# The tables of Feast's SQL registry that a catalog is made of; views computed on demand are in none.
TABLES = ("entities", "feature_views", "stream_feature_views", "feature_services")
# Seconds that an answer waits for a look at the registry: somebody may hold a lock on it.
PATIENCE = 0.5
_GONE = (pg.UndefinedTable, pg.InvalidSchemaName, FileNotFoundError)
UNREADABLE = (*_GONE, pg.UndefinedColumn, pg.InsufficientPrivilege, pg.LockNotAvailable, pg.DataCorrupted, OSError)

# Kind, name and bytes of each definition.
Rows = Iterable[tuple[str, str, bytes]]


def registry_note(connection: Connection, config: Config, catalog: Catalog) -> str | None:
    """Say what has changed in the registry since the catalog was published; ``None`` for nothing, or nothing known."""
    if catalog.registry_stamp is None or not is_known(config):
        return None
    try:
        with connection.transaction():
            connection.execute(query("registry", "short_lock_wait"))
            if read_stamp(connection, config) == catalog.registry_stamp:
                return None
            published = connection.execute(query("registry", "published_registry"), of_project(config)).fetchone()
            return _difference(published, read_rows(connection, config))
    except UNREADABLE as error:
        return _without(config, error)


class RegistryWatch:
    """Looks at the registry again and again, and reads it only where it was written to since the last look."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._seen: tuple[str, str] | None = None
        self._note: str | None = None

    async def note(self, connection: AsyncConnection, catalog: Catalog) -> str | None:
        """Do what :func:`registry_note` does, in :data:`PATIENCE` seconds and without holding up the event loop."""
        if catalog.registry_stamp is None or not is_known(self._config):
            return None
        try:
            async with asyncio.timeout(PATIENCE):
                return await self._look(connection, catalog.registry_stamp)
        except (TimeoutError, psycopg.Error, OSError) as error:
            return _without(self._config, error)

    async def _look(self, connection: AsyncConnection, published_stamp: str) -> str | None:
        stamp = await self._stamp(connection)
        if stamp == published_stamp:
            return None
        if self._seen != (published_stamp, stamp):
            cursor = await connection.execute(query("registry", "published_registry"), of_project(self._config))
            published = await cursor.fetchone()
            rows = await self._rows(connection)
            # A registry of hundreds of views takes a tenth of a second.
            self._note = await asyncio.to_thread(_difference, published, rows)
            self._seen = (published_stamp, stamp)
        return self._note

    async def _stamp(self, connection: AsyncConnection) -> str:
        if self._config.registry_file is not None:
            return _file_stamp(self._config.registry_file)
        cursor = await connection.execute(_statement("registry_stamp", self._config), of_project(self._config))
        ((stamp,),) = await cursor.fetchall()
        return str(stamp)

    async def _rows(self, connection: AsyncConnection) -> Rows:
        if self._config.registry_file is not None:
            return await asyncio.to_thread(_file_rows, self._config)
        cursor = await connection.execute(_statement("registry_objects", self._config), of_project(self._config))
        return await cursor.fetchall()


def is_known(config: Config) -> bool:
    """Tell whether the registry is where we can look at it."""
    return config.registry_file is not None or config.registry_schema is not None


def read_stamp(connection: Connection, config: Config) -> str:
    """Return what differs whenever a definition in the registry was written, be it the same as before."""
    if config.registry_file is not None:
        return _file_stamp(config.registry_file)
    ((stamp,),) = connection.execute(_statement("registry_stamp", config), of_project(config)).fetchall()
    return str(stamp)


def read_rows(connection: Connection, config: Config) -> Rows:
    """Return every definition that the registry has for the project."""
    if config.registry_file is not None:
        return _file_rows(config)
    return connection.execute(_statement("registry_objects", config), of_project(config)).fetchall()


def of_project(config: Config) -> dict[str, Any]:
    return {"project": config.project}


def _statement(name: str, config: Config) -> sql.Composed:
    tables = {table: sql.Identifier(config.registry_schema or "public", table) for table in TABLES}
    return query("registry", name).format(**tables)


def _file_stamp(path: Path) -> str:
    found = path.stat()
    return f"{found.st_mtime_ns} {found.st_size}"


def _file_rows(config: Config) -> Rows:
    from featurectl.core.registry_state import rows_in_file  # 1 ms

    assert config.registry_file is not None
    return rows_in_file(config.registry_file, config.project)


def _difference(published: tuple[Any, ...] | None, rows: Rows) -> str | None:
    from featurectl.core.registry_state import difference  # 1 ms

    found = difference((published and published[0]) or {}, rows)
    return (
        f"Feast's registry has changed since the catalog was published ({found}); run `featurectl apply`"
        if found
        else None
    )


def _without(config: Config, error: Exception) -> str | None:
    """Say that the registry is gone, where that is what the error means; of others nobody can do anything here."""
    if not isinstance(error, _GONE):
        return None
    place = config.registry_file or f"schema {config.registry_schema}"
    return f"Feast's registry, from which the catalog was published, is not in {place} any more; run `featurectl apply`"
