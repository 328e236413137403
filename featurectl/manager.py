"""FeastFeatureStoreManager: the asynchronous face of a repository."""

from __future__ import annotations

import asyncio
import dataclasses
import os
from collections.abc import Callable, Iterable
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypedDict, TypeVar, Unpack

from featurectl import arguments
from featurectl.arguments import Names, Time
from featurectl.core.clock import Clock, system_clock
from featurectl.core.config import Overrides
from featurectl.core.db import Database
from featurectl.core.serving.answer import Answer, OnlineRows, Request
from featurectl.core.serving.paths import Backend, Deadline
from featurectl.core.serving.reader import Reader
from featurectl.core.threads import Threads
from featurectl.errors import ReadTimeout, UsageError
from featurectl.opened import Opened, find_database

if TYPE_CHECKING:
    import pandas as pd

    from featurectl.core.rescue import Rescue


T = TypeVar("T")


class OnlineOptions(TypedDict, total=False):
    """How features are read online; see :meth:`FeastFeatureStoreManager.get_online_features_rows`."""

    as_of: Time
    max_age: timedelta | None
    allow_stale: bool
    backend: str
    timeout: float | None


class OfflineOptions(TypedDict, total=False):
    """How a training set is read; see :meth:`FeastFeatureStoreManager.get_offline_features`."""

    spine: pd.DataFrame | str | os.PathLike[str] | None
    targets: Names
    backend: str
    timeout: float | None


