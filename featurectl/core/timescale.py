"""Everything that speaks to TimescaleDB; on a plain PostgreSQL it says so and nothing more."""

from __future__ import annotations

from dataclasses import dataclass

from featurectl.core.db import Connection
from featurectl.core.queries import query


@dataclass(frozen=True, slots=True)
class Extension:
    """TimescaleDB as this database has it: ``installed`` is its version, ``available`` what the server could create."""

    installed: str | None
    available: str | None
    license: str | None


def inspect(connection: Connection) -> Extension:
    """Return what this database has of TimescaleDB."""
    installed = connection.execute(query("timescale", "extension")).fetchone()
    available = connection.execute(query("timescale", "available")).fetchone()
    license = connection.execute(query("timescale", "license")).fetchone() if installed else None
    return Extension(
        installed[0] if installed else None, available[0] if available else None, license[0] if license else None
    )
