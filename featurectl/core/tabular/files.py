"""Open what the user named, undo its compression, and turn it into a table of rows. Formats are told by magic bytes."""

from __future__ import annotations

import gzip
import io
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from featurectl.core.tabular.arrays import Ints
from featurectl.core.tabular.delimited import BadRow, parse_delimited
from featurectl.errors import InputFileError

SUPPORTED = "give CSV (plain, gzip or zip) or Parquet"
FOREIGN_FORMATS: dict[bytes, str] = {
    b"ARROW1": "an Arrow (Feather) file",
    b"\xfd7zXZ\x00": "compressed with xz",
    b"BZh": "compressed with bzip2",
    b"\x28\xb5\x2f\xfd": "compressed with zstd",
    b"7z\xbc\xaf": "a 7z archive",
    b"SQLite format 3": "a SQLite database",
    b"\x89HDF": "an HDF5 file",
    b"\xff\xfe": "UTF-16 text",
    b"\xfe\xff": "UTF-16 text",
}


@dataclass(frozen=True)
class RawRows:
    """The rows of a file before anything is understood: ``table`` holds strings, or a Parquet file's own types.

    Columns of ``table`` are named by position, because a file may name two columns alike; ``columns`` has its names.
    """

    columns: tuple[str, ...]
    headerless: bool
    table: pa.Table
    row_numbers: Ints
    bad_rows: tuple[BadRow, ...]

    @property
    def rows_read(self) -> int:
        """Count the data rows, those with a wrong number of fields included."""
        return len(self.row_numbers) + len(self.bad_rows)

    def column(self, position: int) -> pa.ChunkedArray:
        """Give the column at ``position``."""
        return self.table.column(position)


def read_rows(source: str | Path | BinaryIO, name: str) -> RawRows:
    """Read every row of a CSV or Parquet file.

    Raises:
        InputFileError: the file can't be opened, is empty, damaged, or neither CSV nor Parquet.
    """
    content = decompress(_read_bytes(source, name), name)
    if content.startswith(b"PAR1"):
        return _read_parquet(content, name)
    _refuse_other_formats(content, name)
    delimited = parse_delimited(content, name)
    return RawRows(
        delimited.columns, delimited.headerless, delimited.table, delimited.row_numbers, tuple(delimited.bad_rows)
    )


def _read_bytes(source: str | Path | BinaryIO, name: str) -> bytes:
    try:
        content = Path(source).read_bytes() if isinstance(source, (str, Path)) else source.read()
    except FileNotFoundError:
        raise InputFileError(f"{name}: no such file; check the path") from None
    except IsADirectoryError:
        raise InputFileError(f"{name}: is a directory; name the files in it") from None
    except PermissionError:
        raise InputFileError(f"{name}: no permission to read it; check its owner and mode") from None
    except (OSError, ValueError) as error:
        # ValueError: a closed stream, or a path with a NUL byte.
        reason = getattr(error, "strerror", None) or str(error)
        raise InputFileError(f"{name}: can't be read: {_one_line(reason)}; check the path") from error
    if not content:
        raise InputFileError(f"{name}: is empty; {SUPPORTED}")
    return content


def decompress(content: bytes, name: str) -> bytes:
    """Undo gzip and one-member zip; give anything else back as it is.

    Raises:
        InputFileError: the archive is damaged, cut short, locked, or has several members.
    """
    if content.startswith(b"\x1f\x8b"):
        content = _gunzip(content, name)
    elif content.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        content = _unzip(content, name)
    else:
        return content
    if not content.strip():
        raise InputFileError(f"{name}: the archive holds an empty file; {SUPPORTED}")
    return content


def _gunzip(content: bytes, name: str) -> bytes:
    try:
        return gzip.decompress(content)
    except EOFError:
        raise InputFileError(f"{name}: the gzip data is cut short; download it again") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise InputFileError(f"{name}: the gzip data is damaged ({_one_line(error)}); download it again") from error


def _unzip(content: bytes, name: str) -> bytes:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            # macOS adds a shadow folder to the zips it writes; it is no data.
            members = [
                info.filename
                for info in archive.infolist()
                if not info.is_dir() and not info.filename.startswith("__MACOSX/")
            ]
            if len(members) != 1:
                listed = ", ".join(members[:3]) + (", …" if len(members) > 3 else "") if members else "none"
                raise InputFileError(
                    f"{name}: a zip must hold one CSV file, this one holds {len(members)} ({listed}); unpack it first"
                )
            return archive.read(members[0])
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise InputFileError(f"{name}: the zip data is damaged ({_one_line(error)}); download it again") from error
    except (RuntimeError, NotImplementedError) as error:
        # A password, or a compression method this Python lacks.
        raise InputFileError(f"{name}: the zip can't be unpacked ({_one_line(error)}); unpack it first") from error


def _refuse_other_formats(content: bytes, name: str) -> None:
    for magic, what in FOREIGN_FORMATS.items():
        if content.startswith(magic):
            raise InputFileError(f"{name}: is {what}; {SUPPORTED}")
    if b"\x00" in content:
        raise InputFileError(f"{name}: is neither CSV nor Parquet (binary data); {SUPPORTED}")


def _read_parquet(content: bytes, name: str) -> RawRows:
    try:
        table = pq.read_table(pa.BufferReader(content))
    except (pa.ArrowException, OSError) as error:
        raise InputFileError(f"{name}: the Parquet data is damaged ({_one_line(error)}); write it again") from error
    if table.num_rows == 0:
        raise InputFileError(f"{name}: has columns but no rows; nothing to read")
    # Views are what newer writers store text as; Arrow can't yet pick single rows of them.
    views = {pa.string_view(): pa.string(), pa.binary_view(): pa.binary()}
    table = table.cast(pa.schema([column.with_type(views.get(column.type, column.type)) for column in table.schema]))
    columns = tuple(table.column_names)
    positional = table.rename_columns([str(position) for position in range(len(columns))])
    return RawRows(columns, False, positional, np.arange(1, table.num_rows + 1, dtype=np.int64), ())


def _one_line(error: object) -> str:
    return " ".join(str(error).split())[:200]
