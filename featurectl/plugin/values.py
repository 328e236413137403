"""What becomes of a Feast value on its way to a native column and back, a column at a time.

``sent`` values go to PostgreSQL as elements of an array (:mod:`featurectl.core.pgarray`) and are cast there; ``stored``
values are what psycopg reads in binary, with timestamps as microseconds since 1970 UTC.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, cast

from feast.protos.feast.types.Value_pb2 import Value
from feast.protos.feast.types.Value_pb2 import ZonedTimestamp as ZonedTimestampProto
from feast.type_map import NULL_TIMESTAMP_INT_VALUE, feast_value_type_to_python_type
from feast.types import FeastType

from featurectl.core.value_types import column_type
from featurectl.errors import DefinitionError
from featurectl.plugin import tagged

MICROSECONDS = 1_000_000
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# What timestamptz holds: from 4713 BC to 294276 AD.
_SECONDS = range(-210_866_803_200, 9_224_318_016_000)
# psycopg reads these as Feast gives them to Python.
_AS_STORED = ("bytes_val", "string_val", "int32_val", "int64_val", "double_val", "float_val", "bool_val")

Convert = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class Codec:
    """How values of one Feast type travel. ``None`` stands for null throughout and reaches no function here."""

    field: str
    column_type: str
    sent_type: str
    send: Convert | None = None
    payload: Convert | None = None
    python: Convert | None = None

    def sent(self, values: Sequence[Value], owner: str) -> list[Any]:
        """Return values as the elements of the array that is sent.

        Raises:
            DefinitionError: PostgreSQL can't hold a value; ``owner`` names the feature.
        """
        field, send = cast("Any", self.field), self.send
        # A value that is not the type's zero needs no second look; zeros may be nulls, or values of another type.
        try:
            if field in _SCALARS:
                column = [getattr(one, field) or self._zero(one) for one in values]
            else:
                column = [getattr(one, field) if one.HasField(field) else self._zero(one) for one in values]
            if send is not None:
                column = [None if one is None else send(one) for one in column]
            if self.sent_type == "text":
                _refuse_nul(column, self.column_type)
        except ValueError as error:
            raise DefinitionError(f"{owner}: {error}") from error
        return column

    def _zero(self, value: Value) -> Any:
        field = value.WhichOneof("val")
        if field == self.field:
            return getattr(value, field)
        if field is None or field == "null_val":
            return None
        python = feast_value_type_to_python_type(value)
        fitting = _fitted(self.field, python)
        if fitting is None:
            raise ValueError(f"the value {python!r} ({field}) does not fit the column, {self.column_type}")
        return fitting

    def protos(self, stored: Iterable[Any]) -> list[Value]:
        """Return stored values as Feast's."""
        field, payload = self.field, self.payload
        if payload is None:
            return [_NULL if one is None else Value(**{field: one}) for one in stored]
        return [_NULL if one is None else Value(**{field: payload(one)}) for one in stored]

    def pythons(self, stored: Sequence[Any]) -> list[Any]:
        """Return stored values as Feast's own conversion of its protobuf gives them."""
        python = self.python
        return list(stored) if python is None else [None if one is None else python(one) for one in stored]


_NULL = Value()
_SCALARS = frozenset(
    name for name, one in Value.DESCRIPTOR.fields_by_name.items() if one.message_type is None and name != "null_val"
)
# Feast infers other types than the view declares; what fits is taken.
_CONVERSIONS: dict[str, Convert] = {
    "int32_val": int,
    "int64_val": int,
    "float_val": float,
    "double_val": float,
    "string_val": str,
    "uuid_val": str,
    "time_uuid_val": str,
    "decimal_val": str,
    "unix_timestamp_val": lambda one: int(one.timestamp()) if isinstance(one, datetime) else int(one),
}


def _fitted(field: str, value: Any) -> Any:
    """Return a value of another type as one of a field's, or ``None`` where something would be lost."""
    try:
        converted = _CONVERSIONS[field](value)
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
    lost = isinstance(converted, (int, float)) and isinstance(value, (int, float)) and converted != value
    return None if lost else converted


@lru_cache(maxsize=1024)
def codec_of(feast_type: FeastType) -> Codec:
    """Return the codec of a Feast type.

    Raises:
        DefinitionError: there is no such type.
    """
    column = column_type(str(feast_type), owner="the field")
    return codec_for(feast_type.to_value_type().name, column)


