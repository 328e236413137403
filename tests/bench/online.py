"""Online reads by the manager, the Feast SDK and whole processes, against stock Feast, bare SELECTs and a floor.

Run: python -m tests.bench.online [--rounds 15] [--sdk-rounds 100]     (about seven minutes, nearly all Feast starting)

The manager's part is tests.bench.serving. The SDK part times `get_online_features(…).to_dict()` of 6 features in one
process: stock Feast's PostgreSQL store, ours, ours with the protobuf the feature server asks for, and a bare SELECT of
the typed rows into a dictionary. Every timed call follows one that is not: Feast keeps what it resolved of a request
for one store at a time.

The whole-process part has every contender read one row of one repository, round after round. Medians of interleaved
rounds (A B C A B C …) after a warm-up round, because the machine is shared: a round that another process disturbs
disturbs all contenders. It never fails on a time; the targets stand beside the ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from featurectl.core import embedded
from featurectl.core.db import Connection
from tests.bench.measure import Bench, Ratio
from tests.bench.serving import by_manager
from tests.bench.stage import FIRST, STOCK, Stage, open_stage, quiet
from tests.bench.stage import VIEW as STAGE_VIEW

if TYPE_CHECKING:
    from feast import FeatureStore

PROGRAMS = Path(sys.executable).parent
NOW = datetime(2024, 6, 1, 12, 30, tzinfo=UTC)
VIEW = "technical_indicators_view"
FEATURES = ("rsi_14", "macd", "ema_20", "bollinger_bands_position", "atr", "volume_sma_ratio")
GET_ONLINE = ("get-online", "BTCUSDT_1h", "--service", "technical_indicators_service")
BARS = 500
# Seconds that each number of tasks reads for.
MANAGER_SECONDS = 2.0

FLOOR = f"""
import sys
import psycopg
import typer
with psycopg.connect(sys.argv[1], autocommit=True) as connection:
    print(connection.execute("SELECT * FROM online.bench__{VIEW} WHERE symbol = 'BTCUSDT'").fetchone())
"""

STOCK_REPOSITORY = """
project: stock
provider: local
entity_key_serialization_version: 3
registry:
  registry_type: sql
  path: "${{FEATURECTL_DATABASE_URL}}"
  sqlalchemy_config_kwargs:
    connect_args: {{options: "-c search_path=feast -c timezone=UTC"}}
"""


@dataclass(frozen=True)
class Contender:
    """A command line to be timed, and where it runs."""

    name: str
    command: Sequence[str]
    directory: Path


RATIOS = (
    Ratio("Feast / ours", "feast, our stores", "featurectl get-online", ">= 12"),
    Ratio("stock Feast / ours", "feast, stock stores", "featurectl get-online", ">= 12"),
    Ratio("ours / floor", "featurectl get-online", "floor", "<= 1.4"),
    Ratio("help / import typer", "featurectl --help", "import typer", "<= 1.5"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--sdk-rounds", type=int, default=100)
    arguments = parser.parse_args()
    for bench in (*by_manager(arguments.sdk_rounds, MANAGER_SECONDS), *by_sdk(arguments.sdk_rounds)):
        bench.report()
    with tempfile.TemporaryDirectory(prefix="featurectl-bench-") as name:
        try:
            times = measure(Path(name), arguments.rounds)
        finally:
            embedded.stop(embedded.data_dir(Path(name) / "market"))
    Bench("online whole process", seconds=times, ratios=list(RATIOS)).report()


# --- through the SDK -------------------------------------------------------------------------------------------------

SDK_STOCK, SDK_OURS, SDK_PROTO, BARE = "stock PostgreSQL store", "ours", "ours, as protobuf", "bare typed SELECT"
SDK_TARGETS = {1: ">= 1", 10: "", 100: ">= 3", 1000: ">= 3"}


def by_sdk(rounds: int) -> list[Bench]:
    """Time reads of 1, 10, 100 and 1,000 entities x 6 features in one process."""
    with quiet(), open_stage(entities=1000, rows=24) as stage:
        ours, stock = stage.store("ours"), stage.store("stock")
        for store in (ours, stock):
            store.materialize(FIRST, stage.last)
        with stage.connect() as connection:
            return [sdk_bench(stage, ours, stock, connection, count, rounds) for count in SDK_TARGETS]


def sdk_bench(
    stage: Stage, ours: FeatureStore, stock: FeatureStore, connection: Connection, count: int, rounds: int
) -> Bench:
    symbols = stage.symbols(count)
    rows = [{"symbol": symbol, "timeframe": "1h"} for symbol in symbols]
    select = sql.SQL(
        "SELECT o.* FROM unnest(%s::text[], %s::text[]) AS k(symbol, timeframe) "
        "JOIN online.{} AS o USING (symbol, timeframe)"
    ).format(sql.Identifier(f"ours__{STAGE_VIEW}"))

    def bare() -> dict[str, tuple[Any, ...]]:
        found = connection.execute(select, [symbols, ["1h"] * count], prepare=True, binary=True)
        return dict(zip((column.name for column in found.description or ()), zip(*found, strict=True), strict=True))

    def read(store: FeatureStore) -> dict[str, Any]:
        return store.get_online_features(stage.references, rows).to_dict()

    if read(ours) != read(stock) or len(bare()["symbol"]) != count:
        sys.exit(f"ours reads {read(ours)}, stock reads {read(stock)}")
    bench = Bench(
        f"online sdk {count}",
        ratios=[
            Ratio("stock / ours", SDK_STOCK, SDK_OURS, SDK_TARGETS[count]),
            Ratio("ours / bare", SDK_OURS, BARE, ""),
        ],
        notes={"entities x features": f"{count} x {stage.features}"},
    )
    contenders: dict[str, Callable[[], object]] = {
        SDK_STOCK: lambda: read(stock),
        SDK_OURS: lambda: read(ours),
        SDK_PROTO: lambda: ours.get_online_features(stage.references, rows).proto,
        BARE: bare,
    }
    for _ in range(rounds if count < 1000 else max(1, rounds // 4)):
        for name, call in contenders.items():
            call()
            start = time.perf_counter()
            call()
            bench.add(name, time.perf_counter() - start)
    return bench


# --- as whole processes ----------------------------------------------------------------------------------------------


def measure(directory: Path, rounds: int) -> dict[str, list[float]]:
    """Set both repositories up, check that all contenders read the same values, and time them; seconds by contender."""
    ours, stock = directory / "market", directory / "stock"
    url = set_up(ours)
    environment = child_environment(url)
    set_up_stock(ours, stock, url, environment)
    contenders = (
        Contender("featurectl get-online", [program("featurectl"), *GET_ONLINE], ours),
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
    (stock / "feature_store.yaml").write_text((STOCK_REPOSITORY + STOCK).format(**conninfo_to_dict(url)))
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


if __name__ == "__main__":
    main()
