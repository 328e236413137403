"""`featurectl check` over a long history: every rule of the shipped catalogue, and those of candles.

Run: python -m tests.bench.checks [--entities 1000] [--rows 10000]        (three minutes, 4 GB of disk)

Prints what a check of the technical indicators takes, one of the candles, and what a run looks at; with the memory of
this process beyond what it had before.
"""

from __future__ import annotations

import argparse
import resource

from psycopg import sql

from featurectl.core.catalog import Catalog, Selection, read_catalog
from featurectl.core.checks import CheckReport, run_checks
from featurectl.core.db import Connection
from tests.bench.market import FIRST, NOW, open_place
from tests.bench.measure import Bench

VIEW = "technical_indicators_view"


def fill(connection: Connection, entities: int, rows: int) -> None:
    """Write hourly bars and features that lie within what is expected of them."""
    span = sql.SQL("generate_series(1, {}) AS e, generate_series(1, {}) AS r").format(entities, rows)
    at = sql.SQL("{} + r * interval '1 hour'").format(sql.Literal(FIRST))
    price = sql.SQL("100 + sin(e + r * 0.01)")
    connection.execute(
        sql.SQL(
            "INSERT INTO features.technical_indicators (symbol, timeframe, event_timestamp, rsi_14, macd, ema_20, "
            "bollinger_bands_position, atr, volume_sma_ratio, created_timestamp) SELECT 'S' || e, '1h', {at}, "
            "50 + 40 * sin(e * r), sin(e + r), {price}, cos(e * r), 1 + 0.1 * sin(r), 1 + sin(r), {at} FROM {span}"
        ).format(at=at, price=price, span=span)
    )
    connection.execute(
        sql.SQL(
            "INSERT INTO market.candles SELECT 'S' || e, '1h', {at}, {price}, {price} + 1, {price} - 1, {price}, "
            "100 + sin(e * r), NULL, NULL, {at} FROM {span}"
        ).format(at=at, price=price, span=span)
    )
    for table in ("features.technical_indicators", "market.candles"):
        connection.execute(sql.SQL("VACUUM ANALYZE {}").format(sql.Identifier(*table.split("."))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--entities", type=int, default=1000)
    parser.add_argument("--rows", type=int, default=10_000, help="of each entity, bars and features alike")
    arguments = parser.parse_args()
    bench = Bench("checks")
    with open_place() as place, place.connect() as connection:
        fill(connection, arguments.entities, arguments.rows)
        catalog = read_catalog(connection, "market")
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        features = [_whole(catalog)]
        bench.interleave(
            {
                "six features, all rows": lambda: _quiet(run_checks(connection, catalog, features, now=NOW)),
                "candles, all bars": lambda: _quiet(run_checks(connection, catalog, [], now=NOW, candles=True)),
                "what a run looks at": lambda: _quiet(run_checks(connection, catalog, now=NOW, recent=100)),
            },
            rounds=2,
        )
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    bench.notes.update(rows=arguments.entities * arguments.rows, entities=arguments.entities, memory_grown_mb=grown)
    print(f"{arguments.entities * arguments.rows:,} rows of {arguments.entities:,} entities; memory +{grown:.0f} MB")
    bench.report()


def _whole(catalog: Catalog) -> Selection:
    view = catalog.view(VIEW)
    return Selection(view, tuple(field.name for field in view.fields))


def _quiet(report: CheckReport) -> None:
    assert report.outcomes and not report.findings and not report.unreadable, report


if __name__ == "__main__":
    main()
