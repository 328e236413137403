"""Answers and training sets as pandas DataFrames, whose columns have the types of their definitions.

Floats are float64 or float32 with NaN for null, integers and booleans pandas' nullable types, times UTC; the rest are
Python objects.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Self

from featurectl.core.serving.answer import Answer, EntityFeatures, OnlineRows
from featurectl.core.times import iso
from featurectl.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    from featurectl.core.checks.report import Outcome
    from featurectl.core.statistics.describe import FeatureStatistics
    from featurectl.core.statistics.drift import Drift

KEYS = ("entity_id", "symbol", "timeframe")
_TIME = "datetime64[us, UTC]"
# By the types of PostgreSQL's columns, and by those of a report's fields; everything else is an object.
_TYPES = {
    "double precision": "float64",
    "real": "float32",
    "bigint": "Int64",
    "integer": "Int32",
    "boolean": "boolean",
    "timestamp with time zone": _TIME,
    "int": "int64",
    "float | None": "float64",
    "datetime | None": _TIME,
}


class _ByRow(list[Any]):
    """What ``attrs`` say of each row. pandas copies them deeply at nearly every step, and they do not change."""

    def __deepcopy__(self, _: object) -> Self:
        return self

    def __reduce__(self) -> tuple[type[list[Any]], tuple[list[Any]]]:
        # Who unpickles a DataFrame need not have featurectl.
        return list, (list(self),)


def online_frame(answer: Answer, *, with_status: bool = False) -> pd.DataFrame:
    """Return a row for each entity, and in ``attrs`` what its values are worth."""
    import pandas as pd

    rows = OnlineRows(answer)
    columns = {name: _column([row[name] for row in rows], "text") for name in KEYS}
    columns["event_timestamp"] = _column([row["event_timestamp"] for row in rows], "datetime | None")
    for view in answer.views:
        for name in view.features:
            field = view.view.field(name)
            columns[name] = _column([row[name] for row in rows], field.column_type if field else "")
    statuses, ages = _ByRow(rows.statuses), _ByRow(rows.ages)
    if with_status:
        columns |= _status_columns(answer, statuses, ages)
    frame = pd.DataFrame(columns)
    frame.attrs = {
        "source": rows.source,
        "sources": {view.view.name: "+".join(view.sources) for view in answer.views},
        "degraded": rows.degraded,
        "statuses": statuses,
        "ages": ages,
        "as_of": iso(answer.request.as_of),
        "notes": list(answer.notes),
    }
    return frame


def _status_columns(
    answer: Answer, statuses: Sequence[Mapping[str, str]], ages: Sequence[Mapping[str, float | None]]
) -> dict[str, pd.Series[Any]]:
    oldest = [max((age for age in one.values() if age is not None), default=None) for one in ages]
    columns = {
        "source": _column([_sources(entity) for entity in answer.by_entity()], "text"),
        "age_seconds": _column(oldest, "float | None"),
        **{f"{name}__status": _column([str(one[name]) for one in statuses], "text") for name in answer.features},
    }
    if clash := columns.keys() & set(answer.features):
        raise UsageError(f"with_status has a column '{min(clash)}', which is a feature asked for; take it from attrs")
    return columns


def _column(values: Sequence[Any], kind: str) -> pd.Series[Any]:
    """Return values as a column of the type that ``kind`` stands for."""
    import pandas as pd

    column = pd.Series(values, dtype=_TYPES.get(kind, "object"))
    return _in_nanoseconds(column) if column.dtype == _TIME else column


def _in_nanoseconds(times: pd.Series[Any]) -> pd.Series[Any]:
    """Return times in the unit of other DataFrames, without which pandas joins nothing as of them.

    Those of a column with one that nanoseconds can't hold, before 1677 or after 2262, stay microseconds.
    """
    import pandas as pd

    try:
        return pd.Series(times.dt.as_unit("ns"))
    except pd.errors.OutOfBoundsDatetime:
        return times


def _sources(entity: EntityFeatures) -> str:
    return "+".join(dict.fromkeys(view.source for view in entity.views))


# --- training sets ---------------------------------------------------------------------------------------------------


def training_frame(table: pa.Table, features: Sequence[str], spine: pd.DataFrame | None) -> pd.DataFrame:
    """Return a training set: the columns of ``table``, or beside its features the rows of the spine it is for."""
    import pandas as pd

    found = _frame(table.select(list(features)), nullable=True)
    given = _frame(table.drop_columns(list(features)), nullable=False)
    if spine is None:
        return pd.concat([given, found], axis="columns")
    frame = spine.copy()
    for name in given.columns.intersection(frame.columns):
        if isinstance(given[name].dtype, pd.DatetimeTZDtype):
            frame[name] = given[name].array
    return pd.concat([frame, found.set_axis(frame.index)], axis="columns")


def _frame(table: pa.Table, *, nullable: bool) -> pd.DataFrame:
    import pandas as pd
    import pyarrow as pa

    types = {
        pa.int64(): pd.Int64Dtype(),
        pa.int32(): pd.Int32Dtype(),
        pa.int16(): pd.Int16Dtype(),
        pa.bool_(): pd.BooleanDtype(),
    }
    frame: pd.DataFrame = table.to_pandas(types_mapper=types.get if nullable else None)
    for name, kind in frame.dtypes.items():
        if isinstance(kind, pd.DatetimeTZDtype):
            frame[name] = _in_nanoseconds(frame[name])
    return frame


# --- reports ---------------------------------------------------------------------------------------------------------


def _moved(one: FeatureStatistics, known: Mapping[tuple[str, str, str | None], Drift]) -> Drift | None:
    """Return how far a feature of an entity, a timeframe or, where there is one, all entities has moved."""
    from featurectl.core.statistics.profile import pooled

    if one.entity or one.timeframe:
        return known.get((one.view, one.feature, one.entity or pooled(one.timeframe)))
    ours = (drift for drift in known.values() if (drift.view, drift.feature) == (one.view, one.feature))
    found = [drift for drift in ours if drift.is_pooled]
    return found[0] if len(found) == 1 else None


def drift_frame(statistics: Sequence[FeatureStatistics], drifts: Sequence[Drift]) -> pd.DataFrame:
    """Return, in rows like those of statistics, how far each feature has moved; nothing for what was not compared."""
    import pandas as pd

    known = {(one.view, one.feature, one.entity): one for one in drifts}
    ours = [_moved(one, known) for one in statistics]
    data: dict[str, Any] = {"drift": pd.Series([one and str(one.verdict) for one in ours], dtype="object")}
    for name in ("psi", "chance", "ks", "js", "wasserstein"):
        data[name] = pd.Series([getattr(one, name, None) for one in ours], dtype="float64")
    data["began"] = pd.Series([one.began if one else None for one in ours], dtype="object")
    return pd.DataFrame(data)


def check_frame(statistics: Sequence[FeatureStatistics], outcomes: Sequence[Outcome]) -> pd.DataFrame:
    """Return, in rows like those of statistics, the worst verdict of a feature's rules and its view's, and findings.

    Both are ``None`` where nothing is asked of it; findings also where nothing is found.
    """
    import pandas as pd

    from featurectl.core.checks.report import Verdict, describe

    verdicts, findings = list[str | None](), list[str | None]()
    for one in statistics:
        ours = [other for other in outcomes if other.view == one.view and other.feature in (one.feature, "")]
        bad = [other for other in ours if other.verdict is not Verdict.OK]
        verdicts.append(str(max((other.verdict for other in ours), key=list(Verdict).index)) if ours else None)
        findings.append("; ".join(map(describe, bad)) or None)
    return pd.DataFrame({"check": pd.Series(verdicts, dtype="object"), "findings": pd.Series(findings, dtype="object")})


def report_frame(kind: type, results: Sequence[Any], columns: Mapping[str, str] | None = None) -> pd.DataFrame:
    """Return a row for each result, a dataclass ``kind``; ``columns`` name those of its fields that are wanted."""
    import pandas as pd

    kinds = {field.name: str(field.type) for field in fields(kind)}
    chosen = columns or {name: name for name in kinds}
    return pd.DataFrame(
        {name: _column([getattr(one, of) for one in results], kinds[of]) for name, of in chosen.items()}
    )
