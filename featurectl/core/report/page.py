"""A report as one HTML page that needs nothing else: the template, its filters, and its scripts."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from featurectl.core.freshness import Freshness, FreshnessReport
from featurectl.core.redact import redact
from featurectl.core.report import charts
from featurectl.core.report.charts import Chart
from featurectl.core.report.model import Checks, Coverage, Drift, Gathered, Missing, NullRow, Nulls, Verdict, worst
from featurectl.core.report.price_chart import price_chart
from featurectl.core.repository import resource
from featurectl.core.times import duration, iso
from featurectl.errors import ConfigError

RANKED, SHOWN_FEATURES = 20, 60
SECTIONS = {
    "coverage": "Coverage",
    "gaps": "Gaps",
    "freshness": "Freshness",
    "checks": "Checks",
    "drift": "Drift",
    "distributions": "Distributions",
    "nulls": "Nulls",
    "prices": "Price with features",
    "consistency": "Online and offline",
    "runs": "Recent runs",
    "storage": "Storage",
}
_NONE = "-"
_VERDICTS = {
    **{str(verdict): verdict for verdict in Verdict},
    "done": Verdict.OK,
    "findings": Verdict.WARN,
    "partly done": Verdict.WARN,
    "failed": Verdict.FAIL,
    "interrupted": Verdict.FAIL,
    "not available": Verdict.FAIL,
}


@dataclass(frozen=True, slots=True)
class Card:
    """A line of the summary: what is to be thought of a section, and why."""

    section: str
    title: str
    verdict: Verdict
    text: str


def require_plotly() -> None:
    """Refuse to begin where the charts could not be made.

    Raises:
        ConfigError: Plotly is not installed.
    """
    from importlib.util import find_spec

    if find_spec("plotly") is None:
        raise ConfigError('charts need Plotly, which is not installed; run: pip install "featurectl[report]"')


def render(report: Gathered) -> str:
    """Return the page: HTML with its styles, its charts and Plotly's script in it."""
    import jinja2  # 0.15 s
    from markupsafe import Markup

    def finalize(value: Any) -> Any:
        return redact(value) if isinstance(value, str) and not isinstance(value, Markup) else value

    def as_json(value: Any) -> Markup:
        text = value if isinstance(value, str) else json.dumps(value)
        return Markup(harmless(text))

    folder = resource("templates") / "report"
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        undefined=jinja2.StrictUndefined,
        autoescape=True,
        finalize=finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(_FILTERS, as_json=as_json)
    environment.tests["missing"] = lambda value: isinstance(value, Missing)
    scripts = [_plotly(), (folder / "report.js").read_text(encoding="utf-8")]
    return environment.get_template("report.html.j2").render(
        report=report,
        cards=cards(report),
        sections=SECTIONS.items(),
        charts={chart.name: chart for chart in all_charts(report)},
        empty_views=_empty_views(report.nulls),
        colours=charts.COLOURS,
        dark_of=charts.DARK,
        css=Markup((folder / "report.css").read_text(encoding="utf-8")),
        scripts=[Markup(script) for script in scripts],
        script_sources=Markup(" ".join(_source(script) for script in scripts)),
    )


def _plotly() -> str:
    from plotly.offline import get_plotlyjs  # reads 4.8 MB

    text: str = get_plotlyjs()
    # The same to JavaScript, and not the end of the element to HTML.
    return text.replace("\r\n", "\n").replace("</script", "<\\/script").replace("<!--", "<\\!--")


