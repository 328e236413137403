"""Views that join others: the rows they have, and how plan and apply make, change and drop them."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from psycopg import sql

from featurectl.core import composite, offline, schema
from featurectl.core.arrow import ArrowConnection
from featurectl.core.catalog import Catalog, Field, View, read_catalog
from featurectl.core.db import Connection, open_connection
from featurectl.core.entity import EntityId
from featurectl.core.queries import query
from featurectl.core.retrieval import PointInTime, Strategy
from featurectl.core.spines import TableSpine
from featurectl.core.times import Window
from featurectl.errors import DefinitionError
from featurectl.plugin import apply as steps
from featurectl.plugin import publish
from tests.fix_repository import Repo
from tests.integration.test_join_strategies import Drawn
from tests.market import HOUR, MICROSECOND, START, Market, select

NOW = datetime(2024, 5, 1, tzinfo=UTC)
SEED = int(os.environ.get("FEATURECTL_TEST_SEED") or np.random.SeedSequence().entropy % 2**32)  # type: ignore[operator]
COMPOSITE, SQL_VIEW = "comprehensive_features_view", "features.comprehensive_features"
PARTS = ("technical_indicators_view", "market_features_view", "sentiment_features_view")
DRAWS = 25

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::pydantic.PydanticDeprecatedSince20")


# --- the rows --------------------------------------------------------------------------------------------------------

Rows = dict[tuple[Any, ...], tuple[datetime | None, tuple[float | None, ...]]]


def random_rows(random: np.random.Generator, view: View, events: Sequence[datetime]) -> Rows:
    """Return rows by key and event time, created times and nulls at random; none twice, as their key demands."""
    rows: Rows = {}
    for event in events:
        key = tuple(
            str(random.choice({"symbol": ["A", "B"], "timeframe": ["1h", "4h"]}[key])) for key in view.join_keys
        )
        created = None if random.random() < 0.1 else NOW + int(random.integers(0, 1000)) * MICROSECOND
        values = [None if random.random() < 0.1 else float(random.random()) for _ in view.fields]
        rows[*key, event] = (created, tuple(values))
    return rows


def insert(connection: Connection, view: View, rows: Rows) -> None:
    names = [*view.join_keys, "event_timestamp", "created_timestamp", *(field.name for field in view.fields)]
    statement = sql.SQL("INSERT INTO {} ({}) VALUES ({})").format(
        schema.table_identifier(view.source_table or ""),
        sql.SQL(", ").join(map(sql.Identifier, names)),
        sql.SQL(", ").join(sql.Placeholder() * len(names)),
    )
    with connection.cursor() as cursor:
        cursor.executemany(statement, [(*key, created, *values) for key, (created, values) in rows.items()])


def serving(
    view: View, rows: Rows, key: dict[str, str], at: datetime
) -> tuple[datetime | None, tuple[float | None, ...]]:
    """Look at every row: the latest event within the TTL counts."""
    wanted = tuple(key[name] for name in view.join_keys)
    found = [
        event
        for *own, event in rows
        if tuple(own) == wanted and event <= at and (not view.ttl or at - event <= view.ttl)
    ]
    return rows[*wanted, max(found)] if found else (None, (None,) * len(view.fields))


@pytest.mark.parametrize("draw", range(4))
def test_the_comprehensive_view_is_its_parts_joined_at_the_same_instants(
    market: Market, arrow: ArrowConnection, draw: int
) -> None:
    """Point-in-time joins of the three views say the same by either strategy, and so does looking at every row."""
    print(f"FEATURECTL_TEST_SEED={SEED}")
    random = np.random.default_rng([SEED, draw])
    views = [market.catalog.view(name) for name in PARTS]
    closes = [START + int(random.integers(0, 30)) * HOUR for _ in range(60)]
    rows = [random_rows(random, views[0], closes)]
    for view in views[1:]:
        # At the close, at the end of the TTL, a microsecond beside both, and anywhere.
        offsets = [timedelta(0), view.ttl or HOUR, (view.ttl or HOUR) * float(random.random())]
        events = [
            closes[random.integers(len(closes))]
            - offsets[random.integers(len(offsets))]
            + int(random.integers(-1, 2)) * MICROSECOND
            for _ in range(120)
        ]
        rows.append(random_rows(random, view, events))
    for view, own in zip(views, rows, strict=True):
        insert(market.connection, view, own)
    names = [field.name for view in views for field in view.fields]
    keys = ("symbol", "timeframe", "event_timestamp")

    found = market.connection.execute(f"SELECT * FROM {SQL_VIEW} ORDER BY symbol, timeframe, event_timestamp".encode())
    assert [column.name for column in found.description or ()] == [*keys, "created_timestamp", *names]
    seen = {row[:3]: (row[3], row[4:]) for row in found.fetchall()}
    expected = {}
    for symbol, timeframe, event in sorted(rows[0]):
        key = {"symbol": symbol, "timeframe": timeframe}
        served = [serving(view, own, key, event) for view, own in zip(views, rows, strict=True)]
        created = max((one for one, _ in served if one), default=None)
        expected[symbol, timeframe, event] = (created, tuple(value for _, values in served for value in values))
    assert seen == expected, f"FEATURECTL_TEST_SEED={SEED}"
    nulls = [values.count(None) for _, values in expected.values()]
    assert 0 < sum(nulls) < len(names) * len(nulls) * 0.9, "the test looks at nothing"

    spine = pa.table(
        {
            "symbol": [key[0] for key in expected],
            "timeframe": [key[1] for key in expected],
            "event_timestamp": pa.array([key[2] for key in expected], pa.timestamp("us", tz="UTC")),
        }
    )
    table_spine = TableSpine(spine, spine.column("event_timestamp"), spine.select(keys[:2]))
    for strategy in (Strategy.SERVER, Strategy.LOCAL):
        for chosen in (views, [market.catalog.view(COMPOSITE)]):
            with arrow.transaction():
                join = PointInTime(table_spine, tuple(offline.joined_view(select(view)) for view in chosen), strategy)
                joined = join.read(arrow).table()
            assert [tuple(row[name] for name in names) for row in joined.to_pylist()] == [
                values for _, values in expected.values()
            ], f"FEATURECTL_TEST_SEED={SEED}, {strategy}"


def drawn_views(random: np.random.Generator, first: int) -> list[Drawn]:
    """Return tables with duplicates, null keys and events of any type; the first has both keys."""
    drawn = [Drawn(random, first + number) for number in range(int(random.integers(1, 4)))]
    while len(drawn[0].keys) < 2:
        drawn[0] = Drawn(random, first)
    return drawn


def view_of(drawn: Drawn) -> View:
    """Return a view over a drawn table; its features have other names than its columns."""
    number = drawn.number
    fields = (
        Field(f"value_{number}", "Float64", "double precision", "value", "", {}),
        Field(f"list_{number}", "Array(Int32)", "integer[]", "list", "", {}),
    )
    view = View(
        name=f"view_{number}",
        join_keys=tuple(drawn.keys),
        ttl_seconds=drawn.ttl.total_seconds() if drawn.ttl else 0,
        online=False,
        source_table=f"public.history_{number}",
        source_query=None,
        timestamp_column="at",
        created_column="written" if drawn.has_created else None,
        online_table=None,
        computed_from=None,
        functions_file=None,
        functions_hash=None,
        description="",
        tags={},
        fields=fields,
    )
    if number % 2:
        query = f"SELECT * FROM public.history_{number} WHERE '%' <> '; {{x}}'; -- the query's end"
        return replace(view, source_table=None, source_query=query)
    return view


def composite_of(*parts: View, **changes: Any) -> View:
    view = replace(
        parts[0],
        name="all",
        source_table="public.joined",
        source_query=None,
        timestamp_column="at",
        created_column="written",
        computed_from="views",
        tags={"views": ", ".join(part.name for part in parts)},
        fields=tuple(replace(field, source_column=f"{field.name} %") for part in parts for field in part.fields),
    )
    return replace(view, **changes)


def in_utc(value: Any) -> Any:
    return value.astimezone(UTC) if isinstance(value, datetime) else value


def test_views_over_tables_and_queries_of_ones_own_are_joined(clone: Callable[[str | None], str]) -> None:
    """Whatever type their times have, and whatever zone is set; of equal events the latest write counts.

    All rows of the first stay, duplicates and such with null keys too.
    """
    print(f"FEATURECTL_TEST_SEED={SEED}")
    random = np.random.default_rng(SEED)
    with open_connection(clone(None), connect_timeout=10) as connection:
        connection.execute("SET timezone = 'Asia/Kolkata'")
        for draw in range(DRAWS):
            drawn = drawn_views(random, draw * 10)
            for one in drawn:
                one.create(connection)
            views = [view_of(one) for one in drawn]
            made = composite_of(*views, source_table=f"public.joined_{draw}")
            catalog = Catalog("p", (), (*views, made), ())
            schema.execute(connection, composite.view_changes(connection, catalog).after)
            (sql_view,) = composite.sql_views(connection, catalog)
            assert dict(sql_view.columns) == schema.columns_of(connection, sql_view.name)
            columns = [field.source_column for field in made.fields]
            statement = sql.SQL("SELECT name, code, at, written, {} FROM {}").format(
                sql.SQL(", ").join(map(sql.Identifier, columns)), sql.Identifier("public", f"joined_{draw}")
            )
            found = [tuple(map(in_utc, row)) for row in connection.execute(statement)]
            expected = []
            for name, code, at, written, value, listed, *_ in drawn[0].rows:
                served = [one.row_serving({"name": name, "code": code}, at) for one in drawn[1:]]
                stamps = [written] * drawn[0].has_created
                stamps += [row[3] for one, row in zip(drawn[1:], served, strict=True) if row and one.has_created]
                values = [
                    value,
                    listed,
                    *(cell for row in served for cell in ((row[4], row[5]) if row else (None, None))),
                ]
                expected.append((name, code, at, max(filter(None, stamps), default=None), *values))
            assert sorted(found, key=repr) == sorted(expected, key=repr), f"FEATURECTL_TEST_SEED={SEED}, draw {draw}"


def test_reading_walks_the_indexes_of_the_parts(market: Market) -> None:
    """Its cost is that of the rows that are read, not of the history."""
    for view in map(market.catalog.view, PARTS):
        keys = ", ".join("'A'" if key == "symbol" else "'1h'" for key in view.join_keys)
        market.connection.execute(
            f"INSERT INTO {view.source_table} ({', '.join(view.join_keys)}, event_timestamp) "
            f"SELECT {keys}, %s + n * interval '15 min' FROM generate_series(1, 20000) AS n".encode(),
            (START,),
        )
        market.connection.execute(f"ANALYZE {view.source_table}".encode())
    entity, window = EntityId("A", "1h"), Window(START, START + 10 * HOUR)
    statement = offline.window_statement([select(market.catalog.view(COMPOSITE))], [entity], window)
    plan = market.connection.execute(sql.SQL("EXPLAIN (COSTS OFF) {}").format(statement)).fetchall()
    text = "\n".join(line for (line,) in plan)
    assert text.count("Index Cond") >= 3 and "Seq Scan" not in text, text


# --- plan and apply --------------------------------------------------------------------------------------------------


def edit(repo: Repo, file: str, old: str, new: str) -> None:
    path = repo.root / "feature_repo" / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def summaries(plan: steps.Plan) -> list[str]:
    return [change.summary for change in plan.schema]


def definition(repo: Repo) -> str:
    return str(repo.rows("SELECT pg_get_viewdef(to_regclass(%s))", SQL_VIEW)[0][0])


def test_a_part_with_another_ttl_replaces_the_view(repo: Repo) -> None:
    assert "'00:05:00'::interval" in definition(repo)
    edit(repo, "market_features.py", "timedelta(minutes=5)", "timedelta(days=2, microseconds=1)")
    planned = steps.plan(repo.database)
    (change,) = planned.schema
    assert change.summary == f"replace view {SQL_VIEW}, whose definition changed"
    assert "'172800000001 microseconds'::interval" in (change.statement or "")
    assert planned.drops == []
    steps.apply(repo.database, now=NOW)
    assert "'48:00:00.000001'::interval" in definition(repo)
    assert steps.plan(repo.database).changes == 0


def test_a_view_that_no_definition_names_goes_and_takes_nothing_with_it(repo: Repo) -> None:
    (repo.root / "feature_repo" / "comprehensive_features.py").unlink()
    edit(repo, "services.py", "from feature_repo.comprehensive_features import comprehensive_features_view\n", "")
    edit(repo, "services.py", "features=[comprehensive_features_view]", "features=[technical_indicators_view]")
    planned = steps.plan(repo.database)
    assert (summaries(planned), planned.drops) == ([f"drop view {SQL_VIEW}"], [])
    steps.apply(repo.database, now=NOW)
    assert steps.plan(repo.database).changes == 0
    with repo.connect() as connection:
        assert not schema.columns_of(connection, SQL_VIEW)
        assert schema.columns_of(connection, "features.market_features")
        assert [view.name for view in read_catalog(connection, "market").views] == sorted(PARTS)


OWN = '''
"""Positions of a desk, from a table of its own."""

from datetime import timedelta

from feast import FeatureView, Field
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import PostgreSQLSource
from feast.types import Float64, Int64

from feature_repo.entities import symbol, timeframe

positions_view = FeatureView(
    name="positions_view", entities=[symbol], ttl=timedelta(0), online=False,
    schema=[Field(name="position", dtype=Int64, description="Contracts held."), Field(name="atr", dtype=Float64)],
    source=PostgreSQLSource(name="positions", table="public.positions", timestamp_field="at"),
)
desk_view = FeatureView(
    name="desk_view", entities=[symbol, timeframe], ttl=timedelta(hours=1), online=False,
    schema=[Field(name="position", dtype=Int64), Field(name="atr", dtype=Float64)],
    source=PostgreSQLSource(name="desk", table="desk.features", timestamp_field="event_timestamp"),
    tags={"computed_from": "views", "views": "technical_indicators_view,positions_view"},
)
'''


def test_a_view_over_ones_own_table_is_joined(repo: Repo) -> None:
    """Of a feature that two views have, the first listed gives it; the view gets a schema and its features' words."""
    (repo.root / "feature_repo" / "desk.py").write_text(OWN)
    with repo.connect() as connection:
        connection.execute("CREATE TABLE public.positions (symbol text, at timestamp, position int, atr float8)")
        connection.execute("INSERT INTO public.positions VALUES ('A', '2023-12-31 23:00', 7, -1)")
        insert(connection, read_catalog(connection, "market").view(PARTS[0]), {("A", "1h", START): (None, (2.0,) * 6)})
    assert summaries(steps.plan(repo.database)) == ["create view desk.features"]
    steps.apply(repo.database, now=NOW)
    rows = repo.rows("SELECT symbol, timeframe, event_timestamp, created_timestamp, position, atr FROM desk.features")
    assert rows == [("A", "1h", START, None, 7, 2.0)]
    assert steps.plan(repo.database).changes == 0
    with repo.connect() as connection:
        view = read_catalog(connection, "market").view("desk_view")
    assert [field.description for field in view.fields] == [
        "Contracts held.",
        "Average true range over 14 bars, Wilder's smoothing, in units of price.",
    ]


