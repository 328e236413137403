"""What can break under a manager whose online store only Feast can read; see tests/drill.py."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from featurectl.core import catalog as catalogs
from tests import faults
from tests.drill import MARKET, NOW, VIEWS, Fault, Ground
from tests.faults import HISTORY
from tests.fix_foreign import RedisServer, SqliteFile, set_online_store


@dataclass(frozen=True)
class ForeignGround(Ground):
    """A ground whose rows are online in a store that is not ours."""

    store: SqliteFile | RedisServer


def over_sqlite(ground: Ground, root: Path) -> ForeignGround:
    """Apply the definitions over SQLite in the ground's database, whose online tables go, and materialize."""
    from featurectl.plugin.apply import apply  # feast: 7 s

    shutil.copytree(ground.root, root, ignore=shutil.ignore_patterns(".featurectl"))
    (root / "data").mkdir()
    set_online_store(root, type="sqlite", path="data/online.db")
    foreign = Ground(root, ground.url)
    apply(foreign.database, allow_drop=True, now=NOW)
    _materialize(foreign)
    return ForeignGround(root, ground.url, SqliteFile(root / "data" / "online.db"))


@contextlib.contextmanager
def over_redis(sqlite: ForeignGround, root: Path) -> Iterator[ForeignGround]:
    """Materialize the same into a Redis server of one's own."""
    shutil.copytree(sqlite.root, root)
    server = RedisServer(root / "data")
    set_online_store(root, type="redis", connection_string=server.address)
    server.start()
    try:
        _materialize(Ground(root, sqlite.url))
        server.save()
        yield ForeignGround(root, sqlite.url, server)
    finally:
        server.close()


def _materialize(ground: Ground) -> None:
    from featurectl.plugin.registry import feast_store

    with feast_store(ground.database) as store:
        store.materialize(NOW - timedelta(days=1), NOW)


# --- faults ----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def file_deleted(ground: Ground) -> Iterator[None]:
    store = _sqlite(ground)
    store.delete()
    try:
        yield
    finally:
        store.mend()


@contextlib.contextmanager
def file_corrupted(ground: Ground) -> Iterator[None]:
    store = _sqlite(ground)
    store.corrupt()
    try:
        yield
    finally:
        store.mend()


def file_locked(ground: Ground) -> contextlib.AbstractContextManager[None]:
    return _sqlite(ground).lock()


@contextlib.contextmanager
def server_killed(ground: Ground) -> Iterator[None]:
    server = _redis(ground)
    server.kill()
    try:
        yield
    finally:
        server.start()


@contextlib.contextmanager
def server_emptied(ground: Ground) -> Iterator[None]:
    server = _redis(ground)
    server.empty()
    try:
        yield
    finally:
        server.mend()


@contextlib.contextmanager
def server_hanging(ground: Ground) -> Iterator[None]:
    server = _redis(ground)
    server.hang()
    try:
        yield
    finally:
        server.wake()


@contextlib.contextmanager
def view_unknown(ground: Ground, name: str = MARKET) -> Iterator[None]:
    """Publish a catalog without a view of ours that Feast's registry has."""
    import feast  # noqa: F401  7 s, which the calls would wait for

    with ground.connect() as connection:
        whole = catalogs.read_catalog(connection, "market")
        services = tuple(
            replace(one, features=tuple(pair for pair in one.features if pair[0] != name)) for one in whole.services
        )
        views = tuple(view for view in whole.views if view.name != name)
        less = catalogs.hashed(replace(whole, views=views, services=services))
        catalogs.publish(connection, less, now=NOW, published_by="the drill")
        try:
            yield
        finally:
            catalogs.publish(connection, whole, now=NOW, published_by="the drill")


def _sqlite(ground: Ground) -> SqliteFile:
    assert isinstance(ground, ForeignGround)
    assert isinstance(ground.store, SqliteFile)
    return ground.store


def _redis(ground: Ground) -> RedisServer:
    assert isinstance(ground, ForeignGround)
    assert isinstance(ground.store, RedisServer)
    return ground.store


def _fault(name: str, broken: faults.Broken, reason: str = "", **more: Any) -> Fault:
    return Fault(name, broken, dict.fromkeys(VIEWS, HISTORY), reason, first="feast", **more)


UNKNOWN = Fault(
    "view unknown to the catalog",
    view_unknown,
    # Feast's SDK reads it, from our online table; a manager hears of another catalog some time later.
    {MARKET: frozenset({"online", "feast"})},
    at_least=1.0,
    no_worse="feast",
)
SQLITE = (
    _fault("SQLite file deleted", file_deleted),
    _fault("SQLite file corrupted", file_corrupted),
    _fault("SQLite file locked", file_locked, "not answer", at_least=1.3),
    Fault("registry unreachable, SQLite online", faults.registry_unreachable, first="feast"),
    Fault("registry of another version, SQLite online", faults.registry_unreadable, first="feast"),
)
REDIS = (
    _fault("Redis killed", server_killed),
    _fault("Redis hanging", server_hanging, "not answer", at_least=1.3),
    _fault("Redis emptied", server_emptied),
)
