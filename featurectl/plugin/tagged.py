"""Feast's nested values as JSON: plain where JSON says it all, else an object with one key, ``$`` and the value's type.

``{"name": "a", "size": 3, "price": 1.5, "raw": {"$bytes": "00ff"}}``
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from feast.protos.feast.types.Value_pb2 import Map, MapKey, MapList, RepeatedValue, ScalarMap, ScalarMapEntry, Value
from feast.protos.feast.types.Value_pb2 import ZonedTimestamp as ZonedTimestampProto

MESSAGES: dict[str, Callable[..., Any]] = {
    name: descriptor.message_type._concrete_class
    for name, descriptor in Value.DESCRIPTOR.fields_by_name.items()
    if descriptor.message_type
}
_INT64 = range(-(2**63), 2**63)
# jsonb writes numbers from here on without a decimal point, and they would come back as integers.
_LARGEST_PLAIN_FLOAT = 1e16
_PLAIN_LISTS = {str: "string_list_val", bool: "bool_list_val", int: "int64_list_val", float: "double_list_val"}


def dump(value: Value) -> Any:
    """Return a value as what ``json.dumps`` takes."""
    field = value.WhichOneof("val")
    if field is None or field == "null_val":
        return None
    payload = getattr(value, field)
    writer = _WRITERS.get(field)
    return writer(payload) if writer else {f"${field.removesuffix('_val')}": _out(field, payload)}


def load(document: Any) -> Value:
    """Return the value of what :func:`dump` gave, or of JSON that somebody else wrote."""
    reader = _READERS.get(type(document))
    return reader(document) if reader else Value()


def dump_map(value: Map) -> dict[str, Any]:
    return {name: dump(inner) for name, inner in sorted(value.val.items())}


def load_map(document: Mapping[str, Any]) -> Map:
    built = Map()
    for name, inner in document.items():
        built.val[name].CopyFrom(load(inner))
    return built


def dump_maps(value: MapList) -> list[dict[str, Any]]:
    return [dump_map(one) for one in value.val]


def load_maps(documents: Iterable[Mapping[str, Any]]) -> MapList:
    return MapList(val=[load_map(one) for one in documents])


def dump_values(value: RepeatedValue) -> list[Any]:
    return [dump(one) for one in value.val]


def load_values(documents: Iterable[Any]) -> RepeatedValue:
    return RepeatedValue(val=[load(one) for one in documents])


def dump_pairs(value: ScalarMap) -> list[list[Any]]:
    """Return a map whose keys are no strings as pairs of key and value."""
    return [[_dump_key(entry.key), dump(entry.value)] for entry in value.val]


def load_pairs(document: Iterable[Sequence[Any]]) -> ScalarMap:
    """Return the map of :func:`dump_pairs`; a JSON object's keys can only be meant as they stand in it: as JSON."""
    pairs = [(_parsed(key), value) for key, value in document.items()] if isinstance(document, dict) else document
    return ScalarMap(val=[ScalarMapEntry(key=_load_key(key), value=load(value)) for key, value in pairs])


def _parsed(key: str) -> Any:
    try:
        return json.loads(key)
    except ValueError:
        return key


def _dump_key(key: MapKey) -> Any:
    field = key.WhichOneof("key")
    return dump(Value(**{_val(field): getattr(key, field)})) if field else None


def _load_key(document: Any) -> MapKey:
    value = load(document)
    field = value.WhichOneof("val")
    return MapKey(**{f"{field.removesuffix('_val')}_key": getattr(value, field)}) if field else MapKey()


def _val(field: str) -> str:
    return f"{field.removesuffix('_key')}_val"


# --- writing ---------------------------------------------------------------------------------------------------------


def _out(field: str, payload: Any) -> Any:
    if field == "zoned_timestamp_val":
        return [payload.unix_timestamp, payload.zone]
    return [_scalar_out(one) for one in payload.val] if hasattr(payload, "val") else _scalar_out(payload)


