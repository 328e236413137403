"""TimescaleRetrievalJob: what Feast asks for, not run yet; it comes out as Arrow, whole or as a stream."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

import pandas as pd
import pyarrow as pa
import pyarrow.parquet
from feast import OnDemandFeatureView, RepoConfig
from feast.errors import SavedDatasetLocationAlreadyExists
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import SavedDatasetPostgreSQLStorage
from feast.infra.offline_stores.offline_store import RetrievalJob, RetrievalMetadata
from feast.saved_dataset import SavedDatasetStorage
from psycopg import sql

from featurectl.core import arrow, arrow_types, writing
from featurectl.core.arrow import ArrowConnection, Batches
from featurectl.core.db import session_url
from featurectl.errors import UsageError


class Query(Protocol):
    """What a job runs, in a transaction: :class:`featurectl.core.retrieval.PointInTime` or a :class:`Select`."""

    def read(self, connection: ArrowConnection, *, whole: bool = False) -> Batches: ...

    def statement(self, connection: ArrowConnection) -> sql.Composed: ...

    def schema(self, connection: ArrowConnection) -> pa.Schema: ...


@dataclass(frozen=True, slots=True)
class Select:
    """A statement that is built when it runs: it depends on the types and indexes of its source."""

    statement: Callable[[ArrowConnection], sql.Composed]

    def read(self, connection: ArrowConnection, *, whole: bool = False) -> Batches:
        """Run the statement, within a transaction of the connection's; it is read the same way, whole or not."""
        return connection.read(self.statement(connection))

    def schema(self, connection: ArrowConnection) -> pa.Schema:
        return arrow_types.without_notes(connection.schema(self.statement(connection)))


class SpanMetadata(RetrievalMetadata):  # type: ignore[misc]
    """Metadata whose first and last instants are looked up when somebody asks."""

    def __init__(
        self,
        features: list[str],
        keys: list[str],
        span: Callable[[], tuple[datetime | None, datetime | None]],
    ) -> None:
        self.features = features
        self.keys = keys
        self._span = span
        self._found: tuple[datetime | None, datetime | None] | None = None

    @property
    def min_event_timestamp(self) -> datetime | None:
        return self._bounds()[0]

    @property
    def max_event_timestamp(self) -> datetime | None:
        return self._bounds()[1]

    def _bounds(self) -> tuple[datetime | None, datetime | None]:
        if self._found is None:
            self._found = self._span()
        return self._found


