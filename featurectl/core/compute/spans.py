"""Spans of whole numbers, such as minutes since 1970: first and last, both included."""

from __future__ import annotations

from collections.abc import Iterable

Span = tuple[int, int]


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
