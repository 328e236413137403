"""Results as files and text: which format is chosen, and what becomes of values that it can't hold."""

from __future__ import annotations

import csv
import io
import json
import math
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from featurectl.cli.output import Format, Grid, Report, atomic_file, check_writable, choose_format, emit
from featurectl.errors import OutputFileError, UsageError

NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)


def report(*values: Any) -> Report:
    names = [f"c{place}" for place in range(len(values))]
    return Report("get-online", {"results": [dict(zip(names, values, strict=True))]}, names, [list(values)])


def text(capsys: pytest.CaptureFixture[str], format: Format, *values: Any) -> str:
    emit(report(*values), format)
    return capsys.readouterr().out


def test_json_has_null_where_a_number_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    """NaN and infinity, however deep; the values beside them stay what they are."""
    values = (math.nan, [1.5, math.inf], {"deep": (-math.inf, "x")}, NOON)
    document = json.loads(text(capsys, Format.JSON, *values))
    assert (document["format_version"], document["command"]) == (1, "get-online")
    (row,) = document["results"]
    assert row == {"c0": None, "c1": [1.5, None], "c2": {"deep": [None, "x"]}, "c3": "2024-05-01T12:00:00Z"}


@pytest.mark.parametrize(
    ("value", "in_json", "in_csv"),
    [
        (None, None, ""),
        (True, True, "True"),
        (NOON, "2024-05-01T12:00:00Z", "2024-05-01T12:00:00Z"),
        (date(2024, 5, 1), "2024-05-01", "2024-05-01"),
        (timedelta(minutes=1.5), 90.0, "90.0"),
        (b"\x00\xff", "00ff", "00ff"),
        (memoryview(b"\x01"), "01", "01"),
        (Decimal("1.10"), "1.10", "1.10"),
        (["a", 1], ["a", 1], "a 1"),
        ({"at": NOON, "é": 1}, {"at": "2024-05-01T12:00:00Z", "é": 1}, '{"at": "2024-05-01T12:00:00Z", "é": 1}'),
    ],
    ids=lambda value: type(value).__name__,
)
def test_values_in_json_and_csv(capsys: pytest.CaptureFixture[str], value: Any, in_json: Any, in_csv: str) -> None:
    assert json.loads(text(capsys, Format.JSON, value))["results"] == [{"c0": in_json}]
    header, (cell, *_) = csv.reader(io.StringIO(text(capsys, Format.CSV, value, "x")))
    assert (header, cell) == (["c0", "c1"], in_csv)


def test_a_table_shows_a_cell_for_every_value(capsys: pytest.CaptureFixture[str]) -> None:
    values = (None, True, 0.123456789, math.nan, ["a", "b"], {"a": 1}, b"\x0f", NOON)
    lines = text(capsys, Format.TABLE, *values).splitlines()
    assert lines[1].split() == [
        *("-", "yes", "0.123457", "-", "a,", "b"),
        *('{"a":', "1}", "0f", "2024-05-01T12:00:00Z"),
    ]


def test_a_table_without_rows_says_so_between_its_title_and_footer(capsys: pytest.CaptureFixture[str]) -> None:
    emit(Report("views", {}, [], [], Grid(["view"], [], "project market", ["a note"])), Format.TABLE)
    assert capsys.readouterr().out == "project market\nnothing to show\na note\n"


@pytest.mark.parametrize("piped", [False, True])
def test_parquet_keeps_types(capsysbinary: pytest.CaptureFixture[bytes], tmp_path: Path, piped: bool) -> None:
    path = None if piped else tmp_path / "out.parquet"
    emit(report(1.5, math.nan, None, "x", NOON, 7), Format.PARQUET if piped else None, path)
    content = path.read_bytes() if path else capsysbinary.readouterr().out
    (row,) = pq.read_table(io.BytesIO(content)).to_pylist()
    assert math.isnan(row.pop("c1"))
    assert row == {"c0": 1.5, "c2": None, "c3": "x", "c4": NOON, "c5": 7}


# --- which format ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("format", "path", "variable", "chosen"),
    [
        (None, None, None, Format.JSON),
        (None, None, "csv", Format.CSV),
        (Format.TABLE, None, "csv", Format.TABLE),
        (None, "a.Parquet", "csv", Format.PARQUET),
        (None, "a.txt", None, Format.TABLE),
        (Format.CSV, "a.json", None, Format.CSV),
    ],
)
def test_an_option_comes_before_the_suffix_and_the_suffix_before_the_environment(
    monkeypatch: pytest.MonkeyPatch, format: Format | None, path: str | None, variable: str | None, chosen: Format
) -> None:
    if variable:
        monkeypatch.setenv("FEATURECTL_FORMAT", variable)
    assert choose_format(format, Path(path) if path else None) is chosen


def test_what_names_no_format_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"out.xlsx: the suffix names no format; write .json, .csv, .parquet, .txt"):
        choose_format(None, Path("out.xlsx"))
    monkeypatch.setenv("FEATURECTL_FORMAT", "yaml")
    with pytest.raises(UsageError, match="FEATURECTL_FORMAT='yaml'; formats: table, json, csv, parquet"):
        choose_format(None, None)


# --- files -----------------------------------------------------------------------------------------------------------


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    path.write_text("before")
    path.chmod(0o640)
    with pytest.raises(ValueError, match="half way"), atomic_file(path) as handle:
        handle.write(b"after")
        raise ValueError("half way")
    assert (path.read_text(), [one.name for one in tmp_path.iterdir()]) == ("before", ["out.csv"])
    with atomic_file(path) as handle:
        handle.write(b"after")
    assert (path.read_text(), path.stat().st_mode & 0o777) == ("after", 0o640)


def test_a_link_stays_and_its_target_changes(tmp_path: Path) -> None:
    target, link = tmp_path / "target.csv", tmp_path / "link.csv"
    target.write_text("before")
    link.symlink_to(target)
    with atomic_file(link) as handle:
        handle.write(b"after")
    assert link.is_symlink() and target.read_text() == "after"


def test_a_device_is_written_to_and_never_replaced() -> None:
    emit(report(1), Format.CSV, Path("/dev/null"))
    assert not Path("/dev/null").is_file()


@pytest.mark.parametrize(
    ("name", "message"),
    [(".", "is a directory; name a file in it"), ("none/out.csv", "can't be written: No such file")],
)
def test_a_place_that_takes_no_file_is_known_before_the_work(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(OutputFileError, match=message):
        check_writable(tmp_path / name)
