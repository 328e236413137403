"""The options of commands that look at the history of features: which of them, of whom, and when."""

from __future__ import annotations

from typing import Annotated

import typer

from featurectl.cli.options import split
from featurectl.core.entity import parse_id_or_symbol
from featurectl.statistics import Chosen

EntitiesOption = Annotated[
    list[str] | None,
    typer.Option("--entity", metavar="ID", help="BTCUSDT_1h; again, or comma-separated, for more. Default: all."),
]
StartOption = Annotated[str | None, typer.Option("--start", metavar="TIME", help="First event time.")]
EndOption = Annotated[str | None, typer.Option("--end", metavar="TIME", help="Last event time.")]


def features_chosen(
    views: list[str] | None, service: str | None, features: list[str] | None, entities: list[str] | None
) -> Chosen:
    """Return the features and entities that a command's options name."""
    ids = split(entities)
    return Chosen(split(features), service, split(views), [parse_id_or_symbol(one) for one in ids] if ids else None)
