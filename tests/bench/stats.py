"""`stats` of ten million rows of six features, against pandas' `describe` of the same rows, SQL, and its floor.

Run: python -m tests.bench.stats [--rows 10000000] [--rounds 3]     (about five minutes)

The floor fetches the rows as Arrow through ADBC and does nothing with them. pandas' `describe` gets the same rows the
same way, and the same percentiles; it counts no distinct values, zeros, outliers or histograms. SQL computes moments
and percentiles alone, in one statement, with 256 MB of work_mem. Every contender runs in a process of its own; the
server's memory is not the process's. Peak memory counts pages of files, which the system takes back when it needs
them; what is the process's own stands below the table. A tenth of the rows as well shows how both grow with them.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
from psycopg import sql

from featurectl.core import pgcopy
from featurectl.core.times import Window, from_microseconds, microseconds
from tests.bench.market import FIRST, NOW, Place, empty, open_place
from tests.bench.measure import Bench, Measured, OwnMemory, Ratio, in_child, tell
from tests.market import FEATURES, TECHNICAL

VIEW = "technical_indicators_view"
PERCENTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
ENTITIES = 20
MINUTE = 60_000_000
CONTENDERS = ("ours", "ours, by entity", "pandas describe", "SQL", "floor: fetch")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    bench = Bench(
        "stats",
        ratios=[
            Ratio("pandas describe, by ours", "pandas describe", "ours", ">= 1"),
            Ratio("ours, by its floor", "ours", "floor: fetch", ""),
        ],
    )
    with open_place() as place:
        fill(place, given.rows)
        for number in range(given.rounds + 1):
            for name in CONTENDERS:
                found = in_child("tests.bench.stats", name, str(place.root), place.url)
                if number:
                    add(bench, name, found)
        add(bench, "drift, half against half", in_child("tests.bench.stats", "drift", str(place.root), place.url))
        with place.connect() as connection:
            empty(connection, TECHNICAL)
        fill(place, given.rows // 10)
        add(bench, "ours, a tenth of the rows", in_child("tests.bench.stats", "ours", str(place.root), place.url))
    bench.notes["data"] = f"{given.rows} rows of {ENTITIES} entities x {len(FEATURES)} features"
    bench.report()


def add(bench: Bench, name: str, found: Measured) -> None:
    bench.add(name, found.seconds, found.peak_mb)
    own = bench.notes.setdefault("own memory, MB", {})
    own[name] = max(round(found.result), own.get(name, 0))


def fill(place: Place, rows: int) -> None:
    """Write minutes of several entities, a hundredth of whose values are null."""
    generator = np.random.default_rng(7)
    count = rows // ENTITIES
    events = microseconds(FIRST) + MINUTE * np.arange(count, dtype=np.int64)
    with place.connect() as connection:
        for number in range(ENTITIES):
            features = {name: generator.normal(number, 1 + index, count) for index, name in enumerate(FEATURES)}
            for values in features.values():
                values[generator.random(count) < 0.01] = np.nan
            keys = {"symbol": f"SYM{number:02d}USDT", "timeframe": "1m", "event_timestamp": events}
            table = sql.Identifier("features", "technical_indicators")
            pgcopy.write(connection, table, {**keys, **features}, count)
        connection.execute(f"VACUUM ANALYZE {TECHNICAL}".encode())


def run_ours(root: str, url: str, by: str | None = None) -> None:
    from featurectl.core.statistics.describe import By
    from featurectl.statistics import Chosen, statistics

    place, memory = Place(Path(root), url), OwnMemory()
    start = time.perf_counter()
    statistics(place.database, Chosen(views=(VIEW,)), Window(None, None), now=NOW, by=By(by) if by else None)
    tell(time.perf_counter() - start, memory.peak_mb)


def run_drift(root: str, url: str) -> None:
    from featurectl.statistics import Chosen, DriftAsked, drift

    place = Place(Path(root), url)
    with place.connect() as connection:
        row = connection.execute(
            f"SELECT min(event_timestamp), max(event_timestamp) FROM {TECHNICAL}".encode()
        ).fetchone()
    assert row is not None
    first, last = map(microseconds, row)
    middle = first + (last - first) // 2
    reference, current = Window(row[0], from_microseconds(middle)), Window(from_microseconds(middle + 1), row[1])
    memory = OwnMemory()
    start = time.perf_counter()
    drift(place.database, DriftAsked(Chosen(views=(VIEW,)), current, reference))
    tell(time.perf_counter() - start, memory.peak_mb)


def run_fetch(root: str, url: str, *, describe: bool) -> None:
    from featurectl.core.arrow import connect

    statement = f"SELECT symbol, timeframe, event_timestamp, {', '.join(FEATURES)} FROM {TECHNICAL}"
    memory = OwnMemory()
    start = time.perf_counter()
    with connect(url) as arrow:
        if describe:
            frame = arrow.table(sql.SQL(statement)).to_pandas()
            frame[list(FEATURES)].describe(percentiles=list(PERCENTILES))
        else:
            sum(batch.num_rows for batch in arrow.read(sql.SQL(statement)))
    tell(time.perf_counter() - start, memory.peak_mb)


def run_sql(root: str, url: str) -> None:
    place = Place(Path(root), url)
    figures = ", ".join(
        f"count({name}), avg({name}), stddev_samp({name}), min({name}), max({name}), "
        f"percentile_cont(ARRAY{list(PERCENTILES)}) WITHIN GROUP (ORDER BY {name})"
        for name in FEATURES
    )
    memory = OwnMemory()
    start = time.perf_counter()
    with place.connect() as connection:
        connection.execute("SET work_mem = '256MB'")
        connection.execute(f"SELECT count(*), {figures} FROM {TECHNICAL}".encode()).fetchone()
    tell(time.perf_counter() - start, memory.peak_mb)


RUNS = {
    "ours": run_ours,
    "ours, by entity": lambda root, url: run_ours(root, url, "entity"),
    "pandas describe": lambda root, url: run_fetch(root, url, describe=True),
    "SQL": run_sql,
    "floor: fetch": lambda root, url: run_fetch(root, url, describe=False),
    "drift": run_drift,
}

if __name__ == "__main__":
    if len(sys.argv) > 1 and sys.argv[1] in RUNS:
        RUNS[sys.argv[1]](*sys.argv[2:])
    else:
        main()
