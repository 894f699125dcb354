"""ProcessLimits: how long ranks may take for what, and what happens when they do not. Frozen; also `serve`'s options.

`StepClock` is the adaptive step limit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from weft.base.options import Setting, check_fields, option, seconds, settings_of
from weft.runtime.ipc.phases import Phase

STEP_FLOOR_S = 30.0
STEP_CEILING_S = 300.0
STEP_FACTOR = 20.0
"""How many times longer than such steps took before a step may take."""
_FORGET = 0.99


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessLimits:
    """In seconds. Impossible values raise ConfigError."""

    step_limit: float | None = seconds(
        None,
        "most seconds of a step; then the late rank is named and all ranks are ended (default: 20 times what such steps"
        " took, at least 30 and at most 300)",
        "--step-limit",
    )
    join_limit: float = seconds(
        120.0,
        "most seconds until all ranks' processes have started, or hosts are there (default: 120)",
        "--join-limit",
    )
    load_limit: float = seconds(
        1800.0,
        "most seconds for loading the weights (default: 1800)",
        "--load-limit",
    )
    warm_up_limit: float = seconds(
        600.0,
        "most seconds for each of the start phases groups, cache and warm-up (default: 600)",
        "--warm-up-limit",
    )
    drain_timeout: float = seconds(
        30.0,
        "most seconds for running requests to end after SIGTERM, SIGHUP or Ctrl-C (default: 30)",
        "--drain-timeout",
        minimum=0.0,
    )
    restart: bool = option(
        True,
        "restart a replica when one of its ranks dies; without it the replica stays down, and the server ends with exit"
        " code 69 when none is left",
        "--restart",
        expert=True,
    )
    comm_debug: bool = option(
        False, "ranks compare the shapes of every collective before it runs; slower", "--comm-debug", expert=True
    )

    def __post_init__(self) -> None:
        check_fields(self)

    def of_phase(self, phase: Phase) -> tuple[float, str]:
        """Seconds that ranks may stay in `phase`, and the option that says so."""
        if phase in (Phase.SPAWN, Phase.SETTINGS):
            return self.join_limit, "--join-limit"
        if phase is Phase.LOAD:
            return self.load_limit, "--load-limit"
        return self.warm_up_limit, "--warm-up-limit"

    @property
    def comm_s(self) -> float:
        """Of one wait inside a collective: longer than anything the supervisor waits for, whose error says more."""
        return max(self.join_limit + self.load_limit + self.warm_up_limit, self.step_limit or STEP_CEILING_S) + 10.0


def process_settings() -> tuple[Setting, ...]:
    """The fields as options, in order of declaration."""
    return settings_of(ProcessLimits)


class StepClock:
    """The limit of each step: `fixed`, or what steps of about as many rows took, times 20, within floor and ceiling.

    Twice the rows take at most twice the time, and fewer rows no longer: so every measured size bounds the others.
    """

    def __init__(self, fixed: float | None = None) -> None:
        self.fixed = fixed
        self._slowest: dict[int, float] = {}

    def limit(self, rows: int) -> float:
        """Seconds for a step of `rows` rows."""
        if self.fixed is not None:
            return self.fixed
        size, most = rows.bit_length(), math.inf
        for known, took in self._slowest.items():
            if (bound := took * 2.0 ** (size - known) if size > known else took) < most:
                most = bound
        return min(STEP_CEILING_S, max(STEP_FLOOR_S, STEP_FACTOR * most))

    def took(self, rows: int, seconds: float) -> None:
        """A step of `rows` rows ended after `seconds`; a slow one is forgotten slowly."""
        size = rows.bit_length()
        self._slowest[size] = max(seconds, self._slowest.get(size, 0.0) * _FORGET)
