"""TimescaleComputeEngine: Feast's materialization inside the database, or through Arrow where that can't be."""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from feast import RepoConfig
from feast.entity import Entity
from feast.infra.common.materialization_job import (
    MaterializationJob,
    MaterializationJobStatus,
    MaterializationTask,
)
from feast.infra.common.retrieval_task import HistoricalRetrievalTask
from feast.infra.compute_engines.base import ComputeEngine
from feast.infra.offline_stores.offline_store import OfflineStore, RetrievalJob
from feast.infra.online_stores.online_store import OnlineStore
from feast.infra.registry.base_registry import BaseRegistry
from feast.repo_config import FeastConfigBaseModel
from feast.utils import make_tzaware
from pydantic import Field, ValidationError

from featurectl.core import schema
from featurectl.core.clock import Clock, system_clock
from featurectl.core.db import Connection, translated_errors
from featurectl.core.times import Window
from featurectl.errors import ConfigError
from featurectl.plugin import intervals, publish
from featurectl.plugin.catalog import is_transformed
from featurectl.plugin.indatabase import InDatabase, is_in_database
from featurectl.plugin.intervals import EPOCH, Interval
from featurectl.plugin.running import Running
from featurectl.plugin.store_config import TimescaleStoreConfig, connected
from featurectl.plugin.transfer import Transfer
from featurectl.plugin.transformed import transformed_history

_log = logging.getLogger("featurectl")


class TimescaleComputeEngineConfig(FeastConfigBaseModel):  # type: ignore[misc]
    """``max_parallel`` views at once; ``chunk_rows`` are written at a time where rows pass through this process."""

    type: Literal["featurectl.plugin.engine.TimescaleComputeEngine"] = "featurectl.plugin.engine.TimescaleComputeEngine"
    max_parallel: int = Field(default=4, ge=1)
    chunk_rows: int = Field(default=10_000, ge=1)


@dataclass(frozen=True)
class TimescaleMaterializationJob(MaterializationJob):  # type: ignore[misc]
    """What became of one task. ``rows`` are the entities with a row in the window; an ``idle`` one was all future."""

    task: MaterializationTask
    rows: int = 0
    failure: Exception | None = None
    idle: bool = False

    def status(self) -> MaterializationJobStatus:
        return MaterializationJobStatus.ERROR if self.failure else MaterializationJobStatus.SUCCEEDED

    def error(self) -> BaseException | None:
        return self.failure

    def should_be_retried(self) -> bool:
        return False

    def job_id(self) -> str:
        return f"{self.task.feature_view.name}-{self.task.start_time}-{self.task.end_time}"

    def url(self) -> str | None:
        return None


@dataclass(frozen=True, slots=True)
class _Step:
    """A task, the window it reads, what the registry shall say of it, and what does the work."""

    task: MaterializationTask
    interval: Interval
    work: InDatabase | Transfer

    @property
    def view(self) -> str:
        return str(self.task.feature_view.name)


