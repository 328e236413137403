"""From bars to an answer through the manager: compute, materialize, services; the same as the commands say."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import numpy as np
import pytest

from featurectl.errors import InvalidTime, LockHeld, NotFound, PartlyDone, SchemaMissing, UsageError
from featurectl.manager import FeastFeatureStoreManager
from tests.fix_repository import Repo
from tests.market import FEATURES, HOUR, START, Market, named, put, random_bars

NOW = START + 200 * HOUR
SERVICES = [
    "comprehensive_training_service",
    "market_analysis_service",
    "sentiment_service",
    "technical_indicators_service",
]
TECHNICAL = "technical_indicators_view"


def on(repo: Repo, work: Callable[[FeastFeatureStoreManager], Awaitable[Any]]) -> Any:
    async def main() -> Any:
        async with FeastFeatureStoreManager(repo.root, database_url=repo.url, clock=lambda: NOW) as manager:
            return await work(manager)

    return asyncio.run(main())


@pytest.fixture
def ingested(market: Market) -> Market:
    """A market of two symbols' bars and scores, of which nothing is computed."""
    random = np.random.default_rng(11)
    market.ingest(random_bars(random, 200), named(random_bars(random, 180), "ETHUSDT"), now=NOW)
    scores = [
        {"symbol": "BTCUSDT", "name": "news_sentiment", "time": NOW - hours * HOUR, "score": hours / 10}
        for hours in range(3)
    ]
    put(market.connection, "signals", scores)
    return market


def records(frame: Any) -> list[dict[str, Any]]:
    return [dict(row) for row in frame.to_dict("records")]


# --- compute and materialize -----------------------------------------------------------------------------------------


def test_compute_and_materialize_return_what_the_commands_do(ingested: Market) -> None:
    repo, at = ingested.repo, {"FEATURECTL_NOW": NOW.isoformat()}

    async def main(manager: FeastFeatureStoreManager) -> None:
        done = await manager.compute_features(symbols=["BTCUSDT"], feature_names=None)
        assert {"view", "entity_id", "rows", "stale_rows", "inserted", "changed"} == set(done.columns)
        technical = done[done["view"] == TECHNICAL]
        assert technical["entity_id"].tolist() == ["BTCUSDT_1h"]
        assert technical["inserted"].tolist() == [200]
        assert done.attrs == {"window": {"start": None, "end": None}}
        again = await manager.compute_features(["BTCUSDT"], ["1h"], NOW - 9 * HOUR, "now", True, ["rsi_14"])
        assert again["stale_rows"].tolist() == [10] and again["changed"].tolist() == [0]
        assert again.attrs["window"]["end"] == "2024-01-09T08:00:00Z"

        told = json.loads(repo.ok("compute", "--json", env=at))["series"]
        assert [one["inserted"] for one in told if one["view"] == TECHNICAL] == [0, 180]
        assert records(await manager.compute_features()) == [
            {**one, "stale_rows": 0, "inserted": 0, "changed": 0} for one in told
        ]

        frame = await manager.materialize()
        assert frame.attrs == {"window": {"start": None, "end": "2024-01-09T08:00:00Z"}, "incremental": True}
        by_view = {one["view"]: one for one in records(frame)}
        assert by_view[TECHNICAL] == {"view": TECHNICAL, "entities": 2, "written": 2, "unchanged": 0, "older": 0}
        told = json.loads(repo.ok("materialize", "--view", TECHNICAL, "--json", env=at))["views"]
        assert told == [{"view": TECHNICAL, "entities": 2, "written": 0, "unchanged": 2, "older": 0}]
        assert records(await manager.materialize(views=[TECHNICAL])) == told
        early = await manager.materialize("-30h", NOW - 25 * HOUR, [TECHNICAL])
        assert records(early) == [{**told[0], "unchanged": 0, "older": 2}]
        assert early.attrs["incremental"] is False

        # What was computed and materialized is what is answered, online and offline.
        online = await manager.get_online_features(["BTCUSDT_1h"], list(FEATURES))
        offline = await manager.get_offline_features(["BTCUSDT_1h"], list(FEATURES), start_date=NOW, end_date=NOW)
        assert records(online) == records(offline)
        assert online["rsi_14"].notna().all()

    on(repo, main)


def test_work_that_can_not_be_done_says_why(ingested: Market) -> None:
    async def main(manager: FeastFeatureStoreManager) -> None:
        cases: list[tuple[Callable[..., Awaitable[Any]], dict[str, Any], type[Exception], str]] = [
            (manager.compute_features, {"symbols": "BTCUSDT"}, UsageError, "symbols is a list of names, not the text"),
            (manager.compute_features, {"symbols": ["NO"]}, NotFound, "symbol 'NO' not found; symbols: BTCUSDT"),
            (manager.compute_features, {"timeframes": ["7h"]}, NotFound, "timeframe '7h' not found"),
            (manager.compute_features, {"feature_names": ["x"]}, NotFound, "computed feature 'x' not found"),
            (manager.compute_features, {"start": NOW, "end": START}, InvalidTime, "starts .* after it ends"),
            (manager.compute_features, {"start": NOW.replace(tzinfo=None)}, InvalidTime, "start is .* no time zone"),
            (manager.materialize, {"views": ["no_view"]}, NotFound, "view 'no_view' not found; views: "),
            (manager.materialize, {"views": ["comprehensive_features_view"]}, UsageError, "is for training only"),
            (manager.materialize, {"end": NOW + HOUR}, UsageError, "the window ends in the future"),
            (manager.materialize, {"end": "tomorrow"}, InvalidTime, "'tomorrow' is not a time"),
        ]
        for work, words, kind, message in cases:
            with pytest.raises(kind, match=message):
                await work(**words)

    on(ingested.repo, main)


