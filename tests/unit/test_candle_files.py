"""Opening candle files: compression, encodings, delimiters, formats, and the files that can't be used."""

from __future__ import annotations

import gzip
import io
import zipfile
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from featurectl.core.candles import CandleFile, read_candles, write_rejects
from featurectl.errors import InputFileError, InvalidTime

NOW = datetime(2024, 1, 1, tzinfo=UTC)
HEADER = "open_time,open,high,low,close,volume"
BARS = ["1609459200,10,12,9,11,5", "1609462800,11,13,10,12,6", "1609466400,12,14,11,13,7"]
CSV = "\n".join([HEADER, *BARS]) + "\n"


def read(content: bytes | str, name: str = "BTCUSDT_1h.csv", **options: object) -> CandleFile:
    data = content.encode() if isinstance(content, str) else content
    arguments = {"symbol": None, "timeframe": None, "closed_before": NOW, **options}
    return read_candles(io.BytesIO(data), name=name, **arguments)


def zipped(**members: str) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return target.getvalue()


def parquet(table: pa.Table) -> bytes:
    target = io.BytesIO()
    pq.write_table(table, target)
    return target.getvalue()


def test_a_plain_csv_gives_one_ascending_series() -> None:
    file = read(CSV)
    (series,) = file.series
    assert (file.layout, file.rows_read, len(file.rejects), file.warnings) == ("generic", 3, 0, ())
    assert (series.symbol, series.timeframe) == ("BTCUSDT", "1h")
    assert series.open_time.dtype == np.int64
    assert series.open_time.tolist() == [1609459200_000000, 1609462800_000000, 1609466400_000000]
    assert series.close.tolist() == [11, 12, 13]
    assert series.volume.tolist() == [5, 6, 7]
    assert np.isnan(series.quote_volume).all()
    assert np.isnan(series.trade_count).all()


@pytest.mark.parametrize(
    "content",
    [
        gzip.compress(CSV.encode()),
        zipped(**{"BTCUSDT-1h.csv": CSV, "__MACOSX/._BTCUSDT-1h.csv": "x"}),
        b"\xef\xbb\xbf" + CSV.encode(),
        CSV.replace(",", ";").encode(),
        CSV.replace(",", "\t").encode(),
        CSV.replace("\n", "\r\n").encode(),
        CSV.replace("\n", "\n\n").encode(),
        CSV.rstrip("\n").encode(),
        CSV.replace("10", '"10"').encode(),
        ("https://www.CryptoDataDownload.com\n" + CSV).encode(),
    ],
    ids=["gzip", "zip", "bom", "semicolon", "tab", "crlf", "blank lines", "no last newline", "quotes", "comment"],
)
def test_the_content_and_not_the_name_tells_the_format(content: bytes) -> None:
    (series,) = read(content, name="BTCUSDT_1h.anything").series
    assert series.open.tolist() == [10, 11, 12]


def test_a_path_is_read_like_a_stream(tmp_path: Path) -> None:
    path = tmp_path / "BTCUSDT_1h.csv"
    path.write_text(CSV)
    for source in (path, str(path)):
        file = read_candles(source, name=str(path), symbol=None, timeframe=None, closed_before=NOW)
        assert len(file.series[0]) == 3


TIMES = [datetime(2021, 1, 1, hour) for hour in range(3)]


