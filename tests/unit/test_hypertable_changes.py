"""From what TimescaleDB has to what it should have: which statements, in which order, and none where none is needed."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import timedelta

import pytest

from featurectl.core.storage import MARKET_TABLES, TimeTable
from featurectl.core.timescale import Extension, Hypertable, interval, layout, normalized, storage_changes

DAY = timedelta(days=1)
FULL = Extension("2.28.3", "2.28.3", "timescale")
APACHE = Extension("2.28.3", "2.28.3", "apache")
OLD = Extension("2.17.2", "2.28.3", "timescale")
TOO_OLD = Extension("2.12.1", "2.12.1", "timescale")
NONE = Extension(None, None, None)

TRADES = replace(MARKET_TABLES[2], drop_after=90 * DAY)
NAME = '\'"market"."trades"\''
CREATE = (
    f"SELECT create_hypertable({NAME}, by_range('time', INTERVAL '1 days'), "
    "create_default_indexes => false, if_not_exists => true, migrate_data => true)"
)
COLUMNSTORE = (
    'ALTER TABLE "market"."trades" SET ( timescaledb.enable_columnstore = true, '
    "timescaledb.segmentby = 'symbol', timescaledb.orderby = 'time DESC, trade_id')"
)
COMPRESS = f"CALL add_columnstore_policy({NAME}, after => INTERVAL '2 days', if_not_exists => true)"
DROP = f"SELECT add_retention_policy({NAME}, drop_after => INTERVAL '90 days', if_not_exists => true)"
REMOVE_COMPRESS = f"CALL remove_columnstore_policy({NAME}, if_exists => true)"
REMOVE_DROP = f"SELECT remove_retention_policy({NAME}, if_exists => true)"

# TRADES as the database tells of it once everything is done: it quotes what PostgreSQL would.
DONE = Hypertable(DAY, normalized("symbol"), normalized('"time" DESC,trade_id'), 2 * DAY, 90 * DAY)


def statements(table: TimeTable, found: Hypertable | None, extension: Extension = FULL) -> list[str]:
    changes = storage_changes([table], {table.name: found} if found else {}, extension)
    return [" ".join((change.statement or "").split()) for change in changes]


@pytest.mark.parametrize(
    ("extension", "wanted"),
    [
        (FULL, [CREATE, COLUMNSTORE, COMPRESS, DROP]),
        (OLD, [CREATE, DROP]),
        (APACHE, [CREATE]),
        (TOO_OLD, []),
        (NONE, []),
    ],
    ids=["full", "no columnstore", "apache", "too old", "none"],
)
def test_a_table_becomes_as_much_of_a_hypertable_as_the_extension_can(extension: Extension, wanted: list[str]) -> None:
    assert statements(TRADES, None, extension) == wanted


def test_each_statement_stands_alone_and_says_what_it_does() -> None:
    changes = storage_changes([TRADES], {}, FULL)
    assert [change.summary for change in changes] == [
        "make market.trades a hypertable in chunks of 1d",
        "lay market.trades out by symbol, then time DESC, trade_id, where it is compressed",
        "compress chunks of market.trades after 2d",
        "drop chunks of market.trades after 90d",
    ]
    assert all(";" not in (change.statement or "") and not change.drops for change in changes)


def test_what_is_as_it_should_be_is_left_alone() -> None:
    assert statements(TRADES, DONE) == []
    assert statements(TRADES, replace(DONE, compress_after=None, segment_by="", order_by=""), OLD) == []
    assert statements(TRADES, Hypertable(DAY), APACHE) == []


@pytest.mark.parametrize(
    ("found", "wanted"),
    [
        (
            replace(DONE, chunk_interval=7 * DAY),
            [f"SELECT set_chunk_time_interval({NAME}, INTERVAL '1 days')"],
        ),
        (replace(DONE, segment_by=""), [COLUMNSTORE]),
        (replace(DONE, order_by="time DESC"), [COLUMNSTORE]),
        (replace(DONE, compress_after=7 * DAY), [REMOVE_COMPRESS, COMPRESS]),
        (replace(DONE, compress_after=timedelta(0)), [REMOVE_COMPRESS, COMPRESS]),
        (replace(DONE, compress_after=None), [COMPRESS]),
        (replace(DONE, drop_after=30 * DAY), [REMOVE_DROP, DROP]),
        (replace(DONE, drop_after=None), [DROP]),
    ],
    ids=["chunks", "segments", "order", "compress", "by creation", "not compressed", "drop", "kept"],
)
def test_what_differs_is_changed_and_nothing_else(found: Hypertable, wanted: list[str]) -> None:
    assert statements(TRADES, found) == wanted


def test_a_policy_that_is_set_no_more_is_removed() -> None:
    forever = replace(TRADES, compress_after=None, drop_after=None)
    assert statements(forever, DONE) == [REMOVE_COMPRESS, REMOVE_DROP]
    assert statements(forever, None) == [CREATE]
    assert statements(forever, replace(DONE, compress_after=None, drop_after=None)) == []


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ('"time" DESC,trade_id', "time DESC, trade_id"),
        ("time desc nulls first , trade_id ASC NULLS LAST", "time desc, trade_id"),
        ("symbol,timeframe", '"symbol", "timeframe"'),
        (None, ""),
    ],
)
def test_lists_of_columns_that_mean_the_same_are_equal(one: str | None, other: str) -> None:
    assert normalized(one) == normalized(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [("time DESC", "time"), ("time DESC NULLS LAST", "time DESC"), ("a,b", "b,a"), ("time NULLS FIRST", "time")],
)
def test_lists_of_columns_that_mean_something_else_are_not(one: str, other: str) -> None:
    assert normalized(one) != normalized(other)


def test_names_that_need_quotes_have_them() -> None:
    assert layout(replace(TRADES, keys=("Symbol", "time_frame"), time="event time")) == (
        '"Symbol", time_frame',
        '"event time" DESC, trade_id',
    )


@pytest.mark.parametrize(("span", "text"), [(DAY / 2, "720 minutes"), (DAY, "1 days"), (730 * DAY, "730 days")])
def test_intervals_are_written_in_days_where_they_can_be(span: timedelta, text: str) -> None:
    assert interval(span) == text


@pytest.mark.parametrize(
    ("extension", "notice"),
    [
        (FULL, None),
        (NONE, None),
        (Extension("2.18.0", None, "timescale"), None),
        (Extension("2.19.0-dev", None, "timescale"), None),
        (APACHE, "Apache licence.*`featurectl maintain` drops old chunks"),
        (OLD, "2.17.2 has no columnstore.*upgrade it to 2.18"),
        (TOO_OLD, "2.12.1 is too old: time tables stay ordinary tables"),
    ],
)
def test_what_an_extension_lacks_is_said(extension: Extension, notice: str | None) -> None:
    assert (extension.notice is None) == (notice is None)
    assert notice is None or re.search(notice, extension.notice or "")
