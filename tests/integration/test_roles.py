"""Roles: what `db roles` prints lets the owner apply, the writer write and the reader read, and nobody do more."""

from __future__ import annotations

import json
import re
import shutil
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
import pytest
from psycopg import errors as pg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from featurectl.cli.app import COMMANDS
from featurectl.core.config import Overrides, load_config
from featurectl.core.repository import Profile, make_repository
from featurectl.core.roles import Roles, roles_sql
from featurectl.errors import UsageError
from tests.fix_database import create_database, drop_database
from tests.fix_repository import Repo, _create_extension
from tests.integration.test_first_path import candles

pytestmark = pytest.mark.xdist_group("roles")

SECRET = "s3cret0fRoles"
VIEW = "technical_indicators_view"
ROLES = ("owner", "writer", "reader")
SCHEMAS = ("featurectl", "market", "features", "online", "feast")
WINDOW = ("--start", "2024-01-01", "--end", "2024-01-05")
AS_OF = ("--as-of", "2024-01-03T12:30:00Z")
INGEST = ("ingest", "candles", "-", "--symbol", "BTCUSDT", "--timeframe", "1h")


@dataclass(frozen=True)
class Granted:
    """A repository's database, and the names of the roles it was given to."""

    repo: Repo
    roles: Roles

    def url(self, role: str) -> str:
        """Return the database's URL for a role; a server that asks for a password is given it."""
        parts = conninfo_to_dict(self.repo.url)
        place = f"host={quote(str(parts.get('host', 'localhost')), safe='')}&port={parts.get('port', 5432)}"
        return f"postgresql://{quote(getattr(self.roles, role))}:{SECRET}@/{parts['dbname']}?{place}"

    def as_role(self, role: str) -> Repo:
        return Repo(self.repo.root, self.url(role))

    def connect(self, role: str) -> psycopg.Connection[tuple[Any, ...]]:
        return psycopg.connect(self.url(role), autocommit=True)

    def grant(self) -> None:
        """Run what the command prints, as a superuser, and give the roles a password."""
        script = self.repo.ok("db", "roles", *(f"--{role}={getattr(self.roles, role)}" for role in ROLES))
        with self.repo.connect() as connection:
            connection.execute(script.encode())
            for role in ROLES:
                statement = sql.SQL("ALTER ROLE {} PASSWORD {}")
                name = sql.Identifier(getattr(self.roles, role))
                connection.execute(statement.format(name, sql.Literal(SECRET)))

    def privileges(self) -> list[tuple[Any, ...]]:
        """Return who owns what, and what was given to whom."""
        return self.repo.rows(
            "SELECT 'relation', c.oid::regclass::text, c.relowner::regrole::text, "
            "array(SELECT unnest(c.relacl)::text ORDER BY 1) FROM pg_class AS c WHERE c.relnamespace IN "
            "(SELECT oid FROM pg_namespace WHERE nspname !~ '^(pg_|information_schema|_timescaledb)') "
            "UNION ALL SELECT 'schema', nspname::text, nspowner::regrole::text, "
            "array(SELECT unnest(nspacl)::text ORDER BY 1) FROM pg_namespace WHERE nspname !~ '^pg_' "
            "UNION ALL SELECT 'default', defaclnamespace::regnamespace::text, defaclrole::regrole::text, "
            "array(SELECT unnest(defaclacl)::text ORDER BY 1) FROM pg_default_acl ORDER BY 1, 2"
        )


def new_roles() -> Roles:
    tag = uuid.uuid4().hex[:8]
    return Roles(*(f"test_{tag}_{role}" for role in ROLES))


@pytest.fixture(scope="module")
def drop_roles(server: str) -> Iterator[Callable[..., None]]:
    """Drop roles once their databases are gone: those belong to the whole server."""
    names: list[str] = []
    yield lambda *more: names.extend(more)
    with psycopg.connect(server, autocommit=True) as connection:
        for name in names:
            connection.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(sql.Identifier(name)))


