"""featurectl db on an embedded server, as a user calls it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from featurectl.core import embedded
from featurectl.core.repository import Profile, make_repository
from tests.fix_repository import SCRIPT, Repo


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    made = make_repository(tmp_path / "market", Profile.EMBEDDED)
    yield made.root
    embedded.stop(embedded.data_dir(made.root))


def run(root: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([SCRIPT, *words], cwd=root, capture_output=True, text=True, check=False, timeout=60)


def status(root: Path) -> dict[str, object]:
    return dict(json.loads(run(root, "db", "status").stdout))


def test_start_status_shell_url_stop(root: Path) -> None:
    assert status(root)["running"] is False
    assert not (root / ".featurectl" / "pgdata").exists(), "status starts nothing"
    assert json.loads(run(root, "db", "start").stdout)["running"] is True
    first = status(root)["pid"]
    assert run(root, "db", "start").returncode == 0
    assert status(root)["pid"] == first, "a second start finds the first's server"
    shell = run(root, "db", "shell", "--", "-At", "-c", "SHOW timezone; SELECT 1 + 1")
    assert shell.stdout.split() == ["UTC", "2"]
    url = run(root, "db", "url").stdout.strip()
    assert url.startswith("postgresql://")
    assert run(root, "db", "stop").stderr == "stopped\n"
    assert status(root)["running"] is False
    assert run(root, "db", "stop").stderr == "it was not running\n"


def test_a_command_starts_the_server_and_leaves_it_running(root: Path) -> None:
    done = run(root, "views")
    assert done.returncode == 2
    assert "run `featurectl apply`" in done.stderr
    assert status(root)["running"] is True


def test_two_commands_that_start_it_at_once_both_answer(root: Path) -> None:
    processes = [
        subprocess.Popen([SCRIPT, "views"], cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for process in processes:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 2
        assert "run `featurectl apply`" in errors


def test_a_server_by_url_is_neither_started_nor_stopped(repo: Repo) -> None:
    for command in ("start", "stop", "url"):
        done = repo.run("db", command)
        assert (done.returncode, done.stdout) == (2, "")
        assert "uses a server by URL" in done.stderr
    facts = repo.json("db", "status")
    assert facts["mode"] == "server"
    assert facts["running"] is True
    assert repo.ok("db", "shell", "--", "-At", "-c", "SELECT count(*) FROM featurectl.catalogs").strip() == "1"
