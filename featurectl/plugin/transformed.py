"""Views whose features Feast makes from their source: its own local plan, with nodes of ours where those go wrong."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
import pyarrow as pa
from feast import FeatureView
from feast.aggregation import aggregation_specs_to_agg_ops
from feast.feature_view import DUMMY_ENTITY_ID
from feast.infra.common.materialization_job import MaterializationTask
from feast.infra.common.retrieval_task import HistoricalRetrievalTask
from feast.infra.compute_engines.backends.factory import BackendFactory
from feast.infra.compute_engines.base import ComputeEngine
from feast.infra.compute_engines.dag.context import ColumnInfo, ExecutionContext
from feast.infra.compute_engines.dag.node import DAGNode
from feast.infra.compute_engines.dag.plan import ExecutionPlan
from feast.infra.compute_engines.local.arrow_table_value import ArrowTableValue
from feast.infra.compute_engines.local.feature_builder import LocalFeatureBuilder
from feast.infra.compute_engines.local.job import LocalRetrievalJob
from feast.infra.compute_engines.local.local_node import LocalNode
from feast.infra.compute_engines.local.nodes import LocalAggregationNode, LocalDedupNode, LocalJoinNode
from feast.infra.compute_engines.utils import ENTITY_TS_ALIAS, infer_entity_timestamp_column
from feast.infra.registry.base_registry import BaseRegistry

from featurectl.errors import DefinitionError, UsageError

MODES = ("pandas", "python")
# Aggregations by their names in pandas, where those are others.
FUNCTIONS = {"avg": "mean", "stddev": "std", "variance": "var"}


@dataclass(frozen=True, slots=True)
class Transformed:
    """The rows that Feast's plan for a view gives. The transformation sees all rows of the window at once."""

    plan: ExecutionPlan
    context: ExecutionContext
    view: FeatureView

    @classmethod
    def of(cls, engine: ComputeEngine, registry: BaseRegistry, task: MaterializationTask) -> Transformed:
        return cls(_plan(_Builder, registry, task), engine.get_execution_context(registry, task), task.feature_view)

    def batches(self, engine: ComputeEngine) -> Generator[pa.RecordBatch]:
        table = self.plan.execute(self.context).data
        # Only views derived from others have somewhere to keep their rows: the rest would append to their own source.
        if self.view.offline and self.view.source_views and table.num_rows:
            engine.offline_store.offline_write_batch(engine.repo_config, self.view, table, lambda count: None)
        yield from table.to_batches()


def transformed_history(
    engine: ComputeEngine, registry: BaseRegistry, task: HistoricalRetrievalTask
) -> LocalRetrievalJob:
    """Return a job that runs a view's transformation and aggregations over what each entity row could have known.

    Raises:
        UsageError: the entities are a query.
    """
    if not isinstance(task.entity_df, pd.DataFrame):
        raise UsageError(f"view '{task.feature_view.name}' has a transformation; give its entities as a DataFrame")
    context = engine.get_execution_context(registry, task)
    event = infer_entity_timestamp_column(dict(task.entity_df.dtypes))
    context.entity_df = task.entity_df.assign(**{event: pd.to_datetime(task.entity_df[event], utc=True)})
    return LocalRetrievalJob(
        plan=_plan(_HistoryBuilder, registry, task), context=context, full_feature_names=task.full_feature_name
    )


def renamed(data: Any, mapping: dict[str, str]) -> Any:
    """Name the columns of a table or batch as the view does."""
    return data.rename_columns([mapping.get(name, name) for name in data.schema.names])


def _plan(builder: type[_Builder], registry: BaseRegistry, task: Any) -> ExecutionPlan:
    plan = builder(registry, task, BackendFactory.from_name("pandas")).build()
    # Two sources' nodes share a name, and by it the plan keeps what a node gives.
    for number, node in enumerate(plan.nodes):
        node.name = f"{number} {node.name}"
    return plan


