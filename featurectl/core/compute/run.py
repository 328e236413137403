"""One run of `compute`: the views that have functions, one job after the other."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from types import MappingProxyType

from featurectl.core import tags
from featurectl.core.catalog import Catalog, View
from featurectl.core.clock import Clock, system_clock
from featurectl.core.compute import candles, signals, ticks
from featurectl.core.compute.changes import forget_seen, forget_symbols, is_complete
from featurectl.core.compute.request import Computed, Job, Request, view_functions
from featurectl.core.db import Connection
from featurectl.core.locks import REFUSE, Locking, lock, name_of_computation
from featurectl.errors import NotFound, Skipped, UsageError


@dataclass(frozen=True, slots=True)
class Finished:
    """What a run has done, by view and entity, and the views it has left to other runs."""

    results: dict[tuple[str, str], list[Computed]] = field(default_factory=dict)
    skipped: dict[str, Skipped] = field(default_factory=dict)


def compute(
    connection: Connection,
    catalog: Catalog,
    request: Request,
    *,
    root: Path,
    warmup: int,
    now: datetime,
    drop_after: Mapping[str, timedelta] = MappingProxyType({}),
    on_job: Callable[[int, int, str], None] = lambda index, total, entity: None,
    locking: Locking = REFUSE,
    finished: Finished | None = None,
    clock: Clock = system_clock,
) -> list[Computed]:
    """Bring the computed views up to date, one symbol after the other, each in a transaction of its own.

    ``drop_after`` says, by feature table, how long its rows stay; older ones are not made. A run that is tried again
    gives what it had ``finished``, which is not done again. After a wait for a lock, ``now`` is what ``clock`` says.

    Raises:
        UsageError: the project defines no computed view.
        NotFound: a symbol, timeframe or feature named is unknown.
        DefinitionError: a function is missing or fails.
        LockHeld: another compute run is at work on the same view.
        Skipped: the same, of every view, and the policy is to leave them to it.
    """
    finished = Finished() if finished is None else finished
    views = views_of(catalog, request)
    check_names(connection, views, request)
    for number, view in enumerate(views):
        if view.name in finished.skipped:
            continue
        try:
            with lock(connection, name_of_computation(view.source_table or ""), locking) as has_waited:
                now = clock() if has_waited else now
                jobs = view_jobs(connection, view, request, root=root, warmup=warmup, now=now, drop_after=drop_after)
                for index, job in enumerate(jobs):
                    on_job(number * len(jobs) + index, len(views) * len(jobs), job.entity)
                    if (view.name, job.entity) not in finished.results:
                        finished.results[view.name, job.entity] = job.run()
                if is_complete(request) and not (request.symbols or request.timeframes):
                    forget_symbols(connection, view.source_table or "", (job.entity for job in jobs))
        except Skipped as skipped:
            finished.skipped[view.name] = skipped
    if len(finished.skipped) == len(views):
        raise next(iter(finished.skipped.values()))
    forget_seen(connection)
    return [one for results in finished.results.values() for one in results]


def view_jobs(
    connection: Connection,
    view: View,
    request: Request,
    *,
    root: Path,
    warmup: int,
    now: datetime,
    drop_after: Mapping[str, timedelta] = MappingProxyType({}),
) -> Sequence[Job]:
    """Return the jobs of one view, one a symbol; who does them holds the view's lock.

    Raises:
        DefinitionError: a function is missing, or a tag can't be read.
    """
    life = drop_after.get(view.source_table or "")
    wanted = replace(_of_view(request, view), floor=now - life if life else None)
    return _jobs(connection, view, wanted, root, warmup, now)


def views_of(catalog: Catalog, request: Request) -> list[View]:
    """Return the computed views that the request wants, candles first.

    Raises:
        UsageError: the project defines no computed view.
        NotFound: none of them has a feature that is named.
    """
    views = [view for view in catalog.views if view.functions_file]
    if not views:
        raise UsageError(
            "no view is computed; tag one with computed_from=candles, ticks or signals, then `featurectl apply`"
        )
    fields = {field.name for view in views for field in view.fields}
    for name in request.features:
        if name not in fields:
            raise NotFound.of("computed feature", name, fields, "`featurectl views` shows them all")
    return [view for view in views if not request.features or _of_view(request, view).features]


def _of_view(request: Request, view: View) -> Request:
    return replace(request, features=tuple(name for name in request.features if view.field(name)))


def check_names(connection: Connection, views: Sequence[View], request: Request) -> None:
    """Hold symbols and timeframes to those that there is data of.

    Raises:
        NotFound: one is unknown.
    """
    if request.symbols:
        _check("symbol", request.symbols, signals.symbols(connection))
    if request.timeframes:
        known = {series.timeframe for series in candles.list_series(connection)}
        known.update(name for view in views if view.computed_from == "ticks" for name in tags.timeframes(view))
        _check("timeframe", request.timeframes, known)


def _check(kind: str, names: Iterable[str], known: Collection[str]) -> None:
    for name in names:
        if name not in known:
            raise NotFound.of(kind, name, known, "`featurectl ingest` brings data in")


def _jobs(
    connection: Connection, view: View, request: Request, root: Path, warmup: int, now: datetime
) -> Sequence[Job]:
    functions = view_functions(view, root)
    if view.computed_from == "candles":
        return candles.jobs(connection, view, functions, request, warmup=warmup, now=now)
    if view.computed_from == "ticks":
        return ticks.jobs(connection, view, functions, request, now=now)
    return signals.jobs(connection, view, functions, request, now=now)
