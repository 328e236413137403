"""A view's way online through this process, in chunks: to foreign stores, from them, and through transformations."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import datetime
from functools import reduce
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from feast import FeatureView
from feast.feature_view import DUMMY_ENTITY_ID, DUMMY_ENTITY_VAL
from feast.infra.common.materialization_job import MaterializationTask
from feast.infra.compute_engines.base import ComputeEngine
from feast.infra.offline_stores.offline_store import RetrievalJob
from feast.infra.registry.base_registry import BaseRegistry
from feast.protos.feast.types.Value_pb2 import Value
from feast.types import Float32, Float64, Int32, Int64
from feast.utils import _convert_arrow_to_proto, _get_column_names

from featurectl.core.times import Window
from featurectl.errors import DefinitionError
from featurectl.plugin.catalog import is_transformed
from featurectl.plugin.intervals import Interval
from featurectl.plugin.online_writes import is_missing
from featurectl.plugin.running import Running
from featurectl.plugin.transformed import Transformed, renamed

NUMBERS = {Int32: pa.int32(), Int64: pa.int64(), Float32: pa.float32(), Float64: pa.float64()}


@dataclass(frozen=True, slots=True)
class Transfer:
    """One view, its rows, and the engine whose stores they pass between. Nothing is read before ``run``."""

    engine: ComputeEngine
    view: FeatureView
    rows: Latest | Transformed
    chunk_rows: int

    @classmethod
    def of(
        cls, engine: ComputeEngine, registry: BaseRegistry, task: MaterializationTask, window: Window, chunk_rows: int
    ) -> Transfer:
        """Prepare a task. Everything the registry is asked is asked here.

        Raises:
            DefinitionError: the view has a transformation that does not run here.
        """
        rows = Transformed if is_transformed(task.feature_view) else Latest
        bounded = replace(task, start_time=window.start, end_time=window.end)
        return cls(engine, task.feature_view, rows.of(engine, registry, bounded), chunk_rows)

    def run(self, running: Running, interval: Interval, now: datetime) -> int:
        """Write every row, ``chunk_rows`` at a time, and return their number."""
        written = 0
        with closing(self.rows.batches(self.engine)) as batches:
            for batch in batches:
                complete = _with_numbers(self.view, _complete(self.view, batch))
                for chunk in _chunks(_with_keys(complete, self.view.join_keys), self.chunk_rows):
                    running.check()
                    self._write(chunk, running)
                    written += chunk.num_rows
        return written

    def _write(self, chunk: pa.RecordBatch, running: Running) -> None:
        keys = {key.name: key.dtype.to_value_type() for key in self.view.entity_columns}
        chunk, others = _convertible(self.view, chunk)
        rows = [
            (key, values, event, None if is_missing(created) else created)
            for key, values, event, created in _convert_arrow_to_proto(chunk, self.view, keys)
        ]
        for name, values_of_rows in others.items():
            for row, value in values_of_rows.items():
                rows[row][1][name] = value
        with running.foreign_writes:
            self.engine.online_store.online_write_batch(self.engine.repo_config, self.view, rows, lambda count: None)


@dataclass(frozen=True, slots=True)
class Latest:
    """Each entity's newest row of a window, as the offline store finds it."""

    task: MaterializationTask
    columns: tuple[list[str], list[str], str, str | None]

    @classmethod
    def of(cls, engine: ComputeEngine, registry: BaseRegistry, task: MaterializationTask) -> Latest:
        view = task.feature_view
        entities = [registry.get_entity(name, task.project) for name in view.entities]
        return cls(task, _get_column_names(view, entities))

    def batches(self, engine: ComputeEngine) -> Generator[pa.RecordBatch]:
        source = self.task.feature_view.batch_source
        keys, features, event, created = self.columns
        job = engine.offline_store.pull_latest_from_table_or_query(
            config=engine.repo_config,
            data_source=source,
            join_key_columns=keys,
            feature_name_columns=features,
            timestamp_field=event,
            created_timestamp_column=created,
            start_date=self.task.start_time,
            end_date=self.task.end_time,
        )
        with closing(_read(job)) as batches:
            for batch in batches:
                yield renamed(batch, source.field_mapping)


