"""`featurectl check` as a command, as a step of `run`, and as the manager gives it."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import math
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
import yaml

from featurectl.core.backfill import Plan, with_functions
from featurectl.core.catalog import read_catalog
from featurectl.core.times import Window
from featurectl.errors import DefinitionError, NotFound, UsageError
from featurectl.manager import FeastFeatureStoreManager
from featurectl.plugin import apply as steps
from tests.fix_command import Command, Ended
from tests.fix_repository import Repo
from tests.market import HOUR, START, TECHNICAL, VIEW

NOW = START + 120 * HOUR
SERIES = "BTCUSDT_1h"


@pytest.fixture
def check(repo: Repo, command: Command, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ended]:
    """The command, in a market of 120 clean bars whose features are computed and online."""
    monkeypatch.setenv("FEATURECTL_NOW", NOW.isoformat())
    lines = ["open_time,open,high,low,close,volume"]
    for number in range(120):
        price, spread = 100 + math.sin(number), 1.5 + 0.3 * math.sin(2 * number)
        prices = f"{price},{price + spread},{price - spread},{price + 0.5}"
        lines.append(f"{(START + number * HOUR).isoformat()},{prices},{10 + number % 7}")
    file = repo.root / "inbox" / f"{SERIES}.csv"
    file.write_text("\n".join(lines) + "\n")
    configure(repo, pipeline={"settle": "0s"})
    command("run", code=0)
    return lambda *words, **options: command("check", *words, **options)


def configure(repo: Repo, **sections: Any) -> None:
    path = repo.root / "feature_store.yaml"
    document = yaml.safe_load(path.read_text())
    document["featurectl"].update(sections)
    path.write_text(yaml.safe_dump(document))


def damage(repo: Repo, *numbers: int, change: str = "rsi_14 = 150 + extract(hour FROM event_timestamp)") -> None:
    with repo.connect() as connection:
        for number in numbers:
            statement = f"UPDATE {TECHNICAL} SET {change} WHERE event_timestamp = %s"
            connection.execute(statement.encode(), [START + number * HOUR])


def flatten(repo: Repo) -> None:
    """Let the price stand still for 20 bars."""
    with repo.connect() as connection:
        connection.execute(
            "UPDATE market.candles SET open = 100, high = 100, low = 100, close = 100 WHERE open_time >= %s",
            [START + 100 * HOUR],
        )


# --- what it prints, and how it ends ---------------------------------------------------------------------------------


def test_clean_data_is_exit_code_zero(check: Callable[..., Ended]) -> None:
    done = check(code=0)
    assert (done.err, done.document["findings"], done.document["failed"]) == ("", 0, False)
    assert done.document["window"] == {"start": None, "end": None} and "rows" not in done.document
    outcomes = done.document["outcomes"]
    assert {one["view"] for one in outcomes} == {
        "market.candles",
        VIEW,
        "market_features_view",
        "sentiment_features_view",
    }
    table = check("--format", "table", "--fail-on", "warn", code=0).out.splitlines()
    assert " ".join(table[0].split()) == "verdict target rule rows offending share limit worst entity first last"
    assert len([line for line in table if line.startswith("ok ")]) == len([one for one in outcomes if one["rows"]])
    assert "market_features_view: no rows" in table


def test_an_error_is_exit_code_one(repo: Repo, check: Callable[..., Ended]) -> None:
    damage(repo, 50, 60)
    done = check("--rows", "1", code=1)
    (found,) = [one for one in done.document["outcomes"] if one["verdict"] != "ok"]
    assert found == {
        "view": VIEW,
        "feature": "rsi_14",
        "rule": "max",
        "severity": "error",
        "verdict": "fail",
        "entities": 1,
        "rows": 120,
        "offending": 2,
        "share": pytest.approx(2 / 120),
        "limit": 100.0,
        "worst": 162.0,
        "worst_entity": SERIES,
        "entities_offending": 1,
        "first": "2024-01-03T02:00:00Z",
        "last": "2024-01-03T12:00:00Z",
        "note": None,
    }
    row = {"view": VIEW, "feature": "rsi_14", "rule": "max", "severity": "error", "entity": SERIES}
    assert done.document["rows"] == [{**row, "at": "2024-01-03T12:00:00Z", "value": 162.0}]
    (line,) = done.err.splitlines()
    assert line.startswith(
        f"warning: 1 of {len(done.document['outcomes'])} checks failed: {VIEW}:rsi_14 max: 2 of 120 rows"
    )
    first, second = check("--format", "table", "--rows", "9", code=1).out.splitlines()[1:3]
    assert first.split()[:8] == ["fail", "rsi_14", "max", "120", "2", "1.67%", "100", "162"]
    assert second.startswith("ok ")


def test_warnings_fail_only_where_they_are_to(repo: Repo, check: Callable[..., Ended]) -> None:
    flatten(repo)
    done = check(code=0)
    assert (done.document["findings"], done.document["failed"]) == (1, False)
    assert done.err == f"warning: market.candles stuck_price: 20 of 120 rows, limit 12, worst 20 ({SERIES})\n"
    failed = check("--fail-on", "warn", code=1)
    assert (
        failed.document["failed"]
        and len(failed.err.splitlines()) == 1
        and " checks failed: market.candles stuck_price" in failed.err
    )


def test_files_hold_the_outcomes_or_the_rows(repo: Repo, check: Callable[..., Ended], tmp_path: Path) -> None:
    damage(repo, 50, 60)
    words = ["-f", "rsi_14,macd"]
    outcomes = list(csv.DictReader(io.StringIO(check(*words, "--format", "csv", code=1).out)))
    assert [one["rule"] for one in outcomes if one["verdict"] == "fail"] == ["max"] and len(outcomes) == 6
    check(*words, "--rows", "5", "-o", tmp_path / "rows.parquet", code=1)
    table = pq.read_table(tmp_path / "rows.parquet").to_pylist()
    assert [(one["entity"], one["at"], one["value"]) for one in table] == [
        (SERIES, START + 60 * HOUR, 162.0),
        (SERIES, START + 50 * HOUR, 152.0),
    ]


def test_what_is_looked_at_can_be_chosen(repo: Repo, check: Callable[..., Ended]) -> None:
    damage(repo, 50, 60)

    def outcomes(*words: str, code: int) -> set[tuple[str, str]]:
        return {(one["view"], one["feature"]) for one in check(*words, code=code).document["outcomes"]}

    assert outcomes("--view", "market.candles", code=0) == {("market.candles", "")}
    assert outcomes("--view", "market_features_view,market.candles", code=0) >= {("market.candles", "")}
    assert outcomes("--service", "sentiment_service", code=0) == {
        ("sentiment_features_view", name) for name in ("news_sentiment", "social_sentiment", "fear_greed_index")
    }
    assert outcomes("-f", "rsi_14", code=1) == {(VIEW, "rsi_14")}
    assert outcomes("--view", "comprehensive_features_view", "--rule", "max", code=1)
    assert outcomes("BTCUSDT", "--rule", "max", code=1) == outcomes(SERIES, "--rule", "max,max", code=1)
    assert outcomes("--start", "-24h", code=0) == outcomes("--end", "2024-01-02", code=0)
    window = check("-f", "rsi_14", "--start", "2024-01-03T02:00Z", "--end", "2024-01-03T03:00Z", code=1)
    assert window.document["outcomes"][1]["offending"] == 1
    assert window.err.splitlines()[0] == "window: 2024-01-03T02:00:00Z .. 2024-01-03T03:00:00Z"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["NOBODY_1h"], "entity 'NOBODY_1h' not found; entities: none; `featurectl ingest` brings data in"),
        (["BTC_9h"], "timeframe '9h' does not exist"),
        (["--rule", "maximum"], "rule 'maximum' not found; rules: "),
        (["--rule", ","], "holds no name"),
        (["--view", "nosuch"], "view 'nosuch' not found"),
        (["--view", VIEW, "-f", "rsi_14"], "give views, feature names or a service, and one of them only"),
        (["-f", "rsi_14", "--service", "sentiment_service"], "give feature names or a service, not both"),
        (["-f", "nosuch"], "feature 'nosuch' not found"),
        (["--rows", "-1"], "--rows"),
        (["--fail-on", "info"], "--fail-on"),
        (["--start", "now", "--end", "-1d"], "the window starts"),
        (["--start", "soon"], "'soon' is not a time"),
    ],
)
def test_words_that_mean_nothing_are_refused(repo: Repo, command: Command, words: list[str], message: str) -> None:
    done = command("check", *words, code=2)
    assert message in done.err and done.out == ""


def test_a_broken_view_is_exit_code_five_and_hides_nothing(repo: Repo, check: Callable[..., Ended]) -> None:
    damage(repo, 50)
    with repo.connect() as connection:
        connection.execute("DROP TABLE features.market_features CASCADE")
    done = check(code=5)
    (gone,) = done.document["unreadable"]
    assert gone["view"] == "market_features_view" and "run `featurectl apply`" in gone["error"]
    failed, partly = done.err.splitlines()
    assert "1 of" in failed and "rsi_14 max" in failed and "1 of 4 views can't be checked" in partly
    assert check("--view", "market_features_view", code=2).document["outcomes"] == []


def test_limits_of_candles_stand_in_the_configuration(repo: Repo, check: Callable[..., Ended]) -> None:
    flatten(repo)
    configure(repo, checks={"candles": {"stuck_price": {"limit": 3, "severity": "error"}, "gaps": "off"}})
    done = check("--view", "market.candles", code=1)
    rules = {one["rule"]: (one["verdict"], one["limit"]) for one in done.document["outcomes"]}
    assert rules["stuck_price"] == ("fail", 3) and "gaps" not in rules
    configure(repo, checks={"candles": {"stuck": 3}})
    for words in (["check"], ["run"]):
        assert "featurectl.checks.candles has no rule 'stuck'" in repo.call(*words).stderr


def test_nothing_declared_is_said(repo: Repo, check: Callable[..., Ended]) -> None:
    with repo.connect() as connection:
        connection.execute("UPDATE featurectl.catalog_fields SET tags = '{}'")
    done = check("-f", "rsi_14", "--format", "table", code=0)
    assert done.out.splitlines() == ["there is nothing to check", f"{VIEW}: declares nothing of this"]


# --- definitions -----------------------------------------------------------------------------------------------------


def test_a_tag_that_can_not_be_read_is_found_by_plan_for_computed_views(repo: Repo) -> None:
    path = repo.root / "feature_repo" / "technical_indicators.py"
    text = path.read_text()
    path.write_text(text.replace('"max_null_share": "0.01"', '"max_null_share": "1%"'))
    with pytest.raises(
        DefinitionError, match=rf"technical_indicators\.py: view '{VIEW}': field 'rsi_14' has max_null_"
    ):
        steps.plan(repo.database)


def test_tags_of_checks_have_nothing_computed_again(repo: Repo, check: Callable[..., Ended]) -> None:
    before, plan = repo.rows("SELECT content_hash FROM featurectl.catalogs"), backfill_of(repo)
    path = repo.root / "feature_repo" / "technical_indicators.py"
    path.write_text(path.read_text().replace('"max_stuck": "12"', '"max_stuck": "24", "check": "warn"'))
    steps.apply(repo.database, now=NOW)
    assert repo.rows("SELECT content_hash FROM featurectl.catalogs") != before
    assert [one["stale_rows"] for one in repo.json("compute")["series"]] == [0]
    assert backfill_of(repo) == plan, "and what was begun is gone on with"


def backfill_of(repo: Repo) -> Plan:
    with repo.connect() as connection:
        return with_functions(read_catalog(connection, "market"), Plan(Window(START, NOW), 30 * HOUR), repo.root)


# --- a run -----------------------------------------------------------------------------------------------------------


def test_a_run_checks_its_newest_rows(
    repo: Repo, check: Callable[..., Ended], command: Command, tmp_path: Path
) -> None:
    metrics = tmp_path / "run.prom"
    configure(repo, checks={"recent_rows": 30})
    damage(repo, 50)
    done = command("run", "--step", "check", "--metrics-file", metrics, code=0)
    assert done.document["checks"]["findings"] == [] and done.document["checks"]["checked"] > 20
    damage(repo, 110, 111)
    flatten(repo)
    done = command("run", "--step", "check", "--metrics-file", metrics, code=1)
    message = f"{VIEW}:rsi_14 max: 2 of 30 rows, limit 100, worst 165 ({SERIES})"
    assert done.document["findings"] == [message]
    warning, error = done.err.splitlines()
    assert warning == f"warning: check: market.candles stuck_price: 20 of 30 rows, limit 12, worst 20 ({SERIES})"
    assert error == f"error: {message}"
    found = {(one["view"], one["rule"], one["verdict"]) for one in done.document["checks"]["findings"]}
    assert found == {(VIEW, "max", "fail"), ("market.candles", "stuck_price", "warn")}
    ((verdict, code, ledger),) = repo.rows(
        "SELECT verdict, exit_code, steps FROM featurectl.runs WHERE run_id = %s", done.document["run_id"]
    )
    assert (verdict, code) == ("findings", 1)
    names = [(one["name"], one.get("error", "")[:5]) for one in ledger if one["step"] == "check"]
    count = done.document["checks"]["checked"]
    assert names[0] == (f"{count} checks: 1 warn, 1 fail", "")
    assert set(names[1:]) == {(f"{VIEW}:rsi_14 max", "fail:"), ("market.candles stuck_price", "warn:")}
    lines = metrics.read_text().splitlines()
    labels = f'feature="rsi_14",project="market",rule="max",severity="error",view="{VIEW}"'
    assert _sample(lines, "featurectl_check_findings", labels) == 1
    assert _sample(lines, "featurectl_check_offending_rows", labels) == 2
    assert _sample(lines, "featurectl_check_findings", labels.replace('"max"', '"min"')) == 0


def _sample(lines: list[str], name: str, labels: str) -> float:
    """Return the value of a metric with these labels, in whatever order they stand."""
    wanted = set(labels.split(","))
    (value,) = [
        float(line.rpartition(" ")[2])
        for line in lines
        if line.startswith(f"{name}{{") and set(line[len(name) + 1 : line.index("}")].split(",")) == wanted
    ]
    return value


def test_a_dry_run_checks_what_it_would_keep(repo: Repo, check: Callable[..., Ended], command: Command) -> None:
    damage(repo, 110)
    done = command("run", "--dry-run", code=1)
    assert "rsi_14 max: 1 of" in done.err
    assert json.loads(done.out)["checks"]["findings"][0]["rule"] == "max"


def test_a_run_names_a_broken_view_once(repo: Repo, check: Callable[..., Ended], command: Command) -> None:
    with repo.connect() as connection:
        connection.execute("DROP TABLE features.market_features CASCADE")
    done = command("run", "--step", "check", code=1)
    assert len([one for one in done.document["findings"] if one.startswith("market_features_view: ")]) == 1


# --- the manager -----------------------------------------------------------------------------------------------------


def test_the_manager_gives_a_row_for_each_rule(repo: Repo, check: Callable[..., Ended]) -> None:
    damage(repo, 50, 60)

    def frame(*words: Any, **options: Any) -> pd.DataFrame:
        async def main() -> pd.DataFrame:
            async with FeastFeatureStoreManager(repo.root, database_url=repo.url, clock=lambda: NOW) as manager:
                return await manager.check_features(*words, **options)

        return asyncio.run(main())

    every = frame(rows=1)
    assert list(every.columns) == list(check(code=1).document["outcomes"][0])
    (bad,) = every[every.verdict != "ok"].to_dict("records")
    assert (bad["feature"], bad["rule"], bad["offending"], bad["verdict"]) == ("rsi_14", "max", 2, "fail")
    assert bad["last"] == pd.Timestamp(START + timedelta(hours=60)) and str(every.dtypes["rows"]) == "int64"
    (row,) = every.attrs["offences"]
    assert (row["entity"], row["at"], row["value"]) == (SERIES, START + 60 * HOUR, 162.0)
    assert (every.attrs["unreadable"], every.attrs["degraded"]) == ({}, None)
    some = frame(["rsi_14"], entity_ids=[SERIES], start_date=START + 55 * HOUR, end_date="now", rules=["max", "min"])
    assert some["offending"].tolist() == [0, 1]
    assert some.attrs["window"] == {"start": "2024-01-03T07:00:00Z", "end": "2024-01-06T00:00:00Z"}
    assert set(frame(feature_service_name="sentiment_service")["view"]) == {"sentiment_features_view"}
    with pytest.raises(UsageError, match="rows is -1; give a whole number of 0 or more"):
        frame(rows=-1)
    with pytest.raises(NotFound, match="rule 'nosuch' not found"):
        frame(rules=["nosuch"])


def test_statistics_say_what_checks_find(repo: Repo, check: Callable[..., Ended]) -> None:
    damage(repo, 50, 60)

    def frame(**options: Any) -> pd.DataFrame:
        async def main() -> pd.DataFrame:
            async with FeastFeatureStoreManager(repo.root, database_url=repo.url, clock=lambda: NOW) as manager:
                return await manager.get_feature_statistics(**options)

        return asyncio.run(main())

    plain, found = frame(), frame(checks=True)
    assert list(found.columns) == [*plain.columns, "check", "findings"]
    rows = found.set_index(["view", "feature"])
    assert tuple(rows.loc[(VIEW, "rsi_14"), ["check", "findings"]]) == (
        "fail",
        f"{VIEW}:rsi_14 max: 2 of 120 rows, limit 100, worst 162 ({SERIES})",
    )
    assert tuple(rows.loc[(VIEW, "macd"), ["check", "findings"]]) == ("ok", None)
    early = frame(feature_names=["rsi_14"], entity_ids=[SERIES], end_date=START + 40 * HOUR, checks=True)
    assert early[["check", "findings"]].to_numpy().tolist() == [["ok", None]]
    for options, message in (
        ({"checks": True, "by": "entity"}, "checks are of all entities together; leave out by='entity', or checks"),
        ({"checks": 1}, "checks is 1; give True or False"),
    ):
        with pytest.raises(UsageError, match=message):
            frame(**options)