def codec_for(value_type: str, column: str) -> Codec:
    """Return the codec of one of Feast's value types (``INT64``, ``MAP``, …) and the column that holds it."""
    if value_type in _STRUCTURED:
        field, dump, load = _STRUCTURED[value_type]
        python = _json_python if value_type == "JSON" else _through_proto(field, load)
        return Codec(field, column, "text", _dumped(dump), load, python)
    base, _, suffix = value_type.rpartition("_")
    if suffix in ("LIST", "SET"):
        return _collection(base, f"{value_type.lower()}_val", column)
    base = "BYTES" if value_type in ("PDF_BYTES", "IMAGE_BYTES") else value_type
    field = f"{base.lower()}_val"
    if field in _AS_STORED:
        return Codec(field, column, column)
    return Codec(field, column, column if base == "UNIX_TIMESTAMP" else "text", *_ELEMENTS[base])


# --- scalars ---------------------------------------------------------------------------------------------------------


def _refuse_nul(column: Sequence[Any], kind: str) -> None:
    found = _JSON_NUL.search if kind == "jsonb" else (lambda text: "\0" in text)
    if any(one is not None and found(one) for one in column):
        raise ValueError("a value holds the character NUL, which PostgreSQL's text and jsonb can't; use Bytes")


_JSON_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")


def _send_seconds(seconds: int) -> int | None:
    if seconds == NULL_TIMESTAMP_INT_VALUE:
        return None
    if seconds not in _SECONDS:
        raise ValueError(f"the timestamp {seconds} is outside what timestamptz holds, 4713 BC to 294276 AD")
    return seconds * MICROSECONDS


def _seconds(microseconds: int) -> int:
    """Return whole seconds, cut towards zero as Feast cuts them."""
    return microseconds // MICROSECONDS if microseconds >= 0 else -(-microseconds // MICROSECONDS)


def _datetime(microseconds: int) -> datetime:
    return datetime.fromtimestamp(_seconds(microseconds), tz=UTC)


def _text_or_null(text: str) -> str | None:
    """Take Feast's stand-in for a null in a list of texts that mean something."""
    return text or None


def _send_zoned(value: ZonedTimestampProto) -> str | None:
    """Write ``2024-05-01T06:30:00Z[Asia/Kolkata]``; without brackets where the value has no zone."""
    if value.unix_timestamp == NULL_TIMESTAMP_INT_VALUE:
        return None
    try:
        instant = (EPOCH + timedelta(seconds=value.unix_timestamp)).replace(tzinfo=None).isoformat()
    except OverflowError:
        raise ValueError(f"the timestamp {value.unix_timestamp} is outside the years 1 to 9999") from None
    return f"{instant}Z[{value.zone}]" if value.zone else f"{instant}Z"


def _zoned(text: str) -> ZonedTimestampProto:
    instant, bracket, zone = text.partition("[")
    read = datetime.fromisoformat(instant.strip())
    read = read.replace(tzinfo=UTC) if read.tzinfo is None else read
    return ZonedTimestampProto(unix_timestamp=int(read.timestamp()), zone=zone.removesuffix("]") if bracket else "")


def _zoned_python(text: str) -> Any:
    return feast_value_type_to_python_type(Value(zoned_timestamp_val=_zoned(text)))


_ELEMENTS: dict[str, tuple[Convert | None, Convert | None, Convert | None]] = {
    "UNIX_TIMESTAMP": (_send_seconds, _seconds, _datetime),
    "ZONED_TIMESTAMP": (_send_zoned, _zoned, _zoned_python),
    "UUID": (_text_or_null, str, None),
    "TIME_UUID": (_text_or_null, str, None),
    "DECIMAL": (_text_or_null, str, None),
}


# --- lists and sets, as native arrays --------------------------------------------------------------------------------


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _literal_seconds(seconds: int) -> str:
    if seconds == NULL_TIMESTAMP_INT_VALUE:
        return "NULL"
    try:
        return f'"{(EPOCH + timedelta(seconds=seconds)).isoformat()}"'
    except OverflowError:
        raise ValueError(f"the timestamp {seconds} is outside the years 1 to 9999") from None


