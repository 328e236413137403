"""Online rows kept for some seconds, or until their table is written to."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from time import monotonic
from typing import Any

from featurectl.core.catalog import View
from featurectl.core.connections import AsyncConnection, AsyncPool
from featurectl.core.online import Key
from featurectl.core.serving.answer import Found, Row, ViewAnswer
from featurectl.core.serving.listener import Listener

# Rows of six features take 60 MB.
MAX_ROWS = 100_000

# When a row was read, by the monotonic clock, and the row; None where there is none.
_Entry = tuple[float, Row | None]
_Entries = OrderedDict[Key, _Entry]


class _Shelf:
    """What was read of one table since it was last written to, by the features asked for.

    A write takes the shelf out of the cache; a read that was under way then leaves its rows on one that nobody sees.
    """

    __slots__ = ("entries", "filled_at")

    def __init__(self) -> None:
        self.entries: dict[tuple[str, ...], _Entries] = {}
        self.filled_at = -math.inf


@dataclass(frozen=True, slots=True)
class Reading:
    """A read of a table that begins at ``at``: where its rows are going to stand, and how old those there may be."""

    shelf: _Shelf
    at: float
    oldest: float

    @property
    def has_rows(self) -> bool:
        """Whether it was noted that the table has any."""
        return self.shelf.filled_at > self.oldest

    def note_rows(self) -> None:
        self.shelf.filled_at = self.at


class OnlineCache:
    """The rows of our online tables that were read in the last ``seconds``, at most ``max_rows`` of them.

    What a row is worth at the instant of a call is judged by the call, as if it had just been read. Nothing is kept,
    and nothing served, while the :class:`Listener`, which takes the other arguments, hears of no writes. Those of
    anything but featurectl and Feast are not announced: rows may be served until the seconds are over. ``clock`` is
    monotonic.
    """

    def __init__(
        self,
        seconds: float,
        open: Callable[[], Awaitable[AsyncConnection]],
        pool: AsyncPool[Any],
        *,
        schema: str,
        max_rows: int = MAX_ROWS,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._seconds = seconds
        self._listener = Listener(open, pool, schema=schema, heard=self.forget_table, deaf=self.forget)
        self._max_rows = max_rows
        self._clock = clock
        self._shelves: dict[str, _Shelf] = {}

    def __len__(self) -> int:
        return sum(len(entries) for shelf in self._shelves.values() for entries in shelf.entries.values())

    @property
    def is_active(self) -> bool:
        """Whether writes are heard of, and rows kept."""
        return self._listener.is_listening

    def fill(self, answer: ViewAnswer) -> bool:
        """Answer from what is kept; tell whether every key could be.

        A part of the keys would save nothing: what costs is the way to the database, and one read of all makes them
        the same age.
        """
        reading = self.begin(answer.view)
        entries = reading.shelf.entries.get(answer.features) if reading else None
        if reading is None or entries is None:
            return False
        found: Found = {}
        for key in answer.keys.distinct:
            entry = entries.get(key)
            if entry is None or entry[0] <= reading.oldest:
                return False
            if entry[1] is not None:
                found[key] = entry[1]
        answer.found = found
        return True

    def begin(self, view: View) -> Reading | None:
        """Note that a view's table is about to be read."""
        if not self.is_active:
            self._listener.start_soon()
            return None
        assert view.online_table is not None
        shelf = self._shelves.get(view.online_table)
        if shelf is None:
            shelf = self._shelves[view.online_table] = _Shelf()
        at = self._clock()
        return Reading(shelf, at, at - self._seconds)

    def keep(self, readings: Iterable[Reading | None], answers: Iterable[ViewAnswer], founds: Iterable[Found]) -> None:
        """Keep what reads found, and what they did not."""
        for reading, answer, found in zip(readings, answers, founds, strict=True):
            if reading is None:
                continue
            entries = reading.shelf.entries.setdefault(answer.features, OrderedDict())
            for key in answer.keys.distinct:
                entries[key] = (reading.at, found.get(key))
                entries.move_to_end(key)
        self._drop_oldest(len(self) - self._max_rows)

    def report(self) -> dict[str, Any]:
        """Return plain values, for `health`."""
        return {"active": self.is_active, "rows": len(self), "seconds": self._seconds}

    def forget_table(self, table: str) -> None:
        """Drop what was read of a table."""
        self._shelves.pop(table, None)

    def forget(self) -> None:
        """Drop everything."""
        self._shelves.clear()

    async def close(self) -> None:
        """Drop everything, and stop listening."""
        await self._listener.close()
        self.forget()

    def abandon(self) -> None:
        """Do what :meth:`close` does, where the event loop has ended, or is another process's."""
        self._listener.abandon()
        self.forget()

    def _drop_oldest(self, count: int) -> None:
        for _ in range(count):
            filled = [entries for shelf in self._shelves.values() for entries in shelf.entries.values() if entries]
            min(filled, key=_age).popitem(last=False)


def _age(entries: _Entries) -> float:
    return next(iter(entries.values()))[0]
