"""Faults on purpose, for tests: `point:rank:nth:action`, at the nth time that a rank passes a point. No torch.

Without WEFT_TEST_FAULTS=1 nothing is read and nothing happens. Points: the start-up phases, `step`, `move` and `switch`
(steps before which expert slots do so), `sampled`, `collective`. A fault happens in the first set of ranks only; with
`:every` after it, also after each restart.
"""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from weft.base.errors import ConfigError
from weft.runtime.ipc.phases import Phase

POINTS = (*(str(phase) for phase in Phase), "step", "move", "switch", "sampled", "collective")


class Action(StrEnum):
    """What happens; the last three at point `collective` only."""

    KILL = "kill"
    STOP = "stop"
    RAISE = "raise"
    NO_MEMORY = "no-memory"
    DELAY = "delay"
    NAN = "nan"
    SKIP = "skip-collective"
    SHAPE = "wrong-shape"


_COLLECTIVE = (Action.NAN, Action.SKIP, Action.SHAPE)


@dataclass(frozen=True, slots=True)
class Fault:
    """`seconds`: of a delay, written `delay=2.5` (10 when not given)."""

    point: str
    rank: int
    nth: int
    action: Action
    seconds: float = 10.0
    every: bool = False


def parse_faults(text: str) -> tuple[Fault, ...]:
    """Of a list with commas; ConfigError for what is not one."""
    return tuple(_parse(word.strip()) for word in text.split(",") if word.strip())


def _parse(word: str) -> Fault:
    parts = word.split(":")
    every = len(parts) == 5 and parts[4] == "every"
    try:
        point, rank, nth, name = parts[:4] if every else parts
        name, _, seconds = name.partition("=")
        fault = Fault(point, int(rank), int(nth), Action(name), float(seconds or 10.0), every)
    except ValueError as error:
        raise _bad(word, "point:rank:nth:action[:every]") from error
    if fault.point not in POINTS:
        raise _bad(word, "points " + ", ".join(POINTS))
    if fault.action in _COLLECTIVE and fault.point != "collective":
        raise _bad(word, f"{fault.action} at point collective only")
    return fault


def _bad(word: str, legal: str) -> ConfigError:
    return ConfigError(f"WEFT_FAULT {word}: legal: {legal}", field="WEFT_FAULT", value=word)


class Faults:
    """Those of one rank; `start` counts the sets of ranks, from 0."""

    def __init__(self, faults: Iterable[Fault] = (), rank: int = 0, start: int = 0) -> None:
        self._faults = [fault for fault in faults if fault.rank == rank and (fault.every or start == 0)]
        self._passed: Counter[str] = Counter()

    def __bool__(self) -> bool:
        return bool(self._faults)

    def at(self, point: str) -> bool:
        """Whether anything can happen at `point`."""
        return any(fault.point == point for fault in self._faults)

    def reach(self, point: str) -> Action | None:
        """Passes `point`. Gives what the caller must do to its own data, if anything."""
        if not self._faults:
            return None
        self._passed[point] += 1
        for fault in self._faults:
            if fault.point == point and fault.nth == self._passed[point]:
                return _act(fault)
        return None


def _act(fault: Fault) -> Action | None:
    if fault.action in _COLLECTIVE:
        return fault.action
    if fault.action is Action.KILL:
        os.kill(os.getpid(), signal.SIGKILL)
    elif fault.action is Action.STOP:
        os.kill(os.getpid(), signal.SIGSTOP)
    elif fault.action is Action.DELAY:
        time.sleep(fault.seconds)
    elif fault.action is Action.NO_MEMORY:
        raise MemoryError(f"a failed allocation on purpose at {fault.point}")
    else:
        raise RuntimeError(f"a fault on purpose at {fault.point}")
    return None
