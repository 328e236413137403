"""What `featurectl run` is to do: its steps and settings, from feature_store.yaml and the command line."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from featurectl.core.config import FILE_NAME, Config
from featurectl.core.inbox import SETTLE
from featurectl.core.locks import PATIENCE, IfLocked
from featurectl.core.runs import heartbeat
from featurectl.core.times import parse_duration
from featurectl.errors import ConfigError, FeaturectlError, UsageError


class StepName(StrEnum):
    """The steps of a run, in their order."""

    INGEST = "ingest"
    COMPUTE = "compute"
    MATERIALIZE = "materialize"
    CHECK = "check"


STEPS = tuple(StepName)
INBOX = "inbox"


@dataclass(frozen=True, slots=True)
class Pipeline:
    """The settings of `featurectl run`. Times are seconds; a limit of ``None`` is not looked at.

    ``inbox`` is where files are taken from, ``None`` the repository's own, if it has one; ``settle`` how old they have
    to be. The check finds fault with entities that are behind their source or missing, with more than ``max_lag`` bars
    of lag, and with degraded answers; with ``drift``, with features that have drifted in a window of that length; and,
    with ``consistency``, with what is not the same online, in the history and computed again of so many entities of
    each view.
    """

    steps: tuple[StepName, ...] = STEPS
    inbox: Path | None = None
    settle: float = SETTLE
    views: tuple[str, ...] = ()
    if_locked: IfLocked = IfLocked.FAIL
    wait_for: float = PATIENCE
    max_lag: int | None = None
    drift: float | None = None
    consistency: int = 0
    metrics_file: Path | None = None
    heartbeat_url: str | None = field(default=None, repr=False)


def read_pipeline(config: Config) -> Pipeline:
    """Return what feature_store.yaml says; paths in it are relative to the repository.

    Raises:
        ConfigError: a setting does not exist, or its value can't be used.
    """
    names = [one.name for one in fields(Pipeline)]
    place = f"{config.root / FILE_NAME}: pipeline"
    given: dict[str, Any] = {}
    for name, value in config.pipeline.items():
        if name not in names:
            raise ConfigError(f"{place} has no setting '{name}'; settings: {', '.join(names)}")
        try:
            given[name] = _READERS[name](value)
        except (FeaturectlError, ValueError, TypeError) as error:
            reason = f"; {error}" if isinstance(error, FeaturectlError) else f"; {_HINTS[name]}"
            shown = "what it is" if name == "heartbeat_url" else repr(value)
            raise ConfigError(f"{place}.{name} can't be {shown}{reason}") from None
    return rooted(Pipeline(**given), config.root)


def rooted(pipeline: Pipeline, root: Path) -> Pipeline:
    """Return a pipeline whose paths are absolute."""
    inbox, metrics = pipeline.inbox, pipeline.metrics_file
    return replace(pipeline, inbox=root / inbox if inbox else None, metrics_file=root / metrics if metrics else None)


def steps(names: tuple[str, ...]) -> tuple[StepName, ...]:
    """Return steps by their names, in the order in which they are done.

    Raises:
        UsageError: there is no such step.
    """
    for name in names:
        if name not in list(StepName):
            raise UsageError(f"step '{name}' not found; steps: {', '.join(STEPS)}")
    return tuple(step for step in STEPS if step in names)


def _names(value: Any) -> tuple[str, ...]:
    if isinstance(value, str) or not all(isinstance(one, str) for one in value):
        raise ValueError
    return tuple(value)


def _some_steps(value: Any) -> tuple[StepName, ...]:
    chosen = steps(_names(value))
    if not chosen:
        raise ValueError
    return chosen


def _path(value: Any) -> Path:
    if not isinstance(value, str) or not value:
        raise ValueError
    return Path(value)


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError
    return value


def _seconds(value: Any) -> float:
    return parse_duration(str(value)).total_seconds()


_READERS: Mapping[str, Callable[[Any], Any]] = {
    "steps": _some_steps,
    "inbox": _path,
    "settle": _seconds,
    "views": _names,
    "if_locked": IfLocked,
    "wait_for": _seconds,
    "max_lag": _count,
    "drift": lambda value: _seconds(value) or None,
    "consistency": _count,
    "metrics_file": _path,
    "heartbeat_url": lambda value: heartbeat.checked(str(value)),
}
_HINTS = {
    "steps": f"write a list of {', '.join(STEPS)}",
    "inbox": "write a folder",
    "settle": "write a duration, such as 2s",
    "views": "write a list of views",
    "if_locked": f"write one of {', '.join(IfLocked)}",
    "wait_for": "write a duration, such as 10m",
    "max_lag": "write a number of bars",
    "drift": "write the length of a window, such as 30d",
    "consistency": "write a number of entities",
    "metrics_file": "write a file's name",
    "heartbeat_url": "write a URL",
}