@pytest.fixture(scope="module")
def granted(
    server: str, drop_roles: Callable[..., None], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Granted]:
    """A database that was empty when the roles were made: its owner applied, and its writer filled it."""
    root = tmp_path_factory.mktemp("roles") / "market"
    make_repository(root, Profile.TIMESCALE, project="market")
    name = f"featurectl_test_{uuid.uuid4().hex[:12]}"
    granted = Granted(Repo(root, create_database(server, name)), new_roles())
    drop_roles(*(getattr(granted.roles, role) for role in ROLES))
    _create_extension(granted.repo.url)
    granted.grant()
    granted.as_role("owner").ok("apply")
    writer = granted.as_role("writer")
    writer.ok(*INGEST, input=candles())
    writer.ok("compute")
    writer.ok("materialize")
    yield granted
    drop_database(server, name)


def the_error_of(granted: Granted, role: str, *words: str, input: bytes | None = None) -> str:
    """Run a command that must be refused; return the one line that says so."""
    done = granted.as_role(role).run(*words, input=input)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "Traceback" not in done.stderr
    assert SECRET not in done.stderr
    return line


# --- what each may do ------------------------------------------------------------------------------------------------


def test_the_reader_gets_what_the_writer_made(granted: Granted, tmp_path: Path) -> None:
    reader = granted.as_role("reader")
    ((rsi, event),) = granted.repo.rows(
        "SELECT rsi_14, event_timestamp FROM features.technical_indicators ORDER BY event_timestamp DESC LIMIT 1"
    )
    (result,) = reader.json("get-online", "BTCUSDT_1h", "-f", "rsi_14", *AS_OF)["results"]
    assert result["features"] == {"rsi_14": pytest.approx(rsi, rel=1e-12)}
    assert result["statuses"] == {"rsi_14": "PRESENT"}
    assert result["views"][VIEW]["source"] == "online"
    rows = reader.json("get-offline", "BTCUSDT_1h", "-f", "rsi_14", *WINDOW)["rows"]
    assert len(rows) == 60
    assert rows[-1]["rsi_14"] == pytest.approx(rsi, rel=1e-12)
    (tmp_path / "spine.csv").write_text(f"entity_id,event_timestamp\nBTCUSDT_1h,{event.isoformat()}\n")
    (row,) = reader.json("get-offline", "--spine", tmp_path / "spine.csv", "-f", "rsi_14")["rows"]
    assert row["rsi_14"] == pytest.approx(rsi, rel=1e-12)


# What is there already, and what the roles are meant for as soon as it is there.
READS = [("services",), ("views",), ("entities",), ("entities", "symbol"), ("storage",), ("db", "status"), ("doctor",)]
READS += [("status",), ("runs",), ("gaps",), ("check",), ("stats",), ("drift",), ("baseline", "list"), ("consistency",)]
READS += [("lookahead",)]


@pytest.mark.parametrize("words", READS, ids=" ".join)
def test_the_reader_may_look_at_everything(granted: Granted, words: tuple[str, ...]) -> None:
    done = granted.as_role("reader").run(*words, "--json")
    assert done.returncode in (0, 1), done.stderr
    assert "denied" not in done.stdout + done.stderr
    assert json.loads(done.stdout)["command"] == " ".join(words[: 2 if words[0] == "db" else 1])


@pytest.mark.parametrize("role", ["reader", "writer"])
def test_doctor_finds_nothing_wrong_with_a_role_of_few_rights(granted: Granted, role: str) -> None:
    report = granted.as_role(role).json("doctor")
    assert report["healthy"]
    found = {finding["subject"]: finding["level"] for finding in report["findings"]}
    assert found["registry"] == found["catalog"] == found["storage"] == "ok"


def test_the_reader_sees_what_only_feast_can_read(granted: Granted) -> None:
    """Feast looks whether its registry's tables are there before it reads, and writes to none of them."""
    reader = granted.as_role("reader")
    (result,) = reader.json("get-online", "BTCUSDT_1h", "-f", "rsi_14", "--backend", "feast", "--allow-stale")[
        "results"
    ]
    ((rsi,),) = granted.repo.rows("SELECT rsi_14 FROM online.market__technical_indicators_view")
    assert result["features"] == {"rsi_14": pytest.approx(rsi, rel=1e-12)}


