"""What will be started, decided before any process is: model checked, layout fitted, limits and memory resolved.

No torch and no process; every refusal that can be made from headers and numbers is made here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from weft.base.errors import FieldError
from weft.base.machine import task_limits
from weft.base.machine.control_groups import cpu_quota, memory_left
from weft.base.machine.cores import CoreShare, available_cores
from weft.base.plural import size
from weft.base.settings import DTYPE_BYTES, EngineConfig
from weft.base.step.vocabulary import Vocabulary
from weft.compute.comm.mailboxes import mailboxes_of
from weft.compute.comm.registry import CommChoice, choose_backend
from weft.compute.native import kernels
from weft.engine.core.seeds import derive_seed
from weft.model.checkpoint import Checkpoint
from weft.model.weights.check import check_checkpoint
from weft.model.weights.storage import weight_storage
from weft.model.weights.stored import stored_line
from weft.parallel.arch.config import ModelConfig
from weft.parallel.arch.fit import check_fit
from weft.parallel.arch.quantization import WeightStorage
from weft.parallel.arch.shards import Shards
from weft.parallel.arch.slots import SlotMap
from weft.parallel.layout.layout import Layout
from weft.parallel.layout.ranks import describe, node_of
from weft.parallel.layout.support import refuse_unsupported
from weft.runtime.launch_plan.cpu_affinity import CpuAssignment, assign_cpus
from weft.runtime.launch_plan.expert_plan import ExpertPlan, plan_experts
from weft.runtime.launch_plan.hints import hints
from weft.runtime.launch_plan.hosts import (
    HostResources,
    check_hosts,
    common_kernels,
    divide_machines,
    hosts_of_a_replica,
    spare_cpus,
)
from weft.runtime.launch_plan.memory import MemoryPlan, available_bytes, plan_memory, process_limit
from weft.runtime.launch_plan.moe_backend import why_not_packed
from weft.runtime.launch_plan.resolved_engine import resolved_engine
from weft.runtime.launch_plan.timeouts import ProcessLimits

SHOWN_UNUSED = 8
"""Tensors that are not used, of which a name is shown."""


@dataclass(frozen=True, slots=True)
class LaunchPlan:
    """`engine` has every limit decided. `memory` is None where only the devices know (they are asked later)."""

    checkpoint: Checkpoint
    config: ModelConfig
    layout: Layout
    engine: EngineConfig
    memory: MemoryPlan | None
    cores: tuple[CoreShare, ...]
    server_cpus: tuple[int, ...]
    """Where the front end and the engines keep to; empty: nowhere, for the ranks' threads have all cores."""
    comm: CommChoice
    unused: tuple[str, ...]
    """Tensors of the checkpoint that the model rightly does not use."""
    eos_token_ids: tuple[int, ...]
    """What ends an answer."""
    limits: ProcessLimits
    """Of the processes' time."""
    experts: ExpertPlan | None = None
    """Where experts begin, and how they are balanced, where anything was asked for."""
    storage: WeightStorage = field(default_factory=WeightStorage)
    """Which weights are quantized."""
    hosts: tuple[HostResources, ...] = ()
    """Where the ranks are on several hosts: what each gives them."""
    isa: str = ""
    """The variant of the step library that all of them run, where they differ."""
    vocabulary: Vocabulary | None = None
    """For the grammars of requests; None: there are none."""
    replica: int = 0
    world: Layout | None = None
    """Of a plan for one replica alone: which it is, and the layout of all of them."""

    @property
    def shards(self) -> Shards:
        """What each rank holds."""
        return Shards(self.config, self.layout, self.slot_maps, self.storage)

    @property
    def slot_maps(self) -> tuple[tuple[int, SlotMap], ...]:
        """The expert of every slot, by layer, where experts are not assigned in order."""
        return () if self.experts is None else self.experts.slot_maps

    @property
    def where(self) -> tuple[str, ...]:
        """Every rank's number and coordinates, for people."""
        world = self.world or self.layout
        return tuple(describe(world, self.first_rank + rank) for rank in range(self.layout.world))

    @property
    def host_of(self) -> tuple[int, ...]:
        """The host of each rank."""
        world = self.world or self.layout
        return tuple(node_of(world, self.first_rank + rank) for rank in range(self.layout.world))

    @property
    def first_rank(self) -> int:
        """Number, among the ranks of all replicas, of this plan's rank 0."""
        return 0 if self.world is None else self.replica * self.layout.world

    def with_vocabulary(self, eos_token_ids: Iterable[int], vocabulary: Vocabulary | None) -> LaunchPlan:
        """With more ends of answers, such as the tokenizer's own, and with the tokenizer's vocabulary."""
        ends = _ends_of((*self.eos_token_ids, *eos_token_ids), self.config)
        return replace(self, eos_token_ids=ends, vocabulary=vocabulary)

    def of_replica(self, replica: int) -> LaunchPlan:
        """What starts one replica: a world of its own, whose ranks count from 0, with its share of cores and memory.

        Answers that bring no seed differ from replica to replica; statistics of experts get a file for each.
        """
        if self.layout.replicas == 1:
            return self
        layout = replace(self.layout, replicas=1, nodes=max(1, self.layout.nodes // self.layout.replicas))
        ranks = slice(replica * layout.world, (replica + 1) * layout.world)
        seed = derive_seed(self.engine.seed, replica) if replica else self.engine.seed
        return replace(
            self,
            layout=layout,
            engine=replace(self.engine, seed=seed),
            memory=None if self.memory is None else replace(self.memory, ranks=self.memory.ranks[ranks]),
            cores=self.cores[ranks],
            experts=None if self.experts is None else self.experts.of_replica(replica),
            replica=replica,
            world=self.layout,
        )

    def stored_line(self) -> str | None:
        """What becomes of weights that are quantized in the files, for people; None: there are none."""
        return stored_line(self.checkpoint, self.config, self.engine, self.storage)

    def hints(self) -> list[str]:
        """What would do better than what was asked, for people."""
        return list(hints(self.engine, self.checkpoint, self.shards.specs, kernels()))

    def settings(self) -> list[str]:
        """The resolved settings, for people."""
        engine = self.engine
        lines = [
            f"dtype {engine.dtype}, quantization {engine.quantization}, activations {engine.activations},"
            f" {_device(engine)}, seed {engine.seed},"
            f" prefix cache {'on' if engine.enable_prefix_caching else 'off'}",
            f"max_model_len {engine.max_model_len or 'after loading'}, max_num_seqs {engine.max_num_seqs},"
            f" max_num_batched_tokens {engine.tokens_per_step}, block_size {engine.block_size}",
            f"collectives: {self.comm}",
        ]
        if (stored := self.stored_line()) is not None:
            lines.append(stored)
        lines += self.hints()
        if (dispatch := self.shards.forward_plan.dispatch) is not None:
            reached = f"{dispatch.form} ({dispatch.reason})"
            lines.append(f"experts: {engine.moe_backend} matmuls, tokens reach them by {reached}")
        if self.experts is not None:
            lines += self.experts.lines()
            if self.experts.stats is not None and self.layout.replicas > 1:
                lines.append(f"expert loads of replica 1 are written to {self.experts.of_replica(1).stats}, and so on")
        for number, host in enumerate(self.hosts):
            isa = f", kernels {host.kernels or 'none'}" + (f", of which {self.isa} is used" if self.isa else "")
            lines.append(f"host {number}: {host}, free memory {size(host.memory)}{isa}")
        if self.memory is not None:
            if not self.hosts:
                lines.append(f"free memory {size(self.memory.available)}")
            lines += self.memory.lines()
        lines += CpuAssignment(self.cores, self.server_cpus).lines(self.where)
        if self.unused:
            more = f" and {len(self.unused) - SHOWN_UNUSED} more" if len(self.unused) > SHOWN_UNUSED else ""
            lines.append(f"not used from the checkpoint: {', '.join(self.unused[:SHOWN_UNUSED])}{more}")
        return lines


def _ends_of(ids: Iterable[int], config: ModelConfig) -> tuple[int, ...]:
    """In order, without those beyond the vocabulary, which no row can sample."""
    return tuple(sorted({each for each in ids if 0 <= each < config.vocab_size}))


def plan_launch(
    checkpoint: Checkpoint,
    layout: Layout,
    engine: EngineConfig,
    comm: str = "auto",
    limits: ProcessLimits | None = None,
    hosts: Sequence[HostResources] = (),
) -> LaunchPlan:
    """Raises ConfigError, LayoutError or CheckpointError for what cannot be served; starts nothing. `hosts`: of a
    layout with several, what each of them gives its ranks."""
    check_hosts(layout, hosts)
    hosts = divide_machines(hosts, engine.threads)
    limits, able = limits or ProcessLimits(), common_kernels(hosts)
    config = _servable(checkpoint, layout, engine.device)
    engine = resolved_engine(engine, config, layout, able)
    experts = plan_experts(config, layout, engine, DTYPE_BYTES[engine.dtype])
    shards = Shards(config, layout, experts.slot_maps if experts else ())
    unused = check_checkpoint(checkpoint, shards.specs)
    shards = replace(shards, storage=weight_storage(engine, checkpoint, shards.specs, able))
    memory = _plan_memory(shards, engine, experts.staged if experts else 0, hosts)
    if memory is not None:
        engine = replace(engine, max_model_len=memory.max_model_len)
    cpus = _assign_cpus(layout, engine, hosts)
    return LaunchPlan(
        checkpoint=checkpoint,
        config=config,
        layout=layout,
        engine=engine,
        memory=memory,
        cores=cpus.shares,
        server_cpus=cpus.server,
        comm=replace(_choose_comm(comm, shards, engine, hosts_of_a_replica(layout)), debug=limits.comm_debug),
        unused=unused,
        eos_token_ids=_ends_of(checkpoint.eos_token_ids(), config),
        limits=limits,
        experts=experts,
        storage=shards.storage,
        hosts=tuple(hosts),
        isa="" if len({host.kernels for host in hosts}) < 2 else able or "",
    )


def _servable(checkpoint: Checkpoint, layout: Layout, device: str) -> ModelConfig:
    """The model's config; refuses what the layout or the model's format keeps from being run."""
    config = checkpoint.model_config()
    refuse_unsupported(layout, device)
    if config.quantization:
        raise FieldError(
            f"{checkpoint.path}: quantization_config {config.quantization}: quantized safetensors cannot be loaded;"
            " take the plain model or a GGUF",
            field="quantization_config",
            value=config.quantization,
        )
    check_fit(layout, config)
    return config


def _plan_memory(
    shards: Shards, engine: EngineConfig, staged: int, hosts: Sequence[HostResources]
) -> MemoryPlan | None:
    """None where only the devices know what they have."""
    itemsize = DTYPE_BYTES[engine.dtype]
    if engine.device != "cpu":
        return None
    if hosts:
        return plan_memory(shards, engine, itemsize, [host.memory for host in hosts], staged)
    return plan_memory(shards, engine, itemsize, available_bytes(group=memory_left()), staged, process_limit())


def _assign_cpus(layout: Layout, engine: EngineConfig, hosts: Sequence[HostResources]) -> CpuAssignment:
    """Of all hosts, or of this machine. ConfigError: lists or threads that cannot be."""
    assignment = assign_cpus_here(layout, engine)
    if hosts:
        assignment = CpuAssignment(tuple(share for host in hosts for share in host.shares), spare_cpus(hosts[0]))
    task_limits.check(share.threads for share in assignment.shares[: layout.ranks_per_node])
    return assignment


def _choose_comm(comm: str, shards: Shards, engine: EngineConfig, hosts: int) -> CommChoice:
    """The collectives of one replica, which is on so many hosts."""
    shards = replace(shards, layout=replace(shards.layout, replicas=1))
    return replace(choose_backend(comm, shards, engine.device, hosts=hosts), mailboxes=mailboxes_of(shards, engine))


def assign_cpus_here(layout: Layout, engine: EngineConfig) -> CpuAssignment:
    """Which of this machine's cores each rank and the server get. ConfigError: lists or threads that cannot be."""
    # threads of a program may come later to a step
    programs = not engine.enforce_eager and not why_not_packed(engine.device, engine.dtype)
    can_yield = layout.world == layout.replicas and programs
    return assign_cpus(available_cores(), layout.ranks_per_node, cpu_quota(), engine, can_yield=can_yield)


def _device(engine: EngineConfig) -> str:
    shared = f" ({engine.ranks_per_device} ranks on each)" if engine.ranks_per_device > 1 else ""
    return f"device {engine.device}{shared}"
