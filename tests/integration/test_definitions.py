"""plan shows and changes nothing; apply creates, extends, keeps, and drops only when allowed."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from featurectl.cli.app import run
from featurectl.core import schema
from featurectl.core.catalog import read_catalog
from featurectl.core.repository import Profile, make_repository
from featurectl.errors import DefinitionError, NotAllowed, SchemaMissing
from featurectl.plugin import apply as steps
from tests.fix_repository import Repo
from tests.integration.test_first_path import candles

NOW = datetime(2024, 5, 1, tzinfo=UTC)
ONLINE = "online.market__technical_indicators_view"

RANGE = '''

def range(high, low):
    """High minus low."""
    return high - low
'''

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::pydantic.PydanticDeprecatedSince20")


def relations(repo: Repo) -> list[tuple[str, str]]:
    """Everything in the database that is not PostgreSQL's own."""
    return repo.rows(
        "SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
        "WHERE n.nspname !~ '^(pg_|information_schema|_?timescaledb)' ORDER BY 1, 2"
    )


def edit(repo: Repo, file: str, old: str, new: str) -> None:
    path = repo.root / "feature_repo" / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def add_feature(repo: Repo) -> None:
    edit(
        repo,
        "technical_indicators.py",
        '        Field(name="atr"',
        '        Field(name="range", dtype=Float64),\n        Field(name="atr"',
    )
    with (repo.root / "feature_repo" / "indicators.py").open("a") as handle:
        handle.write(RANGE)


@pytest.fixture
def empty(clone: Callable[[str | None], str], tmp_path: Path) -> Repo:
    """A repository on a database that has seen nothing."""
    root = make_repository(tmp_path / "market", Profile.EMBEDDED, project="market").root
    return Repo(root, clone(None))


def test_plan_on_an_empty_database_shows_everything_and_makes_nothing(empty: Repo) -> None:
    planned = steps.plan(empty.database)
    assert {(one.action, one.kind) for one in planned.registry} == {
        ("create", "entity"),
        ("create", "source"),
        ("create", "view"),
        ("create", "service"),
    }
    statements = " ".join(change.statement or "" for change in planned.schema)
    assert 'CREATE TABLE IF NOT EXISTS "online"."market__technical_indicators_view"' in statements
    assert "CREATE TABLE IF NOT EXISTS market.candles" in statements
    assert relations(empty) == []


def test_plan_prints_the_statements_and_exits_with_1_when_asked(empty: Repo) -> None:
    done = empty.run("plan", "--detailed-exitcode", "--format", "table")
    assert done.returncode == 1
    assert "CREATE TABLE" in done.stdout
    assert "feature_repo/indicators.py" in done.stderr
    assert relations(empty) == []


