"""Migrations may run twice, make of an old database what a fresh one is, once for all; a newer schema is told of."""

from __future__ import annotations

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from featurectl.cli.app import run
from featurectl.core import schema
from featurectl.core.db import Connection, open_connection
from featurectl.core.repository import Profile, make_repository
from featurectl.core.schema import Migration, migrations
from featurectl.errors import SchemaMissing
from featurectl.plugin import apply as steps
from tests.fix_repository import Repo
from tests.market import Market

NOW = datetime(2024, 5, 1, tzinfo=UTC)
NEWEST = len(migrations())

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::pydantic.PydanticDeprecatedSince20")

# Everything that makes a schema what it is, but for the order of columns, which only SELECT * sees.
SHAPE = r"""
WITH relations AS (
    SELECT c.oid, c.relkind, n.nspname || '.' || c.relname AS name
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname IN ('featurectl', 'market', 'features', 'online'))
SELECT 'relation', name, relkind::text, obj_description(oid, 'pg_class') FROM relations
UNION ALL
SELECT 'column', r.name || '.' || a.attname,
       format_type(a.atttypid, a.atttypmod) || CASE WHEN a.attnotnull THEN ' NOT NULL' ELSE '' END || ' '
           || a.attidentity::text || a.attgenerated::text || coalesce(pg_get_expr(d.adbin, d.adrelid), ''),
       col_description(r.oid, a.attnum)
FROM relations r
JOIN pg_attribute a ON a.attrelid = r.oid AND a.attnum > 0 AND NOT a.attisdropped
LEFT JOIN pg_attrdef d ON d.adrelid = r.oid AND d.adnum = a.attnum
WHERE r.relkind IN ('r', 'v')
UNION ALL
SELECT 'constraint', r.name || '.' || c.conname, pg_get_constraintdef(c.oid), obj_description(c.oid, 'pg_constraint')
FROM relations r JOIN pg_constraint c ON c.conrelid = r.oid
UNION ALL
SELECT 'index', r.name, pg_get_indexdef(i.indexrelid), obj_description(i.indexrelid, 'pg_class')
FROM relations r JOIN pg_index i ON i.indrelid = r.oid
UNION ALL
SELECT 'sequence', schemaname || '.' || sequencename, concat_ws(' ', data_type, start_value, increment_by, cycle), null
FROM pg_sequences WHERE schemaname IN ('featurectl', 'market', 'features', 'online')
UNION ALL
SELECT 'definition', r.name, pg_get_viewdef(r.oid), null FROM relations r WHERE r.relkind = 'v'
ORDER BY 1, 2, 3
"""

