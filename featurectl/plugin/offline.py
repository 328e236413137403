"""TimescaleOfflineStore: Feast's offline store on PostgreSQL and TimescaleDB, with Arrow in and out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import pyarrow as pa
from feast import FeatureView, RepoConfig
from feast.data_source import DataSource
from feast.feature_logging import LoggingConfig, LoggingSource
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres import (
    PostgreSQLOfflineStore,
    PostgreSQLOfflineStoreConfig,
)
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import PostgreSQLSource
from feast.infra.offline_stores.offline_store import RetrievalJob
from feast.infra.registry.base_registry import BaseRegistry

from featurectl.core import arrow
from featurectl.core.offline import types_of
from featurectl.core.retrieval import Strategy
from featurectl.errors import SchemaMissing, UsageError
from featurectl.plugin.entities import source_of
from featurectl.plugin.historical import historical_job
from featurectl.plugin.monitoring import compute_metrics, newest_event
from featurectl.plugin.pulls import Pull
from featurectl.plugin.retrieval_job import TimescaleRetrievalJob, connection_url
from featurectl.plugin.store_config import TimescaleStoreConfig
from featurectl.plugin.writes import PostgreSQLLoggingDestination, write_batch, write_logs

__all__ = [
    "PostgreSQLLoggingDestination",
    "TimescaleOfflineStore",
    "TimescaleOfflineStoreConfig",
    "TimescaleRetrievalJob",
]

_log = logging.getLogger("featurectl")

# Feast's names of PostgreSQL's types; all others are read as text.
_FEAST_TYPES = {
    "bool": "boolean",
    "bytea": "bytea",
    "int2": "smallint",
    "int4": "integer",
    "int8": "bigint",
    "oid": "bigint",
    "float4": "real",
    "float8": "double precision",
    "numeric": "numeric",
    "varchar": "character varying",
    "bpchar": "character",
    "date": "date",
    "time": "time without time zone",
    "timestamp": "timestamp without time zone",
    "timestamptz": "timestamp with time zone",
    "uuid": "uuid",
    "json": "json",
    "jsonb": "jsonb",
    "_varchar": "text[]",
    "_oid": "bigint[]",
}


class TimescaleOfflineStoreConfig(TimescaleStoreConfig, PostgreSQLOfflineStoreConfig):  # type: ignore[misc]
    """Connection settings, and where point-in-time joins run; sources name their tables with their schema.

    ``join_strategy`` forces one wherever it is possible. ``entity_select_mode: embed_query`` puts an entity query into
    the join itself, without a temporary table, as a read-only replica needs it.
    """

    type: Literal["featurectl.plugin.offline.TimescaleOfflineStore"] = "featurectl.plugin.offline.TimescaleOfflineStore"
    join_strategy: Strategy = Strategy.AUTO


class TimescaleOfflineStore(PostgreSQLOfflineStore):  # type: ignore[misc]
    """Point-in-time joins by index or by Arrow, whichever costs less; pulls whose cost is that of what they return."""

    @staticmethod
    def get_historical_features(
        config: RepoConfig,
        feature_views: list[FeatureView],
        feature_refs: list[str],
        entity_df: pd.DataFrame | str | None,
        registry: BaseRegistry,
        project: str,
        full_feature_names: bool = False,
        filter_by_created_timestamp: bool = False,
        **kwargs: Any,
    ) -> RetrievalJob:
        """Join views to entities as of their instants; the entities' rows stay all there, in their order.

        Without entities, ``start_date`` and ``end_date`` name a window, and its rows are returned.
        """
        return historical_job(
            config,
            feature_views,
            feature_refs,
            entity_df,
            registry,
            project,
            full_names=full_feature_names,
            written_before=filter_by_created_timestamp,
            start=kwargs.get("start_date"),
            end=kwargs.get("end_date"),
        )

    @staticmethod
    def pull_latest_from_table_or_query(
        config: RepoConfig,
        data_source: DataSource,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None,
        start_date: datetime,
        end_date: datetime,
    ) -> RetrievalJob:
        """Return each entity's newest row of the window, both ends included."""
        named = (join_key_columns, feature_name_columns, timestamp_field, created_timestamp_column)
        return Pull(config, data_source, *named, start_date, end_date).job(newest=True)

    @staticmethod
    def pull_all_from_table_or_query(
        config: RepoConfig,
        data_source: DataSource,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None = None,
        start_date: datetime | None = None,
        end_date: datetime | None = None,
    ) -> RetrievalJob:
        """Return every row of the window, both ends included."""
        named = (join_key_columns, feature_name_columns, timestamp_field, created_timestamp_column)
        return Pull(config, data_source, *named, start_date, end_date).job(newest=False)

    @staticmethod
    def offline_write_batch(
        config: RepoConfig, feature_view: FeatureView, table: pa.Table, progress: Callable[[int], Any] | None
    ) -> None:
        """Append rows to the view's source, all of them or none."""
        write_batch(config, feature_view, table, progress)

    @staticmethod
    def write_logged_features(
        config: RepoConfig,
        data: pa.Table | Path,
        source: LoggingSource,
        logging_config: LoggingConfig,
        registry: BaseRegistry,
    ) -> None:
        """Append logs to the table of a PostgreSQLLoggingDestination, which is made where there is none."""
        write_logs(config, data, source, logging_config, registry)

    @staticmethod
    def compute_monitoring_metrics(
        config: RepoConfig,
        data_source: DataSource,
        feature_columns: list[tuple[str, str]],
        timestamp_field: str,
        start_date: datetime | None = None,
        end_date: datetime | None = None,
        histogram_bins: int = 20,
        top_n: int = 10,
    ) -> list[dict[str, Any]]:
        """Return statistics of the source's columns over a window, computed in the database."""
        window = (timestamp_field, start_date, end_date)
        return compute_metrics(config, data_source, feature_columns, *window, bins=histogram_bins, top=top_n)

    @staticmethod
    def get_monitoring_max_timestamp(
        config: RepoConfig, data_source: DataSource, timestamp_field: str
    ) -> datetime | None:
        """Return the source's latest event time."""
        return newest_event(config, data_source, timestamp_field)

    def validate_data_source(self, config: RepoConfig, data_source: DataSource) -> None:
        """Look whether the source has the columns it names; one that can't be read yet is logged, it may come later.

        A source of another kind validates itself: a repository may have some that this store never reads.

        Raises:
            UsageError: a column is missing.
        """
        if not isinstance(data_source, PostgreSQLSource):
            super().validate_data_source(config, data_source)
            return
        try:
            columns = _types_of(config, data_source)
        except SchemaMissing as error:
            _log.warning("source '%s' can't be read yet: %s", data_source.name, error)
            return
        for name in (data_source.timestamp_field, data_source.created_timestamp_column):
            if name and name not in columns:
                raise UsageError(f"source '{data_source.name}' has no column '{name}'; columns: {', '.join(columns)}")

    def get_table_column_names_and_types_from_data_source(
        self, config: RepoConfig, data_source: DataSource
    ) -> Iterable[tuple[str, str]]:
        """Return the source's columns and their types by the names Feast knows; what it does not know is text."""
        if not isinstance(data_source, PostgreSQLSource):
            columns: Iterable[tuple[str, str]] = super().get_table_column_names_and_types_from_data_source(
                config, data_source
            )
            return columns
        return [(name, _feast_type(kind)) for name, kind in _types_of(config, data_source).items()]


def _types_of(config: RepoConfig, source: DataSource) -> dict[str, str]:
    with arrow.connect(connection_url(config)) as connection:
        return types_of(connection, source_of(source))


def _feast_type(kind: str) -> str:
    if kind in _FEAST_TYPES:
        return _FEAST_TYPES[kind]
    if kind.startswith("_"):
        return f"{_FEAST_TYPES.get(kind[1:], 'text')}[]"
    return "text"
