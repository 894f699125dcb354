"""PreparedRank: everything that a rank needs for its steps, made once after its weights are loaded."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from weft.base.step.plan import most_sampled
from weft.compute.comm.base import Comm
from weft.compute.comm.stage import StageComm
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
from weft.parallel.arch.shards import Shards
from weft.parallel.layout.pipeline_p2p import steps_in_flight
from weft.runtime.worker.numerics import rotary_tables
from weft.runtime.worker.stage_ids import SampledIds
from weft.runtime.worker.tensors.caches import allocate_caches
from weft.runtime.worker.tensors.decode import DecodeSteps
from weft.runtime.worker.tensors.expert_moves import ExpertMover
from weft.runtime.worker.tensors.gathered_keys import KeyGathering
from weft.runtime.worker.tensors.graphs import StepGraphs, worthwhile_rows
from weft.runtime.worker.tensors.inputs import InputBuilder
from weft.runtime.worker.tensors.step_shape import Geometry


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


def _sampling_kernel(ops: Ops, device: torch.device) -> SamplingKernel | None:
    return SamplingKernel.find(ops.pool if isinstance(ops, StepOps) else None) if device.type == "cpu" else None


class PreparedRank:
    """A rank with its parameters, cache and slots, and with what its steps run on."""

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
        self.ropes = rotary_tables(shards.config, ops, limits.max_model_len, device)
        of_stage = comm if shards.layout.pipeline.stages == 1 else StageComm(comm, shards.layout.stage_size)
        self.decoder = build_decoder(shards, params, of_stage, ops, self.ropes, stage=shards.stage_of(comm.rank))
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
                self.shards, self.params, comm, self.ops, self.ropes, self.caches, most, limits.max_model_len, tables
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
