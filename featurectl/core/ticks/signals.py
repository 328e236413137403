"""Read files of signals: scores such as a news sentiment, of one symbol or of the whole market."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

import numpy as np

from featurectl.core.entity import MARKET
from featurectl.core.tabular.arrays import Floats
from featurectl.core.tabular.columns import Columns
from featurectl.core.tabular.filenames import ends_in_cash, stem, words
from featurectl.core.tabular.files import RawRows, read_rows
from featurectl.core.tabular.header import SYMBOL_NAMES, Header, key
from featurectl.core.tabular.labels import Labels, stated, stated_symbols
from featurectl.core.tabular.numbers import is_blank
from featurectl.core.tabular.rejects import Rejected, build_rejects
from featurectl.core.tabular.verdicts import DISAGREES, Explain, Verdicts, explain_each, resolve_duplicates
from featurectl.core.ticks.columns import TIME, check_rows, time_columns
from featurectl.core.ticks.series import Series, TickFile, by_key, runs
from featurectl.core.times import microseconds
from featurectl.errors import InputFileError

NEEDED = f"{TIME}, and score or value; or a column for each signal that --name lists"
SCORE_NAMES = ("score", "value")
NAME_NAMES = ("name", "signal", "indicator")
OUT_OF_RANGE = "score out of range"
UNBOUNDED = (-math.inf, math.inf)
_PLAIN = re.compile(r"[A-Za-z]\w{0,62}", re.ASCII)
Ranges = Mapping[str, tuple[float, float]]


@dataclass(frozen=True)
class Layout:
    """Where each thing is, as column positions; ``scores`` by the name of the signal, or of the one score column."""

    time: int
    date: int | None
    symbol: int | None
    name: int | None
    scores: Mapping[str, int]
    wide: bool

    @property
    def positions(self) -> dict[str, int]:
        """Give the columns present by the names that checks call them."""
        found = {"time": self.time, "symbol": self.symbol, "name": self.name}
        return {**{field: position for field, position in found.items() if position is not None}, **self.scores}


def read_signals(
    source: str | Path | BinaryIO,
    *,
    name: str,
    symbol: str | None,
    signals: Sequence[str] = (),
    ranges: Ranges,
    now: datetime,
) -> TickFile:
    """Read and check a CSV (plain, gzip, zip) or Parquet file of scores.

    A series has ``time`` and ``score``. Without a symbol the scores are the whole market's, whose symbol is ``*``. The
    signal is named by ``signals``, a column, or the file. Of scores of one symbol, name and time the last counts.

    In a wide file, which has a column for each signal, every score is judged by itself: one that is refused or stands
    twice leaves the row's others alone. ``rejects`` and ``duplicates`` then count cells, not rows; what is wrong with a
    row as a whole (no time, no symbol, no score at all) counts once.

    Args:
        source: a path, or a binary stream such as stdin.
        name: what errors call the file; ``-`` names no signal.
        symbol: the symbol of all rows; None takes it from a column.
        signals: the name of all rows' signal, or the names of the columns that hold one signal each.
        ranges: the lowest and highest score of signals, where there are such.
        now: rows after this instant are refused.

    Raises:
        InputFileError: the file as a whole can't be used. Single bad rows and cells are in ``rejects`` instead.
    """
    for signal in signals:
        if normalize_name(signal) is None:
            raise InputFileError(f"{name}: {_not_plain(signal)}")
    raw = read_rows(source, name)
    layout = recognize_layout(raw, name, signals)
    columns = Columns(raw, raw.columns, name)
    times = columns.times(layout.time)
    symbols, names, notes = _identify(columns, layout, symbol, signals)
    numbers = {field: columns.numbers(position) for field, position in layout.scores.items()}
    no_score = np.all([is_blank(column) for column in numbers.values()], axis=0)
    series: list[Series] = []
    rejected: list[Rejected] = []
    duplicates = 0
    for field, column in numbers.items():
        scores = _Scores(field, column.values, names[field])
        optional = [field] if layout.wide else []
        verdicts = check_rows(times, symbols, {field: column}, microseconds(now), optional=optional)
        verdicts.refuse("unparsable", scores.names.codes < 0, "name")
        scores.check(verdicts, ranges)
        if layout.wide:
            # A blank cell says that there is no score of that name at that time.
            verdicts.refuse("non-finite", no_score, *numbers)
            verdicts.leave_out(is_blank(column))
        keys = [symbols.codes, scores.names.codes, times.microseconds]
        kept, again = resolve_duplicates(verdicts, keys, [column.values])
        duplicates += again
        series += [
            Series(
                {"symbol": symbols.names[symbols.codes[rows[0]]], "name": scores.name(rows[0])},
                {"time": times.microseconds[rows], "score": column.values[rows]},
            )
            for rows in runs(kept, keys[:2])
        ]
        found = explain_each(columns, verdicts, layout.positions, times, scores.explain(ranges))
        rejected += _naming(columns.names[layout.scores[field]], found) if layout.wide else found
    return TickFile(
        name=name,
        layout="wide" if layout.wide else "generic",
        rows_read=raw.rows_read,
        series=by_key(series),
        # What is wrong with a whole row was found in every column.
        rejects=build_rejects(raw, columns.names, dict.fromkeys(rejected)),
        duplicates=duplicates,
        warnings=columns.disagreements(layout.date, layout.time, times, rounded=True),
        notes=notes,
    )


def recognize_layout(raw: RawRows, name: str, signals: Sequence[str]) -> Layout:
    """Find out what the columns hold, by their names.

    Raises:
        InputFileError: a needed column is missing or named twice.
    """
    if raw.headerless:
        raise InputFileError(f"{name}: has no header row; add one: {NEEDED}")
    header = Header(raw.columns, name)
    time, date = time_columns(header, raw)
    score = header.only(*SCORE_NAMES)
    wide = len(signals) > 1 or (score is None and bool(signals))
    scores = {signal: header.only(key(signal)) for signal in signals} if wide else {"score": score}
    if time is None or (None in scores.values() and not wide):
        raise header.unrecognized(NEEDED)
    if missing := [signal for signal, position in scores.items() if position is None]:
        raise header.unrecognized(f"a column '{missing[0]}'" + (", or score or value" if len(signals) == 1 else ""))
    return Layout(
        time=time,
        date=date,
        symbol=header.only(*SYMBOL_NAMES),
        name=None if wide else header.only(*NAME_NAMES),
        scores={signal: position for signal, position in scores.items() if position is not None},
        wide=wide,
    )


@dataclass(frozen=True, eq=False)
class _Scores:
    """One column of scores, and the signals they are of: a wide file has a column for each signal, others have one."""

    field: str
    values: Floats
    names: Labels

    def name(self, row: int) -> str:
        """Give the name of a row's signal."""
        return self.names.names[int(self.names.codes[row])]

    def check(self, verdicts: Verdicts, ranges: Ranges) -> None:
        """Refuse scores out of their signal's range."""
        for code, name in enumerate(self.names.names):
            low, high = ranges.get(name, UNBOUNDED)
            beyond = (self.names.codes == code) & ((self.values < low) | (self.values > high))
            verdicts.refuse(OUT_OF_RANGE, beyond, self.field)

    def explain(self, ranges: Ranges) -> Explain:
        """Say of a score out of its range what that is."""

        def explain(row: int, reason: str) -> str | None:
            if reason != OUT_OF_RANGE:
                return None
            low, high = ranges[self.name(row)]
            return f"{self.name(row)} is {self.values[row]:g}, declared {low:g} to {high:g}"

        return explain


