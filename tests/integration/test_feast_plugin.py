"""Feast's SDK and command line over our stores: the same values, statuses and event times as featurectl's commands."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
from feast import FeatureService, FeatureStore
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import SavedDatasetPostgreSQLStorage
from feast.protos.feast.serving.ServingService_pb2 import FieldStatus
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.repo_operations import extract_objects_for_apply_delete
from psycopg import sql

from featurectl.core.value_types import column_type
from featurectl.errors import DatabaseUnreachable, SchemaMissing, UnsetVariable
from featurectl.plugin.apply import apply, plan
from featurectl.plugin.definitions import load_definitions
from featurectl.plugin.registry import feast_store
from tests.fix_database import create_database, drop_database, freeze
from tests.fix_repository import Repo
from tests.integration.test_first_path import candles

VIEW = "technical_indicators_view"
SERVICE = "technical_indicators_service"
ONLINE = "online.market__technical_indicators_view"
FEATURES = ("rsi_14", "macd", "ema_20", "bollinger_bands_position", "atr", "volume_sma_ratio")
REFERENCES = [f"{VIEW}:{name}" for name in FEATURES]

# The newest bars of BTCUSDT, ETHUSDT and NEWUSDT close at noon, OLDUSDT's a day before; NEWUSDT has no EMA yet.
NOW = datetime(2024, 1, 3, 12, 30, tzinfo=UTC)
NOON = NOW.replace(minute=0)
IDS = ("BTCUSDT_1h", "ETHUSDT_4h", "NEWUSDT_1h", "OLDUSDT_1h", "NOSUCH_1h", "BTCUSDT_1h")


@pytest.fixture(scope="module")
def filled(
    server: str, applied_repository: tuple[Path, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Path, str]]:
    """A repository to copy and a database to clone: computed history of four symbols, nothing online yet."""
    root = tmp_path_factory.mktemp("filled") / "market"
    shutil.copytree(applied_repository[0], root)
    name = f"{applied_repository[1]}_filled"
    repo = Repo(root, create_database(server, name, applied_repository[1]))
    for symbol, timeframe, count, start in (
        ("BTCUSDT", "1h", 60, "2024-01-01"),
        ("NEWUSDT", "1h", 18, "2024-01-02T18:00"),
        ("OLDUSDT", "1h", 36, "2024-01-01"),
    ):
        bars = candles(count, start)
        repo.ok("ingest", "candles", "-", "--symbol", symbol, "--timeframe", timeframe, input=bars)
    repo.ok("ingest", "candles", "-", "--symbol", "ETHUSDT", "--timeframe", "4h", input=four_hours())
    repo.ok("compute")
    freeze(server, name)
    yield root, name
    drop_database(server, name)


def four_hours() -> bytes:
    header, *lines = candles(15, "2024-01-01").decode().splitlines()
    first = datetime(2024, 1, 1)
    moved = [
        ",".join([str(first + timedelta(hours=4 * index)), *line.split(",")[1:]]) for index, line in enumerate(lines)
    ]
    return "\n".join([header, *moved]).encode()


@pytest.fixture
def market(
    filled: tuple[Path, str], clone: Callable[[str | None], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Repo:
    """A repository with history, and every clock half an hour after noon."""
    shutil.copytree(filled[0], tmp_path / "market")
    monkeypatch.setenv("FEATURECTL_NOW", NOW.isoformat())
    return Repo(tmp_path / "market", clone(filled[1]))


@pytest.fixture
def store(market: Repo) -> Iterator[FeatureStore]:
    with feast_store(market.database) as opened:
        yield opened


Online = dict[str, dict[str, tuple[Any, str, datetime | None]]]


def keys(entity_id: str) -> dict[str, str]:
    symbol, _, timeframe = entity_id.rpartition("_")
    return {"symbol": symbol, "timeframe": timeframe}


def read_by_feast(store: FeatureStore, features: Any = REFERENCES, ids: tuple[str, ...] = IDS) -> Online:
    """Read through the SDK: value, status and event time, by id and feature."""
    response = store.get_online_features(features=features, entity_rows=[keys(one) for one in ids])
    values = response.to_dict()
    answer: Online = {one: {} for one in ids}
    for name, vector in zip(response.proto.metadata.feature_names.val, response.proto.results, strict=True):
        if name in ("symbol", "timeframe"):
            continue
        for index, one in enumerate(ids):
            instant = vector.event_timestamps[index].ToDatetime(UTC)
            status = FieldStatus.Name(vector.statuses[index])
            answer[one][name] = (values[name][index], status, instant if instant.timestamp() else None)
    return answer


def read_by_featurectl(repo: Repo, *words: str, ids: tuple[str, ...] = IDS) -> Online:
    """Read through the console script, in the same shape."""
    answer: Online = {}
    features = () if words else ("-f", ",".join(FEATURES))
    for row in repo.json("get-online", *ids, *features, *words)["results"]:
        (view,) = row["views"].values()
        instant = datetime.fromisoformat(view["event_timestamp"]) if view["event_timestamp"] else None
        answer[row["entity_id"]] = {
            name: (value, row["statuses"][name], instant) for name, value in row["features"].items()
        }
    return answer


def online_rows(repo: Repo) -> list[tuple[Any, ...]]:
    return repo.rows(f"SELECT * FROM {ONLINE} ORDER BY symbol, timeframe")


# --- materialize and read online -------------------------------------------------------------------------------------


def by_featurectl(repo: Repo, store: FeatureStore) -> None:
    repo.ok("materialize")


def by_featurectl_window(repo: Repo, store: FeatureStore) -> None:
    repo.ok("materialize", "2024-01-01", NOW.isoformat())


def by_sdk(repo: Repo, store: FeatureStore) -> None:
    store.materialize(datetime(2024, 1, 1, tzinfo=UTC), NOW)


def by_sdk_incremental(repo: Repo, store: FeatureStore) -> None:
    # Feast begins at now minus the TTL, by the real clock: the first run needs a window of its own.
    store.materialize(datetime(2024, 1, 1, tzinfo=UTC), NOW - timedelta(hours=3))
    store.materialize_incremental(NOW)


def by_feast_command(repo: Repo, store: FeatureStore) -> None:
    repo.feast("materialize", "2024-01-01T00:00:00", "2024-01-03T09:00:00")
    repo.feast("materialize-incremental", "2024-01-03T12:30:00")


@pytest.mark.parametrize(
    "materialize", [by_featurectl, by_featurectl_window, by_sdk, by_sdk_incremental, by_feast_command]
)
def test_whoever_materializes_both_read_the_same(
    market: Repo, store: FeatureStore, materialize: Callable[[Repo, FeatureStore], None]
) -> None:
    """Values, statuses and event times of fresh, young, expired, absent and repeated entities."""
    materialize(market, store)
    newest = market.rows(
        "SELECT DISTINCT ON (symbol, timeframe) symbol, timeframe, event_timestamp, created_timestamp, "
        f"{', '.join(FEATURES)} FROM features.technical_indicators ORDER BY symbol, timeframe, event_timestamp DESC"
    )
    assert online_rows(market) == newest
    ours = read_by_featurectl(market)
    assert read_by_feast(store) == ours
    assert {status for _, status, _ in ours["BTCUSDT_1h"].values()} == {"PRESENT"}
    assert ours["NEWUSDT_1h"]["rsi_14"][1:] == ("PRESENT", NOON)
    assert ours["NEWUSDT_1h"]["ema_20"] == (None, "NULL_VALUE", NOON)
    assert ours["OLDUSDT_1h"]["rsi_14"] == (None, "OUTSIDE_MAX_AGE", NOON - timedelta(days=1))
    assert ours["NOSUCH_1h"]["rsi_14"] == (None, "NOT_FOUND", None)


def test_a_service_and_single_features_read_the_same(market: Repo, store: FeatureStore) -> None:
    market.ok("materialize")
    whole = read_by_featurectl(market, "--service", SERVICE)
    assert read_by_feast(store, store.get_feature_service(SERVICE)) == whole
    chosen = read_by_featurectl(market, "-f", "atr,rsi_14")
    assert read_by_feast(store, [f"{VIEW}:atr", f"{VIEW}:rsi_14"]) == chosen


def test_full_feature_names_carry_the_view(market: Repo, store: FeatureStore) -> None:
    market.ok("materialize")
    rows = [keys("BTCUSDT_1h")]
    short = store.get_online_features(REFERENCES, rows).to_dict()
    full = store.get_online_features(REFERENCES, rows, full_feature_names=True).to_dict()
    assert full == {f"{VIEW}__{name}" if name in FEATURES else name: value for name, value in short.items()}


def test_the_ttl_withholds_a_value_only_past_its_last_moment(
    market: Repo, store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    market.ok("materialize")
    for now, status in (
        (NOON + timedelta(hours=1), "PRESENT"),
        (NOON + timedelta(hours=1, microseconds=1), "OUTSIDE_MAX_AGE"),
    ):
        monkeypatch.setenv("FEATURECTL_NOW", now.isoformat())
        theirs, ours = read_by_feast(store, ids=("BTCUSDT_1h",)), read_by_featurectl(market, ids=("BTCUSDT_1h",))
        assert theirs == ours
        assert ours["BTCUSDT_1h"]["rsi_14"][1] == status


def test_feasts_command_reads_the_same(market: Repo) -> None:
    market.ok("materialize")
    words = [word for one in ("BTCUSDT", "OLDUSDT") for word in ("-e", f"symbol={one}", "-e", "timeframe=1h")]
    text = market.feast("get-online-features", *words, "-f", REFERENCES[0], "-f", REFERENCES[4])
    theirs = json.loads(text[text.index("{") :])
    ours = read_by_featurectl(market, "-f", "rsi_14,atr", ids=("BTCUSDT_1h", "OLDUSDT_1h"))
    assert theirs["rsi_14"] == [row["rsi_14"][0] for row in ours.values()]
    assert theirs["atr"] == [row["atr"][0] for row in ours.values()]


def test_a_window_of_old_rows_moves_nothing_back(market: Repo, store: FeatureStore) -> None:
    market.ok("materialize")
    before = online_rows(market)
    store.materialize(datetime(2024, 1, 1, tzinfo=UTC), NOW - timedelta(days=1))
    assert online_rows(market) == before
    (done,) = market.json("materialize", "2024-01-01", "2024-01-02", "--view", VIEW)["views"]
    assert (done["written"], done["older"]) == (0, 3)
    assert online_rows(market) == before


# --- writing online --------------------------------------------------------------------------------------------------


def entity_key(symbol: str, *, swapped: bool = False) -> EntityKey:
    pairs = [("symbol", Value(string_val=symbol)), ("timeframe", Value(string_val="1h"))]
    names, values = zip(*(reversed(pairs) if swapped else pairs), strict=True)
    return EntityKey(join_keys=names, entity_values=values)


def write(
    store: FeatureStore, rsi: float | None, event: datetime, created: datetime | None, *, swapped: bool = False
) -> None:
    view = store.get_feature_view(VIEW)
    value = Value() if rsi is None else Value(double_val=rsi)
    row = (entity_key("GUARD", swapped=swapped), {"rsi_14": value}, event, created)
    store._get_provider().online_write_batch(store.config, view, [row], lambda rows: None)


def guarded(repo: Repo) -> list[tuple[Any, ...]]:
    return repo.rows(f"SELECT rsi_14, event_timestamp, created_timestamp FROM {ONLINE} WHERE symbol = 'GUARD'")


def test_a_write_never_moves_a_row_back(market: Repo, store: FeatureStore) -> None:
    """Later events win; of equal events the later write; a write without a time is the oldest of all."""
    event, created = NOON, NOON + timedelta(minutes=1)
    write(store, 1.0, event, created)
    for older_event, older_created in (
        (event - timedelta(hours=1), created + timedelta(days=1)),
        (event, created - timedelta(seconds=1)),
        (event, None),
    ):
        write(store, 2.0, older_event, older_created)
        assert guarded(market) == [(1.0, event, created)]
    write(store, 3.0, event, created)
    assert guarded(market) == [(3.0, event, created)], "a write of the same age is a correction"
    write(store, 4.0, event, created + timedelta(seconds=1), swapped=True)
    assert guarded(market) == [(4.0, event, created + timedelta(seconds=1))]
    write(store, None, event + timedelta(hours=1), None)
    assert guarded(market) == [(None, event + timedelta(hours=1), None)]
    write(store, 5.0, event + timedelta(hours=1), created)
    assert guarded(market) == [(5.0, event + timedelta(hours=1), created)]


def test_naive_times_are_utc_whatever_the_zone_of_the_database(market: Repo, store: FeatureStore) -> None:
    with market.connect() as connection:
        statement = sql.SQL("ALTER DATABASE {} SET timezone = 'Asia/Kolkata'")
        connection.execute(statement.format(sql.Identifier(connection.info.dbname)))
    write(store, 1.0, NOON.replace(tzinfo=None), NOON.replace(tzinfo=None))
    assert guarded(market) == [(1.0, NOON, NOON)]
    write(store, 2.0, (NOON + timedelta(minutes=1)).astimezone(), None)
    assert guarded(market) == [(2.0, NOON + timedelta(minutes=1), None)]


def test_one_batch_may_hold_an_entity_twice_and_rows_of_different_features(market: Repo, store: FeatureStore) -> None:
    view, seen = store.get_feature_view(VIEW), []
    rows = [
        (entity_key("GUARD"), {"rsi_14": Value(double_val=2.0)}, NOON, None),
        (entity_key("GUARD"), {"rsi_14": Value(double_val=1.0)}, NOON - timedelta(hours=1), None),
        (entity_key("GUARD"), {"atr": Value(double_val=7.0)}, NOON, None),
    ]
    store._get_provider().online_write_batch(store.config, view, rows, seen.append)
    assert market.rows(f"SELECT rsi_14, atr, event_timestamp FROM {ONLINE}") == [(2.0, 7.0, NOON)]
    assert sum(seen) == 3


def test_pushed_rows_are_read_by_both(market: Repo, store: FeatureStore) -> None:
    frame = pd.DataFrame(
        {"symbol": ["PUSHED"], "timeframe": ["1h"], "event_timestamp": [NOON], "created_timestamp": [NOON]}
        | {name: [float(index)] for index, name in enumerate(FEATURES)}
    )
    store.write_to_online_store(VIEW, frame)
    ours = read_by_featurectl(market, ids=("PUSHED_1h",))
    assert read_by_feast(store, ids=("PUSHED_1h",)) == ours
    assert ours["PUSHED_1h"]["ema_20"] == (2.0, "PRESENT", NOON)


def test_the_store_recovers_from_a_lost_connection(market: Repo, store: FeatureStore) -> None:
    market.ok("materialize")
    before = read_by_feast(store)
    for _ in range(2):
        assert end_other_sessions(market) >= 1
        assert read_by_feast(store) == before
    assert end_other_sessions(market) >= 1
    write(store, 1.0, NOON, None)
    assert guarded(market) == [(1.0, NOON, None)]


def test_a_server_that_stays_away_is_said_to_be_away(market: Repo, store: FeatureStore, server: str) -> None:
    read_by_feast(store)
    freeze(server, market.rows("SELECT current_database()")[0][0])
    for _ in range(2):
        with pytest.raises(DatabaseUnreachable, match="not currently accepting connections"):
            read_by_feast(store, ids=("BTCUSDT_1h",))


def end_other_sessions(repo: Repo) -> int:
    others = "datname = current_database() AND pid <> pg_backend_pid()"
    return int(repo.rows(f"SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE {others}")[0][0])


# --- training sets ---------------------------------------------------------------------------------------------------


def spine() -> pd.DataFrame:
    """Out of order, repeated, with null keys, an unknown symbol, instants between bars, and a column of its own."""
    hour = timedelta(hours=1)
    rows = [
        ("BTCUSDT", "1h", NOON, 1),
        ("OLDUSDT", "1h", NOON - 26 * hour, 2),
        ("BTCUSDT", "1h", NOON - 20 * hour + timedelta(minutes=59), 3),
        ("BTCUSDT", "1h", NOON, 4),
        ("BTCUSDT", "1h", NOON, 1),
        (None, "1h", NOON, 5),
        ("NOSUCH", "1h", NOON, 6),
        ("NEWUSDT", "1h", NOON + hour, 7),
        ("NEWUSDT", "1h", NOON + hour + timedelta(microseconds=1), 8),
        ("ETHUSDT", "4h", NOON - 4 * hour, 9),
        ("BTCUSDT", "1h", datetime(2023, 1, 1, tzinfo=UTC), 10),
    ]
    return pd.DataFrame(rows, columns=["symbol", "timeframe", "event_timestamp", "label"])


def offline_by_featurectl(repo: Repo, frame: pd.DataFrame, *words: str) -> list[dict[str, Any]]:
    frame.to_parquet(repo.root / "spine.parquet")
    repo.ok("get-offline", "--spine", "spine.parquet", *words, "-o", "set.parquet")
    return pq.read_table(repo.root / "set.parquet").to_pylist()


def test_both_build_the_same_training_set(market: Repo, store: FeatureStore) -> None:
    """The spine's rows stay all there, in their order; a value serves from its event time to the end of its TTL."""
    frame = spine()
    ours = offline_by_featurectl(market, frame, "--service", SERVICE)
    theirs = store.get_historical_features(frame, REFERENCES).to_arrow().to_pylist()
    assert theirs == ours
    assert [row["label"] for row in theirs] == frame["label"].to_list()
    by_label = {row["label"]: row for row in theirs}
    newest = market.rows(
        "SELECT rsi_14 FROM features.technical_indicators WHERE symbol = 'BTCUSDT' AND event_timestamp = %s", NOON
    )
    assert [by_label[1]["rsi_14"]] == [by_label[4]["rsi_14"]] == [newest[0][0]]
    assert by_label[7]["rsi_14"] is not None
    assert [by_label[label]["rsi_14"] for label in (5, 6, 8, 10)] == [None] * 4


