"""Runs of what writes: recorded at start and end, under locks, tried again while the database is away."""

from featurectl.core.runs.run import Run, open_run
from featurectl.core.runs.session import Session
from featurectl.core.runs.settings import RunSettings, Step

__all__ = ["Run", "RunSettings", "Session", "Step", "open_run"]
