"""TimescaleOfflineStore: Feast's offline store; joins run in the database and come out as Arrow."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

import pandas as pd
import pyarrow as pa
from feast import FeatureView, OnDemandFeatureView, RepoConfig
from feast.data_source import DataSource
from feast.feature_view import DUMMY_ENTITY_ID, DUMMY_ENTITY_VAL
from feast.infra.offline_stores import offline_utils
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres import (
    PostgreSQLOfflineStore,
    PostgreSQLOfflineStoreConfig,
)
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import (
    PostgreSQLSource,
    SavedDatasetPostgreSQLStorage,
)
from feast.infra.offline_stores.offline_store import RetrievalJob, RetrievalMetadata
from feast.infra.registry.base_registry import BaseRegistry
from feast.saved_dataset import SavedDatasetStorage
from feast.utils import compute_non_entity_date_range
from psycopg import sql

from featurectl.core import arrow, offline, sources
from featurectl.core.db import session_url
from featurectl.errors import UsageError
from featurectl.plugin.store_config import TimescaleStoreConfig

SPINE = "featurectl_spine"
ROW = "__featurectl_row"


class TimescaleOfflineStoreConfig(TimescaleStoreConfig, PostgreSQLOfflineStoreConfig):  # type: ignore[misc]
    """Connection settings; sources name their tables with their schema."""

    type: Literal["featurectl.plugin.offline.TimescaleOfflineStore"] = "featurectl.plugin.offline.TimescaleOfflineStore"


@dataclass(frozen=True, slots=True)
class _Entities:
    """A spine on its way into the join: a table to upload, or a query of the user's."""

    columns: tuple[str, ...]
    event_column: str
    upload: pa.Table | None
    relation: sql.Composable
    order: tuple[str, ...]


class TimescaleRetrievalJob(RetrievalJob):  # type: ignore[misc]
    """A query that has not run yet. ``to_arrow`` fetches it as Arrow, ``to_df`` converts that."""

    def __init__(
        self,
        config: RepoConfig,
        statement: sql.Composable,
        *,
        upload: pa.Table | None = None,
        full_feature_names: bool = False,
        on_demand_feature_views: Sequence[OnDemandFeatureView] = (),
        metadata: RetrievalMetadata | None = None,
    ) -> None:
        self._config = config
        self._statement = statement
        self._upload = upload
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
        """Return the statement; the spine stands in the temporary table it names."""
        return self._statement.as_string()

    def _to_df_internal(self, timeout: int | None = None) -> pd.DataFrame:
        frame: pd.DataFrame = self._to_arrow_internal(timeout).to_pandas()
        return frame

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:
        with self._connected() as connection:
            return connection.table(self._statement)

    @contextlib.contextmanager
    def _connected(self) -> Iterator[arrow.ArrowConnection]:
        with arrow.connect(_url(self._config)) as connection:
            if self._upload is not None:
                connection.ingest(SPINE, self._upload)
            yield connection

    def persist(self, storage: SavedDatasetStorage, allow_overwrite: bool = False, timeout: int | None = None) -> None:
        """Write the result to a table of the same database."""
        if not isinstance(storage, SavedDatasetPostgreSQLStorage):
            raise UsageError(f"a dataset is saved in a SavedDatasetPostgreSQLStorage, not {type(storage).__name__}")
        mode: Literal["replace", "create"] = "replace" if allow_overwrite else "create"
        with arrow.connect(_url(self._config)) as connection:
            connection.save(storage.postgres_options._table, self.to_arrow(), mode=mode)