class TimescaleComputeEngine(ComputeEngine):  # type: ignore[misc]
    """Materialize views in parallel, each by one statement where its source stands beside our online store.

    Other views go through Arrow in chunks: to a foreign online store each entity's newest row of the window; where
    Feast has a transformation to run, it sees the whole window at once, as with Feast's own engine. Our online store
    never takes an older row for a newer one; a foreign one overwrites as it does under any engine.

    A window ends now at the latest: what lies ahead of the clock waits. A run that starts where the registry says the
    last one ended is an incremental one; in the database it takes each entity's newest row up to its end, so that
    late rows are not missed.
    """

    clock: Clock = staticmethod(system_clock)

    def __init__(
        self, *, repo_config: RepoConfig, offline_store: OfflineStore, online_store: OnlineStore, **settings: Any
    ) -> None:
        super().__init__(repo_config=repo_config, offline_store=offline_store, online_store=online_store)
        try:
            self.settings = TimescaleComputeEngineConfig(**settings)
        except ValidationError as error:
            (first, *_) = error.errors()
            place = ".".join(map(str, first["loc"]))
            raise ConfigError(f"feature_store.yaml: batch_engine: {place}: {first['msg']}") from error
        self._home = _home(repo_config)

    @property
    def supports_batch(self) -> bool:
        return True

    @property
    def applies_materialization(self) -> bool:
        return True

    def update(
        self,
        project: str,
        views_to_delete: Sequence[Any],
        views_to_keep: Sequence[Any],
        entities_to_delete: Sequence[Entity],
        entities_to_keep: Sequence[Entity],
    ) -> None:
        """Bring featurectl's own tables up, and forget what deleted views were materialized for."""
        self._forget(project, views_to_delete)
        if not isinstance(self.repo_config.online_store, TimescaleStoreConfig):
            publish.after_feast_applied(self.repo_config, self._home)

    def teardown_infra(self, project: str, fvs: Sequence[Any], entities: Sequence[Entity]) -> None:
        """Forget what the views were materialized for."""
        self._forget(project, fvs)
        if not isinstance(self.repo_config.online_store, TimescaleStoreConfig):
            publish.after_feast_tore_down(self.repo_config, self._home)

    def _forget(self, project: str, views: Sequence[Any]) -> None:
        with connected(self._home) as connection:
            schema.migrate(connection)
            intervals.forget(connection, project, [view.name for view in views])

    def get_historical_features(self, registry: BaseRegistry, task: HistoricalRetrievalTask) -> RetrievalJob:
        """Join the task's view to its entities: the offline store does that, or Feast's plan for a transformation."""
        view = task.feature_view
        if is_transformed(view):
            return transformed_history(self, registry, task)
        return self.offline_store.get_historical_features(
            config=self.repo_config,
            feature_views=[view],
            feature_refs=[f"{view.name}:{feature.name}" for feature in view.features],
            entity_df=task.entity_df,
            registry=registry,
            project=task.project,
            full_feature_names=task.full_feature_name,
            start_date=task.start_time,
            end_date=task.end_time,
        )

    def materialize(
        self, registry: BaseRegistry, tasks: MaterializationTask | list[MaterializationTask], **kwargs: Any
    ) -> list[MaterializationJob]:
        """Materialize views in parallel; one that fails does not stop the others. Returns a job a task, in order.

        Raises:
            DatabaseUnreachable: and nothing was done; also other errors that concern all views.
        """
        tasks = [tasks] if isinstance(tasks, MaterializationTask) else tasks
        now = self.clock()
        done: dict[int, TimescaleMaterializationJob] = {}
        steps: dict[int, _Step] = {}
        with connected(self._home) as connection:
            schema.migrate(connection)
            for index, task in enumerate(tasks):
                try:
                    steps[index] = self._step(registry, task, now)
                except Exception as error:
                    done[index] = _failed(task, error)
            # Feast has just said MATERIALIZING; should we be killed, the views must not stay so.
            self._settle(connection, registry, tasks, {}, now)
            with closing(self._run(steps, now)) as jobs:
                for index, job in jobs:
                    done[index] = job
                    newest = {} if job.failure or job.idle else {steps[index].view: steps[index].interval}
                    self._settle(connection, registry, [job.task], newest, now)
        return [done[index] for index in range(len(tasks))]

    def _step(self, registry: BaseRegistry, task: MaterializationTask, now: datetime) -> _Step:
        view, project = task.feature_view, task.project
        start, end = EPOCH if task.disable_event_timestamp else make_tzaware(task.start_time), now
        if not task.disable_event_timestamp:
            end = min(make_tzaware(task.end_time), now)
        interval = (start, end)
        if is_in_database(self.repo_config, view):
            last = view.most_recent_end_time
            force = bool(getattr(self.repo_config.online_store, "force", False))
            # Forced, a row of long ago would replace what was pushed since.
            incremental = last is not None and make_tzaware(last) == start and not force
            window = Window(None if incremental or task.disable_event_timestamp else start, end)
            return _Step(task, interval, InDatabase(self.repo_config, project, view, window, force))
        window = Window(start, end)
        transfer = Transfer.of(self, registry, task, window, self.settings.chunk_rows)
        return _Step(task, interval, transfer)

    def _run(self, steps: dict[int, _Step], now: datetime) -> Generator[tuple[int, TimescaleMaterializationJob]]:
        """Do the work of all steps, ``max_parallel`` at a time; yield each job when it is done."""
        running = Running()
        with ThreadPoolExecutor(self.settings.max_parallel, "materialize") as pool:
            futures = {pool.submit(self._job, step, running, now): index for index, step in steps.items()}
            try:
                waiting: set[Future[TimescaleMaterializationJob]] = set(futures)
                while waiting:
                    finished, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                    yield from ((futures[future], future.result()) for future in finished)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                running.cancel(futures)
                raise

    def _job(self, step: _Step, running: Running, now: datetime) -> TimescaleMaterializationJob:
        start, end = step.interval
        if start > end:
            return TimescaleMaterializationJob(step.task, idle=True)
        try:
            with translated_errors():
                rows = step.work.run(running, step.interval, now)
                if isinstance(step.work, Transfer):
                    with running.connection(self._home) as connection:
                        intervals.add(connection, step.task.project, step.view, step.interval)
        except Exception as error:
            return _failed(step.task, error)
        return TimescaleMaterializationJob(step.task, rows)

    def _settle(
        self,
        connection: Connection,
        registry: BaseRegistry,
        tasks: Iterable[MaterializationTask],
        newest: Mapping[str, Interval],
        now: datetime,
    ) -> None:
        """Bring registry and the caller's own copies of the views to what has been materialized."""
        views = {task.feature_view.name: task.feature_view for task in tasks}
        (project,) = {task.project for task in tasks}
        found = intervals.settle(connection, registry, project, list(views), newest=newest, now=now)
        for name, view in views.items():
            # Feast writes this copy back when the view fails.
            if name in found:
                view.materialization_intervals[:] = found[name]


def _home(config: RepoConfig) -> TimescaleStoreConfig:
    """Return the store in whose database the engine keeps its locks and its ledger.

    Raises:
        ConfigError: none of the stores is ours.
    """
    for store in (config.online_store, config.offline_store):
        if isinstance(store, TimescaleStoreConfig):
            return store
    raise ConfigError(
        "TimescaleComputeEngine needs featurectl's online store or offline store; name one in feature_store.yaml, or "
        "take out batch_engine"
    )


def _failed(task: MaterializationTask, error: Exception) -> TimescaleMaterializationJob:
    # Feast raises the first failure of a call and tells nothing of the others.
    _log.error("view '%s' is not materialized: %s", task.feature_view.name, error)
    return TimescaleMaterializationJob(task, failure=error)
