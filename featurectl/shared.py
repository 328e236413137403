"""Functions for those who keep no manager: they share one for each repository and running event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from featurectl.arguments import Names, Time
from featurectl.core.config import find_repository
from featurectl.manager import FeastFeatureStoreManager, OfflineOptions, OnlineOptions

if TYPE_CHECKING:
    import pandas as pd

_Ending = AsyncGenerator[None, None]
_shared: dict[asyncio.AbstractEventLoop, dict[Path, tuple[FeastFeatureStoreManager, _Ending]]] = {}


async def shared_manager(repo: str | Path | None = None) -> FeastFeatureStoreManager:
    """Return the manager of a repository in this event loop; it is closed when the loop shuts down."""
    loop = asyncio.get_running_loop()
    if loop not in _shared:
        _leave_closed_loops()
    managers = _shared.setdefault(loop, {})
    root = find_repository(explicit=Path(repo) if repo else None)
    if root not in managers:
        manager = FeastFeatureStoreManager(root)
        ending = _until_shutdown(loop, manager)
        managers[root] = manager, ending
        await anext(ending)
    return managers[root][0]


async def _until_shutdown(loop: asyncio.AbstractEventLoop, manager: FeastFeatureStoreManager) -> _Ending:
    """Close a manager when its loop, like any, closes its asynchronous generators before its own end."""
    try:
        yield
    finally:
        _shared.pop(loop, None)
        await manager.close()


def _leave_closed_loops() -> None:
    """Let go of loops that were closed without that; connections close with what held them."""
    for loop in [loop for loop in _shared if loop.is_closed()]:
        _shared.pop(loop, None)


async def get_online_features(
    entity_ids: Iterable[str],
    feature_names: Names = None,
    feature_service_name: str | None = None,
    *,
    repo: str | Path | None = None,
    with_status: bool = False,
    **options: Unpack[OnlineOptions],
) -> pd.DataFrame:
    """Call :meth:`FeastFeatureStoreManager.get_online_features` of the repository's shared manager."""
    manager = await shared_manager(repo)
    return await manager.get_online_features(
        entity_ids, feature_names, feature_service_name, with_status=with_status, **options
    )


async def get_offline_features(
    entity_ids: Iterable[str] | None = None,
    feature_names: Names = None,
    feature_service_name: str | None = None,
    start_date: Time = None,
    end_date: Time = None,
    *,
    repo: str | Path | None = None,
    **options: Unpack[OfflineOptions],
) -> pd.DataFrame:
    """Call :meth:`FeastFeatureStoreManager.get_offline_features` of the repository's shared manager."""
    manager = await shared_manager(repo)
    return await manager.get_offline_features(
        entity_ids, feature_names, feature_service_name, start_date, end_date, **options
    )
