"""ProcessExecutor: every rank's process gets its part of a step, the first rank of each attention-dp group answers.

Plans in, sampled ids out.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence

import numpy as np

from weft.base.errors import PeerError
from weft.base.step.plan import GroupResult, StepPlan, StepResult
from weft.parallel.experts.statistics.loads import IntArray
from weft.parallel.layout.layout import Layout
from weft.parallel.layout.rank_plans import RankPlans
from weft.parallel.layout.ranks import coords
from weft.runtime.ipc.messages import (
    CompileGrammars,
    CountExperts,
    ExpertsCounted,
    FromRank,
    GrammarsCompiled,
    RunStep,
    Shutdown,
    StepDone,
    pack,
)
from weft.runtime.launch_plan.timeouts import StepClock
from weft.runtime.supervisor.link import RankLink, end_all, senders
from weft.runtime.supervisor.watch import Watch

GRACE_S = 2.0
"""How long ranks have to end before they are killed."""
COUNT_S = 30.0
"""How long a rank may take to say what it has counted, between two steps."""


class _Waiting:
    """A step that ranks were given: which of them have still to answer, and what the others said."""

    def __init__(self, plan: StepPlan, group_of: Mapping[int, int]) -> None:
        self.index, self.rows, self.left = plan.index, plan.num_rows, set(group_of)
        self.groups: list[GroupResult] = [GroupResult() for _ in plan.groups]


class _Counting:
    """Counts of experts that ranks were asked for: which ranks have still to answer, and the sum of the others."""

    def __init__(self, left: set[int]) -> None:
        self.left, self.total = left, np.zeros(0, np.int64)

    def take(self, rank: int, message: ExpertsCounted) -> None:
        counts = np.frombuffer(message.counts, np.dtype("<i8")).astype(np.int64)
        self.total = self.total + counts if len(self.total) else counts
        self.left.remove(rank)


class _Failing:
    """What is raised inside ends the ranks: whether anything was. A class, not a generator, for engines enter it in
    every step."""

    failed = False

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.failed |= kind is not None


class ProcessExecutor:
    """Implements the engine's `Executor` and `AsyncExecutor` over ready worker processes, which it owns."""

    def __init__(
        self,
        layout: Layout,
        num_blocks: int,
        watch: Watch,
        clock: StepClock,
        plans: RankPlans,
        num_experts: int = 0,
    ) -> None:
        """`clock`: the longest a step may take before the rank that holds it up is named. `plans`: divides steps.
        `num_experts`: routed experts of a layer."""
        self._num_experts = num_experts
        self.layout, self.num_blocks, self.watch, self.clock = layout, num_blocks, watch, clock
        self.workers = watch.workers
        self._senders = senders(self.workers)
        self._group_of = reporting_ranks(layout)
        self._plans = plans
        self._groups = [coords(layout, rank).dp for rank in range(layout.world)]
        """Attention-dp group of each rank."""
        self._waiting: deque[_Waiting] = deque()
        self._counting: _Counting | None = None
        self._compiling: set[int] = set()
        """Ranks that have not answered the last `compile_grammars`."""
        self._compiled = [0] * layout.world
        self._closed, self._failing = False, _Failing()

    def step(self, plan: StepPlan) -> StepResult:
        """Runs `plan` on all ranks. PeerError names the rank that died, failed or did not answer in time."""
        self.submit(plan)
        return self.collect()

    def submit(self, plan: StepPlan) -> None:
        """Gives `plan` to all ranks, which run it after what they were given before. PeerError as of `step`."""
        with self._failing:
            waits = _Waiting(plan, self._group_of)
            parts = [pack(RunStep(part)) for part in self._plans.split(plan)]
            frames = [parts[group] for group in self._groups]
            self._send(frames, f"step {plan.index}", self.clock.limit(waits.rows))
            self._waiting.append(waits)

    def collect(self) -> StepResult:
        """As of the engine's `AsyncExecutor`. PeerError as of `step`."""
        with self._failing:
            waits = self._waiting[0]
            began, limit_s = time.monotonic(), self.clock.limit(waits.rows)
            while waits.left:
                if not (ready := self.watch.ready(began + limit_s)):
                    raise self.watch.silent(sorted(waits.left), limit_s, f"step {waits.index}")
                for each in ready:
                    self._take(*self.watch.read(each))
                    if not waits.left:
                        break
            self.clock.took(waits.rows, time.monotonic() - began)
            self._waiting.popleft()
            return StepResult(waits.index, waits.groups)

    def _take(self, worker: RankLink, message: FromRank) -> None:
        """One rank's part of a step, of the oldest that it has not answered, or its counts of experts."""
        if isinstance(message, GrammarsCompiled) and worker.rank in self._compiling:
            self._compiling.remove(worker.rank)
            self._compiled[worker.rank] = message.count
            return
        if isinstance(message, ExpertsCounted) and self._counting is not None and worker.rank in self._counting.left:
            self._counting.take(worker.rank, message)
            return
        waits = next((each for each in self._waiting if worker.rank in each.left), None)
        if waits is None or not isinstance(message, StepDone) or message.index != waits.index:
            awaited = f"part of step {self._waiting[0].index}" if self._waiting else "count of experts"
            raise PeerError(f"{worker.where} sent {message!r}, not its {awaited}")
        waits.groups[self._group_of[worker.rank]] = message.result
        waits.left.remove(worker.rank)

    @property
    def compiles(self) -> bool:
        """Whether ranks have still to answer the last `compile_grammars`."""
        return bool(self._compiling)

    def compile_grammars(self, texts: Sequence[Sequence[str]]) -> None:
        """As of the engine's `CompilesGrammars`. PeerError as of `step`."""
        with self._failing:
            self._compiling = {worker.rank for worker in self.workers}
            parts = [pack(CompileGrammars([*part])) for part in texts]
            self._send([parts[group] for group in self._groups], "grammars to compile", COUNT_S)

    def compiled(self, group: int) -> int:
        """As of the engine's `CompilesGrammars`."""
        return min(count for count, own in zip(self._compiled, self._groups, strict=True) if own == group)

    def await_compiled(self, most_s: float) -> None:
        """As of the engine's `CompilesGrammars`. PeerError as of `step`."""
        with self._failing:
            for each in self.watch.ready(time.monotonic() + most_s):
                self._take(*self.watch.read(each))

    def _send(self, frames: Sequence[bytes], doing: str, limit_s: float) -> None:
        """frames[r] goes to rank r."""
        for worker, send in self._senders:
            try:
                send(frames, limit_s)
            except TimeoutError as error:
                raise self.watch.silent([worker.rank], limit_s, doing) from error
            except PeerError as error:
                raise self.watch.diagnose(worker, None) from error

    def ask_expert_counts(self) -> None:
        """Asks every rank for what `expert_counts` gives next: of the steps that it was given before. PeerError: a rank
        died."""
        with self._failing:
            self._counting = _Counting({worker.rank for worker in self.workers})
            self._send([pack(CountExperts())] * self.layout.world, "a count of experts", COUNT_S)

    def expert_counts(self) -> IntArray:
        """Rows that chose each expert since the last call, [layers with experts, experts]. PeerError: a rank died."""
        if self._counting is None:
            self.ask_expert_counts()
        with self._failing:
            return self._counts()

    def _counts(self) -> IntArray:
        assert self._counting is not None
        counting, deadline = self._counting, time.monotonic() + COUNT_S
        while counting.left:
            if not (ready := self.watch.ready(deadline)):
                raise self.watch.silent(sorted(counting.left), COUNT_S, "a count of experts")
            for each in ready:
                self._take(*self.watch.read(each))
        self._counting = None
        return counting.total.reshape(-1, self._num_experts)

    def wait(self, wake_fd: int) -> None:
        """Sleeps until `wake_fd` is readable; PeerError as soon as a rank dies meanwhile."""
        self.watch.wait(wake_fd)

    def close(self) -> None:
        """Ends every rank and gives all descriptors back; safe to call twice."""
        if self._closed:
            return
        self._closed = True
        healthy = not self._failing.failed and all(worker.fate() is None for worker in self.workers)
        for _, send in self._senders if healthy else ():
            try:
                send([pack(Shutdown())] * self.layout.world, 1.0)
            except (PeerError, OSError):
                continue
        end_all(self.workers, grace_s=GRACE_S if healthy else 0.0)
        self.watch.close()


def reporting_ranks(layout: Layout) -> dict[int, int]:
    """Rank -> attention-dp group, for the first rank of each group of the last pipeline stage."""
    places, last = [(rank, coords(layout, rank)) for rank in range(layout.world)], layout.pipeline.stages - 1
    return {rank: at.dp for rank, at in places if at.tp == 0 and at.cp == 0 and at.stage == last and at.replica == 0}
