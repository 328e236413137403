"""TimescaleOnlineStore held to Feast's contract, method by method."""

from __future__ import annotations

import asyncio
import functools
import os
import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import psycopg
import pytest
from feast import FeatureService, FeatureStore, Field
from feast.feature_view import FeatureViewState
from feast.infra.infra_object import InfraObject
from feast.infra.online_stores.online_store import OnlineStore
from feast.labeling.label_view import LabelView
from feast.on_demand_feature_view import on_demand_feature_view
from feast.online_response import OnlineResponse
from feast.protos.feast.serving.ServingService_pb2 import FieldStatus
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import RepeatedValue, Value
from feast.repo_contents import RepoContents
from feast.types import Array, Bool, Float32, Float64, Int64, Json, Map, String, UnixTimestamp

from featurectl.core import embedded, schema
from featurectl.core.queries import load
from featurectl.errors import DatabaseUnreachable, DefinitionError, NotFound, SchemaMissing
from tests.fix_online_store import (
    CITY,
    DRIVER,
    NOON,
    PROJECT,
    GenericStore,
    Shop,
    feature_view,
    hourly,
    key,
    open_shop,
    price,
    protos,
)
from tests.preloaded import process

HOUR = timedelta(hours=1)
LATER = NOON + HOUR
TABLE = f"online.{PROJECT}__hourly"
PRICE, SIZE = "hourly:price", "hourly:size"


@pytest.fixture
def shop(clone: Callable[[str | None], str], tmp_path: Path) -> Iterator[Shop]:
    """A store over an empty database."""
    with open_shop(clone(None), tmp_path) as opened:
        yield opened


@pytest.fixture
def stocked(shop: Shop) -> Shop:
    """A store with the view ``hourly``, applied and empty."""
    shop.apply(hourly())
    return shop


def prices(shop: Shop) -> list[tuple[Any, ...]]:
    return shop.rows(f"SELECT driver_id, price, event_timestamp FROM {TABLE} ORDER BY driver_id")


def row_of(driver: int) -> dict[str, int]:
    return {"driver_id": driver}


# --- online_write_batch: what the row holds afterwards ---------------------------------------------------------------


