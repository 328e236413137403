"""Features of a long window computed again, chunk by chunk: each is a transaction that is noted as done with it.

A backfill that was interrupted is resumed where it was. Chunks of one view and symbol are done one after the other;
several views and symbols may be done side by side.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from featurectl.core import compute as computing
from featurectl.core.catalog import Catalog, Field, View
from featurectl.core.checks.expectations import is_ours
from featurectl.core.compute import Computed, Request
from featurectl.core.compute.changes import one_state
from featurectl.core.compute.request import Unseen, view_functions
from featurectl.core.db import Connection
from featurectl.core.locks import name_of_computation
from featurectl.core.queries import query
from featurectl.core.runs import Run, Session, Step
from featurectl.core.threads import Stop, check_called_off, stoppable
from featurectl.core.times import Window, duration, iso
from featurectl.errors import NotFound, UsageError

_SMALLEST = timedelta(microseconds=1)
MOST_CHUNKS = 100_000


@dataclass(frozen=True, slots=True)
class Plan:
    """What a backfill is to compute: views (none is all), symbols and timeframes of a window, in chunks of event time.

    A window without an end ends when the backfill begins. ``functions`` are the hashes of the views' functions: chunks
    of others would not fit together.
    """

    window: Window
    chunk: timedelta
    views: tuple[str, ...] = ()
    symbols: tuple[str, ...] = ()
    timeframes: tuple[str, ...] = ()
    functions: tuple[str, ...] = ()

    def chunks(self) -> list[Window]:
        """Return the window in pieces that share no instant; the last may be shorter.

        Raises:
            UsageError: there are too many of them.
        """
        start, end = self.window.start, self.window.end
        assert start and end
        count = (end - start) // self.chunk + 1
        if count > MOST_CHUNKS:
            raise UsageError(f"{count} chunks of {duration(self.chunk)} are too many; make them longer, with --chunk")
        if count == 1:
            return [self.window]
        firsts = [start + self.chunk * place for place in range(count)]
        return [Window(first, min(first + self.chunk - _SMALLEST, end)) for first in firsts]

    def means(self, other: Plan) -> bool:
        """Tell whether another plan is the same; where this one has no end, whenever that ends."""
        end = self.window.end or other.window.end
        return replace(self, window=Window(self.window.start, end)) == other

    def document(self) -> dict[str, Any]:
        """Return it as JSON can hold it; equal plans have equal documents."""
        return {
            **self.window.as_dict(),
            "chunk_seconds": self.chunk.total_seconds(),
            "views": list(self.views),
            "symbols": list(self.symbols),
            "timeframes": list(self.timeframes),
            "functions": list(self.functions),
        }


def plan_of(document: Mapping[str, Any]) -> Plan:
    """Return the plan of a document."""
    return Plan(
        Window(datetime.fromisoformat(document["start"]), datetime.fromisoformat(document["end"])),
        timedelta(seconds=document["chunk_seconds"]),
        *(tuple(document[name]) for name in ("views", "symbols", "timeframes", "functions")),
    )


@dataclass(frozen=True, slots=True)
class Backfilled:
    """What a backfill did to a view and symbol: chunks done now, and those that were done before it was resumed."""

    view: str
    symbol: str
    chunks: int
    resumed: int
    rows: int
    inserted: int
    changed: int


@dataclass(frozen=True, slots=True)
class Setting:
    """What chunks are computed with."""

    root: Path
    warmup: int
    drop_after: Mapping[str, timedelta] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Series:
    """A view and symbol: its job, which each chunk takes for its own window, and the chunks to be done.

    ``seen`` are the changes that all chunks will have seen, where the window holds all that there is.
    """

    view: View
    symbol: str
    job: Any
    chunks: Sequence[Window]
    resumed: int
    seen: Unseen | None


def views_of_plan(catalog: Catalog, plan: Plan) -> list[View]:
    """Return the computed views of a plan.

    Raises:
        NotFound: a view is not defined, or not computed.
    """
    views = computing.views_of(catalog, Request())
    computed = {view.name: view for view in views}
    for name in plan.views:
        if name not in computed:
            raise NotFound.of("computed view", name, computed, "`featurectl views` shows them all")
    return [view for view in views if not plan.views or view.name in plan.views]


def with_functions(catalog: Catalog, plan: Plan, root: Path) -> Plan:
    """Return a plan that names the functions that it will be done with, as they stand in the repository's files.

    Raises:
        DefinitionError: one is missing, or can't be loaded.
    """
    return replace(plan, functions=tuple(_functions(view, root) for view in views_of_plan(catalog, plan)))


def _functions(view: View, root: Path) -> str:
    """Return a view's name with a hash of what its features depend on beside the data: functions, fields and tags."""
    codes = view_functions(view, root).hashes
    fields = [(field.name, _tags_of(field)) for field in view.fields]
    text = json.dumps([sorted(codes.items()), fields, _tags_of(view)])
    return f"{view.name} {hashlib.sha256(text.encode()).hexdigest()[:16]}"


