"""Candles, ticks and signals to features: what is new or changed since, computed again and merged."""

from __future__ import annotations

from featurectl.core.compute.request import Computed, Job, Request, view_functions
from featurectl.core.compute.run import Finished, check_names, compute, view_jobs, views_of

__all__ = [
    "Computed",
    "Finished",
    "Job",
    "Request",
    "check_names",
    "compute",
    "view_functions",
    "view_jobs",
    "views_of",
]
