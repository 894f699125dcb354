"""An executor without ranks: answers a script of bytes, so that texts of tests are known. Needs no torch."""

from __future__ import annotations

import select
import threading
import time
from collections import deque
from typing import Any

from tests.support.fakes.uncounted import Uncounted
from weft.base.deaths import Death
from weft.base.errors import PeerError
from weft.base.step.plan import GroupPlan, GroupResult, Sampled, ScheduledRequest, StepPlan, StepResult, TokenLogprob
from weft.parallel.layout.layout import Layout
from weft.parallel.layout.resolve import resolve

ALPHABET = "abcdefghijklmnopqrstuvwxyz"


class ScriptedExecutor(Uncounted):
    """Output position p of every request is the id of `script[p]`, cycling; ids come from `ids_of`.

    `gate`: steps wait while it is cleared. `permits`: a step takes one, where there are some.
    `fail_at`: index of the step that dies, of `death`. `ends_at`: output position that no token can be chosen for.
    `steps` have run, `admitted` outputs have got a slot in them.
    """

    def __init__(self, script: list[int], *, dp: int = 1, num_blocks: int = 64, step_s: float = 0.0) -> None:
        self.script, self.num_blocks, self.step_s = script, num_blocks, step_s
        self.layout: Layout = resolve({"attention.dp": dp})
        self.gate = threading.Event()
        self.gate.set()
        self.permits: threading.Semaphore | None = None
        self.steps = self.admitted = 0
        self.fail_at: int | None = None
        self.death = Death.KILLED
        self.ends_at: int | None = None
        self.closed = False

    def step(self, plan: StepPlan) -> StepResult:
        """A step as the script says."""
        self.admitted += sum(len(group.new_requests) for group in plan.groups)
        assert self.gate.wait(120)
        assert self.permits is None or self.permits.acquire(timeout=240)
        time.sleep(self.step_s)
        self.steps += 1
        if self.fail_at is not None and self.steps >= self.fail_at:
            error = PeerError("rank 1 (dp 1) pid 4242 was killed by SIGKILL in phase serving")
            error.death = self.death
            raise error
        return StepResult(plan.index, [self._group(group) for group in plan.groups])

    def _group(self, group: GroupPlan) -> GroupResult:
        answers = [self._answer(run) for run in group.every_run() if run.sample or run.targets]
        return GroupResult.of(group, answers)

    def _answer(self, run: ScheduledRequest) -> Sampled:
        """Every scored token has probability e^-2, id 0 has e^-1."""
        prompt = [TokenLogprob(token, -2.0, 4, [(0, -1.0)]) for token in run.targets]
        if not run.sample:
            return Sampled(run.slot, -1, prompt=prompt)
        if run.output_pos == self.ends_at:
            return Sampled(run.slot, 0, error="every token was ruled out", prompt=prompt)
        token = self.script[run.output_pos % len(self.script)]
        return Sampled(run.slot, token, -0.5, 0, [(token, -0.5), (token + 1, -1.5)], prompt=prompt)

    def wait(self, wake_fd: int) -> None:
        """Sleeps until woken; fails where the script says so."""
        select.select([wake_fd], [], [])
        if self.fail_at == -1:
            raise PeerError("rank 0 pid 4242 was killed by SIGKILL in phase serving")

    def close(self) -> None:
        """Noted."""
        self.closed = True


class ScriptedAsyncExecutor(ScriptedExecutor):
    """The same, given its steps one ahead."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._in_flight: deque[StepPlan] = deque()

    def submit(self, plan: StepPlan) -> None:
        """A step, in line."""
        self._in_flight.append(plan)

    def collect(self) -> StepResult:
        """The oldest."""
        return self.step(self._in_flight.popleft())
