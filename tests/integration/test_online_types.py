"""Every Feast type online: what is written is read back, as protobuf and as Python gets it from a response."""

from __future__ import annotations

import json
import random
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from feast import ValueType
from feast.online_response import OnlineResponse
from feast.protos.feast.types.Value_pb2 import Map, Null, RepeatedValue, Value, ZonedTimestamp
from feast.type_map import feast_value_type_to_python_type
from feast.types import (
    Array,
    Bool,
    Bytes,
    FeastType,
    Float32,
    Float64,
    ImageBytes,
    Int32,
    Int64,
    Json,
    PdfBytes,
    ScalarMap,
    Set,
    String,
    Struct,
    TimeUuid,
    UnixTimestamp,
    Uuid,
)
from feast.types import Decimal as DecimalType
from feast.types import Map as MapType
from feast.types import ZonedTimestamp as ZonedTimestampType

from featurectl.errors import DefinitionError
from tests.fix_database import create_database, drop_database
from tests.fix_online_store import NOON, PROJECT, Shop, feature_view, key, open_shop, protos

# Tests of one column write entities of their own, for what one has left would be another's.
DOCUMENTS, MAPS = range(1000, 1200), range(2000, 2200)
NAN, INFINITY = float("nan"), float("inf")
IDS = [uuid.UUID(int=1), uuid.UUID("c232ab00-9414-11ec-b3c8-9f6bdeced846")]
INSTANTS = [datetime(1999, 12, 31, 23, 59, 59, tzinfo=UTC), datetime(2300, 1, 1, tzinfo=UTC)]
NESTED = {
    "name": "naïve \\ \"quoted\" {1}", "count": 3, "size": 2.0, "tiny": 5e-324, "big": 1e300, "minus": -0.0,
    "yes": True, "nothing": None, "raw": b"\x00\xff", "ids": [1, 2], "words": ["a", "b"], "rates": [0.5, NAN],
    "inner": {"$bytes": "no tag", "deep": {"list": [{"a": 1}, {"b": 2.5}]}}, "$one": {"$int32": 7},
    "at": INSTANTS[0], "id": IDS[0], "exact": Decimal("1.10"), "": "no name", "huge": 2**63 - 1,
}  # fmt: skip
KEYED = {IDS[0]: 1, Decimal("1.5"): 2, b"\x00": "bytes", INSTANTS[0]: "time"}
SAMPLES: dict[FeastType, list[Any]] = {
    Float64: [0.1 + 0.2, 0.0, -0.0, 5e-324, 1.7976931348623157e308, INFINITY, -INFINITY],
    Float32: [0.5, 0.10000000149011612, 3.4028234663852886e38, INFINITY],
    Int64: [2**63 - 1, -(2**63), 0],
    Int32: [2**31 - 1, -(2**31), 0],
    String: ["", "naïve ≠ 'quoted' \\ {1,2} \"x\" \n\t", "NULL", "$1 %s"],
    Bool: [True, False],
    Bytes: [b"", b"\x00\xff\\x"],
    PdfBytes: [b"%PDF-1.7\x00"],
    ImageBytes: [b"\x89PNG\r\n\x1a\n"],
    UnixTimestamp: [*INSTANTS, datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)],
    ZonedTimestampType: [
        datetime(2024, 7, 1, 12, tzinfo=ZoneInfo("America/New_York")),
        datetime(2024, 1, 1, 12, tzinfo=ZoneInfo("Asia/Kolkata")),
        datetime(1969, 1, 1, tzinfo=UTC),
        datetime.fromisoformat("2024-01-01T00:00:00-07:00"),
        datetime(2024, 1, 1),
    ],
    Uuid: IDS,
    TimeUuid: IDS,
    DecimalType: [Decimal("1.10"), Decimal("-0.000000000000000000000000000000001"), Decimal(10**60), Decimal("NaN")],
    MapType: [{}, {"a": "x"}, {"$int32": 5}, NESTED],
    ScalarMap: [{}, {1: "a", -5: 2.5}, {1.5: None, 1e300: {"a": 1}}, {True: b"x"}, KEYED],
    Json: [{"b": [1, 2.5, None], "a": "x"}, [], '"text"', 12, 1e300, {"$json": "no tag"}, {"n": "a\0b"}, [NAN, -0.0]],
    Struct({"a": Int64, "b": String}): [{"a": 1, "b": "x"}, {"a": None, "b": ""}],
    Array(Float64): [[], [1e300, -INFINITY, 0.1 + 0.2], [None, 1.0]],
    Array(Float32): [[], [0.25, INFINITY]],
    Array(Int64): [[], [2**63 - 1, 0, -(2**63)]],
    Array(Int32): [[], [1, -(2**31)]],
    Array(String): [[], ["", "a,b", 'q"{}\\', "NULL", "null", " "], [None, "x"]],
    Array(Bool): [[], [True, False]],
    Array(Bytes): [[], [b"", b'\x00\xff"\\']],
    Array(UnixTimestamp): [[], INSTANTS, [None, INSTANTS[0]]],
    Array(Uuid): [[], IDS],
    Array(TimeUuid): [[], IDS],
    Array(DecimalType): [[], [Decimal("1.10"), Decimal("-3")]],
    Array(MapType): [[], [{}, {"a": 1}], [NESTED]],
    Array(Json): [[], [{"a": 1}, [1, "x"], None, '"s"']],
    Array(Struct({"a": Int64})): [[], [{"a": 1}, {"a": None}]],
    Array(Array(Int64)): [[], [[1, 2], [3]], [[1], [], None]],
    Array(Array(Array(String))): [[[["a"], ["b", "c"]], [["d"]]]],
    Array(Set(String)): [[["a", "b"], ["c"]]],
    Set(Array(String)): [[["a"], ["b"]]],
    Set(Float64): [set(), {1.5, -INFINITY}],
    Set(Float32): [set(), {0.25}],
    Set(Int64): [set(), {1, 2**63 - 1}],
    Set(Int32): [set(), {1, -2}],
    Set(String): [set(), {"a", "b,c"}],
    Set(Bool): [set(), {True, False}],
    Set(Bytes): [set(), {b"\x00", b""}],
    Set(UnixTimestamp): [set(), set(INSTANTS)],
    Set(Uuid): [set(), set(IDS)],
    Set(TimeUuid): [set(), set(IDS)],
    Set(DecimalType): [set(), {Decimal("1.10"), Decimal("2")}],
}
COLUMNS = {f"f{index}": kind for index, kind in enumerate(SAMPLES)}


