"""Point-in-time joins, by the real path from file to Arrow, against an oracle that looks at every row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from psycopg import sql

from featurectl.core import offline
from featurectl.core.arrow import ArrowConnection
from featurectl.core.catalog import Field, Selection, View
from featurectl.core.entity import EntityId
from featurectl.core.retrieval import PointInTime, Strategy
from featurectl.core.spine import read_spine
from featurectl.core.times import Window
from featurectl.errors import InputFileError
from tests.market import HOUR, MICROSECOND, START, Market, close_of, random_bars, select

TTL = HOUR
NOW = START + timedelta(days=100)
Row = tuple[str | None, str | None, datetime, datetime | None, float | None]


def history(
    market: Market, name: str, rows: Sequence[Row], ttl: timedelta | None = TTL, *, indexed: bool = True
) -> View:
    """Make a table of the test's own, duplicates and nulls allowed, and return a view of its one feature ``name``."""
    table = f"public.{name}_history"
    columns = "symbol text, timeframe text, at timestamptz, written timestamptz, value float8"
    market.connection.execute(f"CREATE TABLE {table} ({columns})".encode())
    if indexed:
        market.connection.execute(f"CREATE INDEX ON {table} (symbol, timeframe, at DESC)".encode())
    with market.connection.cursor() as cursor:
        cursor.executemany(f"INSERT INTO {table} VALUES (%s, %s, %s, %s, %s)".encode(), rows)
    return replace(
        market.view,
        name=f"{name}_view",
        source_table=table,
        timestamp_column="at",
        created_column="written",
        ttl_seconds=ttl.total_seconds() if ttl else 0,
        fields=(Field(name, "DOUBLE", "double precision", "value", "", {}),),
    )


def oracle(rows: Sequence[Row], keys: Mapping[str, Any], at: datetime | None, ttl: timedelta | None) -> float | None:
    """Look at every row: the one with the latest event, then the latest write, of those that may serve."""
    serving = [
        (event, written or datetime.min.replace(tzinfo=UTC), value)
        for symbol, timeframe, event, written, value in rows
        if None not in keys.values()
        and (keys.get("symbol", symbol), keys.get("timeframe", timeframe)) == (symbol, timeframe)
        and at is not None
        and event <= at
        and (ttl is None or event >= at - ttl)
    ]
    return max(serving, key=lambda row: row[:2])[2] if serving else None


def joined(arrow: ArrowConnection, path: Path, *views: View, keys: Sequence[str] = ("symbol", "timeframe")) -> pa.Table:
    """Do what `featurectl get-offline --spine` does, by either strategy, and expect the same."""
    spine, selections = read_spine(path, keys), [select(view) for view in views]
    tables = []
    for strategy in (Strategy.SERVER, Strategy.LOCAL):
        with arrow.transaction():
            join = PointInTime(spine, tuple(map(offline.joined_view, selections)), strategy)
            tables.append(join.read(arrow).table())
    assert tables[0].schema == tables[1].schema
    assert tables[0].to_pylist() == tables[1].to_pylist()
    return tables[0]


def parquet(path: Path, **columns: Any) -> Path:
    table = pa.table(columns)
    pyarrow.parquet.write_table(table, path / "spine.parquet")
    return path / "spine.parquet"


