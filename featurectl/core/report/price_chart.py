"""The chart of an entity: its bars, and below them a row for each of its features."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from itertools import pairwise
from typing import Any

from featurectl.core.report.charts import LIGHT, Chart, make_chart, plain
from featurectl.core.report.model import Bucket, Line, Point, Prices

PRICE, ROW, LAST = 260, 84, 60
# Of the features that are prices themselves; they are drawn over the bars.
OVER_PRICE = ("ema", "sma", "vwap", "wma")


def price_chart(prices: Prices, number: int) -> Chart:
    """Draw an entity's bars, the averages of its price over them, and a row for each of its other features."""
    import plotly.graph_objects as go

    over = [line for line in prices.lines if line.feature.split("_")[0] in OVER_PRICE]
    below = [line for line in prices.lines if line not in over and _has_values(line)]
    # Of what is null throughout there is nothing to see but that.
    below += [line for line in prices.lines if line not in over and not _has_values(line)]
    height = PRICE + ROW * len(below) + LAST
    parts = _parts(len(below), height)
    traces: list[Any] = [_candles(prices)]
    traces += [_line(prices, line, "y", "warn", ranges=False) for line in over]
    traces += [_line(prices, line, f"y{row}", "blue") for row, line in enumerate(below, start=2)]
    axes = {
        f"yaxis{row}": {
            "domain": part,
            "nticks": 3,
            "tickfont": {"size": 10},
            "zeroline": False,
            "showticklabels": _has_values(line),
        }
        for row, (part, line) in enumerate(zip(parts[1:], below, strict=True), start=2)
    }
    titles = [_row_title(line, part[1]) for line, part in zip(below, parts[1:], strict=True)]
    titles.append(_title(", ".join(["price", *(plain(line.feature) for line in over)]), parts[0][1]))
    ends = [prices.first, _last_start(prices) + prices.step]
    label = f"Price of {prices.entity} with {len(prices.lines)} features: {_price_words(prices.buckets)}"
    return make_chart(
        f"price-{number}",
        [*traces, *([] if prices.buckets else [go.Scatter(x=[], y=[])])],
        label,
        height,
        xaxis={
            "type": "date",
            "range": ends,
            "rangeslider": {"visible": False},
            "anchor": f"y{len(parts)}" if len(parts) > 1 else "y",
            "nticks": 6,
            "tickangle": 0,
        },
        yaxis={"domain": parts[0], "nticks": 6},
        annotations=titles,
        shapes=[shape for row, line in enumerate(below, start=2) for shape in _null_shapes(prices, line, f"y{row}")],
        hovermode="x",
        **axes,
    )


def _has_values(line: Line) -> bool:
    return any(point.values for point in line.points)


def _last_start(prices: Prices) -> datetime:
    starts = [one.start for one in prices.buckets] + [line.points[-1].start for line in prices.lines]
    return max(starts, default=prices.first)


def _parts(rows: int, height: int) -> list[list[float]]:
    """Return the parts of the height that the price and each row below it take, from the top down."""
    total = float(height - LAST)
    ends = [1.0, *(1 - (PRICE + ROW * row) / total for row in range(rows + 1))]
    gap = 18 / total
    return [[max(0.0, low), high - gap] for high, low in pairwise(ends)]


def _price_words(buckets: Sequence[Bucket]) -> str:
    if not buckets:
        return "no bars."
    low, high = min(one.low for one in buckets), max(one.high for one in buckets)
    return f"from {buckets[0].open:g} to {buckets[-1].close:g}, between {low:g} and {high:g}."


def _candles(prices: Prices) -> Any:
    import plotly.graph_objects as go

    # A bar that fell is filled, one that rose is hollow: colour is not alone in saying so.
    return go.Candlestick(
        x=[one.start for one in prices.buckets],
        **{name: [getattr(one, name) for one in prices.buckets] for name in ("open", "high", "low", "close")},
        increasing={"line": {"color": LIGHT["ok"], "width": 1}, "fillcolor": "rgba(0,0,0,0)"},
        decreasing={"line": {"color": LIGHT["fail"], "width": 1}, "fillcolor": LIGHT["fail"]},
        name="price",
    )


def _line(prices: Prices, line: Line, axis: str, colour: str, *, ranges: bool = True) -> Any:
    import plotly.graph_objects as go

    points = list(_with_gaps(prices, line.points))
    values = [point.last if point else None for _, point in points]
    spread = None
    if ranges and any(point.rows > 1 for point in line.points):
        spread = {
            "type": "data",
            "symmetric": False,
            "array": [_less(point.greatest, point.last) if point else None for _, point in points],
            "arrayminus": [_less(point.last, point.least) if point else None for _, point in points],
            "width": 0,
            "thickness": 1,
            "color": LIGHT["grey"],
        }
    return go.Scatter(
        x=[start for start, _ in points],
        y=values,
        yaxis=axis,
        mode="lines+markers" if sum(value is not None for value in values) < 30 else "lines",
        marker={"size": 4, "color": LIGHT[colour]},
        line={"color": LIGHT[colour], "width": 1.5},
        error_y=spread,
        connectgaps=False,
        name=plain(line.feature),
        hovertemplate="%{y:.5g}",
    )


def _less(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one - other


def _with_gaps(prices: Prices, points: Sequence[Point]) -> Iterable[tuple[datetime, Point | None]]:
    """Yield the points, and an empty one where buckets have no rows: the line breaks there."""
    before: datetime | None = None
    for point in points:
        if before is not None and point.start - before > prices.step:
            yield before + prices.step, None
        yield point.start, point
        before = point.start


def _null_shapes(prices: Prices, line: Line, axis: str) -> list[dict[str, Any]]:
    """Return a shade for every stretch of rows that are there and hold no value."""
    spans: list[list[datetime]] = []
    for point in line.points:
        if point.rows and not point.values:
            if spans and spans[-1][1] == point.start:
                spans[-1][1] = point.start + prices.step
            else:
                spans.append([point.start, point.start + prices.step])
    return [
        {
            "type": "rect",
            "xref": "x",
            "yref": f"{axis} domain",
            "x0": start.isoformat(),
            "x1": end.isoformat(),
            "y0": 0,
            "y1": 1,
            "fillcolor": LIGHT["null"],
            "line": {"width": 0},
            "layer": "below",
        }
        for start, end in spans[:200]
    ]


def _row_title(line: Line, top: float) -> dict[str, Any]:
    rows, values = sum(one.rows for one in line.points), sum(one.values for one in line.points)
    nulls = f" ({rows - values} null)" if rows > values else ""
    return _title(f"{plain(line.feature)}{nulls}", top)


def _title(text: str, top: float) -> dict[str, Any]:
    return {
        "text": text,
        "x": 0,
        "y": top,
        "xref": "paper",
        "yref": "paper",
        "xanchor": "left",
        "yanchor": "bottom",
        "showarrow": False,
        "font": {"size": 11, "color": LIGHT["muted"]},
    }
