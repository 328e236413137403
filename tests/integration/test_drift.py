"""`stats`, `baseline` and `drift` on a database: what is planted is found, what is clean is not, and profiles last."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from featurectl.core.entity import parse_entity_id
from featurectl.core.times import Window, iso
from featurectl.errors import UsageError
from featurectl.manager import FeastFeatureStoreManager
from featurectl.statistics import Chosen, DriftAsked, drift, save_profile, statistics
from tests.fix_repository import DATA, Repo, needs_data
from tests.market import FEATURES, HOUR, START, TECHNICAL, VIEW

SEED = 7
SYMBOLS = ("AAA", "BBB")
DAYS = 120
SPLIT = START + 90 * 24 * HOUR
END = START + DAYS * 24 * HOUR
NOW = END + HOUR
REFERENCE, CURRENT = Window(START, SPLIT - HOUR), Window(SPLIT, END)
SPANS = ["--reference", START.isoformat(), (SPLIT - HOUR).isoformat(), "--current", SPLIT.isoformat(), END.isoformat()]
ENV = {"FEATURECTL_NOW": NOW.isoformat()}


@pytest.fixture
def filled(repo: Repo) -> Repo:
    """A market whose features are drawn from what does not change, but prices, which grow tenfold on the way."""
    random = np.random.default_rng(SEED)
    hours = DAYS * 24
    with repo.connect() as connection, connection.cursor() as cursor:
        for symbol in SYMBOLS:
            close = 100 * 10 ** (np.arange(hours) / hours) * np.exp(random.normal(0, 0.01, hours))
            share = {name: random.normal(0.02, 0.005, hours) for name in ("macd", "atr")}
            ema = close * random.normal(1, 0.01, hours)
            rest = random.normal(50, 10, hours), random.normal(0.5, 0.3, hours), random.lognormal(0, 0.5, hours)
            with cursor.copy(
                "COPY market.candles (symbol, timeframe, open_time, open, high, low, close, volume) FROM STDIN"
            ) as copy:
                for index, price in enumerate(close):
                    copy.write_row((symbol, "1h", START + (index - 1) * HOUR, price, price, price, price, 1))
            with cursor.copy(
                f"COPY {TECHNICAL} (symbol, timeframe, event_timestamp, {', '.join(FEATURES)}) FROM STDIN".encode()
            ) as copy:
                values = [rest[0], share["macd"] * close, ema, rest[1], share["atr"] * close, rest[2]]
                for index, row in enumerate(zip(*values, strict=True)):
                    copy.write_row((symbol, "1h", START + index * HOUR, *map(float, row)))
    return repo


def document(repo: Repo, *words: str, code: int = 0) -> dict[str, Any]:
    done = repo.call(*words, "--json", env=ENV)
    assert done.returncode == code, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def verdicts(found: dict[str, Any]) -> dict[tuple[str, str | None], str]:
    return {(one["feature"], one["entity"]): one["verdict"] for one in found["drift"]}


def test_clean_windows_raise_nothing_although_prices_grow(filled: Repo) -> None:
    found = document(filled, "drift", *SPANS)
    assert {key: verdict for key, verdict in verdicts(found).items() if verdict in ("warn", "fail")} == {}
    technical = [one for one in found["drift"] if one["view"] == VIEW]
    assert len(technical) == 18 and {one["verdict"] for one in technical} == {"ok"}
    assert {one["feature"] for one in technical if one["scale"] == "price"} == {"macd", "ema_20", "atr"}
    # As they are, in units of price, they would be other distributions altogether.
    raw = [statistics(filled.database, Chosen(("atr",)), window, now=NOW)[0].p50 for window in (REFERENCE, CURRENT)]
    assert raw[1] > 3 * raw[0]


PLANTED = {
    "rsi_14": ("rsi_14 + 15", "median +1", timedelta(days=10)),
    "bollinger_bands_position": ("0.5 + (bollinger_bands_position - 0.5) * 3", "wider: spread x", timedelta(days=20)),
    "atr": ("atr * 2", "median +", timedelta(0)),
    "volume_sma_ratio": ("CASE WHEN random() < 0.5 THEN volume_sma_ratio END", "nulls 0.0% ->", timedelta(days=5)),
    "macd": ("0.02 * (SELECT close FROM market.candles AS c WHERE c.symbol = f.symbol AND c.open_time ="
             " f.event_timestamp - interval '1 hour')", "constant", timedelta(0)),
}  # fmt: skip


def test_what_is_planted_is_found_with_the_day_it_began(filled: Repo) -> None:
    """In one of two entities, each feature in its own way; the other entity stays well."""
    with filled.connect() as connection:
        for feature, (expression, _, after) in PLANTED.items():
            connection.execute(
                f"UPDATE {TECHNICAL} AS f SET {feature} = {expression}"
                " WHERE symbol = 'AAA' AND event_timestamp >= %s".encode(),
                (SPLIT + after,),
            )
    found = document(filled, "drift", *SPANS, "--view", VIEW, code=1)
    ours = {one["feature"]: one for one in found["drift"] if one["entity"] == "AAA_1h"}
    for feature, (_, because, after) in PLANTED.items():
        assert ours[feature]["verdict"] == "fail", ours[feature]
        assert because in ours[feature]["reason"], ours[feature]["reason"]
        began = date.fromisoformat(ours[feature]["began"])
        assert abs(began - (SPLIT + after).date()) <= timedelta(days=1), feature
    assert ours["ema_20"]["verdict"] == "ok"
    assert {one["verdict"] for one in found["drift"] if one["entity"] == "BBB_1h"} == {"ok"}
    shown = filled.call("drift", *SPANS, "--view", VIEW, "--format", "table", env=ENV)
    first = shown.stdout.splitlines()[1].split()
    assert (first[0], first[1], first[2]) == ("fail", "macd*", "AAA_1h")  # the top mover
    assert "drift in 5 features: " in shown.stderr and shown.returncode == 1
    counts = Counter(one["verdict"] for one in found["drift"])
    assert found["verdicts"] == {verdict: counts[verdict] for verdict in ("fail", "warn", "insufficient data", "ok")}
    assert f"{counts['fail']} fail, {counts['warn']} warn, " in shown.stdout
    assert document(filled, "drift", *SPANS, "-f", "rsi_14", "--entity", "BBB_1h")["drift"][0]["verdict"] == "ok"
    mild = ["drift", *SPANS, "-f", "rsi_14", "--entity", "AAA_1h", "--psi", "0.01", "99"]
    assert filled.call(*mild, env=ENV).returncode == 0
    assert filled.call(*mild, "--fail-on", "warn", env=ENV).returncode == 1


def test_a_saved_profile_says_what_its_window_does(filled: Repo) -> None:
    """Drift from a baseline is to the last digit that from the raw rows, which may be gone by then."""
    wanted = drift(filled.database, DriftAsked(Chosen(views=(VIEW,)), CURRENT, REFERENCE))
    document(filled, "stats", "--start", START.isoformat(), "--end", (SPLIT - HOUR).isoformat(), "--save", "spring")
    listed = document(filled, "baseline", "set", "spring")["profiles"]
    assert [(one["name"], one["is_baseline"], one["entities"]) for one in listed] == [("spring", True, 2)]
    figures = statistics(filled.database, Chosen(), REFERENCE, now=NOW)
    shown = document(filled, "baseline", "show", "spring")["statistics"]
    pooled = {one["feature"]: one for one in shown if one["entity"] is None}
    assert {one["timeframe"] for one in pooled.values()} == {"1h"}
    assert {name: one["p99"] for name, one in pooled.items()} == {one.feature: one.p99 for one in figures if one.rows}
    with filled.connect() as connection:
        connection.execute(f"DELETE FROM {TECHNICAL} WHERE event_timestamp < %s".encode(), (SPLIT,))
    found = drift(filled.database, DriftAsked(Chosen(views=(VIEW,)), CURRENT))
    assert (found.baseline, found.reference) == ("spring", REFERENCE)
    assert found.drifts == wanted.drifts
    named = drift(filled.database, DriftAsked(Chosen(views=(VIEW,)), CURRENT, baseline="spring"))
    assert named.drifts == wanted.drifts
    some = drift(filled.database, DriftAsked(Chosen(("rsi_14",), entities=[parse_entity_id("AAA_1h")]), CURRENT))
    by_entity = {one.entity: one for one in some.drifts}
    assert by_entity["AAA_1h"] in wanted.drifts
    assert by_entity["*_1h"].reason == "not in the reference"  # which is of both entities


def test_profiles_are_replaced_listed_and_dropped(filled: Repo) -> None:
    for name, start in (("old", START), ("new", START + 24 * HOUR), ("old", START + 48 * HOUR)):
        save_profile(filled.database, Chosen(views=(VIEW,)), Window(start, SPLIT), name, now=NOW)
    listed = {one["name"]: one for one in document(filled, "baseline", "list")["profiles"]}
    assert {name: one["start"] for name, one in listed.items()} == {
        "old": "2024-01-03T00:00:00Z",
        "new": "2024-01-02T00:00:00Z",
    }
    for name in ("old", "new"):
        document(filled, "baseline", "set", name)
        shown = document(filled, "baseline", "list")["profiles"]
        assert [one["name"] for one in shown if one["is_baseline"]] == [name]
    assert "there is no baseline now" in filled.call("baseline", "drop", "new", env=ENV).stderr
    document(filled, "baseline", "drop", "old")
    assert document(filled, "baseline", "list")["profiles"] == []
    assert filled.rows("SELECT count(*) FROM featurectl.profile_features") == [(0,)]
    taken = document(filled, "baseline", "set", "now", "--start", "-30d", "--view", VIEW)["profiles"]
    assert taken[0]["is_baseline"] and taken[0]["features"] == 6


def test_the_manager_says_how_far_features_have_moved_from_a_baseline(filled: Repo) -> None:
    save_profile(filled.database, Chosen(), REFERENCE, "spring", now=NOW)
    report = drift(filled.database, DriftAsked(current=CURRENT, baseline="spring"))
    wanted = {(one.feature, one.entity): one for one in report.drifts}

    async def frames() -> list[pd.DataFrame]:
        async with FeastFeatureStoreManager(filled.root, database_url=filled.url, clock=lambda: NOW) as manager:
            asked = {"start_date": SPLIT, "end_date": END, "baseline": "spring"}
            with pytest.raises(UsageError, match="a baseline has no figures by day"):
                await manager.get_feature_statistics(**asked, by="day")
            return [await manager.get_feature_statistics(**asked, by=by) for by in (None, "timeframe", "entity")]

    for frame in asyncio.run(frames()):
        technical = frame[frame["view"] == VIEW]
        assert len(technical) in (6, 12)
        for row in technical.itertuples():
            one = wanted[row.feature, row.entity or "*_1h"]
            assert (row.drift, row.psi, row.chance, row.began) == (str(one.verdict), one.psi, one.chance, one.began)


def test_timeframes_are_never_mixed(filled: Repo) -> None:
    """New bars of another timeframe, whose features are others, are no drift of those that were there."""
    with filled.connect() as connection:
        connection.execute(
            f"INSERT INTO {TECHNICAL} (symbol, timeframe, event_timestamp, rsi_14) SELECT symbol, '4h',"
            f" event_timestamp, 5 FROM {TECHNICAL} WHERE event_timestamp >= %s".encode(),
            (SPLIT,),
        )
    found = document(filled, "drift", *SPANS, "-f", "rsi_14")
    assert {entity: verdict for (_, entity), verdict in verdicts(found).items()} == {
        **dict.fromkeys(["*_1h", "AAA_1h", "BBB_1h"], "ok"),
        **dict.fromkeys(["*_4h", "AAA_4h", "BBB_4h"], "insufficient data"),
    }


def test_a_run_compares_where_it_is_told_to(filled: Repo, tmp_path: Path) -> None:
    """What fails is a finding, with exit code 1; the ledger and the metrics say what was looked at."""
    settings = filled.root / "feature_store.yaml"
    settings.write_text(settings.read_text().replace("  pipeline:\n", "  pipeline:\n    drift: 30d\n", 1))
    save_profile(filled.database, Chosen(views=(VIEW,)), REFERENCE, "spring", now=NOW)
    document(filled, "baseline", "set", "spring")
    words = ["run", "--step", "check", "--metrics-file", str(tmp_path / "m.prom")]
    first = filled.call(*words, env=ENV)
    assert "has drifted" not in first.stderr, first.stderr
    assert steps(filled).get("drift") == ["18 features and entities: 0 warn, 0 fail"]
    with filled.connect() as connection:
        connection.execute(
            f"UPDATE {TECHNICAL} SET rsi_14 = rsi_14 + 15, volume_sma_ratio = volume_sma_ratio + 0.25"
            " WHERE symbol = 'AAA' AND event_timestamp >= %s".encode(),
            (SPLIT,),
        )
    done = filled.call(*words, env=ENV)
    assert done.returncode == 1
    assert f"{VIEW}:rsi_14 of AAA_1h has drifted: PSI " in done.stderr and "since 2024-03-31" in done.stderr
    assert f"{VIEW}:volume_sma_ratio of AAA_1h" in done.stderr
    assert f"{VIEW}:rsi_14 of AAA_1h" in steps(filled)["drift"]
    metrics = (tmp_path / "m.prom").read_text()
    assert f'featurectl_drift_verdicts{{feature="atr",project="market",verdict="ok",view="{VIEW}"}} 3.0' in metrics
    assert f'featurectl_drift_psi{{entity="*_1h",feature="rsi_14",project="market",view="{VIEW}"}}' in metrics
    dry = filled.call("run", "--step", "check", "--dry-run", env=ENV)
    assert dry.returncode == 1 and "rsi_14 of AAA_1h has drifted" in dry.stderr


def steps(repo: Repo) -> dict[str, list[str]]:
    """Return what the newest run's steps are called, by kind."""
    ((document,),) = repo.rows("SELECT steps FROM featurectl.runs ORDER BY number DESC LIMIT 1")
    found: dict[str, list[str]] = {}
    for step in document:
        found.setdefault(step["step"], []).append(step["name"])
    return found


