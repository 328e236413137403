"""What both stores take in ``feature_store.yaml``: one ``url``, or Feast's own host, port, database, user, password."""

from __future__ import annotations

from typing import Any

from feast.infra.utils.postgres.postgres_config import PostgreSQLConfig
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from pydantic import Field, model_validator

from featurectl.core.config import DATABASE_VARIABLE, normalize_url
from featurectl.errors import UnsetVariable

LOOPBACK = ("127.0.0.1", "::1")


class TimescaleStoreConfig(PostgreSQLConfig):  # type: ignore[misc]
    """Connection settings. ``url`` is a PostgreSQL URL and wins over the single settings."""

    url: str | None = Field(default=None, repr=False)
    password: str = Field(repr=False)
    sslmode: str | None = None
    connect_timeout: float = 5

    @model_validator(mode="before")
    @classmethod
    def _take_url_apart(cls, values: Any) -> Any:
        if not isinstance(values, dict) or not values.get("url"):
            return values
        if "${" in str(values["url"]):
            raise UnsetVariable(
                f"{values['url']} is not set; run Feast as `featurectl feast -- …`, or export {DATABASE_VARIABLE}"
            )
        parts = conninfo_to_dict(normalize_url(str(values["url"])))
        user = str(parts.get("user") or "postgres")
        return {
            **values,
            "host": str(parts.get("host") or "localhost"),
            "port": int(parts.get("port") or 5432),
            "database": str(parts.get("dbname") or user),
            "user": user,
            "password": str(parts.get("password") or ""),
            "sslmode": parts.get("sslmode") or values.get("sslmode"),
        }

    def conninfo(self) -> str:
        """Return what libpq needs to connect."""
        if self.url:
            return normalize_url(self.url)
        # An unset password lets libpq look into ~/.pgpass.
        password = {"password": self.password} if self.password else {}
        sslmode = {"sslmode": self.sslmode} if self.sslmode else {}
        return make_conninfo(
            host=self.host, port=self.port, dbname=self.database, user=self.user, **password, **sslmode
        )


def same_database(one: TimescaleStoreConfig, other: TimescaleStoreConfig) -> bool:
    """Tell whether two stores name one database of one server, and the same role in it."""
    return _place(one) == _place(other)


def _place(store: TimescaleStoreConfig) -> tuple[str, int, str, str]:
    host = "localhost" if store.host in LOOPBACK else store.host
    return host, store.port, store.database, store.user
