"""A view's way online inside the database: which views have it, and the one statement they take."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from feast import FeatureView, RepoConfig
from feast.feature_view import DUMMY_ENTITY_ID, DUMMY_ENTITY_VAL
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import PostgreSQLSource

from featurectl.core import catalog, materialize
from featurectl.core.locks import WAIT, lock, name_of_view
from featurectl.core.times import Window
from featurectl.plugin import intervals
from featurectl.plugin.catalog import is_transformed
from featurectl.plugin.intervals import Interval
from featurectl.plugin.online import TimescaleOnlineStoreConfig
from featurectl.plugin.online_tables import table_of
from featurectl.plugin.running import Running
from featurectl.plugin.store_config import TimescaleStoreConfig, same_database


def is_in_database(config: RepoConfig, view: FeatureView) -> bool:
    """Tell whether a view's rows are read and served in one database, by one role, as they stand in its source."""
    offline, online = config.offline_store, config.online_store
    return (
        isinstance(online, TimescaleOnlineStoreConfig)
        and isinstance(offline, TimescaleStoreConfig)
        and same_database(offline, online)
        and isinstance(view.batch_source, PostgreSQLSource)
        and not is_transformed(view)
    )


@dataclass(frozen=True, slots=True)
class InDatabase:
    """One view and the window to bring online."""

    config: RepoConfig
    project: str
    view: FeatureView
    window: Window
    force: bool

    def run(self, running: Running, interval: Interval, now: datetime) -> int:
        """Materialize the view, note the interval with it, and return the number of its entities in the window."""
        source = source_view(self.config, self.view)
        entityless = not source.join_keys
        keys = [DUMMY_ENTITY_ID] if entityless else _keys(self.view)
        # The source is the offline store's: its connection decides what an unqualified name means.
        with (
            running.connection(self.config.offline_store) as connection,
            lock(connection, name_of_view(self.project, self.view.name), WAIT),
        ):
            done = materialize.materialize_view(
                connection,
                self.project,
                source,
                self.window,
                now=now,
                target=materialize.find_target(
                    connection, source, keys, constant_key=DUMMY_ENTITY_VAL if entityless else None
                ),
                force=self.force,
                also=lambda connection: intervals.add(connection, self.project, self.view.name, interval),
            )
        return done.entities


def source_view(config: RepoConfig, view: FeatureView) -> catalog.View:
    """Return a Feast view by the columns of its source."""
    source = view.batch_source
    mapped = {name: column for column, name in source.field_mapping.items()}
    options = source._postgres_options
    return catalog.View(
        name=view.name,
        join_keys=tuple(mapped.get(key, key) for key in _keys(view)),
        ttl_seconds=0,
        online=True,
        source_table=options._table or None,
        source_query=options._query or None,
        timestamp_column=mapped.get(source.timestamp_field, source.timestamp_field),
        created_column=mapped.get(source.created_timestamp_column, source.created_timestamp_column) or None,
        online_table=table_of(config, view).name,
        fields=tuple(
            catalog.Field(field.name, str(field.dtype), "", mapped.get(field.name, field.name), "", {})
            for field in view.features
            # Feast takes the keys of a stream view for features, too, once it has read it from its registry.
            if field.name not in view.join_keys
        ),
    )


def _keys(view: FeatureView) -> list[str]:
    return [key for key in view.join_keys if key != DUMMY_ENTITY_ID]
