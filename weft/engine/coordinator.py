"""Joins the decisions of all attention-dp groups into one step plan, and chooses a group for each new request.

A group without work takes part in a step with no rows; without any work there is no step.
"""

from __future__ import annotations

from collections.abc import Sequence

from weft.engine.outputs import Outputs
from weft.engine.request import Request
from weft.engine.scheduler.scheduler import Scheduler
from weft.errors import WeftError
from weft.step.plan import StepPlan, StepResult


class Coordinator:
    """`schedulers[g]` is the scheduler of attention-dp group g."""

    def __init__(self, schedulers: Sequence[Scheduler]) -> None:
        self.schedulers = tuple(schedulers)
        self.steps = 0

    @property
    def has_work(self) -> bool:
        """Whether a step would have something to run."""
        return any(scheduler.has_work for scheduler in self.schedulers)

    def place(self, requests: Sequence[Request]) -> Scheduler:
        """Adds all outputs of one request to the group with the most (cached prefix - queued) tokens, the lowest of
        equals; they stay there."""
        first = requests[0]
        scores = [
            scheduler.kv_cache.cached_prefix(first.digests, first.num_prompt) - scheduler.queued_tokens
            for scheduler in self.schedulers
        ]
        scheduler = self.schedulers[scores.index(max(scores))]
        for request in requests:
            scheduler.add(request)
        return scheduler

    def schedule(self) -> StepPlan | None:
        """The next step, or None when no group has work."""
        return self._plan() if self.has_work else None

    def schedule_ahead(self) -> StepPlan | None:
        """The next step while others are in flight, or None if it must wait for their results."""
        sure = any(scheduler.has_rows for scheduler in self.schedulers)
        return self._plan() if sure and all(scheduler.can_schedule_ahead for scheduler in self.schedulers) else None

    def _plan(self) -> StepPlan:
        plan = StepPlan(self.steps, [scheduler.schedule(self.steps) for scheduler in self.schedulers])
        if not plan.num_rows:
            raise WeftError(f"step {self.steps}: requests wait, and no group can run any of them")
        self.steps += 1
        return plan

    def retire(self, result: StepResult) -> Outputs:
        """Processes the results of the oldest step in flight, group by group. WeftError: wrong number of groups."""
        if len(result.groups) != len(self.schedulers):
            raise WeftError(f"step {result.index}: results of {len(result.groups)} groups, not {len(self.schedulers)}")
        if len(self.schedulers) == 1:
            return self.schedulers[0].retire(result.index, result.groups[0])
        pairs = zip(self.schedulers, result.groups, strict=True)
        found = [each.retire(result.index, part) for each, part in pairs]
        return Outputs([part for outputs in found for part in outputs.parts])