def _naming(column: str, rejected: Iterable[Rejected]) -> Iterator[Rejected]:
    """Say which of a row's scores another row contradicts."""
    for one in rejected:
        yield replace(one, detail=f"column '{column}': {one.detail}") if one.reason == DISAGREES else one


def _identify(
    columns: Columns, layout: Layout, symbol: str | None, signals: Sequence[str]
) -> tuple[Labels, Mapping[str, Labels], tuple[str, ...]]:
    """Find every row's symbol, its signal in each score column, and what to say where the file does not state them."""
    notes: list[str] = []
    names = _names(columns, layout, signals)
    if names is None:
        signal = _name_from_file(columns.file)
        names = dict.fromkeys(layout.scores, Labels.same(signal, len(columns)))
        notes.append(f"signal {signal}, after the file's name")
    texts = columns.texts(layout.symbol)
    symbols = stated_symbols(symbol, texts)
    if symbols is None:
        if texts.column is not None:
            raise InputFileError(f"{columns.file}: column '{texts.name}' is blank; give --symbol, * for the market")
        _refuse_symbol_in_file_name(columns.file)
        symbols = Labels.same(MARKET, len(columns))
        notes.append(f"no symbol column: scores of the whole market (symbol {MARKET})")
    return symbols, names, tuple(notes)


def _names(columns: Columns, layout: Layout, signals: Sequence[str]) -> dict[str, Labels] | None:
    if layout.wide:
        return {field: Labels.same(field, len(columns)) for field in layout.scores}
    signal = signals[0] if signals else None
    labels = stated("name", signal, columns.texts(layout.name), normalize_name, _not_plain(signal))
    return None if labels is None else dict.fromkeys(layout.scores, labels)


def normalize_name(text: str) -> str | None:
    """Give a signal's name without blanks around it; None if it is no plain name."""
    return text.strip() if _PLAIN.fullmatch(text.strip()) else None


def _not_plain(name: str | None) -> str:
    return f"'{name}' is no name for a signal; write letters, digits and underscores"


def _name_from_file(file: str) -> str:
    name = None if file == "-" else normalize_name(stem(file))
    if name is None:
        reason = "stdin has no name" if file == "-" else _not_plain(stem(file))
        raise InputFileError(f"{file}: no column names the signal, and {reason}; give --name")
    return name


def _refuse_symbol_in_file_name(file: str) -> None:
    # Scores of one symbol given to the whole market would be wrong without a trace.
    found = [word for word in words(file) if word.isupper() and ends_in_cash(word)]
    if found:
        raise InputFileError(
            f"{file}: no symbol column, but {found[0]} in the file's name; "
            f"give --symbol {found[0]}, or --symbol '{MARKET}' for the whole market"
        )
