"""Checks: every figure is what pandas makes of the rows, every planted fault is found, clean data raise nothing."""

from __future__ import annotations

import itertools
import math
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from psycopg import sql

from featurectl.core.candles import CandleSeries, read_candles
from featurectl.core.catalog import Catalog, Field, Selection, View, read_catalog
from featurectl.core.checks import CheckReport, CheckSettings, Outcome, Severity, Verdict, describe, run_checks
from featurectl.core.checks.settings import CANDLE_DEFAULTS, CandleCheck, CandleRule
from featurectl.core.db import Connection, open_connection
from featurectl.core.entity import TIMEFRAMES, EntityId
from featurectl.core.functions import load_functions
from featurectl.core.gaps import FOREVER, declare
from featurectl.core.synthetic import generate
from featurectl.core.times import ALWAYS, Window
from featurectl.errors import InvalidEntityId, NotFound, PartlyDone, SchemaMissing, UsageError
from tests.fix_database import create_database, drop_database
from tests.fix_repository import CHECKOUT, DATA, needs_data
from tests.market import FEATURES, START, TECHNICAL, VIEW

HOUR = timedelta(hours=1)
NOW = START + timedelta(days=60)
CANDLES = "market.candles"
ODD = "odd_view"


@pytest.fixture(scope="module")
def database(server: str, template: str) -> Iterator[Connection]:
    """One database for all tests of the core; each begins with an empty market."""
    name = f"featurectl_test_checks_{uuid.uuid4().hex[:12]}"
    with open_connection(create_database(server, name, template), connect_timeout=10) as connection:
        connection.prepare_threshold = None  # tests make tables of one name with other columns
        yield connection
    drop_database(server, name)


@pytest.fixture(scope="module")
def catalog(database: Connection) -> Catalog:
    return read_catalog(database, "market")


@pytest.fixture
def connection(database: Connection) -> Connection:
    tables = "market.candles, featurectl.known_absent, features.technical_indicators, features.market_features"
    database.execute(f"TRUNCATE {tables}, features.sentiment_features".encode())
    database.execute("DROP SCHEMA IF EXISTS odd CASCADE")
    return database