def _source(script: str) -> str:
    """Name a script such that browsers run it and no other."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def harmless(text: str) -> str:
    """Return JSON that no HTML is read in, whatever its texts hold."""
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def all_charts(report: Gathered) -> list[Chart]:
    """Return the charts of all sections that are there, those of a section in its order."""
    found: list[Chart] = []
    if isinstance(report.coverage, Coverage):
        found.append(charts.coverage_map(report.coverage))
        found += [charts.gap_timeline(report.coverage)] if report.coverage.timeline else []
    if isinstance(report.drift, Drift):
        ranked = [one for one in report.drift.pooled or report.drift.movers if one.psi is not None][:RANKED]
        found += [charts.drift_ranking(ranked)] if ranked else []
        found += [charts.distribution(one, number) for number, one in enumerate(report.drift.distributions, 1)]
    if isinstance(report.nulls, Nulls) and (rows := _rows_of_map(report.nulls)):
        found.append(charts.null_map(rows, report.nulls.cells))
    if not isinstance(report.prices, Missing):
        found += [
            price_chart(one, number) for number, one in enumerate(report.prices.entities, 1) if one.buckets or one.lines
        ]
    return found


def _rows_of_map(nulls: Nulls) -> list[NullRow]:
    """Return the features that have rows; of very many, those with the most nulls."""
    rows = [row for row in nulls.rows if any(row.rows)]
    if len(rows) <= SHOWN_FEATURES:
        return rows
    return sorted(rows, key=lambda row: -(row.share or 0))[:SHOWN_FEATURES]


def _empty_views(nulls: Nulls | Missing) -> list[str]:
    if isinstance(nulls, Missing):
        return []
    return list(dict.fromkeys(row.view for row in nulls.rows if not any(row.rows)))


# --- verdicts --------------------------------------------------------------------------------------------------------


def cards(report: Gathered) -> list[Card]:
    """Return the summary: one line for each question that the page answers."""
    return [
        Card("freshness", "Fresh", *_fresh(report.freshness)),
        Card("coverage", "Complete", *_complete(report.coverage)),
        Card("checks", "Checks", *_checked(report.checks)),
        Card("drift", "Drift", *_drifted(report.drift)),
    ]


def freshness_of(one: Freshness) -> Verdict:
    """Judge a view in one timeframe: reads get nothing, or not all that there could be, or all."""
    if one.served is None:
        return Verdict.FAIL
    return Verdict.WARN if one.missing or one.stale or one.behind else Verdict.OK


def _fresh(found: FreshnessReport | Missing) -> tuple[Verdict, str]:
    if isinstance(found, Missing):
        return _unknown(found)
    verdicts = [freshness_of(one) for one in found.views] + [Verdict.FAIL for _ in found.unreadable]
    total = sum(one.entities for one in found.views)
    counts = {
        "not online": sum(one.missing for one in found.views),
        "past the TTL": sum(one.stale for one in found.views),
        "behind": sum(one.behind for one in found.views),
    }
    texts = [f"{count:,} of {total:,} {what}" for what, count in counts.items() if count]
    text = ", ".join(texts) or f"all {total:,} online and within the TTL"
    unreadable = f"; {len(found.unreadable)} views can't be read" if found.unreadable else ""
    return worst(verdicts), text + unreadable


def _complete(found: Coverage | Missing) -> tuple[Verdict, str]:
    if isinstance(found, Missing):
        return _unknown(found)
    text = f"{found.missing:,} of {found.expected:,} bars are missing in {found.series:,} series"
    return found.verdict, text


def _checked(found: Checks | Missing) -> tuple[Verdict, str]:
    if isinstance(found, Missing):
        return _unknown(found)
    return found.verdict, f"{found.passed:,} of {found.total:,} found nothing"


def _drifted(found: Drift | Missing) -> tuple[Verdict, str]:
    if isinstance(found, Missing):
        return _unknown(found)
    if found.verdict is Verdict.UNKNOWN:
        return found.verdict, f"none of {found.total:,} comparisons could be judged"
    moved = dict.fromkeys(one.feature for one in found.movers if one.verdict in (Verdict.WARN, Verdict.FAIL))
    names = f": {', '.join(list(moved)[:3])}{', …' if len(moved) > 3 else ''}" if moved else ""
    unjudged = f"; {found.unjudged:,} could not be judged" if found.unjudged else ""
    return found.verdict, f"{found.moved:,} of {found.total:,} comparisons moved{names}{unjudged}"


def _unknown(found: Missing) -> tuple[Verdict, str]:
    return (Verdict.FAIL if found.error else Verdict.UNKNOWN), found.reason


# --- filters ---------------------------------------------------------------------------------------------------------


def _count(value: int | None) -> str:
    return _NONE if value is None else f"{value:,}"


def _share(value: float | None) -> str:
    """Write a share; one that is not all of it is not rounded up to all."""
    if value is None:
        return _NONE
    text = f"{value:.2%}" if 0 < value < 0.01 or 0.99 < value < 1 else f"{value:.1%}"
    return {"100.00%": ">99.99%", "0.00%": "<0.01%"}.get(text, text) if 0 < value < 1 else text


def _change(value: float | None) -> str:
    return _NONE if value is None else f"{value:+.1%}" if value else "0"


def _figure(value: float | None, digits: int | None = None) -> str:
    if value is None:
        return _NONE
    return f"{value:.{digits}f}" if digits is not None else f"{value:.5g}"


def _minute(instant: datetime | None) -> str:
    return _NONE if instant is None else f"{instant:%Y-%m-%d %H:%M}"


def _day(instant: Any) -> str:
    return _NONE if instant is None else f"{instant:%Y-%m-%d}"


def _ago(instant: datetime | None, now: datetime) -> str:
    if instant is None:
        return _NONE
    return f"{duration(now - instant)} ago" if instant <= now else f"in {duration(instant - now)}"


def _lag(one: Freshness) -> str:
    if one.lag_bars is not None:
        return "1 bar" if one.lag_bars == 1 else f"{one.lag_bars:,} bars"
    return _NONE if one.lag_seconds is None else duration(timedelta(seconds=one.lag_seconds))


def _seconds(value: float | None) -> str:
    return _NONE if value is None else f"{value:.1f} s"


def size(value: int | None) -> str:
    """Write a number of bytes as people read it: ``512 B``, ``3.4 MB``."""
    if value is None:
        return _NONE
    amount = float(value)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TB"


def _css(verdict: str) -> str:
    return str(_VERDICTS.get(str(verdict), Verdict.UNKNOWN))


def _glyph(verdict: str) -> str:
    return charts.GLYPHS[_VERDICTS.get(str(verdict), Verdict.UNKNOWN)]


_FILTERS: Mapping[str, Callable[..., Any]] = {
    "ago": _ago,
    "change": _change,
    "count": _count,
    "css": _css,
    "day": _day,
    "figure": _figure,
    "fresh": freshness_of,
    "glyph": _glyph,
    "iso": iso,
    "lag": _lag,
    "minute": _minute,
    "seconds": _seconds,
    "share": _share,
    "size": size,
    "span": duration,
}
