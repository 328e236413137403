"""Find columns by their names, regardless of case, spaces and underscores."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from featurectl.errors import InputFileError

DATE_NAMES = ("date", "datetime")
SYMBOL_NAMES = ("symbol", "ticker", "pair", "instrument")


def key(column: str) -> str:
    """Write a column's name as names are compared."""
    return re.sub(r"[\s_]+", "", column).lower()


def first(keys: Sequence[str], names: Iterable[str]) -> int | None:
    """Find the first of these names that is there; gives its position."""
    return next((keys.index(name) for name in names if name in keys), None)


@dataclass(frozen=True)
class Header:
    """A file's column names, and as ``keys`` the same as they are compared."""

    columns: tuple[str, ...]
    file: str
    keys: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "keys", tuple(map(key, self.columns)))

    def only(self, *names: str) -> int | None:
        """Find the first of these names that the file has; gives its position.

        Raises:
            InputFileError: several columns have that name.
        """
        position = first(self.keys, names)
        if position is not None and (count := self.keys.count(self.keys[position])) > 1:
            found = f"column '{self.keys[position]}' is there {count} times"
            raise InputFileError(f"{self.file}: {found}: {self._listed()}; rename one")
        return position

    def unrecognized(self, needed: str) -> InputFileError:
        """Give the error that says which columns there are and which are needed."""
        return InputFileError(f"{self.file}: columns not recognized: {self._listed()}; needed: {needed}")

    def _listed(self) -> str:
        shown = [column if len(column) <= 40 else column[:39] + "…" for column in self.columns[:20]]
        names = ", ".join(" ".join(column.split()) or "(blank)" for column in shown)
        return names + (f", … ({len(self.columns)} in all)" if len(self.columns) > 20 else "")
