"""The rows of views by cells of time: how many there are, and how many lack a value."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime

from psycopg import sql

from featurectl.core import sources
from featurectl.core.catalog import Field, Selection, View
from featurectl.core.db import Connection, translated_errors
from featurectl.core.entity import EntityId
from featurectl.core.queries import query
from featurectl.core.report.model import Cells, NullRow, Nulls
from featurectl.core.runs.retries import ends_all
from featurectl.core.times import Window
from featurectl.errors import FeaturectlError

MOST_FEATURES = 80


def read_nulls(
    connection: Connection, selections: Sequence[Selection], ids: Sequence[EntityId], window: Window, cells: Cells
) -> Nulls:
    """Count rows and nulls of features in a window, of these entities or symbols, or of all.

    Its cost depends on the rows of the window. A view that can't be read does not hide the others.

    Raises:
        DatabaseUnreachable, Interrupted: nothing can be read any more.
    """
    rows: list[NullRow] = []
    unreadable: list[tuple[str, FeaturectlError]] = []
    for chosen in selections:
        try:
            with translated_errors(), connection.transaction():
                rows += _of_view(connection, chosen, ids, window, cells)
        except FeaturectlError as error:
            if ends_all(error):
                raise
            unreadable.append((chosen.view.name, error))
    return Nulls(cells, tuple(rows), tuple(unreadable))


def _of_view(
    connection: Connection, chosen: Selection, ids: Sequence[EntityId], window: Window, cells: Cells
) -> Iterator[NullRow]:
    view = chosen.view
    fields = [field for name in chosen.features if (field := view.field(name))]
    kinds = sources.column_types(connection, view)
    found = connection.execute(_statement(connection, view, fields, kinds, ids, window, cells)).fetchall()
    rows, nulls = [0] * cells.count, [[0] * cells.count for _ in fields]
    for cell, count, *values in found:
        # The first row may be of the window's very start.
        place = max(0, (cell - cells.first) // cells.step)
        rows[place] += count
        for counts, known in zip(nulls, values, strict=True):
            counts[place] += count - known
    for field, counts in zip(fields, nulls, strict=True):
        yield NullRow(view.name, field.name, tuple(rows), tuple(counts))


def _statement(
    connection: Connection,
    view: View,
    fields: Sequence[Field],
    kinds: dict[str, str],
    ids: Sequence[EntityId],
    window: Window,
    cells: Cells,
) -> sql.Composed:
    kind = kinds.get(view.timestamp_column, "timestamptz")
    names = [sql.Identifier(f"values_{index}") for index in range(len(fields))]
    values = (
        sources.without_nan(sources.column(field.source_column), kinds.get(field.source_column, field.column_type))
        for field in fields
    )
    return query("report", "rows_by_cell").format(
        entities=sources.entity_list(connection, view),
        sums=sources.commas(sql.SQL("sum(r.{})::bigint").format(name) for name in names),
        step=sql.Literal(cells.step),
        origin=sql.Literal(cells.first),
        event=sources.epoch(sources.column(view.timestamp_column), kind),
        counts=sources.commas(
            sql.SQL("count({}) AS {}").format(value, name) for value, name in zip(values, names, strict=True)
        ),
        source=sources.source(view),
        match=sources.same_keys(view, "entities"),
        within=sources.within(view.timestamp_column, window.start, window.end, kind),
        chosen=chosen_keys(view, ids),
    )


def chosen_keys(view: View, ids: Sequence[EntityId], alias: str = "entities") -> sql.Composable:
    """Hold the keys of ``alias`` to these entities, or symbols in all their timeframes; no ids are all.

    A view without a symbol has no entities of theirs.
    """
    if not ids:
        return sql.SQL("TRUE")
    if "symbol" not in view.join_keys:
        return sql.SQL("FALSE")
    choices = (
        sources.conjunction(
            sql.SQL("{} = {}").format(sources.column(key, alias), sql.Literal(getattr(one, key)))
            for key in ("symbol", "timeframe")
            if key in view.join_keys and getattr(one, key)
        )
        for one in ids
    )
    return sql.SQL("({})").format(sql.SQL(" OR ").join(choices))


def newest_row(connection: Connection, view: View, ids: Sequence[EntityId], now: datetime) -> datetime | None:
    """Return when the newest row of a view is from, none after ``now``; its cost depends on the number of entities."""
    kind = sources.column_types(connection, view).get(view.timestamp_column, "timestamptz")
    statement = query("report", "newest_row").format(
        entities=sources.entity_list(connection, view),
        event=sources.epoch(sources.column(view.timestamp_column), kind),
        source=sources.source(view),
        match=sources.same_keys(view, "entities"),
        within=sources.within(view.timestamp_column, None, now, kind),
        order=sources.newest_first(view.timestamp_column, None),
        chosen=chosen_keys(view, ids),
    )
    row = connection.execute(statement).fetchone()
    return row[0] if row else None