def test_services_full_names_and_frames_hold_the_same_training_set(market: Repo, store: FeatureStore) -> None:
    frame = spine()
    ours = offline_by_featurectl(market, frame, "--service", SERVICE)
    service = store.get_feature_service(SERVICE)
    assert store.get_historical_features(frame, service).to_arrow().to_pylist() == ours
    full = store.get_historical_features(frame, service, full_feature_names=True).to_arrow().to_pylist()
    assert full == [{f"{VIEW}__{k}" if k in FEATURES else k: value for k, value in row.items()} for row in ours]
    as_frame = store.get_historical_features(frame, service).to_df()
    assert as_frame.astype(object).where(as_frame.notna(), None).to_dict("records") == [
        {**row, "event_timestamp": pd.Timestamp(row["event_timestamp"])} for row in ours
    ]


@pytest.mark.parametrize(
    "change",
    [
        lambda frame: frame.assign(event_timestamp=frame["event_timestamp"].dt.tz_localize(None)),
        lambda frame: frame.assign(event_timestamp=frame["event_timestamp"].dt.tz_convert("Asia/Tokyo")),
        lambda frame: frame.astype({"symbol": "string", "timeframe": "category"}),
        lambda frame: frame.set_index(pd.Index([3] * len(frame), name="repeated")),
    ],
    ids=["naive times", "another zone", "other string types", "an index with repeats"],
)
def test_a_spine_may_be_spelled_otherwise(
    market: Repo, store: FeatureStore, change: Callable[[pd.DataFrame], pd.DataFrame]
) -> None:
    plain = store.get_historical_features(spine(), REFERENCES[:2]).to_arrow().to_pylist()
    assert store.get_historical_features(change(spine()), REFERENCES[:2]).to_arrow().to_pylist() == plain


