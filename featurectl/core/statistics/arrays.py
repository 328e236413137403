"""Arrays of any length in little memory: long ones lie in files without a name, and are gone through in chunks."""

from __future__ import annotations

import contextlib
import math
import mmap
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from featurectl.errors import OutputFileError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Codes = NDArray[np.int32]
# The places of rows among all of them.
Places = NDArray[np.int32] | NDArray[np.int64]

# Bytes of rows, and of an array, from which on they go to disk.
IN_MEMORY = 16 * 2**20
# So many rows are looked at together.
CHUNK = 2**18
# So many columns are worked on together, at most.
MOST_AT_ONCE = 4

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def chunks(count: int) -> Iterator[slice]:
    """Yield slices of not more than :data:`CHUNK` rows, one after another, up to ``count``."""
    for start in range(0, count, CHUNK):
        yield slice(start, min(start + CHUNK, count))


def at_once(work: Callable[[_Item], _Result], items: Iterable[_Item]) -> Iterator[_Result]:
    """Yield what is made of each item, in their order, while others are at work: numpy sorts beside other threads.

    Each of them takes memory of its own.
    """
    with ThreadPoolExecutor(min(MOST_AT_ONCE, os.cpu_count() or 1)) as pool:
        yield from pool.map(work, items)


@contextlib.contextmanager
def room_wanted() -> Iterator[None]:
    """Say where files of rows lie when there is no room for them."""
    try:
        yield
    except OSError as error:
        folder = tempfile.tempdir or "temporary files"
        raise OutputFileError(
            f"no room for rows in {folder}: {error.strerror or error}; TMPDIR names another folder, and a shorter "
            "window has fewer"
        ) from error


def scratch(count: int, kind: Any) -> NDArray[Any]:
    """Return an array to be filled; a long one is a file, which the system writes out when memory is short.

    Raises:
        OutputFileError: there is no room for the file.
    """
    size = count * np.dtype(kind).itemsize
    if size <= IN_MEMORY:
        return np.empty(count, dtype=kind)
    with room_wanted(), tempfile.TemporaryFile() as file:
        # Room that turned out to be missing as the array is filled would be a bus error.
        reserve = getattr(os, "posix_fallocate", None)
        if reserve:
            reserve(file.fileno(), 0, size)
        else:
            file.truncate(size)
        return np.frombuffer(mmap.mmap(file.fileno(), size), dtype=kind)


def taken(values: NDArray[Any], places: Places | None) -> NDArray[Any]:
    """Return the values at some places, in that order; all of them are the array itself."""
    if places is None:
        return values
    found = scratch(len(places), values.dtype)
    for part in chunks(len(places)):
        found[part] = values[places[part]]
    return found


def present(values: Floats) -> Floats:
    """Move the values that are no NaN to the front, in their order; return those."""
    end = 0
    for part in chunks(len(values)):
        some = values[part]
        some = some[~np.isnan(some)]
        values[end : end + len(some)] = some
        end += len(some)
    return values[:end]


def missing(values: Floats) -> int:
    """Count the NaNs."""
    return sum(int(np.count_nonzero(np.isnan(values[part]))) for part in chunks(len(values)))


def tally(codes: NDArray[np.integer], count: int) -> Ints:
    """Count each code, of which there are ``count``."""
    found = np.zeros(count, dtype=np.int64)
    for part in chunks(len(codes)):
        found += np.bincount(codes[part], minlength=count)
    return found


def split(codes: NDArray[np.integer], count: int) -> Iterator[tuple[int, Places]]:
    """Yield each code there is, of which there are ``count``, with the places of its rows, which keep their order."""
    counts = tally(codes, count)
    ends = counts.cumsum()
    free = ends - counts
    order = scratch(len(codes), np.int32 if len(codes) < 2**31 else np.int64)
    for part in chunks(len(codes)):
        # numpy sorts short integers by counting them.
        some = codes[part].astype(np.uint16) if count < 2**16 else codes[part]
        local = np.argsort(some, kind="stable")
        sizes = np.bincount(some, minlength=count)
        ordered = some[local]
        within = np.arange(len(some)) - (sizes.cumsum() - sizes)[ordered]
        order[free[ordered] + within] = local + part.start
        free += sizes
    for code in np.flatnonzero(counts):
        yield int(code), order[ends[code] - counts[code] : ends[code]]


