"""Times of a step's operations: where they come from, and the table made of them. No torch.

A `Timers` is anything that gives the list of (operation, microseconds) since it was last asked: methods wrapped in a
clock, ranks that count their own time, or a program that runs a whole step and times its operations itself.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any, Protocol

Timing = tuple[str, float]
"""An operation's name and microseconds."""


class Timers(Protocol):
    """Where the times of single operations come from."""

    def take(self) -> list[Timing]:
        """What ran since the last call, in order."""


class CallTimers:
    """Timers around methods of living objects. An operation that calls another one is charged without it."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock, self._found = clock, list[Timing]()
        self._inner: list[float] = []

    def watch(self, target: object, method: str, label: Callable[[tuple[Any, ...]], str]) -> None:
        """From now on `target.method` is timed; `label` names a call by its arguments."""
        plain = getattr(target, method)

        @wraps(plain)
        def timed(*args: Any, **words: Any) -> Any:
            self._inner.append(0.0)
            began = self._clock()
            try:
                return plain(*args, **words)
            finally:
                took = self._clock() - began
                own = took - self._inner.pop()
                if self._inner:
                    self._inner[-1] += took
                self._found.append((label(args), own * 1e6))

        setattr(target, method, timed)

    def take(self) -> list[Timing]:
        """What ran since the last call."""
        found, self._found = self._found, []
        return found


@dataclass(frozen=True, slots=True)
class StepTime:
    """One step: microseconds of the whole, of the ranks, and of each operation (with its number of calls)."""

    whole: float
    ranks: float
    operations: dict[str, tuple[float, int]]


def table(steps: Sequence[StepTime], read: Mapping[str, int] | None = None) -> dict[str, dict[str, float]]:
    """Medians over the steps: operation -> microseconds, calls, share of the step, and GB/s of those that `read` has
    bytes for; the largest first, then what stands between the operations (Python, torch's own calls) and the
    scheduler."""
    whole = statistics.median(step.whole for step in steps)
    names = dict.fromkeys(name for step in steps for name in step.operations)
    found = {name: statistics.median(step.operations.get(name, (0.0, 0))[0] for step in steps) for name in names}
    calls = {name: statistics.median(step.operations.get(name, (0.0, 0))[1] for step in steps) for name in names}
    found = dict(sorted(found.items(), key=lambda pair: -pair[1]))
    spent = [sum(took for took, _ in step.operations.values()) for step in steps]
    found["between the operations"] = statistics.median(
        step.ranks - took for step, took in zip(steps, spent, strict=True)
    )
    found["scheduler"] = statistics.median(step.whole - step.ranks for step in steps)
    found["whole step"] = whole
    rows = {
        name: {"us": round(us, 1), "calls": calls.get(name, 1), "share": round(us / whole, 4)}
        for name, us in found.items()
    }
    for name, nbytes in (read or {}).items():
        if found.get(name):
            rows[name]["gb_per_s"] = round(nbytes / found[name] / 1e3, 1)
    return rows


def markdown(rows: dict[str, dict[str, float]]) -> str:
    """A table of one case."""
    lines = ["| operation | us per step | calls | share | GB/s |", "|---|---|---|---|---|"]
    for name, row in rows.items():
        lines.append(
            f"| {name} | {row['us']:.0f} | {row['calls']:.0f} | {row['share']:.1%} | {row.get('gb_per_s', '')} |"
        )
    return "\n".join(lines)
