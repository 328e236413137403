"""Judge rows: the first thing found wrong with one is the reason it is refused for; of duplicates the last is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa

from featurectl.core.tabular.arrays import Bools, Floats, Ints
from featurectl.core.tabular.columns import Columns
from featurectl.core.tabular.rejects import Rejected, Rejects, build_rejects
from featurectl.core.tabular.times import EARLIEST, Times, show_time

DISAGREES = "duplicate, disagrees"


class Verdicts:
    """The reason each row is refused for, the first one found, with the fields at fault."""

    def __init__(self, rows: int) -> None:
        self._reasons: list[tuple[str, tuple[str, ...]]] = [("", ())]
        self._codes = np.zeros(rows, dtype=np.int8)
        self.kept_instead = np.full(rows, -1, dtype=np.int64)

    @property
    def accepted(self) -> Bools:
        """Mark the rows nothing was found against."""
        accepted: Bools = self._codes == 0
        return accepted

    @property
    def rejected(self) -> Bools:
        """Mark the rows something was found against; those left out are neither accepted nor rejected."""
        rejected: Bools = self._codes > 0
        return rejected

    def leave_out(self, where: Bools) -> None:
        """Leave accepted rows out that are not wrong."""
        self._codes[where & self.accepted] = -1

    def refuse(self, reason: str, where: Bools, *fields: str) -> None:
        """Refuse the rows at ``where`` unless something else was found before."""
        self._codes[where & self.accepted] = self._code(reason, fields)

    def refuse_for(self, reason: str, rows: Ints, kept: Ints) -> None:
        """Refuse accepted rows for the sake of others."""
        self._codes[rows] = self._code(reason, ())
        self.kept_instead[rows] = kept

    def refused(self, reason: str) -> Bools:
        """Mark the rows refused for ``reason``."""
        codes = [code for code, known in enumerate(self._reasons) if known[0] == reason]
        return np.isin(self._codes, codes)

    def of(self, row: int) -> tuple[str, tuple[str, ...]]:
        """Give the reason a row is refused for, and the fields at fault."""
        return self._reasons[int(self._codes[row])]

    def _code(self, reason: str, fields: tuple[str, ...]) -> int:
        if (reason, fields) not in self._reasons:
            self._reasons.append((reason, fields))
        return self._reasons.index((reason, fields))


def in_range(times: Times, latest: int) -> Bools:
    """Mark the times that are known and plausible: from 2000 to ``latest``."""
    plausible: Bools = times.known & (times.microseconds >= EARLIEST) & (times.microseconds <= latest)
    return plausible


def newest_of_each(rows: Ints, keys: Sequence[Ints]) -> tuple[Ints, Ints, Ints]:
    """Sort rows, given in file order, by their keys, the first key first; keep the last row of each key.

    Returns:
        The rows kept, the rows dropped, and for each dropped row the one kept in its place.
    """
    # lexsort is stable, so rows with the same key stay in file order.
    order = rows[np.lexsort([key[rows] for key in reversed(keys)])]
    if not len(order):
        return order, order, order
    differs = np.zeros(len(order) - 1, dtype=bool)
    for key in keys:
        differs |= np.diff(key[order]) != 0
    is_last = np.append(differs, True)
    last_of_run = order[np.flatnonzero(is_last)[np.cumsum(is_last) - is_last]]
    return order[is_last], order[~is_last], last_of_run[~is_last]


def resolve_duplicates(verdicts: Verdicts, keys: Sequence[Ints], values: Sequence[Floats | Ints]) -> tuple[Ints, int]:
    """Keep the row latest in the file for each key; refuse the others that say something else.

    Returns:
        The rows kept, in the order of their keys, and the number of dropped rows equal to the one kept.
    """
    rows, earlier, kept = newest_of_each(np.flatnonzero(verdicts.accepted), keys)
    differs = np.zeros(len(earlier), dtype=bool)
    for column in values:
        differs |= ~((column[earlier] == column[kept]) | (np.isnan(column[earlier]) & np.isnan(column[kept])))
    verdicts.refuse_for(DISAGREES, earlier[differs], kept[differs])
    return rows, int(np.count_nonzero(~differs))


Explain = Callable[[int, str], str | None]
"""Say what is wrong with a refused row, given its number and the reason; None where its cells show it."""


def _cells_only(row: int, reason: str) -> None:
    return None


def explain_rejects(
    columns: Columns, verdicts: Verdicts, positions: Mapping[str, int], times: Times, explain: Explain = _cells_only
) -> Rejects:
    """Say of each refused row what is wrong; ``positions`` gives the column of each field."""
    rejected = explain_each(columns, verdicts, positions, times, explain)
    return build_rejects(columns.raw, columns.names, rejected)


def explain_each(
    columns: Columns, verdicts: Verdicts, positions: Mapping[str, int], times: Times, explain: Explain
) -> Iterator[Rejected]:
    """Give the refused rows that parsed, as ``explain_rejects`` puts them into a table."""
    refused = np.flatnonzero(verdicts.rejected)
    cells = {
        field: (columns.names[position], columns.raw.column(position).take(pa.array(refused)).to_pylist())
        for field, position in positions.items()
    }
    for place, row in enumerate(refused.tolist()):
        reason, fields = verdicts.of(row)
        if reason == DISAGREES:
            detail: str | None = f"row {columns.raw.row_numbers[verdicts.kept_instead[row]]} kept"
        elif reason == "time out of range":
            detail = f"read as {show_time(times.microseconds[row])}"
        else:
            detail = explain(row, reason)
        if detail is None:
            named = [cells[field] for field in fields if field in cells]
            detail = ", ".join(f"column '{name}': {_cell(values[place])}" for name, values in named)
        yield Rejected(row, reason, detail)


def _cell(value: object) -> str:
    return "blank" if value is None or value == "" else f"'{' '.join(str(value).split())[:60]}'"
