"""Whole-process wall times of an online read: ours, Feast's, and the least that a process in this language can do.

Run: python -m tests.bench.online [--rounds 15]     (about four minutes, nearly all of it Feast starting)

One row of one repository on the embedded server is read by every contender in turn, round after round (A B C A B C …),
after a warm-up round that also leaves everybody's .pyc files behind. Medians, because the machine is shared: a round
that another process disturbs disturbs all contenders. It never fails on a time; the targets stand beside the ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from psycopg.conninfo import conninfo_to_dict

from featurectl.core import embedded

RESULTS = Path(__file__).resolve().parent / "results"
PROGRAMS = Path(sys.executable).parent
NOW = datetime(2024, 6, 1, 12, 30, tzinfo=UTC)
VIEW = "technical_indicators_view"
FEATURES = ("rsi_14", "macd", "ema_20", "bollinger_bands_position", "atr", "volume_sma_ratio")
BARS = 500

FLOOR = f"""
import sys
import psycopg
import typer
with psycopg.connect(sys.argv[1], autocommit=True) as connection:
    print(connection.execute("SELECT * FROM online.bench__{VIEW} WHERE symbol = 'BTCUSDT'").fetchone())
"""

STOCK = """
project: stock
provider: local
entity_key_serialization_version: 3
registry:
  registry_type: sql
  path: "${{FEATURECTL_DATABASE_URL}}"
  sqlalchemy_config_kwargs:
    connect_args: {{options: "-c search_path=feast -c timezone=UTC"}}
offline_store: &connection
  type: postgres
  host: "{host}"
  port: {port}
  database: "{dbname}"
  db_schema: stock
  user: "{user}"
  password: ""
  sslmode: disable
online_store: *connection
"""


@dataclass(frozen=True)
class Contender:
    """A command line to be timed, and where it runs."""

    name: str
    command: Sequence[str]
    directory: Path


@dataclass(frozen=True)
class Ratio:
    """Two contenders' medians, one by the other; ``target`` is what the project asks for."""

    name: str
    over: str
    under: str
    target: str


RATIOS = (
    Ratio("Feast / ours", "feast, our stores", "featurectl get-online", ">= 12"),
    Ratio("stock Feast / ours", "feast, stock stores", "featurectl get-online", ">= 12"),
    Ratio("ours / floor", "featurectl get-online", "floor", "<= 1.4"),
    Ratio("help / import typer", "featurectl --help", "import typer", "<= 1.5"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory(prefix="featurectl-bench-") as name:
        try:
            times = measure(Path(name), rounds)
        finally:
            embedded.stop(embedded.data_dir(Path(name) / "market"))
    show(times)
    print(f"written: {save(times)}")


def measure(directory: Path, rounds: int) -> dict[str, list[float]]:
    """Set both repositories up, check that all contenders read the same values, and time them; seconds by contender."""
    ours, stock = directory / "market", directory / "stock"
    url = set_up(ours)
    environment = child_environment(url)
    set_up_stock(ours, stock, url, environment)
    contenders = (
        Contender("featurectl get-online", [program("featurectl"), "get-online", "BTCUSDT_1h"], ours),
        Contender("floor", [sys.executable, "-c", FLOOR, url], ours),
        Contender("featurectl --help", [program("featurectl"), "--help"], ours),
        Contender("import typer", [sys.executable, "-c", "import typer"], ours),
        Contender("feast, our stores", feast_command(), ours),
        Contender("feast, stock stores", feast_command(), stock),
    )
    warm_up = {one.name: timed(one, environment)[1] for one in contenders}
    check_equal(warm_up)
    times: dict[str, list[float]] = {one.name: [] for one in contenders}
    for index in range(rounds):
        print(f"round {index + 1} of {rounds}", file=sys.stderr)
        for contender in contenders:
            times[contender.name].append(timed(contender, environment)[0])
    return times


def set_up(root: Path) -> str:
    """Make a repository with one symbol's bars up to NOW, computed and online; return its server's URL."""
    environment = child_environment()
    run([program("featurectl"), "init", str(root), "--project", "bench"], root.parent, environment)
    run([program("featurectl"), "apply"], root, environment)
    ingest = [program("featurectl"), "ingest", "candles", "-", "--symbol", "BTCUSDT", "--timeframe", "1h"]
    run(ingest, root, environment, input=candles())
    run([program("featurectl"), "compute"], root, environment)
    run([program("featurectl"), "materialize"], root, environment)
    url = embedded.running_url(embedded.data_dir(root))
    assert url is not None
    return url


def set_up_stock(ours: Path, stock: Path, url: str, environment: Mapping[str, str]) -> None:
    """Give Feast's own PostgreSQL stores the same definitions, over the same history, in the same database."""
    shutil.copytree(ours / "feature_repo", stock / "feature_repo")
    (stock / "feature_store.yaml").write_text(STOCK.format(**conninfo_to_dict(url)))
    run([program("feast"), "apply"], stock, environment)
    window = [(NOW - timedelta(hours=BARS)).isoformat(), NOW.isoformat()]
    run([program("feast"), "materialize", *window], stock, environment)


def candles() -> bytes:
    last = NOW.replace(minute=0, tzinfo=None)
    lines = ["open_time,open,high,low,close,volume"]
    for index in range(BARS):
        price = 100 + (index * 7) % 13 + index / 50
        opened = last - timedelta(hours=BARS - index)
        lines.append(f"{opened},{price},{price + 2},{price - 2},{price + 1},{10 + index % 5}")
    return "\n".join(lines).encode()


def program(name: str) -> str:
    return str(PROGRAMS / name)


def feast_command() -> list[str]:
    words = [program("feast"), "get-online-features", "-e", "symbol=BTCUSDT", "-e", "timeframe=1h"]
    return words + [word for name in FEATURES for word in ("-f", f"{VIEW}:{name}")]


def child_environment(url: str | None = None) -> dict[str, str]:
    """Return an environment in which Python keeps compiled modules, as it does where people install it."""
    unwanted = ("FEATURECTL_", "PG", "PYTHON")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(unwanted)}
    # The script of the floor aside, everybody's clock stands half an hour after the newest bar.
    environment |= {"FEATURECTL_NOW": NOW.isoformat(), "FEAST_USAGE": "False"}
    return environment | ({"FEATURECTL_DATABASE_URL": url} if url else {})


def run(command: Sequence[str], directory: Path, environment: Mapping[str, str], input: bytes | None = None) -> bytes:
    done = subprocess.run(command, cwd=directory, env=environment, input=input, capture_output=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)} exited with {done.returncode}\n{done.stderr.decode()}")
    return done.stdout


