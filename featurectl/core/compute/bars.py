"""Which bars of a series are to be computed: pure functions over one value a bar, oldest first."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Int64 = NDArray[np.int64]
    Mask = NDArray[np.bool_]


def placed(events: Int64, computed_from: Int64, closes: Int64) -> Int64:
    """Return, for each bar by its close, the state of the candle its features were computed from; -1 without any."""
    import numpy as np

    found = np.full(len(closes), -1, dtype=np.int64)
    _, at_bar, at_row = np.intersect1d(closes, events, assume_unique=True, return_indices=True)
    found[at_bar] = computed_from[at_row]
    return found


def influenced(stale: Mask, warmup: int) -> Mask:
    """Return the bars whose features depend on a stale bar: the bar itself and the ``warmup`` bars after it."""
    import numpy as np

    positions = np.arange(len(stale))
    newest_stale = np.maximum.accumulate(np.where(stale, positions, -warmup - 1)) if len(stale) else positions
    result: Mask = positions - newest_stale <= warmup
    return result


def blocks(target: Mask, warmup: int) -> list[tuple[int, int]]:
    """Return first and last positions of the spans to compute; spans whose warm-ups would overlap are one."""
    import numpy as np

    positions = np.flatnonzero(target)
    if not len(positions):
        return []
    breaks = np.flatnonzero(np.diff(positions) > warmup)
    firsts = positions[np.r_[0, breaks + 1]]
    lasts = positions[np.r_[breaks, len(positions) - 1]]
    return [(int(first), int(last)) for first, last in zip(firsts, lasts, strict=True)]