def test_a_spine_may_be_a_query(market: Repo, store: FeatureStore) -> None:
    statement = "SELECT symbol, timeframe, event_timestamp FROM features.technical_indicators WHERE symbol = 'BTCUSDT'"
    rows = store.get_historical_features(statement, REFERENCES[:1]).to_arrow().to_pylist()
    wanted = market.rows(
        "SELECT event_timestamp, rsi_14 FROM features.technical_indicators WHERE symbol = 'BTCUSDT' ORDER BY 1"
    )
    assert [(row["event_timestamp"], row["rsi_14"]) for row in rows] == wanted


@pytest.mark.parametrize("ending", ["", ";", " ;\n", "\n-- the end"])
def test_a_query_may_end_as_it_likes(store: FeatureStore, ending: str) -> None:
    statement = f"SELECT 'BTCUSDT' AS symbol, '1h' AS timeframe, timestamptz '{NOON}' AS event_timestamp{ending}"
    assert store.get_historical_features(statement, REFERENCES[:1]).to_arrow().column("rsi_14").to_pylist() != [None]


def test_a_query_that_fails_says_why_in_the_servers_words(store: FeatureStore) -> None:
    with pytest.raises(SchemaMissing, match=r'^relation "nosuch" does not exist; '):
        store.get_historical_features("SELECT * FROM nosuch", REFERENCES[:1])


