"""Blocking work in a thread beside the event loop, which can be called off: its connections stop what they run."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import TypeVar

from featurectl.errors import Interrupted, ReadTimeout

T = TypeVar("T")

# Seconds that work which is called off has to end in; after that it is left to end by itself.
GRACE = 1.0
# Between two statements there is nothing to stop, so it is tried again and again, every so many seconds.
PAUSE = 0.05


class Stop:
    """What calls work off: the ways to interrupt what it is waiting for."""

    def __init__(self) -> None:
        self._interrupts: list[Callable[[], None]] = []
        self._lock = threading.Lock()
        self.is_called_off = False

    @contextlib.contextmanager
    def interrupting(self, interrupt: Callable[[], None]) -> Iterator[None]:
        """Have ``interrupt`` called, from another thread, when the work inside is called off."""
        with self._lock:
            self._interrupts.append(interrupt)
        try:
            self.check()
            yield
        finally:
            # What it interrupts may be closed afterwards, and not before it has returned.
            with self._lock:
                self._interrupts.remove(interrupt)

    def check(self) -> None:
        """Raise Interrupted where the work is called off."""
        if self.is_called_off:
            raise Interrupted("called off; what was not finished was rolled back")

    def call_off(self, ended: threading.Event) -> None:
        """Interrupt the work until it has ended."""
        self.is_called_off = True
        while not ended.is_set():
            with self._lock:
                for interrupt in self._interrupts:
                    interrupt()
            ended.wait(PAUSE)


_current: contextvars.ContextVar[Stop | None] = contextvars.ContextVar("featurectl_stop", default=None)


@contextlib.contextmanager
def interruptible(interrupt: Callable[[], None]) -> Iterator[None]:
    """Have ``interrupt`` called when the work of this thread is called off; elsewhere nothing calls it."""
    stop = _current.get()
    with stop.interrupting(interrupt) if stop else contextlib.nullcontext():
        yield


@contextlib.contextmanager
def stoppable(stop: Stop) -> Iterator[None]:
    """Have the work of this thread called off by ``stop``."""
    token = _current.set(stop)
    try:
        yield
    finally:
        _current.reset(token)


def check_called_off() -> None:
    """Raise Interrupted where the work of this thread is called off; work does so now and then."""
    if stop := _current.get():
        stop.check()


class Threads:
    """Blocking work for the coroutines of one event loop: a thread for each, at most ``most`` at once."""

    def __init__(self, most: int) -> None:
        self._places = asyncio.Semaphore(most)

    async def run(self, work: Callable[[], T], *, timeout: float | None = None) -> T:
        """Return what ``work`` returns; a task that is cancelled, or out of time, calls it off.

        Raises:
            ReadTimeout: it was not done within ``timeout`` seconds.
        """
        limit = asyncio.timeout(timeout)
        try:
            async with limit, self._places:
                return await in_thread(work)
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise ReadTimeout(f"not done within {timeout:g} s; give it more time") from error


async def in_thread(work: Callable[[], T]) -> T:
    """Do blocking work in a thread of its own.

    A task that is cancelled while it waits calls the work off, and waits for its end, though not for long.
    """
    stop, ended, future = Stop(), threading.Event(), Future[T]()
    # A daemon: work that hangs in a dead connection keeps no process from its end.
    threading.Thread(target=_work, args=(work, stop, ended, future), name="featurectl", daemon=True).start()
    waiting = asyncio.wrap_future(future)
    try:
        await asyncio.wait([waiting])
    except asyncio.CancelledError:
        threading.Thread(target=stop.call_off, args=(ended,), name="featurectl-stop", daemon=True).start()
        await asyncio.wait([waiting], timeout=GRACE)
        waiting.cancel() if not waiting.done() else waiting.exception()
        raise
    return waiting.result()


def _work(work: Callable[[], T], stop: Stop, ended: threading.Event, future: Future[T]) -> None:
    _current.set(stop)
    future.set_running_or_notify_cancel()
    try:
        future.set_result(work())
    except BaseException as error:
        future.set_exception(error)
    finally:
        ended.set()
