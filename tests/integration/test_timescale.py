"""On a server with TimescaleDB: hypertables, columnstore, policies, conversion, and writes to compressed chunks.

Its jobs run in the background, and at once when a policy is new: a test either has no policies, or does not mind.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from featurectl.core import materialize, schema
from featurectl.core.candles import Rejects
from featurectl.core.catalog import read_catalog
from featurectl.core.config import Overrides
from featurectl.core.db import Connection, open_connection
from featurectl.core.doctor import Finding, examine
from featurectl.core.ingest_ticks import ORDER_BOOK, SIGNALS, TRADES, MergedTicks, merge_ticks
from featurectl.core.inventory import Holding, take_inventory
from featurectl.core.maintain import maintain
from featurectl.core.repository import Profile, make_repository
from featurectl.core.storage import MARKET_TABLES, TimeTable, time_tables
from featurectl.core.ticks import Series, TickFile
from featurectl.core.times import Window, microseconds
from featurectl.core.timescale import COLUMNSTORE, Hypertable, inspect, layout, normalized, read_hypertables
from featurectl.plugin import apply as steps
from tests.fix_repository import Repo
from tests.integration.test_storage import set_storage
from tests.market import START, Market, bars, corrected, named, random_bars, take, whole_table

DAY, HOUR, MINUTE = timedelta(days=1), timedelta(hours=1), timedelta(minutes=1)
NOW = datetime(2024, 4, 1, tzinfo=UTC)
LATER = NOW + HOUR
SYMBOLS = ("BTCUSDT", "ETHUSDT")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::pydantic.PydanticDeprecatedSince20")


@pytest.fixture(scope="session", autouse=True)
def _timescaledb(server: str) -> None:
    with open_connection(server, connect_timeout=10) as connection:
        available = inspect(connection).available
    if available is None:
        pytest.skip("the server has no TimescaleDB; name one that has in FEATURECTL_TEST_DATABASE_URL")
    if tuple(map(int, re.findall(r"\d+", available)[:2])) < COLUMNSTORE:
        pytest.skip(f"TimescaleDB {available} has no columnstore")


@pytest.fixture
def connection(repo: Repo) -> Iterator[Connection]:
    """A connection to an applied repository's database, where TimescaleDB can do everything."""
    with repo.connect() as connection:
        if not inspect(connection).has_columnstore:
            pytest.skip("TimescaleDB runs under the Apache licence")
        yield connection


def tables_of(repo: Repo, connection: Connection) -> list[TimeTable]:
    return time_tables(repo.database.config, read_catalog(connection, "market"))


def hypertables(connection: Connection, tables: Sequence[TimeTable]) -> dict[str, Hypertable]:
    return read_hypertables(connection, inspect(connection), [table.name for table in tables])


def wanted(table: TimeTable) -> Hypertable:
    """Return what the database should tell of a table."""
    segment_by, order_by = layout(table)
    laid_out = (normalized(segment_by), normalized(order_by))
    return Hypertable(table.chunk_interval, *laid_out, table.compress_after, table.drop_after)


def summaries(repo: Repo) -> list[str]:
    return [change.summary for change in steps.plan(repo.database).schema if change.statement]


def findings(repo: Repo, subject: str) -> list[Finding]:
    overrides = Overrides(repo=repo.root, database_url=repo.url)
    return [finding for finding in examine(overrides, now=NOW) if finding.subject == subject]


def test_time_tables_are_hypertables_with_the_life_cycles_of_their_grain(repo: Repo, connection: Connection) -> None:
    tables = tables_of(repo, connection)
    assert {"market.candles", "market.trades", "features.technical_indicators"} < {table.name for table in tables}
    assert hypertables(connection, tables) == {table.name: wanted(table) for table in tables}
    jobs = connection.execute(
        "SELECT hypertable_schema || '.' || hypertable_name, proc_name FROM timescaledb_information.jobs "
        "WHERE hypertable_name IS NOT NULL"
    ).fetchall()
    assert sorted(jobs) == [(name, "policy_compression") for name in sorted(table.name for table in tables)]
    assert summaries(repo) == []
    assert [finding.message for finding in findings(repo, "storage")] == [
        f"{len(tables)} hypertables, 0 ordinary tables"
    ]


def test_the_primary_key_is_the_only_index(connection: Connection) -> None:
    indexes = connection.execute("SELECT indexname FROM pg_indexes WHERE schemaname = 'market'").fetchall()
    assert sorted(indexes) == [(f"{name}_pkey",) for name in ("candles", "order_book", "signals", "trades")]


