"""Answers as pandas DataFrames."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from featurectl.core.serving.answer import Answer, OnlineRows
from featurectl.core.times import iso

if TYPE_CHECKING:
    import pandas as pd

KEYS = ("entity_id", "symbol", "timeframe")


def online_frame(answer: Answer, *, with_status: bool = False) -> pd.DataFrame:
    """Return a row for each entity, and in ``attrs`` what its values are worth."""
    import pandas as pd

    rows = OnlineRows(answer)
    frame = pd.DataFrame(list(rows), columns=[*KEYS, "event_timestamp", *answer.features])
    frame["event_timestamp"] = pd.to_datetime(frame["event_timestamp"], utc=True)
    statuses, ages = rows.statuses, rows.ages
    if with_status:
        frame["source"] = [_sources(entity) for entity in answer.by_entity()]
        frame["age_seconds"] = [max((age for age in one.values() if age is not None), default=None) for one in ages]
        for name in answer.features:
            frame[f"{name}__status"] = [one[name] for one in statuses]
    frame.attrs = {
        "source": rows.source,
        "sources": {view.view.name: str(view.source) for view in answer.views},
        "degraded": rows.degraded,
        "statuses": statuses,
        "ages": ages,
        "as_of": iso(answer.request.as_of),
        "notes": list(answer.notes),
    }
    return frame


def _sources(entity: Any) -> str:
    return "+".join(dict.fromkeys(view.source for view in entity.views))
