"""`ingest` of candle and trade files, against its floor: COPY of the same rows into the same indexed table.

Run: python -m tests.bench.ingest [--rows 1000000] [--rounds 3]     (about three minutes)

The files are CSV as exchanges publish them, a million rows: 100 symbols of hourly bars with the symbol in a column,
and the trades of one symbol. The floor sends CSV whose columns are those of the table, ready in memory, to COPY. Ours
reads, checks and writes the file, then reads it again with every row known, and once more with a tenth corrected.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv

from featurectl.core.db import Connection
from featurectl.core.times import microseconds
from tests.bench.market import FIRST, NOW, Place, bars, copy_in, empty, like, open_place, symbols
from tests.bench.measure import Bench, Measured, Ratio, in_child, tell

KINDS = ("candles", "trades")
HOUR = 3_600_000_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    bench = Bench("ingest")
    with open_place() as place:
        for kind in KINDS:
            WRITERS[kind](place.root, given.rows)
            bench.ratios.append(Ratio(f"{kind}, by their floor", f"{kind}, new", f"{kind}, floor", "<= 2"))
            with place.connect() as connection:
                like(connection, f"market.{kind}", f"market.{kind}_floor")
            for number in range(given.rounds + 1):
                rounds = contenders(place, kind)
                if number:
                    for name, measured in rounds.items():
                        bench.add(name, measured.seconds, measured.peak_mb)
    bench.notes["data"] = f"{given.rows} rows a file"
    bench.report()


def contenders(place: Place, kind: str) -> dict[str, Measured]:
    """Run all contenders once, in turn."""
    with place.connect() as connection:
        empty(connection, f"market.{kind}")
        empty(connection, f"market.{kind}_floor")
    arguments = (kind, str(place.root), place.url)
    return {
        f"{kind}, new": in_child("tests.bench.ingest", "ours", *arguments, "new"),
        f"{kind}, floor": in_child("tests.bench.ingest", "floor", *arguments),
        f"{kind}, again": in_child("tests.bench.ingest", "ours", *arguments, "new"),
        f"{kind}, a tenth corrected": in_child("tests.bench.ingest", "ours", *arguments, "corrected"),
    }


def write_candles(root: Path, rows: int) -> None:
    generator = np.random.default_rng(7)
    names = symbols(100)
    count = rows // len(names)
    opens = microseconds(FIRST) + HOUR * np.arange(count, dtype=np.int64)
    tables = [
        pa.table(
            {
                "symbol": pa.array([name] * count),
                "timeframe": pa.array(["1h"] * count),
                "open_time": pa.array(opens, pa.timestamp("us")),
                **{column: np.round(values, 6) for column, values in bars(generator, count).items()},
            }
        )
        for name in names
    ]
    _write(root, "candles", pa.concat_tables(tables), "close")


def write_trades(root: Path, rows: int) -> None:
    generator = np.random.default_rng(7)
    times = microseconds(FIRST) + np.cumsum(generator.integers(0, 200_000, rows, dtype=np.int64))
    table = pa.table(
        {
            "symbol": pa.array(["BTCUSDT"] * rows),
            "time": pa.array(times, pa.timestamp("us")),
            "trade_id": pa.array(np.arange(3_735_000_000, 3_735_000_000 + rows)),
            "price": np.round(60_000 * np.exp(np.cumsum(generator.normal(0, 1e-5, rows))), 2),
            "size": np.round(generator.gamma(1, 0.02, rows) + 1e-5, 5),
            "side": pa.array(np.array(["buy", "sell"])[generator.integers(0, 2, rows)]),
        }
    )
    _write(root, "trades", table, "size")


WRITERS: dict[str, Callable[[Path, int], None]] = {"candles": write_candles, "trades": write_trades}


def _write(root: Path, kind: str, table: pa.Table, corrected: str) -> None:
    """Write the file that is new, and the same with every tenth row corrected."""
    pyarrow.csv.write_csv(table, root / f"{kind}_new.csv")
    values = table.column(corrected).to_numpy().copy()
    values[::10] *= 1.000001
    place = table.column_names.index(corrected)
    pyarrow.csv.write_csv(table.set_column(place, corrected, pa.array(values)), root / f"{kind}_corrected.csv")


def run_ours(kind: str, root: str, url: str, which: str) -> None:
    file = f"{root}/{kind}_{which}.csv"
    start = time.perf_counter()
    with Place(Path(root), url).connect() as connection:
        found = _ingest_candles(connection, file) if kind == "candles" else _ingest_trades(connection, file)
    tell(time.perf_counter() - start, found)


def _ingest_candles(connection: Connection, file: str) -> list[int]:
    from featurectl.core.candles import read_candles
    from featurectl.core.ingest import merge_candles

    read = read_candles(file, name=file, symbol=None, timeframe=None, closed_before=NOW)
    merged = merge_candles(connection, read, now=NOW)
    return [sum(one.new for one in merged), sum(one.changed for one in merged)]


def _ingest_trades(connection: Connection, file: str) -> list[int]:
    from featurectl.core.ingest_ticks import TRADES, merge_ticks
    from featurectl.core.ticks import read_trades

    merged = merge_ticks(connection, TRADES, read_trades(file, name=file, symbol=None, now=NOW), now=NOW)
    return [sum(one.new for one in merged), sum(one.changed for one in merged)]


def run_floor(kind: str, root: str, url: str) -> None:
    content = (Path(root) / f"{kind}_new.csv").read_bytes()
    header, _, rows = content.partition(b"\n")
    columns = header.decode().replace('"', "")
    start = time.perf_counter()
    with Place(Path(root), url).connect() as connection:
        copy_in(connection, f"market.{kind}_floor", rows, format="CSV", columns=f"({columns})")
    tell(time.perf_counter() - start)


if __name__ == "__main__":
    if len(sys.argv) > 1 and sys.argv[1] in ("ours", "floor"):
        {"ours": run_ours, "floor": run_floor}[sys.argv[1]](*sys.argv[2:])
    else:
        main()
