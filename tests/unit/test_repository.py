"""init: rendered, copied, never over what is there, nothing left behind."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import jinja2
import pytest
import yaml

from featurectl.core import repository
from featurectl.core.repository import Profile, make_repository, project_name, rendered
from featurectl.errors import ConfigError, NotAllowed, OutputFileError


def snapshot(root: Path) -> dict[str, str]:
    return {str(path.relative_to(root)): path.read_text() for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize("profile", Profile)
def test_what_init_writes_is_what_it_says(tmp_path: Path, profile: Profile) -> None:
    made = make_repository(tmp_path / "my-market", profile)
    assert made.project == "my_market"
    assert sorted(snapshot(made.root)) == list(made.files)
    assert ("docker-compose.yaml" in made.files) == (profile is Profile.TIMESCALE)


@pytest.mark.parametrize("profile", Profile)
def test_the_yaml_names_our_stores_and_no_secret(tmp_path: Path, profile: Profile) -> None:
    root = make_repository(tmp_path / "market", profile).root
    document = yaml.safe_load((root / "feature_store.yaml").read_text())
    assert document["project"] == "market"
    assert document["online_store"]["type"] == "featurectl.plugin.online.TimescaleOnlineStore"
    assert document["offline_store"]["type"] == "featurectl.plugin.offline.TimescaleOfflineStore"
    assert document["registry"]["registry_type"] == "sql"
    assert document["registry"]["serve_features_while_materializing"] is True
    urls = {document[section]["url"] for section in ("online_store", "offline_store")} | {document["registry"]["path"]}
    assert urls == {"${FEATURECTL_DATABASE_URL}"}


@pytest.mark.parametrize("profile", Profile)
@pytest.mark.parametrize("umask", [0o022, 0o077, 0o000])
def test_what_secrets_are_written_into_is_its_owners_alone(tmp_path: Path, profile: Profile, umask: int) -> None:
    before = os.umask(umask)
    try:
        made = make_repository(tmp_path / "market", profile)
        modes = {name: (made.root / name).stat().st_mode & 0o777 for name in made.files}
        assert modes.pop(".env.example") == 0o600
        assert set(modes.values()) == {0o666 & ~umask}
        # Over one that everybody can read, too.
        (made.root / ".env.example").chmod(0o644)
        make_repository(tmp_path / "market", profile, overwrite=True)
        assert (made.root / ".env.example").stat().st_mode & 0o777 == 0o600
        subprocess.run(["cp", ".env.example", ".env"], cwd=made.root, check=True)
        assert (made.root / ".env").stat().st_mode & 0o777 == 0o600
    finally:
        os.umask(before)


def test_a_project_that_looks_like_a_number_stays_text(tmp_path: Path) -> None:
    root = make_repository(tmp_path / "x", Profile.EMBEDDED, project="2024").root
    assert yaml.safe_load((root / "feature_store.yaml").read_text())["project"] == "2024"


def test_a_variable_the_template_does_not_know_is_an_error() -> None:
    with pytest.raises(jinja2.UndefinedError, match="project"):
        rendered(Profile.EMBEDDED, {"profile": "embedded"})


def test_files_that_are_there_stay_and_are_named(tmp_path: Path) -> None:
    (tmp_path / "feature_store.yaml").write_text("mine")
    with pytest.raises(NotAllowed, match=r"already has feature_store\.yaml; .* --force"):
        make_repository(tmp_path, Profile.EMBEDDED)
    assert snapshot(tmp_path) == {"feature_store.yaml": "mine"}
    make_repository(tmp_path, Profile.EMBEDDED, overwrite=True)
    assert "mine" not in (tmp_path / "feature_store.yaml").read_text()


@pytest.mark.parametrize("failing", [1, 4, 8])
def test_a_failure_half_way_leaves_everything_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    (tmp_path / "feature_store.yaml").write_text("mine")
    replace, calls = os.replace, []

    def fail(source: str, target: str) -> None:
        calls.append(target)
        if len(calls) == failing:
            raise OSError(28, "No space left on device", str(target))
        replace(source, target)

    monkeypatch.setattr(repository.os, "replace", fail)
    with pytest.raises(OutputFileError, match="No space left"):
        make_repository(tmp_path, Profile.EMBEDDED, overwrite=True)
    assert snapshot(tmp_path) == {"feature_store.yaml": "mine"}
    assert [path.name for path in tmp_path.iterdir()] == ["feature_store.yaml"]


def test_a_failure_in_a_new_directory_takes_the_directory_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(source: str, target: str) -> None:
        raise OSError(28, "No space left on device", str(target))

    monkeypatch.setattr(repository.os, "replace", fail)
    with pytest.raises(OutputFileError):
        make_repository(tmp_path / "a" / "b", Profile.EMBEDDED)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["", "a b", "-x", "_x", "a;b", "ä"])
def test_a_project_name_feast_refuses_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="letters, digits and underscores"):
        project_name(Path("x"), name)


@pytest.mark.parametrize(("directory", "name"), [("My Market!", "my_market"), ("...", "market"), ("2024", "2024")])
def test_the_directory_gives_the_project_its_name(directory: str, name: str) -> None:
    assert project_name(Path("/tmp") / directory, None) == name
