"""The catalog as commands get it; where Feast keeps its registry in a file, it is published from there when needed."""

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
        file = database.config.registry_file
        if file is None or not file.is_file():
            raise
    diagnostics.note(f"publishing the catalog from {file} (Feast takes some seconds to load) …")
    from featurectl.plugin.publish import publish_registry  # 7 s of CPU, once after each `feast apply`

    publish_registry(database)
    return read_catalog(connection, database.config.project)
