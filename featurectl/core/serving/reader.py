"""Which path a read takes: our online tables or a foreign online store, and the history where that does not answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from enum import StrEnum
from time import monotonic
from typing import Any, Protocol, TypeVar

import psycopg

from featurectl.core import sources
from featurectl.core.catalog import Selection, View
from featurectl.core.connections import AsyncPool
from featurectl.core.db import translate
from featurectl.core.online import HistoryReads, Key, OnlineReads, Source, emptiness
from featurectl.core.serving.answer import Answer, Found, Request, ViewAnswer, keys_of
from featurectl.core.serving.breaker import Breaker
from featurectl.core.serving.counters import Counters
from featurectl.core.serving.session import Query, Rows, Session
from featurectl.errors import DatabaseUnreachable, FeastUnavailable, FeaturectlError, ReadTimeout, UsageError

T = TypeVar("T")

# Seconds between two attempts to reach a database that was there a moment ago.
RETRY_PAUSE = 0.05
# What a path may take of a call's time where another is left to answer.
FIRST_SHARE = 0.5


class Backend(StrEnum):
    """The path that a caller asks for; ``auto`` takes the first that answers."""

    AUTO = "auto"
    ONLINE = "online"
    FEAST = "feast"
    TIMESCALEDB = "timescaledb"


class Foreign(Protocol):
    """An online store that only Feast's SDK can read."""

    async def read(self, selections: Sequence[Selection], keys: Sequence[Sequence[Key]]) -> list[Found]:
        """Return the rows of each selection's keys, of any age.

        Raises:
            FeastUnavailable: Feast can't answer; the message says why.
        """

    async def is_materialized(self, view: View) -> bool:
        """Tell whether anything of a view was ever brought online."""

    async def close(self) -> None:
        """Let go of everything."""


