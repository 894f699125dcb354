"""Runs steps on the executor: one at a time, or with async scheduling. Async: while the ranks run a step, the next one
is planned and sent, so that they do not wait for the engine.
"""

from __future__ import annotations

import time
from collections import deque

from msgspec.structs import replace

from weft.base.step.plan import StepPlan, StepResult
from weft.engine.core.buckets import Buckets
from weft.engine.core.coordinator import Coordinator
from weft.engine.core.executor import AsyncExecutor, Executor
from weft.engine.core.outputs import STEP_TOKENS, Outputs
from weft.engine.core.scheduler.prefill_throttle import PrefillThrottle
from weft.parallel.experts.balancing.expert_balancing import CountsExpertsLater, ExpertBalancing
from weft.parallel.layout.pipeline_p2p import steps_in_flight


def lanes_of(executor: Executor, balancing: ExpertBalancing | None) -> int:
    """Decode batches that take turns: one for each pipeline stage, where several steps may be in flight."""
    return executor.layout.pipeline.stages if _ahead(executor, balancing) is not None else 1


def _ahead(executor: Executor, balancing: ExpertBalancing | None) -> AsyncExecutor | None:
    """The executor, if steps are sent to it before earlier ones have retired. Where experts move, it must be able to
    count rows of each of them for steps that it was given before."""
    able = balancing is None or isinstance(executor, CountsExpertsLater)
    return executor if isinstance(executor, AsyncExecutor) and able else None


class StepLoop:
    """Runs the plans of `coordinator`: with async scheduling if the executor has it. `balancing` moves experts before
    steps. `tokens`: histogram of rows per step."""

    def __init__(
        self, executor: Executor, coordinator: Coordinator, throttle: PrefillThrottle, balancing: ExpertBalancing | None
    ) -> None:
        self._executor, self._coordinator, self._throttle, self._balancing = executor, coordinator, throttle, balancing
        self._async_executor = _ahead(executor, balancing)
        self._most = steps_in_flight(executor.layout)
        self._in_flight: deque[tuple[StepPlan, float]] = deque()
        """Plans that were submitted and not collected, oldest first, and the time of submission."""
        self._collected_s = 0.0
        """Time of the last `collect`."""
        self.tokens = Buckets(STEP_TOKENS)

    @property
    def in_flight(self) -> bool:
        """Whether results of a submitted plan are still to be collected."""
        return bool(self._in_flight)

    def clear(self) -> None:
        """Drops all plans in flight, because the ranks are gone."""
        self._in_flight.clear()

    def run(self) -> Outputs:
        """Outputs of the oldest step in flight, or of a new one; empty if there is nothing to run."""
        return self._run_sync() if self._async_executor is None else self._run_async(self._async_executor)

    def _run_sync(self) -> Outputs:
        plan = self._coordinator.schedule()
        if plan is None:
            return Outputs()
        began = time.monotonic()
        result = self._step(plan)
        self._observe(plan, time.monotonic() - began)
        return self._coordinator.retire(result)

    def _step(self, plan: StepPlan) -> StepResult:
        if self._balancing is None:
            return self._executor.step(plan)
        result = self._executor.step(replace(plan, experts=self._balancing.work()))
        self._balancing.stepped(self._executor)
        return result

    def _run_async(self, executor: AsyncExecutor) -> Outputs:
        if not self._in_flight:
            self._submit(executor, self._coordinator.schedule())
        while self._in_flight and len(self._in_flight) < self._most:
            if (ahead := self._coordinator.schedule_ahead()) is None:
                break
            self._submit(executor, ahead)
        if not self._in_flight:
            return Outputs()
        plan, submitted_s = self._in_flight[0]
        result = executor.collect()
        self._in_flight.popleft()
        began_s, self._collected_s = max(submitted_s, self._collected_s), time.monotonic()
        self._observe(plan, self._collected_s - began_s)
        if self._balancing is not None:
            self._balancing.stepped(self._executor, len(self._in_flight))
        return self._coordinator.retire(result)

    def _submit(self, executor: AsyncExecutor, plan: StepPlan | None) -> None:
        if plan is not None:
            plan = plan if self._balancing is None else replace(plan, experts=self._balancing.work())
            executor.submit(plan)
            self._in_flight.append((plan, time.monotonic()))

    def _observe(self, plan: StepPlan, seconds: float) -> None:
        """Records a step's rows and seconds, these for the group with the most rows."""
        self.tokens.observe(plan.num_rows)
        most = max(plan.groups, key=lambda group: group.num_rows) if len(plan.groups) > 1 else plan.groups[0]
        decodes = len(most.decodes)
        self._throttle.observe(decodes, most.num_rows - decodes, seconds)
