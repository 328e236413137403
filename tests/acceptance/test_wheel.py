"""The wheel holds everything: built, installed where no checkout is, it makes a repository."""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from tests.fix_repository import CHECKOUT

pytestmark = pytest.mark.xdist_group("wheel")  # built once


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build with the build tools that are here; nothing is fetched."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, CHECKOUT]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the wheel in it and this one's packages lent; returns the folder of its programs."""
    root = tmp_path_factory.mktemp("installed") / "venv"
    venv.create(root, symlinks=True)
    # pip of this environment installs there; --no-deps keeps it from the network.
    pip = [sys.executable, "-m", "pip", "--python", root, "install", "--no-deps", "--no-index", "--quiet", wheel]
    done = subprocess.run(pip, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (packages,) = root.glob("lib/python*/site-packages")
    (packages / "lent.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return root / "bin"


def run(installed: Path, directory: Path, *words: str) -> str:
    done = subprocess.run(
        [installed / words[0], *words[1:]], cwd=directory, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_wheel_holds_templates_definitions_sql_and_the_typing_marker(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    folders = {"templates": "templates", "feature_repo": "feature_repo", "featurectl/sql": "sql"}
    wanted = {
        f"featurectl/{inside}/{path.relative_to(CHECKOUT / folder)}"
        for folder, inside in folders.items()
        for path in (CHECKOUT / folder).rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    assert {"featurectl/templates/common/.gitignore.j2", "featurectl/sql/migrations/0001_base.sql"} <= wanted
    assert wanted <= names
    assert "featurectl/py.typed" in names
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)
    assert not [name for name in names if name.startswith("tests") or name.endswith(".pyc")]


def test_the_installed_wheel_makes_a_repository(installed: Path, tmp_path: Path) -> None:
    place = run(installed, tmp_path, "python", "-c", "import featurectl; print(featurectl.__file__)")
    assert Path(place.strip()).is_relative_to(installed.parent), "not the checkout"
    for profile in ("embedded", "timescale"):
        made = json.loads(run(installed, tmp_path, "featurectl", "init", profile, "--profile", profile))
        files = {
            str(path.relative_to(tmp_path / profile)) for path in (tmp_path / profile).rglob("*") if path.is_file()
        }
        assert files == set(made["files"])
        assert {"feature_store.yaml", ".gitignore", ".env.example", "feature_repo/indicators.py"} <= files


def test_the_installed_wheel_finds_its_queries(installed: Path, tmp_path: Path) -> None:
    code = """
from featurectl.core import queries, schema
assert schema.migrations()
print(sum(len(queries.load(path.stem)) for path in queries.SQL_DIRECTORY.glob("*.sql")))
"""
    assert int(run(installed, tmp_path, "python", "-c", code)) > 20