class _Builder(LocalFeatureBuilder):  # type: ignore[misc]
    """Feast's plan, with nodes of ours where its own read too little, group by the wrong names, or write."""

    def build_source_node(self, view: FeatureView) -> DAGNode:
        return self._add(_Read("source", view, self.get_column_info(view), self.task))

    def build_aggregation_node(self, view: FeatureView, input_node: DAGNode) -> DAGNode:
        columns = self.get_column_info(view)
        specified = aggregation_specs_to_agg_ops(
            view.aggregations,
            time_window_unsupported_error_message=f"view '{view.name}' aggregates over a time window, which is not "
            "supported when materializing; aggregate in the source's query",
        )
        operations = {
            name: (FUNCTIONS.get(function, function), column) for name, (function, column) in specified.items()
        }
        # An aggregate is as new as the newest row in it.
        for name in (columns.timestamp_column, columns.created_timestamp_column):
            if name:
                operations[name] = ("max", name)
        keys = columns.join_keys_columns or [DUMMY_ENTITY_ID]
        return self._add(LocalAggregationNode("agg", self.backend, keys, operations, inputs=[input_node]))

    def build_transformation_node(self, view: FeatureView, input_nodes: list[DAGNode]) -> DAGNode:
        mode = getattr(view.feature_transformation.mode, "value", view.feature_transformation.mode)
        if mode not in MODES:
            raise DefinitionError(
                f"view '{view.name}' has a transformation in mode '{mode}', which does not run here; "
                f"modes: {', '.join(MODES)}"
            )
        return super().build_transformation_node(view, input_nodes)

    def build_output_nodes(self, view: FeatureView, input_node: DAGNode) -> DAGNode:
        return self._add(_Result("result", [input_node]))

    def get_column_info(self, view: FeatureView) -> ColumnInfo:
        return replace(super().get_column_info(view), field_mapping=dict(view.batch_source.field_mapping))

    def _add(self, node: DAGNode) -> DAGNode:
        self.nodes.append(node)
        return node


class _HistoryBuilder(_Builder):
    """The plan for given entity rows: each gets what lies within the view's TTL before it, and stays."""

    def build_filter_node(self, view: FeatureView, input_node: DAGNode) -> DAGNode:
        if view is self.dag_root.view and not isinstance(input_node, LocalJoinNode):
            input_node = self.build_join_node(view, [input_node])
        return super().build_filter_node(view, input_node)

    def build_aggregation_node(self, view: FeatureView, input_node: DAGNode) -> DAGNode:
        node = super().build_aggregation_node(view, input_node)
        if view is self.dag_root.view:
            node.group_keys = [*node.group_keys, ENTITY_TS_ALIAS]
        return node

    def build_dedup_node(self, view: FeatureView, input_node: DAGNode) -> DAGNode:
        columns = self.get_column_info(view)
        if view is self.dag_root.view:
            columns = replace(columns, join_keys=[*columns.join_keys, ENTITY_TS_ALIAS])
        return self._add(LocalDedupNode("dedup", columns, self.backend, inputs=[input_node]))

    def build_output_nodes(self, view: FeatureView, input_node: DAGNode) -> DAGNode:
        return self._add(_EntityRows("result", self.get_column_info(view), input_node))


class _Read(LocalNode):  # type: ignore[misc]
    """All rows of the window: of the newest alone an aggregate would be wrong, whatever the configuration says."""

    def __init__(self, name: str, view: FeatureView, columns: ColumnInfo, task: Any) -> None:
        super().__init__(name)
        self.view = view
        self.columns = columns
        self.task = task

    def execute(self, context: ExecutionContext) -> ArrowTableValue:
        job = context.offline_store.pull_all_from_table_or_query(
            config=context.repo_config,
            data_source=self.view.batch_source,
            join_key_columns=self.columns.join_keys,
            feature_name_columns=self.columns.feature_cols,
            timestamp_field=self.columns.ts_col,
            created_timestamp_column=self.columns.created_ts_col,
            start_date=self.task.start_time,
            end_date=self.task.end_time,
        )
        return ArrowTableValue(renamed(job.to_arrow(), self.columns.field_mapping or {}))


class _Result(LocalNode):  # type: ignore[misc]
    """The end of a plan: what comes in goes out."""

    def execute(self, context: ExecutionContext) -> ArrowTableValue:
        return self.get_single_table(context)


class _EntityRows(LocalNode):  # type: ignore[misc]
    """The end of a plan for entity rows: all of them, in their order, with the features found for them."""

    def __init__(self, name: str, columns: ColumnInfo, input_node: DAGNode) -> None:
        super().__init__(name, [input_node])
        self.columns = columns

    def execute(self, context: ExecutionContext) -> ArrowTableValue:
        entities = context.entity_df
        event = infer_entity_timestamp_column(dict(entities.dtypes))
        keys = [*self.columns.join_keys_columns, event]
        known = {*entities.columns, self.columns.timestamp_column, self.columns.created_timestamp_column}
        found = self.get_single_table(context).data.to_pandas()
        features = [name for name in found.columns if name not in known and name != ENTITY_TS_ALIAS]
        # The source's own event time may have the name of the entities'.
        found = found.drop(columns=event, errors="ignore").rename(columns={ENTITY_TS_ALIAS: event})
        rows = entities.merge(found[[*keys, *features]].drop_duplicates(keys), how="left", on=keys)
        return ArrowTableValue(pa.Table.from_pandas(rows))
