"""Feast's registry as it was read once: what it defines, without a look at it for every read."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

from feast.feature_service import FeatureService
from feast.feature_view import DUMMY_ENTITY_ID, FeatureView
from feast.infra.registry.base_registry import BaseRegistry
from feast.infra.registry.registry import Registry
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.protos.feast.core.Registry_pb2 import Registry as RegistryProto
from feast.stream_feature_view import StreamFeatureView

from featurectl.core.catalog import Catalog, Field, Service, View
from featurectl.core.value_types import column_type
from featurectl.errors import DefinitionError, NotFound
from featurectl.plugin import online_tables

# The lists of a registry that hold views, and what their members are.
_KINDS: dict[str, Any] = {
    "feature_views": FeatureView,
    "stream_feature_views": StreamFeatureView,
    "on_demand_feature_views": OnDemandFeatureView,
}


class Snapshot:
    """One project's definitions; views are made of their protobufs when they are first asked for."""

    def __init__(self, proto: RegistryProto, project: str) -> None:
        self._proto = proto
        self._project = project
        self._protos = {
            one.spec.name: (kind, one)
            for member, kind in _KINDS.items()
            for one in getattr(proto, member)
            if one.spec.project == project
        }
        self._views: dict[str, Any] = {}
        self._in_memory: Registry | None = None

    def __contains__(self, name: str) -> bool:
        return name in self._protos

    def view(self, name: str) -> Any:
        """Return a view of any kind.

        Raises:
            NotFound: the registry has no such view.
        """
        if name not in self._views:
            if name not in self._protos:
                raise NotFound.of("view", name, self._protos, "Feast's registry has no other")
            kind, proto = self._protos[name]
            self._views[name] = kind.from_proto(proto)
        return self._views[name]

    def is_materialized(self, name: str) -> bool:
        """Tell whether a view was ever materialized; one computed on demand need not be."""
        kind, proto = self._protos[name]
        return kind is OnDemandFeatureView or bool(proto.meta.materialization_intervals)

    def sources_of(self, view: OnDemandFeatureView) -> list[Any]:
        """Return the views that one computed on demand reads."""
        return [self.view(one.name) for one in view.source_feature_view_projections.values()]

    def in_memory(self) -> Registry:
        """Return a registry for Feast's own reads, in which no view has a TTL: no value is withheld there."""
        if self._in_memory is None:
            proto = RegistryProto()
            proto.CopyFrom(self._proto)
            for one in (*proto.feature_views, *proto.stream_feature_views):
                one.spec.ClearField("ttl")
            # Feast keeps what it makes of a registry by this id, for all registries of a process.
            proto.version_id = str(uuid.uuid4())
            registry = Registry(self._project, None, None)
            registry.cached_registry_proto = proto
            registry.cached_registry_proto_ttl = timedelta(0)
            registry.serve_features_while_materializing = True
            self._in_memory = registry
        return self._in_memory

    # --- what a catalog lacks ----------------------------------------------------------------------------------------

    def beyond(self, catalog: Catalog) -> Catalog:
        """Return a catalog with the views and services that the registry has besides; Feast alone can read those."""
        views = {view.name for view in catalog.views}
        services = {service.name: service for service in catalog.services}
        # What it has of a service is without the features on demand.
        services |= {service.name: service for service in self._services()}
        more = [view for name in self._protos if name not in views and (view := self._catalog_view(name))]
        return replace(catalog, views=(*catalog.views, *more), services=tuple(services.values()))

    def _services(self) -> Iterator[Service]:
        for proto in self._proto.feature_services:
            if proto.spec.project != self._project:
                continue
            service = FeatureService.from_proto(proto)
            features = tuple(
                (projection.name, feature.name)
                for projection in service.feature_view_projections
                for feature in projection.features
                if projection.name in self._protos
            )
            yield Service(service.name, service.description, dict(service.tags), features)

    def _catalog_view(self, name: str) -> View | None:
        """Return a view as a catalog has it, without history; ``None`` where a catalog can't have its values' types.

        One computed on demand is keyed by all that its sources are keyed by, and lives as long as the shortest-lived.
        """
        view = self.view(name)
        sources = self.sources_of(view) if isinstance(view, OnDemandFeatureView) else [view]
        keys = tuple(dict.fromkeys(key for source in sources for key in source.join_keys))
        ttls = [source.ttl.total_seconds() for source in sources if source.ttl]
        try:
            fields = tuple(
                Field(one.name, str(one.dtype), column_type(str(one.dtype), owner=name), one.name, one.description, {})
                for one in view.features
                if one.name not in keys
            )
        except DefinitionError:
            return None
        return View(
            name=name,
            join_keys=tuple(key for key in keys if key != DUMMY_ENTITY_ID),
            ttl_seconds=min(ttls, default=0.0),
            online=online_tables.has_table(view) or isinstance(view, OnDemandFeatureView),
            source_table=None,
            source_query=None,
            timestamp_column="event_timestamp",
            created_column=None,
            description=view.description,
            tags=dict(view.tags),
            fields=fields,
        )


def read_snapshot(registry: BaseRegistry, project: str) -> Snapshot:
    """Read a registry, whatever copy of it Feast keeps."""
    if isinstance(registry, Registry):
        registry.refresh()
    return Snapshot(registry.proto(), project)
