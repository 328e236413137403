"""The charts of a report: pure functions from its sections to Plotly's figures, in the colours of the light theme.

The page's script maps colours to those of the dark theme, so every colour here is one of :data:`COLOURS`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from html import escape
from typing import Any

from featurectl.core.gaps import Gap
from featurectl.core.redact import redact
from featurectl.core.report.model import (
    Cells,
    Coverage,
    CoverageRow,
    Distribution,
    Mover,
    NullRow,
    Verdict,
)
from featurectl.core.times import iso

# Light, and what it is in the dark; no two of the light ones are the same.
COLOURS = {
    "text": ("#1f2933", "#e4e7eb"),
    "muted": ("#52606d", "#9fb0c0"),
    "grid": ("#dde2e8", "#38444f"),
    "line": ("#dfe4ea", "#36424d"),
    "paper": ("#ffffff", "#1a222b"),
    "back": ("#f4f6f8", "#11171d"),
    "blue": ("#0b62b8", "#6cb6ff"),
    "grey": ("#a3adb8", "#68757f"),
    "ok": ("#007a5a", "#3fc79a"),
    "warn": ("#b26a00", "#f0b429"),
    "fail": ("#c2410c", "#ff8a5c"),
    "unknown": ("#53616e", "#9fb0c1"),
    "level_0": ("#cfe3f5", "#234a68"),
    "level_1": ("#fdc98f", "#6b4420"),
    "level_2": ("#f58b3c", "#a8601f"),
    "level_3": ("#cf4a06", "#e08a3a"),
    "level_4": ("#7c2a04", "#ffd2a1"),
    "absent": ("#b4bcc6", "#59656f"),
    "null": ("#e9ecf0", "#2a343e"),
}
LIGHT = {name: light for name, (light, _) in COLOURS.items()}
DARK = dict(COLOURS.values())
VERDICTS = {Verdict.OK: "ok", Verdict.WARN: "warn", Verdict.FAIL: "fail", Verdict.UNKNOWN: "grey"}

GLYPHS = {Verdict.OK: "✓", Verdict.WARN: "▲", Verdict.FAIL: "✕", Verdict.UNKNOWN: "-"}

# Lower ends of the levels of what is missing, as shares; nothing at all is level 0.
LEVELS = (0.0, 0.05, 0.5, 1.0)
LABEL = 24
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"


@dataclass(frozen=True, slots=True)
class Chart:
    """A figure as JSON, with what it shows in words for those who can't see it, and its height in pixels."""

    name: str
    figure: str
    label: str
    height: int


def plain(text: str) -> str:
    """Return a text such that Plotly, which reads some HTML, shows it as it is, and without secrets."""
    return escape(redact(text), quote=False)


def short(text: str) -> str:
    """Return a text as an axis has room for it."""
    return plain(text if len(text) <= LABEL else f"{text[: LABEL - 9]}…{text[-8:]}")


def level(share: float) -> int:
    """Return the level of a share that is missing: 0 for nothing, 4 for all of it."""
    return sum(share > low if low < 1 else share >= low for low in LEVELS)


def make_chart(name: str, traces: Iterable[Any], label: str, height: int, **layout: Any) -> Chart:
    import plotly.graph_objects as go  # 0.05 s, and 0.3 s with the classes of its traces

    axes: dict[str, Any] = {
        "gridcolor": LIGHT["grid"],
        "zerolinecolor": LIGHT["grid"],
        "linecolor": LIGHT["grid"],
        "automargin": True,
        "ticks": "",
    }
    figure = go.Figure(list(traces))
    figure.update_layout(
        template="none",
        height=height,
        margin={"l": 8, "r": 8, "t": 8, "b": 8},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": _FONT, "size": 12, "color": LIGHT["text"]},
        hoverlabel={"bgcolor": LIGHT["paper"], "bordercolor": LIGHT["grey"], "font": {"color": LIGHT["text"]}},
        showlegend=False,
        **layout,
    )
    figure.update_xaxes(**axes)
    figure.update_yaxes(**axes)
    return Chart(name, figure.to_json(), label, height)


# --- maps ------------------------------------------------------------------------------------------------------------


def coverage_map(coverage: Coverage) -> Chart:
    """Draw series by cells: how much is missing of the bars that are due; what is known absent apart."""
    cells, rows = coverage.cells, coverage.rows
    grid = [[_missing_level(row, index) for index in range(cells.count)] for row in rows]
    absent = [[_absent_share(row, index) for index in range(cells.count)] for row in rows]
    texts = [[_coverage_text(row, cells, index) for index in range(cells.count)] for row in rows]
    names = [str(row.entity) for row in rows]
    label = (
        f"Heat map of {len(rows)} series by {_cell_name(cells)}: {coverage.missing} of {coverage.expected} bars are "
        f"missing, {coverage.known_absent} more are known absent."
    )
    return _map("coverage", names, cells, grid, texts, label, absent)


