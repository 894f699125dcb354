"""Ranks that compute nothing: what the benchmarks of the front end serve."""

from __future__ import annotations

import select
import time

import numpy as np

from weft.base.settings import EngineConfig
from weft.base.step.plan import GroupPlan, GroupResult, Sampled, StepPlan, StepResult
from weft.engine.core.engine import Engine
from weft.parallel.experts.statistics.loads import IntArray
from weft.parallel.layout.resolve import resolve
from weft.runtime.ipc.report import RankReport

WORD = " the"
"""A word that is one token, and no special one."""


def answer(group: GroupPlan, token: int) -> GroupResult:
    """Every sampled row gives `token`."""
    ids = np.full(len(group.decodes), token, np.int64).tobytes()
    return GroupResult(ids, runs=[Sampled(run.slot, token) for run in group.runs if run.sample])


class NoExperts:
    """Ranks that count no experts."""

    def expert_counts(self) -> IntArray:
        """Of no layer."""
        return np.zeros((0, 0), np.int64)


class Paced(NoExperts):
    """Ranks that always say `token`; a step takes `step_s`, as if they computed."""

    def __init__(self, token: int, step_s: float, num_blocks: int) -> None:
        self.layout, self.num_blocks = resolve({}), num_blocks
        self._token, self._step_s = token, step_s

    def step(self, plan: StepPlan) -> StepResult:
        """Sleeps, then answers."""
        time.sleep(self._step_s)
        groups = [answer(group, self._token) for group in plan.groups]
        return StepResult(plan.index, groups)

    def wait(self, wake_fd: int) -> None:
        """Until there is work."""
        select.select([wake_fd], [], [])

    def close(self) -> None:
        """Nothing to end."""


class AtOnce:
    """A start without processes."""

    def __init__(self, executor: Paced, config: EngineConfig) -> None:
        self._executor, self._config = executor, config

    def __call__(self) -> tuple[Engine, Paced]:
        return Engine(self._executor, self._config, ()), self._executor

    def cancel(self) -> None:
        """Nothing to end."""

    def reports(self) -> list[RankReport]:
        """No ranks."""
        return []
