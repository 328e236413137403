"""FeastFeatureStoreManager: the asynchronous face of a repository, and where the path of an answer is chosen."""

from __future__ import annotations

import asyncio
import logging
import weakref
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, Self

import psycopg

from featurectl.core.catalog import Catalog, Selection, read_catalog_async
from featurectl.core.clock import Clock, system_clock
from featurectl.core.config import Overrides, load_config
from featurectl.core.connections import AsyncPool
from featurectl.core.db import Database, translate
from featurectl.core.entity import EntityId, parse_id_or_symbol
from featurectl.core.schema import too_new
from featurectl.core.serving.answer import Answer, OnlineRows, Request
from featurectl.core.serving.reader import Backend, Reader
from featurectl.core.serving.session import Session
from featurectl.errors import SchemaMissing, UsageError

if TYPE_CHECKING:
    import pandas as pd

_log = logging.getLogger("featurectl")

# Seconds after which the catalog is looked at again, beside the reads.
CATALOG_SECONDS = 5.0

Names = Sequence[str] | None
Time = datetime | str | None


class FeastFeatureStoreManager:
    """One repository's features, for one event loop: ``async with FeastFeatureStoreManager() as manager: …``.

    ``repo`` and ``database_url`` are what ``-C`` and ``--database-url`` are on the command line. ``timeout`` is in
    seconds, for each online read that names none of its own; ``pool_size`` bounds the connections, and with them how
    many reads are under way at once.
    """

    def __init__(
        self,
        repo: str | Path | None = None,
        *,
        database_url: str | None = None,
        timeout: float | None = 5.0,
        pool_size: int = 8,
        clock: Clock = system_clock,
    ) -> None:
        self._overrides = Overrides(repo=Path(repo) if repo else None, database_url=database_url)
        self._timeout = timeout
        self._pool_size = pool_size
        self._clock = clock
        self._database: Database | None = None
        self._reader: Reader | None = None
        self._catalog: Catalog | None = None
        self._looked_at = 0.0
        self._looking: asyncio.Task[None] | None = None
        self._notes: tuple[str, ...] = ()
        self._selections: dict[tuple[tuple[str, ...], str | None], tuple[Selection, ...]] = {}
        self._starting = asyncio.Lock()

    @classmethod
    def of(cls, overrides: Overrides) -> Self:
        """Return the manager of one command: a connection, and the time a read has on the command line."""
        manager = cls(overrides.repo, database_url=overrides.database_url, pool_size=1)
        manager._overrides, manager._timeout = overrides, None
        return manager

    async def __aenter__(self) -> Self:
        await self.initialize()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def initialize(self) -> None:
        """Find the repository, connect, and read the catalog; the first call does it where nobody else has.

        Raises:
            ConfigError: there is no repository, or nothing says where its database is.
            DatabaseUnreachable: the database does not answer.
            SchemaMissing: nothing has been applied yet.
        """
        async with self._starting:
            if self._catalog is not None:
                return
            self._database = database = Database(load_config(self._overrides))
            self._reader = Reader(AsyncPool(lambda: database.open_async(Session), self._pool_size))
            await self._read_catalog()

    async def close(self) -> None:
        """Close every connection; a later call opens them anew."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait([self._looking])
        if self._reader is not None:
            await self._reader.close()
        self._reader = self._catalog = self._looking = None
        self._selections.clear()

    # --- online ------------------------------------------------------------------------------------------------------

    async def get_online_features(
        self,
        entity_ids: Sequence[str],
        feature_names: Names = None,
        feature_service_name: str | None = None,
        *,
        with_status: bool = False,
        **options: Any,
    ) -> pd.DataFrame:
        """Return a DataFrame with a row for each entity id, in their order: keys, event_timestamp, features.

        ``with_status`` adds ``source``, ``age_seconds`` and, for each feature, ``<feature>__status``. ``options`` are
        those of :meth:`get_online_features_rows`. What the values are worth stands in ``attrs``: ``source``,
        ``sources`` (by view), ``degraded`` (why another path answered, or None), ``statuses`` and ``ages`` (seconds;
        for each row a dictionary by feature), ``as_of`` and ``notes``.
        """
        from featurectl.core.serving.frames import online_frame  # pandas: 0.5 s

        answer = await self.read_online(entity_ids, feature_names, feature_service_name, **options)
        return online_frame(answer, with_status=with_status)

    async def get_online_features_rows(
        self,
        entity_ids: Sequence[str],
        feature_names: Names = None,
        feature_service_name: str | None = None,
        **options: Any,
    ) -> OnlineRows:
        """Return a dictionary for each entity id, in their order, without loading pandas.

        Options: ``as_of`` (what was known at that instant; datetime or text), ``max_age`` (timedelta; withholds older
        values as the TTL does), ``allow_stale`` (serves them all the same), ``backend`` (auto, online, feast or
        timescaledb) and ``timeout`` (seconds).

        Raises:
            UsageError: an id, feature, service or option that does not exist or fit.
            ReadTimeout: there was no answer in time.
            DatabaseUnreachable, FeastUnavailable: no path answers.
        """
        return OnlineRows(await self.read_online(entity_ids, feature_names, feature_service_name, **options))

    async def read_online(
        self,
        entity_ids: Sequence[str],
        feature_names: Names,
        feature_service_name: str | None,
        *,
        as_of: Time = None,
        max_age: timedelta | None = None,
        allow_stale: bool = False,
        backend: str = Backend.AUTO,
        timeout: float | None = None,
    ) -> Answer:
        """Return the answer that both forms above are made of."""
        if self._reader is None or self._catalog is None:
            await self.initialize()
        assert self._reader is not None
        self._look_again()
        path = _backend(backend)
        now = self._clock()
        instant = _instant(as_of, now)
        if as_of is not None and path in (Backend.ONLINE, Backend.FEAST):
            raise UsageError(f"an online store holds no past; leave out as_of, or backend '{path}'")
        request = Request(
            self._select(feature_names, feature_service_name),
            _entities(entity_ids),
            instant,
            as_of is not None,
            max_age,
            allow_stale,
        )
        return await self._reader.read(request, backend=path, timeout=timeout or self._timeout, notes=self._notes)

    def _select(self, features: Names, service: str | None) -> tuple[Selection, ...]:
        assert self._catalog is not None
        wanted = (_names(features), service)
        known = self._selections.get(wanted)
        if known is None:
            known = self._selections[wanted] = self._catalog.select(*wanted, online=True)
        return known

    # --- the catalog -------------------------------------------------------------------------------------------------

    async def _read_catalog(self) -> None:
        """Read what is published; where Feast alone applied, publish it first."""
        database, reader = self._database, self._reader
        assert database is not None
        assert reader is not None
        project = database.config.project
        try:
            try:
                catalog = await reader.pool.run(lambda session: read_catalog_async(session, project))
            except psycopg.Error as error:
                raise translate(error) from error
        except SchemaMissing:
            if not database.config.is_applied_unheard:
                raise
            from featurectl.plugin.publish import publish_registry  # 7 s of CPU, once after each `feast apply`

            await asyncio.to_thread(publish_registry, database)
            catalog = await reader.pool.run(lambda session: read_catalog_async(session, project))
        if self._catalog is None or catalog.version != self._catalog.version:
            self._selections.clear()
            reader.forget()
            self._notes = tuple(filter(None, [too_new(catalog.schema_version)]))
        self._catalog, self._looked_at = catalog, monotonic()

    def _look_again(self) -> None:
        """See, beside the reads, whether something else was published since."""
        if monotonic() - self._looked_at > CATALOG_SECONDS and (self._looking is None or self._looking.done()):
            self._looked_at = monotonic()
            self._looking = asyncio.ensure_future(self._refresh())

    async def _refresh(self) -> None:
        try:
            await self._read_catalog()
        except Exception as error:  # what was read before goes on serving
            _log.warning("the catalog can't be read again: %s", error)


# --- without a manager of one's own ----------------------------------------------------------------------------------

_shared: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, dict[Path | None, FeastFeatureStoreManager]] = (
    weakref.WeakKeyDictionary()
)


def shared_manager(repo: str | Path | None = None) -> FeastFeatureStoreManager:
    """Return the manager that the module's functions share: one for each repository and running event loop."""
    from featurectl.core.config import find_repository

    managers = _shared.setdefault(asyncio.get_running_loop(), {})
    root = find_repository(explicit=Path(repo) if repo else None)
    if root not in managers:
        managers[root] = FeastFeatureStoreManager(root)
    return managers[root]


