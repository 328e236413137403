"""What Feast's registry defines, as hashes that change with a definition and with nothing else.

A registry is also written to whenever something is materialized, and by Feast when it applies what is there already.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from featurectl.core.config import Config
from featurectl.core.db import Connection
from featurectl.core.protobuf import SPEC, definition_hash, payload_of, split
from featurectl.core.queries import query
from featurectl.core.registry_age import UNREADABLE, Rows, is_known, read_rows, read_stamp

# What a catalog is made of, by its field in a registry's file.
_KINDS = {1: "entity", 6: "view", 14: "stream view", 7: "service"}
# The fields of a spec that hold its name and its project; Feast writes the project at one time, and not at another.
_NAME = 1
_PROJECT = {"entity": 9, "view": 2, "stream view": 2, "service": 2}
# Names of each sort that a note has room for.
_SHOWN = 3


@dataclass(frozen=True, slots=True)
class RegistryState:
    """What a registry defines for a project: ``objects`` maps kind and name ("view rsi") to the definition's hash.

    ``stamp`` differs whenever any of them was written, changed or not: while it does not, nothing else needs reading.
    """

    stamp: str
    objects: Mapping[str, str]


def read_state(connection: Connection, config: Config) -> RegistryState | None:
    """Return what the registry defines now, or ``None`` where it is elsewhere, is missing, or can't be read."""
    if not is_known(config):
        return None
    try:
        with connection.transaction():
            connection.execute(query("registry", "short_lock_wait"))
            return RegistryState(read_stamp(connection, config), _hashes(read_rows(connection, config)))
    except UNREADABLE:
        return None


def read_json(connection: Connection, config: Config) -> str | None:
    """Return what :func:`read_state` does, as it is kept with a catalog."""
    state = read_state(connection, config)
    return json.dumps({"stamp": state.stamp, "objects": dict(state.objects)}) if state else None


def rows_in_file(path: Path, project: str) -> list[tuple[str, str, bytes]]:
    """Return what a registry's file defines for a project; a file that is no registry defines nothing."""
    try:
        return list(_definitions(path.read_bytes(), project))
    except ValueError:
        return []


def _definitions(registry: bytes, project: str) -> Iterator[tuple[str, str, bytes]]:
    for number, _, message in split(registry):
        if message is None or number not in _KINDS:
            continue
        kind, spec = _KINDS[number], payload_of(message, SPEC)
        if payload_of(spec, _PROJECT[kind]).decode() == project:
            yield kind, payload_of(spec, _NAME).decode(), message


def difference(before: Mapping[str, str], rows: Rows) -> str | None:
    """Say what differs between the hashes that were published and what is defined now."""
    now = _hashes(rows)
    sorts = {
        "": [name for name in sorted(now) if name in before and before[name] != now[name]],
        "new: ": [name for name in sorted(now) if name not in before],
        "gone: ": [name for name in sorted(before) if name not in now],
    }
    return "; ".join(f"{sort}{_listed(names)}" for sort, names in sorts.items() if names) or None


def _listed(names: list[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _hashes(rows: Rows) -> dict[str, str]:
    return {f"{kind} {name}": definition_hash(bytes(message), without=_PROJECT[kind]) for kind, name, message in rows}
