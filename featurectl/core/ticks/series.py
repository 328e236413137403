"""What reading a file of ticks or signals gives: series by key, refused rows, and what there is to say about them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from featurectl.core.tabular.arrays import Floats, Ints
from featurectl.core.tabular.rejects import Rejects


@dataclass(frozen=True, eq=False)
class Series:
    """The accepted rows of one series in order of time, unique by the key of their table.

    ``key`` is the part of that key which all rows share. ``columns`` has the rest as equally long arrays: ``time`` in
    int64 microseconds since 1970 UTC, float64, Arrow strings.
    """

    key: Mapping[str, str]
    columns: Mapping[str, Floats | Ints | pa.StringArray]

    def __len__(self) -> int:
        return len(self.columns["time"])


@dataclass(frozen=True, eq=False)
class TickFile:
    """What a file gave. ``rows_read`` counts every data row, accepted or not.

    ``superseded`` counts the states of an order book that another of the same instant followed, ``duplicates`` the rows
    that say again what another one says. Where a row has several signals, ``rejects`` has a row for each bad cell, and
    ``duplicates`` counts scores.
    """

    name: str
    layout: str
    rows_read: int
    series: tuple[Series, ...]
    rejects: Rejects
    superseded: int = 0
    duplicates: int = 0
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=())

    @property
    def faults(self) -> dict[str, int]:
        """Refused rows by reason."""
        return self.rejects.counts


def runs(rows: Ints, keys: Sequence[Ints]) -> Iterator[Ints]:
    """Split rows, which are in order of their keys, where a key changes."""
    changes = np.zeros(max(len(rows) - 1, 0), dtype=bool)
    for key in keys:
        changes |= np.diff(key[rows]) != 0
    yield from np.split(rows, np.flatnonzero(changes) + 1) if len(rows) else ()


def by_key(series: Iterable[Series]) -> tuple[Series, ...]:
    """Put series into the order of their keys, in which they are written: two runs then never wait in a circle."""
    return tuple(sorted(series, key=lambda one: tuple(one.key.values())))
