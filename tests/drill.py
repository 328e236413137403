"""The fault drill: tasks that read in a loop while something breaks and is mended, and what became of every call.

Online and in history stands the same, so that every path must answer alike. A fault says by which paths each view may
be answered while it lasts; before it, and from the first good answer after it, only the first path will do.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from psycopg import sql

from featurectl.core.catalog import read_catalog
from featurectl.core.materialize import Materialized, choose_views, materialize
from featurectl.core.schema import table_identifier
from featurectl.core.serving.answer import OnlineRows
from featurectl.core.times import Window
from featurectl.manager import FeastFeatureStoreManager
from tests.fix_repository import Repo

NOW = datetime(2024, 5, 1, 12, 0, 30, tzinfo=UTC)
EVENT = NOW - timedelta(seconds=30)  # within every view's TTL
SYMBOLS = tuple(f"S{number}USDT" for number in range(8))
TIMEFRAMES = ("1h", "1m")
TECHNICAL, MARKET, SENTIMENT = "technical_indicators_view", "market_features_view", "sentiment_features_view"
VIEWS = {
    TECHNICAL: ("rsi_14", "macd", "ema_20", "bollinger_bands_position", "atr", "volume_sma_ratio"),
    MARKET: ("bid_ask_spread", "order_book_imbalance", "trade_size_avg"),
    SENTIMENT: ("news_sentiment", "social_sentiment", "fear_greed_index"),
}
# What tasks ask for, in turn: all views in one call, each alone, two of them.
CHOICES = ((*VIEWS,), (TECHNICAL,), (MARKET, SENTIMENT), (TECHNICAL,), (MARKET,), (SENTIMENT,))

TASKS = 16
PAUSE = 0.002
# Beyond its timeout a call may need a moment to be told so, on a machine with other work.
SLACK = 0.5


class Ground(Repo):
    """A repository whose views hold, online and in history, what :func:`value_of` says."""

    def execute(self, *statements: str) -> None:
        with self.connect() as connection:
            for statement in statements:
                connection.execute(statement.encode())

    def online_table(self, view: str) -> str:
        with self.connect() as connection:
            table = read_catalog(connection, "market").view(view).online_table
        assert table is not None
        return table

    def manager(self, **options: Any) -> FeastFeatureStoreManager:
        return FeastFeatureStoreManager(self.root, **{"database_url": self.url, "clock": lambda: NOW, **options})


def fill(ground: Ground) -> None:
    """Write every entity's row of each view into the history, and bring it online."""
    with ground.connect() as connection:
        catalog = read_catalog(connection, "market")
        for name, features in VIEWS.items():
            view = catalog.view(name)
            columns = (*view.join_keys, "event_timestamp", "created_timestamp", *features)
            statement = sql.SQL("INSERT INTO {} ({}) VALUES ({})").format(
                table_identifier(view.source_table or ""),
                sql.SQL(", ").join(map(sql.Identifier, columns)),
                sql.SQL(", ").join(sql.Placeholder() * len(columns)),
            )
            entities = [(symbol, timeframe) for symbol in SYMBOLS for timeframe in TIMEFRAMES]
            keys = {entity[: len(view.join_keys)] for entity in entities}
            with connection.cursor() as cursor:
                cursor.executemany(
                    statement,
                    [(*key, EVENT, EVENT, *(value_of("_".join(key), feature) for feature in features)) for key in keys],
                )
    bring_online(ground)


def bring_online(ground: Ground, *views: str) -> None:
    """Materialize what our stores hold."""
    with ground.connect() as connection:
        chosen = choose_views(read_catalog(connection, "market"), views)
        done = materialize(connection, "market", chosen, Window(None, None), now=NOW)
        assert all(isinstance(one, Materialized) and one.entities for one in done), done


def value_of(entity: str, feature: str) -> float | None:
    """Return what a feature is for an entity, BTCUSDT_1h or BTCUSDT; now and then nothing."""
    number = sum((index + 1) * ord(letter) for index, letter in enumerate(f"{entity}:{feature}"))
    return None if number % 11 == 0 else number / 8


def expected(entity_id: str, views: Iterable[str]) -> dict[str, Any]:
    """Return the row that every path must give."""
    symbol, _, timeframe = entity_id.rpartition("_")
    row: dict[str, Any] = {
        "entity_id": entity_id,
        "symbol": symbol,
        "timeframe": timeframe,
        "event_timestamp": EVENT,
    }
    for view in views:
        key = symbol if view == SENTIMENT else entity_id
        row |= {feature: value_of(key, feature) for feature in VIEWS[view]}
    return row


