"""Bars and features of single entities, brought down in the database to what a screen shows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

from psycopg import sql

from featurectl.core import sources
from featurectl.core.catalog import Field, Selection, View
from featurectl.core.db import Connection
from featurectl.core.entity import TIMEFRAMES, EntityId
from featurectl.core.online import key_of
from featurectl.core.queries import query
from featurectl.core.report.model import Bucket, Line, Point, Prices
from featurectl.core.times import Window

# Bars that can be told from each other on a screen; rows of a chart below the price.
MOST_BUCKETS, MOST_LINES = 240, 12
_NICE = (1, 2, 3, 4, 6, 8, 12, 24, 48, 72, 96, 168, 336, 672)


def bucket_step(timeframe: str, span: timedelta) -> timedelta:
    """Return the width of buckets: whole bars, few enough for a screen, and at least one."""
    bar = TIMEFRAMES[timeframe]
    bars = -(-(span // bar) // MOST_BUCKETS)
    return bar * next((nice for nice in _NICE if nice >= bars), bars)


def read_prices(
    connection: Connection, entity: EntityId, selections: Sequence[Selection], window: Window, *, now: datetime
) -> Prices:
    """Return the closed bars of an entity and its features in a window with both ends.

    A feature belongs to the bar at whose close it is known, and stands in that bar's bucket.
    """
    assert window.start and window.end
    bar, step = TIMEFRAMES[entity.timeframe], bucket_step(entity.timeframe, window.end - window.start)
    first_open, last_open = window.start - bar, min(window.end, now) - bar
    parameters = {
        "step": step,
        "origin": first_open,
        "symbol": entity.symbol,
        "timeframe": entity.timeframe,
        "first_open": first_open,
        "last_open": last_open,
    }
    bars = connection.execute(query("report", "price_buckets"), parameters).fetchall()
    lines = (
        line
        for chosen in selections
        for line in _lines(connection, chosen, entity, window, step, first_open)
        if line.points
    )
    return Prices(entity, first_open, step, tuple(Bucket(*row) for row in bars), tuple(lines)[:MOST_LINES])


def _lines(
    connection: Connection,
    chosen: Selection,
    entity: EntityId,
    window: Window,
    step: timedelta,
    origin: datetime,
) -> Iterator[Line]:
    view = chosen.view
    if not set(view.join_keys) <= {"symbol", "timeframe"} or not view.join_keys:
        return
    kinds = sources.column_types(connection, view)
    fields = [field for name in chosen.features if (field := view.field(name)) and sources.is_number(field, kinds)]
    if not fields:
        return
    statement = _statement(view, fields, kinds, entity, window, step, origin)
    rows = connection.execute(statement).fetchall()
    for index, field in enumerate(fields):
        points = (Point(row[0], row[1], *row[2 + 4 * index : 6 + 4 * index]) for row in rows)
        yield Line(view.name, field.name, tuple(points))


def _statement(
    view: View,
    fields: Sequence[Field],
    kinds: dict[str, str],
    entity: EntityId,
    window: Window,
    step: timedelta,
    origin: datetime,
) -> sql.Composed:
    kind = kinds.get(view.timestamp_column, "timestamptz")
    event = sources.epoch(sources.column(view.timestamp_column), kind)
    keys = zip(view.join_keys, key_of(view, entity), strict=True)
    return query("report", "feature_buckets").format(
        step=sql.Literal(step),
        event=event,
        # A bar's features are from its close.
        shift=sql.Literal(TIMEFRAMES[entity.timeframe]),
        origin=sql.Literal(origin),
        features=sources.commas(_of_feature(field, event) for field in fields),
        source=sources.source(view),
        chosen=sources.conjunction(
            [
                *(sql.SQL("{} = {}").format(sources.column(key), sql.Literal(value)) for key, value in keys),
                sources.within(view.timestamp_column, window.start, window.end, kind),
            ]
        ),
    )


def _of_feature(field: Field, event: sql.Composable) -> sql.Composable:
    value = sql.SQL("{}::float8").format(sources.column(field.source_column))
    return query("report", "values_of_bucket").format(value=sources.without_nan(value, "float8"), event=event)
