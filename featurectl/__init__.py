"""Run a Feast feature store for market data on TimescaleDB, from one command line."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from featurectl.version import __version__ as __version__

if TYPE_CHECKING:
    from featurectl.manager import FeastFeatureStoreManager
    from featurectl.shared import get_offline_features, get_online_features

__all__ = ["FeastFeatureStoreManager", "get_offline_features", "get_online_features"]

_MODULES = {
    "FeastFeatureStoreManager": "featurectl.manager",
    "get_offline_features": "featurectl.shared",
    "get_online_features": "featurectl.shared",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: the command line's cheapest calls need none."""
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    raise AttributeError(f"module 'featurectl' has no attribute '{name}'")