def test_a_name_that_is_taken_is_not_touched(market: Market) -> None:
    market.connection.execute(f"DROP VIEW {SQL_VIEW}".encode())
    for statement in (f"CREATE TABLE {SQL_VIEW} (a int)", f"CREATE VIEW {SQL_VIEW} AS SELECT 1 AS a"):
        market.connection.execute(statement.encode())
        with pytest.raises(DefinitionError, match=f"{SQL_VIEW} exists and is not a view that featurectl made"):
            composite.view_changes(market.connection, market.catalog)
        market.connection.execute(f"DROP {statement.split()[1]} {SQL_VIEW}".encode())


def test_tables_that_are_made_anew_come_between_dropping_and_creating_the_view(market: Market) -> None:
    assert composite.view_changes(market.connection, market.catalog) == composite.ViewChanges((), ())
    assert composite.view_changes(market.connection, market.catalog, rebuilt={"public.other"}).before == ()
    changes = composite.view_changes(market.connection, market.catalog, rebuilt={"features.sentiment_features"})
    assert [one.summary for one in changes.before] == [f"drop view {SQL_VIEW}"]
    assert [one.summary for one in changes.after] == [f"create view {SQL_VIEW}"]
    schema.execute(market.connection, changes.before)
    columns = schema.columns_of(market.connection, "features.sentiment_features")
    market.connection.execute(b"DROP TABLE features.sentiment_features")
    listed = ", ".join(f"{name} {kind}" for name, kind in columns.items())
    market.connection.execute(f"CREATE TABLE features.sentiment_features ({listed})".encode())
    schema.execute(market.connection, changes.after)
    assert composite.view_changes(market.connection, market.catalog) == composite.ViewChanges((), ())