class TestOnlineWriteBatch:
    MINUTE = timedelta(minutes=1)

    @pytest.mark.parametrize("instant", [NOON, NOON.replace(tzinfo=None)], ids=["aware", "naive"])
    def test_a_row_is_there_with_its_times_in_utc(self, stocked: Shop, instant: datetime) -> None:
        seen: list[int] = []
        view = stocked.view("hourly")
        rows = [price(1, 1.5, instant, instant, size=Value(int64_val=3)), price(2, None, instant)]
        stocked.online.online_write_batch(stocked.config, view, rows, seen.append)
        stored = stocked.rows(f"SELECT * FROM {TABLE} ORDER BY driver_id")
        assert stored == [(1, NOON, NOON, 1.5, 3), (2, NOON, None, None, None)]
        assert sum(seen) == 2

    def test_an_empty_batch_is_nothing(self, stocked: Shop) -> None:
        stocked.write("hourly")
        assert prices(stocked) == []

    @pytest.mark.parametrize(
        ("event", "created", "wins"),
        [
            (-HOUR, 10 * HOUR, False),
            (HOUR, None, True),
            (timedelta(0), -MINUTE, False),
            (timedelta(0), None, False),
            (timedelta(0), timedelta(0), True),
            (timedelta(0), MINUTE, True),
            (timedelta(microseconds=1), -MINUTE, True),
        ],
        ids=["old", "new", "older write", "write without a time", "same age", "newer write", "a microsecond newer"],
    )
    @pytest.mark.parametrize("force", [False, True], ids=["guarded", "force"])
    def test_the_newer_event_wins_and_of_equal_events_the_newer_write(
        self, clone: Any, tmp_path: Path, event: timedelta, created: timedelta | None, wins: bool, force: bool
    ) -> None:
        with open_shop(clone(None), tmp_path, force=force) as shop:
            shop.apply(hourly())
            shop.write("hourly", price(1, 1.0, NOON, NOON))
            shop.write("hourly", price(1, 2.0, NOON + event, None if created is None else NOON + created))
            first, second = (1, 1.0, NOON), (1, 2.0, NOON + event)
            assert prices(shop) == [second if wins or force else first]

    def test_a_row_written_without_a_time_gives_way_to_any_of_its_event(self, stocked: Shop) -> None:
        stocked.write("hourly", price(1, 1.0, NOON, None))
        stocked.write("hourly", price(1, 2.0, NOON, NOON - 1000 * HOUR))
        assert prices(stocked) == [(1, 2.0, NOON)]

    @pytest.mark.parametrize("seed", range(3))
    def test_of_one_batch_the_newest_row_of_each_entity_stays(self, stocked: Shop, seed: int) -> None:
        """The later event, then the later write (none is the oldest), then the later position."""
        draw = random.Random(seed)
        rows = [
            price(
                draw.randrange(10),
                float(index),
                NOON + draw.randrange(3) * HOUR,
                draw.choice([None, NOON, LATER]),
            )
            for index in range(200)
        ]
        stocked.write("hourly", *rows)
        newest: dict[int, Any] = {}
        for entity, values, event, created in rows:
            age = (event, created or datetime.min.replace(tzinfo=UTC))
            driver = entity.entity_values[0].int64_val
            if driver not in newest or age >= newest[driver][0]:
                newest[driver] = (age, values["price"].double_val, event)
        assert prices(stocked) == [(driver, *newest[driver][1:]) for driver in sorted(newest)]

    def test_a_time_that_pandas_calls_none_is_none(self, stocked: Shop) -> None:
        stocked.write("hourly", price(1, 1.0, NOON, pd.NaT))
        assert stocked.rows(f"SELECT created_timestamp FROM {TABLE}") == [(None,)]
        with pytest.raises(DefinitionError, match="a row has no event time"):
            stocked.write("hourly", price(1, 1.0, pd.NaT))

    def test_writers_of_several_choices_of_features_do_not_deadlock(self, stocked: Shop) -> None:
        low, high = range(1500), range(1500, 3000)

        def batch(first: range, second: range) -> list[Any]:
            sizes = [(key(one), {"size": Value(int64_val=one)}, NOON, None) for one in second]
            return [*(price(one, 1.0) for one in first), *sizes]

        with ThreadPoolExecutor(2) as threads:
            for done in [
                threads.submit(stocked.write, "hourly", *batch(*order)) for order in ((low, high), (high, low)) * 5
            ]:
                done.result()
        assert stocked.rows(f"SELECT count(*) FROM {TABLE} WHERE price = 1 AND size = driver_id") == [(3000,)]

    def test_a_name_with_a_percent_sign_is_refused_when_it_is_applied(self, shop: Shop) -> None:
        with pytest.raises(DefinitionError, match="'ret_5%': a name may not hold a %"):
            shop.apply(feature_view("returns", {"ret_5%": Float64}))

    def test_only_the_features_given_are_written(self, stocked: Shop) -> None:
        size = Value(int64_val=7)
        stocked.write("hourly", price(1, 1.0, size=size), (key(2), {"size": size}, NOON, None))
        stocked.write("hourly", (key(1), {"size": Value(int64_val=8)}, NOON, None), price(2, 2.0))
        assert stocked.rows(f"SELECT driver_id, price, size FROM {TABLE} ORDER BY 1") == [(1, 1.0, 8), (2, 2.0, 7)]

    def test_a_batch_of_several_choices_of_features_is_one_transaction(self, stocked: Shop) -> None:
        bad = {"size": Value(int64_val=1), "price": Value(string_val="dear")}
        with pytest.raises(DefinitionError, match="feature 'price': the value 'dear'"):
            stocked.write("hourly", price(1, 1.0), (key(2), bad, NOON, None))
        assert prices(stocked) == []

    def test_numbers_of_another_type_are_taken_where_they_fit(self, stocked: Shop) -> None:
        stocked.write("hourly", (key(1), {"price": Value(int64_val=2), "size": Value(int32_val=3)}, NOON, None))
        assert stocked.rows(f"SELECT price, size FROM {TABLE}") == [(2.0, 3)]

    def test_entity_keys_may_name_their_columns_in_any_order(self, shop: Shop) -> None:
        shop.apply(feature_view("pairs", {"price": Float64}, entities=(DRIVER, CITY)))
        driver, city = Value(int64_val=1), Value(string_val="x")
        for index, (names, values) in enumerate(
            ((["driver_id", "city_id"], [driver, city]), (["city_id", "driver_id"], [city, driver]))
        ):
            entity = EntityKey(join_keys=names, entity_values=values)
            shop.write("pairs", (entity, {"price": Value(double_val=index)}, NOON, None))
            assert shop.read("pairs", [entity])[0][1] == {"price": Value(double_val=index)}
        assert len(shop.rows(f"SELECT 1 FROM online.{PROJECT}__pairs")) == 1

    @pytest.mark.parametrize(
        ("row", "says"),
        [
            ((key(1), {"colour": Value(int64_val=1)}, NOON, None), "no feature 'colour'; features: price, size"),
            (
                (EntityKey(join_keys=["driver_id"], entity_values=[Value()]), {}, NOON, None),
                "key 'driver_id' is null in",
            ),
            ((EntityKey(join_keys=["x"], entity_values=[Value()]), {}, NOON, None), "has keys driver_id; a row has x"),
        ],
        ids=["unknown feature", "null key", "other key"],
    )
    def test_what_does_not_fit_the_view_is_refused(self, stocked: Shop, row: Any, says: str) -> None:
        with pytest.raises(DefinitionError, match=f"view 'hourly'.*{says}"):
            stocked.write("hourly", row)

    def test_a_view_that_was_never_applied_has_no_table(self, stocked: Shop) -> None:
        view = feature_view("unknown", {"price": Float64})
        with pytest.raises(SchemaMissing, match="unknown"):
            stocked.online.online_write_batch(stocked.config, view, [price(1, 1.0)], None)

    def test_views_of_all_kinds_have_tables(self, shop: Shop) -> None:
        """Views of features, labels, without entities, and views on demand that are computed when written."""
        labels = LabelView(name="labels", entities=[DRIVER], schema=[Field(name="label", dtype=String), *keys(DRIVER)])
        everywhere = feature_view("everywhere", {"price": Float64}, entities=())
        base = hourly()
        doubled = on_demand_feature_view(
            sources=[base],
            entities=[DRIVER],
            schema=[Field(name="twice", dtype=Float64), *keys(DRIVER)],
            mode="python",
            write_to_online_store=True,
        )(twice)
        with pytest.warns((RuntimeWarning, UserWarning, FutureWarning, DeprecationWarning)):
            shop.apply(base, labels, everywhere, doubled)
        shop.write("labels", (key(1), {"label": Value(string_val="good")}, NOON, None))
        dummy = EntityKey(join_keys=["__dummy_id"], entity_values=[Value(string_val="")])
        shop.write("everywhere", (dummy, {"price": Value(double_val=9.0)}, NOON, None))
        shop.feast.write_to_online_store("twice", inputs={"driver_id": [1], "price": [4.0]})
        features = ["labels:label", "everywhere:price", "twice:twice"]
        answer = shop.feast.get_online_features(features, [row_of(1), row_of(2)]).to_dict()
        assert answer == {"driver_id": [1, 2], "label": ["good", None], "price": [9.0, 9.0], "twice": [8.0, None]}


def twice(inputs: dict[str, Any]) -> dict[str, Any]:
    return {"twice": [2 * one for one in inputs["price"]]}


def net_of_fee(inputs: dict[str, Any]) -> dict[str, Any]:
    prices = zip(inputs["price"], inputs["fee"], strict=True)
    return {"net_price": [None if price is None else price - fee for price, fee in prices]}


def keys(*entities: Any) -> list[Field]:
    return [Field(name="driver_id", dtype=Int64) for _ in entities]


# --- simultaneous writers --------------------------------------------------------------------------------------------


def write_many(url: str, directory: Path, seed: int) -> None:
    """Write seeded batches that overlap with those of other seeds, in an order of their own."""
    draw = random.Random(seed)
    with open_shop(url, directory) as shop:
        for _ in range(12):
            rows = [many_row(draw) for _ in range(60)]
            shop.write("hourly", *rows)


def many_row(draw: random.Random) -> Any:
    driver, event = draw.randrange(40), draw.randrange(1000)
    return price(driver, float(event), NOON + event * timedelta(seconds=1), NOON)


@pytest.mark.parametrize("kind", ["threads", "processes"])
def test_simultaneous_writers_leave_the_newest_row_of_each_entity(stocked: Shop, tmp_path: Path, kind: str) -> None:
    first = random.randrange(2**32)
    print("seed", first)
    seeds = range(first, first + 4)
    arguments = [(stocked.url, tmp_path, seed) for seed in seeds]
    if kind == "processes":
        writers = [process(write_many, *given) for given in arguments]
    else:
        writers = [threading.Thread(target=write_many, args=given) for given in arguments]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert kind == "threads" or [writer.exitcode for writer in writers] == [0] * 4
    newest: dict[int, float] = {}
    for seed in seeds:
        draw = random.Random(seed)
        for _ in range(12 * 60):
            entity, values, _, _ = many_row(draw)
            driver = entity.entity_values[0].int64_val
            newest[driver] = max(newest.get(driver, -1.0), values["price"].double_val)
    assert [row[:2] for row in prices(stocked)] == sorted(newest.items())


