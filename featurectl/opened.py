"""A repository that is open in an event loop: its reader, and its catalog, which is looked at again beside reads."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from time import monotonic
from typing import TYPE_CHECKING, Self

import psycopg

from featurectl.core.catalog import Catalog, Selection, read_catalog_async
from featurectl.core.config import Config, Overrides, load_config
from featurectl.core.connections import AsyncPool
from featurectl.core.db import Database, translate
from featurectl.core.memo import Memo
from featurectl.core.registry_age import RegistryWatch
from featurectl.core.schema import too_new
from featurectl.core.serving.cache import OnlineCache
from featurectl.core.serving.paths import Deadline
from featurectl.core.serving.reader import Reader
from featurectl.core.serving.session import Session
from featurectl.errors import (
    ConfigError,
    DatabaseUnreachable,
    FeastUnavailable,
    FeaturectlError,
    NotFound,
    ReadTimeout,
    SchemaMissing,
)
from featurectl.plugin.foreign import FeastReads

if TYPE_CHECKING:
    from featurectl.core.rescue import Rescue

_log = logging.getLogger("featurectl")

# Seconds after which the catalog is looked at again, beside the reads.
CATALOG_SECONDS = 5.0
# Seconds that this may take: it has one of the connections that reads wait for.
LOOK_SECONDS = 1.0
# Seconds between two looks for what was asked for and is not in it.
LOOK_AGAIN = 0.2

Wanted = tuple[tuple[str, ...], str | None]
"""Names of features, and of a service."""


def _selected(catalog: Catalog, wanted: Wanted) -> tuple[Selection, ...]:
    chosen = catalog.select(*wanted, online=True)
    if wanted[1] and not chosen:
        raise NotFound(f"service '{wanted[1]}' has no features that are stored")
    return chosen


async def find_database(overrides: Overrides) -> tuple[Database, Rescue | None]:
    """Return a repository's database, and how that was found where its configuration can't be used.

    Raises:
        ConfigError: there is no repository, or nothing says where its database is.
    """
    try:
        return Database(load_config(overrides)), None
    except ConfigError:
        from featurectl.core import rescue

        return await asyncio.to_thread(rescue.find_database, overrides)


class Opened:
    """What reads of one repository share; ``notes`` is what a user should know of the set-up."""

    def __init__(
        self,
        overrides: Overrides,
        database: Database,
        rescue: Rescue | None,
        *,
        pool_size: int,
        cache_seconds: float,
        log_seconds: float,
    ) -> None:
        async def connect() -> Session:
            return await self.database.open_async(Session, unless_stopped=self.reader.pool.has_connected)

        self.database = database
        self.rescue = rescue
        self.catalog: Catalog | None = None
        self.notes: tuple[str, ...] = ()
        self._overrides = overrides
        self._foreign = FeastReads(database)
        self._registry = RegistryWatch(database.config)
        pool, cache = AsyncPool(connect, pool_size), None
        if cache_seconds:
            cache = OnlineCache(cache_seconds, connect, pool, schema=database.config.online_schema)
        self.reader = Reader(pool, foreign=self._foreign, cache=cache, log_seconds=log_seconds)
        self._away: str | None = None
        self._looked_at = 0.0
        self._looking: asyncio.Task[None] | None = None
        self._selections: Memo[Wanted, tuple[Selection, ...]] = Memo(1000)

    async def start(self) -> Self:
        """Connect, and read the catalog.

        Raises:
            DatabaseUnreachable: the database does not answer.
            SchemaMissing: nothing has been applied yet.
        """
        try:
            await self._read_catalog()
        except DatabaseUnreachable as error:
            await self._read_registry(error)
        return self

    async def close(self) -> None:
        """Close every connection."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait([self._looking])
        await self.reader.close()

    def abandon(self) -> None:
        """Let go of connections where the event loop has ended, or is another process's."""
        self.reader.abandon()

    @property
    def degraded(self) -> str | None:
        """What is wrong with every answer."""
        return self.rescue.reason if self.rescue is not None else self._away

    # --- features by name --------------------------------------------------------------------------------------------

    async def select(self, wanted: Wanted, deadline: Deadline) -> tuple[Selection, ...]:
        """Return features that are served online, by the catalog, or by Feast's registry where it has more.

        Raises:
            UsageError, NotFound: see :meth:`Catalog.select`.
            ReadTimeout, FeastUnavailable: Feast may know what the catalog does not, and does not say so.
        """
        catalog = self.catalog
        assert catalog is not None
        known = self._selections.get(wanted)
        if known is None:
            try:
                known = _selected(catalog, wanted)
            except NotFound as error:
                newer = await self._newer(catalog, deadline)
                if newer is not catalog:
                    return await self.select(wanted, deadline)
                known = await self._select_beyond(catalog, wanted, error, deadline)
            if catalog is self.catalog:
                self._selections.keep(wanted, known)
        return known

    async def _newer(self, catalog: Catalog, deadline: Deadline) -> Catalog:
        """Look whether something else was published since, unless that was done a moment ago."""
        if monotonic() - self._looked_at > LOOK_AGAIN:
            self._looked_at = monotonic()
            with contextlib.suppress(TimeoutError, FeaturectlError, psycopg.Error):
                await self._read_catalog(min(LOOK_SECONDS, deadline.left()))
        return self.catalog or catalog

    async def _select_beyond(
        self, catalog: Catalog, wanted: Wanted, error: NotFound, deadline: Deadline
    ) -> tuple[Selection, ...]:
        """Choose among what Feast's registry has beside the catalog too, where it may have what was not found."""
        from featurectl.core.registry_names import may_be_in_registry  # 1 ms, and most names are found

        config = self.database.config
        try:
            async with asyncio.timeout_at(deadline.at):
                if self.degraded or not await self.reader.pool.run(
                    lambda one: may_be_in_registry(one, config, catalog, *wanted)
                ):
                    raise error
                return (await self._foreign.beyond(catalog)).select(*wanted, online=True)
        except TimeoutError as late:
            said = f"{error}; Feast may know it, and did not say so within {deadline.seconds:g} s"
            raise ReadTimeout(said) from late
        except (psycopg.Error, OSError, ValueError):
            raise error from None
        except FeastUnavailable as unavailable:
            raise FeastUnavailable(f"{error}; Feast may know it: {unavailable}") from unavailable

    # --- the catalog -------------------------------------------------------------------------------------------------

    async def _read_catalog(self, within: float | None = None) -> None:
        """Read what is published, within some seconds; where Feast alone applied, publish it first."""
        try:
            try:
                async with asyncio.timeout(within):
                    catalog, note = await self.reader.pool.run(self._look)
            except psycopg.Error as error:
                raise translate(error) from error
        except SchemaMissing:
            if not self.database.config.is_applied_unheard:
                raise
            from featurectl.plugin.publish import publish_registry  # 7 s of CPU, once after each `feast apply`

            await asyncio.to_thread(publish_registry, self.database)
            catalog, note = await self.reader.pool.run(self._look)
        known = self.catalog
        if known is None or (catalog.version, catalog.content_hash) != (known.version, known.content_hash):
            self.catalog = catalog
            self._selections.clear()
            self.reader.forget()
            self._foreign.refresh()
        self.notes = tuple(filter(None, [too_new(catalog.schema_version), note]))
        self._looked_at, self._away = monotonic(), None

    async def _read_registry(self, error: DatabaseUnreachable) -> None:
        """Take Feast's registry for a catalog while the database is away, where neither it nor the store is there."""
        config = self.database.config
        if not self._foreign.is_first or config.registry_schema is not None:
            raise error
        try:
            self.catalog = await self._foreign.beyond(Catalog(config.project, (), (), ()))
        except FeastUnavailable as unavailable:
            raise error from unavailable
        self._looked_at = monotonic()
        self._away = f"{error}; features are as Feast's registry has them, and have no history"

    async def _look(self, session: Session) -> tuple[Catalog, str | None]:
        """Return what is published, and what Feast's registry defines otherwise by now."""
        seconds = self.database.config.statement_timeout or None
        try:
            # The server's own time-out is of no use where it says nothing any more.
            async with asyncio.timeout(seconds):
                catalog = await read_catalog_async(session, self.database.config.project)
        except TimeoutError as error:
            raise ReadTimeout(f"the catalog can't be read within {seconds:g} s; give it more time") from error
        return catalog, await self._registry.note(session, catalog)

    def look_again(self) -> None:
        """See, beside the reads, whether something else was published since."""
        if monotonic() - self._looked_at > CATALOG_SECONDS and (self._looking is None or self._looking.done()):
            self._looked_at = monotonic()
            self._looking = asyncio.ensure_future(self._refresh())

    async def _refresh(self) -> None:
        try:
            if self.rescue is not None:
                await self._recover(self.rescue.config)
            await self._read_catalog(LOOK_SECONDS)
        except TimeoutError:
            _log.warning("the catalog can't be read again: no answer within %g s", LOOK_SECONDS)
        except Exception as error:  # what was read before goes on serving
            _log.warning("the catalog can't be read again: %s", error)

    async def _recover(self, without_file: Config) -> None:
        """Take the repository's configuration where it can be used again, and says what was found without it."""
        try:
            config = load_config(self._overrides)
        except ConfigError:
            return
        if (config.project, config.database_url) == (without_file.project, without_file.database_url):
            self.rescue, self.database = None, Database(config)
            self._registry = RegistryWatch(config)
            before, self._foreign = self._foreign, FeastReads(self.database)
            self.reader.foreign = self._foreign
            await before.close()
