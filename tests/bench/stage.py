"""Where the benches play: one embedded server, one table of features, and two Feast repositories over it.

``ours`` uses featurectl's three classes, ``stock`` Feast's own PostgreSQL stores and local engine. Both define the view
``bench_view`` over ``bench.features``: ``entities`` symbols, each with ``rows`` hourly rows of ``f0``, ``f1``, …
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from featurectl.core import embedded
from featurectl.core.db import Connection, open_connection

if TYPE_CHECKING:
    import pandas as pd
    from feast import FeatureStore

VIEW = "bench_view"
TABLE = "bench.features"
FIRST = datetime(2023, 1, 1, tzinfo=UTC)
STEP = timedelta(hours=1)

DEFINITIONS = """
from datetime import timedelta

from feast import Entity, FeatureView, Field, ValueType
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import PostgreSQLSource
from feast.types import Float64

symbol = Entity(name="symbol", join_keys=["symbol"], value_type=ValueType.STRING)
timeframe = Entity(name="timeframe", join_keys=["timeframe"], value_type=ValueType.STRING)
bench_source = PostgreSQLSource(
    name="bench_source", table="{table}", timestamp_field="event_timestamp",
    created_timestamp_column="created_timestamp",
)
bench_view = FeatureView(
    name="bench_view", entities=[symbol, timeframe], ttl=timedelta(0), source=bench_source,
    schema=[Field(name=f"f{{index}}", dtype=Float64) for index in range({features})],
)
"""

REPOSITORY = """
project: {kind}
provider: local
entity_key_serialization_version: 3
registry:
  registry_type: sql
  path: "{registry}"
  cache_ttl_seconds: 600
  sqlalchemy_config_kwargs:
    connect_args: {{options: "-c search_path=registry_{kind} -c timezone=UTC"}}
"""

OURS = """
offline_store: {{type: featurectl.plugin.offline.TimescaleOfflineStore, url: "{url}"}}
online_store: {{type: featurectl.plugin.online.TimescaleOnlineStore, url: "{url}"}}
batch_engine: {{type: featurectl.plugin.engine.TimescaleComputeEngine}}
"""

STOCK = """
offline_store: &connection
  type: postgres
  host: "{host}"
  port: {port}
  database: "{dbname}"
  db_schema: stock
  user: "{user}"
  password: ""
  sslmode: disable
online_store: *connection
"""


@dataclass(frozen=True)
class Stage:
    """The server's URL, the two repositories, and the shape of the data."""

    url: str
    directory: Path
    entities: int
    rows: int
    features: int

    @property
    def names(self) -> list[str]:
        """The features' names."""
        return [f"f{index}" for index in range(self.features)]

    @property
    def references(self) -> list[str]:
        return [f"{VIEW}:{name}" for name in self.names]

    @property
    def last(self) -> datetime:
        """The newest event time of the table."""
        return FIRST + STEP * (self.rows - 1)

    def symbols(self, count: int) -> list[str]:
        return [f"S{index:06d}" for index in range(count)]

    def repository(self, kind: str) -> Path:
        """Return the directory of ``ours`` or ``stock``."""
        return self.directory / kind

    def store(self, kind: str) -> FeatureStore:
        """Open ``ours`` or ``stock`` as a Feast store."""
        return open_store(self.repository(kind))

    def connect(self) -> Connection:
        return open_connection(self.url, connect_timeout=30)

    def spine(self, rows: int, *, seed: int = 7) -> pd.DataFrame:
        """Return entities and instants drawn over the whole history: ``symbol``, ``timeframe``, ``event_timestamp``."""
        import numpy as np
        import pandas as pd

        draw = np.random.default_rng(seed)
        seconds = draw.integers(0, int((STEP * self.rows).total_seconds()), rows)
        return pd.DataFrame(
            {
                "symbol": np.array(self.symbols(self.entities), dtype=object)[draw.integers(0, self.entities, rows)],
                "timeframe": "1h",
                "event_timestamp": pd.Timestamp(FIRST) + pd.to_timedelta(seconds, unit="s"),
            }
        )


def open_store(repository: Path) -> FeatureStore:
    from feast import FeatureStore  # 7 s of CPU

    return FeatureStore(repo_path=str(repository))


