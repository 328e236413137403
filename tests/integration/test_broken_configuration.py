"""Reads go on without a usable feature_store.yaml, and without Feast's registry, and say so; what writes refuses."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from featurectl import opened
from featurectl.cli.app import run
from featurectl.core import catalog as catalogs
from featurectl.core import embedded, schema
from featurectl.core.config import Overrides, load_config
from featurectl.core.db import open_connection
from featurectl.core.serving.answer import OnlineRows
from featurectl.errors import ConfigError, DefinitionError, FeaturectlError, NotFound, RepositoryNotFound, UnsetVariable
from featurectl.manager import FeastFeatureStoreManager
from tests.drill import EVENT, NOW, TECHNICAL, VIEWS, Ground, expected, fill
from tests.fix_foreign import REGISTRY_FAULTS, break_registry
from tests.fix_repository import Repo

ID = "S1USDT_1h"
GUESSED = "; answered from the published catalog of project market"

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::pydantic.PydanticDeprecatedSince20")

Edit = Callable[[str], str]
BROKEN: dict[str, Edit] = {
    "not YAML": lambda text: f"{text}\n  : [",
    "empty": lambda text: "",
    "not a mapping": lambda text: "- market\n",
    "unknown setting": lambda text: text.replace("warmup_bars:", "warm_up_bars:"),
    "wrong value": lambda text: text.replace("warmup_bars: 1000", "warmup_bars: few"),
    "unset variable": lambda text: f'{text}\nowner: "${{NOBODY_SET_THIS}}"\n',
    "no project": lambda text: text.replace("project:", "projekt:", 1),
    "section of another kind": lambda text: re.sub(r"online_store:\n(  .*\n)+", "online_store: [1]\n", text),
}


@pytest.fixture
def ground(repo: Repo) -> Ground:
    ground = Ground(repo.root, repo.url)
    fill(ground)
    return ground


def edit(repo: Repo | Ground, change: Edit) -> None:
    path = repo.root / "feature_store.yaml"
    before = path.read_text()
    path.write_text(change(before))
    assert path.read_text() != before


def write(repo: Repo | Ground, text: str) -> None:
    (repo.root / "feature_store.yaml").write_text(text)


def error_of(repo: Repo | Ground) -> str:
    """What is wrong with the configuration."""
    with pytest.raises(ConfigError) as caught:
        load_config(Overrides(repo=repo.root, database_url=repo.url))
    return str(caught.value)


async def read(manager: FeastFeatureStoreManager, **options: Any) -> OnlineRows:
    rows = await manager.get_online_features_rows([ID], list(VIEWS[TECHNICAL]), **options)
    assert list(rows) == [expected(ID, [TECHNICAL])]
    return rows


def with_manager(ground: Ground, body: Callable[[FeastFeatureStoreManager], Awaitable[None]], **options: Any) -> None:
    async def main() -> None:
        async with ground.manager(**options) as manager:
            await body(manager)

    asyncio.run(main())


# --- a manager that runs ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["broken", "deleted", "the whole directory"])
def test_a_manager_that_runs_needs_the_file_no_more(
    ground: Ground, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    monkeypatch.setattr(opened, "CATALOG_SECONDS", 0.0)

    async def body(manager: FeastFeatureStoreManager) -> None:
        before = await read(manager)
        if fault == "broken":
            write(ground, "\x00: [")
        elif fault == "deleted":
            (ground.root / "feature_store.yaml").unlink()
        else:
            ground.root.rename(ground.root.with_name("elsewhere"))
        for _ in range(5):
            rows = await read(manager)
            assert (rows.source, rows.degraded, rows.notes) == ("online", None, before.notes)
            await asyncio.sleep(0.02)
        frame = await manager.get_offline_features([ID], ["rsi_14"], start_date="2020-01-01", end_date="now")
        assert (list(frame["event_timestamp"]), frame.attrs["degraded"]) == ([EVENT], None)

    with_manager(ground, body)


# --- a fresh start ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", BROKEN)
def test_a_fresh_start_answers_from_what_is_published(ground: Ground, fault: str) -> None:
    edit(ground, BROKEN[fault])
    wrong = error_of(ground)

    async def body(manager: FeastFeatureStoreManager) -> None:
        rows = await read(manager)
        assert rows.source == "online"
        assert rows.degraded == f"feature_store.yaml can't be used: {wrong}{GUESSED}"
        frame = await manager.get_online_features([ID], ["rsi_14"])
        assert frame.attrs["degraded"] == rows.degraded
        history = await read(manager, backend="timescaledb")
        assert (history.source, history.degraded) == ("timescaledb", rows.degraded)
        frame = await manager.get_offline_features([ID], ["rsi_14"], start_date="2020-01-01", end_date="now")
        assert (list(frame["event_timestamp"]), frame.attrs["degraded"]) == ([EVENT], rows.degraded)
        assert {one["name"] for one in await manager.list_feature_services()} >= {"sentiment_service"}
        assert (await manager.get_feature_statistics(["rsi_14"])).attrs["degraded"] == rows.degraded
        health = await manager.health()
        assert (health["status"], rows.degraded in health["catalog"]["notes"]) == ("degraded", True)
        for writes in (manager.compute_features, manager.materialize):
            with pytest.raises(ConfigError) as refused:
                await writes()
            assert str(refused.value) == wrong
        with pytest.raises(NotFound, match="feature 'nonsense' not found; features: "):
            await manager.get_online_features_rows([ID], ["nonsense"])

    with_manager(ground, body)


def test_a_training_set_needs_no_online_read_before(ground: Ground) -> None:
    edit(ground, BROKEN["not YAML"])

    async def main() -> Any:
        manager = ground.manager()
        try:
            return await manager.get_offline_features([ID], ["rsi_14"], start_date="2020-01-01", end_date="now")
        finally:
            await manager.close()

    frame = asyncio.run(main())
    assert (len(frame), str(frame.attrs["degraded"]).endswith(GUESSED)) == (1, True)


def test_a_file_that_is_mended_is_taken_again(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opened, "CATALOG_SECONDS", 0.0)
    whole = (ground.root / "feature_store.yaml").read_text()
    edit(ground, BROKEN["unknown setting"])

    async def body(manager: FeastFeatureStoreManager) -> None:
        assert (await read(manager)).degraded
        write(ground, whole.replace('project: "market"', 'project: "another"'))
        for _ in range(3):
            await asyncio.sleep(0.05)
            assert (await read(manager)).degraded, "what answers is not what the file names"
        write(ground, whole)
        for _ in range(100):
            await asyncio.sleep(0.02)
            if (await read(manager)).degraded is None:
                break
        assert (await read(manager)).degraded is None
        assert len(await manager.materialize(views=[TECHNICAL])) == 1

    with_manager(ground, body)


def test_the_command_line_says_it_too(
    ground: Ground, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ground.root)
    monkeypatch.setenv("FEATURECTL_DATABASE_URL", ground.url)
    monkeypatch.setenv("FEATURECTL_NOW", NOW.isoformat())
    edit(ground, BROKEN["not YAML"])
    reason = f"feature_store.yaml can't be used: {error_of(ground)}{GUESSED}"
    words = ["get-online", ID, "-f", "rsi_14,macd"]

    assert run([*words, "--json"]) == 0
    stdout, stderr = capsys.readouterr()
    answer = json.loads(stdout)
    assert answer["degraded"] == {TECHNICAL: reason}
    assert answer["results"][0]["features"] == {name: expected(ID, [TECHNICAL])[name] for name in ("rsi_14", "macd")}
    assert stderr == f"warning: {reason}\n"

    assert run([*words, "--strict"]) == 6
    stdout, stderr = capsys.readouterr()
    assert stdout
    assert stderr == f"error: {reason}\n"

    assert run(["get-offline", ID, "-f", "rsi_14", "--start", "2020-01-01", "--end", "now", "--json"]) == 0
    stdout, stderr = capsys.readouterr()
    assert len(json.loads(stdout)["rows"]) == 1
    assert stderr.startswith(f"warning: {reason}\n")
    for refused in ("materialize", "compute", "views", "apply"):
        assert run(refused.split()) == 2, refused
        stdout, stderr = capsys.readouterr()
        assert (stdout, stderr) == ("", f"error: {error_of(ground)}\n")


# --- where nobody knows where to read --------------------------------------------------------------------------------


def refusal(repo: Repo, **options: Any) -> FeaturectlError:
    """What a fresh start says that does not answer."""

    async def main() -> None:
        async with FeastFeatureStoreManager(repo.root, **options):
            pass

    with pytest.raises(FeaturectlError) as caught:
        asyncio.run(main())
    return caught.value


@pytest.mark.parametrize(
    ("change", "statement"),
    [
        (lambda text: f"{text.replace('market', 'another', 1)}\n: [", None),
        (lambda text: f"{text}\n: [", "INSERT INTO featurectl.catalogs VALUES ('other', 1, '', now(), 'x')"),
        (lambda text: f"{text}\n: [", "DELETE FROM featurectl.catalogs"),
        (lambda text: f"{text}\n: [", "DROP SCHEMA featurectl CASCADE"),
    ],
    ids=["another project", "two projects", "no project", "no schema"],
)
def test_an_answer_that_may_be_anothers_is_not_given(repo: Repo, change: Edit, statement: str | None) -> None:
    edit(repo, change)
    if statement:
        with repo.connect() as connection:
            connection.execute(statement.encode())
    error = refusal(repo, database_url=repo.url)
    assert type(error) is ConfigError
    assert str(error) == error_of(repo)


def test_what_flags_and_environment_say_wrongly_is_no_fault_of_the_file(
    repo: Repo, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(repo.root)
    monkeypatch.setenv("FEATURECTL_DATABASE_URL", repo.url)
    assert run(["get-online", ID, "--timeout", "-1"]) == 2
    assert "error: --timeout: '-1" in capsys.readouterr().err
    monkeypatch.setenv("FEATURECTL_CONNECT_TIMEOUT", "soon")
    assert str(refusal(repo)).startswith("FEATURECTL_CONNECT_TIMEOUT: 'soon' is not a number")
    monkeypatch.delenv("FEATURECTL_CONNECT_TIMEOUT")
    monkeypatch.setenv("FEATURECTL_DATABASE_URL", "mysql://h/d")
    assert "is not a PostgreSQL URL" in str(refusal(repo))


def test_without_a_database_or_a_file_the_first_error_stays(repo: Repo) -> None:
    edit(repo, BROKEN["not YAML"])
    assert "is not YAML" in str(refusal(repo)), "there is no embedded server's data here"
    assert "is not YAML" in str(refusal(repo, database_url="postgresql://u@127.0.0.1:1/d"))
    (repo.root / "feature_store.yaml").unlink()
    assert type(refusal(repo, database_url=repo.url)) is RepositoryNotFound


# --- the embedded server ---------------------------------------------------------------------------------------------


@pytest.fixture
def own_server(repo: Repo) -> Iterator[Repo]:
    """A repository whose own embedded server has what was published."""
    data = embedded.data_dir(repo.root)
    url = embedded.ensure_running(data)
    with repo.connect() as connection, open_connection(url, connect_timeout=10) as own:
        schema.migrate(own)
        catalogs.publish(own, catalogs.read_catalog(connection, "market"), now=NOW, published_by="a test")
        own.execute("CREATE SCHEMA online; CREATE SCHEMA IF NOT EXISTS features")
        own.execute(
            "CREATE TABLE online.market__sentiment_features_view (symbol text PRIMARY KEY, "
            "event_timestamp timestamptz, created_timestamp timestamptz, news_sentiment float8, "
            "social_sentiment float8, fear_greed_index float8)"
        )
        own.execute(
            "INSERT INTO online.market__sentiment_features_view VALUES ('BTCUSDT', %s, %s, 0.5, 1, 2)", [NOW, NOW]
        )
    yield repo
    embedded.stop(data)


def test_data_beside_a_broken_file_is_that_of_its_embedded_server(own_server: Repo) -> None:
    whole = (own_server.root / "feature_store.yaml").read_text()

    async def body(manager: FeastFeatureStoreManager) -> None:
        rows = await manager.get_online_features_rows(["BTCUSDT"], ["news_sentiment"])
        assert (rows[0]["news_sentiment"], rows.source) == (0.5, "online")
        assert str(rows.degraded).endswith(GUESSED)

    for fault in ("not YAML", "empty", "unset variable"):
        write(own_server, BROKEN[fault](whole))
        with_manager(Ground(own_server.root, own_server.url), body, database_url=None)

    # Data that an embedded server left behind is not that of the server which the file names.
    write(own_server, whole.replace("database: embedded", 'database: "${FEATURECTL_DATABASE_URL}"'))
    assert type(refusal(own_server)) is UnsetVariable
    write(own_server, whole.replace("database: embedded", "database: postgresql://h/d") + "\n: [")
    assert "is not YAML" in str(refusal(own_server))


# --- a file without our stores ---------------------------------------------------------------------------------------


def test_an_online_section_that_is_gone_changes_nothing_that_was_applied(ground: Ground) -> None:
    edit(ground, lambda text: re.sub(r"online_store:\n(  .*\n)+", "", text))

    async def body(manager: FeastFeatureStoreManager) -> None:
        rows = await read(manager)
        assert (rows.source, rows.degraded) == ("online", None)

    with_manager(ground, body)


@pytest.mark.parametrize(
    "offline",
    ["{type: file}", "{type: postgres, host: h, database: d, user: u, password: p}"],
    ids=["file", "postgres"],
)
def test_with_stores_of_feasts_own_the_history_answers(ground: Ground, offline: str) -> None:
    """What nothing but Feast's registry tells is published from there; our history needs no store of ours."""
    from featurectl.plugin.publish import publish_registry

    text = (ground.root / "feature_store.yaml").read_text()
    head, _, rest = text.partition("offline_store:")
    own = rest[rest.index("featurectl:") :]
    stores = f"offline_store: {offline}\nonline_store: {{type: sqlite, path: data/online.db}}\n"
    write(ground, head + stores + own)
    with ground.connect() as connection:
        catalogs.withdraw(connection, "market")
    publish_registry(Repo(ground.root, ground.url).database)

    async def body(manager: FeastFeatureStoreManager) -> None:
        rows = await read(manager, backend="timescaledb")
        assert (rows.source, rows.degraded, rows.notes) == ("timescaledb", None, ())
        rows = await read(manager, timeout=30)
        assert rows.source == "timescaledb"
        assert rows.degraded, "the store that the file names answers nothing"
        frame = await manager.get_offline_features([ID], ["rsi_14"], start_date="2020-01-01", end_date="now")
        assert (list(frame["event_timestamp"]), frame.attrs["source"]) == ([EVENT], "timescaledb")

    with_manager(ground, body)
    # And where the file can't be read at all.
    edit(ground, BROKEN["not YAML"])

    async def broken(manager: FeastFeatureStoreManager) -> None:
        rows = await read(manager)
        assert (rows.source, str(rows.degraded).endswith(GUESSED)) == ("timescaledb", True)

    with_manager(ground, broken)


