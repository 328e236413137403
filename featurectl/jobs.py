"""Work that writes, as the command line and the manager do it: each opens the database and finds the catalog itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any

from featurectl.core import backfill as backfilling
from featurectl.core import compute as computing
from featurectl.core import maintain as retention
from featurectl.core import materialize as materializing
from featurectl.core.catalog import Catalog
from featurectl.core.db import Connection, Database
from featurectl.core.runs import Run, RunSettings, Step, open_run
from featurectl.core.storage import lifetimes, time_tables
from featurectl.core.threads import check_called_off
from featurectl.core.times import Window, iso
from featurectl.errors import FeaturectlError, PartlyDone, Skipped, UsageError
from featurectl.published import Find, catalog_to_write

Progress = Callable[[int, int, str], None]


# What is told of each result, by the names of the columns.
COMPUTED = {
    "view": "view",
    "entity_id": "entity",
    "rows": "rows",
    "stale_rows": "stale",
    "inserted": "inserted",
    "changed": "changed",
}
BACKFILLED = {name: name for name in ("view", "symbol", "chunks", "resumed", "rows", "inserted", "changed")}
MATERIALIZED = {name: name for name in ("view", "entities", "written", "unchanged", "older")}


def rows_of(results: Sequence[Any], columns: Mapping[str, str]) -> list[list[Any]]:
    """Return the rows of a report: one for each result."""
    return [[getattr(one, attribute) for attribute in columns.values()] for one in results]


def _silent(done: int, total: int, label: str) -> None:
    """Show nothing; whoever calls off work that shows nothing wants it to end before the next step."""
    check_called_off()


def compute(
    database: Database,
    request: computing.Request,
    *,
    now: datetime,
    settings: RunSettings | None = None,
    find: Find = catalog_to_write,
    progress: Progress = _silent,
) -> list[computing.Computed]:
    """Bring computed views up to date, as a run of its own.

    Raises:
        SchemaMissing: nothing is applied, or the schema is another version's.
        UsageError, NotFound, DefinitionError, LockHeld, Skipped: see :func:`featurectl.core.compute.compute`.
    """
    with open_run(database, settings or RunSettings("compute", _asked(request)), now=now) as run:
        return compute_in(run, request, now=now, find=find, progress=progress)


def _asked(request: computing.Request) -> list[str]:
    """Return what a program asked for, for the ledger."""
    given = asdict(request) | {"window": str(request.window)}
    return [f"{name}={value}" for name, value in given.items() if value]


def compute_in(
    run: Run, request: computing.Request, *, now: datetime, find: Find = catalog_to_write, progress: Progress = _silent
) -> list[computing.Computed]:
    """Bring computed views up to date, as a part of a run.

    Raises:
        as :func:`compute`.
    """
    config, finished = run.database.config, computing.Finished()
    run.window = request.window

    def work(connection: Connection) -> list[computing.Computed]:
        catalog = find(run.database, connection)
        run.catalog_hash = catalog.content_hash
        return computing.compute(
            connection,
            catalog,
            request,
            root=config.root,
            warmup=config.warmup_bars,
            now=now,
            drop_after=lifetimes(config, catalog),
            on_job=progress,
            locking=run.locking,
            finished=finished,
            clock=run.settings.clock,
        )

    try:
        results = run.attempt(work, lambda: len(finished.results))
    finally:
        done = [one for several in finished.results.values() for one in several]
        run.steps += [_computed(one) for one in done]
    for name, skipped in finished.skipped.items():
        run.settings.say(f"{name} left out: {skipped}")
    return results


def _computed(one: computing.Computed) -> Step:
    return Step("compute", f"{one.view} {one.entity}", read=one.rows, written=one.inserted + one.changed)


def materialize(
    database: Database,
    names: Sequence[str],
    window: Window,
    *,
    now: datetime,
    force: bool = False,
    settings: RunSettings | None = None,
    find: Find = catalog_to_write,
    progress: Progress = _silent,
) -> list[materializing.Materialized | materializing.Failed]:
    """Bring views online, as a run of its own: those named, or all that have an online table of ours.

    ``force`` overwrites newer online rows.

    Raises:
        SchemaMissing: nothing is applied, or the schema is another version's.
        NotFound, UsageError: a view does not exist or is not served online; the window ends in the future.
    """
    with open_run(
        database, settings or RunSettings("materialize", [f"views={','.join(names)}", f"window={window}"]), now=now
    ) as run:
        results = materialize_in(run, names, window, now=now, force=force, find=find, progress=progress)
        run.failure = materializing.failure_of(results)
        return results


def materialize_in(
    run: Run,
    names: Sequence[str],
    window: Window,
    *,
    now: datetime,
    force: bool = False,
    find: Find = catalog_to_write,
    progress: Progress = _silent,
) -> list[materializing.Materialized | materializing.Failed]:
    """Bring views online, as a part of a run.

    Raises:
        as :func:`materialize`.
    """
    finished: dict[str, materializing.Materialized | materializing.Failed] = {}
    run.window = Window(window.start, window.end or now)

    def work(connection: Connection) -> list[materializing.Materialized | materializing.Failed]:
        catalog = find(run.database, connection)
        run.catalog_hash = catalog.content_hash
        views = materializing.choose_views(catalog, names)
        return materializing.materialize(
            connection,
            run.database.config.project,
            views,
            window,
            now=now,
            on_view=lambda index, view: progress(index, len(views), view.name),
            force=force,
            locking=run.locking,
            finished=finished,
            clock=run.settings.clock,
        )

    try:
        results = run.attempt(work, lambda: len(finished))
    finally:
        run.steps += [_materialized(one) for one in finished.values()]
    for one in results:
        if isinstance(one, materializing.Failed) and isinstance(one.error, Skipped):
            run.settings.say(f"{one.view} left out: {one.error}")
    return results


def _materialized(one: materializing.Materialized | materializing.Failed) -> Step:
    if isinstance(one, materializing.Failed):
        return Step("materialize", one.view, error=str(one.error))
    return Step("materialize", one.view, one.entities, one.written, one.unchanged, one.older)


def maintain(
    database: Database,
    *,
    now: datetime,
    settings: RunSettings | None = None,
    find: Find = catalog_to_write,
    progress: Progress = _silent,
) -> list[retention.Maintained]:
    """Delete what is older than the configuration keeps it, as a run of its own.

    Raises:
        SchemaMissing: nothing is applied, or the schema is another version's.
        LockHeld, Skipped: another run is at it.
    """
    config = database.config
    deleted: Counter[str] = Counter()

    def work(connection: Connection) -> list[retention.Maintained]:
        catalog, before = find(database, connection), Counter(deleted)
        run.catalog_hash = catalog.content_hash
        tables = [table for table in time_tables(config, catalog) if table.drop_after]

        def on_rows(index: int, table: str, rows: int) -> None:
            deleted[table] = before[table] + rows
            progress(index, len(tables), f"{table}: {deleted[table]} rows")

        done = retention.maintain(
            connection,
            tables,
            now=now,
            dry_run=run.settings.dry_run,
            on_rows=on_rows,
            locking=run.locking,
        )
        # With those of a connection that was lost.
        done = [replace(one, rows=one.rows + before[one.table]) for one in done]
        if config.keep_runs:
            dry_run = run.settings.dry_run
            done += retention.forget_runs(connection, config.project, config.keep_runs, now=now, dry_run=dry_run)
        return done

    with open_run(database, settings or RunSettings("maintain"), now=now) as run:
        try:
            done = run.attempt(work, deleted.total)
        except BaseException:
            run.steps += [Step("maintain", table, written=rows) for table, rows in deleted.items() if rows]
            raise
        run.steps += [Step("maintain", one.table, written=one.rows) for one in done]
        return done


@dataclass(frozen=True, slots=True)
class Backfill:
    """What a backfill came to: its plan, what it computed by view and symbol, and what it brought online.

    ``failure`` says that views are not online; those left to another run are none of ours.
    """

    plan: backfilling.Plan
    computed: list[backfilling.Backfilled]
    materialized: list[materializing.Materialized | materializing.Failed]
    failure: FeaturectlError | None = None


def backfill(
    database: Database,
    plan: backfilling.Plan | None,
    *,
    now: datetime,
    resume: bool = False,
    workers: int = 1,
    online: bool = True,
    force: bool = False,
    settings: RunSettings | None = None,
    find: Find = catalog_to_write,
    progress: Progress = _silent,
) -> Backfill:
    """Compute a long window again in chunks, each committed by itself, and bring what came of it online.

    With ``resume`` the newest unfinished backfill of this plan is gone on with, or, without a plan, of any.

    Raises:
        UsageError: there is nothing to resume; the window has too many chunks.
        as :func:`compute` and :func:`materialize`.
    """
    with open_run(database, settings or RunSettings("backfill"), now=now) as run:
        catalog = run.attempt(lambda connection: find(database, connection))
        run.catalog_hash = catalog.content_hash
        number, plan = _plan_to_do(run, catalog, plan, resume)
        config = database.config
        setting = backfilling.Setting(config.root, config.warmup_bars, lifetimes(config, catalog))
        plan, computed = backfilling.backfill(
            run, catalog, plan, setting, number=number, workers=workers, on_chunk=progress
        )
        names = [view.name for view in backfilling.views_of_plan(catalog, plan) if view.online_table and online]
        shown = materialize_in(run, names, plan.window, now=run.now, force=force, find=find) if names else []
        run.failure = _not_online(shown, plan.window, force, run.settings.dry_run)
        return Backfill(plan, computed, shown, run.failure)


def _not_online(
    results: Sequence[materializing.Materialized | materializing.Failed], window: Window, force: bool, dry_run: bool
) -> FeaturectlError | None:
    """Return what there is to be said where features are computed and not online."""
    failure = materializing.failure_of(results)
    if isinstance(failure, Skipped):
        return None
    if failure is None or dry_run:
        return failure
    assert window.start and window.end
    views = ",".join(one.view for one in results if isinstance(one, materializing.Failed))
    words = f"featurectl materialize {iso(window.start)} {iso(window.end)} --view {views}{' --force' if force else ''}"
    return PartlyDone(f"the features are computed, and not all online: {failure}; `{words}` brings them there")


def _plan_to_do(
    run: Run, catalog: Catalog, plan: backfilling.Plan | None, resume: bool
) -> tuple[int | None, backfilling.Plan]:
    root = run.database.config.root
    wanted = backfilling.with_functions(catalog, plan, root) if plan else None
    if not resume:
        assert wanted
        return None, wanted
    project = catalog.project
    found = run.attempt(lambda connection: backfilling.find_unfinished(connection, project, wanted))
    if found is None and wanted is None:
        raise UsageError("there is no unfinished backfill to resume; begin one with --from TIME --to TIME")
    if found is None:
        assert wanted
        run.settings.say("there is no unfinished backfill of this window, these views and functions; it begins anew")
        return None, wanted
    return found
