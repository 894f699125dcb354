"""LockstepExecutor: every rank of a layout in this process, in turns. The answer key of the processes; also `verify`'s.

Knows plans and results; the ranks are Runners over the lockstep comm. Not for serving: no two ranks run at once.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial, reduce
from operator import add

import torch

from weft.base.step.plan import GroupResult, RankPlan, StepPlan, StepResult
from weft.base.step.vocabulary import Vocabulary
from weft.compute.comm.groups import groups_of
from weft.compute.comm.lockstep import LockstepComm, LockstepWorld
from weft.compute.ops import make_ops
from weft.compute.ops.base import Numerics
from weft.compute.sampling.grammar_masks import grammar_masks
from weft.model.checkpoint import Checkpoint
from weft.model.layers import Prepare
from weft.model.weights.loader import load_params
from weft.parallel.arch.forward_plan import rank_plans
from weft.parallel.arch.shards import Shards
from weft.parallel.experts.statistics.loads import IntArray
from weft.parallel.layout.layout import Layout
from weft.parallel.layout.pipeline_p2p import steps_in_flight
from weft.parallel.layout.rows import KVOwners
from weft.runtime.worker.runner import RankCapacity, Runner


def _step(runner: Runner, plan: RankPlan, comm: LockstepComm) -> GroupResult:
    return runner.step(plan)


class LockstepExecutor:
    """Implements the engine's `Executor`; `runners[r]` is rank r."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        shards: Shards,
        numerics: Numerics,
        limits: RankCapacity,
        device: torch.device,
        enforce_eager: bool = True,
        vocabulary: Vocabulary | None = None,
    ) -> None:
        """`enforce_eager`: no rank has a step program, or graphs. `vocabulary`: for grammars; None: there are none."""
        self.shards, self.limits = shards, limits
        attention = shards.layout.attention
        self.owners = KVOwners(attention.cp, attention.kv_split, limits.block_size)
        itemsize = numerics.dtype.itemsize
        self._plans = rank_plans(shards.forward_plan, shards.layout, limits.block_size, itemsize)
        self.world = LockstepWorld(shards.layout.world, groups_of(shards), steps_in_flight(shards.layout))
        ops = make_ops(numerics, device, partial=shards.layout.kv_owners > 1)
        self.runners: list[Runner] = []
        for rank, comm in enumerate(self.world.comms):
            prepare = Prepare(ops, shards, rank)
            loaded = load_params(checkpoint, shards.specs, shards, rank, numerics.dtype, device, prepare=prepare)
            ends = checkpoint.eos_token_ids()
            masks = grammar_masks(vocabulary, shards.config.vocab_size)
            self.runners.append(Runner(shards, loaded.params, comm, ops, limits, device, ends, enforce_eager, masks))

    @property
    def layout(self) -> Layout:
        """The layout that runs."""
        return self.shards.layout

    @property
    def num_blocks(self) -> int:
        """KV blocks on every rank."""
        return self.limits.num_blocks

    def step(self, plan: StepPlan) -> StepResult:
        """Runs `plan` on all ranks; the first rank of each attention-dp group answers for it."""
        plans = self._plans.split(plan)
        parts = self.world.run([partial(_step, runner, plans[runner.geometry.group]) for runner in self.runners])
        answers = [part for runner, part in zip(self.runners, parts, strict=True) if runner.reports]
        return StepResult(plan.index, answers)

    @property
    def compiles(self) -> bool:
        """Ranks answer at once."""
        return False

    def compile_grammars(self, texts: Sequence[Sequence[str]]) -> None:
        """Every rank of group g begins to compile texts[g]."""
        for runner in self.runners:
            runner.sampler.grammars.compile_ahead(texts[runner.geometry.group], needed=runner.pipeline.last)

    def compiled(self, group: int) -> int:
        """How many grammars each rank of the group has compiled or refused."""
        return min(each.sampler.grammars.compiled for each in self.runners if each.geometry.group == group)

    def await_compiled(self, most_s: float) -> None:
        """Lets the threads of the ranks work."""
        time.sleep(most_s)

    def expert_counts(self) -> IntArray:
        """Rows that chose each expert since the last call."""
        return reduce(add, (runner.experts.counts() for runner in self.runners))

    def close(self) -> None:
        """Lets the ranks go."""
        for runner in self.runners:
            runner.sampler.grammars.close()
        self.runners.clear()
