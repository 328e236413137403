"""Waiting for one connection's socket without telling the event loop of it, and of its time, at each query."""

from __future__ import annotations

import asyncio
import os
from typing import TypeVar

from psycopg.abc import PQGen
from psycopg.waiting import Ready, Wait

T = TypeVar("T")

WRITE = int(Wait.W)


class Watch:
    """The event loop's eye on a socket, for one task at a time.

    To register a socket and to take it back costs more than all else that a query needs of the loop; so it stays
    registered. It is a duplicate, which nobody else can close under the loop, and goes when something is heard that
    nobody waits for: the end of the connection, however it came about. Nor is there a timer a query: one that comes
    too early is set again.
    """

    def __init__(self, socket: int) -> None:
        self._socket = -1
        self._loop = asyncio.get_running_loop()
        self._owner = os.getpid()
        self._awaited: asyncio.Future[Ready] | None = None
        self._until: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._unheard = 0
        self._socket = os.dup(socket)
        self._loop.add_reader(self._socket, self._on_readable)

    def __del__(self) -> None:
        if self._socket >= 0:
            os.close(self._socket)

    @property
    def is_over(self) -> bool:
        return self._socket < 0

    def stop(self) -> None:
        """Let go of the socket; more than once does no harm."""
        if self._socket < 0:
            return
        socket, self._socket = self._socket, -1
        # A forked process shares what its parent's loop waits with.
        if self._owner == os.getpid() and not self._loop.is_closed():
            self._loop.remove_reader(socket)
        os.close(socket)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def drive(self, gen: PQGen[T], until: float | None) -> T:
        """Run what psycopg waits with to its end, or up to a time of the event loop's clock.

        Raises:
            TimeoutError: the time has come.
        """
        try:
            wanted = next(gen)
            while True:
                self._awaited = awaited = self._loop.create_future()
                self._unheard = 0
                self._until = until
                if until is not None and (self._timer is None or until < self._timer.when()):
                    self._set_timer(until)
                if wanted & WRITE:
                    self._loop.add_writer(self._socket, self._tell, Ready.W)
                    try:
                        came = await awaited
                    finally:
                        self._loop.remove_writer(self._socket)
                else:
                    came = await awaited
                wanted = gen.send(came)
        except StopIteration as end:
            done: T = end.value
            return done

    def _tell(self, came: Ready) -> bool:
        if self._awaited is None or self._awaited.done():
            return False
        self._awaited.set_result(came)
        return True

    def _on_readable(self) -> None:
        if self._tell(Ready.R):
            return
        # Between its wake and its turn, the task that waited has not read yet: once is no sign.
        self._unheard += 1
        if self._unheard > 1:
            self.stop()

    def _set_timer(self, until: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(until, self._on_time)

    def _on_time(self) -> None:
        self._timer = None
        if self._awaited is None or self._awaited.done() or self._until is None:
            return
        if self._loop.time() < self._until:
            self._set_timer(self._until)
        else:
            self._awaited.set_exception(TimeoutError())
