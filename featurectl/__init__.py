"""Run a Feast feature store for market data on TimescaleDB, from one command line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from featurectl.manager import FeastFeatureStoreManager, get_online_features

__version__ = "0.1.0"
__all__ = ["FeastFeatureStoreManager", "get_online_features"]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: the command line's cheapest calls need none."""
    if name in __all__:
        from featurectl import manager

        return getattr(manager, name)
    raise AttributeError(f"module 'featurectl' has no attribute '{name}'")
