"""Files of signals: whose scores they are and what they are called, which rows are refused and why."""

from __future__ import annotations

import io
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

from featurectl.core.ticks import Series, TickFile, read_signals
from featurectl.errors import InputFileError

NOW = datetime(2024, 9, 1, tzinfo=UTC)
DAY = 1722470400  # 2024-08-01T00:00:00Z
RANGES = {"news": (-1.0, 1.0), "fear": (0.0, 100.0)}


def read(content: str, name: str = "-", **options: Any) -> TickFile:
    arguments = {"symbol": None, "signals": (), "ranges": RANGES, "now": NOW, **options}
    return read_signals(io.BytesIO(content.encode()), name=name, **arguments)


def lines(*rows: str, header: str = "time,symbol,name,score") -> str:
    return "\n".join([header, *rows]) + "\n"


def rows(series: Series) -> list[tuple[int, float]]:
    """The rows of a series as (seconds, score)."""
    seconds = series.columns["time"] // 1_000_000 - DAY
    return list(zip(seconds.tolist(), series.columns["score"].tolist(), strict=True))


def content_of(file: TickFile) -> dict[tuple[str, str], list[tuple[int, float]]]:
    """What a file holds, by symbol and name."""
    return {(series.key["symbol"], series.key["name"]): rows(series) for series in file.series}


def test_symbols_and_names_come_from_columns() -> None:
    file = read(lines(f"{DAY},eth/usdt,news,0.5", f"{DAY},BTCUSDT,news,-1", f"{DAY + 9},BTCUSDT,fear,7"))
    assert (file.layout, file.rows_read, file.rejects.counts, file.notes) == ("generic", 3, {}, ())
    assert content_of(file) == {
        ("BTCUSDT", "fear"): [(9, 7.0)],
        ("BTCUSDT", "news"): [(0, -1.0)],
        ("ETHUSDT", "news"): [(0, 0.5)],
    }
    assert list(content_of(file)) == sorted(content_of(file))
    assert file.series[0].columns["time"].dtype == np.int64


FEAR = lines(
    f"{DAY},30,Fear,2024-08-01", f"{DAY + 90000},15,Fear,2024-08-02 ", header="timestamp,value,classification,date"
)


def test_a_file_without_symbol_is_the_markets_and_its_name_the_signals() -> None:
    file = read(FEAR, name="data/fear_greed_index.csv.gz")
    assert content_of(file) == {("*", "fear_greed_index"): [(0, 30.0), (90000, 15.0)]}
    assert file.warnings == ()
    assert file.notes == (
        "signal fear_greed_index, after the file's name",
        "no symbol column: scores of the whole market (symbol *)",
    )


def test_options_say_symbol_and_name() -> None:
    file = read(FEAR, name="fear_greed_index.csv", symbol="btc-usdt", signals=["fear"])
    assert content_of(file) == {("BTCUSDT", "fear"): [(0, 30.0), (90000, 15.0)]}
    assert file.notes == ()
    assert content_of(read(FEAR, symbol="*", signals=["fear"])).keys() == {("*", "fear")}


def test_a_date_agrees_with_every_instant_of_its_day_and_no_other() -> None:
    late = FEAR.replace("2024-08-02 ", "2024-08-03 ").replace(f"{DAY},", f"{DAY + 86399},")
    file = read(late, signals=["fear"])
    assert [seconds for seconds, _ in content_of(file)["*", "fear"]] == [86399, 90000]
    assert file.warnings == ()  # 23 hours apart
    file = read(late.replace("2024-08-03", "2024-08-04"), signals=["fear"])
    assert file.warnings == ("1 row: `date` and `timestamp` disagree; `timestamp` was used",)


def test_a_time_of_day_agrees_to_the_second() -> None:
    header = "date,timestamp,score"
    content = lines(f"2024-08-01 00:00:00,{DAY}.5,1", f"2024-08-01 00:00:01,{DAY + 3},1", header=header)
    file = read(content, signals=["x"])
    assert file.warnings == ("1 row: `date` and `timestamp` disagree; `timestamp` was used",)


