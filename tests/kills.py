"""The kill drill: commands that write are killed at random moments and run again, until one comes to its end.

Beside it, on a database of its own, the same commands run undisturbed. After each stage both hold the same rows, no
lock is left, and the ledger says of every process what became of it.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from psycopg import sql

from featurectl.core.synthetic import write_market
from tests.fix_repository import SCRIPT, Repo

NOW = datetime(2024, 5, 1, 12, 0, 30, tzinfo=UTC)
# Everything that the commands write, but for ledgers and the ids in them.
TABLES = (
    "market.candles",
    "market.order_book",
    "market.trades",
    "market.signals",
    "features.technical_indicators",
    "features.market_features",
    "features.sentiment_features",
    "online.market__technical_indicators_view",
    "online.market__market_features_view",
    "online.market__sentiment_features_view",
    "featurectl.computed_series",
)
FEATURES = tuple(name for name in TABLES if name.startswith("features."))
LOCKS = """
SELECT count(*) FROM pg_locks AS l JOIN pg_database AS d ON d.oid = l.database
WHERE l.locktype = 'advisory' AND d.datname = current_database()
"""
SESSIONS = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND application_name = 'featurectl'
"""
# Seconds after a kill within which the server has noticed it.
NOTICED = 5.0


@dataclass(frozen=True)
class Stage:
    """A command line that is killed; ``inbox`` are files that are put into the inbox before it, with their places.

    One that ``begins_empty`` finds no features, also after one of its processes had come to its end: else that would
    make good what those before it have left out.
    """

    name: str
    words: tuple[str, ...]
    inbox: tuple[tuple[str, Path], ...] = ()
    begins_empty: bool = False


@dataclass
class Outcome:
    """What became of the processes: how many were killed, by stage, and by what the ledger says of them."""

    seed: int
    kills: Counter[str] = field(default_factory=Counter)
    verdicts: Counter[str] = field(default_factory=Counter)
    finished_first: int = 0
    recoveries: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


def stages(data: Path) -> list[Stage]:
    """Write a market and return the commands that bring it in, in two parts, and what follows."""
    early = write_market(data / "early", now=NOW - timedelta(days=1))
    late = write_market(data / "late", now=NOW)
    inbox = tuple((path.name, path) for path in late.series) + tuple(
        (f"{folder}/{path.name}", path)
        for folder, paths in (("order-book", late.books), ("trades", late.trades), ("signals", late.scores))
        for path in paths
    )
    window = ("--from", "2024-03-01", "--to", "2024-05-01", "--chunk", "10d")
    return [
        Stage("ingest candles", ("ingest", "candles", *map(str, early.series))),
        Stage("ingest order-book", ("ingest", "order-book", *map(str, early.books))),
        Stage("ingest trades", ("ingest", "trades", *map(str, early.trades))),
        Stage("ingest signals", ("ingest", "signals", *map(str, early.scores))),
        Stage("compute", ("compute",)),
        Stage("materialize", ("materialize",)),
        Stage("backfill", ("backfill", *window, "--resume"), begins_empty=True),
        Stage("backfill, two jobs", ("backfill", *window, "--jobs", "2", "--resume", "--force"), begins_empty=True),
        Stage("run", ("run",), inbox),
        Stage("run again", ("run",)),
    ]