REFUSED = {
    ("drift", "--baseline", "nope"): "profile 'nope' not found; profiles: none",
    ("drift", "--baseline", "a", "--reference", "-9d", "-8d"): "a reference window or a baseline, not both",
    ("drift", "--psi", "0.3", "0.2"): "--psi 0.3 0.2: give two numbers above 0, the lower one first",
    ("drift", "--nulls", "0", "nan"): "--nulls 0 nan: give two numbers above 0",
    ("drift", "--current", "now", "-7d"): "swap them",
    ("drift", "--view", "nope"): "view 'nope' not found",
    ("stats", "--view", VIEW, "-f", "atr"): "give views, feature names or a service, and one of them only",
    ("stats", "--by", "week"): "by='week' does not exist; choices: entity, day, timeframe",
    ("stats", "--save", " "): "is no name for a profile",
    ("stats", "--start", "2030-01-01", "--save", "x"): "there are no rows in the window",
    ("baseline", "set", "nope"): "profile 'nope' not found",
    ("baseline", "show", "nope"): "profile 'nope' not found",
    ("baseline", "drop", "nope"): "profile 'nope' not found",
}


def test_bad_input_is_refused_in_one_line(repo: Repo) -> None:
    for words, message in REFUSED.items():
        done = repo.call(*words, env=ENV)
        assert done.returncode == 2 and message in done.stderr, (words, done.stderr)
        assert done.stdout == ""
    assert repo.rows("SELECT count(*) FROM featurectl.profiles") == [(0,)]


