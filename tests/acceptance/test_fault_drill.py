"""Sixteen tasks read in a loop while something breaks: no call fails, hangs, or says a wrong value or a wrong path.

`python -m tests.bench.faults` is the same with longer faults, and prints a table.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import featurectl.opened
from featurectl.core import embedded
from tests.drill import Fault, Ground, Outcome, Phases, drill, fill
from tests.faults import OURS, SERVER
from tests.fix_database import TEST_URL_VARIABLE, create_database, drop_database
from tests.fix_foreign import redis_server
from tests.foreign_faults import REDIS, SQLITE, UNKNOWN, ForeignGround, over_redis, over_sqlite

PHASES = Phases(before=0.15, fault=0.5, after=0.1)
# One process has them all: the grounds take seconds to make, and drills disturb each other.
pytestmark = pytest.mark.xdist_group("fault drill")


@pytest.fixture(scope="module", autouse=True)
def _look_often() -> Iterator[None]:
    """Have the catalog looked at again and again meanwhile."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(featurectl.opened, "CATALOG_SECONDS", 0.2)
        yield


@pytest.fixture(scope="module")
def ground(
    server: str, applied_repository: tuple[Path, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Ground]:
    yield from _ground(server, applied_repository, tmp_path_factory.mktemp("drill") / "market")


@pytest.fixture(scope="module")
def sqlite(
    server: str, applied_repository: tuple[Path, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ForeignGround]:
    directory = tmp_path_factory.mktemp("foreign")
    for ground in _ground(server, applied_repository, directory / "market"):
        yield over_sqlite(ground, directory / "over_sqlite")


@pytest.fixture(scope="module")
def redis(sqlite: ForeignGround) -> Iterator[ForeignGround]:
    redis_server()
    with over_redis(sqlite, sqlite.root.parent / "over_redis") as ground:
        yield ground


@pytest.fixture(scope="module")
def own_server(ground: Ground, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    """The same on a server of the repository's own, which may be stopped."""
    if os.environ.get(TEST_URL_VARIABLE):
        pytest.skip(f"the server that {TEST_URL_VARIABLE} names is not ours to stop")
    root = tmp_path_factory.mktemp("own") / "market"
    shutil.copytree(ground.root, root)
    data = embedded.data_dir(root)
    url = embedded.ensure_running(data)
    dump = subprocess.run([embedded.client_program("pg_dump"), ground.url], capture_output=True, check=True).stdout
    restore = [embedded.client_program("psql"), "-q", "-v", "ON_ERROR_STOP=1", "-d", url]
    subprocess.run(restore, input=dump, stdout=subprocess.DEVNULL, check=True)
    yield Ground(root, url)
    embedded.stop(data)


def _ground(server: str, applied: tuple[Path, str], root: Path) -> Iterator[Ground]:
    shutil.copytree(applied[0], root)
    name = f"featurectl_test_{uuid.uuid4().hex[:12]}"
    ground = Ground(root, create_database(server, name, applied[1]))
    fill(ground)
    yield ground
    drop_database(server, name)


def hold(ground: Ground, fault: Fault, **options: Any) -> Outcome:
    outcome = asyncio.run(drill(ground, fault, PHASES, **options))
    counts = ", ".join(f"{count} by {path}" for path, count in outcome.paths.items())
    print(f"{len(outcome.calls)} calls, {counts}; the longest took {outcome.worst:.2f} s")
    assert not outcome.wrong, "\n".join(outcome.wrongs)
    assert outcome.recovery is not None
    assert outcome.recovery < 5
    # It did what it is said to do.
    degraded = {view for call in outcome.calls for view in call.reasons}
    assert degraded >= {view for view, paths in fault.during.items() if fault.first not in paths}
    return outcome


def named(fault: Fault) -> str:
    return fault.name


@pytest.mark.parametrize("fault", OURS, ids=named)
def test_our_online_store(ground: Ground, fault: Fault) -> None:
    hold(ground, fault)


@pytest.mark.parametrize("fault", SERVER, ids=named)
def test_a_server_of_our_own(own_server: Ground, fault: Fault) -> None:
    hold(own_server, fault, database_url=None)


@pytest.mark.parametrize("fault", SQLITE, ids=named)
def test_sqlite_through_feast(sqlite: ForeignGround, fault: Fault) -> None:
    hold(sqlite, fault)


def test_a_view_that_only_feast_knows(ground: Ground) -> None:
    assert hold(ground, UNKNOWN).paths["feast"]


@pytest.mark.parametrize("fault", REDIS, ids=named)
def test_redis_through_feast(redis: ForeignGround, fault: Fault) -> None:
    hold(redis, fault)
