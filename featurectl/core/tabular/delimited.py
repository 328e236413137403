"""Parse delimited text into a table of strings, keeping the rows whose number of fields is wrong."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv

from featurectl.core.tabular.arrays import Ints
from featurectl.errors import InputFileError

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
DELIMITERS = ",;\t"
# CryptoDataDownload puts its address above the header.
COMMENT_STARTS = (b"#", b"http://", b"https://", b"www.")
_LINE_END = re.compile(rb"\r\n|\n|\r")


@dataclass(frozen=True)
class BadRow:
    """A row with a wrong number of fields; ``row`` counts data rows from 1."""

    row: int
    expected_fields: int
    fields: tuple[str, ...]
    lines: int

    @property
    def detail(self) -> str:
        """Say how many fields there are and should be."""
        found = f"{len(self.fields)} field{'' if len(self.fields) == 1 else 's'}, not {self.expected_fields}"
        return found if self.lines == 1 else f"{found}; an unclosed quote runs over {self.lines} lines"


@dataclass(frozen=True)
class Delimited:
    """Delimited text as a table of strings, its columns named by position."""

    columns: tuple[str, ...]
    headerless: bool
    table: pa.Table
    row_numbers: Ints
    bad_rows: list[BadRow]


def parse_delimited(content: bytes, name: str) -> Delimited:
    """Parse text whose delimiter is a comma, a semicolon or a tab, with or without a header row.

    Raises:
        InputFileError: not UTF-8 text, no rows below the header, or text the parser can't follow.
    """
    _demand_utf8(content, name)
    header_start, header_end = _first_line(content, name)
    header = content[header_start:header_end].decode()
    delimiter = max(DELIMITERS, key=header.count)
    fields = _split(header, delimiter)
    headerless = any(_is_number(field) for field in fields)
    columns = tuple(f"column {number}" for number in range(1, len(fields) + 1)) if headerless else fields
    body_start = header_start if headerless else header_end
    body = pa.py_buffer(content).slice(body_start)
    if not content[body_start : body_start + 65536].strip() and not content[body_start:].strip():
        raise InputFileError(f"{name}: has a header but no rows; nothing to read")
    table, bad_rows = _parse_body(body, len(columns), delimiter, name)
    return Delimited(columns, headerless, table, _good_row_numbers(table.num_rows, bad_rows), bad_rows)


def _first_line(content: bytes, name: str) -> tuple[int, int]:
    """Find the first line that is neither blank nor a comment; give where it starts and ends."""
    start = len(BYTE_ORDER_MARK) if content.startswith(BYTE_ORDER_MARK) else 0
    while start < len(content):
        end_of_line = _LINE_END.search(content, start)
        end = end_of_line.start() if end_of_line else len(content)
        line = content[start:end].strip().strip(b'"').lower()
        if line and not line.startswith(COMMENT_STARTS):
            return start, end
        start = end_of_line.end() if end_of_line else len(content)
    raise InputFileError(f"{name}: has no rows; nothing to read")


def _demand_utf8(content: bytes, name: str) -> None:
    # Ahead of the parser, which prints a traceback of its own when a row with a wrong number of fields is not UTF-8.
    try:
        if not content.isascii():
            content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InputFileError(
            f"{name}: is neither UTF-8 text nor Parquet (line {line}); save it as CSV in UTF-8, or as Parquet"
        ) from None


def _split(line: str, delimiter: str) -> tuple[str, ...]:
    try:
        return tuple(field.strip() for field in next(csv.reader([line], delimiter=delimiter), []))
    except csv.Error:
        # A field over csv's size limit: whatever it is, it is no header; the layout check says so.
        return (line,)


def _is_number(field: str) -> bool:
    # No header is a number, so one number in the first line means that the line is data. float() would also take
    # "nan" and "inf", which say nothing.
    return re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", field) is not None


def _parse_body(body: Any, width: int, delimiter: str, name: str) -> tuple[pa.Table, list[BadRow]]:
    bad_rows: list[BadRow] = []

    def keep(row: Any) -> str:
        lines = len(re.split(r"\r\n|\n|\r", row.text.rstrip("\r\n")))
        bad_rows.append(BadRow(row.number, row.expected_columns, _split_bad(row.text, delimiter), lines))
        return "skip"

    names = [str(position) for position in range(width)]
    try:
        table = pyarrow.csv.read_csv(
            pa.BufferReader(body),
            # Row numbers are known only to a single-threaded parse.
            read_options=pyarrow.csv.ReadOptions(use_threads=False, column_names=names, block_size=8 << 20),
            parse_options=pyarrow.csv.ParseOptions(delimiter=delimiter, invalid_row_handler=keep),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False
            ),
        )
    except pa.ArrowException as error:
        reason = " ".join(str(error).split())[:200]
        raise InputFileError(f"{name}: is not CSV that can be parsed ({reason}); check its quotes") from error
    return table, bad_rows


def _split_bad(text: str, delimiter: str) -> tuple[str, ...]:
    # Quotes may be what is wrong with the row, so a plain split stands in where csv gives up.
    try:
        return tuple(next(csv.reader([text], delimiter=delimiter), []))
    except csv.Error:
        return tuple(text.split(delimiter))


def _good_row_numbers(good: int, bad_rows: list[BadRow]) -> Ints:
    """Number the rows that parsed, around those that did not."""
    is_good = np.ones(good + len(bad_rows), dtype=bool)
    is_good[np.array([bad.row - 1 for bad in bad_rows], dtype=np.int64)] = False
    return np.flatnonzero(is_good).astype(np.int64) + 1
