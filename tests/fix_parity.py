"""A repository with the default views and those of tests/parity.py, and ways to read it; and one over SQLite."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import uuid
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from feast import FeatureStore
from psycopg import sql

from featurectl.core.arrow import ArrowConnection, open_arrow
from featurectl.core.catalog import Catalog, read_catalog
from featurectl.core.config import FILE_NAME
from featurectl.core.db import Connection, open_connection
from featurectl.core.schema import table_identifier
from featurectl.manager import FeastFeatureStoreManager
from featurectl.plugin import apply as steps
from featurectl.plugin.registry import environment, feast_store
from tests.fix_database import create_database, drop_database
from tests.fix_foreign import set_online_store
from tests.fix_repository import Repo
from tests.parity import DEFINITIONS, SPAN, START, TABLES, History, Key, Row, View

LATER = START + 10 * SPAN


class World:
    """An applied repository, with the default views and the tests' own, and every way to read it."""

    def __init__(self, repo: Repo, connection: Connection, arrow: ArrowConnection, feast: FeatureStore) -> None:
        self.repo = repo
        self.connection = connection
        self.arrow = arrow
        self.feast = feast
        self.now = LATER
        self.catalog: Catalog = read_catalog(connection, "market")
        self.loop = asyncio.Runner()
        self.manager = FeastFeatureStoreManager(repo.root, database_url=repo.url, clock=lambda: self.now)
        feast._get_provider().online_store.clock = lambda: self.now

    def close(self) -> None:
        self.loop.run(self.manager.close())
        self.loop.run(self.feast.close())
        self.loop.close()
        self.feast.registry.write_engine.dispose()

    def empty_online(self) -> None:
        """Forget what was ever materialized."""
        for view in self.catalog.views:
            if view.online_table:
                self.connection.execute(sql.SQL("TRUNCATE {}").format(table_identifier(view.online_table)))

    def materialize(self, history: History, now: datetime) -> None:
        """Materialize every view up to an instant, here and in the oracle."""
        self.now = now
        self.loop.run(self.manager.materialize())
        for view in history.online():
            view.materialize(now)


@contextlib.contextmanager
def open_world(server: str, applied: tuple[Path, str], directory: Path) -> Iterator[World]:
    """Copy an applied repository and its database, and apply the tests' own views to them."""
    root, template = applied
    shutil.copytree(root, here := directory / "market")
    name = f"featurectl_parity_{uuid.uuid4().hex[:12]}"
    repo = Repo(here, create_database(server, name, template))
    with contextlib.ExitStack() as stack:
        stack.callback(drop_database, server, name)
        connection = stack.enter_context(open_connection(repo.url, connect_timeout=10))
        # A database's own zone changes nothing.
        connection.execute(sql.SQL("ALTER DATABASE {} SET timezone = 'Europe/Berlin'").format(sql.Identifier(name)))
        connection.execute(TABLES.encode())
        (here / "feature_repo" / "parity.py").write_text(DEFINITIONS, encoding="utf-8")
        steps.apply(repo.database, now=LATER)
        with environment(repo.database):
            feast = FeatureStore(repo_path=str(here))
        arrow = stack.enter_context(open_arrow(repo.database))
        opened = World(repo, connection, arrow, feast)
        stack.callback(opened.close)
        yield opened


class Elsewhere:
    """The same views in a repository of another name, whose online store is Feast's SQLite, and its manager.

    ``online_rows`` are those that it holds: it keeps whole seconds of event times, and whatever was written last.
    """

    def __init__(self, world: World) -> None:
        root = world.repo.root.with_name("over_sqlite")
        shutil.copytree(world.repo.root, root)
        (root / "data").mkdir()
        set_online_store(root, type="sqlite", path="data/online.db")
        settings = root / FILE_NAME
        settings.write_text(settings.read_text().replace("project: market", "project: over_sqlite"))
        self.repo = Repo(root, world.repo.url)
        steps.apply(self.repo.database, now=LATER)
        self.manager = FeastFeatureStoreManager(root, database_url=world.repo.url, clock=lambda: world.now)
        self._rows: dict[str, dict[Key, Row]] = defaultdict(dict)

    def online_rows(self, view: View) -> dict[Key, Row]:
        return self._rows[view.name]

    def materialize(self, history: History, now: datetime) -> None:
        """Materialize every view up to an instant, through Feast and in the oracle."""
        with feast_store(self.repo.database) as store:
            store.materialize(START - 10 * SPAN, now)
        for view in history.online():
            newest = {key: view.newest(key, now) for key in {row.key for row in view.rows}}
            rows = {key: replace(row, event=row.event.replace(microsecond=0)) for key, row in newest.items() if row}
            self._rows[view.name] |= rows
