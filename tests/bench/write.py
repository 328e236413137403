"""Online writes by `online_write_batch`: stock Feast's PostgreSQL store, ours, and a bare COPY and upsert.

Run: python -m tests.bench.write [--entities 20000] [--features 10] [--rounds 5]     (about two minutes)

Every round writes all entities with a later event time than the one before, so that every row is replaced; the round
that is not counted inserts them. The bare upsert gets its rows as Python tuples, ours and stock as Feast's protobufs,
and it writes the same rows again and again.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from feast import FeatureStore
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from psycopg import sql

from featurectl.core.db import Connection
from tests.bench.measure import Bench, Ratio
from tests.bench.stage import FIRST, VIEW, Stage, open_stage, quiet

STOCK, OURS, FLOOR = "stock PostgreSQL store", "ours", "COPY and upsert, bare"
SMALL = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--entities", type=int, default=20_000)
    parser.add_argument("--features", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with quiet(), open_stage(entities=1, rows=1, features=arguments.features) as stage:
        large = measure(stage, f"write {arguments.entities}", arguments.entities, arguments.rounds, ">= 8")
        small = measure(stage, f"write {SMALL}", SMALL, 4 * arguments.rounds, ">= 1")
        one = measure(stage, "write 1", 1, 10 * arguments.rounds, ">= 1")
    for bench in (large, small, one):
        bench.notes = {"entities x features": f"{bench.name.split()[1]} x {arguments.features}"}
        bench.report()


def measure(stage: Stage, name: str, entities: int, rounds: int, target: str) -> Bench:
    """Time all contenders in turn over batches of a size."""
    bench = Bench(name, ratios=[Ratio("stock / ours", STOCK, OURS, target), Ratio("ours / bare", OURS, FLOOR, "")])
    batches = Batches(stage, entities)
    with stage.connect() as connection:
        bench.interleave(
            {
                STOCK: by_feast(stage.store("stock"), batches),
                OURS: by_feast(stage.store("ours"), batches),
                FLOOR: bare(connection, stage.names, batches),
            },
            rounds,
        )
    return bench


class Batches:
    """The same rows again and again, each time an hour later; made outside the times."""

    def __init__(self, stage: Stage, entities: int) -> None:
        self.names = stage.names
        self.symbols = stage.symbols(entities)
        self.keys = [
            EntityKey(
                join_keys=["symbol", "timeframe"],
                entity_values=[Value(string_val=symbol), Value(string_val="1h")],
            )
            for symbol in self.symbols
        ]
        self.values = [
            {name: Value(double_val=index + position / 7) for position, name in enumerate(self.names)}
            for index in range(entities)
        ]

    def protos(self, event: datetime) -> list[Any]:
        return [(key, values, event, event) for key, values in zip(self.keys, self.values, strict=True)]

    def tuples(self, event: datetime) -> list[tuple[Any, ...]]:
        features = [[one[name].double_val for name in self.names] for one in self.values]
        return [(symbol, "1h", event, event, *row) for symbol, row in zip(self.symbols, features, strict=True)]


def hours() -> Callable[[], datetime]:
    counter = itertools.count()
    return lambda: FIRST + timedelta(hours=next(counter))


def by_feast(store: FeatureStore, batches: Batches) -> Callable[[], None]:
    view, provider, next_hour = store.get_feature_view(VIEW), store._get_provider(), hours()

    def write() -> None:
        provider.online_write_batch(store.config, view, batches.protos(next_hour()), None)

    return write


def bare(connection: Connection, features: list[str], batches: Batches) -> Callable[[], None]:
    """COPY into a temporary table, and one INSERT … ON CONFLICT from it, with the least of columns and no guard."""
    names = ["symbol", "timeframe", "event_timestamp", "created_timestamp", *features]
    columns = sql.SQL(", ").join(map(sql.Identifier, names))
    assigned = sql.SQL(", ").join(sql.SQL("{0} = excluded.{0}").format(sql.Identifier(name)) for name in names[2:])
    connection.execute("DROP TABLE IF EXISTS bench.floor")
    connection.execute("CREATE TABLE bench.floor AS SELECT * FROM bench.features LIMIT 0")
    connection.execute("ALTER TABLE bench.floor ADD PRIMARY KEY (symbol, timeframe)")
    types = ["text", "text", "timestamptz", "timestamptz", *["float8"] * len(features)]
    # The rows are made once: what a caller's tuples cost is not the floor's to bear.
    rows = batches.tuples(FIRST)

    def write() -> None:
        with connection.transaction(), connection.cursor() as cursor:
            cursor.execute("CREATE TEMP TABLE staged (LIKE bench.floor) ON COMMIT DROP")
            copy_in = sql.SQL("COPY staged ({}) FROM STDIN (FORMAT BINARY)").format(columns)
            with cursor.copy(copy_in) as copy:
                copy.set_types(types)
                for row in rows:
                    copy.write_row(row)
            upsert = sql.SQL(
                "INSERT INTO bench.floor ({0}) SELECT {0} FROM staged ON CONFLICT (symbol, timeframe) DO UPDATE SET {1}"
            )
            cursor.execute(upsert.format(columns, assigned))

    return write


if __name__ == "__main__":
    main()