def csv(path: Path, *lines: str) -> Path:
    (path / "spine.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path / "spine.csv"


def instants(times: Sequence[datetime | None]) -> pa.Array:
    return pa.array(times, pa.timestamp("us", tz="UTC"))


# --- the oracle ------------------------------------------------------------------------------------------------------


def random_history(random: np.random.Generator, count: int) -> list[Row]:
    """Return rows of two symbols in two timeframes at few instants, so that events collide and TTL edges are met."""
    stamps = random.permutation(count)  # no two rows are written at one instant
    return [
        (
            str(random.choice(["A", "B"])),
            str(random.choice(["1h", "4h"])),
            random_instant(random),
            None if stamps[at] == 0 else NOW + int(stamps[at]) * MICROSECOND,
            None if random.random() < 0.1 else float(at),
        )
        for at in range(count)
    ]


def random_instant(random: np.random.Generator) -> datetime:
    """Return one of some half hours, at times a microsecond beside it."""
    return START + int(random.integers(0, 24)) * HOUR / 2 + int(random.choice([-1, 0, 0, 0, 1])) * MICROSECOND


@pytest.mark.parametrize("seed", range(12))
def test_a_join_is_what_the_oracle_says(market: Market, arrow: ArrowConnection, tmp_path: Path, seed: int) -> None:
    random = np.random.default_rng(seed)
    ttls: list[timedelta | None] = [None, HOUR, 2 * HOUR + MICROSECOND, timedelta(days=1), timedelta(0, 1e-6), HOUR / 2]
    pasts = [random_history(random, int(random.integers(0, 120))) for _ in range(int(random.integers(1, 4)))]
    choice = [ttls[int(random.integers(0, len(ttls)))] for _ in pasts]
    views = [
        history(market, f"f{number}", past, ttl, indexed=bool(random.random() < 0.7))
        for number, (past, ttl) in enumerate(zip(pasts, choice, strict=True))
    ]
    count = 200
    symbols = [None if random.random() < 0.05 else str(random.choice(["A", "B", "C"])) for _ in range(count)]
    timeframes = [None if random.random() < 0.05 else str(random.choice(["1h", "4h"])) for _ in range(count)]
    times = [None if random.random() < 0.05 else random_instant(random) for _ in range(count)]
    labels = random.normal(size=count)
    path = parquet(
        tmp_path,
        label=labels,
        timeframe=pa.array(timeframes, pa.string()),
        event_timestamp=instants(times),
        symbol=pa.array(symbols, pa.string()),
    )
    found = joined(arrow, path, *views)
    names = [view.fields[0].name for view in views]
    assert found.column_names == ["label", "timeframe", "event_timestamp", "symbol", *names]
    assert found["label"].to_pylist() == labels.tolist(), f"seed {seed}: rows or their order changed"
    assert found["event_timestamp"].to_pylist() == times
    for name, past, ttl in zip(names, pasts, choice, strict=True):
        keys = [
            {"symbol": symbol, "timeframe": timeframe} for symbol, timeframe in zip(symbols, timeframes, strict=True)
        ]
        wanted = [oracle(past, key, at, ttl) for key, at in zip(keys, times, strict=True)]
        assert found[name].to_pylist() == wanted, f"seed {seed}, {name}, ttl {ttl}"


@pytest.mark.parametrize("seed", range(8))
def test_a_window_is_what_the_oracle_says(market: Market, arrow: ArrowConnection, seed: int) -> None:
    """One row for each entity and event time of any of the views, entities in the order asked for, times ascending."""
    random = np.random.default_rng(seed)
    pasts = [random_history(random, 80) for _ in range(1 + seed % 2)]
    views = [history(market, f"f{number}", past, 3 * HOUR) for number, past in enumerate(pasts)]
    first, last = sorted(random_instant(random) for _ in range(2))
    window = Window(first if random.random() < 0.8 else None, last if random.random() < 0.8 else None)
    entities = [EntityId("B", "1h"), EntityId("C", "1h"), EntityId("A", "4h"), EntityId("A", "1h")][: 2 + seed % 3]
    found = arrow.table(offline.window_statement([select(view) for view in views], entities, window))
    wanted = []
    for entity in entities:
        keys = {"symbol": entity.symbol, "timeframe": entity.timeframe}
        events = {row[2] for past in pasts for row in past if row[:2] == (entity.symbol, entity.timeframe)}
        inside = [event for event in events if (window.start or event) <= event <= (window.end or event)]
        wanted += [
            (
                str(entity),
                entity.symbol,
                entity.timeframe,
                event,
                *(oracle(past, keys, event, 3 * HOUR) for past in pasts),
            )
            for event in sorted(inside)
        ]
    assert [tuple(row.values()) for row in found.to_pylist()] == wanted, f"seed {seed}, {window}"


# --- the edges, one by one -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ttl", [TTL, timedelta(days=1), timedelta(seconds=1, microseconds=7)], ids=str)
@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_a_value_serves_from_its_event_to_the_end_of_its_ttl_to_the_microsecond(
    market: Market, arrow: ArrowConnection, tmp_path: Path, kind: str, ttl: timedelta
) -> None:
    view = history(market, "f", [("A", "1h", START, NOW, 1.0)], ttl)
    expected = {
        -MICROSECOND: None,
        timedelta(0): 1.0,
        MICROSECOND: 1.0,
        ttl - MICROSECOND: 1.0,
        ttl: 1.0,
        ttl + MICROSECOND: None,
    }
    times = [START + offset for offset in expected]
    if kind == "parquet":
        path = parquet(tmp_path, entity_id=["A_1h"] * len(times), event_timestamp=instants(times))
    else:
        path = csv(tmp_path, "entity_id,event_timestamp", *(f"A_1h,{at.isoformat()}" for at in times))
    found = joined(arrow, path, view)
    assert found["event_timestamp"].to_pylist() == times
    assert found["f"].to_pylist() == list(expected.values())


def test_a_view_without_ttl_serves_for_ever(market: Market, arrow: ArrowConnection, tmp_path: Path) -> None:
    view = history(market, "f", [("A", "1h", datetime(1990, 1, 1, tzinfo=UTC), NOW, 1.0)], None)
    path = parquet(
        tmp_path, entity_id=["A_1h", "A_1h"], event_timestamp=instants([NOW, datetime(1989, 1, 1, tzinfo=UTC)])
    )
    assert joined(arrow, path, view)["f"].to_pylist() == [1.0, None]


def test_a_newer_null_hides_an_older_value(market: Market, arrow: ArrowConnection, tmp_path: Path) -> None:
    """The newest row counts, not the newest value: a value that became undefined is not known any more."""
    view = history(market, "f", [("A", "1h", START, NOW, 1.0), ("A", "1h", START + MICROSECOND, NOW, None)])
    path = parquet(tmp_path, entity_id=["A_1h", "A_1h"], event_timestamp=instants([START, START + MICROSECOND]))
    assert joined(arrow, path, view)["f"].to_pylist() == [1.0, None]


def test_of_equal_events_the_latest_write_counts_and_none_is_doubled(
    market: Market, arrow: ArrowConnection, tmp_path: Path
) -> None:
    stamps = [NOW, None, NOW + MICROSECOND, NOW - HOUR]
    view = history(market, "f", [("A", "1h", START, stamp, float(at)) for at, stamp in enumerate(stamps)])
    path = parquet(tmp_path, entity_id=["A_1h"], event_timestamp=instants([START]))
    assert joined(arrow, path, view)["f"].to_pylist() == [2.0]
    window = arrow.table(offline.window_statement([select(view)], [EntityId("A", "1h")], Window(START, START)))
    assert window["f"].to_pylist() == [2.0]


def test_rows_of_a_spine_that_are_equal_stay_as_many_and_where_they_are(
    market: Market, arrow: ArrowConnection, tmp_path: Path
) -> None:
    view = history(market, "f", [("A", "1h", START, NOW, 1.0), ("B", "1h", START, NOW, 2.0)])
    ids = ["B_1h", "A_1h", "B_1h", "B_1h", "C_1h", "A_1h"] * 50
    found = joined(arrow, parquet(tmp_path, entity_id=ids, event_timestamp=instants([START] * 300)), view)
    assert found["entity_id"].to_pylist() == ids
    assert found["f"].to_pylist() == [2.0, 1.0, 2.0, 2.0, None, 1.0] * 50


def test_null_keys_and_null_times_keep_their_rows_without_features(
    market: Market, arrow: ArrowConnection, tmp_path: Path
) -> None:
    view = history(
        market, "f", [("A", "1h", START, NOW, 1.0), (None, "1h", START, NOW, 2.0), ("A", None, START, NOW, 3.0)]
    )
    ids = [None, "A_1h", "A_1h", None]
    found = joined(arrow, parquet(tmp_path, entity_id=ids, event_timestamp=instants([START, START, None, None])), view)
    assert (found["entity_id"].to_pylist(), found["f"].to_pylist()) == (ids, [None, 1.0, None, None])
    nothing = parquet(tmp_path, symbol=pa.nulls(2), timeframe=["1h", "1h"], event_timestamp=instants([START] * 2))
    assert joined(arrow, nothing, view)["f"].to_pylist() == [None, None]


@pytest.mark.parametrize("times", ["2024-01-01 00:00:00", "2024-01-01T00:00:00.000000+00:00", "2024-01-01T01:00+01:00"])
def test_blank_cells_of_a_csv_are_null_keys_and_null_times(
    market: Market, arrow: ArrowConnection, tmp_path: Path, times: str
) -> None:
    """However the other times are spelled."""
    view = history(market, "f", [("A", "1h", START, NOW, 1.0)])
    path = csv(tmp_path, "entity_id,event_timestamp,label", f"A_1h,{times},1", f",{times},2", "A_1h,,3", ",,4")
    found = joined(arrow, path, view)
    assert found["label"].to_pylist() == [1, 2, 3, 4]
    assert found["f"].to_pylist() == [1.0, None, None, None]
    path = csv(tmp_path, "symbol,timeframe,event_timestamp", f"A,1h,{times}", f",1h,{times}", f"A,,{times}")
    assert joined(arrow, path, view)["f"].to_pylist() == [1.0, None, None]


def test_symbols_of_digits_are_text(market: Market, arrow: ArrowConnection, tmp_path: Path) -> None:
    """Exchanges of stocks number theirs: 005930 is a symbol, and not 5930."""
    view = history(market, "f", [("005930", "1d", START, NOW, 1.0), ("1", "1d", START, NOW, 2.0)])
    path = csv(
        tmp_path, "symbol,timeframe,event_timestamp", "005930,1d,2024-01-01", "5930,1d,2024-01-01", "1,1d,2024-01-01"
    )
    found = joined(arrow, path, view)
    assert found["symbol"].to_pylist() == ["005930", "5930", "1"]
    assert found["f"].to_pylist() == [1.0, None, 2.0]
    numbers = parquet(tmp_path, symbol=[1, 5930], timeframe=["1d", "1d"], event_timestamp=instants([START] * 2))
    assert joined(arrow, numbers, view)["f"].to_pylist() == [2.0, None]


@pytest.mark.parametrize("kind", [pa.large_string(), pa.dictionary(pa.int8(), pa.string()), pa.string_view()], ids=str)
def test_any_kind_of_text_is_a_key(market: Market, arrow: ArrowConnection, tmp_path: Path, kind: pa.DataType) -> None:
    view = history(market, "f", [("A", "1h", START, NOW, 1.0)])
    symbols = pa.array(["A", "B", None]).cast(kind)
    timeframes = pa.array(["1h"] * 3).cast(kind)
    path = parquet(tmp_path, symbol=symbols, timeframe=timeframes, event_timestamp=instants([START] * 3))
    assert joined(arrow, path, view)["f"].to_pylist() == [1.0, None, None]


def test_times_of_any_unit_and_zone_are_instants(market: Market, arrow: ArrowConnection, tmp_path: Path) -> None:
    view = history(market, "f", [("A", "1h", START, NOW, 1.0)])
    times = [START, START - timedelta(seconds=1)]
    for unit in ("s", "ms", "us", "ns"):
        for zone in (None, "UTC", "America/New_York"):
            stored = instants(times).cast(pa.timestamp(unit, tz=zone))
            found = joined(arrow, parquet(tmp_path, entity_id=["A_1h"] * 2, event_timestamp=stored), view)
            assert found["f"].to_pylist() == [1.0, None], (unit, zone)
            assert found["event_timestamp"].to_pylist() == times, (unit, zone)


def test_an_empty_spine_gives_the_columns_and_no_rows(market: Market, arrow: ArrowConnection, tmp_path: Path) -> None:
    view = history(market, "f", [("A", "1h", START, NOW, 1.0)])
    found = joined(arrow, csv(tmp_path, "entity_id,event_timestamp,label"), view)
    assert (found.column_names, found.num_rows) == (["entity_id", "event_timestamp", "label", "f"], 0)


def test_a_view_of_symbols_serves_every_timeframe(market: Market, arrow: ArrowConnection, tmp_path: Path) -> None:
    bars = history(market, "f", [("A", "1h", START, NOW, 1.0)])
    scores = replace(
        history(market, "g", [("A", None, START, NOW, 7.0), ("B", None, START, NOW, 8.0)]), join_keys=("symbol",)
    )
    path = parquet(tmp_path, entity_id=["A_1h", "A_4h", "B_1h", "C_1h"], event_timestamp=instants([START] * 4))
    found = joined(arrow, path, bars, scores)
    assert found["f"].to_pylist() == [1.0, None, None, None]
    assert found["g"].to_pylist() == [7.0, 7.0, 8.0, None]


def test_a_view_over_a_query_is_joined(market: Market, arrow: ArrowConnection, tmp_path: Path) -> None:
    view = history(market, "f", [("A", "1h", START, NOW, 1.0), ("A", "1h", START + HOUR, NOW, 2.0)])
    view = replace(view, source_table=None, source_query="SELECT * FROM public.f_history WHERE value < 2")
    path = parquet(tmp_path, entity_id=["A_1h"], event_timestamp=instants([START + HOUR]))
    assert joined(arrow, path, view)["f"].to_pylist() == [1.0]


def test_names_of_columns_need_no_care(market: Market, arrow: ArrowConnection, tmp_path: Path) -> None:
    view = history(market, "f", [("A", "1h", START, NOW, 1.0)])
    odd = {'a "b" 100%s': [5], "order": [6], "s": [7], "view_0": [8], "Ünïcode {x}": [9]}
    found = joined(arrow, parquet(tmp_path, entity_id=["A_1h"], event_timestamp=instants([START]), **odd), view)
    assert found.column_names == ["entity_id", "event_timestamp", *odd, "f"]
    assert [found[name][0].as_py() for name in odd] == [5, 6, 7, 8, 9]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["entity_id,when", "A_1h,2024-01-01"], "has no event_timestamp column; columns: entity_id, when"),
        (["event_timestamp", "2024-01-01"], "has neither entity_id nor symbol and timeframe"),
        (["symbol,event_timestamp", "A,2024-01-01"], "has neither entity_id nor timeframe"),
        (["entity_id,event_timestamp", "A_1h,2024-01-01", "A1h,2024-01-01"], "'A1h' is not an entity id"),
        (["entity_id,event_timestamp", "A_1h,2024-01-01", "A_1h,soon"], "'soon' in row 2 is not ISO 8601"),
        (["entity_id,event_timestamp", "A_1h,1704067200"], "event_timestamp holds int64, not times; write ISO 8601"),
        (
            ["entity_id,event_timestamp,symbol,timeframe", "A_1h,2024-01-01,A,1h", "A_1h,2024-01-01,A,", ",,B,"],
            r"spine\.csv: timeframe null in row 2 is not that of entity_id 'A_1h'; rename or drop column 'timeframe'",
        ),
        (
            ["entity_id,event_timestamp,symbol", ",2024-01-01,", ",2024-01-01,A", "A_1h,2024-01-01,B"],
            "symbol 'A' in row 2 is not that of entity_id null; rename or drop column 'symbol'",
        ),
        (["entity_id,event_timestamp,symbol,timeframe", "7,2024-01-01,A,1h"], "'7' is not an entity id"),
    ],
)
def test_a_spine_that_is_wrong_says_where(tmp_path: Path, lines: list[str], message: str) -> None:
    with pytest.raises(InputFileError, match=message):
        read_spine(csv(tmp_path, *lines), ["symbol", "timeframe"])