def readers(market: Market) -> list[tuple[Any, ...]]:
    return market.connection.execute(query("composite", "readers_of_view"), {"view": SQL_VIEW}).fetchall()


def test_who_may_read_the_view_and_what_reads_it_outlive_its_replacement(market: Market) -> None:
    """Columns added at the end leave all as it is; else the view is made again, unless something reads it."""
    connection, catalog = market.connection, market.catalog
    connection.execute(f"GRANT SELECT ON {SQL_VIEW} TO PUBLIC".encode())
    connection.execute(f"GRANT SELECT ON {SQL_VIEW} TO pg_monitor WITH GRANT OPTION".encode())
    connection.execute("CREATE SCHEMA mine")
    allowed = [("pg_monitor", True), (None, False)]
    assert readers(market) == allowed
    whole = catalog.view(COMPOSITE)
    shorter = replace(whole, fields=whole.fields[:-1])
    fewer = replace(catalog, views=tuple(shorter if view is whole else view for view in catalog.views))

    def replaced(wanted: Catalog) -> None:
        schema.execute(connection, composite.view_changes(connection, wanted).after)
        assert readers(market) == allowed
        assert composite.view_changes(connection, wanted) == composite.ViewChanges((), ())

    replaced(fewer)
    columns = list(schema.columns_of(connection, SQL_VIEW))
    assert columns[-1] == shorter.fields[-1].name
    connection.execute(f"CREATE VIEW mine.v AS SELECT * FROM {SQL_VIEW}".encode())
    connection.execute(f"CREATE FUNCTION mine.f(one {SQL_VIEW}) RETURNS int LANGUAGE sql RETURN 1".encode())
    replaced(catalog)
    assert connection.execute("SELECT count(*) FROM mine.v").fetchone() == (0,)

    refusal = rf"{SQL_VIEW} must be dropped and is read by function mine\.f\(.*\), mine\.v; drop it first"
    none = replace(catalog, views=tuple(view for view in catalog.views if view is not whole))
    for wanted, rebuilt in ((fewer, ()), (none, ()), (catalog, ("features.sentiment_features",))):
        with pytest.raises(DefinitionError, match=refusal):
            composite.view_changes(connection, wanted, rebuilt=rebuilt)
    connection.execute("DROP SCHEMA mine CASCADE")
    again = composite.view_changes(connection, catalog, rebuilt=("features.sentiment_features",))
    schema.execute(connection, [*again.before, *again.after])
    assert readers(market) == allowed


