"""Feast's commands in a repository of featurectl's, and featurectl's in one that Feast alone set up."""

from __future__ import annotations

import json
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from psycopg.conninfo import conninfo_to_dict

from featurectl.core.config import DATABASE_VARIABLE
from tests.fix_repository import FEAST, WITH_FEAST, Repo
from tests.integration.test_first_path import candles

VIEW = "technical_indicators_view"
FEATURES = ("rsi_14", "macd", "ema_20", "bollinger_bands_position", "atr", "volume_sma_ratio")
NOW = "2024-01-03T12:30:00+00:00"
NOON = "2024-01-03T12:00:00+00:00"

DEFINITIONS = """
from datetime import timedelta

from feast import (
    BatchFeatureView, Entity, FeatureService, FeatureView, Field, FileSource, PushSource, StreamFeatureView, ValueType,
)
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import PostgreSQLSource
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Float64, Int64

symbol = Entity(name="symbol", join_keys=["symbol"], value_type=ValueType.STRING)
timeframe = Entity(name="timeframe", join_keys=["timeframe"], value_type=ValueType.STRING)
driver = Entity(name="driver", join_keys=["driver_id"], value_type=ValueType.INT64)

# Fields are left to Feast to learn from the table.
bars = FeatureView(
    name="bars", entities=[symbol, timeframe], ttl=timedelta(hours=1),
    source=PostgreSQLSource(
        name="bars", table="bars", timestamp_field="closed_at", created_timestamp_column="written_at",
        field_mapping={"c": "close"},
    ),
)
drivers = FeatureView(
    name="drivers", entities=[driver], ttl=timedelta(0), schema=[Field(name="rating", dtype=Float64)],
    source=PostgreSQLSource(name="drivers", query="SELECT * FROM drivers", timestamp_field="seen_at"),
)
pushed = StreamFeatureView(
    name="pushed", entities=[driver], ttl=timedelta(0),
    schema=[Field(name="driver_id", dtype=Int64), Field(name="rating", dtype=Float64)],
    source=PushSource(name="pushes", batch_source=drivers.batch_source),
)
doubled_rating = BatchFeatureView(
    name="doubled_rating", entities=[driver], ttl=timedelta(0), mode="python", online=True,
    schema=[Field(name="driver_id", dtype=Int64), Field(name="twice", dtype=Float64)], source=drivers.batch_source,
    udf=lambda rows: rows.assign(twice=rows["rating"] * 2), udf_string="twice the rating",
)
foreign = FeatureView(
    name="foreign", entities=[driver], online=False, schema=[Field(name="age", dtype=Float64)],
    source=FileSource(name="ages", path="ages.parquet", timestamp_field="seen_at"),
)


@on_demand_feature_view(sources=[drivers], schema=[Field(name="twice", dtype=Float64)])
def doubled(inputs):
    import pandas as pd

    return pd.DataFrame({"twice": inputs["rating"] * 2})


bars_service = FeatureService(name="bars_service", features=[bars])
drivers_service = FeatureService(name="drivers_service", features=[drivers, doubled])
"""

MORE = """
more = FeatureService(name="more", features=[bars[["close"]]])
"""

STORE = """
project: alone
provider: local
entity_key_serialization_version: 3
{registry}
offline_store: &connection
  type: featurectl.plugin.offline.TimescaleOfflineStore
  host: "{host}"
  port: {port}
  database: "{dbname}"
  user: "{user}"
  password: "{password}"
online_store:
  <<: *connection
  type: featurectl.plugin.online.TimescaleOnlineStore
batch_engine: {{type: featurectl.plugin.engine.TimescaleComputeEngine}}
"""

TABLES = """
CREATE TABLE bars (symbol varchar(20), timeframe text, closed_at timestamptz, written_at timestamptz, c numeric,
                   volume integer, venues text[], PRIMARY KEY (symbol, timeframe, closed_at));
INSERT INTO bars VALUES ('BTCUSDT', '1h', '2024-01-03T11:00Z', '2024-01-03T11:00Z', 99.5, 7, '{a}'),
                        ('BTCUSDT', '1h', '2024-01-03T12:00Z', '2024-01-03T12:00Z', 100.5, 8, '{a,b}');
CREATE TABLE drivers (driver_id bigint, seen_at timestamp, rating float4);
INSERT INTO drivers VALUES (1001, '2024-01-03 12:00', 4.5);
"""