class TimescaleOfflineStore(PostgreSQLOfflineStore):  # type: ignore[misc]
    """Stock behaviour where it is not the slow part; reads and joins are ours."""

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
        """Join views to a spine; its rows stay all there, in their order."""
        if entity_df is None:
            entity_df = _every_event(feature_views, kwargs.get("start_date"), kwargs.get("end_date"))
        entities = _entities(config, entity_df)
        span = _span(entities)
        contexts = offline_utils.get_feature_view_query_context(feature_refs, feature_views, registry, project, span)
        by_name = {view.projection.name_to_use(): view for view in feature_views}
        views = [
            _joined(context, by_name[context.name], full_feature_names, entities, filter_by_created_timestamp)
            for context in contexts
        ]
        needed = {spine_column for view in views for _, spine_column in view.keys}
        offline_utils.assert_expected_columns_in_entity_df(
            dict.fromkeys(entities.columns), needed, entities.event_column
        )
        statement = offline.point_in_time(
            entities.relation, entities.columns, entities.event_column, views, entities.order
        )
        return TimescaleRetrievalJob(
            config,
            statement,
            upload=entities.upload,
            full_feature_names=full_feature_names,
            on_demand_feature_views=OnDemandFeatureView.get_requested_odfvs(feature_refs, project, registry),
            metadata=RetrievalMetadata(
                features=feature_refs,
                keys=[name for name in entities.columns if name != entities.event_column],
                min_event_timestamp=span[0],
                max_event_timestamp=span[1],
            ),
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
        keys = [sources.column(key) for key in join_key_columns]
        distinct = sql.SQL("DISTINCT ON ({}) ").format(sources.commas(keys)) if keys else sql.SQL("")
        statement = sql.SQL("SELECT {}{} FROM {} AS s WHERE {} ORDER BY {}{}").format(
            distinct,
            _columns(join_key_columns, feature_name_columns, timestamp_field, created_timestamp_column),
            _from(data_source),
            sources.within(timestamp_field, start_date, end_date),
            sources.commas([*keys, sources.newest_first(timestamp_field, created_timestamp_column)]),
            sql.SQL("" if keys else " LIMIT 1"),
        )
        return TimescaleRetrievalJob(config, statement)

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
        statement = sql.SQL("SELECT {} FROM {} AS s WHERE {}").format(
            _columns(join_key_columns, feature_name_columns, timestamp_field, created_timestamp_column),
            _from(data_source),
            sources.within(timestamp_field, start_date, end_date),
        )
        return TimescaleRetrievalJob(config, statement)


def _url(config: RepoConfig) -> str:
    return session_url(config.offline_store.conninfo())


def _from(source: DataSource) -> sql.Composable:
    if not isinstance(source, PostgreSQLSource):
        raise UsageError(f"source '{source.name}' is a {type(source).__name__}; this store reads a PostgreSQLSource")
    options = source._postgres_options
    return sql.SQL(options._table) if options._table else sources.subquery(options._query)


def _columns(keys: list[str], features: list[str], event: str, created: str | None) -> sql.Composable:
    # No features named means all columns: a transformation needs them.
    names = [*keys, *features, event, *([created] if created else [])]
    columns: list[sql.Composable] = [sources.column(name) for name in names] if features else [sql.SQL("s.*")]
    if not keys:
        columns.append(sql.SQL("{} AS {}").format(sql.Literal(DUMMY_ENTITY_VAL), sql.Identifier(DUMMY_ENTITY_ID)))
    return sources.commas(columns)


def _entities(config: RepoConfig, entity_df: pd.DataFrame | str) -> _Entities:
    if isinstance(entity_df, str):
        relation = sources.subquery(entity_df.rstrip().removesuffix(";"))
        statement = sql.SQL("SELECT * FROM {} AS spine LIMIT 0").format(relation)
        with arrow.connect(_url(config)) as connection:
            empty = connection.table(statement)
        columns = tuple(empty.column_names)
        event = offline_utils.infer_event_timestamp_from_entity_df(_dtypes(empty.to_pandas()))
        return _Entities(columns, event, None, relation, (event,))
    event = offline_utils.infer_event_timestamp_from_entity_df(_dtypes(entity_df))
    upload = _as_arrow(entity_df, event)
    return _Entities(tuple(entity_df.columns), event, upload, sql.Identifier(SPINE), (ROW,))


def _every_event(views: Sequence[FeatureView], start: datetime | None, end: datetime | None) -> str:
    """Return the query for a spine of the views' own rows: Feast asks for it where it has a window and no entities.

    Raises:
        UsageError: the views have different keys, so that none of their rows is a row for all of them.
    """
    keys = _join_keys(views[0])
    if any(set(_join_keys(view)) != set(keys) for view in views):
        listed = "; ".join(f"{view.name}: {', '.join(_join_keys(view))}" for view in views)
        raise UsageError(f"without entities all views must have the same keys ({listed}); give an entity DataFrame")
    start, end = compute_non_entity_date_range(list(views), start_date=start, end_date=end)
    events = [
        sql.SQL("SELECT {}{} AS event_timestamp FROM {} AS s WHERE {}").format(
            sql.SQL("").join(sql.SQL("{}, ").format(sources.column(key)) for key in keys),
            sources.column(view.batch_source.timestamp_field),
            _from(view.batch_source),
            sources.within(view.batch_source.timestamp_field, start, end),
        )
        for view in views
    ]
    return sql.SQL(" UNION ").join(events).as_string()


def _join_keys(view: FeatureView) -> list[str]:
    return [key for key in view.join_keys if key != DUMMY_ENTITY_ID]


def _dtypes(frame: pd.DataFrame) -> dict[str, Any]:
    return dict(zip(frame.columns, frame.dtypes, strict=True))


def _as_arrow(frame: pd.DataFrame, event: str) -> pa.Table:
    """Return the spine with UTC microseconds and plain strings, and a row number to keep its order."""
    times = pd.to_datetime(frame[event], utc=True).dt.as_unit("us")
    table = pa.Table.from_pandas(frame.assign(**{event: times}), preserve_index=False)
    for index, column in enumerate(table.schema):
        if pa.types.is_large_string(column.type):
            table = table.set_column(index, column.name, table.column(index).cast(pa.string()))
    return table.append_column(ROW, pa.array(range(len(frame)), pa.int64()))


def _span(entities: _Entities) -> tuple[datetime, datetime]:
    if entities.upload is None or not entities.upload.num_rows:
        return datetime.min.replace(year=1970), datetime.max.replace(year=9000)
    times = entities.upload.column(entities.event_column).to_pandas()
    return times.min().to_pydatetime(), times.max().to_pydatetime()


def _joined(
    context: Any, view: FeatureView, full_names: bool, entities: _Entities, filter_by_created: bool
) -> offline.JoinedView:
    pairs = [selection.split(" AS ") for selection in context.entity_selections]
    created = context.created_timestamp_column
    prefix = f"{context.name}__" if full_names else ""
    names: Callable[[str], str] = lambda column: prefix + context.field_mapping.get(column, column)  # noqa: E731
    return offline.JoinedView(
        source=_from(view.batch_source),
        keys=tuple((column, key) for column, key in pairs if not column.startswith("__dummy")),
        timestamp_column=context.timestamp_field,
        order=sources.newest_first(context.timestamp_field, created),
        ttl=timedelta(seconds=context.ttl) if context.ttl else None,
        features=tuple((column, names(column)) for column in context.features),
        not_after=(created, entities.event_column) if filter_by_created and created else None,
    )
