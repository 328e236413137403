"""``featurectl run``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from featurectl.cli import diagnostics, output
from featurectl.cli.app import new_app
from featurectl.cli.options import FormatOption, JsonOption, OutputOption, chosen, overrides, split
from featurectl.cli.published import published_catalog
from featurectl.cli.writers import DryRunOption, LockingWriter, Writing, run_settings, tell_dry_run
from featurectl.core.checks import CheckReport
from featurectl.core.db import open_database
from featurectl.core.materialize import Materialized
from featurectl.core.pipeline import STEPS, Pipeline, read_pipeline, steps
from featurectl.core.redact import redact
from featurectl.errors import UsageError
from featurectl.pipeline import Done, run_pipeline

app = new_app()


@app.command("run", cls=LockingWriter)
def run(
    context: typer.Context,
    only: Annotated[
        list[str] | None,
        typer.Option("--step", metavar="NAME", help=f"Only these steps, of {', '.join(STEPS)}; again for more."),
    ] = None,
    without: Annotated[
        list[str] | None, typer.Option("--skip-step", metavar="NAME", help="All steps but these; again for more.")
    ] = None,
    inbox: Annotated[
        Path | None, typer.Option("--inbox", metavar="DIR", help="Where files wait. Default: inbox in the repository.")
    ] = None,
    max_lag: Annotated[
        int | None,
        typer.Option("--max-lag", min=0, metavar="BARS", help="The check fails where features lag by more bars."),
    ] = None,
    dry_run: DryRunOption = False,
    format: FormatOption = None,
    json: JsonOption = False,
    path: OutputOption = None,
) -> None:
    """Ingest, compute, materialize and check as one run, for cron.

    Files in the inbox are read and moved to its done/ or failed/; candles lie in it, the others in order-book/, trades/
    and signals/. One run of a repository is at work at a time. Settings stand in feature_store.yaml, pipeline: flags
    win over them.

    Example: featurectl run --if-locked skip --max-lag 2

    Example: featurectl run --step compute,materialize
    """
    database = open_database(overrides(context))
    configured = read_pipeline(database.config)
    pipeline = replace(
        configured,
        inbox=Path.cwd() / inbox if inbox else configured.inbox,
        max_lag=configured.max_lag if max_lag is None else max_lag,
        **_steps(split(only), split(without)),
    )
    settings = run_settings(context, dry_run=dry_run, otherwise=_writing(configured))
    find = partial(published_catalog, writes=True)
    with _progress() as progress:
        done = run_pipeline(database, pipeline, settings, find=find, progress=progress)
    output.emit(_report(done, settings.run_id, dry_run), chosen(format, json), path)
    tell_dry_run(dry_run)
    if done.failure:
        raise done.failure


def _writing(pipeline: Pipeline) -> Writing:
    """Return what the configuration says of how to go about it."""
    return Writing(
        if_locked=pipeline.if_locked,
        wait_for=pipeline.wait_for,
        metrics_file=pipeline.metrics_file,
        heartbeat=pipeline.heartbeat_url,
    )


def _steps(only: tuple[str, ...], without: tuple[str, ...]) -> dict[str, Any]:
    if only and without:
        raise UsageError("--step and --skip-step contradict each other; leave one out")
    if only:
        return {"steps": steps(only)}
    if without:
        left = tuple(step for step in STEPS if step not in steps(without))
        if not left:
            raise UsageError("--skip-step leaves no step to be done; leave one of them out")
        return {"steps": left}
    return {}


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int, str], None]]:
    """Show the progress of one step after the other."""
    with ExitStack() as stack:
        current: list[Any] = ["", None]

        def show(step: str, done: int, total: int, label: str) -> None:
            if step != current[0]:
                stack.close()
                current[:] = [step, stack.enter_context(diagnostics.progress(step))]
            current[1](done, total, label)

        yield show


def _report(done: Done, run_id: str, dry_run: bool) -> output.Report:
    columns = ["step", "name", "read", "written", "unchanged", "older", "rejected", "error"]
    rows = list(_rows(done))
    document = {
        "run_id": run_id,
        "dry_run": dry_run,
        "steps": [str(step) for step in done.steps],
        "results": [dict(zip(columns, row, strict=True)) for row in rows],
        "freshness": [asdict(one) for one in done.freshness],
        "checks": None if done.checks is None else _checks(done.checks),
        "findings": done.findings,
        "errors": {str(step): redact(str(error)) for step, error in done.errors.items()},
    }
    return output.Report("run", document, columns, rows, output.Grid(columns, rows, empty="nothing to do"))


def _checks(report: CheckReport) -> dict[str, Any]:
    return {"checked": len(report.outcomes), "findings": [asdict(one) for one in report.findings]}


def _rows(done: Done) -> Iterator[list[Any]]:
    for file in done.ingested:
        read = file.file.rows_read if file.file else 0
        counts = [sum(getattr(one, name) for one in file.merged) for name in ("new", "changed", "unchanged")]
        rejected = sum(file.file.faults.values()) if file.file else 0
        error = redact(str(file.error)) if file.error else None
        yield ["ingest", file.name, read, counts[0] + counts[1], counts[2], 0, rejected, error]
    for one in done.computed:
        yield ["compute", f"{one.view} {one.entity}", one.rows, one.inserted + one.changed, None, 0, 0, None]
    for result in done.materialized:
        if isinstance(result, Materialized):
            counts = [result.entities, result.written, result.unchanged, result.older]
            yield ["materialize", result.view, *counts, 0, None]
        else:
            yield ["materialize", result.view, 0, 0, 0, 0, 0, redact(str(result.error))]
    for finding in done.findings:
        yield ["check", finding, *[None] * 5, None]
