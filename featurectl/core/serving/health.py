"""Whether features can be served: the database, the catalog, the paths of a reader and what they have answered."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass
from time import monotonic
from typing import Any

import psycopg

from featurectl.core.catalog import Catalog
from featurectl.core.connections import AsyncConnection
from featurectl.core.db import Database, translate
from featurectl.core.online import Source
from featurectl.core.serving.reader import Reader
from featurectl.core.times import iso
from featurectl.errors import FeaturectlError


@dataclass(frozen=True, slots=True)
class Health:
    """How a manager's parts are; where it could not be opened, ``error`` says why, and there are none."""

    database: dict[str, Any]
    reader: Reader | None = None
    catalog: Catalog | None = None
    notes: tuple[str, ...] = ()
    error: str | None = None

    @property
    def status(self) -> str:
        """Whether all is well (ok), some path is not the first (degraded), or nothing is served (unavailable)."""
        if self.catalog is None or self.reader is None:
            return "unavailable"
        broken = {source for (source, _), breaker in self.reader.breakers.items() if not breaker.is_closed}
        reachable, foreign = self.database["reachable"], self.reader.foreign
        if not reachable and (foreign is None or not foreign.is_first or Source.FEAST in broken):
            return "unavailable"
        return "degraded" if broken or self.notes or not reachable else "ok"

    def report(self) -> dict[str, Any]:
        """Return it as plain values, which JSON can hold."""
        reader = self.reader
        breakers = reader.breakers if reader is not None else {}
        return {
            "status": self.status,
            "error": self.error,
            "database": self.database,
            "catalog": _catalog(self.catalog, self.notes),
            "paths": [
                {"source": str(source), "view": view or None, **breaker.report()}
                for (source, view), breaker in breakers.items()
            ],
            "counters": reader.counters.report() if reader is not None else None,
            "cache": reader.cache.report() if reader is not None and reader.cache is not None else None,
            "pool": reader.pool.report() if reader is not None else None,
            "feast": {"loaded": "feast" in sys.modules},
        }


def _catalog(catalog: Catalog | None, notes: tuple[str, ...]) -> dict[str, Any] | None:
    if catalog is None:
        return None
    return {
        "project": catalog.project,
        "version": catalog.version,
        "published_at": iso(catalog.published_at) if catalog.published_at else None,
        "notes": list(notes),
    }


async def ask_database(database: Database, *, within: float, unless_stopped: bool = False) -> dict[str, Any]:
    """Return whether a database answers on a new connection, in how many milliseconds, and its version."""
    try:
        async with asyncio.timeout(within):
            connection: AsyncConnection = await database.open_async(
                psycopg.AsyncConnection, unless_stopped=unless_stopped
            )
            try:
                started = monotonic()
                await connection.execute("SELECT 1")
                latency = 1000 * (monotonic() - started)
                version = connection.info.parameter_status("server_version")
            finally:
                connection.pgconn.finish()
    except TimeoutError:
        return unreachable(f"no answer within {within:g} s")
    except psycopg.Error as error:
        return unreachable(str(translate(error)))
    except FeaturectlError as error:
        return unreachable(str(error))
    return {"reachable": True, "version": version, "latency_ms": round(latency, 3), "error": None}


def unreachable(error: str) -> dict[str, Any]:
    return {"reachable": False, "version": None, "latency_ms": None, "error": error}