def test_a_wide_file_has_a_column_for_each_signal() -> None:
    content = lines(
        f"{DAY},A,0.5,7,x",
        f"{DAY + 1},A,,8,",
        f"{DAY + 2},A,,,",
        f"{DAY + 3},B,2,9,",
        header="time,symbol,News,fear,note",
    )
    file = read(content, signals=["news", "fear"])
    assert file.layout == "wide"
    assert content_of(file) == {
        ("A", "fear"): [(0, 7.0), (1, 8.0)],
        ("A", "news"): [(0, 0.5)],
        ("B", "fear"): [(3, 9.0)],
    }
    assert file.rejects.table.select(["row", "reason", "detail"]).to_pylist() == [
        {"row": 3, "reason": "non-finite", "detail": "column 'News': blank, column 'fear': blank"},
        {"row": 4, "reason": "score out of range", "detail": "news is 2, declared -1 to 1"},
    ]
    assert content_of(read(content, signals=["fear"])) == {
        ("A", "fear"): [(0, 7.0), (1, 8.0)],
        ("B", "fear"): [(3, 9.0)],
    }
    with pytest.raises(InputFileError, match=r"columns not recognized: .*; needed: a column 'social'"):
        read(content, signals=["news", "social"])


@pytest.mark.parametrize(
    ("row", "rejected"),
    [
        ("1,A,x,7", [("unparsable", "column 'news': 'x'")]),
        ("1,A,inf,7", [("non-finite", "column 'news': 'inf'")]),
        ("1,A,2,7", [("score out of range", "news is 2, declared -1 to 1")]),
        ("1,A,x,-7", [("unparsable", "column 'news': 'x'"), ("score out of range", "fear is -7, declared 0 to 100")]),
        ("1,A,x,", [("unparsable", "column 'news': 'x'")]),
        ("1,A,,", [("non-finite", "column 'news': blank, column 'fear': blank")]),
        ("1,,1,7", [("unparsable", "column 'symbol': blank")]),
        ("99999999,A,1,7", [("time out of range", "read as 2027-10-02T09:46:39Z")]),
    ],
)
def test_a_bad_score_leaves_the_others_of_its_row_alone(row: str, rejected: list[tuple[str, str]]) -> None:
    seconds, rest = row.split(",", 1)
    content = lines(f"{DAY},A,0.5,6", f"{DAY + int(seconds)},{rest}", header="time,symbol,news,fear")
    file = read(content, signals=["news", "fear"])
    table = file.rejects.table.select(["row", "reason", "detail"]).to_pylist()
    assert table == [{"row": 2, "reason": reason, "detail": detail} for reason, detail in rejected]
    assert (sum(file.faults.values()), file.rows_read) == (len(rejected), 2)
    kept = [(1, 7.0)] if row.endswith(",7") and "news" in rejected[0][1] else []
    assert content_of(file) == {("A", "news"): [(0, 0.5)], ("A", "fear"): [(0, 6.0), *kept]}


def test_each_score_of_a_wide_file_has_duplicates_of_its_own() -> None:
    content = [f"{DAY},A,0.5,7", f"{DAY},A,x,8", f"{DAY},A,,8", f"{DAY},A,0.5,"]
    file = read(lines(*content, header="time,symbol,News,fear"), signals=["news", "fear"])
    assert content_of(file) == {("A", "news"): [(0, 0.5)], ("A", "fear"): [(0, 8.0)]}
    assert file.duplicates == 2
    assert file.rejects.table.select(["row", "reason", "detail"]).to_pylist() == [
        {"row": 1, "reason": "duplicate, disagrees", "detail": "column 'fear': row 3 kept"},
        {"row": 2, "reason": "unparsable", "detail": "column 'News': 'x'"},
    ]


