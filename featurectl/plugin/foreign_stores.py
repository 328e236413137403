"""What Feast's own online stores need for reads that go on for weeks: files that are replaced, servers that hang."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from pathlib import Path
from typing import Any

from feast import RepoConfig

from featurectl.errors import FeastUnavailable

# Seconds that a Redis server may take for a word, where the connection string names no others: a thread that waits
# for a server that has gone without a word would wait for ever.
REDIS_SECONDS = {"socket_timeout": 10, "socket_connect_timeout": 5}


def configure(config: RepoConfig) -> None:
    """Complete the settings of an online store before it is made of them."""
    text = getattr(config.online_store, "connection_string", None)
    if _is(config, "redis") and text is not None:
        missing = [f"{name}={seconds}" for name, seconds in REDIS_SECONDS.items() if f"{name}=" not in text]
        config.online_store.connection_string = ",".join([text, *missing])


def prepare(store: Any, config: RepoConfig) -> None:
    """See that a store can be read now, as one that was just opened could."""
    if _is(config, "sqlite"):
        _follow_file(store, Path(store._get_db_path(config)))
    elif _is(config, "redis") and store._client is None:
        _connect(store, config)
    elif _is(config, "remote"):
        raise FeastUnavailable("a feature server, as Feast's online store, tells one event time for all rows")


def turn(config: RepoConfig) -> contextlib.AbstractContextManager[object]:
    """Return what a thread holds while it uses a store, where threads may not use it at once.

    Feast's SQLite store has one connection. While that waits for a lock on the file, up to 5 s, another thread that
    asks it anything waits for the connection without letting go of the interpreter: nothing runs then.
    """
    return threading.Lock() if _is(config, "sqlite") else contextlib.nullcontext()


def is_empty(store: Any, config: RepoConfig) -> bool:
    """Tell whether a store says that it holds nothing at all, as a Redis server that has lost its data does."""
    return _is(config, "redis") and hasattr(store._client, "dbsize") and store._client.dbsize() == 0


def close(store: Any) -> None:
    """Close what Feast leaves open."""
    for name in ("_conn", "_client"):
        if (connection := getattr(store, name, None)) is not None and hasattr(connection, "close"):
            connection.close()


def forget_connection(store: Any, error: BaseException) -> None:
    """Have SQLite's file opened anew after an error: what was read of it before may not fit what is there now."""
    if isinstance(error, sqlite3.DatabaseError):
        store._conn = None


def _is(config: RepoConfig, kind: str) -> bool:
    """Tell whether an online store is of one of Feast's kinds, named by its short name or by its class."""
    return str(config.online_store.type).rpartition(".")[2].lower() in (kind, f"{kind}onlinestore")


def _connect(store: Any, config: RepoConfig) -> None:
    """Make Redis's client: its connections may be to a server that has restarted since; one that is down fails soon."""
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    client = store._get_client(config.online_store)
    if hasattr(client, "set_retry"):
        client.set_retry(Retry(NoBackoff(), 1))


def _follow_file(store: Any, path: Path) -> None:
    """Read the file that is there now, and not one that was deleted or replaced; Feast would make an empty one."""
    try:
        found = path.stat()
    except OSError as error:
        raise FeastUnavailable(f"Feast's online store, {path}, can't be read: {error.strerror}") from error
    if getattr(store, "_featurectl_file", None) != (found.st_dev, found.st_ino):
        store._conn, store._featurectl_file = None, (found.st_dev, found.st_ino)