def test_a_write_tells_those_who_cache_its_rows_if_there_are_any(stocked: Shop) -> None:
    """A manager listens, and holds a lock by which writers know that somebody does."""
    with psycopg.connect(stocked.url, autocommit=True) as manager, psycopg.connect(stocked.url, autocommit=True) as end:

        def told() -> list[str]:
            end.execute("NOTIFY featurectl_online, 'the end'")
            payloads: list[str] = []
            for one in manager.notifies(timeout=5):
                if one.payload == "the end":
                    break
                payloads.append(one.payload)
            return payloads

        manager.execute(load("online_cache")["listen"])
        stocked.write("hourly", price(1, 1.0, LATER))
        assert told() == []
        manager.execute(load("online_cache")["be_told"])
        stocked.write("hourly", price(1, 2.0, LATER), price(2, 3.0, LATER))
        assert told() == [TABLE]
        stocked.write("hourly", price(1, 4.0, NOON))  # older than what is there
        assert told() == []
        asyncio.run(
            stocked.online.online_write_batch_async(
                stocked.config, stocked.view("hourly"), [price(1, 5.0, LATER)], None
            )
        )
        assert told() == [TABLE]


def test_a_store_of_many_threads_opens_no_more_than_max_conn(clone: Any, tmp_path: Path) -> None:
    with open_shop(clone(None), tmp_path, max_conn=3) as shop:
        shop.apply(hourly())
        with ThreadPoolExecutor(12) as threads:
            jobs = [threads.submit(shop.write, "hourly", price(index, 1.0 * index)) for index in range(60)]
            reads = [threads.submit(shop.read, "hourly", [key(index)]) for index in range(60)]
            for job in jobs + reads:
                job.result()
        assert len(prices(shop)) == 60
        assert 1 <= shop.sessions() <= 3


def test_an_error_leaves_no_connection_behind(stocked: Shop) -> None:
    stocked.write("hourly", price(1, 1.0))
    stocked.rows(f"ALTER TABLE {TABLE} ADD CHECK (price < 100)")
    for _ in range(20):
        with pytest.raises(Exception, match="violates check constraint"):
            stocked.write("hourly", price(1, 100.0), (key(2), {"size": Value(int64_val=1)}, NOON, None))
    assert stocked.sessions() == 1
    assert prices(stocked) == [(1, 1.0, NOON)]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_opens_connections_of_its_own(stocked: Shop) -> None:
    stocked.write("hourly", price(1, 1.0))
    child = os.fork()
    if child == 0:
        code = 1
        try:
            stocked.write("hourly", price(2, 2.0))
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    stocked.write("hourly", price(3, 3.0))
    assert [row[0] for row in prices(stocked)] == [1, 2, 3]


# --- online_read -----------------------------------------------------------------------------------------------------


class TestOnlineRead:
    def test_rows_come_in_the_order_of_the_keys(self, stocked: Shop) -> None:
        stocked.write("hourly", price(1, 1.0, size=Value(int64_val=1)), price(2, None, NOON + HOUR))
        first = (NOON, {"price": Value(double_val=1.0), "size": Value(int64_val=1)})
        second = (NOON + HOUR, {"price": Value(), "size": Value()})
        found = stocked.read("hourly", [key(2), key(7), key(1), key(2)])
        assert found == [second, (None, None), first, second]

    @pytest.mark.parametrize("features", [None, [], ["size"], ["size", "price"]], ids=str)
    def test_features_may_be_named_or_not(self, stocked: Shop, features: list[str] | None) -> None:
        stocked.write("hourly", price(1, 1.0))
        ((event, values),) = stocked.read("hourly", [key(1)], features)
        assert (event, list(values)) == (NOON, features or ["price", "size"])

    def test_no_keys_no_rows(self, stocked: Shop) -> None:
        assert stocked.read("hourly", []) == []

    def test_a_key_that_postgresql_can_not_hold_is_not_found(self, stocked: Shop, shop: Shop) -> None:
        shop.apply(feature_view("cities", {"people": Int64}, entities=[CITY]))
        answer = shop.feast.get_online_features(["cities:people"], [{"city_id": "lon\0don"}]).to_dict()
        assert answer == {"city_id": ["lon\0don"], "people": [None]}

    def test_null_and_partial_keys_are_not_found(self, shop: Shop) -> None:
        shop.apply(feature_view("pairs", {"price": Float64}, entities=(DRIVER, CITY)))
        null = EntityKey(join_keys=["driver_id", "city_id"], entity_values=[Value(), Value(string_val="x")])
        assert shop.read("pairs", [null, key(1)]) == [(None, None)] * 2

    def test_an_unknown_feature_is_named(self, stocked: Shop) -> None:
        with pytest.raises(NotFound, match="feature 'colour' not found; features: price, size"):
            stocked.read("hourly", [key(1)], ["colour"])

    def test_a_table_made_anew_under_a_prepared_statement_is_read(self, stocked: Shop) -> None:
        stocked.write("hourly", price(1, 1.0))
        for kind, value in (("int", 2), ("bigint", 3), ("int", 4)):
            for _ in range(7):
                stocked.read("hourly", [key(1)])
            stocked.rows(f"ALTER TABLE {TABLE} DROP COLUMN size")
            stocked.rows(f"ALTER TABLE {TABLE} ADD COLUMN size {kind}")
            stocked.rows(f"UPDATE {TABLE} SET size = %s", value)
            ((_, values),) = stocked.read("hourly", [key(1)])
            assert values == {"price": Value(double_val=1.0), "size": Value(int64_val=value)}
            stocked.write("hourly", price(1, 1.0))


# --- get_online_features ---------------------------------------------------------------------------------------------

TTL = timedelta(hours=1)


@pytest.fixture
def priced(shop: Shop) -> Shop:
    """Prices with a TTL of an hour, at noon: young, expired, null, ahead of the clock; and cities without a TTL."""
    sizes = {"size": Int64, "open": Bool, "weight": Float32, "note": String, "doc": Json, "at": UnixTimestamp}
    shop.apply(hourly(ttl=TTL), feature_view("cities", {"people": Int64, "tags": Array(String)}, entities=(CITY,)),
               feature_view("extras", {f"x_{name}": kind for name, kind in sizes.items()}))  # fmt: skip
    shop.online.clock = lambda: NOON
    shop.write(
        "hourly",
        price(1, 1.0, NOON - TTL, size=Value(int64_val=5)),
        price(2, 2.0, NOON - TTL - timedelta(microseconds=1)),
        price(3, None, NOON),
        price(4, 4.0, NOON + timedelta(microseconds=1)),
    )
    london = EntityKey(join_keys=["city_id"], entity_values=[Value(string_val="london")])
    (tags,) = protos(Array(String), [["a", "b"]])
    shop.write("cities", (london, {"people": Value(int64_val=9), "tags": tags}, NOON, None))
    return shop


