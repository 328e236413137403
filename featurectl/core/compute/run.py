"""One run of `compute`: the views that have functions, one job after the other."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from types import MappingProxyType

from featurectl.core import tags
from featurectl.core.catalog import Catalog, View
from featurectl.core.compute import candles, signals, ticks
from featurectl.core.compute.changes import forget_seen, forget_symbols, is_complete
from featurectl.core.compute.request import Computed, Job, Request, view_functions
from featurectl.core.db import Connection
from featurectl.core.locks import lock
from featurectl.errors import NotFound, UsageError


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
) -> list[Computed]:
    """Bring the computed views up to date, one symbol after the other, each in a transaction of its own.

    ``drop_after`` says, by feature table, how long its rows stay; older ones are not made.

    Raises:
        UsageError: the project defines no computed view.
        NotFound: a symbol, timeframe or feature named is unknown.
        DefinitionError: a function is missing or fails.
        LockHeld: another compute run is at work on the same view.
    """
    views = _views(catalog, request)
    _check_names(connection, views, request)
    results = []
    for number, view in enumerate(views):
        with lock(connection, f"compute {view.source_table}"):
            life = drop_after.get(view.source_table or "")
            wanted = replace(_of_view(request, view), floor=now - life if life else None)
            jobs = _jobs(connection, view, wanted, root, warmup, now)
            for index, job in enumerate(jobs):
                on_job(number * len(jobs) + index, len(views) * len(jobs), job.entity)
                results += job.run()
            if is_complete(request) and not (request.symbols or request.timeframes):
                forget_symbols(connection, view.source_table or "", (job.entity for job in jobs))
    forget_seen(connection)
    return results


def _views(catalog: Catalog, request: Request) -> list[View]:
    """Return the computed views that the request wants, candles first."""
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


def _check_names(connection: Connection, views: Sequence[View], request: Request) -> None:
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