def null_map(rows: Sequence[NullRow], cells: Cells) -> Chart:
    """Draw features by cells: which part of their rows has no value."""
    pairs = [list(zip(row.rows, row.nulls, strict=True)) for row in rows]
    grid = [[level(nulls / count) if count else None for count, nulls in row] for row in pairs]
    texts = [
        [_null_text(row, cells, index, *pair) for index, pair in enumerate(values)]
        for row, values in zip(rows, pairs, strict=True)
    ]
    nulls, count = sum(sum(row.nulls) for row in rows), sum(sum(row.rows) for row in rows)
    label = f"Heat map of {len(rows)} features by {_cell_name(cells)}: {nulls} of {count} values are null."
    return _map("nulls", [row.feature for row in rows], cells, grid, texts, label)


def _map(
    name: str,
    names: Sequence[str],
    cells: Cells,
    grid: Sequence[Sequence[int | None]],
    texts: Sequence[Sequence[str]],
    label: str,
    absent: Sequence[Sequence[float]] = (),
) -> Chart:
    import plotly.graph_objects as go

    colours = [LIGHT[f"level_{index}"] for index in range(5)]
    steps = [[place / 5, colour] for index, colour in enumerate(colours) for place in (index, index + 1)]
    edges = [*cells.starts, cells.first + cells.count * cells.step]
    ends = [edges[0], edges[-1]]
    common: dict[str, Any] = {
        "x": edges,
        "y": list(range(len(names))),
        "showscale": False,
        "hovertext": texts,
        "hovertemplate": "%{hovertext}<extra></extra>",
        "xgap": 1 if cells.count <= 100 else 0,
        "ygap": 1,
    }
    traces = [go.Heatmap(z=grid, zmin=-0.5, zmax=4.5, colorscale=steps, **common)]
    if any(map(any, absent)):
        traces += _known_absent(absent, cells, common)
    return make_chart(
        name,
        traces,
        label,
        64 + 20 * len(names),
        xaxis={
            "type": "date",
            "side": "top",
            "showgrid": False,
            "nticks": 8,
            "tickangle": 0,
            "range": ends,
        },
        yaxis=_names_axis(names),
    )


def _known_absent(absent: Sequence[Sequence[float]], cells: Cells, common: Mapping[str, Any]) -> list[Any]:
    """Return a shade over the cells of which all is known absent, and a mark on those of which some is."""
    import plotly.graph_objects as go

    shade = [[0, LIGHT["absent"]], [1, LIGHT["absent"]]]
    whole = [[1 if share == 1 else None for share in row] for row in absent]
    partly = [
        (start + cells.step / 2, number)
        for number, row in enumerate(absent)
        for start, share in zip(cells.starts, row, strict=True)
        if 0 < share < 1
    ]
    marks = go.Scatter(
        x=[middle for middle, _ in partly],
        y=[number for _, number in partly],
        mode="markers",
        marker={"symbol": "diamond", "size": 6, "color": LIGHT["muted"]},
        hoverinfo="skip",
    )
    return [go.Heatmap(z=whole, zmin=0, zmax=1, colorscale=shade, **common), marks]


def _names_axis(names: Sequence[str]) -> dict[str, Any]:
    return {
        "tickvals": list(range(len(names))),
        "ticktext": [short(name) for name in names],
        "range": [len(names) - 0.5, -0.5],
        "showgrid": False,
        "zeroline": False,
    }


def _cell_name(cells: Cells) -> str:
    return "day" if cells.days == 1 else f"{cells.days} days"


def _span(cells: Cells, index: int) -> str:
    start = cells.starts[index]
    if cells.days == 1:
        return f"{start:%Y-%m-%d}"
    return f"{start:%Y-%m-%d} to {start + cells.step - timedelta(days=1):%Y-%m-%d}"


def _missing_level(row: CoverageRow, index: int) -> int | None:
    due = row.expected[index] - row.absent[index]
    return level(row.missing[index] / due) if due else None


def _absent_share(row: CoverageRow, index: int) -> float:
    return row.absent[index] / row.expected[index] if row.expected[index] else 0


def _coverage_text(row: CoverageRow, cells: Cells, index: int) -> str:
    expected, missing, absent = row.expected[index], row.missing[index], row.absent[index]
    head = f"{plain(str(row.entity))}, {_span(cells, index)}"
    if not expected:
        return f"{head}<br>no bar is due"
    due = expected - absent
    share = f" ({(due - missing) / due:.1%})" if due else ""
    extra = f"<br>{absent} known absent" if absent else ""
    return f"{head}<br>{due - missing} of {due} bars{share}{extra}"


def _null_text(row: NullRow, cells: Cells, index: int, count: int, nulls: int) -> str:
    head = f"{plain(row.view)}: {plain(row.feature)}<br>{_span(cells, index)}"
    return f"{head}<br>{nulls} of {count} null ({nulls / count:.1%})" if count else f"{head}<br>no rows"


