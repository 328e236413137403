"""One look at consistency: a sample of each view's entities, read online, from the history, and computed again.

Online and history are read one after the other, while others write. So what differs is read online once more: where
that has changed since, both are read anew. What is left differed at the instant at which the history was read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from featurectl.core.catalog import Catalog, Selection, View
from featurectl.core.compute.again import Again, Recomputation
from featurectl.core.compute.changes import one_state
from featurectl.core.consistency.asked import Asked, samples
from featurectl.core.consistency.readings import History, computed_again
from featurectl.core.consistency.verdicts import (
    FAULTS,
    Consistency,
    Difference,
    Limits,
    Pair,
    Row,
    Tally,
    Verdict,
    computed_verdicts,
    online_verdicts,
)
from featurectl.core.db import Connection
from featurectl.core.entity import EntityId
from featurectl.core.online import Key, Source, key_of
from featurectl.core.serving.answer import ViewAnswer
from featurectl.core.times import iso
from featurectl.errors import UsageError

# How often what differs is read anew because it changes meanwhile.
ROUNDS = 5
# Feast's stores may keep event times to the second.
_SECOND = timedelta(seconds=1)

# Reads features of entities as a caller would, as of the instant that is looked at.
ReadOnline = Callable[[Selection, Sequence[EntityId]], ViewAnswer]


@dataclass(frozen=True, slots=True)
class Setting:
    """Where functions are, how many bars of warm-up they get, and how long rows of feature tables stay."""

    root: Path
    warmup: int
    drop_after: Mapping[str, timedelta] = field(default_factory=dict)


def find_differences(
    connection: Connection,
    catalog: Catalog,
    asked: Asked,
    setting: Setting,
    read_online: ReadOnline,
    *,
    now: datetime,
    on_view: Callable[[int, int, str], None] = lambda index, total, view: None,
) -> Consistency:
    """Compare what is read online, the history, and what is computed again, of a sample of entities of each view.

    Nothing is written; features are computed again without reading those that are stored.

    Raises:
        NotFound: an id, view, feature or service does not exist.
        UsageError: names that do not fit together.
        DefinitionError: a function is missing or fails.
    """
    as_of = asked.as_of or now
    if as_of > now:
        raise UsageError(f"{iso(as_of)} lies in the future, of which nothing is known; give an instant up to now")
    chosen = catalog.select_whole(asked.features, asked.service, views=asked.views)
    taken = dict(samples(connection, [one.view for one in chosen], catalog.views, asked))
    tallies: list[Tally] = []
    differences: list[Difference] = []
    notes: dict[str, None] = {}
    for index, one in enumerate(chosen):
        on_view(index, len(chosen), one.view.name)
        look = _Look(connection, catalog, one, asked, setting, read_online, as_of)
        sample, total = taken[one.view.name]
        look.take(sample)
        tallies += look.tallies(total)
        differences += look.differences
        notes |= dict.fromkeys(look.notes)
    return Consistency(as_of, asked.seed, asked.tolerance, tuple(tallies), tuple(differences), tuple(notes))


@dataclass(slots=True)
class _Found:
    """What was read of one entity, and the verdicts by feature."""

    entity: EntityId
    online: Row | None
    statuses: Mapping[str, str]
    source: str | None
    offline: Row | None
    again: Again | None
    again_event: datetime | None
    served: Mapping[str, Verdict] | None
    computed: Mapping[str, Verdict] | None

    @property
    def is_odd_online(self) -> bool:
        return self.served is not None and any(verdict in FAULTS for verdict in self.served.values())


@dataclass(slots=True)
class _Look:
    """A look at one view."""

    connection: Connection
    catalog: Catalog
    chosen: Selection
    asked: Asked
    setting: Setting
    read_online: ReadOnline
    as_of: datetime
    found: list[_Found] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    reasons: dict[Pair, str] = field(default_factory=dict)

    @property
    def view(self) -> View:
        return self.chosen.view

    def take(self, entities: Sequence[EntityId]) -> None:
        """Look at some entities; what is done is in ``found``."""
        self._find_reasons()
        if len(self.reasons) == len(Pair):
            return
        pending = list(entities)
        for left in reversed(range(ROUNDS)):
            answer = self._answer(pending)
            read = self._read(pending, answer)
            moved = self._moved(answer, [one.entity for one in read if one.is_odd_online])
            self.found += [one for one in read if one.entity not in moved]
            pending = [one.entity for one in read if one.entity in moved]
            if not pending:
                break
            if not left:
                self.notes.append(f"{self.view.name}: {len(pending)} entities change all the time and were left out")

    def _find_reasons(self) -> None:
        view = self.view
        if not view.has_history:
            why = "Feast makes its features from its source; no SQL reads their history"
            self.reasons = dict.fromkeys(Pair, why)
        elif not view.takes_ids:
            why = f"it is keyed by {', '.join(view.join_keys) or 'nothing'}; entity ids give symbol and timeframe only"
            self.reasons = dict.fromkeys(Pair, why)
        if not view.online:
            self.reasons.setdefault(Pair.ONLINE, "for training only (online=False)")
        if not view.computed_from:
            self.reasons.setdefault(Pair.COMPUTED, "not recomputed: featurectl does not compute it")

    # --- readings ----------------------------------------------------------------------------------------------------

    def _answer(self, entities: Sequence[EntityId]) -> ViewAnswer | None:
        if Pair.ONLINE in self.reasons or not entities:
            return None
        answer = self.read_online(self.chosen, entities)
        if answer.reason and answer.reason not in self.notes:
            self.notes.append(f"{self.view.name}: {answer.reason}")
        return answer

    def _moved(self, before: ViewAnswer | None, odd: Sequence[EntityId]) -> set[EntityId]:
        """Return the entities whose answer is another by now."""
        if before is None or not odd:
            return set()
        after = self.read_online(self.chosen, odd)
        return {one for one in odd if _row(before, self._key(one)) != _row(after, self._key(one))}

    def _key(self, entity: EntityId) -> Key:
        return key_of(self.view, entity)

    def _read(self, entities: Sequence[EntityId], answer: ViewAnswer | None) -> list[_Found]:
        """Read the history, and compute again, from one state of the database."""
        with one_state(self.connection):
            history = History(self.connection, self.chosen)
            newest = history.at([self._key(one) for one in entities], self.as_of)
            online = {one: self._online(one, answer) for one in entities}
            same = self._of_same_events(history, online, answer, newest)
            again = self._recomputation()
            return [
                self._judged(one, answer, online[one], same.get(self._key(one)), newest.get(self._key(one)), again)
                for one in entities
            ]

    def _online(self, entity: EntityId, answer: ViewAnswer | None) -> Row | None:
        """Return the row that a caller gets from the online store; one that the history gives for it is none."""
        if answer is None or (answer.reason and answer.source is Source.TIMESCALEDB):
            return None
        row = answer.found.get(self._key(entity))
        width = len(self.view.join_keys)
        return Row(row[width], dict(zip(self.chosen.features, row[width + 1 :], strict=True))) if row else None

    def _of_same_events(
        self,
        history: History,
        online: Mapping[EntityId, Row | None],
        answer: ViewAnswer | None,
        newest: Mapping[Key, Row],
    ) -> dict[Key, Row]:
        """Return the history's rows of the event times that rows online have."""
        is_coarse = answer is not None and answer.source is Source.FEAST
        events: dict[datetime, list[Key]] = {}
        same: dict[Key, Row] = {}
        for entity, row in online.items():
            key = self._key(entity)
            if row is None:
                continue
            if (found := newest.get(key)) and _is_same(row.event, found.event, is_coarse):
                same[key] = found
            else:
                events.setdefault(row.event, []).append(key)
        for event, keys in events.items():
            until = event + _SECOND - timedelta(microseconds=1) if is_coarse else event
            rows = history.at(keys, until)
            same |= {key: row for key, row in rows.items() if _is_same(event, row.event, is_coarse)}
        return same

    def _recomputation(self) -> Recomputation | None:
        if Pair.COMPUTED in self.reasons:
            return None
        root, warmup = self.setting.root, self.setting.warmup
        return computed_again(self.connection, self.chosen, self.catalog.views, root=root, warmup=warmup)

    def _judged(
        self,
        entity: EntityId,
        answer: ViewAnswer | None,
        online: Row | None,
        same: Row | None,
        offline: Row | None,
        recomputation: Recomputation | None,
    ) -> _Found:
        key, features, limits = self._key(entity), self.chosen.features, self._limits
        found = _Found(entity, online, {}, None, offline, None, None, None, None)
        if answer is not None:
            found.statuses = dict(zip(features, map(str, answer.statuses(key, self.as_of)), strict=True))
            found.source = str(answer.source_of(key))
            found.served = online_verdicts(features, online, same, offline, limits)
        if recomputation is not None:
            due = self._due(entity, offline, recomputation)
            event = offline.event if offline else due
            again = recomputation.at(entity, event) if event and (limits.has(event) or limits.has(due)) else Again(None)
            found.again, found.again_event = again, event if again.values is not None else None
            row = Row(event, again.values) if event and again.values is not None else None
            names = [name for name in features if name not in again.gone]
            found.computed = computed_verdicts(names, offline, row, due, limits, again.scales)
        return found

    def _due(self, entity: EntityId, offline: Row | None, recomputation: Recomputation) -> datetime | None:
        """Return the newest event time that the history should have a row of; nothing where nobody can say.

        Of bars it is the newest closed one's. Minutes and quarters of an hour pass without anything to compute, and
        only where there is no row at all one is due.
        """
        if offline is not None and self.view.computed_from != "candles":
            return None
        due = recomputation.newest(entity, self.as_of)
        life = self.setting.drop_after.get(self.view.source_table or "")
        return None if due and life and due < self.as_of - life else due

    @property
    def _limits(self) -> Limits:
        ttl = None if self.asked.allow_stale else self.view.ttl
        return Limits(self.as_of - ttl if ttl else None, self.asked.tolerance)

    # --- results -----------------------------------------------------------------------------------------------------

    @property
    def differences(self) -> Iterator[Difference]:
        for one in self.found:
            for name in self.chosen.features:
                verdicts = (one.served or {}).get(name), (one.computed or {}).get(name)
                if any(verdict in FAULTS for verdict in verdicts):
                    yield self._difference(one, name, *verdicts)

    def _difference(self, one: _Found, name: str, served: Verdict | None, computed: Verdict | None) -> Difference:
        again = one.again.values if one.again and one.again.values else {}
        return Difference(
            view=self.view.name,
            entity=str(one.entity),
            feature=name,
            online_verdict=served,
            computed_verdict=computed,
            online=one.online.values[name] if one.online else None,
            offline=one.offline.values[name] if one.offline else None,
            recomputed=again.get(name),
            online_event=one.online.event if one.online else None,
            offline_event=one.offline.event if one.offline else None,
            recomputed_event=one.again_event,
            online_status=one.statuses.get(name),
            online_source=one.source,
        )

    def tallies(self, of: int) -> Iterator[Tally]:
        """Yield the counts of both pairs."""
        for pair in Pair:
            if reason := self.reasons.get(pair):
                yield Tally(self.view.name, pair, 0, of, len(self.chosen.features), reason=reason)
                continue
            counts = Counter(str(verdict) for one in self.found for verdict in self._verdicts(one, pair).values())
            names = {verdict.value: counts[verdict.value] for verdict in Verdict}
            looked = len(self.found)
            yield Tally(self.view.name, pair, looked, of, len(self.chosen.features), **names, reason=self._gone(pair))

    def _verdicts(self, one: _Found, pair: Pair) -> Mapping[str, Verdict]:
        return (one.served if pair is Pair.ONLINE else one.computed) or {}

    def _gone(self, pair: Pair) -> str | None:
        gone = sum(len(one.again.gone) for one in self.found if one.again and one.again.gone)
        if pair is Pair.ONLINE or not gone:
            return None
        return f"{gone} values not recomputed: what they were made of is gone by retention"


def _row(answer: ViewAnswer, key: Key) -> object:
    return answer.found.get(key), answer.source_of(key)


def _is_same(online: datetime, offline: datetime, is_coarse: bool) -> bool:
    return online == offline or (is_coarse and online == offline.replace(microsecond=0))