def test_projects_share_a_view_of_the_same_definition_only(market: Market) -> None:
    other = replace(market.catalog, project="other")
    assert composite.view_changes(market.connection, other) == composite.ViewChanges((), ())
    assert composite.view_changes(market.connection, replace(other, views=())) == composite.ViewChanges((), ())
    longer = tuple(replace(view, ttl_seconds=view.ttl_seconds + 1) for view in other.views)
    with pytest.raises(DefinitionError, match="view of project 'market' with another definition"):
        composite.view_changes(market.connection, replace(other, views=longer))


def test_where_feast_alone_applies_the_view_is_made_and_published(repo: Repo) -> None:
    with repo.connect() as connection:
        before = read_catalog(connection, "market")
        connection.execute(f"DROP VIEW {SQL_VIEW}".encode())
    publish.publish_registry(repo.database)
    with repo.connect() as connection:
        assert schema.columns_of(connection, SQL_VIEW)
        assert read_catalog(connection, "market").view(COMPOSITE) == before.view(COMPOSITE)


def test_the_file_and_the_field_are_named_where_a_definition_is_wrong(repo: Repo) -> None:
    edit(
        repo,
        "comprehensive_features.py",
        "for field in view.features]",
        'for field in view.features] + [Field(name="x", dtype=VIEWS[0].features[0].dtype)]',
    )
    with pytest.raises(
        DefinitionError,
        match=rf"feature_repo/comprehensive_features.py: field 'x' of view '{COMPOSITE}' is in none of the views",
    ):
        steps.plan(repo.database)


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no views": ({"tags": {}}, "is computed from views; list them in its tag views"),
    "unknown view": ({"tags": {"views": "f,none"}}, "joins view 'none', which is not defined; views: f, g, other, all"),
    "itself": ({"tags": {"views": "f,all"}}, "joins view 'all', which joins others itself"),
    "another composite": ({"tags": {"views": "f,other"}}, "joins view 'other', which joins others itself"),
    "other keys": ({"join_keys": ("name",)}, "keyed by name and has the rows of view 'f', keyed by name, code"),
    "more keys": (
        {"tags": {"views": "g,f"}, "join_keys": ("name",)},
        "joins view 'f', keyed by name, code, to rows ke",
    ),
    "a field of none": ({"tags": {"views": "f"}}, "field 'b' of view 'all' is in none of the views f"),
    "online": ({"online": True}, "are for training only; set online=False"),
    "no schema": ({"source_table": "joined"}, "must be over a source with table='schema.table'"),
    "a query": ({"source_table": None, "source_query": "SELECT 1"}, "must be over a source with table='schema.table'"),
}