class Reader:
    """Answers requests in one event loop.

    A database that goes away is waited for, up to the time of the call; a path that fails is left alone for a while.
    """

    def __init__(self, pool: AsyncPool[Session], *, foreign: Foreign | None = None) -> None:
        self.pool = pool
        self.foreign = foreign
        self.counters = Counters()
        self.breakers: dict[tuple[Source, str], Breaker] = {}
        self._online: dict[tuple[str, tuple[str, ...]], OnlineReads] = {}
        self._history: dict[tuple[str, tuple[str, ...]], HistoryReads] = {}
        self._was_up = False
        self._away: BaseException | None = None
        self._probes: set[asyncio.Task[None]] = set()

    async def read(
        self, request: Request, *, backend: Backend = Backend.AUTO, timeout: float | None, notes: tuple[str, ...] = ()
    ) -> Answer:
        """Answer a request within ``timeout`` seconds, or however long it takes.

        Raises:
            UsageError: a view can't be read by the backend that is asked for, or not by entity ids.
            ReadTimeout: there was no answer in time.
            DatabaseUnreachable, FeastUnavailable: no path answers.
        """
        started = monotonic()
        try:
            async with asyncio.timeout(timeout):
                views = await self._answers(request, backend, timeout * FIRST_SHARE if timeout else None)
        except TimeoutError as error:
            self.counters.failed += 1
            if self._away is not None:
                raise _as_ours(self._away) from error
            raise ReadTimeout(f"no answer within {timeout:g} s; give it more time") from error
        except (psycopg.Error, FeaturectlError) as error:
            self.counters.failed += 1
            raise _as_ours(error) from error
        seconds = monotonic() - started
        for view in views:
            self.counters.count(
                view.view.name, view.source, seconds, view.counts(request.as_of), degraded=view.reason is not None
            )
        return Answer(request, tuple(views), notes)

    def forget(self) -> None:
        """Forget what was derived from definitions; they have changed."""
        self._online.clear()
        self._history.clear()
        self.breakers.clear()

    async def close(self) -> None:
        """Stop probing, and close all connections."""
        for probe in list(self._probes):
            probe.cancel()
        await asyncio.gather(*self._probes, return_exceptions=True)
        if self.foreign is not None:
            await self.foreign.close()
        await self.pool.close()

    # --- paths -------------------------------------------------------------------------------------------------------

    async def _answers(self, request: Request, backend: Backend, budget: float | None) -> list[ViewAnswer]:
        answers = [
            ViewAnswer(
                chosen.view,
                chosen.features,
                keys_of(chosen, request.entities),
                {},
                self._first_path(chosen.view, backend),
                request.limit_of(chosen.view),
            )
            for chosen in request.selections
        ]
        for source in dict.fromkeys(answer.source for answer in answers):
            group = [answer for answer in answers if answer.source is source]
            await self._fill(source, group, request, backend, budget)
        for answer in answers:
            await self._complete(answer, request, backend)
        return answers

    def _first_path(self, view: View, backend: Backend) -> Source:
        ours = view.online_table is not None
        if backend is Backend.AUTO:
            return Source.ONLINE if ours else Source.FEAST if self.foreign is not None else Source.TIMESCALEDB
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
        budget: float | None,
    ) -> None:
        """Read some views by a path; those that it does not answer from their history."""
        if source is Source.TIMESCALEDB:
            return await self._fill_from_history(answers, request)
        trusted, fallen = list(answers), []
        if backend is Backend.AUTO:
            fallen = [answer for answer in answers if self._is_open(source, answer, budget)]
            trusted = [answer for answer in answers if answer not in fallen]
        for error, failed in await self._try(source, trusted, budget):
            if backend is not Backend.AUTO or not failed.view.has_history:
                raise error
            failed.reason = str(error)
            fallen.append(failed)
        if fallen:
            await self._fill_from_history(fallen, request)

    async def _try(
        self, source: Source, answers: Sequence[ViewAnswer], budget: float | None
    ) -> list[tuple[FeaturectlError, ViewAnswer]]:
        """Read views by their first path; return those that it does not answer, and why."""
        if not answers:
            return []
        timed_out = False
        try:
            founds = await self._read(source, answers, budget)
        except TimeoutError:
            names, timed_out = ", ".join(answer.view.name for answer in answers), True
            error: FeaturectlError = ReadTimeout(f"{_PLACES[source]} did not answer for {names} within {budget:g} s")
        except (psycopg.Error, FeaturectlError) as failure:
            if isinstance(failure, UsageError):
                raise
            error = _as_ours(failure)
        else:
            for answer, found in zip(answers, founds, strict=True):
                answer.found = found
                if breaker := self.breakers.get(_circuit(source, answer.view)):
                    breaker.succeeded()
            return []
        if source is Source.ONLINE and len(answers) > 1 and not timed_out:
            # One table of several may be at fault.
            return [one for answer in answers for one in await self._try(source, [answer], budget)]
        for circuit in dict.fromkeys(_circuit(source, answer.view) for answer in answers):
            self.breakers.setdefault(circuit, Breaker()).failed(str(error), timed_out=timed_out)
        return [(error, answer) for answer in answers]

    async def _read(self, source: Source, answers: Sequence[ViewAnswer], budget: float | None) -> list[Found]:
        if source is Source.ONLINE:
            queries = [self._online_reads(answer).query(list(dict.fromkeys(answer.keys))) for answer in answers]
            found = await self._query(queries, budget)
            return [_by_key(answer, rows) for answer, rows in zip(answers, found, strict=True)]
        if self.foreign is None:
            raise UsageError("this repository's online store is featurectl's own; backend 'feast' adds nothing to it")
        async with asyncio.timeout(budget):
            selections = [Selection(answer.view, answer.features) for answer in answers]
            return await self.foreign.read(selections, [list(dict.fromkeys(answer.keys)) for answer in answers])

    async def _fill_from_history(self, answers: Sequence[ViewAnswer], request: Request) -> None:
        for answer in answers:
            answer.source = Source.TIMESCALEDB
            answer.found = await self._from_history(answer, answer.keys, request)

    async def _from_history(self, answer: ViewAnswer, keys: Sequence[Key], request: Request) -> Found:
        reads = await self._history_reads(answer)
        (rows,) = await self._query([reads.query(list(dict.fromkeys(keys)), request.as_of)])
        return _by_key(answer, rows)

    async def _complete(self, answer: ViewAnswer, request: Request, backend: Backend) -> None:
        """Ask the history where the newest value is none of the instant's, or where nothing was ever brought online."""
        width, found = len(answer.view.join_keys), answer.found
        newer = [key for key, row in found.items() if row[width] > request.as_of]
        for key in newer:
            del found[key]
        if backend is not Backend.AUTO or answer.source is Source.TIMESCALEDB or not answer.view.has_history:
            return
        wanted = [key for key in answer.keys if key in newer] if newer else []
        if request.in_past:
            wanted = [key for key in answer.keys if key not in found or _is_old(answer, found[key], request)]
        elif not found and not newer and not await self._is_materialized(answer):
            answer.reason = f"view '{answer.view.name}' was never materialized; run `featurectl materialize`"
            return await self._fill_from_history([answer], request)
        if wanted:
            rows = await self._from_history(answer, wanted, request)
            found.update(rows)
            answer.from_history.update(rows)

    async def _is_materialized(self, answer: ViewAnswer) -> bool:
        if answer.source is Source.ONLINE:
            ((row,),) = await self._query([emptiness(answer.view)])
            return bool(row[0])
        assert self.foreign is not None
        return await self.foreign.is_materialized(answer.view)

    # --- the circuit -------------------------------------------------------------------------------------------------

    def _is_open(self, source: Source, answer: ViewAnswer, budget: float | None) -> bool:
        """Tell whether a view's first path is left alone; where it is time, try it beside the answer."""
        breaker = self.breakers.get(_circuit(source, answer.view))
        if breaker is None or breaker.is_closed or not answer.view.has_history:
            return False
        answer.reason = breaker.reason
        if breaker.take_probe():
            probe = ViewAnswer(answer.view, answer.features, answer.keys, {}, source, answer.limit)
            task = asyncio.ensure_future(self._probe(source, probe, budget))
            self._probes.add(task)
            task.add_done_callback(self._probes.discard)
        return True

    async def _probe(self, source: Source, answer: ViewAnswer, budget: float | None) -> None:
        try:
            await self._try(source, [answer], budget)
        except Exception as error:  # whatever it is, the path does not answer
            self.breakers[_circuit(source, answer.view)].failed(str(error))

    # --- the database ------------------------------------------------------------------------------------------------

    async def _query(self, queries: Sequence[Query], budget: float | None = None) -> list[Rows]:
        """Run queries, each time within ``budget`` seconds; where the database has gone, again until it is back."""

        async def fetch(session: Session) -> list[Rows]:
            return await session.fetch(queries)

        return await self._run(fetch, budget)

    async def _run(self, work: Callable[[Session], Awaitable[T]], budget: float | None = None) -> T:
        while True:
            try:
                async with asyncio.timeout(budget):
                    done = await self.pool.run(work)
            except (psycopg.OperationalError, DatabaseUnreachable) as error:
                if not (self._was_up and _may_come_back(error)):
                    raise
                self._away = error
            else:
                self._was_up, self._away = True, None
                return done
            await asyncio.sleep(RETRY_PAUSE)

    def _online_reads(self, answer: ViewAnswer) -> OnlineReads:
        known = self._online.get((answer.view.name, answer.features))
        if known is None:
            known = OnlineReads(Selection(answer.view, answer.features))
            self._online[answer.view.name, answer.features] = known
        return known

    async def _history_reads(self, answer: ViewAnswer) -> HistoryReads:
        known = self._history.get((answer.view.name, answer.features))
        if known is None:

            async def describe(session: Session) -> dict[str, str]:
                return sources.described(await session.execute(sources.described_by(answer.view)))

            known = HistoryReads(Selection(answer.view, answer.features), await self._run(describe))
            self._history[answer.view.name, answer.features] = known
        return known


_PLACES = {Source.ONLINE: "the online table", Source.FEAST: "Feast's online store"}


def _circuit(source: Source, view: View) -> tuple[Source, str]:
    """Return what is left alone when a view can't be read: its own table, or all of a foreign store."""
    return (source, view.name if source is Source.ONLINE else "")


def _by_key(answer: ViewAnswer, rows: Rows) -> Found:
    width = len(answer.view.join_keys)
    return {row[:width]: row for row in rows}


def _is_old(answer: ViewAnswer, row: tuple[Any, ...], request: Request) -> bool:
    ttl = answer.view.ttl
    return ttl is not None and request.as_of - row[len(answer.view.join_keys)] > ttl


def _may_come_back(error: psycopg.OperationalError | DatabaseUnreachable) -> bool:
    """Tell whether it is the connection that failed, and not the statement."""
    if isinstance(error, DatabaseUnreachable):
        return True
    state = error.sqlstate or ""
    return not state or state.startswith(("08", "57P")) or state == "53300"


def _as_ours(error: BaseException) -> FeaturectlError:
    if isinstance(error, FeaturectlError):
        return error
    if isinstance(error, psycopg.Error):
        return translate(error)
    return FeastUnavailable(str(error))
