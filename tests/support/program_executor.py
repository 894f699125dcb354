"""All ranks of a layout in one process, each running step programs in a thread of its own, over shared memory."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from weft.arch.shards import Shards
from weft.checkpoint import Checkpoint
from weft.comm.groups import distinct_groups
from weft.comm.region import Region
from weft.comm.shared_memory import SharedMemoryComm
from weft.launch.lockstep_executor import LockstepExecutor
from weft.layers import Prepare
from weft.models.decoder import Batch
from weft.native.records import DecodeRecord
from weft.ops import make_ops
from weft.ops.base import Numerics
from weft.program.build import RankProgram
from weft.step.plan import StepPlan, StepResult
from weft.weights.loader import load_params
from weft.worker.runner import Limits, Runner


class ShownProgram(RankProgram):
    """Shows its logits to the decoder's tap, as the decoder does when it runs eagerly."""

    def __init__(self, runner: Runner) -> None:
        assert runner.program is not None, runner.why_eager
        super().__init__(runner.program.program, runner.program._comm, runner.program._block)
        self._decoder = runner.decoder

    def run(self, batch: Batch, decode: DecodeRecord | None = None) -> Tensor:
        if decode is not None:
            decode.own_logits = None  # whole rows of logits are wanted, also where the largest is taken
        logits = super().run(batch, decode)
        self._decoder._show("lm_head", logits, self._decoder.boundaries["lm_head.out"].dst)
        return logits


class ProgramExecutor(LockstepExecutor):
    """A `LockstepExecutor` whose ranks run at the same time."""

    def __init__(self, checkpoint: Checkpoint, shards: Shards, numerics: Numerics, limits: Limits) -> None:
        self.shards, self.limits, device = shards, limits, torch.device("cpu")
        size = shards.layout.world
        self.region = Region.create(size, distinct_groups(shards.passage.boundaries.values(), shards.layout.stage_size))
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
        parts = list(self._threads.map(lambda runner: runner.step(plan), self.runners))
        answers = [part for runner, part in zip(self.runners, parts, strict=True) if runner.reports]
        return StepResult(plan.index, answers)

    def received(self) -> list[int]:
        """Bytes that each rank's program received from others so far."""
        return [runner.program.program.exchanged[1] for runner in self.runners if runner.program is not None]

    def close(self) -> None:
        super().close()
        self._threads.shutdown()
        for comm in self.comms:
            comm.close()
        self.region.close()
