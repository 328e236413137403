"""Pulls: a source's rows of a window, all of them or each entity's newest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from feast import RepoConfig
from feast.data_source import DataSource
from feast.feature_view import DUMMY_ENTITY_ID, DUMMY_ENTITY_VAL
from psycopg import sql

from featurectl.core import arrow_types, sources
from featurectl.core.arrow import ArrowConnection
from featurectl.core.catalog import View
from featurectl.core.db import open_connection, translated_errors
from featurectl.core.offline import readable, types_of
from featurectl.core.queries import query
from featurectl.plugin.entities import source_of
from featurectl.plugin.retrieval_job import Select, TimescaleRetrievalJob


@dataclass(frozen=True)
class Pull:
    """What is pulled: columns of a source, all of them where no features are named, and rows of a window."""

    config: RepoConfig
    source: DataSource
    keys: Sequence[str]
    features: Sequence[str]
    event: str
    created: str | None
    start: datetime | None
    end: datetime | None

    def job(self, *, newest: bool) -> TimescaleRetrievalJob:
        """Return the job that reads each entity's newest row, or all."""
        relation = source_of(self.source)
        build = self._newest if newest else self._all
        return TimescaleRetrievalJob(self.config, Select(lambda connection: build(connection, relation)))

    def _all(self, connection: ArrowConnection, relation: sql.Composable) -> sql.Composed:
        types = self._types(connection, relation)
        return sql.SQL("SELECT {} FROM {} AS s WHERE {}").format(self._columns(types), relation, self._window(types))

    def _newest(self, connection: ArrowConnection, relation: sql.Composable) -> sql.Composed:
        types = self._types(connection, relation)
        view = self._view()
        store = self.config.offline_store
        with translated_errors(), open_connection(store.conninfo(), connect_timeout=store.connect_timeout) as session:
            entities = sources.entity_walk(session, view)
        return query("offline", "newest_by_probe" if entities else "newest_by_scan").format(
            entities=entities or sql.SQL(""),
            columns=self._columns(types),
            source=relation,
            keys=sources.commas(map(sources.column, self.keys)),
            known=sources.known_keys(view),
            match=sources.same_keys(view, "entities"),
            window=self._window(types),
            order=sources.newest_first(self.event, self.created),
        )

    def _types(self, connection: ArrowConnection, relation: sql.Composable) -> dict[str, str]:
        """Return the columns that are read, and their types."""
        if not self.features:
            return types_of(connection, relation)
        named = [*self.keys, *self.features, self.event, *([self.created] if self.created else [])]
        return types_of(connection, relation, dict.fromkeys(named))

    def _columns(self, types: dict[str, str]) -> sql.Composable:
        columns = []
        for name, kind in types.items():
            # Feast wants instants as such; of a day, its first.
            day = kind == "date" and name in (self.event, self.created)
            columns.append(readable(sources.column(name), name, "timestamp" if day else arrow_types.read_as(kind)))
        if not self.keys:
            columns.append(readable(sql.Literal(DUMMY_ENTITY_VAL), DUMMY_ENTITY_ID, "text"))
        return sources.commas(columns)

    def _window(self, types: dict[str, str]) -> sql.Composable:
        return sources.within(self.event, self.start, self.end, types[self.event])

    def _view(self) -> View:
        options = self.source._postgres_options
        return View(
            name=self.source.name,
            join_keys=tuple(self.keys),
            ttl_seconds=0,
            online=False,
            source_table=options._table or None,
            source_query=options._query or None,
            timestamp_column=self.event,
            created_column=self.created,
        )
