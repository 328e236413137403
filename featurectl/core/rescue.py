"""Reads without a usable ``feature_store.yaml``: a database that is known all the same has what was published."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

from featurectl.core import embedded
from featurectl.core.config import (
    EMBEDDED,
    FILE_NAME,
    Config,
    Overrides,
    config_without_file,
    find_repository,
    load_config,
)
from featurectl.core.db import Database
from featurectl.core.queries import query
from featurectl.errors import ConfigError, FeaturectlError, RepositoryNotFound

# Lines that can be read whatever is wrong with others.
_PROJECT = re.compile(r"^project:\s*[\"']?(\w+)[\"']?\s*(?:#.*)?$", re.MULTILINE)
_DATABASE = re.compile(r"^\s*database:\s*[\"']?([^\s\"'#]*)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Rescue:
    """A configuration that reads can do with, and what is wrong with that of the file."""

    config: Config
    error: ConfigError

    @property
    def reason(self) -> str:
        project = self.config.project
        return (
            f"feature_store.yaml can't be used: {self.error}; answered from the published catalog of project {project}"
        )


def rescue(overrides: Overrides, error: ConfigError) -> Rescue:
    """Return where to read what the file can't tell.

    A flag or the environment names the database, or it is the repository's embedded one; the project is the only one
    that has published a catalog there, and none that the file names otherwise.

    Raises:
        ConfigError: the one that is given: nobody knows where to read.
    """
    try:
        root = find_repository(explicit=overrides.repo)
        text = (root / FILE_NAME).read_text(encoding="utf-8", errors="replace")
        config = config_without_file(root, overrides)
        if config.database_url is None and not _is_embedded(root, text):
            raise error
        with Database(config).connect(read_only=True) as connection:
            projects = [name for (name,) in connection.execute(query("catalog", "published_projects"))]
    except (FeaturectlError, OSError):
        raise error from None
    named = _PROJECT.search(text)
    if len(projects) != 1 or (named and named[1] != projects[0]):
        raise error
    return Rescue(replace(config, project=projects[0]), error)


def find_database(overrides: Overrides) -> tuple[Database, Rescue | None]:
    """Return a repository's database, and how that was found where its configuration can't be used.

    Raises:
        ConfigError: there is no repository, or nothing says where its database is.
    """
    try:
        return Database(load_config(overrides)), None
    except RepositoryNotFound:
        raise
    except ConfigError as error:
        found = rescue(overrides, error)
        return Database(found.config), found


def _is_embedded(root: Path, text: str) -> bool:
    """Tell whether the embedded server has data, and the file does not name another database."""
    named = _DATABASE.search(text)
    has_data = (embedded.data_dir(root) / "PG_VERSION").is_file()
    return has_data and (named is None or named[1] == EMBEDDED)