def timed(contender: Contender, environment: Mapping[str, str]) -> tuple[float, bytes]:
    """Run a contender, its output piped; return the wall time in seconds, and the output."""
    start = time.perf_counter()
    stdout = run(contender.command, contender.directory, environment)
    return time.perf_counter() - start, stdout


def check_equal(outputs: Mapping[str, bytes]) -> None:
    """Stop where the contenders do not read the same values: their times would say nothing."""
    ours = json.loads(outputs["featurectl get-online"])["results"][0]["features"]
    for name in ("feast, our stores", "feast, stock stores"):
        text = outputs[name].decode()
        features = json.loads(text[text.index("{") :])
        theirs = {feature: features[feature][0] for feature in FEATURES}
        if theirs != ours or None in ours.values():
            sys.exit(f"featurectl reads {ours}, {name} reads {theirs}")


def ratio_of(ratio: Ratio, times: Mapping[str, Sequence[float]]) -> float:
    return statistics.median(times[ratio.over]) / statistics.median(times[ratio.under])


def show(times: Mapping[str, Sequence[float]]) -> None:
    print(f"{'wall time of the process, ms':32} {'median':>8} {'fastest':>8} {'slowest':>8}")
    for name, seconds in times.items():
        median, fastest, slowest = (1000 * value for value in (statistics.median(seconds), min(seconds), max(seconds)))
        print(f"{name:32} {median:8.0f} {fastest:8.0f} {slowest:8.0f}")
    print(f"\n{'ratio of the medians':32} {'ratio':>8} {'target':>8}")
    for ratio in RATIOS:
        print(f"{ratio.name:32} {ratio_of(ratio, times):8.2f} {ratio.target:>8}")
    rounds = len(next(iter(times.values())))
    print(f"\n{rounds} interleaved rounds, {os.cpu_count()} cores, Python {platform.python_version()}")


def save(times: Mapping[str, Sequence[float]]) -> Path:
    """Write all times, in seconds, and the ratios to a file of its own."""
    measured_at = datetime.now(UTC)
    document = {
        "measured_at": measured_at.isoformat(),
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "load": os.getloadavg(),
        "seconds": times,
        "medians": {name: statistics.median(seconds) for name, seconds in times.items()},
        "ratios": {ratio.name: {"ratio": ratio_of(ratio, times), "target": ratio.target} for ratio in RATIOS},
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"online-{measured_at:%Y%m%dT%H%M%SZ}.json"
    path.write_text(json.dumps(document, indent=2) + "\n")
    return path


if __name__ == "__main__":
    main()
