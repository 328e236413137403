"""Offline to online, inside the database: one statement a view, guarded by event time, in one transaction."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from psycopg import sql

from featurectl.core import sources
from featurectl.core.catalog import Catalog, View
from featurectl.core.db import Connection, translated_errors
from featurectl.core.locks import lock
from featurectl.core.queries import query
from featurectl.core.schema import table_identifier
from featurectl.core.times import Window, iso
from featurectl.errors import DatabaseUnreachable, FeaturectlError, Interrupted, UsageError


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
) -> list[Materialized | Failed]:
    """Materialize views one after the other, each in a transaction of its own.

    A window without a start is incremental: each entity's newest row up to the end.

    Raises:
        UsageError: the window ends in the future.
    """
    end = window.end or now
    if end > now:
        raise UsageError(f"the window ends in the future: {iso(end)} is after now, {iso(now)}; end it at or before now")
    results: list[Materialized | Failed] = []
    for index, view in enumerate(views):
        on_view(index, view)
        try:
            with translated_errors():
                results.append(_materialize_view(connection, project, view, Window(window.start, end), now))
        except (DatabaseUnreachable, Interrupted):
            raise
        except FeaturectlError as error:
            results.append(Failed(view.name, error))
    return results


def _materialize_view(connection: Connection, project: str, view: View, window: Window, now: datetime) -> Materialized:
    with lock(connection, f"materialize {project}.{view.name}"), connection.transaction():
        statement = upsert_statement(view, sources.entity_list(connection, view), window)
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
        connection.execute(
            query("materialize", "record"),
            {
                "project": project,
                "view": view.name,
                "incremental": done.incremental,
                "window_start": window.start,
                "window_end": window.end,
                "entities": entities,
                "rows_written": written,
                "rows_unchanged": done.unchanged,
                "rows_older": older,
                "finished_at": now,
            },
        )
    return done


def upsert_statement(view: View, entities: sql.Composable, window: Window) -> sql.Composed:
    """Return the statement that brings a view's online table up to date from the rows of the window."""
    assert view.online_table is not None
    names = [field.name for field in view.fields]
    assigned = ["event_timestamp", "created_timestamp", *names]
    return query("materialize", "upsert_newest").format(
        entities=entities,
        keys=sources.commas(sources.column(key, "entities") for key in view.join_keys),
        key_names=sources.commas(sql.Identifier(key) for key in view.join_keys),
        event=sources.column(view.timestamp_column),
        created=sources.created(view),
        features=_each(sql.SQL(", {}").format(sql.Identifier(name)) for name in names),
        source_features=_each(
            sql.SQL(", {} AS {}").format(sources.column(field.source_column), sql.Identifier(field.name))
            for field in view.fields
        ),
        source=sources.source(view),
        match=sources.same_keys(view, "entities"),
        window=sources.within(view.timestamp_column, window.start, window.end),
        order=sources.newest_first(view.timestamp_column, view.created_column),
        online=table_identifier(view.online_table),
        assigned=sources.commas(sql.Identifier(name) for name in assigned),
        assigned_values=sources.commas(sources.column(name, "excluded") for name in assigned),
        existing_values=sources.commas(sources.column(name, "o") for name in assigned),
    )


def _each(parts: Iterable[sql.Composable]) -> sql.Composable:
    return sql.SQL("").join(parts)