def test_without_entities_every_row_of_the_window_is_a_row(market: Repo, store: FeatureStore) -> None:
    start = NOON - timedelta(hours=8)
    job = store.get_historical_features(None, REFERENCES[:2], start_date=start, end_date=NOON)
    wanted = market.rows(
        "SELECT event_timestamp, created_timestamp, symbol, timeframe, rsi_14, macd "
        "FROM features.technical_indicators WHERE event_timestamp BETWEEN %s AND %s ORDER BY 1, 3, 4",
        start,
        NOON,
    )
    rows = [tuple(row.values()) for row in job.to_arrow().to_pylist()]
    assert [row[0] for row in rows] == sorted(row[0] for row in rows)
    assert sorted(rows, key=lambda row: (row[0], *row[2:4])) == wanted


def test_an_empty_spine_gives_an_empty_set(market: Repo, store: FeatureStore) -> None:
    job = store.get_historical_features(spine().head(0), REFERENCES[:2])
    assert job.to_arrow().num_rows == 0
    assert job.to_arrow().column_names == ["symbol", "timeframe", "event_timestamp", "label", "rsi_14", "macd"]


def test_pulling_latest_and_all_keeps_to_the_window(market: Repo, store: FeatureStore) -> None:
    view = store.get_feature_view(VIEW)
    offline = store._get_provider().offline_store
    times = ("event_timestamp", "created_timestamp")
    arguments = (store.config, view.batch_source, ["symbol", "timeframe"], ["rsi_14"], *times)
    start, end = NOON - timedelta(hours=3), NOON - timedelta(hours=1)
    latest = offline.pull_latest_from_table_or_query(*arguments, start, end).to_arrow().to_pylist()
    everything = offline.pull_all_from_table_or_query(*arguments, start, end).to_arrow().to_pylist()
    window = (
        "SELECT symbol, timeframe, rsi_14, event_timestamp, created_timestamp FROM features.technical_indicators "
        "WHERE event_timestamp BETWEEN %s AND %s ORDER BY symbol, timeframe, event_timestamp"
    )
    wanted = market.rows(window, start, end)
    assert sorted((tuple(row.values()) for row in everything), key=lambda row: (row[0], row[3])) == wanted
    newest = {row[:2]: row for row in wanted}
    assert [tuple(row.values()) for row in latest] == list(newest.values())
    assert {row["event_timestamp"] for row in latest} == {end}


