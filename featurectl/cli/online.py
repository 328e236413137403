"""``featurectl get-online``."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Annotated, Any

import typer

from featurectl.cli import diagnostics, output
from featurectl.cli.app import new_app
from featurectl.cli.options import (
    Command,
    FeaturesOption,
    FormatOption,
    JsonOption,
    OutputOption,
    ServiceOption,
    chosen,
    overrides,
    split,
)
from featurectl.core.entity import EntityId
from featurectl.core.online import Status
from featurectl.core.serving.answer import Answer, EntityFeatures, ViewRow
from featurectl.core.serving.paths import Backend
from featurectl.core.times import duration, iso, parse_duration
from featurectl.errors import Degraded
from featurectl.manager import FeastFeatureStoreManager

app = new_app()


@app.command("get-online", cls=Command)
def get_online(
    context: typer.Context,
    ids: Annotated[list[str], typer.Argument(metavar="ID...", help="Entity ids: BTCUSDT_1h ETHUSDT_1h")],
    features: FeaturesOption = None,
    service: ServiceOption = None,
    allow_stale: Annotated[bool, typer.Option("--allow-stale", help="Serve values older than their TTL.")] = False,
    as_of: Annotated[
        str | None, typer.Option("--as-of", metavar="TIME", help="What was known at TIME (ISO 8601, or -2h).")
    ] = None,
    max_age: Annotated[
        str | None, typer.Option("--max-age", metavar="DURATION", help="Withhold older values too: 30s, 5m.")
    ] = None,
    backend: Annotated[
        Backend, typer.Option("--backend", help="Ask one path alone; auto takes the first that answers.")
    ] = Backend.AUTO,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with 6 when another path than the first answered.")
    ] = False,
    format: FormatOption = None,
    json: JsonOption = False,
    path: OutputOption = None,
) -> None:
    """Read features as they are now, or as of an instant.

    A value older than its view's TTL is withheld with status OUTSIDE_MAX_AGE. A time is ISO 8601 (UTC without a zone)
    or relative: -2h. Where all features asked for are keyed by symbol alone, a symbol is an id.

    Example: featurectl get-online BTCUSDT_1h ETHUSDT_1h -f rsi_14,macd

    Example: featurectl get-online BTCUSDT --service sentiment_service
    """
    given = overrides(context)
    oldest = parse_duration(max_age) if max_age else None

    async def read() -> Answer:
        async with FeastFeatureStoreManager.of(given) as manager:
            return await manager.read_online(
                ids,
                split(features) or None,
                service,
                as_of=as_of,
                max_age=oldest,
                allow_stale=allow_stale,
                backend=backend,
                timeout=manager.configured_timeout,
            )

    answer = asyncio.run(read())
    output.emit(_report(answer), chosen(format, json), path)
    _explain(answer, () if strict else answer.whys)
    if strict and answer.whys:
        raise Degraded("; ".join(answer.whys))


def _report(answer: Answer) -> output.Report:
    rows, names = answer.by_entity(), answer.features
    return output.Report(
        command="get-online",
        document={
            "as_of": iso(answer.request.as_of),
            "degraded": answer.reasons,
            "results": [_document(row) for row in rows],
        },
        columns=[
            "entity_id",
            "event_timestamp",
            "age_seconds",
            "source",
            *names,
            *(f"{name}__status" for name in names),
        ],
        rows=[_row(row) for row in rows],
        table=_table(rows, names),
    )


def _document(row: EntityFeatures) -> dict[str, Any]:
    return {
        "entity_id": str(row.entity),
        "symbol": row.entity.symbol,
        "timeframe": row.entity.timeframe or None,
        "features": {name: value for view in row.views for name, value in view.features.items()},
        "statuses": {name: status for view in row.views for name, status in view.statuses.items()},
        "views": {
            view.view: {
                "event_timestamp": view.event_timestamp,
                "age_seconds": view.age,
                "ttl_seconds": view.ttl,
                "source": view.source,
            }
            for view in row.views
        },
    }


def _row(row: EntityFeatures) -> list[Any]:
    oldest = min((view for view in row.views if view.age is not None), key=lambda view: -view.age, default=None)  # type: ignore[operator]
    age = oldest.age.total_seconds() if oldest and oldest.age is not None else None
    values = [value for view in row.views for value in view.features.values()]
    statuses = [str(status) for view in row.views for status in view.statuses.values()]
    sources = "+".join(dict.fromkeys(view.source for view in row.views))
    return [str(row.entity), oldest.event_timestamp if oldest else None, age, sources, *values, *statuses]


def _table(rows: list[EntityFeatures], names: list[str]) -> output.Grid:
    """Lay few entities out with a line a feature, many with a line an entity."""
    if len(rows) > 3 or len(names) <= 3:
        lines = [
            [str(row.entity), _age(row), *(_shown(view, name) for view in row.views for name in view.features)]
            for row in rows
        ]
        return output.Grid(["entity", "age", *names], lines)
    lines = [
        [str(row.entity), name, _shown(view, name), view.event_timestamp, view.source]
        for row in rows
        for view in row.views
        for name in view.features
    ]
    return output.Grid(["entity", "feature", "value", "event time", "source"], lines)


def _age(row: EntityFeatures) -> str:
    return duration(max(ages)) if (ages := [view.age for view in row.views if view.age is not None]) else "not found"


def _shown(view: ViewRow, name: str) -> Any:
    status = view.statuses[name]
    if status is Status.NOT_FOUND:
        return "not found"
    if status is Status.OUTSIDE_MAX_AGE and view.features[name] is None:
        return "stale"
    return view.features[name]


def _explain(answer: Answer, whys: Iterable[str]) -> None:
    """Say what is wrong with the set-up, which paths failed, and, once a view and entity, why values are missing."""
    for text in (*answer.notes, *whys):
        diagnostics.warn(text)
    for row in answer.by_entity():
        for view in row.views:
            if view.event_timestamp is None:
                diagnostics.warn(
                    f"{row.entity}: {view.view} has no row; compute and materialize it, or check the id{_hint(row)} "
                    "(`featurectl entities symbol` lists the symbols)"
                )
            elif view.stale and view.age and view.limit:
                limit = "its TTL" if view.limit == view.ttl else "--max-age"
                served = "served all the same" if answer.request.allow_stale else "withheld; --allow-stale serves it"
                diagnostics.warn(
                    f"{row.entity}: {view.view} is {duration(view.age)} old, past {limit} of {duration(view.limit)}: "
                    f"{served}, --as-of {iso(view.event_timestamp)} asks for that time"
                )


def _hint(row: EntityFeatures) -> str:
    upper = row.entity.symbol.upper()
    return "" if upper == row.entity.symbol else f": {EntityId(upper, row.entity.timeframe)}?"
