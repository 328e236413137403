"""``featurectl services``, ``views``, ``entities``: what is defined, listed or one shown."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer

from featurectl.cli import output
from featurectl.cli.app import new_app
from featurectl.cli.options import Command, FormatOption, JsonOption, OutputOption, chosen, overrides
from featurectl.cli.published import published_catalog
from featurectl.core.catalog import Catalog, Entity, Service, View
from featurectl.core.composite import parts_of
from featurectl.core.db import Connection, open_database
from featurectl.core.queries import query
from featurectl.core.times import duration

app = new_app()

_Name = Annotated[str | None, typer.Argument(metavar="[NAME]", help="Show this one in full.")]


@app.command("services", cls=Command)
def services(
    context: typer.Context,
    name: _Name = None,
    format: FormatOption = None,
    json: JsonOption = False,
    path: OutputOption = None,
) -> None:
    """List feature services, or show one.

    Example: featurectl services technical_indicators_service
    """
    catalog = _catalog(context)
    report = _service(catalog, catalog.service(name)) if name else _services(catalog)
    output.emit(report, chosen(format, json), path)


@app.command("views", cls=Command)
def views(
    context: typer.Context,
    name: _Name = None,
    format: FormatOption = None,
    json: JsonOption = False,
    path: OutputOption = None,
) -> None:
    """List feature views, or show one.

    Example: featurectl views technical_indicators_view
    """
    catalog = _catalog(context)
    report = _view(catalog, catalog.view(name)) if name else _views(catalog)
    output.emit(report, chosen(format, json), path)


@app.command("entities", cls=Command)
def entities(
    context: typer.Context,
    name: _Name = None,
    format: FormatOption = None,
    json: JsonOption = False,
    path: OutputOption = None,
) -> None:
    """List entities, or show one.

    Example: featurectl entities symbol
    """
    database = open_database(overrides(context))
    with database.connect(read_only=True) as connection:
        catalog = published_catalog(database, connection)
        report = _entity(connection, catalog.entity(name)) if name else _entities(catalog)
    output.emit(report, chosen(format, json), path)


def _catalog(context: typer.Context) -> Catalog:
    database = open_database(overrides(context))
    with database.connect(read_only=True) as connection:
        return published_catalog(database, connection)


def _header(catalog: Catalog) -> dict[str, Any]:
    return {
        "project": catalog.project,
        "catalog_version": catalog.version,
        "content_hash": catalog.content_hash,
        "published_at": catalog.published_at,
    }


def _services(catalog: Catalog) -> output.Report:
    columns = ["service", "features", "tags", "description"]
    rows = [[one.name, len(one.features), _tags(one.tags), one.description] for one in catalog.services]
    document = {**_header(catalog), "services": [_service_document(one) for one in catalog.services]}
    return output.Report("services", document, columns, rows)


def _service_document(service: Service) -> dict[str, Any]:
    features = [{"view": view, "feature": feature} for view, feature in service.features]
    return {"name": service.name, "description": service.description, "tags": service.tags, "features": features}


def _service(catalog: Catalog, service: Service) -> output.Report:
    columns = ["view", "feature", "type", "description"]
    known = {(view.name, field.name): [field.value_type, field.description] for view, field in catalog.known(service)}
    rows = [[*names, *known.get(names, ["-", "made by Feast"])] for names in service.features]
    title = f"{service.name}: {service.description}"
    grid = output.Grid(columns, rows, title=title, footer=[_tags(service.tags)] if service.tags else [])
    return output.Report("services", {**_header(catalog), "service": _service_document(service)}, columns, rows, grid)


def _views(catalog: Catalog) -> output.Report:
    columns = ["view", "entities", "ttl", "online", "features", "description"]
    rows = [
        [one.name, list(one.join_keys), _ttl(one), one.online, len(one.fields), one.description]
        for one in catalog.views
    ]
    return output.Report("views", {**_header(catalog), "views": [asdict(one) for one in catalog.views]}, columns, rows)


def _view(catalog: Catalog, view: View) -> output.Report:
    columns = ["feature", "type", "description"]
    rows = [[field.name, field.value_type, field.description] for field in view.fields]
    document: dict[str, Any] = {"view": asdict(view)}
    footer = [
        f"entities: {', '.join(view.join_keys) or 'none'}   ttl: {_ttl(view)}",
        f"online: {'yes' if view.online else 'no'}   online table: {view.online_table or '-'}",
        f"source: {view.source_table or ('a query' if view.source_query else 'made by Feast')}",
    ]
    if view.functions_file:
        footer.append(f"computed from {view.computed_from} by {view.functions_file}")
    if view.is_composite:
        parts = parts_of(view, catalog.views)
        document["parts"] = [{"view": part.view.name, "features": part.features} for part in parts]
        first, *others = (part.view for part in parts)
        joined = [f"{other.name} (ttl {_ttl(other)})" for other in others]
        footer.append(f"joins: {', '.join([f'{first.name} (its rows)', *joined])}")
        columns.insert(2, "view")
        rows = [[*row[:2], part.view.name, *row[2:]] for row in rows for part in parts if row[0] in part.features]
    grid = output.Grid(columns, rows, title=f"{view.name}: {view.description}", footer=footer)
    return output.Report("views", document, columns, rows, grid)


def _entities(catalog: Catalog) -> output.Report:
    columns = ["entity", "join_key", "type", "views", "description"]
    rows = [
        [one.name, one.join_key, one.value_type, _keyed_by(catalog, one), one.description] for one in catalog.entities
    ]
    return output.Report(
        "entities", {**_header(catalog), "entities": [asdict(one) for one in catalog.entities]}, columns, rows
    )


def _entity(connection: Connection, entity: Entity) -> output.Report:
    columns = ["entity_id", "bars", "first_bar", "last_bar"]
    described = query("candles", "describe_series").format(series=query("candles", "list_series"))
    series = connection.execute(described).fetchall()
    rows = [[f"{symbol}_{timeframe}", bars, first, last] for symbol, timeframe, bars, first, last in series]
    document = {"entity": asdict(entity), "series": [dict(zip(columns, row, strict=True)) for row in rows]}
    grid = output.Grid(columns, rows, title=f"{entity.name}: {entity.description}")
    return output.Report("entities", document, columns, rows, grid)


def _keyed_by(catalog: Catalog, entity: Entity) -> list[str]:
    return [view.name for view in catalog.views if entity.join_key in view.join_keys]


def _ttl(view: View) -> str:
    return duration(view.ttl) if view.ttl else "unlimited"


def _tags(tags: dict[str, str]) -> str:
    return ", ".join(f"{name}={value}" for name, value in tags.items())
