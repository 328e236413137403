"""Point-in-time joins through Feast's SDK: the stock offline store, ours by either strategy, and the bare tools.

Run: python -m tests.bench.historical [--rounds 5] [--stock-rounds 1]     (about six minutes, most of it stock)

100 entities x 10,000 rows x 6 features, spines drawn over the whole history. The bare tools fetch the whole table by
ADBC and join it in DuckDB, as anyone would who knows both. Memory is the peak of a process of its own, the spine in it.
"""

from __future__ import annotations

import argparse
import gc
import tempfile
import time
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

from tests.bench.measure import Bench, Ratio, in_child, tell
from tests.bench.stage import FIRST, TABLE, VIEW, Stage, objects, open_stage, open_store, quiet

MODULE = "tests.bench.historical"
DAY = "bench_day"
SMALL, MIDDLE, LARGE = 10_000, 100_000, 1_000_000
STRATEGIES = ("auto", "server", "local")
QUERY = """
SELECT 'S' || lpad((i % 100)::text, 6, '0') AS symbol, '1h' AS timeframe,
       timestamptz '{first}' + (i::bigint * 7919 % {seconds}) * interval '1 second' AS event_timestamp
FROM generate_series(1, {rows}) AS i
"""
RATIOS = [
    Ratio(f"stock / ours, {SMALL:,} rows", f"stock, TTL of a day {SMALL:,}", f"ours, TTL of a day {SMALL:,}", ""),
    Ratio(
        f"stock / ours, {MIDDLE:,} rows", f"stock, TTL of a day {MIDDLE:,}", f"ours, TTL of a day {MIDDLE:,}", ">= 50"
    ),
    Ratio(f"ours / bare, {LARGE:,} rows", f"ours {LARGE:,}", f"bare {LARGE:,}", "< 2.5"),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--stock-rounds", type=int, default=1, help=f"rounds of the stock store at {MIDDLE:,} rows")
    parser.add_argument("--child", nargs=5, metavar=("WAY", "URL", "DIRECTORY", "ROWS", "STRATEGY"))
    given = parser.parse_args()
    if given.child:
        child(*given.child)
        return
    bench = Bench("historical", ratios=RATIOS if given.stock_rounds else RATIOS[2:])
    with quiet(), open_stage() as stage:
        bench.notes["data"] = f"{stage.entities} entities x {stage.rows} rows x {stage.features} features"
        times(bench, stage, given.rounds, given.stock_rounds)
        memory(bench, stage)
    bench.report()


def times(bench: Bench, stage: Stage, rounds: int, stock_rounds: int) -> None:
    """Time every contender at three sizes of the spine.

    The stock store is asked for a view with a TTL of a day: without one it joins each row of the spine with all the
    history before it, and 10,000 rows take it many minutes.
    """
    stores = {kind: stage.store(kind) for kind in ("ours", "stock")}
    for kind, store in stores.items():
        defined = objects(stage.repository(kind) / "definitions.py")
        store.apply([day_view(defined)])
    references = [f"{DAY}:{name}" for name in stage.names]

    def joined(kind: str, rows: int, strategy: str = "auto", features: list[str] = stage.references) -> None:
        store = stores[kind]
        if kind == "ours":
            store.config.offline_store.join_strategy = strategy
        table = store.get_historical_features(stage.spine(rows), features).to_arrow()
        assert table.num_rows == rows

    for rows, turns in ((SMALL, min(rounds, stock_rounds)), (MIDDLE, stock_rounds)):
        for _ in range(turns):
            for kind in ("stock", "ours"):
                gc.collect()
                start = time.perf_counter()
                joined(kind, rows, features=references)
                bench.add(f"{kind}, TTL of a day {rows:,}", time.perf_counter() - start)
    for rows in (SMALL, MIDDLE, LARGE):
        ours: dict[str, Any] = {
            f"ours {rows:,}{'' if strategy == 'auto' else f', {strategy}'}": partial(joined, "ours", rows, strategy)
            for strategy in STRATEGIES
            if (rows, strategy) != (LARGE, "server")
        }
        bench.interleave({**ours, f"bare {rows:,}": partial(bare, stage, rows)}, rounds)


def day_view(defined: dict[str, Any]) -> Any:
    """Return the stage's view under another name, with a TTL of a day."""
    from feast import FeatureView

    view, keys = defined[VIEW], [defined["symbol"], defined["timeframe"]]
    return FeatureView(name=DAY, entities=keys, ttl=timedelta(days=1), source=view.batch_source, schema=view.features)


def bare(stage: Stage, rows: int) -> None:
    """Fetch the table and join it, with nothing between the tools."""
    import adbc_driver_postgresql.dbapi as adbc
    import duckdb
    import pyarrow as pa

    frame = stage.spine(rows)
    spine = pa.Table.from_pandas(frame.assign(event_timestamp=frame["event_timestamp"].dt.as_unit("us")))
    with adbc.connect(stage.url) as connection, connection.cursor() as cursor:
        cursor.execute(f"SELECT * FROM {TABLE}")
        features = cursor.fetch_arrow_table()
    with duckdb.connect() as connection:
        connection.execute("SET timezone = 'UTC'")
        connection.register("spine", spine)
        connection.register("features", features)
        names = ", ".join(f"f.{name}" for name in stage.names)
        table = connection.sql(
            f"SELECT s.*, {names} FROM spine AS s ASOF LEFT JOIN features AS f ON s.symbol = f.symbol "
            "AND s.timeframe = f.timeframe AND s.event_timestamp >= f.event_timestamp"
        ).to_arrow_table()
    assert table.num_rows == rows


def memory(bench: Bench, stage: Stage) -> None:
    """Run each way to a result in a process of its own; a query's spine is not held by anybody."""
    for way, rows, strategy in (
        ("Feast alone", 0, "auto"),
        ("frame, to_arrow", LARGE, "local"),
        ("frame, to_parquet", LARGE, "local"),
        ("query, to_parquet", LARGE, "local"),
        ("query, to_parquet", 3 * LARGE, "local"),
        ("query, to_parquet", LARGE, "server"),
    ):
        done = in_child(MODULE, "--child", way, stage.url, str(stage.directory), str(rows), strategy)
        bench.add(f"{way} {rows:,}, {strategy}", done.seconds, done.peak_mb)


def child(way: str, url: str, directory: str, rows: str, strategy: str) -> None:
    """Join once and tell what it took."""
    stage = Stage(url, Path(directory), entities=100, rows=10_000, features=6)
    with quiet(), tempfile.TemporaryDirectory() as folder:
        store = open_store(stage.repository("ours"))
        store.config.offline_store.join_strategy = strategy
        spine = QUERY.format(rows=rows, first=FIRST, seconds=stage.rows * 3600) if "query" in way else None
        start = time.perf_counter()
        if way != "Feast alone":
            job = store.get_historical_features(spine or stage.spine(int(rows)), stage.references)
            written = job.to_arrow().num_rows if "to_arrow" in way else job.to_parquet(Path(folder) / "set.parquet")
            assert written == int(rows)
        seconds = time.perf_counter() - start
    tell(seconds)


if __name__ == "__main__":
    main()
