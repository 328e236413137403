"""What both stores take in ``feature_store.yaml``: one ``url``, or Feast's own host, port, database, user, password."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from feast.infra.utils.postgres.postgres_config import PostgreSQLConfig
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from pydantic import Field, ValidationError, model_validator

from featurectl.core.config import DATABASE_VARIABLE, normalize_url
from featurectl.core.db import Connection, open_connection, translated_errors, url_parts
from featurectl.errors import ConfigError, UnsetVariable

LOOPBACK = ("127.0.0.1", "::1")


class TimescaleStoreConfig(PostgreSQLConfig):  # type: ignore[misc]
    """Connection settings. ``url`` is a PostgreSQL URL and wins over the single settings."""

    url: str | None = Field(default=None, repr=False)
    password: str = Field(repr=False)
    sslmode: str | None = None
    connect_timeout: float = 5

    @model_validator(mode="wrap")
    @classmethod
    def _from_url(cls, values: Any, build: Any) -> Any:
        """Take a URL apart; say what is wrong without the values, of which one is the password."""
        if isinstance(values, dict) and values.get("url"):
            values = {**values, **_parts(str(values["url"]), values)}
        try:
            return build(values)
        except ValidationError as error:
            (first, *_) = error.errors(include_input=False, include_url=False)
            place = ".".join(map(str, first["loc"])) or cls.__name__
            raise ConfigError(f"feature_store.yaml: {place}: {first['msg']}") from None

    def conninfo(self) -> str:
        """Return what libpq needs to connect."""
        if self.url:
            return normalize_url(self.url)
        # An unset password lets libpq look into ~/.pgpass.
        given = {
            "password": self.password,
            "sslmode": self.sslmode,
            "sslcert": self.sslcert_path,
            "sslkey": self.sslkey_path,
            "sslrootcert": self.sslrootcert_path,
            "keepalives_idle": self.keepalives_idle or None,
        }
        given = {name: value for name, value in given.items() if value}
        return make_conninfo(host=self.host, port=self.port, dbname=self.database, user=self.user, **given)


def _parts(url: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a URL as Feast's single settings; of several hosts the first."""
    if "${" in url:
        raise UnsetVariable(f"{url} is not set; run Feast as `featurectl feast -- …`, or export {DATABASE_VARIABLE}")
    parts = url_parts(normalize_url(url))
    user = str(parts.get("user") or "postgres")
    return {
        "host": str(parts.get("host") or "localhost").split(",")[0],
        "port": int(str(parts.get("port") or 5432).split(",")[0] or 5432),
        "database": str(parts.get("dbname") or user),
        "user": user,
        "password": str(parts.get("password") or ""),
        "sslmode": parts.get("sslmode") or values.get("sslmode"),
    }


@contextlib.contextmanager
def connected(store: TimescaleStoreConfig) -> Iterator[Connection]:
    """Connect to a store's database, as the core does."""
    with translated_errors(), open_connection(store.conninfo(), connect_timeout=store.connect_timeout) as connection:
        yield connection


def same_database(one: TimescaleStoreConfig, other: TimescaleStoreConfig) -> bool:
    """Tell whether two stores name one database of one server, and the same role in it."""
    if any(_is_indirect(store) for store in (one, other)):
        return one.conninfo() == other.conninfo()
    return _place(one) == _place(other)


def _is_indirect(store: TimescaleStoreConfig) -> bool:
    """Tell whether a URL leaves it to libpq where the server is."""
    parts = conninfo_to_dict(store.conninfo())
    return "service" in parts or "hostaddr" in parts or "," in str(parts.get("host", ""))


def _place(store: TimescaleStoreConfig) -> tuple[str, int, str, str]:
    host = "localhost" if store.host in LOOPBACK else store.host
    return host, store.port, store.database, store.user