def statuses(response: OnlineResponse, name: str) -> list[str]:
    index = list(response.proto.metadata.feature_names.val).index(name)
    return [FieldStatus.Name(one) for one in response.proto.results[index].statuses]


class TestGetOnlineFeatures:
    def test_values_statuses_and_times(self, priced: Shop) -> None:
        rows = [row_of(one) for one in (1, 2, 3, 4, 5, 1)]
        response = priced.feast.get_online_features([PRICE], rows)
        seconds = int(NOON.timestamp())
        assert response.to_dict(include_event_timestamps=True) == {
            "driver_id": [1, 2, 3, 4, 5, 1],
            "driver_id__ts": [0] * 6,
            "price": [1.0, None, None, None, None, 1.0],
            "price__ts": [seconds - 3600, seconds - 3601, seconds, 0, 0, seconds - 3600],
        }
        assert statuses(response, "price") == [
            "PRESENT", "OUTSIDE_MAX_AGE", "NULL_VALUE", "NOT_FOUND", "NOT_FOUND", "PRESENT",
        ]  # fmt: skip
        assert statuses(response, "driver_id") == ["PRESENT"] * 6
        assert response.to_df()["price"].isna().tolist() == [False, True, True, True, True, False]
        assert response.to_arrow().column("price").to_pylist() == [1.0, None, None, None, None, 1.0]

    def test_the_answer_is_the_callers_own(self, priced: Shop) -> None:
        response = priced.feast.get_online_features([PRICE], [row_of(1)])
        response.to_dict()["price"].append("mine")
        assert response.to_dict() == {"driver_id": [1], "price": [1.0]}
        assert isinstance(response, OnlineResponse)

    def test_all_views_of_a_service_are_one_statement(self, priced: Shop) -> None:
        features = [priced.view("hourly"), priced.view("cities"), priced.view("extras")]
        service = FeatureService(name="all", features=features)
        priced.feast.apply([service])
        rows = [{"driver_id": 1, "city_id": "london"}, {"driver_id": 3, "city_id": "paris"}]
        priced.feast.get_online_features(service, rows)
        seen: list[bytes] = []
        pool = priced.online._pool
        assert pool is not None
        (connection,) = pool._idle
        execute = connection.execute
        connection.execute = lambda statement, *a, **k: (seen.append(statement), execute(statement, *a, **k))[1]  # type: ignore[method-assign]
        answer = priced.feast.get_online_features(service, rows).to_dict()
        assert len(seen) == 1
        assert (answer["price"], answer["people"], answer["tags"]) == ([1.0, None], [9, None], [["a", "b"], None])

    @pytest.mark.parametrize(
        "rows",
        [
            [{"driver_id": 1}, {"driver_id": 7}],
            {"driver_id": [1, 7]},
            {"driver_id": (1, 7)},
            {"driver_id": RepeatedValue(val=[Value(int64_val=1), Value(int64_val=7)])},
            {"driver_id": [Value(int64_val=1), Value(int64_val=7)]},
            {"driver_id": ["1", "7"]},
            {"driver_id": [1.0, 7.0]},
        ],
        ids=["rows", "columns", "tuples", "repeated value", "values", "texts", "floats"],
    )
    def test_entities_may_be_given_in_many_ways(self, priced: Shop, rows: Any) -> None:
        answer = priced.feast.get_online_features([PRICE], rows).to_dict()
        assert answer == {"driver_id": [1, 7], "price": [1.0, None]}

    def test_a_null_key_is_not_found(self, priced: Shop) -> None:
        response = priced.feast.get_online_features([PRICE], [row_of(1), {"driver_id": None}])
        assert response.to_dict() == {"driver_id": [1, None], "price": [1.0, None]}
        assert statuses(response, "price") == ["PRESENT", "NOT_FOUND"]

    def test_an_entitys_name_in_place_of_its_key_warns(self, priced: Shop) -> None:
        with pytest.warns(UserWarning, match="Using entity name is deprecated"):
            answer = priced.feast.get_online_features([PRICE], [{"driver": 1}]).to_dict()
        assert answer == {"driver_id": [1], "price": [1.0]}

    def test_columns_that_nothing_asks_for_are_left_out(self, priced: Shop) -> None:
        rows = [{"driver_id": 1, "city_id": "x", "colour": object()}]
        answer = priced.feast.get_online_features([PRICE], rows).to_dict()
        assert answer == {"driver_id": [1], "city_id": ["x"], "price": [1.0]}

    @pytest.mark.parametrize(
        ("rows", "error"),
        [
            ([{"driver_id": 1}, {"city_id": "x"}], ValueError),
            ([{"driver_id": 1}, {"driver_id": 1, "city_id": "x"}], ValueError),
            ({"driver_id": [1], "city_id": ["x", "y"]}, ValueError),
            ([{"city_id": "x"}], KeyError),
            ({"driver_id": []}, KeyError),
        ],
        ids=["other columns", "more columns", "other lengths", "no key", "no rows"],
    )
    def test_rows_that_do_not_fit_are_refused(self, priced: Shop, rows: Any, error: type[Exception]) -> None:
        with pytest.raises(error):
            priced.feast.get_online_features([PRICE], rows)

    def test_projections_and_their_join_keys(self, priced: Shop) -> None:
        view = priced.view("hourly")[["price"]]
        sides = [view.with_name(side).with_join_key_map({"driver_id": f"{side}_id"}) for side in ("buyer", "seller")]
        service = FeatureService(name="trade", features=sides)
        priced.feast.apply([service])
        rows = [{"buyer_id": 1, "seller_id": 3}, {"buyer_id": 7, "seller_id": 1}]
        response = priced.feast.get_online_features(service, rows, full_feature_names=True)
        assert response.to_dict() == {
            "buyer_id": [1, 7], "seller_id": [3, 1], "buyer__price": [1.0, None], "seller__price": [None, 1.0],
        }  # fmt: skip

    def test_versions_of_views_are_told_when_asked_for(self, priced: Shop) -> None:
        arguments = ([PRICE, "cities:people"], [{"driver_id": 1, "city_id": "london"}])
        for store in (priced.feast, generic(priced)):
            response = store.get_online_features(*arguments, include_feature_view_version_metadata=True)
            told = response.proto.metadata.feature_view_metadata
            assert sorted((one.name, one.version) for one in told) == [("cities", 0), ("hourly", 0)]

    def test_versions_of_a_view_have_tables_of_their_own(self, stocked: Shop) -> None:
        config, store = stocked.config, stocked.online
        config.registry.enable_online_feature_view_versioning = True
        for number in (1, 2):
            view = stocked.view("hourly")
            view.current_version_number = number
            store.update(config, [], [view], [], [], True)
            assert store.online_read(config, view, [key(1)]) == [(None, None)]
            store.online_write_batch(config, view, [price(1, float(number))], None)
        view.projection.version_tag = 1
        ((_, values),) = store.online_read(config, view, [key(1)], ["price"])
        assert values == {"price": Value(double_val=1.0)}
        store.update(config, [view], [], [], [], False)
        assert stocked.rows("SELECT tablename FROM pg_tables WHERE tablename LIKE '%hourly%'") == []

    def test_a_feature_that_is_a_key_as_well_is_the_key(self, stocked: Shop) -> None:
        view = stocked.view("hourly")
        view.features.append(Field(name="driver_id", dtype=Int64))
        stocked.online.update(stocked.config, [], [view], [], [], True)
        entity, values, event, created = price(1, 2.0)
        row = (entity, {**values, "driver_id": Value(int64_val=1)}, event, created)
        stocked.online.online_write_batch(stocked.config, view, [row], None)
        ((_, read),) = stocked.online.online_read(stocked.config, view, [entity], ["price", "driver_id"])
        assert read == {"price": Value(double_val=2.0), "driver_id": Value(int64_val=1)}

    def test_a_view_that_is_being_materialized_is_served(self, priced: Shop) -> None:
        view = priced.view("hourly")
        view.state = FeatureViewState.MATERIALIZING
        priced.feast.registry.apply_feature_view(view, PROJECT)
        priced.feast.refresh_registry()
        assert priced.feast.get_online_features([PRICE], [row_of(1)]).to_dict()["price"] == [1.0]

    def test_views_on_demand_and_request_data(self, priced: Shop) -> None:
        from feast import RequestSource

        request = RequestSource(name="fee", schema=[Field(name="fee", dtype=Float64)])
        net = on_demand_feature_view(
            sources=[priced.view("hourly"), request], schema=[Field(name="net_price", dtype=Float64)], mode="python"
        )(net_of_fee)
        with pytest.warns((RuntimeWarning, UserWarning)):
            priced.feast.apply([net])
        rows = [{"driver_id": 1, "fee": 0.25}, {"driver_id": 2, "fee": 0.25}]
        response = priced.feast.get_online_features(["net_of_fee:net_price", SIZE], rows)
        assert response.to_dict() == {"driver_id": [1, 2], "size": [5, None], "net_price": [0.75, None]}
        assert statuses(response, "size") == ["PRESENT", "OUTSIDE_MAX_AGE"]

    def test_a_precomputed_service(self, priced: Shop) -> None:
        service = FeatureService(name="quick", features=[priced.view("hourly")[["price"]]], precompute_online=True)
        priced.feast.apply([service])
        with pytest.raises(RuntimeError, match="feast precompute quick"):
            priced.feast.get_online_features(service, [row_of(1)])
        from feast.protos.feast.core.PrecomputedFeatureVector_pb2 import PrecomputedFeatureVector

        vector = PrecomputedFeatureVector(feature_names=["price"], values=[Value(double_val=8.0)])
        for _ in range(2):
            priced.online.write_precomputed_vector(priced.config, "quick", PROJECT, key(1), vector.SerializeToString())
        assert priced.feast.get_online_features(service, [row_of(1)]).to_dict() == {"driver_id": [1], "price": [8.0]}

    def test_more_columns_than_one_statement_may_select(self, shop: Shop) -> None:
        wide = [feature_view(f"wide{index}", {f"w{index}_{one}": Int64 for one in range(600)}) for index in range(3)]
        shop.apply(*wide)
        for view in wide:
            values = {feature.name: Value(int64_val=int(feature.name.split("_")[1])) for feature in view.features}
            shop.write(view.name, (key(1), values, NOON, None))
        features = [f"{view.name}:{feature.name}" for view in wide for feature in view.features]
        answer = shop.feast.get_online_features(features, [row_of(1)]).to_dict()
        assert [answer[f"w{index}_599"] for index in range(3)] == [[599]] * 3
        assert len(answer) == 1801

    @pytest.mark.parametrize("seed", range(8))
    def test_the_fast_path_and_feasts_own_answer_the_same(self, shop: Shop, seed: int) -> None:
        """Views, types, rows, keys and features drawn at random: names, values, times and statuses are equal."""
        draw = random.Random(seed)
        kinds = {"a": Float64, "b": Int64, "c": String, "d": Array(Float64), "e": Map, "f": UnixTimestamp, "g": Float32}
        views = []
        for index, entities in enumerate([(DRIVER,), (CITY,), (DRIVER, CITY), ()]):
            names = draw.sample(list(kinds), 4)
            columns = {f"{name}{index}": kinds[name] for name in names}
            views.append(feature_view(f"v{index}", columns, entities=entities))
        shop.apply(*views)
        samples = {
            "a": [1.5, float("nan"), None], "b": [2**62, None], "c": ["", "x"], "d": [[], [1.0], None],
            "e": [{"k": 1}, None], "f": [NOON, None], "g": [0.5],
        }  # fmt: skip
        for view in views:
            names = [entity for entity in view.entities if entity != "__dummy"] or ["__dummy"]
            for _ in range(30):
                entity = {
                    "driver": Value(int64_val=draw.randrange(8)),
                    "city": Value(string_val=f"c{draw.randrange(4)}"),
                }
                joins = {"driver": "driver_id", "city": "city_id", "__dummy": "__dummy_id"}
                values = {
                    feature.name: protos(feature.dtype, [draw.choice(samples[feature.name[0]])])[0]
                    for feature in view.features
                }
                found = EntityKey(
                    join_keys=[joins[name] for name in names],
                    entity_values=[entity.get(name, Value(string_val="")) for name in names],
                )
                shop.write(view.name, (found, values, NOON + draw.randrange(9) * timedelta(seconds=0.4), None))
        features = [f"{view.name}:{feature.name}" for view in views for feature in view.features]
        rows = [{"driver_id": draw.randrange(10), "city_id": f"c{draw.randrange(5)}"} for _ in range(25)]
        full = draw.random() < 0.5
        chosen = draw.sample(features, draw.randrange(1, len(features)))
        ours = shop.feast.get_online_features(chosen, rows, full)
        theirs = generic(shop).get_online_features(chosen, rows, full)
        assert type(theirs) is OnlineResponse
        assert repr(ours.to_dict(True)) == repr(theirs.to_dict(True))
        assert ours.proto.metadata == theirs.proto.metadata
        for mine, other in zip(ours.proto.results, theirs.proto.results, strict=True):
            assert [str(one) for one in mine.values] == [str(one) for one in other.values]
            assert list(mine.event_timestamps) == list(other.event_timestamps)
            # Feast's own path calls a null present.
            nulls = {FieldStatus.NULL_VALUE: FieldStatus.PRESENT}
            assert [nulls.get(one, one) for one in mine.statuses] == list(other.statuses)


