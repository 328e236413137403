"""An online response that holds native columns, and builds Feast's protobuf only for those who ask for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from feast.online_response import TIMESTAMP_POSTFIX, OnlineResponse
from feast.protos.feast.serving.ServingService_pb2 import FieldStatus, GetOnlineFeaturesResponse
from google.protobuf.timestamp_pb2 import Timestamp  # type: ignore[import-untyped]

from featurectl.plugin.values import MICROSECONDS, Codec

PRESENT, NULL_VALUE = FieldStatus.PRESENT, FieldStatus.NULL_VALUE
NOT_FOUND, OUTSIDE_MAX_AGE = FieldStatus.NOT_FOUND, FieldStatus.OUTSIDE_MAX_AGE
FeatureVector = GetOnlineFeaturesResponse.FeatureVector


@dataclass(frozen=True, slots=True)
class KeyColumn:
    """A join key as the caller gave it: as Feast's Python values, and as its protobufs, which codec and stored make."""

    name: str
    codec: Codec
    stored: Sequence[Any]
    pythons: Sequence[Any]
    protos: Sequence[Any] | None = None

    def vector(self) -> Any:
        count = len(self.stored)
        values = self.codec.protos(self.stored) if self.protos is None else self.protos
        return FeatureVector(values=values, statuses=[PRESENT] * count, event_timestamps=[Timestamp()] * count)


@dataclass(frozen=True, slots=True)
class ViewColumns:
    """What one view answers: a stored column per feature, and for each row its event time and status.

    Event times are microseconds since 1970 UTC, ``None`` where there is no row. ``statuses`` is ``None`` where every
    row is there and young enough. What may not be served is ``None`` already.
    """

    view: str
    names: Sequence[str]
    codecs: Sequence[Codec]
    events: Sequence[int | None]
    statuses: Sequence[Any] | None
    columns: Sequence[Sequence[Any]]

    def vectors(self) -> list[Any]:
        """Return a protobuf vector for each feature."""
        instants = [Timestamp() if event is None else _timestamp(event) for event in self.events]
        rows = self.statuses or [PRESENT] * len(self.events)
        vectors = []
        for codec, stored in zip(self.codecs, self.columns, strict=True):
            statuses = rows
            if None in stored:
                nulls = zip(rows, stored, strict=True)
                statuses = [NULL_VALUE if one is None and row == PRESENT else row for row, one in nulls]
            vectors.append(FeatureVector(values=codec.protos(stored), statuses=statuses, event_timestamps=instants))
        return vectors

    @property
    def seconds(self) -> list[int]:
        """The event times in whole seconds, 0 where there is no row."""
        return [0 if event is None else event // MICROSECONDS for event in self.events]


def _timestamp(microseconds: int) -> Timestamp:
    seconds, rest = divmod(microseconds, MICROSECONDS)
    return Timestamp(seconds=seconds, nanos=rest * 1000)


class NativeOnlineResponse(OnlineResponse):  # type: ignore[misc]
    """Feast's online response over native columns: the same values, names and order, without the protobuf between."""

    def __init__(self, keys: Sequence[KeyColumn], views: Sequence[ViewColumns], versions: Sequence[tuple[str, int]]):
        self._keys = keys
        self.views = views
        self._versions = versions
        self._feature_types: dict[str, Any] = {}

    @cached_property
    def proto(self) -> GetOnlineFeaturesResponse:
        """The response as Feast's protobuf, with the version of each view where that was asked for."""
        response = GetOnlineFeaturesResponse(
            results=[key.vector() for key in self._keys] + [one for view in self.views for one in view.vectors()]
        )
        names = response.metadata.feature_names.val
        names.extend(key.name for key in self._keys)
        names.extend(name for view in self.views for name in view.names)
        for view, version in self._versions:
            response.metadata.feature_view_metadata.add(name=view, version=version)
        return response

    def to_dict(self, include_event_timestamps: bool = False) -> dict[str, Any]:
        """Return values by name; with ``include_event_timestamps`` also ``<name>__ts``, in seconds."""
        answer: dict[str, list[Any]] = {}
        for key in self._keys:
            answer[key.name] = list(key.pythons)
            if include_event_timestamps:
                answer[key.name + TIMESTAMP_POSTFIX] = [0] * len(key.pythons)
        for view in self.views:
            seconds = view.seconds if include_event_timestamps else []
            for name, codec, stored in zip(view.names, view.codecs, view.columns, strict=True):
                answer[name] = codec.pythons(stored)
                if include_event_timestamps:
                    answer[name + TIMESTAMP_POSTFIX] = list(seconds)
        return answer
