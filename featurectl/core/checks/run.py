"""Check what is there: views by their expectations, candles by their rules; what can't be read hides nothing else."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial

from featurectl.core.catalog import Catalog, Selection, View
from featurectl.core.checks import expectations
from featurectl.core.checks.age import judge_age, old_rows
from featurectl.core.checks.candles import CANDLES, CANDLES_VIEW, CandleChecks
from featurectl.core.checks.expectations import Expectation, FeatureRule
from featurectl.core.checks.features import ViewCheck
from featurectl.core.checks.report import CheckReport, Offence, Outcome, Verdict
from featurectl.core.checks.rows import Rows, Scope, is_meant, read_ids, refuse_ids
from featurectl.core.checks.settings import CandleRule, CheckSettings
from featurectl.core.db import Connection, translated_errors
from featurectl.core.entity import EntityId
from featurectl.core.freshness import Unreadable
from featurectl.core.gaps import Declaration, declarations_if_any
from featurectl.core.runs.retries import ends_all
from featurectl.core.times import ALWAYS, Window
from featurectl.errors import FeaturectlError, NotFound

RULES = (*FeatureRule, *CandleRule)


@dataclass(frozen=True, slots=True)
class _Asked:
    """What a check is asked to do, and as of when."""

    connection: Connection
    catalog: Catalog
    scope: Scope
    rules: tuple[str, ...]
    settings: CheckSettings
    rows: int
    now: datetime
    declared: Sequence[Declaration] = ()

    @property
    def as_of(self) -> datetime:
        """When ages are counted from: now, or the end of the window."""
        return min(self.now, self.scope.window.end) if self.scope.window.end else self.now


@dataclass(slots=True)
class _Found:
    """What was found so far."""

    outcomes: list[Outcome] = field(default_factory=list)
    offences: list[Offence] = field(default_factory=list)


def run_checks(
    connection: Connection,
    catalog: Catalog,
    selections: Sequence[Selection] | None = None,
    window: Window = ALWAYS,
    *,
    now: datetime,
    entities: Sequence[str] = (),
    rules: Collection[str] = (),
    settings: CheckSettings | None = None,
    rows: int = 0,
    recent: int | None = None,
    candles: bool | None = None,
) -> CheckReport:
    """Hold features to what their tags ask, and candles to their rules.

    Without ``selections`` it is every view but composites, which repeat others, and the candles; ``candles`` says
    otherwise. The window is in event time, of candles in open times; ``recent`` looks at the newest so many rows of
    each entity, or more where a run of one value may be longer. ``rows`` is how many offending rows are listed of each
    rule on each target. A view that can't be read, or whose tags can't, does not hide the others.

    Raises:
        NotFound: there is no such rule, or nothing is known of an id.
        InvalidEntityId: an id is none.
        UsageError: ids are given, and a selected view is keyed by something else.
        DatabaseUnreachable, Interrupted: nothing can be read any more.
    """
    for name in rules:
        if name not in RULES:
            raise NotFound.of("rule", name, RULES, "leave it out for all of them")
    ids = read_ids(entities)
    chosen = _chosen(catalog, selections, ids)
    scope = Scope(window, ids, recent)
    if ids:
        _check_ids(connection, ids, [one.view for one in chosen])
    asked = _Asked(
        connection,
        catalog,
        scope,
        tuple(rules) or tuple(map(str, RULES)),
        settings or CheckSettings(),
        rows,
        now,
        declarations_if_any(connection),
    )
    with_candles = selections is None if candles is None else candles
    return _report(asked, chosen, with_candles, is_named=selections is not None)


def selected(
    catalog: Catalog, features: Sequence[str] = (), service: str | None = None, views: Sequence[str] = ()
) -> tuple[Sequence[Selection] | None, bool | None]:
    """Return what :func:`run_checks` takes for features, a service, or views, market.candles among them.

    Raises:
        NotFound, UsageError: see :meth:`featurectl.core.catalog.Catalog.select`.
    """
    if not (features or service or views):
        return None, None
    named = [name for name in views if name != CANDLES]
    if not (features or service or named):
        return [], True
    return catalog.select(features, service, views=named or views), CANDLES in views


def _chosen(catalog: Catalog, selections: Sequence[Selection] | None, ids: Sequence[EntityId]) -> Sequence[Selection]:
    if selections is None:
        views = (view for view in catalog.views if view.has_history and not view.is_composite)
        return [one for one in map(Selection.whole, views) if not ids or one.view.takes_ids]
    for one in selections:
        if ids and not one.view.takes_ids:
            raise refuse_ids(one.view)
    return selections


def _check_ids(connection: Connection, ids: Sequence[EntityId], views: Sequence[View]) -> None:
    """Refuse ids of which there is nothing anywhere: they are misspelled, and would be found to be without fault."""
    missing = list(ids)
    known: set[str] = set()
    for view in (CANDLES_VIEW, *views):
        if not missing:
            return
        try:
            with translated_errors(), connection.transaction():
                keys = Rows.of(connection, view, Scope()).entity_keys()
        except FeaturectlError as error:
            if ends_all(error):
                raise
            continue
        known |= {str(EntityId(*key)) if len(key) == 2 else key[0] for key in keys}
        missing = [one for one in missing if not any(is_meant(view, key, one) for key in keys)]
    if missing:
        raise NotFound.of("entity", str(missing[0]), known, "`featurectl ingest` brings data in")


def _report(asked: _Asked, chosen: Sequence[Selection], with_candles: bool, *, is_named: bool) -> CheckReport:
    rules = [rule for rule in CandleRule if rule in asked.rules]
    jobs: list[tuple[str, Callable[[], _Found | None]]] = []
    if with_candles and rules:
        jobs.append((CANDLES, partial(_check_candles, asked, rules)))
    jobs += [(one.view.name, partial(_check_view, asked, one)) for one in chosen]
    parts, unreadable, undeclared = list[_Found](), list[Unreadable](), list[str]()
    for name, job in jobs:
        try:
            with translated_errors(), asked.connection.transaction():
                part = job()
        except FeaturectlError as error:
            if ends_all(error):
                raise
            unreadable.append(Unreadable(name, error))
            continue
        if part is not None:
            parts.append(part)
        elif is_named:
            undeclared.append(name)
    return CheckReport(
        [one for part in parts for one in part.outcomes],
        [one for part in parts for one in part.offences],
        unreadable,
        asked.scope.window,
        len(parts) + len(unreadable),
        undeclared,
    )


def _check_candles(asked: _Asked, rules: Sequence[CandleRule]) -> _Found:
    found, scope = _Found(), asked.scope
    limit = asked.settings.candles[CandleRule.STUCK_PRICE].limit or 0
    if scope.recent is not None:
        scope = replace(scope, recent=max(scope.recent, int(limit) + 1))
    checks = CandleChecks(asked.connection, scope, asked.settings, rules)
    for rule, judged in checks.judge(now=asked.now):
        found.outcomes.append(outcome := judged.outcome())
        if asked.rows and outcome.verdict is not Verdict.OK:
            found.offences += checks.offences(rule, judged, asked.rows)
    return found


def _check_view(asked: _Asked, chosen: Selection) -> _Found | None:
    """Check a view; return nothing where it declares nothing of what is asked for."""
    found, view = _Found(), chosen.view
    declared = expectations.of_view(view, asked.catalog.views)
    wanted = {*chosen.features, ""}
    ours = [one for one in declared if one.feature in wanted and one.rule in asked.rules]
    if not ours:
        return None
    rows = Rows.of(asked.connection, view, _scope_of(asked.scope, ours))
    check = ViewCheck(rows, ours)
    for one, judged in check.judge():
        found.outcomes.append(outcome := judged.outcome())
        if asked.rows and outcome.verdict is not Verdict.OK:
            found.offences += check.offences(one, judged, asked.rows)
    for one in ours:
        if one.rule is FeatureRule.FRESHNESS:
            judged, faults = judge_age(rows, one, asked.declared, asked.as_of)
            found.outcomes.append(judged.outcome())
            found.offences += old_rows(judged, faults, asked.rows)
    return found


def _scope_of(scope: Scope, ours: Sequence[Expectation]) -> Scope:
    """Return a scope that holds the longest run of one value that is allowed, and a row more."""
    longest = [int(one.limit or 0) + 1 for one in ours if one.rule is FeatureRule.MAX_STUCK]
    return scope if scope.recent is None else replace(scope, recent=max([scope.recent, *longest]))