def test_a_view_that_fails_leaves_the_others_done(ingested: Market) -> None:
    ingested.compute(now=NOW)
    ingested.connection.execute("ALTER TABLE online.market__sentiment_features_view RENAME TO gone")

    async def main(manager: FeastFeatureStoreManager) -> None:
        with pytest.raises(PartlyDone, match="2 of 3 views done: view 'sentiment_features_view' has no online table"):
            await manager.materialize()
        with pytest.raises(SchemaMissing, match=r"has no online table .*; run `featurectl apply`"):
            await manager.materialize(views=["sentiment_features_view"])
        assert (await manager.get_online_features_rows(["BTCUSDT_1h"], ["rsi_14"])).source == "online"

    on(ingested.repo, main)


def test_work_under_way_elsewhere_is_named(ingested: Market) -> None:
    async def main(manager: FeastFeatureStoreManager) -> None:
        with ingested.repo.connect() as other:
            other.execute(
                "SELECT pg_advisory_lock(hashtextextended(%s, 0))", (f"featurectl:materialize market.{TECHNICAL}",)
            )
            with pytest.raises(LockHeld, match="locked by another session"):
                await manager.materialize(views=[TECHNICAL])

    on(ingested.repo, main)


@pytest.mark.parametrize(
    ("version", "message"), [(1, "needs .*; run `featurectl apply`"), (9999, "upgrade featurectl")]
)
def test_a_schema_of_another_version_is_read_and_not_written_to(market: Market, version: int, message: str) -> None:
    if version == 1:
        market.connection.execute("DELETE FROM featurectl.migrations WHERE version > 1")
    else:
        market.connection.execute("INSERT INTO featurectl.migrations VALUES (9999, 'later')")

    async def main(manager: FeastFeatureStoreManager) -> None:
        for work in (manager.compute_features, manager.materialize):
            with pytest.raises(SchemaMissing, match=message):
                await work()
        frame = await manager.get_offline_features(["A_1h"], ["rsi_14"], start_date="-1h", end_date="now")
        assert any("9999" in note for note in frame.attrs["notes"]) is (version == 9999)

    on(market.repo, main)


# --- services --------------------------------------------------------------------------------------------------------


def test_services_say_what_they_hold_and_since_when_it_is_online(ingested: Market) -> None:
    ingested.compute(now=NOW)

    async def main(manager: FeastFeatureStoreManager) -> None:
        infos = await manager.list_feature_services()
        assert [one["name"] for one in infos] == SERVICES
        assert json.loads(json.dumps(infos)) == infos
        info = await manager.get_feature_service_info("technical_indicators_service")
        assert info == infos[-1]
        assert info["tags"] == {"category": "trading", "latency": "real_time"}
        assert info["description"]
        assert info["join_keys"] == ["symbol", "timeframe"]
        assert [one["name"] for one in info["features"]] == list(FEATURES)
        assert all(one["description"] for one in info["features"])
        assert info["features"][0]["view"] == TECHNICAL
        assert (info["features"][0]["value_type"], info["features"][0]["ttl_seconds"]) == ("Float64", 3600)
        view = {"name": TECHNICAL, "join_keys": ["symbol", "timeframe"], "ttl_seconds": 3600, "online": True}
        assert info["views"] == [{**view, "materialized_at": None}]
        await manager.materialize(end=NOW - timedelta(hours=1), views=[TECHNICAL])
        info = await manager.get_feature_service_info("technical_indicators_service")
        assert info["views"] == [{**view, "materialized_at": "2024-01-09T08:00:00Z"}]
        training = await manager.get_feature_service_info("comprehensive_training_service")
        assert [one["online"] for one in training["views"]] == [False]
        with pytest.raises(NotFound, match=f"service 'no' not found; services: {', '.join(SERVICES)}"):
            await manager.get_feature_service_info("no")

    on(ingested.repo, main)


def test_a_service_is_answered_online_and_offline_in_its_own_order(ingested: Market) -> None:
    ingested.compute(now=NOW)

    async def main(manager: FeastFeatureStoreManager) -> None:
        await manager.materialize()
        for name in ("technical_indicators_service", "sentiment_service"):
            names = [one["name"] for one in (await manager.get_feature_service_info(name))["features"]]
            online = await manager.get_online_features(["BTCUSDT_1h"], feature_service_name=name)
            assert list(online.columns[4:]) == names
            window = {"start_date": "-2h", "end_date": "now"}
            offline = await manager.get_offline_features(["BTCUSDT_1h"], feature_service_name=name, **window)
            assert list(offline.columns[4:]) == names
            assert len(offline) > 0

    on(ingested.repo, main)