@pytest.mark.parametrize("command", ["plan", "apply"])
def test_the_files_are_named_before_any_of_them_is_executed(
    empty: Repo, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """Whoever looks at a repository of somebody else's sees what of it runs, and not only once it has."""
    monkeypatch.setenv("FEATURECTL_DATABASE_URL", empty.url)
    said = 'import sys\n\nprint("I RUN", file=sys.stderr)\n'
    (empty.root / "feature_repo" / "__init__.py").write_text(said)
    (empty.root / "aside.py").write_text(f"{said}raise RuntimeError('and stop')\n")
    assert run(["-C", str(empty.root), command]) == 2
    lines = capfd.readouterr().err.splitlines()
    executes = next(line for line in lines if line.startswith("executes: "))
    names = executes.removeprefix("executes: ").split(", ")
    assert names == sorted(str(path.relative_to(empty.root)) for path in empty.root.rglob("*.py"))
    assert "aside.py" in names
    assert lines.index("I RUN") > lines.index(executes)
    assert lines[-1] == "error: aside.py line 4: RuntimeError: and stop"
    assert relations(empty) == []


def test_nothing_is_said_to_be_executed_where_a_file_is_no_python(
    empty: Repo, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEATURECTL_DATABASE_URL", empty.url)
    (empty.root / "aside.py").write_text("def\n")
    assert run(["-C", str(empty.root), "plan"]) == 2
    assert "executes" not in capfd.readouterr().err


def test_after_apply_there_is_nothing_to_change(repo: Repo) -> None:
    planned = steps.plan(repo.database)
    assert planned.changes == 0
    before = relations(repo)
    applied = steps.apply(repo.database, now=NOW)
    assert (applied.plan.changes, applied.catalog_version) == (0, 1)
    assert relations(repo) == before


def test_a_new_field_adds_a_column_and_publishes_a_new_catalog(repo: Repo) -> None:
    with repo.connect() as connection:
        before = read_catalog(connection, "market")
    add_feature(repo)
    planned = steps.plan(repo.database)
    assert [change.summary for change in planned.schema] == [
        "add column features.technical_indicators.range double precision",
        f"add column {ONLINE}.range double precision",
        "replace view features.comprehensive_features, whose definition changed",
    ]
    updates = [one for one in planned.registry if one.kind == "view"]
    assert [one.name for one in updates] == ["comprehensive_features_view", "technical_indicators_view"]
    assert all("field range: - -> Float64" in one.details for one in updates)
    assert steps.apply(repo.database, now=NOW).catalog_version == 2
    with repo.connect() as connection:
        after = read_catalog(connection, "market")
        assert "range" in schema.columns_of(connection, ONLINE)
    assert after.content_hash != before.content_hash
    field = after.view("technical_indicators_view").field("range")
    assert field is not None
    assert field.description == "High minus low."
    assert steps.plan(repo.database).changes == 0


def test_a_removed_field_keeps_its_column_and_is_reported(repo: Repo) -> None:
    edit(
        repo,
        "technical_indicators.py",
        '        Field(name="atr", dtype=Float64, tags={"min": "0", **PRICE, **DEFINED}),\n',
        "",
    )
    planned = steps.plan(repo.database)
    assert f"keep column {ONLINE}.atr, which no definition names any more" in [one.summary for one in planned.schema]
    assert planned.drops == []
    steps.apply(repo.database, now=NOW)
    with repo.connect() as connection:
        assert "atr" in schema.columns_of(connection, ONLINE)
        assert read_catalog(connection, "market").view("technical_indicators_view").field("atr") is None


def test_a_removed_view_is_dropped_only_when_allowed_and_its_history_stays(repo: Repo) -> None:
    shutil.copy(repo.root / "feature_repo" / "technical_indicators.py", repo.root / "kept.txt")
    for name in ("technical_indicators", "comprehensive_features", "services"):
        (repo.root / "feature_repo" / f"{name}.py").unlink()
    before = relations(repo)
    lost = f"drop table {ONLINE}; delete view technical_indicators_view"
    with pytest.raises(NotAllowed, match=f"{lost}; allow it"):
        steps.apply(repo.database, now=NOW)
    assert relations(repo) == before
    with repo.connect() as connection:
        assert read_catalog(connection, "market").version == 1
    steps.apply(repo.database, allow_drop=True, now=NOW)
    with repo.connect() as connection:
        assert not schema.columns_of(connection, ONLINE)
        assert schema.columns_of(connection, "features.technical_indicators")
        left = [view.name for view in read_catalog(connection, "market").views]
        assert left == ["market_features_view", "sentiment_features_view"]
    assert steps.plan(repo.database).changes == 0


def test_a_view_that_is_no_longer_online_loses_its_table_only_when_allowed(repo: Repo) -> None:
    edit(repo, "technical_indicators.py", "online=True", "online=False")
    with pytest.raises(NotAllowed, match=f"drop table {ONLINE}"):
        steps.apply(repo.database, now=NOW)
    steps.apply(repo.database, allow_drop=True, now=NOW)
    with repo.connect() as connection:
        assert not schema.columns_of(connection, ONLINE)


def test_a_changed_ttl_is_shown_with_both_values(repo: Repo) -> None:
    edit(repo, "technical_indicators.py", "timedelta(hours=1)", "timedelta(hours=2)")
    (change,) = [one for one in steps.plan(repo.database).registry if one.kind == "view"]
    assert change.details == ("ttl: 1h -> 2h",)


def test_an_older_featurectl_does_not_touch_a_newer_schema(repo: Repo) -> None:
    with repo.connect() as connection:
        connection.execute("INSERT INTO featurectl.migrations (version, name) VALUES (9999, 'from the future')")
    with pytest.raises(SchemaMissing, match=r"schema is version 9999 .* upgrade featurectl"):
        steps.apply(repo.database, now=NOW)


def test_migrations_are_numbered_without_gaps_and_may_run_twice(repo: Repo) -> None:
    known = schema.migrations()
    assert [one.version for one in known] == list(range(1, len(known) + 1))
    before = relations(repo)
    with repo.connect() as connection:
        connection.execute("DELETE FROM featurectl.migrations")
        assert schema.migrate(connection) == list(known)
    assert relations(repo) == before


def test_online_tables_have_names_that_postgresql_keeps_and_no_other_view_has() -> None:
    assert schema.online_table_name("p", "v") == "online.p__v"
    pairs = [
        ("p" * 40, "v" * 40),
        ("p" * 40, "v" * 41),
        ("p" * 41, "v" * 40),
        ("p__a", "b"),
        ("p", "a__b"),
        ("p_", "b"),
    ]
    names = [schema.online_table_name(*pair) for pair in pairs]
    assert len(set(names)) == len(pairs)
    assert max(len(name.removeprefix("online.").encode()) for name in names) <= 63
    assert re.fullmatch(r"online\.p{23}__v{23}__[0-9a-f]{12}", names[0])
    assert schema.online_table_name("p", "é" * 40).startswith("online.p__" + "é" * 11 + "__")


def test_a_mapped_column_has_its_own_name_in_history_and_the_fields_name_online(repo: Repo) -> None:
    edit(
        repo,
        "technical_indicators.py",
        '    description="One row per closed bar',
        '    field_mapping={"atr_14": "atr"},\n    description="One row per closed bar',
    )
    planned = steps.plan(repo.database)
    assert "add column features.technical_indicators.atr_14 double precision" in [one.summary for one in planned.schema]
    assert f"add column {ONLINE}.atr_14 double precision" not in [one.summary for one in planned.schema]
    steps.apply(repo.database, now=NOW)
    repo.ok("ingest", "candles", "-", "--symbol", "BTCUSDT", "--timeframe", "1h", input=candles())
    repo.ok("compute")
    repo.ok("materialize")
    ((history, online),) = repo.rows(
        f"SELECT f.atr_14, o.atr FROM features.technical_indicators f JOIN {ONLINE} o USING (symbol, event_timestamp)"
    )
    assert history == online is not None


def test_a_tag_that_compute_could_not_follow_is_refused_by_its_place(repo: Repo) -> None:
    edit(repo, "market_features.py", '"aggregate": "mean"', '"aggregate": "median"')
    message = r"market_features\.py.*: view 'market_features_view': field 'bid_ask_spread' has aggregate=median; "
    with pytest.raises(DefinitionError, match=message):
        steps.plan(repo.database)


@pytest.mark.parametrize(
    ("file", "old", "table", "message"),
    [
        ("market_features", "features.market_features", "market.trades", "schema market is featurectl's"),
        ("market_features", "features.market_features", "featurectl.changes", "schema featurectl is featurectl's"),
        ("market_features", "features.market_features", "online.other", "schema online is featurectl's"),
        ("market_features", "features.market_features", "feast.entities", "schema feast is featurectl's"),
        ("comprehensive_features", "features.comprehensive_features", "market.x", "schema market is featurectl's"),
        (
            "sentiment_features",
            "features.sentiment_features",
            "features.market_features",
            "and view 'market_features_view' both name table features.market_features; rename one",
        ),
        (
            "comprehensive_features",
            "features.comprehensive_features",
            "features.market_features",
            "and view 'market_features_view' both name table features.market_features; rename one",
        ),
    ],
)
def test_a_table_that_is_not_a_views_own_is_not_computed_into(
    repo: Repo, file: str, old: str, table: str, message: str
) -> None:
    edit(repo, f"{file}.py", f'"{old}"', f'"{table}"')
    with pytest.raises(DefinitionError) as caught:
        steps.plan(repo.database)
    assert str(caught.value).startswith(f"feature_repo/{file}.py: view '{file}_view' ")
    assert table in str(caught.value) and message in str(caught.value)
