"""What is counted of reads, and what of it is logged: clocks and answers are the test's own."""

from __future__ import annotations

import logging
import statistics
from typing import Any

import pytest

from featurectl.core.catalog import View
from featurectl.core.online import Keys, Source, Status
from featurectl.core.serving.answer import ViewAnswer
from featurectl.core.serving.counters import REMEMBERED, WELL_AFTER, Counters
from featurectl.errors import DatabaseUnreachable, ReadTimeout

ALL_PRESENT = {Status.PRESENT: 2, Status.NULL_VALUE: 0, Status.NOT_FOUND: 0, Status.OUTSIDE_MAX_AGE: 0}
MIXED = {Status.PRESENT: 1, Status.NULL_VALUE: 1, Status.NOT_FOUND: 4, Status.OUTSIDE_MAX_AGE: 2}


def answer(view: str = "fast", source: Source = Source.ONLINE, reason: str | None = None) -> ViewAnswer:
    known = View(view, ("symbol",), 60, True, None, None, "time", None)
    return ViewAnswer(known, ("a", "b"), Keys([("BTCUSDT",)]), {}, source, None, reason)


def view(counters: Counters, name: str = "fast") -> dict[str, Any]:
    found: dict[str, Any] = counters.report()["views"][name]
    return found


@pytest.fixture
def clocked() -> tuple[Counters, list[float]]:
    """Counters that log every minute, and their clock."""
    clock = [1000.0]
    return Counters(60, clock=lambda: clock[0]), clock


def test_a_call_counts_in_each_of_its_views() -> None:
    counters = Counters()
    counters.count(answer(), ALL_PRESENT, 0.001)
    counters.count(answer(), MIXED, 0.003)
    counters.count(answer("slow", Source.TIMESCALEDB, "the online table is locked"), ALL_PRESENT, 0.003)
    assert view(counters) == {
        "calls": 2,
        "degraded": 0,
        "paths": {"online": 2},
        "statuses": {"PRESENT": 3, "NULL_VALUE": 1, "NOT_FOUND": 4, "OUTSIDE_MAX_AGE": 2},
        "latency_ms": {"p50": 1.0, "p95": 3.0, "p99": 3.0},
    }
    assert view(counters, "slow")["degraded"] == 1
    assert view(counters, "slow")["paths"] == {"timescaledb": 1}


def test_a_view_whose_rows_come_from_two_paths_counts_in_both() -> None:
    counters = Counters()
    one = answer()
    one.keys = Keys([("BTCUSDT",), ("ETHUSDT",)])
    one.from_history.add(("ETHUSDT",))
    counters.count(one, ALL_PRESENT, 0.001)
    assert view(counters)["paths"] == {"online": 1, "timescaledb": 1}
    one.from_history.add(("BTCUSDT",))
    counters.count(one, ALL_PRESENT, 0.001)
    assert view(counters)["paths"] == {"online": 1, "timescaledb": 2}
    assert view(counters)["calls"] == 2


def test_percentiles_are_those_of_the_newest_reads() -> None:
    """Nearest rank, as statistics books and the eye have it: the 95th of a hundred sorted values."""
    counters = Counters()
    for milliseconds in [*[5000.0] * 10, *range(1, REMEMBERED + 1)]:
        counters.count(answer(), ALL_PRESENT, milliseconds / 1000)
    found = view(counters)["latency_ms"]
    assert found == pytest.approx({"p50": REMEMBERED * 0.5, "p95": REMEMBERED * 0.95, "p99": REMEMBERED * 0.99})
    assert found["p50"] == pytest.approx(statistics.median_low(range(1, REMEMBERED + 1)))
    assert view(counters)["calls"] == REMEMBERED + 10


def test_failed_calls_are_counted_by_their_error() -> None:
    counters = Counters()
    for error in (ReadTimeout("late"), DatabaseUnreachable("gone"), ReadTimeout("late")):
        assert counters.count_failure(error) is error
    assert counters.report() == {"failed": {"ReadTimeout": 2, "DatabaseUnreachable": 1}, "views": {}}


