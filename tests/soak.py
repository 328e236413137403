"""The soak: bars arrive, a clock advances, and `featurectl run` starts at every beat, as cron would have it."""

from __future__ import annotations

import os
import subprocess
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from statistics import mean

from featurectl.core.catalog import read_catalog
from featurectl.core.freshness import read_freshness
from tests.fix_repository import SCRIPT, Repo

START = datetime(2024, 5, 1, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
SYMBOLS = ("BTCUSDT", "ETHUSDT", "SOLUSDT")
SESSIONS = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"


@dataclass
class Soaked:
    """What was seen at each beat: lag in bars, and sessions of the database; of each run its seconds and its MB."""

    lags: list[int] = field(default_factory=list)
    sessions: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)
    codes: list[int] = field(default_factory=list)

    @property
    def growth(self) -> float:
        """How much more memory the last quarter of the runs took than the first, as a share."""
        quarter = max(1, len(self.memory) // 4)
        return mean(self.memory[-quarter:]) / mean(self.memory[:quarter]) - 1


def soak(repo: Repo, beats: int, *, every: float = 1.0, history: int = 300) -> Soaked:
    """Let so many minutes of the market pass, one every so many seconds; a bar of each symbol closes in each."""
    seen = Soaked()
    put(repo, "history", START - history * MINUTE, history)
    start(repo, START).wait()
    running: list[tuple[subprocess.Popen[bytes], float]] = []
    for beat in range(1, beats + 1):
        began = time.monotonic()
        now = START + beat * MINUTE
        put(repo, f"{beat:05}", now - MINUTE, 1)
        running.append((start(repo, now + timedelta(seconds=5)), began))
        while time.monotonic() - began < every:
            running = [one for one in running if not ended(seen, *one)]
            time.sleep(0.01)
        with repo.connect() as connection:
            found = read_freshness(connection, read_catalog(connection, "market"), now=now + timedelta(seconds=5)).views
        seen.lags.append(max(one.lag_bars or 0 for one in found if one.timeframe == "1m"))
        seen.sessions.append(int(repo.rows(SESSIONS)[0][0]))
    while running:
        running = [one for one in running if not ended(seen, *one)]
        time.sleep(0.01)
    return seen


def put(repo: Repo, name: str, first: datetime, bars: int) -> None:
    """Have bars of all symbols arrive in the inbox, whole at once, as a download that is moved there."""
    for number, symbol in enumerate(SYMBOLS):
        lines = ["open_time,open,high,low,close,volume"]
        for bar in range(bars):
            at = first + bar * MINUTE
            price = 100 + number + (at.timestamp() / 60 * 7) % 13
            lines.append(f"{at.isoformat()},{price},{price + 2},{price - 2},{price + 1},{10 + at.minute % 5}")
        hidden = repo.root / "inbox" / f".{symbol}_1m.{name}"
        hidden.parent.mkdir(exist_ok=True)
        hidden.write_text("\n".join(lines) + "\n")
        os.utime(hidden, (time.time() - 60, time.time() - 60))
        hidden.rename(hidden.with_name(f"{symbol}_1m_{name}.csv"))


def start(repo: Repo, now: datetime) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [str(SCRIPT), "run", "--if-locked", "skip", "-q"],
        cwd=repo.root,
        env=repo.environment({"FEATURECTL_NOW": now.isoformat()}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )


def ended(seen: Soaked, process: subprocess.Popen[bytes], began: float) -> bool:
    """Note what a process took, if it has ended."""
    pid, status, usage = os.wait4(process.pid, os.WNOHANG)
    if not pid:
        return False
    process.returncode = os.waitstatus_to_exitcode(status)
    seen.codes.append(process.returncode)
    seen.seconds.append(time.monotonic() - began)
    seen.memory.append(usage.ru_maxrss / 1024)
    return True