def test_changed_settings_are_planned_and_applied_and_then_there_is_nothing_to_do(
    repo: Repo, connection: Connection
) -> None:
    tables = tables_of(repo, connection)
    before = hypertables(connection, tables)
    set_storage(repo.root, "market.trades: {chunk_interval: 12h, compress_after: 3d, drop_after: 90d}")
    changes = [
        "new chunks of market.trades span 12h, not 1d",
        "compress chunks of market.trades no more after 2d",
        "compress chunks of market.trades after 3d",
        "drop chunks of market.trades after 90d",
    ]
    assert summaries(repo) == changes
    assert hypertables(connection, tables) == before, "a plan changes nothing"
    (finding,) = findings(repo, "storage")
    assert (finding.level, finding.fix) == ("warning", "run `featurectl apply`")
    assert all(change in finding.message for change in changes)
    steps.apply(repo.database, now=NOW)
    after = hypertables(connection, tables)
    assert after["market.trades"] == replace(
        before["market.trades"], chunk_interval=12 * HOUR, compress_after=3 * DAY, drop_after=90 * DAY
    )
    assert {**after, "market.trades": None} == {**before, "market.trades": None}
    assert summaries(repo) == []

    set_storage(repo.root, "market.trades: {compress_after: never}")
    assert summaries(repo) == [
        "new chunks of market.trades span 1d, not 12h",
        "compress chunks of market.trades no more after 3d",
        "drop chunks of market.trades no more after 90d",
    ]
    steps.apply(repo.database, now=NOW)
    assert hypertables(connection, tables)["market.trades"] == replace(before["market.trades"], compress_after=None)
    assert summaries(repo) == []


def test_a_table_laid_out_otherwise_is_laid_out_anew(repo: Repo, connection: Connection) -> None:
    connection.execute(
        "ALTER TABLE market.signals SET (timescaledb.enable_columnstore = true, timescaledb.segmentby = 'symbol', "
        "timescaledb.orderby = 'time DESC')"
    )
    assert summaries(repo) == ["lay market.signals out by symbol, name, then time DESC, where it is compressed"]
    steps.apply(repo.database, now=NOW)
    assert summaries(repo) == []


@dataclass(frozen=True)
class Written:
    """What one round of ingest, compute and materialize said of itself."""

    ingested: list[Any]
    computed: list[Any]
    materialized: list[Any]


def series(key: dict[str, str], times: Sequence[datetime], **values: Any) -> Series:
    columns = {name: np.asarray(value, dtype=np.float64) for name, value in values.items() if name != "trade_id"}
    ids = {"trade_id": pa.array(values["trade_id"])} if "trade_id" in values else {}
    return Series(key, {"time": np.array([microseconds(time) for time in times]), **ids, **columns})


def ingest_ticks(market: Market, table: Any, *found: Series, now: datetime) -> list[MergedTicks]:
    rejects = Rejects({}, pa.table({"row": [], "reason": [], "detail": []}))
    file = TickFile("-", "generic", sum(map(len, found)), found, rejects)
    return merge_ticks(market.connection, table, file, now=now)


def ticks(market: Market, size: float, minutes: Sequence[int], *, now: datetime) -> list[MergedTicks]:
    """Write a book, a trade and a score at each of these minutes; the sizes and scores depend on ``size``."""
    times = [START + minute * MINUTE for minute in minutes]
    bid = [100 + minute % 7 for minute in minutes]
    ids = [str(minute) for minute in minutes]
    sizes = [size + minute % 3 for minute in minutes]
    key = {"symbol": "BTCUSDT"}
    book = series(key, times, bid=bid, bid_size=sizes, ask=[value + 1 for value in bid], ask_size=[2.0] * len(bid))
    scores = series({"symbol": "*", "name": "fear_greed_index"}, times, score=[40 + value for value in sizes])
    return [
        *ingest_ticks(market, ORDER_BOOK, book, now=now),
        *ingest_ticks(market, TRADES, series(key, times, trade_id=ids, price=bid, size=sizes), now=now),
        *ingest_ticks(market, SIGNALS, scores, now=now),
    ]