@pytest.mark.filterwarnings("ignore:Saving dataset is an experimental feature:RuntimeWarning")
def test_a_dataset_is_saved_and_retrieved(market: Repo, store: FeatureStore) -> None:
    job = store.get_historical_features(spine(), REFERENCES[:2])
    saved = store.create_saved_dataset(job, "labels", SavedDatasetPostgreSQLStorage(table_ref="public.labels"))
    assert saved.to_arrow().num_rows == len(spine())
    assert market.rows("SELECT label, rsi_14 FROM public.labels ORDER BY ctid") == [
        (row["label"], row["rsi_14"]) for row in job.to_arrow().to_pylist()
    ]


# --- one view under two names, and views on demand -------------------------------------------------------------------


def test_one_view_serves_two_entities_under_two_names(market: Repo, store: FeatureStore) -> None:
    market.ok("materialize")
    pair = FeatureService(
        name="pair",
        features=[
            store.get_feature_view(VIEW)[["rsi_14"]].with_name(name).with_join_key_map({"symbol": f"{name}_symbol"})
            for name in ("base", "quote")
        ],
    )
    store.apply([pair])
    row = {"base_symbol": "BTCUSDT", "quote_symbol": "NEWUSDT", "timeframe": "1h"}
    both = read_by_featurectl(market, ids=("BTCUSDT_1h", "NEWUSDT_1h"))
    wanted = {
        "base__rsi_14": both["BTCUSDT_1h"]["rsi_14"][0],
        "quote__rsi_14": both["NEWUSDT_1h"]["rsi_14"][0],
    }
    online = store.get_online_features(pair, [row], full_feature_names=True).to_dict()
    frame = pd.DataFrame([{**row, "event_timestamp": NOON}])
    (offline,) = store.get_historical_features(frame, pair, full_feature_names=True).to_arrow().to_pylist()
    assert {name: online[name][0] for name in wanted} == wanted
    assert {name: offline[name] for name in wanted} == wanted


