"""``get_historical_features``: what Feast asks for as a point-in-time join, or as the rows of a window."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import pandas as pd
import pyarrow.compute as pc
from feast import FeatureView, OnDemandFeatureView, RepoConfig
from feast.errors import InvalidEntityType
from feast.infra.offline_stores import offline_utils
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres import EntitySelectMode
from feast.infra.registry.base_registry import BaseRegistry
from feast.utils import compute_non_entity_date_range
from psycopg import sql

from featurectl.core import arrow, arrow_types, sources
from featurectl.core.arrow import ArrowConnection
from featurectl.core.offline import JoinedView, feature_columns, readable, rows_in, with_types
from featurectl.core.queries import query
from featurectl.core.retrieval import PointInTime
from featurectl.core.times import Window
from featurectl.plugin.entities import events_of, joined_view, query_spine, table_spine
from featurectl.plugin.retrieval_job import Query, Select, SpanMetadata, TimescaleRetrievalJob, connection_url

Span = tuple[datetime | None, datetime | None]


@dataclass(frozen=True)
class Asked:
    """What one call asks for: the views with their features, by Feast's names and as parts of a join."""

    config: RepoConfig
    feature_views: Sequence[FeatureView]
    references: list[str]
    views: tuple[JoinedView, ...]

    @property
    def keys(self) -> list[str]:
        return list(dict.fromkeys(key for view in self.views for _, key in view.keys))


def historical_job(
    config: RepoConfig,
    feature_views: Sequence[FeatureView],
    references: list[str],
    entities: pd.DataFrame | str | None,
    registry: BaseRegistry,
    project: str,
    *,
    full_names: bool,
    written_before: bool,
    start: datetime | None,
    end: datetime | None,
) -> TimescaleRetrievalJob:
    """Return the job for entities, or for a window where there are none."""
    # The instants it is given go into text for other stores.
    contexts = offline_utils.get_feature_view_query_context(
        references, list(feature_views), registry, project, (datetime.max, datetime.max)
    )
    by_name = {view.projection.name_to_use(): view for view in feature_views}
    chosen = [by_name[context.name] for context in contexts]
    views = [
        joined_view(view, context, full_names=full_names, written_before=written_before)
        for view, context in zip(chosen, contexts, strict=True)
    ]
    asked = Asked(config, chosen, references, tuple(views))
    if entities is None:
        joined, columns, span = _of_window(asked, *compute_non_entity_date_range(chosen, start, end))
    elif isinstance(entities, pd.DataFrame):
        joined, columns, span = _of_table(asked, entities)
    elif isinstance(entities, str):
        joined, columns, span = _of_query(asked, entities)
    else:
        raise InvalidEntityType(type(entities))
    return TimescaleRetrievalJob(
        config,
        joined,
        full_feature_names=full_names,
        on_demand_feature_views=OnDemandFeatureView.get_requested_odfvs(references, project, registry),
        metadata=SpanMetadata(references, columns, span),
    )


_Answer = tuple[Query, list[str], Callable[[], Span]]


def _of_table(asked: Asked, frame: pd.DataFrame) -> _Answer:
    spine, event = table_spine(frame, asked.keys)
    bounds = pc.min_max(spine.at).as_py()
    others = [name for name in spine.table.column_names if name != event]
    joined = PointInTime(spine, asked.views, asked.config.offline_store.join_strategy)
    return joined, others, lambda: (bounds["min"], bounds["max"])


def _of_query(asked: Asked, text: str) -> _Answer:
    store = asked.config.offline_store
    embed = store.entity_select_mode is EntitySelectMode.embed_query
    with arrow.connect(connection_url(asked.config)) as connection:
        spine, event = query_spine(connection, text, asked.keys, embed=embed)

    def span() -> Span:
        with arrow.connect(connection_url(asked.config)) as connection:
            extent = spine.summary(connection)
        return extent.first, extent.last

    others = [name for name in spine.columns if name != event]
    return PointInTime(spine, asked.views, store.join_strategy), others, span


# --- without entities ------------------------------------------------------------------------------------------------


def _of_window(asked: Asked, start: datetime, end: datetime) -> _Answer:
    """Return the rows of a window: those of one view as they are, or those of several, joined as of their events.

    As in the stock store nothing from before the window serves.
    """
    span: Callable[[], Span] = lambda: (start, end)  # noqa: E731
    if len(asked.views) == 1:
        (view,) = asked.views
        return Select(lambda connection: _rows(connection, view, Window(start, end))), asked.keys, span
    text = events_of(asked.feature_views, start, end)
    with arrow.connect(connection_url(asked.config)) as connection:
        spine, _ = query_spine(connection, text, asked.keys, embed=False)
    views = tuple(replace(view, since=start) for view in asked.views)
    return PointInTime(spine, views, asked.config.offline_store.join_strategy), asked.keys, span


def _rows(connection: ArrowConnection, view: JoinedView, window: Window) -> sql.Composed:
    view = with_types(connection, view)
    named: list[tuple[str, str]] = [(view.timestamp_column, "event_timestamp")]
    if view.created_column:
        named.append((view.created_column, "created_timestamp"))
    columns = [
        readable(sources.column(column), name, arrow_types.read_as(view.type_of(column)))
        for column, name in [*named, *view.keys]
    ]
    return query("offline", "rows_of_window").format(
        columns=sources.commas([*columns, *feature_columns(view)]),
        source=view.source,
        window=rows_in(view, window),
        order=sources.column(view.timestamp_column),
    )
