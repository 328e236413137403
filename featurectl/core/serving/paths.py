"""The paths of an online read: which there are, how long each may take, and what their failures mean."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, TypeVar

import psycopg

from featurectl.core.catalog import Selection, View
from featurectl.core.db import translate
from featurectl.core.online import Key, Source
from featurectl.core.serving.answer import Found, ViewAnswer
from featurectl.errors import DatabaseUnreachable, FeastUnavailable, FeaturectlError, LoginRefused, ReadTimeout

T = TypeVar("T")

# A path that does not answer for so many seconds is dead. Below, it may be the caller who is in a hurry: one failure of
# several; and what takes less than the second is none.
DEAD_SECONDS, HURRY_SECONDS = 0.25, 0.01
# What a path may take of the time that a call has left, where another can answer too.
FIRST_SHARE = 0.5


class Backend(StrEnum):
    """The path that a caller asks for; ``auto`` takes the first that answers."""

    AUTO = "auto"
    ONLINE = "online"
    FEAST = "feast"
    TIMESCALEDB = "timescaledb"


@dataclass(frozen=True, slots=True)
class Deadline:
    """When a call's time is over, by the event loop's clock, and how many seconds that is from its beginning."""

    at: float | None = None
    seconds: float | None = None

    @classmethod
    def after(cls, seconds: float | None) -> Deadline:
        return cls() if seconds is None else cls(asyncio.get_running_loop().time() + seconds, seconds)

    def or_later(self, seconds: float) -> Deadline:
        """Return the same, or one that is so many seconds away, if that is later or there is none."""
        return self if seconds < self.left() < math.inf else Deadline.after(seconds)

    def share(self) -> Deadline:
        """Return when a path that begins now is given up for another."""
        return self if self.at is None else Deadline.after(self.left() * FIRST_SHARE)

    def left(self) -> float:
        """Return how many seconds are left."""
        return math.inf if self.at is None else self.at - asyncio.get_running_loop().time()


class Foreign(Protocol):
    """What Feast's SDK reads; ``is_first`` where the repository's online store is one that nothing else can read."""

    is_first: bool

    async def read(self, selections: Sequence[Selection], keys: Sequence[Sequence[Key]]) -> list[Found]:
        """Return the rows of each selection's keys, of any age.

        Raises:
            FeastUnavailable: Feast can't answer; the message says why.
        """

    async def is_materialized(self, view: View) -> bool:
        """Tell whether anything of a view was ever brought online."""

    async def close(self) -> None:
        """Let go of everything."""


_PLACES = {Source.ONLINE: "the online table", Source.FEAST: "Feast's online store"}


async def limited(reading: Awaitable[T], source: Source, answers: Sequence[ViewAnswer], given: Deadline) -> T:
    """Await what a first path reads of some views, in the time that it is given.

    Raises:
        ReadTimeout: it takes longer.
    """
    try:
        async with asyncio.timeout_at(given.at):
            return await reading
    except TimeoutError as error:
        raise too_late(source, answers, given) from error


class PathTimeout(ReadTimeout):
    """A path did not answer within its share of a call's time."""

    def __init__(self, message: str, seconds: float) -> None:
        super().__init__(message)
        self.seconds = seconds


def too_late(source: Source, answers: Sequence[ViewAnswer], given: Deadline) -> PathTimeout:
    """Return the error of a first path that did not answer for some views in the time that it was given."""
    seconds = math.inf if given.seconds is None else given.seconds
    names = ", ".join(answer.view.name for answer in answers)
    return PathTimeout(f"{_PLACES[source]} did not answer for {names} within {seconds:.2g} s", seconds)


def may_come_back(error: BaseException) -> bool:
    """Tell whether it is the connection that failed, and neither the statement nor the login."""
    if not isinstance(error, psycopg.OperationalError):
        return isinstance(error, DatabaseUnreachable) and not isinstance(error, LoginRefused)
    state = error.sqlstate or ""
    return not state or state.startswith(("08", "57P")) or state == "53300"


def as_ours(error: BaseException) -> FeaturectlError:
    if isinstance(error, FeaturectlError):
        return error
    if isinstance(error, psycopg.Error):
        return translate(error)
    return FeastUnavailable(str(error))
