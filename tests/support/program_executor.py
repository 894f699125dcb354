"""All ranks of a layout in one process, each running step programs in a thread of its own, over shared memory."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from weft.base.settings import EngineConfig
from weft.base.step.plan import StepPlan, StepResult
from weft.compute.comm.groups import groups_of
from weft.compute.comm.mailboxes import mailboxes_of
from weft.compute.comm.shm.region import Region
from weft.compute.comm.shm.shared_memory import SharedMemoryComm
from weft.compute.native.runtime_records import DecodeRecord
from weft.compute.ops import make_ops
from weft.compute.ops.base import Numerics
from weft.model.checkpoint import Checkpoint
from weft.model.layers import Prepare
from weft.model.models.decoder import Batch
from weft.model.program.build import RankProgram
from weft.model.weights.loader import load_params
from weft.parallel.arch.forward_plan import rank_plans
from weft.parallel.arch.shards import Shards
from weft.parallel.layout.rows import KVOwners
from weft.runtime.worker.lockstep_executor import LockstepExecutor
from weft.runtime.worker.prepared_rank import RankCapacity
from weft.runtime.worker.runner import Runner


class ShownProgram(RankProgram):
    """Shows its logits to the decoder's tap, as the decoder does when it runs eagerly."""

    def __init__(self, runner: Runner) -> None:
        assert runner.program is not None, runner.why_eager
        before = runner.program
        super().__init__(before.program, before._comm, before._block, before._stage_size)
        self._decoder, self._last = runner.decoder, runner.pipeline.last

    def run(self, batch: Batch, decode: DecodeRecord | None = None) -> Tensor:
        if decode is not None:
            decode.local_logits = None  # whole rows of logits are wanted, also where the largest is taken
        logits = super().run(batch, decode)
        if self._last:
            self._decoder._show("lm_head", logits, self._decoder.boundaries["lm_head.out"].dst)
        return logits


class ProgramExecutor(LockstepExecutor):
    """A `LockstepExecutor` whose ranks run at the same time."""

    def __init__(self, checkpoint: Checkpoint, shards: Shards, numerics: Numerics, limits: RankCapacity) -> None:
        self.shards, self.limits, device = shards, limits, torch.device("cpu")
        attention = shards.layout.attention
        self.owners = KVOwners(attention.cp, attention.kv_split, limits.block_size)
        size, itemsize = shards.layout.world, numerics.dtype.itemsize
        self._plans = rank_plans(shards.forward_plan, shards.layout, limits.block_size, itemsize)
        config = EngineConfig(
            dtype="float64", max_num_batched_tokens=limits.max_num_batched_tokens, max_num_seqs=limits.max_num_seqs
        )
        self.region = Region.create(size, groups_of(shards), mailboxes=mailboxes_of(shards, config))
        self.comms = [SharedMemoryComm(self.region, rank) for rank in range(size)]
        self.runners, self._threads = [], ThreadPoolExecutor(size)
        for rank, comm in enumerate(self.comms):
            ops = make_ops(numerics, device)
            prepare = Prepare(ops, shards, rank)
            params = load_params(checkpoint, shards.specs, shards, rank, numerics.dtype, device, prepare=prepare).params
            runner = Runner(shards, params, comm, ops, limits, device, checkpoint.eos_token_ids(), enforce_eager=False)
            runner.program = ShownProgram(runner)
            self.runners.append(runner)

    def step(self, plan: StepPlan) -> StepResult:
        plans = self._plans.split(plan)
        parts = list(self._threads.map(lambda runner: runner.step(plans[runner.geometry.group]), self.runners))
        answers = [part for runner, part in zip(self.runners, parts, strict=True) if runner.reports]
        return StepResult(plan.index, answers)

    def received(self) -> list[int]:
        """Bytes that each rank's program received from others so far."""
        return [runner.program.program.exchanged[-1] for runner in self.runners if runner.program is not None]

    def close(self) -> None:
        super().close()
        self._threads.shutdown()
        for comm in self.comms:
            comm.close()
        self.region.close()
