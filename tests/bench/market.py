"""A default repository over an embedded server, and synthetic markets, for the benches of ingest and compute."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from psycopg import sql

from featurectl.core import embedded
from featurectl.core.config import Overrides
from featurectl.core.db import Connection, Database, open_connection, open_database
from featurectl.core.repository import Profile, make_repository

NOW = datetime(2025, 1, 1, tzinfo=UTC)
FIRST = datetime(2020, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Place:
    """A repository's directory and the URL of its database."""

    root: Path
    url: str

    @property
    def database(self) -> Database:
        return open_database(Overrides(repo=self.root, database_url=self.url))

    def connect(self) -> Connection:
        return open_connection(self.url, connect_timeout=30)


@contextlib.contextmanager
def open_place() -> Iterator[Place]:
    """Make a repository, apply its definitions, and take it all away at the end."""
    from featurectl.plugin.apply import apply  # 7 s: Feast

    with tempfile.TemporaryDirectory(prefix="featurectl-bench-") as name:
        root = Path(name) / "market"
        make_repository(root, Profile.EMBEDDED, project="market")
        data = embedded.data_dir(root)
        place = Place(root, embedded.ensure_running(data))
        try:
            apply(place.database, now=NOW)
            yield place
        finally:
            embedded.stop(data)


def symbols(count: int) -> list[str]:
    return [f"S{number:04d}USDT" for number in range(count)]


def bars(generator: np.random.Generator, count: int) -> dict[str, np.ndarray]:
    """Return a random walk's bars, one array a column."""
    close = 100 * np.exp(np.cumsum(generator.normal(0, 0.002, count)))
    opened = np.r_[100.0, close[:-1]]
    spread = close * generator.gamma(2, 0.0005, count)
    return {
        "open": opened,
        "high": np.maximum(opened, close) + spread,
        "low": np.minimum(opened, close) - spread,
        "close": close,
        "volume": generator.gamma(2, 50, count),
    }


def empty(connection: Connection, table: str) -> None:
    connection.execute(sql.SQL("TRUNCATE {}").format(sql.Identifier(*table.split("."))))


def like(connection: Connection, table: str, name: str) -> None:
    """Make an empty table with the same columns and indexes."""
    statement = sql.SQL("CREATE TABLE {} (LIKE {} INCLUDING ALL)")
    connection.execute(statement.format(sql.Identifier(*name.split(".")), sql.Identifier(*table.split("."))))


def copy_out(connection: Connection, query: str) -> bytes:
    """Return a query's rows as binary COPY has them."""
    with connection.cursor().copy(f"COPY ({query}) TO STDOUT (FORMAT BINARY)".encode()) as copy:
        return b"".join(bytes(block) for block in copy)


def copy_in(connection: Connection, table: str, content: bytes, *, format: str = "BINARY", columns: str = "") -> None:
    """Write rows as binary COPY, or CSV, has them."""
    with connection.cursor().copy(f"COPY {table} {columns} FROM STDIN (FORMAT {format})".encode()) as copy:
        for start in range(0, len(content), 1 << 20):
            copy.write(content[start : start + (1 << 20)])
