"""Ranks of pipeline stages in one process, with as many steps in flight as an engine plans."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from weft.base.step.plan import GroupResult, RankPlan, StepPlan, StepResult
from weft.compute.comm.lockstep import LockstepComm
from weft.parallel.experts.statistics.loads import IntArray
from weft.parallel.layout.placement import Placement
from weft.parallel.layout.rank_plans import RankPlans
from weft.runtime.worker.lockstep_executor import LockstepExecutor
from weft.runtime.worker.runner import Runner
from weft.tools.verify.record import LogitsRecorder

Part = tuple[Tensor, Placement]


def _tap(logits: list[Part], name: str, x: Tensor, placement: Placement) -> None:
    if name == "lm_head":
        logits.append((x.detach().clone(), placement))


def _steps(runner: Runner, plans: Sequence[Sequence[RankPlan]], comm: LockstepComm) -> list[GroupResult]:
    return [runner.step(parts[runner.geometry.group]) for parts in plans]


class LockstepPipeline(LogitsRecorder):
    """An `AsyncExecutor`, and a recorder of logits: ranks run all plans that were submitted when the first of their
    results is asked for, each rank one after the other."""

    def __init__(self, executor: LockstepExecutor) -> None:
        super().__init__(executor)
        self._submitted: list[StepPlan] = []
        self._ran: deque[tuple[StepPlan, StepResult, Tensor]] = deque()
        self._counts: deque[IntArray] = deque()
        self.most_in_flight = 0

    def submit(self, plan: StepPlan) -> None:
        self._submitted.append(plan)
        self.most_in_flight = max(self.most_in_flight, len(self._submitted) + len(self._ran))

    def ask_expert_counts(self) -> None:
        """Of the steps that were submitted before."""
        if self._submitted:
            self._run()
        self._counts.append(super().expert_counts())

    def expert_counts(self) -> IntArray:
        return self._counts.popleft() if self._counts else super().expert_counts()

    def collect(self) -> StepResult:
        if not self._ran:
            self._run()
        plan, result, rows = self._ran.popleft()
        self._record(plan, rows)
        return result

    def _run(self) -> None:
        plans, self._submitted = self._submitted, []
        seen: list[list[Part]] = []
        for runner in self.executor.runners:
            logits: list[Part] = []
            seen.append(logits)

            def tap(name: str, x: Tensor, placement: Placement, logits: list[Part] = logits) -> None:
                if name == "lm_head":
                    logits.append((x.detach().clone(), placement))

            runner.decoder.tap = tap
        of_groups = [RankPlans(self.layout.attention.tp).split(plan) for plan in plans]
        parts = self.executor.world.run([partial(_steps, runner, of_groups) for runner in self.executor.runners])
        for number, plan in enumerate(plans):
            pairs = zip(self.executor.runners, parts, strict=True)
            answers = [part[number] for runner, part in pairs if runner.reports]
            self._ran.append((plan, StepResult(plan.index, answers), _whole([each[number] for each in seen if each])))


def _whole(parts: list[Part]) -> Tensor:
    """Of rows that lie scattered, or whole on every rank of a block."""
    size = parts[0][1].size
    return torch.cat([parts[first][0] for first in range(0, len(parts), size)])
