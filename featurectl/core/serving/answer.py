"""What a read came to: rows by view, judged by age, with where they came from and why from there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from featurectl.core.catalog import Selection, View
from featurectl.core.entity import EntityId
from featurectl.core.online import Key, Source, Status, key_of

Row = tuple[Any, ...]
"""A view's join keys, the event time (UTC), and the features asked for."""

Found = dict[Key, Row]


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked for: features by view, for entities, as of an instant.

    ``in_past`` says that the caller named the instant: then the history answers where the online row does not serve
    it. A value older than its view's TTL, or than ``max_age``, is withheld unless ``allow_stale``.
    """

    selections: tuple[Selection, ...]
    entities: Sequence[EntityId]
    as_of: datetime
    in_past: bool = False
    max_age: timedelta | None = None
    allow_stale: bool = False

    def limit_of(self, view: View) -> timedelta | None:
        """Return how old a view's values may be."""
        return min((limit for limit in (view.ttl, self.max_age) if limit is not None), default=None)


@dataclass(slots=True)
class ViewAnswer:
    """What one view answers: a row for each key that has one.

    ``source`` is the path that was taken, ``from_history`` the keys that the history answered beside it, ``reason``
    why the answer is degraded.
    """

    view: View
    features: tuple[str, ...]
    keys: Sequence[Key]
    found: Found
    source: Source
    limit: timedelta | None
    reason: str | None = None
    from_history: set[Key] = field(default_factory=set)

    def source_of(self, key: Key) -> Source:
        return Source.TIMESCALEDB if key in self.from_history else self.source

    def statuses(self, key: Key, as_of: datetime) -> list[Status]:
        """Return the status of each feature for one key."""
        row = self.found.get(key)
        if row is None:
            return [Status.NOT_FOUND] * len(self.features)
        width = len(self.view.join_keys)
        if self.is_stale(row[width], as_of):
            return [Status.OUTSIDE_MAX_AGE] * len(self.features)
        return [Status.NULL_VALUE if value is None else Status.PRESENT for value in row[width + 1 :]]

    def is_stale(self, event_timestamp: datetime, as_of: datetime) -> bool:
        return self.limit is not None and as_of - event_timestamp > self.limit

    def counts(self, as_of: datetime) -> dict[Status, int]:
        """Return how many values, over all entities, came to each status."""
        width, features = len(self.view.join_keys), len(self.features)
        oldest = as_of - self.limit if self.limit is not None else None
        missing = stale = nulls = 0
        for key in self.keys:
            row = self.found.get(key)
            if row is None:
                missing += 1
            elif oldest is not None and row[width] < oldest:
                stale += 1
            elif None in row:
                nulls += row.count(None)
        present = (len(self.keys) - missing - stale) * features - nulls
        return {
            Status.PRESENT: present,
            Status.NULL_VALUE: nulls,
            Status.NOT_FOUND: missing * features,
            Status.OUTSIDE_MAX_AGE: stale * features,
        }


@dataclass(frozen=True, slots=True)
class ViewRow:
    """What one view holds for one entity at the instant of the read.

    ``age`` is that instant minus the event timestamp; both are ``None`` when the entity was not found. ``limit`` is the
    age up to which values are served.
    """

    view: str
    source: Source
    event_timestamp: datetime | None
    age: timedelta | None
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

    Entities stand in the order asked for, duplicates included.
    """

    request: Request
    views: tuple[ViewAnswer, ...]
    notes: tuple[str, ...] = ()

    @property
    def sources(self) -> tuple[Source, ...]:
        """The paths that were taken, each once."""
        taken = dict.fromkeys(view.source for view in self.views)
        if any(view.from_history for view in self.views):
            taken[Source.TIMESCALEDB] = None
        return tuple(taken)

    @property
    def reasons(self) -> dict[str, str]:
        """Why views are not answered by the path that should have answered, by view."""
        return {view.view.name: view.reason for view in self.views if view.reason}

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
        age = as_of - event_timestamp if event_timestamp else None
        return ViewRow(answer.view.name, answer.source_of(key), event_timestamp, age, answer.limit, features, statuses)

    def rows(self) -> list[dict[str, Any]]:
        """Return a dictionary an entity: entity_id, symbol, timeframe, event_timestamp, and the features.

        ``event_timestamp`` is that of the view with the oldest values; values that are not served are ``None``.
        """
        if len(self.views) == 1 and self.views[0].view.join_keys == ("symbol", "timeframe"):
            return list(self._rows_of_one(self.views[0]))
        return list(self._rows_of_many())

    def _rows_of_one(self, answer: ViewAnswer) -> Iterator[dict[str, Any]]:
        """What :meth:`_rows_of_many` gives, where a row of the database has all that a row of the answer needs."""
        names = ("entity_id", "symbol", "timeframe", "event_timestamp", *answer.features)
        oldest = self._oldest(answer)
        nulls = (None,) * len(answer.features)
        find = answer.found.get
        for key in answer.keys:
            row = find(key)
            if row is None:
                row = (*key, None, *nulls)
            elif oldest is not None and row[2] < oldest:
                row = (*row[:3], *nulls)
            yield dict(zip(names, (f"{key[0]}_{key[1]}", *row), strict=True))

    def _rows_of_many(self) -> Iterator[dict[str, Any]]:
        oldest = [self._oldest(answer) for answer in self.views]
        for index, entity in enumerate(self.request.entities):
            made: dict[str, Any] = {
                "entity_id": str(entity),
                "symbol": entity.symbol,
                "timeframe": entity.timeframe or None,
                "event_timestamp": None,
            }
            events = []
            for answer, limit in zip(self.views, oldest, strict=True):
                row = answer.found.get(answer.keys[index])
                values: Sequence[Any] = (None,) * len(answer.features)
                if row is not None:
                    width = len(answer.view.join_keys)
                    events.append(row[width])
                    if limit is None or row[width] >= limit:
                        values = row[width + 1 :]
                made.update(zip(answer.features, values, strict=True))
            made["event_timestamp"] = min(events, default=None)
            yield made

    def _oldest(self, answer: ViewAnswer) -> datetime | None:
        """Return the event time before which values are withheld."""
        if answer.limit is None or self.request.allow_stale:
            return None
        return self.request.as_of - answer.limit


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
        return "; ".join(dict.fromkeys(self.answer.reasons.values())) or None

    @property
    def notes(self) -> tuple[str, ...]:
        return self.answer.notes

    @property
    def statuses(self) -> list[dict[str, str]]:
        """The status of each feature, for each row: PRESENT, NULL_VALUE, NOT_FOUND or OUTSIDE_MAX_AGE."""
        return [
            {name: str(status) for view in entity.views for name, status in view.statuses.items()}
            for entity in self.answer.by_entity()
        ]

    @property
    def ages(self) -> list[dict[str, float | None]]:
        """The age of each feature's value in seconds, for each row; ``None`` where there is none."""
        return [
            {
                name: view.age.total_seconds() if view.age is not None else None
                for view in entity.views
                for name in view.features
            }
            for entity in self.answer.by_entity()
        ]


def keys_of(selection: Selection, entities: Sequence[EntityId]) -> list[Key]:
    """Return the entities' keys in a view.

    Raises:
        InvalidEntityId, UsageError: see :func:`key_of`.
    """
    if selection.view.join_keys == ("symbol", "timeframe") and all(entity.timeframe for entity in entities):
        return [(entity.symbol, entity.timeframe) for entity in entities]
    return [key_of(selection.view, entity) for entity in entities]
