"""Steps: plans go to the executor and results come back, one plan ahead where it can be. Knows no request.

While the ranks run a step, the next one is planned and waits for them, so that they need not wait for the engine. That
takes an executor that can be given a step ahead, and nothing that must be done between two steps (moving experts).
Ranks that have all cores are given several steps at once: a step leaves weights in the caches, and what the engine does
behind each takes several times as long as when it is repeated. They answer once, or, where somebody waits for single
tokens, each step by itself while they run the next one, until the engine has something else for them.
"""

from __future__ import annotations

import math
import time
from collections import deque

from msgspec.structs import replace

from weft.engine.buckets import Buckets
from weft.engine.coordinator import Coordinator
from weft.engine.executor import Ahead, Executor
from weft.engine.expert_balancing import ExpertBalancing
from weft.engine.outputs import STEP_TOKENS, Outputs
from weft.engine.pace import Pace
from weft.step.plan import FURTHER_S, StepPlan, StepResult


class Steps:
    """Runs what `coordinator` plans; `tokens` counts rows per step."""

    def __init__(
        self, executor: Executor, coordinator: Coordinator, pace: Pace, balancing: ExpertBalancing | None
    ) -> None:
        self._executor, self._coordinator, self._pace, self._balancing = executor, coordinator, pace, balancing
        self._ahead = executor if balancing is None and isinstance(executor, Ahead) else None
        self._flying: deque[tuple[StepPlan, int, float]] = deque()
        """Plans whose results were not all taken in, their rows, and when they were given."""
        self._more = False
        """Whether the step whose result comes next follows one of the same plan."""
        self._landed_s = 0.0
        self._step_s = math.inf
        """What the last step of streams alone took."""
        self.tokens = Buckets(STEP_TOKENS)

    @property
    def in_flight(self) -> bool:
        """Whether a step was given to the ranks whose result was not taken in."""
        return bool(self._flying)

    def interrupt(self) -> None:
        """There is something else to run: no step follows the one in hand by itself. Any thread may."""
        try:
            plan, _, _ = self._flying[0]
        except IndexError:  # none is in hand, or it has just landed
            return
        if plan.further is not None and self._ahead is not None:
            self._ahead.interrupt(plan)

    def forget(self) -> None:
        """Ranks are gone: nothing comes of what they were given."""
        self._flying.clear()
        self._more = False

    def run(self) -> Outputs:
        """Takes in one step's results, or those of steps that followed by themselves; nothing where there is nothing to
        run."""
        if not self._flying:
            plan = self._coordinator.schedule(self._further)
            if plan is None:
                return Outputs()
            if plan.further is not None and not plan.further.each:
                return self._coordinator.retire_all(plan, self._alone(plan))
            if self._ahead is None:
                return self._coordinator.retire(self._alone(plan))
            self._submit(self._ahead, plan)
        assert self._ahead is not None
        if self._ahead.plans_ahead and len(self._flying) == 1 and self._flying[0][0].further is None:
            self._submit(self._ahead, self._coordinator.schedule_ahead(self._further))
        return self._land(self._ahead)

    @property
    def _further(self) -> int:
        """Steps that may follow the next one by themselves."""
        return min(self._ahead.most_further, int(FURTHER_S / self._step_s)) if self._ahead else 0

    def _submit(self, executor: Ahead, plan: StepPlan | None) -> None:
        if plan is None:
            return
        executor.submit(plan)
        self._flying.append((plan, plan.num_rows, time.monotonic()))

    def _land(self, executor: Ahead) -> Outputs:
        """Takes in the next result of the oldest plan."""
        (plan, rows, given_s), follows, asked_s = self._flying[0], self._more, time.monotonic()
        if follows:
            self._coordinator.go_on()
        self.tokens.observe(rows)
        result = executor.collect()
        began_s, self._landed_s, self._more = max(given_s, self._landed_s), time.monotonic(), result.more
        if not result.more:
            self._flying.popleft()
        took_s = self._landed_s - began_s
        if not follows or self._landed_s - asked_s >= took_s / 2:  # else ranks were ahead of who asks
            self._observe(plan, took_s)
        return self._coordinator.retire(result)

    def _alone(self, plan: StepPlan) -> StepResult:
        began = time.monotonic()
        if self._balancing is None:
            result = self._executor.step(plan)
        else:
            result = self._executor.step(replace(plan, experts=self._balancing.work()))
            self._balancing.stepped(self._executor)
        steps = result.steps_of(plan)
        self.tokens.observe(plan.num_rows, steps)
        self._observe(plan, (time.monotonic() - began) / steps)
        return result

    def _observe(self, plan: StepPlan, seconds: float) -> None:
        """Tells the pace what a step cost: the group with the most rows decides how long it takes."""
        most = max(plan.groups, key=lambda group: group.num_rows) if len(plan.groups) > 1 else plan.groups[0]
        streams, of_prompts = len(most.streams), 0
        if most.runs:
            of_prompts = most.num_rows - streams
        else:
            self._step_s = max(seconds, 1e-6)
        self._pace.observe(streams, of_prompts, seconds)