def test_names_beside_ids_that_say_the_same_are_columns_like_others(
    market: Market, arrow: ArrowConnection, tmp_path: Path
) -> None:
    rows: list[Row] = [(symbol, "1h", START, NOW, value) for symbol, value in (("A", 1.0), ("B", 2.0))]
    by_series, by_symbol = history(market, "f", rows), replace(history(market, "g", rows), join_keys=("symbol",))
    lines = ["entity_id,event_timestamp,timeframe,symbol", "B_1h,{0},1h,B", ",{0},,", "A_1h,{0},1h,A"]
    path = csv(tmp_path, *(line.format(START.isoformat()) for line in lines))
    found = joined(arrow, path, by_series, by_symbol)
    assert found.column_names == ["entity_id", "event_timestamp", "timeframe", "symbol", "f", "g"]
    assert found["f"].to_pylist() == found["g"].to_pylist() == [2.0, None, 1.0]
    path.write_text(path.read_text().replace("1h,A", "4h,A"))
    for keys in (["symbol", "timeframe"], ["symbol"]):
        with pytest.raises(InputFileError, match="timeframe '4h' in row 3 is not that of entity_id 'A_1h'"):
            read_spine(path, keys)


def test_a_symbol_is_an_id_of_a_spine_where_no_key_is_a_timeframe(
    market: Market, arrow: ArrowConnection, tmp_path: Path
) -> None:
    """Then it says no timeframe, and a column of that name may say any."""
    rows: list[Row] = [(symbol, None, START, NOW, value) for symbol, value in (("A", 1.0), ("B", 2.0))]
    view = replace(history(market, "f", rows), join_keys=("symbol",))
    times = instants([START] * 3)
    for columns in ({}, {"symbol": ["B", "A", "B"]}, {"timeframe": ["1h", None, "4h"]}):
        path = parquet(tmp_path, entity_id=["B", "A", "B_1h"], event_timestamp=times, **columns)
        if "timeframe" in columns:
            with pytest.raises(InputFileError, match="timeframe '4h' in row 3 is not that of entity_id 'B_1h'"):
                read_spine(path, ["symbol"])
        else:
            assert joined(arrow, path, view, keys=["symbol"])["f"].to_pylist() == [2.0, 1.0, 2.0]
    path = parquet(tmp_path, entity_id=["B", "A"], event_timestamp=times[:2], symbol=["B", "B"])
    with pytest.raises(InputFileError, match="symbol 'B' in row 2 is not that of entity_id 'A'"):
        read_spine(path, ["symbol"])


