"""Signals that wait for the end of what must not be left half done."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import FrameType

import pytest

from weft.base.machine.deferred_signals import SIGNALS, DeferredSignals


class Ended(Exception):
    """Of a handler."""


@pytest.fixture(params=SIGNALS, ids=lambda number: number.name)
def number(request: pytest.FixtureRequest) -> Iterator[signal.Signals]:
    def handler(number: int, _: FrameType | None) -> None:
        raise Ended(number)

    before = signal.signal(request.param, handler)
    yield request.param
    signal.signal(request.param, before)


def nothing() -> None:
    """Is said."""


def test_a_signal_waits_for_the_end_and_is_told(number: signal.Signals) -> None:
    done: list[str] = []
    handler = signal.getsignal(number)

    def call() -> None:
        signal.raise_signal(number)
        done.append("to the end")

    with pytest.raises(Ended, match=str(int(number))), DeferredSignals() as deferred:
        deferred.run(call)
    assert done == ["to the end"] and signal.getsignal(number) is handler


def test_a_second_signal_does_not_wait(number: signal.Signals) -> None:
    done: list[str] = []
    handler = signal.getsignal(number)

    def call() -> None:
        for word in ("once", "twice"):
            signal.raise_signal(number)
            done.append(word)

    with DeferredSignals() as deferred:
        with pytest.raises(Ended):
            deferred.run(call)
        assert deferred.run(lambda: "goes on") == "goes on"
    assert done == ["once"] and signal.getsignal(number) is handler


def test_a_signal_comes_before_an_error_of_what_is_done(number: signal.Signals) -> None:
    def call() -> None:
        signal.raise_signal(number)
        raise ValueError

    with pytest.raises(Ended) as caught, DeferredSignals() as deferred:
        deferred.run(call)
    assert isinstance(caught.value.__context__, ValueError)


def test_between_two_calls_nothing_is_held_back(number: signal.Signals) -> None:
    deferred = DeferredSignals()
    for _ in range(2):
        with deferred:
            deferred.run(nothing)
            with pytest.raises(Ended):
                signal.raise_signal(number)
            with pytest.raises(Ended):
                deferred.run(lambda: signal.raise_signal(number))
    with pytest.raises(Ended):
        deferred.run(lambda: signal.raise_signal(number))


def test_the_outermost_call_is_not_broken(number: signal.Signals) -> None:
    done: list[str] = []

    def call() -> None:
        deferred.run(lambda: signal.raise_signal(number))
        done.append("to the end")

    with pytest.raises(Ended), DeferredSignals() as deferred:
        deferred.run(call)
    assert done == ["to the end"]


def test_a_handler_that_somebody_put_in_meanwhile_stays(number: signal.Signals) -> None:
    with DeferredSignals():
        signal.signal(number, signal.SIG_IGN)
    assert signal.getsignal(number) is signal.SIG_IGN


def test_two_may_end_in_any_order(number: signal.Signals) -> None:
    first, second = DeferredSignals(), DeferredSignals()
    for _ in range(2):
        first.__enter__()
        second.__enter__()
        first.__exit__()
        with pytest.raises(Ended):
            second.run(lambda: signal.raise_signal(number))
        second.__exit__()
        with pytest.raises(Ended):
            signal.raise_signal(number)


def test_what_python_does_not_handle_stays_as_it_is() -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with DeferredSignals():
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)


def test_in_another_thread_nothing_is_held_back(number: signal.Signals) -> None:
    handler = signal.getsignal(number)

    def inside() -> bool:
        with DeferredSignals() as deferred:
            return deferred.run(lambda: signal.getsignal(number) is handler)

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(inside).result()