def gap_timeline(coverage: Coverage) -> Chart:
    """Draw where bars are missing, each stretch from its first to its last bar; what is known absent apart."""
    import plotly.graph_objects as go

    having = {str(gap.entity) for gap in coverage.timeline}
    names = [str(row.entity) for row in coverage.rows if str(row.entity) in having]
    traces = []
    for known, colour, symbol in ((False, "fail", "line-ns-open"), (True, "grey", "x-thin-open")):
        gaps = [gap for gap in coverage.timeline if gap.known_absent is known]
        traces.append(
            go.Scatter(
                x=[x for gap in gaps for x in (gap.first, gap.last, None)],
                y=[y for gap in gaps for y in (names.index(str(gap.entity)),) * 2 + (None,)],
                text=[text for gap in gaps for text in (_gap_text(gap),) * 2 + (None,)],
                mode="lines+markers",
                line={"color": LIGHT[colour], "width": 7},
                marker={"color": LIGHT[colour], "symbol": symbol, "size": 9, "line": {"width": 2}},
                hovertemplate="%{text}<extra></extra>",
            )
        )
    cells = coverage.cells
    label = f"Timeline of {len(coverage.timeline)} stretches of missing bars in {len(names)} series."
    ends = [cells.first, cells.first + cells.count * cells.step]
    return make_chart(
        "gaps",
        traces,
        label,
        72 + 24 * len(names),
        xaxis={"type": "date", "range": ends, "nticks": 8, "tickangle": 0, "side": "top"},
        yaxis=_names_axis(names),
    )


def _gap_text(gap: Gap) -> str:
    reason = f"<br>known absent: {plain(gap.reason or '')}" if gap.known_absent else ""
    return f"{plain(str(gap.entity))}<br>{gap.bars} bars, {iso(gap.first)} to {iso(gap.last)}{reason}"


# --- drift -----------------------------------------------------------------------------------------------------------


def drift_ranking(movers: Sequence[Mover]) -> Chart:
    """Draw how far features moved, by PSI, the farthest first, with their verdicts in words and colour."""
    import plotly.graph_objects as go

    names = [f"{GLYPHS[one.verdict]} {one.feature} {one.entity}".strip() for one in movers]
    bars = go.Bar(
        x=[one.psi for one in movers],
        y=list(range(len(movers))),
        orientation="h",
        marker={"color": [LIGHT[VERDICTS[one.verdict]] for one in movers]},
        hovertext=[
            f"{plain(one.view)}: {plain(name)}<br>{one.verdict}" for one, name in zip(movers, names, strict=True)
        ],
        hovertemplate="%{hovertext}<br>PSI %{x:.3f}<extra></extra>",
    )
    chance = [(one.chance, place) for place, one in enumerate(movers) if one.chance is not None]
    marks = go.Scatter(
        x=[value for value, _ in chance],
        y=[place for _, place in chance],
        mode="markers",
        marker={"symbol": "line-ns-open", "size": 16, "line": {"width": 2}, "color": LIGHT["text"]},
        hovertemplate="by chance %{x:.3f}<extra></extra>",
    )
    label = f"Bars of the PSI of {len(movers)} features, the farthest first: " + "; ".join(
        f"{name} {one.psi:.2f}" for name, one in zip(names[:5], movers[:5], strict=True) if one.psi is not None
    )
    return make_chart(
        "drift",
        [bars, marks],
        label,
        70 + 24 * len(movers),
        xaxis={"range": [0, 1.15 * max(0.3, *(one.psi or 0 for one in movers))], "fixedrange": True, "nticks": 6},
        yaxis={**_names_axis(names), "fixedrange": True},
    )


def distribution(one: Distribution, number: int) -> Chart:
    """Draw the shares of the window and its reference by the same bins, side by side; every bin is as wide."""
    import plotly.graph_objects as go

    spans = [f"{_number(low)} to {_number(high)}" for low, high in zip(one.edges, one.edges[1:], strict=False)]
    places = [index + 0.5 for index in range(len(spans))]
    traces = [
        go.Bar(
            x=places,
            y=shares,
            name=name,
            marker={"color": LIGHT[colour]},
            hovertext=[f"{name}: {share:.1%}<br>{span}" for share, span in zip(shares, spans, strict=True)],
            hovertemplate="%{hovertext}<extra></extra>",
        )
        for name, colour, shares in (("reference", "grey", one.reference), ("window", "blue", one.current))
    ]
    inner = range(1, len(one.edges) - 1)
    kept = list(inner)[:: max(1, -(-len(inner) // 5))]
    label = f"Shares of the values of {one.feature} by {len(spans)} bins, in the window and in its reference."
    return make_chart(
        f"distribution-{number}",
        traces,
        label,
        190,
        bargap=0.15,
        bargroupgap=0,
        xaxis={
            "tickvals": kept,
            "ticktext": [_number(one.edges[index]) for index in kept],
            "tickangle": 0,
            "showgrid": False,
            "zeroline": False,
            "fixedrange": True,
            "tickfont": {"size": 11},
        },
        yaxis={"tickformat": ".0%", "rangemode": "tozero", "nticks": 5, "fixedrange": True},
    )


def _number(value: float) -> str:
    if value in (float("inf"), float("-inf")):
        return "any more" if value > 0 else "any less"
    return f"{value:.3g}"
