"""A password on the command line is gone from the process list before anything takes time."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from featurectl.cli.process_list import without_url
from featurectl.core.repository import Profile, make_repository
from tests.fix_repository import SCRIPT

SECRET = "s3cretOnTheCommandLine"
URL = f"postgresql://u:{SECRET}@h/d"
PLAIN = "postgresql://u@h/d"


@pytest.mark.parametrize(
    ("words", "url", "rest"),
    [
        (["views", "--database-url", URL], URL, ["views"]),
        ([f"--database-url={URL}", "views", "-q"], URL, ["views", "-q"]),
        (["-C", "x", "--database-url", URL, "feast", "--", "ui"], URL, ["-C", "x", "feast", "--", "ui"]),
        (["views", "--database-url", "postgresql://u@h/d?pass%77ord=a"], "postgresql://u@h/d?pass%77ord=a", ["views"]),
        (["views", "--database-url", "host=h password=a"], "host=h password=a", ["views"]),
        (["views", "--database-url", "u:a@h/d"], "u:a@h/d", ["views"]),
        ([f"--database-url={URL}", "views", "--database-url", PLAIN], PLAIN, ["views"]),
        (["views", "--database-url", PLAIN], None, ["views", "--database-url", PLAIN]),
        (["views", "--database-url"], None, ["views", "--database-url"]),
        (["views", "--database-url="], None, ["views", "--database-url="]),
        (["views", "--database-url", "", f"--database-url={URL}"], None, None),
        (["db", "shell", "--", "--database-url", URL], None, ["db", "shell", "--", "--database-url", URL]),
        (["views", f"--database-urls={URL}"], None, ["views", f"--database-urls={URL}"]),
    ],
)
def test_what_is_taken_off_the_command_line(words: list[str], url: str | None, rest: list[str] | None) -> None:
    assert without_url(words) == (url, words if rest is None else rest)


@pytest.fixture
def silent() -> Iterator[socket.socket]:
    """A server that takes connections and says nothing: who connects waits for it."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(30)
        yield server


@pytest.mark.parametrize(
    "program",
    [[str(SCRIPT)], [sys.executable, "-m", "featurectl"], [sys.executable, "-X", "utf8", "-m", "featurectl"]],
    ids=["script", "module", "module with an option of Python's"],
)
@pytest.mark.parametrize(
    "words",
    [
        ["views", "--database-url", "URL"],
        ["--database-url=URL", "views", "--timeout", "5"],
        ["db", "status", "--database-url", "QUERY"],
    ],
    ids=["word", "equals", "query"],
)
@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="no /proc")
def test_a_password_is_not_in_the_process_list(
    tmp_path: Path, silent: socket.socket, program: list[str], words: list[str]
) -> None:
    root = make_repository(tmp_path / "market", Profile.TIMESCALE).root
    place = f"127.0.0.1:{silent.getsockname()[1]}/d"
    urls = {"URL": f"postgresql://u:{SECRET}@{place}", "QUERY": f"postgresql://u@{place}?password={SECRET}"}
    for name, url in urls.items():
        words = [word.replace(name, url) for word in words]
    # The option wins over the variable: only its server is there.
    environment = {**os.environ, "FEATURECTL_DATABASE_URL": f"postgresql://u:{SECRET}@127.0.0.1:1/other"}
    process = subprocess.Popen(
        [*program, *words], cwd=root, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        connection, _ = silent.accept()
        with connection:
            assert process.poll() is None
            shown = Path(f"/proc/{process.pid}/cmdline").read_text().split("\0")
            assert SECRET not in " ".join(shown)
            assert [word for word in words if SECRET not in word and word != "--database-url"] == [
                word for word in shown[1:] if word in words
            ]
        silent.close()
        stdout, stderr = process.communicate(timeout=30)
    finally:
        process.kill()
    assert (process.returncode, stdout) == (3, "")
    assert SECRET not in stderr


def test_the_exit_code_and_the_streams_are_those_of_the_command(tmp_path: Path) -> None:
    root = make_repository(tmp_path / "market", Profile.TIMESCALE).root
    done = subprocess.run(
        [str(SCRIPT), "db", "roles", f"--database-url={URL}"], cwd=root, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("-- Roles for the repository of project market")
    assert SECRET not in done.stdout + done.stderr
