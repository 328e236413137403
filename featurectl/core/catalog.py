"""The published catalog: what `apply` writes and every other command reads, so that none of them needs Feast."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, TypeVar

from psycopg import errors as pg

from featurectl.core.connections import AsyncConnection
from featurectl.core.db import Connection
from featurectl.core.queries import query
from featurectl.errors import NotFound, SchemaMissing, UsageError


@dataclass(frozen=True, slots=True)
class Entity:
    """A Feast entity: a name and the join key column it stands for."""

    name: str
    join_key: str
    value_type: str
    description: str
    tags: dict[str, str]


@dataclass(frozen=True, slots=True)
class Field:
    """A feature: its Feast type, its PostgreSQL type, and the column of the source that holds it."""

    name: str
    value_type: str
    column_type: str
    source_column: str
    description: str
    tags: dict[str, str]


@dataclass(frozen=True, slots=True)
class View:
    """A feature view. A TTL of 0 seconds is unlimited.

    ``computed_from`` says what `compute` makes it of: candles, ticks (order book and trades) or signals, by the
    functions of ``functions_file``; or views, which a SQL view joins.

    ``functions_hash`` changes with the code of those functions and with the fields they give. A view whose features
    Feast makes from its source has neither ``source_table`` nor ``source_query``.
    """

    name: str
    join_keys: tuple[str, ...]
    ttl_seconds: float
    online: bool
    source_table: str | None
    source_query: str | None
    timestamp_column: str
    created_column: str | None
    online_table: str | None = None
    computed_from: str | None = None
    functions_file: str | None = None
    functions_hash: str | None = None
    description: str = ""
    tags: dict[str, str] = field(default_factory=dict)
    fields: tuple[Field, ...] = ()

    @property
    def ttl(self) -> timedelta | None:
        return timedelta(seconds=self.ttl_seconds) if self.ttl_seconds else None

    @property
    def has_history(self) -> bool:
        """Whether its features stand in a source that SQL can read."""
        return bool(self.source_table or self.source_query)

    @property
    def is_composite(self) -> bool:
        """Whether its features are those of other views, which a SQL view joins."""
        return self.computed_from == "views"

    @property
    def takes_ids(self) -> bool:
        """Whether entity ids give its keys."""
        return "symbol" in self.join_keys and set(self.join_keys) <= {"symbol", "timeframe"}

    def field(self, name: str) -> Field | None:
        return next((field for field in self.fields if field.name == name), None)


@dataclass(frozen=True, slots=True)
class Service:
    """A feature service: an ordered choice of (view, feature); of Feast's own views, on demand or otherwise, too."""

    name: str
    description: str
    tags: dict[str, str]
    features: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Selection:
    """Features of one view, in the order asked for."""

    view: View
    features: tuple[str, ...]

    @classmethod
    def whole(cls, view: View) -> Selection:
        """Return all features of a view."""
        return cls(view, tuple(field.name for field in view.fields))