def test_an_entity_id_that_is_a_key_itself_says_nothing_of_others(tmp_path: Path) -> None:
    path = parquet(tmp_path, entity_id=["17"], event_timestamp=instants([START]), symbol=["A"])
    assert read_spine(path, ["entity_id", "symbol"]).keys.to_pylist() == [{"entity_id": "17", "symbol": "A"}]
    with pytest.raises(InputFileError, match="symbol 'A' in row 1 is not that of entity_id '17'"):
        read_spine(path, ["symbol"])


def test_a_training_set_is_the_features_at_their_closes(market: Market, arrow: ArrowConnection) -> None:
    series = random_bars(np.random.default_rng(0), 60)
    market.ingest(series, now=NOW)
    market.compute(now=NOW)
    window = Window(close_of(series, 20), close_of(series, 50))
    selection = Selection(market.view, ("macd", "rsi_14"))
    found = arrow.table(offline.window_statement([selection], [EntityId("BTCUSDT", "1h")], window)).to_pylist()
    features = market.features()
    assert [row["event_timestamp"] for row in found] == [close_of(series, at) for at in range(20, 51)]
    for row in found:
        wanted = features[row["event_timestamp"]]
        assert (row["macd"], row["rsi_14"]) == (wanted["macd"], wanted["rsi_14"])


