"""Every query of the .sql files is understood by the real database."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import pytest
from psycopg import sql

from featurectl.core import materialize, offline, online, sources, timescale
from featurectl.core.catalog import Selection, read_catalog
from featurectl.core.entity import EntityId
from featurectl.core.queries import SQL_DIRECTORY, load, query
from featurectl.core.times import Window
from tests.fix_repository import Repo

NOON = datetime(2024, 1, 1, 12, tzinfo=UTC)
FILES = sorted(path.stem for path in SQL_DIRECTORY.glob("*.sql"))
STATIC = [(file, name) for file in FILES for name, text in load(file).items() if "{" not in text]
# PREPARE takes queries only.
COMMANDS = ("ANALYZE", "DROP", "LISTEN")


def numbered(text: str) -> str:
    """Turn %(name)s into $1, as PREPARE wants it."""
    names: list[str] = []

    def number(match: re.Match[str]) -> str:
        if match[1] not in names:
            names.append(match[1])
        return f"${names.index(match[1]) + 1}"

    return re.sub(r"%\((\w+)\)s", number, text)


@pytest.mark.parametrize("file", FILES)
def test_every_query_has_one_line_that_says_what_it_is_for(file: str) -> None:
    for name, text in load(file).items():
        first = text.splitlines()[0]
        assert re.fullmatch(r"-- .+\.", first), f"{file}.{name}"


@pytest.mark.parametrize("file", FILES)
def test_every_query_is_used(file: str) -> None:
    package = SQL_DIRECTORY.parent
    code = "\n".join(path.read_text() for path in package.rglob("*.py"))
    for name in load(file):
        assert f'"{name}"' in code, f"{file}.{name}"


def test_static_queries_are_understood(repo: Repo) -> None:
    with repo.connect() as connection, connection.transaction():
        connection.execute(b"CREATE TEMPORARY TABLE staged_rows (at timestamptz)")
        connection.execute(b"CREATE TEMPORARY TABLE differing_rows (is_new boolean)")
        extended = timescale.inspect(connection).has_columnstore
        for file, name in STATIC:
            if file == "hypertables" and not extended:
                continue  # the relations they read are TimescaleDB's
            text = load(file)[name]
            if text.splitlines()[1].startswith(COMMANDS):
                continue
            connection.execute(f"PREPARE {file}_{name} AS {numbered(text)}".encode())


def test_built_queries_are_understood(repo: Repo) -> None:
    with repo.connect() as connection:
        catalog = read_catalog(connection, "market")
        view, scores = catalog.view("technical_indicators_view"), catalog.view("sentiment_features_view")
        chosen = Selection(view, tuple(field.name for field in view.fields))
        window = Window(None, None)
        target = materialize.find_target(connection, view, view.join_keys)
        statements = [
            materialize.upsert_statement(view, sources.entity_list(connection, view), window, target),
            materialize.upsert_statement(view, None, window, target),
            query("candles", "describe_series").format(series=query("candles", "list_series")),
            offline.window_statement([chosen], [EntityId("BTCUSDT", "1h")], window),
            offline.window_statement(
                [chosen, Selection(scores, ("news_sentiment",))], [EntityId("BTCUSDT", "1h")], window
            ),
        ]
        types = sources.column_types(connection, view)
        once, twice = online.Keys([("BTCUSDT", "1h")]), online.Keys([("A", "1m"), ("B", "1h"), ("C", "1d")])
        reads = [online.OnlineReads(chosen).query(keys) for keys in (once, twice)]
        reads += [online.HistoryReads(chosen, types).query(once, NOON), online.emptiness(view)]
        assert len({read.text for read in reads}) == 4
        statements += [sql.SQL(read.text.decode()) for read in reads]
        for index, statement in enumerate(statements):
            text = numbered(statement.as_string(connection)).replace("%%", "%")
            connection.execute(sql.SQL("PREPARE built_{} AS {}").format(sql.SQL(str(index)), sql.SQL(text)))