def test_entities_come_and_go(filled: Repo) -> None:
    """Who is in one window only is named, and judged by neither; a view without rows says where its newest are."""
    with filled.connect() as connection:
        connection.execute(f"DELETE FROM {TECHNICAL} WHERE symbol = 'AAA' AND event_timestamp >= %s".encode(), (SPLIT,))
        connection.execute(f"DELETE FROM {TECHNICAL} WHERE symbol = 'BBB' AND event_timestamp < %s".encode(), (SPLIT,))
    found = document(filled, "drift", *SPANS, "-f", "rsi_14")["drift"]
    reasons = {one["entity"]: one["reason"] for one in found}
    assert reasons["AAA_1h"] == "no rows in the window" and reasons["BBB_1h"] == "not in the reference"
    later = ["drift", *SPANS[:3], "--current", "2025-01-01", "2025-02-01", "-f", "rsi_14"]
    reasons = {one["entity"]: one["reason"] for one in document(filled, *later)["drift"]}
    assert reasons["*_1h"] == f"no rows in the window; the newest is of {iso(END - HOUR)}"


def test_without_closes_a_price_is_not_compared(filled: Repo) -> None:
    with filled.connect() as connection:
        connection.execute("DELETE FROM market.candles WHERE open_time >= %s", (SPLIT - HOUR,))
    found = document(filled, "drift", *SPANS, "-f", "atr,rsi_14")["drift"]
    pooled = {one["feature"]: one for one in found if one["entity"] == "*_1h"}
    assert pooled["atr"]["reason"] == "the window has 0 values with a close, 100 needed"
    assert pooled["rsi_14"]["verdict"] == "ok"