def _read(job: RetrievalJob) -> Generator[pa.RecordBatch]:
    """Yield a job's rows, streamed where the offline store can."""
    if hasattr(job, "to_batches"):
        with closing(job.to_batches()) as batches:
            yield from batches
    else:
        yield from job.to_arrow().to_batches()


def _complete(view: FeatureView, batch: pa.RecordBatch) -> pa.RecordBatch:
    """Add what a transformation may leave out: the key of a view without entities, and the created timestamp.

    Raises:
        DefinitionError: another column is missing.
    """
    source = view.batch_source
    optional = {DUMMY_ENTITY_ID: DUMMY_ENTITY_VAL, source.created_timestamp_column: None}
    for name in (*view.join_keys, source.timestamp_field, source.created_timestamp_column, *_names(view.features)):
        if not name or name in batch.schema.names:
            continue
        if name not in optional:
            listed = ", ".join(batch.schema.names)
            raise DefinitionError(f"view '{view.name}' gets no column '{name}'; columns: {listed}")
        kind = pa.string() if name == DUMMY_ENTITY_ID else pa.timestamp("us", tz="UTC")
        values = pa.array([optional[name]] * batch.num_rows, kind)
        batch = batch.append_column(pa.field(name, kind), values)
    return batch


def _with_numbers(view: FeatureView, batch: pa.RecordBatch) -> pa.RecordBatch:
    """Give numbers the types of their features: Feast refuses some that differ, such as float32 for Float64.

    Raises:
        DefinitionError: a number does not fit its feature's type.
    """
    for field in view.features:
        column, kind = batch.column(field.name), NUMBERS.get(field.dtype)
        is_number = any(is_kind(column.type) for is_kind in (pa.types.is_floating, pa.types.is_integer))
        if kind is None or not is_number or column.type == kind:
            continue
        try:
            position = batch.schema.get_field_index(field.name)
            batch = batch.set_column(position, pa.field(field.name, kind), column.cast(kind))
        except pa.ArrowInvalid as error:
            raise DefinitionError(f"view '{view.name}', feature '{field.name}' is {field.dtype}: {error}") from error
    return batch


def _convertible(view: FeatureView, batch: pa.RecordBatch) -> tuple[pa.RecordBatch, dict[str, dict[int, Value]]]:
    """Return a batch that Feast converts, and the values, by feature and row, that it would convert into others.

    It takes integers beside nulls for doubles, which hold 53 bits, and empty bytes for nulls where all are empty.
    """
    others: dict[str, dict[int, Value]] = {}
    for name in _names(view.features):
        column = batch.column(name)
        if pa.types.is_integer(column.type) and column.null_count:
            others[name] = dict.fromkeys(_places(column.is_null()), Value())
            position = batch.schema.get_field_index(name)
            batch = batch.set_column(position, pa.field(name, column.type), column.fill_null(0))
        elif pa.types.is_binary(column.type):
            others[name] = dict.fromkeys(_places(pc.equal(column, b"")), Value(bytes_val=b""))
    return batch, others


def _places(condition: pa.Array) -> list[int]:
    places: list[int] = pc.indices_nonzero(condition).to_pylist()
    return places


def _names(fields: Iterable[Any]) -> list[str]:
    return [field.name for field in fields]


def _with_keys(batch: pa.RecordBatch, keys: list[str]) -> pa.RecordBatch:
    """Return the rows whose keys are all known."""
    known = reduce(pc.and_, (pc.is_valid(batch.column(key)) for key in keys))
    return batch.filter(known)


def _chunks(batch: pa.RecordBatch, rows: int) -> Iterator[pa.RecordBatch]:
    for start in range(0, batch.num_rows, rows):
        yield batch.slice(start, rows)
