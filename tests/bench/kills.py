"""The kill drill at length: `kill -9` at random moments of everything that writes, and the same work undisturbed.

Run: python -m tests.bench.kills [--kills 200] [--seed N] [--only STAGE]        (about four minutes)

Prints how many processes were killed at each stage and what the ledger says of them, and whatever was not as it should
be: rows that differ from those of the undisturbed run, locks or sessions that stay, a run that is told of wrongly.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path

from tests.bench.market import open_place
from tests.bench.measure import Bench
from tests.fix_database import create_database
from tests.fix_repository import Repo
from tests.kills import drill


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000)
    parser.add_argument("--only", action="append", default=[], help="the name of a stage; again for more")
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", file=sys.stderr)
    with open_place() as place, tempfile.TemporaryDirectory() as folder:
        repos = []
        for name in ("disturbed", "undisturbed"):
            root = Path(folder) / name / "market"
            shutil.copytree(place.root, root, ignore=shutil.ignore_patterns(".featurectl"))
            repos.append(Repo(root, create_database(place.url, name, "postgres")))
        began = time.monotonic()
        data, only = Path(folder) / "data", arguments.only
        outcome = drill(repos[0], repos[1], data, kills=arguments.kills, seed=arguments.seed, only=only)
    print(f"\n{'stage':24} {'killed':>8}")
    for name, count in outcome.kills.items():
        print(f"{name:24} {count:>8}")
    print(f"{outcome.kills.total()} killed, {outcome.finished_first} had finished first; ", end="")
    print(", ".join(f"{count} {verdict}" for verdict, count in outcome.verdicts.items()))
    print(f"{time.monotonic() - began:.0f} s; wrong: {len(outcome.wrong)}")
    for wrong in outcome.wrong:
        print(wrong)
    bench = Bench("kills")
    bench.notes["kills"] = {
        "seed": outcome.seed,
        "kills": dict(outcome.kills),
        "finished_first": outcome.finished_first,
        "verdicts": dict(outcome.verdicts),
        "wrong": outcome.wrong,
    }
    bench.seconds["recovery"] = outcome.recoveries
    bench.save()
    sys.exit(bool(outcome.wrong))


if __name__ == "__main__":
    main()
