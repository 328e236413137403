"""Check rows: the first thing that is wrong with a row becomes the reason for which it is refused."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from featurectl.core.candles.arrays import Bools, Floats, Ints
from featurectl.core.candles.grid import length, off_grid, show_time
from featurectl.core.candles.numbers import Numbers
from featurectl.core.candles.rejects import Rejected
from featurectl.core.candles.times import Times

PRICES = ("open", "high", "low", "close")
YEAR = 365 * 86_400_000_000
EARLIEST = 946_684_800_000_000  # 2000-01-01: before it there were no candles this tool is for, only misread units
REASONS = (
    "",
    "unparsable",
    "non-finite",
    "negative or zero price",
    "high below open or close",
    "low above open or close",
    "negative volume",
    "time out of range",
    "off-grid time",
    "open",
    "duplicate, disagrees",
)
CODE = {reason: code for code, reason in enumerate(REASONS)}


@dataclass(frozen=True, eq=False)
class Rows:
    """What the rows say, understood but not checked. ``series`` is an index into ``identities``, -1 where unknown."""

    times: Times
    numbers: dict[str, Numbers]
    series: Ints
    identities: tuple[tuple[str, str], ...]

    def __len__(self) -> int:
        return len(self.series)

    @property
    def values(self) -> dict[str, Floats]:
        """Give the numeric columns without their marks."""
        return {field: numbers.values for field, numbers in self.numbers.items()}


class Verdicts:
    """The reason each row is refused for, the first one found, with the column at fault."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows
        self.reason = np.zeros(len(rows), dtype=np.int8)
        self.field = np.full(len(rows), "", dtype="U12")
        self.kept_instead = np.full(len(rows), -1, dtype=np.int64)

    @property
    def accepted(self) -> Bools:
        """Mark the rows nothing was found against."""
        accepted: Bools = self.reason == 0
        return accepted

    def refuse(self, reason: str, where: Bools, field: str = "") -> None:
        """Refuse the rows at ``where`` unless something else was found before."""
        where = where & self.accepted
        self.reason[where] = CODE[reason]
        self.field[where] = field

    def count(self, reason: str) -> int:
        """Count the rows refused for ``reason``."""
        return int(np.count_nonzero(self.reason == CODE[reason]))


def check_rows(rows: Rows, closed_before: int, written_at: int | None = None) -> Verdicts:
    """Check every row on its own; duplicates are for ``resolve_duplicates``."""
    verdicts = Verdicts(rows)
    _check_parsed(verdicts)
    _check_values(verdicts)
    _check_times(verdicts, closed_before, written_at)
    return verdicts


def in_range(times: Times, closed_before: int) -> Bools:
    """Mark the times that are known and plausible: from 2000 to ten years after ``closed_before``."""
    latest = closed_before + 10 * YEAR
    plausible: Bools = times.known & (times.microseconds >= EARLIEST) & (times.microseconds <= latest)
    return plausible


def _check_parsed(verdicts: Verdicts) -> None:
    rows = verdicts.rows
    verdicts.refuse("unparsable", ~rows.times.known, "time")
    verdicts.refuse("unparsable", rows.series < 0, "identity")
    for field, numbers in rows.numbers.items():
        verdicts.refuse("unparsable", numbers.unparsable, field)


def _check_values(verdicts: Verdicts) -> None:
    values = verdicts.rows.values
    for field, column in values.items():
        optional = field in ("quote_volume", "trade_count")
        verdicts.refuse("non-finite", np.isinf(column) if optional else ~np.isfinite(column), field)
    for field in PRICES:
        verdicts.refuse("negative or zero price", values[field] <= 0, field)
    verdicts.refuse("high below open or close", values["high"] < np.maximum(values["open"], values["close"]), "high")
    verdicts.refuse("low above open or close", values["low"] > np.minimum(values["open"], values["close"]), "low")
    for field in values.keys() - set(PRICES):
        verdicts.refuse("negative volume", values[field] < 0, field)


