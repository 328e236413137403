"""A view's rows held to what its tags ask: one pass for counts, least and greatest, one for values that stay."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from psycopg import sql

from featurectl.core import sources
from featurectl.core.catalog import Field
from featurectl.core.checks.expectations import Expectation, FeatureRule
from featurectl.core.checks.pooling import Fault, Judged, faults_of, number
from featurectl.core.checks.report import Offence
from featurectl.core.checks.rows import Key, Rows
from featurectl.core.freshness import name_of_key
from featurectl.core.queries import query

# Features of these are fed from outside: who never brings in news has none, and that is no fault.
_FED = ("ticks", "signals")
_ENDS = {FeatureRule.MIN: ("<", "min"), FeatureRule.MAX: (">", "max")}


@dataclass(slots=True)
class _Totals:
    """Of one entity: its rows, and of each feature how many values there are, the least and the greatest."""

    key: Key
    rows: int
    first: datetime
    last: datetime
    values: dict[str, tuple[int, float | None, float | None]]
    # Of features with a warm-up: rows in it, and the last of them.
    warmups: dict[str, tuple[int, datetime | None]] = field(default_factory=dict)

    def counted(self, feature: str) -> int:
        """Return the rows that a feature's nulls are a share of."""
        return self.rows - self.warmups.get(feature, (0, None))[0]

    def nulls(self, feature: str) -> int:
        return self.counted(feature) - self.values[feature][0]