def _tags_of(one: View | Field) -> list[tuple[str, str]]:
    """Return the tags but those that say what rows are checked for."""
    return sorted((name, text) for name, text in one.tags.items() if not is_ours(name))


def find_unfinished(connection: Connection, project: str, wanted: Plan | None) -> tuple[int, Plan] | None:
    """Return the newest backfill that was not finished: one of this plan, or any."""
    rows = connection.execute(query("backfill", "unfinished_backfills"), {"project": project})
    plans = ((number, plan_of(document)) for number, document in rows)
    return next(((number, plan) for number, plan in plans if wanted is None or wanted.means(plan)), None)


def backfill(
    run: Run,
    catalog: Catalog,
    plan: Plan,
    setting: Setting,
    *,
    number: int | None = None,
    workers: int = 1,
    on_chunk: Callable[[int, int, str], None] = lambda done, total, label: None,
) -> tuple[Plan, list[Backfilled]]:
    """Compute all chunks of a plan, or those that backfill ``number``, which is resumed, has left.

    Returns the plan as it was done, and what came of it.

    Raises:
        NotFound: a view, symbol or timeframe is unknown.
        UsageError: there are too many chunks; one that is resumed was begun with other functions.
        LockHeld, Skipped: another run computes one of the views.
        DefinitionError: a function is missing or fails.
    """
    views = views_of_plan(catalog, plan)
    with ExitStack() as stack:
        for name in sorted({name_of_computation(view.source_table or "") for view in views}):
            stack.enter_context(run.lock(name))
        now = run.now
        asked = replace(plan, window=Window(plan.window.start, plan.window.end or now))
        plan = with_functions(catalog, asked, setting.root)
        if number is not None and plan != asked:
            raise UsageError(f"backfill {number} was begun with other functions than there are now; begin it anew")
        plan.chunks()
        run.window = plan.window
        if number is None:
            number = run.attempt(lambda connection: _begin(connection, catalog.project, plan, now))
        whole = number
        series = run.attempt(lambda connection: list(_series(connection, views, plan, setting, whole, now)))
        results = _Work(run, whole, series, on_chunk).done(1 if run.settings.dry_run else workers)
        run.attempt(lambda connection: _finish(connection, whole, now))
    return plan, results


def _begin(connection: Connection, project: str, plan: Plan, now: datetime) -> int:
    parameters = {"project": project, "plan": json.dumps(plan.document()), "now": now}
    row = connection.execute(query("backfill", "begin_backfill"), parameters).fetchone()
    assert row is not None
    return int(row[0])


def _finish(connection: Connection, number: int, now: datetime) -> None:
    connection.execute(query("backfill", "finish_backfill"), {"number": number, "now": now})


def _series(
    connection: Connection, views: Sequence[View], plan: Plan, setting: Setting, number: int, now: datetime
) -> Iterator[_Series]:
    done = set(connection.execute(query("backfill", "chunks_done"), {"number": number}).fetchall())
    request = Request(plan.symbols, plan.timeframes, plan.window, full=True)
    computing.check_names(connection, views, request)
    for view in views:
        jobs = computing.view_jobs(
            connection,
            view,
            request,
            root=setting.root,
            warmup=setting.warmup,
            now=now,
            drop_after=setting.drop_after,
        )
        for job in jobs:
            chunks = plan.chunks()
            left = [chunk for chunk in chunks if (view.name, job.entity, chunk.start) not in done]
            resumed = len(chunks) - len(left)
            seen = job.begin_whole()
            if resumed and seen:
                # What changed since the first chunk was done, that one has not seen.
                seen = dict.fromkeys(seen, ())
            yield _Series(view, job.entity, job, left, resumed, seen)


