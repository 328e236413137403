"""A catalog older than Feast's registry is noticed, whatever was written there; what changes no definition is not."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from psycopg import sql

from featurectl import opened
from featurectl.cli.app import run
from featurectl.core import registry_age, registry_state
from featurectl.core.catalog import Catalog, find_catalog
from featurectl.core.config import Overrides, load_config
from featurectl.core.db import Connection, open_database
from featurectl.core.protobuf import definition_hash
from featurectl.core.registry_age import registry_note
from featurectl.manager import FeastFeatureStoreManager
from tests.fix_command import Command
from tests.fix_repository import Repo

NOW = datetime(2024, 5, 1, tzinfo=UTC)
VIEW = "sentiment_features_view"
SAID = "Feast's registry has changed since the catalog was published ({}); run `featurectl apply`"
GONE = "Feast's registry, from which the catalog was published, is not in schema feast any more; run `featurectl apply`"
TTL_OF_90_SECONDS = b"\x32\x02\x08\x5a"  # field 6 of a view's spec: {seconds: 90}

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::pydantic.PydanticDeprecatedSince20")


def published(connection: Connection) -> Catalog:
    catalog = find_catalog(connection, "market")
    assert catalog is not None
    return catalog


def note_of(connection: Connection, repo: Repo) -> str | None:
    return registry_note(connection, repo.database.config, published(connection))


def registry_says(repo: Repo) -> str | None:
    """What a command that starts now is told."""
    with repo.connect() as connection:
        return note_of(connection, repo)


def objects(repo: Repo) -> Any:
    with repo.connect() as connection:
        state = registry_state.read_state(connection, repo.database.config)
    assert state is not None
    return state.objects


def stamp(repo: Repo) -> str:
    with repo.connect() as connection:
        return registry_age.read_stamp(connection, repo.database.config)


def appended(more: bytes, view: str = VIEW) -> bytes:
    """Return the statement that adds bytes to the definition of a view, as protobuf lets later bytes win."""
    spec = sql.Literal(b"\x0a" + len(more).to_bytes(1, "big") + more)
    statement = (
        "UPDATE feast.feature_views SET feature_view_proto = feature_view_proto || {} WHERE feature_view_name = {}"
    )
    return sql.SQL(statement).format(spec, sql.Literal(view)).as_bytes()


# --- what is a change ------------------------------------------------------------------------------------------------


def test_what_apply_published_is_what_the_registry_holds(repo: Repo) -> None:
    assert registry_says(repo) is None
    with repo.connect() as connection:
        assert published(connection).registry_stamp == stamp(repo)
    kinds = [name.rpartition(" ")[0] for name in objects(repo)]
    assert {kind: kinds.count(kind) for kind in kinds} == {"entity": 4, "view": 4, "service": 4}


def test_a_run_of_several_steps_says_so_once(repo: Repo, command: Command) -> None:
    with repo.connect() as connection:
        connection.execute(appended(TTL_OF_90_SECONDS))
    for _ in range(2):
        assert command("run", code=0).err.count("Feast's registry has changed since the catalog was published") == 1


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (appended(TTL_OF_90_SECONDS), f"view {VIEW}"),
        (b"DELETE FROM feast.feature_views WHERE feature_view_name = 'sentiment_features_view'", f"gone: view {VIEW}"),
        (
            b"INSERT INTO feast.feature_views SELECT 'another', project_id, 0, NULL, feature_view_proto, NULL "
            b"FROM feast.feature_views WHERE feature_view_name = 'sentiment_features_view'",
            "new: view another",
        ),
        (
            b"UPDATE feast.feature_services SET feature_service_proto = '' "
            b"WHERE feature_service_name = 'sentiment_service'",
            "service sentiment_service",
        ),
        (b"UPDATE feast.entities SET entity_proto = '\\xdeadbeef'", "entity __dummy, entity symbol, entity timeframe"),
        (b"UPDATE feast.feature_views SET feature_view_name = 'renamed_' || feature_view_name", "new: view renamed_"),
    ],
    ids=["ttl", "deleted", "new", "emptied", "garbage", "renamed"],
)
def test_a_change_is_said_with_its_name(repo: Repo, change: bytes, what: str) -> None:
    with repo.connect() as connection:
        assert connection.execute(change).rowcount > 0
        note = note_of(connection, repo)
    assert note is not None
    assert what in note
    assert note.startswith("Feast's registry has changed since the catalog was published (")
    assert note.endswith("); run `featurectl apply`")


def test_many_changes_are_said_in_one_line(repo: Repo) -> None:
    with repo.connect() as connection:
        connection.execute("DELETE FROM feast.feature_views; DELETE FROM feast.feature_services")
        note = note_of(connection, repo)
    services = "service comprehensive_training_service, service market_analysis_service, service sentiment_service"
    assert note == SAID.format(f"gone: {services} and 5 more")


@pytest.mark.parametrize(
    "write",
    [
        "UPDATE feast.feature_views SET last_updated_timestamp = last_updated_timestamp + 3600, user_metadata = 'x'",
        # Field 2 of the object, meta, has a materialization interval more.
        "UPDATE feast.feature_views SET feature_view_proto = feature_view_proto || '\\x12021a00'",
        "UPDATE feast.feature_views SET project_id = 'other' WHERE false",
        "INSERT INTO feast.feature_views SELECT feature_view_name, 'other', 0, NULL, 'x' FROM feast.feature_views",
        "INSERT INTO feast.on_demand_feature_views VALUES ('doubled', 'market', 0, 'x', NULL)",
    ],
    ids=["times", "interval", "nothing", "another project", "on demand"],
)
def test_what_defines_nothing_else_is_no_change(repo: Repo, write: str) -> None:
    with repo.connect() as connection:
        connection.execute(write.encode())
        assert note_of(connection, repo) is None


def test_a_change_that_is_taken_back_is_none(repo: Repo) -> None:
    with repo.connect() as connection:
        before = connection.execute(
            "SELECT feature_view_proto FROM feast.feature_views WHERE feature_view_name = %s", [VIEW]
        )
        (proto,) = before.fetchone() or ()
        connection.execute(appended(TTL_OF_90_SECONDS))
        assert note_of(connection, repo) == SAID.format(f"view {VIEW}")
        back = "UPDATE feast.feature_views SET feature_view_proto = %s WHERE feature_view_name = %s"
        connection.execute(back, [proto, VIEW])
        assert note_of(connection, repo) is None
        assert published(connection).registry_stamp != stamp(repo)


# --- what can't be known ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault",
    [
        "UPDATE featurectl.catalogs SET registry = NULL",
        "ALTER TABLE featurectl.catalogs DROP COLUMN registry",
        "ALTER TABLE feast.entities DROP COLUMN entity_proto",
        "ALTER TABLE feast.entities RENAME COLUMN project_id TO project",
    ],
    ids=["published before", "before the upgrade", "no column", "another layout"],
)
def test_where_nobody_knows_nothing_is_said(repo: Repo, fault: str) -> None:
    with repo.connect() as connection:
        connection.execute(appended(TTL_OF_90_SECONDS))
        connection.execute(fault.encode())
        assert note_of(connection, repo) is None


def test_a_role_that_may_not_read_the_registry_is_told_nothing(repo: Repo) -> None:
    with repo.connect() as connection, connection.transaction(force_rollback=True):
        connection.execute(appended(TTL_OF_90_SECONDS))
        connection.execute("CREATE ROLE featurectl_test_reader")
        connection.execute("GRANT USAGE ON SCHEMA featurectl TO featurectl_test_reader")
        connection.execute("GRANT SELECT ON ALL TABLES IN SCHEMA featurectl TO featurectl_test_reader")
        assert note_of(connection, repo) == SAID.format(f"view {VIEW}")
        connection.execute("SET LOCAL ROLE featurectl_test_reader")
        assert note_of(connection, repo) is None


@pytest.mark.parametrize(
    "fault", ["DROP SCHEMA feast CASCADE", "ALTER TABLE feast.feature_views RENAME TO views"], ids=["schema", "table"]
)
def test_a_registry_that_is_gone_is_said(repo: Repo, fault: str) -> None:
    with repo.connect() as connection:
        connection.execute(fault.encode())
        assert note_of(connection, repo) == GONE


def test_a_registry_elsewhere_is_not_looked_at(repo: Repo) -> None:
    path = repo.root / "feature_store.yaml"
    path.write_text(path.read_text().replace('path: "${FEATURECTL_DATABASE_URL}"', 'path: "postgresql://h/registry"'))
    with repo.connect() as connection:
        connection.execute(appended(TTL_OF_90_SECONDS))
        assert repo.database.config.registry_schema is None
        assert note_of(connection, repo) is None


@pytest.fixture
def locked(repo: Repo) -> Iterator[Repo]:
    """A repository whose registry somebody else holds."""
    with repo.connect() as connection, connection.transaction():
        connection.execute("LOCK TABLE feast.feature_views IN ACCESS EXCLUSIVE MODE")
        yield repo


def test_nobody_waits_for_a_registry_that_is_locked(locked: Repo) -> None:
    started = time.monotonic()
    assert registry_says(locked) is None

    async def read() -> Any:
        async with FeastFeatureStoreManager(locked.root, database_url=locked.url) as manager:
            return await manager.get_online_features_rows(["BTCUSDT"], feature_service_name="sentiment_service")

    assert asyncio.run(read()).notes == ()
    assert time.monotonic() - started < 3


# --- who says it -----------------------------------------------------------------------------------------------------


def test_a_manager_notices_beside_its_reads(repo: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opened, "CATALOG_SECONDS", 0.0)
    looks: list[int] = []
    difference = registry_state.difference
    monkeypatch.setattr(registry_state, "difference", lambda *given: looks.append(1) or difference(*given))

    async def read(change: bytes, back: bytes) -> None:
        async with FeastFeatureStoreManager(repo.root, database_url=repo.url) as manager:

            async def notes(wanted: tuple[str, ...]) -> None:
                deadline = time.monotonic() + 10
                while (
                    rows := await manager.get_online_features_rows(["BTCUSDT"], ["news_sentiment"])
                ).notes != wanted and time.monotonic() < deadline:
                    await asyncio.sleep(0.01)
                assert rows.notes == wanted

            await notes(())
            with repo.connect() as connection:
                connection.execute(change)
                await notes((said := SAID.format(f"view {VIEW}"),))
                frame = await manager.get_online_features(["BTCUSDT"], ["news_sentiment"])
                assert frame.attrs["notes"] == [said]
                for _ in range(5):
                    await asyncio.sleep(0.02)
                    await notes((said,))
                assert len(looks) == 1, "what was written once is read once"
                connection.execute(back)
                await notes(())

    with repo.connect() as connection:
        (proto,) = (
            connection.execute(
                "SELECT feature_view_proto FROM feast.feature_views WHERE feature_view_name = %s", [VIEW]
            ).fetchone()
            or ()
        )
    back = "UPDATE feast.feature_views SET feature_view_proto = {} WHERE feature_view_name = {}"
    asyncio.run(
        read(appended(TTL_OF_90_SECONDS), sql.SQL(back).format(sql.Literal(proto), sql.Literal(VIEW)).as_bytes())
    )


@pytest.mark.parametrize(
    "words", ["get-online BTCUSDT_1h", "get-offline BTCUSDT_1h --start -1d --end now", "views", "materialize"]
)
def test_commands_warn_once_and_go_on(
    repo: Repo, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: str
) -> None:
    monkeypatch.chdir(repo.root)
    monkeypatch.setenv("FEATURECTL_DATABASE_URL", repo.url)
    with repo.connect() as connection:
        connection.execute(appended(TTL_OF_90_SECONDS))
    assert run(words.split()) == 0
    stdout, stderr = capsys.readouterr()
    assert stdout
    assert stderr.count(f"warning: {SAID.format(f'view {VIEW}')}\n") == 1


def test_doctor_says_the_same(repo: Repo, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(repo.root)
    monkeypatch.setenv("FEATURECTL_DATABASE_URL", repo.url)
    with repo.connect() as connection:
        connection.execute(appended(TTL_OF_90_SECONDS))
    assert run(["doctor", "--format", "table"]) == 0
    assert SAID.format(f"view {VIEW}").partition(";")[0] in capsys.readouterr().out


# --- by Feast's own hands --------------------------------------------------------------------------------------------


def test_what_feast_does_changes_a_note_only_with_a_definition(repo: Repo) -> None:
    """Materializing, and applying the same again, are none; each way of publishing makes up for a change."""
    from feast import Field
    from feast.types import Float64

    from featurectl.plugin import apply as steps
    from featurectl.plugin.publish import publish_registry
    from featurectl.plugin.registry import feast_store

    before, first = objects(repo), stamp(repo)
    assert steps.apply(repo.database, now=NOW).catalog_version == 1
    assert objects(repo) == before
    with feast_store(repo.database) as store:
        store.materialize(NOW - timedelta(days=1), NOW, feature_views=[VIEW])
        assert stamp(repo) != first
        assert objects(repo) == before
        assert registry_says(repo) is None
        view = store.get_feature_view(VIEW)
        store.registry.apply_materialization(view, "market", NOW - timedelta(days=2), NOW)  # as other engines do
        assert objects(repo) == before

        view = store.get_feature_view(VIEW)
        changes: dict[str, Callable[[], None]] = {
            "ttl": lambda: setattr(view, "ttl", timedelta(minutes=7)),
            "description": lambda: setattr(view, "description", "what the papers say"),
            "tag": lambda: view.tags.update(team="macro"),
            "field": lambda: view.features.append(Field(name="more", dtype=Float64)),
        }
        for what, change in changes.items():
            earlier = objects(repo)
            change()
            store.registry.apply_feature_view(view, "market")
            now = objects(repo)
            assert [name for name in now if now[name] != earlier[name]] == [f"view {VIEW}"], what
        assert registry_says(repo) == SAID.format(f"view {VIEW}")

        # As `feast apply` does it, with our store told.
        view.features.pop()
        store.apply([view])
        assert registry_says(repo) is None

        # What a catalog has no place for: it stays as it is, and knows what it was published from.
        view.owner = "somebody"
        store.registry.apply_feature_view(view, "market")
        assert registry_says(repo) == SAID.format(f"view {VIEW}")
        versions = "SELECT version FROM featurectl.catalogs"
        before_it = repo.rows(versions)
        publish_registry(repo.database)
        assert registry_says(repo) is None
        assert repo.rows(versions) == before_it

        service = store.get_feature_service("sentiment_service")
        service.description = "scores"
        store.registry.apply_feature_service(service, "market")
        store.registry.delete_feature_view("market_features_view", "market")
    assert registry_says(repo) == SAID.format("service sentiment_service; gone: view market_features_view")
    publish_registry(repo.database)
    assert registry_says(repo) is None
    assert steps.apply(repo.database, now=NOW).catalog_version == 4
    assert registry_says(repo) is None
    assert objects(repo) == before


def test_a_registry_in_a_file_is_looked_at_too(repo: Repo) -> None:
    from featurectl.plugin.publish import publish_registry
    from featurectl.plugin.registry import feast_store

    with feast_store(repo.database) as store:
        everything = [*store.list_entities(), *store.list_feature_views(), *store.list_feature_services()]
    path = repo.root / "feature_store.yaml"
    head, _, rest = path.read_text().partition("registry:")
    stores, own = rest[rest.index("offline_store:") :].split("online_store:")
    path.write_text(
        f"{head}registry: data/registry.db\n{stores}online_store: {{type: sqlite, path: data/online.db}}\n"
        f"featurectl:{own.partition('featurectl:')[2]}"
    )
    (repo.root / "data").mkdir()
    file = repo.root / "data" / "registry.db"
    assert load_config(Overrides(repo=repo.root, database_url=repo.url)).registry_file == file
    with feast_store(repo.database) as store:
        store.apply(everything)
        publish_registry(repo.database)
        before, first = objects(repo), stamp(repo)
        assert registry_says(repo) is None
        store.materialize(NOW - timedelta(days=1), NOW, feature_views=[VIEW])
        assert stamp(repo) != first
        assert objects(repo) == before
        assert registry_says(repo) is None
        view = store.get_feature_view(VIEW)
        view.ttl = timedelta(minutes=7)
        store.apply([view])
        said = SAID.format(f"view {VIEW}")
        assert registry_says(repo) == said
        assert asyncio.run(note_in_the_background(repo)) == said
    file.write_bytes(b"\xff no registry")
    assert str(registry_says(repo)).startswith("Feast's registry has changed since the catalog was published (gone: ")
    file.unlink()
    assert registry_says(repo) == GONE.replace("schema feast", str(file))
    assert asyncio.run(note_in_the_background(repo)) == GONE.replace("schema feast", str(file))


async def note_in_the_background(repo: Repo) -> str | None:
    from featurectl.core.serving.session import Session

    database = open_database(Overrides(repo=repo.root, database_url=repo.url))
    connection = await database.open_async(Session)
    try:
        with repo.connect() as plain:
            catalog = published(plain)
        return await registry_age.RegistryWatch(database.config).note(connection, catalog)
    finally:
        await connection.close()


# --- hashes ----------------------------------------------------------------------------------------------------------


def test_writers_may_shuffle_tags_and_put_times_into_sources() -> None:
    from feast.protos.feast.core.FeatureView_pb2 import FeatureView

    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    draw = random.Random(seed)

    def written(names: list[str], second: int) -> bytes:
        view = FeatureView()
        view.spec.name, view.spec.batch_source.name = "rsi", "bars"
        view.spec.batch_source.meta.created_timestamp.seconds = second
        for _ in range(3):
            field = view.spec.features.add()
            field.name = "f"
            for name in draw.sample(names, len(names)):
                field.tags[name] = f"value of {name}"
        for name in draw.sample(names, len(names)):
            view.spec.tags[name] = ""
        view.meta.last_updated_timestamp.seconds = second
        return bytes(view.SerializeToString())

    names = [f"tag {number}" for number in range(20)]
    many = [written(names, second) for second in range(1, 30)]
    assert len(set(many)) > 1, "protobuf writes maps in an order of its own"
    assert len({definition_hash(one, without=2) for one in many}) == 1
    others = {definition_hash(written([*names[:-1], f"other {number}"], 1), without=2) for number in range(30)}
    assert len(others | {definition_hash(many[0], without=2)}) == 31


def test_the_order_of_fields_counts() -> None:
    from feast.protos.feast.core.FeatureView_pb2 import FeatureView

    def written(*names: str) -> bytes:
        view = FeatureView()
        for name in names:
            view.spec.features.add(name=name, value_type=1)
        return bytes(view.SerializeToString())

    assert definition_hash(written("a", "b"), without=2) != definition_hash(written("b", "a"), without=2)


def test_whatever_the_bytes_they_have_a_hash() -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    draw = random.Random(seed)
    drawn = [draw.randbytes(draw.randrange(200)) for _ in range(2000)]
    nested = b"\x0a\x00"
    for _ in range(300):
        length = len(nested)
        nested = b"\x0a" + bytes([length & 127 | 128, length >> 7]) + nested
    hashes = [definition_hash(one, without=2) for one in {*drawn, nested, nested + b"\x00"}]
    assert len(set(hashes)) == len(hashes)
    assert all(len(one) == 16 for one in hashes)
