"""Long arrays in little memory: what is said of them is what numpy says, whatever the chunks."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from featurectl.core.statistics import arrays
from featurectl.errors import OutputFileError

SEEDS = range(5)
COUNTS = (0, 1, 2, 3, 6, 7, 8, 50, 701)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut arrays into chunks of seven, and keep those of more than a hundred bytes in files."""
    monkeypatch.setattr(arrays, "CHUNK", 7)
    monkeypatch.setattr(arrays, "IN_MEMORY", 100)


def numbers(random: np.random.Generator, count: int) -> arrays.Floats:
    """Return numbers that repeat each other now and then."""
    values = random.normal(size=count).round(int(random.integers(0, 12)))
    return np.where(random.random(count) < 0.1, 0.0, values)


def test_chunks_follow_one_another_to_the_end() -> None:
    for count in COUNTS:
        assert [place for part in arrays.chunks(count) for place in range(count)[part]] == list(range(count))


@pytest.mark.parametrize("seed", SEEDS)
def test_places_are_those_of_each_code_in_order(seed: int) -> None:
    random = np.random.default_rng(seed)
    for count in COUNTS:
        for labels in (1, 3, 70_000):
            codes = random.integers(0, labels, count, dtype=np.int32)
            found = dict(arrays.split(codes, labels))
            assert {code: list(places) for code, places in found.items()} == {
                int(code): list(np.flatnonzero(codes == code)) for code in np.unique(codes)
            }
            for places in found.values():
                assert arrays.taken(codes, places).tolist() == codes[places].tolist()


@pytest.mark.parametrize("seed", SEEDS)
def test_nans_are_counted_and_left_out(seed: int) -> None:
    random = np.random.default_rng(seed)
    for count in COUNTS:
        for share in (0, 0.3, 1):
            values = np.where(random.random(count) < share, np.nan, numbers(random, count))
            wanted = values[~np.isnan(values)].tolist()
            assert arrays.missing(values) == count - len(wanted)
            assert arrays.present(values).tolist() == wanted


@pytest.mark.parametrize("seed", SEEDS)
def test_multiples_are_each_once(seed: int) -> None:
    values = np.random.default_rng(seed).integers(-500, 500, 200)
    known, places = np.unique(values // 60, return_inverse=True)
    assert arrays.multiples(values, 60).tolist() == known.tolist()
    assert arrays.codes_of(values, 60, known).tolist() == places.tolist()


@pytest.mark.parametrize("seed", SEEDS)
def test_figures_of_sorted_values_are_numpys(seed: int) -> None:
    random = np.random.default_rng(seed)
    for count in COUNTS:
        ordered = np.sort(numbers(random, count))
        mean, std = arrays.moments(ordered)
        assert mean == (pytest.approx(ordered.mean(), rel=1e-12, abs=1e-12) if count else None)
        assert std == (pytest.approx(ordered.std(ddof=1), rel=1e-12) if count > 1 else None)
        assert arrays.distinct(ordered) == len(np.unique(ordered))
        if count:
            for centre in (float(np.median(ordered)), 0.0, -3.0, 9.0):
                away = np.abs(ordered - centre)
                assert arrays.median_distance(ordered, centre) == np.median(away)
                assert arrays.mean_distance(ordered, centre) == pytest.approx(away.mean())


def test_what_is_infinite_or_huge_is_no_obstacle() -> None:
    ordered = np.array([-np.inf, -1e308, 1.0, 1e308, np.inf])
    assert arrays.median_distance(ordered, 1.0) == 1e308
    assert arrays.mean_distance(ordered, 1.0) == np.inf
    assert arrays.moments(np.full(3000, 0.1)) == (0.1, 0.0)
    assert arrays.moments(np.array([-1e150, 1e150])) == (0.0, pytest.approx(2**0.5 * 1e150))


def test_a_long_array_is_a_file_without_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    long = arrays.scratch(1000, np.int32)
    long[:] = np.arange(1000)
    assert (len(long), long.dtype, int(long.sum())) == (1000, np.int32, 499_500)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    arrays.scratch(5, np.int32)
    with pytest.raises(OutputFileError, match=r"^no room for rows in .*nowhere: No such file.*; TMPDIR names another"):
        arrays.scratch(1000, np.int32)


FIGURES_OF_MANY_ROWS = """
    import sys, tempfile, threading, time
    from datetime import UTC, datetime
    import numpy as np
    import pyarrow as pa
    from featurectl.core.arrow import Batches
    from featurectl.core.catalog import Field, View
    from featurectl.core.statistics import arrays, rows
    from featurectl.core.statistics.describe import By, describe
    from featurectl.core.statistics.drift import Limits, compare
    from featurectl.core.statistics.profile import profiles, samples
    from featurectl.core.times import ALWAYS
    import scipy.stats, scipy.spatial.distance

    COUNT, STEP, MINUTE = int(sys.argv[1]), 50_000, 60_000_000
    field = Field("f", "Float64", "double precision", "f", "", {})
    view = View(
        name="v", join_keys=("symbol", "timeframe"), ttl_seconds=3600, online=True,
        source_table="v", source_query=None, timestamp_column="at", created_column=None, fields=(field,),
    )
    names = ["entity", "timeframe", "at", "value:f"]

    def batches():
        random = np.random.default_rng(1)
        for start in range(0, COUNT, STEP):
            at = pa.array(np.arange(start, start + STEP) // 2 * MINUTE, pa.timestamp("us", "UTC"))
            entity = pa.array(["A_1m", "B_1m"] * (STEP // 2))
            timeframe = pa.array(["1m"] * STEP)
            yield pa.record_batch([entity, timeframe, at, pa.array(random.normal(size=STEP))], names=names)

    def watch():
        while True:
            (line,) = (line for line in open("/proc/self/status") if line.startswith("RssAnon"))
            own.append(int(line.split()[1]) / 1024)
            time.sleep(0.002)

    own = []
    arrays.IN_MEMORY = 2**20
    threading.Thread(target=watch, daemon=True).start()
    file = tempfile.TemporaryFile()
    labels = ({}, {})
    count = rows._keep(Batches(next(batches()).schema, batches()), file, labels)
    every = rows.Rows(view, (field,), frozenset(["f"]), frozenset(), file, count, False, *map(tuple, labels))
    now = datetime(2030, 1, 1, tzinfo=UTC)
    for by in (None, *By):
        assert sum(one.rows for one in describe(every, now=now, by=by)) == COUNT
    known = profiles(every, ALWAYS)
    drifts = [compare(*pair, field, Limits()) for pair in zip(known, samples(every, field), strict=True)]
    assert [one.verdict for one in drifts] == ["ok"] * 3
    print(max(own) - own[0])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory is told apart by Linux's /proc")
def test_memory_has_a_bound_whatever_the_rows(tmp_path: Path) -> None:
    """Of two million rows a column is 16 MB, and figures by entity, profiles and drift take several at a time."""
    assert own_megabytes(2_000_000, tmp_path) < own_megabytes(200_000, tmp_path) + 12


def own_megabytes(rows: int, folder: Path) -> float:
    """Return what a process takes of memory that is no file's, beyond its libraries."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(FIGURES_OF_MANY_ROWS), str(rows)],
        env={"TMPDIR": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return float(done.stdout)