HALVES = """
import pandas as pd
from feast import Field
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Float64
from feature_repo.technical_indicators import technical_indicators_view


@on_demand_feature_view(sources=[technical_indicators_view], schema=[Field(name="rsi_half", dtype=Float64)])
def halves(inputs: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame({"rsi_half": inputs["rsi_14"] / 2})
"""


@pytest.mark.filterwarnings("ignore:On demand feature view is an experimental feature:RuntimeWarning")
def test_a_view_on_demand_computes_over_our_rows(market: Repo) -> None:
    (market.root / "feature_repo" / "halves.py").write_text(HALVES)
    apply(market.database, now=NOW)
    market.ok("materialize")
    ids = ("BTCUSDT_1h", "OLDUSDT_1h")
    whole = read_by_featurectl(market, "-f", "rsi_14", ids=ids)["BTCUSDT_1h"]["rsi_14"][0]
    with feast_store(market.database) as store:
        answer = store.get_online_features(["halves:rsi_half"], [keys(one) for one in ids]).to_dict()
        assert answer["rsi_half"] == [whole / 2, None]
        frame = pd.DataFrame([{**keys("BTCUSDT_1h"), "event_timestamp": NOON}])
        assert store.get_historical_features(frame, ["halves:rsi_half"]).to_df()["rsi_half"].to_list() == [whole / 2]


# --- apply and plan --------------------------------------------------------------------------------------------------

DEFINITIONS = "feature_repo/technical_indicators.py"


def edit(repo: Repo, before: str, after: str, file: str = DEFINITIONS) -> None:
    path = repo.root / file
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after))


def apply_by_feast(repo: Repo) -> None:
    """What `feast apply` does, without the start of a process."""
    contents = load_definitions(repo.database.config).contents
    with feast_store(repo.database) as store:
        to_apply, to_delete, _, _ = extract_objects_for_apply_delete(store.project, store.registry, contents)
        store.apply(to_apply, objects_to_delete=to_delete, partial=False)


def columns(repo: Repo, table: str = ONLINE) -> list[str]:
    rows = repo.rows(
        "SELECT attname FROM pg_attribute WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped", table
    )
    return [row[0] for row in rows]


