"""The catalog as commands get it; where Feast alone applied and no store could publish it, that is done when needed."""

from __future__ import annotations

from featurectl.cli import diagnostics
from featurectl.core.catalog import Catalog, read_catalog
from featurectl.core.db import Connection, Database, translated_errors
from featurectl.core.schema import too_new, too_old
from featurectl.errors import SchemaMissing


def published_catalog(database: Database, connection: Connection, *, writes: bool = False) -> Catalog:
    """Return the repository's published catalog; warn where a later featurectl has changed the database's schema.

    Raises:
        SchemaMissing: nothing was applied yet; or the schema is another version's, and the command ``writes``.
    """
    catalog = _published(database, connection)
    if writes and (reason := too_old(catalog.schema_version)):
        raise SchemaMissing(reason)
    if reason := too_new(catalog.schema_version):
        if writes:
            raise SchemaMissing(reason)
        diagnostics.warn(reason)
    return catalog


def _published(database: Database, connection: Connection) -> Catalog:
    try:
        with translated_errors():
            return read_catalog(connection, database.config.project)
    except SchemaMissing:
        if not database.config.is_applied_unheard:
            raise
    diagnostics.note("publishing the catalog from Feast's registry (Feast takes some seconds to load) …")
    from featurectl.plugin.publish import publish_registry  # 7 s of CPU, once after each `feast apply`

    publish_registry(database)
    return read_catalog(connection, database.config.project)
