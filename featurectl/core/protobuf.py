"""Just enough of the protobuf wire format to tell whether two serialized definitions say the same, without a schema."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import groupby

SPEC = 1  # the field of Feast's objects that holds what they define; the next one, meta, says when and how far
_SOURCE_META = 50  # the field of a data source, wherever one is embedded, that says when it was written
_MAP_ENTRY = [1, 2]
_DEEPEST = 32

Fields = list[tuple[int, bytes, bytes | None]]


def split(message: bytes) -> Fields:
    """Return each field's number, its bytes without payload, and its payload, None where it has no length.

    Raises:
        ValueError: these bytes are no message.
    """
    found: Fields = []
    place = 0
    while place < len(message):
        start = place
        tag, place = _varint(message, place)
        number, kind = tag >> 3, tag & 7
        payload = None
        if kind == 0:
            _, place = _varint(message, place)
        elif kind == 2:
            head, (length, place) = message[start:place], _varint(message, place)
            payload, place = message[place : place + length], place + length
        elif kind in (1, 5):
            place += 8 if kind == 1 else 4
        else:
            raise ValueError(f"wire type {kind}")
        if number == 0 or place > len(message):
            raise ValueError("not a message")
        found.append((number, message[start:place] if payload is None else head, payload))
    return found


def _varint(message: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if place >= len(message) or shift > 63:
            raise ValueError("not a number")
        byte = message[place]
        place += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, place
        shift += 7


def payload_of(message: bytes, field: int) -> bytes:
    """Return what a message has in a field: nothing where it has none.

    Raises:
        ValueError: these bytes are no message.
    """
    return b"".join(payload for number, _, payload in split(message) if number == field and payload is not None)


def definition_hash(message: bytes, *, without: int) -> str:
    """Return a hash of what a Feast object defines: the same for each time it is written, in whatever order its tags.

    ``without`` is the field of its spec that does not count. Bytes that are no message, or have no definition, have a
    hash too.
    """
    try:
        spec = [field for field in split(payload_of(message, SPEC)) if field[0] != without]
    except ValueError:
        spec = []
    return hashlib.sha256(b"".join(_parts(spec, 0)) or message).hexdigest()[:16]


def _canonical(message: bytes, depth: int) -> bytes:
    """Return a message with the entries of its maps in order, which writers shuffle, and without sources' times.

    What is not a message, but a text, comes back as it is.
    """
    try:
        fields = split(message) if depth < _DEEPEST else []
    except ValueError:
        fields = []
    return b"".join(_parts(fields, depth)) if fields else message


def _parts(fields: Fields, depth: int) -> Iterator[bytes]:
    for number, same in groupby(fields, key=lambda field: field[0]):
        if number == _SOURCE_META:
            continue
        run = list(same)
        parts = [_part(head, payload, depth) for _, head, payload in run]
        yield from sorted(parts) if all(_is_map_entry(payload) for _, _, payload in run) else parts


def _part(head: bytes, payload: bytes | None, depth: int) -> bytes:
    if payload is None:
        return head
    inner = _canonical(payload, depth + 1)
    return head + len(inner).to_bytes(4, "big") + inner


def _is_map_entry(payload: bytes | None) -> bool:
    try:
        fields = split(payload or b"")
    except ValueError:
        return False
    return [number for number, _, inner in fields if inner is not None] == _MAP_ENTRY == [one[0] for one in fields]