class ViewCheck:
    """The expectations of one view, held to its rows."""

    def __init__(self, rows: Rows, expectations: Sequence[Expectation]) -> None:
        self._rows, self._view = rows, rows.view
        self._asked = [one for one in expectations if one.rule is not FeatureRule.FRESHNESS]
        names = dict.fromkeys(one.feature for one in self._asked)
        self._fields = {name: found for name in names if (found := self._view.field(name))}
        self._totals: list[_Totals] = []
        self._runs: dict[str, list[Fault]] = {}

    def judge(self) -> Iterator[tuple[Expectation, Judged]]:
        """Hold the rows to every expectation but freshness."""
        if not self._asked:
            return
        self._totals = self._read_totals()
        self._read_warmups()
        self._runs = self._read_runs()
        for one in self._asked:
            yield one, self._judged(one)

    def _judged(self, one: Expectation) -> Judged:
        ways = {
            FeatureRule.MAX_NULL_SHARE: self._null_share,
            FeatureRule.UNIQUE: self._unique,
            FeatureRule.MAX_STUCK: self._stuck,
        }
        found = ways.get(one.rule, self._range)(one)
        entities, rows = len(self._totals), sum(total.rows for total in self._totals)
        return Judged(
            **{
                "view": self._view,
                "feature": one.feature,
                "rule": one.rule,
                "severity": one.severity,
                "limit": one.limit,
                "entities": entities,
                "rows": rows,
                **found,
            }
        )

    # --- what is read ------------------------------------------------------------------------------------------------

    def _read_totals(self) -> list[_Totals]:
        features = (self._total_of(one) for one in self._fields.values())
        found = self._rows.execute("totals", features=_each(features))
        return [self._totals_of(*row) for row in found if row[1]]

    def _total_of(self, one: Field) -> sql.Composable:
        if not self._rows.is_number(one):
            return sql.SQL("count({}), NULL::float8, NULL::float8").format(self._rows.value(one))
        value = self._rows.shown(one)
        return sql.SQL("count({value}), min({value}), max({value})").format(value=value)

    def _totals_of(self, key: Sequence[str], rows: int, first: datetime, last: datetime, *values: Any) -> _Totals:
        each = zip(values[::3], values[1::3], values[2::3], strict=True)
        return _Totals(tuple(key), rows, first, last, dict(zip(self._fields, each, strict=True)))

    def _read_warmups(self) -> None:
        """Find the rows that lack values because an entity's series begins there."""
        asked = {one.feature: one.warmup for one in self._asked if one.warmup}
        lacking = [one for one in self._totals if any(one.nulls(name) for name in asked)]
        if not lacking:
            return
        names = list(asked)
        ends: dict[str, list[datetime | None]] = {
            "since": [one.first for one in lacking],
            "until": [one.last for one in lacking],
        }
        found = self._rows.execute(
            "warmups",
            **self._rows.listed([one.key for one in lacking], **ends),
            source=sources.source(self._view),  # its beginning, whatever is looked at
            texts=_texts_of_named(self._rows),
            rows=sql.Literal(max(asked.values())),
            columns=_each(
                sql.SQL("{} AS {}").format(self._rows.value(self._fields[name]), _place("v", index))
                for index, name in enumerate(names)
            ),
            seen=_each(
                sql.SQL("bool_or({} IS NOT NULL) OVER (ORDER BY place) AS {}").format(
                    _place("v", index), _place("seen", index)
                )
                for index in range(len(names))
            ),
            features=sql.SQL("").join(
                query("checks", "warmup_of_feature").format(seen=_place("seen", index), rows=sql.Literal(asked[name]))
                for index, name in enumerate(names)
            ),
        )
        by_key = {one.key: one for one in lacking}
        for key, *values in found:
            each = zip(values[::2], values[1::2], strict=True)
            by_key[tuple(key)].warmups = dict(zip(names, each, strict=True))

    def _read_runs(self) -> dict[str, list[Fault]]:
        """Find the runs of one value in one pass: by feature, the longest of each entity, and what is too long."""
        asked = [one for one in self._asked if one.rule is FeatureRule.MAX_STUCK]
        if not asked:
            return {}
        parts = (
            query("checks", "runs_by_entity").format(
                number=sql.Literal(index), limit=sql.Literal(int(one.limit or 0)), runs=_runs_of(index)
            )
            for index, one in enumerate(asked)
        )
        found: dict[str, list[Fault]] = {one.feature: [] for one in asked}
        for index, *fault in self._compare(asked, sql.SQL(" UNION ALL ").join(parts)):
            found[asked[index].feature] += faults_of([fault])
        return found

    def _compare(
        self, asked: Sequence[Expectation], runs: sql.Composable, *further: sql.Composable
    ) -> Iterable[tuple[Any, ...]]:
        keys = range(len(self._view.join_keys))
        values = [self._rows.value(self._fields[one.feature]) for one in asked]
        order = [sources.column(self._view.timestamp_column)]
        if self._view.computed_from is None and self._view.created_column:
            order.append(sources.column(self._view.created_column))
        partition = sql.SQL("PARTITION BY {} ").format(self._rows.group) if keys else sql.SQL("")
        return self._rows.execute(
            "compared",
            chosen=sources.conjunction([self._rows.chosen, *further]),
            entity=sql.SQL("ARRAY[{}]::text[]").format(
                sources.commas(sql.SQL("{}::text").format(_place("k", index)) for index in keys)
            ),
            keys=sql.SQL("").join(
                sql.SQL("{} AS {}, ").format(sources.column(key), _place("k", index))
                for index, key in enumerate(self._view.join_keys)
            ),
            same=_each(
                sql.SQL("{value} = lag({value}) OVER series AS {name}").format(value=value, name=_place("same", index))
                for index, value in enumerate(values)
            ),
            partition=partition,
            order=sources.commas(order),
            any=sql.SQL(" OR ").join(_place("same", index) for index in range(len(values))),
            runs=runs,
        )

    # --- rules -------------------------------------------------------------------------------------------------------

    def _range(self, one: Expectation) -> dict[str, Any]:
        column = 1 if one.rule is FeatureRule.MIN else 2
        extremes = [value for total in self._totals if (value := total.values[one.feature][column]) is not None]
        is_least = one.rule is FeatureRule.MIN
        worst = (min if is_least else max)(extremes, default=None)
        limit = one.limit or 0.0
        at_fault = worst is not None and (worst < limit if is_least else worst > limit)
        faults = self._at_fault(one) if at_fault else []
        return {"faults": faults, "worst": worst, "is_least": is_least}

    def _at_fault(self, one: Expectation) -> list[Fault]:
        value = self._rows.shown(self._fields[one.feature])
        worst = sql.SQL("{}({})").format(sql.SQL(_ENDS[one.rule][1]), value)
        return faults_of(self._rows.execute("at_fault", fault=self._beyond(one), worst=worst))

    def _beyond(self, one: Expectation) -> sql.Composable:
        value = self._rows.shown(self._fields[one.feature])
        return sql.SQL("{} {} {}").format(value, sql.SQL(_ENDS[one.rule][0]), sql.Literal(one.limit))

    def _null_share(self, one: Expectation) -> dict[str, Any]:
        counted = {total.key: total.counted(one.feature) for total in self._totals}
        nulls = {total.key: total.nulls(one.feature) for total in self._totals}
        shares = {key: nulls[key] / rows for key, rows in counted.items() if rows}
        unfed = self._view.computed_from in _FED and bool(shares) and min(shares.values()) == 1
        note = "no row has a value, as where nobody brings it in" if unfed else None
        faulty = [] if unfed else [key for key, share in shares.items() if share > (one.limit or 0.0)]
        ends: dict[Key, tuple[datetime, datetime]] = {}
        if faulty:
            found = self._rows.execute("at_fault", fault=self._lacking(one, faulty), worst=sql.SQL("NULL"))
            ends = {tuple(key): (first, last) for key, _, first, last, _ in found}
        return {
            "faults": [Fault(key, nulls[key], *ends[key], shares[key]) for key in faulty],
            "rows": sum(counted.values()),
            "worst": max(shares.values(), default=None),
            "offending": 0 if unfed else sum(nulls.values()),
            "note": note,
        }

    def _lacking(self, one: Expectation, keys: Sequence[Key]) -> sql.Composable:
        by_key = {total.key: total.warmups.get(one.feature, (0, None))[1] for total in self._totals}
        after = [by_key[key] for key in keys]
        listed = self._rows.listed(keys, after=after)
        value = self._rows.value(self._fields[one.feature])
        return query("checks", "lacks_value").format(**listed, value=value, event=self._rows.event)

    def _unique(self, one: Expectation) -> dict[str, Any]:
        found = self._rows.execute(
            "repeated", keys=self._rows.keys_before, value=self._rows.value(self._fields[one.feature])
        )
        faults = faults_of(found)
        return {"faults": faults, "worst": max((fault.worst or 0 for fault in faults), default=None)}

    def _stuck(self, one: Expectation) -> dict[str, Any]:
        found = self._runs[one.feature]
        has_values = any(total.values[one.feature][0] for total in self._totals)
        longest = max((fault.worst or 1 for fault in found), default=1.0 if has_values else None)
        return {"faults": [fault for fault in found if fault.rows], "worst": longest}

    # --- the rows at fault -------------------------------------------------------------------------------------------

    def offences(self, one: Expectation, judged: Judged, most: int) -> Iterator[Offence]:
        """Return the newest rows at fault."""
        keys = [fault.key for fault in judged.faults]
        conditions = {
            FeatureRule.MAX_NULL_SHARE: lambda: self._lacking(one, keys),
            FeatureRule.UNIQUE: lambda: self._is_repeated(one),
            FeatureRule.MAX_STUCK: lambda: self._is_in_run(one, keys, most),
        }
        value = self._rows.shown(self._fields[one.feature])
        fault = conditions.get(one.rule, lambda: self._beyond(one))()
        for key, at, shown in self._rows.execute("rows_at_fault", fault=fault, value=value, rows=sql.Literal(most)):
            told = number(shown) if isinstance(shown, float) else shown
            name = name_of_key(self._view, key)
            yield Offence(self._view.name, one.feature, str(one.rule), one.severity, name, at, told)

    def _is_repeated(self, one: Expectation) -> sql.Composable:
        value = self._rows.value(self._fields[one.feature])
        parts: Mapping[str, sql.Composable] = {"source": self._rows.relation, "chosen": self._rows.chosen}
        return query("checks", "is_repeated").format(**parts, keys=self._rows.keys_before, value=value)

    def _is_in_run(self, one: Expectation, keys: Sequence[Key], most: int) -> sql.Composable:
        listed = self._rows.listed(keys)
        those: sql.Composable = sql.SQL("TRUE")
        if self._view.join_keys:
            those = sql.SQL("({}) IN (SELECT * FROM unnest({}))").format(self._rows.group, listed["values"])
        runs = query("checks", "long_runs").format(
            runs=_runs_of(0), limit=sql.Literal(int(one.limit or 0)), rows=sql.Literal(most)
        )
        found = list(self._compare([one], runs, those))
        ends: dict[str, list[datetime | None]] = {
            "since": [first for _, first, _ in found],
            "until": [last for _, _, last in found],
        }
        runs_of = self._rows.listed([tuple(key) for key, _, _ in found], **ends)
        return query("checks", "is_in_run").format(**runs_of, event=self._rows.event)


def _each(parts: Iterable[sql.Composable]) -> sql.Composable:
    """Join parts with a comma before each."""
    return sql.SQL("").join(sql.SQL(", {}").format(part) for part in parts)


def _place(name: str, index: int) -> sql.Identifier:
    return sql.Identifier(f"{name}{index}")


def _runs_of(index: int) -> sql.Composable:
    return query("checks", "runs").format(same=_place("same", index))


def _texts_of_named(rows: Rows) -> sql.Composable:
    """Return the keys of named entities as an array of texts."""
    columns = (sql.SQL("e.{}::text").format(_place("k", index)) for index in range(len(rows.view.join_keys)))
    return sql.SQL("ARRAY[{}]::text[]").format(sources.commas(columns))