def _scalar_out(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    return value if not isinstance(value, float) or is_plain(value) else repr(value)


def is_plain(value: float) -> bool:
    """Tell whether jsonb gives a float back as that float; not so ``-0.0``, NaN, infinity and large ones."""
    return math.isfinite(value) and abs(value) < _LARGEST_PLAIN_FLOAT and (value != 0 or math.copysign(1, value) > 0)


def _write_double(value: float) -> Any:
    return value if is_plain(value) else {"$double": repr(value)}


def _write_map(value: Map) -> Any:
    document = dump_map(value)
    return {"$map": document} if _tag(document) else document


def _write_maps(value: MapList) -> Any:
    documents = dump_maps(value)
    plain = documents and not any(_tag(one) for one in documents)
    return documents if plain else {"$map_list": documents}


def _write_values(value: RepeatedValue) -> Any:
    documents = dump_values(value)
    return documents if documents and all(isinstance(one, list) for one in documents) else {"$list": documents}


def _write_plain_list(tag: str) -> Callable[[Any], Any]:
    def write(payload: Any) -> Any:
        documents = [_scalar_out(one) for one in payload.val]
        plain = documents and all(type(one) is type(payload.val[0]) for one in documents)
        return documents if plain else {tag: documents}

    return write


_WRITERS: dict[str, Callable[[Any], Any]] = {
    "string_val": str,
    "bool_val": bool,
    "int64_val": int,
    "double_val": _write_double,
    "map_val": _write_map,
    "map_list_val": _write_maps,
    "list_val": _write_values,
    "struct_val": lambda value: {"$struct": dump_map(value)},
    "struct_list_val": lambda value: {"$struct_list": dump_maps(value)},
    "set_val": lambda value: {"$set": dump_values(value)},
    "scalar_map_val": lambda value: {"$scalar_map": dump_pairs(value)},
    **{field: _write_plain_list(f"${field.removesuffix('_val')}") for field in _PLAIN_LISTS.values()},
}


# --- reading ---------------------------------------------------------------------------------------------------------


def _tag(document: Mapping[str, Any]) -> str | None:
    if len(document) != 1:
        return None
    (name,) = document
    return name[1:] if name.startswith("$") else None


def _read_number(number: int) -> Value:
    return Value(int64_val=number) if number in _INT64 else Value(double_val=float(number))


def _read_object(document: Mapping[str, Any]) -> Value:
    field = f"{_tag(document)}_val"
    if field not in Value.DESCRIPTOR.fields_by_name:
        return Value(map_val=load_map(document))
    (payload,) = document.values()
    reader = _STRUCTURES.get(field)
    return Value(**{field: reader(payload) if reader else _in(field, payload)})


_FROM_JSON: dict[str, Callable[[Any], Any]] = {"bytes": bytes.fromhex, "float": float, "double": float}


def _in(field: str, payload: Any) -> Any:
    if field == "zoned_timestamp_val":
        return ZonedTimestampProto(unix_timestamp=payload[0], zone=payload[1])
    base = field.removesuffix("_val").removesuffix("_list").removesuffix("_set")
    convert: Callable[[Any], Any] = _FROM_JSON.get(base, lambda one: one)
    return MESSAGES[field](val=[convert(one) for one in payload]) if field in MESSAGES else convert(payload)


def _read_list(documents: Sequence[Any]) -> Value:
    kinds = {type(one) for one in documents}
    if kinds == {int, float}:
        documents, kinds = [float(one) for one in documents], {float}
    if len(kinds) == 1:
        (kind,) = kinds
        field = _PLAIN_LISTS.get(kind)
        if field and (kind is not int or all(one in _INT64 for one in documents)):
            return Value(**{field: MESSAGES[field](val=documents)})
        if kind is dict and not any(_tag(one) for one in documents):
            return Value(map_list_val=load_maps(documents))
    return Value(list_val=load_values(documents))


_STRUCTURES: dict[str, Callable[[Any], Any]] = {
    "map_val": load_map,
    "struct_val": load_map,
    "map_list_val": load_maps,
    "struct_list_val": load_maps,
    "list_val": load_values,
    "set_val": load_values,
    "scalar_map_val": load_pairs,
}
_READERS: dict[type, Callable[[Any], Value]] = {
    str: lambda text: Value(string_val=text),
    bool: lambda truth: Value(bool_val=truth),
    int: _read_number,
    float: lambda number: Value(double_val=number),
    list: _read_list,
    dict: _read_object,
}