# What is in a database at a version: rows as that version's commands wrote them, in tables that are there ever since.
ROWS = {
    1: {
        "market.candles": "('BTCUSDT', '1h', '2024-01-01Z', 1, 2, 0.5, 1.5, 10, 15, 7, '2024-01-02Z')",
        "featurectl.catalogs": "('market', 1, 'some hash', '2024-01-02Z', 'featurectl 0.1.0')",
        "featurectl.catalog_entities": "('market', 'symbol', 'symbol', 'String', '', '{}')",
        "featurectl.computed_series": "('features.technical_indicators', 'BTCUSDT', '1h', 'some hash')",
        "featurectl.materializations": "(DEFAULT, 'market', 'v', true, null, '2024-01-02Z', 1, 1, 0, 0, '2024-01-02Z')",
    },
    2: {"featurectl.materialized_intervals": "('market', 'v', '{[2024-01-01 00:00+00, 2024-01-02 00:00+00)}')"},
    3: {
        "market.order_book": "('BTCUSDT', '2024-01-01Z', 1, 2, 3, 4, '2024-01-02Z')",
        "market.trades": "('BTCUSDT', '2024-01-01Z', 'x1', 1, 2, 'buy', '2024-01-02Z')",
        "market.signals": "('*', 'fear_greed_index', '2024-01-01Z', 44, '2024-01-02Z')",
    },
    4: {"featurectl.catalogs": "('other', 1, 'hash', '2024-01-02Z', 'feast', '{\"stamp\": \"1 2\", \"objects\": {}}')"},
    5: {
        "featurectl.runs": "(DEFAULT, 'r1', 'market', 'compute', '[]', '0.1.0', 'hash', null, null, null,"
        " '2024-01-02Z', null, null, 'running', null, 1, 1, 0, 0, 0, '[]', null, 'host', 17)",
        "featurectl.backfills": "(DEFAULT, 'market', '{}', '2024-01-02Z', null)",
        "featurectl.backfill_chunks": "(1, 'v', 'BTCUSDT', '2024-01-02Z', 3, 4)",
        "featurectl.known_absent": "('BTCUSDT', '*', '2024-01-01Z', '2024-01-02Z', 'an outage', '2024-01-03Z')",
    },
    6: {
        "featurectl.profiles": "('market', 'spring', '2024-01-01Z', '2024-03-31Z', true, '2024-04-01Z')",
        "featurectl.profile_features": "('market', 'spring', 'v', 'f', '', 'value', 1, 0, 1, 2.0, null,"
        " '{2}', '{2}', '{1,0}', '{}')",
    },
}
# Tables whose columns a migration has changed: their rows can't be compared as they are.
CHANGED = {"featurectl.computed_series", "featurectl.catalogs"}
# A feature table and an online table as version 2's `apply` made them.
FEATURES = ("rsi_14", "macd", "ema_20", "bollinger_bands_position", "atr", "volume_sma_ratio")
MADE_BY_APPLY = f"""
CREATE TABLE features.technical_indicators (
    symbol text NOT NULL, timeframe text NOT NULL, event_timestamp timestamptz NOT NULL, created_timestamp timestamptz,
    {", ".join(f"{name} double precision" for name in FEATURES)}, source_created_timestamp timestamptz,
    PRIMARY KEY (symbol, timeframe, event_timestamp));
INSERT INTO features.technical_indicators
VALUES ('BTCUSDT', '1h', '2024-01-01 01:00Z', '2024-01-02Z', 50, 1, 2, 3, 4, 5, '2024-01-02Z');
CREATE SCHEMA online;
CREATE TABLE online.market__technical_indicators_view (
    symbol text NOT NULL, timeframe text NOT NULL, event_timestamp timestamptz NOT NULL, created_timestamp timestamptz,
    {", ".join(f"{name} double precision" for name in FEATURES)}, PRIMARY KEY (symbol, timeframe));
COMMENT ON TABLE online.market__technical_indicators_view
    IS 'featurectl: online rows of view technical_indicators_view of project market';
INSERT INTO online.market__technical_indicators_view
VALUES ('BTCUSDT', '1h', '2024-01-01 01:00Z', '2024-01-02Z', 50, 1, 2, 3, 4, 5);
"""


def connected(url: str) -> Connection:
    return open_connection(url, connect_timeout=10)


def bring_to(connection: Connection, version: int) -> None:
    """Leave a database as version ``version`` left it, with rows in it."""
    for migration in migrations()[:version]:
        once(connection, migration)
        for table, row in ROWS.get(migration.version, {}).items():
            connection.execute(f"INSERT INTO {table} VALUES {row}".encode())


def once(connection: Connection, migration: Migration) -> None:
    with connection.transaction():
        connection.execute(migration.statements.encode())
        connection.execute(
            b"INSERT INTO featurectl.migrations (version, name) VALUES (%s, %s) ON CONFLICT DO NOTHING",
            (migration.version, migration.name),
        )


def shape(connection: Connection) -> list[tuple[Any, ...]]:
    return connection.execute(SHAPE.encode()).fetchall()


def rows_of(connection: Connection, tables: list[str]) -> dict[str, list[tuple[Any, ...]]]:
    return {table: connection.execute(f"SELECT * FROM {table}".encode()).fetchall() for table in tables}


def test_every_migration_may_run_twice(clone: Callable[[str | None], str]) -> None:
    with connected(clone(None)) as connection:
        for migration in migrations():
            once(connection, migration)
            before = shape(connection)
            once(connection, migration)
            assert shape(connection) == before, migration.name
        assert schema.migrate(connection) == []


@pytest.mark.parametrize("version", range(1, NEWEST))
def test_an_upgraded_database_is_like_a_fresh_one_and_keeps_its_rows(
    clone: Callable[[str | None], str], version: int
) -> None:
    with connected(clone(None)) as fresh, connected(clone(None)) as upgraded:
        schema.migrate(fresh)
        bring_to(upgraded, version)
        kept = [table for one in range(1, version + 1) for table in ROWS[one] if table not in CHANGED]
        before, changed = rows_of(upgraded, kept), rows_of(upgraded, list(CHANGED))
        assert [migration.version for migration in schema.migrate(upgraded)] == list(range(version + 1, NEWEST + 1))
        assert shape(upgraded) == shape(fresh)
        assert rows_of(upgraded, kept) == before
        assert all(before.values())
        assert [len(rows) for rows in rows_of(upgraded, list(CHANGED)).values()] == [*map(len, changed.values())]
        assert all(changed.values())