def _check_times(verdicts: Verdicts, closed_before: int, written_at: int | None) -> None:
    rows = verdicts.rows
    times = rows.times.microseconds
    verdicts.refuse("time out of range", ~in_range(rows.times, closed_before), "time")
    for number, (_, timeframe) in enumerate(rows.identities):
        members = np.flatnonzero((rows.series == number) & verdicts.accepted)
        off = np.zeros(len(rows), dtype=bool)
        off[members] = off_grid(times[members], timeframe)
        verdicts.refuse("off-grid time", off, "time")
        still_open = (rows.series == number) & (times > closed_before - length(timeframe))
        if written_at is not None:
            # A bar that was open when the file was written is cut short in it for ever.
            still_open |= (rows.series == number) & (times <= written_at) & (times > written_at - length(timeframe))
        verdicts.refuse("open", still_open, "time")


def resolve_duplicates(verdicts: Verdicts) -> tuple[Ints, int]:
    """Keep the row latest in the file for each series and time; refuse the others that say something else.

    Returns:
        The rows kept, by series and then open time, and the number of dropped rows equal to the one kept.
    """
    rows = verdicts.rows
    accepted = np.flatnonzero(verdicts.accepted)
    times, series = rows.times.microseconds, rows.series
    # lexsort is stable, so within a series and time the rows stay in file order.
    order = accepted[np.lexsort((times[accepted], series[accepted]))]
    if not len(order):
        return order, 0
    is_last = np.append((np.diff(times[order]) != 0) | (np.diff(series[order]) != 0), True)
    last_of_run = order[np.flatnonzero(is_last)[np.cumsum(is_last) - is_last]]
    earlier, kept = order[~is_last], last_of_run[~is_last]
    differs = np.zeros(len(earlier), dtype=bool)
    for column in rows.values.values():
        differs |= ~((column[earlier] == column[kept]) | (np.isnan(column[earlier]) & np.isnan(column[kept])))
    verdicts.reason[earlier[differs]] = CODE["duplicate, disagrees"]
    verdicts.kept_instead[earlier[differs]] = kept[differs]
    return order[is_last], int(np.count_nonzero(~differs))


def explain(
    verdicts: Verdicts, columns: dict[str, tuple[str, list[object]]], refused: Ints, row_numbers: Ints
) -> Iterator[Rejected]:
    """Say of each refused row what is wrong; ``columns`` gives each field's name in the file and its refused cells."""
    for place, index in enumerate(refused.tolist()):
        reason, field = REASONS[verdicts.reason[index]], str(verdicts.field[index])
        cells = [f"column '{name}': {_cell(cells[place])}" for name, cells in _blamed(reason, field, columns)]
        if reason == "duplicate, disagrees":
            detail = f"row {row_numbers[verdicts.kept_instead[index]]} kept"
        elif reason in ("off-grid time", "open", "time out of range"):
            detail = _explain_time(verdicts.rows, index, reason)
        else:
            detail = ", ".join(cells)
        yield Rejected(index, reason, detail)


def _blamed(reason: str, field: str, columns: dict[str, tuple[str, list[object]]]) -> list[tuple[str, list[object]]]:
    if reason.endswith("open or close"):
        return [columns[name] for name in (field, "open", "close")]
    fields = ("symbol", "timeframe") if field == "identity" else (field,)
    return [columns[name] for name in fields if name in columns]


def _cell(value: object) -> str:
    return "blank" if value is None or value == "" else f"'{' '.join(str(value).split())[:60]}'"


def _explain_time(rows: Rows, index: int, reason: str) -> str:
    microseconds, timeframe = int(rows.times.microseconds[index]), rows.identities[rows.series[index]][1]
    if reason == "off-grid time":
        return f"no {timeframe} bar opens at {show_time(microseconds)}"
    if reason == "open":
        return f"closes at {show_time(microseconds + length(timeframe))}"
    return f"read as {show_time(microseconds)}"