def generic(shop: Shop) -> Any:
    """Return a store that answers Feast's own way, a view at a time, over our `online_read`."""
    other = FeatureStore(config=shop.config)
    store = GenericStore()
    store.clock = shop.online.clock
    store._pool = shop.online._pool
    other._get_provider()._online_store = store
    return other


# --- the asynchronous twins ------------------------------------------------------------------------------------------


class TestAsync:
    """Real asynchronous methods: `async_supported` says so, and each does what its twin does."""

    def test_async_supported(self, stocked: Shop) -> None:
        assert (stocked.online.async_supported.read, stocked.online.async_supported.write) == (True, True)

    def test_online_write_batch_async_and_online_read_async(self, stocked: Shop) -> None:
        async def work() -> Any:
            await stocked.online.initialize(stocked.config)
            seen: list[int] = []
            rows = [price(1, 1.0), (key(2), {"size": Value(int64_val=2)}, NOON, None), price(1, 9.0, NOON - HOUR)]
            view = stocked.view("hourly")
            await stocked.online.online_write_batch_async(stocked.config, view, rows, seen.append)
            await stocked.online.online_write_batch_async(stocked.config, view, [], seen.append)
            assert seen == [3, 0]
            assert await stocked.online.online_read_async(stocked.config, view, []) == []
            found = await stocked.online.online_read_async(stocked.config, view, [key(2), key(1)], ["price"])
            await stocked.online.close()
            return found

        found = asyncio.run(work())
        assert found == stocked.read("hourly", [key(2), key(1)], ["price"])
        assert found == [(NOON, {"price": Value()}), (NOON, {"price": Value(double_val=1.0)})]

    def test_get_online_features_async_answers_as_its_twin(self, priced: Shop) -> None:
        rows = [{"driver_id": one, "city_id": "london"} for one in (1, 2, 3, 4, 5)]
        features = [PRICE, SIZE, "cities:people"]

        async def both() -> list[OnlineResponse]:
            other = in_feasts_own_response(priced)
            answers = [await store.get_online_features_async(features, rows) for store in (priced.feast, other)]
            await priced.online.close()
            await other.close()
            return answers

        ours, theirs = asyncio.run(both())
        twin = priced.feast.get_online_features(features, rows)
        assert ours.proto == twin.proto == theirs.proto
        assert ours.to_dict(True) == twin.to_dict(True) == theirs.to_dict(True)

    def test_many_at_once_share_the_pool(self, priced: Shop) -> None:
        async def work() -> list[Any]:
            reads = [priced.feast.get_online_features_async([PRICE], [row_of(index % 5)]) for index in range(50)]
            answers = await asyncio.gather(*reads)
            assert 1 <= priced.sessions() <= 10 + 1
            await priced.online.close()
            return [one.to_dict()["price"] for one in answers]

        assert asyncio.run(work()) == [[1.0 if index % 5 == 1 else None] for index in range(50)]
        assert priced.sessions() == 0

    def test_every_event_loop_has_connections_of_its_own(self, priced: Shop) -> None:
        """Also where loops run in several threads, and where nobody closed or initialized anything."""

        async def read() -> Any:
            return (await priced.feast.get_online_features_async([PRICE], [row_of(1)])).to_dict()["price"]

        with ThreadPoolExecutor(4) as threads:
            assert list(threads.map(lambda _: asyncio.run(read()), range(8))) == [[1.0]] * 8
        assert asyncio.run(read()) == [1.0]
        asyncio.run(priced.online.close())
        assert priced.sessions() == 0

    def test_a_cancelled_read_gives_its_connection_back(self, clone: Any, tmp_path: Path) -> None:
        with open_shop(clone(None), tmp_path, max_conn=1) as shop, psycopg.connect(shop.url) as blocker:
            shop.apply(hourly())
            shop.write("hourly", price(1, 1.0))

            async def work() -> Any:
                blocker.execute(f"LOCK TABLE {TABLE} IN ACCESS EXCLUSIVE MODE".encode())
                read = asyncio.create_task(shop.feast.get_online_features_async([PRICE], [row_of(1)]))
                await asyncio.sleep(0.3)
                read.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await read
                blocker.rollback()
                answer = await asyncio.wait_for(shop.feast.get_online_features_async([PRICE], [row_of(1)]), 10)
                await shop.online.close()
                return answer.to_dict()["price"]

            assert asyncio.run(work()) == [1.0]