@dataclass(frozen=True, slots=True)
class Catalog:
    """Everything one project defines. ``schema_version`` is the newest migration its database has seen.

    ``registry_stamp`` is that of Feast's registry when this was published, ``None`` where nobody knows.
    """

    project: str
    entities: tuple[Entity, ...]
    views: tuple[View, ...]
    services: tuple[Service, ...]
    version: int = 0
    content_hash: str = ""
    published_at: datetime | None = None
    schema_version: int = 0
    registry_stamp: str | None = None

    def view(self, name: str) -> View:
        return _named("view", name, self.views)

    def service(self, name: str) -> Service:
        return _named("service", name, self.services)

    def entity(self, name: str) -> Entity:
        return _named("entity", name, self.entities)

    def known(self, service: Service) -> list[tuple[View, Field]]:
        """Return the features of a service that are the catalog's."""
        views = {view.name: view for view in self.views}
        pairs = ((views.get(view), feature) for view, feature in service.features)
        return [(view, field) for view, feature in pairs if view and (field := view.field(feature))]

    def beyond(self, service: Service) -> list[str]:
        """Return the views of a service that only Feast can read."""
        views = {view.name for view in self.views}
        return list(dict.fromkeys(view for view, _ in service.features if view not in views))

    def select(
        self,
        features: Sequence[str] = (),
        service: str | None = None,
        *,
        views: Sequence[str] = (),
        online: bool = False,
    ) -> tuple[Selection, ...]:
        """Resolve feature names (``rsi_14`` or ``view:rsi_14``), a service, or whole views; with none, everything.

        A feature that a composite repeats is that of its own view, unless the composite is named. ``online`` limits
        the choice to views that are served online.

        Raises:
            NotFound: an unknown feature, view or service, or a service that is not the catalog's alone.
            UsageError: a name that several views have, two of features, service and views, or a view that is not
                online.
        """
        if views and (features or service):
            raise UsageError("give views, feature names or a service, and one of them only")
        if features and service:
            raise UsageError("give feature names or a service, not both")
        if views:
            return tuple(Selection.whole(self.view(name)) for name in dict.fromkeys(views))
        if service:
            wanted = self._whole(self.service(service))
        elif features:
            wanted = tuple(dict.fromkeys(self._resolve(name, online) for name in features))
        else:
            wanted = tuple(
                (view.name, field.name)
                for view in self.views
                if not online or (view.online and view.join_keys)
                for field in view.fields
                if view in self._owners(field.name)
            )
        by_view: dict[str, list[str]] = {}
        for view, feature in wanted:
            by_view.setdefault(view, []).append(feature)
        selections = tuple(Selection(self.view(view), tuple(names)) for view, names in by_view.items())
        self._refuse_clashes(selections)
        if online and (offline := [chosen.view.name for chosen in selections if not chosen.view.online]):
            raise UsageError(
                f"view '{offline[0]}' is for training only (online=False); read it with `featurectl get-offline`"
            )
        return selections

    def select_whole(
        self, features: Sequence[str] = (), service: str | None = None, *, views: Sequence[str] = ()
    ) -> tuple[Selection, ...]:
        """Do what :meth:`select` does; with none of them named, return every view whole, composites, too."""
        if features or service or views:
            return self.select(features, service, views=views)
        return tuple(map(Selection.whole, self.views))

    def _whole(self, service: Service) -> tuple[tuple[str, str], ...]:
        if beyond := self.beyond(service):
            raise NotFound(
                f"service '{service.name}' has features of view '{beyond[0]}', which only Feast can read; name the "
                "features that are stored"
            )
        return service.features

    def _resolve(self, name: str, online: bool) -> tuple[str, str]:
        view_name, separator, feature = name.rpartition(":")
        if separator:
            view = self.view(view_name)
            if view.field(feature) is None:
                raise NotFound.of("feature", feature, [field.name for field in view.fields], f"view: {view_name}")
            return view_name, feature
        owners = self._owners(name)
        if online and len(owners) > 1:
            owners = [view for view in owners if view.online] or owners
        if not owners:
            known = {field.name for view in self.views for field in view.fields}
            raise NotFound.of("feature", name, known, _hint(name))
        if len(owners) > 1:
            choices = ", ".join(f"{view.name}:{name}" for view in owners)
            raise UsageError(f"feature '{name}' is in several views; write one of {choices}")
        return owners[0].name, name

    def _owners(self, name: str) -> list[View]:
        """Return the views that have a feature: composites only where no other has it."""
        having = [view for view in self.views if view.field(name)]
        return [view for view in having if not view.is_composite] or having

    @staticmethod
    def _refuse_clashes(selections: Iterable[Selection]) -> None:
        seen: dict[str, str] = {}
        for chosen in selections:
            for feature in chosen.features:
                if feature in seen:
                    both = f"{seen[feature]} and {chosen.view.name}"
                    raise UsageError(f"feature '{feature}' is asked for from {both}; ask for one of them")
                seen[feature] = chosen.view.name


_Item = TypeVar("_Item", View, Service, Entity)


def _hint(name: str) -> str:
    from featurectl.core.targets import option_for  # what is found needs no targets

    option = option_for(name)
    return f"a target comes with `featurectl get-offline … {option}`" if option else "`featurectl views` shows them all"


def _named(kind: str, name: str, items: Sequence[_Item]) -> _Item:
    for item in items:
        if item.name == name:
            return item
    raise NotFound.of(kind, name, [item.name for item in items])


def read_catalog(connection: Connection, project: str) -> Catalog:
    """Return the published catalog of a project.

    Raises:
        SchemaMissing: nothing has been applied to this database yet, or not this project.
    """
    with _before_the_first_apply():
        return _existing(find_catalog(connection, project), project)


async def read_catalog_async(connection: AsyncConnection, project: str) -> Catalog:
    """Do what :func:`read_catalog` does without holding up the event loop."""
    with _before_the_first_apply():
        cursor = await connection.execute(query("catalog", "read_catalog"), {"project": project})
    row = await cursor.fetchone()
    return _existing(_from_document(row[0]) if row else None, project)


