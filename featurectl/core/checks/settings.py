"""What feature_store.yaml says of checks: the rules of candles, and how far back `featurectl run` looks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from featurectl.core.checks.report import Severity
from featurectl.core.config import FILE_NAME, Config
from featurectl.errors import ConfigError

RECENT_ROWS = 100


class CandleRule(StrEnum):
    """What is asked of candles."""

    OHLC_ORDER = "ohlc_order"
    POSITIVE_PRICE = "positive_price"
    NEGATIVE_VOLUME = "negative_volume"
    OFF_GRID = "off_grid"
    STUCK_PRICE = "stuck_price"
    PRICE_JUMP = "price_jump"
    VOLUME_SPIKE = "volume_spike"
    GAPS = "gaps"


@dataclass(frozen=True, slots=True)
class CandleCheck:
    """A rule of candles: what a finding is, ``None`` where it is off, and its limit, if it is of a kind that has one.

    Limits: of stuck_price the bars in a row that may be the same; of price_jump how far, as a share, a bar may open
    from the close before; of volume_spike how many times the volume may be that of the bar before and the median of the
    100 before; of gaps how many bars in a row may be missing.
    """

    severity: Severity | None
    limit: float | None = None


CANDLE_DEFAULTS: Mapping[CandleRule, CandleCheck] = {
    CandleRule.OHLC_ORDER: CandleCheck(Severity.ERROR),
    CandleRule.POSITIVE_PRICE: CandleCheck(Severity.ERROR),
    CandleRule.NEGATIVE_VOLUME: CandleCheck(Severity.ERROR),
    CandleRule.OFF_GRID: CandleCheck(Severity.ERROR),
    CandleRule.STUCK_PRICE: CandleCheck(Severity.WARN, 12.0),
    CandleRule.PRICE_JUMP: CandleCheck(Severity.WARN, 0.1),
    CandleRule.VOLUME_SPIKE: CandleCheck(Severity.WARN, 100.0),
    CandleRule.GAPS: CandleCheck(Severity.WARN, 0.0),
}
# The least and the greatest limit that mean something; of those in bars, whole numbers only.
_RANGES = {
    CandleRule.STUCK_PRICE: (1, 1_000_000),
    CandleRule.PRICE_JUMP: (1e-9, 1e9),
    CandleRule.VOLUME_SPIKE: (1, 1e12),
    CandleRule.GAPS: (0, 1_000_000),
}
_WHOLE = (CandleRule.STUCK_PRICE, CandleRule.GAPS)


@dataclass(frozen=True, slots=True)
class CheckSettings:
    """The rules of candles as they are to be applied; ``recent_rows`` of each entity are what a run looks at."""

    candles: Mapping[CandleRule, CandleCheck] = field(default_factory=lambda: CANDLE_DEFAULTS)
    recent_rows: int = RECENT_ROWS


def read_settings(config: Config) -> CheckSettings:
    """Return what the section ``checks`` of feature_store.yaml says.

    Raises:
        ConfigError: a setting or a rule does not exist, or its value can't be used.
    """
    place = f"{config.root / FILE_NAME}: featurectl.checks"
    for name in config.checks:
        if name not in ("candles", "recent_rows"):
            raise ConfigError(f"{place} has no setting '{name}'; settings: candles, recent_rows")
    rows = config.checks.get("recent_rows", RECENT_ROWS)
    if isinstance(rows, bool) or not isinstance(rows, int) or not 1 <= rows <= 1_000_000:
        raise ConfigError(f"{place}.recent_rows is {rows!r}; write a whole number from 1 to 1000000")
    given = config.checks.get("candles") or {}
    if not isinstance(given, Mapping):
        raise ConfigError(f"{place}.candles must be a mapping of rules; rules: {', '.join(CandleRule)}")
    rules = dict(CANDLE_DEFAULTS)
    for name, value in given.items():
        if name not in list(CandleRule):
            raise ConfigError(f"{place}.candles has no rule '{name}'; rules: {', '.join(CandleRule)}")
        rules[CandleRule(name)] = _rule(CandleRule(name), value, f"{place}.candles.{name}")
    return CheckSettings(rules, rows)


def _rule(rule: CandleRule, value: Any, place: str) -> CandleCheck:
    """Return a rule by its severity, its limit, or a mapping of both."""
    default = CANDLE_DEFAULTS[rule]
    if isinstance(value, Mapping):
        for name in value:
            if name not in ("severity", "limit"):
                raise ConfigError(f"{place} has no setting '{name}'; settings: severity, limit")
        done = replace(default, limit=_limit(rule, value["limit"], place)) if "limit" in value else default
        return replace(done, severity=_severity(value["severity"], place)) if "severity" in value else done
    if isinstance(value, bool | str):
        return replace(default, severity=_severity(value, place))
    return replace(default, limit=_limit(rule, value, place))


def _severity(value: Any, place: str) -> Severity | None:
    if value is False or value == "off":  # YAML reads a bare off as false
        return None
    if value not in list(Severity):
        raise ConfigError(f"{place} can't be {value!r}; write {', '.join(Severity)}, off, or a limit")
    return Severity(value)


def _limit(rule: CandleRule, value: Any, place: str) -> float:
    if rule not in _RANGES:
        raise ConfigError(f"{place} has no limit; write {', '.join(Severity)} or off")
    least, greatest = _RANGES[rule]
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not least <= value <= greatest or (rule in _WHOLE and value != int(value)):
        kind = "whole number of bars" if rule in _WHOLE else "number"
        raise ConfigError(f"{place} has limit {value!r}; write a {kind} from {least:g} to {greatest:g}")
    return float(value)