def test_every_version_has_rows_to_be_upgraded_with() -> None:
    assert list(ROWS) == list(range(1, NEWEST + 1)), "add rows of the newest migration's tables"


def test_apply_upgrades_what_version_2_left_to_what_it_makes_afresh(
    repo: Repo, clone: Callable[[str | None], str], tmp_path: Path
) -> None:
    root = make_repository(tmp_path / "old", Profile.EMBEDDED, project="market").root
    old = Repo(root, clone(None))
    tables = ["market.candles", "features.technical_indicators", "online.market__technical_indicators_view"]
    with connected(old.url) as connection:
        if connection.execute("SELECT 1 FROM pg_available_extensions WHERE name = 'timescaledb'").fetchone():
            connection.execute("CREATE EXTENSION IF NOT EXISTS timescaledb")
        bring_to(connection, 2)
        connection.execute(MADE_BY_APPLY.encode())
        before = rows_of(connection, tables)
        assert steps.apply(old.database, now=NOW).catalog_version == 2
        assert steps.plan(old.database).changes == 0
        with repo.connect() as fresh:
            assert shape(connection) == shape(fresh)
        assert rows_of(connection, tables) == before
        (computed, *_) = Market(old, connection).compute(now=NOW)
        assert computed.rows == 1, "what was computed before is out of date: which functions made it is not known"


def test_one_of_many_migrates(clone: Callable[[str | None], str]) -> None:
    url = clone(None)

    def migrate(_: int) -> int:
        with connected(url) as connection:
            return len(schema.migrate(connection))

    with ThreadPoolExecutor(8) as pool:
        done = sorted(pool.map(migrate, range(8)))
    assert done == [0] * 7 + [NEWEST]


@pytest.fixture
def newer(repo: Repo, monkeypatch: pytest.MonkeyPatch) -> Repo:
    """A repository whose database a later featurectl has upgraded; commands in this process find it."""
    with repo.connect() as connection:
        connection.execute("INSERT INTO featurectl.migrations (version, name) VALUES (9999, 'from the future')")
    monkeypatch.chdir(repo.root)
    monkeypatch.setenv("FEATURECTL_DATABASE_URL", repo.url)
    return repo


MESSAGE = f"the database's schema is version 9999 and this featurectl knows {NEWEST}; upgrade featurectl"


@pytest.mark.parametrize(
    "words", ["views", "entities", "storage", "get-online BTCUSDT_1h"], ids=lambda words: words.partition(" ")[0]
)
def test_readers_warn_once_of_a_newer_schema_and_go_on(
    newer: Repo, capsys: pytest.CaptureFixture[str], words: str
) -> None:
    assert run(words.split()) == 0
    stdout, stderr = capsys.readouterr()
    assert stderr.count(MESSAGE) == 1 and f"warning: {MESSAGE}" in stderr
    assert stdout


WRITERS = ["compute", "materialize", "maintain", *(f"ingest {kind} f.csv" for kind in ("candles", "trades", "signals"))]


@pytest.mark.parametrize("words", [*WRITERS, "ingest order-book f.csv"])
def test_writers_refuse_a_newer_schema(newer: Repo, capsys: pytest.CaptureFixture[str], words: str) -> None:
    assert run(words.split()) == SchemaMissing.exit_code == 2
    stdout, stderr = capsys.readouterr()
    assert (stdout, stderr) == ("", f"error: {MESSAGE}\n")


def test_plan_and_apply_refuse_a_newer_schema(newer: Repo) -> None:
    for step in (lambda: steps.plan(newer.database), lambda: steps.apply(newer.database, now=NOW)):
        with pytest.raises(SchemaMissing, match="upgrade featurectl"):
            step()


def test_the_same_schema_is_not_spoken_of(repo: Repo) -> None:
    assert repo.run("views").stderr == ""


def test_what_writes_waits_for_apply_after_an_upgrade(repo: Repo) -> None:
    with repo.connect() as connection:
        connection.execute(
            "DELETE FROM featurectl.migrations WHERE version = (SELECT max(version) FROM featurectl.migrations)"
        )
    for words in (("compute",), ("materialize",), ("ingest", "trades", "none.csv")):
        done = repo.run(*words)
        assert done.returncode == 2, words
        assert re.search(r"schema is version \d+ and this featurectl needs \d+; run `featurectl apply`", done.stderr), (
            words
        )
    assert repo.run("get-online", "BTCUSDT_1h").returncode == 0
