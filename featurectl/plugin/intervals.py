"""What views have been materialized for: merged, kept in a table of ours, and written into Feast's registry.

Feast appends an interval for every run and writes whole views back from copies it read earlier, so that two runs at
once lose intervals. Here every writer holds one lock, reads the registry afresh, adds what our table has, and writes:
what was there before in the fewest intervals, then the newest as it was asked for, as Feast's users expect it.
A run of the stock engine at the same moment, or Feast's own commit of a whole file registry, may still overwrite
what was just written; the next run of this engine puts it right from the table.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from feast.feature_view import FeatureViewState
from feast.infra.registry.base_registry import BaseRegistry
from feast.infra.registry.registry import Registry
from feast.infra.registry.sql import SqlRegistry, feature_views, stream_feature_views
from feast.protos.feast.core.FeatureView_pb2 import FeatureView as FeatureViewProto
from feast.protos.feast.core.StreamFeatureView_pb2 import StreamFeatureView as StreamFeatureViewProto
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from psycopg.types.multirange import TimestamptzMultirange
from psycopg.types.range import TimestamptzRange
from sqlalchemy import select, update

from featurectl.core.db import Connection
from featurectl.core.locks import WAIT, lock
from featurectl.core.queries import query

Interval = tuple[datetime, datetime]

# Instants are whole microseconds: between an end and the next start a microsecond later nothing is missing.
MICROSECOND = timedelta(microseconds=1)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# How often a file that Feast is just writing is read, and seconds by which the next pause grows.
READS, PAUSE = 8, 0.02


def merged(intervals: Iterable[Interval]) -> list[Interval]:
    """Return the fewest intervals that cover the same instants, in order; both ends belong to an interval."""
    result: list[Interval] = []
    for start, end in sorted(intervals):
        if result and start <= result[-1][1] + MICROSECOND:
            result[-1] = (result[-1][0], max(result[-1][1], end))
        else:
            result.append((start, end))
    return result


def extended(before: Sequence[Interval], known: Iterable[Interval], newest: Interval | None) -> list[Interval]:
    """Return intervals that cover ``before``, ``known`` and ``newest``: ``before`` itself where it covers all.

    Otherwise the older ones are merged, and the newest stands last by itself.
    """
    wanted = [] if newest is None else [newest]
    lost = _uncovered(known, [*before, *wanted])
    if not lost and not _uncovered(wanted, before):
        return list(before) if newest is None else merged(before)
    older = _uncovered(merged([*before, *lost]), wanted)
    return older + _uncovered(wanted, older)


def _uncovered(intervals: Iterable[Interval], by: Iterable[Interval]) -> list[Interval]:
    """Return the intervals that do not lie within ``by``."""
    cover = merged(by)
    return [one for one in intervals if not any(start <= one[0] and one[1] <= end for start, end in cover)]


# --- our table -------------------------------------------------------------------------------------------------------


def add(connection: Connection, project: str, view: str, interval: Interval) -> None:
    """Note that a view has been materialized for an interval."""
    start, end = interval
    intervals = TimestamptzMultirange([TimestamptzRange(start, end + MICROSECOND, "[)")])
    connection.execute(
        query("materialize", "add_intervals"), {"project": project, "view": view, "intervals": intervals}
    )


def noted(connection: Connection, project: str) -> dict[str, list[Interval]]:
    """Return what the views of a project have been materialized for."""
    rows = connection.execute(query("materialize", "intervals_of_project"), {"project": project})
    return {view: [(one.lower, one.upper - MICROSECOND) for one in intervals] for view, intervals in rows}


def forget(connection: Connection, project: str, views: Sequence[str]) -> None:
    """Forget what views have been materialized for: they are gone, and may come back empty."""
    connection.execute(query("materialize", "forget_intervals"), {"project": project, "views": list(views)})


# --- Feast's registry ------------------------------------------------------------------------------------------------


def settle(
    connection: Connection,
    registry: BaseRegistry,
    project: str,
    views: Sequence[str],
    *,
    newest: Mapping[str, Interval],
    now: datetime,
) -> dict[str, list[Interval]]:
    """Bring the registry to what our table says of views, and return the intervals it has then.

    ``newest`` are the intervals of runs that have just succeeded; their views become servable, and so does any that
    Feast, or a run that was killed, left in the state MATERIALIZING. In a registry other than a file or SQL Feast's own
    method appends the intervals.
    """
    with lock(connection, f"registry {project}", WAIT):
        ours = noted(connection, project)
        mine = {view: ours.get(view, []) for view in views}
        if isinstance(registry, SqlRegistry):
            return _settle_sql(registry, project, mine, newest, now)
        if isinstance(registry, Registry):
            # All of a file is written at once, and so may any of its views have been overwritten.
            readable = _read_file(registry, project, views)
            return _settle_file(registry, project, ours | mine, newest, now) if readable else {}
        for view, (start, end) in newest.items():
            registry.apply_materialization(registry.get_any_feature_view(view, project), project, start, end)
    return {}


def _settle_sql(
    registry: SqlRegistry,
    project: str,
    ours: Mapping[str, list[Interval]],
    newest: Mapping[str, Interval],
    now: datetime,
) -> dict[str, list[Interval]]:
    found: dict[str, list[Interval]] = {}
    changed = False
    with registry.write_engine.begin() as transaction:
        for table, message in ((feature_views, FeatureViewProto), (stream_feature_views, StreamFeatureViewProto)):
            mine = (table.c.project_id == project) & table.c.feature_view_name.in_(ours)
            columns = select(table.c.feature_view_name, table.c.feature_view_proto)
            for name, content in transaction.execute(columns.where(mine).with_for_update()).all():
                view = message.FromString(content)
                if _settle_view(view.meta, ours[name], newest.get(name), now):
                    this = (table.c.project_id == project) & (table.c.feature_view_name == name)
                    values = {
                        "feature_view_proto": view.SerializeToString(),
                        "last_updated_timestamp": int(now.timestamp()),
                    }
                    transaction.execute(update(table).where(this).values(values))
                    changed = True
                found[name] = _intervals(view.meta)
    if changed and registry.cache_mode == "sync":
        registry.refresh()
    return found


def _read_file(registry: Registry, project: str, views: Sequence[str]) -> bool:
    """Read a file registry until it holds the views; tell whether it does.

    Feast rewrites the file in place, and whoever reads it then finds an empty one, or half of it.
    """
    for attempt in range(READS):
        time.sleep(attempt * PAUSE)
        with contextlib.suppress(DecodeError):
            registry.refresh(project)
            content = registry.cached_registry_proto
            found = {view.spec.name for view in (*content.feature_views, *content.stream_feature_views)}
            if found.issuperset(views):
                return True
    return False


def _settle_file(
    registry: Registry, project: str, ours: Mapping[str, list[Interval]], newest: Mapping[str, Interval], now: datetime
) -> dict[str, list[Interval]]:
    content = registry.cached_registry_proto
    views = [
        view
        for view in (*content.feature_views, *content.stream_feature_views)
        if view.spec.project == project and view.spec.name in ours
    ]
    changes = [_settle_view(view.meta, ours[view.spec.name], newest.get(view.spec.name), now) for view in views]
    if any(changes):
        registry.commit()
    return {view.spec.name: _intervals(view.meta) for view in views}


def _settle_view(meta: Any, ours: Sequence[Interval], newest: Interval | None, now: datetime) -> bool:
    """Bring a view's metadata to its intervals; tell whether that changed anything."""
    before = _intervals(meta)
    wanted = extended(before, ours, newest)
    state = _state(meta.state, wanted, changed=wanted != before, available=newest is not None)
    if before == wanted and meta.state == state:
        return False
    del meta.materialization_intervals[:]
    for start, end in wanted:
        interval = meta.materialization_intervals.add()
        interval.start_time.FromDatetime(start)
        interval.end_time.FromDatetime(end)
    meta.state = state
    meta.last_updated_timestamp.FromDatetime(now)
    return True


def _state(state: int, intervals: Sequence[Interval], *, changed: bool, available: bool) -> int:
    """Return the state a view should have. Where intervals were lost, a stale copy came with a stale state."""
    if available or (intervals and (changed or state == FeatureViewState.MATERIALIZING)):
        return int(FeatureViewState.AVAILABLE_ONLINE)
    return int(FeatureViewState.GENERATED) if state == FeatureViewState.MATERIALIZING else state


def _intervals(meta: Any) -> list[Interval]:
    return [
        (interval.start_time.ToDatetime(UTC), interval.end_time.ToDatetime(UTC))
        for interval in meta.materialization_intervals
    ]
