"""Which path a read takes: our online tables or a foreign online store, and the history where that does not answer."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterable, Sequence
from time import monotonic
from typing import Any, TypeVar

import psycopg

from featurectl.core import sources
from featurectl.core.catalog import Selection, View
from featurectl.core.connections import AsyncPool
from featurectl.core.memo import Memo
from featurectl.core.online import HistoryReads, Keys, OnlineReads, Source, emptiness
from featurectl.core.serving.answer import Answer, Found, Request, ViewAnswer
from featurectl.core.serving.breaker import Breaker
from featurectl.core.serving.cache import OnlineCache
from featurectl.core.serving.counters import Counters
from featurectl.core.serving.paths import (
    DEAD_SECONDS,
    HURRY_SECONDS,
    Backend,
    Deadline,
    Foreign,
    PathTimeout,
    as_ours,
    limited,
    may_come_back,
    too_late,
)
from featurectl.core.serving.session import Query, Rows, Session
from featurectl.errors import (
    DatabaseUnreachable,
    FeaturectlError,
    ReadTimeout,
    StatementTimeout,
    UsageError,
)

T = TypeVar("T")

# Seconds between two attempts to reach a database that was there a moment ago: the first, and the longest.
RETRY_PAUSE, LONGEST_PAUSE = 0.05, 0.4
# Seconds that it is waited for by a call that has no end.
RETRY_SECONDS = 30.0
# Seconds that a probe has, where the call beside it has less.
PROBE_SECONDS = 0.5
# The part of its time that a call waits for its probe, and the most seconds.
PROBE_SHARE, LONGEST_WAIT = 0.1, 0.05


class _CircuitOpened(Exception):
    """While a read waited for a connection, others found out that its path does not answer."""


class Reader:
    """Answers requests in one event loop.

    A database that goes away is waited for, up to the time of the call; a path that fails is left alone for a while.
    """

    def __init__(
        self,
        pool: AsyncPool[Session],
        *,
        foreign: Foreign | None = None,
        cache: OnlineCache | None = None,
        log_seconds: float = 0.0,
    ) -> None:
        self.pool = pool
        self.foreign = foreign
        self.cache = cache
        self.counters = Counters(log_seconds)
        self.breakers: dict[tuple[Source, str], Breaker] = {}
        self._online: Memo[tuple[str, tuple[str, ...]], OnlineReads] = Memo(1000)
        self._history: Memo[tuple[str, tuple[str, ...]], HistoryReads] = Memo(1000)
        self._probes: set[asyncio.Task[None]] = set()

    async def read(
        self,
        request: Request,
        *,
        deadline: Deadline,
        backend: Backend = Backend.AUTO,
        notes: tuple[str, ...] = (),
        degraded: str | None = None,
    ) -> Answer:
        """Answer a request; the answer says ``notes`` and more.

        Raises:
            UsageError: a view can't be read by the backend that is asked for, or not by entity ids.
            ReadTimeout: there was no answer in time.
            DatabaseUnreachable, FeastUnavailable: no path answers.
        """
        started = monotonic()
        try:
            views = await self._answers(request, backend, deadline)
        except TimeoutError as error:
            late = ReadTimeout(f"no answer within {deadline.seconds:g} s; give it more time")
            raise self.counters.count_failure(late) from error
        except (psycopg.Error, FeaturectlError) as error:
            raise self.counters.count_failure(as_ours(error)) from error
        seconds = monotonic() - started
        for view in views:
            view.judge(request.as_of)
            self.counters.count(view, view.counts(request.as_of), seconds)
        return Answer(request, tuple(views), notes, degraded)

    def forget(self) -> None:
        """Forget what was derived from definitions; they have changed."""
        self._online.clear()
        self._history.clear()
        self.breakers.clear()
        if self.cache is not None:
            self.cache.forget()

    def abandon(self) -> None:
        """Let go of connections where the event loop has ended, or is another process's."""
        if self.cache is not None:
            self.cache.abandon()
        self.pool.finish()

    async def close(self) -> None:
        """Stop probing, and close all connections."""
        self.counters.close()
        for probe in list(self._probes):
            probe.cancel()
        await asyncio.gather(*self._probes, return_exceptions=True)
        if self.foreign is not None:
            await self.foreign.close()
        if self.cache is not None:
            await self.cache.close()
        await self.pool.close()

    # --- paths -------------------------------------------------------------------------------------------------------

    async def _answers(self, request: Request, backend: Backend, deadline: Deadline) -> list[ViewAnswer]:
        answers = [
            ViewAnswer(
                chosen.view,
                chosen.features,
                request.entities.keys_in(chosen.view),
                {},
                self._first_path(chosen.view, backend),
                request.limit_of(chosen.view),
            )
            for chosen in request.selections
        ]
        for group in _alike(answers):
            source = group[0].source
            if self.cache is not None and source is Source.ONLINE:
                group = [answer for answer in group if not self._fill_from_cache(answer, self.cache)]
            await self._fill(source, group, request, backend, deadline)
        for answer in answers:
            await self._complete(answer, request, backend, deadline)
        return answers

    def _first_path(self, view: View, backend: Backend) -> Source:
        ours = view.online_table is not None
        if backend is Backend.AUTO:
            if ours:
                return Source.ONLINE
            by_feast = self.foreign is not None and (self.foreign.is_first or not view.has_history)
            return Source.FEAST if by_feast else Source.TIMESCALEDB
        if backend is Backend.ONLINE and not ours:
            raise UsageError(
                f"view '{view.name}' is not in an online store of ours; leave backend 'online' out, or take 'feast'"
            )
        if backend is Backend.TIMESCALEDB and not view.has_history:
            raise UsageError(
                f"view '{view.name}' has features that Feast makes from its source; take backend 'auto' or 'feast'"
            )
        return Source(backend)

    async def _fill(
        self,
        source: Source,
        answers: Sequence[ViewAnswer],
        request: Request,
        backend: Backend,
        deadline: Deadline,
    ) -> None:
        """Read some views by a path; those that it does not answer from their history, if they have one."""
        if source is Source.TIMESCALEDB:
            return await self._fill_from_history(answers, request, deadline)
        if backend is not Backend.AUTO or not all(answer.view.has_history for answer in answers):
            for error, _ in await self._try(source, answers, deadline, alone=True):
                raise error
            return None
        if self.breakers:
            for answer in answers:
                answer.reason = await self._reason_if_open(source, answer, deadline)
        try:
            failures = await self._try(source, [answer for answer in answers if not answer.reason], deadline)
        except _CircuitOpened:
            return await self._fill(source, answers, request, backend, deadline)
        for error, answer in failures:
            answer.reason = str(error)
        await self._fill_from_history([answer for answer in answers if answer.reason], request, deadline)

    def _fill_from_cache(self, answer: ViewAnswer, cache: OnlineCache) -> bool:
        hit = cache.fill(answer)
        self.counters.count_lookup(answer.view.name, hit)
        return hit

    async def _try(
        self,
        source: Source,
        answers: Sequence[ViewAnswer],
        deadline: Deadline,
        *,
        alone: bool = False,
        probed: Breaker | None = None,
    ) -> list[tuple[FeaturectlError, ViewAnswer]]:
        """Read views by their first path; return those that it does not answer, and why.

        ``alone`` says that there is no other, ``probed`` whose probe this is; nobody waits for its answer.
        """
        if not answers:
            return []
        try:
            founds = await self._read(source, answers, deadline, alone, probed is not None)
        except (psycopg.Error, FeaturectlError) as failure:
            if isinstance(failure, UsageError) or (source is Source.ONLINE and may_come_back(failure)):
                raise  # with the whole database, the history is away too
            error = as_ours(failure)
        else:
            for answer, found in zip(answers, founds, strict=True):
                answer.found = found
                if self.breakers and (breaker := self.breakers.get(_circuit(source, answer.view))):
                    breaker.succeeded()
            return []
        timed_out = isinstance(error, (ReadTimeout, StatementTimeout))
        waited = error.seconds if isinstance(error, PathTimeout) else math.inf
        if source is Source.ONLINE and len(answers) > 1 and not timed_out:
            # One table of several may be at fault.
            return [one for answer in answers for one in await self._try(source, [answer], deadline, alone=alone)]
        if probed is not None or waited >= HURRY_SECONDS:
            for circuit in dict.fromkeys(_circuit(source, answer.view) for answer in answers):
                breaker = probed or self.breakers.setdefault(circuit, Breaker())
                breaker.failed(str(error), timed_out=timed_out and waited >= DEAD_SECONDS, probe=breaker is probed)
        return [(error, answer) for answer in answers]

    async def _read(
        self, source: Source, answers: Sequence[ViewAnswer], deadline: Deadline, alone: bool, probe: bool
    ) -> list[Found]:
        if source is Source.ONLINE:
            queries = [self._online_reads(answer).query(answer.keys) for answer in answers]

            async def fetch(session: Session) -> list[Rows]:
                if not (alone or probe) and self._any_is_open(answers):
                    raise _CircuitOpened
                if alone:
                    return await session.fetch(queries, until=deadline.at)
                given = deadline.share()
                try:
                    return await session.fetch(queries, until=given.at)
                except TimeoutError as error:
                    raise too_late(source, answers, given) from error

            readings = [self.cache.begin(answer.view) for answer in answers] if self.cache is not None else []
            found = await self._run(fetch, deadline)
            founds = [_by_key(answer, rows, answer.keys) for answer, rows in zip(answers, found, strict=True)]
            if self.cache is not None:
                self.cache.keep(readings, answers, founds)
            return founds
        assert self.foreign is not None
        selections = [Selection(answer.view, answer.features) for answer in answers]
        reading = self.foreign.read(selections, [answer.keys.distinct for answer in answers])
        return await limited(reading, source, answers, deadline if alone else deadline.share())

    async def _fill_from_history(self, answers: Sequence[ViewAnswer], request: Request, deadline: Deadline) -> None:
        for answer in answers:
            answer.source = Source.TIMESCALEDB
            answer.found = await self._from_history(answer, answer.keys, request, deadline)

    async def _from_history(self, answer: ViewAnswer, keys: Keys, request: Request, deadline: Deadline) -> Found:
        reads = await self._history_reads(answer, deadline)
        (rows,) = await self._query([reads.query(keys, request.as_of)], deadline)
        return _by_key(answer, rows, keys)

    async def _complete(self, answer: ViewAnswer, request: Request, backend: Backend, deadline: Deadline) -> None:
        """Ask the history where the newest value is none of the instant's, or where nothing was ever brought online."""
        has_other = backend is Backend.AUTO and answer.source is not Source.TIMESCALEDB and answer.view.has_history
        if has_other and not answer.found and not request.in_past:
            first = answer.source
            answer.reason = await self._why_empty(answer, deadline)
            if answer.reason:
                await self._fill_from_history([answer], request, deadline)
                if not answer.found:
                    # There is nothing that could have been brought online.
                    answer.source, answer.reason = first, None
                return
        width, found = len(answer.view.join_keys), answer.found
        newer = [key for key, row in found.items() if row[width] > request.as_of]
        for key in newer:
            del found[key]
        if not has_other:
            return
        wanted = Keys(newer)
        if request.in_past:
            wanted = Keys(key for key in answer.keys if key not in found or _is_old(answer, found[key], request))
        if wanted:
            rows = await self._from_history(answer, wanted, request, deadline)
            found.update(rows)
            answer.from_history.update(key for key in wanted if key in rows or key not in found)

    async def _why_empty(self, answer: ViewAnswer, deadline: Deadline) -> str | None:
        """Say why the first path has nothing of a view, unless it has something of other entities."""
        try:
            if await limited(self._is_materialized(answer, deadline), answer.source, [answer], deadline.share()):
                return None
        except (psycopg.Error, FeaturectlError) as failure:
            return str(as_ours(failure))
        if answer.source is Source.FEAST:
            name = answer.view.name
            return f"Feast's online store holds nothing of view '{name}'; run `featurectl feast -- materialize`"
        return f"the online table of view '{answer.view.name}' is empty; run `featurectl materialize`"

    async def _is_materialized(self, answer: ViewAnswer, deadline: Deadline) -> bool:
        if answer.source is Source.ONLINE:
            begun = self.cache.begin(answer.view) if self.cache is not None else None
            if begun is not None and begun.has_rows:
                return True
            # Behind the question the rows once more: some may have come since they were read.
            queries = [emptiness(answer.view), self._online_reads(answer).query(answer.keys)]
            ((has_rows,),), rows = await self._query(queries, deadline)
            answer.found = _by_key(answer, rows, answer.keys)
            if begun is not None and has_rows:
                begun.note_rows()
            return bool(has_rows)
        assert self.foreign is not None
        if not await self.foreign.is_materialized(answer.view):
            return False
        chosen = Selection(answer.view, answer.features)
        (answer.found,) = await self.foreign.read([chosen], [answer.keys.distinct])
        return True

    # --- the circuit -------------------------------------------------------------------------------------------------

    async def _reason_if_open(self, source: Source, answer: ViewAnswer, deadline: Deadline) -> str | None:
        """Say why a view's first path is left alone, if it is; where it is time, try it beside the answer.

        A path that is well again says so at once, and this very call takes it.
        """
        breaker = self.breakers.get(_circuit(source, answer.view))
        if breaker is None or breaker.is_closed:
            return None
        if breaker.take_probe():
            beside = ViewAnswer(answer.view, answer.features, answer.keys, {}, source, answer.limit)
            task = asyncio.ensure_future(self._probe(source, beside, breaker, deadline))
            self._probes.add(task)
            task.add_done_callback(self._probes.discard)
            await asyncio.wait([task], timeout=min(PROBE_SHARE * deadline.left(), LONGEST_WAIT))
        return None if breaker.is_closed else breaker.reason

    def _any_is_open(self, answers: Sequence[ViewAnswer]) -> bool:
        if not self.breakers:
            return False
        breakers = (self.breakers.get(_circuit(answer.source, answer.view)) for answer in answers)
        return any(breaker and not breaker.is_closed for breaker in breakers)

    async def _probe(self, source: Source, answer: ViewAnswer, breaker: Breaker, deadline: Deadline) -> None:
        try:
            await self._try(source, [answer], deadline.or_later(PROBE_SECONDS), probed=breaker)
        except Exception as error:  # whatever it is, the path does not answer
            breaker.failed(str(error) or breaker.reason or type(error).__name__, probe=True)

    # --- the database ------------------------------------------------------------------------------------------------

    async def _query(self, queries: Sequence[Query], deadline: Deadline) -> list[Rows]:
        return await self._run(lambda session: session.fetch(queries, until=deadline.at), deadline)

    async def _run(self, work: Callable[[Session], Awaitable[T]], deadline: Deadline) -> T:
        """Do work on a connection; where the database has gone, again until it is back or there is no time left.

        Work looks to its own time: `Session.fetch` does so for less than a timer here would cost.
        """
        lost, pause = None, RETRY_PAUSE
        while True:
            try:
                return await self.pool.run(work, until=deadline.at)
            except TimeoutError as late:
                raise lost or late from None
            except (psycopg.OperationalError, DatabaseUnreachable) as error:
                if lost is None and deadline.at is None:
                    deadline = Deadline.after(RETRY_SECONDS)
                if not (self.pool.has_connected and may_come_back(error) and deadline.left() > RETRY_PAUSE):
                    raise
                lost = error
            await asyncio.sleep(min(pause, deadline.left() / 2))
            pause = min(2 * pause, LONGEST_PAUSE)

    def _online_reads(self, answer: ViewAnswer) -> OnlineReads:
        asked = (answer.view.name, answer.features)
        known = self._online.get(asked)
        if known is None or known.view is not answer.view:
            known = self._online.keep(asked, OnlineReads(Selection(answer.view, answer.features)))
        return known

    async def _history_reads(self, answer: ViewAnswer, deadline: Deadline) -> HistoryReads:
        asked = (answer.view.name, answer.features)
        known = self._history.get(asked)
        if known is None or known.view is not answer.view:

            async def describe(session: Session) -> dict[str, str]:
                async with asyncio.timeout_at(deadline.at):
                    return sources.described(await session.execute(sources.described_by(answer.view)))

            types = await self._run(describe, deadline)
            known = self._history.keep(asked, HistoryReads(Selection(answer.view, answer.features), types))
        return known


def _alike(answers: list[ViewAnswer]) -> Iterable[list[ViewAnswer]]:
    """Return the views that are read together: by the same path, and alike in having another."""
    if len(answers) == 1:
        return (answers,)
    groups: dict[tuple[Source, bool], list[ViewAnswer]] = {}
    for answer in answers:
        groups.setdefault((answer.source, answer.view.has_history), []).append(answer)
    return groups.values()


def _circuit(source: Source, view: View) -> tuple[Source, str]:
    """Return what is left alone when a view can't be read: its own table, or all of a foreign store."""
    return (source, view.name if source is Source.ONLINE else "")


def _by_key(answer: ViewAnswer, rows: Rows, keys: Keys) -> Found:
    width = len(answer.view.join_keys)
    found = {row[:width]: row for row in rows}
    if keys.is_whole_grid:
        return found
    # A grid has keys that nobody asked for.
    return {key: row for key in keys.distinct if (row := found.get(key)) is not None}


def _is_old(answer: ViewAnswer, row: tuple[Any, ...], request: Request) -> bool:
    ttl = answer.view.ttl
    return ttl is not None and request.as_of - row[len(answer.view.join_keys)] > ttl
