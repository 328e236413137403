"""What `ingest order-book`, `trades` and `signals` report: rows and changes of each series."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featurectl.cli import output
from featurectl.core.ingesting import Ingested

if TYPE_CHECKING:
    from featurectl.core.ingest_ticks import MergedTicks
    from featurectl.core.ticks import TickFile

KEYS = {"order-book": ("symbol",), "trades": ("symbol",), "signals": ("symbol", "name")}
# Rows that were left out without being wrong.
EXTRA = {"order-book": "superseded", "trades": "duplicates", "signals": "duplicates"}


def report(kind: str, results: Sequence[Ingested[TickFile, MergedTicks]]) -> output.Report:
    columns = ["file", *KEYS[kind], "rows", "new", "changed", "unchanged", "rejected", EXTRA[kind]]
    rows = [row for one in results for row in _rows(kind, one)]
    return output.Report(
        command=f"ingest {kind}",
        document={"files": [_document(kind, one) for one in results]},
        columns=columns,
        rows=rows,
        table=output.Grid(columns, [[Path(row[0]).name, *row[1:]] for row in rows]),
    )


def _rows(kind: str, one: Ingested[TickFile, MergedTicks]) -> list[list[Any]]:
    if one.file is None:
        return []
    left_out = [len(one.file.rejects), getattr(one.file, EXTRA[kind])]
    rows: list[list[Any]] = [
        [one.name, *merged.key.values(), one.file.rows_read, merged.new, merged.changed, merged.unchanged, *left_out]
        for merged in one.merged
    ]
    return rows or [[one.name, *["-"] * len(KEYS[kind]), one.file.rows_read, 0, 0, 0, *left_out]]


def _document(kind: str, one: Ingested[TickFile, MergedTicks]) -> dict[str, Any]:
    if one.file is None:
        return {"file": one.name, "error": str(one.error)}
    return {
        "file": one.name,
        "layout": one.file.layout,
        "rows": one.file.rows_read,
        "rejected": dict(one.file.rejects.counts),
        EXTRA[kind]: getattr(one.file, EXTRA[kind]),
        "warnings": list(one.file.warnings),
        "series": [
            {
                **merged.key,
                "rows": merged.rows,
                "new": merged.new,
                "changed": merged.changed,
                "unchanged": merged.unchanged,
                "first_time": merged.first,
                "last_time": merged.last,
            }
            for merged in one.merged
        ],
    }


def notes(file: TickFile) -> Iterable[str]:
    return (f"{file.name}: {text}" for text in file.notes)