class _Work:
    """The series of a backfill, done side by side."""

    def __init__(
        self, run: Run, number: int, series: Sequence[_Series], on_chunk: Callable[[int, int, str], None]
    ) -> None:
        self._run, self._number, self._series, self._on_chunk = run, number, series, on_chunk
        self._total = sum(len(one.chunks) for one in series)
        self._chunks = 0
        self._counting = threading.Lock()

    def done(self, workers: int) -> list[Backfilled]:
        """Do all of it; return what it came to, in the order of the series."""
        if workers == 1:
            return [self._one_series(one, self._run.attempt) for one in self._series]
        return self._side_by_side(workers)

    def _side_by_side(self, workers: int) -> list[Backfilled]:
        stop, ended = Stop(), threading.Event()
        with ThreadPoolExecutor(workers, "featurectl-backfill") as pool:
            futures = [pool.submit(self._in_session, one, stop) for one in self._series]
            try:
                self._watch(futures)
            except BaseException:
                for future in futures:
                    future.cancel()
                threading.Thread(target=stop.call_off, args=(ended,), daemon=True).start()
                wait(futures)
                ended.set()
                raise
        return [future.result() for future in futures]

    def _watch(self, futures: Sequence[Future[Backfilled]]) -> None:
        """Wait for all of them, and see to it that the run still has its locks; raise what one failed with."""
        waiting: set[Future[Backfilled]] = set(futures)
        while waiting:
            done, waiting = wait(waiting, timeout=1, return_when=FIRST_COMPLETED)
            for future in done:
                future.result()
            self._run.attempt(lambda connection: connection.execute(query("runs", "is_alive")))

    def _in_session(self, series: _Series, stop: Stop) -> Backfilled:
        with stoppable(stop):
            session: Session = self._run.worker()
            try:
                return self._one_series(series, session.attempt)
            finally:
                session.close()

    def _one_series(self, series: _Series, attempt: Callable[..., Any]) -> Backfilled:
        results: list[Computed] = []
        step = Step("backfill", f"{series.view.name} {series.symbol}")
        self._run.steps.append(step)
        for chunk in series.chunks:
            check_called_off()
            self._tell(0, series, chunk)
            done = attempt(lambda connection, chunk=chunk: self._chunk(connection, series, chunk))
            step.read += sum(one.rows for one in done)
            step.written += sum(one.inserted + one.changed for one in done)
            results += done
            self._tell(1, series, chunk)
        if series.seen is not None:
            attempt(lambda connection: replace(series.job, connection=connection).end_whole(series.seen))
        return Backfilled(
            view=series.view.name,
            symbol=series.symbol,
            chunks=len(series.chunks),
            resumed=series.resumed,
            rows=sum(one.rows for one in results),
            inserted=sum(one.inserted for one in results),
            changed=sum(one.changed for one in results),
        )

    def _tell(self, more: int, series: _Series, chunk: Window) -> None:
        assert chunk.start is not None
        with self._counting:
            self._chunks += more
            self._on_chunk(self._chunks, self._total, f"{series.view.name} {series.symbol} {iso(chunk.start)}")

    def _chunk(self, connection: Connection, series: _Series, chunk: Window) -> list[Computed]:
        job = replace(series.job, connection=connection, request=replace(series.job.request, window=chunk))
        with one_state(connection):
            results: list[Computed] = job.run()
            connection.execute(
                query("backfill", "note_chunk"),
                {
                    "number": self._number,
                    "view": series.view.name,
                    "symbol": series.symbol,
                    "chunk_start": chunk.start,
                    "rows_read": sum(one.rows for one in results),
                    "rows_written": sum(one.inserted + one.changed for one in results),
                },
            )
        return results