def labelled(codes: Codes, labels: Sequence[str]) -> list[tuple[str, Places | None]]:
    """Return each label with the places of its rows, in the order of labels; ``None`` where these are all there are."""
    if len(labels) == 1:
        return [(labels[0], None)]
    parts = dict(split(codes, len(labels)))
    return [(labels[code], parts[code]) for code in sorted(parts, key=lambda code: labels[code])]


def multiples(values: Ints, unit: int) -> Ints:
    """Return the different whole multiples of a unit that numbers lie above, sorted."""
    found = np.empty(0, dtype=np.int64)
    for part in chunks(len(values)):
        found = np.union1d(found, values[part] // unit)
    return found


def codes_of(values: Ints, unit: int, known: Ints) -> Codes:
    """Return which of its :func:`multiples` each number lies above."""
    codes = scratch(len(values), np.int32)
    for part in chunks(len(values)):
        codes[part] = np.searchsorted(known, values[part] // unit)
    return codes


# --- sorted values ----------------------------------------------------------------------------------------------------


def distinct(ordered: Floats) -> int:
    """Count the different values among sorted ones."""
    last = max(0, len(ordered) - 1)
    steps = (np.count_nonzero(ordered[1:][part] != ordered[:-1][part]) for part in chunks(last))
    return sum(map(int, steps)) + (1 if len(ordered) else 0)


def moments(ordered: Floats) -> tuple[float | None, float | None]:
    """Return the mean of sorted values and the sample's deviation (n - 1); ``None`` where there are too few."""
    count = len(ordered)
    if not count:
        return None, None
    if ordered[0] == ordered[-1]:  # exactly, where sums would be off by a rounding
        return float(ordered[0]), 0.0 if count > 1 else None
    mean = _sum(ordered[part].sum() for part in chunks(count)) / count
    squares = _sum(np.square(ordered[part] - mean).sum() for part in chunks(count))
    return mean, math.sqrt(squares / (count - 1))


def _sum(parts: Iterable[Any]) -> float:
    return float(np.sum(list(parts)))


def between(ordered: Floats, low: float, high: float) -> int:
    """Count the sorted values in a range, both ends included."""
    return int(np.searchsorted(ordered, high, side="right") - np.searchsorted(ordered, low, side="left"))


def percentile(ordered: Floats, percent: float) -> float:
    """Return a percentile of sorted values; between two of them it lies on the line."""
    place = (len(ordered) - 1) * percent / 100
    below = int(place)
    low, high = float(ordered[below]), float(ordered[min(below + 1, len(ordered) - 1)])
    with np.errstate(all="ignore"):
        return low if low == high or place == below else float(low + (np.float64(high) - low) * (place - below))


def median_distance(ordered: Floats, centre: float) -> float:
    """Return the median of how far sorted values lie from a finite number."""
    count = len(ordered)
    farther = _farthest_of(ordered, centre, count // 2 + 1)
    return farther if count % 2 else (_farthest_of(ordered, centre, count // 2) + farther) / 2


def _farthest_of(ordered: Floats, centre: float, count: int) -> float:
    """Return how far the last of the ``count`` values next to a number lies from it: they follow one another."""
    low, high = 0, len(ordered) - count
    while low < high:
        middle = (low + high) // 2
        if centre - float(ordered[middle]) > float(ordered[middle + count]) - centre:
            low = middle + 1
        else:
            high = middle
    return max(abs(float(ordered[low]) - centre), abs(float(ordered[low + count - 1]) - centre))


def mean_distance(ordered: Floats, centre: float) -> float:
    """Return the mean of how far sorted values lie from a number, what is infinitely far left out."""
    sums, count = list[Any](), 0
    with np.errstate(all="ignore"):
        for part in chunks(len(ordered)):
            away = np.abs(ordered[part] - centre)
            away = away[np.isfinite(away)]
            sums.append(away.sum())
            count += len(away)
        return _sum(sums) / count if count else 0.0
