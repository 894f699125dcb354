"""Coordinator: one step plan out of the decisions of all attention-dp groups, and the group of each new request.

Knows schedulers; no rank and no tensor. A group without work joins a step with no runs; when no group has work there
is no step.
"""

from __future__ import annotations

from collections.abc import Sequence

from weft.engine.outputs import Outputs
from weft.engine.request import Request
from weft.engine.scheduler import Scheduler
from weft.errors import WeftError
from weft.step.plan import MOST_ENDS, Further, StepPlan, StepResult


class Coordinator:
    """schedulers[g] is attention-dp group g's."""

    def __init__(self, schedulers: Sequence[Scheduler]) -> None:
        self.schedulers = tuple(schedulers)
        self.steps = 0

    @property
    def has_work(self) -> bool:
        """Whether a step would have something to run."""
        return any(scheduler.has_work for scheduler in self.schedulers)

    def place(self, requests: Sequence[Request]) -> Scheduler:
        """Gives all outputs of one request to the group with the most (cached prefix - queued) tokens, the lowest of
        equals; they stay there."""
        first = requests[0]
        scores = [
            scheduler.sharing.cached_prefix(first.digests, first.num_prompt) - scheduler.queued_tokens
            for scheduler in self.schedulers
        ]
        scheduler = self.schedulers[scores.index(max(scores))]
        for request in requests:
            scheduler.add(request)
        return scheduler

    def schedule(self, most: int = 0) -> StepPlan | None:
        """The next step, or None when no group has work; at most `most` steps may follow it by themselves."""
        if not self.has_work:
            return None
        return self._plan(self._further(most) if most and len(self.schedulers) == 1 else None)

    def _further(self, most: int) -> Further | None:
        count, ends = self.schedulers[0].further(most)
        each = self.schedulers[0].streamed
        return Further.of(count, ends, each=each) if count and len(ends) <= MOST_ENDS else None

    def schedule_ahead(self, most: int = 0) -> StepPlan | None:
        """The next step while others are in flight, or None: it has to wait for their results; so has one that others,
        `most` at most, can follow by themselves."""
        if most and len(self.schedulers) == 1 and self.schedulers[0].goes_far(most):
            return None
        sure = any(scheduler.has_rows for scheduler in self.schedulers)
        return self._plan() if sure and all(scheduler.can_go_ahead for scheduler in self.schedulers) else None

    def _plan(self, further: Further | None = None) -> StepPlan:
        groups = [scheduler.schedule(self.steps) for scheduler in self.schedulers]
        plan = StepPlan(self.steps, groups, further=further)
        if not plan.num_rows:
            raise WeftError(f"step {self.steps}: requests wait, and no group can run any of them")
        self.steps += 1
        return plan

    def retire_all(self, plan: StepPlan, result: StepResult) -> Outputs:
        """As `retire`, of a plan with further steps: of those that ran."""
        found = result.groups[0].by_step(len(plan.groups[0].streams))
        if len(found) > plan.most_steps:
            raise WeftError(f"step {plan.index}: results of {len(found)} steps, of {plan.most_steps} at most")
        outputs = [self.retire(StepResult(result.index, found[:1], len(found) > 1))]
        for number, each in enumerate(found[1:], 2):
            outputs.append(self.retire(StepResult(self.go_on(), [each], number < len(found))))
        return Outputs([part for each in outputs for part in each.parts])

    def go_on(self) -> int:
        """The next step of the plan that was made last has followed by itself: its index."""
        index = self.steps
        self.schedulers[0].go_on(index)
        self.steps += 1
        return index

    def retire(self, result: StepResult) -> Outputs:
        """What the oldest step in flight brought, group by group."""
        if len(result.groups) != len(self.schedulers):
            raise WeftError(f"step {result.index}: results of {len(result.groups)} groups, not {len(self.schedulers)}")
        if len(self.schedulers) == 1:
            return self.schedulers[0].retire(result.index, result.groups[0], more=result.more)
        pairs = zip(self.schedulers, result.groups, strict=True)
        found = [each.retire(result.index, part, more=result.more) for each, part in pairs]
        return Outputs([part for outputs in found for part in outputs.parts])