def without_nan(value: Any) -> Any:
    """Return a value in which NaN equals NaN, and 0.0 is not -0.0."""
    if isinstance(value, (float, Decimal)) and (value != value or value == 0):
        return repr(value)
    if isinstance(value, dict):
        return {without_nan(name): without_nan(inner) for name, inner in value.items()}
    if isinstance(value, set):
        return {without_nan(one) for one in value}
    return [without_nan(one) for one in value] if isinstance(value, list) else value


def test_the_samples_hold_every_type_that_feast_has() -> None:
    covered = {kind.to_value_type() for kind in SAMPLES}
    assert set(ValueType) - covered == {ValueType.UNKNOWN, ValueType.NULL}


@pytest.fixture(scope="module")
def typed(server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """A store with one view, ``typed``, that has a feature of every type."""
    name = f"featurectl_types_{uuid.uuid4().hex[:12]}"
    with open_shop(create_database(server, name), tmp_path_factory.mktemp("typed")) as opened:
        opened.apply(feature_view("typed", COLUMNS))
        yield opened
    drop_database(server, name)


@pytest.mark.parametrize("name", COLUMNS, ids=[str(kind) for kind in COLUMNS.values()])
def test_online_write_batch_and_online_read_keep_it(typed: Shop, name: str) -> None:
    kind = COLUMNS[name]
    written = [*protos(kind, SAMPLES[kind]), Value(), Value(null_val=Null.NULL)]
    typed.write("typed", *((key(index), {name: one}, NOON, NOON) for index, one in enumerate(written)))
    read = typed.read("typed", [key(index) for index in range(len(written))], [name])
    pythons = [feast_value_type_to_python_type(one, kind.to_value_type()) for one in written]
    got = [feast_value_type_to_python_type(row[name], kind.to_value_type()) for _, row in read]
    assert repr(got[-2:]) == "[None, None]"
    assert [without_nan(one) for one in got[:-2]] == [without_nan(one) for one in pythons[:-2]]
    if kind not in (Json, Array(Json)):  # equal documents, differently spelled
        assert [str(row[name]) for _, row in read[:-2]] == [str(one) for one in written[:-2]]
    rows = [{"driver_id": index} for index in range(len(written))]
    response = typed.feast.get_online_features([f"typed:{name}"], rows)
    stock = OnlineResponse(response.proto, {name: kind.to_value_type()})
    # The keys of a protobuf map come in any order.
    assert without_nan(response.to_dict()) == without_nan(stock.to_dict())


def test_the_columns_are_native(typed: Shop) -> None:
    names = typed.rows(
        "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute "
        f"WHERE attrelid = to_regclass('online.{PROJECT}__typed') AND attname ~ '^f[0-9]'"
    )
    types = {str(COLUMNS[name]): kind for name, kind in names}
    assert types["Array(UnixTimestamp)"] == "timestamp with time zone[]"
    assert (types["Decimal"], types["Uuid"], types["Array(Array(Int64))"]) == ("numeric", "uuid", "jsonb")
    assert set(types.values()) == {
        "bytea", "text", "boolean", "integer", "bigint", "real", "double precision", "timestamp with time zone",
        "uuid", "numeric", "jsonb", "bytea[]", "text[]", "boolean[]", "integer[]", "bigint[]", "real[]",
        "double precision[]", "timestamp with time zone[]", "uuid[]", "numeric[]",
    }  # fmt: skip


def test_plain_maps_read_as_plain_json(typed: Shop) -> None:
    name = next(name for name, kind in COLUMNS.items() if kind == MapType)
    document = {"a": 1, "b": [1.5, 2.0], "c": {"d": "x"}, "e": None, "f": [{"g": True}]}
    typed.write("typed", (key(99), {name: protos(MapType, [document])[0]}, NOON, None))
    ((stored,),) = typed.rows(f"SELECT {name} FROM online.{PROJECT}__typed WHERE driver_id = 99")
    assert stored == document


@pytest.mark.parametrize("kind", [String, MapType, Array(String), Struct({"a": Int64, "b": String})], ids=str)
def test_a_nul_character_is_refused_by_the_features_name(typed: Shop, kind: FeastType) -> None:
    name = next(name for name, one in COLUMNS.items() if one == kind)
    bad = {String: "a\0b", MapType: {"k": "a\0"}, Array(String): ["\0"]}.get(kind, {"a": 1, "b": "\\\0"})
    with pytest.raises(DefinitionError, match=f"view 'typed', feature '{name}': .* NUL"):
        typed.write("typed", (key(1), {name: protos(kind, [bad])[0]}, NOON, None))


def test_a_backslash_before_u0000_is_no_nul(typed: Shop) -> None:
    name = next(name for name, kind in COLUMNS.items() if kind == MapType)
    written = protos(MapType, [{"k": "\\u0000"}])[0]
    typed.write("typed", (key(98), {name: written}, NOON, None))
    assert typed.read("typed", [key(98)], [name])[0][1] == {name: written}


def test_a_timestamp_that_postgresql_cannot_hold_is_refused(typed: Shop) -> None:
    name = next(name for name, kind in COLUMNS.items() if kind == UnixTimestamp)
    with pytest.raises(DefinitionError, match=f"feature '{name}': the timestamp .* is outside"):
        typed.write("typed", (key(1), {name: Value(unix_timestamp_val=2**62)}, NOON, None))


def test_json_of_any_spelling_comes_back_equal(typed: Shop) -> None:
    """Seeded documents, written as protobuf texts and compared as Python."""
    name = next(name for name, kind in COLUMNS.items() if kind == Json)
    seed = random.randrange(2**32)
    print("seed", seed)
    draw = random.Random(seed)
    documents = [json_document(draw, 3) for _ in DOCUMENTS]
    keys = list(map(key, DOCUMENTS))
    written = [Value(json_val=json.dumps(one)) for one in documents]
    typed.write("typed", *((one, {name: value}, NOON, None) for one, value in zip(keys, written, strict=True)))
    read = typed.read("typed", keys, [name])
    assert [without_nan(json.loads(row[name].json_val)) for _, row in read] == [without_nan(one) for one in documents]


def test_maps_of_any_values_come_back_equal(typed: Shop) -> None:
    """Seeded protobufs of every kind that a map may hold, nested, to the bit."""
    name = next(name for name, kind in COLUMNS.items() if kind == MapType)
    seed = random.randrange(2**32)
    print("seed", seed)
    draw = random.Random(seed)
    keys, written = list(map(key, MAPS)), [Value(map_val=any_map(draw, 3)) for _ in MAPS]
    typed.write("typed", *((one, {name: value}, NOON, None) for one, value in zip(keys, written, strict=True)))
    read = typed.read("typed", keys, [name])
    assert [spelled(row[name]) for _, row in read] == [spelled(one) for one in written]


def json_document(draw: random.Random, depth: int) -> Any:
    plain = ["", "x", "\0", "\\u0000", '"', "NaN", "é", 0, 1, -7, 2**70, 0.5, -0.0, 1e16, 1e22, 1e-7, NAN, None, True]
    if depth == 0 or draw.random() < 0.3:
        return draw.choice(plain)
    size = draw.randrange(4)
    if draw.random() < 0.5:
        return [json_document(draw, depth - 1) for _ in range(size)]
    names = ["a", "b", "$json", "$int32", "", "é"]
    return {draw.choice(names): json_document(draw, depth - 1) for _ in range(size)}


def any_value(draw: random.Random, depth: int) -> Value:
    kinds = [kind for kind in SAMPLES if draw.random() < 0.3 and kind != Json and kind != Array(Json)]
    if depth and draw.random() < 0.3:
        return Value(map_val=any_map(draw, depth - 1))
    if depth and draw.random() < 0.2:
        return Value(list_val=RepeatedValue(val=[any_value(draw, depth - 1) for _ in range(draw.randrange(3))]))
    if draw.random() < 0.1:
        return Value(zoned_timestamp_val=ZonedTimestamp(unix_timestamp=-(2**63), zone="nowhere"))
    if not kinds:
        return Value()
    kind = draw.choice(kinds)
    return draw.choice(protos(kind, SAMPLES[kind]))


def any_map(draw: random.Random, depth: int) -> Map:
    built = Map()
    for name in draw.sample(["a", "b", "$int32", "$map", "$nonsense", "", "é"], draw.randrange(4)):
        built.val[name].CopyFrom(any_value(draw, depth))
    return built


def spelled(value: Value) -> bytes:
    return value.SerializeToString(deterministic=True)
