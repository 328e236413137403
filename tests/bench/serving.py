"""Online reads by the manager: how long a call takes at 1 to 1,000 entities, and how many a second 1 to 32 tasks make.

Run: python -m tests.bench.serving [--rounds 200] [--seconds 3]     (one minute); tests.bench.online runs it as well

Contenders read the same 6 features of the same entities in one process: the manager's rows and its DataFrame, Feast's
SDK on its stock PostgreSQL store, and bare SELECTs by psycopg: the one anybody would write (a join of the keys), the
fastest one we know (a scan of the index for them), and that as a coroutine. Every timed call follows one that is not.
"""

from __future__ import annotations

import argparse
import asyncio
import inspect
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import sql

from featurectl import FeastFeatureStoreManager
from featurectl.core.db import Connection
from tests.bench.measure import Bench, Ratio
from tests.bench.stage import FIRST, Stage, open_stage, quiet
from tests.bench.stage import VIEW as STAGE_VIEW

if TYPE_CHECKING:
    from feast import FeatureStore

ROWS, FRAME, STOCK = "manager, rows", "manager, DataFrame", "stock PostgreSQL store"
JOIN, SCAN, SCAN_ASYNC = "bare SELECT, join", "bare SELECT, scan", "bare SELECT, scan, async"
TARGETS = {1: ("", ""), 10: (">= 5", ""), 100: (">= 5", "<= 1.6"), 1000: (">= 5", "")}
TASKS = (1, 8, 32)

Call = Callable[[], Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=3)
    arguments = parser.parse_args()
    for bench in by_manager(arguments.rounds, arguments.seconds):
        bench.report()


def by_manager(rounds: int, seconds: float) -> list[Bench]:
    """Time calls, and count them in parallel."""
    with quiet(), open_stage(entities=1000, rows=24) as stage:
        ours, stock = stage.store("ours"), stage.store("stock")
        for store in (ours, stock):
            store.materialize(FIRST, stage.last)
        with stage.connect() as connection:
            return asyncio.run(_benches(stage, stock, connection, rounds, seconds))


