"""Read ``feature_store.yaml`` without Feast. Flags win over the environment, the environment over the file."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from featurectl.core import redact
from featurectl.core.times import parse_duration
from featurectl.errors import ConfigError, InvalidTime, RepositoryNotFound, UnsetVariable

FILE_NAME = "feature_store.yaml"
REPO_VARIABLE = "FEATURECTL_REPO"
DATABASE_VARIABLE = "FEATURECTL_DATABASE_URL"
EMBEDDED = "embedded"
ONLINE_STORE = "featurectl.plugin.online.TimescaleOnlineStore"
OFFLINE_STORE = "featurectl.plugin.offline.TimescaleOfflineStore"
# What the file's section `featurectl:` may hold.
SETTINGS = (
    "database",
    "connect_timeout",
    "statement_timeout",
    "write_timeout",
    "lock_timeout",
    "retry_for",
    "keep_runs",
    "warmup_bars",
    "storage",
    "pipeline",
    "checks",
)

SCHEMA_NAME = "write a schema's name of at most 63 bytes, without dots and line breaks"

# Fewer bars, and what Wilder's averages still remember of their start is more than 1e-9 of their value.
MIN_WARMUP = 400

_VARIABLE = re.compile(r"\$\{(?P<braced>[^}]*)\}|\$(?P<plain>[A-Za-z_]\w*)")
_NAME = re.compile(r"[A-Za-z_]\w*")
_SEARCH_PATH = re.compile(r"search_path=(?P<schema>\w+)")
_PROJECT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_]*")


@dataclass(frozen=True, slots=True)
class Overrides:
    """What flags say; ``None`` means not given."""

    repo: Path | None = None
    database_url: str | None = None
    timeout: float | None = None


@dataclass(frozen=True, slots=True)
class Config:
    """One repository's settings, resolved.

    ``database_url`` is ``None`` when the embedded server is used. ``registry_schema`` is where Feast's SQL registry
    stands in the same database, ``registry_file`` the file it is; both are ``None`` where it is elsewhere. Times are
    seconds: what writes may take ``write_timeout`` a statement, waits ``lock_timeout`` for rows and tables, and tries
    again for ``retry_for`` when the database goes away. The ledger of runs goes back for ``keep_runs``, ``None`` is for
    ever. ``storage`` is what the file says of tables' life cycles, which
    core/storage.py reads, ``pipeline`` what it says of `featurectl run`, and ``checks`` what it says of
    `featurectl check`.
    """

    root: Path
    project: str
    database_url: str | None = field(repr=False)
    online_store: str = ONLINE_STORE
    online_schema: str = "online"
    registry_schema: str | None = None
    registry_file: Path | None = None
    connect_timeout: float = 5
    statement_timeout: float = 30
    warmup_bars: int = 1000
    storage: Mapping[str, Any] = field(default_factory=dict, hash=False)
    write_timeout: float = 3600
    lock_timeout: float = 30
    retry_for: float = 60
    keep_runs: timedelta | None = None
    pipeline: Mapping[str, Any] = field(default_factory=dict, hash=False)
    checks: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def online_store_is_ours(self) -> bool:
        return self.online_store == ONLINE_STORE

    @property
    def is_applied_unheard(self) -> bool:
        """Whether Feast may have applied definitions that no store of ours was told of, or could publish."""
        by_file = self.registry_file is not None and self.registry_file.is_file()
        # With SQLite online, Feast applies without telling any store.
        return by_file or (self.registry_schema is not None and not self.online_store_is_ours)


def find_repository(start: Path | None = None, *, explicit: Path | None = None) -> Path:
    """Return the directory that holds ``feature_store.yaml``: the one named, or the nearest from ``start`` upwards.

    Who names the file means its directory.

    Raises:
        RepositoryNotFound: there is none.
    """
    named = explicit or (Path(value) if (value := os.environ.get(REPO_VARIABLE)) else None)
    if named is not None:
        # os.path says no of a name that is too long, where Path's methods fail.
        if named.name == FILE_NAME and not os.path.isdir(named):
            named = named.parent
        if not os.path.isfile(named / FILE_NAME):
            raise RepositoryNotFound(f"{named} holds no {FILE_NAME}; run `featurectl init {named}`")
        return named.resolve()
    here = (start or Path.cwd()).resolve()
    for directory in (here, *here.parents):
        if (directory / FILE_NAME).is_file():
            return directory
    raise RepositoryNotFound(
        f"no {FILE_NAME} in {here} or above; run `featurectl init`, or name the repository with -C DIR"
    )


def load_config(overrides: Overrides | None = None) -> Config:
    """Find the repository and read its settings.

    Raises:
        RepositoryNotFound: no repository here or above.
        UnsetVariable: the file names an environment variable that is not set.
        ConfigError: the file is not the YAML it should be.
    """
    overrides = overrides or Overrides()
    root = find_repository(explicit=overrides.repo)
    path = root / FILE_NAME
    document = _expand(_read_yaml(path), path)
    own = _own_section(document, path)
    online = _section(document, "online_store", path)
    offline = _section(document, "offline_store", path)
    registry = document.get("registry")
    url = _database_url(overrides, own, (online, offline), path)
    return Config(
        root=root,
        project=_project(document, path),
        database_url=url,
        online_store=str(online.get("type", "sqlite")),
        online_schema=_online_schema(online, path),
        registry_schema=registry_schema_of(registry, url),
        registry_file=_registry_file(registry, root),
        connect_timeout=_seconds("FEATURECTL_CONNECT_TIMEOUT", own.get("connect_timeout"), 5, path),
        statement_timeout=_timeout(overrides.timeout, own.get("statement_timeout"), path),
        warmup_bars=_count("warmup_bars", own.get("warmup_bars", 1000), path, least=MIN_WARMUP),
        storage=_storage(own, path),
        write_timeout=_seconds("FEATURECTL_WRITE_TIMEOUT", own.get("write_timeout"), 3600, path),
        lock_timeout=_seconds("FEATURECTL_LOCK_TIMEOUT", own.get("lock_timeout"), 30, path),
        retry_for=_seconds("FEATURECTL_RETRY_FOR", own.get("retry_for"), 60, path),
        keep_runs=_keep_runs(own.get("keep_runs"), path),
        pipeline=_pipeline(document, own, path),
        checks=_checks(own, path),
    )


def declared(root: Path) -> tuple[str, bool]:
    """Return a repository's project, and whether its file asks for the embedded database; no database is resolved.

    Raises:
        UnsetVariable: the project is an environment variable that is not set.
        ConfigError: the file is not the YAML it should be.
    """
    path = root / FILE_NAME
    document = _read_yaml(path)
    project = _project(_expand({"project": document.get("project")}, path), path)
    return project, _own_section(document, path).get("database") == EMBEDDED


def config_without_file(root: Path, overrides: Overrides) -> Config:
    """Return what flags and environment say by themselves, for a repository whose file can't be used: no project.

    Raises:
        ConfigError: they say nothing that can be used.
    """
    url, path = overrides.database_url or os.environ.get(DATABASE_VARIABLE), root / FILE_NAME
    return Config(
        root=root,
        project="",
        database_url=normalize_url(url) if url and url != EMBEDDED else None,
        connect_timeout=_seconds("FEATURECTL_CONNECT_TIMEOUT", None, 5, path),
        statement_timeout=_timeout(overrides.timeout, None, path),
    )


def _read_yaml(path: Path) -> dict[str, Any]:
    import yaml  # 0.02 s, and only a repository's commands need it

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        document = yaml.load(path.read_text(encoding="utf-8"), Loader=loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ConfigError(f"{path}:{where} is not YAML: {getattr(error, 'problem', None) or 'unreadable'}") from error
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not a text file in UTF-8") from None
    except (ValueError, LookupError, AttributeError, RecursionError) as error:
        # What looks like a date or a number and is none; PyYAML lets Python say so.
        reason = " ".join(str(error).split())[:80]
        raise ConfigError(f"{path} holds a value that can't be read ({reason}); write it in quotes") from error
    except OSError as error:
        raise ConfigError(f"{path} can't be read: {error.strerror}") from error
    if not isinstance(document, dict):
        raise ConfigError(f"{path} is empty or not a mapping; compare it with what `featurectl init` writes")
    return document


def _expand(document: dict[str, Any], path: Path) -> dict[str, Any]:
    """Replace ``${VAR}`` in every string, after parsing, so that no secret can change the YAML around it."""
    own = document.get("featurectl")
    embedded = isinstance(own, Mapping) and own.get("database") == EMBEDDED

    def expand(value: Any, key: str) -> Any:
        if isinstance(value, dict):
            return {name: expand(inner, f"{key}.{name}" if key else str(name)) for name, inner in value.items()}
        if isinstance(value, list):
            return [expand(inner, key) for inner in value]
        return _VARIABLE.sub(lambda match: lookup(match, key), value) if isinstance(value, str) else value

    def lookup(match: re.Match[str], key: str) -> str:
        name = match["braced"] if match["braced"] is not None else match["plain"]
        if not _NAME.fullmatch(name):
            raise ConfigError(f"{path}: {key} has {match[0]}, which names no variable; write ${{NAME}}, no more in it")
        value = os.environ.get(name)
        if value:
            return value
        if embedded and name == DATABASE_VARIABLE:
            return ""
        if match["plain"] is not None:
            return match[0]
        raise UnsetVariable(f"{path}: {key} names ${{{name}}}, which is not set; export {name} (see .env.example)")

    try:
        expanded: dict[str, Any] = expand(document, "")
    except RecursionError:
        raise ConfigError(f"{path}: an alias (*) lies inside its own anchor (&); write the value out") from None
    return expanded


def _section(document: Mapping[str, Any], name: str, path: Path) -> Mapping[str, Any]:
    section = document.get(name) or {}
    if isinstance(section, str):
        return {"type": section}
    if not isinstance(section, dict):
        raise ConfigError(f"{path}: {name} must be a mapping")
    return section


def _own_section(document: Mapping[str, Any], path: Path) -> Mapping[str, Any]:
    own = document.get("featurectl") or {}
    if not isinstance(own, dict):
        raise ConfigError(f"{path}: featurectl must be a mapping; settings: {', '.join(SETTINGS)}")
    if unknown := [name for name in own if name not in SETTINGS]:
        raise ConfigError(f"{path}: featurectl has no setting '{unknown[0]}'; settings: {', '.join(SETTINGS)}")
    return own


def _online_schema(online: Mapping[str, Any], path: Path) -> str:
    name = online.get("db_schema", "online")
    if online.get("type") == ONLINE_STORE and not is_schema_name(name):
        raise ConfigError(f"{path}: online_store.db_schema is {name!r}; {SCHEMA_NAME}")
    return str(name)


def is_schema_name(name: Any) -> bool:
    """Tell whether a schema can have this name: tables go by ``schema.table``, and PostgreSQL cuts what is longer."""
    return isinstance(name, str) and name.isprintable() and "." not in name and 0 < len(name.encode()) < 64


def _storage(own: Mapping[str, Any], path: Path) -> Mapping[str, Any]:
    storage = own.get("storage")
    if storage is not None and not isinstance(storage, Mapping):
        raise ConfigError(f"{path}: featurectl.storage must be a mapping of tables to their settings")
    return storage or {}


def _keep_runs(value: Any, path: Path) -> timedelta | None:
    if value in (None, "never"):
        return None
    try:
        span = parse_duration(str(value))
    except InvalidTime:
        span = timedelta(0)
    if span < timedelta(days=1):
        raise ConfigError(f"{path}: featurectl.keep_runs is not {value!r}; write a duration of 1d or more, or never")
    return span


def _pipeline(document: Mapping[str, Any], own: Mapping[str, Any], path: Path) -> Mapping[str, Any]:
    """Return what the file says of `featurectl run`, in its section or at the top."""
    if document.get("pipeline") and own.get("pipeline"):
        raise ConfigError(f"{path} has two sections pipeline; keep the one in featurectl")
    pipeline = own.get("pipeline") or document.get("pipeline") or {}
    if not isinstance(pipeline, Mapping):
        raise ConfigError(f"{path}: pipeline must be a mapping of settings")
    for name, value in pipeline.items():
        if isinstance(value, str) and "\0" in value:
            raise ConfigError(
                f"{path}: pipeline.{name} holds a NUL character, as no path and no name does; take it out"
            )
    return pipeline


def _checks(own: Mapping[str, Any], path: Path) -> Mapping[str, Any]:
    checks = own.get("checks")
    if checks is not None and not isinstance(checks, Mapping):
        raise ConfigError(f"{path}: featurectl.checks must be a mapping of settings")
    return checks or {}


def _project(document: Mapping[str, Any], path: Path) -> str:
    project = document.get("project")
    if not isinstance(project, str) or not _PROJECT.fullmatch(project):
        raise ConfigError(f"{path}: project must be letters, digits and underscores, not {project!r}")
    return project


def _database_url(
    overrides: Overrides, own: Mapping[str, Any], stores: Iterable[Mapping[str, Any]], path: Path
) -> str | None:
    url = overrides.database_url or os.environ.get(DATABASE_VARIABLE) or own.get("database")
    url = url or next(filter(None, map(_store_url, stores)), None)
    if url == EMBEDDED:
        return None
    if not url:
        raise ConfigError(f"{path} names no database; set {DATABASE_VARIABLE}, or `featurectl: {{database: embedded}}`")
    return normalize_url(str(url))


def _store_url(store: Mapping[str, Any]) -> str | None:
    """Return where one of our stores keeps its data; it may say so in one URL or in Feast's single settings."""
    if store.get("type") not in (ONLINE_STORE, OFFLINE_STORE):
        return None
    if store.get("url") or not store.get("host"):
        return store.get("url")
    user, password = (quote(str(store.get(name) or ""), safe="") for name in ("user", "password"))
    account = f"{user}:{password}" if password else user
    host, port = str(store["host"]), store.get("port", 5432)
    settings = {"host": host, "port": port} if host.startswith("/") else {}
    settings |= {"sslmode": store["sslmode"]} if store.get("sslmode") else {}
    place = "" if host.startswith("/") else f"{host}:{port}"
    return f"postgresql://{account}@{place}/{quote(str(store.get('database', '')))}?{urlencode(settings)}"


