"""The catalog as commands get it: with a word about what takes long, and about what is not as it should be."""

from __future__ import annotations

from featurectl import published
from featurectl.cli import diagnostics
from featurectl.core.catalog import Catalog
from featurectl.core.db import Connection, Database


def published_catalog(database: Database, connection: Connection, *, writes: bool = False) -> Catalog:
    """Return the repository's published catalog; warn where a later featurectl or Feast alone went past it.

    Raises:
        SchemaMissing: nothing was applied yet; or the schema is another version's, and the command ``writes``.
    """
    catalog = published.published_catalog(database, connection, writes=writes, on_publish=_tell)
    for note in published.notes_on(catalog, database, connection):
        diagnostics.warn_once(note)
    return catalog


def _tell() -> None:
    diagnostics.note("publishing the catalog from Feast's registry (Feast takes some seconds to load) …")