async def get_online_features(
    entity_ids: Sequence[str],
    feature_names: Names = None,
    feature_service_name: str | None = None,
    *,
    repo: str | Path | None = None,
    **options: Any,
) -> pd.DataFrame:
    """Call :meth:`FeastFeatureStoreManager.get_online_features` of the repository's shared manager."""
    manager = shared_manager(repo)
    return await manager.get_online_features(entity_ids, feature_names, feature_service_name, **options)


# --- what callers write ----------------------------------------------------------------------------------------------


def _names(features: Names) -> tuple[str, ...]:
    if isinstance(features, str):
        raise UsageError(f"feature_names is a list of names, not the text '{features}'; write ['{features}']")
    if features is not None and not features:
        raise UsageError("feature_names is empty; name features, or leave it out for all of them")
    return tuple(features or ())


def _entities(entity_ids: Sequence[str]) -> list[EntityId]:
    if isinstance(entity_ids, str):
        raise UsageError(f"entity_ids is a list of ids, not the text '{entity_ids}'; write ['{entity_ids}']")
    if not len(entity_ids):
        raise UsageError("entity_ids is empty; name at least one, for example BTCUSDT_1h")
    return [_ids.get(text) or _remember(text) for text in entity_ids]


_ids: dict[str, EntityId] = {}


def _remember(text: str) -> EntityId:
    """Read an id; a trading loop asks for the same ones again and again."""
    if len(_ids) >= 100_000:
        _ids.clear()
    _ids[text] = entity = parse_id_or_symbol(text)
    return entity


def _backend(name: str) -> Backend:
    try:
        return Backend(name)
    except ValueError:
        raise UsageError(f"backend '{name}' does not exist; backends: {', '.join(Backend)}") from None


def _instant(time: Time, now: datetime) -> datetime:
    from featurectl.core.times import parse_time

    if time is None:
        return now
    if isinstance(time, str):
        return parse_time(time, now=now)
    if time.tzinfo is None:
        raise UsageError(f"{time} has no time zone; give it one, such as UTC")
    return time.astimezone(UTC)