def early(market: Market) -> Written:
    """Write two months of bars with holes, and three days of ticks; make features of them."""
    random = np.random.default_rng(7)
    whole = random_bars(random, 1500)
    incomplete = [named(take(whole, [row for row in range(1500) if row % 50]), symbol) for symbol in SYMBOLS]
    ingested = [*market.ingest(*incomplete, now=NOW), *ticks(market, 1.0, range(0, 4320, 2), now=NOW)]
    return Written(ingested, *features(market, NOW))


def late(market: Market) -> Written:
    """Write the bars that were missing, correct others, of all times; the same of ticks; make features of them."""
    random = np.random.default_rng(7)
    whole = random_bars(random, 1500)
    wrong = take(corrected(whole, random), [7, 400, 1111])
    missing = take(whole, range(0, 1500, 50))
    ingested = [
        *market.ingest(*(named(missing, symbol) for symbol in SYMBOLS), now=LATER),
        *market.ingest(named(wrong, "ETHUSDT"), now=LATER),
        *ticks(market, 5.0, [1, 2, 1500, 1501, 4000], now=LATER),
    ]
    return Written(ingested, *features(market, LATER))


def features(market: Market, now: datetime) -> tuple[list[Any], list[Any]]:
    computed = market.compute(now=now)
    views = materialize.choose_views(market.catalog, ())
    online = materialize.materialize(market.connection, "market", views, Window(None, now), now=now)
    assert all(isinstance(one, materialize.Materialized) for one in online), online
    return computed, online


def without_policies(repo: Repo, connection: Connection) -> Market:
    """Return a market that nothing but the test compresses."""
    for table in tables_of(repo, connection):
        connection.execute(f"CALL remove_columnstore_policy('{schema.quoted(table.name)}', if_exists => true)".encode())
    return Market(repo, connection)


def compress(connection: Connection, tables: Sequence[TimeTable]) -> None:
    for table in tables:
        name = schema.quoted(table.name)
        chunks = connection.execute(f"SELECT chunk::text FROM show_chunks('{name}') AS chunk".encode()).fetchall()
        for (chunk,) in chunks:
            connection.execute(f"CALL convert_to_columnstore('{chunk}', if_not_columnstore => true)".encode())


def inventory(repo: Repo, connection: Connection) -> dict[str, Holding]:
    catalog = read_catalog(connection, "market")
    return {one.table: one for one in take_inventory(connection, tables_of(repo, connection), catalog)}


def online_tables(market: Market) -> list[str]:
    return [view.online_table for view in market.catalog.views if view.online_table]


def test_late_and_corrected_rows_in_compressed_chunks_are_what_they_are_in_others(
    repo: Repo, connection: Connection, clone: Callable[[str | None], str], template: str
) -> None:
    """The same rounds in two databases, one of which compresses everything in between, give the same in all tables."""
    tables = tables_of(repo, connection)
    market = without_policies(repo, connection)
    with open_connection(clone(template), connect_timeout=10) as beside:
        plain = without_policies(repo, beside)
        assert early(market) == early(plain)
        compress(connection, tables)
        again = early(market)
        assert all(one.new == one.changed == 0 for one in again.ingested), "what is there is left alone"
        held = inventory(repo, connection)
        for table in tables:
            assert held[table.name].chunks, table.name
            assert held[table.name].compressed_share == 1, table.name
        after = late(market)
        assert after.ingested == late(plain).ingested
        assert [(one.new, one.changed) for one in after.ingested] == [(30, 0), (30, 0), (0, 3), *[(2, 3)] * 3]
        for name in (*(table.name for table in tables), *online_tables(market)):
            found = whole_table(connection, name)
            assert found, name
            assert found == whole_table(beside, name), name
        compress(connection, tables)
        market.compute(now=LATER, full=True)
        plain.compute(now=LATER, full=True)
        for name in (table.name for table in tables):
            assert whole_table(connection, name) == whole_table(beside, name), name


def test_storage_shows_compressed_chunks_and_what_is_in_them(repo: Repo, connection: Connection) -> None:
    market = without_policies(repo, connection)
    market.ingest(bars([100.0] * 3000), now=datetime(2024, 8, 1, tzinfo=UTC))
    before = inventory(repo, connection)["market.candles"]
    assert (before.mode, before.compressed_chunks, before.compressed_share, before.ratio) == ("hypertable", 0, 0, None)
    compress(connection, MARKET_TABLES[:1])
    after = inventory(repo, connection)["market.candles"]
    assert (after.oldest, after.newest) == (START, START + 2999 * HOUR) == (before.oldest, before.newest)
    assert after.chunks == before.chunks and after.chunks and after.chunks >= 4
    assert after.compressed_chunks == after.chunks
    assert after.ratio and after.ratio > 1 and after.before and after.after
    assert after.size and before.size and after.size < before.size
    assert after.rows == 3000
    assert after.chunk_interval == 30 * DAY
    (shown,) = repo.json("storage", "market.candles")["tables"]
    assert (shown["compressed_share"], shown["chunks"]) == (1, after.chunks)
    assert "100%" in repo.ok("storage", "market.candles", "--format", "table")


