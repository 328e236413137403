"""A repository with the default definitions, applied to a database of its own, and the console script to run in it."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

import pytest

from featurectl.cli.app import run
from featurectl.core import redact
from featurectl.core.config import DATABASE_VARIABLE, Overrides
from featurectl.core.db import Connection, Database, open_connection, open_database
from featurectl.core.repository import Profile, make_repository
from tests import preloaded
from tests.fix_database import create_database, drop_database, freeze

SCRIPT, FEAST = (Path(sys.executable).with_name(name) for name in ("featurectl", "feast"))
CHECKOUT = Path(__file__).resolve().parent.parent
DATA = CHECKOUT.parent / "shared" / "data"

# Commands that load no Feast, which remembers what it has loaded, and start no server.
WRITERS = {"ingest", "compute", "materialize", "backfill", "maintain", "run", "baseline"}
READERS = {"get-offline", "views", "services", "entities", "storage", "runs", "status", "gaps"}
READERS |= {"check", "stats", "drift", "consistency", "lookahead", "report"}
IN_PROCESS = WRITERS | READERS

# Commands that load Feast.
WITH_FEAST = frozenset({"plan", "apply"})

needs_data = pytest.mark.skipif(
    not DATA.is_dir(), reason="the real market files (../shared/data) are not on this machine"
)


@dataclass(frozen=True)
class Repo:
    """A repository and its database."""

    root: Path
    url: str

    with_feast: ClassVar[frozenset[str]] = WITH_FEAST

    def run(
        self,
        *words: str | Path,
        env: Mapping[str, str] | None = None,
        input: bytes | None = None,
        timeout: float = 120,
    ) -> subprocess.CompletedProcess[str]:
        """Run the console script in the repository; returns its code, stdout and stderr as text."""
        line, environment = [str(SCRIPT), *map(str, words)], self.environment(env)
        # What PYTHON… says, only a new interpreter hears.
        afresh = input is not None or any(name.startswith("PYTHON") for name in env or {})
        if words and words[0] in self.with_feast and not afresh:
            done = preloaded.run(line, cwd=self.root, env=environment, timeout=timeout)
        else:
            done = subprocess.run(
                line,
                cwd=self.root,
                env=environment,
                input=input,
                stdin=None if input is not None else subprocess.DEVNULL,
                capture_output=True,
                timeout=timeout,
                check=False,
            )
        return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())

    def call(
        self, *words: str | Path, env: Mapping[str, str] | None = None, input: bytes | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Do what :meth:`run` does in this process, which takes no second to start; not from several threads."""
        out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", newline="") for _ in range(2))
        with (
            tempfile.TemporaryFile() as given,
            io.TextIOWrapper(given, "utf-8") as stdin,
            mock.patch.object(sys, "stdin", stdin),
            contextlib.chdir(self.root),
            mock.patch.dict(os.environ, self.environment(env)),
            mock.patch.object(redact, "_known", set(redact._known)),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            given.write(input or b"")
            given.seek(0)
            code = run(list(map(str, words)))
        for stream in (out, err):
            stream.flush()
        return subprocess.CompletedProcess(words, code, *(one.buffer.getvalue().decode() for one in (out, err)))

    def feast(self, *words: str) -> str:
        """Run Feast's own program as `featurectl feast` does, expect success, return stdout."""
        environment = self.environment({DATABASE_VARIABLE: self.database.sqlalchemy_url()})
        done = preloaded.run([str(FEAST), *words], cwd=self.root, env=environment, timeout=120)
        assert done.returncode == 0, f"{words}: {done.stdout.decode()}\n{done.stderr.decode()}"
        return done.stdout.decode()

    def ok(self, *words: str | Path, env: Mapping[str, str] | None = None, input: bytes | None = None) -> str:
        """Run a command, in this process where that may be; expect success, return stdout."""
        here = words[0] in IN_PROCESS - self.with_feast
        done = (self.call if here else self.run)(*words, env=env, input=input)
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
    """A repository directory to copy and the name of a template database to clone; `apply` loads Feast, once."""
    root = tmp_path_factory.mktemp("applied") / "market"
    make_repository(root, Profile.EMBEDDED, project="market")
    name = f"featurectl_template_{uuid.uuid4().hex[:12]}"
    url = create_database(server, name)
    _create_extension(url)
    with warnings.catch_warnings(action="ignore"):  # Feast's own
        applied = Repo(root, url).call("apply")
    assert applied.returncode == 0, applied.stderr
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
