"""``featurectl ingest candles``."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from featurectl.cli import diagnostics, output
from featurectl.cli.app import new_app
from featurectl.cli.options import Command, FormatOption, JsonOption, OutputOption, chosen, overrides
from featurectl.core.clock import system_clock
from featurectl.core.db import Connection, open_database
from featurectl.core.times import iso, parse_time
from featurectl.errors import FeaturectlError, InputFileError, PartlyDone, UsageError

if TYPE_CHECKING:
    from featurectl.core.candles import CandleFile
    from featurectl.core.ingest import Merged

app = new_app(help="Read market data files into the database.")


@dataclass(frozen=True, slots=True)
class _Ingested:
    """One file's outcome."""

    name: str
    file: CandleFile | None
    merged: list[Merged]
    error: FeaturectlError | None = None

    @property
    def failed(self) -> bool:
        """Nothing of the file could be used; a file of nothing but an open bar is no failure."""
        return self.file is None or bool(self.file.faults and not self.merged)


@app.callback()
def ingest() -> None:
    """Read market data files into the database."""


@app.command("candles", cls=Command)
def candles(
    context: typer.Context,
    files: Annotated[list[str], typer.Argument(metavar="FILE...", help="CSV, CSV.gz, ZIP, Parquet; - is stdin.")],
    symbol: Annotated[
        str | None, typer.Option("--symbol", metavar="NAME", help="The symbol, where no column says it.")
    ] = None,
    timeframe: Annotated[
        str | None, typer.Option("--timeframe", metavar="NAME", help="The timeframe, where no column says it.")
    ] = None,
    rejects: Annotated[
        Path | None, typer.Option("--rejects", metavar="FILE", help="Write rejected rows and reasons to FILE (CSV).")
    ] = None,
    closed_before: Annotated[
        str | None,
        typer.Option(
            "--closed-before",
            metavar="TIME",
            help="Refuse bars still open at TIME. Default: now, and when the file was written.",
        ),
    ] = None,
    drop_last: Annotated[
        bool, typer.Option("--drop-last", help="Leave out each file's newest bar, open when it was downloaded.")
    ] = False,
    format: FormatOption = None,
    json: JsonOption = False,
    path: OutputOption = None,
) -> None:
    """Read candle files: generic headers, Binance klines, CryptoDataDownload, freqtrade and ccxt.

    Symbol and timeframe come from the options, the columns or the file's name. A file is written whole or not at
    all; reading it again changes nothing. A bar that was open when the file was written is left out.
    --closed-before is ISO 8601 (UTC without a zone) or relative: -2h.

    Example: featurectl ingest candles BTCUSDT_1h.csv.gz --drop-last --rejects rejects.csv
    """
    now = system_clock()
    limit = parse_time(closed_before, now=now) if closed_before else now
    if limit > now:
        raise UsageError(
            f"--closed-before {iso(limit)} is in the future: bars that close later than now are still open"
        )
    database = open_database(overrides(context))
    results: list[_Ingested] = []
    with database.connect() as connection, diagnostics.progress("ingest") as progress:
        for index, name in enumerate(files):
            progress(index, len(files), Path(name).name)
            written_at = None if closed_before else _written_at(name)
            results.append(_ingest(connection, name, symbol, timeframe, limit, written_at, drop_last, now))
    if rejects:
        _write_rejects(rejects, results)
    _explain(results, rejects)
    if not all(one.failed for one in results):
        output.emit(_report(results), chosen(format, json), path)
    _finish(results)


def _ingest(
    connection: Connection,
    name: str,
    symbol: str | None,
    timeframe: str | None,
    limit: datetime,
    written_at: datetime | None,
    drop_last: bool,
    now: datetime,
) -> _Ingested:
    from featurectl.core.candles import read_candles  # 0.3 s: it reads with Arrow
    from featurectl.core.ingest import merge_candles

    try:
        source = sys.stdin.buffer if name == "-" else name
        file = read_candles(
            source,
            name=name,
            symbol=symbol,
            timeframe=timeframe,
            closed_before=limit,
            written_at=written_at,
            drop_last=drop_last,
        )
        return _Ingested(name, file, merge_candles(connection, file, now=now))
    except InputFileError as error:
        return _Ingested(name, None, [], error)


def _written_at(name: str) -> datetime | None:
    """Return when a file was last written; nothing for a pipe or what is not there."""
    path = Path(name)
    return datetime.fromtimestamp(path.stat().st_mtime, UTC) if name != "-" and path.is_file() else None


def _write_rejects(path: Path, results: list[_Ingested]) -> None:
    """Write the rejects of all files into one CSV; with several files a column says which."""
    from featurectl.core.candles import write_rejects

    read = [(one.name, one.file.rejects) for one in results if one.file]
    with output.atomic_path(path) as temporary:
        write_rejects(temporary, read)


def _report(results: list[_Ingested]) -> output.Report:
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


def _rows(one: _Ingested) -> list[list[Any]]:
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


def _document(one: _Ingested) -> dict[str, Any]:
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


def _explain(results: list[_Ingested], rejects: Path | None) -> None:
    for one in results:
        if one.file is None:
            continue
        for text in one.file.warnings:
            diagnostics.warn(f"{one.name}: {text}")
        if one.file.open_bars:
            diagnostics.note(f"{one.name}: left out {_count(one.file.open_bars, 'bar')} still open")
        faults = one.file.faults
        if faults:
            reasons = ", ".join(f"{count} {reason}" for reason, count in faults.items())
            where = f"see {rejects}" if rejects else "--rejects FILE lists them"
            diagnostics.warn(f"{one.name}: rejected {_count(sum(faults.values()), 'row')}: {reasons}; {where}")
        for series in one.file.series:
            if series.gaps:
                first = ", ".join(f"{gap.bars} from {iso(gap.first_missing)}" for gap in series.gaps[:5])
                more = f" and {len(series.gaps) - 5} more gaps" if len(series.gaps) > 5 else ""
                diagnostics.note(f"{series.symbol}_{series.timeframe}: missing bars: {first}{more}")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _finish(results: list[_Ingested]) -> None:
    """Leave with the error of a single file, or say how many of several failed."""
    failed = [one for one in results if one.failed]
    if not failed:
        return
    errors = [
        one.error or InputFileError(f"{one.name}: not one of its rows could be used; --rejects FILE lists why")
        for one in failed
    ]
    if len(results) == 1:
        raise errors[0]
    for error in errors:
        diagnostics.warn(str(error))
    message = f"{len(results) - len(failed)} of {len(results)} files read; the warnings above say what to do about "
    raise PartlyDone(f"{message}the others") if len(failed) < len(results) else InputFileError(f"{message}them")
