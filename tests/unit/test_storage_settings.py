"""Life cycles of tables: defaults by grain, what feature_store.yaml may say, and what it may not."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from featurectl.core.catalog import Catalog, View
from featurectl.core.config import Config, Overrides, load_config
from featurectl.core.storage import TimeTable, time_tables
from featurectl.core.times import parse_duration
from featurectl.errors import ConfigError, InvalidTime

DAY = timedelta(days=1)


def view(table: str, computed_from: str | None) -> View:
    """Return a view over a table; what matters here is what it is computed from."""
    keys = ("symbol",) if computed_from == "signals" else ("symbol", "timeframe")
    return View(
        name=f"{table}_view",
        join_keys=keys,
        ttl_seconds=0,
        online=False,
        source_table=table,
        source_query=None,
        timestamp_column="event_timestamp",
        created_column="created_timestamp",
        online_table=None,
        computed_from=computed_from,
        functions_file=None,
        functions_hash=None,
        description="",
        tags={},
        fields=(),
    )


CATALOG = Catalog(
    "market",
    entities=(),
    views=(
        view("features.bars", "candles"),
        view("features.ticks", "ticks"),
        view("features.moods", "signals"),
        view("features.all", "views"),
        view("public.mine", None),
    ),
    services=(),
)


def tables(storage: Mapping[str, Any] | None = None) -> dict[str, TimeTable]:
    config = Config(root=Path("/repo"), project="market", database_url=None, storage=storage or {})
    return {table.name: table for table in time_tables(config, CATALOG)}


@pytest.mark.parametrize(
    ("name", "keys", "time", "chunk", "compress"),
    [
        ("market.candles", ("symbol", "timeframe"), "open_time", 30, 30),
        ("market.order_book", ("symbol",), "time", 1, 2),
        ("market.trades", ("symbol",), "time", 1, 2),
        ("market.signals", ("symbol", "name"), "time", 90, 90),
        ("features.bars", ("symbol", "timeframe"), "event_timestamp", 30, 30),
        ("features.ticks", ("symbol", "timeframe"), "event_timestamp", 7, 7),
        ("features.moods", ("symbol",), "event_timestamp", 90, 90),
    ],
)
def test_a_table_has_the_life_cycle_of_its_grain(
    name: str, keys: tuple[str, ...], time: str, chunk: int, compress: int
) -> None:
    found = tables()[name]
    assert (found.keys, found.time) == (keys, time)
    assert (found.chunk_interval, found.compress_after, found.drop_after) == (chunk * DAY, compress * DAY, None)


def test_sql_views_and_tables_of_the_users_own_are_no_time_tables() -> None:
    assert list(tables())[4:] == ["features.bars", "features.ticks", "features.moods"]


def test_settings_replace_defaults_one_by_one() -> None:
    found = tables({"market.order_book": {"drop_after": "90d"}, "features.bars": {"compress_after": "never"}})
    book, bars = found["market.order_book"], found["features.bars"]
    assert (book.chunk_interval, book.compress_after, book.drop_after) == (DAY, 2 * DAY, 90 * DAY)
    assert (bars.chunk_interval, bars.compress_after, bars.drop_after) == (30 * DAY, None, None)
    every = tables({"market.trades": {"chunk_interval": "12h", "compress_after": "1d", "drop_after": "2w"}})
    trades = every["market.trades"]
    assert (trades.chunk_interval, trades.compress_after, trades.drop_after) == (DAY / 2, DAY, 14 * DAY)


def test_never_and_nothing_say_the_same_of_dropping() -> None:
    assert tables({"market.candles": {"drop_after": "never"}}) == tables() == tables({"market.candles": None})


def test_defaults_give_way_to_a_life_shorter_than_they_are() -> None:
    candles = tables({"market.candles": {"drop_after": "10d"}})["market.candles"]
    assert (candles.chunk_interval, candles.compress_after) == (10 * DAY, None)
    candles = tables({"market.candles": {"drop_after": "31d"}})["market.candles"]
    assert (candles.chunk_interval, candles.compress_after) == (30 * DAY, 30 * DAY)


@pytest.mark.parametrize(
    ("storage", "message"),
    [
        ({"market.book": {}}, "storage names table 'market.book', which is no time table; tables: market.candles, "),
        ({"public.mine": {}}, "'public.mine', which is no time table"),
        (
            {"market.candles": {"retention": "1d"}},
            "market.candles has no setting 'retention'; settings: chunk_interval",
        ),
        ({"market.candles": "30d"}, "storage.market.candles must be a mapping with some of chunk_interval"),
        ({"market.candles": {"drop_after": "1 month"}}, r"drop_after is not '1 month'; write a duration .*, or never"),
        ({"market.candles": {"drop_after": 30}}, "drop_after is not 30; write a duration such as 12h"),
        ({"market.candles": {"drop_after": None}}, "drop_after is not None"),
        ({"market.candles": {"drop_after": "0d"}}, "drop_after is 0d; write at least 1h"),
        ({"market.candles": {"drop_after": "101y"}}, "at most 100y"),
        ({"market.candles": {"chunk_interval": "never"}}, "chunk_interval is not 'never'; .* 2w or 2y$"),
        ({"market.candles": {"compress_after": "30d", "drop_after": "30d"}}, "dropped after 30d and compressed after"),
        ({"market.candles": {"chunk_interval": "8d", "drop_after": "7d"}}, "after 7d, in chunks of 8d; make chunk_in"),
    ],
)
def test_what_can_not_be_is_refused_by_name(storage: Mapping[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        tables(storage)
    assert str(raised.value).startswith("/repo/feature_store.yaml: featurectl.storage")


@pytest.mark.parametrize(
    ("text", "span"),
    [("30s", DAY / 2880), ("90m", DAY / 16), ("12h", DAY / 2), ("7d", 7 * DAY), ("2w", 14 * DAY), ("2y", 730 * DAY)],
)
def test_durations(text: str, span: timedelta) -> None:
    assert parse_duration(text) == span


@pytest.mark.parametrize("text", ["", "7", "d", "-7d", "1.5d", "7 d", "7D", "7d 12h", "P7D", "\u0667d"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(InvalidTime, match="is not a duration; write a whole number and a unit"):
        parse_duration(text)


def written(tmp_path: Path, storage: str) -> Config:
    (tmp_path / "feature_store.yaml").write_text(f"project: market\nfeaturectl:\n  database: embedded\n{storage}")
    return load_config(Overrides(repo=tmp_path))


def test_the_file_is_read(tmp_path: Path) -> None:
    config = written(tmp_path, "  storage:\n    market.trades: {drop_after: 90d}\n")
    (trades,) = (table for table in time_tables(config, CATALOG) if table.name == "market.trades")
    assert trades.drop_after == 90 * DAY
    assert written(tmp_path, "  storage:\n").storage == written(tmp_path, "").storage == {}
    with pytest.raises(ConfigError, match=r"storage must be a mapping"):
        written(tmp_path, "  storage: [market.trades]\n")