@contextlib.contextmanager
def _before_the_first_apply() -> Iterator[None]:
    """Say what it means that there is no table of catalogs."""
    try:
        yield
    except pg.UndefinedTable as error:
        if "featurectl.catalogs" not in str(error):
            raise
        raise SchemaMissing("nothing has been applied to this database yet; run `featurectl apply`") from error


def _existing(catalog: Catalog | None, project: str) -> Catalog:
    if catalog is None:
        raise SchemaMissing(f"project '{project}' has published no catalog in this database; run `featurectl apply`")
    return catalog


def find_catalog(connection: Connection, project: str) -> Catalog | None:
    """Return the published catalog of a project, or ``None`` where it has published none."""
    row = connection.execute(query("catalog", "read_catalog"), {"project": project}).fetchone()
    return _from_document(row[0]) if row else None


def _from_document(document: dict[str, Any]) -> Catalog:
    return Catalog(
        project=document["project"],
        version=document["version"],
        content_hash=document["content_hash"],
        published_at=datetime.fromisoformat(document["published_at"]),
        schema_version=document["schema_version"] or 0,
        registry_stamp=document["registry_stamp"],
        entities=tuple(Entity(**entity) for entity in document["entities"]),
        views=tuple(
            View(
                **{
                    **view,
                    "join_keys": tuple(view["join_keys"]),
                    "fields": tuple(Field(**field) for field in view["fields"]),
                }
            )
            for view in document["views"]
        ),
        services=tuple(
            Service(**{**service, "features": tuple((view, feature) for view, feature in service["features"])})
            for service in document["services"]
        ),
    )


def hashed(catalog: Catalog) -> Catalog:
    """Return the catalog with the hash of its content: equal definitions give equal hashes."""
    content = {
        "entities": [asdict(entity) for entity in sorted(catalog.entities, key=lambda item: item.name)],
        "views": [asdict(view) for view in sorted(catalog.views, key=lambda item: item.name)],
        "services": [asdict(service) for service in sorted(catalog.services, key=lambda item: item.name)],
    }
    import hashlib  # 2 ms, and only `apply` needs it

    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return replace(catalog, content_hash=digest)


def publish(
    connection: Connection, catalog: Catalog, *, now: datetime, published_by: str, registry: str | None = None
) -> int | None:
    """Publish a catalog in one transaction; return its new version, or ``None`` when nothing changed.

    ``registry`` is what Feast's registry held, as JSON: it is kept with the catalog, new version or not.
    """
    with connection.transaction():
        header = {
            "project": catalog.project,
            "content_hash": catalog.content_hash,
            "published_at": now,
            "published_by": published_by,
        }
        row = connection.execute(query("catalog", "publish_header"), header).fetchone()
        connection.execute(query("catalog", "publish_registry"), {"project": catalog.project, "registry": registry})
        if row is None:
            return None
        connection.execute(query("catalog", "delete_catalog"), {"project": catalog.project})
        with connection.cursor() as cursor:
            for name, rows in _published_rows(catalog).items():
                if rows:
                    cursor.executemany(query("catalog", name), rows)
        return int(row[0])


def withdraw(connection: Connection, project: str) -> None:
    """Remove what a project published."""
    with connection.transaction():
        connection.execute(query("catalog", "delete_header"), {"project": project})
        connection.execute(query("catalog", "delete_catalog"), {"project": project})


def _published_rows(catalog: Catalog) -> dict[str, list[dict[str, Any]]]:
    project = {"project": catalog.project}

    def row(item: Any, **extra: Any) -> dict[str, Any]:
        values = {name: getattr(item, name) for name in item.__slots__}
        return {**values, "tags": json.dumps(item.tags), **project, **extra}

    return {
        "publish_entity": [row(entity) for entity in catalog.entities],
        "publish_view": [row(view, join_keys=list(view.join_keys), fields=None) for view in catalog.views],
        "publish_field": [
            row(field, view=view.name, position=position)
            for view in catalog.views
            for position, field in enumerate(view.fields)
        ],
        "publish_service": [row(service, features=None) for service in catalog.services],
        "publish_service_feature": [
            {**project, "service": service.name, "position": position, "view": view, "feature": feature}
            for service in catalog.services
            for position, (view, feature) in enumerate(service.features)
        ],
    }