@pytest.mark.parametrize(
    "times",
    [
        pa.array(TIMES, pa.timestamp("us")),
        pa.array(TIMES, pa.timestamp("ns")),
        pa.array([time.replace(tzinfo=UTC) for time in TIMES], pa.timestamp("ms", "UTC")),
        pa.array([time.replace(tzinfo=UTC) for time in TIMES], pa.timestamp("ms", "America/New_York")),
        pa.array([1609459200, 1609462800, 1609466400], pa.int64()),
        pa.array([1609459200000, 1609462800, 1609466400000000], pa.int64()),
        pa.array([1609459200.0, 1609462800000.0, 1609466400.0], pa.float64()),
        pa.array([time.isoformat() for time in TIMES]),
        pa.array([time.isoformat() for time in TIMES]).dictionary_encode(),
        pa.array([time.isoformat() for time in TIMES], pa.large_string()),
    ],
    ids=lambda array: str(array.type)[:30],
)
def test_parquet_times_of_every_type_are_read(times: pa.Array) -> None:
    prices = {"open": [1, 2, 3], "high": [4.0, 5.0, 6.0], "low": ["1", "2", "2.5"], "close": [Decimal("2.5")] * 3}
    file = read(parquet(pa.table({"date": times, **prices, "volume": pa.array([1, 2, 3], pa.uint32())})))
    assert len(file.rejects) == 0
    assert file.series[0].open_time.tolist() == [1609459200_000000, 1609462800_000000, 1609466400_000000]
    assert file.series[0].low.tolist() == [1, 2, 2.5]


def test_parquet_dates_are_midnights_and_nulls_are_refused() -> None:
    days = [date(2021, 1, 1) + timedelta(days=day) for day in range(4)]
    values = {field: [1.0, 2.0, None, 3.0] for field in ("open", "high", "low", "close")}
    table = pa.table({"date": [*days[:3], None], **values, "volume": [1, 1, 1, 1], "trades": [1, None, 1, 1]})
    file = read(parquet(table), name="BTCUSDT_1d.parquet")
    assert file.series[0].open_time.tolist() == [1609459200_000000, 1609545600_000000]
    assert file.rejects.counts == {"non-finite": 1, "unparsable": 1}
    assert file.rejects.table.column("open").to_pylist() == [None, "3"]


def test_parquet_columns_of_the_wrong_type_are_named() -> None:
    columns = {field: [1.0] for field in ("open", "high", "low", "close", "volume")}
    with pytest.raises(InputFileError, match="column 'date': bool holds no times"):
        read(parquet(pa.table({"date": [True], **columns})))
    with pytest.raises(InputFileError, match=r"column 'low': list<.*> holds no numbers"):
        read(parquet(pa.table({"date": [1609459200], **columns | {"low": [[1.0]]}})))
    with pytest.raises(InputFileError, match=r"column 'symbol': list<.*> holds no text"):
        read(parquet(pa.table({"date": [1609459200], "symbol": [["a"]], **columns})))


def test_a_row_with_a_wrong_number_of_fields_is_refused_and_the_others_are_numbered_right() -> None:
    lines = [HEADER, BARS[0], "1,2", "", BARS[1], "1,2,3,4,5,6,7,8", "1609466400,12,14,11,13,x"]
    rejects = read("\n".join(lines), symbol="BTCUSDT").rejects
    assert rejects.counts == {"wrong number of fields": 2, "unparsable": 1}
    assert rejects.table.column("row").to_pylist() == [2, 4, 5]
    assert rejects.table.column("detail").to_pylist() == [
        "2 fields, not 6",
        "8 fields, not 6",
        "column 'volume': 'x'",
    ]
    assert rejects.table.column_names == ["row", "reason", "detail", *HEADER.split(",")]
    assert list(rejects.table.to_pylist()[0].values())[3:] == ["1", "2", "", "", "", ""]
    assert rejects.table.column("volume").to_pylist() == ["", "6,7,8", "x"]


def test_a_file_of_bad_rows_only_is_no_error_when_nothing_has_to_be_inferred() -> None:
    file = read(HEADER + "\n1,2\n", name="BTCUSDT_1h.csv")
    assert (file.series, file.rows_read, file.rejects.counts) == ((), 1, {"wrong number of fields": 1})


def test_an_unclosed_quote_says_how_much_it_swallowed() -> None:
    file = read("\n".join([HEADER, BARS[0], '"' + BARS[1], BARS[2]]))
    assert file.rejects.table.column("detail").to_pylist() == ["1 field, not 6; an unclosed quote runs over 2 lines"]


