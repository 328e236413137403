"""Every connection: UTC, named, with time-outs, and with psycopg's errors turned into ours in one place."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, LiteralString, TypeVar

import psycopg
from psycopg import errors as pg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from featurectl.core import embedded
from featurectl.core.config import Config, Overrides, load_config
from featurectl.core.redact import redact
from featurectl.core.threads import interruptible
from featurectl.errors import (
    ConfigError,
    DatabaseError,
    DatabaseUnreachable,
    FeaturectlError,
    Interrupted,
    LockHeld,
    LoginRefused,
    PermissionDenied,
    SchemaMissing,
    StatementTimeout,
)

APPLICATION_NAME = "featurectl"
# What a database or role may have set otherwise. JIT costs more than it saves on statements of a few thousand rows.
_SESSION = {"timezone": "UTC", "datestyle": "ISO", "extra_float_digits": "1", "jit": "off"}
_SESSION_OPTIONS = " ".join(f"-c {name}={value}" for name, value in _SESSION.items())

# What a server says that will say the same again; libpq gives no code for what happens while it connects.
_LOGIN = ("password", "authentication", "no pg_hba.conf", "not permitted to log in")
_REFUSALS = (*_LOGIN, "does not exist", "permission denied")

# A connection that is kept open notices within half a minute that the other end has gone without a word.
_KEEPALIVES = {"keepalives_idle": 15, "keepalives_interval": 5, "keepalives_count": 3}

Connection = psycopg.Connection[tuple[Any, ...]]
AsyncKind = TypeVar("AsyncKind", bound=psycopg.AsyncConnection[tuple[Any, ...]])


@dataclass(frozen=True, slots=True)
class Database:
    """Where a repository's data lives, and how to connect to it."""

    config: Config = field(repr=False)

    @property
    def is_embedded(self) -> bool:
        return self.config.database_url is None

    def url(self) -> str:
        """Return a URL that accepts connections; the embedded server is started when it is not running."""
        if self.config.database_url is not None:
            return self.config.database_url
        data = embedded.data_dir(self.config.root)
        return embedded.running_url(data) or embedded.ensure_running(data)

    def sqlalchemy_url(self) -> str:
        """Return :meth:`url` as SQLAlchemy, and with it Feast's registry, names psycopg 3; our stores read it too."""
        return self.url().replace("postgresql://", "postgresql+psycopg://", 1)

    def libpq_url(self) -> str:
        """Return :meth:`url` with the session's settings in it, for drivers that take nothing but a URL."""
        return session_url(self.url(), connect_timeout=self.config.connect_timeout)

    @contextlib.contextmanager
    def connect(self, *, read_only: bool = False, unless_stopped: bool = False) -> Iterator[Connection]:
        """Open a connection in autocommit mode; close it at the end.

        Read-only connections get the statement time-out; writers may take as long as their data needs. With
        ``unless_stopped`` an embedded server that somebody has stopped stays so.

        Raises:
            DatabaseUnreachable: nothing answers there, or it refuses us.
        """
        with translated_errors():
            connection = self._open(read_only, unless_stopped)
            try:
                with interruptible(lambda: _cancel(connection)):
                    yield connection
            finally:
                connection.close()

    def _open(self, read_only: bool, unless_stopped: bool) -> Connection:
        url = self.config.database_url or embedded.running_url(embedded.data_dir(self.config.root))
        try:
            if url is not None:
                return self._connected(url, read_only)
        except psycopg.OperationalError as error:
            if not self.is_embedded:
                raise _unreachable(url or "", error) from error
        # It was not started yet, or the pid file outlived its server, or the server is on its way up or down.
        return self._connected(self._started(unless_stopped), read_only)

    async def open_async(self, kind: type[AsyncKind], *, unless_stopped: bool = False) -> AsyncKind:
        """Open a connection for reads in the running event loop, of a class of the caller's.

        With ``unless_stopped`` an embedded server that somebody has stopped stays so.

        Raises:
            DatabaseUnreachable: nothing answers there, or it refuses us.
        """
        url = self.config.database_url or embedded.running_url(embedded.data_dir(self.config.root))
        try:
            if url is not None:
                return await self._connected_async(kind, url)
        except psycopg.OperationalError as error:
            if not self.is_embedded:
                raise _unreachable(url or "", error) from error
        return await self._connected_async(kind, await asyncio.to_thread(self._started, unless_stopped))

    def _started(self, unless_stopped: bool = False) -> str:
        return embedded.ensure_running(embedded.data_dir(self.config.root), unless_stopped=unless_stopped)

    async def _connected_async(self, kind: type[AsyncKind], url: str) -> AsyncKind:
        conninfo = _conninfo(url, self.config.connect_timeout, self.config.statement_timeout, read_only=True)
        connection = await kind.connect(conninfo, autocommit=True)
        for statement in _corrections(connection):
            await connection.execute(statement)
        return connection

    def _connected(self, url: str, read_only: bool) -> Connection:
        return open_connection(
            url,
            connect_timeout=self.config.connect_timeout,
            statement_timeout=self.config.statement_timeout if read_only else 0,
            read_only=read_only,
        )


def _cancel(connection: Connection) -> None:
    # A server that can't be reached runs nothing for us.
    with contextlib.suppress(psycopg.Error):
        connection.cancel_safe(timeout=1)


def open_database(overrides: Overrides | None = None) -> Database:
    """Find the repository, read its configuration, and return its database; connects to nothing yet."""
    return Database(load_config(overrides))


def session_url(url: str, *, connect_timeout: float) -> str:
    """Return a libpq connection string with UTC, the application name and our session options."""
    return _conninfo(url, connect_timeout, 0, read_only=False)


