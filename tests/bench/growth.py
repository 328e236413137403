"""How costs grow with history: materialize, online reads and small joins over 10^5, 10^6 and 10^7 rows of 100 entities.

Run: python -m tests.bench.growth [--rounds 31] [--largest 10000000]     (about two minutes, half of it filling tables)

Three views of one project over tables of a thousand to a hundred thousand rows an entity, 6 features each, through
Feast's SDK and our classes in one process, in turn. Ten times the history should cost no more.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING

from tests.bench.measure import Bench, Ratio
from tests.bench.stage import FIRST, STEP, Stage, fill, objects, open_stage, quiet

if TYPE_CHECKING:
    from feast import FeatureStore

ENTITIES = 100
SPINE = 1_000
SIZES = (100_000, 1_000_000, 10_000_000)
JOBS = ("materialize", "online read of 100 entities", "join of 1,000 rows")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--largest", type=int, default=SIZES[-1], help="rows of the longest history to try")
    given = parser.parse_args()
    sizes = [size for size in SIZES if size <= given.largest]
    bench = Bench("growth", ratios=list(_ratios(sizes)))
    with quiet(), open_stage(entities=ENTITIES, rows=10) as stage:
        longest = FIRST + STEP * (sizes[-1] // ENTITIES)
        # A history this long ends in the future, of which the engine would materialize nothing.
        os.environ["FEATURECTL_NOW"] = longest.isoformat()
        histories = {size: replace(stage, rows=size // ENTITIES) for size in sizes}
        store = stage.store("ours")
        for size, history in histories.items():
            with stage.connect() as connection:
                fill(connection, entities=ENTITIES, rows=history.rows, features=stage.features, table=_table(size))
            define(store, stage, size)
        calls = {
            _name(job, size): call
            for size, history in histories.items()
            for job, call in zip(JOBS, jobs(store, history, size), strict=True)
        }
        bench.interleave(calls, given.rounds)
    bench.notes["data"] = f"{ENTITIES} entities x {stage.features} features; medians of {given.rounds} rounds, in turn"
    bench.report()


def define(store: FeatureStore, stage: Stage, size: int) -> None:
    """Apply a view over the table of a size."""
    from feast import FeatureView
    from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import PostgreSQLSource

    given = objects(stage.repository("ours") / "definitions.py")
    model = given["bench_view"]
    source = PostgreSQLSource(
        name=f"rows_{size}",
        table=_table(size),
        timestamp_field="event_timestamp",
        created_timestamp_column="created_timestamp",
    )
    entities = [given["symbol"], given["timeframe"]]
    view = FeatureView(name=f"rows_{size}", entities=entities, ttl=timedelta(0), source=source, schema=model.features)
    store.apply([*entities, view])


def jobs(store: FeatureStore, history: Stage, size: int) -> Iterator[Callable[[], object]]:
    """Yield what is timed for a size, in the order of ``JOBS``."""
    view = f"rows_{size}"
    features = [f"{view}:{name}" for name in history.names]
    rows = [{"symbol": symbol, "timeframe": "1h"} for symbol in history.symbols(ENTITIES)]
    spine = history.spine(SPINE)
    yield partial(store.materialize, FIRST, history.last, [view])
    yield lambda: store.get_online_features(features=features, entity_rows=rows).to_dict()
    yield lambda: store.get_historical_features(entity_df=spine, features=features).to_arrow()


def _table(size: int) -> str:
    return f"bench.rows_{size}"


def _name(job: str, size: int) -> str:
    return f"{job}, {size:,} rows"


def _ratios(sizes: list[int]) -> Iterator[Ratio]:
    for job in JOBS:
        for smaller, larger in pairwise(sizes):
            name = f"{job}, {larger:,} / {smaller:,}"
            yield Ratio(name, _name(job, larger), _name(job, smaller), "<= 1.5")


if __name__ == "__main__":
    main()