@pytest.fixture(autouse=True)
def _noon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every process's clock stands half an hour after noon."""
    monkeypatch.setenv("FEATURECTL_NOW", NOW)


@pytest.fixture
def market(repo: Repo) -> Repo:
    """A repository of featurectl's with one computed series up to noon."""
    repo.ok("ingest", "candles", "-", "--symbol", "BTCUSDT", "--timeframe", "1h", input=candles())
    repo.ok("compute")
    return repo


class Alone(Repo):
    """A repository in whose environment nothing names the database; to read what Feast applied takes Feast."""

    with_feast = WITH_FEAST | {"views", "services", "get-online", "get-offline"}

    def environment(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        return {name: value for name, value in super().environment(extra).items() if name != DATABASE_VARIABLE}


@pytest.fixture
def alone(request: pytest.FixtureRequest, clone: Callable[[str | None], str], tmp_path: Path) -> Alone:
    """A repository that names our stores and that featurectl has never seen; its registry is a file, or SQL."""
    url = clone(None)
    place = {"port": 5432, "host": "localhost", "password": "", **conninfo_to_dict(url)}
    registry = "registry: data/registry.db"
    if request.param == "sql":
        server = f"{place['user']}:{quote(place['password'])}@/{place['dbname']}?host={quote(place['host'], safe='')}"
        path = f"postgresql+psycopg://{server}&port={place['port']}"
        registry = f"registry: {{registry_type: sql, path: '{path}', cache_ttl_seconds: 60}}"
    (tmp_path / "feature_store.yaml").write_text(STORE.format(registry=registry, **place))
    (tmp_path / "definitions.py").write_text(DEFINITIONS)
    (tmp_path / "data").mkdir()
    alone = Alone(tmp_path, url)
    with alone.connect() as connection:
        connection.execute(TABLES.encode())
    import pandas as pd

    ages = pd.DataFrame({"driver_id": [1], "seen_at": pd.to_datetime([NOON]), "age": [1.0]})
    ages.to_parquet(tmp_path / "ages.parquet")
    return alone


# --- featurectl where Feast alone was ---------------------------------------------------------------------------------


@pytest.mark.parametrize("alone", ["file", "sql"], indirect=True)
def test_featurectl_works_where_feast_alone_applied(alone: Alone) -> None:
    alone.feast("apply")
    alone.feast("materialize", "2024-01-01T00:00:00", "2024-01-03T11:00:00")
    listed = {view["name"]: view for view in alone.json("views")["views"]}
    assert set(listed) == {"bars", "drivers", "pushed", "doubled_rating"}
    assert alone.rows("SELECT registry IS NOT NULL FROM featurectl.catalogs") == [(True,)], "what it was made from"
    services = {service["name"]: service for service in alone.json("services")["services"]}
    assert set(services) == {"bars_service", "drivers_service"}
    answer = alone.json("get-online", "BTCUSDT_1h", "--service", "bars_service", "--allow-stale")["results"][0]
    assert answer["features"] == {"close": 99.5, "volume": 7, "venues": ["a"]}

    done = {view["view"]: view["written"] for view in alone.json("materialize")["views"]}
    assert done == {"bars": 1, "drivers": 1, "pushed": 1}
    answer = alone.json("get-online", "BTCUSDT_1h", "--service", "bars_service")["results"][0]
    assert answer["features"] == {"close": 100.5, "volume": 8, "venues": ["a", "b"]}
    assert answer["views"]["bars"]["event_timestamp"] == NOON.replace("+00:00", "Z")
    assert alone.rows("SELECT rating FROM online.alone__pushed") == [(4.5,)]
    rows = alone.json("get-offline", "BTCUSDT_1h", "-f", "close,volume", "--start", "2024-01-03", "--end", NOON)["rows"]
    assert [(row["close"], row["volume"]) for row in rows] == [(99.5, 7), (100.5, 8)]


@pytest.mark.parametrize("alone", ["sql"], indirect=True)
def test_a_foreign_online_store_leaves_history_to_featurectl(alone: Alone) -> None:
    text = (alone.root / "feature_store.yaml").read_text()
    start, end = text.index("online_store:"), text.index("batch_engine:")
    online = "online_store: {type: sqlite, path: data/online.db}\n"
    (alone.root / "feature_store.yaml").write_text(text[:start] + online + text[end:])
    alone.feast("apply")
    alone.feast("materialize", "2024-01-01T00:00:00", "2024-01-03T12:00:00")
    rows = alone.json("get-offline", "BTCUSDT_1h", "-f", "close", "--start", "2024-01-03", "--end", NOON)["rows"]
    assert [row["close"] for row in rows] == [99.5, 100.5]
    online = alone.json("get-online", "BTCUSDT_1h", "-f", "close")["results"][0]
    assert (online["features"], online["views"]["bars"]["source"]) == ({"close": 100.5}, "feast")
    refused = alone.run("get-online", "BTCUSDT_1h", "-f", "close", "--backend", "online")
    assert refused.returncode == 2
    assert "not in an online store of ours" in refused.stderr
    answer = alone.feast("get-online-features", "-e", "driver_id=1001", "-f", "drivers:rating")
    assert json.loads(answer[answer.index("{") :])["rating"] == [4.5]


@pytest.mark.parametrize("alone", ["sql"], indirect=True)
def test_features_that_feast_makes_stay_feasts(alone: Alone) -> None:
    alone.feast("apply")
    refused = alone.run("materialize", "--view", "doubled_rating")
    assert refused.returncode == 2
    assert "view 'doubled_rating' has features that Feast makes from its source" in refused.stderr
    alone.feast("materialize", "2024-01-01T00:00:00", "2024-01-03T12:00:00")
    answer = alone.feast("get-online-features", "-e", "driver_id=1001", "-f", "doubled_rating:twice")
    assert json.loads(answer[answer.index("{") :])["twice"] == [9.0]


@pytest.mark.parametrize("alone", ["file", "sql"], indirect=True)
def test_featurectl_plans_nothing_after_feast_applied(alone: Alone) -> None:
    refused = alone.run("plan")
    assert refused.returncode == 2
    assert "view 'foreign' has FileSource; featurectl reads a PostgreSQLSource" in refused.stderr
    text = (alone.root / "definitions.py").read_text()
    start, end = text.index("foreign ="), text.index("@on_demand")
    (alone.root / "definitions.py").write_text(text[:start] + text[end:])
    alone.feast("apply")
    assert len(alone.json("services")["services"]) == 2
    planned = alone.json("plan")
    assert planned["changes"] == 0, planned
    assert alone.run("doctor").returncode == 0


@pytest.mark.parametrize("alone", ["file"], indirect=True)
def test_what_feast_applies_later_is_seen(alone: Alone) -> None:
    before = alone.run("get-online", "BTCUSDT_1h")
    assert before.returncode == 2
    assert "run `featurectl apply`" in before.stderr
    alone.feast("apply")
    assert len(alone.json("services")["services"]) == 2
    text = (alone.root / "definitions.py").read_text()
    (alone.root / "definitions.py").write_text(text + MORE)
    alone.feast("apply")
    assert {one["name"] for one in alone.json("services")["services"]} == {"bars_service", "drivers_service", "more"}


# --- Feast where featurectl is ----------------------------------------------------------------------------------------


def test_feast_applies_a_repository_of_featurectl(repo: Repo, clone: Callable[[str | None], str]) -> None:
    """On an empty database; featurectl then finds everything in place."""
    fresh = Repo(repo.root, clone(None))
    fresh.ok("feast", "--", "apply")
    assert fresh.json("plan")["changes"] == 0
    fresh.ok("ingest", "candles", "-", "--symbol", "BTCUSDT", "--timeframe", "1h", input=candles())
    fresh.ok("compute")
    fresh.ok("materialize")
    answer = fresh.json("get-online", "BTCUSDT_1h", "-f", "rsi_14")["results"][0]
    assert answer["statuses"] == {"rsi_14": "PRESENT"}


def test_feast_materializes_and_reads(market: Repo) -> None:
    market.feast("plan")
    market.feast("apply")
    market.feast("materialize", "2024-01-01T00:00:00", "2024-01-02T12:00:00")
    assert market.rows(f"SELECT max(event_timestamp)::text FROM online.market__{VIEW}") == [("2024-01-02 12:00:00+00",)]
    market.feast("materialize-incremental", "2024-01-03T12:00:00")
    words = ["get-online-features", "-e", "symbol=BTCUSDT", "-e", "timeframe=1h", "-f", f"{VIEW}:rsi_14"]
    text = market.feast(*words)
    theirs = json.loads(text[text.index("{") :])["rsi_14"][0]
    ours = market.json("get-online", "BTCUSDT_1h", "-f", "rsi_14")["results"][0]["features"]["rsi_14"]
    assert theirs == ours is not None


def test_feast_joins_a_training_set(market: Repo) -> None:
    spine = [{"symbol": one, "timeframe": "1h", "event_timestamp": NOON} for one in ("BTCUSDT", "NOSUCH")]
    printed = market.ok("feast", "--", "get-historical-features", "-d", json.dumps(spine), "-f", f"{VIEW}:ema_20")
    (row,) = market.json("get-offline", "BTCUSDT_1h", "-f", "ema_20", "--start", NOON, "--end", NOON)["rows"]
    assert f"{row['ema_20']:.6f}" in printed
    assert '"ema_20":null' in printed


@contextmanager
def serving(repo: Repo, *words: str) -> Iterator[str]:
    """Run one of Feast's servers; yields its address once it answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [FEAST, *words, "--host", "127.0.0.1", "--port", str(port)],
        cwd=repo.root,
        env=repo.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                assert server.poll() is None and time.monotonic() < deadline, server.communicate()[0]
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.communicate(timeout=30)


def fetch(url: str, document: Any = None) -> Any:
    data = json.dumps(document).encode() if document is not None else None
    request = urllib.request.Request(url, data=data, headers={"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.loads(answer.read())
    except urllib.error.HTTPError as error:
        raise AssertionError(error.read().decode()) from error


def test_feasts_feature_server_serves_our_rows(market: Repo) -> None:
    market.ok("materialize")
    ours = market.json("get-online", "BTCUSDT_1h", "-f", "rsi_14")["results"][0]["features"]["rsi_14"]
    with serving(market, "serve") as address:
        entities = {"symbol": ["BTCUSDT", "NOSUCH"], "timeframe": ["1h", "1h"]}
        question = {"features": [f"{VIEW}:rsi_14"], "entities": entities}
        answer = fetch(f"{address}/get-online-features", question)
        names = answer["metadata"]["feature_names"]
        column = answer["results"][names.index("rsi_14")]
        assert column["values"] == [ours, None]
        assert column["statuses"] == ["PRESENT", "NOT_FOUND"]
        pushed = {"symbol": "PUSHED", "timeframe": "1h", "event_timestamp": NOON, "created_timestamp": NOON}
        frame = {name: [value] for name, value in (pushed | dict.fromkeys(FEATURES, 1.5)).items()}
        fetch(f"{address}/write-to-online-store", {"feature_view_name": VIEW, "df": frame})
        entities = {"symbol": ["PUSHED"], "timeframe": ["1h"]}
        answer = fetch(f"{address}/get-online-features", {"features": [f"{VIEW}:rsi_14"], "entities": entities})
        assert answer["results"][answer["metadata"]["feature_names"].index("rsi_14")]["values"] == [1.5]


def test_feasts_ui_shows_the_project(market: Repo) -> None:
    with serving(market, "ui") as address:
        listed = fetch(f"{address}/projects-list.json")
        assert [project["id"] for project in listed["projects"]] == ["market"]
        with urllib.request.urlopen(f"{address}/api/v1/feature_views?project=market", timeout=30) as answer:
            assert VIEW in answer.read().decode()
