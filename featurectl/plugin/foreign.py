"""An online store read through Feast's SDK, beside an event loop. Feast is imported by the thread that opens it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import psycopg

from featurectl.core.catalog import Catalog, Selection, View
from featurectl.core.db import Database, translate
from featurectl.core.online import Key
from featurectl.core.redact import redact
from featurectl.core.serving.answer import Found
from featurectl.core.serving.blocking import BlockingCalls
from featurectl.errors import FeastUnavailable, FeaturectlError, NotFound, UsageError

if TYPE_CHECKING:
    from featurectl.plugin.sdk import Sdk

_log = logging.getLogger("featurectl")

T = TypeVar("T")

# Seconds that Feast may take to be imported and opened; then that is tried anew.
OPENING_SECONDS = 60.0
# Seconds that closing waits for connections that may hang.
CLOSING_SECONDS = 1.0
# Characters that the reason of a failure may have.
LONGEST_REASON = 300


class FeastReads:
    """The online store of a repository, whatever kind it is, for one event loop; see core/serving/reader.py, Foreign.

    Feast is loaded by the first call that needs it. The registry is read once then, and
    again by :meth:`refresh` and where something is asked for that was not in it: one that can't be reached later is
    not missed. Event times are those that the store keeps: SQLite's are whole seconds.
    """

    def __init__(self, database: Database) -> None:
        self.is_first = not database.config.online_store_is_ours
        self._database = database
        self._calls = BlockingCalls()
        self._sdk: Sdk | None = None
        self._opening: asyncio.Task[Sdk] | None = None
        self._refreshing: asyncio.Task[None] | None = None
        self._step = "Feast"

    async def read(self, selections: Sequence[Selection], keys: Sequence[Sequence[Key]]) -> list[Found]:
        """Return the rows of each selection's keys, of any age.

        Raises:
            FeastUnavailable: Feast can't answer; the message says why.
        """
        return await self._ask("Feast's online store", lambda sdk: sdk.read(selections, keys))

    async def is_materialized(self, view: View) -> bool:
        """Tell whether a view was ever materialized, by the registry, and its store has not lost everything since.

        Raises:
            FeastUnavailable: Feast can't answer.
        """
        return await self._ask("Feast's online store", lambda sdk: sdk.is_materialized(view.name))

    async def beyond(self, catalog: Catalog) -> Catalog:
        """Return a catalog with the views and services that Feast's registry has besides; Feast alone can read those.

        Raises:
            FeastUnavailable: Feast can't answer.
        """
        return await self._ask("Feast's registry", lambda sdk: sdk.beyond(catalog))

    def refresh(self) -> None:
        """Begin to read the registry again; what was read before serves until then, and if that fails."""
        if self._sdk is not None and (self._refreshing is None or self._refreshing.done()):
            self._refreshing = asyncio.ensure_future(self._refresh(self._sdk))

    async def close(self) -> None:
        """Let go of everything; calls that hang are left to end by themselves."""
        tasks = [task for task in (self._opening, self._refreshing) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        sdk, self._sdk, self._opening, self._refreshing = self._sdk, None, None, None
        if sdk is not None:
            with contextlib.suppress(Exception):
                async with asyncio.timeout(CLOSING_SECONDS):
                    await self._calls.run(sdk.close)

    async def _ask(self, what: str, question: Callable[[Sdk], T]) -> T:
        sdk = self._sdk
        if sdk is None:
            sdk = await asyncio.shield(self._open())
        try:
            return await self._calls.run(partial(question, sdk))
        except Exception as error:
            raise unavailable(what, error) from error

    def _open(self) -> asyncio.Task[Sdk]:
        """Open Feast once for all who wait for it; they may give up, it goes on."""
        if self._opening is None or (self._opening.done() and self._sdk is None):
            self._opening = asyncio.ensure_future(self._opened())
            # Whoever waited may have gone.
            self._opening.add_done_callback(lambda task: task.cancelled() or task.exception())
        return self._opening

    async def _opened(self) -> Sdk:
        try:
            async with asyncio.timeout(OPENING_SECONDS):
                self._sdk = sdk = await self._calls.run(self._load)
        except TimeoutError as error:
            raise FeastUnavailable(f"{self._step} did not open within {OPENING_SECONDS:g} s") from error
        except Exception as error:
            raise unavailable(self._step, error) from error
        return sdk

    def _load(self) -> Sdk:
        self._step = "Feast"
        from featurectl.plugin.sdk import open_sdk  # feast: 7 s

        def begin(step: str) -> None:
            self._step = step

        return open_sdk(self._database, begin)

    async def _refresh(self, sdk: Sdk) -> None:
        try:
            await self._calls.run(sdk.refresh)
        except Exception as error:  # what was read before goes on serving
            _log.warning("%s", unavailable("Feast's registry", error))


def unavailable(what: str, error: Exception) -> Exception:
    """Return what becomes of an error: one line that names what failed, without secrets."""
    if isinstance(error, FeastUnavailable) or (isinstance(error, UsageError) and not isinstance(error, NotFound)):
        return error
    if isinstance(error, ImportError) and (error.name or "").partition(".")[0] == "feast":
        return FeastUnavailable(f"Feast is not installed: {_line(error)}")
    # SQLAlchemy's errors tell the whole statement.
    cause = getattr(error, "orig", None) or error
    if isinstance(cause, psycopg.Error):
        cause = translate(cause)
    named = isinstance(cause, FeaturectlError)
    return FeastUnavailable(f"{what} can't be read: {'' if named else f'{type(cause).__name__}: '}{_line(cause)}")


def _line(error: BaseException) -> str:
    line = redact(" ".join(str(error).split()))
    return line if len(line) <= LONGEST_REASON else f"{line[:LONGEST_REASON]}…"
