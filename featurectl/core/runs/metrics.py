"""What Prometheus' node exporter reads of a run: a text file, replaced as a whole."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from featurectl.core.catalog import find_catalog
from featurectl.core.db import Connection
from featurectl.core.freshness import Freshness, FreshnessReport, read_freshness
from featurectl.core.runs import ledger
from featurectl.core.runs.ledger import Outcome
from featurectl.core.runs.settings import COUNTS
from featurectl.version import __version__

if TYPE_CHECKING:
    from prometheus_client.core import GaugeMetricFamily

    from featurectl.core.checks import CheckReport
    from featurectl.core.runs.run import Run
    from featurectl.core.statistics.drift import Drift

_OF_VIEW = {
    "lag_bars": "Rows that are due and not online, of the entity that is furthest behind: bars, or minutes for "
    "features of ticks, or quarters of an hour for those of signals.",
    "lag_seconds": "Time since the online row of the entity that is furthest behind could have been replaced.",
    "entities": "Entities that there are.",
    "stale_entities": "Entities whose online row is past its TTL.",
    "missing_entities": "Entities without an online row.",
    "behind_entities": "Entities of which newer rows could be online than are.",
}


class _Page:
    """Gauges as they are added; those of one name differ in their labels.

    They are values and no more: prometheus_client's own Gauge writes files of its own where some program, Feast among
    them, has set PROMETHEUS_MULTIPROC_DIR.
    """

    def __init__(self) -> None:
        from prometheus_client import CollectorRegistry

        self._gauges: dict[str, GaugeMetricFamily] = {}
        self.registry = CollectorRegistry()
        self.registry.register(self)

    def add(self, name: str, text: str, labels: Mapping[str, str], value: float) -> None:
        from prometheus_client.core import GaugeMetricFamily

        if name not in self._gauges:
            self._gauges[name] = GaugeMetricFamily(f"featurectl_{name}", text, labels=list(labels))
        self._gauges[name].add_metric(list(labels.values()), value)

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield the gauges, for the registry."""
        yield from self._gauges.values()


def write_metrics(run: Run, path: Path, outcome: Outcome, *, now: datetime) -> None:
    """Write the metrics of a run that has ended; say if they can't be written.

    How far features lag is looked up in the database; where that is away, those metrics are left out. When the command
    last succeeded is then taken from the file that is there.
    """
    from prometheus_client import write_to_textfile

    page = _Page()
    labels = {"project": run.database.config.project, "command": run.settings.command}
    _of_run(page, run, labels, outcome, finished=now.timestamp() + run.seconds)
    success = _last_success(run, path, labels)
    if success is not None:
        text = "When the command last did all of its work."
        page.add("run_last_success_timestamp_seconds", text, labels, success)
    if report := run.look(lambda connection: _freshness(run, connection, now)):
        _of_views(page, labels["project"], report)
    for view, count in (run.degraded or {}).items():
        text = "Answers of the run's check that came by another path than the first."
        page.add("degraded_answers", text, {"project": labels["project"], "view": view}, count)
    if run.checks:
        _of_checks(page, labels["project"], run.checks)
    _of_drift(page, labels["project"], run.drifts)
    try:
        write_to_textfile(os.path.realpath(path), page.registry)  # a link stays one
    except OSError as error:
        run.settings.say(f"metrics file {path} can't be written: {error.strerror}; name another with --metrics-file")


def _of_run(page: _Page, run: Run, labels: Mapping[str, str], outcome: Outcome, *, finished: float) -> None:
    known = {**labels, "version": __version__, "verdict": outcome.verdict}  # no id: each would be a series of its own
    page.add("run_info", "The newest run.", known, 1)
    page.add("run_success", "Whether it did all of its work.", labels, float(outcome.exit_code == 0))
    page.add("run_exit_code", "Its exit code.", labels, outcome.exit_code)
    page.add("run_finished_timestamp_seconds", "When it ended.", labels, finished)
    page.add("run_duration_seconds", "How long it took.", labels, run.seconds)
    for name in COUNTS:
        total = sum(getattr(step, name) for step in run.steps)
        page.add("run_rows", "Rows by what became of them.", {**labels, "kind": name}, total)


def _of_checks(page: _Page, project: str, report: CheckReport) -> None:
    for one in report.outcomes:
        labels = {"project": project, "view": one.view, "feature": one.feature, "rule": one.rule}
        labels["severity"] = str(one.severity)
        found = "Whether a rule found fault with the newest rows: 1, or 0."
        page.add("check_findings", found, labels, float(one.verdict != "ok"))
        page.add("check_offending_rows", "The newest rows that a rule finds fault with.", labels, one.offending)


def _of_drift(page: _Page, project: str, drifts: Sequence[Drift]) -> None:
    """Add the PSI of all entities together, and how many of them, and of what is looked at, have which verdict."""
    for one in drifts:
        labels = {"project": project, "view": one.view, "feature": one.feature}
        if one.psi is not None and one.is_pooled:
            text = "Population stability index of the newest window, of all entities of a timeframe."
            page.add("drift_psi", text, {**labels, "entity": one.entity or ""}, one.psi)
    verdicts = Counter((one.view, one.feature, str(one.verdict)) for one in drifts)
    for (view, feature, verdict), count in sorted(verdicts.items()):
        text = "Entities, and all of them together, by the verdict on the feature's drift."
        labels = {"project": project, "view": view, "feature": feature, "verdict": verdict}
        page.add("drift_verdicts", text, labels, count)


def _of_views(page: _Page, project: str, report: FreshnessReport) -> None:
    unreadable = {one.view for one in report.unreadable}
    for view in sorted({one.view for one in report.views} | unreadable):
        text = "Whether the freshness of the view could be looked up; what follows is told of those only."
        page.add("view_readable", text, {"project": project, "view": view}, float(view not in unreadable))
    for one in report.views:
        _of_view(page, project, one)


def _of_view(page: _Page, project: str, one: Freshness) -> None:
    labels = {"project": project, "view": one.view, "timeframe": one.timeframe}
    values = {
        "lag_bars": one.lag_bars,
        "lag_seconds": one.lag_seconds,
        "entities": one.entities,
        "stale_entities": one.stale,
        "missing_entities": one.missing,
        "behind_entities": one.behind,
    }
    for name, value in values.items():
        if value is not None:
            page.add(name, _OF_VIEW[name], labels, value)


def _freshness(run: Run, connection: Connection, now: datetime) -> FreshnessReport | None:
    catalog = find_catalog(connection, run.database.config.project)
    return read_freshness(connection, catalog, now=now) if catalog else None


def _last_success(run: Run, path: Path, labels: Mapping[str, str]) -> float | None:
    known = run.look(lambda connection: ledger.last_success(connection, labels["project"], labels["command"]))
    return known.timestamp() if known else next(_successes_in(path, labels), None)


def _successes_in(path: Path, labels: Mapping[str, str]) -> Iterator[float]:
    from prometheus_client.parser import text_string_to_metric_families

    try:
        families = list(text_string_to_metric_families(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return
    for family in families:
        for sample in family.samples:
            if sample.name == "featurectl_run_last_success_timestamp_seconds" and sample.labels == labels:
                yield sample.value
