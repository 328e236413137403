"""How the benches time contenders in turn, measure a child's memory, and print and keep what they found."""

from __future__ import annotations

import gc
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results"


@dataclass(frozen=True)
class Ratio:
    """Two contenders' medians, one by the other; ``target`` is what the project asks for."""

    name: str
    over: str
    under: str
    target: str


@dataclass(frozen=True)
class Measured:
    """What one run of a child took: seconds beyond its start-up, and its highest resident memory."""

    seconds: float
    peak_mb: float
    result: Any = None


@dataclass
class Bench:
    """The figures of one bench: seconds by contender, run after run, and whatever else belongs beside them."""

    name: str
    seconds: dict[str, list[float]] = field(default_factory=dict)
    peak_mb: dict[str, float] = field(default_factory=dict)
    ratios: list[Ratio] = field(default_factory=list)
    notes: dict[str, Any] = field(default_factory=dict)

    def add(self, contender: str, seconds: float, peak_mb: float | None = None) -> None:
        self.seconds.setdefault(contender, []).append(seconds)
        if peak_mb is not None:
            self.peak_mb[contender] = max(peak_mb, self.peak_mb.get(contender, 0))

    def interleave(self, contenders: Mapping[str, Callable[[], object]], rounds: int) -> None:
        """Time every contender in turn (A B C A B C …), after one round that is not counted."""
        for call in contenders.values():
            call()
        for _ in range(rounds):
            for name, call in contenders.items():
                gc.collect()
                start = time.perf_counter()
                call()
                self.add(name, time.perf_counter() - start)

    def median(self, contender: str) -> float:
        return statistics.median(self.seconds[contender])

    def ratio(self, ratio: Ratio) -> float:
        return self.median(ratio.over) / self.median(ratio.under)

    def report(self) -> Path:
        """Print the table, and write it with every single time as JSON; return that file."""
        width = max(map(len, [*self.seconds, *(one.name for one in self.ratios)]), default=0) + 2
        print(
            f"\n{self.name + ', ms':{width}} {'median':>10} {'fastest':>10} {'slowest':>10} {'peak MB':>9} {'runs':>5}"
        )
        for name, seconds in self.seconds.items():
            figures = (1000 * one for one in (statistics.median(seconds), min(seconds), max(seconds)))
            peak = f"{self.peak_mb[name]:9.0f}" if name in self.peak_mb else f"{'':9}"
            print(f"{name:{width}} {' '.join(f'{one:10.2f}' for one in figures)} {peak} {len(seconds):5}")
        if self.ratios:
            print(f"\n{'ratio of the medians':{width}} {'ratio':>10} {'target':>10}")
        for one in self.ratios:
            print(f"{one.name:{width}} {self.ratio(one):10.2f} {one.target:>10}")
        for name, value in self.notes.items():
            print(f"{name}: {value}")
        return self.save()

    def save(self) -> Path:
        """Write every single time as JSON, and print what they were taken on; return the file."""
        print(f"{os.cpu_count()} cores, Python {platform.python_version()}, load {os.getloadavg()[0]:.1f}")
        measured_at = datetime.now(UTC)
        document = {
            "bench": self.name,
            "measured_at": measured_at.isoformat(),
            "python": platform.python_version(),
            "cores": os.cpu_count(),
            "load": os.getloadavg(),
            "seconds": self.seconds,
            "peak_mb": self.peak_mb,
            "medians": {name: self.median(name) for name in self.seconds},
            "ratios": {one.name: {"ratio": self.ratio(one), "target": one.target} for one in self.ratios},
            "notes": self.notes,
        }
        RESULTS.mkdir(exist_ok=True)
        path = RESULTS / f"{self.name.replace(' ', '-')}-{measured_at:%Y%m%dT%H%M%SZ}.json"
        path.write_text(json.dumps(document, indent=2, default=str) + "\n")
        print(f"written: {path}")
        return path


def in_child(module: str, *words: str, environment: Mapping[str, str] | None = None) -> Measured:
    """Run ``python -m module words…``, which ends with :func:`tell`; return what it told."""
    done = subprocess.run(
        [sys.executable, "-m", module, *words],
        env={**os.environ, "FEAST_USAGE": "False", **(environment or {})},
        stdout=subprocess.PIPE,
        check=False,
    )
    if done.returncode:
        sys.exit(f"{module} {' '.join(words)} exited with {done.returncode}")
    return Measured(**json.loads(done.stdout.splitlines()[-1]))


def tell(seconds: float, result: Any = None) -> None:
    """Print, as the last line of a child, what it took; its peak memory is the process's own since it began."""
    print(json.dumps(asdict(Measured(seconds, _peak_mb(), result))))


def _peak_mb() -> float:
    # Not ru_maxrss: on Linux that begins with what the parent had when it started us.
    known = _memory_mb("VmHWM")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 if known is None else known


def _memory_mb(name: str) -> float | None:
    """Return what Linux says of this process's memory; nothing elsewhere."""
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    (line,) = (line for line in status.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) / 1024


class OwnMemory:
    """The most memory that is not a file's, looked at every five milliseconds from now on; ``peak_mb`` says it."""

    def __init__(self) -> None:
        self.peak_mb = 0.0
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while (found := _memory_mb("RssAnon")) is not None:
            self.peak_mb = max(self.peak_mb, found)
            time.sleep(0.005)