# --- the registry ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", REGISTRY_FAULTS)
def test_our_online_store_needs_no_registry(ground: Ground, fault: str) -> None:
    break_registry(ground, fault)

    async def body(manager: FeastFeatureStoreManager) -> None:
        rows = await read(manager)
        assert (rows.source, rows.degraded) == ("online", None)
        (note,) = rows.notes
        assert note.startswith("Feast's registry") and note.endswith("; run `featurectl apply`")
        assert ("is not in schema feast any more" in note) == (fault in ("renamed", "gone"))

    with_manager(ground, body)


def test_apply_says_what_to_do_with_a_registry_of_garbage(ground: Ground) -> None:
    from featurectl.plugin import apply as steps

    repo = Repo(ground.root, ground.url)
    with ground.connect() as connection:
        connection.execute(b"UPDATE feast.feature_views SET feature_view_proto = '\\xdeadbeef'")
    with pytest.raises(DefinitionError, match=r"view '\w+' in feast.feature_views can't be read; restore it"):
        steps.plan(repo.database)
    with ground.connect() as connection:
        connection.execute("DELETE FROM feast.feature_views")
    steps.apply(repo.database, now=NOW)

    async def body(manager: FeastFeatureStoreManager) -> None:
        rows = await read(manager)
        assert (rows.source, rows.degraded, rows.notes) == ("online", None, ())

    with_manager(ground, body)


def test_a_command_answers_without_a_registry(ground: Ground) -> None:
    with ground.connect() as connection:
        connection.execute("DROP SCHEMA feast CASCADE")
    done = Repo(ground.root, ground.url).run(
        "get-online", ID, "-f", "rsi_14,macd", "--strict", env={"FEATURECTL_NOW": NOW.isoformat()}
    )
    assert done.returncode == 0
    assert json.loads(done.stdout)["degraded"] == {}
    assert done.stderr.startswith("warning: Feast's registry, from which the catalog was published, is not in schema")
