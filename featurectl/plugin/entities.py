"""What Feast names as entities - a DataFrame, a query, or nothing but a window - as the spine of a join."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

import pandas as pd
import pyarrow as pa
from feast import FeatureView
from feast.data_source import DataSource
from feast.errors import FeastEntityDFMissingColumnsError
from feast.feature_view import DUMMY_ENTITY_ID
from feast.infra.offline_stores import offline_utils
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import PostgreSQLSource
from feast.types import FeastType
from psycopg import sql

from featurectl.core import sources
from featurectl.core.arrow import ArrowConnection
from featurectl.core.offline import JoinedView, types_of
from featurectl.core.spines import QuerySpine, TableSpine
from featurectl.errors import UsageError

INSTANT = pa.timestamp("us", tz="UTC")


def source_of(source: DataSource) -> sql.Composable:
    """Return what stands after FROM for a source.

    Raises:
        UsageError: it is not one of PostgreSQL.
    """
    if not isinstance(source, PostgreSQLSource):
        raise UsageError(f"source '{source.name}' is a {type(source).__name__}; this store reads a PostgreSQLSource")
    options = source._postgres_options
    return sql.SQL(options._table) if options._table else sources.subquery(options._query)


# --- views -----------------------------------------------------------------------------------------------------------


def source_column(view: FeatureView, name: str) -> str:
    """Return the column of a view's source that its field mapping gives this name."""
    mapping: dict[str, str] = view.batch_source.field_mapping
    return next((column for column, to in mapping.items() if to == name), name)


def join_keys(view: FeatureView) -> dict[str, str]:
    """Return the columns of a view's source that are its keys, by the names that entities give them."""
    return {
        view.projection.join_key_map.get(key.name, key.name): source_column(view, key.name)
        for key in view.entity_columns
        if key.name != DUMMY_ENTITY_ID
    }


def joined_view(
    view: FeatureView, context: offline_utils.FeatureViewQueryContext, *, full_names: bool, written_before: bool
) -> JoinedView:
    """Return a view and the features asked for as a part of a join."""
    prefix = f"{context.name}__" if full_names else ""
    named = [(column, context.field_mapping.get(column, column)) for column in context.features]
    kinds = {field.name: field.dtype for field in view.features}
    return JoinedView(
        source=source_of(view.batch_source),
        keys=tuple((column, key) for key, column in join_keys(view).items()),
        timestamp_column=context.timestamp_field,
        created_column=context.created_timestamp_column or None,
        ttl=view.ttl or None,
        features=tuple((column, f"{prefix}{name}") for column, name in named),
        written_before=written_before,
        read_as={column: exact for column, name in named if (exact := _exact_type(kinds.get(name)))},
    )


def _exact_type(kind: FeastType | None) -> str | None:
    """Return the type in which a decimal keeps its digits; a ``numeric`` of any other feature is a double."""
    name = str(kind)
    if "Decimal" not in name:
        return None
    return "text" if name == "Decimal" else "_text"


# --- entities --------------------------------------------------------------------------------------------------------


def table_spine(frame: pd.DataFrame, keys: Sequence[str]) -> tuple[TableSpine, str]:
    """Return a DataFrame as a spine, and the name of its event column; a time without a zone is UTC.

    Raises:
        FeastEntityDFMissingColumnsError: it lacks a key.
        UsageError: it has two columns of a name, or one that Arrow can't hold.
    """
    if not frame.columns.is_unique:
        twice = frame.columns[frame.columns.duplicated()][0]
        raise UsageError(f"the entity DataFrame has two columns '{twice}'; rename or leave out one")
    event = event_column(dict(zip(frame.columns, frame.dtypes, strict=True)), keys)
    columns = {str(name): _instants(frame[name]) if name == event else _column(frame[name]) for name in frame.columns}
    table = pa.table(columns)
    return TableSpine(table, table.column(event), table.select(list(keys))), event


def event_column(types: dict[str, Any], keys: Sequence[str]) -> str:
    """Return the event column as Feast infers it.

    Raises:
        FeastEntityDFMissingColumnsError: a key is missing.
    """
    event: str = offline_utils.infer_event_timestamp_from_entity_df(types)
    expected = {event, *keys}
    if missing := expected - types.keys():
        raise FeastEntityDFMissingColumnsError(expected, missing)
    return event


def _instants(values: pd.Series[Any]) -> pa.Array:
    times = pd.to_datetime(values, utc=True)
    # What is written at a microsecond is known in all of its nanoseconds.
    return pa.Array.from_pandas(times.dt.floor("us").dt.as_unit("us"), type=INSTANT)


def _column(values: pd.Series[Any]) -> pa.Array:
    if values.dtype == object and any(isinstance(value, uuid.UUID) for value in values):
        values = values.map(lambda value: str(value) if isinstance(value, uuid.UUID) else value)
    try:
        array = pa.Array.from_pandas(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
        raise UsageError(f"column '{values.name}' of the entity DataFrame: {error}; convert it") from error
    return array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array


def query_spine(connection: ArrowConnection, text: str, keys: Sequence[str], *, embed: bool) -> tuple[QuerySpine, str]:
    """Return a query as a spine, and the name of its event column.

    Raises:
        FeastEntityDFMissingColumnsError: it lacks a key.
    """
    source = sources.subquery(text)
    empty = connection.schema(sql.SQL("SELECT s.* FROM {} AS s LIMIT 0").format(source)).empty_table()
    event = event_column(dict(empty.to_pandas().dtypes), keys)
    return QuerySpine(text, event, types_of(connection, source), embed=embed), event


# --- a window --------------------------------------------------------------------------------------------------------


def events_of(views: Sequence[FeatureView], start: datetime, end: datetime) -> str:
    """Return the query for every entity and event time of a window at which one of the views has a row.

    Views with fewer keys than others have no rows of their own; they are joined to those of the others.

    Raises:
        UsageError: no view has all the keys.
    """
    keys = dict.fromkeys(key for view in views for key in join_keys(view))
    whole = [view for view in views if join_keys(view).keys() == keys.keys()]
    if not whole:
        listed = "; ".join(f"{view.name}: {', '.join(join_keys(view))}" for view in views)
        raise UsageError(f"without entities one view must have the keys of all ({listed}); give an entity DataFrame")
    events: Callable[[FeatureView], sql.Composed] = lambda view: sql.SQL("SELECT {} FROM {} AS s WHERE {}").format(  # noqa: E731
        sources.commas(
            sql.SQL("{} AS {}").format(sources.column(column), sql.Identifier(name))
            for name, column in {
                "event_timestamp": source_column(view, view.batch_source.timestamp_field),
                **{key: join_keys(view)[key] for key in keys},
            }.items()
        ),
        source_of(view.batch_source),
        sources.within(source_column(view, view.batch_source.timestamp_field), start, end),
    )
    order = sources.commas(sql.Identifier(name) for name in ("event_timestamp", *keys))
    union = sql.SQL(" UNION ").join(map(events, whole))
    return sql.SQL("SELECT * FROM ({}) AS events ORDER BY {}").format(union, order).as_string()
