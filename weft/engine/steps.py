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
from weft.engine.executor import Ahead, Executor, GoesOn
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
        self._goes_on = executor if balancing is None and isinstance(executor, GoesOn) else None
        self._going: tuple[GoesOn, StepPlan] | None = None
        """The plan whose steps come one by one, and another one will."""
        self._flying: deque[tuple[StepPlan, float]] = deque()
        self._landed_s = 0.0
        self._step_s = math.inf
        """What the last step of streams alone took."""
        self.tokens = Buckets(STEP_TOKENS)

    @property
    def in_flight(self) -> bool:
        """Whether a step was given to the ranks whose result was not taken in."""
        return bool(self._flying) or self._going is not None

    def interrupt(self) -> None:
        """There is something else to run: no step follows the one in hand by itself. Any thread may."""
        if (going := self._going) is not None:
            executor, plan = going
            executor.interrupt(plan)

    def forget(self) -> None:
        """Ranks are gone: nothing comes of what they were given."""
        self._going = None
        self._flying.clear()

    def run(self) -> Outputs:
        """Takes in one step's results, or those of steps that followed by themselves; nothing where there is nothing to
        run."""
        if self._going is not None:
            self._coordinator.go_on()
            return self._follow(*self._going, self._landed_s)
        if not self._flying:
            plan = self._coordinator.schedule(self._further)
            if plan is None:
                return Outputs()
            if plan.further is not None:
                return self._one_by_one(plan) if plan.further.each else self._together(plan)
            if self._ahead is None:
                return self._coordinator.retire(self._alone(plan))
            self._submit(self._ahead, plan)
        assert self._ahead is not None
        if len(self._flying) == 1:
            self._submit(self._ahead, self._coordinator.schedule_ahead(self._further))
        result = self._ahead.collect()
        plan, given_s = self._flying.popleft()
        began, self._landed_s = max(given_s, self._landed_s), time.monotonic()
        self._observe(plan, self._landed_s - began)
        return self._coordinator.retire(result)

    @property
    def _further(self) -> int:
        """Steps that may follow the next one by themselves."""
        return min(self._goes_on.most_further, int(FURTHER_S / self._step_s)) if self._goes_on else 0

    def _together(self, plan: StepPlan) -> Outputs:
        return self._coordinator.retire_all(plan, self._alone(plan))

    def _one_by_one(self, plan: StepPlan) -> Outputs:
        assert self._goes_on is not None
        began, self._going = time.monotonic(), (self._goes_on, plan)
        self._goes_on.begin(plan)
        return self._follow(self._goes_on, plan, began)

    def _follow(self, executor: GoesOn, plan: StepPlan, began: float) -> Outputs:
        """Takes in the plan's next step, which began then, unless ranks were ahead of who reads."""
        self.tokens.observe(plan.num_rows)
        asked_s = time.monotonic()
        result = executor.follow()
        self._landed_s = time.monotonic()
        if not result.more:
            self._going = None
        took_s = self._landed_s - began
        if self._landed_s - asked_s >= took_s / 2:
            self._observe(plan, took_s)
        return self._coordinator.retire(result)

    def _submit(self, executor: Ahead, plan: StepPlan | None) -> None:
        if plan is None:
            return
        self.tokens.observe(plan.num_rows)
        executor.submit(plan)
        self._flying.append((plan, time.monotonic()))

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
        streams = len(most.streams)
        if not most.runs:
            self._step_s = max(seconds, 1e-6)
        self._pace.observe(streams, most.num_rows - streams, seconds)
