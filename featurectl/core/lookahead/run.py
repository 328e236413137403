"""One look at the functions of computed views: stretches of the market's tables, and features of parts of them.

A bar's features must be those of the bars up to it: later ones, and those before the warm-up, must not matter. Those of
a tick, and of a quarter of an hour, must depend on no other at all.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from featurectl.core.catalog import Catalog, Selection, View
from featurectl.core.consistency.readings import meant
from featurectl.core.db import Connection
from featurectl.core.entity import EntityId
from featurectl.core.lookahead.probe import Deviation, Probe, Stretch, begun_later, repeated, truncated
from featurectl.core.lookahead.stretches import Source, source_of
from featurectl.errors import UsageError

# Where the beginning of a series is cut off.
FIRST_CUTS = (1, 2, 5, 10, 20, 30, 50, 100, 200, 500)
# Of every so many series the beginning is looked at.
FIRSTS = 5
# Parts of the warm-up that are tried, to tell how much of it is needed.
LADDER = (8, 4, 2)


class Verdict(StrEnum):
    """What was found of a function."""

    OK = "ok"
    AHEAD = "looks ahead"
    WARMUP = "depends on warm-up"
    PIECES = "depends on pieces"
    UNSTEADY = "not repeatable"
    UNKNOWN = "not looked at"


@dataclass(frozen=True, slots=True)
class Asked:
    """What is looked at: features of computed views, at ``sample`` instants of each view, of some entities or all.

    ``warmup`` bars before the first new one are what `compute` loads; ``None`` is the repository's own number.
    """

    ids: tuple[str, ...] = ()
    views: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    service: str | None = None
    sample: int = 50
    seed: int = 0
    warmup: int | None = None
    tolerance: float = 1e-9


@dataclass(frozen=True, slots=True)
class Looked:
    """What was found of a feature at so many instants of so many entities, by comparing so many values.

    ``ahead`` is the largest difference that later rows made, ``warmup`` that of other beginnings, ``enough`` the least
    warm-up tried from which on nothing changes. ``reason`` says what was not looked at, and why.
    """

    view: str
    feature: str
    verdict: Verdict
    entities: int
    instants: int
    compared: int
    ahead: Deviation | None = None
    warmup: Deviation | None = None
    enough: int | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Lookahead:
    """What was found, feature by feature; ``notes`` name views that were not looked at."""

    warmup: int
    tolerance: float
    seed: int
    features: tuple[Looked, ...]
    notes: tuple[str, ...] = ()

    @property
    def findings(self) -> list[Looked]:
        return [one for one in self.features if one.verdict not in (Verdict.OK, Verdict.UNKNOWN)]


def find_lookahead(
    connection: Connection,
    catalog: Catalog,
    asked: Asked,
    *,
    root: Path,
    warmup: int,
    now: datetime,
    on_view: Any = lambda index, total, view: None,
) -> Lookahead:
    """Look at the functions in the repository's files, with data of the market's tables up to ``now``.

    Raises:
        NotFound: an id, view, feature or service does not exist.
        UsageError: none of what is asked for is computed.
        DefinitionError: a function is missing or fails.
    """
    warmup = warmup if asked.warmup is None else asked.warmup
    chosen, notes = _selections(catalog, asked)
    sources = [source_of(connection, one, root, warmup, now) for one in chosen]
    entities = meant(asked.ids, [source.entities() for source in sources])
    found: list[Looked] = []
    for index, (one, source, among) in enumerate(zip(chosen, sources, entities, strict=True)):
        on_view(index, len(chosen), one.view.name)
        findings = _look(source, one, among, asked, warmup)
        found += [_judged(one.view, name, findings, asked.tolerance) for name in one.features]
        notes += [f"with {rows} {source.rows} only, {text}" for rows, text in sorted(findings.ahead.failures.items())]
    return Lookahead(warmup, asked.tolerance, asked.seed, tuple(found), tuple(notes))


def _selections(catalog: Catalog, asked: Asked) -> tuple[list[Selection], list[str]]:
    """Return the computed features that are asked for, and what is to be said of others."""
    wanted = catalog.select_whole(asked.features, asked.service, views=asked.views)
    chosen = [one for one in wanted if one.view.functions_file]
    notes = [f"{one.view.name} is not looked at: {_why_not(one.view)}" for one in wanted if one not in chosen]
    if not chosen:
        raise UsageError(f"there is no function to look at; {'; '.join(notes) or 'no view has such features'}")
    return chosen, notes


def _why_not(view: View) -> str:
    return "its features are those of other views" if view.is_composite else "featurectl does not compute it"


@dataclass(slots=True)
class _Findings:
    """What stretches of one view have shown so far."""

    ahead: Probe = field(default_factory=Probe)
    begun: dict[int, Probe] = field(default_factory=dict)
    again: Probe = field(default_factory=Probe)
    entities: set[EntityId] = field(default_factory=set)
    instants: int = 0


def _look(source: Source, chosen: Selection, entities: Sequence[EntityId], asked: Asked, warmup: int) -> _Findings:
    """Look at the features of one view."""
    chance = random.Random(f"{asked.seed} {chosen.view.name}")
    of_bars = chosen.view.computed_from == "candles"
    warmups = {warmup, *(max(1, warmup // part) for part in LADDER)} if of_bars else {0}
    findings = _Findings(begun={number: Probe() for number in sorted(warmups)})
    for number, (entity, count) in enumerate(_drawn(entities, asked.sample, chance)):
        for stretch, place in source.stretches(entity, count, chance, from_first=not number % FIRSTS):
            _examine(findings, stretch, place, chance, source.rows)
            findings.entities.add(entity)
            findings.instants += 1
    return findings


def _drawn(entities: Sequence[EntityId], sample: int, chance: random.Random) -> list[tuple[EntityId, int]]:
    """Return entities, not more than ``sample``, and at how many instants each is looked at."""
    taken = sorted(chance.sample(list(entities), min(len(entities), sample)), key=str)
    return [(entity, len(range(index, sample, len(taken)))) for index, entity in enumerate(taken)]


def _examine(findings: _Findings, stretch: Stretch, place: int, chance: random.Random, rows: str) -> None:
    """Compare a stretch with parts of it that end, and that begin, around a place."""
    if not findings.instants:
        findings.again.note(repeated(stretch))
    cuts = [place + 1, *(chance.randrange(1, len(stretch)) for _ in range(3) if len(stretch) > 1)]
    if not place:
        cuts += FIRST_CUTS
    findings.ahead.note(truncated(stretch, cuts, rows))
    largest = max(findings.begun)
    for warmup, probe in findings.begun.items():
        starts = [place - warmup]
        if warmup == largest and len(stretch) > warmup + 1:  # other borders of what is computed at once
            starts += [chance.randrange(1, len(stretch) - warmup) for _ in range(2)]
        probe.note(begun_later(stretch, starts, warmup, rows))


def _judged(view: View, name: str, findings: _Findings, tolerance: float) -> Looked:
    ahead, begun = findings.ahead, findings.begun[max(findings.begun)]
    of_bars = view.computed_from == "candles"
    compared = ahead.compared.get(name, 0) + begun.compared.get(name, 0)
    tested = bool(begun.compared.get(name))
    verdict, reason = Verdict.OK, None
    if not compared:
        nothing = "there are no values to compare"
        return Looked(view.name, name, Verdict.UNKNOWN, len(findings.entities), findings.instants, 0, reason=nothing)
    if findings.again.relative(name) > 0:
        verdict = Verdict.UNSTEADY
    elif ahead.relative(name) > tolerance:
        verdict = Verdict.AHEAD
    elif begun.relative(name) > tolerance:
        verdict = Verdict.WARMUP if of_bars else Verdict.PIECES
    elif of_bars and not tested:
        reason = "the warm-up is not looked at: no series is longer"
    return Looked(
        view=view.name,
        feature=name,
        verdict=verdict,
        entities=len(findings.entities),
        instants=findings.instants,
        compared=compared,
        ahead=findings.again.worst[name] if verdict is Verdict.UNSTEADY else ahead.worst.get(name),
        warmup=begun.worst.get(name),
        enough=_enough(name, findings, tolerance) if of_bars and tested else None,
        reason=reason,
    )


def _enough(name: str, findings: _Findings, tolerance: float) -> int | None:
    """Return the least warm-up tried that gives the same as a longer one, as do all above it."""
    least = None
    for warmup in sorted(findings.begun, reverse=True):
        if findings.begun[warmup].relative(name) > tolerance:
            break
        least = warmup
    return least
