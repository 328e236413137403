"""Target columns of training sets: what a series' price does N bars after a row's event time.

The base is the newest bar that is closed at the event time, if no bar is missing since; the bar ahead opens exactly N
timeframes after it. Nothing of this is a feature: it is not known at the event time.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from featurectl.core import pgcopy
from featurectl.core.db import Connection
from featurectl.core.entity import TIMEFRAMES
from featurectl.core.queries import query
from featurectl.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    from featurectl.core.arrow import Batches
    from featurectl.core.spines import TableSpine

KINDS = ("forward_return", "log_return", "direction")
KEYS = ("symbol", "timeframe")
MAX_BARS = 1_000_000
_COLUMNS = {"open_time": pgcopy.TIMESTAMP, "close": pgcopy.FLOAT}


@dataclass(frozen=True, slots=True)
class Target:
    """A kind of outcome and how many bars ahead it is."""

    kind: str
    bars: int

    @property
    def name(self) -> str:
        """The name of its column."""
        return f"{self.kind}_{self.bars}"

    def outcome(self, base: NDArray[np.float64], ahead: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the outcomes for the closes of base bars and of those ahead; NaN where one is missing or no price."""
        import numpy as np  # 0.1 s, and only targets need it

        with np.errstate(all="ignore"):
            ratio = np.where((base > 0) & (ahead > 0), ahead / base, np.nan)
        if self.kind == "log_return":
            return np.asarray(np.log(ratio))
        return ratio - 1 if self.kind == "forward_return" else np.sign(ratio - 1)


def parse_targets(texts: Iterable[str]) -> tuple[Target, ...]:
    """Read targets written as ``forward_return:24``, each once.

    Raises:
        UsageError: a kind that does not exist, or a number of bars that is none.
    """
    return tuple(dict.fromkeys(_parse(text) for text in texts))


def _parse(text: str) -> Target:
    kind, _, bars = text.partition(":")
    if kind not in KINDS:
        raise UsageError(f"target '{text}' does not exist; write one of {', '.join(f'{name}:N' for name in KINDS)}")
    if not re.fullmatch(r"[0-9]{1,7}", bars) or not 1 <= int(bars) <= MAX_BARS:
        raise UsageError(f"target '{text}' names no number of bars; write {kind}:N with N from 1 to {MAX_BARS}")
    return Target(kind, int(bars))


def option_for(name: str) -> str | None:
    """Return the option that asks for the target whose column has this name, if there is one."""
    found = re.fullmatch(rf"({'|'.join(KINDS)})_([0-9]+)", name)
    return f"--target {found[1]}:{found[2]}" if found else None


@dataclass(frozen=True, slots=True)
class Bars:
    """The closed bars of a series, oldest first: open times in microseconds since 1970, and closes."""

    open_time: NDArray[np.int64]
    close: NDArray[np.float64]

    def closes(
        self, at: NDArray[np.int64], step: int, ahead: Sequence[int]
    ) -> tuple[NDArray[np.float64], list[NDArray[np.float64]]]:
        """Return the close of the base bar at each instant, and of the bars so many ahead of it; NaN where missing.

        ``step`` is the timeframe in microseconds, as ``at`` is.
        """
        import numpy as np

        newest = np.searchsorted(self.open_time, at - step, side="right") - 1
        opened = np.where(newest >= 0, self.open_time[newest], 0) if len(self.open_time) else np.zeros_like(at)
        is_base = (newest >= 0) & (at - step - opened < step)
        base = self._close_of(newest, is_base)
        others = []
        for bars in ahead:
            wanted = opened + bars * step
            place = np.searchsorted(self.open_time, wanted)
            there = is_base & (place < len(self.open_time))
            there[there] = self.open_time[place[there]] == wanted[there]
            others.append(self._close_of(place, there))
        return base, others

    def _close_of(self, place: NDArray[np.int64], there: NDArray[np.bool_]) -> NDArray[np.float64]:
        import numpy as np

        close = np.full(len(place), np.nan)
        close[there] = self.close[place[there]]
        return close


class Closes:
    """The bars that targets of instants from ``first`` to ``last`` need, each series read once: 16 bytes a bar.

    Either end may be open. A bar that is not closed at ``now`` is not there yet.
    """

    def __init__(
        self,
        connection: Connection,
        targets: Sequence[Target],
        first: datetime | None,
        last: datetime | None,
        *,
        now: datetime,
    ) -> None:
        self._connection = connection
        self._bars_ahead = max(target.bars for target in targets)
        self._limits = {"first": first, "last": last, "now": now}
        self._read: dict[tuple[str, str], Bars] = {}

    def of(self, symbol: str, timeframe: str) -> Bars:
        """Return a series' bars; no bars where there is no such series."""
        if (symbol, timeframe) not in self._read:
            step = TIMEFRAMES[timeframe]
            parameters = {
                **self._limits,
                "symbol": symbol,
                "timeframe": timeframe,
                "step": step,
                "ahead": (self._bars_ahead - 1) * step,
            }
            arrays = pgcopy.read(self._connection, query("targets", "closes"), _COLUMNS, parameters)
            self._read[symbol, timeframe] = Bars(arrays["open_time"], arrays["close"])
        return self._read[symbol, timeframe]


def with_targets(
    batches: Batches, targets: Sequence[Target], closes: Closes, spine: TableSpine | None = None
) -> Batches:
    """Return a training set with the targets' columns behind the others, as it arrives.

    Keys and instants are those of the spine, whose rows the batches are, or else their columns ``symbol``,
    ``timeframe`` and ``event_timestamp``.
    """
    import pyarrow as pa

    from featurectl.core.arrow import Batches

    added = [pa.field(target.name, pa.float64()) for target in targets]
    schema = pa.schema([*batches.schema, *added])

    def arriving() -> Iterator[pa.RecordBatch]:
        start = 0
        for batch in batches:
            rows = spine.keys.slice(start, batch.num_rows) if spine else pa.Table.from_batches([batch])
            at = spine.at.slice(start, batch.num_rows) if spine else rows.column("event_timestamp")
            columns = _columns(rows.select(KEYS), at, targets, closes)
            yield pa.RecordBatch.from_arrays([*batch.columns, *columns], schema=schema)
            start += batch.num_rows

    return Batches(schema, arriving())


def _columns(keys: pa.Table, at: pa.ChunkedArray, targets: Sequence[Target], closes: Closes) -> list[pa.Array]:
    """Return the targets of rows by their keys and instants."""
    import numpy as np
    import pyarrow as pa

    from featurectl.core.asof import encode

    probes, distinct = encode(keys, at)
    outcomes = [np.full(probes.total, np.nan) for _ in targets]
    order = np.argsort(probes.code, kind="stable")
    bounds = np.searchsorted(probes.code[order], np.arange(distinct.num_rows + 1))
    for number, series in enumerate(distinct.to_pylist()):
        if series["timeframe"] not in TIMEFRAMES:
            continue
        chosen = order[bounds[number] : bounds[number + 1]]
        step = TIMEFRAMES[series["timeframe"]] // timedelta(microseconds=1)
        base, ahead = closes.of(**series).closes(probes.at[chosen], step, [target.bars for target in targets])
        for outcome, target, close in zip(outcomes, targets, ahead, strict=True):
            outcome[probes.row[chosen]] = target.outcome(base, close)
    return [pa.array(outcome, mask=~np.isfinite(outcome)) for outcome in outcomes]