def test_rejects_are_written_as_csv(tmp_path: Path) -> None:
    target = tmp_path / "rejects.csv"
    write_rejects(target, [("a.csv", read(CSV + "x,1,1,1,1,1\n").rejects)])
    expected = '"a.csv",4,"unparsable","column \'open_time\': \'x\'","x","1","1","1","1","1"'
    assert target.read_text().splitlines()[1] == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (gzip.compress(b""), "holds an empty file"),
        (b"\n\n", "has no rows"),
        (HEADER, "has a header but no rows"),
        (HEADER + "\n\n  \n", "has a header but no rows"),
        (bytes(range(256)) * 9, "binary data"),
        (b"PAR1 not really", "the Parquet data is damaged"),
        (gzip.compress(CSV.encode() * 50)[:-20], "cut short"),
        (gzip.compress(CSV.encode())[:12] + b"garbage!" * 9, "the gzip data is damaged"),
        (zipped(**{"a.csv": CSV, "b.csv": CSV}), r"holds 2 \(a.csv, b.csv\)"),
        (zipped(), r"holds 0 \(none\)"),
        (zipped(**{"a.csv": CSV})[:-30], "the zip data is damaged"),
        (CSV.encode("utf-16"), "UTF-16"),
        (b"ARROW1\x00\x00", "an Arrow"),
        (b"\xe9\xe8,a\n1,2\n", "neither UTF-8 text nor Parquet"),
        (CSV.encode() + b"1609470000,12,14,11,13,\xe9\n", r"neither UTF-8 text nor Parquet \(line 5\)"),
        (CSV.encode() + b"1609470000,\xe9\n", r"neither UTF-8 text nor Parquet \(line 5\)"),
        ("a,b\n1,2\n", "columns not recognized: a, b; needed: a time column"),
        ("date,open,high,low,close\n1,2,3,4,5\n", "columns not recognized: date, open, high, low, close; needed"),
        ("date,open,open,high,low,close,volume\n1,2,3,4,5,6,7\n", "column 'open' is there 2 times"),
        ("1609459200,10,12,9,11,5\n", "no header row, and 6 columns instead of Binance's 12"),
        ("<!DOCTYPE html>\n<html>\n", "columns not recognized: <!DOCTYPE html>"),
        (parquet(pa.table({"date": pa.array([], pa.int64())})), "has columns but no rows"),
    ],
    # Compressed content holds the time of day; two workers would collect different names.
    ids=lambda value: value if isinstance(value, str) else "file",
)
def test_a_file_that_cannot_be_used_says_why_in_one_line(content: bytes | str, message: str) -> None:
    with pytest.raises(InputFileError, match=message) as caught:
        read(content)
    assert str(caught.value).startswith("BTCUSDT_1h.csv: ")
    assert "\n" not in str(caught.value)


def test_a_missing_file_a_directory_and_a_forbidden_file_are_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_path(path: Path) -> CandleFile:
        return read_candles(path, name="x.csv", symbol=None, timeframe=None, closed_before=NOW)

    with pytest.raises(InputFileError, match=r"x\.csv: no such file"):
        read_path(tmp_path / "x.csv")
    with pytest.raises(InputFileError, match=r"x\.csv: is a directory"):
        read_path(tmp_path)

    # Tests may run as root, whom no mode keeps out.
    def refuse(self: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(InputFileError, match=r"x\.csv: no permission"):
        read_path(tmp_path / "x.csv")


def test_a_stream_that_fails_is_an_input_error() -> None:
    closed = io.BytesIO(b"x")
    closed.close()
    with pytest.raises(InputFileError, match="-: can't be read"):
        read_candles(closed, name="-", symbol="A", timeframe="1h", closed_before=NOW)


def test_an_instant_without_zone_is_refused() -> None:
    with pytest.raises(InvalidTime, match="has no zone"):
        read(CSV, closed_before=datetime(2024, 1, 1))
