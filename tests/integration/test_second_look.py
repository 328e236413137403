"""What a review found: cut-short bars, changed functions, bent sessions, answers about the past."""

from __future__ import annotations

import os
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from featurectl.core.config import Overrides
from featurectl.core.db import open_database
from tests.fix_repository import Repo
from tests.integration.test_first_path import candles

NOW = datetime.now(UTC).replace(minute=30, second=0, microsecond=0)
OPEN = NOW.replace(minute=0)


def clock(instant: datetime) -> dict[str, str]:
    return {"FEATURECTL_NOW": instant.isoformat()}


def write(path: Path, bars: int, *, written: datetime) -> Path:
    """Write hourly bars, the last of which opened at OPEN, as a download at ``written`` has them."""
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(candles(bars, (OPEN - timedelta(hours=bars - 1)).replace(tzinfo=None).isoformat()))
    os.utime(path, (written.timestamp(), written.timestamp()))
    return path


def ingest(repo: Repo, *words: str | Path, env: dict[str, str] | None = None) -> dict[str, int]:
    document = repo.json("ingest", "candles", *words, env=env)
    return dict(document["files"][0]["series"][0])


def test_a_bar_that_was_open_when_the_file_was_written_never_enters(repo: Repo) -> None:
    file = write(repo.root / "BTCUSDT_1h.csv", 40, written=NOW)
    assert ingest(repo, file, env=clock(NOW))["new"] == 39
    assert ingest(repo, file, env=clock(NOW + timedelta(hours=1)))["new"] == 0
    later = write(repo.root / "later" / "BTCUSDT_1h.csv", 40, written=NOW + timedelta(hours=1))
    assert ingest(repo, later, env=clock(NOW + timedelta(hours=1)))["new"] == 1


def test_a_clock_given_by_hand_says_it_all_but_not_the_future(repo: Repo) -> None:
    file = write(repo.root / "BTCUSDT_1h.csv", 40, written=NOW)
    after = OPEN + timedelta(hours=1)
    refused = repo.run("ingest", "candles", file, "--closed-before", after.isoformat(), env=clock(NOW))
    assert refused.returncode == 2
    assert "is in the future" in refused.stderr
    words = ("--closed-before", after.isoformat())
    assert ingest(repo, file, *words, env=clock(after))["new"] == 40


def test_a_file_of_nothing_but_an_open_bar_is_no_fault(repo: Repo) -> None:
    file = write(repo.root / "BTCUSDT_1h.csv", 1, written=NOW)
    done = repo.run("ingest", "candles", file, env=clock(NOW))
    assert done.returncode == 0
    assert "left out 1 bar still open" in done.stderr


@pytest.mark.parametrize("option", ["--rejects", "-o"])
def test_an_input_is_never_overwritten(repo: Repo, option: str) -> None:
    file = write(repo.root / "BTCUSDT_1h.csv", 40, written=NOW)
    before = file.read_bytes()
    done = repo.run("ingest", "candles", file, option, repo.root / "." / "BTCUSDT_1h.csv")
    assert done.returncode == 2
    assert "would be overwritten" in done.stderr
    assert file.read_bytes() == before


def test_a_handful_of_late_bars_may_stand_apart(repo: Repo) -> None:
    lines = candles(60).splitlines()
    patch = b"\n".join([lines[0], lines[3], lines[8]])
    done = repo.json("ingest", "candles", "-", "--symbol", "BTCUSDT", "--timeframe", "1h", input=patch)
    assert done["files"][0]["series"][0]["new"] == 2
    every_fifth = b"\n".join([lines[0], *lines[1::5]])
    refused = repo.run("ingest", "candles", "-", "--symbol", "BTCUSDT", "--timeframe", "1h", input=every_fifth)
    assert "apart, not 1h" in refused.stderr


def test_a_changed_function_recomputes_the_whole_history_once(repo: Repo) -> None:
    repo.ok("ingest", "candles", "-", "--symbol", "BTCUSDT", "--timeframe", "1h", input=candles())
    repo.ok("compute")
    before = repo.rows("SELECT event_timestamp, rsi_14, macd FROM features.technical_indicators ORDER BY 1")
    file = repo.root / "feature_repo" / "indicators.py"
    text = file.read_text()
    file.write_text(text.replace("talib.RSI(close, timeperiod=14)", "talib.RSI(close, timeperiod=5)"))
    assert repo.json("compute", "--end", "2024-01-02")["series"][0]["stale_rows"] == 24
    assert repo.json("compute")["series"][0]["stale_rows"] == 60
    assert repo.json("compute")["series"][0]["stale_rows"] == 0
    after = repo.rows("SELECT event_timestamp, rsi_14, macd FROM features.technical_indicators ORDER BY 1")
    assert [row[2] for row in after] == [row[2] for row in before]
    assert sum(row[1] is not None for row in after) == 60 - 5
    file.write_text(text + "\n# A comment changes nothing.\n")
    repo.ok("compute")
    file.write_text(text)
    assert repo.json("compute")["series"][0]["stale_rows"] == 0
    assert repo.rows("SELECT event_timestamp, rsi_14, macd FROM features.technical_indicators ORDER BY 1") == before


