"""Statistics of a source's columns, computed in the database as Feast's stock store does it, but always in UTC."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from feast import RepoConfig
from feast.data_source import DataSource
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres import (
    _sql_categorical_stats,
    _sql_numeric_stats,
)
from feast.infra.offline_stores.offline_utils import get_timestamp_filter_sql
from psycopg import sql

from featurectl.plugin.entities import source_of
from featurectl.plugin.store_config import connected


def compute_metrics(
    config: RepoConfig,
    source: DataSource,
    columns: Sequence[tuple[str, str]],
    timestamp_field: str,
    start: datetime | None,
    end: datetime | None,
    *,
    bins: int,
    top: int,
) -> list[dict[str, Any]]:
    """Return Feast's metrics of the ``numeric`` and of the ``categorical`` columns over a window."""
    relation = source_of(source).as_string()
    window = get_timestamp_filter_sql(
        start, end, timestamp_field, tz=UTC, cast_style="timestamptz", date_time_separator=" "
    )
    numeric = [name for name, kind in columns if kind == "numeric"]
    with connected(config.offline_store) as connection:
        metrics = _sql_numeric_stats(connection, relation, numeric, window or "TRUE", bins) if numeric else []
        metrics += [
            _sql_categorical_stats(connection, relation, name, window or "TRUE", top)
            for name, kind in columns
            if kind == "categorical"
        ]
    return list(metrics)


def newest_event(config: RepoConfig, source: DataSource, timestamp_field: str) -> datetime | None:
    """Return the latest event time, or ``None`` where there are no rows."""
    statement = sql.SQL("SELECT max({})::timestamptz FROM {} AS s")
    with connected(config.offline_store) as connection:
        row = connection.execute(statement.format(sql.Identifier(timestamp_field), source_of(source))).fetchone()
    assert row is not None
    newest: datetime | None = row[0]
    return newest