def registry_schema_of(registry: Any, url: str | None) -> str | None:
    """Return the schema of Feast's SQL registry where that is in our database, by its ``search_path``."""
    if not isinstance(registry, Mapping) or registry.get("registry_type") != "sql":
        return None
    place = str(registry.get("path") or "")
    # Where the file names our variable, Feast is given our database in it.
    ours = {_server_of(one) for one in (url, os.environ.get(DATABASE_VARIABLE)) if one}
    if place and _server_of(place) not in ours:
        return None
    settings = registry.get("sqlalchemy_config_kwargs")
    arguments = settings.get("connect_args") if isinstance(settings, Mapping) else None
    options = arguments.get("options") if isinstance(arguments, Mapping) else None
    found = _SEARCH_PATH.search(str(options or ""))
    return found["schema"] if found else "public"


def _registry_file(registry: Any, root: Path) -> Path | None:
    """Return the local file of Feast's file registry: the kind there is when nothing else is said."""
    if isinstance(registry, Mapping) and registry.get("registry_type", "file") == "file":
        registry = registry.get("path")
    if not isinstance(registry, str) or "://" in registry or "\0" in registry:
        return None
    place = root / registry
    # What there is and is no file, a device for one, may have no end.
    return place if os.path.isfile(place) or not os.path.exists(place) else None