def test_files_hold_every_figure(filled: Repo, tmp_path: Path) -> None:
    chosen = ["stats", "--view", VIEW, "--by", "entity"]
    wanted = document(filled, *chosen)["statistics"]
    filled.ok(*chosen, "-o", tmp_path / "s.csv", env=ENV)
    filled.ok(*chosen, "-o", tmp_path / "s.parquet", env=ENV)
    csv = pd.read_csv(tmp_path / "s.csv", float_precision="round_trip")
    parquet = pq.read_table(tmp_path / "s.parquet").to_pylist()
    for name in ("feature", "entity", "p95", "outliers", "distinct"):
        assert csv[name].tolist() == [one[name] for one in parquet] == [one[name] for one in wanted]
    assert [one["histogram"] for one in parquet] == [one["histogram"] for one in wanted]
    table = filled.ok(*chosen, "--format", "table", env=ENV).splitlines()
    assert table[0].split()[:4] == ["feature", "entity", "rows", "nulls"] and "▇" in table[1]
    filled.ok("drift", *SPANS, "-o", tmp_path / "d.csv", env=ENV)
    assert set(pd.read_csv(tmp_path / "d.csv")["verdict"]) <= {"ok", "insufficient data"}


def test_without_reference_or_baseline_the_time_before_is_the_reference(filled: Repo) -> None:
    found = document(filled, "drift", "--current", "-10d", "now", "-f", "rsi_14")
    assert found["current"]["start"] == "2024-04-20T01:00:00Z"
    assert found["reference"] == {"start": "2023-12-22T01:00:00Z", "end": "2024-04-20T00:59:59.999999Z"}
    overlapping = filled.call(
        "drift", "--reference", "-20d", "-9d", "--current", "-10d", "now", "-f", "rsi_14", env=ENV
    )
    assert "the windows overlap" in overlapping.stderr
    assert found["baseline"] is None and verdicts(found)["rsi_14", "*_1h"] == "ok"


@needs_data
def test_a_bear_market_drifts_in_volatility_and_not_in_oscillators(repo: Repo) -> None:
    """June 2022 against March 2023, five real symbols: bars were twice as long, and their positions as ever."""
    files = [DATA / "candles" / f"{symbol}USDT_1h.csv.gz" for symbol in ("BNB", "BTC", "ETH", "SOL", "XRP")]
    repo.ok("ingest", "candles", *files)
    repo.ok("compute")
    spans = ["--reference", "2022-06-01", "2022-06-30T23:00Z", "--current", "2023-03-01", "2023-03-31T23:00Z"]
    done = repo.call("drift", *spans, "--view", VIEW, "--json")
    found = verdicts(json.loads(done.stdout))
    failed = {key for key, verdict in found.items() if verdict == "fail"}
    assert done.returncode == 1
    assert {("atr", "BNBUSDT_1h"), ("atr", "ETHUSDT_1h"), ("atr", "SOLUSDT_1h")} <= failed
    calm = ("rsi_14", "bollinger_bands_position", "volume_sma_ratio")
    assert not {key for key, verdict in found.items() if key[0] in calm and verdict in ("warn", "fail")}