def put(connection: Connection, table: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    names = sql.SQL(", ").join(map(sql.Identifier, columns))
    statement = sql.SQL("COPY {} ({}) FROM STDIN").format(sql.Identifier(*table.split(".")), names)
    with connection.cursor() as cursor, cursor.copy(statement) as copy:
        for row in rows:
            copy.write_row(row)


def found_by(report: CheckReport) -> dict[tuple[str, str], Outcome]:
    """Return outcomes by target and rule, each of which is there once."""
    found = {(one.feature or one.view, one.rule): one for one in report.outcomes}
    assert len(found) == len(report.outcomes)
    return found


# --- against pandas --------------------------------------------------------------------------------------------------

KINDS = {"f": "double precision", "r": "real", "n": "bigint", "t": "text"}
# Rows at a beginning that may lack a value.
WARMUPS = {"f": 4, "t": 6}
TAGS = {
    "f": {"min": "-1", "max": "1", "max_null_share": "0.3", "max_stuck": "2", "unique": "true", "warmup": "4"},
    "r": {"min": "-0.5", "max_null_share": "0.1", "max_stuck": "1"},
    "n": {"max": "2", "max_stuck": "3", "unique": "true"},
    "t": {"max_null_share": "0.2", "max_stuck": "2", "unique": "true", "warmup": "6"},
}


def odd_view(catalog: Catalog, **changes: Any) -> View:
    """Return a view over odd.rows, which nothing computes."""
    fields = tuple(Field(name, "Any", KINDS[name], name, "", dict(own)) for name, own in TAGS.items())
    named = {"source_table": "odd.rows", "timestamp_column": "at", "created_column": None, "computed_from": None}
    return replace(catalog.view(VIEW), **{"name": ODD, "fields": fields, **named, **changes})


def whole(view: View) -> list[Selection]:
    return [Selection(view, tuple(field.name for field in view.fields))]


def random_rows(seed: int) -> pd.DataFrame:
    """Return rows of several series with ties, nulls, NaN, infinities, holes, and nulls at their beginnings."""
    random = np.random.default_rng(seed)
    parts = []
    for symbol, timeframe in itertools.product("ABC", ("1h", "4h")):
        count = int(random.choice([0, 1, 3, 40, 90], p=[0.1, 0.1, 0.1, 0.3, 0.4]))
        hours = np.sort(random.choice(120, count, replace=False))
        rough = random.choice([0.0, 0.2, 0.9])  # how often a value stays
        columns: dict[str, list[Any]] = {}
        for name in KINDS:
            values: list[Any] = []
            lacking = int(random.integers(0, 7))
            for place in range(count):
                fresh = {
                    "f": random.choice([random.normal(0, 0.4), round(random.normal(0, 0.4), 1), math.inf, math.nan]),
                    "r": float(np.float32(random.normal(0, 0.3))),
                    "n": int(random.integers(-3, 4)),
                    "t": str(random.choice(list("xyz"))),
                }[name]
                value = values[-1] if values and random.random() < rough else fresh
                values.append(None if place < lacking or random.random() < 0.15 else value)
            columns[name] = values
        keys = {"symbol": symbol, "timeframe": timeframe, "at": [START + int(hour) * HOUR for hour in hours]}
        parts.append(pd.DataFrame({**keys, **{name: pd.Series(of, dtype=object) for name, of in columns.items()}}))
    return pd.concat([part for part in parts if len(part)], ignore_index=True)


def write_rows(connection: Connection, frame: pd.DataFrame, kind: str = "timestamptz") -> None:
    columns = ", ".join(f"{name} {of}" for name, of in KINDS.items())
    connection.execute("CREATE SCHEMA odd")
    connection.execute(f"CREATE TABLE odd.rows (symbol text, timeframe text, at {kind}, {columns})".encode())
    rows = [[None if one is pd.NaT else one for one in row] for row in frame.itertuples(index=False)]
    put(connection, "odd.rows", frame.columns, rows)


def is_null(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


@dataclass(frozen=True)
class Expected:
    """What pandas says of a rule: offending rows by entity, rows looked at, and the worst measure."""

    at_fault: dict[str, list[datetime]]
    rows: int
    worst: float | None
    offending: int | None = None


def expected(frame: pd.DataFrame, looked_at: pd.DataFrame, name: str, rule: str, limit: float | None) -> Expected:
    """Judge a rule row by row, the plain way."""
    at_fault: dict[str, list[datetime]] = {}
    measures: list[float] = []
    rows = offending = 0
    for (symbol, timeframe), part in looked_at.groupby(["symbol", "timeframe"]):
        values, times = part[name].tolist(), [at.to_pydatetime() for at in part["at"]]
        bad: list[datetime] = []
        if rule in ("min", "max"):
            known = [(value, at) for value, at in zip(values, times, strict=True) if not is_null(value)]
            measures += [float(value) for value, _ in known]
            bad = [at for value, at in known if (value < limit if rule == "min" else value > limit)]  # type: ignore[operator]
        elif rule == "unique":
            counts = pd.Series([value for value in values if not is_null(value)], dtype=object).value_counts()
            measures += [float(count) for count in counts if count > 1]
            bad = [at for value, at in zip(values, times, strict=True) if not is_null(value) and counts[value] > 1]
        elif rule == "max_stuck":
            for _, run in itertools.groupby(range(len(values)), key=run_numbers(values)):
                places = list(run)
                if not is_null(values[places[0]]):
                    measures.append(float(len(places)))
                    bad += [times[place] for place in places] if len(places) > limit else []  # type: ignore[operator]
        else:
            whole = frame[(frame.symbol == symbol) & (frame.timeframe == timeframe)]
            excused = set()
            for value, at in list(zip(whole[name], whole["at"], strict=True))[: WARMUPS.get(name, 0)]:
                if not is_null(value):
                    break
                excused.add(at)
            counted = [(value, at) for value, at in zip(values, times, strict=True) if at not in excused]
            nulls = [at for value, at in counted if is_null(value)]
            rows, offending = rows + len(counted), offending + len(nulls)
            if counted:
                measures.append(len(nulls) / len(counted))
                bad = nulls if measures[-1] > limit else []  # type: ignore[operator]
        if bad:
            at_fault[f"{symbol}_{timeframe}"] = bad
    worst = (min if rule == "min" else max)(measures, default=None)
    if rule == "max_null_share":
        return Expected(at_fault, rows, worst, offending)
    return Expected(at_fault, len(looked_at), worst)


def run_numbers(values: Sequence[Any]) -> Callable[[int], int]:
    """Number the runs of equal values; a null is like no other."""
    numbers, number = [], 0
    for place, value in enumerate(values):
        if place and (is_null(value) or value != values[place - 1]):
            number += 1
        numbers.append(number)
    return lambda place: numbers[place]


SCOPES: list[dict[str, Any]] = [
    {},
    {"window": Window(START + 20 * HOUR, START + 80 * HOUR)},
    {"window": Window(None, START + 10 * HOUR), "entities": ["A", "C_4h"]},
    {"recent": 7},
    {"recent": 9, "entities": ["B_1h", "B_4h", "A"]},
]


def within(
    frame: pd.DataFrame, window: Window = ALWAYS, entities: Sequence[str] = (), recent: int | None = None
) -> Any:
    """Return the rows that a scope holds."""
    names = frame.symbol + "_" + frame.timeframe
    chosen = frame[(frame.symbol.isin(entities) | names.isin(entities)) if entities else names.notna()]
    if window.start:
        chosen = chosen[chosen["at"] >= window.start]
    if window.end:
        chosen = chosen[chosen["at"] <= window.end]
    return chosen if recent is None else chosen.groupby(["symbol", "timeframe"]).tail(recent)


@pytest.mark.parametrize("scope", SCOPES, ids=lambda scope: "-".join(scope) or "all")
@pytest.mark.parametrize("seed", range(6))
def test_every_figure_is_that_of_pandas(connection: Connection, catalog: Catalog, seed: int, scope: Any) -> None:
    frame = random_rows(seed)
    there = set(frame.symbol) | set(frame.symbol + "_" + frame.timeframe)
    if "entities" in scope:
        scope = {**scope, "entities": [one for one in scope["entities"] if one in there]}
    write_rows(connection, frame)
    view = odd_view(catalog)
    report = run_checks(connection, catalog, whole(view), now=NOW, rows=1000, **scope)
    assert (report.unreadable, report.total) == ([], 1)
    looked_at = within(frame, **scope)
    found = found_by(report)
    assert {rule for _, rule in found} == {"min", "max", "max_null_share", "unique", "max_stuck"}
    for (name, rule), one in found.items():
        limit = None if rule == "unique" else float(TAGS[name][rule])
        wanted = expected(frame, looked_at, name, rule, limit)
        told = sum(map(len, wanted.at_fault.values()))
        instants = [at for times in wanted.at_fault.values() for at in times]
        place = (seed, scope, name, rule)
        assert (one.rows, one.limit) == (wanted.rows, limit), place
        assert one.entities == len(looked_at.groupby(["symbol", "timeframe"])), place
        assert one.offending == (told if wanted.offending is None else wanted.offending), place
        assert one.share == (pytest.approx(one.offending / one.rows) if one.rows else None), place
        assert one.worst == (None if wanted.worst is None else pytest.approx(wanted.worst, rel=1e-6)), place
        assert one.entities_offending == len(wanted.at_fault), place
        assert (one.first, one.last) == (min(instants, default=None), max(instants, default=None)), place
        severity = Verdict.WARN if rule == "max_stuck" else Verdict.FAIL
        assert one.verdict is (severity if wanted.at_fault else Verdict.OK), place
        assert (one.worst_entity in wanted.at_fault) if wanted.at_fault else one.worst_entity is None, place
        listed = [(each.entity, each.at) for each in report.offences if (each.feature, each.rule) == (name, rule)]
        assert sorted(listed) == sorted((key, at) for key, times in wanted.at_fault.items() for at in times), place
        assert [at for _, at in listed] == sorted((at for _, at in listed), reverse=True), "newest first"


def test_the_worst_entity_is_the_one_with_the_worst_measure(connection: Connection, catalog: Catalog) -> None:
    rows = pd.DataFrame(
        [
            (symbol, "1h", START + hour * HOUR, value, None, None, None)
            for symbol, values in {"A": [2, 3, 3], "B": [9, 0, 0], "C": [0, None, None, None]}.items()
            for hour, value in enumerate(values)
        ],
        columns=["symbol", "timeframe", "at", *KINDS],
    ).astype(object)
    write_rows(connection, rows.where(rows.notna(), None))
    found = found_by(run_checks(connection, catalog, whole(odd_view(catalog)), now=NOW))
    assert (found["f", "max"].worst_entity, found["f", "max"].worst, found["f", "max"].offending) == ("B_1h", 9, 4)
    assert (found["f", "max_null_share"].worst_entity, found["f", "max_null_share"].worst) == ("C_1h", 0.75)
    assert describe(found["f", "max"]) == "odd_view:f max: 4 of 10 rows, limit 1, worst 9 (B_1h)"


def test_so_many_rows_are_listed_of_each_rule(connection: Connection, catalog: Catalog) -> None:
    write_rows(connection, random_rows(3))
    every = run_checks(connection, catalog, whole(odd_view(catalog)), now=NOW, rows=1000).offences
    some = run_checks(connection, catalog, whole(odd_view(catalog)), now=NOW, rows=3).offences
    groups = itertools.groupby(every, key=lambda one: (one.feature, one.rule))
    assert some == [one for _, group in groups for one in list(group)[:3]]


# --- other views than ours -------------------------------------------------------------------------------------------


def test_a_query_with_times_that_have_no_zone_is_checked(connection: Connection, catalog: Catalog) -> None:
    frame = random_rows(1)
    write_rows(connection, frame)
    given = whole(odd_view(catalog))
    wanted = run_checks(connection, catalog, given, Window(START + 9 * HOUR, NOW), now=NOW, rows=50)
    query = "SELECT r.*, r.at AT TIME ZONE 'UTC' AS naive FROM odd.rows AS r; -- in UTC"
    view = odd_view(catalog, source_table=None, source_query=query, timestamp_column="naive")
    connection.execute("SET timezone = 'Asia/Kolkata'")
    try:
        found = run_checks(connection, catalog, whole(view), Window(START + 9 * HOUR, NOW), now=NOW, rows=50)
    finally:
        connection.execute("SET timezone = 'UTC'")
    assert found.outcomes == wanted.outcomes and found.offences == wanted.offences
    assert found.findings


def test_a_view_without_entities_is_one_series(connection: Connection, catalog: Catalog) -> None:
    rows = [(START + hour * HOUR, value) for hour, value in enumerate([5.0, 5.0, 5.0, None, 7.0, -3.0])]
    connection.execute("CREATE SCHEMA odd")
    connection.execute("CREATE TABLE odd.rows (at timestamptz, f float8)")
    put(connection, "odd.rows", ["at", "f"], rows)
    tags = {"max_stuck": "2", "min": "0", "max_null_share": "0.1", "unique": "true", "freshness": "1h", "warmup": "2"}
    view = odd_view(catalog, join_keys=(), fields=(Field("f", "Float64", "double precision", "f", "", tags),))
    for scope in ({}, {"recent": 6}):
        report = run_checks(connection, catalog, whole(view), now=START + 7 * HOUR, rows=9, **scope)
        found = {rule: one for (_, rule), one in found_by(report).items()}
        assert {rule: (one.offending, one.worst, one.worst_entity) for rule, one in found.items()} == {
            "min": (1, -3, None),
            "max_null_share": (1, pytest.approx(1 / 6), None),
            "unique": (3, 3, None),
            "max_stuck": (3, 3, None),
            "freshness": (1, 2 * 3600, None),
        }
        assert {one.entity for one in report.offences} == {""}
        assert len(report.offences) == 9
    with pytest.raises(UsageError, match="keyed by nothing; ids give symbol and timeframe"):
        run_checks(connection, catalog, whole(view), now=NOW, entities=["A"])


def test_keys_of_other_names_and_types_are_joined_with_an_underscore(connection: Connection, catalog: Catalog) -> None:
    connection.execute("CREATE SCHEMA odd")
    connection.execute("CREATE TABLE odd.rows (shop bigint, Kind text, at timestamptz, f float8)")
    rows = [(shop, "x y", START + hour * HOUR, 2.0 if shop == 7 else None) for shop in (7, 8) for hour in range(4)]
    put(connection, "odd.rows", ["shop", "kind", "at", "f"], [*rows, (None, "x", START, 9.0)])
    tags = {"max": "1", "max_null_share": "0", "max_stuck": "1", "warmup": "2"}
    fields = (Field("f", "Float64", "double precision", "f", "", tags),)
    view = odd_view(catalog, join_keys=("shop", "kind"), fields=fields)
    for scope in ({}, {"recent": 4}):
        report = run_checks(connection, catalog, whole(view), now=NOW, rows=2, **scope)
        found = {rule: (one.offending, one.worst, one.worst_entity) for (_, rule), one in found_by(report).items()}
        assert found == {"max": (4, 2, "7_x y"), "max_null_share": (2, 1, "8_x y"), "max_stuck": (4, 4, "7_x y")}
        assert [one.entity for one in report.offences] == ["7_x y", "7_x y", "8_x y", "8_x y", "7_x y", "7_x y"]
    # Ids that say nothing of a view leave it out, unless it is named.
    put_clean(connection)
    those = replace(catalog, views=(*catalog.views, view))
    report = run_checks(connection, those, now=NOW, entities=["BTCUSDT"])
    assert ODD not in {one.view for one in report.outcomes} and not report.unreadable
    assert ODD in {one.view for one in run_checks(connection, those, now=NOW).outcomes}
    with pytest.raises(UsageError, match="view 'odd_view' is keyed by shop, kind"):
        run_checks(connection, those, whole(view), now=NOW, entities=["BTCUSDT"])


def test_other_types_are_compared_as_they_are(connection: Connection, catalog: Catalog) -> None:
    connection.execute("CREATE SCHEMA odd")
    kinds = {"big": "bigint", "exact": "numeric", "yes": "boolean", "list": "text[]", "doc": "json"}
    columns = ", ".join(f"{name} {kind}" for name, kind in kinds.items())
    connection.execute(f"CREATE TABLE odd.rows (symbol text, timeframe text, at timestamptz, {columns})".encode())
    near = [2**60, 2**60 + 1, 2**60 + 1]  # equal as float64
    rows = [("A", "1h", START + n * HOUR, big, "NaN", n > 0, ["x"], '{"a": 1}') for n, big in enumerate(near)]
    put(connection, "odd.rows", ["symbol", "timeframe", "at", *kinds], rows)
    tags = {"max_stuck": "1", "unique": "true", "max_null_share": "0.5"}
    view = odd_view(catalog, fields=tuple(Field(name, "Any", of, name, "", tags) for name, of in kinds.items()))
    report = run_checks(connection, catalog, whole(view), now=NOW, rows=1)
    found = {name: (one.offending, one.worst) for (name, rule), one in found_by(report).items() if rule == "max_stuck"}
    assert found == {"big": (2, 2), "exact": (0, None), "yes": (2, 2), "list": (3, 3), "doc": (3, 3)}
    assert found_by(report)["exact", "max_null_share"].share == 1
    assert found_by(report)["big", "unique"].offending == 2
    values = {one.feature: one.value for one in report.offences if one.rule == "max_stuck"}
    assert values == {"big": float(2**60), "yes": "true", "list": "{x}", "doc": '{"a": 1}'}


# --- what is chosen, and what is not there ---------------------------------------------------------------------------


def test_a_view_that_can_not_be_read_hides_no_other(connection: Connection, catalog: Catalog) -> None:
    put_clean(connection)
    gone, tagged = odd_view(catalog), replace(odd_view(catalog, source_table=CANDLES), name="tagged")
    tagged = replace(tagged, fields=(replace(tagged.fields[0], tags={"min": "low"}),))
    report = run_checks(connection, replace(catalog, views=(gone, *catalog.views, tagged)), now=NOW)
    assert [one.view for one in report.unreadable] == [ODD, "tagged"]
    assert isinstance(report.unreadable[0].error, SchemaMissing)
    assert str(report.unreadable[1].error) == "field 'f' has min=low; write a number"
    assert {one.view for one in report.outcomes} >= {CANDLES, VIEW} and not report.findings
    assert isinstance(report.failure, PartlyDone) and report.failure.exit_code == 5
    assert str(report.failure).startswith("2 of 6 views can't be checked: odd_view: ")
    alone = run_checks(connection, catalog, whole(gone), now=NOW)
    assert alone.failure is alone.unreadable[0].error


def test_composites_are_checked_where_they_are_named(connection: Connection, catalog: Catalog) -> None:
    put_clean(connection)
    connection.execute(feature("rsi_14 = 101").encode())
    once = [one for one in run_checks(connection, catalog, now=NOW).findings if one.rule == "max"]
    assert [one.view for one in once] == [VIEW], "and not again in the view that repeats it"
    composite = catalog.view("comprehensive_features_view")
    report = run_checks(connection, catalog, whole(composite), now=NOW)
    assert [(one.feature, one.rule, one.offending) for one in report.findings] == [("rsi_14", "max", 1)]
    assert {one.rule for one in report.outcomes} == {"min", "max"}


def test_what_declares_nothing_is_said_where_it_was_asked_for(connection: Connection, catalog: Catalog) -> None:
    write_rows(connection, random_rows(1))
    plain = odd_view(catalog, fields=(Field("f", "Float64", "double precision", "f", "", {"owner": "me"}),))
    assert run_checks(connection, catalog, whole(plain), now=NOW).undeclared == [ODD]
    report = run_checks(connection, replace(catalog, views=(plain,)), now=NOW)
    assert (report.undeclared, report.total, {one.view for one in report.outcomes}) == ([], 1, {CANDLES})


def test_ids_and_rules_that_do_not_exist_are_refused(connection: Connection, catalog: Catalog) -> None:
    put_clean(connection)
    with pytest.raises(NotFound, match="rule 'gap' not found; rules: freshness, gaps"):
        run_checks(connection, catalog, now=NOW, rules=["gap"])
    with pytest.raises(NotFound, match="entity 'BTCUDST_1h' not found; entities: BTCUSDT_1h"):
        run_checks(connection, catalog, now=NOW, entities=["BTCUSDT_1h", "BTCUDST_1h"])
    with pytest.raises(InvalidEntityId):
        run_checks(connection, catalog, now=NOW, entities=["BTCUSDT_7h"])
    report = run_checks(connection, catalog, now=NOW, rules=["gaps", "min"])
    assert {one.rule for one in report.outcomes} == {"gaps", "min"}


# --- age -------------------------------------------------------------------------------------------------------------


def aged(catalog: Catalog, tags: dict[str, str], of_view: dict[str, str], computed_from: str = "candles") -> View:
    view = catalog.view(VIEW)
    fields = (replace(view.fields[0], tags=tags), replace(view.fields[1], tags={}))
    return replace(view, fields=fields, tags=of_view, computed_from=computed_from)


def test_age_is_that_of_the_newest_row_or_value(connection: Connection, catalog: Catalog) -> None:
    rows = [("A", START + 9 * HOUR, None), ("A", START + 5 * HOUR, 1.0), ("B", START + 10 * HOUR, 1.0)]
    columns = ["symbol", "timeframe", "event_timestamp", "rsi_14"]
    put(
        connection, TECHNICAL, columns, [(symbol, "1h", at, value) for symbol, at, value in [*rows, ("C", START, None)]]
    )
    view = aged(catalog, {"freshness": "5h"}, {"freshness": "90m", "check": "warn"})
    now = START + 10.5 * HOUR
    report = run_checks(connection, catalog, whole(view), now=now, rows=9)
    rows_of, value = found_by(report)[VIEW, "freshness"], found_by(report)["rsi_14", "freshness"]
    assert (rows_of.verdict, rows_of.offending, rows_of.rows, rows_of.worst) == (Verdict.WARN, 1, 3, 10.5 * 3600)
    assert (rows_of.worst_entity, rows_of.last) == ("C_1h", START)
    assert (value.verdict, value.offending, value.worst) == (Verdict.WARN, 2, 5.5 * 3600)
    assert (value.worst_entity, value.note) == ("C_1h", "1 entities have no value at all")
    assert [(one.feature, one.entity, one.at) for one in report.offences] == [
        ("rsi_14", "C_1h", None),
        ("rsi_14", "A_1h", START + 5 * HOUR),
        ("", "C_1h", START),
    ]
    # Of the past it is the age then.
    then = run_checks(connection, catalog, whole(view), Window(None, START + 10 * HOUR), now=now, entities=["A", "B"])
    assert found_by(then)[VIEW, "freshness"].worst == 3600 and not then.findings


def test_what_is_known_absent_does_not_age(connection: Connection, catalog: Catalog) -> None:
    put_bars(connection, "BTCUSDT", range(10))
    put(connection, TECHNICAL, ["symbol", "timeframe", "event_timestamp"], [("BTCUSDT", "1h", START + 10 * HOUR)])
    view = aged(catalog, {}, {"freshness": "2h"})

    def age() -> float | None:
        return run_checks(connection, catalog, whole(view), now=NOW, rules=["freshness"]).outcomes[0].worst

    assert age() == (NOW - START - 10 * HOUR).total_seconds()
    declare(connection, ["BTCUSDT_1h"], START + 10 * HOUR, START + 19 * HOUR, "outage", now=NOW)
    assert age() == (NOW - START - 20 * HOUR).total_seconds()
    declare(connection, ["BTCUSDT"], START + 15 * HOUR, FOREVER, "delisted", now=NOW)
    assert age() == 0


# --- candles ---------------------------------------------------------------------------------------------------------

BAR = ["symbol", "timeframe", "open_time", "open", "high", "low", "close", "volume"]


def put_bars(connection: Connection, symbol: str, numbers: Sequence[int], timeframe: str = "1h") -> None:
    """Write bars whose price and volume change a little from each to the next."""
    rows = []
    for number in numbers:
        price = 100 + math.sin(number)
        at = START + number * TIMEFRAMES[timeframe]
        rows.append((symbol, timeframe, at, price, price + 1.5, price - 1.5, price + 0.5, 10 + number % 7))
    put(connection, CANDLES, BAR, rows)


def put_clean(connection: Connection, bars: int = 300) -> None:
    """Write candles and features without fault, of two symbols."""
    random = np.random.default_rng(1)
    for symbol in ("BTCUSDT", "ETHUSDT"):
        put_bars(connection, symbol, range(bars))
        values = random.uniform(0.1, 0.9, (bars, len(FEATURES)))
        rows = [
            (symbol, "1h", START + (number + 1) * HOUR, *(None if number < 33 else value for value in row))
            for number, row in enumerate(values.tolist())
        ]
        put(connection, TECHNICAL, ["symbol", "timeframe", "event_timestamp", *FEATURES], rows)


@dataclass(frozen=True)
class Fault:
    """A fault that is planted in BTCUSDT_1h: what finds it, in how many rows, from when to when, and its measure."""

    statement: str
    rule: str
    rows: int
    first: int
    last: int
    worst: float
    target: str = CANDLES
    verdict: Verdict = Verdict.FAIL
    values: tuple[float | None, ...] | None = None


def bar(change: str, number: int = 200, until: int | None = None) -> str:
    times = f"open_time BETWEEN '{START + number * HOUR}' AND '{START + (until or number) * HOUR}'"
    return f"UPDATE market.candles SET {change} WHERE symbol = 'BTCUSDT' AND {times}"


def feature(change: str, number: int = 200, until: int | None = None) -> str:
    times = f"event_timestamp BETWEEN '{START + number * HOUR}' AND '{START + (until or number) * HOUR}'"
    return f"UPDATE {TECHNICAL} SET {change} WHERE symbol = 'BTCUSDT' AND {times}"


PRICE = 100 + math.sin(200)
LOST = f"DELETE FROM market.candles WHERE symbol = 'BTCUSDT' AND open_time >= '{START + 200 * HOUR}' AND open_time < "
EXTRA = (
    "INSERT INTO market.candles SELECT symbol, timeframe, open_time + interval '90 s', open, high, low, close, volume "
    f"FROM market.candles WHERE symbol = 'BTCUSDT' AND open_time = '{START + 200 * HOUR}'"
)
WARN = Verdict.WARN
FAULTS = {
    "high below close": Fault(bar("high = close - 0.1"), "ohlc_order", 1, 200, 200, PRICE + 0.4),
    "high below open": Fault(bar("open = high + 0.1"), "ohlc_order", 1, 200, 200, PRICE + 1.5),
    "low above open": Fault(bar("low = open + 0.1", 198, 199), "ohlc_order", 2, 198, 199, 0),
    "negative price": Fault(bar("low = -1"), "positive_price", 1, 200, 200, 1, values=(-1.0,)),
    "no price": Fault(bar("low = 0"), "positive_price", 1, 200, 200, 0),
    "endless price": Fault(bar("high = 'Infinity'"), "positive_price", 1, 200, 200, math.inf),
    "price of NaN": Fault(bar("open = 'NaN'"), "positive_price", 1, 200, 200, math.nan, values=(None,)),
    "negative volume": Fault(bar("volume = -5"), "negative_volume", 1, 200, 200, 5, values=(-5.0,)),
    "volume of NaN": Fault(bar("volume = 'NaN'"), "negative_volume", 1, 200, 200, math.nan),
    "off the grid": Fault(EXTRA, "off_grid", 1, 200, 200, 90),
    "stuck price": Fault(
        bar("open = 100, high = 100, low = 100, close = 100", 200, 212), "stuck_price", 13, 200, 212, 13, verdict=WARN
    ),
    "price jump": Fault(
        bar("open = 85, low = 84"), "price_jump", 1, 200, 200, 1 - 85 / (100.5 + math.sin(199)), verdict=WARN
    ),
    "volume spike": Fault(bar("volume = 5000"), "volume_spike", 1, 200, 200, 5000 / 13, verdict=WARN),
    "gap": Fault(f"{LOST} '{START + 203 * HOUR}'", "gaps", 3, 200, 202, 3, verdict=WARN, values=(3.0,)),
    "too little": Fault(feature("rsi_14 = -0.5"), "min", 1, 200, 200, -0.5, "rsi_14", values=(-0.5,)),
    "too much": Fault(feature("rsi_14 = 'Infinity'", 200, 201), "max", 2, 200, 201, math.inf, "rsi_14"),
    "nulls": Fault(feature("macd = NULL", 200, 219), "max_null_share", 20, 200, 219, 20 / 267, "macd"),
    "NaN": Fault(feature("macd = 'NaN'", 200, 219), "max_null_share", 20, 200, 219, 20 / 267, "macd"),
    "an indicator that is never defined": Fault(
        feature("atr = NULL", 0, 300), "max_null_share", 200, 101, 300, 1, "atr"
    ),
    "stuck value": Fault(feature("ema_20 = 7", 200, 212), "max_stuck", 13, 200, 212, 13, "ema_20", WARN),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_planted_fault_is_found(connection: Connection, catalog: Catalog, fault: Fault) -> None:
    put_clean(connection)
    assert run_checks(connection, catalog, now=NOW).findings == []
    connection.execute(fault.statement.encode())
    report = run_checks(connection, catalog, now=NOW, rows=1000)
    assert len(report.findings) == 1, [describe(one) for one in report.findings]
    (found,) = report.findings
    assert (found.feature or found.view, found.rule, found.verdict) == (fault.target, fault.rule, fault.verdict)
    assert (found.offending, found.worst_entity, found.entities_offending) == (fault.rows, "BTCUSDT_1h", 1)
    ends = START + fault.first * HOUR, START + fault.last * HOUR
    if fault.rule == "off_grid":
        ends = ends[0] + timedelta(seconds=90), ends[1] + timedelta(seconds=90)
    assert (found.first, found.last) == ends
    if math.isnan(fault.worst):
        assert found.worst is None
    elif fault.worst or fault.rule == "positive_price":
        assert found.worst == pytest.approx(fault.worst)
    listed = [(one.entity, one.at) for one in report.offences]
    assert {entity for entity, _ in listed} == {"BTCUSDT_1h"}
    assert listed[-1][1] == ends[0] and listed[0][1] == (ends[0] if fault.rule == "gaps" else ends[1])
    assert len(listed) == (1 if fault.rule == "gaps" else fault.rows)
    if fault.values:
        assert tuple(one.value for one in report.offences) == fault.values
    recent = run_checks(connection, catalog, now=NOW, recent=50).findings
    assert len(recent) == (fault.last == 300), "else it is too long ago"
    longer = run_checks(connection, catalog, now=START + 300 * HOUR, recent=250).findings
    assert [(one.feature or one.view, one.rule) for one in longer] == [(fault.target, fault.rule)]


def test_the_newest_rows_are_enough_to_find_what_stays(connection: Connection, catalog: Catalog) -> None:
    put_clean(connection)
    connection.execute(bar("open = 100, high = 100, low = 100, close = 100", 280, 300).encode())
    connection.execute(feature("ema_20 = 7", 280, 300).encode())
    report = run_checks(connection, catalog, now=START + 300 * HOUR, recent=5)
    assert [(one.rule, one.offending, one.worst) for one in report.findings] == [
        ("stuck_price", 13, 13),
        ("max_stuck", 13, 13),
    ]


def test_limits_of_candles_can_be_set(connection: Connection, catalog: Catalog) -> None:
    put_clean(connection)
    flat = bar("open = 100, high = 100, low = 100, close = 100", 220, 224)
    for statement in (bar("volume = 900"), bar("open = 80, low = 79", 180), flat, f"{LOST} '{START + 201 * HOUR}'"):
        connection.execute(statement.encode())

    def rules(**checks: CandleCheck) -> dict[str, Verdict]:
        changed = {CandleRule(name): check for name, check in checks.items()}
        settings = CheckSettings({**CANDLE_DEFAULTS, **changed})
        report = run_checks(connection, catalog, [], now=NOW, candles=True, settings=settings)
        return {one.rule: one.verdict for one in report.outcomes if one.verdict is not Verdict.OK or one.rule in checks}

    assert rules() == {"gaps": WARN, "price_jump": WARN}
    error = Severity.ERROR
    assert rules(
        gaps=CandleCheck(error, 1),
        price_jump=CandleCheck(None),
        stuck_price=CandleCheck(error, 4),
        volume_spike=CandleCheck(error, 10),
    ) == {"gaps": Verdict.OK, "stuck_price": Verdict.FAIL, "volume_spike": Verdict.OK}


def test_bars_that_are_known_absent_are_no_gap(connection: Connection, catalog: Catalog) -> None:
    put_clean(connection)
    connection.execute(f"{LOST} '{START + 203 * HOUR}'".encode())
    declare(connection, ["BTCUSDT_1h"], START + 200 * HOUR, START + 201 * HOUR, "outage", now=NOW)
    report = run_checks(connection, catalog, now=NOW, rows=9)
    (found,) = report.findings
    assert (found.rule, found.offending, found.worst, found.first) == ("gaps", 1, 1, START + 202 * HOUR)
    assert [(one.at, one.value) for one in report.offences] == [(START + 202 * HOUR, 1)]
    declare(connection, ["BTCUSDT"], START + 202 * HOUR, START + 202 * HOUR, "outage", now=NOW)
    assert run_checks(connection, catalog, now=NOW).findings == []


def test_every_timeframe_has_its_grid(connection: Connection, catalog: Catalog) -> None:
    for timeframe in TIMEFRAMES:
        put_bars(connection, "A", range(5), timeframe)
    put(connection, CANDLES, BAR, [("A", "7h", START + timedelta(minutes=3), 1, 1, 1, 1, 1)])
    assert run_checks(connection, catalog, now=NOW).findings == []
    connection.execute("UPDATE market.candles SET open_time = open_time + interval '30 s' WHERE timeframe <> '7h'")
    found = found_by(run_checks(connection, catalog, now=NOW))[CANDLES, "off_grid"]
    assert (found.offending, found.entities_offending, found.worst) == (5 * len(TIMEFRAMES), len(TIMEFRAMES), 30)
    connection.execute("UPDATE market.candles SET open_time = open_time + interval '1 day' - interval '30 s'")
    off = run_checks(connection, catalog, now=NOW, rules=["off_grid"], rows=100).offences
    assert {one.entity for one in off} == {"A_1w"}, "weeks begin on Mondays, three days on any day"


def test_numbers_at_the_ends_of_what_there_is_break_nothing(connection: Connection, catalog: Catalog) -> None:
    put_clean(connection)
    for number, change in enumerate(["= 1e308", "= -1e308", "= 5e-324", "= 'Infinity'", "= 'NaN'", "= '-Infinity'"]):
        columns = ", ".join(f"{name} {change}" for name in ("open", "high", "low", "close", "volume"))
        connection.execute(bar(columns, 200 + 2 * number).encode())
        connection.execute(feature(f"rsi_14 {change}, ema_20 {change}", 200 + 2 * number).encode())
    report = run_checks(connection, catalog, now=NOW, rows=100)
    assert report.unreadable == []
    found = {rule: one.offending for (target, rule), one in found_by(report).items() if target == CANDLES}
    assert (found["positive_price"], found["negative_volume"]) == (4, 4)
    assert (found_by(report)["rsi_14", "min"].worst, found_by(report)["rsi_14", "max"].worst) == (-math.inf, math.inf)


def test_figures_of_candles_are_those_of_pandas(connection: Connection, catalog: Catalog) -> None:
    random = np.random.default_rng(5)
    frames = []
    for symbol in ("A", "B"):
        count = 400
        price = 100 * np.exp(np.cumsum(random.normal(0, 0.03, count)))
        price[random.random(count) < 0.5] = 100.0
        volume = random.lognormal(0, 2, count) * (random.random(count) > 0.1)
        hours = np.flatnonzero(random.random(count) > 0.05)
        high = price * np.where(random.random(count) < 0.02, 0.9, 1.1)
        frame = pd.DataFrame({"open": price, "high": high, "low": price * 0.9, "close": price, "volume": volume})
        frame = frame.iloc[hours].assign(
            symbol=symbol, timeframe="1h", open_time=[START + int(h) * HOUR for h in hours]
        )
        frames.append(frame)
    put(connection, CANDLES, BAR, [row for one in frames for row in one[BAR].itertuples(index=False)])
    limits = {"stuck_price": 2.0, "price_jump": 0.04, "volume_spike": 3.0}
    settings = CheckSettings(
        {**CANDLE_DEFAULTS, **{CandleRule(rule): CandleCheck(Severity.WARN, limit) for rule, limit in limits.items()}}
    )
    wanted: dict[str, list[tuple[str, datetime]]] = {rule: [] for rule in ("ohlc_order", *limits)}
    longest, jumps, ratios = [0], [0.0], [0.0]
    for symbol, frame in zip("AB", frames, strict=True):
        follows = frame.open_time.diff() == HOUR
        jump = (frame.open / frame.close.shift(1) - 1).where(follows)
        over = jump.abs().where(jump.abs() > 0.04)
        median = frame.volume.rolling(100, min_periods=20).median().shift(1)
        spike = (frame.volume > 3 * frame.volume.shift(1)) & (median > 0) & (frame.volume > 3 * median)
        same = (frame[["open", "high", "low", "close"]] == frame[["open", "high", "low", "close"]].shift(1)).all(axis=1)
        sizes = same.groupby((~same).cumsum()).transform("size")
        marks = {
            "ohlc_order": frame.high < frame.open,
            "price_jump": over.notna(),
            "volume_spike": spike,
            "stuck_price": sizes > 2,
        }
        for rule, mark in marks.items():
            wanted[rule] += [(f"{symbol}_1h", at.to_pydatetime()) for at in frame.open_time[mark]]
        longest.append(int(sizes.max()))
        jumps.append(float(over.max()))
        ratios.append(float((frame.volume / median)[spike].max()))
    report = run_checks(connection, catalog, [], now=NOW, candles=True, settings=settings, rows=1000)
    found = found_by(report)
    for rule, rows in wanted.items():
        assert rows, rule
        listed = [(one.entity, one.at) for one in report.offences if one.rule == rule]
        assert sorted(listed) == sorted(rows), rule
        assert found[CANDLES, rule].offending == len(rows)
    worst = {rule: found[CANDLES, rule].worst for rule in limits}
    assert worst == {
        "stuck_price": max(longest),
        "price_jump": pytest.approx(max(jumps)),
        "volume_spike": pytest.approx(max(ratios)),
    }


# --- clean data ------------------------------------------------------------------------------------------------------


def features_of(root: Path, bars: dict[str, np.ndarray]) -> np.ndarray:
    functions = load_functions(root / "feature_repo" / "indicators.py", FEATURES, root=root)
    computed = functions.compute(bars)
    return np.column_stack([computed[name] for name in FEATURES])


def put_series(connection: Connection, entity: EntityId, times: Sequence[datetime], bars: np.ndarray) -> None:
    """Write bars, a column each for open, high, low, close and volume, and their features as of each close."""
    key = (entity.symbol, entity.timeframe)
    put(connection, CANDLES, BAR, [(*key, at, *row) for at, row in zip(times, bars.tolist(), strict=True)])
    columns = dict(zip(BAR[3:], bars.T, strict=True))
    values = features_of(CHECKOUT, {name: np.ascontiguousarray(of) for name, of in columns.items()})
    step = TIMEFRAMES[entity.timeframe]
    rows = [
        (*key, at + step, *(None if math.isnan(one) else one for one in row))
        for at, row in zip(times, values.tolist(), strict=True)
    ]
    put(connection, TECHNICAL, ["symbol", "timeframe", "event_timestamp", *FEATURES], rows)


def test_a_hundred_clean_windows_raise_no_alarm(connection: Connection, catalog: Catalog) -> None:
    """Of the demo's market: the same prices at the same instants, whoever asks."""
    spans = {"5m": 800, "1h": 800, "4h": 800}
    for symbol, timeframe in itertools.product(("BTCUSDT", "SOLUSDT"), spans):
        bars = generate(EntityId(symbol, timeframe), spans[timeframe], now=NOW)[:-1]
        put_series(
            connection, EntityId(symbol, timeframe), [bar[0] for bar in bars], np.array([bar[1:] for bar in bars])
        )
    random = np.random.default_rng(2024)
    alarms, looked_at = [], 0
    for number in range(100):
        # As far back as the shortest series goes, and of any length.
        end = NOW - int(random.integers(0, 40)) * HOUR
        window = Window(end - int(random.integers(4, 400)) * HOUR, end)
        report = run_checks(
            connection, catalog, None if number % 4 == 0 else whole(catalog.view(VIEW)), window, now=NOW
        )
        alarms += [(window, describe(one)) for one in report.findings]
        looked_at += sum(one.rows for one in report.outcomes)
    assert alarms == []
    assert looked_at > 100_000
    assert run_checks(connection, catalog, now=NOW).findings == []


@pytest.mark.parametrize("bars", [1, 2, 19, 26, 99, 101])
def test_a_short_series_is_warming_up(connection: Connection, catalog: Catalog, bars: int) -> None:
    made = generate(EntityId("BTCUSDT", "1h"), bars + 1, now=NOW)[:-1]
    put_series(connection, EntityId("BTCUSDT", "1h"), [bar[0] for bar in made], np.array([bar[1:] for bar in made]))
    report = run_checks(connection, catalog, now=NOW)
    assert report.findings == []
    macd = found_by(report)["macd", "max_null_share"]
    assert (macd.rows, macd.offending) == (max(bars - 25, 0), 0)


def test_features_that_nobody_feeds_are_no_fault(connection: Connection, catalog: Catalog) -> None:
    rows = [(symbol, START + n * HOUR / 4, (n % 9) / 10) for symbol in "AB" for n in range(80)]
    put(connection, "features.sentiment_features", ["symbol", "event_timestamp", "news_sentiment"], rows)
    report = run_checks(connection, catalog, now=NOW)
    assert report.findings == []
    found = found_by(report)
    assert found["social_sentiment", "max_null_share"].note == "no row has a value, as where nobody brings it in"
    assert found["news_sentiment", "max_null_share"].note is None
    connection.execute("UPDATE features.sentiment_features SET news_sentiment = NULL WHERE symbol = 'B'")
    (one,) = run_checks(connection, catalog, now=NOW).findings
    assert (one.rule, one.verdict, one.worst_entity, one.worst) == ("max_null_share", Verdict.WARN, "B", 1)


@needs_data
def test_real_candles_raise_nothing_but_their_outages(connection: Connection, catalog: Catalog) -> None:
    for symbol in ("BTCUSDT", "ETHUSDT", "SOLUSDT", "BNBUSDT", "XRPUSDT"):
        name = f"{symbol}_1h.csv.gz"
        file = read_candles(
            DATA / "candles" / name, name=name, symbol=symbol, timeframe="1h", closed_before=NOW, drop_last=True
        )
        (series,) = file.series
        put_series(connection, EntityId(symbol, "1h"), *columns_of(series))
    (found,) = run_checks(connection, catalog, now=NOW, rows=99).findings
    assert (found.rule, found.verdict, found.offending, found.entities_offending) == ("gaps", Verdict.WARN, 60, 5)


def columns_of(series: CandleSeries) -> tuple[list[datetime], np.ndarray]:
    """Return the open times of bars, and their columns."""
    times = [datetime.fromtimestamp(int(at) / 1e6, UTC) for at in series.open_time]
    return times, np.column_stack([getattr(series, name) for name in BAR[3:]])
