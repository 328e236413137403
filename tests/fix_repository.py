"""A repository with the default definitions, applied to a database of its own, and the console script to run in it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from featurectl.core.config import Overrides
from featurectl.core.db import Connection, Database, open_connection, open_database
from featurectl.core.repository import Profile, make_repository
from tests.fix_database import create_database, drop_database, freeze

SCRIPT = Path(sys.executable).with_name("featurectl")
CHECKOUT = Path(__file__).resolve().parent.parent
DATA = CHECKOUT.parent / "shared" / "data"

needs_data = pytest.mark.skipif(
    not DATA.is_dir(), reason="the real market files (../shared/data) are not on this machine"
)


@dataclass(frozen=True)
class Repo:
    """A repository and its database."""

    root: Path
    url: str

    def run(
        self,
        *words: str | Path,
        env: Mapping[str, str] | None = None,
        input: bytes | None = None,
        timeout: float = 120,
    ) -> subprocess.CompletedProcess[str]:
        """Run the console script in the repository; returns its code, stdout and stderr as text."""
        done = subprocess.run(
            [str(SCRIPT), *map(str, words)],
            cwd=self.root,
            env=self.environment(env),
            input=input,
            stdin=None if input is not None else subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout,
            check=False,
        )
        return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())

    def ok(self, *words: str | Path, env: Mapping[str, str] | None = None, input: bytes | None = None) -> str:
        """Run the console script, expect success, return stdout."""
        done = self.run(*words, env=env, input=input)
        assert done.returncode == 0, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def json(self, *words: str | Path, env: Mapping[str, str] | None = None, input: bytes | None = None) -> Any:
        """Run the console script with ``--json``, expect success, return the document."""
        return json.loads(self.ok(*words, "--json", env=env, input=input))

    def environment(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        return {**os.environ, "FEATURECTL_DATABASE_URL": self.url, **(extra or {})}

    @property
    def database(self) -> Database:
        """The database as the core sees it."""
        return open_database(Overrides(repo=self.root, database_url=self.url))

    def connect(self) -> Connection:
        return open_connection(self.url, connect_timeout=10)

    def rows(self, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Run a query of the test's own and return its rows."""
        with self.connect() as connection:
            return connection.execute(statement.encode(), parameters or None).fetchall()


@pytest.fixture(scope="session")
def applied_repository(server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """A repository directory to copy and the name of a template database to clone; `apply` takes seconds, once."""
    root = tmp_path_factory.mktemp("applied") / "market"
    make_repository(root, Profile.EMBEDDED, project="market")
    name = f"featurectl_template_{uuid.uuid4().hex[:12]}"
    url = create_database(server, name)
    _create_extension(url)
    Repo(root, url).ok("apply")
    freeze(server, name)
    yield root, name
    drop_database(server, name)


def _create_extension(url: str) -> None:
    """Use TimescaleDB where the server has it."""
    with open_connection(url, connect_timeout=10) as connection:
        available = connection.execute("SELECT 1 FROM pg_available_extensions WHERE name = 'timescaledb'").fetchone()
        if available:
            connection.execute("CREATE EXTENSION IF NOT EXISTS timescaledb")


@pytest.fixture
def repo(applied_repository: tuple[Path, str], clone: Callable[[str | None], str], tmp_path: Path) -> Repo:
    """An applied repository with an empty market, the test's own."""
    root, template = applied_repository
    shutil.copytree(root, tmp_path / "market")
    return Repo(tmp_path / "market", clone(template))
