"""Training sets through Feast's SDK: of views whose features no SQL reads, and for whoever wants Feast's own answer."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from featurectl.core.catalog import Catalog, Selection
from featurectl.core.db import Database
from featurectl.core.offline import ROW
from featurectl.core.spines import TableSpine
from featurectl.errors import FeaturectlError
from featurectl.plugin.foreign import unavailable
from featurectl.plugin.sdk import Sdk, open_sdk

EVENT = "event_timestamp"
_TYPES = {
    "double precision": pa.float64(),
    "real": pa.float32(),
    "bigint": pa.int64(),
    "integer": pa.int32(),
    "boolean": pa.bool_(),
    "text": pa.string(),
    "timestamp with time zone": pa.timestamp("us", tz="UTC"),
}


def catalog_beyond(database: Database, catalog: Catalog) -> Catalog:
    """Return a catalog with the views and services that Feast's registry has besides.

    Raises:
        FeastUnavailable: Feast can't answer.
    """
    with _opened(database) as sdk:
        return sdk.beyond(catalog)


def features_of_spine(database: Database, selections: Sequence[Selection], spine: TableSpine) -> pa.Table:
    """Return the features that Feast finds for the rows of a spine, in their order.

    Raises:
        FeastUnavailable: Feast can't answer; the message says why.
    """
    keys = dict.fromkeys(key for chosen in selections for key in chosen.view.join_keys)
    asked = spine.keys.select(list(keys)).append_column(EVENT, spine.at)
    # A row without a key or an instant asks for nothing.
    asked = asked.append_column(ROW, pa.array(np.arange(len(spine.at)))).drop_null()
    found = None
    if asked.num_rows:
        references = [f"{chosen.view.name}:{name}" for chosen in selections for name in chosen.features]
        with _opened(database) as sdk:
            job = sdk.store.get_historical_features(entity_df=asked.to_pandas(), features=references)
            found = job.to_arrow()
    places = _places(found, len(spine.at))
    return pa.table(
        {
            name: _typed(found.column(name).take(places) if found else pa.nulls(len(spine.at)), chosen, name)
            for chosen in selections
            for name in chosen.features
        }
    )


def _places(found: pa.Table | None, rows: int) -> pa.Array:
    """Return where each row of the spine stands in what was found, whatever order that has; null where it does not."""
    places = np.full(rows, -1)
    if found is not None:
        places[found.column(ROW).to_numpy()] = np.arange(found.num_rows)
    return pa.array(places, mask=places < 0)


def _typed(values: Any, chosen: Selection, name: str) -> Any:
    """Return a feature's values in the type of its definition; a NaN is null."""
    field = chosen.view.field(name)
    kind = _TYPES.get(field.column_type) if field else None
    if kind is not None:
        values = values.cast(kind)
    if pa.types.is_floating(values.type):
        values = pc.if_else(pc.is_nan(values), pa.scalar(None, values.type), values)
    return values


@contextlib.contextmanager
def _opened(database: Database) -> Iterator[Sdk]:
    step = "Feast"

    def begin(what: str) -> None:
        nonlocal step
        step = what

    try:
        with contextlib.closing(open_sdk(database, begin)) as sdk:
            step = "the training set"
            yield sdk
    except FeaturectlError:
        raise
    except Exception as error:  # a registry or a store of any kind
        raise unavailable(step, error) from error