# --- the drill -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fault:
    """Something that breaks for a while: the context begins with the fault and ends when it is mended.

    ``during`` are the paths by which views may be answered meanwhile; views that are not named keep to ``first``.
    ``reason`` stands in the reason of every answer that is not by the first path. ``timeout`` is the calls', and what
    holds them up lasts ``at_least`` so long that they give it up. ``no_worse`` is another path that is no degradation.
    """

    name: str
    broken: Callable[[Ground], AbstractContextManager[object]]
    during: Mapping[str, frozenset[str]] = field(default_factory=dict)
    reason: str = ""
    timeout: float = 2.0
    at_least: float = 0.0
    first: str = "online"
    no_worse: str = ""


@dataclass(frozen=True)
class Phases:
    """Seconds of reading before the fault, with it, and of good answers after it."""

    before: float
    fault: float
    after: float
    recovery: float = 10.0


@dataclass(frozen=True)
class Call:
    """One read: when it was under way, the path of each view, and the reasons for paths that are not the first."""

    begin: float
    end: float
    sources: Mapping[str, str]
    reasons: Mapping[str, str]
    error: str | None = None


@dataclass
class Outcome:
    """What became of a drill: its calls, when the fault came and went, and everything that was not as it should be."""

    fault: Fault
    calls: list[Call] = field(default_factory=list)
    injected: tuple[float, float] = (0.0, 0.0)
    mended: tuple[float, float] = (0.0, 0.0)
    recovered: dict[str, float] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)

    @property
    def paths(self) -> Counter[str]:
        """How many calls there were by each path, or paths."""
        return Counter("+".join(sorted(set(call.sources.values()))) for call in self.calls if not call.error)

    @property
    def worst(self) -> float:
        """The longest call, in seconds."""
        return max(call.end - call.begin for call in self.calls)

    @property
    def recovery(self) -> float | None:
        """Seconds from the end of the fault until all views were answered by the first path again, if they were."""
        if len(self.recovered) < len(VIEWS):
            return None
        return round(max(self.recovered.values()) - self.mended[1], 2)

    @property
    def wrongs(self) -> Counter[str]:
        """What was wrong, and how often."""
        return Counter(self.wrong)

    def phase(self, call: Call) -> str:
        if call.end <= self.injected[0]:
            return "before"
        if call.begin >= self.injected[1] and call.end <= self.mended[0]:
            return "fault"
        return "after" if call.begin >= self.mended[1] else "between"


async def drill(ground: Ground, fault: Fault, phases: Phases, **options: Any) -> Outcome:
    """Read with 16 tasks while a fault comes and goes; return what became of it."""
    outcome, stop = Outcome(fault), asyncio.Event()
    async with ground.manager(**{"timeout": fault.timeout, "pool_size": 8, **options}) as manager:
        await _warm_up(manager, fault)
        readers = [asyncio.ensure_future(_read(manager, number, outcome, stop)) for number in range(TASKS)]
        try:
            await asyncio.sleep(phases.before)
            await _under_way(outcome)
            await _break_and_mend(ground, outcome, phases)
            await _recovery(outcome, phases)
            await asyncio.sleep(phases.after)
        finally:
            stop.set()
            await asyncio.gather(*readers)
    _judge(outcome)
    outcome.wrong += await _left_behind(ground)
    return outcome


async def _warm_up(manager: FeastFeatureStoreManager, fault: Fault) -> None:
    """Read until the first path answers: Feast takes seconds to load."""
    until = time.monotonic() + 60
    while (rows := await manager.get_online_features_rows([f"{SYMBOLS[0]}_1h"])).source != fault.first:
        assert time.monotonic() < until, rows.degraded
        await asyncio.sleep(0.1)


async def _under_way(outcome: Outcome) -> None:
    """Wait until some calls have ended: the machine may have been elsewhere until now."""
    async with asyncio.timeout(20):
        while len(outcome.calls) < TASKS:
            await asyncio.sleep(0.01)


async def _break_and_mend(ground: Ground, outcome: Outcome, phases: Phases) -> None:
    broken = outcome.fault.broken(ground)
    began = time.monotonic()
    await asyncio.to_thread(broken.__enter__)
    outcome.injected = began, time.monotonic()
    try:
        await asyncio.sleep(max(phases.fault, outcome.fault.at_least))
    finally:
        began = time.monotonic()
        await asyncio.to_thread(broken.__exit__, None, None, None)
        outcome.mended = began, time.monotonic()


