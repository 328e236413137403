"""What a read came to: rows by view, judged by age, with where they came from and why from there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property, lru_cache
from typing import Any

from featurectl.core.catalog import Selection, View
from featurectl.core.entity import EntityId
from featurectl.core.online import Key, Keys, Source, Status, key_of

Row = tuple[Any, ...]
"""A view's join keys, the event time (UTC), and the features asked for."""

Found = dict[Key, Row]


class Entities(tuple[EntityId, ...]):
    """The entities of a request, in the order asked for, duplicates included; they know their keys and names.

    Whoever asks for the same entities again does well to pass the same object.
    """

    @cached_property
    def ids(self) -> tuple[str, ...]:
        return tuple(map(str, self))

    @cached_property
    def _keys(self) -> dict[tuple[str, ...], Keys]:
        return {}

    def keys_in(self, view: View) -> Keys:
        """Return the entities' keys in a view.

        Raises:
            InvalidEntityId, UsageError: see :func:`key_of`.
        """
        known = self._keys.get(view.join_keys)
        if known is None:
            known = self._keys[view.join_keys] = Keys(key_of(view, entity) for entity in self)
        return known


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked for: features by view, for entities, as of an instant.

    ``in_past`` says that the caller named the instant: then the history answers where the online row does not serve
    it. A value older than its view's TTL, or than ``max_age``, is withheld unless ``allow_stale``.
    """

    selections: tuple[Selection, ...]
    entities: Entities
    as_of: datetime
    in_past: bool = False
    max_age: timedelta | None = None
    allow_stale: bool = False

    def limit_of(self, view: View) -> timedelta | None:
        """Return how old a view's values may be."""
        if self.max_age is None or view.ttl is None:
            return view.ttl if self.max_age is None else self.max_age
        return min(view.ttl, self.max_age)


@dataclass(slots=True)
class ViewAnswer:
    """What one view answers: a row for each key that has one.

    ``source`` is the path that was taken, ``from_history`` the keys for which the history had the last word beside it,
    ``reason`` why the answer is degraded, ``serving`` the rows, in the order of the keys, where none is missing and
    none is stale.
    """

    view: View
    features: tuple[str, ...]
    keys: Keys
    found: Found
    source: Source
    limit: timedelta | None
    reason: str | None = None
    from_history: set[Key] = field(default_factory=set)
    serving: list[Row] | None = None

    def source_of(self, key: Key) -> Source:
        return Source.TIMESCALEDB if key in self.from_history else self.source

    @property
    def sources(self) -> tuple[Source, ...]:
        """The paths that the keys are answered by, each once."""
        if not self.from_history:
            return (self.source,)
        return tuple(dict.fromkeys(map(self.source_of, self.keys)))

    def statuses(self, key: Key, as_of: datetime) -> list[Status]:
        """Return the status of each feature for one key."""
        row = self.found.get(key)
        if row is None:
            return [Status.NOT_FOUND] * len(self.features)
        width = len(self.view.join_keys)
        if self.is_stale(row[width], as_of):
            return [Status.OUTSIDE_MAX_AGE] * len(self.features)
        return [Status.NULL_VALUE if value is None else Status.PRESENT for value in row[width + 1 :]]

    def age(self, key: Key, as_of: datetime) -> timedelta | None:
        """Return how old the values of one key are, where there are any."""
        row = self.found.get(key)
        return None if row is None else as_of - row[len(self.view.join_keys)]

    def is_stale(self, event_timestamp: datetime, as_of: datetime) -> bool:
        return self.limit is not None and as_of - event_timestamp > self.limit

    def judge(self, as_of: datetime) -> None:
        """See whether there is a row for each key, and none of them is stale: most answers need no closer look."""
        if len(self.found) != len(self.keys.distinct):
            return
        rows = list(map(self.found.__getitem__, self.keys))
        width = len(self.view.join_keys)
        if self.limit is None or min([row[width] for row in rows]) >= as_of - self.limit:
            self.serving = rows

    def counts(self, as_of: datetime) -> dict[Status, int]:
        """Return how many values, over all entities, came to each status."""
        rows, missing, stale = self.serving, 0, 0
        if rows is None:
            width = len(self.view.join_keys)
            known = [row for key in self.keys if (row := self.found.get(key))]
            rows = [row for row in known if not self.is_stale(row[width], as_of)]
            missing, stale = len(self.keys) - len(known), len(known) - len(rows)
        nulls = sum([row.count(None) for row in rows if None in row])
        features = len(self.features)
        return {
            Status.PRESENT: len(rows) * features - nulls,
            Status.NULL_VALUE: nulls,
            Status.NOT_FOUND: missing * features,
            Status.OUTSIDE_MAX_AGE: stale * features,
        }