class TimescaleRetrievalJob(RetrievalJob):  # type: ignore[misc]
    """A query that has not run yet, and that may run more than once.

    ``to_arrow`` fetches it whole, ``to_df`` converts that; ``to_batches`` and ``to_parquet`` stream it in bounded
    memory.
    """

    def __init__(
        self,
        config: RepoConfig,
        query: Query,
        *,
        full_feature_names: bool = False,
        on_demand_feature_views: Sequence[OnDemandFeatureView] = (),
        metadata: RetrievalMetadata | None = None,
    ) -> None:
        self._config = config
        self._query = query
        self._full_feature_names = full_feature_names
        self._on_demand_feature_views = list(on_demand_feature_views)
        self._metadata = metadata

    @property
    def full_feature_names(self) -> bool:
        return self._full_feature_names

    @property
    def on_demand_feature_views(self) -> list[OnDemandFeatureView]:
        return self._on_demand_feature_views

    @property
    def metadata(self) -> RetrievalMetadata | None:
        return self._metadata

    def to_sql(self) -> str:
        """Return one statement that gives the same rows in any session.

        The rows of an entity DataFrame stand in it as VALUES: good for some ten thousand of them. Features of
        on-demand views are not in it.
        """
        with arrow.connect(connection_url(self._config)) as connection, connection.transaction():
            return self._query.statement(connection).as_string()

    def schema(self) -> pa.Schema:
        """Return the result's columns, those of on-demand views excepted, without running the query."""
        with arrow.connect(connection_url(self._config)) as connection, connection.transaction():
            return self._query.schema(connection)

    def to_batches(self, timeout: float | None = None) -> Iterator[pa.RecordBatch]:
        """Run the query and give its result as it arrives, one batch at least; ``timeout`` is in seconds.

        The connection closes when the result ends, or the iterator is closed.
        """
        with arrow.connect(connection_url(self._config)) as connection, connection.transaction(timeout=timeout):
            result = self._query.read(connection)
            empty = True
            for batch in result:
                empty = False
                yield from self._with_on_demand(pa.Table.from_batches([batch]))
            if empty:
                yield from self._with_on_demand(result.schema.empty_table()) or [_no_rows(result.schema)]

    def to_parquet(self, path: str | Path, timeout: float | None = None) -> int:
        """Write the result to a Parquet file as it arrives, in bounded memory; return the number of its rows.

        The file is there when it is whole; a failure leaves what was there before.
        """
        rows = 0
        batches = self.to_batches(timeout)
        first = next(batches)
        part = Path(path).with_name(f".{Path(path).name}.{uuid.uuid4().hex}.part")
        try:
            with pyarrow.parquet.ParquetWriter(part, first.schema) as writer:
                for batch in _from(first, batches):
                    writer.write_batch(batch.cast(first.schema))
                    rows += batch.num_rows
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
        return rows

    def _with_on_demand(self, table: pa.Table) -> list[pa.RecordBatch]:
        """Add the features of on-demand views to a part of the result, as Feast does it to the whole."""
        if self._on_demand_feature_views:
            table = _Part(self, table).to_arrow()
        batches: list[pa.RecordBatch] = table.combine_chunks().to_batches()
        return batches

    def _to_df_internal(self, timeout: int | None = None) -> pd.DataFrame:
        frame: pd.DataFrame = self._to_arrow_internal(timeout).to_pandas()
        return frame

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:
        with arrow.connect(connection_url(self._config)) as connection, connection.transaction(timeout=timeout):
            # Feast converts no more than a table's first batch.
            return self._query.read(connection, whole=True).table().combine_chunks()

    def persist(self, storage: SavedDatasetStorage, allow_overwrite: bool = False, timeout: int | None = None) -> None:
        """Save the result as a table of the same database; readers of one it replaces never see it missing.

        Raises:
            SavedDatasetLocationAlreadyExists: there is one already, and ``allow_overwrite`` is not given.
        """
        if not isinstance(storage, SavedDatasetPostgreSQLStorage):
            raise UsageError(f"a dataset is saved in a SavedDatasetPostgreSQLStorage, not {type(storage).__name__}")
        name = storage.postgres_options._table
        batches = self.to_batches(timeout)
        with arrow.connect(connection_url(self._config)) as connection, connection.transaction():
            if not allow_overwrite and writing.table_exists(connection, name):
                raise SavedDatasetLocationAlreadyExists(name)
            first = next(batches)
            writing.save(connection, name, Batches(first.schema, _from(first, batches)))


class _Part(RetrievalJob):  # type: ignore[misc]
    """Some rows of a job's result, for Feast to compute on-demand views over."""

    def __init__(self, job: TimescaleRetrievalJob, table: pa.Table) -> None:
        self._job = job
        self._table = table

    @property
    def full_feature_names(self) -> bool:
        return self._job.full_feature_names

    @property
    def on_demand_feature_views(self) -> list[OnDemandFeatureView]:
        return self._job.on_demand_feature_views

    @property
    def metadata(self) -> RetrievalMetadata | None:
        return self._job.metadata

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:
        return self._table


def connection_url(config: RepoConfig) -> str:
    """Return the offline store's database as ADBC connects to it."""
    store = config.offline_store
    return session_url(store.conninfo(), connect_timeout=store.connect_timeout)


def _from(first: pa.RecordBatch, rest: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    yield first
    yield from rest


def _no_rows(schema: pa.Schema) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([pa.array([], field.type) for field in schema], schema=schema)
