"""Named queries of ``featurectl/sql/*.sql``; each starts with ``-- name --`` and one line that says its purpose."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from psycopg import sql

SQL_DIRECTORY = Path(__file__).resolve().parent.parent / "sql"
_HEADING = re.compile(r"^-- (?P<name>\w+) --\n", re.MULTILINE)


@cache
def load(file: str) -> dict[str, str]:
    """Return the queries of one file by name, in its order."""
    text = (SQL_DIRECTORY / f"{file}.sql").read_text(encoding="utf-8")
    pieces = _HEADING.split(text)[1:]
    return dict(zip(pieces[::2], (piece.strip().rstrip(";") for piece in pieces[1::2]), strict=True))


def query(file: str, name: str) -> sql.SQL:
    """Return a named query, ready to execute, or to ``format`` where it has ``{identifiers}``."""
    return sql.SQL(load(file)[name])
