"""Offline to online, inside the database: one statement a view, guarded by event time, in one transaction."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from psycopg import sql

from featurectl.core import sources
from featurectl.core.announce import announce
from featurectl.core.catalog import Catalog, View
from featurectl.core.clock import Clock, system_clock
from featurectl.core.db import Connection, translated_errors
from featurectl.core.locks import REFUSE, Locking, lock, name_of_view
from featurectl.core.queries import query
from featurectl.core.runs.retries import ends_all
from featurectl.core.schema import columns_of, table_identifier
from featurectl.core.times import Window, iso
from featurectl.errors import (
    DefinitionError,
    FeaturectlError,
    PartlyDone,
    SchemaMissing,
    Skipped,
    UsageError,
)


@dataclass(frozen=True, slots=True)
class Materialized:
    """What one view's materialization did. ``entities`` had a row in the window; ``older`` kept a newer online row."""

    view: str
    window: Window
    entities: int
    written: int
    unchanged: int
    older: int

    @property
    def incremental(self) -> bool:
        return self.window.start is None


@dataclass(frozen=True, slots=True)
class Target:
    """A view's online table: its key columns, in the order of the source's keys, and the types on both sides.

    The key of a view without entities is no column of the source; ``constant_key`` is the one value it has.
    """

    table: str
    keys: tuple[str, ...]
    types: Mapping[str, str]
    source_types: Mapping[str, str]
    constant_key: str | None = None


@dataclass(frozen=True, slots=True)
class Failed:
    """A view that was not materialized, and why."""

    view: str
    error: FeaturectlError


def choose_views(catalog: Catalog, names: Sequence[str]) -> list[View]:
    """Return the views named, or all that have an online table of ours.

    Raises:
        NotFound: a view does not exist.
        UsageError: a view is not served online.
    """
    if not names:
        return [view for view in catalog.views if view.online_table and view.has_history]
    views = [catalog.view(name) for name in dict.fromkeys(names)]
    for view in views:
        if not view.online:
            raise UsageError(f"view '{view.name}' is for training only (online=False); it can't be materialized")
        if not view.online_table:
            raise UsageError(
                f"view '{view.name}' has no online table of ours; materialize it with `featurectl feast -- materialize`"
            )
    return views


def materialize(
    connection: Connection,
    project: str,
    views: Sequence[View],
    window: Window,
    *,
    now: datetime,
    on_view: Callable[[int, View], None] = lambda index, view: None,
    force: bool = False,
    locking: Locking = REFUSE,
    finished: dict[str, Materialized | Failed] | None = None,
    clock: Clock = system_clock,
) -> list[Materialized | Failed]:
    """Materialize views one after the other, each in a transaction of its own.

    A window without a start is incremental: each entity's newest row up to the end. ``force`` overwrites newer online
    rows. A run that is tried again gives what it had ``finished``, by view, which is not done again. After a wait for a
    lock, ``now`` is what ``clock`` says; a window without an end still ends where it did.

    Raises:
        UsageError: the window ends in the future.
        DatabaseUnreachable, Interrupted: the rest of the views is not done.
    """
    finished = {} if finished is None else finished
    end = window.end or now
    if end > now:
        raise UsageError(f"the window ends in the future: {iso(end)} is after now, {iso(now)}; end it at or before now")
    for index, view in enumerate(views):
        if view.name in finished:
            continue
        on_view(index, view)
        try:
            with translated_errors(), lock(connection, name_of_view(project, view.name), locking) as has_waited:
                now = clock() if has_waited else now
                span = Window(window.start, end)
                finished[view.name] = materialize_view(connection, project, view, span, now=now, force=force)
        except FeaturectlError as error:
            if ends_all(error):
                raise
            finished[view.name] = Failed(view.name, error)
    return list(finished.values())


def failure_of(results: Sequence[Materialized | Failed]) -> FeaturectlError | None:
    """Return what views failed with, if any did: its own error where all failed, partly done otherwise.

    Views that were left to another run are no failure; where there were no others, that is what it is.
    """
    failed = [one for one in results if isinstance(one, Failed) and not isinstance(one.error, Skipped)]
    skipped = [one for one in results if isinstance(one, Failed) and isinstance(one.error, Skipped)]
    if not failed:
        return skipped[0].error if skipped and len(skipped) == len(results) else None
    if len(failed) == len(results):
        return failed[0].error
    reasons = "; ".join(str(one.error) for one in failed)
    done = len(results) - len(failed) - len(skipped)
    return PartlyDone(f"{done} of {len(results)} views done: {reasons}")


def raise_failures(results: Sequence[Materialized | Failed]) -> None:
    """Raise what views failed with, if any did.

    Raises:
        PartlyDone: some views are done, others are not.
        Skipped: all of them were left to another run.
    """
    if failure := failure_of(results):
        raise failure


