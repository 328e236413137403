"""`compute` of candles into empty feature tables, against its floor: fetch the candles, write the feature rows.

Run: python -m tests.bench.compute [--symbols 100] [--bars 20000] [--rounds 3]     (about three minutes)

The floor fetches the same candles as Arrow through ADBC, and writes the finished feature rows, made ready in memory
before, with one binary COPY into a table with the same primary key. Every contender runs in a process of its own; with
a tenth of the symbols as well, to see whether memory grows with them.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np

from featurectl.core import pgcopy
from featurectl.core.times import microseconds
from tests.bench.market import FIRST, NOW, Place, bars, copy_in, copy_out, empty, like, open_place, symbols
from tests.bench.measure import Bench, Ratio, in_child, tell

FEATURES = "features.technical_indicators"
FLOOR = "features.floor"
HOUR = 3_600_000_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--symbols", type=int, default=100)
    parser.add_argument("--bars", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    bench = Bench("compute", ratios=[Ratio("compute, by its floor", "ours", "floor", "<= 1.8")])
    with open_place() as place:
        fill(place, symbols(given.symbols), given.bars)
        arguments = (str(place.root), place.url)
        for number in range(given.rounds + 1):
            with place.connect() as connection:
                empty(connection, FEATURES)
                connection.execute("TRUNCATE featurectl.computed_series")
            ours = in_child("tests.bench.compute", "ours", *arguments)
            if number == 0:
                floor_rows(place)
            floor = in_child("tests.bench.compute", "floor", *arguments)
            if number:
                bench.add("ours", ours.seconds, ours.peak_mb)
                bench.add("floor", floor.seconds, floor.peak_mb)
        again = in_child("tests.bench.compute", "ours", *arguments)
        bench.add("ours again, nothing to do", again.seconds, again.peak_mb)
        with place.connect() as connection:
            empty(connection, FEATURES)
            empty(connection, "market.candles")
            connection.execute("TRUNCATE featurectl.computed_series")
        fill(place, symbols(given.symbols // 10), given.bars)
        fewer = in_child("tests.bench.compute", "ours", *arguments)
        bench.add("ours, a tenth of the symbols", fewer.seconds, fewer.peak_mb)
    bench.notes["data"] = f"{given.symbols} symbols x {given.bars} bars, {given.symbols * given.bars} feature rows"
    bench.report()


def fill(place: Place, names: list[str], count: int) -> None:
    """Write bars of several symbols into market.candles."""
    generator = np.random.default_rng(7)
    opens = microseconds(FIRST) + HOUR * np.arange(count, dtype=np.int64)
    with place.connect() as connection:
        for name in names:
            columns = {"symbol": name, "timeframe": "1h", "open_time": opens, **bars(generator, count)}
            content = {**columns, "created_timestamp": microseconds(NOW)}
            pgcopy.write(connection, pgcopy.sql.Identifier("market", "candles"), content, count)
        connection.execute("VACUUM ANALYZE market.candles")


def floor_rows(place: Place) -> None:
    """Keep the feature rows as a file, and make a table like theirs to write them into."""
    with place.connect() as connection:
        rows = copy_out(connection, f"SELECT * FROM {FEATURES} ORDER BY symbol, timeframe, event_timestamp")
        like(connection, FEATURES, FLOOR)
    (place.root / "floor.bin").write_bytes(rows)


def run_ours(root: str, url: str) -> None:
    from featurectl.core.catalog import read_catalog
    from featurectl.core.compute import Request, compute

    place = Place(Path(root), url)
    start = time.perf_counter()
    with place.connect() as connection:
        catalog = read_catalog(connection, "market")
        results = compute(connection, catalog, Request(), root=place.root, warmup=1000, now=NOW)
    tell(time.perf_counter() - start, sum(one.inserted for one in results))


def run_floor(root: str, url: str) -> None:
    from featurectl.core.arrow import connect

    place = Place(Path(root), url)
    rows = (place.root / "floor.bin").read_bytes()
    with place.connect() as connection:
        empty(connection, FLOOR)
        start = time.perf_counter()
        with connect(url) as arrow:
            fetched = arrow.table(pgcopy.sql.SQL("SELECT * FROM market.candles ORDER BY symbol, timeframe, open_time"))
        copy_in(connection, FLOOR, rows)
    tell(time.perf_counter() - start, fetched.num_rows)


if __name__ == "__main__":
    if len(sys.argv) > 1 and sys.argv[1] in ("ours", "floor"):
        {"ours": run_ours, "floor": run_floor}[sys.argv[1]](*sys.argv[2:])
    else:
        main()