class Ground:
    """Two repositories alike: one in which commands are killed, and one in which nobody disturbs them."""

    def __init__(self, disturbed: Repo, undisturbed: Repo, seed: int) -> None:
        self.disturbed, self.undisturbed = disturbed, undisturbed
        self.random = random.Random(seed)
        self.outcome = Outcome(seed)
        self._killed: dict[int, str] = {}

    def hold(self, stage: Stage, kills: int) -> None:
        """Do a stage in both; note whatever is not as it should be."""
        for repo in (self.disturbed, self.undisturbed):
            prepare(repo, stage)
        began = time.monotonic()
        self._expect(stage, *end_of(start(self.undisturbed, stage)))
        took = time.monotonic() - began
        for _ in range(kills):
            self._kill(stage, took)
        again = time.monotonic()
        self._expect(stage, *end_of(start(self.disturbed, stage)))
        self.outcome.recoveries.append(time.monotonic() - again)
        self._compare(stage)

    def _kill(self, stage: Stage, took: float) -> None:
        """Start the command and kill it at a random moment of the time it takes."""
        process = start(self.disturbed, stage)
        if self.random.random() < 0.7:
            self._await_session(process)
            time.sleep(took * self.random.uniform(0, 0.6) ** 2)
        else:
            time.sleep(took * self.random.uniform(0.2, 1.05))
        if process.poll() is None:
            process.kill()
        code, errors = end_of(process)
        if code == -signal.SIGKILL:
            self.outcome.kills[stage.name] += 1
            self._killed[process.pid] = stage.name
        else:
            self.outcome.finished_first += 1
            self._expect(stage, code, errors)
            self._compare(stage)
            prepare(self.disturbed, stage)

    def _await_session(self, process: subprocess.Popen[str]) -> None:
        """Wait until a process is at the database: before, Python is at its imports."""
        with self.disturbed.connect() as connection:
            while process.poll() is None and not connection.execute(SESSIONS.encode()).fetchone()[0]:  # type: ignore[index]
                time.sleep(0.002)

    def _expect(self, stage: Stage, code: int, errors: str) -> None:
        if code:
            self.outcome.wrong.append(f"{stage.name}: exit code {code}: {errors.strip()[-500:]}")

    def _compare(self, stage: Stage) -> None:
        for table in TABLES:
            left, right = (rows_of(repo, table) for repo in (self.disturbed, self.undisturbed))
            if left != right:
                differing = len(set(left) ^ set(right))
                self.outcome.wrong.append(f"{stage.name}: {table}: {differing} rows differ of {len(right)}")
        deadline = time.monotonic() + NOTICED
        while (left_over := self._left_over()) and time.monotonic() < deadline:
            time.sleep(0.05)
        if left_over:
            self.outcome.wrong.append(f"{stage.name}: {left_over} locks and sessions are left")

    def _left_over(self) -> int:
        return sum(int(self.disturbed.rows(statement)[0][0]) for statement in (LOCKS, SESSIONS))

    def look_at_ledger(self) -> None:
        """Hold every row of the ledger to what became of its process."""
        listed: list[dict[str, Any]] = self.disturbed.json("runs", "--since", "2024-01-01")["runs"]
        by_process = {run["pid"]: run for run in listed}
        for run in listed:
            self.outcome.verdicts[run["verdict"]] += 1
            killed = run["pid"] in self._killed
            # Who was killed after the last word had done all of it.
            allowed = {"interrupted", "done"} if killed else {"done"}
            if run["verdict"] not in allowed:
                self.outcome.wrong.append(f"run {run['run_id']} ({run['command']}): {run['verdict']}, killed: {killed}")
        if "running" in self.outcome.verdicts:
            self.outcome.wrong.append("a run that is gone is said to be running")
        if not set(self._killed) & set(by_process):
            self.outcome.wrong.append("the ledger knows of none that was killed")


def prepare(repo: Repo, stage: Stage) -> None:
    """Put a stage's files into the inbox, where they have been for long; take the features away that it is to make."""
    if stage.begins_empty:
        with repo.connect() as connection:
            connection.execute(f"TRUNCATE {', '.join(FEATURES)}, featurectl.computed_series".encode())
    for place, source in stage.inbox:
        target = repo.root / "inbox" / place
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, target)
        old = time.time() - 60
        os.utime(target, (old, old))


def start(repo: Repo, stage: Stage) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [str(SCRIPT), *stage.words, "-q"],
        cwd=repo.root,
        env=repo.environment({"FEATURECTL_NOW": NOW.isoformat()}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def end_of(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Wait for a process; return its exit code and what it said."""
    _, errors = process.communicate()
    return process.returncode, errors


def rows_of(repo: Repo, table: str) -> list[str]:
    """Return the rows of a table as text, sorted; when they were written counts, as the clock stands."""
    statement = sql.SQL("SELECT t::text FROM {} AS t ORDER BY 1").format(sql.Identifier(*table.split(".")))
    with repo.connect() as connection:
        return [row for (row,) in connection.execute(statement)]


def drill(
    disturbed: Repo, undisturbed: Repo, data: Path, *, kills: int, seed: int, only: Sequence[str] = ()
) -> Outcome:
    """Hold all stages, with so many kills in all; return what became of them."""
    ground = Ground(disturbed, undisturbed, seed)
    wanted = [stage for stage in stages(data) if not only or stage.name in only]
    for place, stage in enumerate(wanted):
        ground.hold(stage, kills * (place + 1) // len(wanted) - kills * place // len(wanted))
    ground.look_at_ledger()
    return ground.outcome