def test_a_join_walks_an_index_of_the_history(market: Market, arrow: ArrowConnection, tmp_path: Path) -> None:
    """Its cost is that of the spine, not of the history."""
    market.connection.execute(
        b"INSERT INTO features.technical_indicators (symbol, timeframe, event_timestamp) "
        b"SELECT 'A', '1h', %s + n * interval '1 hour' FROM generate_series(1, 5000) AS n",
        (START,),
    )
    market.connection.execute(b"ANALYZE features.technical_indicators")
    spine = read_spine(
        parquet(tmp_path, entity_id=["A_1h"], event_timestamp=instants([START + 9 * HOUR])), ["symbol", "timeframe"]
    )
    join = PointInTime(spine, (offline.joined_view(select(market.view)),))
    plan = market.connection.execute(sql.SQL("EXPLAIN (COSTS OFF) {}").format(join.statement(arrow))).fetchall()
    text = "\n".join(line for (line,) in plan)
    assert "Index Scan Backward" in text and "Seq Scan on technical_indicators" not in text, text


def test_spine_columns_that_can_not_be_named_are_refused(tmp_path: Path) -> None:
    times = pa.array([datetime(2024, 1, 1, tzinfo=UTC)])
    for message, names in {"two columns 'more'": ["more", "more"], "a column without a name": ["", "more"]}.items():
        table = pa.table([["BTCUSDT_1h"], times, [1], [2]], names=["entity_id", "event_timestamp", *names])
        pyarrow.parquet.write_table(table, tmp_path / "spine.parquet")
        with pytest.raises(InputFileError, match=message):
            read_spine(tmp_path / "spine.parquet", ["symbol", "timeframe"])


def test_spine_columns_of_any_type_pass_through(market: Market, arrow: ArrowConnection, tmp_path: Path) -> None:
    """They are not even sent to the database."""
    view = history(market, "f", [("A", "1h", START, NOW, 1.0)])
    columns = {
        "words": pa.array(["x", None]).dictionary_encode(),
        "lists": pa.array([[1], None]),
        "large": pa.array([2**63 + 1, 0], pa.uint64()),
        "small": pa.array([1, None], pa.int8()),
        "nested": pa.array([{"a": 1}, None]),
        "__featurectl_row": pa.array([7, 8]),
    }
    path = parquet(tmp_path, entity_id=["A_1h", "B_1h"], event_timestamp=instants([START, START]), **columns)
    found = joined(arrow, path, view)
    for name, values in columns.items():
        assert found.column(name).combine_chunks() == values, name
    assert found["f"].to_pylist() == [1.0, None]