@pytest.mark.parametrize(
    ("words", "table"),
    [
        (INGEST, "candles|runs"),
        (("compute", "--full"), "computed_series|technical_indicators|runs"),
        (("materialize",), "market__[a-z_]+|runs"),
    ],
    ids=["ingest", "compute", "materialize"],
)
def test_the_reader_may_not_write(granted: Granted, words: tuple[str, ...], table: str) -> None:
    before = granted.repo.rows("SELECT count(*), max(created_timestamp) FROM market.candles")
    line = the_error_of(granted, "reader", *words, input=candles(70))
    assert re.search(rf"permission denied for table ({table}); ask the owner to grant it", line), line
    assert granted.repo.rows("SELECT count(*), max(created_timestamp) FROM market.candles") == before


def test_the_writer_may_do_its_work_again_and_remove_what_is_old(granted: Granted) -> None:
    path = granted.repo.root / "feature_store.yaml"
    text = path.read_text()
    with granted.repo.connect() as connection:
        connection.execute("INSERT INTO market.trades VALUES ('OLD', '2020-01-01Z', '1', 1, 1, 'buy')")
    try:
        path.write_text(text.replace("drop_after: never", "drop_after: 90d"))
        done = granted.as_role("writer").json("maintain")
    finally:
        path.write_text(text)
    by_name = {table["table"]: table for table in done["tables"]}
    if by_name["market.trades"]["mode"] == "table":
        assert by_name["market.trades"]["rows"] == 1
    assert granted.as_role("writer").json("compute", "--full")["series"][0]["rows"] == 60


# What writes besides.
JOBS: list[tuple[str, ...]] = [
    ("backfill", "--from", "2024-01-01", "--to", "2024-01-03"),
    ("run",),
    ("gaps", "BTCUSDT_1h", "--declare", "2024-02-01", "2024-02-02", "--reason", "a test"),
]


@pytest.mark.parametrize("words", [words for words in JOBS if words[0] in COMMANDS], ids=lambda words: words[0])
def test_the_writer_may_do_it_and_the_reader_not(granted: Granted, words: tuple[str, ...]) -> None:
    done = granted.as_role("reader").run(*words)
    assert done.returncode == 2, done.stderr
    assert "error: permission denied for table" in done.stderr
    done = granted.as_role("writer").run(*words)
    # A run has an opinion on how old these bars are.
    assert done.returncode in (0, 1), done.stderr
    assert "denied" not in done.stderr


FORBIDDEN = {
    "drop a table": "DROP TABLE market.candles",
    "alter a table": "ALTER TABLE market.candles ADD COLUMN x int",
    "empty a table": "TRUNCATE market.candles",
    "index a table": "CREATE INDEX ON features.technical_indicators (rsi_14)",
    "a rule": "CREATE RULE r AS ON DELETE TO market.candles DO INSTEAD NOTHING",
    "a schema": "CREATE SCHEMA mine",
    "a role": "CREATE ROLE another",
    **{f"a table in {schema}": f"CREATE TABLE {schema}.mine (x int)" for schema in (*SCHEMAS, "public")},
    "register": "DELETE FROM feast.feature_views",
    "become the owner": "SET ROLE {owner}",
}
# What the writer may do, and the reader may not.
WRITES = {
    **{f"insert into {table}": f"INSERT INTO {table} DEFAULT VALUES" for table in ("market.candles", "market.signals")},
    "update": "UPDATE features.technical_indicators SET rsi_14 = 0",
    "delete": "DELETE FROM online.market__technical_indicators_view",
    "delete notes": "DELETE FROM featurectl.changes",
}


@pytest.mark.parametrize(
    ("role", "statement"),
    [
        *[pytest.param("writer", text, id=f"writer: {name}") for name, text in FORBIDDEN.items()],
        *[pytest.param("reader", text, id=f"reader: {name}") for name, text in {**FORBIDDEN, **WRITES}.items()],
    ],
)
def test_what_a_role_may_not_do(granted: Granted, role: str, statement: str) -> None:
    with granted.connect(role) as connection, pytest.raises(pg.InsufficientPrivilege):
        connection.execute(statement.format(owner=granted.roles.owner).encode())