def materialize_view(
    connection: Connection,
    project: str,
    view: View,
    window: Window,
    *,
    now: datetime,
    target: Target | None = None,
    force: bool = False,
    also: Callable[[Connection], None] = lambda connection: None,
) -> Materialized:
    """Materialize one view in a transaction, with its ledger row and what ``also`` writes.

    The view's join keys are columns of its source; ``target`` is needed where the online table names them otherwise.
    ``force`` overwrites newer online rows, too.

    Raises:
        SchemaMissing: there is no online table, or it lacks a column.
    """
    with connection.transaction():
        target = target or find_target(connection, view, view.join_keys)
        statement = upsert_statement(view, sources.entity_walk(connection, view), window, target, force=force)
        row = connection.execute(statement).fetchone()
        assert row is not None
        entities, written, older = row
        done = Materialized(
            view=view.name,
            window=window,
            entities=entities,
            written=written,
            unchanged=entities - written - older,
            older=older,
        )
        _record(connection, project, done, now)
        also(connection)
        if written:
            announce(connection, target.table)
    return done


def _record(connection: Connection, project: str, done: Materialized, now: datetime) -> None:
    connection.execute(
        query("materialize", "record"),
        {
            "project": project,
            "view": done.view,
            "incremental": done.incremental,
            "window_start": done.window.start,
            "window_end": done.window.end,
            "entities": done.entities,
            "rows_written": done.written,
            "rows_unchanged": done.unchanged,
            "rows_older": done.older,
            "finished_at": now,
        },
    )


def find_target(connection: Connection, view: View, keys: Sequence[str], *, constant_key: str | None = None) -> Target:
    """Look a view's online table up; ``keys`` are its key columns in the order of the view's join keys.

    Raises:
        SchemaMissing: it is not there, or lacks a column.
        DefinitionError: the source lacks a column.
    """
    assert view.online_table is not None
    types = columns_of(connection, view.online_table)
    if not types:
        raise SchemaMissing(
            f"view '{view.name}' has no online table {view.online_table}; run `featurectl apply`, or `feast apply`"
        )
    for name in (*keys, *(field.name for field in view.fields)):
        if name not in types:
            raise SchemaMissing(
                f"{view.online_table} has no column '{name}' of view '{view.name}'; run `featurectl apply`, or "
                "`feast apply`"
            )
    source_types = sources.column_types(connection, view)
    created = [view.created_column] if view.created_column else []
    for name in (*view.join_keys, view.timestamp_column, *created, *(field.source_column for field in view.fields)):
        if name not in source_types:
            raise DefinitionError(
                f"view '{view.name}' needs column '{name}', which {view.source_table or 'its query'} does not have; "
                f"columns: {', '.join(source_types)}"
            )
    return Target(view.online_table, tuple(keys), types, source_types, constant_key)


def upsert_statement(
    view: View, entities: sql.Composable | None, window: Window, target: Target, *, force: bool = False
) -> sql.Composed:
    """Return the statement that brings a view's online table up to date from the rows of the window.

    With a definition of ``entities`` each of them is looked up; without one the source is read once. Every value is
    cast to the type of its online column.
    """
    assigned = ["event_timestamp", "created_timestamp", *(field.name for field in view.fields)]
    columns = [view.timestamp_column, view.created_column, *(field.source_column for field in view.fields)]
    alias = "s" if entities is None else "entities"
    newest = query("materialize", "scan_newest" if entities is None else "probe_newest").format(
        entities=entities or sql.SQL(""),
        source_keys=sources.commas(map(sources.column, view.join_keys)),
        keys=_values(target, target.keys, view.join_keys, alias) if view.join_keys else _constant_key(target),
        values=_values(target, assigned, columns, "s"),
        source=sources.source(view),
        known=sources.known_keys(view),
        match=sources.same_keys(view, "entities"),
        window=sources.within(view.timestamp_column, window.start, window.end),
        order=sources.newest_first(view.timestamp_column, view.created_column),
    )
    return query("materialize", "upsert_newest").format(
        newest=newest,
        force=sql.Literal(force),
        key_names=sources.commas(map(sql.Identifier, target.keys)),
        online=table_identifier(target.table),
        assigned=sources.commas(map(sql.Identifier, assigned)),
        assigned_values=sources.commas(sources.column(name, "excluded") for name in assigned),
        existing_values=sources.commas(sources.column(name, "o") for name in assigned),
    )


def _values(target: Target, names: Sequence[str], columns: Sequence[str | None], alias: str) -> sql.Composable:
    """Return columns of the source as the online table has them; no column is a null."""
    return sources.commas(
        _as(_stored(target, column, alias, target.types[name]) if column else sql.NULL, target, name)
        for name, column in zip(names, columns, strict=True)
    )


def _constant_key(target: Target) -> sql.Composable:
    return sources.commas(_as(sql.Literal(target.constant_key), target, name) for name in target.keys)


def _as(value: sql.Composable, target: Target, name: str) -> sql.Composable:
    return sql.SQL("{}::{} AS {}").format(value, sql.SQL(target.types[name]), sql.Identifier(name))


def _stored(target: Target, column: str, alias: str, kind: str) -> sql.Composable:
    return sources.cast_to(sources.column(column, alias), target.source_types[column], kind)