@pytest.mark.parametrize(
    ("row", "reason", "detail"),
    [
        ("soon,A,news,0", "unparsable", "column 'time': 'soon'"),
        (f"{DAY},,news,0", "unparsable", "column 'symbol': blank"),
        (f"{DAY},A,,0", "unparsable", "column 'name': blank"),
        (f"{DAY},A,my news,0", "unparsable", "column 'name': 'my news'"),
        (f"{DAY},A,news,high", "unparsable", "column 'score': 'high'"),
        (f"{DAY},A,news", "wrong number of fields", "3 fields, not 4"),
        (f"{DAY},A,news,", "non-finite", "column 'score': blank"),
        (f"{DAY},A,news,inf", "non-finite", "column 'score': 'inf'"),
        (f"{DAY},A,news,1.01", "score out of range", "news is 1.01, declared -1 to 1"),
        (f"{DAY},A,fear,-0.5", "score out of range", "fear is -0.5, declared 0 to 100"),
        ("1999-01-01,A,news,0", "time out of range", "read as 1999-01-01T00:00:00Z"),
        ("2024-09-02,A,news,0", "time out of range", "read as 2024-09-02T00:00:00Z"),
        (f"{DAY + 9},A,news,0.75", "duplicate, disagrees", None),
    ],
)
def test_a_row_is_refused_with_its_reason(row: str, reason: str, detail: str | None) -> None:
    file = read(lines(f"{DAY + 9},A,news,0.5", row))
    assert file.rejects.counts == {reason: 1} == file.faults
    assert file.rejects.table.column("row").to_pylist() == [2 if detail else 1]
    assert file.rejects.table.column("detail").to_pylist() == [detail or "row 2 kept"]
    assert content_of(file) == {("A", "news"): [(9, 0.5 if detail else 0.75)]}


def test_bounds_belong_to_the_range_and_other_signals_have_none() -> None:
    file = read(lines(f"{DAY},A,news,1", f"{DAY + 1},A,news,-1", f"{DAY},A,other,1e9"))
    assert (len(file.rejects), len(file.series)) == (0, 2)


def test_scores_that_say_the_same_again_are_counted() -> None:
    file = read(lines(f"{DAY},A,news,1", f"{DAY}000,a,news,1.0", f"{DAY},B,news,1", f"{DAY},A,other,1"))
    assert (file.duplicates, file.rejects.counts, len(file.series)) == (1, {}, 3)


@pytest.mark.parametrize(
    ("content", "name", "options", "message"),
    [
        (lines("1,2", header="time,level"), "x.csv", {}, "columns not recognized: time, level; needed: a time column"),
        (lines("1,2", header="time,level"), "x.csv", {"signals": ["y"]}, "needed: a column 'y', or score or value"),
        (lines("1,2", header="day,score"), "x.csv", {}, "columns not recognized: day, score"),
        ("1,2\n", "x.csv", {}, "has no header row; add one"),
        (FEAR, "-", {}, "no column names the signal, and stdin has no name; give --name"),
        (FEAR, "fear-greed 2024.csv", {}, "and 'fear-greed 2024' is no name for a signal; .* give --name"),
        (FEAR, "x.csv", {"signals": ["a b"]}, "'a b' is no name for a signal"),
        (FEAR, "BTCUSDT_news.csv", {}, r"BTCUSDT in the file's name; give --symbol BTCUSDT, or --symbol '\*'"),
        (lines(f"{DAY},,news,1"), "x.csv", {}, r"column 'symbol' is blank; give --symbol, \* for the market"),
        (lines(f"{DAY},A,news,1"), "x.csv", {"symbol": "B"}, "--symbol says B, column 'symbol' says A"),
        (lines(f"{DAY},A,news,1"), "x.csv", {"signals": ["old"]}, "--name says old, column 'name' says news"),
    ],
)
def test_a_file_that_can_not_be_used_says_why(content: str, name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputFileError, match=message):
        read(content, name=name, **options)


def test_the_order_of_rows_and_repetitions_change_nothing() -> None:
    seed = int(np.random.SeedSequence().generate_state(1)[0])
    print(f"seed {seed}")
    random = np.random.default_rng(seed)
    content = [
        f"{DAY + int(at)},{symbol},{name},{score:.8f}"
        for symbol in ("A", "B", "*")
        for name in ("news", "social")
        for at, score in zip(random.choice(5000, 100, replace=False), random.uniform(-1, 1, 100), strict=True)
    ]
    wanted = read(lines(*content))
    found = read(lines(*random.permutation([*content, *random.choice(content, 200)])))
    assert content_of(found) == content_of(wanted)
    assert [len(series) for series in found.series] == [100] * 6
    assert (found.duplicates, len(found.rejects)) == (200, 0)
    for series in found.series:
        assert np.all(np.diff(series.columns["time"]) > 0)