@pytest.mark.parametrize("role", ["reader", "writer"])
def test_other_schemas_stay_closed(granted: Granted, role: str) -> None:
    with granted.repo.connect() as connection:
        connection.execute("CREATE SCHEMA IF NOT EXISTS private")
        connection.execute("CREATE TABLE IF NOT EXISTS private.wages AS SELECT 1 AS wage")
    with granted.connect(role) as connection, pytest.raises(pg.InsufficientPrivilege):
        connection.execute("SELECT wage FROM private.wages")


def test_a_lock_of_another_role_is_told_of_in_one_line(granted: Granted) -> None:
    """PostgreSQL does not tell one role since when, and from where, another is connected."""
    with granted.connect("owner") as other:
        name = "featurectl:compute features.technical_indicators"
        other.execute("SELECT pg_advisory_lock(hashtextextended(%s, 0))", [name])
        done = granted.as_role("writer").run("compute", "--full")
    assert done.returncode == 4, done.stderr
    assert "compute features.technical_indicators: locked by another" in done.stderr
    assert "internal error" not in done.stderr


# --- tables that come later, and running it again --------------------------------------------------------------------


MORE = """
from datetime import timedelta

from feast import FeatureView, Field
from feast.types import Float64

from feature_repo.entities import symbol, timeframe
from feature_repo.technical_indicators import technical_indicators_source

more_view = FeatureView(
    name="more_view",
    entities=[symbol, timeframe],
    ttl=timedelta(days=9999),
    schema=[Field(name="rsi_14", dtype=Float64)],
    source=technical_indicators_source,
)
"""


def test_what_a_later_apply_makes_is_written_and_read_as_well(granted: Granted) -> None:
    path = granted.repo.root / "feature_repo" / "more.py"
    source = re.search(r"(\w+) = PostgreSQLSource", (path.parent / "technical_indicators.py").read_text())
    assert source is not None
    path.write_text(MORE.replace("technical_indicators_source", source[1]))
    try:
        granted.as_role("owner").ok("apply")
        granted.as_role("writer").ok("materialize", "--view", "more_view")
        (result,) = granted.as_role("reader").json("get-online", "BTCUSDT_1h", "-f", "more_view:rsi_14")["results"]
        assert result["statuses"] == {"rsi_14": "PRESENT"}
    finally:
        path.unlink()
        granted.as_role("owner").ok("apply", "--allow-drop")


def test_running_it_again_keeps_the_writer_from_the_catalog_and_changes_nothing_else(granted: Granted) -> None:
    granted.grant()
    before = granted.privileges()
    granted.grant()
    assert granted.privileges() == before
    for statement in (
        "UPDATE featurectl.catalog_views SET source_query = 'SELECT 1'",
        "DELETE FROM featurectl.catalogs",
        "INSERT INTO featurectl.migrations VALUES (99, 'x')",
    ):
        with granted.connect("writer") as connection, pytest.raises(pg.InsufficientPrivilege):
            connection.execute(statement.encode())
    granted.as_role("writer").ok("materialize")


def test_rights_that_somebody_gave_besides_are_taken_back(granted: Granted) -> None:
    reader = sql.Identifier(granted.roles.reader)
    with granted.repo.connect() as connection:
        connection.execute(sql.SQL("GRANT ALL ON ALL TABLES IN SCHEMA market TO {}").format(reader))
        connection.execute(sql.SQL("GRANT CREATE ON SCHEMA features TO {}").format(reader))
    granted.grant()
    for statement in (b"DELETE FROM market.candles", b"CREATE TABLE features.mine (x int)"):
        with granted.connect("reader") as connection, pytest.raises(pg.InsufficientPrivilege):
            connection.execute(statement)


# --- databases that are not empty, or not a superuser's --------------------------------------------------------------


