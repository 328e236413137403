"""What the tags of fields and views say their rows are to be like: ``min``, ``max_null_share``, ``check: warn``, …"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

from featurectl.core import tags
from featurectl.core.catalog import Field, View
from featurectl.core.checks.report import Severity
from featurectl.core.sources import NUMBERS
from featurectl.core.times import parse_duration
from featurectl.errors import DefinitionError, InvalidTime


class FeatureRule(StrEnum):
    """What a tag of this name may ask of a feature; freshness of a view's rows, too."""

    MIN = "min"
    MAX = "max"
    MAX_NULL_SHARE = "max_null_share"
    UNIQUE = "unique"
    MAX_STUCK = "max_stuck"
    FRESHNESS = "freshness"


# A value that stays may be a quiet market.
DEFAULT_SEVERITIES = dict.fromkeys(FeatureRule, Severity.ERROR) | {FeatureRule.MAX_STUCK: Severity.WARN}
OFF = "off"
CHECK, PREFIX, WARMUP = "check", "check_", "warmup"
# Indicators of candles need bars before they are defined; other features are from their first row on.
DEFAULT_WARMUP = {"candles": 100}
MOST_ROWS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Expectation:
    """What is asked of a feature, or by an empty name of the view's rows; freshness is in seconds.

    ``warmup`` is how many rows at the beginning of an entity's series may lack a value before its first one.
    """

    rule: FeatureRule
    feature: str
    limit: float | None
    severity: Severity
    warmup: int = 0


def is_ours(tag: str) -> bool:
    """Tell whether a tag says what is checked, and nothing of how features are made."""
    return tag in (CHECK, WARMUP, *FeatureRule) or tag.startswith(PREFIX)


def of_view(view: View, views: Sequence[View] = ()) -> list[Expectation]:
    """Return what a view's tags ask, field by field, then of its rows.

    Of a composite's fields without tags of their own, the ranges are those of the fields they repeat, in ``views``;
    nulls and values that stay are what joining as of an instant makes.

    Raises:
        DefinitionError: a tag can't be read; it names the field.
    """
    found = [one for field in view.fields for one in _of_field(view, _with_range(view, field, views))]
    return [*found, *_freshness(view, "", view.tags, f"view '{view.name}'")]


def _with_range(view: View, field: Field, views: Sequence[View]) -> Field:
    """Return a composite's field with the range of the one it repeats."""
    if not view.is_composite or any(is_ours(tag) for tag in field.tags):
        return field
    names = [name.strip() for name in view.tags.get("views", "").split(",")]
    parts = {part.name: part for part in views}
    owners = [parts[name].field(field.name) for name in names if name in parts]
    own = next((owner.tags for owner in owners if owner), {})
    inherited = (FeatureRule.MIN, FeatureRule.MAX, CHECK, f"{PREFIX}min", f"{PREFIX}max")
    kept = {tag: text for tag, text in own.items() if tag in inherited}
    return Field(field.name, field.value_type, field.column_type, field.source_column, field.description, kept)


def _of_field(view: View, field: Field) -> Iterator[Expectation]:
    owner = f"field '{field.name}'"
    levels = (field.tags, view.tags)
    warmup = _warmup(levels, view, owner)
    for rule, read in _READERS.items():
        limit = read(field, owner)
        severity = _severity(rule, levels, owner)
        if limit is not None and severity is not None:
            kept = warmup if rule is FeatureRule.MAX_NULL_SHARE else 0
            yield Expectation(rule, field.name, None if rule is FeatureRule.UNIQUE else limit, severity, kept)
    yield from _freshness(view, field.name, field.tags, owner)
    _check_names(field.tags, owner)


def _freshness(view: View, feature: str, own: Mapping[str, str], owner: str) -> Iterator[Expectation]:
    severity = _severity(FeatureRule.FRESHNESS, (own, view.tags), owner)
    text = own.get(FeatureRule.FRESHNESS)
    if not feature:
        _check_names(own, owner)
    if text is None:
        return
    try:
        span = parse_duration(text)
    except (InvalidTime, OverflowError) as error:
        raise DefinitionError(f"{owner} has freshness={text}: {error}") from None
    if not timedelta(0) < span <= tags.MAX_VALIDITY:
        raise DefinitionError(f"{owner} has freshness={text}; give 1s to {tags.MAX_VALIDITY.days}d")
    if severity is not None:
        yield Expectation(FeatureRule.FRESHNESS, feature, span.total_seconds(), severity)


def _severity(rule: FeatureRule, levels: Sequence[Mapping[str, str]], owner: str) -> Severity | None:
    """Return what a finding is: by the field's tag for the rule, its tag for all, the view's; nothing for ``off``."""
    found = None
    for own in levels:
        for tag in (f"{PREFIX}{rule}", CHECK):
            if tag in own:
                if own[tag] not in (*Severity, OFF):
                    choices = ", ".join((*Severity, OFF))
                    raise DefinitionError(f"{owner} has {tag}={own[tag]}; choices: {choices}")
                found = found or own[tag]
    if found == OFF:
        return None
    return Severity(found) if found else DEFAULT_SEVERITIES[rule]


def _check_names(own: Mapping[str, str], owner: str) -> None:
    for tag in own:
        if tag.startswith(PREFIX) and tag.removeprefix(PREFIX) not in list(FeatureRule):
            raise DefinitionError(f"{owner} has {tag}={own[tag]}, and there is no such rule: {', '.join(FeatureRule)}")


def _range(end: int) -> Callable[[Field, str], float | None]:
    def read(field: Field, owner: str) -> float | None:
        limits = tags.score_range(field)
        if math.isfinite(limits[end]) and field.column_type not in NUMBERS:
            name = ("min", "max")[end]
            raise DefinitionError(f"{owner} has {name}={field.tags[name]} and is no number but {field.value_type}")
        return limits[end] if math.isfinite(limits[end]) else None

    return read


def _share(field: Field, owner: str) -> float | None:
    text = field.tags.get(FeatureRule.MAX_NULL_SHARE)
    if text is None:
        return None
    try:
        share = float(text)
    except ValueError:
        share = math.nan
    if not 0 <= share <= 1:
        raise DefinitionError(f"{owner} has max_null_share={text}; write a share from 0 to 1")
    return share


def _unique(field: Field, owner: str) -> float | None:
    text = field.tags.get(FeatureRule.UNIQUE)
    if text not in (None, "true", "false"):
        raise DefinitionError(f"{owner} has unique={text}; write true or false")
    return 1.0 if text == "true" else None


def _stuck(field: Field, owner: str) -> float | None:
    return _count(field.tags, FeatureRule.MAX_STUCK, 1, owner)


def _warmup(levels: Sequence[Mapping[str, str]], view: View, owner: str) -> int:
    counts = [_count(own, WARMUP, 0, owner) for own in levels]
    given = next((count for count in counts if count is not None), None)
    return DEFAULT_WARMUP.get(view.computed_from or "", 0) if given is None else int(given)


def _count(own: Mapping[str, str], tag: str, least: int, owner: str) -> float | None:
    text = own.get(tag)
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal() and least <= int(text[:12]) <= MOST_ROWS):
        raise DefinitionError(f"{owner} has {tag}={text}; write a whole number of rows, {least} or more")
    return float(text)


_READERS: Mapping[FeatureRule, Callable[[Field, str], float | None]] = {
    FeatureRule.MIN: _range(0),
    FeatureRule.MAX: _range(1),
    FeatureRule.MAX_NULL_SHARE: _share,
    FeatureRule.UNIQUE: _unique,
    FeatureRule.MAX_STUCK: _stuck,
}