def test_after_featurectl_apply_feast_plans_nothing_and_the_other_way_round(repo: Repo) -> None:
    planned = repo.ok("feast", "--", "plan")
    assert "No changes to registry" in planned
    assert "No changes to infrastructure" in planned
    repo.feast("apply")
    done = repo.run("plan", "--detailed-exitcode")
    assert done.returncode == 0
    assert "nothing to change" in done.stderr


def test_feast_apply_extends_an_online_table_and_drops_a_column_that_no_field_names(
    market: Repo, store: FeatureStore
) -> None:
    market.ok("materialize")
    edit(market, 'Field(name="atr"', 'Field(name="added"')
    edit(market, "def atr(", "def added(", "feature_repo/indicators.py")
    apply_by_feast(market)
    assert columns(market)[-2:] == ["volume_sma_ratio", "added"]
    assert "atr" not in columns(market)
    assert len(online_rows(market)) == 4
    assert read_by_feast(store, [f"{VIEW}:rsi_14"])["BTCUSDT_1h"]["rsi_14"][1] == "PRESENT"


def test_a_view_that_is_deleted_takes_its_online_table_along(market: Repo, store: FeatureStore) -> None:
    store.apply([], objects_to_delete=[store.get_feature_service(SERVICE), store.get_feature_view(VIEW)], partial=False)
    assert columns(market) == []
    assert columns(market, "features.technical_indicators"), "history stays"


def test_teardown_drops_the_online_tables_and_keeps_history(market: Repo, store: FeatureStore) -> None:
    store.teardown()
    assert columns(market) == []
    assert market.rows("SELECT count(*) > 0 FROM features.technical_indicators") == [(True,)]
    refused = market.run("get-online", "BTCUSDT_1h")
    assert refused.returncode == 2
    assert "run `featurectl apply`" in refused.stderr


def test_another_table_of_a_source_is_a_change(repo: Repo) -> None:
    """Feast's own comparison forgets ``table=``."""
    edit(repo, 'table="features.technical_indicators"', 'table="features.technical_indicators_2"')
    assert [(one.kind, one.action) for one in plan(repo.database).registry] == [
        ("source", "update"),
        ("view", "update"),
    ]
    apply(repo.database, now=NOW)
    with feast_store(repo.database) as store:
        assert store.get_feature_view(VIEW).batch_source.get_table_query_string() == "features.technical_indicators_2"
        source = store.get_data_source("technical_indicators")
        assert source.get_table_query_string() == "features.technical_indicators_2"
    assert plan(repo.database).changes == 0


# --- configuration ---------------------------------------------------------------------------------------------------


