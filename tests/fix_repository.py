"""A repository with the default definitions, applied to a database of its own, and the console script to run in it."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from featurectl.cli.app import run
from featurectl.core import redact
from featurectl.core.config import Overrides
from featurectl.core.db import Connection, Database, open_connection, open_database
from featurectl.core.repository import Profile, make_repository
from tests.fix_database import create_database, drop_database, freeze

SCRIPT = Path(sys.executable).with_name("featurectl")
CHECKOUT = Path(__file__).resolve().parent.parent
DATA = CHECKOUT.parent / "shared" / "data"

# Commands that load no Feast, which remembers what it has loaded, and start no server.
IN_PROCESS = {"ingest", "compute", "materialize", "backfill", "maintain", "storage", "runs", "status", "gaps", "run"}

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

    def call(self, *words: str | Path, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """Do what :meth:`run` does in this process, which takes no second to start; not from several threads."""
        out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", newline="") for _ in range(2))
        with (
            contextlib.chdir(self.root),
            mock.patch.dict(os.environ, self.environment(env)),
            mock.patch.object(redact, "_known", set(redact._known)),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            code = run(list(map(str, words)))
        for stream in (out, err):
            stream.flush()
        return subprocess.CompletedProcess(words, code, *(one.buffer.getvalue().decode() for one in (out, err)))

    def ok(self, *words: str | Path, env: Mapping[str, str] | None = None, input: bytes | None = None) -> str:
        """Run a command, in this process where that may be; expect success, return stdout."""
        here = input is None and words[0] in IN_PROCESS
        done = self.call(*words, env=env) if here else self.run(*words, env=env, input=input)
        assert done.returncode == 0, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def json(self, *words: str | Path, env: Mapping[str, str] | None = None, input: bytes | None = None) -> Any:
        """Do what :meth:`ok` does with ``--json``, return the document."""
        return json.loads(self.ok(*words, "--json", env=env, input=input))

    def environment(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        return {**os.environ, "FEATURECTL_DATABASE_URL": self.url, **(extra or {})}

    @property
    def database(self) -> Database:
        """The database as the core sees it."""
        return open_database(Overrides(repo=self.root, database_url=self.url))

    def connect(self) -> Connection:
        return open_connection(self.url, connect_timeout=10)

    def advisory_locks(self) -> int:
        """Count the locks that are held when the sessions that ended a moment ago are gone."""
        statement = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND database = "
        statement += "(SELECT oid FROM pg_database WHERE datname = current_database())"
        end = time.monotonic() + 5
        while (count := int(self.rows(statement)[0][0])) and time.monotonic() < end:
            time.sleep(0.02)
        return count

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
