"""Rows into the offline store: into a view's source, and into the table of a service's logs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset
from feast import FeatureView, RepoConfig
from feast.data_source import DataSource
from feast.feature_logging import LoggingConfig, LoggingDestination, LoggingSource
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import PostgreSQLSource
from feast.infra.registry.base_registry import BaseRegistry
from feast.protos.feast.core.FeatureService_pb2 import LoggingConfig as LoggingConfigProto
from psycopg import sql

from featurectl.core import arrow, writing
from featurectl.core.arrow import Batches
from featurectl.core.offline import types_of
from featurectl.errors import UsageError
from featurectl.plugin.entities import join_keys, source_column, source_of
from featurectl.plugin.retrieval_job import connection_url


class PostgreSQLLoggingDestination(LoggingDestination):  # type: ignore[misc]
    """A table, ``table`` or ``schema.table``, to which served features are logged; it is made where there is none."""

    _proto_kind = "featurectl.postgresql"

    def __init__(self, *, table_name: str) -> None:
        self.table_name = table_name

    @classmethod
    def from_proto(cls, config_proto: LoggingConfigProto) -> LoggingDestination:
        return cls(table_name=config_proto.custom_destination.config["table_name"])

    def to_proto(self) -> LoggingConfigProto:
        destination = LoggingConfigProto.CustomDestination(
            kind=self._proto_kind, config={"table_name": self.table_name}
        )
        return LoggingConfigProto(custom_destination=destination)

    def to_data_source(self) -> DataSource:
        return PostgreSQLSource(table=self.table_name)


def write_logs(
    config: RepoConfig,
    data: pa.Table | Path,
    source: LoggingSource,
    logging_config: LoggingConfig,
    registry: BaseRegistry,
) -> None:
    """Append logs, all of them or none; a directory of Parquet files is read as it is written."""
    destination = logging_config.destination
    if not isinstance(destination, PostgreSQLLoggingDestination):
        raise UsageError(f"logs go to a PostgreSQLLoggingDestination, not to a {type(destination).__name__}")
    schema = source.get_schema(registry)
    if isinstance(data, Path):
        stored = pyarrow.dataset.dataset(data, format="parquet", schema=schema)
        rows: pa.Table | Batches = Batches(schema, stored.to_batches())
    else:
        rows = data.select(schema.names).cast(schema)
    table = sql.SQL(destination.table_name)
    with arrow.connect(connection_url(config)) as connection, connection.transaction():
        writing.ensure_table(connection, table, schema)
        writing.append(connection, table, rows, name=destination.table_name)


def write_batch(config: RepoConfig, view: FeatureView, table: pa.Table, progress: Callable[[int], Any] | None) -> None:
    """Append rows to a view's source, all of them or none.

    Columns go by the names of the source, or by those that its field mapping gives them.

    Raises:
        UsageError: the source has no such column, a key, the event time or a feature is missing, or the source is a
            query of more than one table.
    """
    source = view.batch_source
    with arrow.connect(connection_url(config)) as connection, connection.transaction():
        relation = source_of(source)
        rows = _by_column(table, view, types_of(connection, relation))
        if source._postgres_options._table:
            writing.append(connection, relation, rows, name=source._postgres_options._table)
        else:
            with writing.writable_query(connection, source._postgres_options._query, name=source.name) as target:
                writing.append(connection, target, rows, name=f"source '{source.name}'")
    if progress:
        progress(table.num_rows)


def _by_column(table: pa.Table, view: FeatureView, columns: dict[str, str]) -> pa.Table:
    """Return the table under the source's names, without the index that pandas may have left in it."""
    table = table.select([name for name in table.column_names if not name.startswith("__index_level_")])
    names = [name if name in columns else source_column(view, name) for name in table.column_names]
    mapped = [view.batch_source.timestamp_field, *(feature.name for feature in view.features)]
    source_names = [*join_keys(view).values(), *(source_column(view, name) for name in mapped)]
    missing = [name for name in source_names if name not in names]
    if missing:
        raise UsageError(
            f"rows for view '{view.name}' lack the column '{missing[0]}'; columns: {', '.join(table.column_names)}"
        )
    return table.rename_columns(names)
