"""What the history of features holds: counts, moments and quartiles, one statement a view, in the database."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from psycopg import sql

from featurectl.core import sources
from featurectl.core.catalog import Field, Selection
from featurectl.core.db import Connection
from featurectl.core.entity import EntityId
from featurectl.core.online import key_of
from featurectl.core.queries import query
from featurectl.core.times import ALWAYS, Window

NUMBERS = (*sources.FLOATS, "smallint", "integer", "bigint", "numeric")


@dataclass(frozen=True, slots=True)
class FeatureStatistics:
    """One feature over the rows of its view's source: all of them, or those of some entities and a window.

    ``count`` counts the rows, ``nulls`` those without a value; a NaN is none. ``std`` is the sample's (n - 1), ``p25``,
    ``p50`` and ``p75`` lie between values as numpy's do. What there is nothing to say of is ``None``: of a feature that
    is no number, there are counts alone. The instants and ``entities`` are those of the rows, values or not.
    """

    view: str
    feature: str
    value_type: str
    count: int
    nulls: int
    null_rate: float | None
    mean: float | None
    std: float | None
    min: float | None
    p25: float | None
    p50: float | None
    p75: float | None
    max: float | None
    first_event_timestamp: datetime | None
    last_event_timestamp: datetime | None
    entities: int


def feature_statistics(
    connection: Connection,
    selections: Sequence[Selection],
    entities: Sequence[EntityId] | None = None,
    window: Window = ALWAYS,
) -> list[FeatureStatistics]:
    """Return the statistics of features, in their order; without ``entities`` those of all.

    Raises:
        UsageError: Feast makes a view's features from its source; or it is keyed by what entity ids do not give.
    """
    return [one for chosen in selections for one in _of_view(connection, chosen, entities, window)]


def _of_view(
    connection: Connection, chosen: Selection, entities: Sequence[EntityId] | None, window: Window
) -> Iterator[FeatureStatistics]:
    view = chosen.view
    fields = [field for name in chosen.features if (field := view.field(name))]
    types = sources.column_types(connection, view)
    row = connection.execute(_statement(chosen, fields, types, entities, window)).fetchone()
    assert row is not None
    count, first, last, keys = row[:4]
    rest = iter(row[4:])
    for field in fields:
        values = next(rest)
        mean = std = least = greatest = None
        quartiles: Sequence[float | None] | None = None
        if _is_number(field, types):
            mean, std, least, greatest, quartiles = (next(rest) for _ in range(5))
        p25, p50, p75 = quartiles or (None, None, None)
        yield FeatureStatistics(
            view=view.name,
            feature=field.name,
            value_type=field.value_type,
            count=count,
            nulls=count - values,
            null_rate=(count - values) / count if count else None,
            mean=mean,
            std=std,
            min=least,
            p25=p25,
            p50=p50,
            p75=p75,
            max=greatest,
            first_event_timestamp=first,
            last_event_timestamp=last,
            entities=keys,
        )


def _statement(
    chosen: Selection,
    fields: Sequence[Field],
    types: dict[str, str],
    entities: Sequence[EntityId] | None,
    window: Window,
) -> sql.Composed:
    view = chosen.view
    kind = types.get(view.timestamp_column, "timestamptz")
    conditions = [sources.within(view.timestamp_column, window.start, window.end, kind)]
    if entities is not None and view.join_keys:
        wanted = zip(*{key_of(view, entity): None for entity in entities}, strict=True)
        conditions.append(
            query("statistics", "among_entities").format(
                keys=sources.commas(map(sources.column, view.join_keys)),
                values=sources.commas(sql.SQL("{}::text[]").format(sql.Literal(list(values))) for values in wanted),
            )
        )
    return query("statistics", "of_view").format(
        event=sources.epoch(sources.column(view.timestamp_column), kind),
        keys=sources.commas(map(sources.column, view.join_keys)) if view.join_keys else sql.SQL("1"),
        source=sources.source(view),
        chosen=sources.conjunction(conditions),
        features=sources.commas(_of_feature(field, types) for field in fields),
    )


def _of_feature(field: Field, types: dict[str, str]) -> sql.Composable:
    value = sources.column(field.source_column)
    if not _is_number(field, types):
        return sql.SQL("count({})").format(value)
    number = sources.without_nan(sql.SQL("{}::float8").format(value), "float8")
    return query("statistics", "of_number").format(value=number)


def _is_number(field: Field, types: dict[str, str]) -> bool:
    return types.get(field.source_column, field.column_type) in NUMBERS