def test_a_view_says_how_often_the_cache_answered_where_there_is_one() -> None:
    counters = Counters()
    for hit in (False, True, True):
        counters.count_lookup("fast", hit)
        counters.count(answer(), ALL_PRESENT, 0.001)
    counters.count(answer("slow"), ALL_PRESENT, 0.001)
    assert view(counters)["cache"] == {"hits": 2, "misses": 1}
    assert "cache" not in view(counters, "slow")


def test_a_line_a_view_is_logged_while_reads_go_on(
    clocked: tuple[Counters, list[float]], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "featurectl")
    counters, clock = clocked
    for _ in range(3):
        counters.count_lookup("fast", True)
        counters.count(answer(), MIXED, 0.002)
    counters.count(answer("slow", Source.FEAST), ALL_PRESENT, 0.1)
    clock[0] += 59.9
    counters.count(answer(), MIXED, 0.002)
    assert caplog.messages == []
    clock[0] += 0.1
    counters.count_failure(ReadTimeout("late"))
    counters.count_lookup("fast", False)
    counters.count(answer(), MIXED, 0.005)
    assert caplog.messages == [
        "view 'fast': calls: 5 in 60 s; p50 2.00 ms, p95 5.00 ms, p99 5.00 ms; online 5; "
        "12.5% PRESENT, 12.5% NULL_VALUE, 50.0% NOT_FOUND, 25.0% OUTSIDE_MAX_AGE; 75.0% from the cache",
        "view 'slow': calls: 1 in 60 s; p50 100.00 ms, p95 100.00 ms, p99 100.00 ms; feast 1; 100.0% PRESENT",
        "failed calls: 1 in 60 s; ReadTimeout 1",
    ]
    clock[0] += 100
    counters.count(answer(), ALL_PRESENT, 0.001)
    assert caplog.messages[3:] == [
        "view 'fast': calls: 1 in 100 s; p50 1.00 ms, p95 1.00 ms, p99 1.00 ms; online 1; 100.0% PRESENT"
    ]


def test_what_is_left_is_logged_at_the_end(
    clocked: tuple[Counters, list[float]], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "featurectl")
    counters, clock = clocked
    counters.count(answer(), ALL_PRESENT, 0.001)
    clock[0] += 2
    counters.close()
    assert len(caplog.messages) == 1
    assert "calls: 1 in 2 s" in caplog.messages[0]
    counters.close()
    assert len(caplog.messages) == 1


def test_a_view_that_becomes_degraded_is_said_once_and_so_is_its_recovery(
    clocked: tuple[Counters, list[float]], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "featurectl")
    counters, clock = clocked
    for source, reason in [
        (Source.ONLINE, None),
        (Source.TIMESCALEDB, "the table is locked"),
        (Source.ONLINE, None),  # one path, then the other: that is not yet well
        (Source.TIMESCALEDB, "the table is locked"),
    ]:
        counters.count(answer(source=source, reason=reason), ALL_PRESENT, 0.001)
        clock[0] += 1
    clock[0] += WELL_AFTER
    counters.count(answer(source=Source.TIMESCALEDB), ALL_PRESENT, 0.001)  # somebody asked for the history
    assert [(one.levelname, one.getMessage()) for one in caplog.records] == [
        ("WARNING", "view 'fast' is degraded, timescaledb answers: the table is locked")
    ]
    for _ in range(2):
        counters.count(answer(), ALL_PRESENT, 0.001)
    assert caplog.messages[1:] == ["view 'fast' is answered by online again"]
    assert view(counters)["degraded"] == 2


def test_nothing_is_logged_where_nobody_wants_it(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "featurectl")
    clock = [0.0]
    counters = Counters(0, clock=lambda: clock[0])
    counters.count(answer(reason="the table is locked", source=Source.TIMESCALEDB), ALL_PRESENT, 0.001)
    clock[0] += 1e6
    counters.count(answer(), ALL_PRESENT, 0.001)
    counters.close()
    assert caplog.messages == []
