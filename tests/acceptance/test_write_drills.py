"""What writes, killed, run eight times at once, and left without its server: nothing lost, every exit code right.

`python -m tests.bench.kills` is the first of these with two hundred kills.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from psycopg import sql

from featurectl.core import embedded
from featurectl.core.db import open_connection
from tests.fix_database import TEST_URL_VARIABLE, with_database
from tests.fix_repository import SCRIPT, Repo
from tests.kills import LOCKS, NOW, TABLES, Stage, drill, rows_of, stages, start
from tests.soak import soak

SEED = 20_240_501
AT = {"FEATURECTL_NOW": NOW.isoformat()}

# One process has them all: they take both cores.
pytestmark = pytest.mark.xdist_group("write drills")


@pytest.fixture
def other(applied_repository: tuple[Path, str], clone: Callable[[str | None], str], tmp_path: Path) -> Repo:
    """A second repository like the first."""
    shutil.copytree(applied_repository[0], tmp_path / "undisturbed" / "market")
    return Repo(tmp_path / "undisturbed" / "market", clone(applied_repository[1]))


def fill(repo: Repo, data: Path) -> None:
    """Bring candles in."""
    repo.ok(*stages(data)[0].words, env=AT)


def contents(repo: Repo) -> dict[str, list[str]]:
    return {table: rows_of(repo, table) for table in TABLES}


# --- killed ----------------------------------------------------------------------------------------------------------


def test_whatever_is_killed_is_made_good_by_running_it_again(repo: Repo, other: Repo, tmp_path: Path) -> None:
    outcome = drill(repo, other, tmp_path / "data", kills=12, seed=SEED)
    print(f"seed {outcome.seed}: {outcome.kills.total()} killed, {dict(outcome.verdicts)}")
    assert not outcome.wrong, "\n".join(outcome.wrong)
    assert outcome.kills.total() >= 6
    assert outcome.verdicts["interrupted"] >= 3


# --- eight at once ---------------------------------------------------------------------------------------------------


def at_once(repo: Repo, commands: Sequence[tuple[str, ...]]) -> list[tuple[tuple[str, ...], int, str]]:
    """Start commands together; return each with its exit code and what it said."""
    processes = [(words, start(repo, Stage("", words))) for words in commands]
    ended = [(words, process.communicate(timeout=120)[1], process.returncode) for words, process in processes]
    return [(words, code, errors) for words, errors, code in ended]


def hold(repo: Repo, ended: Sequence[tuple[tuple[str, ...], int, str]], expected: set[int]) -> None:
    codes = Counter(code for _, code, _ in ended)
    shown = "\n".join(f"{' '.join(words)}: {code}: {errors.strip()}" for words, code, errors in ended)
    assert set(codes) <= expected, shown
    assert codes[0] + codes[5] >= 1, shown
    assert "deadlock" not in shown and "Traceback" not in shown, shown
    for _, code, errors in ended:
        assert code == 0 or "locked by " in errors, errors
    assert repo.rows(LOCKS) == [(0,)]
    # The ledger has each of them, and says the same.
    runs = repo.json("runs", "--since", "2024-01-01")["runs"][: len(ended)]
    assert Counter(run["exit_code"] for run in runs) == codes


def test_eight_at_once_lose_nothing(repo: Repo, other: Repo, tmp_path: Path) -> None:
    window = ("--from", "2024-03-01", "--to", "2024-05-01", "--chunk", "10d")
    for each in (repo, other):
        fill(each, tmp_path / "data")
        each.ok("compute", env=AT)
    other.ok("materialize", env=AT)
    other.ok("backfill", *window, env=AT)
    # One view may be another's and the next one free: that is partly done.
    hold(repo, at_once(repo, [("materialize",)] * 8), {0, 4, 5})
    hold(repo, at_once(repo, [("materialize", "--if-locked", "skip")] * 8), {0})
    hold(repo, at_once(repo, [("materialize", "--if-locked", "wait")] * 8), {0})
    assert contents(repo) == contents(other)
    backfills = [("backfill", *window, "--if-locked", policy) for policy in ("wait", "fail", "skip", "wait")]
    backfills += [("backfill", "--from", "2024-04-01", "--chunk", "7d", "--jobs", "2", "--if-locked", "wait")]
    backfills += [("backfill", *window, "--view", "technical_indicators_view", "--force", "--if-locked", "wait")]
    backfills += [("compute", "--if-locked", "wait"), ("materialize", "--if-locked", "wait")]
    hold(repo, at_once(repo, backfills), {0, 4})
    assert repo.rows("SELECT count(*) FROM featurectl.backfills WHERE finished_at IS NULL") == [(0,)]
    repo.ok("materialize", env=AT)
    assert contents(repo) == contents(other)


# --- every second ----------------------------------------------------------------------------------------------------


def test_a_run_at_every_beat_keeps_up_with_the_market(repo: Repo) -> None:
    seen = soak(repo, 6, every=1.5)
    assert max(seen.lags) <= 1, seen.lags
    assert set(seen.codes) == {0}
    assert seen.growth < 0.1, seen.memory
    assert max(seen.sessions) <= 2, seen.sessions  # of a run that is still at work
    assert repo.rows("SELECT count(*) FROM market.candles") == [(3 * 306,)]


# --- without a server ------------------------------------------------------------------------------------------------


@pytest.fixture
def own_server(repo: Repo, tmp_path: Path) -> Iterator[tuple[Repo, Path]]:
    """The repository on a server that may be stopped, known by its URL: nothing but the test starts it again."""
    if os.environ.get(TEST_URL_VARIABLE):
        pytest.skip(f"the server that {TEST_URL_VARIABLE} names is not ours to stop")
    (tmp_path / "own").mkdir()
    data = embedded.data_dir(tmp_path / "own")
    url = embedded.ensure_running(data)
    dump = subprocess.run([embedded.client_program("pg_dump"), repo.url], capture_output=True, check=True).stdout
    restore = [embedded.client_program("psql"), "-q", "-v", "ON_ERROR_STOP=1", "-d", url]
    subprocess.run(restore, input=dump, stdout=subprocess.DEVNULL, check=True)
    yield Repo(repo.root, url), data
    embedded.stop(data)


BACKFILL = ("backfill", "--from", "2024-03-01", "--to", "2024-05-01", "--chunk", "1d", "--resume")


def begin(repo: Repo, *words: str, retry_for: str) -> subprocess.Popen[str]:
    """Start a backfill and wait until it is in its middle."""
    process = subprocess.Popen(
        [str(SCRIPT), *words],
        cwd=repo.root,
        env=repo.environment({**AT, "FEATURECTL_RETRY_FOR": retry_for}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 30
    while repo.rows("SELECT count(*) FROM featurectl.backfill_chunks")[0][0] < 3:
        assert process.poll() is None and time.monotonic() < deadline, "it did not begin"
        time.sleep(0.01)
    return process


def chunks_left(repo: Repo) -> int:
    return int(repo.rows("SELECT count(*) FROM featurectl.backfills WHERE finished_at IS NULL")[0][0])


def test_a_server_that_restarts_is_waited_for(own_server: tuple[Repo, Path], other: Repo, tmp_path: Path) -> None:
    repo, data = own_server
    for each in (repo, other):
        fill(each, tmp_path / "data")
    other.ok(*BACKFILL, env=AT)
    process = begin(repo, *BACKFILL, retry_for="30")
    embedded.stop(data)
    time.sleep(0.5)
    embedded.ensure_running(data)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert "trying again" in errors
    assert contents(repo) == contents(other)
    assert chunks_left(repo) == 0


def test_without_its_server_a_run_ends_and_is_resumed(
    own_server: tuple[Repo, Path], other: Repo, tmp_path: Path
) -> None:
    repo, data = own_server
    for each in (repo, other):
        fill(each, tmp_path / "data")
    other.ok(*BACKFILL, env=AT)
    process = begin(repo, *BACKFILL, retry_for="1")
    embedded.stop(data)
    output, errors = process.communicate(timeout=60)
    assert (process.returncode, output) == (3, "")
    assert errors.splitlines()[-1].startswith("error: database "), errors
    embedded.ensure_running(data)
    assert repo.json("runs", "show", "last")["run"]["verdict"] == "interrupted"
    done = repo.json(*BACKFILL, env=AT)
    assert sum(one["resumed"] for one in done["series"]) >= 3
    assert contents(repo) == contents(other)


@contextmanager
def refused(server: str, repo: Repo) -> Iterator[None]:
    """Have the server end all sessions of a database, and let nobody in."""
    name = repo.rows("SELECT current_database()")[0][0]
    allow = sql.SQL("ALTER DATABASE {} WITH ALLOW_CONNECTIONS {}")
    with open_connection(with_database(server, "postgres"), connect_timeout=10) as connection:
        connection.execute(allow.format(sql.Identifier(name), sql.SQL("false")))
        connection.execute(b"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,))
        yield
        connection.execute(allow.format(sql.Identifier(name), sql.SQL("true")))


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_connections_that_are_refused_for_a_while(server: str, repo: Repo, tmp_path: Path, jobs: str) -> None:
    fill(repo, tmp_path / "data")
    process = begin(repo, *BACKFILL, "--jobs", jobs, retry_for="30")
    with refused(server, repo):
        time.sleep(0.5)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert "trying again" in errors
    assert repo.json("runs", "show", "last")["run"]["verdict"] == "done"


def test_connections_that_stay_refused(server: str, repo: Repo, tmp_path: Path) -> None:
    fill(repo, tmp_path / "data")
    process = begin(repo, *BACKFILL, retry_for="1")
    with refused(server, repo):
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 3
    assert errors.count("error: ") == 1 and "Traceback" not in errors
    assert repo.json("runs", "show", "last")["run"]["verdict"] == "interrupted"
    repo.ok(*BACKFILL, env=AT)
    assert chunks_left(repo) == 0
