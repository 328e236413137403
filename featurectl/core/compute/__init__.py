"""Candles, ticks and signals to features: what is new or changed since, computed again and merged."""

from __future__ import annotations

from featurectl.core.compute.request import Computed, Request, view_functions
from featurectl.core.compute.run import compute

__all__ = ["Computed", "Request", "compute", "view_functions"]
