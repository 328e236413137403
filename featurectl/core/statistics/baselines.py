"""Profiles in the database, by name; one of a project's is its baseline, which drift is measured from."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from featurectl.core.db import Connection
from featurectl.core.queries import query
from featurectl.core.statistics.describe import FeatureStatistics
from featurectl.core.statistics.profile import Profile
from featurectl.core.times import Window, iso
from featurectl.errors import NotFound, UsageError

HINT = "`featurectl baseline list` shows them; `featurectl stats --save NAME` saves one"


@dataclass(frozen=True, slots=True)
class Saved:
    """A profile as it is listed: of which window, with how many features of how many entities."""

    name: str
    window: Window
    is_baseline: bool
    saved_at: datetime
    features: int
    entities: int


@dataclass(frozen=True, slots=True)
class Kept:
    """What is saved of one feature of one entity, or of all: its profile, and its figures."""

    profile: Profile
    statistics: FeatureStatistics


def check_name(name: str) -> str:
    """Return a profile's name, without blanks around it.

    Raises:
        UsageError: it is blank, or unprintable.
    """
    stripped = name.strip()
    if not stripped or not stripped.isprintable():
        raise UsageError(f"{name!r} is no name for a profile; write a word, for example 2023-q1")
    return stripped


def save(
    connection: Connection, project: str, name: str, window: Window, kept: Iterable[Kept], *, now: datetime
) -> None:
    """Save a profile in place of what was saved by its name."""
    key = {"project": project, "name": name}
    header = {**key, "window_start": window.start, "window_end": window.end, "saved_at": now}
    with connection.transaction(), connection.cursor() as cursor:
        cursor.execute(query("profiles", "save_profile"), header)
        cursor.execute(query("profiles", "forget_features"), key)
        cursor.executemany(query("profiles", "save_feature"), [_row(key, one) for one in kept])


def _row(key: dict[str, str], one: Kept) -> dict[str, Any]:
    profile = one.profile
    figures = {
        name: iso(value) if isinstance(value, datetime) else value for name, value in asdict(one.statistics).items()
    }
    return {
        **key,
        **{name: getattr(profile, name) for name in Profile.__slots__},
        "entity": profile.entity or "",
        "sketch": list(profile.sketch),
        "edges": list(profile.edges),
        "pieces": [count for piece in profile.pieces for count in piece],
        "statistics": json.dumps({name: _storable(value) for name, value in figures.items()}),
    }


def _storable(value: Any) -> Any:
    """Return what JSON can hold: an infinity as text, which Python's float reads again."""
    if isinstance(value, float) and value in (float("inf"), float("-inf")):
        return str(value)
    return value


def list_saved(connection: Connection, project: str) -> list[Saved]:
    """Return a project's profiles, the newest first."""
    rows = connection.execute(query("profiles", "list_profiles"), {"project": project})
    return [Saved(name, Window(start, end), *rest) for name, start, end, *rest in rows]


def find_saved(connection: Connection, project: str, name: str) -> Saved:
    """Return a profile by its name.

    Raises:
        NotFound: there is none.
    """
    return _named(list_saved(connection, project), name)


def baseline_of(connection: Connection, project: str) -> Saved | None:
    """Return a project's baseline, if one is set."""
    return next((one for one in list_saved(connection, project) if one.is_baseline), None)


def read_profiles(connection: Connection, project: str, name: str, views: Sequence[str]) -> list[Profile]:
    """Return what a profile holds of some views."""
    rows = connection.execute(
        query("profiles", "read_features"), {"project": project, "name": name, "views": list(views)}
    )
    return [_profile(*row) for row in rows]


def _profile(*row: Any) -> Profile:
    values = dict(zip(Profile.__slots__, row, strict=True))
    bins, pieces = len(values["edges"]) + 1, values["pieces"]
    values["pieces"] = tuple(tuple(pieces[start : start + bins]) for start in range(0, len(pieces), bins))
    return Profile(**values | {name: tuple(values[name]) for name in ("sketch", "edges")})


def read_statistics(connection: Connection, project: str, name: str) -> list[FeatureStatistics]:
    """Return the figures that a profile was saved with."""
    rows = connection.execute(query("profiles", "read_statistics"), {"project": project, "name": name})
    return [_statistics(document) for (document,) in rows]


def _statistics(document: dict[str, Any]) -> FeatureStatistics:
    times = ("first_event_timestamp", "last_event_timestamp")
    floats = ("min", "max", "p1", "p5", "p25", "p50", "p75", "p95", "p99")
    read: dict[str, Any] = {name: document.get(name) for name in FeatureStatistics.__slots__}
    read |= {name: datetime.fromisoformat(read[name]) for name in times if read[name]}
    read |= {name: float(read[name]) for name in floats if read[name] is not None}
    read |= {name: tuple(read[name]) for name in ("histogram", "histogram_edges") if read[name] is not None}
    return FeatureStatistics(**read)


def set_baseline(connection: Connection, project: str, name: str) -> Saved:
    """Make a profile the one that drift is measured from.

    Raises:
        NotFound: there is none of that name.
    """
    key = {"project": project, "name": name}
    with connection.transaction():
        find_saved(connection, project, name)
        connection.execute(query("profiles", "unset_baseline"), key)
        connection.execute(query("profiles", "set_baseline"), key)
        return find_saved(connection, project, name)


def drop(connection: Connection, project: str, name: str) -> Saved:
    """Forget a profile.

    Raises:
        NotFound: there is none of that name.
    """
    found = find_saved(connection, project, name)
    connection.execute(query("profiles", "drop_profile"), {"project": project, "name": name})
    return found


def _named(saved: Sequence[Saved], name: str) -> Saved:
    for one in saved:
        if one.name == name:
            return one
    raise NotFound.of("profile", name, [one.name for one in saved], HINT)
