"""What the tags of computed views and their fields say: timeframes, aggregates, validities, ranges of scores, drift."""

from __future__ import annotations

import math
from datetime import timedelta

from featurectl.core.catalog import Field, View
from featurectl.core.entity import TIMEFRAMES
from featurectl.core.times import parse_duration
from featurectl.errors import DefinitionError, InvalidTime

AGGREGATES = ("mean", "sum", "min", "max")
# What a feature's values are measured in, the usual first.
SCALES = ("value", "price")
DEFAULT_TIMEFRAMES = "1m,5m,15m,1h"
DEFAULT_VALIDITY = "2h"
# A century: beyond it, arithmetic with instants overflows.
MAX_VALIDITY = timedelta(days=36500)


def timeframes(view: View) -> tuple[str, ...]:
    """Return the timeframes of a view computed from ticks, shortest first.

    Raises:
        DefinitionError: the tag names one that does not exist, or none.
    """
    names = {name.strip() for name in view.tags.get("timeframes", DEFAULT_TIMEFRAMES).split(",")}
    for name in sorted(names):
        if name not in TIMEFRAMES:
            raise DefinitionError(f"timeframes={name} does not exist; choices: {', '.join(TIMEFRAMES)}")
    return tuple(name for name in TIMEFRAMES if name in names)


def aggregate(field: Field) -> str:
    """Return what is taken of a field's numbers for single ticks: mean, sum, min or max.

    Raises:
        DefinitionError: the tag says something else.
    """
    name = field.tags.get("aggregate", "mean")
    if name not in AGGREGATES:
        raise DefinitionError(f"field '{field.name}' has aggregate={name}; choices: {', '.join(AGGREGATES)}")
    return name


def validity(field: Field) -> timedelta:
    """Return for how long the scores that a field reads mean something.

    Raises:
        DefinitionError: the tag is no duration, or a useless one.
    """
    text = field.tags.get("validity", DEFAULT_VALIDITY)
    try:
        span = parse_duration(text)
    except (InvalidTime, OverflowError) as error:
        raise DefinitionError(f"field '{field.name}' has validity={text}: {error}") from None
    if not timedelta(0) < span <= MAX_VALIDITY:
        raise DefinitionError(f"field '{field.name}' has validity={text}; give 1m to {MAX_VALIDITY.days}d")
    return span


def score_range(field: Field) -> tuple[float, float]:
    """Return the least and the greatest score a field allows; infinities where its tags name none.

    Raises:
        DefinitionError: a tag is no number, or the least is above the greatest.
    """
    low, high = (_number(field, name, otherwise) for name, otherwise in (("min", -math.inf), ("max", math.inf)))
    if low > high:
        raise DefinitionError(f"field '{field.name}' has min={low:g} above max={high:g}; swap them")
    return low, high


def is_price(field: Field) -> bool:
    """Tell whether a field is in units of price, and so not stationary: comparable from year to year only as a share.

    Raises:
        DefinitionError: the tag `scale` is neither price nor value.
    """
    scale = field.tags.get("scale", SCALES[0])
    if scale not in SCALES:
        raise DefinitionError(f"field '{field.name}' has scale={scale}; choices: {', '.join(SCALES)}")
    return scale == "price"


def drift_limits(field: Field) -> tuple[float | None, float | None]:
    """Return the PSI from which a field's drift is a warning, and that from which it is a failure, where tags say so.

    Raises:
        DefinitionError: a tag is no number above 0, or the first is above the second.
    """
    warn, fail = (_positive(field, name) for name in ("psi_warn", "psi_fail"))
    if warn is not None and fail is not None and warn > fail:
        raise DefinitionError(f"field '{field.name}' has psi_warn={warn:g} above psi_fail={fail:g}; swap them")
    return warn, fail


def _positive(field: Field, name: str) -> float | None:
    number = _number(field, name, 0.0)
    if name in field.tags and number <= 0:
        raise DefinitionError(f"field '{field.name}' has {name}={field.tags[name]}; write a number above 0")
    return number or None


def _number(field: Field, name: str, otherwise: float) -> float:
    text = field.tags.get(name)
    if text is None:
        return otherwise
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise DefinitionError(f"field '{field.name}' has {name}={text}; write a number")
    return number


def check(view: View) -> None:
    """Check the tags that `compute` and `ingest` read; on other views they may mean whatever their author wants.

    Raises:
        DefinitionError: a tag can't be read.
    """
    if view.computed_from:
        for field in view.fields:
            is_price(field)
            drift_limits(field)
    if view.computed_from == "ticks":
        timeframes(view)
        for field in view.fields:
            aggregate(field)
    elif view.computed_from == "signals":
        for field in view.fields:
            validity(field)
            score_range(field)
