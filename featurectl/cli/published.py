"""The catalog as commands get it; where Feast alone applied and no store could publish it, that is done when needed."""

from __future__ import annotations

from featurectl.cli import diagnostics
from featurectl.core.catalog import Catalog, read_catalog
from featurectl.core.db import Connection, Database, translated_errors
from featurectl.errors import SchemaMissing


def published_catalog(database: Database, connection: Connection) -> Catalog:
    """Return the repository's published catalog.

    Raises:
        SchemaMissing: nothing was applied yet.
    """
    try:
        with translated_errors():
            return read_catalog(connection, database.config.project)
    except SchemaMissing:
        config = database.config
        by_file = config.registry_file is not None and config.registry_file.is_file()
        # With SQLite online, Feast applies without telling any store.
        unheard = config.registry_schema is not None and not config.online_store_is_ours
        if not (by_file or unheard):
            raise
    diagnostics.note("publishing the catalog from Feast's registry (Feast takes some seconds to load) …")
    from featurectl.plugin.publish import publish_registry  # 7 s of CPU, once after each `feast apply`

    publish_registry(database)
    return read_catalog(connection, database.config.project)
