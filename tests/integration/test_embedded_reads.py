"""A manager beside an embedded server that is stopped, killed and started."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from featurectl.core import embedded
from featurectl.errors import DatabaseUnreachable
from featurectl.manager import FeastFeatureStoreManager
from tests.fix_repository import Repo


@pytest.fixture
def root(applied_repository: tuple[Path, str], tmp_path: Path) -> Iterator[Path]:
    """A repository with a server of its own."""
    root = tmp_path / "market"
    shutil.copytree(applied_repository[0], root, ignore=shutil.ignore_patterns(".featurectl"))
    repo = Repo(root, "")
    repo.ok("apply", env={"FEATURECTL_DATABASE_URL": ""})
    yield root
    with contextlib.suppress(DatabaseUnreachable):
        embedded.stop(embedded.data_dir(root))


def test_a_stopped_server_stays_so_under_readers_and_one_that_was_killed_comes_back(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FEATURECTL_DATABASE_URL", raising=False)
    data = embedded.data_dir(root)

    async def read(manager: FeastFeatureStoreManager) -> str:
        return (await manager.get_online_features_rows(["BTCUSDT_1h"], ["rsi_14"])).source

    async def main() -> None:
        async with FeastFeatureStoreManager(root, timeout=1.0) as manager:
            assert await read(manager) == "online"
            stopping = asyncio.ensure_future(asyncio.to_thread(embedded.stop, data))
            while not stopping.done():
                with contextlib.suppress(DatabaseUnreachable):
                    await read(manager)
            assert await stopping
            for _ in range(3):
                with pytest.raises(DatabaseUnreachable, match="was stopped; `featurectl db start` starts it"):
                    await read(manager)
                assert (await manager.health(within=1.0))["status"] == "unavailable"
                assert not embedded.status(data).running
            embedded.ensure_running(data)
            assert await read(manager) == "online"
            pid = embedded.status(data).pid
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            deadline = time.monotonic() + 20
            # Its sessions may outlive the server by a moment.
            while embedded.status(data).pid == pid:
                with contextlib.suppress(DatabaseUnreachable):
                    assert await read(manager) == "online"
                assert time.monotonic() < deadline
            while True:
                try:
                    assert await read(manager) == "online"
                    break
                except DatabaseUnreachable:
                    assert time.monotonic() < deadline
            assert embedded.status(data).pid != pid

    asyncio.run(main())
