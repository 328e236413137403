"""`featurectl run`: the inbox, features, and what is online, brought up to date and looked at, as one run."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from featurectl import jobs, reads
from featurectl.core import compute as computing
from featurectl.core import materialize as materializing
from featurectl.core.catalog import Catalog
from featurectl.core.checks import CheckReport, CheckSettings, Severity, describe, read_settings, run_checks, selected
from featurectl.core.consistency import Asked, Pair, Tally
from featurectl.core.consistency.verdicts import FAULTS
from featurectl.core.db import Database
from featurectl.core.entity import parse_id_or_symbol
from featurectl.core.freshness import Freshness, by_lag, read_freshness
from featurectl.core.inbox import FAILED, KINDS, Contents, ingest_waiting, look_into
from featurectl.core.ingest_ticks import declared_ranges
from featurectl.core.ingesting import Ingested
from featurectl.core.locks import name_of_repository
from featurectl.core.pipeline import INBOX, Pipeline, StepName
from featurectl.core.runs import Run, RunSettings, Step, open_run
from featurectl.core.runs.retries import is_transient
from featurectl.core.times import Window
from featurectl.errors import (
    DatabaseUnreachable,
    FeaturectlError,
    Findings,
    InputFileError,
    Interrupted,
    InvalidEntityId,
    LockHeld,
    PartlyDone,
    Skipped,
)
from featurectl.published import Find
from featurectl.statistics import Chosen, DriftAsked, drift


@dataclass(slots=True)
class Done:
    """What a run came to, step by step; ``errors`` are by step, ``findings`` what the check found fault with."""

    steps: Sequence[StepName]
    inbox: Contents | None = None
    ingested: list[Ingested[Any, Any]] = field(default_factory=list)
    computed: list[computing.Computed] = field(default_factory=list)
    materialized: list[materializing.Materialized | materializing.Failed] = field(default_factory=list)
    freshness: list[Freshness] = field(default_factory=list)
    checks: CheckReport | None = None
    findings: list[str] = field(default_factory=list)
    errors: dict[StepName, FeaturectlError] = field(default_factory=dict)
    failure: FeaturectlError | None = None


def run_pipeline(
    database: Database,
    pipeline: Pipeline,
    settings: RunSettings,
    *,
    find: Find,
    progress: Callable[[str, int, int, str], None],
) -> Done:
    """Do the steps of a run, one after the other, under the repository's lock, as of the instant at which it has that.

    A step that fails keeps the next ones from nothing but what is missing then; without the database nothing goes on.

    Raises:
        ConfigError: feature_store.yaml says of checks what can't be used.
        LockHeld, Skipped: another run of this repository is at work.
        DatabaseUnreachable: the database went away for longer than the run tries again.
    """
    lock, checks = name_of_repository(database.config.project), read_settings(database.config)
    with open_run(database, settings, now=settings.clock()) as run, run.lock(lock):
        run.now = settings.clock()  # files that have come since are those of this run
        work = _Work(run, pipeline, checks, run.now, find, progress)
        for step in pipeline.steps:
            work.take(step)
        work.done.failure = run.failure = failure_of(work.done)
        return work.done


class _Work:
    """A run of the pipeline, at its steps."""

    def __init__(
        self,
        run: Run,
        pipeline: Pipeline,
        checks: CheckSettings,
        now: datetime,
        find: Find,
        progress: Callable[[str, int, int, str], None],
    ) -> None:
        self._checks = checks
        self._run, self._pipeline, self._now, self._find, self._progress = run, pipeline, now, find, progress
        self.done = Done(pipeline.steps)

    def take(self, step: StepName) -> None:
        """Do a step; what it fails with is noted, unless nothing can go on."""
        steps = {
            StepName.INGEST: self._ingest,
            StepName.COMPUTE: self._compute,
            StepName.MATERIALIZE: self._materialize,
            StepName.CHECK: self._check,
        }
        try:
            steps[step]()
        except FeaturectlError as error:
            if isinstance(error, (DatabaseUnreachable, Interrupted)) or is_transient(error):
                raise
            self.done.errors[step] = error

    def _ingest(self) -> None:
        inbox, say = self._inbox, self._run.settings.say
        if self._pipeline.inbox is None and not os.path.lexists(inbox):
            return  # who ingests otherwise needs none
        contents = self.done.inbox = look_into(inbox, settle=self._pipeline.settle)
        for name in contents.unfinished:
            say(f"{name} was changed a moment ago and may not be finished; the next run takes it")
        for name in contents.unknown:
            say(f"{inbox / name} is left alone: it is no file, nor one of the folders {', '.join(KINDS)}")
        ranges = declared_ranges(self._catalog()) if contents.files else {}
        for index, file in enumerate(contents.files):
            self._progress("ingest", index, len(contents.files), file.name)
            done = ingest_waiting(self._run, inbox, file, ranges=ranges, now=self._now, settle=self._pipeline.settle)
            if done is None:
                say(f"{file.name} was changed, or taken away, in the meantime; the next run looks again")
                continue
            self.done.ingested.append(done)
            self._explain(done)
        if failure := self._unusable():
            raise failure
        if contents.unreadable:
            raise PartlyDone(f"{'; '.join(contents.unreadable)}; the rest of the inbox is done")

    def _explain(self, done: Ingested[Any, Any]) -> None:
        """Say what there is to be said of a file: why it failed, or what is odd in it."""
        say = self._run.settings.say
        if done.file is None or done.failure:
            say(str(done.failure))
            return
        for text in done.file.warnings:
            say(f"{done.name}: {text}")
        if faults := done.file.faults:
            reasons = ", ".join(f"{number} {reason}" for reason, number in faults.items())
            where = "a dry run keeps no list" if self._run.settings.dry_run else "a file beside it lists them"
            say(f"{done.name}: rejected of {done.file.rows_read} rows: {reasons}; {where}")

    @property
    def _inbox(self) -> Path:
        return self._pipeline.inbox or self._run.database.config.root / INBOX

    def _unusable(self) -> FeaturectlError | None:
        """Return what to say of files that could not be used: no run takes them again from failed/; or not be moved."""
        every = self.done.ingested
        unused, stuck = [one.name for one in every if one.failed], [one.name for one in every if one.error]
        if not unused and not stuck:
            return None
        if not unused:
            return PartlyDone(f"{len(stuck)} of {len(every)} files are ingested, and can't be moved ({_some(stuck)})")
        place = f"see {self._inbox / FAILED}, correct them and put them back"
        place = "they stay where they are" if self._run.settings.dry_run else place
        message = f"{len(unused)} of {len(every)} files could not be used ({_some(unused)}); {place}"
        return PartlyDone(message) if len(unused) < len(every) else InputFileError(message)

    def _compute(self) -> None:
        request = computing.Request()
        self.done.computed = jobs.compute_in(
            self._run,
            request,
            now=self._now,
            find=self._find,
            progress=lambda done, total, label: self._progress("compute", done, total, label),
        )

    def _materialize(self) -> None:
        self.done.materialized = jobs.materialize_in(
            self._run,
            self._pipeline.views,
            Window(None, None),
            now=self._now,
            find=self._find,
            progress=lambda done, total, label: self._progress("materialize", done, total, label),
        )
        if failure := materializing.failure_of(self.done.materialized):
            raise failure

    def _check(self) -> None:
        """Look at what is online as others see it, and not at what the steps say they have done."""
        self._progress("check", 0, 2, "freshness")
        catalog = self._catalog()
        found = self._run.attempt(
            lambda connection: read_freshness(connection, catalog, now=self._now, views=self._pipeline.views)
        )
        self.done.freshness = found.views
        self.done.findings = [f"{one.view}: {one.error}" for one in found.unreadable]
        self.done.findings += findings_of(found.views, self._pipeline.max_lag)
        self._check_rows(catalog, {one.view for one in found.unreadable})
        if not self._run.settings.dry_run:
            self._run.degraded = degraded_answers(self._run.database, catalog, found.views, now=self._now)
            self.done.findings += [
                f"{view}: {count} answers are degraded; `featurectl get-online` says why"
                for view, count in self._run.degraded.items()
                if count
            ]
        if self._pipeline.drift:
            self._check_drift(catalog, {one.view for one in found.unreadable})
        if self._pipeline.consistency and not self._run.settings.dry_run:
            self.done.findings += self._inconsistencies()

    def _inconsistencies(self) -> list[str]:
        """Return what is not the same online, in the history and computed again, of other entities at each run."""
        self._progress("check", 0, 1, "consistency")
        seed = int(self._now.timestamp())
        asked = Asked(views=self._pipeline.views, sample=self._pipeline.consistency, seed=seed)
        found = reads.consistency(self._run.database, asked, now=self._now, find=self._find)
        return [
            f"{tally.view}: {words}; `featurectl consistency --sample {asked.sample} --seed {seed}` shows them"
            for tally in found.tallies
            if (words := words_of(tally))
        ]

    def _check_rows(self, catalog: Catalog, unreadable: Container[str]) -> None:
        """Hold the newest rows to what is expected of them, as far back as a run may have changed something."""
        self._progress("check", 1, 2, "rows")
        selections, _ = selected(catalog, views=self._pipeline.views)
        report = self.done.checks = self._run.checks = self._run.attempt(
            lambda connection: run_checks(
                connection,
                catalog,
                selections,
                now=self._now,
                settings=self._checks,
                recent=self._checks.recent_rows,
                candles=True,
            )
        )
        failed = report.at_least(Severity.ERROR)
        counts = f"{len(report.findings) - len(failed)} warn, {len(failed)} fail"
        self._run.steps.append(Step("check", f"{len(report.outcomes)} checks: {counts}"))
        for one in report.findings:
            self._run.steps.append(Step("check", f"{one.target} {one.rule}", error=f"{one.verdict}: {describe(one)}"))
            if one not in failed:
                self._run.settings.say(f"check: {describe(one)}")
        self.done.findings += map(describe, failed)
        self.done.findings += [f"{one.view}: {one.error}" for one in report.unreadable if one.view not in unreadable]

    def _check_drift(self, catalog: Catalog, unreadable: Container[str]) -> None:
        """Compare the newest features with the baseline, or with what was before; what fails is a finding."""
        self._progress("check", 1, 2, "drift")
        views = [view.name for view in catalog.views if view.has_history and not view.is_composite]
        views = [name for name in self._pipeline.views or views if name not in unreadable]
        if not views:
            return
        window = Window(self._now - timedelta(seconds=self._pipeline.drift or 0), self._now)
        asked = DriftAsked(Chosen(views=tuple(views)), window)
        found = self._run.drifts = drift(self._run.database, asked, find=self._find).drifts
        moved = {verdict: [one for one in found if one.verdict == verdict] for verdict in ("warn", "fail")}
        counts = ", ".join(f"{len(some)} {verdict}" for verdict, some in moved.items())
        self._run.steps.append(Step("drift", f"{len(found)} features and entities: {counts}"))
        for verdict, some in moved.items():
            for one in some:
                self._run.steps.append(Step("drift", one.name, error=f"{verdict}: {one.told}"))
                if verdict == "warn":
                    self._run.settings.say(f"drift: {one.name}: {one.told}")
        self.done.findings += [f"{one.name} has drifted: {one.told}" for one in moved["fail"]]

    def _catalog(self) -> Catalog:
        catalog = self._run.attempt(lambda connection: self._find(self._run.database, connection))
        self._run.catalog_hash = catalog.content_hash
        return catalog


def failure_of(done: Done) -> FeaturectlError | None:
    """Return what the steps of a run came to: the worst of it."""
    errors = {step: one for step, one in done.errors.items() if not isinstance(one, Skipped)}
    reasons = "; ".join(f"{step}: {error}" for step, error in errors.items())
    if not errors:
        return Findings("; ".join(done.findings)) if done.findings else None
    if all(isinstance(error, LockHeld) for error in errors.values()):
        return LockHeld(reasons)
    worked = [step for step in done.steps if step is not StepName.CHECK]
    partly = any(isinstance(error, PartlyDone) for error in errors.values())
    if partly or any(step not in errors for step in worked):
        return PartlyDone(reasons)
    return next(iter(errors.values()))


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def findings_of(found: Sequence[Freshness], max_lag: int | None) -> list[str]:
    """Return what there is to be said against the freshness of features, a line each."""
    findings = []
    for one in found:
        name = f"{one.view} {one.timeframe}".strip()
        if one.missing:
            findings.append(f"{name}: {one.missing} of {one.entities} entities are not online")
        if one.behind > one.missing:  # what is missing could be online, too
            findings.append(f"{name}: {one.behind - one.missing} of {one.entities} entities are behind their source")
    for one in by_lag(found, max_lag) if max_lag is not None else ():
        if one.lag_bars is not None and one.lag_bars > (max_lag or 0):
            name = f"{one.view} {one.timeframe}".strip()
            findings.append(f"{name}: {one.worst} lags by {one.lag_bars} bars, more than {max_lag}")
    return findings


def words_of(tally: Tally) -> str:
    """Say what is wrong with readings of a view; nothing where they are the same."""
    counts = ((getattr(tally, verdict), verdict) for verdict in FAULTS)
    words = ", ".join(f"{count} {verdict}" for count, verdict in counts if count)
    place = "online against the history" if tally.pair is Pair.ONLINE else "in the history against what is recomputed"
    return f"{words} {place}" if words else ""


def degraded_answers(
    database: Database, catalog: Catalog, found: Sequence[Freshness], *, now: datetime
) -> dict[str, int]:
    """Read every view online, for one entity of each timeframe, as a caller would; return the degraded answers."""
    views = {one.view for one in found}
    return asyncio.run(_degraded(database, catalog, sorted(views), found, now))


async def _degraded(
    database: Database, catalog: Catalog, views: Sequence[str], found: Sequence[Freshness], now: datetime
) -> dict[str, int]:
    from featurectl.manager import FeastFeatureStoreManager

    counts = dict.fromkeys(views, 0)
    manager = FeastFeatureStoreManager(
        database.config.root, database_url=database.config.database_url, clock=lambda: now, log_seconds=0
    )
    async with manager:
        for one in found:
            if one.worst is None or one.missing == one.entities:
                continue
            view = catalog.view(one.view)
            entity = _entity_of(view.join_keys, one)
            if entity is None:
                continue
            rows = await manager.get_online_features_rows(
                [entity],
                [f"{view.name}:{field.name}" for field in view.fields],
                timeout=database.config.connect_timeout,
            )
            counts[one.view] += rows.degraded is not None
    return counts


def _entity_of(join_keys: Sequence[str], one: Freshness) -> str | None:
    """Return the id of the group's worst entity; nothing for keys that no id gives, or values that none may have."""
    if not one.worst or "symbol" not in join_keys or not set(join_keys) <= {"symbol", "timeframe"}:
        return None
    with contextlib.suppress(InvalidEntityId):
        return str(parse_id_or_symbol(one.worst))
    return None
