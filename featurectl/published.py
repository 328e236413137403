"""The catalog as callers get it; where Feast alone applied and no store could publish it, that is done when needed."""

from __future__ import annotations

from collections.abc import Callable

from featurectl.core.catalog import Catalog, read_catalog
from featurectl.core.db import Connection, Database, translated_errors
from featurectl.core.registry_age import registry_note
from featurectl.core.schema import too_new, too_old
from featurectl.errors import SchemaMissing

# How a caller comes by its catalog, and what it says while that takes its time.
Find = Callable[[Database, Connection], Catalog]


def published_catalog(
    database: Database,
    connection: Connection,
    *,
    writes: bool = False,
    on_publish: Callable[[], None] = lambda: None,
) -> Catalog:
    """Return the repository's published catalog; ``on_publish`` is called before Feast is loaded to publish it.

    Raises:
        SchemaMissing: nothing was applied yet; or the schema is another version's, and the caller ``writes``.
    """
    catalog = _published(database, connection, on_publish)
    if writes and (reason := too_old(catalog.schema_version) or too_new(catalog.schema_version)):
        raise SchemaMissing(reason)
    return catalog


def catalog_to_write(database: Database, connection: Connection) -> Catalog:
    """Return the published catalog of a schema that this version may write to.

    Raises:
        SchemaMissing: see :func:`published_catalog`.
    """
    return published_catalog(database, connection, writes=True)


def notes_on(catalog: Catalog, database: Database, connection: Connection) -> list[str]:
    """Say where a later featurectl, or Feast alone, went past a catalog."""
    found = (too_new(catalog.schema_version), registry_note(connection, database.config, catalog))
    return [note for note in found if note]


def _published(database: Database, connection: Connection, on_publish: Callable[[], None]) -> Catalog:
    try:
        with translated_errors():
            return read_catalog(connection, database.config.project)
    except SchemaMissing:
        if not database.config.is_applied_unheard:
            raise
    on_publish()
    from featurectl.plugin.publish import publish_registry  # 7 s of CPU, once after each `feast apply`

    publish_registry(database)
    return read_catalog(connection, database.config.project)
