"""The demo does the main job on a machine with nothing but the package, and may be run again."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from featurectl.core import embedded
from featurectl.core.entity import EntityId
from featurectl.core.synthetic import generate
from tests import preloaded
from tests.fix_repository import SCRIPT


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "demo"
    embedded.stop(embedded.data_dir(tmp_path / "demo"))


def demo(directory: Path) -> subprocess.CompletedProcess[str]:
    words = [SCRIPT, "demo", directory.name]
    return subprocess.run(words, cwd=directory.parent, capture_output=True, text=True, check=False, timeout=120)


def test_the_demo_goes_from_files_to_features_and_says_it_is_synthetic(directory: Path) -> None:
    done = demo(directory)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "synthetic" in done.stdout
    assert "stale" not in done.stdout, "features up to now are fresh"
    for step in ("init", "apply", "ingest candles", "compute", "materialize", "get-online", "get-offline"):
        assert f"$ featurectl {step}" in done.stdout
    assert "SOLUSDT_1h.csv: rejected 1 row: 1 high below open or close" in done.stderr
    assert "ETHUSDT_1h: missing bars: 3 from" in done.stderr
    assert "BTCUSDT_book.csv: rejected 1 row: 1 crossed book" in done.stderr
    assert "NOT_FOUND" not in done.stdout and "has no row" not in done.stderr
    assert (directory / "train.parquet").stat().st_size > 1000
    assert "high below open or close" in (directory / "rejects.csv").read_text()

    again = preloaded.run([str(SCRIPT), "demo", "demo"], cwd=directory.parent, env=os.environ, timeout=120)
    assert again.returncode == 0, again.stdout + again.stderr
    assert b"nothing to change" in again.stdout


def test_the_demo_leaves_other_directories_alone(directory: Path) -> None:
    directory.mkdir()
    (directory / "mine.txt").write_text("mine")
    done = demo(directory)
    assert (done.returncode, done.stdout) == (2, "")
    assert "is not an earlier demo's" in done.stderr
    assert [path.name for path in directory.iterdir()] == ["mine.txt"]


def test_the_synthetic_market_is_the_same_whenever_it_is_asked() -> None:
    now = datetime(2024, 5, 1, 12, 34, 56, tzinfo=UTC)
    early = generate(EntityId("BTCUSDT", "5m"), 100, now=now)
    late = generate(EntityId("BTCUSDT", "5m"), 100, now=now + timedelta(minutes=50))
    assert early[10:] == late[:90]
    assert early[-1][0] == datetime(2024, 5, 1, 12, 30, tzinfo=UTC)
    for _, open_, high, low, close, volume in early:
        assert low <= min(open_, close) <= max(open_, close) <= high
        assert volume > 0


def test_one_synthetic_bar_opens_where_the_one_before_closed() -> None:
    bars = generate(EntityId("ETHUSDT", "1h"), 50, now=datetime(2024, 5, 1, tzinfo=UTC))
    assert [bar[4] for bar in bars[:-1]] == pytest.approx([bar[1] for bar in bars[1:]])
