"""Read a candle file: open it, understand it, check it, and sort what is left into series."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa

from featurectl.core.candles.arrays import Bools, Ints
from featurectl.core.candles.files import RawRows, read_rows
from featurectl.core.candles.grid import length, most_common, name_of, show_span, spacings, to_microseconds
from featurectl.core.candles.identity import Labels, resolve_symbols, resolve_timeframes
from featurectl.core.candles.layouts import Layout, recognize_layout
from featurectl.core.candles.numbers import Numbers, read_numbers
from featurectl.core.candles.rejects import Rejects, build_rejects
from featurectl.core.candles.series import CandleSeries, build_series, unfinished_hint
from featurectl.core.candles.times import Times, read_times
from featurectl.core.candles.validate import CODE, Rows, Verdicts, check_rows, explain, in_range, resolve_duplicates
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
    limit = to_microseconds(closed_before)
    raw = read_rows(source, name)
    layout = recognize_layout(raw.columns, raw.headerless, name)
    rows = _understand(raw, layout, symbol, timeframe, limit, name)
    verdicts = check_rows(rows, limit, to_microseconds(written_at) if written_at else None)
    kept, identical = resolve_duplicates(verdicts)
    newest_open = _newest_is_open(verdicts)
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
        rejects=_rejects(raw, layout, verdicts),
        warnings=(
            *_disagreeing_dates(raw, layout, rows.times),
            *(hint for one in suspects if (hint := unfinished_hint(one))),
        ),
        open_bars=verdicts.count("open"),
        dropped_last=dropped,
        identical_duplicates=identical,
    )


def _understand(raw: RawRows, layout: Layout, symbol: str | None, timeframe: str | None, limit: int, name: str) -> Rows:
    times = _read_times(raw, layout, layout.time, name)
    numbers = {field: _read_numbers(raw, layout, position, name) for field, position in layout.values.items()}
    count = len(raw.row_numbers)
    symbols = resolve_symbols(symbol, *_texts(raw, layout, layout.symbol, name), count, name)
    usable = in_range(times, limit)
    timeframes = resolve_timeframes(timeframe, *_texts(raw, layout, layout.timeframe, name), count, name)
    if timeframes is None:
        timeframes = Labels.same(_infer_timeframe(times, symbols, usable, name), count)
    series, identities = _identify(symbols, timeframes)
    rows = Rows(times, numbers, series, identities)
    _check_spacing(rows, usable, name)
    return rows


def _texts(raw: RawRows, layout: Layout, position: int | None, name: str) -> tuple[pa.ChunkedArray | None, str]:
    """Give a column of strings, if the file has it, and its name."""
    if position is None:
        return None, ""
    try:
        return raw.column(position).cast(pa.string()), layout.columns[position]
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid):
        kind = raw.column(position).type
        raise InputFileError(f"{name}: column '{layout.columns[position]}': {kind} holds no text") from None


def _read_times(raw: RawRows, layout: Layout, position: int, name: str) -> Times:
    try:
        return read_times(raw.column(position))
    except TypeError as error:
        raise InputFileError(f"{name}: column '{layout.columns[position]}': {error}; needed: a time") from None


def _read_numbers(raw: RawRows, layout: Layout, position: int, name: str) -> Numbers:
    try:
        return read_numbers(raw.column(position))
    except TypeError as error:
        raise InputFileError(f"{name}: column '{layout.columns[position]}': {error}; needed: numbers") from None


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


def _newest_is_open(verdicts: Verdicts) -> set[int]:
    """Find the series that had a bar refused as open: their newest accepted bar is not the last one of the file."""
    rows = verdicts.rows
    is_open = verdicts.reason == CODE["open"]
    return {int(number) for number in np.unique(rows.series[is_open])}


def _split(rows: Rows, kept: Ints) -> dict[int, Ints]:
    """Split the kept rows, which are in order of series, into one array per series."""
    starts = np.searchsorted(rows.series[kept], np.arange(len(rows.identities)))
    return dict(enumerate(np.split(kept, starts[1:]))) if len(rows.identities) else {}


def _drop_newest(by_series: dict[int, Ints], newest_open: set[int]) -> tuple[dict[int, Ints], int]:
    left = {number: rows if number in newest_open else rows[:-1] for number, rows in by_series.items()}
    return left, sum(len(by_series[number]) - len(rows) for number, rows in left.items())


def _rejects(raw: RawRows, layout: Layout, verdicts: Verdicts) -> Rejects:
    refused = np.flatnonzero(~verdicts.accepted)
    positions = {
        "time": layout.time,
        "symbol": layout.symbol,
        "timeframe": layout.timeframe,
        **layout.values,
    }
    cells = {
        field: (layout.columns[position], raw.column(position).take(pa.array(refused)).to_pylist())
        for field, position in positions.items()
        if position is not None
    }
    columns = layout.columns if raw.headerless else raw.columns
    return build_rejects(raw, columns, explain(verdicts, cells, refused, raw.row_numbers))


def _disagreeing_dates(raw: RawRows, layout: Layout, times: Times) -> tuple[str, ...]:
    """Count the rows whose readable date says another time than the epoch beside it."""
    if layout.date is None:
        return ()
    try:
        dates = read_times(raw.column(layout.date))
    except TypeError:
        return ()  # it is not needed, so it may be anything
    count = int(np.count_nonzero(dates.known & times.known & (dates.microseconds != times.microseconds)))
    if not count:
        return ()
    date, epoch = layout.columns[layout.date], layout.columns[layout.time]
    rows = "1 row" if count == 1 else f"{count:,} rows"
    return (f"{rows}: `{date}` and `{epoch}` disagree; `{epoch}` was used",)
