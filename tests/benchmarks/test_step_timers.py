"""benchmarks/common/step_timers.py: whose time is whose, and the table of a step."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import pytest

from benchmarks.common.step_timers import CallTimers, StepTime, markdown, table


class Clock:
    """Advances only when asked, in seconds."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Layer:
    """Operations that take a known time and call each other."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def outer(self, name: str) -> str:
        self.clock.now += 1.0
        self.inner(name)
        self.inner(name)
        return name

    def inner(self, name: str) -> None:
        self.clock.now += 0.25
        if name == "bad":
            raise ValueError(name)


def named(method: str, args: Sequence[object]) -> str:
    return f"{method} {args[0]}"


@pytest.fixture
def watched() -> tuple[Layer, CallTimers]:
    clock = Clock()
    layer, timers = Layer(clock), CallTimers(clock)
    for method in ("outer", "inner"):
        timers.watch(layer, method, partial(named, method))
    return layer, timers


def test_an_operation_is_not_charged_for_those_it_calls(watched: tuple[Layer, CallTimers]) -> None:
    layer, timers = watched
    assert layer.outer("a") == "a"
    assert timers.take() == [("inner a", 250_000.0), ("inner a", 250_000.0), ("outer a", 1_000_000.0)]
    assert timers.take() == []


def test_an_operation_that_fails_leaves_the_books_in_order(watched: tuple[Layer, CallTimers]) -> None:
    layer, timers = watched
    with pytest.raises(ValueError, match="bad"):
        layer.outer("bad")
    assert timers.take() == [("inner bad", 250_000.0), ("outer bad", 1_000_000.0)]
    layer.inner("b")
    assert timers.take() == [("inner b", 250_000.0)]


def test_the_table_has_the_largest_first_then_what_is_between_and_the_scheduler() -> None:
    steps = [StepTime(100.0 + add, 90.0 + add, {"norm": (10.0, 2), "product": (60.0 + add, 3)}) for add in (0, 10, 50)]
    found = table(steps)
    assert list(found) == ["product", "norm", "between the operations", "scheduler", "whole step"]
    assert found["product"] == {"us": 70.0, "calls": 3, "share": round(70 / 110, 4)}
    assert found["between the operations"]["us"] == 20.0
    assert found["scheduler"]["us"] == 10.0
    assert markdown(found).splitlines()[2] == "| product | 70 | 3 | 63.6% |  |"


def test_what_is_read_is_shown_as_a_rate() -> None:
    found = table([StepTime(100.0, 90.0, {"norm": (10.0, 2), "product": (60.0, 3)})], {"product": 6_000_000, "none": 5})
    assert found["product"]["gb_per_s"] == 100.0 and "gb_per_s" not in found["norm"] and "none" not in found
    assert markdown(found).splitlines()[2] == "| product | 60 | 3 | 60.0% | 100.0 |"


def test_an_operation_that_some_steps_lack_counts_as_nothing_there() -> None:
    steps = [StepTime(10.0, 10.0, {}), StepTime(10.0, 10.0, {}), StepTime(10.0, 10.0, {"rare": (9.0, 1)})]
    assert table(steps)["rare"]["us"] == 0.0
