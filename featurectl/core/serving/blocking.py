"""Blocking calls beside an event loop, in a bounded number of threads: a call may be given up, its thread may not."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from featurectl.errors import FeastUnavailable

T = TypeVar("T")


class BlockingCalls:
    """Runs calls of one event loop in threads of their own, at most ``most`` at once; others wait for their turn.

    Whoever is cancelled goes on at once, and the thread keeps its place until the call returns. Threads are daemons:
    one that never returns keeps no process from its end.
    """

    def __init__(self, most: int = 8) -> None:
        self._most = most
        self._places = asyncio.Semaphore(most)
        self.hanging = 0

    async def run(self, work: Callable[[], T]) -> T:
        """Return what ``work`` returns, or raise what it raises.

        Raises:
            FeastUnavailable: every thread hangs in a call that was given up.
        """
        if self.hanging >= self._most:
            raise FeastUnavailable(f"Feast does not answer: {self.hanging} calls hang")
        await self._places.acquire()
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        thread = threading.Thread(target=self._work, args=(loop, future, work), name="featurectl-feast", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            self._places.release()
            raise FeastUnavailable(f"no thread for Feast: {error}") from error
        try:
            return await future
        except asyncio.CancelledError:
            # Where the answer came at the same instant, the thread has ended.
            self.hanging += future.cancelled()
            raise

    def _work(self, loop: asyncio.AbstractEventLoop, future: asyncio.Future[Any], work: Callable[[], Any]) -> None:
        try:
            answer, error = work(), None
        except BaseException as raised:
            answer, error = None, raised
        # The loop may be closed by now; then nobody waits.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(self._ended, future, answer, error)

    def _ended(self, future: asyncio.Future[Any], answer: Any, error: BaseException | None) -> None:
        self._places.release()
        if future.cancelled():
            self.hanging -= 1
        elif error is not None:
            future.set_exception(error)
        else:
            future.set_result(answer)