def _server_of(place: str) -> tuple[str, ...]:
    """Return host, port and database of a URL, however it is spelled, or of libpq's words."""
    from psycopg import ProgrammingError  # every command that reads this connects anyway
    from psycopg.conninfo import conninfo_to_dict

    _, is_url, rest = place.partition("://")
    try:
        parts = conninfo_to_dict(f"postgresql://{rest}" if is_url else place)
    except (ProgrammingError, UnicodeEncodeError):
        return (place,)
    return str(parts.get("host", "")), str(parts.get("port") or 5432), str(parts.get("dbname", ""))


def normalize_url(url: str) -> str:
    """Return a ``postgresql://`` URL for libpq, from the spellings SQLAlchemy and Heroku use; remember its secrets.

    Raises:
        ConfigError: it is not a PostgreSQL URL.
    """
    redact.remember_secrets_of(url)
    scheme, separator, rest = url.partition("://")
    if not separator or scheme.partition("+")[0] not in ("postgresql", "postgres", "timescaledb"):
        # Without a scheme nothing tells which part is a password, so nothing of it is shown.
        shown = f"'{redact.redact(url)}'" if separator else "the database URL"
        raise ConfigError(f"{shown} is not a PostgreSQL URL; write postgresql://user@host:5432/database")
    authority = rest.partition("?")[0].rpartition("@")[0]
    if "@" in authority or "/" in authority:
        raise ConfigError(
            "the user or password in the database URL holds a bare @ or /; percent-encode them: @ is %40, / is %2F"
        )
    return f"postgresql://{rest}"


def _timeout(flag: float | None, value: Any, path: Path) -> float:
    if flag is not None:
        return _number_of_seconds("--timeout", flag)
    return _seconds("FEATURECTL_STATEMENT_TIMEOUT", value, 30, path)


def _seconds(variable: str, value: Any, default: float, path: Path) -> float:
    source, given = (variable, os.environ[variable]) if os.environ.get(variable) else (f"{path}: featurectl", value)
    return default if given is None else _number_of_seconds(source, given)


def _number_of_seconds(source: str, given: Any) -> float:
    try:
        seconds = float(given)
    except (TypeError, ValueError):
        seconds = -1
    if not 0 <= seconds < 1e6:
        raise ConfigError(f"{source}: '{given}' is not a number of seconds; write one from 0 to 999999")
    return seconds


def _count(name: str, value: Any, path: Path, *, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigError(f"{path}: featurectl.{name} must be a whole number of {least} or more, not {value!r}")
    return value