@contextlib.contextmanager
def open_stage(*, entities: int = 100, rows: int = 10_000, features: int = 6) -> Iterator[Stage]:
    """Start a server, fill its table, set both repositories up and apply them; everything goes away at the end."""
    with tempfile.TemporaryDirectory(prefix="featurectl-bench-") as name:
        directory = Path(name)
        data = embedded.data_dir(directory)
        url = embedded.ensure_running(data)
        try:
            stage = Stage(url, directory, entities, rows, features)
            with stage.connect() as connection:
                fill(connection, entities=entities, rows=rows, features=features)
            for kind in ("ours", "stock"):
                apply(stage, kind)
            yield stage
        finally:
            embedded.stop(data)


def fill(connection: Connection, *, entities: int, rows: int, features: int, table: str = TABLE) -> None:
    """Create ``schema.table`` with its primary key, and fill it with reproducible values; ANALYZE it."""
    names = [sql.Identifier(f"f{index}") for index in range(features)]
    columns = sql.SQL(", ").join(sql.SQL("{} float8").format(name) for name in names)
    values = sql.SQL(", ").join(
        sql.SQL("sin(e * {} + r * {})").format(sql.Literal(index + 1.5), sql.Literal(0.01 * (index + 1)))
        for index in range(features)
    )
    schema, name = table.split(".")
    connection.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(schema)))
    connection.execute(
        sql.SQL(
            "CREATE UNLOGGED TABLE {} (symbol text, timeframe text, event_timestamp timestamptz, "
            "created_timestamp timestamptz, {})"
        ).format(sql.Identifier(schema, name), columns)
    )
    connection.execute(
        sql.SQL(
            "INSERT INTO {} SELECT 'S' || lpad(e::text, 6, '0'), '1h', {} + r * interval '1 hour', "
            "{} + r * interval '1 hour', {} FROM generate_series(0, {}) AS e, generate_series(0, {}) AS r"
        ).format(
            sql.Identifier(schema, name),
            sql.Literal(FIRST),
            sql.Literal(FIRST),
            values,
            sql.Literal(entities - 1),
            sql.Literal(rows - 1),
        )
    )
    connection.execute(
        sql.SQL("ALTER TABLE {} ADD PRIMARY KEY (symbol, timeframe, event_timestamp)").format(
            sql.Identifier(schema, name)
        )
    )
    connection.execute(sql.SQL("VACUUM ANALYZE {}").format(sql.Identifier(schema, name)))


def apply(stage: Stage, kind: str, *, table: str = TABLE) -> None:
    """Write the repository of ``kind`` and apply it through Feast's SDK."""
    write_repository(stage.repository(kind), kind, stage.url, features=stage.features, table=table)
    with stage.connect() as connection:
        schema = sql.Identifier(f"registry_{kind}")
        connection.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(schema))
        connection.execute("CREATE SCHEMA IF NOT EXISTS stock")
    store = stage.store(kind)
    store.apply(list(objects(stage.repository(kind) / "definitions.py").values()))


def write_repository(root: Path, kind: str, url: str, *, features: int, table: str = TABLE) -> None:
    """Write ``feature_store.yaml`` and ``definitions.py``."""
    root.mkdir(parents=True, exist_ok=True)
    parts = conninfo_to_dict(url)
    registry = url.replace("postgresql://", "postgresql+psycopg://", 1)
    text = REPOSITORY.format(kind=kind, registry=registry)
    text += OURS.format(url=url) if kind == "ours" else STOCK.format(**{"port": 5432, **parts})
    (root / "feature_store.yaml").write_text(text)
    (root / "definitions.py").write_text(DEFINITIONS.format(table=table, features=features))


def objects(path: Path) -> dict[str, Any]:
    """Return the Feast objects a file of definitions makes, by their name in it."""
    from feast import Entity, FeatureView
    from feast.data_source import DataSource

    names: dict[str, Any] = {}
    exec(compile(path.read_text(), str(path), "exec"), names)
    return {name: value for name, value in names.items() if isinstance(value, (Entity, FeatureView, DataSource))}


def quiet() -> contextlib.AbstractContextManager[Any]:
    """Keep Feast's progress bars and prints out of a bench's output."""
    os.environ.setdefault("TQDM_DISABLE", "1")
    return contextlib.redirect_stdout(sys.stderr)
