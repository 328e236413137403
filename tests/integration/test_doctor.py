"""doctor finds each planted fault and says how to mend it."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from featurectl.core import doctor
from featurectl.core.catalog import read_catalog
from featurectl.core.config import Overrides, load_config
from featurectl.core.db import open_connection, open_database
from featurectl.core.repository import Profile, make_repository
from featurectl.core.timescale import Extension
from tests.fix_foreign import set_online_store
from tests.fix_repository import Repo
from tests.market import START


def findings(repo: Repo, code: int, **environment: str) -> dict[str, dict[str, Any]]:
    done = repo.run("doctor", "--json", env=environment or None)
    assert done.returncode == code, done.stdout + done.stderr
    return {finding["subject"]: finding for finding in json.loads(done.stdout)["findings"]}


def test_a_sound_repository_has_nothing_to_mend(repo: Repo) -> None:
    found = findings(repo, 0)
    assert {one["level"] for one in found.values()} <= {"ok", "warning"}
    assert found["catalog"]["message"].startswith("version 1")
    views = "comprehensive_features_view, market_features_view, sentiment_features_view, technical_indicators_view"
    assert found["registry"]["message"] == f"views: {views}"


def test_a_bar_longer_than_the_ttl_is_warned_of(repo: Repo) -> None:
    with repo.connect() as connection:
        connection.execute(
            "INSERT INTO market.candles (symbol, timeframe, open_time, open, high, low, close, volume) "
            "VALUES ('BTCUSDT', '4h', '2024-01-01Z', 1, 1, 1, 1, 1)"
        )
    finding = findings(repo, 0)["ttl"]
    assert finding["level"] == "warning"
    assert finding["message"].startswith("technical_indicators_view has a TTL of 1h, shorter than the 4h between its")
    assert "4h" in finding["fix"]


def test_the_ttl_is_compared_with_the_time_between_the_rows_of_the_view(repo: Repo) -> None:
    """Whatever bars there are, views of ticks have a row a minute, and those of signals one in 15 minutes."""
    with repo.connect() as connection:
        connection.execute(
            "INSERT INTO market.candles (symbol, timeframe, open_time, open, high, low, close, volume) "
            "VALUES ('BTCUSDT', '1h', '2024-01-01Z', 1, 1, 1, 1, 1)"
        )
        catalog = read_catalog(connection, "market")

        def short(seconds: float) -> set[str]:
            views = tuple(replace(view, ttl_seconds=seconds) for view in catalog.views)
            return {one.message.split(": ")[0] for one in doctor._ttls(connection, replace(catalog, views=views))}

        assert short(3600) == set()
        bars = "technical_indicators_view has a TTL of {}, shorter than the 1h between its rows"
        scores = "sentiment_features_view has a TTL of {}, shorter than the 15m between its rows"
        assert short(900) == {bars.format("15m")}
        assert short(60) == {bars.format("1m"), scores.format("1m")}
        ticks = "market_features_view has a TTL of {}, shorter than the 1m between its rows"
        assert short(59) == {bars.format("59s"), scores.format("59s"), ticks.format("59s")}


@pytest.mark.parametrize(
    ("fault", "subject", "message"),
    [
        ("DROP TABLE online.market__technical_indicators_view", "tables", "online.market__technical_indicators_view"),
        ("DELETE FROM featurectl.catalogs", "catalog", "has published none"),
        ("DELETE FROM featurectl.migrations", "schema", "0001_base"),
        ("DROP SCHEMA feast CASCADE", "registry", "not in schema feast"),
    ],
)
def test_what_is_missing_in_the_database_is_found(repo: Repo, fault: str, subject: str, message: str) -> None:
    with repo.connect() as connection:
        connection.execute(fault.encode())
    finding = findings(repo, 1)[subject]
    assert finding["level"] == "error"
    assert message in finding["message"]
    assert "featurectl apply" in finding["fix"]


def test_a_view_the_registry_lost_is_found(repo: Repo) -> None:
    with repo.connect() as connection:
        connection.execute("DELETE FROM feast.feature_views")
    assert findings(repo, 0)["registry"]["level"] == "warning"


def test_a_function_that_is_gone_is_found(repo: Repo) -> None:
    path = repo.root / "feature_repo" / "indicators.py"
    path.write_text(path.read_text().replace("def macd(", "def other("))
    finding = findings(repo, 1)["functions"]
    assert "field 'macd' has no function" in finding["message"]


def test_an_unreachable_server_is_found_with_its_fix(repo: Repo) -> None:
    found = findings(repo, 1, FEATURECTL_DATABASE_URL="postgresql://u:pw-secret@127.0.0.1:1/d")
    assert found["database"]["level"] == "error"
    assert "127.0.0.1:1" in found["database"]["message"]
    assert "pw-secret" not in str(found)


def test_a_password_in_the_file_is_warned_of(repo: Repo) -> None:
    path = repo.root / "feature_store.yaml"
    path.write_text(path.read_text() + '\nextra: "postgresql://u:secret@h/d"\n')
    assert findings(repo, 0)["secrets"]["level"] == "warning"


SECRETS = {
    "in a URL": 'extra: "postgresql://u:secret@h/d"',
    "in a query": 'extra: "postgresql://u@h/d?sslmode=require&password=secret"',
    "by itself": "extra:\n  password: secret",
}
NO_SECRETS = {
    "a variable": 'extra: "postgresql://u:${PASSWORD}@h/d"',
    "a variable in a query": 'extra: "postgresql://u@h/d?password=${PASSWORD}"',
    "no password": 'extra: "postgresql://u@h/d"',
}


@pytest.mark.parametrize("text", [*SECRETS.values(), *NO_SECRETS.values()], ids=[*SECRETS, *NO_SECRETS])
def test_files_of_secrets_that_others_can_read_are_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("PASSWORD", "secret")
    root = make_repository(tmp_path / "my market", Profile.EMBEDDED).root
    path = root / "feature_store.yaml"
    path.write_text(f"{path.read_text()}\n{text}\n")
    is_secret = text in SECRETS.values()

    def found() -> list[tuple[str, str]]:
        findings = doctor._configuration(load_config(Overrides(repo=root)))
        return [(one.message, one.fix) for one in findings if one.subject == "secrets"]

    def readable(name: str) -> tuple[str, str]:
        message = f"{root / name} may hold secrets, and others than its owner can read it"
        return message, f"chmod 600 '{root / name}'"

    held = [(f"{path} holds a password", "move it into an environment variable and write ${VARIABLE} there")]
    path.chmod(0o644)
    assert found() == ([*held, readable("feature_store.yaml")] if is_secret else [])
    path.chmod(0o600)
    shutil.copy(root / ".env.example", root / ".env")
    assert found() == (held if is_secret else [])
    for mode in (0o640, 0o604):
        (root / ".env").chmod(mode)
        assert found() == [*(held if is_secret else []), readable(".env")]


def test_a_configuration_that_cannot_be_read_is_found_and_nothing_after_it(repo: Repo) -> None:
    (repo.root / "feature_store.yaml").write_text("project: [")
    found = findings(repo, 1)
    assert list(found) == ["configuration"]
    assert found["configuration"]["level"] == "error"


def test_a_foreign_online_store_is_named_with_what_serves_it(repo: Repo) -> None:
    set_online_store(repo.root, type="sqlite", path="data/online.db")
    finding = findings(repo, 0)["online store"]
    assert (finding["level"], finding["message"].partition(" ")[0]) == ("warning", "sqlite")
    assert "featurectl feast" in finding["fix"]


def test_a_role_that_may_not_create_schemas_is_found_where_some_are_missing(
    clone: Callable[[str | None], str], repo: Repo
) -> None:
    role = sql.Identifier(f"featurectl_reader_{uuid.uuid4().hex[:12]}")
    refused = {}
    for url in (clone(None), repo.url):
        with open_connection(url, connect_timeout=10) as connection:
            connection.execute(sql.SQL("CREATE ROLE {} IN ROLE pg_read_all_data").format(role))
            connection.execute(sql.SQL("SET ROLE {}").format(role))
            database = open_database(Overrides(repo=repo.root, database_url=url))
            found = [one for one in doctor._database(connection, database, START) if one.level is doctor.Level.ERROR]
            refused[url] = [(one.message.partition("may ")[2], one.fix.partition(" TO ")[0]) for one in found]
            connection.execute("RESET ROLE")
            connection.execute(sql.SQL("DROP ROLE {}").format(role))
    empty = next(iter(refused))
    name = conninfo_to_dict(empty)["dbname"]
    wanted = (f"not create schemas in {name}", f"GRANT CREATE ON DATABASE {name}")
    assert refused == {empty: [wanted], repo.url: []}


@pytest.mark.parametrize(
    ("extension", "level", "message"),
    [
        (Extension(None, None, None), "ok", "not on this server: plain PostgreSQL tables"),
        (
            Extension(None, "2.28.3", None),
            "warning",
            "the server has TimescaleDB 2.28.3, this database does not use it",
        ),
        (Extension("2.28.3", "2.28.3", "timescale"), "ok", "TimescaleDB 2.28.3, licence timescale"),
        (Extension("2.28.3", "2.28.3", "apache"), "warning", "TimescaleDB 2.28.3 runs under the Apache licence"),
        (Extension("1.7.5", "2.28.3", "timescale"), "warning", "TimescaleDB 1.7.5 is too old"),
        (Extension("2.17.2", "2.28.3", "timescale"), "warning", "TimescaleDB 2.17.2 has no columnstore"),
    ],
    ids=lambda value: value.installed or "none" if isinstance(value, Extension) else "",
)
def test_what_the_extension_can_do_is_said(extension: Extension, level: str, message: str) -> None:
    finding = doctor._extension(extension)
    assert finding.level == level
    assert finding.message.startswith(message)
    assert bool(finding.fix) == (level == "warning")


def test_a_server_in_another_zone_is_warned_of(repo: Repo) -> None:
    with repo.connect() as connection:
        name = connection.info.dbname
        connection.execute(f"ALTER DATABASE {name} SET timezone = 'Asia/Kolkata'".encode())
    finding = findings(repo, 0)["time zone"]
    assert (finding["level"], "Asia/Kolkata" in finding["message"]) == ("warning", True)


def test_a_clock_that_is_set_is_warned_of(repo: Repo) -> None:
    assert findings(repo, 0, FEATURECTL_NOW="2024-01-01T00:00:00Z")["clock"]["level"] == "warning"
    assert "FEATURECTL_NOW" not in os.environ
