"""The soak at length: `featurectl run` every second, while a clock advances by a minute and bars arrive.

Run: python -m tests.bench.soak [--beats 180] [--every 1]        (three minutes)

Prints how far online features lagged at the end of each beat, in bars, how long the runs took, and how their memory
and the sessions of the database went. Exit code 1 where features ever lagged by more than one bar, or a run failed.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections import Counter

from tests.bench.market import open_place
from tests.bench.measure import Bench
from tests.fix_repository import Repo
from tests.soak import soak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--beats", type=int, default=180)
    parser.add_argument("--every", type=float, default=1.0, help="seconds between two beats")
    arguments = parser.parse_args()
    with open_place() as place:
        seen = soak(Repo(place.root, place.url), arguments.beats, every=arguments.every)
    notes = {
        "beats": arguments.beats,
        "lag in bars, by beats": dict(Counter(seen.lags)),
        "exit codes": dict(Counter(seen.codes)),
        "seconds a run, median": round(statistics.median(seen.seconds), 2),
        "seconds a run, worst": round(max(seen.seconds), 2),
        "memory in MB, median": round(statistics.median(seen.memory)),
        "memory, last quarter over first": f"{seen.growth:+.1%}",
        "sessions at the end of a beat, by beats": dict(Counter(seen.sessions)),
    }
    for name, value in notes.items():
        print(f"{name:44} {value}")
    bench = Bench("soak")
    bench.notes["soak"] = notes
    bench.seconds["run"] = [round(one, 3) for one in seen.seconds]
    bench.save()
    sys.exit(max(seen.lags) > 1 or any(seen.codes))


if __name__ == "__main__":
    main()