@dataclass(frozen=True, slots=True)
class ViewRow:
    """What one view holds for one entity at the instant of the read.

    ``age`` is that instant minus the event timestamp; both are ``None`` when the entity was not found. ``limit`` is the
    age up to which values are served: the view's TTL, or what was asked for.
    """

    view: str
    source: Source
    event_timestamp: datetime | None
    age: timedelta | None
    ttl: timedelta | None
    limit: timedelta | None
    features: dict[str, Any]
    statuses: dict[str, Status]

    @property
    def stale(self) -> bool:
        return self.age is not None and self.limit is not None and self.age > self.limit


@dataclass(frozen=True, slots=True)
class EntityFeatures:
    """One entity's features, by view."""

    entity: EntityId
    views: tuple[ViewRow, ...]

    @property
    def found(self) -> bool:
        return any(view.event_timestamp is not None for view in self.views)


@dataclass(frozen=True, slots=True)
class Answer:
    """All that was read for one request; ``notes`` are what a user should know of the set-up, such as an old catalog.

    Entities stand in the order asked for, duplicates included. ``degraded`` is what is wrong with the answer as a
    whole, where something is.
    """

    request: Request
    views: tuple[ViewAnswer, ...]
    notes: tuple[str, ...] = ()
    degraded: str | None = None

    @property
    def sources(self) -> tuple[Source, ...]:
        """The paths that were taken, each once."""
        return tuple(dict.fromkeys(source for view in self.views for source in view.sources))

    @property
    def reasons(self) -> dict[str, str]:
        """Why views are not answered as they should have been, by view."""
        whys = {view.view.name: filter(None, (self.degraded, view.reason)) for view in self.views}
        return {name: reason for name, why in whys.items() if (reason := "; ".join(why))}

    @property
    def whys(self) -> tuple[str, ...]:
        """Why the answer is degraded: each reason once; empty where it is not."""
        return tuple(dict.fromkeys(filter(None, (self.degraded, *(view.reason for view in self.views)))))

    @property
    def features(self) -> list[str]:
        return [name for view in self.views for name in view.features]

    def by_entity(self) -> list[EntityFeatures]:
        """Return everything there is to say of each entity."""
        return [
            EntityFeatures(entity, tuple(self._view_row(view, view.keys[index]) for view in self.views))
            for index, entity in enumerate(self.request.entities)
        ]

    def _view_row(self, answer: ViewAnswer, key: Key) -> ViewRow:
        as_of, width = self.request.as_of, len(answer.view.join_keys)
        row = answer.found.get(key)
        statuses = dict(zip(answer.features, answer.statuses(key, as_of), strict=True))
        features: dict[str, Any] = dict.fromkeys(answer.features)
        event_timestamp = row[width] if row else None
        if row and (self.request.allow_stale or not answer.is_stale(row[width], as_of)):
            features = dict(zip(answer.features, row[width + 1 :], strict=True))
        view, source, age = answer.view, answer.source_of(key), answer.age(key, as_of)
        return ViewRow(view.name, source, event_timestamp, age, view.ttl, answer.limit, features, statuses)

    def rows(self) -> list[dict[str, Any]]:
        """Return a dictionary an entity: entity_id, symbol, timeframe, event_timestamp, and the features.

        ``event_timestamp`` is that of the view with the oldest values; values that are not served are ``None``.
        """
        if len(self.views) == 1 and self.views[0].view.join_keys == ("symbol", "timeframe"):
            return self._rows_of_one(self.views[0])
        return list(self._rows_of_many())

    def _rows_of_one(self, answer: ViewAnswer) -> list[dict[str, Any]]:
        """What :meth:`_rows_of_many` gives, where a row of the database has all that a row of the answer needs."""
        rows = answer.serving or [self._served(answer, key) for key in answer.keys]
        return _maker(answer.features)(zip(self.request.entities.ids, rows, strict=True))

    def _served(self, answer: ViewAnswer, key: Key) -> Row:
        """Return a key's row as it is served: nulls where there is nothing, or nothing that may be."""
        row = answer.found.get(key)
        nulls = (None,) * len(answer.features)
        if row is None:
            return (*key, None, *nulls)
        stale = not self.request.allow_stale and answer.is_stale(row[len(key)], self.request.as_of)
        return (*row[: len(key) + 1], *nulls) if stale else row

    def _rows_of_many(self) -> Iterator[dict[str, Any]]:
        for index, entity in enumerate(self.request.entities):
            made: dict[str, Any] = {
                "entity_id": str(entity),
                "symbol": entity.symbol,
                "timeframe": entity.timeframe or None,
                "event_timestamp": None,
            }
            events = []
            for answer in self.views:
                key = answer.keys[index]
                event_timestamp, *values = self._served(answer, key)[len(key) :]
                if event_timestamp is not None:
                    events.append(event_timestamp)
                made.update(zip(answer.features, values, strict=True))
            made["event_timestamp"] = min(events, default=None)
            yield made


