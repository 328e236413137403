"""Spans of whole numbers, such as minutes since 1970: first and last, both included."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from heapq import heappop, heappush
from itertools import pairwise

Span = tuple[int, int]
Labelled = tuple[Span, str]


def merged(spans: Iterable[Span]) -> list[Span]:
    """Return the same numbers as disjoint spans in their order, with gaps between them; empty spans are left out."""
    result: list[Span] = []
    for first, last in sorted(span for span in spans if span[0] <= span[1]):
        if result and first <= result[-1][1] + 1:
            result[-1] = (result[-1][0], max(result[-1][1], last))
        else:
            result.append((first, last))
    return result


def within(spans: Iterable[Span], first: int, last: int) -> list[Span]:
    """Return the parts of disjoint spans that lie from ``first`` to ``last``."""
    parts = ((max(start, first), min(end, last)) for start, end in spans)
    return [span for span in parts if span[0] <= span[1]]


def topmost(labels: Sequence[Labelled]) -> list[Labelled]:
    """Return disjoint spans in their order; where the given ones overlap, the label of the first of them counts.

    Neighbours with the same label become one; empty spans are left out.
    """
    labels = [one for one in labels if one[0][0] <= one[0][1]]
    waiting = sorted(range(len(labels)), key=lambda index: labels[index][0][0], reverse=True)
    cuts = sorted({cut for (first, last), _ in labels for cut in (first, last + 1)})
    result: list[Labelled] = []
    here: list[int] = []
    for start, following in pairwise(cuts):
        while waiting and labels[waiting[-1]][0][0] == start:
            heappush(here, waiting.pop())
        while here and labels[here[0]][0][1] < start:
            heappop(here)
        if here:
            _append(result, (start, following - 1), labels[here[0]][1])
    return result


def _append(result: list[Labelled], span: Span, label: str) -> None:
    if result and result[-1][1] == label and result[-1][0][1] + 1 == span[0]:
        span = (result.pop()[0][0], span[1])
    result.append((span, label))


def split(spans: Iterable[Span], labels: Sequence[Labelled]) -> list[tuple[Span, str | None]]:
    """Cut disjoint spans where labels begin and end; a part that has none gets ``None``.

    Where labels overlap, the first one given counts.
    """
    parts = topmost(labels)
    ends = [last for (_, last), _ in parts]
    result: list[tuple[Span, str | None]] = []
    for first, last in spans:
        for index in range(bisect_left(ends, first), len(parts)):
            (start, end), label = parts[index]
            if start > last:
                break
            if first < start:
                result.append(((first, start - 1), None))
            result.append(((max(first, start), min(last, end)), label))
            first = end + 1
        if first <= last:
            result.append(((first, last), None))
    return result