# Element type: how an array's text writes it, and what stands in Feast's lists for a null.
_LITERALS: dict[str, tuple[Callable[[Any], str], Any]] = {
    "STRING": (_quoted, ""),
    "BYTES": (lambda one: f'"\\\\x{one.hex()}"', b""),
    "INT32": (str, 0),
    "INT64": (str, 0),
    "FLOAT": (repr, 0.0),
    "DOUBLE": (repr, 0.0),
    "BOOL": (lambda one: "t" if one else "f", False),
    "UNIX_TIMESTAMP": (_literal_seconds, NULL_TIMESTAMP_INT_VALUE),
    "UUID": (lambda one: one or "NULL", ""),
    "TIME_UUID": (lambda one: one or "NULL", ""),
    "DECIMAL": (lambda one: one or "NULL", ""),
}


# Element type: how a stored element becomes one of a payload, and of Python.
_AS_ELEMENTS: dict[str, tuple[Convert | None, Convert | None]] = {
    "UNIX_TIMESTAMP": (_seconds, _datetime),
    "UUID": (str, None),
    "TIME_UUID": (str, None),
    "DECIMAL": (str, None),
}


def _collection(base: str, field: str, column: str) -> Codec:
    literal, null = _LITERALS[base]
    message = tagged.MESSAGES[field]
    as_payload, as_python = _AS_ELEMENTS.get(base, (None, None))
    null_python = None if as_payload else null

    def send(payload: Any) -> str:
        return "{" + ",".join(map(literal, payload.val)) + "}"

    def payload(stored: Sequence[Any]) -> Any:
        if as_payload:
            return message(val=[null if one is None else as_payload(one) for one in stored])
        return message(val=[null if one is None else one for one in stored] if None in stored else stored)

    def elements(stored: Sequence[Any]) -> list[Any]:
        if as_python:
            return [None if one is None else as_python(one) for one in stored]
        return [null_python if one is None else one for one in stored]

    python: Convert = (lambda stored: set(elements(stored))) if field.endswith("_set_val") else elements
    return Codec(field, column, "text", send, payload, python)


# --- what has structure, as jsonb ------------------------------------------------------------------------------------


def _dumped(dump: Convert) -> Convert:
    return lambda payload: json.dumps(dump(payload), ensure_ascii=False)


def _through_proto(field: str, load: Convert) -> Convert:
    return lambda stored: feast_value_type_to_python_type(Value(**{field: load(stored)}))


_SUSPECT = re.compile(r'NaN|Infinity|-0\.|\\u0000|[0-9][eE]|"\$json"')


def _dump_json(text: str) -> Any:
    """Return a JSON text as the document it is, or tagged as a text where jsonb would not give the same back."""
    try:
        document = json.loads(text)
    except ValueError:
        return {"$json": text}
    lost = document is None or (_SUSPECT.search(text) and not _survives(document))
    return {"$json": text} if lost else document


def _survives(document: Any) -> bool:
    if isinstance(document, dict):
        return not _is_kept_text(document) and all(map(_survives, (*document, *document.values())))
    if isinstance(document, list):
        return all(map(_survives, document))
    if isinstance(document, str):
        return "\0" not in document
    return not isinstance(document, float) or tagged.is_plain(document)


def _load_json(document: Any) -> str:
    return str(document["$json"]) if _is_kept_text(document) else json.dumps(document)


def _is_kept_text(document: Any) -> bool:
    return isinstance(document, dict) and document.keys() == {"$json"}


def _json_python(document: Any) -> Any:
    if not _is_kept_text(document):
        return document
    return feast_value_type_to_python_type(Value(json_val=document["$json"]))


def _dump_json_list(payload: Any) -> list[Any]:
    return [_dump_json(one) for one in payload.val]


def _load_json_list(documents: Sequence[Any]) -> Any:
    return tagged.MESSAGES["json_list_val"](val=[_load_json(one) for one in documents])


# Value type: its field, how its payload becomes JSON, and how JSON becomes its payload.
_STRUCTURED: dict[str, tuple[str, Convert, Convert]] = {
    "JSON": ("json_val", _dump_json, _load_json),
    "JSON_LIST": ("json_list_val", _dump_json_list, _load_json_list),
    "MAP": ("map_val", tagged.dump_map, tagged.load_map),
    "MAP_LIST": ("map_list_val", tagged.dump_maps, tagged.load_maps),
    "STRUCT": ("struct_val", tagged.dump_map, tagged.load_map),
    "STRUCT_LIST": ("struct_list_val", tagged.dump_maps, tagged.load_maps),
    "SCALAR_MAP": ("scalar_map_val", tagged.dump_pairs, tagged.load_pairs),
    "VALUE_LIST": ("list_val", tagged.dump_values, tagged.load_values),
    "VALUE_SET": ("set_val", tagged.dump_values, tagged.load_values),
}