def test_a_filled_database_is_converted_with_all_its_rows(clone: Callable[[str | None], str], tmp_path: Path) -> None:
    """Ordinary tables, with a SQL view over them, become hypertables when the extension comes later."""
    root = make_repository(tmp_path / "market", Profile.EMBEDDED, project="market").root
    repo = Repo(root, clone("template0"))
    steps.apply(repo.database, now=NOW)
    with repo.connect() as connection:
        market = Market(repo, connection)
        early(market)
        tables = tables_of(repo, connection)
        before = {table.name: whole_table(connection, table.name) for table in tables}
        assert inspect(connection).installed is None and all(before.values())
    with repo.connect() as connection:
        connection.execute("CREATE EXTENSION timescaledb")
    with repo.connect() as connection:
        if not inspect(connection).has_columnstore:
            pytest.skip("TimescaleDB runs under the Apache licence")
        made = [summary for summary in summaries(repo) if summary.startswith("make ")]
        assert [summary.split()[1] for summary in made] == [table.name for table in tables]
        steps.apply(repo.database, now=NOW)
        assert hypertables(connection, tables) == {table.name: wanted(table) for table in tables}
        assert {table.name: whole_table(connection, table.name) for table in tables} == before
        assert inventory(repo, connection)["market.candles"].chunks in (3, 4)
        rows = connection.execute("SELECT count(*) FROM features.comprehensive_features").fetchone()
        assert rows == (len(before["features.technical_indicators"]),)
        assert summaries(repo) == []
        assert late(Market(repo, connection)).ingested


def put_books(connection: Connection, times: Sequence[datetime]) -> None:
    connection.cursor().executemany(
        "INSERT INTO market.order_book (symbol, time, bid, bid_size, ask, ask_size) VALUES ('BTCUSDT', %s, 1, 1, 2, 1)",
        [(time,) for time in times],
    )


def book_times(connection: Connection) -> list[datetime]:
    return [time for (time,) in connection.execute("SELECT time FROM market.order_book ORDER BY time").fetchall()]


def test_the_retention_policy_drops_old_chunks_and_maintain_leaves_them_to_it(
    repo: Repo, connection: Connection
) -> None:
    set_storage(repo.root, "market.order_book: {compress_after: never, drop_after: 30d}")
    steps.apply(repo.database, now=NOW)
    now = datetime.now(UTC)
    put_books(connection, [now - days * DAY for days in (60, 40, 10, 0)])
    (done,) = maintain(connection, tables_of(repo, connection), now=now)
    assert (done.table, done.by_policy, done.rows, done.chunks) == ("market.order_book", True, 0, 0)
    (job,) = connection.execute(
        "SELECT job_id FROM timescaledb_information.jobs WHERE proc_name = 'policy_retention'"
    ).fetchall()
    connection.execute(f"CALL run_job({job[0]})".encode())
    assert book_times(connection) == [now - 10 * DAY, now]


def test_maintain_drops_old_chunks_where_no_policy_does(repo: Repo, connection: Connection) -> None:
    without_policies(repo, connection)
    midnight = datetime(2024, 3, 1, tzinfo=UTC)
    put_books(connection, [midnight + days * DAY for days in range(10)])
    table = replace(MARKET_TABLES[1], drop_after=30 * DAY)
    now = midnight + 34 * DAY + HOUR
    (dry,) = maintain(connection, [table], now=now, dry_run=True)
    assert (dry.mode, dry.chunks, dry.rows, dry.by_policy) == ("hypertable", 4, 0, False)
    assert len(book_times(connection)) == 10
    assert maintain(connection, [table], now=now) == [dry]
    assert book_times(connection)[0] == midnight + 4 * DAY, "a chunk that is only partly too old stays"
    assert maintain(connection, [table], now=now)[0].chunks == 0