def in_feasts_own_response(shop: Shop) -> Any:
    """Return a store that answers Feast's own way, as for views on demand, but over our batched read."""
    other = generic(shop)
    store = other._get_provider()._online_store
    store.get_online_features_async = functools.partial(OnlineStore.get_online_features_async, store)
    return other


# --- recovery --------------------------------------------------------------------------------------------------------


class TestRecovery:
    def test_after_a_lost_connection_the_next_call_works(self, stocked: Shop) -> None:
        for turn in range(3):
            stocked.write("hourly", price(1, float(turn)))
            assert stocked.end_sessions() >= 1
            assert stocked.read("hourly", [key(1)])[0][1]["price"].double_val == turn
            assert stocked.end_sessions() >= 1

    def test_after_a_lost_connection_the_next_asynchronous_call_works(self, stocked: Shop) -> None:
        async def work() -> None:
            view = stocked.view("hourly")
            for turn in range(3):
                await stocked.online.online_write_batch_async(stocked.config, view, [price(1, float(turn))], None)
                assert stocked.end_sessions() >= 1
                ((_, values),) = await stocked.online.online_read_async(stocked.config, view, [key(1)])
                assert values["price"].double_val == turn
                assert stocked.end_sessions() >= 1
            await stocked.online.close()

        asyncio.run(work())

    def test_all_connections_of_all_threads_are_replaced(self, stocked: Shop) -> None:
        barrier = threading.Barrier(4)

        def read(_: int) -> Any:
            barrier.wait(timeout=30)
            return stocked.read("hourly", [key(1)])

        stocked.write("hourly", price(1, 1.0))
        with ThreadPoolExecutor(4) as threads:
            for _ in range(5):
                assert [rows[0][0] for rows in threads.map(read, range(4))] == [NOON] * 4
                stocked.end_sessions()

    def test_a_server_that_was_restarted_is_found_again(self, tmp_path: Path) -> None:
        data = embedded.data_dir(tmp_path / "server")
        data.parent.mkdir(parents=True)
        url = embedded.ensure_running(data)
        try:
            with open_shop(url, tmp_path) as shop:
                shop.apply(hourly())
                shop.write("hourly", price(1, 1.0))

                async def read() -> Any:
                    return (await shop.feast.get_online_features_async([PRICE], [row_of(1)])).to_dict()["price"]

                async def across_a_restart() -> None:
                    assert await read() == [1.0]
                    embedded.stop(data)
                    with pytest.raises(DatabaseUnreachable):
                        shop.read("hourly", [key(1)])
                    with pytest.raises(DatabaseUnreachable):
                        await read()
                    embedded.ensure_running(data)
                    assert await read() == [1.0]
                    await shop.online.close()

                asyncio.run(across_a_restart())
                shop.write("hourly", price(1, 2.0))
                embedded.stop(data)
                embedded.ensure_running(data)
                shop.write("hourly", price(1, 3.0, LATER))
                assert prices(shop) == [(1, 3.0, LATER)]
        finally:
            embedded.stop(data)

    def test_close_and_go_on(self, stocked: Shop) -> None:
        stocked.write("hourly", price(1, 1.0))
        asyncio.run(stocked.online.close())
        assert stocked.sessions() == 0
        assert stocked.read("hourly", [key(1)])[0][0] == NOON


