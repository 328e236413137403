"""All paths give the same values and statuses: ours online, the history, Feast's SDK, training sets, and an oracle."""

from __future__ import annotations

import math
import os
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from feast.protos.feast.serving.ServingService_pb2 import FieldStatus
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value

from featurectl.core import retrieval
from featurectl.core.catalog import Selection
from featurectl.core.entity import EntityId, parse_id_or_symbol
from featurectl.core.online import Source, Status
from featurectl.core.retrieval import Strategy
from featurectl.core.serving.answer import Answer
from featurectl.core.spines import TableSpine
from featurectl.core.times import Window
from featurectl.core.training import Wanted, over_spine, over_window
from featurectl.manager import FeastFeatureStoreManager
from tests.fix_parity import LATER, Elsewhere, World, open_world
from tests.parity import MICROSECOND, NEVER_SEEN, SPAN, START, TIMEFRAMES, History, Key, Row, View

SEED = int(os.environ.get("FEATURECTL_TEST_SEED") or np.random.SeedSequence().entropy % 2**32)  # type: ignore[operator]
DATA_SETS = 4
# Questions of each data set; those of training sets share the calls that their features make.
ONLINE_DRAWS, SPINES, WINDOWS = 120, 12, 15
QUESTIONS_OF_A_SPINE = 8

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::pydantic.PydanticDeprecatedSince20"),
    pytest.mark.xdist_group("parity"),  # applied once
]