async def _benches(
    stage: Stage, stock: FeatureStore, connection: Connection, rounds: int, seconds: float
) -> list[Bench]:
    bare = await psycopg.AsyncConnection.connect(connection.info.dsn, autocommit=True)
    async with bare, _manager(stage) as manager:
        benches = []
        for count in TARGETS:
            calls = contenders(stage, manager, stock, connection, bare, count)
            await check(calls, stage, count)
            benches.append(await latency(calls, stage, count, rounds if count < 1000 else max(1, rounds // 4)))
        return [*benches, await throughput(stage, manager, stock, seconds)]


def _manager(stage: Stage) -> FeastFeatureStoreManager:
    return FeastFeatureStoreManager(stage.repository("ours"), database_url=stage.url, timeout=30)


def contenders(
    stage: Stage,
    manager: FeastFeatureStoreManager,
    stock: FeatureStore,
    connection: Connection,
    bare: psycopg.AsyncConnection[Any],
    count: int,
) -> dict[str, Call]:
    symbols, names = stage.symbols(count), stage.names
    ids = [f"{symbol}_1h" for symbol in symbols]
    rows = [{"symbol": symbol, "timeframe": "1h"} for symbol in symbols]
    table = sql.Identifier("online", f"ours__{STAGE_VIEW}")
    columns = sql.SQL(", ").join(map(sql.Identifier, ("symbol", "timeframe", "event_timestamp", *names)))
    join = sql.SQL(
        "SELECT {} FROM unnest(%s::text[], %s::text[]) AS k(symbol, timeframe) JOIN {} USING (symbol, timeframe)"
    ).format(columns, table)
    scan = sql.SQL("SELECT {} FROM {} WHERE symbol = ANY(%s) AND timeframe = ANY(%s)").format(columns, table)

    async def scan_async() -> list[tuple[Any, ...]]:
        return await (await bare.execute(scan, [symbols, ["1h"]], prepare=True, binary=True)).fetchall()

    return {
        STOCK: lambda: stock.get_online_features(stage.references, rows).to_dict(),
        ROWS: lambda: manager.get_online_features_rows(ids, names),
        FRAME: lambda: manager.get_online_features(ids, names),
        JOIN: lambda: connection.execute(join, [symbols, ["1h"] * count], prepare=True, binary=True).fetchall(),
        SCAN: lambda: connection.execute(scan, [symbols, ["1h"]], prepare=True, binary=True).fetchall(),
        SCAN_ASYNC: scan_async,
    }


async def check(calls: Mapping[str, Call], stage: Stage, count: int) -> None:
    """Stop where contenders read different values: their times would say nothing."""
    columns = await _result(calls[STOCK])
    wanted = [tuple(columns[name][index] for name in stage.names) for index in range(count)]
    rows = [tuple(row[name] for name in stage.names) for row in await _result(calls[ROWS])]
    frame = [tuple(row) for row in (await _result(calls[FRAME]))[stage.names].to_numpy().tolist()]
    bare = [sorted(row[3:] for row in await _result(calls[name])) for name in (JOIN, SCAN, SCAN_ASYNC)]
    if rows != wanted or frame != wanted or any(one != sorted(wanted) for one in bare):
        sys.exit(f"at {count} entities the contenders read different values")


async def latency(calls: Mapping[str, Call], stage: Stage, count: int, rounds: int) -> Bench:
    over_stock, over_bare = TARGETS[count]
    bench = Bench(
        f"online manager {count}",
        ratios=[
            Ratio("stock / rows", STOCK, ROWS, over_stock),
            Ratio("stock / DataFrame", STOCK, FRAME, ""),
            Ratio("rows / bare join", ROWS, JOIN, over_bare),
            Ratio("rows / bare scan", ROWS, SCAN, over_bare),
            Ratio("rows / bare scan, async", ROWS, SCAN_ASYNC, over_bare),
        ],
        notes={"entities x features": f"{count} x {stage.features}"},
    )
    for _ in range(rounds):
        for name, call in calls.items():
            await _result(call)
            start = time.perf_counter()
            await _result(call)
            bench.add(name, time.perf_counter() - start)
    return bench


async def _result(call: Call) -> Any:
    result = call()
    return await result if inspect.isawaitable(result) else result


async def throughput(
    stage: Stage, manager: FeastFeatureStoreManager, stock: FeatureStore, seconds: float, count: int = 10
) -> Bench:
    """Count the calls that tasks make side by side; Feast's SDK has a thread for each task."""
    symbols, names = stage.symbols(count), stage.names
    ids = [f"{symbol}_1h" for symbol in symbols]
    rows = [{"symbol": symbol, "timeframe": "1h"} for symbol in symbols]

    async def ours() -> None:
        await manager.get_online_features_rows(ids, names)

    async def theirs() -> None:
        await asyncio.to_thread(lambda: stock.get_online_features(stage.references, rows).to_dict())

    bench = Bench(f"online throughput {count}", notes={"a run": f"{seconds:g} s, {count} entities x {stage.features}"})
    for tasks in TASKS:
        for name, call in ((ROWS, ours), (STOCK, theirs)):
            waits = await _loops(call, tasks, seconds)
            bench.seconds[f"{name}, {tasks} tasks"] = waits
            bench.notes[f"{name}, {tasks} tasks, calls/s"] = round(len(waits) / seconds)
    return bench


async def _loops(call: Callable[[], Awaitable[None]], tasks: int, seconds: float) -> list[float]:
    end, waits = time.perf_counter() + seconds, []

    async def loop() -> None:
        while (start := time.perf_counter()) < end:
            await call()
            waits.append(time.perf_counter() - start)

    await asyncio.gather(*(loop() for _ in range(tasks)))
    return waits


if __name__ == "__main__":
    main()
