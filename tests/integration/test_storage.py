"""Retention in small transactions, what tables hold, and what doctor says of both: on ordinary tables unless noted."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from psycopg import sql

from featurectl.cli import diagnostics
from featurectl.cli.app import run
from featurectl.core import inventory, schema, storage, timescale
from featurectl.core.catalog import Catalog, read_catalog
from featurectl.core.config import Overrides
from featurectl.core.db import Connection, open_connection
from featurectl.core.doctor import Finding, examine
from featurectl.core.locks import lock
from featurectl.core.maintain import maintain
from featurectl.core.storage import MARKET_TABLES, TimeTable, rows_statement
from featurectl.errors import LockHeld, NotFound
from tests.fix_repository import Repo
from tests.market import START, Market, bars

NOW = datetime(2024, 6, 1, 12, tzinfo=UTC)
DAY, HOUR = timedelta(days=1), timedelta(hours=1)
BOOK = replace(MARKET_TABLES[1], drop_after=30 * DAY)


@pytest.fixture
def market(clone: Callable[[str | None], str]) -> Iterator[Connection]:
    """A database whose market tables are ordinary ones, whatever the server has."""
    with open_connection(clone(None), connect_timeout=10) as connection:
        schema.migrate(connection)
        yield connection


def write(connection: Connection, table: TimeTable, rows: list[tuple[str, datetime]]) -> None:
    """Write rows of these symbols and times; other keys depend on the symbol, values are all the same."""
    columns = schema.columns_of(connection, table.name)
    texts = [*table.keys[1:], *table.rest]
    numbers = [name for name, kind in columns.items() if kind == "double precision"]
    names = ["symbol", table.time, *texts, *numbers]
    statement = sql.SQL("COPY {} ({}) FROM STDIN").format(
        table.identifier, sql.SQL(", ").join(map(sql.Identifier, names))
    )
    with connection.cursor() as cursor, cursor.copy(statement) as copy:
        for symbol, time in rows:
            copy.write_row((symbol, time, *("1h" for _ in texts), *(1.0 for _ in numbers)))


def times_of(connection: Connection, table: TimeTable) -> set[tuple[str, datetime]]:
    statement = sql.SQL("SELECT symbol, {} FROM {}").format(sql.Identifier(table.time), table.identifier)
    return set(connection.execute(statement).fetchall())


@pytest.mark.parametrize("table", MARKET_TABLES, ids=[table.name for table in MARKET_TABLES])
@pytest.mark.parametrize("batch_rows", [1, 7, 10_000])
def test_exactly_what_is_too_old_is_deleted(market: Connection, table: TimeTable, batch_rows: int) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    table = replace(table, drop_after=10 * HOUR)
    limit = NOW - 10 * HOUR
    edge = [limit - timedelta(microseconds=1), limit, limit + timedelta(microseconds=1)]
    rows = {(f"S{chance.randrange(4)}", NOW - chance.randrange(1, 30) * HOUR) for _ in range(60)}
    rows |= {("EDGE", time) for time in edge} | {("YOUNG", NOW)} | {("OLD", NOW - 20 * HOUR)}
    write(market, table, sorted(rows))
    seen: list[int] = []
    (done,) = maintain(
        market, [table], now=NOW, batch_rows=batch_rows, on_rows=lambda index, name, count: seen.append(count)
    )
    kept = {row for row in rows if row[1] >= limit}
    assert times_of(market, table) == kept
    assert (done.table, done.mode, done.rows, done.older_than) == (table.name, "table", len(rows - kept), limit)
    assert seen == sorted(seen) and seen[-1] == done.rows and max(map(int.__sub__, seen[1:], seen)) <= batch_rows
    assert maintain(market, [table], now=NOW)[0].rows == 0


def test_a_dry_run_counts_and_deletes_nothing(market: Connection) -> None:
    rows = [(symbol, NOW - days * DAY) for symbol in ("BTCUSDT", "ETHUSDT") for days in range(40)]
    write(market, BOOK, rows)
    (done,) = maintain(market, [BOOK], now=NOW, dry_run=True)
    assert done.rows == 2 * 9
    assert times_of(market, BOOK) == set(rows)


def test_tables_without_a_limit_are_not_touched(market: Connection) -> None:
    write(market, BOOK, [("BTCUSDT", NOW - 3000 * DAY)])
    assert maintain(market, MARKET_TABLES, now=NOW) == []
    assert len(times_of(market, BOOK)) == 1


def test_an_interrupted_run_has_done_its_batches_and_can_be_started_again(market: Connection) -> None:
    write(market, BOOK, [("BTCUSDT", NOW - 31 * DAY - minutes * timedelta(minutes=1)) for minutes in range(50)])

    def interrupt(index: int, name: str, rows: int) -> None:
        if rows >= 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        maintain(market, [BOOK], now=NOW, batch_rows=10, on_rows=interrupt)
    assert len(times_of(market, BOOK)) == 30
    assert maintain(market, [BOOK], now=NOW, batch_rows=10)[0].rows == 30


def test_one_run_at_a_time(market: Connection) -> None:
    with (
        open_connection(market.info.dsn, connect_timeout=10) as other,
        lock(other, "maintain"),
        pytest.raises(LockHeld, match="maintain: locked by another session"),
    ):
        maintain(market, [BOOK], now=NOW)


def test_old_rows_are_found_by_the_primary_key(market: Connection) -> None:
    write(market, BOOK, [(f"S{n % 5}", NOW - n * timedelta(minutes=1)) for n in range(20_000)])
    market.execute("ANALYZE market.order_book")
    # Of so few rows a planner may rather read them all.
    market.execute("SET enable_seqscan = off")
    parts = {"instant": sql.Literal(NOW - 13 * DAY), "rows": sql.Literal(100)}
    for name in ("count_old", "delete_old"):
        plan = market.execute(sql.SQL("EXPLAIN {}").format(rows_statement(name, BOOK, **parts))).fetchall()
        text = "\n".join(line for (line,) in plan)
        assert "Seq Scan" not in text and "order_book_pkey" in text, text


def test_the_oldest_and_newest_time_are_those_of_all_entities(market: Connection) -> None:
    assert inventory.extent(market, BOOK) == (None, None)
    rows = [("B", NOW - 5 * DAY), ("A", NOW - 3 * DAY), ("C", NOW), ("A", NOW - DAY)]
    write(market, BOOK, rows)
    assert inventory.extent(market, BOOK) == (NOW - 5 * DAY, NOW)
    young = sql.SQL("s.time > {}").format(sql.Literal(NOW - 4 * DAY))
    assert inventory.extent(market, BOOK, (young,)) == (NOW - 3 * DAY, NOW)


def holdings(repo: Repo, *names: str, **settings: Any) -> dict[str, inventory.Holding]:
    config = replace(repo.database.config, storage=settings)
    with repo.connect() as connection:
        catalog = read_catalog(connection, "market")
        tables = storage.time_tables(config, catalog)
        return {one.table: one for one in inventory.take_inventory(connection, tables, catalog, names)}


def test_every_table_of_a_repository_is_shown(repo: Repo) -> None:
    """On a server with TimescaleDB its time tables are hypertables."""
    with repo.connect() as connection:
        write(connection, BOOK, [("BTCUSDT", NOW - hours * HOUR) for hours in range(500)])
        mode = "hypertable" if timescale.inspect(connection).has_hypertables else "table"
    found = holdings(repo)
    assert {one.mode for name, one in found.items() if name.startswith("market.")} == {mode}
    book = found["market.order_book"]
    assert (book.oldest, book.newest) == (NOW - 499 * HOUR, NOW)
    assert book.rows == 500 and book.size and book.size >= 500 * 56
    empty = found["market.trades"]
    assert (empty.oldest, empty.newest, empty.rows) == (None, None, 0)
    online = found["online.market__technical_indicators_view"]
    assert (online.mode, online.oldest, online.drop_after) == ("online", None, None)
    assert found["featurectl"].mode == "ledger" and (found["featurectl"].size or 0) > 50_000
    assert found["features.technical_indicators"].mode == mode


def test_rows_of_a_large_table_are_estimated(market: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    write(market, BOOK, [("BTCUSDT", NOW - n * timedelta(minutes=1)) for n in range(5000)])
    market.execute("ANALYZE market.order_book")
    market.execute("DELETE FROM market.order_book WHERE time < %s", (NOW - DAY,))
    nothing = Catalog("market", (), (), ())
    (counted,) = inventory.take_inventory(market, [BOOK], nothing, [BOOK.name])
    monkeypatch.setattr(inventory, "_COUNTED", 0)
    (estimated,) = inventory.take_inventory(market, [BOOK], nothing, [BOOK.name])
    assert (counted.rows, estimated.rows) == (1441, 5000)


def test_some_tables_are_shown_by_name_and_unknown_ones_are_named(repo: Repo) -> None:
    assert list(holdings(repo, "market.trades", "featurectl")) == ["market.trades", "featurectl"]
    with pytest.raises(NotFound, match=r"table 'trades' not found; tables: .*market.trades"):
        holdings(repo, "trades")


def set_storage(root: Path, setting: str) -> None:
    """Have ``feature_store.yaml`` say this of a table, and nothing of others."""
    path = root / "feature_store.yaml"
    path.write_text(f"{path.read_text().partition('  storage:')[0]}  storage:\n    {setting}\n")


def test_the_commands(repo: Repo) -> None:
    """On a server with TimescaleDB whole chunks of one day are dropped, as no policy is there before `apply`."""
    with repo.connect() as connection:
        write(connection, BOOK, [("BTCUSDT", NOW - days * DAY) for days in range(40)])
    now = {"FEATURECTL_NOW": "2024-06-01T12:00:00Z"}
    assert "all rows stay" in repo.run("maintain", env=now).stderr
    set_storage(repo.root, "market.order_book: {drop_after: 30d, compress_after: never}")
    (dry,) = repo.json("maintain", "--dry-run", env=now)["tables"]
    assert (dry["rows"] or dry["chunks"]) == 9
    assert (dry["drop_after"], dry["older_than"]) == (30 * 86400, "2024-05-02T12:00:00Z")
    (done,) = repo.json("maintain", env=now)["tables"]
    assert done == dry
    (shown,) = repo.json("storage", "market.order_book", env=now)["tables"]
    assert (shown["oldest"], shown["newest"]) == ("2024-05-02T12:00:00Z", "2024-06-01T12:00:00Z")
    table = repo.ok("storage", "--format", "table")
    assert "market.order_book" in table and "2024-05-02T12:00:00Z" in table and "ledger" in table
    assert "deleted" in repo.ok("maintain", "--format", "table", env=now)


def test_a_setting_that_can_not_be_stops_what_needs_it(repo: Repo) -> None:
    set_storage(repo.root, "market.book: {drop_after: 30d}")
    for command in ("maintain", "storage"):
        done = repo.run(command)
        assert done.returncode == 2
        assert "names table 'market.book', which is no time table; tables: market.candles, " in done.stderr
    assert repo.run("views").returncode == 0
    (finding,) = of_subject(repo, "storage")
    assert (finding.level, finding.message.endswith("no time table")) == ("error", True)


def of_subject(repo: Repo, subject: str) -> list[Finding]:
    overrides = Overrides(repo=repo.root, database_url=repo.url)
    return [finding for finding in examine(overrides, now=NOW) if finding.subject == subject]


def test_doctor_counts_the_tables_of_each_mode(repo: Repo) -> None:
    (finding,) = of_subject(repo, "storage")
    assert finding.level == "ok"
    assert "0 ordinary tables" in finding.message or finding.message.startswith("0 hypertables")


def test_doctor_finds_rows_that_should_be_gone(repo: Repo) -> None:
    set_storage(repo.root, "market.order_book: {drop_after: 30d, compress_after: never}")
    with repo.connect() as connection:
        write(connection, BOOK, [("BTCUSDT", NOW - 31 * DAY)])
        assert of_subject(repo, "retention") == [], "a run a day leaves rows of up to a day more"
        write(connection, BOOK, [("ETHUSDT", NOW - 33 * DAY)])
    (finding,) = of_subject(repo, "retention")
    assert finding.level == "warning"
    assert "market.order_book has rows of 2024-04-" in finding.message and "30d" in finding.message
    assert finding.fix == "run `featurectl maintain`, every day"


def test_progress_counts_the_tables_that_have_a_drop_after(
    repo: Repo, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    set_storage(repo.root, "market.order_book: {drop_after: 30d}\n    market.trades: {drop_after: 30d}")
    monkeypatch.setattr(diagnostics, "SECONDS_BETWEEN_LINES", 0)
    monkeypatch.setenv("FEATURECTL_DATABASE_URL", repo.url)
    assert run(["-C", str(repo.root), "maintain", "--dry-run"]) == 0
    said = capsys.readouterr().err
    assert "maintain: 0 of 2 done, at market.order_book" in said and "1 of 2 done, at market.trades" in said


def test_the_output_of_storage_is_csv_and_json_of_the_same(repo: Repo) -> None:
    header, *lines = repo.ok("storage", "market.trades", "featurectl", "--format", "csv").splitlines()
    (trades, ledger) = json.loads(repo.ok("storage", "market.trades", "featurectl", "--json"))["tables"]
    assert header.split(",") == list(trades) == list(ledger)
    assert [line.split(",")[0] for line in lines] == ["market.trades", "featurectl"]


def test_what_was_computed_of_deleted_bars_stays_and_is_not_computed_again(repo: Repo) -> None:
    """On a server with TimescaleDB only whole chunks of bars go; what is left holds for those, too."""
    with repo.connect() as connection:
        market = Market(repo, connection)
        market.ingest(bars([100.0 + hour % 7 for hour in range(2400)]), now=NOW)
        market.compute(now=NOW)
        before = market.features()
        candles = replace(MARKET_TABLES[0], drop_after=NOW - START - 1200 * HOUR)
        maintain(connection, [candles], now=NOW)
        assert {one.stale for one in market.compute(now=NOW)} <= {0}
        assert market.features() == before
