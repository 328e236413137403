"""What can break under a manager whose online store is ours: each breaks on entering and is mended on leaving."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator

import pytest
from psycopg import sql

from featurectl.core import embedded
from featurectl.core.db import open_connection
from tests.drill import MARKET, TECHNICAL, VIEWS, Fault, Ground, bring_online
from tests.fix_database import with_database

HISTORY = frozenset({"timescaledb"})
EITHER = frozenset({"online", "timescaledb"})


@contextlib.contextmanager
def table_missing(ground: Ground, view: str = TECHNICAL) -> Iterator[None]:
    table = ground.online_table(view)
    ground.execute(f"ALTER TABLE {table} RENAME TO away")
    try:
        yield
    finally:
        ground.execute(f"ALTER TABLE online.away RENAME TO {table.rpartition('.')[2]}")


@contextlib.contextmanager
def never_materialized(ground: Ground, view: str = TECHNICAL) -> Iterator[None]:
    ground.execute(f"TRUNCATE {ground.online_table(view)}")
    try:
        yield
    finally:
        bring_online(ground, view)


@contextlib.contextmanager
def column_missing(ground: Ground, view: str = MARKET) -> Iterator[None]:
    table, column = ground.online_table(view), VIEWS[view][0]
    ground.execute(f"ALTER TABLE {table} RENAME COLUMN {column} TO away")
    try:
        yield
    finally:
        ground.execute(f"ALTER TABLE {table} RENAME COLUMN away TO {column}")


@contextlib.contextmanager
def table_locked(ground: Ground, view: str = TECHNICAL) -> Iterator[None]:
    table = ground.online_table(view)
    with ground.connect() as connection, connection.transaction():
        connection.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE".encode())
        yield


@contextlib.contextmanager
def sessions_terminated(ground: Ground) -> Iterator[None]:
    """End all sessions again and again."""
    stop = threading.Event()

    def terminate() -> None:
        with ground.connect() as connection:
            while not stop.wait(0.03):
                connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
                )

    thread = threading.Thread(target=terminate)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@contextlib.contextmanager
def connections_refused(ground: Ground) -> Iterator[None]:
    """End all sessions of the database, and let nobody in: what a restart is to a client."""
    with ground.connect() as inside:
        name = inside.info.dbname
    other = "template1" if name == "postgres" else "postgres"
    with open_connection(with_database(ground.url, other), connect_timeout=10) as connection:
        allow = sql.SQL("ALTER DATABASE {} WITH ALLOW_CONNECTIONS {}")
        connection.execute(allow.format(sql.Identifier(name), sql.SQL("false")))
        try:
            connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])
            yield
        finally:
            connection.execute(allow.format(sql.Identifier(name), sql.SQL("true")))


@contextlib.contextmanager
def registry_unreachable(ground: Ground) -> Iterator[None]:
    ground.execute("ALTER SCHEMA feast RENAME TO away")
    try:
        yield
    finally:
        ground.execute("ALTER SCHEMA away RENAME TO feast")


@contextlib.contextmanager
def registry_changed(ground: Ground, change: str) -> Iterator[None]:
    """Change every table of the registry: ``{table}``, with a protobuf in ``{column}``; at last put the rows back."""
    with ground.connect() as connection:
        protobufs = connection.execute(
            "SELECT table_name, min(column_name) FROM information_schema.columns "
            "WHERE table_schema = 'feast' AND data_type = 'bytea' GROUP BY table_name"
        ).fetchall()
    ground.execute(
        "CREATE SCHEMA kept",
        *(f"CREATE TABLE kept.{table} AS TABLE feast.{table}" for table, _ in protobufs),
        *(change.format(table=f"feast.{table}", column=column) for table, column in protobufs),
    )
    try:
        yield
    finally:
        for table, _ in protobufs:
            ground.execute(f"DELETE FROM feast.{table}", f"INSERT INTO feast.{table} TABLE kept.{table}")
        ground.execute("DROP SCHEMA kept CASCADE")


def registry_empty(ground: Ground) -> contextlib.AbstractContextManager[None]:
    return registry_changed(ground, "DELETE FROM {table}")


def registry_unreadable(ground: Ground) -> contextlib.AbstractContextManager[None]:
    """What another version of Feast wrote is to this one bytes without sense."""
    return registry_changed(ground, "UPDATE {table} SET {column} = '\\xffffffffff'")


@contextlib.contextmanager
def catalog_missing(ground: Ground) -> Iterator[None]:
    ground.execute("ALTER SCHEMA featurectl RENAME TO away")
    try:
        yield
    finally:
        ground.execute("ALTER SCHEMA away RENAME TO featurectl")


@contextlib.contextmanager
def feast_missing(ground: Ground) -> Iterator[None]:
    """Have every import of Feast fail."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "feast", None)
        yield


@contextlib.contextmanager
def yaml_broken(ground: Ground, text: str = "project: [market") -> Iterator[None]:
    path = ground.root / "feature_store.yaml"
    before = path.read_text()
    path.write_text(text)
    try:
        yield
    finally:
        path.write_text(before)


OURS = (
    Fault("online table missing", table_missing, {TECHNICAL: HISTORY}, "does not exist"),
    Fault("online table never materialized", never_materialized, {TECHNICAL: HISTORY}, "is empty; run"),
    Fault("one view of several fails", column_missing, {MARKET: HISTORY}, "does not exist"),
    Fault(
        "online table locked",
        table_locked,
        # A call that reads several views does not know which of them keeps it waiting.
        {**dict.fromkeys(VIEWS, EITHER), TECHNICAL: HISTORY},
        "the online table did not answer for",
        at_least=1.3,
    ),
    Fault("every connection terminated", sessions_terminated),
    Fault("connections refused for a while", connections_refused, timeout=4.0),
    Fault("Feast not importable", feast_missing),
    Fault("registry unreachable", registry_unreachable),
    Fault("registry empty", registry_empty),
    Fault("registry of another version", registry_unreadable),
    Fault("catalog missing", catalog_missing),
    Fault("feature_store.yaml broken", yaml_broken),
)


# --- a server of one's own -------------------------------------------------------------------------------------------


@contextlib.contextmanager
def server_killed(ground: Ground) -> Iterator[None]:
    """Kill the server: whoever reads starts it."""
    pid = embedded.status(embedded.data_dir(ground.root)).pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    yield


@contextlib.contextmanager
def server_restarted(ground: Ground) -> Iterator[None]:
    data = embedded.data_dir(ground.root)
    embedded.stop(data)
    try:
        yield
    finally:
        embedded.ensure_running(data)


@contextlib.contextmanager
def session_killed(ground: Ground) -> Iterator[None]:
    """Kill a session as the system does when memory is short: the server ends all others, and recovers."""
    with ground.connect() as connection:
        os.kill(connection.info.backend_pid, signal.SIGKILL)
        yield


SERVER: tuple[Fault, ...] = tuple(
    Fault(name, broken, timeout=5.0)
    for name, broken in (
        ("server killed", server_killed),
        ("server restarted", server_restarted),
        ("session killed, server recovers", session_killed),
    )
)

Broken = Callable[[Ground], contextlib.AbstractContextManager[object]]