async def _recovery(outcome: Outcome, phases: Phases) -> None:
    """Wait until every view was answered by its first path, in calls that began when all was well again."""
    fault, until = outcome.fault, time.monotonic() + phases.recovery
    while len(outcome.recovered) < len(VIEWS):
        for call in outcome.calls:
            if call.begin >= outcome.mended[1]:
                for view, source in call.sources.items():
                    if source == fault.first:
                        outcome.recovered.setdefault(view, call.end)
        if time.monotonic() > until:
            outcome.wrong.append(f"{phases.recovery:g} s after the fault only {[*outcome.recovered]} have recovered")
            return
        await asyncio.sleep(0.02)


async def _read(manager: FeastFeatureStoreManager, number: int, outcome: Outcome, stop: asyncio.Event) -> None:
    turn = number
    while not stop.is_set():
        turn += 1
        count = 1 + turn % 3
        entity_ids = [f"{SYMBOLS[(turn + step) % 8]}_{TIMEFRAMES[(turn + step) % 2]}" for step in range(count)]
        await _call(manager, entity_ids, CHOICES[turn % len(CHOICES)], outcome)
        await asyncio.sleep(PAUSE)


async def _call(
    manager: FeastFeatureStoreManager, entity_ids: Sequence[str], views: Sequence[str], outcome: Outcome
) -> None:
    names = [f"{view}:{feature}" for view in views for feature in VIEWS[view]]
    begin = time.monotonic()
    try:
        async with asyncio.timeout(outcome.fault.timeout + 10):
            rows = await manager.get_online_features_rows(entity_ids, names)
    except Exception as error:
        text = f"{type(error).__name__}: {error}"
        outcome.calls.append(Call(begin, time.monotonic(), {}, {}, text))
        outcome.wrong.append(f"a call of {[*views]} failed: {text}")
        return
    end = time.monotonic()
    answered = {view.view.name: str(view.source) for view in rows.answer.views}
    outcome.calls.append(Call(begin, end, answered, rows.answer.reasons))
    wanted = [expected(entity_id, views) for entity_id in entity_ids]
    if list(rows) != wanted:
        outcome.wrong.append(f"{answered} answered {list(rows)}, not {wanted}")
    outcome.wrong += _mislabelled(rows, answered)


def _mislabelled(rows: OnlineRows, answered: Mapping[str, str]) -> Iterator[str]:
    """Yield what the labels of one answer contradict each other in."""
    if set(rows.source.split("+")) != set(answered.values()):
        yield f"the rows are labelled {rows.source}, the views {answered}"
    if bool(rows.degraded) != bool(rows.answer.reasons):
        yield f"degraded is {rows.degraded}, the reasons are {rows.answer.reasons}"


def _judge(outcome: Outcome) -> None:
    """Add to what is wrong: calls that took too long, or another path than they should have, or a wrong reason."""
    fault = outcome.fault
    for call in outcome.calls:
        if call.end - call.begin > fault.timeout + SLACK:
            outcome.wrong.append(f"a call took {call.end - call.begin:.2f} s, with a timeout of {fault.timeout:g} s")
        for view, source in call.sources.items():
            reason = call.reasons.get(view)
            if bool(reason) != (source not in (fault.first, fault.no_worse)):
                outcome.wrong.append(f"{view} was answered by {source}, degraded: {reason}")
            if reason and fault.reason not in reason:
                outcome.wrong.append(f"{view} gives the reason '{reason}', which does not say '{fault.reason}'")
            phase = outcome.phase(call)
            if source not in _allowed(outcome, call, view, phase):
                outcome.wrong.append(f"{view} was answered by {source} in phase '{phase}'")
    if outcome.mended[1] and not any(outcome.phase(call) == "before" for call in outcome.calls):
        outcome.wrong.append("no call ended before the fault")


def _allowed(outcome: Outcome, call: Call, view: str, phase: str) -> frozenset[str]:
    fault = outcome.fault
    first = frozenset({fault.first})
    if phase == "before" or call.begin >= outcome.recovered.get(view, float("inf")):
        return first
    during = fault.during.get(view, first)
    return during if phase == "fault" else during | first


async def _left_behind(ground: Ground) -> list[str]:
    """Say what a closed manager left behind: tasks, and sessions of the database."""
    tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    wrong = [f"left behind: {task}" for task in tasks]
    for _ in range(100):
        sessions = await asyncio.to_thread(_sessions, ground)
        if not sessions:
            return wrong
        await asyncio.sleep(0.02)
    return [*wrong, f"sessions left behind: {sessions}"]


def _sessions(ground: Ground) -> list[Any]:
    others = "datname = current_database() AND pid <> pg_backend_pid() AND application_name = 'featurectl'"
    with ground.connect() as connection:
        return connection.execute(f"SELECT state, query FROM pg_stat_activity WHERE {others}".encode()).fetchall()
