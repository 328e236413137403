"""What all tests share: a clean environment, and the server in pytest's header."""

from __future__ import annotations

import os
import signal

import pytest

from tests.fix_command import command
from tests.fix_database import TEST_URL_VARIABLE, clone, server, template
from tests.fix_foreign import foreign_template, redis_repo, sqlite_repo
from tests.fix_market import arrow, market
from tests.fix_repository import applied_repository, repo

__all__ = [
    "applied_repository",
    "arrow",
    "clone",
    "command",
    "foreign_template",
    "market",
    "redis_repo",
    "repo",
    "server",
    "sqlite_repo",
    "template",
]

# A shell that started us in the background had us ignore Ctrl-C, and so would every process that tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

_TEST_URL = os.environ.get(TEST_URL_VARIABLE)
for _name in [name for name in os.environ if name.startswith(("FEATURECTL_", "PG"))]:
    if not _name.startswith("FEATURECTL_TEST_"):
        del os.environ[_name]


def pytest_report_header() -> str:
    if not _TEST_URL:
        return "database: the embedded PostgreSQL"
    from featurectl.core import timescale
    from featurectl.core.db import open_connection
    from featurectl.core.redact import redact, remember_secrets_of

    remember_secrets_of(_TEST_URL)
    with open_connection(_TEST_URL, connect_timeout=5) as connection:
        extension = timescale.inspect(connection)
        version = connection.info.server_version // 10000
    return f"database: {redact(_TEST_URL)}, PostgreSQL {version}, TimescaleDB {extension.installed or 'not installed'}"


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give every test the same environment, whatever the shell has."""
    # Tests start thousands of processes, of code that others run in their own; to measure them all would take minutes.
    monkeypatch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)
    for name in [name for name in os.environ if name.startswith(("FEATURECTL_", "PG"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("FEAST_USAGE", "False")
    # Tests that have a database go away, and come back, say how long it is to be waited for.
    monkeypatch.setenv("FEATURECTL_RETRY_FOR", "0")
