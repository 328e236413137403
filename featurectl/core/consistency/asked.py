"""What a look at consistency is asked for, and which features and entities that means."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from featurectl.core.catalog import Catalog, Selection, View
from featurectl.core.consistency.readings import entities_of, is_named_by_ids, means, unknown
from featurectl.core.db import Connection
from featurectl.core.entity import EntityId, parse_id_or_symbol


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


def selections(catalog: Catalog, asked: Asked) -> tuple[Selection, ...]:
    """Return the features that are looked at, by view; all that there are, composites' too, where none is named.

    Raises:
        NotFound, UsageError: see :meth:`featurectl.core.catalog.Catalog.select`.
    """
    if asked.features or asked.service or asked.views:
        return catalog.select(asked.features, asked.service, views=asked.views)
    return tuple(map(Selection.whole, catalog.views))


def samples(
    connection: Connection, views: Sequence[View], every_view: Sequence[View], asked: Asked
) -> Iterator[tuple[str, tuple[list[EntityId], int]]]:
    """Yield by view the entities to look at, and how many there are to choose from.

    Raises:
        InvalidEntityId, NotFound: an id is none, or of no entity of any view.
    """
    wanted = [parse_id_or_symbol(text) for text in asked.ids]
    known = {view.name: entities_of(connection, view, every_view) if is_named_by_ids(view) else [] for view in views}
    every = {one for entities in known.values() for one in entities}
    for one in wanted:
        if not any(means(one, entity) for entity in every):
            raise unknown(one, every)
    for name, entities in known.items():
        among = [entity for entity in entities if not wanted or any(means(one, entity) for one in wanted)]
        chance = random.Random(f"{asked.seed} {name}")
        taken = chance.sample(among, asked.sample) if len(among) > asked.sample else among
        yield name, (sorted(taken, key=str), len(among))