@pytest.fixture
def elsewhere(server: str, tmp_path: Path, drop_roles: Callable[..., None]) -> Iterator[Callable[..., Granted]]:
    """Make repositories and databases of their own; those go before the roles do."""
    names: list[str] = []

    def make(template: str | None = None, root: Path | None = None, roles: Roles | None = None) -> Granted:
        names.append(f"featurectl_test_{uuid.uuid4().hex[:12]}")
        place = tmp_path / "market"
        if root is None:
            make_repository(place, Profile.EMBEDDED, project="market")
        else:
            shutil.copytree(root, place)
        granted = Granted(Repo(place, create_database(server, names[-1], template)), roles or new_roles())
        drop_roles(*(getattr(granted.roles, role) for role in ROLES))
        return granted

    yield make
    for name in names:
        drop_database(server, name)


def test_what_a_superuser_has_applied_changes_hands(
    elsewhere: Callable[..., Granted], applied_repository: tuple[Path, str]
) -> None:
    root, template = applied_repository
    granted = elsewhere(template, root)
    granted.repo.ok(*INGEST, input=candles())
    granted.grant()
    owned = granted.repo.rows(
        "SELECT n.nspname::text, c.relname::text FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace "
        "WHERE n.nspname = ANY (%s) AND c.relowner::regrole::text <> %s",
        list(SCHEMAS),
        granted.roles.owner,
    )
    assert owned == []
    with granted.connect("owner") as connection:
        connection.execute("ALTER TABLE market.candles ADD COLUMN note text")
    granted.as_role("writer").ok("compute")
    granted.as_role("writer").ok("materialize")
    reader = granted.as_role("reader")
    assert reader.json("get-online", "BTCUSDT_1h", "-f", "rsi_14", *AS_OF)["results"][0]["features"]["rsi_14"]
    service = "comprehensive_training_service"
    assert len(reader.json("get-offline", "BTCUSDT_1h", "--service", service, *WINDOW)["rows"]) == 60


def test_the_owner_of_the_database_may_run_it_too(
    elsewhere: Callable[..., Granted], drop_roles: Callable[..., None]
) -> None:
    granted = elsewhere()
    admin = f"test_{uuid.uuid4().hex[:8]}_admin"
    drop_roles(admin)
    database = sql.Identifier(str(conninfo_to_dict(granted.repo.url)["dbname"]))
    with granted.repo.connect() as connection:
        name = sql.Identifier(admin)
        connection.execute(sql.SQL("CREATE ROLE {} LOGIN CREATEROLE PASSWORD {}").format(name, sql.Literal(SECRET)))
        connection.execute(sql.SQL("ALTER DATABASE {} OWNER TO {}").format(database, name))
    script = roles_sql(load_config(Overrides(repo=granted.repo.root)), granted.roles).encode()
    as_admin = Granted(granted.repo, Roles(admin, admin, admin))
    with as_admin.connect("owner") as connection:
        connection.execute(script)
        before = granted.privileges()
        connection.execute(script)
    assert granted.privileges() == before
    found = dict(granted.repo.rows("SELECT nspname::text, nspowner::regrole::text FROM pg_namespace"))
    assert {found[schema] for schema in SCHEMAS} == {granted.roles.owner}


def test_in_public_only_our_own_tables_are_given(elsewhere: Callable[..., Granted]) -> None:
    granted = elsewhere()
    path = granted.repo.root / "feature_store.yaml"
    text = path.read_text().replace("-c search_path=feast ", "")
    path.write_text(text.replace("online_store:\n", "online_store:\n  db_schema: public\n"))
    assert load_config(Overrides(repo=granted.repo.root, database_url=granted.repo.url)).registry_schema == "public"
    with granted.repo.connect() as connection:
        connection.execute("CREATE TABLE public.wages AS SELECT 1 AS wage")
        connection.execute("CREATE TABLE public.feature_views AS SELECT 1 AS one")
        connection.execute("CREATE TABLE public.market__a AS SELECT 1 AS one")
        connection.execute("COMMENT ON TABLE public.market__a IS 'featurectl: online rows of view a of project market'")
    granted.grant()
    granted.grant()
    owners = dict(
        granted.repo.rows("SELECT tablename::text, tableowner::text FROM pg_tables WHERE schemaname = 'public'")
    )
    assert owners["feature_views"] == owners["market__a"] == granted.roles.owner
    assert owners["wages"] != granted.roles.owner
    with granted.connect("owner") as owner:
        owner.execute("CREATE TABLE public.entities (one int)")
    with granted.connect("reader") as reader:
        for table in ("feature_views", "market__a", "entities"):
            reader.execute(sql.SQL("SELECT one FROM public.{}").format(sql.Identifier(table)))
        with pytest.raises(pg.InsufficientPrivilege):
            reader.execute("DELETE FROM public.market__a")
        with pytest.raises(pg.InsufficientPrivilege):
            reader.execute("SELECT wage FROM public.wages")
    with granted.connect("writer") as writer:
        writer.execute("DELETE FROM public.market__a")
        for table in ("feature_views", "wages"):
            with pytest.raises(pg.InsufficientPrivilege):
                writer.execute(sql.SQL("DELETE FROM public.{}").format(sql.Identifier(table)))


