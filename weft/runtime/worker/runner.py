"""Runner: one rank's side of a step. Obeys plans; decides nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from weft.base.step.plan import GroupPlan, GroupResult, RankPlan, ScheduledRequest, StepPlan, most_sampled
from weft.compute.comm.base import Comm
from weft.compute.comm.stage import StageComm
from weft.compute.native.runtime_records import FollowingRecord
from weft.compute.native.step_library import Awaited
from weft.compute.ops import Invariance
from weft.compute.ops.interface import Ops
from weft.compute.ops.native.step_ops import StepOps
from weft.compute.ops.weights import memory_of
from weft.compute.sampling.grammar_masks import GrammarMasks
from weft.compute.sampling.native_sampling import SamplingKernel
from weft.compute.sampling.sampler import Sampler
from weft.model.layers import Params
from weft.model.models.build import build_decoder
from weft.model.models.pipeline import PipelineStage
from weft.model.program.build import RankProgram, build_program
from weft.model.program.ir import NotTraceableError
from weft.model.program.memory_planning import StepCapacity
from weft.parallel.arch.forward_plan import rank_plans
from weft.parallel.arch.shards import Shards
from weft.parallel.layout.pipeline_p2p import steps_in_flight
from weft.runtime.ipc.phases import EAGER
from weft.runtime.worker.numerics import angles
from weft.runtime.worker.stage_ids import SampledIds
from weft.runtime.worker.tensors.caches import allocate_caches
from weft.runtime.worker.tensors.decode import DecodeSteps
from weft.runtime.worker.tensors.expert_moves import ExpertMover
from weft.runtime.worker.tensors.gathered_keys import KeyGathering
from weft.runtime.worker.tensors.graphs import StepGraphs, worthwhile_rows
from weft.runtime.worker.tensors.inputs import InputBuilder, StepInputs
from weft.runtime.worker.tensors.prefault import Prefault, Steps
from weft.runtime.worker.tensors.step_shape import Geometry
from weft.runtime.worker.warm_up import linear_weights, not_captured


@dataclass(frozen=True, slots=True)
class RankCapacity:
    """Sizes that a rank allocates for: blocks of the cache (without the null block), tokens that it has of a block,
    slots, tokens."""

    num_blocks: int
    block_size: int
    max_num_seqs: int
    max_model_len: int
    max_num_batched_tokens: int = 2048
    """Rows of one dp group in a step."""
    staged_slots: int = 0
    """Expert slots of a layer that a rank can receive before the layer switches; 0: slots never move."""
    count_experts: bool = False
    """Whether rows are counted per expert."""


WARM_UP_ROWS = 2
CHECK_S, CHECK_ON_DEVICE_S = 0.5, 30.0
"""Seconds that the check of batch invariance may take; on a device it loads libraries and compiles kernels."""


def _sampling_kernel(ops: Ops, device: torch.device) -> SamplingKernel | None:
    return SamplingKernel.find(ops.pool if isinstance(ops, StepOps) else None) if device.type == "cpu" else None


class Runner:
    """A rank with its parameters, cache and slots; `step` runs one plan."""

    def __init__(
        self,
        shards: Shards,
        params: Params,
        comm: Comm,
        ops: Ops,
        limits: RankCapacity,
        device: torch.device,
        eos_token_ids: tuple[int, ...],
        enforce_eager: bool = True,
        grammars: GrammarMasks | None = None,
    ) -> None:
        self.shards, self.params, self.ops, self.limits, self.device = shards, params, ops, limits, device
        self.geometry = Geometry(shards.layout, comm.rank, limits.block_size, device, shards.forward_plan.residual)
        self.cos_sin = angles(shards.config, ops, limits.max_model_len, device)
        of_stage = comm if shards.layout.pipeline.stages == 1 else StageComm(comm, shards.layout.stage_size)
        self.decoder = build_decoder(shards, params, of_stage, ops, self.cos_sin, stage=shards.stage_of(comm.rank))
        self.pipeline = PipelineStage(shards, comm.rank, self.decoder.transitions, ops.numerics.dtype, device)
        self.experts = self._mover(of_stage)
        self.cache_memory = allocate_caches(shards, comm.rank, ops, limits.num_blocks, limits.block_size, device)
        self.caches = self.cache_memory.caches
        vocab = shards.config.vocab_size
        kernel = _sampling_kernel(ops, device)
        self.sampler = Sampler(limits.max_num_seqs, vocab, device, eos_token_ids, kernel, grammars)
        self.program, self.why_eager = self._program(comm, enforce_eager)
        self.rows = 0
        """Rows that this rank has run as its own."""
        self.last_ids = torch.zeros(limits.max_num_seqs, dtype=torch.int64, device=device)
        steps, sampled = steps_in_flight(shards.layout), most_sampled(limits.max_num_seqs)
        self.ids = SampledIds(self.pipeline, self.last_ids, steps, sampled)
        if self.program is not None:
            self.ids.join(self.program, comm.rank)
        width = -(-limits.max_model_len // self.geometry.owners.span)
        price = shards.forward_plan.key_gather
        gathering = None if price is None else KeyGathering(self.geometry, price, ops.numerics.dtype.itemsize)
        self.inputs = InputBuilder(self.geometry, self.last_ids, width, gathering)
        self.graphs: StepGraphs | None = None
        """Captured in `warm_up`."""
        if device.type == "cuda" and not enforce_eager:
            self.graphs, self.why_eager = self._graphs(comm.world, width)
        # with cp the rows of an attention block change with the positions of requests
        short = self.program if shards.layout.attention.cp == 1 else None
        self.decode = None if short is None else self._decode_steps(short)

    def start_steps(self, why_eager: str) -> None:
        """Drops the step program if the ranks have to run eagerly, for the reason given."""
        if why_eager and self.program is not None:
            self.program, self.decode, self.why_eager = None, None, why_eager

    def _mover(self, comm: Comm) -> ExpertMover:
        layers, limits, config = self.decoder.experts, self.limits, self.shards.config
        every = [layer for layer in range(config.num_layers) if config.has_experts(layer)]
        staged, count = limits.staged_slots, limits.count_experts
        return ExpertMover(layers, self.shards.layout, comm, staged, count=count, of_model=every)

    def _program(self, comm: Comm, enforce_eager: bool) -> tuple[RankProgram | None, str]:
        """The step program, or why there is none."""
        if enforce_eager:
            return None, "as asked"
        limits = self.limits
        most = StepCapacity(limits.max_num_batched_tokens, most_sampled(limits.max_num_seqs))
        tables = {layer: experts.tables for layer, experts in self.decoder.experts.items()}
        try:
            found = build_program(
                self.shards, self.params, comm, self.ops, self.cos_sin, self.caches, most, limits.max_model_len, tables
            )
        except NotTraceableError as reason:
            return None, str(reason)
        return found, ""

    def _graphs(self, world: int, width: int) -> tuple[StepGraphs | None, str]:
        """Graphs of a rank on a CUDA device, or why there are none. `width`: blocks of the longest context."""
        limits = self.limits
        if world > 1:
            return None, "collectives go through the host"
        if limits.count_experts:
            return None, "rows are counted for each expert, and graphs have some more"
        if why := self.ops.why_not_capturable(experts=self.shards.config.moe is not None):
            return None, why
        held = memory_of(self.params.values())
        rows = min(limits.max_num_batched_tokens, worthwhile_rows(len(self.decoder.layers), held))
        return StepGraphs(self.decoder, self.caches, self.geometry, self.last_ids, rows, width), ""

    def _decode_steps(self, program: RankProgram) -> DecodeSteps:
        last = self.pipeline.last
        return DecodeSteps(self.inputs, self.sampler, program, self.last_ids, self.geometry, chooses=last)

    def describe(self) -> str:
        """How steps are run, in words."""
        if self.graphs is not None:
            return self.graphs.describe()
        if self.program is None:
            return f"{EAGER} ({self.why_eager})"
        program = self.program.program
        return f"a program of {len(program)} instructions, buffers {program.arena_bytes / 2**20:.0f} MiB at most"

    def held(self) -> tuple[int, int]:
        """Bytes of weights, and of the KV cache, whose pages come when they are first written."""
        cache = (self.limits.num_blocks + 1) * self.cache_memory.block_bytes
        return memory_of(self.params.values()), cache

    @property
    def reports(self) -> bool:
        """Whether this rank sends the engine what its attention-dp group sampled."""
        return self.geometry.stage_rank % self.shards.layout.group_size == 0 and self.pipeline.last

    def prefault(self, steps: Callable[[], Steps], cpus: Iterable[int] = ()) -> Prefault | None:
        """Of its cache, not yet started; None where that is not the host's memory."""
        cache, highest = self.cache_memory, self.inputs.tables.highest
        if cache.memory is None:
            return None
        slots, sharing = self.limits.max_num_seqs, self.shards.layout.attention.tp
        awaited = Awaited(self.ops.pool.lib, highest.ctypes.data) if isinstance(self.ops, StepOps) else None
        return Prefault(cache.memory, cache.block_bytes, slots, lambda: int(highest[0]), steps, cpus, sharing, awaited)

    def step(self, plan: RankPlan) -> GroupResult:
        """Runs the plan; what the rows of this rank's group gave."""
        if plan.experts is not None:
            self.experts.run(plan.experts)
        if self.pipeline.last:
            self.sampler.prepare(plan.group)
        self.ids.take(plan.awaits)
        if self.decode is not None and self.program is not None and not plan.eager and self.decode.takes(plan.group):
            return self._decode(self.decode, self.program, plan)
        return self._run(plan)

    def _decode(self, decode: DecodeSteps, program: RankProgram, plan: RankPlan) -> GroupResult:
        logits, result = decode.run(program, plan)
        self.rows += self._own_rows(decode)
        if result is None:
            return self._finish(plan.index, logits, decode.inputs(plan.group))
        self.ids.send(result, decode.batch.sampled)
        return result

    def _own_rows(self, decode: DecodeSteps) -> int:
        return decode.batch.rows.rows[self.geometry.stage_rank]

    def follow(self, following: FollowingRecord) -> bool:
        """Runs the steps that follow as far as that takes no Python; `following` says where they come from, and counts
        them. True: the next step has run too, and wants `choose`."""
        following.steps = following.busy_ns = 0
        if self.decode is None or self.program is None or not self.decode.may_follow:
            return False
        ran = self.decode.follow(self.program, following)
        self.rows += following.counted
        return ran

    def choose(self, plan: RankPlan) -> GroupResult:
        """As `step`, of a plan whose step has run."""
        assert self.decode is not None and self.program is not None
        self.rows += self._own_rows(self.decode)
        logits = self.program.program.logits[: self.decode.record.own_count]
        return self._sample(logits, self.decode.inputs(plan.group))

    @torch.inference_mode()
    def _run(self, plan: RankPlan) -> GroupResult:
        graphs = self.graphs
        ran = None if graphs is None else graphs.decode(self.inputs, plan)
        inputs = self.inputs.build(plan) if ran is None else ran[1]
        self.rows += inputs.batch.rows.rows[self.geometry.stage_rank]
        if ran is None and graphs is not None:
            ran = graphs.prompts(inputs)
        if ran is not None:
            return self._sample(*ran)
        assert plan.eager or not inputs.batch.gathers_keys
        if self.program is None or plan.eager:
            found = self.decoder.forward(inputs.batch, self.caches, self.pipeline.arrived(inputs.batch))
            self.pipeline.pass_on(found, inputs.batch)
        else:
            found = self.program.run(inputs.batch)
        return self._finish(plan.index, found, inputs)

    def _finish(self, index: int, found: Tensor, inputs: StepInputs) -> GroupResult:
        """After the decoder: the last stage samples from the logits; the other stages have sent their result on."""
        if self.pipeline.last:
            return self._sample(found, inputs)
        self.ids.expect(index, inputs.sampled)
        return GroupResult()

    @torch.inference_mode()
    def _sample(self, logits: Tensor, inputs: StepInputs, greedy: Tensor | None = None) -> GroupResult:
        """`greedy`: values of the rows if all are sampled greedily, where they are computed already."""
        rows, own = inputs.sampled, inputs.own_sampled
        width = self.sampler.width(rows)
        if greedy is None or not self.sampler.takes_largest(own, width):
            greedy = self.sampler.sample(logits, own, width)
        values = self.decoder.share_sampled(greedy, inputs.batch)
        values = values if inputs.order is None else values[inputs.order]
        self.pipeline.send_ids(values, inputs.batch.sampled)
        drawn = values if inputs.drawn is None else values[inputs.drawn]
        self.last_ids.index_copy_(0, inputs.slots, drawn[:, 0].to(torch.int64))
        return self.sampler.remember(values, rows, inputs.own_numbers)

    def warm_up(self) -> Invariance:
        """Chooses matrix products whose result for a row does not depend on the number of rows, and returns what it
        found. Then runs steps: with a few rows for every group, which write to the null block, and without rows."""
        seconds = CHECK_S if self.device.type == "cpu" else CHECK_ON_DEVICE_S
        invariance = self.ops.check_batch_invariance(linear_weights(self.params, self.device), seconds)
        blocks = [0] * -(-WARM_UP_ROWS // self.geometry.owners.span)
        run = ScheduledRequest(slot=0, start=0, count=WARM_UP_ROWS, ids=[0] * WARM_UP_ROWS, blocks=blocks, sample=True)
        layout, itemsize = self.shards.layout, self.ops.numerics.dtype.itemsize
        plans = rank_plans(self.shards.forward_plan, layout, self.limits.block_size, itemsize)
        for runs in ([run], [run], []):
            every = StepPlan(0, [GroupPlan([], list(runs)) for _ in range(layout.attention.dp)])
            self.step(plans.split(every)[self.geometry.group])
            self.ids.take_all()
        self.experts.counts()  # drops the counts of these steps
        if self.graphs is not None:
            self._capture(self.graphs)
        return invariance

    @torch.inference_mode()
    def _capture(self, graphs: StepGraphs) -> None:
        try:
            graphs.capture()
        except RuntimeError as error:  # torch's; out of memory is one
            raise not_captured(error) from error
        self.experts.counts()