@pytest.fixture(scope="module")
def world(
    server: str, applied_repository: tuple[Path, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    with open_world(server, applied_repository, tmp_path_factory.mktemp("parity")) as opened:
        yield opened


# --- questions -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Question:
    """What is asked of every path: features by view, for entity ids, at an instant.

    ``as_of`` says that the instant is named; otherwise it is the clock's.
    """

    ids: tuple[str, ...]
    features: dict[str, tuple[str, ...]]
    at: datetime
    as_of: bool = False
    max_age: timedelta | None = None
    allow_stale: bool = False

    @property
    def names(self) -> list[str]:
        return [f"{view}:{name}" for view, names in self.features.items() for name in names]


def an_instant(draw: random.Random, history: History, materialized: datetime) -> datetime:
    """Return an instant at which something changes, a microsecond beside it, or any."""
    view = draw.choice(history.stored())
    if not view.rows or draw.random() < 0.15:
        return START + SPAN * draw.uniform(-0.1, 1.3)
    if draw.random() < 0.2:
        return materialized
    rows: Sequence[Row] = view.rows
    if view.online_rows and draw.random() < 0.5:
        rows = list(view.online_rows.values())
    edges = [timedelta(0), view.ttl] if view.ttl else [timedelta(0)]
    return draw.choice(rows).event + draw.choice(edges) + draw.choice([-1, 0, 0, 1]) * MICROSECOND


def a_question(draw: random.Random, history: History, materialized: datetime) -> Question:
    views = draw.sample(history.online(), draw.choice([1, 1, 1, 2, 3, 7]))
    by_symbol = all(view.keys == ("symbol",) for view in views) and draw.random() < 0.5
    at, as_of = an_instant(draw, history, materialized), draw.random() < 0.5
    ttl = views[0].ttl or SPAN
    return Question(
        ids=tuple(an_id(draw, history, by_symbol=by_symbol) for _ in range(draw.choice([1, 1, 2, 5, 12]))),
        features={view.name: some_of(draw, view) for view in views},
        at=at,
        as_of=as_of,
        max_age=draw.choice([None, None, ttl / 3, ttl * 2, timedelta(0)]),
        allow_stale=draw.random() < 0.3,
    )


def an_id(draw: random.Random, history: History, *, by_symbol: bool = False) -> str:
    symbol = NEVER_SEEN if draw.random() < 0.08 else draw.choice(history.symbols)
    timeframe = "4h" if draw.random() < 0.08 else draw.choice(TIMEFRAMES)
    return symbol if by_symbol else f"{symbol}_{timeframe}"


def some_of(draw: random.Random, view: View) -> tuple[str, ...]:
    names = [feature.name for feature in view.features]
    return tuple(draw.sample(names, draw.randint(1, len(names))))


# --- online ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Told:
    """What a path tells of one feature of one entity; the event time is that of the row it looked at."""

    status: Status
    value: Any
    event: datetime | None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Told) and repr(self) == repr(other)


Answers = list[dict[str, Told]]


def key_of(view: View, text: str) -> Key:
    entity = parse_id_or_symbol(text)
    return view.key(entity.symbol, entity.timeframe)


def oracle(history: History, question: Question, found: Callable[[View, Key], Row | None]) -> Answers:
    """Judge the rows that a path has to look at."""
    return [
        {
            name: told
            for view_name, names in question.features.items()
            for name, told in judged(history.views[view_name], names, question, found, text).items()
        }
        for text in question.ids
    ]


def judged(
    view: View, names: Sequence[str], question: Question, found: Callable[[View, Key], Row | None], text: str
) -> dict[str, Told]:
    row = found(view, key_of(view, text))
    if row is None:
        return {name: Told(Status.NOT_FOUND, None, None) for name in names}
    age, values = question.at - row.event, view.shown(row)
    limits = [limit for limit in (view.ttl, question.max_age) if limit is not None]
    if any(age > limit for limit in limits):
        kept = values if question.allow_stale else dict.fromkeys(names)
        return {name: Told(Status.OUTSIDE_MAX_AGE, kept[name], row.event) for name in names}
    return {
        name: Told(Status.NULL_VALUE if values[name] is None else Status.PRESENT, values[name], row.event)
        for name in names
    }


OnlineRows = Callable[[View], dict[Key, Row]]


def in_our_store(view: View) -> dict[Key, Row]:
    return view.online_rows


def from_history(question: Question) -> Callable[[View, Key], Row | None]:
    return lambda view, key: view.newest(key, question.at)


def from_online(question: Question, rows: OnlineRows = in_our_store) -> Callable[[View, Key], Row | None]:
    """What an online store has: a row from after the clock is none."""

    def found(view: View, key: Key) -> Row | None:
        row = rows(view).get(key)
        return row if row is not None and row.event <= question.at else None

    return found


def from_best(
    question: Question, rows: OnlineRows = in_our_store, *, is_materialized: bool = False
) -> Callable[[View, Key], Row | None]:
    """What ``auto`` looks at: the online row; the history before it, and at a named instant also past its TTL.

    A table of ours without rows counts as never materialized, and the history answers; of a foreign store, the
    registry knows.
    """

    def found(view: View, key: Key) -> Row | None:
        row = rows(view).get(key)
        if row is None:
            never = not (rows(view) or is_materialized)
            return view.newest(key, question.at) if question.as_of or never else None
        if row.event > question.at:
            return view.newest(key, question.at)
        is_old = view.ttl is not None and question.at - row.event > view.ttl
        # Of a row that the source has lost, online is all there is.
        return view.newest(key, question.at) or row if question.as_of and is_old else row

    return found


def ask(world: World, question: Question, backend: str, manager: FeastFeatureStoreManager | None = None) -> Answers:
    """Ask a manager, ours or that of another online store."""
    options = {"max_age": question.max_age, "allow_stale": question.allow_stale, "backend": backend}
    world.now = LATER if question.as_of else question.at
    if question.as_of:
        options["as_of"] = question.at
    asked = (manager or world.manager).get_online_features_rows(list(question.ids), question.names, **options)
    rows = world.loop.run(asked)
    if backend != "auto":
        assert rows.answer.sources == (Source(backend),)
    answers = answers_of(rows.answer)
    # The plain form says the same.
    events = [[told.event for told in one.values() if told.event] for one in answers]
    assert [row["entity_id"] for row in rows] == list(question.ids)
    assert [row["event_timestamp"] for row in rows] == [min(one, default=None) for one in events]
    assert [{name: repr(row[name]) for name in one} for row, one in zip(rows, answers, strict=True)] == [
        {name: repr(told.value) for name, told in one.items()} for one in answers
    ]
    assert rows.statuses == [{name: str(told.status) for name, told in one.items()} for one in answers]
    return answers


def answers_of(answer: Answer) -> Answers:
    return [
        {
            name: Told(view.statuses[name], view.features[name], view.event_timestamp)
            for view in entity.views
            for name in view.features
        }
        for entity in answer.by_entity()
    ]


def ask_feast(world: World, question: Question) -> Answers:
    """Ask Feast's SDK over our store, whose answers tell event times in whole seconds."""
    world.now = question.at
    keys = dict.fromkeys(key for name in question.features for key in world.catalog.view(name).join_keys)
    entities = [parse_id_or_symbol(text) for text in question.ids]
    rows = [{key: getattr(entity, key) for key in keys} for entity in entities]
    response = world.feast.get_online_features(question.names, rows)
    values = response.to_dict(include_event_timestamps=True)
    places = {name: index for index, name in enumerate(response.proto.metadata.feature_names.val)}
    answers: Answers = []
    for index in range(len(rows)):
        told = {}
        for name in (name for names in question.features.values() for name in names):
            status = Status(FieldStatus.Name(response.proto.results[places[name]].statuses[index]))
            seconds = values[f"{name}__ts"][index]
            event = datetime.fromtimestamp(seconds, UTC) if seconds else None
            told[name] = Told(status, values[name][index], event)
        answers.append(told)
    return answers


def in_seconds(answers: Answers) -> Answers:
    """Return answers as Feast's SDK can tell them."""
    return [
        {
            name: Told(told.status, told.value, told.event.replace(microsecond=0) if told.event else None)
            for name, told in one.items()
        }
        for one in answers
    ]


def same(found: Answers, wanted: Answers, where: str) -> None:
    for index, (one, other) in enumerate(zip(found, wanted, strict=True)):
        for name in other:
            assert one[name] == other[name], f"{where}: entity {index}, {name}"


@pytest.mark.parametrize("number", range(DATA_SETS))
def test_online_paths_are_what_the_oracle_says(world: World, number: int) -> None:
    """Ours online, the history, ``auto`` and Feast's SDK, at the clock and in the past, whatever was materialized."""
    print(f"FEATURECTL_TEST_SEED={SEED}")
    draw = random.Random(f"{SEED} online {number}")
    world.empty_online()
    history = History(draw, world.connection)
    seen: list[Status] = []
    first = START + SPAN * draw.uniform(0.3, 0.9)
    second = first + SPAN * draw.random()
    # At last an old window, which moves nothing back.
    for turn, now in enumerate((first, first, second, START + (second - START) * draw.random())):
        if turn == 1:
            history.disturb()
        else:
            world.materialize(history, now)
        for count in range(ONLINE_DRAWS // 4):
            question = a_question(draw, history, now)
            where = f"FEATURECTL_TEST_SEED={SEED}, data set {number}, turn {turn}, draw {count}, {question}"
            wanted = oracle(history, question, from_best(question))
            seen += [told.status for one in wanted for told in one.values()]
            same(ask(world, question, "auto"), wanted, f"auto, {where}")
            from_rows = oracle(history, question, from_history(question))
            same(ask(world, question, "timescaledb"), from_rows, f"timescaledb, {where}")
            if question.as_of:
                continue
            from_store = oracle(history, question, from_online(question))
            same(ask(world, question, "online"), from_store, f"online, {where}")
            same(ask(world, question, "feast"), from_store, f"feast, {where}")
            bare = Question(question.ids, question.features, question.at)
            from_store = oracle(history, bare, from_online(bare))
            same(ask_feast(world, bare), in_seconds(from_store), f"Feast, {where}")
    shares = {status: seen.count(status) / len(seen) for status in Status}
    assert shares[Status.PRESENT] > 0.1 and min(shares.values()) > 0.01, f"the test looks at nothing: {shares}"


def test_a_nan_that_was_written_online_is_a_null_on_every_path(world: World) -> None:
    """Feast itself writes a null; a writer of protobufs may not."""
    world.empty_online()
    view = world.feast.get_feature_view("zoneless")
    values = [Value(string_val="BTCUSDT"), Value(string_val="1h")]
    nans = {"level": Value(double_val=math.nan), "phase": Value(float_val=math.nan)}
    row = (EntityKey(join_keys=["symbol", "timeframe"], entity_values=values), nans, START, None)
    world.feast._get_provider().online_store.online_write_batch(world.feast.config, view, [row], None)
    question = Question(("BTCUSDT_1h",), {"zoneless": ("level", "phase")}, START)
    wanted = [dict.fromkeys(("level", "phase"), Told(Status.NULL_VALUE, None, START))]
    for backend in ("auto", "online", "feast"):
        same(ask(world, question, backend), wanted, backend)
    same(ask_feast(world, question), wanted, "Feast")


def test_a_foreign_online_store_is_what_the_oracle_says(world: World) -> None:
    """SQLite, materialized and read by Feast."""
    print(f"FEATURECTL_TEST_SEED={SEED}")
    draw = random.Random(f"{SEED} foreign")
    history, elsewhere = History(draw, world.connection), Elsewhere(world)
    for now in (START + SPAN * draw.uniform(0.3, 0.6), START + SPAN * draw.uniform(0.7, 1.2)):
        elsewhere.materialize(history, now)
        history.disturb()
        for count in range(ONLINE_DRAWS // 2):
            question = a_question(draw, history, now)
            where = f"FEATURECTL_TEST_SEED={SEED}, at {now}, draw {count}, {question}"
            wanted = oracle(history, question, from_best(question, elsewhere.online_rows, is_materialized=True))
            same(ask(world, question, "auto", elsewhere.manager), wanted, f"auto, {where}")
            if not question.as_of:
                wanted = oracle(history, question, from_online(question, elsewhere.online_rows))
                same(ask(world, question, "feast", elsewhere.manager), wanted, f"feast, {where}")
    world.loop.run(elsewhere.manager.close())


# --- offline ---------------------------------------------------------------------------------------------------------


def selections(world: World, features: dict[str, tuple[str, ...]]) -> tuple[Selection, ...]:
    return tuple(Selection(world.catalog.view(name), names) for name, names in features.items())


Rows = list[dict[str, Any]]


def a_spine(draw: random.Random, history: History) -> Rows:
    """Return the rows of a spine: questions, each for some entities at an instant, in no order."""
    rows = [
        row_at(an_id(draw, history), instant)
        for instant in (an_instant(draw, history, START + SPAN / 2) for _ in range(QUESTIONS_OF_A_SPINE))
        for _ in range(draw.choice([1, 2, 5]))
    ]
    return draw.sample(rows, len(rows))


def row_at(text: str, instant: datetime) -> dict[str, Any]:
    symbol, timeframe = text.rsplit("_", 1)
    return {"symbol": symbol, "timeframe": timeframe, "event_timestamp": instant}


def training_views(draw: random.Random, history: History) -> dict[str, tuple[str, ...]]:
    """Return some features of some views; a composite has the names of its parts' features, and is asked alone."""
    if draw.random() < 0.2:
        view = history.views["comprehensive_features_view"]
        return {view.name: some_of(draw, view)}
    return {view.name: some_of(draw, view) for view in draw.sample(history.online(), draw.choice([1, 1, 2, 3, 7]))}


def force(monkeypatch: pytest.MonkeyPatch, strategy: Strategy) -> None:
    """Have every join take a strategy, whatever it would cost."""
    costs = (0.0, 1.0) if strategy is Strategy.SERVER else (1.0, 0.0)
    monkeypatch.setattr(retrieval, "_seconds", lambda *_: costs)


def over_rows(world: World, features: dict[str, tuple[str, ...]], rows: Rows) -> Rows:
    """Return a training set over a spine."""
    table = spine_table(rows)
    keys = list(dict.fromkeys(key for name in features for key in world.catalog.view(name).join_keys))
    spine = TableSpine(table, table.column("event_timestamp"), table.select(keys))
    wanted = Wanted(selections(world, features), (), LATER)
    with world.arrow.transaction():
        return over_spine(world.arrow, world.connection, wanted, spine).table().to_pylist()


def spine_table(rows: Rows) -> pa.Table:
    instants = pa.array([row["event_timestamp"] for row in rows], pa.timestamp("us", tz="UTC"))
    texts = {name: [row[name] for row in rows] for name in ("symbol", "timeframe")}
    return pa.table({**texts, "event_timestamp": instants})


def over_rows_by_manager(world: World, question: Question, rows: Rows) -> Rows:
    """Return the same from a manager's DataFrame."""
    frame = pd.DataFrame(rows).astype({"event_timestamp": "datetime64[us, UTC]"})
    found = world.loop.run(world.manager.get_offline_features(feature_names=question.names, spine=frame))
    return [{name: native(value) for name, value in row.items()} for row in found.to_dict("records")]


def native(value: Any) -> Any:
    """Return a value of a DataFrame as Arrow and psycopg give it."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    return None if not isinstance(value, list) and pd.isna(value) else value


def over_rows_by_feast(world: World, features: dict[str, tuple[str, ...]], rows: Rows) -> Rows:
    """Return the same from Feast's SDK over our offline store."""
    names = [f"{view}:{name}" for view, own in features.items() for name in own]
    frame = pd.DataFrame(rows).astype({"event_timestamp": "datetime64[us, UTC]"})
    return world.feast.get_historical_features(frame, names).to_arrow().to_pylist()


def plain(value: Any) -> str:
    """Return a value such that NaN equals NaN, and a time without a zone, as a source's column may have it, is UTC."""
    if isinstance(value, pd.Timestamp):
        value = value.to_pydatetime()
    if isinstance(value, datetime):
        value = value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)
    return repr(value)


def compare(found: Rows, wanted: Rows, where: str) -> None:
    assert len(found) == len(wanted), where
    for index, (row, other) in enumerate(zip(found, wanted, strict=True)):
        for name, value in other.items():
            assert plain(row[name]) == plain(value), f"{where}: row {index}, {name}, {other}"


@pytest.mark.parametrize("number", range(DATA_SETS))
def test_training_sets_are_what_the_oracle_says(world: World, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Both strategies of ours, and Feast's SDK over them, at the same instants."""
    print(f"FEATURECTL_TEST_SEED={SEED}")
    draw = random.Random(f"{SEED} offline {number}")
    history = History(draw, world.connection)
    filled: list[bool] = []
    for turn in range(2):
        if turn:
            history.disturb()
        for count in range(SPINES // 2):
            features, rows = training_views(draw, history), a_spine(draw, history)
            wanted = [row | at_instant(history, features, row) for row in rows]
            filled += [row[name] is not None for row in wanted for names in features.values() for name in names]
            where = f"FEATURECTL_TEST_SEED={SEED}, data set {number}, turn {turn}, draw {count}, {features}"
            for strategy in draw.sample((Strategy.SERVER, Strategy.LOCAL), 2):
                force(monkeypatch, strategy)
                compare(over_rows(world, features, rows), wanted, f"{strategy}, {where}")
            # It connects anew for each, which takes the most time here.
            compare(over_rows_by_feast(world, features, rows), wanted, f"Feast, {strategy}, {where}")
    assert 0.1 < sum(filled) / len(filled) < 0.9, "the test looks at nothing"


def at_instant(history: History, features: dict[str, tuple[str, ...]], row: dict[str, Any]) -> dict[str, Any]:
    """Return the features as of a spine's row, by looking at every row of every view."""
    found = {}
    for view_name, names in features.items():
        view = history.views[view_name]
        serving = view.serving(view.key(row["symbol"], row["timeframe"]), row["event_timestamp"])
        found |= {name: serving[name] for name in names}
    return found


@pytest.mark.parametrize("number", range(DATA_SETS))
def test_training_sets_over_a_window_are_what_the_oracle_says(world: World, number: int) -> None:
    """A row for each event time that one of the views has, entity by entity."""
    print(f"FEATURECTL_TEST_SEED={SEED}")
    draw = random.Random(f"{SEED} window {number}")
    history = History(draw, world.connection)
    history.disturb()
    for count in range(WINDOWS):
        features = training_views(draw, history)
        ids = list(dict.fromkeys(an_id(draw, history) for _ in range(draw.randint(1, 4))))
        window = Window(*sorted(an_instant(draw, history, START + SPAN / 2) for _ in range(2)))
        where = f"FEATURECTL_TEST_SEED={SEED}, data set {number}, draw {count}, {features}, {ids}, {window}"
        wanted = Wanted(selections(world, features), (), LATER)
        with world.arrow.transaction():
            entities = [EntityId(*text.rsplit("_", 1)) for text in ids]
            batches = over_window(world.arrow, world.connection, wanted, entities, window)
            table = batches.table()
        rows = [
            row | at_instant(history, features, row) for text in ids for row in events(history, features, text, window)
        ]
        assert table.schema.field("event_timestamp").type == pa.timestamp("us", tz="UTC"), where
        compare(table.to_pylist(), rows, where)


def events(history: History, features: dict[str, tuple[str, ...]], text: str, window: Window) -> Rows:
    """Return the rows that a window has for an entity, without features."""
    symbol, timeframe = text.rsplit("_", 1)
    instants = {
        row.event
        for name in features
        for view in [history.views[name]]
        for row in view.history()
        if row.key == view.key(symbol, timeframe) and window.start <= row.event <= window.end
    }
    named = {"entity_id": text, "symbol": symbol, "timeframe": timeframe}
    return [{**named, "event_timestamp": instant} for instant in sorted(instants)]


# --- online after a materialize = offline ----------------------------------------------------------------------------


@pytest.mark.parametrize("number", range(DATA_SETS))
def test_online_after_a_materialize_is_offline_at_that_instant(
    world: World, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """For every entity and feature, however often rows arrive late or are corrected between two runs."""
    print(f"FEATURECTL_TEST_SEED={SEED}")
    draw = random.Random(f"{SEED} both {number}")
    world.empty_online()
    history = History(draw, world.connection)
    features = {view.name: tuple(feature.name for feature in view.features) for view in history.online()}
    ids = [f"{symbol}_{timeframe}" for symbol in (*history.symbols, NEVER_SEEN) for timeframe in TIMEFRAMES]
    present = 0
    for now in sorted(an_instant(draw, history, START + SPAN / 2) for _ in range(3)):
        world.materialize(history, now)
        where = f"FEATURECTL_TEST_SEED={SEED}, data set {number}, at {now}"
        question = Question(tuple(ids), features, now)
        online = [{name: told.value for name, told in one.items()} for one in ask(world, question, "online")]
        present += sum(value is not None for one in online for value in one.values())
        sdk = [{name: told.value for name, told in one.items()} for one in ask_feast(world, question)]
        rows = [row_at(text, now) for text in ids]
        compare(over_rows_by_feast(world, features, rows), sdk, f"Feast, {where}")
        compare(over_rows_by_manager(world, question, rows), online, f"manager, {where}")
        for strategy in (Strategy.SERVER, Strategy.LOCAL):
            force(monkeypatch, strategy)
            compare(over_rows(world, features, rows), online, f"{strategy}, {where}")
        # What a source takes back stays online.
        history.disturb(hiding=False)
    assert present > 20, "the test looks at nothing"