class FeastFeatureStoreManager:
    """One repository's features, for one event loop: ``async with FeastFeatureStoreManager() as manager: …``.

    ``repo`` and ``database_url`` are what ``-C`` and ``--database-url`` are on the command line. ``timeout`` is in
    seconds, for each online read that names none of its own; other calls take the time they take, as does opening the
    repository, for which a read's own time counts only. ``pool_size`` bounds how many reads are under way at once, each
    on a connection, and how many other calls, each in a thread. In a forked process, and after its event loop has
    ended, it opens anew.

    With ``cache_seconds``, rows of our online tables are kept for as long, unless featurectl or Feast writes to their
    table before. That takes a connection more, past any pooler in transaction mode; it is judged by age at each call
    what they are worth, as for rows just read. Every ``log_seconds`` (0: never) the logger ``featurectl`` says how many
    reads there were of each view, by which paths, and how long they took.
    """

    def __init__(
        self,
        repo: str | Path | None = None,
        *,
        database_url: str | None = None,
        timeout: float | None = 5.0,
        pool_size: int = 8,
        cache_seconds: float = 0.0,
        log_seconds: float = 60.0,
        clock: Clock = system_clock,
    ) -> None:
        self._overrides = arguments.place(repo, database_url)
        self._timeout = arguments.seconds(timeout)
        self._pool_size = arguments.count(pool_size, "pool_size")
        self._cache_seconds = arguments.duration(cache_seconds, "cache_seconds")
        self._log_seconds = arguments.duration(log_seconds, "log_seconds")
        self._clock = arguments.clock(clock)
        self._opened: Opened | None = None
        self._process: int | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._starting = asyncio.Lock()
        self._threads = Threads(pool_size)

    @classmethod
    def of(cls, overrides: Overrides) -> Self:
        """Return the manager of one command: it has one connection."""
        manager = cls(overrides.repo, database_url=overrides.database_url, pool_size=1, log_seconds=0, timeout=None)
        manager._overrides = overrides
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
            UsageError: it is in use in another event loop.
        """
        self._arrive()
        async with self._starting:
            if self._opened is not None:
                return
            opened = Opened(
                self._overrides,
                *await find_database(self._overrides),
                pool_size=self._pool_size,
                cache_seconds=self._cache_seconds,
                log_seconds=self._log_seconds,
            )
            try:
                self._opened = await opened.start()
            finally:
                if self._opened is None:
                    await opened.close()

    async def close(self) -> None:
        """Close every connection; a later call opens them anew."""
        self._arrive()
        opened, self._opened = self._opened, None
        if opened is not None:
            await opened.close()

    @property
    def configured_timeout(self) -> float | None:
        """The seconds that ``--timeout`` or ``statement_timeout`` give to a read, once this is open; none for 0."""
        return (self._opened.database.config.statement_timeout or None) if self._opened is not None else None

    def _is_here(self) -> bool:
        """Whether what this manager holds is of this process and event loop."""
        return self._process == os.getpid() and self._loop is asyncio.get_running_loop()

    def _arrive(self) -> None:
        """Let go of what is another process's, or an event loop's that has ended.

        Raises:
            UsageError: it is in use in another event loop.
        """
        if self._is_here():
            return
        is_mine = self._loop is not None and not self._loop.is_closed() and self._process == os.getpid()
        if self._opened is not None and is_mine:
            raise UsageError("this manager is in use in another event loop; make one for each")
        opened, self._opened = self._opened, None
        self._process, self._loop = os.getpid(), asyncio.get_running_loop()
        self._starting, self._threads = asyncio.Lock(), Threads(self._pool_size)
        if opened is not None:
            opened.abandon()

    @property
    def _reader(self) -> Reader | None:
        return self._opened.reader if self._opened is not None else None

    # --- online ------------------------------------------------------------------------------------------------------

    async def get_online_features(
        self,
        entity_ids: Iterable[str],
        feature_names: Names = None,
        feature_service_name: str | None = None,
        *,
        with_status: bool = False,
        **options: Unpack[OnlineOptions],
    ) -> pd.DataFrame:
        """Return a DataFrame with a row for each entity id, in their order: keys, event_timestamp, features.

        ``with_status`` adds ``source``, ``age_seconds`` and, for each feature, ``<feature>__status``. ``options`` are
        those of :meth:`get_online_features_rows`. What the values are worth stands in ``attrs``: ``source``,
        ``sources`` (by view), ``degraded`` (why another path answered, or None), ``statuses`` and ``ages`` (seconds;
        for each row a dictionary by feature), ``as_of`` and ``notes``.
        """
        from featurectl.core.serving.frames import online_frame  # pandas: 0.5 s

        shows_status = arguments.flag(with_status, "with_status")
        answer = await self.read_online(entity_ids, feature_names, feature_service_name, **options)
        return online_frame(answer, with_status=shows_status)

    async def get_online_features_rows(
        self,
        entity_ids: Iterable[str],
        feature_names: Names = None,
        feature_service_name: str | None = None,
        **options: Unpack[OnlineOptions],
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
        entity_ids: Iterable[str],
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
        path, limit = arguments.backend(backend), arguments.seconds(timeout)
        deadline = Deadline.after(limit or self._timeout)
        opened = self._opened
        if opened is None or not self._is_here():
            opened = await self._opened_by(deadline if limit else Deadline())
            if not limit:
                deadline = Deadline.after(self._timeout)
        opened.look_again()
        if as_of is not None and path in (Backend.ONLINE, Backend.FEAST):
            raise UsageError(f"an online store holds no past; leave out as_of, or backend '{path}'")
        request = Request(
            await opened.select((arguments.names(feature_names), arguments.service(feature_service_name)), deadline),
            arguments.entities(entity_ids),
            arguments.instant(as_of, "as_of", now=self._clock()),
            as_of is not None,
            arguments.age(max_age),
            arguments.flag(allow_stale, "allow_stale"),
        )
        return await opened.reader.read(
            request, deadline=deadline, backend=path, notes=opened.notes, degraded=opened.degraded
        )

    async def _opened_by(self, deadline: Deadline) -> Opened:
        """Initialize in the time of a call."""
        limit = asyncio.timeout_at(deadline.at)
        try:
            async with limit:
                await self.initialize()
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise ReadTimeout(f"no answer within {deadline.seconds:g} s; give it more time") from error
        if self._opened is None:
            raise UsageError("the manager was closed while it was opened; use it before it is closed")
        return self._opened

    def counters(self) -> dict[str, Any]:
        """Return what has been read since :meth:`initialize`: ``views`` by name, and ``failed`` calls by error.

        A view has ``calls``, ``degraded`` ones, ``paths`` (calls by path; one whose rows come from two counts in both),
        ``statuses`` (values by status), ``latency_ms`` (p50, p95, p99 of the newest 2,000 calls, each as long as it
        took for all its views), and with ``cache_seconds`` the ``hits`` and ``misses`` of the ``cache``.
        """
        return self._opened.reader.counters.report() if self._opened is not None else {"failed": {}, "views": {}}

    # --- offline -----------------------------------------------------------------------------------------------------

    async def get_offline_features(
        self,
        entity_ids: Iterable[str] | None = None,
        feature_names: Names = None,
        feature_service_name: str | None = None,
        start_date: Time = None,
        end_date: Time = None,
        *,
        spine: pd.DataFrame | str | os.PathLike[str] | None = None,
        targets: Names = None,
        backend: str = Backend.AUTO,
        timeout: float | None = None,
    ) -> pd.DataFrame:
        """Return a training set, point-in-time correct: each row has the features known at its event time.

        With ids and both dates there is a row for every event time of the features, id by id: entity_id, symbol,
        timeframe, event_timestamp, features. With a ``spine`` (a DataFrame, or a CSV or Parquet file, with
        event_timestamp and entity_id or the keys; where it has both they must agree) its rows, columns and index stay,
        in their order, and the features come behind. In a spine, times without a zone are UTC. ``targets`` are written
        ``forward_return:24``.

        ``attrs`` hold ``source`` (timescaledb, or feast where no SQL reads the features or ``backend`` asks for it),
        ``degraded``, ``notes`` and ``window``. It takes the time it takes, or ``timeout`` seconds at most; a task that
        is cancelled stops it on the server.

        Raises:
            UsageError: what is asked for does not exist or fit.
            ReadTimeout: it was not done in time.
            DatabaseUnreachable, FeastUnavailable: there is no way to it.
        """
        from featurectl import reads

        now = self._clock()
        asked = reads.TrainingSet(
            arguments.names(feature_names),
            arguments.service(feature_service_name),
            arguments.targets(targets),
            *arguments.rows_wanted(entity_ids, start_date, end_date, spine, now=now),
        )
        source, limit = arguments.offline_source(backend), arguments.seconds(timeout)
        degraded = await self._degraded()
        return await self._in_thread(
            lambda on: reads.training_frame(on, asked, now=now, source=source, degraded=degraded), limit
        )

    async def get_feature_statistics(
        self,
        feature_names: Names = None,
        feature_service_name: str | None = None,
        *,
        entity_ids: Iterable[str] | None = None,
        start_date: Time = None,
        end_date: Time = None,
        by: str | None = None,
        baseline: str | None = None,
        checks: bool = False,
        timeout: float | None = None,
    ) -> pd.DataFrame:
        """Return a row for each feature: what its history holds, of some entities and a window or of all.

        Columns are the fields of :class:`featurectl.core.statistics.describe.FeatureStatistics`: view, feature,
        value_type, entity, timeframe, day, rows, nulls, null_share, mean, std, percentiles, outliers, ages and so on;
        ``by`` is entity, timeframe or day, for a row for each of them. A feature that is no number has only counts.
        With a ``baseline``, the name of a saved profile, the columns drift (ok, warn, fail or insufficient data), psi,
        chance, ks, js, wasserstein and began say how far each has moved from it. With ``checks`` the columns check (ok,
        warn, fail, or None where nothing is asked) and findings say how its rules, and its view's, find it.
        ``attrs`` hold the ``window``, and ``degraded`` as for training sets.

        Raises:
            as :meth:`get_offline_features`.
        """
        from featurectl import reads, statistics
        from featurectl.core.serving.frames import check_frame, drift_frame, report_frame
        from featurectl.core.statistics.describe import FeatureStatistics

        names, service = arguments.names(feature_names), arguments.service(feature_service_name)
        entities = None if entity_ids is None else arguments.entities(entity_ids)
        now = self._clock()
        window, group = arguments.window(start_date, end_date, now=now), arguments.group(by)
        arguments.check_groups(by, baseline, checks=arguments.flag(checks, "checks"))
        chosen = statistics.Chosen(names, service, (), entities)
        found = await self._in_thread(lambda on: statistics.statistics(on, chosen, window, now=now, by=group), timeout)
        frame = report_frame(FeatureStatistics, found)
        if baseline is not None:
            asked = statistics.DriftAsked(chosen, window, baseline=baseline)
            moved = await self._in_thread(lambda on: statistics.drift(on, asked), timeout)
            frame = frame.join(drift_frame(found, moved.drifts))
        if checks:
            checked = reads.Checking(names, service, entities=tuple(map(str, entities or ())), window=window)
            report = await self._in_thread(lambda on: reads.check_rows(on, checked, now=now), timeout)
            frame = frame.join(check_frame(found, report.outcomes))
        frame.attrs = {"window": window.as_dict(), "degraded": await self._degraded()}
        return frame

    async def check_features(
        self,
        feature_names: Names = None,
        feature_service_name: str | None = None,
        *,
        entity_ids: Iterable[str] | None = None,
        start_date: Time = None,
        end_date: Time = None,
        rules: Names = None,
        rows: int = 0,
        timeout: float | None = None,
    ) -> pd.DataFrame:
        """Do what `featurectl check` does; return a row for each rule on each target, with its verdict.

        Columns: view, feature, rule, severity, verdict (ok, warn, fail), entities, rows, offending, share, limit,
        worst, worst_entity, entities_offending, first, last, note; see :class:`featurectl.core.checks.Outcome`. Without
        names or a service, of all views and the candles. ``attrs`` hold the ``window``, ``offences`` (of each the
        newest ``rows`` offending rows, as dictionaries), ``unreadable`` (views and why they are), and ``degraded``.

        Raises:
            UsageError, NotFound, SchemaMissing: as the command says.
            ConfigError: feature_store.yaml says of checks what can't be used.
            ReadTimeout: it was not done within ``timeout`` seconds.
        """
        from featurectl import reads
        from featurectl.core.checks import Outcome
        from featurectl.core.serving.frames import report_frame

        now = self._clock()
        ids = () if entity_ids is None else tuple(map(str, arguments.entities(entity_ids)))
        window = arguments.window(start_date, end_date, now=now)
        asked = reads.Checking(
            arguments.names(feature_names),
            arguments.service(feature_service_name),
            entities=ids,
            window=window,
            rules=arguments.names(rules, "rules"),
            rows=arguments.count(rows, "rows", least=0),
        )
        found = await self._in_thread(lambda on: reads.check_rows(on, asked, now=now), timeout)
        frame = report_frame(Outcome, found.outcomes)
        frame.attrs = {
            "window": window.as_dict(),
            "offences": [dataclasses.asdict(one) for one in found.offences],
            "unreadable": {one.view: str(one.error) for one in found.unreadable},
            "degraded": await self._degraded(),
        }
        return frame

    async def check_consistency(
        self,
        feature_names: Names = None,
        feature_service_name: str | None = None,
        *,
        entity_ids: Iterable[str] | None = None,
        sample: int = 100,
        seed: int = 0,
        as_of: Time = None,
        tolerance: float = 1e-9,
        allow_stale: bool = False,
        timeout: float | None = None,
    ) -> pd.DataFrame:
        """Do what `featurectl consistency` does; return a row for each feature of an entity whose readings differ.

        Columns: view, entity, feature, online_verdict, computed_verdict (match, mismatch, missing, extra, stale, absent
        or None), online, offline, recomputed, their event times, online_status and online_source; see
        :class:`featurectl.core.consistency.Difference`. Of each view's entities ``sample`` are taken by ``seed``.
        Without names or a service, of all views. ``attrs`` hold ``as_of``, ``findings`` (values that differ), ``views``
        (counts of each verdict, as dictionaries), ``notes``, and ``degraded``.

        Raises:
            UsageError, NotFound, SchemaMissing, DefinitionError: as the command says.
            ReadTimeout: it was not done within ``timeout`` seconds.
        """
        from featurectl import reads
        from featurectl.core.consistency import Asked, Difference
        from featurectl.core.serving.frames import report_frame

        now = self._clock()
        asked = Asked(
            ids=() if entity_ids is None else tuple(map(str, arguments.entities(entity_ids))),
            features=arguments.names(feature_names),
            service=arguments.service(feature_service_name),
            sample=arguments.count(sample, "sample"),
            seed=arguments.count(seed, "seed", least=0),
            as_of=None if as_of is None else arguments.instant(as_of, "as_of", now=now),
            tolerance=arguments.share(tolerance, "tolerance"),
            allow_stale=arguments.flag(allow_stale, "allow_stale"),
        )
        found = await self._in_thread(lambda on: reads.consistency(on, asked, now=now), timeout)
        frame = report_frame(Difference, found.differences)
        frame.attrs = {
            "as_of": found.as_of,
            "findings": found.findings(),
            "views": [dataclasses.asdict(one) for one in found.tallies],
            "notes": list(found.notes),
            "degraded": await self._degraded(),
        }
        return frame

    # --- work --------------------------------------------------------------------------------------------------------

    async def compute_features(
        self,
        symbols: Names = None,
        timeframes: Names = None,
        start: Time = None,
        end: Time = None,
        full: bool = False,
        feature_names: Names = None,
        *,
        timeout: float | None = None,
    ) -> pd.DataFrame:
        """Do what `featurectl compute` does; return its rows: view, entity_id, rows, stale_rows, inserted, changed.

        A task that is cancelled stops it: what is done of one symbol is rolled back, the lock is free again.

        Raises:
            UsageError, DefinitionError, SchemaMissing, LockHeld: as the command says.
            ReadTimeout: it was not done within ``timeout`` seconds.
        """
        from featurectl import jobs
        from featurectl.core.compute import Computed, Request
        from featurectl.core.serving.frames import report_frame

        now = self._clock()
        window = arguments.window(start, end, now=now, names=("start", "end"))
        request = Request(
            arguments.names(symbols, "symbols"),
            arguments.names(timeframes, "timeframes"),
            window,
            arguments.flag(full, "full"),
            arguments.names(feature_names),
        )
        done = await self._in_thread(lambda on: jobs.compute(on, request, now=now), timeout, writes=True)
        frame = report_frame(Computed, done, jobs.COMPUTED)
        frame.attrs = {"window": window.as_dict()}
        return frame

    async def materialize(
        self, start: Time = None, end: Time = None, views: Names = None, *, timeout: float | None = None
    ) -> pd.DataFrame:
        """Do what `featurectl materialize` does; return its rows: view, entities, written, unchanged, older.

        Without ``start`` it is incremental, without ``end`` up to now. A task that is cancelled stops it: the view at
        hand is rolled back.

        Raises:
            UsageError, SchemaMissing: as the command says; where all views failed, what the first failed with.
            PartlyDone: some views are done, others failed.
            ReadTimeout: it was not done within ``timeout`` seconds.
        """
        from featurectl import jobs
        from featurectl.core.materialize import Materialized, raise_failures
        from featurectl.core.serving.frames import report_frame

        now = self._clock()
        window = arguments.window(start, now if end is None else end, now=now, names=("start", "end"))
        names = arguments.names(views, "views")
        done = await self._in_thread(lambda on: jobs.materialize(on, names, window, now=now), timeout, writes=True)
        if self._reader is not None and self._reader.cache is not None:
            self._reader.cache.forget()  # it will hear of it, too, but perhaps not before the caller's next read
        raise_failures(done)
        frame = report_frame(Materialized, done, jobs.MATERIALIZED)
        frame.attrs = {"window": window.as_dict(), "incremental": window.start is None}
        return frame

    # --- what there is -----------------------------------------------------------------------------------------------

    async def get_feature_service_info(self, name: str, *, timeout: float | None = None) -> dict[str, Any]:
        """Return a feature service: name, description, tags, join_keys, features and views.

        Each feature has view, name, value_type, description and ttl_seconds (None is unlimited); each view name,
        join_keys, ttl_seconds, online, and materialized_at (into an online table of ours; None is never).

        Raises:
            NotFound: there is no such service; the message lists those there are.
        """
        from featurectl import reads

        if arguments.service(name) is None:
            raise UsageError("name is None; give the name of a service")
        (info,) = await self._in_thread(lambda on: reads.services(on, name), timeout)
        return info

    async def list_feature_services(self, *, timeout: float | None = None) -> list[dict[str, Any]]:
        """Return all feature services, each as :meth:`get_feature_service_info` does."""
        from featurectl import reads

        return await self._in_thread(lambda on: reads.services(on), timeout)

    async def health(self, *, within: float = 2.0) -> dict[str, Any]:
        """Return how everything is, in plain values, in about ``within`` seconds; raises nothing.

        ``status`` is ok, degraded (a path does not answer, or there is a note) or unavailable. ``database``,
        ``catalog``, ``paths`` (those that failed since they were last known to be well, with their circuit breakers),
        ``counters`` (of reads, by view), ``pool`` and ``feast`` say more.
        """
        from featurectl.core.serving import health

        within = arguments.duration(within, "within")

        async def ready() -> None:
            async with asyncio.timeout(within):
                await self.initialize()

        async def database() -> dict[str, Any]:
            found, is_open = (await self._found())[0], self._opened is not None
            return await health.ask_database(found, within=within, unless_stopped=is_open)

        answer, error = await asyncio.gather(database(), ready(), return_exceptions=True)
        if isinstance(answer, BaseException):
            answer = health.unreachable(str(answer))
        opened = self._opened
        if opened is None or error is not None:
            return health.Health(answer, error=str(error or "") or None).report()
        notes = tuple(filter(None, [*opened.notes, opened.degraded]))
        return health.Health(answer, opened.reader, opened.catalog, notes).report()

    async def _found(self) -> tuple[Database, Rescue | None]:
        """Return the database, and how it was found where the repository's configuration can't be used."""
        self._arrive()
        opened = self._opened
        return (opened.database, opened.rescue) if opened is not None else await find_database(self._overrides)

    async def _degraded(self) -> str | None:
        """Say what is wrong with the repository's configuration, where something is."""
        _, rescue = await self._found()
        return rescue.reason if rescue is not None else None

    async def _in_thread(self, work: Callable[[Database], T], timeout: float | None, *, writes: bool = False) -> T:
        """Do blocking work beside the event loop, with connections of its own."""
        database, rescue = await self._found()
        if writes and rescue is not None:
            raise rescue.error
        return await self._threads.run(lambda: work(database), timeout=arguments.seconds(timeout))