def test_functions_may_import_modules_beside_them(repo: Repo) -> None:
    (repo.root / "feature_repo" / "periods.py").write_text("RSI = 14\n")
    file = repo.root / "feature_repo" / "indicators.py"
    text = file.read_text().replace("timeperiod=14", "timeperiod=RSI", 1)
    file.write_text(text.replace("import talib\n", "import talib\n\nfrom feature_repo.periods import RSI\n"))
    repo.ok("ingest", "candles", "-", "--symbol", "BTCUSDT", "--timeframe", "1h", input=candles())
    assert repo.json("compute")["series"][0]["inserted"] == 60


def test_the_past_is_answered_from_history_where_nothing_online_fits(repo: Repo) -> None:
    repo.ok("ingest", "candles", "-", "--symbol", "BTCUSDT", "--timeframe", "1h", input=candles())
    repo.ok("compute")
    words = ("get-online", "BTCUSDT_1h", "-f", "rsi_14", "--as-of", "2024-01-03T12:30:00Z")
    never = repo.json(*words)["results"][0]
    repo.ok("materialize", "2024-01-01", "2024-01-02")
    older = repo.json(*words)["results"][0]
    repo.ok("materialize")
    online = repo.json(*words)["results"][0]
    assert never["features"] == older["features"] == online["features"]
    assert never["statuses"]["rsi_14"] == "PRESENT"
    sources = [one["views"]["technical_indicators_view"]["source"] for one in (never, older, online)]
    assert sources == ["timescaledb", "timescaledb", "online"]


def test_sessions_are_in_utc_whatever_environment_and_database_say(repo: Repo) -> None:
    repo.ok("ingest", "candles", "-", "--symbol", "BTCUSDT", "--timeframe", "1h", input=candles())
    repo.ok("compute")
    repo.ok("materialize")
    words = ("get-online", "BTCUSDT_1h", "--as-of", "2024-01-03T12:30:00Z", "--json")
    plain = repo.ok(*words)
    with repo.connect() as connection:
        name = connection.info.dbname
        for setting in ("timezone = 'America/New_York'", "datestyle = 'German'", "extra_float_digits = 0"):
            connection.execute(f"ALTER DATABASE {name} SET {setting}".encode())
        connection.execute(f"ALTER DATABASE {name} SET statement_timeout = '1ms'".encode())
    bent = {"PGTZ": "Asia/Kolkata", "PGDATESTYLE": "German", "PGHOSTADDR": "127.0.0.1", "PGSERVICE": "none"}
    assert repo.ok(*words, env=bent) == plain
    # What is bent is bent back where a process begins.
    offline = ("get-offline", "BTCUSDT_1h", "--start", "2024-01-01", "--end", "now", "-o", "train.csv")
    for words in (("compute", "--full"), offline):
        assert repo.run(*words, env=bent).returncode == 0


def test_a_connection_is_in_utc_also_in_a_process_that_sets_pgtz(repo: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGTZ", "America/New_York")
    monkeypatch.setenv("PGDATESTYLE", "German")
    with repo.database.connect(read_only=True) as connection:
        row = connection.execute("SELECT current_setting('TimeZone'), current_setting('DateStyle')").fetchone()
    assert row is not None
    assert (row[0], row[1].partition(",")[0]) == ("UTC", "ISO")


def test_a_file_written_over_keeps_its_mode(repo: Repo) -> None:
    target = repo.root / "views.json"
    target.write_text("old")
    target.chmod(0o600)
    repo.ok("views", "-o", target)
    assert target.stat().st_mode & 0o777 == 0o600
    assert target.read_text() != "old"


def test_common_options_stand_before_the_command_or_after_it(repo: Repo, tmp_path: Path) -> None:
    shutil.copytree(repo.root, tmp_path / "elsewhere")
    before = repo.run("-q", "-C", tmp_path / "elsewhere", "--timeout", "5", "views")
    after = repo.run("views", "-q", "-C", tmp_path / "elsewhere", "--timeout", "5")
    assert (before.returncode, before.stderr) == (after.returncode, after.stderr) == (0, "")
    assert before.stdout == after.stdout


def test_a_timeout_of_0_is_no_limit(repo: Repo) -> None:
    assert "0: no limit" in " ".join(repo.ok("views", "--help").split())
    for seconds, shown in ((0, "0"), (5, "5s")):
        database = open_database(Overrides(repo=repo.root, database_url=repo.url, timeout=seconds))
        with database.connect(read_only=True) as connection:
            assert connection.execute("SHOW statement_timeout").fetchall() == [(shown,)]


def test_3d_bars_of_two_vendors_do_not_overlap(repo: Repo) -> None:
    def bars(first: int) -> bytes:
        days = [datetime(2024, 1, first) + timedelta(days=3 * index) for index in range(5)]
        return "\n".join(["open_time,open,high,low,close,volume", *(f"{day},1,1,1,1,1" for day in days)]).encode()

    words = ("ingest", "candles", "-", "--symbol", "BTCUSDT", "--timeframe", "3d")
    repo.ok(*words, input=bars(1))
    repo.ok(*words, input=bars(4))
    refused = repo.run(*words, input=bars(2))
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "3d bars open on 2024-01-02T00:00:00Z, those in the database on 2024-01-01T00:00:00Z" in refused.stderr
    assert repo.rows("SELECT count(*) FROM market.candles") == [(6,)]
