"""`featurectl run` without a database: its settings, what it finds fault with, and what it comes to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from featurectl.core import redact
from featurectl.core.config import Config
from featurectl.core.freshness import Freshness
from featurectl.core.locks import IfLocked
from featurectl.core.pipeline import STEPS, Pipeline, StepName, read_pipeline, steps
from featurectl.errors import (
    ConfigError,
    DefinitionError,
    FeaturectlError,
    Findings,
    InputFileError,
    LockHeld,
    PartlyDone,
    Skipped,
    UsageError,
)
from featurectl.pipeline import Done, _entity_of, failure_of, findings_of


@pytest.fixture(autouse=True)
def _secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redact, "_known", set())


def read(**settings: Any) -> Pipeline:
    return read_pipeline(Config(root=Path("/repo"), project="market", database_url=None, pipeline=settings))


def test_without_settings_everything_is_done_and_nothing_is_demanded() -> None:
    assert read() == Pipeline()
    assert read().steps == STEPS == ("ingest", "compute", "materialize", "check")
    assert (read().inbox, read().settle, read().if_locked, read().wait_for) == (None, 2.0, IfLocked.FAIL, 600.0)
    assert read().consistency == 0
    assert read().drift is None
    assert (read().max_lag, read().metrics_file, read().heartbeat_url, read().views) == (None, None, None, ())


def test_every_setting_is_read() -> None:
    given = read(
        steps=["check", "compute"],
        inbox="in",
        settle="90s",
        views=["a", "b"],
        if_locked="wait",
        wait_for="2h",
        max_lag=0,
        consistency=20,
        metrics_file="/var/lib/node/x.prom",
        heartbeat_url="https://host/secret",
    )
    assert given == Pipeline(
        steps=(StepName.COMPUTE, StepName.CHECK),
        inbox=Path("/repo/in"),
        settle=90.0,
        views=("a", "b"),
        if_locked=IfLocked.WAIT,
        wait_for=7200.0,
        max_lag=0,
        consistency=20,
        metrics_file=Path("/var/lib/node/x.prom"),
        heartbeat_url="https://host/secret",
    )
    assert "secret" not in repr(given) and redact.redact("https://host/secret") == "https://host***"


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("stepps", [], r"has no setting 'stepps'; settings: steps, inbox, settle, views, if_locked"),
        ("steps", "ingest", r"steps can't be 'ingest'; write a list of ingest, compute, materialize, check"),
        ("steps", [], r"steps can't be \[\]; write a list of ingest"),
        ("steps", None, r"steps can't be None; write a list"),
        ("steps", [1], r"steps can't be \[1\]; write a list"),
        ("steps", ["ingst"], r"steps can't be \['ingst'\]; step 'ingst' not found; steps: ingest, compute"),
        ("inbox", "", r"inbox can't be ''; write a folder"),
        ("inbox", 7, r"inbox can't be 7; write a folder"),
        ("settle", 2, r"settle can't be 2; '2' is not a duration; write a whole number and a unit"),
        ("views", "a", r"views can't be 'a'; write a list of views"),
        ("if_locked", "maybe", r"if_locked can't be 'maybe'; write one of skip, wait, fail"),
        ("if_locked", ["fail"], r"if_locked can't be \['fail'\]; write one of"),
        ("wait_for", -1, r"wait_for can't be -1; '-1' is not a duration"),
        ("max_lag", -1, r"max_lag can't be -1; write a number of bars"),
        ("max_lag", True, r"max_lag can't be True; write a number of bars"),
        ("drift", "weekly", r"drift can't be 'weekly'; 'weekly' is not a duration"),
        ("consistency", "all", r"consistency can't be 'all'; write a number of entities"),
        ("max_lag", 1.5, r"max_lag can't be 1.5; write a number of bars"),
        ("metrics_file", ["x"], r"metrics_file can't be \['x'\]; write a file's name"),
        ("heartbeat_url", "secret", r"heartbeat_url can't be what it is; the heartbeat is not a URL"),
        ("heartbeat_url", {"secret": 1}, r"heartbeat_url can't be what it is; the heartbeat is not a URL"),
    ],
)
def test_a_setting_that_cannot_be_used_is_named_with_what_would_do(setting: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=f"/repo/feature_store.yaml: pipeline.{message}") as raised:
        read(**{setting: value})
    assert "secret" not in str(raised.value)


def test_steps_are_done_in_their_own_order() -> None:
    assert steps(("check", "ingest", "check")) == (StepName.INGEST, StepName.CHECK)
    assert steps(()) == ()
    with pytest.raises(UsageError, match="step 'all' not found; steps: ingest, compute, materialize, check"):
        steps(("ingest", "all"))


# The check


def fresh(**given: Any) -> Freshness:
    clocks = dict.fromkeys(("source", "computed", "materialized", "served"))
    counts = dict.fromkeys(("behind", "stale", "missing"), 0)
    lag = {"lag_seconds": 0.0, "lag_bars": 0, "worst": "BTCUSDT_1h"}
    return Freshness(**{"view": "v", "timeframe": "1h", "entities": 3, **clocks, **counts, **lag, **given})


def test_what_is_missing_behind_or_late_is_a_finding() -> None:
    assert findings_of([fresh(), fresh(stale=3)], 0) == []
    assert findings_of([fresh(behind=1, lag_bars=2)], None) == ["v 1h: 1 of 3 entities are behind their source"]
    assert findings_of([fresh(behind=2, missing=2)], None) == ["v 1h: 2 of 3 entities are not online"]
    assert findings_of([fresh(behind=3, missing=2, timeframe="")], None) == [
        "v: 2 of 3 entities are not online",
        "v: 1 of 3 entities are behind their source",
    ]
    assert findings_of([fresh(lag_bars=2), fresh(lag_bars=3)], 2) == ["v 1h: BTCUSDT_1h lags by 3 bars, more than 2"]
    assert findings_of([fresh(lag_bars=1)], 0) == ["v 1h: BTCUSDT_1h lags by 1 bars, more than 0"]
    assert findings_of([fresh(lag_bars=None, missing=1, behind=1)], 0) == ["v 1h: 1 of 3 entities are not online"]


def test_entities_are_asked_for_by_an_id_if_they_have_one() -> None:
    assert _entity_of(("symbol", "timeframe"), fresh()) == "BTCUSDT_1h"
    assert _entity_of(("timeframe", "symbol"), fresh(worst="A_B_1h")) == "A_B_1h"
    assert _entity_of(("symbol",), fresh(worst="BTCUSDT", timeframe="")) == "BTCUSDT"
    assert _entity_of(("symbol",), fresh(worst="BTC USDT", timeframe="")) is None
    assert _entity_of(("timeframe",), fresh(worst="1h")) is None
    assert _entity_of(("sensor",), fresh(worst="7", timeframe="")) is None
    assert _entity_of(("symbol",), fresh(worst=None)) is None


# What a run comes to

FAULT, HELD, SKIPPED = DefinitionError("odd"), LockHeld("held"), Skipped("left")
INGEST, COMPUTE, MATERIALIZE, CHECK = STEPS


@pytest.mark.parametrize(
    ("errors", "chosen", "kind", "message"),
    [
        ({}, STEPS, type(None), None),
        ({INGEST: SKIPPED}, STEPS, type(None), None),
        ({COMPUTE: FAULT}, STEPS, PartlyDone, "compute: odd"),
        ({COMPUTE: FAULT}, (COMPUTE,), DefinitionError, "odd"),
        ({INGEST: InputFileError("bad"), COMPUTE: FAULT}, STEPS, PartlyDone, "ingest: bad; compute: odd"),
        ({INGEST: PartlyDone("some")}, (INGEST,), PartlyDone, "ingest: some"),
        ({CHECK: FAULT}, STEPS, PartlyDone, "check: odd"),
        ({CHECK: FAULT}, (CHECK,), DefinitionError, "odd"),
        ({COMPUTE: HELD}, STEPS, LockHeld, "compute: held"),
        ({COMPUTE: HELD, MATERIALIZE: SKIPPED}, STEPS, LockHeld, "compute: held"),
        ({COMPUTE: HELD, MATERIALIZE: FAULT}, (COMPUTE, MATERIALIZE), LockHeld, "held"),
    ],
)
def test_the_worst_of_its_steps_is_what_a_run_comes_to(
    errors: dict[StepName, FeaturectlError], chosen: tuple[StepName, ...], kind: type, message: str | None
) -> None:
    failure = failure_of(Done(chosen, errors=errors))
    assert type(failure) is kind and (failure is None or str(failure) == message)
    with_findings = failure_of(Done(chosen, errors=errors, findings=["late", "behind"]))
    if failure is None:
        assert isinstance(with_findings, Findings) and str(with_findings) == "late; behind"
    else:
        assert type(with_findings) is kind
