"""The circuit breaker's states, by a clock that the test sets."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest

from featurectl.core.serving.breaker import Breaker, State


@dataclass
class Circuit:
    """A breaker and its clock."""

    now: float = 100.0
    breaker: Breaker = field(init=False)

    def __post_init__(self) -> None:
        self.breaker = Breaker(seconds=lambda: self.now)

    def open(self) -> None:
        self.breaker.failed("down", timed_out=True)

    def pause(self) -> float:
        """Let time pass until a probe is due, in sixteenths of a second, and take it; return how long that took."""
        start = self.now
        while not self.breaker.take_probe():
            self.now += 1 / 16
            assert self.now - start < 60, "no probe is due for a minute"
        return self.now - start


@pytest.fixture
def circuit() -> Circuit:
    return Circuit()


def test_it_begins_closed_and_has_no_probe_to_give(circuit: Circuit) -> None:
    assert circuit.breaker.is_closed
    assert not circuit.breaker.take_probe()
    assert circuit.breaker.report() == {
        "state": "closed",
        "reason": None,
        "failures": 0,
        "successes": 0,
        "opened": 0,
    }


def test_three_failures_in_a_row_open_it(circuit: Circuit) -> None:
    states = []
    for count in range(3):
        circuit.breaker.failed(f"failure {count}")
        states.append(circuit.breaker.state)
    assert states == [State.CLOSED, State.CLOSED, State.OPEN]
    assert circuit.breaker.report() == {
        "state": "open",
        "reason": "failure 2",
        "failures": 3,
        "successes": 0,
        "opened": 1,
    }


def test_a_success_between_failures_begins_the_row_anew(circuit: Circuit) -> None:
    for _ in range(10):
        circuit.breaker.failed("once")
        circuit.breaker.failed("twice")
        circuit.breaker.succeeded()
    assert circuit.breaker.is_closed
    assert circuit.breaker.reason is None
    assert circuit.breaker.report()["failures"] == 20
    assert circuit.breaker.report()["opened"] == 0


def test_one_timeout_opens_it(circuit: Circuit) -> None:
    circuit.open()
    assert circuit.breaker.state is State.OPEN


def test_a_second_passes_before_the_first_probe(circuit: Circuit) -> None:
    circuit.open()
    assert not circuit.breaker.take_probe()
    circuit.now += 0.999
    assert not circuit.breaker.take_probe()
    circuit.now += 0.001
    assert circuit.breaker.take_probe()


def test_one_probe_at_a_time(circuit: Circuit) -> None:
    circuit.open()
    circuit.pause()
    assert circuit.breaker.state is State.HALF_OPEN
    circuit.now += 1000
    assert not circuit.breaker.take_probe()


def test_each_probe_that_fails_doubles_the_pause_up_to_half_a_minute(circuit: Circuit) -> None:
    circuit.open()
    pauses = []
    for _ in range(8):
        pauses.append(circuit.pause())
        circuit.breaker.failed("still down", probe=True)
        assert circuit.breaker.state is State.OPEN
    assert pauses == [1, 2, 4, 8, 16, 30, 30, 30]
    assert circuit.breaker.opened == 1


def test_a_probe_that_succeeds_closes_it_and_forgets_the_pauses(circuit: Circuit) -> None:
    circuit.open()
    for _ in range(4):
        circuit.pause()
        circuit.breaker.failed("still down", probe=True)
    circuit.pause()
    circuit.breaker.succeeded()
    assert circuit.breaker.state is State.CLOSED
    assert circuit.breaker.reason is None
    circuit.breaker.failed("again")
    assert circuit.breaker.is_closed, "the row begins anew"
    circuit.open()
    assert circuit.pause() == 1


def test_calls_that_were_under_way_when_it_opened_do_not_put_the_probe_off(circuit: Circuit) -> None:
    """Sixteen tasks that hang on the same table time out at about the same time."""
    circuit.open()
    for _ in range(15):
        circuit.now += 1 / 32
        circuit.open()
    assert circuit.breaker.opened == 1
    assert circuit.breaker.failures == 16
    assert 15 / 32 + circuit.pause() == pytest.approx(1, abs=1 / 16)


def test_a_late_failure_of_another_call_is_not_taken_for_the_probe_s(circuit: Circuit) -> None:
    """One that began before it opened may end while the probe is under way."""
    circuit.open()
    circuit.pause()
    circuit.breaker.failed("late", timed_out=True, probe=False)
    assert circuit.breaker.state is State.HALF_OPEN
    assert not circuit.breaker.take_probe()
    circuit.breaker.failed("still down", probe=True)
    assert circuit.pause() == 2


def test_any_success_closes_it(circuit: Circuit) -> None:
    """A caller who asks for the first path alone may find it well before the probe does."""
    circuit.open()
    circuit.breaker.succeeded()
    assert circuit.breaker.is_closed


@pytest.mark.parametrize("seed", range(5))
def test_whatever_happens_a_probe_comes_within_the_longest_pause(seed: int) -> None:
    """Seeded walks over everything that can happen to a breaker."""
    print(f"seed {seed}")
    chance, circuit = random.Random(seed), Circuit()
    probing = False
    for _ in range(2000):
        circuit.now += chance.expovariate(1)
        event = chance.choice(("failed", "timed out", "succeeded", "probe", "probe", "probe ends"))
        if event == "probe" and circuit.breaker.take_probe():
            assert not probing, "two probes at once"
            probing = True
        elif event == "probe ends" and probing:
            probing = False
            if chance.random() < 0.7:
                circuit.breaker.failed("down", probe=True)
            else:
                circuit.breaker.succeeded()
        elif event == "succeeded" and chance.random() < 0.2:
            circuit.breaker.succeeded()
            probing = False  # what the probe finds out later changes nothing that matters
        elif event in ("failed", "timed out"):
            circuit.breaker.failed("down", timed_out=event == "timed out")
        if not circuit.breaker.is_closed and not probing:
            before, circuit.now = circuit.now, circuit.now + 30
            assert circuit.breaker.take_probe(), "left alone for ever"
            circuit.now, probing = before, True
        assert (circuit.breaker.reason is None) <= circuit.breaker.is_closed