def open_connection(
    url: str, *, connect_timeout: float, statement_timeout: float = 0, read_only: bool = False
) -> Connection:
    """Connect in autocommit mode; ``statement_timeout`` is in seconds, 0 for none."""
    connection = psycopg.connect(_conninfo(url, connect_timeout, statement_timeout, read_only), autocommit=True)
    for statement in _corrections(connection):
        connection.execute(statement)
    return connection


def _conninfo(url: str, connect_timeout: float, statement_timeout: float, read_only: bool) -> str:
    limit = max(1, round(statement_timeout * 1000)) if statement_timeout else 0
    options = f"{_merged_options(url)} -c statement_timeout={limit}"
    if read_only:
        options += " -c default_transaction_read_only=on"
    seconds = max(2, round(connect_timeout))
    ours: dict[str, Any] = {
        "application_name": APPLICATION_NAME,
        "connect_timeout": seconds,
        "client_encoding": "UTF8",  # whatever PGCLIENTENCODING or the database say: so are parameters sent
        "options": options,
    }
    return make_conninfo(**{**_KEEPALIVES, **conninfo_to_dict(url), **ours})


def _corrections(connection: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]) -> Iterator[LiteralString]:
    """Yield what brings a new session to UTC and ISO dates.

    PGTZ and PGDATESTYLE win over options; the server says at connect what it made of them.
    """
    if connection.info.parameter_status("TimeZone") != "UTC":
        yield "SET timezone = 'UTC'"
    if not (connection.info.parameter_status("DateStyle") or "").startswith("ISO"):
        yield "SET datestyle = 'ISO'"


@contextlib.contextmanager
def translated_errors() -> Iterator[None]:
    """Turn psycopg's errors into this package's; the one place where that happens."""
    try:
        yield
    except psycopg.Error as error:
        raise translate(error) from error


def translate(error: psycopg.Error) -> FeaturectlError:
    """Return the error a user should see for one of psycopg's."""
    reason = _reason(error)
    if isinstance(error, pg.QueryCanceled) and "user request" in reason:
        return Interrupted("interrupted; what was not finished was rolled back")
    if isinstance(error, pg.QueryCanceled):
        return StatementTimeout(f"{reason}; give more time: a read by --timeout SECONDS, what writes by write_timeout")
    if isinstance(error, pg.InsufficientPrivilege):
        return PermissionDenied(f"{reason}; ask the owner to grant it, or connect as another role")
    if isinstance(error, (pg.UndefinedTable, pg.InvalidSchemaName, pg.UndefinedColumn)):
        return SchemaMissing(f"{reason}; run `featurectl apply`")
    if isinstance(error, (pg.LockNotAvailable, pg.DeadlockDetected, pg.SerializationFailure)):
        return LockHeld(f"{reason}; run the command again")
    if isinstance(error, (pg.ConfigurationLimitExceeded, pg.DiskFull, pg.OutOfMemory)):
        return DatabaseError(f"the database refused: {reason}; nothing of this was kept: make room, then run it again")
    if is_lost(error):
        return DatabaseUnreachable(f"the database: {reason}; {_next_step(error)}")
    return DatabaseError(f"the database refused: {reason}")


def is_lost(error: psycopg.Error) -> bool:
    """Tell whether a connection was lost, or not to be had; those errors have no class of SQL states but 08 and 57.

    And those of a session that the server ended, because it was in a transaction for too long.
    """
    if isinstance(error, pg.QueryCanceled):
        return False
    state = error.sqlstate or ""
    if state in ("25P03", "25P04"):
        return True
    return isinstance(error, psycopg.OperationalError) and (not state or state[:2] in ("08", "57") or state == "53300")


def _reason(error: psycopg.Error) -> str:
    """Return the cause in one line, free of secrets."""
    text = error.diag.message_primary or next((line for line in str(error).splitlines() if line.strip()), "failed")
    return redact(" ".join(text.split()))


def _place(url: str) -> str:
    parts = url_parts(url)
    host, port = parts.get("host", "localhost"), parts.get("port", 5432)
    return f"database '{parts.get('dbname') or parts.get('user') or 'postgres'}' on {host}:{port}:"


def _unreachable(url: str, error: psycopg.Error) -> DatabaseUnreachable:
    kind = LoginRefused if any(words in str(error) for words in _REFUSALS) else DatabaseUnreachable
    return kind(f"{_place(url)} {_reason(error)}; {_next_step(error)}")


def _next_step(error: psycopg.Error) -> str:
    text = str(error)
    if any(words in text for words in _LOGIN):
        return "check user and password in FEATURECTL_DATABASE_URL"
    if "does not exist" in text:
        return "create it, or correct FEATURECTL_DATABASE_URL"
    return "check that the server runs and FEATURECTL_DATABASE_URL names it; `featurectl doctor` tells more"


def url_parts(url: str) -> dict[str, Any]:
    """Return what a URL says, by libpq's names.

    Raises:
        ConfigError: it can't be read, or its port is none.
    """
    try:
        parts = conninfo_to_dict(url)
    except (psycopg.ProgrammingError, UnicodeEncodeError) as error:
        reason, step = redact(str(error).strip()), "write postgresql://user@host:5432/database, percent-encoded"
        raise ConfigError(f"the database URL can't be read: {reason}; {step}") from error
    for port in str(parts.get("port", "")).split(","):
        if port and not (port.isascii() and port.isdecimal() and 0 < int(port) < 65536):
            raise ConfigError(f"the database URL has port '{redact(port)}'; write a number from 1 to 65535")
    return parts


def _merged_options(url: str) -> str:
    given = str(url_parts(url).get("options") or "")
    return f"{given} {_SESSION_OPTIONS}".strip()