# --- update, plan, teardown ------------------------------------------------------------------------------------------


def columns(shop: Shop, table: str = TABLE) -> dict[str, str]:
    with psycopg.connect(shop.url) as connection:
        return schema.columns_of(connection, table)


KEYS = {"driver_id": "bigint", "event_timestamp": "timestamp with time zone"}
BASE = {**KEYS, "created_timestamp": "timestamp with time zone", "price": "double precision", "size": "bigint"}


def update(shop: Shop, *keep: Any, delete: tuple[Any, ...] = (), partial: bool = False) -> None:
    shop.online.update(shop.config, list(delete), list(keep), [], [], partial)


class TestUpdate:
    def test_it_creates_extends_and_shrinks_the_tables_of_views(self, shop: Shop) -> None:
        shop.apply(hourly())
        assert columns(shop) == BASE
        shop.write("hourly", price(1, 1.0))
        shop.apply(feature_view("hourly", {"price": Float64, "note": String}))
        assert columns(shop) == {**{name: BASE[name] for name in BASE if name != "size"}, "note": "text"}
        assert prices(shop) == [(1, 1.0, NOON)]

    def test_a_feature_that_comes_back_does_not_bring_its_old_value(self, stocked: Shop) -> None:
        stocked.write("hourly", price(1, 1.0, size=Value(int64_val=7)))
        update(stocked, feature_view("hourly", {"price": Float64}))
        update(stocked, hourly())
        assert stocked.rows(f"SELECT price, size FROM {TABLE}") == [(1.0, None)]

    def test_a_feature_of_another_type_is_emptied_and_the_others_stay(self, stocked: Shop) -> None:
        stocked.write("hourly", price(1, 1.0, size=Value(int64_val=7)))
        stocked.apply(feature_view("hourly", {"price": Float64, "size": String}))
        assert columns(stocked)["size"] == "text"
        assert stocked.rows(f"SELECT price, size FROM {TABLE}") == [(1.0, None)]
        stocked.write("hourly", price(1, 2.0, size=Value(string_val="big")))
        assert stocked.read("hourly", [key(1)], ["size"])[0][1] == {"size": Value(string_val="big")}

    def test_another_key_makes_another_table(self, stocked: Shop) -> None:
        stocked.write("hourly", price(1, 1.0))
        update(stocked, hourly(entities=(DRIVER, CITY)))
        assert list(columns(stocked))[:2] == ["driver_id", "city_id"]
        assert stocked.rows(f"SELECT * FROM {TABLE}") == []
        update(stocked, hourly(entities=(CITY,)))
        assert "driver_id" not in columns(stocked)

    def test_a_key_of_another_type_makes_another_table(self, stocked: Shop) -> None:
        view = hourly()
        view.entity_columns = [Field(name="driver_id", dtype=String)]
        update(stocked, view)
        assert columns(stocked)["driver_id"] == "text"

    def test_nothing_changed_nothing_done(self, stocked: Shop) -> None:
        """Catalog rows keep their age, and a session that holds a lock on the table does not hold it up."""
        stocked.write("hourly", price(1, 1.0))
        before = catalog_rows(stocked)
        with psycopg.connect(stocked.url) as blocker:
            blocker.execute(f"LOCK TABLE {TABLE} IN ACCESS EXCLUSIVE MODE".encode())
            blocker.execute("SELECT pg_advisory_xact_lock(hashtextextended('featurectl:schema', 0))")
            update(stocked, stocked.view("hourly"))
            stocked.apply(hourly())
        assert catalog_rows(stocked) == before

    def test_views_that_are_deleted_lose_their_tables_and_others_keep_them(self, stocked: Shop) -> None:
        stocked.apply(feature_view("daily", {"price": Float64}))
        update(stocked, delete=(stocked.view("hourly"),), partial=True)
        assert columns(stocked) == {}
        assert columns(stocked, f"online.{PROJECT}__daily")
        stocked.feast.apply([], objects_to_delete=[stocked.view("daily")], partial=False)
        assert columns(stocked, f"online.{PROJECT}__daily") == {}

    def test_views_for_training_only_have_no_table(self, shop: Shop) -> None:
        update(shop, hourly(online=False))
        assert columns(shop) == {}

    def test_simultaneous_updates_do_not_fail(self, shop: Shop) -> None:
        views = [feature_view(f"view{index}", {"price": Float64}) for index in range(5)]
        for round in range(3):
            features = {f"more{index}": Int64 for index in range(round)}
            wider = [feature_view(view.name, {"price": Float64, **features}) for view in views]
            with ThreadPoolExecutor(4) as threads:
                for job in [threads.submit(update, shop, *wider) for _ in range(8)]:
                    job.result()
        assert list(columns(shop, f"online.{PROJECT}__view3"))[-2:] == ["more0", "more1"]

    @pytest.mark.parametrize(
        ("features", "says"),
        [
            ({"event_timestamp": Int64}, "feature 'event_timestamp', a column of its online table"),
            ({"created_timestamp": Int64}, "feature 'created_timestamp'"),
            ({"x" * 64: Int64}, "'x{64}' is longer than the 63 bytes"),
        ],
        ids=["event time", "created time", "long"],
    )
    def test_features_that_the_table_can_not_have_are_refused(self, shop: Shop, features: Any, says: str) -> None:
        with pytest.raises(DefinitionError, match=f"view 'hourly'.*{says}"):
            update(shop, feature_view("hourly", features))
        assert columns(shop) == {}

    @pytest.mark.parametrize(
        "make",
        [
            f"CREATE TABLE {TABLE} (driver_id bigint, event_timestamp timestamptz, price float8)",
            f"CREATE TABLE {TABLE} (driver_id bigint, event_timestamp timestamptz, created_timestamp timestamptz, "
            "price float8, PRIMARY KEY (driver_id, event_timestamp))",
            f"CREATE VIEW {TABLE} AS SELECT 1 AS driver_id, now() AS event_timestamp",
        ],
        ids=["history", "history with a key", "view"],
    )
    def test_a_table_of_the_users_own_is_neither_altered_nor_dropped(self, shop: Shop, make: str) -> None:
        shop.rows("CREATE SCHEMA online")
        shop.rows(make)
        before = columns(shop)
        with pytest.raises(DefinitionError, match=rf"{TABLE} exists and is not the online table of its view; rename"):
            update(shop, hourly())
        update(shop, delete=(hourly(),))
        shop.online.teardown(shop.config, [hourly()], [])
        assert columns(shop) == before

    def test_long_and_ambiguous_names_have_tables_of_their_own(self, clone: Any, tmp_path: Path) -> None:
        url = clone(None)
        names = [("p" * 70, "v"), ("p", "v" * 70), ("p" * 70, "v" * 70), ("p__a", "b"), ("p", "a__b"), ("p_", "_b")]
        names += [("p", "__b"), ("p" * 70 + "x", "v")]
        for index, (project, view) in enumerate(names):
            directory = tmp_path / str(index)
            directory.mkdir()
            with open_shop(url, directory, project=project) as shop:
                update(shop, feature_view(view, {"price": Float64}))
                rows = [price(1, float(index))]
                shop.online.online_write_batch(shop.config, feature_view(view, {"price": Float64}), rows, None)
        for index, (project, view) in enumerate(names):
            with open_shop(url, tmp_path / str(index), project=project) as shop:
                read = shop.online.online_read(shop.config, feature_view(view, {"price": Float64}), [key(1)])
                assert read == [(NOON, {"price": Value(double_val=index)})]
                assert len(shop.rows("SELECT 1 FROM pg_tables WHERE schemaname = 'online'")) == len(names)


