"""What a look at consistency is asked for, and which features and entities that means."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from featurectl.core.catalog import View
from featurectl.core.consistency.readings import entities_of, meant
from featurectl.core.db import Connection
from featurectl.core.entity import EntityId


@dataclass(frozen=True, slots=True)
class Asked:
    """What is looked at: entities by id or symbol, of some views or features; none means all.

    Of each view's entities ``sample`` are taken, chosen by ``seed``. ``as_of`` is an instant of the past. Values older
    than their TTL count where ``allow_stale`` says so.
    """

    ids: tuple[str, ...] = ()
    views: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    service: str | None = None
    sample: int = 100
    seed: int = 0
    as_of: datetime | None = None
    tolerance: float = 1e-9
    allow_stale: bool = False


def samples(
    connection: Connection, views: Sequence[View], every_view: Sequence[View], asked: Asked
) -> Iterator[tuple[str, tuple[list[EntityId], int]]]:
    """Yield by view the entities to look at, and how many there are to choose from.

    Raises:
        InvalidEntityId, NotFound: an id is none, or of no entity of any view.
    """
    known = [entities_of(connection, view, every_view) if view.takes_ids else [] for view in views]
    for view, among in zip(views, meant(asked.ids, known), strict=True):
        chance = random.Random(f"{asked.seed} {view.name}")
        taken = chance.sample(among, asked.sample) if len(among) > asked.sample else among
        yield view.name, (sorted(taken, key=str), len(among))
