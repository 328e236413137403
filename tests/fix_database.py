"""Databases for tests: the embedded server, or the one FEATURECTL_TEST_DATABASE_URL names, and clones of a template."""

from __future__ import annotations

import os
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from featurectl.core import embedded
from featurectl.core.db import open_connection

TEST_URL_VARIABLE = "FEATURECTL_TEST_DATABASE_URL"
_TEST_URL = os.environ.get(TEST_URL_VARIABLE)


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """The URL of a server whose databases tests may create and drop."""
    if _TEST_URL:
        yield _TEST_URL
        return
    # Not below pytest's own folder: other runs of pytest close that, and clear it away.
    with tempfile.TemporaryDirectory(prefix="featurectl-test-", ignore_cleanup_errors=True) as directory:
        data = embedded.data_dir(Path(directory))
        yield embedded.ensure_running(data)
        embedded.stop(data)


def with_database(url: str, name: str) -> str:
    """Return ``url`` for another database of the same server."""
    before = conninfo_to_dict(url).get("dbname")
    head, question, query = url.partition("?")
    return f"{head.removesuffix(f'/{before}').rstrip('/')}/{name}{question}{query}"


def _administer(url: str, *statements: sql.Composable) -> None:
    with open_connection(url, connect_timeout=10) as connection:
        for statement in statements:
            connection.execute(statement)


def create_database(server: str, name: str, template: str | None = None) -> str:
    """Create a database and return its URL."""
    clause = sql.SQL(" TEMPLATE {}").format(sql.Identifier(template)) if template else sql.SQL("")
    _administer(server, sql.SQL("CREATE DATABASE {}{}").format(sql.Identifier(name), clause))
    return with_database(server, name)


def drop_database(server: str, name: str) -> None:
    identifier = sql.Identifier(name)
    _administer(
        server,
        sql.SQL("ALTER DATABASE {} WITH IS_TEMPLATE false").format(identifier),
        sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(identifier),
    )


def freeze(server: str, name: str) -> None:
    """Make a database a template: clones of one that anybody is connected to fail now and then."""
    identifier = sql.Identifier(name)
    _administer(
        server,
        sql.SQL("ALTER DATABASE {} WITH ALLOW_CONNECTIONS false IS_TEMPLATE true").format(identifier),
        sql.SQL("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = {}").format(sql.Literal(name)),
    )


@pytest.fixture
def clone(server: str) -> Iterator[Callable[[str | None], str]]:
    """Create databases, empty or from a template, that go away with the test."""
    names: list[str] = []

    def create(template: str | None = None) -> str:
        name = f"featurectl_test_{uuid.uuid4().hex[:12]}"
        names.append(name)
        return create_database(server, name, template)

    yield create
    for name in names:
        drop_database(server, name)


@pytest.fixture(scope="session")
def template(server: str, applied_repository: tuple[Path, str]) -> str:
    """The name of a template database to which the default definitions have been applied."""
    return applied_repository[1]