def catalog_rows(shop: Shop) -> list[tuple[Any, ...]]:
    return shop.rows(
        "SELECT c.oid, c.relname, c.xmin::text, c.relfilenode, array_agg(a.xmin::text ORDER BY a.attnum) "
        "FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid "
        "WHERE c.relnamespace = 'online'::regnamespace GROUP BY c.oid ORDER BY c.oid"
    )


def contents(*views: Any) -> RepoContents:
    return RepoContents(
        projects=[],
        data_sources=[],
        feature_views=list(views),
        on_demand_feature_views=[],
        stream_feature_views=[],
        label_views=[],
        entities=[DRIVER, CITY],
        feature_services=[],
        permissions=[],
    )


class TestPlan:
    def changes(self, shop: Shop, *views: Any) -> dict[str, str]:
        _, diff, _ = shop.feast.plan(contents(*views))
        assert diff.to_string()
        return {one.name: one.transition_type.name for one in diff.infra_object_diffs}

    def test_it_tells_what_apply_would_create_change_and_delete(self, shop: Shop) -> None:
        daily = f"online.{PROJECT}__daily"
        wanted = feature_view("daily", {"price": Float64}, entities=(CITY,))
        assert self.changes(shop, hourly(), wanted) == {TABLE: "CREATE", daily: "CREATE"}
        assert columns(shop) == {}
        shop.apply(hourly(), wanted)
        assert self.changes(shop, hourly(), wanted) == {TABLE: "UNCHANGED", daily: "UNCHANGED"}
        wider = feature_view("hourly", {"price": Float64, "size": Int64, "note": String})
        assert self.changes(shop, wider) == {TABLE: "UPDATE", daily: "DELETE"}
        assert self.changes(shop, hourly(online=False), wanted) == {daily: "UNCHANGED", TABLE: "DELETE"}

    def test_the_objects_create_and_drop_their_tables(self, shop: Shop) -> None:
        """Also where they come back from what a registry would keep of them, which holds no password."""
        registry = contents(hourly()).to_registry_proto()
        (planned,) = shop.online.plan(shop.config, registry)
        proto = planned.to_infra_object_proto()
        again = InfraObject.from_infra_object_proto(proto)
        assert (again.name, again.table) == (planned.name, planned.table)
        assert b"password" not in proto.SerializeToString()
        again.update()
        assert columns(shop) == BASE
        again.update()
        planned.teardown()
        assert columns(shop) == {}

    def test_a_plan_of_another_project_is_not_touched(self, shop: Shop) -> None:
        from feast import feature_store
        from feast.protos.feast.core.InfraObject_pb2 import Infra

        shop.online.plan(shop.config, contents(hourly()).to_registry_proto())
        shop.online.plan(shop.config, contents(hourly()).to_registry_proto())
        assert feature_store.diff_infra_protos(Infra(), Infra(), project="other").infra_object_diffs == []
        assert feature_store.diff_infra_protos.__module__ == "feast.diff.infra_diff"


class TestTeardown:
    def test_it_drops_the_tables_of_the_views_and_nothing_else(self, stocked: Shop) -> None:
        stocked.apply(feature_view("daily", {"price": Float64}))
        stocked.rows("CREATE TABLE online.mine (id int)")
        stocked.online.teardown(stocked.config, [stocked.view("hourly")], [])
        tables = stocked.rows("SELECT tablename FROM pg_tables WHERE schemaname = 'online' ORDER BY 1")
        assert tables == [(f"{PROJECT}__daily",), ("mine",)]
        stocked.online.teardown(stocked.config, [stocked.view("hourly"), stocked.view("daily")], [])
        assert stocked.rows("SELECT tablename FROM pg_tables WHERE schemaname = 'online'") == [("mine",)]

    def test_precomputed_vectors_go_along(self, stocked: Shop) -> None:
        stocked.online.write_precomputed_vector(stocked.config, "quick", PROJECT, key(1), b"x")
        assert len(stocked.rows("SELECT 1 FROM pg_tables WHERE schemaname = 'online'")) == 2
        stocked.feast.teardown()
        assert stocked.rows("SELECT 1 FROM pg_tables WHERE schemaname = 'online'") == []
