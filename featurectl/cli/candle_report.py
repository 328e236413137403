"""What `ingest candles` reports: rows, changes and missing bars of each series."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featurectl.cli import output
from featurectl.cli.ingested import count
from featurectl.core.ingesting import Ingested
from featurectl.core.times import iso

if TYPE_CHECKING:
    from featurectl.core.candles import CandleFile
    from featurectl.core.ingest import Merged


def report(results: Sequence[Ingested[CandleFile, Merged]]) -> output.Report:
    columns = ["file", "entity_id", "rows", "new", "changed", "unchanged", "rejected", "missing_bars"]
    rows = [row for one in results for row in _rows(one)]
    return output.Report(
        command="ingest candles",
        document={"files": [_document(one) for one in results]},
        columns=columns,
        rows=rows,
        table=output.Grid(
            ["file", "entity", "rows", "new", "changed", "unchanged", "rejected", "missing bars"],
            [[Path(row[0]).name, *row[1:]] for row in rows],
        ),
    )


def _rows(one: Ingested[CandleFile, Merged]) -> list[list[Any]]:
    if one.file is None:
        return []
    missing = {(series.symbol, series.timeframe): series.missing_bars for series in one.file.series}
    rows: list[list[Any]] = [
        [
            one.name,
            f"{merged.symbol}_{merged.timeframe}",
            one.file.rows_read,
            merged.new,
            merged.changed,
            merged.unchanged,
            len(one.file.rejects),
            missing[merged.symbol, merged.timeframe],
        ]
        for merged in one.merged
    ]
    return rows or [[one.name, "-", one.file.rows_read, 0, 0, 0, len(one.file.rejects), 0]]


def _document(one: Ingested[CandleFile, Merged]) -> dict[str, Any]:
    if one.file is None:
        return {"file": one.name, "error": str(one.error)}
    file = one.file
    return {
        "file": one.name,
        "layout": file.layout,
        "rows": file.rows_read,
        "rejected": dict(file.rejects.counts),
        "identical_duplicates": file.identical_duplicates,
        "dropped_last": file.dropped_last,
        "warnings": list(file.warnings),
        "series": [
            {
                "entity_id": f"{merged.symbol}_{merged.timeframe}",
                "bars": merged.bars,
                "new": merged.new,
                "changed": merged.changed,
                "unchanged": merged.unchanged,
                "missing_bars": series.missing_bars,
                "gaps": [{"first_missing": gap.first_missing, "bars": gap.bars} for gap in series.gaps],
            }
            for merged, series in zip(one.merged, file.series, strict=True)
        ],
    }


def notes(file: CandleFile) -> Iterable[str]:
    if file.open_bars:
        yield f"{file.name}: left out {count(file.open_bars, 'bar')} still open"
    for series in file.series:
        if series.gaps:
            first = ", ".join(f"{gap.bars} from {iso(gap.first_missing)}" for gap in series.gaps[:5])
            more = f" and {len(series.gaps) - 5} more gaps" if len(series.gaps) > 5 else ""
            yield f"{series.symbol}_{series.timeframe}: missing bars: {first}{more}"