def test_an_unset_url_is_named_in_one_line(repo: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FEATURECTL_DATABASE_URL", raising=False)
    with pytest.raises(UnsetVariable, match=r"FEATURECTL_DATABASE_URL") as caught:
        FeatureStore(repo_path=str(repo.root))
    assert "\n" not in str(caught.value)


# --- types -----------------------------------------------------------------------------------------------------------

EVENT = datetime(2024, 1, 1, tzinfo=UTC)
INFINITY = float("inf")
SAMPLES: dict[str, Any] = {
    "Float64": 0.1 + 0.2,
    "Float32": 0.5,
    "Int64": 2**63 - 1,
    "Int32": -(2**31),
    "String": "naïve ≠ 'quoted' \\ {1,2}",
    "Bool": False,
    "Bytes": b"\x00\xff\\x",
    "UnixTimestamp": datetime(1999, 12, 31, 23, 59, 59, tzinfo=UTC),
    "Array(Float64)": [1e300, -INFINITY, 0.1 + 0.2],
    "Array(Float32)": [0.25, INFINITY],
    "Array(Int64)": [2**63 - 1, 0, -(2**63)],
    "Array(Int32)": [1, -(2**31)],
    "Array(String)": ["", "a,b", 'q"{}'],
    "Array(Bool)": [True, False],
    "Array(Bytes)": [b"", b"\x00\xff"],
    "Array(UnixTimestamp)": [EVENT, datetime(1999, 12, 31, 23, 59, 59, tzinfo=UTC)],
}
EVERY_TYPE = """
from datetime import timedelta
from feast import Entity, FeatureView, Field, ValueType
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import PostgreSQLSource
from feast.types import Array, Bool, Bytes, Float32, Float64, Int32, Int64, String, UnixTimestamp

code = Entity(name="code", join_keys=["code"], value_type=ValueType.INT64)
name = Entity(name="name", join_keys=["name"], value_type=ValueType.STRING)
every_type = FeatureView(
    name="every_type",
    entities=[name, code],
    ttl=timedelta(0),
    schema=[
FIELDS
    ],
    source=PostgreSQLSource(name="every_type", table="public.every_type", timestamp_field="event_timestamp"),
)
"""


def field_name(kind: str) -> str:
    return kind.lower().replace("(", "_").rstrip(")")


@pytest.fixture
def typed(repo: Repo) -> Repo:
    """A view with a field of every type: entity 1 has values, 2 nulls, 3 empty arrays and NaN."""
    declared = ", ".join(f"{field_name(kind)} {column_type(kind, owner='a sample')}" for kind in SAMPLES)
    empty = {"Float64": float("nan"), "Float32": float("nan"), "String": "", "Bytes": b""}
    rows = [
        list(SAMPLES.values()),
        [None for _ in SAMPLES],
        [[] if "Array" in kind else empty.get(kind) for kind in SAMPLES],
    ]
    with repo.connect() as connection:
        statement = f"CREATE TABLE public.every_type (name text, code bigint, event_timestamp timestamptz, {declared})"
        connection.execute(statement.encode())
        values = ", ".join(["%s"] * (3 + len(SAMPLES)))
        insert = f"INSERT INTO public.every_type VALUES ({values})".encode()
        for code, row in enumerate(rows, start=1):
            connection.execute(insert, ["a", code, EVENT, *row])
    fields = [f'        Field(name="{field_name(kind)}", dtype={kind}),' for kind in SAMPLES]
    (repo.root / "feature_repo" / "every_type.py").write_text(EVERY_TYPE.replace("FIELDS", "\n".join(fields)))
    apply(repo.database, now=EVENT)
    return repo


TYPED_KEYS = [{"name": "a", "code": 1}, {"name": "a", "code": 2}, {"name": "a", "code": 3}]
TYPED = [f"every_type:{field_name(kind)}" for kind in SAMPLES]


def typed_rows(repo: Repo, table: str) -> list[str]:
    """Return the rows as PostgreSQL writes them: equal text is equal to the last bit. NaN is Feast's null."""
    nan_is_null = {"Float64": "nullif({}, 'NaN')", "Float32": "nullif({}, 'NaN')"}
    names = ", ".join(nan_is_null.get(kind, "{}").format(field_name(kind)) for kind in SAMPLES)
    statement = f"SELECT ROW(name, code, event_timestamp, {names})::text FROM {table} ORDER BY name, code"
    return [row[0] for row in repo.rows(statement)]


def test_every_type_keeps_its_value_online_whoever_materializes(typed: Repo) -> None:
    online = "online.market__every_type"
    with feast_store(typed.database) as store:
        typed.ok("materialize", "--view", "every_type")
        assert typed_rows(typed, online) == typed_rows(typed, "public.every_type")
        after_ours = store.get_online_features(TYPED, TYPED_KEYS).to_dict()
        # Feast's own engine goes through pandas, whose numbers beside nulls are doubles and whose nulls are NaN.
        typed.rows("UPDATE public.every_type SET int64 = 2^53, float64 = 1, float32 = 1 WHERE code <> 2 RETURNING 1")
        typed.rows(f"DELETE FROM {online} RETURNING 1")
        store.materialize(EVENT - timedelta(days=1), EVENT + timedelta(days=1), feature_views=["every_type"])
        assert typed_rows(typed, online) == typed_rows(typed, "public.every_type")
        after_feast = store.get_online_features(TYPED, TYPED_KEYS).to_dict()
    changed = [field_name(kind) for kind in ("Int64", "Float64", "Float32")]
    assert after_feast == after_ours | {name: after_feast[name] for name in changed}
    for kind, wanted in SAMPLES.items():
        first, second, _ = after_ours[field_name(kind)]
        assert first == wanted, kind
        assert second is None, kind
    third = {kind: after_ours[field_name(kind)][2] for kind in SAMPLES}
    assert [value for kind, value in third.items() if "Array" in kind] == [[]] * 8
    assert third["String"] == ""
    assert third["Float64"] is None, "NaN is Feast's null"


def test_every_type_keeps_its_value_in_a_training_set(typed: Repo) -> None:
    frame = pd.DataFrame([{**one, "event_timestamp": EVENT} for one in TYPED_KEYS])
    with feast_store(typed.database) as store:
        theirs = store.get_historical_features(frame, TYPED).to_arrow().to_pylist()
    features = [f"every_type:{field_name(kind)}" for kind in SAMPLES]
    ours = offline_by_featurectl(typed, frame, *(word for name in features for word in ("-f", name)))
    for kind, wanted in SAMPLES.items():
        name = field_name(kind)
        assert [theirs[0][name], theirs[1][name]] == [wanted, None], kind
        assert repr([row[name] for row in ours]) == repr([row[name] for row in theirs]), kind
