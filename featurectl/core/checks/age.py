"""How old the newest rows of a view, or the newest values of a feature, may be."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from psycopg import sql

from featurectl.core import sources
from featurectl.core.catalog import View
from featurectl.core.checks.expectations import Expectation
from featurectl.core.checks.pooling import Fault, Judged
from featurectl.core.checks.report import Offence
from featurectl.core.checks.rows import Key, Rows
from featurectl.core.entity import TIMEFRAMES, EntityId
from featurectl.core.freshness import name_of_key
from featurectl.core.gaps import ANY_TIMEFRAME, Declaration


def judge_age(
    rows: Rows, expectation: Expectation, declared: Sequence[Declaration], as_of: datetime
) -> tuple[Judged, list[Fault]]:
    """Hold the newest rows of a view's entities to an age in seconds, as of an instant.

    What is known absent is not due: the age counts from its end. An entity without a value is at fault.
    """
    faults, ages = [], []
    newest = list(_newest(rows, expectation, as_of))
    for key, instant in newest:
        due = None if instant is None else due_from(rows.view, key, instant, declared)
        age = None if due is None else max((as_of - due).total_seconds(), 0.0)
        ages.append(age)
        if age is None or age > (expectation.limit or 0):
            faults.append(Fault(key, 1, instant, instant, float("inf") if age is None else age))
    known = [age for age in ages if age is not None]
    judged = Judged(
        view=rows.view,
        feature=expectation.feature,
        rule=expectation.rule,
        severity=expectation.severity,
        limit=expectation.limit,
        entities=len(newest),
        rows=len(newest),
        faults=faults,
        worst=max(known, default=None),
        note=None if len(known) == len(ages) else f"{len(ages) - len(known)} entities have no value at all",
    )
    return judged, faults


def _newest(rows: Rows, expectation: Expectation, as_of: datetime) -> Iterable[tuple[Key, datetime | None]]:
    view = rows.view
    field = view.field(expectation.feature)
    kind = rows.types.get(view.timestamp_column, "timestamptz")
    found = rows.execute(
        "newest_of_entities",
        entities=rows.entities,
        texts=rows.texts_of("entities"),
        source=sources.source(view),
        match=sources.same_keys(view, "entities"),
        chosen=sources.within(view.timestamp_column, None, as_of, kind),
        known=sql.SQL("{} IS NOT NULL").format(rows.value(field)) if field else sql.SQL("TRUE"),
        order=sources.newest_first(view.timestamp_column, None),
    )
    return [(tuple(key), instant) for key, instant in found]


def due_from(view: View, key: Key, newest: datetime, declared: Iterable[Declaration]) -> datetime:
    """Return the instant since which rows have been due: the newest row's, or the end of what is absent after it."""
    values = dict(zip(view.join_keys, key, strict=True))
    entity = EntityId(values.get("symbol", ""), values.get("timeframe", ""))
    step = TIMEFRAMES.get(entity.timeframe, timedelta(0)) if view.computed_from == "candles" else timedelta(0)
    ours = (one for one in declared if one.means(entity) and (step or one.timeframe == ANY_TIMEFRAME))
    due = newest
    for one in sorted(ours, key=lambda one: one.first):
        # A bar's row is from its close. The next row is due a bar later.
        if one.first <= due:
            end = one.last if one.last > datetime.max.replace(tzinfo=one.last.tzinfo) - step else one.last + step
            due = max(due, end)
    return due


def old_rows(judged: Judged, faults: Sequence[Fault], most: int) -> list[Offence]:
    """Return the newest rows of entities at fault, the oldest first: they are what others have to follow."""
    order = sorted(faults, key=lambda one: (one.last is not None, one.last, one.key))
    return [
        Offence(
            judged.view.name,
            judged.feature,
            str(judged.rule),
            judged.severity,
            name_of_key(judged.view, one.key),
            one.last,
            one.worst,
        )
        for one in order[:most]
    ]