def small_views() -> tuple[View, View, View]:
    drawn = view_of(Drawn(np.random.default_rng(0), 0))
    field = Field("a", "Float64", "double precision", "a", "", {})
    f = replace(drawn, name="f", join_keys=("name", "code"), fields=(field,))
    g = replace(f, name="g", join_keys=("name",), fields=(replace(field, name="b"),))
    return f, g, composite_of(f, name="other", source_table="public.taken")


@pytest.mark.parametrize("wrong", WRONG)
def test_what_can_not_be_joined_is_refused_with_its_name(wrong: str) -> None:
    f, g, other = small_views()
    changes, message = WRONG[wrong]
    view = composite_of(f, g, **changes)
    with pytest.raises(DefinitionError) as caught:
        composite.parts_of(view, (f, g, other, view), "desk.py")
    assert message in str(caught.value)
    assert str(caught.value).startswith("desk.py: ") and "view 'all'" in str(caught.value)


def test_a_field_of_another_type_is_refused() -> None:
    f, g, _ = small_views()
    view = composite_of(f, g)
    view = replace(view, fields=(view.fields[0], replace(view.fields[1], value_type="Int64")))
    with pytest.raises(DefinitionError, match="field 'b' of view 'all' is Int64 here and Float64 in view 'g'"):
        composite.parts_of(view, (f, g, view))


def test_a_view_that_feast_makes_is_not_joined() -> None:
    f, g, _ = small_views()
    g = replace(g, source_table=None, source_query=None)
    view = composite_of(f, g)
    with pytest.raises(DefinitionError, match="joins view 'g', whose features no SQL reads"):
        composite.parts_of(view, (f, g, view))
