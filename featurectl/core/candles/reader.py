"""Read a candle file: open it, understand it, check it, and sort what is left into series."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

import numpy as np

from featurectl.core.candles.filenames import symbol_in_file_name
from featurectl.core.candles.grid import most_common, name_of, show_span, spacings
from featurectl.core.candles.identity import resolve_timeframes
from featurectl.core.candles.layouts import Layout, recognize_layout
from featurectl.core.candles.series import CandleSeries, build_series, unfinished_hint
from featurectl.core.candles.validate import Rows, check_rows, explain_time, plausible_times
from featurectl.core.entity import length
from featurectl.core.tabular.arrays import Bools, Ints
from featurectl.core.tabular.columns import Columns
from featurectl.core.tabular.files import read_rows
from featurectl.core.tabular.labels import Labels, resolve_symbols
from featurectl.core.tabular.rejects import Rejects
from featurectl.core.tabular.times import Times
from featurectl.core.tabular.verdicts import Verdicts, explain_rejects, resolve_duplicates
from featurectl.core.times import microseconds
from featurectl.errors import InputFileError, InvalidTime

# From so many distances on, the most common one is the file's timeframe.
MIN_SPACINGS = 3


@dataclass(frozen=True, eq=False)
class CandleFile:
    """What a candle file gave. ``rows_read`` counts every data row, accepted or not."""

    name: str
    layout: str
    rows_read: int
    series: tuple[CandleSeries, ...]
    rejects: Rejects
    warnings: tuple[str, ...]
    open_bars: int
    dropped_last: int
    identical_duplicates: int

    @property
    def faults(self) -> dict[str, int]:
        """Refused rows by reason, without bars that were merely still open."""
        return {reason: count for reason, count in self.rejects.counts.items() if reason != "open"}


def read_candles(
    source: str | Path | BinaryIO,
    *,
    name: str,
    symbol: str | None,
    timeframe: str | None,
    closed_before: datetime,
    written_at: datetime | None = None,
    drop_last: bool = False,
) -> CandleFile:
    """Read and check a CSV (plain, gzip, zip) or Parquet file of candles.

    Args:
        source: a path, or a binary stream such as stdin.
        name: what errors call the file, and where symbol and timeframe are looked for last; ``-`` says nothing.
        symbol: the symbol of all rows; None takes it from a column or the name.
        timeframe: the timeframe of all rows; None takes it from a column, the name, or the spacing of the rows.
        closed_before: bars not closed at this instant are refused.
        written_at: when the file was written; the bar open at that instant is refused as well.
        drop_last: leave the newest bar of each series out, unless it was refused as open already.

    Raises:
        InputFileError: the file as a whole can't be used. Single bad rows are in ``rejects`` instead.
        InvalidTime: ``closed_before`` has no zone.
    """
    if closed_before.tzinfo is None:
        raise InvalidTime(f"closed_before='{closed_before}' has no zone; give an aware datetime")
    limit = microseconds(closed_before)
    raw = read_rows(source, name)
    layout = recognize_layout(raw.columns, raw.headerless, name)
    columns = Columns(raw, layout.columns, name)
    rows = _understand(columns, layout, symbol, timeframe, limit)
    verdicts = check_rows(rows, limit, microseconds(written_at) if written_at else None)
    kept, identical = resolve_duplicates(verdicts, [rows.series, rows.times.microseconds], list(rows.values.values()))
    newest_open = _newest_is_open(rows, verdicts)
    by_series = _split(rows, kept)
    dropped = 0
    if drop_last:
        by_series, dropped = _drop_newest(by_series, newest_open)
    series = tuple(
        build_series(*rows.identities[number], rows.times.microseconds, rows.values, members)
        for number, members in by_series.items()
        if len(members)
    )
    followed = {rows.identities[number] for number in newest_open}
    suspects = [] if drop_last else [one for one in series if (one.symbol, one.timeframe) not in followed]
    return CandleFile(
        name=name,
        layout=layout.name,
        rows_read=raw.rows_read,
        series=tuple(sorted(series, key=lambda one: (one.symbol, length(one.timeframe)))),
        rejects=_rejects(columns, layout, rows, verdicts),
        warnings=(
            *columns.disagreements(layout.date, layout.time, rows.times),
            *(hint for one in suspects if (hint := unfinished_hint(one))),
        ),
        open_bars=int(np.count_nonzero(verdicts.refused("open"))),
        dropped_last=dropped,
        identical_duplicates=identical,
    )


def _understand(columns: Columns, layout: Layout, symbol: str | None, timeframe: str | None, limit: int) -> Rows:
    times = columns.times(layout.time)
    numbers = {field: columns.numbers(position) for field, position in layout.values.items()}
    symbols = resolve_symbols(symbol, columns.texts(layout.symbol), symbol_in_file_name)
    usable = plausible_times(times, limit)
    timeframes = resolve_timeframes(timeframe, columns.texts(layout.timeframe))
    if timeframes is None:
        timeframes = Labels.same(_infer_timeframe(times, symbols, usable, columns.file), len(columns))
    series, identities = _identify(symbols, timeframes)
    rows = Rows(times, numbers, series, identities)
    _check_spacing(rows, usable, columns.file)
    return rows


def _identify(symbols: Labels, timeframes: Labels) -> tuple[Ints, tuple[tuple[str, str], ...]]:
    """Number the symbol-and-timeframe pairs that occur."""
    known = (symbols.codes >= 0) & (timeframes.codes >= 0)
    pairs = np.where(known, symbols.codes * len(timeframes.names) + timeframes.codes, -1)
    distinct = np.unique(pairs[known])
    series = np.where(known, np.searchsorted(distinct, pairs), -1)
    identities = (
        (symbols.names[pair // len(timeframes.names)], timeframes.names[pair % len(timeframes.names)])
        for pair in distinct.tolist()
    )
    return series.astype(np.int64), tuple(identities)


def _infer_timeframe(times: Times, symbols: Labels, usable: Bools, name: str) -> str:
    per_symbol = [spacings(times.microseconds[usable & (symbols.codes == code)]) for code in range(len(symbols.names))]
    distances = np.concatenate(per_symbol) if per_symbol else np.empty(0, dtype=np.int64)
    if len(distances) < 2:
        raise InputFileError(f"{name}: too few rows to tell the timeframe from their spacing; give --timeframe")
    common = most_common(distances)
    inferred = next((found for distance in common.tolist() if (found := name_of(distance))), None)
    if inferred is None:
        apart = show_span(int(common[0]))
        raise InputFileError(f"{name}: rows are {apart} apart, which is no timeframe; give --timeframe")
    return inferred


def _check_spacing(rows: Rows, usable: Bools, name: str) -> None:
    for number, (symbol, timeframe) in enumerate(rows.identities):
        distances = spacings(rows.times.microseconds[usable & (rows.series == number)])
        common = most_common(distances)
        # A handful of late or corrected bars stands apart by any multiple of the timeframe.
        handful = len(distances) < MIN_SPACINGS and not np.any(distances % length(timeframe))
        if len(common) and length(timeframe) not in common and not handful:
            apart, fitting = show_span(int(common[0])), name_of(int(common[0]))
            advice = f"give --timeframe {fitting}, or check the file" if fitting else "check the file"
            raise InputFileError(f"{name}: {symbol}: rows are {apart} apart, not {timeframe}; {advice}")


def _newest_is_open(rows: Rows, verdicts: Verdicts) -> set[int]:
    """Find the series that had a bar refused as open: their newest accepted bar is not the last one of the file."""
    return {int(number) for number in np.unique(rows.series[verdicts.refused("open")])}


def _split(rows: Rows, kept: Ints) -> dict[int, Ints]:
    """Split the kept rows, which are in order of series, into one array per series."""
    starts = np.searchsorted(rows.series[kept], np.arange(len(rows.identities)))
    return dict(enumerate(np.split(kept, starts[1:]))) if len(rows.identities) else {}


def _drop_newest(by_series: dict[int, Ints], newest_open: set[int]) -> tuple[dict[int, Ints], int]:
    left = {number: rows if number in newest_open else rows[:-1] for number, rows in by_series.items()}
    return left, sum(len(by_series[number]) - len(rows) for number, rows in left.items())


def _rejects(columns: Columns, layout: Layout, rows: Rows, verdicts: Verdicts) -> Rejects:
    positions = {"time": layout.time, "symbol": layout.symbol, "timeframe": layout.timeframe, **layout.values}
    present = {field: position for field, position in positions.items() if position is not None}
    return explain_rejects(columns, verdicts, present, rows.times, lambda row, reason: explain_time(rows, row, reason))
