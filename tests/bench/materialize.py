"""Materialization of a whole range through Feast's SDK: stock stores and engine, ours, and the bare SQL statement.

Run: python -m tests.bench.materialize [--rounds 5]     (about four minutes, nearly all of it the stock engine)

100 entities x 10,000 rows x 6 features. Every run is a process of its own, in turn, with empty online tables; its time
begins when Feast is imported and the store is open, its registry and engine too, so that nothing but `materialize`
counts. Memory is the whole process's peak.
"""

from __future__ import annotations

import argparse
import sys
import time

from psycopg import sql

from featurectl.core.db import Connection, open_connection
from tests.bench.measure import Bench, Ratio, in_child, tell
from tests.bench.stage import FIRST, TABLE, VIEW, Stage, open_stage, open_store, quiet

MODULE = "tests.bench.materialize"
CONTENDERS = ("stock", "ours", "floor")
ONLINE = {"stock": f"stock.stock_{VIEW}", "ours": f"online.ours__{VIEW}", "floor": "public.floor"}
RATIOS = [
    Ratio("stock / ours", "stock", "ours", ">= 50"),
    Ratio("ours / floor", "ours", "floor", ""),
]

# What the work comes down to: the entities by their index, the newest row of each, and one upsert.
FLOOR = """
INSERT INTO {online}
WITH RECURSIVE entities AS (
    (SELECT symbol, timeframe FROM {table} ORDER BY 1, 2 LIMIT 1)
    UNION ALL
    SELECT following.* FROM entities AS e CROSS JOIN LATERAL (
        SELECT symbol, timeframe FROM {table} AS s WHERE (s.symbol, s.timeframe) > (e.symbol, e.timeframe)
        ORDER BY 1, 2 LIMIT 1
    ) AS following
)
SELECT newest.* FROM entities AS e CROSS JOIN LATERAL (
    SELECT * FROM {table} AS s
    WHERE s.symbol = e.symbol AND s.timeframe = e.timeframe AND event_timestamp BETWEEN {first} AND {last}
    ORDER BY event_timestamp DESC LIMIT 1
) AS newest
ON CONFLICT (symbol, timeframe) DO UPDATE SET event_timestamp = excluded.event_timestamp
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--child", nargs=4, metavar=("CONTENDER", "URL", "DIRECTORY", "LAST"))
    given = parser.parse_args()
    if given.child:
        child(*given.child)
        return
    bench = Bench("materialize", ratios=RATIOS)
    with quiet(), open_stage() as stage, stage.connect() as connection:
        bench.notes["data"] = f"{stage.entities} entities x {stage.rows} rows x {stage.features} features"
        floor = sql.SQL("CREATE TABLE {} (LIKE {}, PRIMARY KEY (symbol, timeframe))")
        connection.execute(floor.format(sql.SQL(ONLINE["floor"]), sql.SQL(TABLE)))
        for turn in range(given.rounds + 1):
            for contender in CONTENDERS:
                measure(bench if turn else None, stage, connection, contender)
    bench.report()


def measure(bench: Bench | None, stage: Stage, connection: Connection, contender: str) -> None:
    """Run a contender once; without a bench it only warms up."""
    connection.execute(sql.SQL("TRUNCATE {}").format(sql.SQL(ONLINE[contender])))
    done = in_child(MODULE, "--child", contender, stage.url, str(stage.directory), stage.last.isoformat())
    rows = connection.execute(sql.SQL("SELECT count(*) FROM {}").format(sql.SQL(ONLINE[contender]))).fetchone()
    expected = stage.entities * (stage.features if contender == "stock" else 1)
    if rows != (expected,):
        sys.exit(f"{contender} left {rows} rows, not {expected}")
    if bench:
        bench.add(contender, done.seconds, done.peak_mb)


def child(contender: str, url: str, directory: str, last: str) -> None:
    seconds = floor(url, last) if contender == "floor" else through_feast(f"{directory}/{contender}", last)
    tell(seconds)


def through_feast(repository: str, last: str) -> float:
    from datetime import datetime
    from pathlib import Path

    with quiet():
        store = open_store(Path(repository))
        # Both are opened by whoever needs them first: the registry's connection, and the stores and the engine.
        store.registry.list_feature_views(store.project)
        assert store.provider.batch_engine
        start = time.perf_counter()
        store.materialize(FIRST, datetime.fromisoformat(last))
        return time.perf_counter() - start


def floor(url: str, last: str) -> float:
    statement = sql.SQL(FLOOR).format(
        online=sql.SQL(ONLINE["floor"]), table=sql.SQL(TABLE), first=sql.Literal(FIRST), last=sql.Literal(last)
    )
    start = time.perf_counter()
    with open_connection(url, connect_timeout=10) as connection:
        connection.execute(statement)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
