"""Times of calls that take turns, so that what else the machine does meets all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence

Call = Callable[[], object]
TURN_SPIN_NS = 2_000
"""How long threads look for work in pools that take turns: those whose turn it is not must not be in the way."""


def nothing() -> None:
    """Between rounds, where nothing is to happen there."""


def once(call: Call) -> float:
    """Milliseconds."""
    started = time.perf_counter()
    call()
    return 1e3 * (time.perf_counter() - started)


def interleaved(calls: Mapping[str, Call], rounds: int, between: Call = nothing) -> dict[str, list[float]]:
    """Milliseconds of each call in every round, after one round to warm up; `between` runs before each round. Another
    call begins in every round, for the first one finds the caches as `between` or the last one left them."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    names = list(calls)
    for index in range(rounds + 1):
        between()
        first = index % len(names)
        for name in names[first:] + names[:first]:
            spent = once(calls[name])
            if index:
                times[name].append(spent)
    return times


def filling(call: Call, seconds: float, settle: float = 0.0) -> list[float]:
    """Milliseconds of calls that fill about `seconds`, three at least; those of the first `settle` are not counted."""
    began = time.perf_counter()
    call()
    while time.perf_counter() < began + settle:
        call()
    until, times = time.perf_counter() + seconds, list[float]()
    while len(times) < 3 or time.perf_counter() < until:
        times.append(once(call))
    return times


def quantile(values: Sequence[float], share: float) -> float:
    """The nearest of `values`, which have any unit."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def ratios_beside(first: Sequence[float], second: Sequence[float]) -> dict[str, float]:
    """Of times taken in turns, how many times as fast the second is: median and quartiles of the turns' ratios."""
    ratios = [one / each for one, each in zip(first, second, strict=True)]
    quartiles = {f"ratio_q{n}": round(quantile(ratios, n / 4), 3) for n in (1, 3)}
    return {"ratio": round(statistics.median(ratios), 3), **quartiles}
