"""feature_store.yaml: found, read, expanded; flags over environment over file."""

from __future__ import annotations

from pathlib import Path

import pytest

from featurectl.core.config import Overrides, find_repository, load_config
from featurectl.errors import ConfigError, RepositoryNotFound, UnsetVariable

EMBEDDED = "project: market\nfeaturectl: {database: embedded}\nregistry: {path: '${FEATURECTL_DATABASE_URL}'}\n"
SERVER = "project: market\nfeaturectl: {database: '${FEATURECTL_DATABASE_URL}', statement_timeout: 7}\n"


def write(root: Path, text: str) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    (root / "feature_store.yaml").write_text(text)
    return root


def load(root: Path, **overrides: object) -> object:
    return load_config(Overrides(repo=root, **overrides))  # type: ignore[arg-type]


def test_the_repository_is_found_from_below(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write(tmp_path / "market", EMBEDDED)
    (root / "a" / "b").mkdir(parents=True)
    monkeypatch.chdir(root / "a" / "b")
    assert find_repository() == root


def test_the_flag_wins_over_the_environment_and_that_over_the_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, variable, flag = (write(tmp_path / name, EMBEDDED) for name in ("here", "variable", "flag"))
    monkeypatch.chdir(here)
    assert find_repository() == here
    monkeypatch.setenv("FEATURECTL_REPO", str(variable))
    assert find_repository() == variable
    assert find_repository(explicit=flag) == flag


def test_a_repository_may_be_named_by_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write(tmp_path / "market", EMBEDDED)
    assert find_repository(explicit=root / "feature_store.yaml") == root
    monkeypatch.chdir(root)
    assert find_repository(explicit=Path("feature_store.yaml")) == root
    monkeypatch.setenv("FEATURECTL_REPO", str(root / "feature_store.yaml"))
    assert find_repository() == root
    with pytest.raises(RepositoryNotFound, match=r"none holds no feature_store\.yaml; run `featurectl init \S*none`"):
        find_repository(explicit=tmp_path / "none" / "feature_store.yaml")


def test_a_directory_without_a_repository_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RepositoryNotFound, match="featurectl init"):
        find_repository()
    with pytest.raises(RepositoryNotFound, match=r"holds no feature_store\.yaml"):
        find_repository(explicit=tmp_path)


def test_the_embedded_profile_needs_no_variable(tmp_path: Path) -> None:
    config = load_config(Overrides(repo=write(tmp_path, EMBEDDED)))
    assert config.database_url is None
    assert config.project == "market"


def test_a_url_in_the_environment_wins_over_embedded_and_a_flag_over_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write(tmp_path, EMBEDDED)
    monkeypatch.setenv("FEATURECTL_DATABASE_URL", "postgres://u@environment/d")
    assert load_config(Overrides(repo=root)).database_url == "postgresql://u@environment/d"
    given = Overrides(repo=root, database_url="postgresql+psycopg://u@flag/d")
    assert load_config(given).database_url == "postgresql://u@flag/d"


def test_an_unset_variable_is_named_with_the_key_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(
        UnsetVariable, match=r"featurectl\.database names \$\{FEATURECTL_DATABASE_URL\}, which is not set"
    ):
        load(write(tmp_path, SERVER))


def test_a_secret_may_hold_what_yaml_reads_as_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEATURECTL_DATABASE_URL", "postgresql://u:a%3A #'\"b@h/d")
    assert load_config(Overrides(repo=write(tmp_path, SERVER))).database_url == "postgresql://u:a%3A #'\"b@h/d"


def test_time_outs_come_from_flag_environment_file_in_that_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write(tmp_path, SERVER)
    monkeypatch.setenv("FEATURECTL_DATABASE_URL", "postgresql://u@h/d")
    assert load_config(Overrides(repo=root)).statement_timeout == 7
    monkeypatch.setenv("FEATURECTL_STATEMENT_TIMEOUT", "8.5")
    assert load_config(Overrides(repo=root)).statement_timeout == 8.5
    assert load_config(Overrides(repo=root, timeout=9)).statement_timeout == 9


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty or not a mapping"),
        ("- a\n- b\n", "is empty or not a mapping"),
        ("project: [\n", "line 2, column 1 is not YAML"),
        ("featurectl: {database: embedded}\n", "project must be"),
        ("project: 'a b'\nfeaturectl: {database: embedded}\n", "project must be"),
        ("project: 5\nfeaturectl: {database: embedded}\n", "project must be"),
        ("project: market\n", "names no database"),
        ("project: market\nfeaturectl: nonsense\n", "featurectl must be a mapping"),
        ("project: market\nfeaturectl: [1]\n", "featurectl must be a mapping"),
        (
            "project: market\nfeaturectl: {database: embedded, storrage: {}}\n",
            "featurectl has no setting 'storrage'; settings: database, .*storage",
        ),
        ("project: market\nfeaturectl: {database: mysql://x}\n", "is not a PostgreSQL URL"),
        ("project: market\nfeaturectl: {database: embedded, warmup_bars: 0}\n", "warmup_bars must be"),
        ("project: market\nfeaturectl: {database: embedded, warmup_bars: many}\n", "warmup_bars must be"),
        ("project: market\nfeaturectl: {database: embedded, statement_timeout: -1}\n", "not a number of seconds"),
    ],
)
def test_a_file_that_can_not_be_used_is_named_with_the_reason(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load(write(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "feature_store.yaml").write_bytes(b"\xff\xfe\x00project")
    with pytest.raises(ConfigError, match="not a text file"):
        load(tmp_path)
