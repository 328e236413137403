"""Whether Feast's registry has a name that the catalog lacks, told without Feast, which takes seconds to load."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from psycopg import sql

from featurectl.core.catalog import Catalog
from featurectl.core.config import Config
from featurectl.core.connections import AsyncConnection
from featurectl.core.protobuf import SPEC, payload_of, split
from featurectl.core.queries import query

_TABLES = ("feature_views", "stream_feature_views", "on_demand_feature_views", "feature_services")
# The fields of a registry's file, and in the specs of each those of name and project.
_IN_FILE = {6: "view", 14: "view", 8: "view", 7: "service"}
_NAME, _PROJECT = 1, 2


async def may_be_in_registry(
    connection: AsyncConnection, config: Config, catalog: Catalog, features: Sequence[str], service: str | None
) -> bool:
    """Tell whether the registry may know a service, or features, that the catalog does not.

    Where nobody but Feast can read the registry, it may. A bare feature name may be in any view that the catalog lacks.

    Raises:
        psycopg.Error, OSError, ValueError: the registry can't be read.
    """
    if config.registry_file is not None:
        names: Iterable[tuple[str, str]] = set(_in_file(config.registry_file.read_bytes(), config.project))
    elif config.registry_schema is not None:
        tables = {name: sql.Identifier(config.registry_schema, name) for name in _TABLES}
        cursor = await connection.execute(
            query("registry", "registry_names").format(**tables), {"project": config.project}
        )
        names = [(kind, name) for kind, name in await cursor.fetchall()]
    else:
        return True
    # An earlier version left features on demand out of a service.
    services = {("service", one.name) for one in catalog.services if one.features and not catalog.beyond(one)}
    known = services | {("view", view.name) for view in catalog.views}
    beyond = set(names) - known
    if service:
        return ("service", service) in beyond
    views = {name for kind, name in beyond if kind == "view"}
    wanted = [name.rpartition(":")[0] for name in features]
    return bool(views) and any(not view or view in views for view in wanted)


def _in_file(registry: bytes, project: str) -> Iterator[tuple[str, str]]:
    for number, _, message in split(registry):
        if message is None or number not in _IN_FILE:
            continue
        spec = payload_of(message, SPEC)
        if payload_of(spec, _PROJECT).decode() == project:
            yield _IN_FILE[number], payload_of(spec, _NAME).decode()