def test_what_others_have_put_into_public_is_not_called(elsewhere: Callable[..., Granted]) -> None:
    """Whoever may create functions there could otherwise have the superuser who runs this run theirs."""
    granted = elsewhere()
    with granted.repo.connect() as connection:
        connection.execute("CREATE TABLE public.called (by_whom text)")
        for arguments in ("text, name", "text, text", "text, text, name, text", "text, text, name, text, text"):
            connection.execute(
                f"CREATE FUNCTION public.format({arguments}) RETURNS text LANGUAGE sql AS "
                "$$ INSERT INTO public.called VALUES (current_user); SELECT 'SELECT 1'::text $$".encode()
            )
    granted.grant()
    assert granted.repo.rows("SELECT * FROM public.called") == []
    with granted.connect("owner") as connection:
        connection.execute("CREATE TABLE market.mine (x int)")


# --- names -----------------------------------------------------------------------------------------------------------


def test_names_with_quotes_are_names(elsewhere: Callable[..., Granted]) -> None:
    tag = uuid.uuid4().hex[:8]
    roles = Roles(f'{tag}"; DROP SCHEMA market; --', f"{tag}' || $body$; \\", f"{tag} Große $$ {{{{ 7 }}}} %I")
    granted = elsewhere(roles=roles)
    path = granted.repo.root / "feature_store.yaml"
    path.write_text(path.read_text().replace("online_store:\n", 'online_store:\n  db_schema: "on\\"; li\'ne"\n'))
    granted.grant()
    found = dict(granted.repo.rows("SELECT nspname::text, nspowner::regrole::text FROM pg_namespace"))
    assert {found[schema].strip('"').replace('""', '"') for schema in ("market", "on\"; li'ne")} == {roles.owner}
    assert {
        name for (name,) in granted.repo.rows("SELECT rolname::text FROM pg_roles WHERE rolname ~ %s", f"^{tag}")
    } == {
        roles.owner,
        roles.writer,
        roles.reader,
    }


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ({"owner": "x", "reader": "x"}, "role 'x' can't be owner and reader; give --reader another name"),
        ({"writer": "a\nb"}, r"role 'a\\nb' is not a name; name another with --writer NAME"),
        ({"writer": " "}, "role ' ' is not a name"),
        ({"owner": "pg_mine"}, "role 'pg_mine' is a name that PostgreSQL keeps to itself"),
        ({"reader": "Public"}, "role 'Public' is a name that PostgreSQL keeps to itself"),
        ({"reader": "ä" * 32}, "is longer than 63 bytes, which PostgreSQL cuts; name another with --reader NAME"),
    ],
)
def test_names_that_postgresql_does_not_take_are_refused(names: dict[str, str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Roles.of("market", **names)


def test_names_come_from_the_project_and_the_script_from_the_configuration_alone(tmp_path: Path) -> None:
    root = make_repository(tmp_path / "shop", Profile.TIMESCALE, project="Shop").root
    repo = Repo(root, f"postgresql://u:{SECRET}@127.0.0.1:1/d")
    done = repo.run("db", "roles")
    assert (done.returncode, done.stderr) == (0, "")
    assert SECRET not in done.stdout
    assert set(re.findall(r'"(Shop_\w+)"', done.stdout)) == {"Shop_owner", "Shop_writer", "Shop_reader"}
