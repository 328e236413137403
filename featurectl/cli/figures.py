"""How commands show statistics: figures that fit a terminal, and shapes of distributions in a word's length."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from featurectl.cli import output
from featurectl.core.times import duration

if TYPE_CHECKING:
    from featurectl.core.statistics.describe import FeatureStatistics

_BLOCKS = "▁▂▃▄▅▆▇█"
# What a narrow terminal does without, the first of them first.
_DISPENSABLE = ("zeros", "distinct", "entities", "p5", "p95", "p1", "p99", "std")
_FILE_WIDTH = 200
# What the table itself may take besides its columns.
_MARGIN = 4


def sparkline(counts: Sequence[int] | None) -> str | None:
    """Draw counts as blocks of eight heights; what is there at all is seen."""
    if not counts or not max(counts):
        return None
    most = max(counts)
    return "".join(" " if not one else _BLOCKS[min(7, one * 8 // most)] for one in counts)


def short(value: float | None) -> float | None:
    """Round to four digits that count."""
    return value if value is None or not math.isfinite(value) else float(f"{value:.4g}")


def percent(share: float | None) -> str | None:
    """Write a share; one that is not none is not shown as none."""
    if share is None:
        return None
    return "<0.1%" if 0 < abs(share) < 0.0005 else f"{share:.1%}"


def age(seconds: float | None) -> str | None:
    """Write an age as people say it."""
    if seconds is None:
        return None
    return duration(timedelta(seconds=abs(seconds))) + (" ahead" if seconds < 0 else "")


def statistics_report(
    command: str, found: Sequence[FeatureStatistics], document: dict[str, Any], **grid: Any
) -> output.Report:
    """Return a report of figures: all of them in files, and what fits on a terminal."""
    columns = list(type(found[0]).__slots__) if found else []
    rows = [[getattr(one, name) for name in columns] for one in found]
    documents = [dict(zip(columns, row, strict=True)) for row in rows]
    return output.Report(command, {**document, "statistics": documents}, columns, rows, _grid(found, **grid))


def _grid(found: Sequence[FeatureStatistics], **settings: Any) -> output.Grid:
    names = {(one.view, one.feature) for one in found}
    is_ambiguous = len({feature for _, feature in names}) < len(names)
    lines = [_line(one, is_ambiguous) for one in found]
    heads = list(lines[0]) if lines else []
    heads = [name for name in heads if name not in ("entity", "timeframe", "day") or any(one[name] for one in lines)]
    heads = _fitting(heads, lines)
    return output.Grid(heads, [[line[name] for name in heads] for line in lines], **settings)


def _line(one: FeatureStatistics, with_view: bool) -> dict[str, Any]:
    return {
        "feature": f"{one.view}:{one.feature}" if with_view else one.feature,
        "entity": one.entity,
        "timeframe": one.timeframe,
        "day": one.day and one.day.isoformat(),
        "rows": one.rows,
        "nulls": percent(one.null_share),
        "mean": short(one.mean),
        "std": short(one.std),
        "min": short(one.min),
        "p1": short(one.p1),
        "p5": short(one.p5),
        "p50": short(one.p50),
        "p95": short(one.p95),
        "p99": short(one.p99),
        "max": short(one.max),
        "distinct": one.distinct,
        "zeros": one.zeros,
        "outliers": one.outliers,
        "age": _age_and_ttl(one),
        "histogram": sparkline(one.histogram),
    }


def _age_and_ttl(one: FeatureStatistics) -> str | None:
    """Write how old the newest value is, and that it is past the TTL."""
    written = age(one.age_seconds)
    is_stale = one.age_seconds is not None and one.ttl_seconds is not None and one.age_seconds > one.ttl_seconds
    return f"{written} (stale)" if is_stale else written


def _fitting(heads: list[str], lines: Sequence[dict[str, Any]]) -> list[str]:
    """Leave out columns until the rest fits on the terminal; those that tell nothing are left out first."""
    from shutil import get_terminal_size  # 3 ms

    room = (get_terminal_size().columns if sys.stdout.isatty() else _FILE_WIDTH) - _MARGIN
    widths = {name: max(len(name), *(len(output.cell(line[name])) for line in lines)) + 2 for name in heads}
    kept = list(heads)
    for name in _DISPENSABLE:
        if name in kept and sum(widths[one] for one in kept) > room:
            kept.remove(name)
    return kept
