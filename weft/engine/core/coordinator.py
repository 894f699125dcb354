"""Joins the decisions of all attention-dp groups into one step plan, and chooses a group for each new request.

A group without work takes part in a step with no rows; without any work there is no step.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from weft.base.errors import WeftError
from weft.base.step.plan import StepPlan, StepResult
from weft.engine.core.outputs import Outputs
from weft.engine.core.request import Request
from weft.engine.core.scheduler.scheduler import Scheduler


class Coordinator:
    """`schedulers[g]` is the scheduler of attention-dp group g."""

    def __init__(self, schedulers: Sequence[Scheduler], stages: int = 1, lanes: int = 1) -> None:
        """`stages`: pipeline stages of the ranks; `lanes`: decode batches of each scheduler."""
        self.schedulers, self._stages = tuple(schedulers), stages
        self.steps = 0
        self._retired = 0
        """Steps whose results are there: all below it."""
        self._planned: list[deque[int]] = [deque() for _ in range(lanes)]
        """Steps of each lane that are in flight."""
        self._last = [0] * lanes
        """One more than the number of the last step of each lane."""
        self._turn = 0

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
        if not self.has_work:
            return None
        for lane in self._turns():
            for scheduler in self.schedulers:
                scheduler.make_room(lane)  # which may preempt all that the lane has
            if self._has_rows(lane):
                return self._plan(lane)
        return self._plan(self._turn)

    def schedule_ahead(self) -> StepPlan | None:
        """The next step while others are in flight, or None if it must wait for their results. No lane has more than
        two steps in flight: the second takes tokens that the first samples. A lane that waits for blocks is skipped."""
        for lane in self._turns():
            if not self._has_rows(lane):
                continue
            if len(self._planned[lane]) > 1:
                break
            ready = [scheduler.make_room_ahead(lane) for scheduler in self.schedulers]
            if all(ready) and self._has_rows(lane):
                return self._plan(lane)
        return None

    def _turns(self) -> list[int]:
        """The lanes, the next one in turn first."""
        for scheduler in self.schedulers:
            scheduler.balance()
        lanes = len(self._planned)
        return [(self._turn + more) % lanes for more in range(lanes)]

    def _has_rows(self, lane: int) -> bool:
        return any(scheduler.has_rows(lane) for scheduler in self.schedulers)

    def _plan(self, lane: int) -> StepPlan:
        continues = self._stages > 1 and any(scheduler.decodes(lane) for scheduler in self.schedulers)
        awaits = max(self._retired, self._last[lane]) if continues else self._retired
        groups = [scheduler.schedule(self.steps, lane) for scheduler in self.schedulers]
        plan = StepPlan(self.steps, groups, awaits=awaits if self._stages > 1 else 0)
        if not plan.num_rows:
            raise WeftError(f"step {self.steps}: requests wait, and no group can run any of them")
        self._planned[lane].append(self.steps)
        self.steps += 1
        self._last[lane], self._turn = self.steps, (lane + 1) % len(self._planned)
        return plan

    def retire(self, result: StepResult) -> Outputs:
        """Processes the results of the oldest step in flight, group by group. WeftError: wrong number of groups."""
        if len(result.groups) != len(self.schedulers):
            raise WeftError(f"step {result.index}: results of {len(result.groups)} groups, not {len(self.schedulers)}")
        self._retired = result.index + 1
        for planned in self._planned:
            if planned and planned[0] <= result.index:
                planned.popleft()
        if len(self.schedulers) == 1:
            return self.schedulers[0].retire(result.index, result.groups[0])
        pairs = zip(self.schedulers, result.groups, strict=True)
        found = [each.retire(result.index, part) for each, part in pairs]
        return Outputs([part for outputs in found for part in outputs.parts])
