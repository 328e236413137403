"""The fault drill: what 16 tasks that read in a loop get while something breaks, stays broken and is mended.

Run: python -m tests.bench.faults [--before 0.5] [--fault 3] [--after 1] [--only WORDS]        (about three minutes)

For each fault: how many calls there were, by which paths they were answered, how long the longest took (a call has the
timeout that stands beside it), and how soon after the end of the fault the first path answered for every view again.
Every answer is compared with what it must be, and its label with what it may be; whatever is not as it should be is
printed, and makes the exit code 1.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import statistics
import sys
from collections.abc import Iterator

import featurectl.opened
from tests.bench.market import open_place
from tests.bench.measure import Bench
from tests.drill import Fault, Ground, Outcome, Phases, drill, fill
from tests.faults import OURS, SERVER
from tests.fix_database import create_database
from tests.foreign_faults import REDIS, SQLITE, UNKNOWN, over_redis, over_sqlite

PATHS = ("online", "feast", "timescaledb")
# Calls, of them by each path, by several, and without an answer; milliseconds of a call; seconds after the fault.
HEADS = ("calls", *PATHS, "several", "failed", "median ms", "worst ms", "timeout ms", "recovery s")
# A ground, what happens to it, and options of the manager.
Set = tuple[Ground, tuple[Fault, ...], dict[str, None]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--before", type=float, default=0.5)
    parser.add_argument("--fault", type=float, default=3.0)
    parser.add_argument("--after", type=float, default=1.0)
    parser.add_argument("--only", default="", help="faults that have this in their names")
    arguments = parser.parse_args()
    phases = Phases(arguments.before, arguments.fault, arguments.after)
    outcomes: list[Outcome] = []
    featurectl.opened.CATALOG_SECONDS = 0.2  # so that what is read beside the calls meets the faults too
    with contextlib.ExitStack() as stack:
        for ground, faults, options in sets(stack):
            for fault in faults:
                if arguments.only in fault.name:
                    print(f"{fault.name} …", file=sys.stderr)
                    outcomes.append(asyncio.run(drill(ground, fault, phases, **options)))
    report(outcomes)
    sys.exit(any(outcome.wrong for outcome in outcomes))


def sets(stack: contextlib.ExitStack) -> Iterator[Set]:
    """Make the grounds, one after the other, and yield each with its faults."""
    place = stack.enter_context(open_place())
    ours = Ground(place.root, place.url)
    fill(ours)
    yield ours, (*OURS, UNKNOWN), {}
    yield ours, SERVER, {"database_url": None}  # the repository's own, which starts it where it does not run
    copy = Ground(place.root, create_database(place.url, "foreign", "postgres"))
    sqlite = over_sqlite(copy, place.root.parent / "over_sqlite")
    yield sqlite, SQLITE, {}
    yield stack.enter_context(over_redis(sqlite, place.root.parent / "over_redis")), REDIS, {}


def report(outcomes: list[Outcome]) -> None:
    """Print the table and everything that was wrong, and write both with the time of every call."""
    width = max(len(outcome.fault.name) for outcome in outcomes) + 2
    print(f"\n{'fault':{width}} {' '.join(f'{head:>11}' for head in HEADS)}")
    bench = Bench("faults")
    for outcome in outcomes:
        cells = dict(zip(HEADS, figures(outcome), strict=True))
        print(f"{outcome.fault.name:{width}} {' '.join(f'{cell:>11}' for cell in cells.values())}")
        bench.notes[outcome.fault.name] = {**cells, "wrong": outcome.wrongs}
        bench.seconds[outcome.fault.name] = [round(call.end - call.begin, 5) for call in outcome.calls]
    for outcome in outcomes:
        for wrong, count in outcome.wrongs.items():
            print(f"{outcome.fault.name}: {wrong} ({count} times)")
    bench.save()


def figures(outcome: Outcome) -> tuple[object, ...]:
    paths = outcome.paths
    alone = [paths.pop(path, 0) for path in PATHS]
    failed = sum(call.error is not None for call in outcome.calls)
    median = statistics.median(call.end - call.begin for call in outcome.calls)
    times = (round(1000 * median, 1), round(1000 * outcome.worst), round(1000 * outcome.fault.timeout))
    return len(outcome.calls), *alone, paths.total(), failed, *times, outcome.recovery


if __name__ == "__main__":
    main()
