"""Which symbols there is data of."""

from __future__ import annotations

from psycopg import sql

from featurectl.core.db import Connection
from featurectl.core.schema import table_identifier
from featurectl.core.sources import key_walk

TICKS = ("market.order_book", "market.trades")
SIGNALS = "market.signals"
EVERYTHING = ("market.candles", *TICKS, SIGNALS)


def symbols_in(connection: Connection, *tables: str) -> set[str]:
    """Return the symbols that these tables have rows of, found by walking their primary keys."""
    statement = sql.SQL("WITH RECURSIVE {} SELECT symbol FROM entities")
    return {
        symbol
        for table in tables
        for (symbol,) in connection.execute(statement.format(key_walk(table_identifier(table), ["symbol"])))
    }