@lru_cache(maxsize=1000)
def _maker(features: tuple[str, ...]) -> Callable[[Iterable[tuple[str, Row]]], list[dict[str, Any]]]:
    """Return a function that makes dictionaries of ids and rows.

    It is compiled, as those of dataclasses are: a display with its keys spelled out takes a third of `dict(zip(…))`.
    """
    names = ("entity_id", "symbol", "timeframe", "event_timestamp", *features)
    values = [f"v{index}" for index in range(len(names))]
    entries = ", ".join(f"{name!r}: {value}" for name, value in zip(names, values, strict=True))
    made: Callable[[Iterable[tuple[str, Row]]], list[dict[str, Any]]] = eval(
        f"lambda pairs: [{{{entries}}} for v0, ({', '.join(values[1:])}) in pairs]"
    )
    return made


class OnlineRows(list[dict[str, Any]]):
    """The rows of an answer, a dictionary an entity, with what else it says.

    Each has entity_id, symbol, timeframe, event_timestamp (datetime, UTC) and the features.
    """

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.rows())
        self.answer = answer

    @property
    def source(self) -> str:
        """Where the values came from: online, feast, timescaledb, or several with ``+`` between."""
        return "+".join(self.answer.sources)

    @property
    def degraded(self) -> str | None:
        """Why another path than the first answered, or ``None``."""
        return "; ".join(self.answer.whys) or None

    @property
    def notes(self) -> tuple[str, ...]:
        return self.answer.notes

    @property
    def statuses(self) -> list[dict[str, str]]:
        """The status of each feature, for each row: PRESENT, NULL_VALUE, NOT_FOUND or OUTSIDE_MAX_AGE."""
        made: list[dict[str, str]] = [{} for _ in self]
        for view in self.answer.views:
            for row, key in zip(made, view.keys, strict=True):
                row.update(zip(view.features, map(str, view.statuses(key, self.answer.request.as_of)), strict=True))
        return made

    @property
    def ages(self) -> list[dict[str, float | None]]:
        """The age of each feature's value in seconds, for each row; ``None`` where there is none."""
        made: list[dict[str, float | None]] = [{} for _ in self]
        for view in self.answer.views:
            for row, key in zip(made, view.keys, strict=True):
                age = view.age(key, self.answer.request.as_of)
                row.update(dict.fromkeys(view.features, None if age is None else age.total_seconds()))
        return made
