"""What callers of the manager write, checked: each function returns what the core takes, or says what to write."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featurectl.core.clock import Clock
from featurectl.core.config import Overrides
from featurectl.core.entity import EntityId, parse_id_or_symbol
from featurectl.core.memo import Memo
from featurectl.core.online import Source
from featurectl.core.serving.answer import Entities
from featurectl.core.serving.paths import Backend
from featurectl.core.times import ALWAYS, Window, parse_time
from featurectl.errors import InvalidEntityId, InvalidTime, UsageError

if TYPE_CHECKING:
    import pandas as pd

    from featurectl.core.statistics.describe import By
    from featurectl.core.targets import Target

# A year; the clock of an event loop has an end.
LONGEST_SECONDS = 366 * 86400.0
LONGEST_SHOWN = 60

Names = Sequence[str] | None
Time = datetime | str | None

# A trading loop asks for the same entities again and again. An id takes 1 kB, with what is made of it.
MOST_KNOWN_IDS = 20_000
_known_entities: Memo[tuple[str, ...], Entities] = Memo(MOST_KNOWN_IDS)


def names(given: Names, argument: str = "feature_names") -> tuple[str, ...]:
    """Return a list of names; nothing where it is left out.

    Raises:
        UsageError: it is text, empty, or holds something that is no name.
    """
    return () if given is None else _texts(given, argument, "names", "leave it out for all of them")


def entities(given: Iterable[str]) -> Entities:
    """Return entity ids, in their order, read.

    Raises:
        UsageError: they are text, or there are none.
        InvalidEntityId: one is no id.
    """
    known = None
    if not isinstance(given, str):
        with contextlib.suppress(TypeError):  # said below, with what it is
            given = tuple(given)
            known = _known_entities.get(given)
    if known is None:
        ids = _texts(given, "entity_ids", "ids", "name at least one, for example BTCUSDT_1h", InvalidEntityId)
        known = _known_entities.keep(ids, Entities(map(parse_id_or_symbol, ids)), size=len(ids))
    return known


def _texts(
    given: Any, argument: str, kind: str, otherwise: str, error: type[UsageError] = UsageError
) -> tuple[str, ...]:
    if isinstance(given, str):
        raise UsageError(f"{argument} is a list of {kind}, not the text {given!r}; write [{given!r}]")
    try:
        texts = tuple(given)
    except TypeError:
        raise UsageError(f"{argument} is a list of {kind}, not {_shown(given)}") from None
    if not texts:
        raise UsageError(f"{argument} is empty; {otherwise}")
    for text in texts:
        if not isinstance(text, str):
            raise error(f"{argument} holds {_shown(text)}, which is a {type(text).__name__} and not text")
    # The texts of numpy and of enumerations have a repr of their own, and would stand in answers as what they are.
    return tuple(map(str.__str__, texts))


def backend(name: str) -> Backend:
    """Return the path that is asked for."""
    try:
        return Backend(name)
    except ValueError:
        raise UsageError(f"backend '{name}' does not exist; backends: {', '.join(Backend)}") from None


def instant(given: Time, argument: str, *, now: datetime) -> datetime:
    """Return a datetime with a zone, or text as on the command line, as UTC; ``now`` where it is left out.

    Raises:
        InvalidTime: it has no zone, or is no time.
    """
    if given is None:
        return now
    if isinstance(given, str):
        return parse_time(given, now=now)
    if not isinstance(given, datetime):
        raise InvalidTime(
            f"{argument} is {given!r}; give a datetime with a time zone, or text such as 2024-05-01 or -7d"
        )
    if given.tzinfo is None:
        raise InvalidTime(f"{argument} is {given}, which has no time zone; give it one, such as datetime.UTC")
    try:
        there = given.astimezone(UTC)
    except OverflowError as error:
        raise InvalidTime(f"{argument} is {given}, which is no time in UTC; give one from year 1 to 9999") from error
    # pandas has a datetime of its own, whose nanoseconds nothing behind this knows.
    return datetime.combine(there.date(), there.time(), UTC)


def window(start: Time, end: Time, *, now: datetime, names: tuple[str, str] = ("start_date", "end_date")) -> Window:
    """Return a window of event time; an end that is left out is open.

    Raises:
        InvalidTime: an end is no time, or the start lies after the end.
    """
    ends = zip((start, end), names, strict=True)
    return Window(*(None if given is None else instant(given, name, now=now) for given, name in ends)).checked()


def seconds(given: float | None, argument: str = "timeout") -> float | None:
    """Return a number of seconds above 0, or nothing where it is left out.

    Raises:
        UsageError: it is another thing.
    """
    if given is None:
        return None
    if isinstance(given, bool) or not isinstance(given, int | float) or not 0 < given <= LONGEST_SECONDS:
        raise UsageError(f"{argument} is {_shown(given)}; give a number of seconds above 0, or leave it out")
    return float(given)


def flag(given: bool, argument: str) -> bool:
    """Return a choice.

    Raises:
        UsageError: it is no bool; the text "False" would be taken for True.
    """
    if not isinstance(given, bool):
        raise UsageError(f"{argument} is {_shown(given)}; give True or False")
    return given


def service(given: str | None) -> str | None:
    """Return the name of a service, or nothing where it is left out.

    Raises:
        UsageError: it is no text, or empty.
    """
    if given is None or (isinstance(given, str) and given):
        return given
    raise UsageError(f"feature_service_name is {_shown(given)}; give the name of a service, or leave it out")


def place(repo: str | os.PathLike[str] | None, database_url: str | None) -> Overrides:
    """Return where a repository and its database are.

    Raises:
        UsageError: one is neither text nor a path.
    """
    if repo is not None and not isinstance(repo, str | os.PathLike):
        raise UsageError(f"repo is {_shown(repo)}; give the path of a repository, or leave it out")
    if database_url is not None and not isinstance(database_url, str):
        raise UsageError(f"database_url is {_shown(database_url)}; give a URL, or leave it out")
    return Overrides(repo=Path(repo) if repo else None, database_url=database_url)


def clock(given: Clock) -> Clock:
    """Return a clock.

    Raises:
        UsageError: it does not tell a time with a zone.
    """
    now = given() if callable(given) else None
    if not isinstance(now, datetime) or now.tzinfo is None:
        raise UsageError(f"clock is {_shown(given)}; give a function that returns a datetime with a time zone")
    return given


def _shown(given: Any) -> str:
    """Return a value for a message of one line, and not of ten."""
    text = repr(given)
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}…"


def duration(given: float, argument: str) -> float:
    """Return a number of seconds, 0 for none.

    Raises:
        UsageError: it is another thing.
    """
    if isinstance(given, bool) or not isinstance(given, int | float) or not 0 <= given < math.inf:
        raise UsageError(f"{argument} is {_shown(given)}; give a number of seconds, 0 for none")
    return float(given)


def count(given: int, argument: str, *, least: int = 1) -> int:
    """Return a number of things, at least one, or another ``least``.

    Raises:
        UsageError: it is another thing.
    """
    if isinstance(given, bool) or not isinstance(given, int) or given < least:
        raise UsageError(f"{argument} is {_shown(given)}; give a whole number of {least} or more")
    return given


def share(given: float, argument: str) -> float:
    """Return a number from 0 to 1.

    Raises:
        UsageError: it is another thing.
    """
    if isinstance(given, bool) or not isinstance(given, int | float) or not 0 <= given <= 1:
        raise UsageError(f"{argument} is {_shown(given)}; give a number from 0 to 1")
    return float(given)


def age(given: timedelta | None) -> timedelta | None:
    """Return how old values may be.

    Raises:
        UsageError: it is no timedelta, or a negative one.
    """
    if given is None or (isinstance(given, timedelta) and given >= timedelta(0)):
        return given
    raise UsageError(f"max_age is {_shown(given)}; give a timedelta of 0 or more, such as timedelta(minutes=5)")


def targets(given: Names) -> tuple[Target, ...]:
    """Return targets, each written as on the command line: ``forward_return:24``."""
    from featurectl.core.targets import parse_targets

    return parse_targets(names(given, "targets"))


def spine(given: pd.DataFrame | str | os.PathLike[str] | None) -> Path | pd.DataFrame | None:
    """Return a DataFrame, or the path of a file.

    Raises:
        UsageError: it is another thing.
    """
    if given is None:
        return None
    if isinstance(given, str | os.PathLike):
        return Path(given)
    import pandas as pd  # whoever has a DataFrame has loaded it

    if isinstance(given, pd.DataFrame):
        return given
    raise UsageError(
        f"spine is a {type(given).__name__}; give a pandas DataFrame, or the path of a CSV or Parquet file"
    )


def rows_wanted(
    ids: Iterable[str] | None,
    start: Time,
    end: Time,
    given: pd.DataFrame | str | os.PathLike[str] | None,
    *,
    now: datetime,
) -> tuple[Sequence[EntityId], Window, Path | pd.DataFrame | None]:
    """Return the rows that a training set is wanted for: entities and their window, or a spine.

    Raises:
        UsageError: they are neither, or both.
    """
    if given is not None:
        if ids is not None or start is not None or end is not None:
            raise UsageError("spine names entities and times itself; leave out entity_ids, start_date and end_date")
        return (), ALWAYS, spine(given)
    if ids is None:
        raise UsageError("give entity_ids with start_date and end_date, or spine")
    if start is None or end is None:
        raise UsageError("give start_date and end_date, for example start_date='-30d', end_date='now'")
    return entities(ids), window(start, end, now=now), None


def offline_source(name: str) -> Source | None:
    """Return where a training set is to come from; nothing where that is left open.

    Raises:
        UsageError: it can't come from there.
    """
    path = backend(name)
    if path is Backend.ONLINE:
        raise UsageError("an online store holds no past; take backend 'auto', 'timescaledb' or 'feast'")
    return None if path is Backend.AUTO else Source(path)


def group(name: str | None) -> By | None:
    """Return what statistics are to be grouped by.

    Raises:
        UsageError: there is no such thing.
    """
    from featurectl.core.statistics.describe import By

    try:
        return By(name) if name is not None else None
    except ValueError:
        raise UsageError(f"by={name!r} does not exist; choices: {', '.join(By)}") from None


def check_groups(by: str | None, baseline: str | None, *, checks: bool) -> None:
    """Refuse a baseline, or checks, beside groups that they say nothing of.

    Raises:
        UsageError: they don't go together.
    """
    if baseline is not None and by == "day":
        raise UsageError("a baseline has no figures by day; leave one out, or take by='entity'")
    if checks and by is not None:
        raise UsageError(f"checks are of all entities together; leave out by={by!r}, or checks")
