"""What tags may ask of rows, and what feature_store.yaml may say of checks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from featurectl.core.catalog import Field, View
from featurectl.core.checks.expectations import Expectation, is_ours, of_view
from featurectl.core.checks.report import Severity
from featurectl.core.checks.settings import CANDLE_DEFAULTS, CandleCheck, CandleRule, CheckSettings, read_settings
from featurectl.core.config import Config
from featurectl.errors import ConfigError, DefinitionError

WARN, ERROR = Severity.WARN, Severity.ERROR


def field(name: str = "mood", kind: str = "double precision", **own: str) -> Field:
    return Field(name, "String" if kind == "text" else "Float64", kind, name, "", own)


def view(*fields: Field, computed_from: str | None = None, **own: str) -> View:
    table = "features.moods"
    return View("moods", ("symbol",), 0, True, table, None, "t", None, None, computed_from, None, None, "", own, fields)


def asked(*fields: Field, computed_from: str | None = None, **own: str) -> list[tuple[Any, ...]]:
    """Return what is asked: rule, feature, limit, severity."""
    found = of_view(view(*fields, computed_from=computed_from, **own))
    return [(str(one.rule), one.feature, one.limit, one.severity) for one in found]


def test_a_tag_is_an_expectation() -> None:
    everything = field(
        min="-1", max="1e2", max_null_share="0.25", unique="true", max_stuck="12", freshness="90m", aggregate="mean"
    )
    assert asked(everything) == [
        ("min", "mood", -1.0, ERROR),
        ("max", "mood", 100.0, ERROR),
        ("max_null_share", "mood", 0.25, ERROR),
        ("unique", "mood", None, ERROR),
        ("max_stuck", "mood", 12.0, WARN),
        ("freshness", "mood", 5400.0, ERROR),
    ]
    assert asked(field(), field("other", unique="false", kind="text")) == []
    assert asked(field(), freshness="2h") == [("freshness", "", 7200.0, ERROR)]


def test_the_nearest_tag_says_what_a_finding_is() -> None:
    def severities(own: dict[str, str], of_view: dict[str, str]) -> list[Severity]:
        return [one[3] for one in asked(field(min="0", max_stuck="3", **own), **of_view)]

    assert severities({}, {}) == [ERROR, WARN]
    assert severities({}, {"check": "warn"}) == [WARN, WARN]
    assert severities({}, {"check": "warn", "check_max_stuck": "error"}) == [WARN, ERROR]
    assert severities({"check": "error"}, {"check": "warn", "check_max_stuck": "warn"}) == [ERROR, ERROR]
    assert severities({"check": "error", "check_min": "warn"}, {"check": "off"}) == [WARN, ERROR]
    assert severities({"check_min": "off"}, {}) == [WARN]
    assert severities({"check": "off"}, {}) == []
    assert severities({}, {"check": "off"}) == []


def test_indicators_of_candles_have_a_warm_up() -> None:
    def warmups(computed_from: str | None, own: dict[str, str], of: dict[str, str]) -> list[int]:
        one = field(min="0", max_null_share="0", **own)
        return [found.warmup for found in of_view(view(one, computed_from=computed_from, **of))]

    assert warmups("candles", {}, {}) == [0, 100]
    assert warmups("signals", {}, {}) == warmups(None, {}, {}) == [0, 0]
    assert warmups(None, {}, {"warmup": "7"}) == [0, 7]
    assert warmups("candles", {"warmup": "0"}, {"warmup": "7"}) == [0, 0]


def test_a_composite_takes_the_ranges_of_what_it_repeats() -> None:
    part = replace(view(field(min="0", max="100", max_stuck="3", check_max="warn", max_null_share="0")), name="part")
    composite = view(field(), field("unknown"), computed_from="views", views="other, part")
    found = of_view(composite, [part])
    assert [(str(one.rule), one.limit, one.severity) for one in found] == [("min", 0, ERROR), ("max", 100, WARN)]
    own = view(field(max="1"), computed_from="views", views="part")
    assert of_view(own, [part]) == [Expectation(found[1].rule, "mood", 1.0, ERROR)]


@pytest.mark.parametrize(
    ("one", "of", "message"),
    [
        (field(min="low"), {}, "field 'mood' has min=low; write a number"),
        (field(min="2", max="1"), {}, "field 'mood' has min=2 above max=1; swap them"),
        (field(kind="text", max="9"), {}, "field 'mood' has max=9 and is no number but String"),
        (field(max_null_share="1.5"), {}, "field 'mood' has max_null_share=1.5; write a share from 0 to 1"),
        (field(max_null_share="nan"), {}, "field 'mood' has max_null_share=nan; write a share"),
        (field(max_null_share="5%"), {}, "field 'mood' has max_null_share=5%; write a share"),
        (field(unique="yes"), {}, "field 'mood' has unique=yes; write true or false"),
        (field(max_stuck="0"), {}, "field 'mood' has max_stuck=0; write a whole number of rows, 1 or more"),
        (field(max_stuck="2.5"), {}, "field 'mood' has max_stuck=2.5; write a whole number"),
        (field(max_stuck="²"), {}, "field 'mood' has max_stuck=²; write a whole number"),
        (field(max_stuck="9" * 5000), {}, f"field 'mood' has max_stuck={'9' * 5000}; write"),
        (field(warmup="-1"), {}, "field 'mood' has warmup=-1; write a whole number of rows, 0 or more"),
        (field(), {"warmup": "many"}, "field 'mood' has warmup=many; write"),
        (field(freshness="soon"), {}, "field 'mood' has freshness=soon: 'soon' is not a duration"),
        (field(freshness="0s"), {}, "field 'mood' has freshness=0s; give 1s to 36500d"),
        (field(freshness="999999y"), {}, "field 'mood' has freshness=999999y"),
        (field(), {"freshness": "later"}, "view 'moods' has freshness=later"),
        (field(check="fatal"), {}, "field 'mood' has check=fatal; choices: warn, error, off"),
        (field(), {"check": "fatal"}, "field 'mood' has check=fatal"),
        (field(check_min="loud"), {}, "field 'mood' has check_min=loud; choices"),
        (field(check_range="warn"), {}, "field 'mood' has check_range=warn, and there is no such rule: min, max"),
        (field(), {"check_gaps": "warn"}, "view 'moods' has check_gaps=warn, and there is no such rule"),
    ],
)
def test_what_can_not_be_meant_is_refused_by_its_field(one: Field, of: dict[str, str], message: str) -> None:
    with pytest.raises(DefinitionError) as error:
        of_view(view(one, **of))
    assert str(error.value).startswith(message)


def test_tags_of_checks_are_told_from_those_of_features() -> None:
    ours = ("min", "max", "max_null_share", "unique", "max_stuck", "freshness", "warmup", "check", "check_min")
    assert all(map(is_ours, ours))
    assert not any(map(is_ours, ("aggregate", "validity", "owner", "checked", "minimum")))


# --- feature_store.yaml ----------------------------------------------------------------------------------------------


def settings(**checks: Any) -> CheckSettings:
    return read_settings(Config(root=Path("/repo"), project="market", database_url=None, checks=checks))


def test_what_is_not_set_has_a_default() -> None:
    assert settings() == CheckSettings(CANDLE_DEFAULTS, 100)
    assert set(CANDLE_DEFAULTS) == set(CandleRule)


def test_a_rule_is_set_by_its_limit_its_severity_or_both() -> None:
    given = {
        "stuck_price": 24,
        "gaps": "error",
        "volume_spike": False,  # YAML's off
        "price_jump": {"limit": 0.5, "severity": "error"},
        "ohlc_order": "off",
        "off_grid": {"severity": "warn"},
    }
    found = settings(candles=given, recent_rows=20)
    assert found.recent_rows == 20
    assert found.candles == {
        **CANDLE_DEFAULTS,
        CandleRule.STUCK_PRICE: CandleCheck(WARN, 24),
        CandleRule.GAPS: CandleCheck(ERROR, 0),
        CandleRule.VOLUME_SPIKE: CandleCheck(None, 100),
        CandleRule.PRICE_JUMP: CandleCheck(ERROR, 0.5),
        CandleRule.OHLC_ORDER: CandleCheck(None),
        CandleRule.OFF_GRID: CandleCheck(WARN),
    }


@pytest.mark.parametrize(
    ("checks", "message"),
    [
        ({"features": {}}, "featurectl.checks has no setting 'features'; settings: candles, recent_rows"),
        ({"recent_rows": 0}, "recent_rows is 0; write a whole number from 1 to 1000000"),
        ({"recent_rows": True}, "recent_rows is True"),
        ({"recent_rows": "many"}, "recent_rows is 'many'"),
        ({"candles": ["gaps"]}, "candles must be a mapping of rules"),
        ({"candles": {"gap": "off"}}, "candles has no rule 'gap'; rules: ohlc_order"),
        ({"candles": {"gaps": "loud"}}, "candles.gaps can't be 'loud'; write warn, error, off, or a limit"),
        ({"candles": {"gaps": True}}, "candles.gaps can't be True"),
        ({"candles": {"gaps": None}}, "candles.gaps has limit None; write a whole number of bars"),
        ({"candles": {"gaps": 1.5}}, "candles.gaps has limit 1.5; write a whole number of bars from 0 to 1e+06"),
        ({"candles": {"stuck_price": 0}}, "candles.stuck_price has limit 0"),
        ({"candles": {"price_jump": float("nan")}}, "candles.price_jump has limit nan; write a number"),
        ({"candles": {"price_jump": 10**400}}, "candles.price_jump has limit"),
        ({"candles": {"ohlc_order": 3}}, "candles.ohlc_order has no limit; write warn, error or off"),
        ({"candles": {"gaps": {"severity": []}}}, "candles.gaps can't be []"),
        ({"candles": {"gaps": {"most": 1}}}, "candles.gaps has no setting 'most'; settings: severity, limit"),
    ],
)
def test_a_setting_that_can_not_be_used_is_refused(checks: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        settings(**checks)
    assert message in str(error.value)
    assert str(error.value).startswith("/repo/feature_store.yaml: featurectl.checks")
