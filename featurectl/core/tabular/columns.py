"""Read a file's columns by position, naming the file and the column where that fails."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from featurectl.core.tabular.arrays import Ints
from featurectl.core.tabular.files import RawRows
from featurectl.core.tabular.labels import Texts
from featurectl.core.tabular.numbers import Numbers, read_numbers
from featurectl.core.tabular.times import DAY, Times, read_times
from featurectl.errors import InputFileError


@dataclass(frozen=True)
class Columns:
    """The columns of a file by position; ``names`` are those that rejects and messages use."""

    raw: RawRows
    names: tuple[str, ...]
    file: str

    def __len__(self) -> int:
        return len(self.raw.row_numbers)

    def times(self, position: int) -> Times:
        """Read a column of times."""
        try:
            return read_times(self.raw.column(position))
        except TypeError as error:
            raise InputFileError(f"{self.file}: column '{self.names[position]}': {error}; needed: a time") from None

    def numbers(self, position: int) -> Numbers:
        """Read a column of numbers."""
        try:
            return read_numbers(self.raw.column(position))
        except TypeError as error:
            raise InputFileError(f"{self.file}: column '{self.names[position]}': {error}; needed: numbers") from None

    def texts(self, position: int | None) -> Texts:
        """Read a column of strings, if the file has it."""
        if position is None:
            return Texts(None, "", len(self), self.file)
        column, name = self.raw.column(position), self.names[position]
        try:
            return Texts(column.cast(pa.string()), name, len(self), self.file)
        except (pa.ArrowNotImplementedError, pa.ArrowInvalid):
            raise InputFileError(f"{self.file}: column '{name}': {column.type} holds no text") from None

    def disagreements(self, date: int | None, epoch: int, times: Times, *, rounded: bool = False) -> tuple[str, ...]:
        """Count the rows whose readable date says another time than the epoch beside it.

        Dates that may be ``rounded`` agree with an instant within what they show: the day, the second.
        """
        if date is None:
            return ()
        try:
            dates = read_times(self.raw.column(date))
        except TypeError:
            return ()  # it is not needed, so it may be anything
        both = dates.known & times.known
        apart = np.abs(dates.microseconds - times.microseconds)
        count = int(np.count_nonzero(both & (apart >= (_precision(dates.microseconds[both]) if rounded else 1))))
        if not count:
            return ()
        rows = "1 row" if count == 1 else f"{count:,} rows"
        return (f"{rows}: `{self.names[date]}` and `{self.names[epoch]}` disagree; `{self.names[epoch]}` was used",)


def _precision(microseconds: Ints) -> int:
    """Give the unit that all of these instants are whole multiples of."""
    return next((unit for unit in (DAY, 1_000_000, 1_000) if not np.any(microseconds % unit)), 1)
