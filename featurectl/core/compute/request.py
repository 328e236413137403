"""What is wanted of `compute`, what one view and entity came to, and what all kinds of computed views share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from featurectl.core.catalog import View
from featurectl.core.functions import FunctionSet, load_functions
from featurectl.core.times import ALWAYS, Window, microseconds

if TYPE_CHECKING:
    from featurectl.core.compute.changes import Change


@dataclass(frozen=True, slots=True)
class Computed:
    """What became of one entity of a view.

    ``rows`` of its sources were looked at, ``stale`` of them were new or changed since; feature rows were inserted
    and altered.
    """

    view: str
    entity: str
    rows: int
    stale: int
    inserted: int
    changed: int


@dataclass(frozen=True, slots=True)
class Request:
    """Which features to bring up to date: ``full`` recomputes all rows of the window, else only stale ones.

    With ``features`` only these, in the feature rows that are there; new rows wait for a run without. Retention deletes
    feature rows from before ``floor``, and none is made there.
    """

    symbols: tuple[str, ...] = ()
    timeframes: tuple[str, ...] = ()
    window: Window = ALWAYS
    full: bool = False
    features: tuple[str, ...] = ()
    floor: datetime | None = None

    def first_of_grid(self, step: int) -> int:
        """Return the first instant that is not before the floor, of those every ``step`` microseconds."""
        return -(-microseconds(self.floor) // step) if self.floor else -(2**62)

    def wants_symbol(self, symbol: str) -> bool:
        return not self.symbols or symbol in self.symbols

    def wants_timeframe(self, timeframe: str) -> bool:
        return not self.timeframes or timeframe in self.timeframes


# Changes by timeframe.
Unseen = Mapping[str, "Sequence[Change]"]


class Job(Protocol):
    """A piece of work in a transaction of its own."""

    @property
    def entity(self) -> str:
        """Whose features it computes."""

    def run(self) -> list[Computed]:
        """Do it; one result for each view's entity."""

    def begin_whole(self) -> Unseen | None:
        """Prepare to do it in parts, if its window holds all that there is: have changes kept from now on.

        Returns the changes that the parts will have seen; nothing where the window leaves something out.
        """

    def end_whole(self, seen: Unseen) -> None:
        """Note that all parts are done, so that the next run need not do it again."""


def view_functions(view: View, root: Path) -> FunctionSet:
    """Load the functions of a computed view from the repository."""
    file = root / (view.functions_file or "")
    names = [field.name for field in view.fields]
    return load_functions(file, names, root=root, computed_from=view.computed_from or "")
