"""benchmarks/common/timing.py: what is called when, and what is counted."""

from __future__ import annotations

import pytest

from benchmarks.common import timing


class Clock:
    """A time that only calls move."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.log = 0.0, list[str]()
        monkeypatch.setattr("benchmarks.common.timing.time.perf_counter", lambda: self.now)

    def call(self, name: str, seconds: float) -> timing.Call:
        def run() -> None:
            self.log.append(name)
            self.now += seconds

        return run


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_calls_take_turns_in_going_first_after_a_round_that_does_not_count(clock: Clock) -> None:
    calls = {"a": clock.call("a", 1.0), "b": clock.call("b", 2.0)}
    assert timing.interleaved(calls, 2, clock.call("-", 50.0)) == {"a": [1000.0] * 2, "b": [2000.0] * 2}
    assert "".join(clock.log) == "-ab-ba-ab"


@pytest.mark.parametrize(
    ("seconds", "settle", "counted", "calls"), [(1.0, 0.0, 4, 5), (0.1, 0.0, 3, 4), (1, 0.6, 4, 7)]
)
def test_a_time_is_filled(clock: Clock, seconds: float, settle: float, counted: int, calls: int) -> None:
    assert timing.filling(clock.call("a", 0.25), seconds, settle) == [250.0] * counted
    assert len(clock.log) == calls


def test_how_many_times_as_fast_the_second_is_turn_by_turn() -> None:
    found = timing.ratios_beside([2.0, 6.0, 4.0, 1.0, 5.0], [1.0, 2.0, 1.0, 1.0, 1.0])
    assert found == {"ratio": 3.0, "ratio_q1": 2.0, "ratio_q3": 4.0}
