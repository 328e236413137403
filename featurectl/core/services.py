"""Feature services as plain values: what they hold, and whether it is online."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from featurectl.core.catalog import Catalog, Service
from featurectl.core.db import Connection
from featurectl.core.queries import query
from featurectl.core.times import iso


def last_materialized(connection: Connection, project: str) -> dict[str, datetime]:
    """Return when each view of a project was last materialized into an online table of ours."""
    rows = connection.execute(query("materialize", "last_materialized"), {"project": project})
    return {str(view): finished for view, finished in rows}


def describe(catalog: Catalog, service: Service, materialized: Mapping[str, datetime]) -> dict[str, Any]:
    """Return a service with its features and views; JSON can hold it. A TTL of ``None`` is unlimited.

    ``by_feast`` are the views that only Feast can read, whose features the others are without.
    """
    features = catalog.known(service)
    views = list({view.name: view for view, _ in features}.values())
    return {
        "name": service.name,
        "description": service.description,
        "tags": dict(service.tags),
        "join_keys": list(dict.fromkeys(key for view in views for key in view.join_keys)),
        "features": [
            {
                "view": view.name,
                "name": field.name,
                "value_type": field.value_type,
                "description": field.description,
                "ttl_seconds": view.ttl_seconds or None,
            }
            for view, field in features
        ],
        "views": [
            {
                "name": view.name,
                "join_keys": list(view.join_keys),
                "ttl_seconds": view.ttl_seconds or None,
                "online": view.online,
                "materialized_at": iso(materialized[view.name]) if view.name in materialized else None,
            }
            for view in views
        ],
        "by_feast": catalog.beyond(service),
    }
