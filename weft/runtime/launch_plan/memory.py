"""The memory plan: what each rank needs, what it may have, and how many KV blocks that leaves. In bytes.

On a CPU host every rank may use an even share of `mem_fraction_static` of the free memory: interpreter, weights and
workspace first, the KV cache gets the rest. Every rank gets the same number of blocks: the least that any has room for.
"""

from __future__ import annotations

import resource
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from weft.base.errors import ConfigError
from weft.base.plural import counted, size
from weft.base.settings import EngineConfig
from weft.base.step.plan import most_sampled
from weft.compute.comm.mailboxes import mailboxes_of
from weft.parallel.arch.shards import Shards
from weft.parallel.layout.ranks import describe
from weft.parallel.layout.splits import attended_heads

MIB = 1024 * 1024
PROCESS_BYTES = 320 * MIB
"""Interpreter, torch and its libraries in one rank, measured at 217 MiB, with room for allocator slack."""
ADDRESS_BYTES = 1024 * MIB
"""Addresses that a rank takes beside its weights, workspace and cache: torch's libraries, stacks, what threads reserve
for their heaps. It has memory for a part of them only, but a limit of the process counts all."""

DEFAULT_FRACTION = 0.8
MODEST_BYTES = 1024 * MIB
MODEST_CONTEXTS = 4


@dataclass(frozen=True, slots=True)
class RankMemory:
    """Bytes of one rank. `share`: what it may use in all; None where only the device itself can say (after loading)."""

    where: str
    weights: int
    workspace: int
    process: int
    block: int
    """Bytes of one KV block on this rank."""
    share: int | None

    @property
    def fixed(self) -> int:
        """What is needed before the first KV block."""
        return self.weights + self.workspace + self.process

    def of_device(self, free: int, engine: EngineConfig) -> int:
        """Of a device's `free` bytes after loading, what `mem_fraction_static` leaves beside the weights."""
        fraction = engine.mem_fraction_static or DEFAULT_FRACTION
        return max(0, int((free + self.weights) * fraction) - self.weights)

    def blocks(self, cache_bytes: int | None, free: int | None = None) -> int:
        """KV blocks this rank has room for: in `cache_bytes` if given, else in its share, or in a device's `free`."""
        room = cache_bytes
        if room is None:
            room = (self.share or 0) - self.fixed if free is None else free - self.workspace
        # One block more is allocated than is handed out: block 0 takes the writes of padded rows.
        return max(0, room // self.block - 1)


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Every rank's memory, and the engine's limits that follow from it."""

    ranks: tuple[RankMemory, ...]
    num_blocks: int
    max_model_len: int
    available: int

    def lines(self) -> list[str]:
        """One line per rank, for people."""
        return [
            f"{m.where}: weights {size(m.weights)}, KV cache {size((self.num_blocks + 1) * m.block)}"
            f" ({self.num_blocks} blocks), workspace {size(m.workspace)}"
            for m in self.ranks
        ]


Available = int | Sequence[int]
"""Free bytes of the one host, or of each of several, which have equally many ranks."""


def _of_rank(available: Available, rank: int, world: int) -> tuple[int, int]:
    """Free bytes of the host of `rank`, and how many ranks share them."""
    if isinstance(available, int):
        return available, world
    sharing = world // len(available)
    return available[rank // sharing], sharing


def rank_memories(
    shards: Shards, engine: EngineConfig, itemsize: int, available: Available | None, staged_slots: int = 0
) -> tuple[RankMemory, ...]:
    """What each rank needs; `available` is the hosts' free memory, None: the ranks compute on devices.
    `staged_slots`: expert slots that a rank keeps room for beside those that it computes with."""
    world = shards.layout.world
    fraction = engine.mem_fraction_static or DEFAULT_FRACTION

    def share_of(rank: int) -> int | None:
        if available is None:
            return None
        free, sharing = _of_rank(available, rank, world)
        return int(free * fraction) // sharing

    return tuple(
        RankMemory(
            where=describe(shards.layout, rank),
            weights=sum(shards.bytes(rank, itemsize).values()),
            workspace=workspace_bytes(shards, engine, itemsize, rank)
            + staged_slots * shards.slot_bytes(rank, itemsize),
            process=PROCESS_BYTES if available is not None else 0,
            block=shards.kv_bytes_of_owned(rank, itemsize) * engine.tokens_per_block,
            share=share_of(rank),
        )
        for rank in range(world)
    )


def workspace_bytes(shards: Shards, engine: EngineConfig, itemsize: int, rank: int) -> int:
    """Activations of the largest step: a few copies of the widest rows, and in the last pipeline stage fp32 logits of
    every running request, or of the rows of a prompt that a step may score. Mailboxes of stages count for the rank
    that takes their messages."""
    config = shards.config
    rows = engine.tokens_per_step * shards.layout.attention.dp
    heads = config.num_heads * config.query_dim + 2 * config.num_kv_heads * config.value_dim
    row = 4 * config.hidden_size + 2 * heads + 3 * config.intermediate_size
    logits = 3 * most_sampled(engine.max_num_seqs) * shards.layout.attention.dp * config.vocab_size * 4
    logits = logits if shards.is_last(rank) else 0
    activations = rows * row + _routed(shards, rows) + _latents(shards, engine.tokens_per_step)
    activations += _of_owners(shards, engine.tokens_per_step)
    mail = mailboxes_of(shards, engine)
    of_replica = rank % (shards.layout.world // shards.layout.replicas)
    taken = mail.boxes * sum(nbytes for (_, receiver), nbytes in mail.bytes_of.items() if receiver == of_replica)
    return activations * itemsize + logits + taken


def _routed(shards: Shards, rows: int) -> int:
    """Numbers of an expert block's rows sorted by slot, once for every choice: what goes in, between, and comes out."""
    moe, experts, layout = shards.config.moe, shards.layout.experts, shards.layout
    if moe is None or experts is None:
        return 0
    block = -(-rows * experts.tp * experts.ep // layout.stage_size)
    return block * moe.top_k * (2 * shards.config.hidden_size + moe.intermediate_size)


def _latents(shards: Shards, rows: int) -> int:
    """Numbers of MLA's queries in the latents' space, and of what they gather there."""
    mla, tp = shards.config.mla, shards.layout.attention.tp
    return 0 if mla is None else 2 * rows * -(-shards.config.num_heads // tp) * mla.latent_dim


def _of_owners(shards: Shards, rows: int) -> int:
    """Numbers of queries that owners of a KV cache have of a group's rows, and of partial outputs, which are fp32 or
    wider: what it finds, what it sends and what it receives."""
    if shards.layout.kv_owners == 1:
        return 0
    sizes = shards.layout.attention
    attended = [attended_heads(shards.heads, place, sizes.kv_split).q for place in range(sizes.tp)]
    heads = max(hi - lo for lo, hi in attended)
    dim = shards.config.mla.latent_dim if shards.config.mla else shards.config.head_dim
    return rows * heads * (2 * dim + 3 * 2 * (dim + 2))


def plan_memory(
    shards: Shards,
    engine: EngineConfig,
    itemsize: int,
    available: Available,
    staged_slots: int = 0,
    process_limit: int | None = None,
) -> MemoryPlan:
    """The plan on hosts with `available` free bytes, of which each rank of one host may have `process_limit`.
    ConfigError: needed and available per rank, what to change."""
    allowed = None if process_limit is None else process_limit * shards.layout.world
    if process_limit is not None and allowed is not None and isinstance(available, int) and allowed < available:
        try:
            return plan_memory(shards, engine, itemsize, allowed, staged_slots)
        except ConfigError as error:
            limit = process_limit + ADDRESS_BYTES - PROCESS_BYTES >> 10
            left = f"the limit of addresses (ulimit -v {limit}) leaves each rank {size(process_limit)}"
            message = f"{left}: raise it; {error}"
            raise ConfigError(message, field=error.field, value=error.value) from None
    ranks = rank_memories(shards, engine, itemsize, available, staged_slots)
    if engine.kv_cache_memory is not None:
        _check_given_cache(ranks, engine.kv_cache_memory, available)
    return finish_plan(ranks, shards, engine, available if isinstance(available, int) else min(available))


def finish_plan(
    ranks: tuple[RankMemory, ...],
    shards: Shards,
    engine: EngineConfig,
    available: int,
    free: tuple[int, ...] = (),
) -> MemoryPlan:
    """Blocks and longest request; `free` has each rank's free device bytes after loading, on devices."""
    model_len = engine.max_model_len or shards.config.context
    free = tuple(memory.of_device(each, engine) for memory, each in zip(ranks, free, strict=bool(free)))
    blocks = min(m.blocks(engine.kv_cache_memory, free[i] if free else None) for i, m in enumerate(ranks))
    if engine.kv_cache_memory is None and engine.mem_fraction_static is None:
        blocks = min(blocks, _modest(ranks, -(-model_len // shards.layout.kv_owners), engine))
    size = engine.tokens_per_block * shards.layout.kv_owners
    wanted = -(-engine.max_model_len // size) if engine.max_model_len else 1
    if blocks < wanted:
        raise _too_small(ranks, engine, wanted, blocks, free, shards.layout.kv_owners)
    return MemoryPlan(ranks, blocks, min(model_len, blocks * size), available)


def _modest(ranks: tuple[RankMemory, ...], model_len: int, engine: EngineConfig) -> int:
    """Where nothing was asked for: not all of the machine, but what running requests can fill up to a few contexts."""
    contexts = min(engine.max_num_seqs, MODEST_CONTEXTS) * -(-model_len // engine.tokens_per_block)
    filled = engine.max_num_seqs * -(-model_len // engine.tokens_per_block)
    return min(filled, max(contexts, MODEST_BYTES // max(m.block for m in ranks)))


def _check_given_cache(ranks: tuple[RankMemory, ...], cache: int, available: Available) -> None:
    needed = max(m.fixed for m in ranks) + cache
    least, sharing = min((_of_rank(available, rank, len(ranks)) for rank in range(len(ranks))), key=lambda of: of[0])
    if needed * sharing > least:
        worst = max(ranks, key=lambda m: m.fixed)
        raise ConfigError(
            f"kv_cache_memory {size(cache)}: {worst.where} needs {size(needed)} with {_parts(worst)}; available:"
            f" {size(least // sharing)} per rank ({size(least)} free over {counted(sharing, 'rank')});"
            " give a smaller --kv-cache-memory or use fewer ranks",
            field="kv_cache_memory",
            value=cache,
        )


def _too_small(
    ranks: tuple[RankMemory, ...], engine: EngineConfig, wanted: int, blocks: int, free: tuple[int, ...], owners: int
) -> ConfigError:
    worst = min(range(len(ranks)), key=lambda i: ranks[i].blocks(engine.kv_cache_memory, free[i] if free else None))
    memory = ranks[worst]
    needed = memory.fixed + (wanted + 1) * memory.block
    if engine.kv_cache_memory is not None:
        has = f"--kv-cache-memory {size(engine.kv_cache_memory)} holds {counted(blocks, 'block')}"
        change = "raise --kv-cache-memory, lower --max-model-len or share a context over more ranks (--attn-cp-size)"
    else:
        share = free[worst] + memory.weights if free else memory.share or 0
        has = f"available: {size(share)} per rank"
        change = (
            "raise --mem-fraction-static, lower --max-model-len or --max-num-batched-tokens, or spread the weights"
            " over more ranks"
        )
    shared = f", one of {owners} that share a context" if owners > 1 else ""
    return ConfigError(
        f"{memory.where} needs {size(needed)}: {_parts(memory)}, KV cache {size((wanted + 1) * memory.block)}"
        f" ({counted(wanted, 'block')} of {counted(engine.tokens_per_block, 'token')}{shared}); {has}; {change}",
        field="max_model_len" if engine.max_model_len else "mem_fraction_static",
        value=engine.max_model_len or engine.mem_fraction_static,
    )


def _parts(memory: RankMemory) -> str:
    process = f", process {size(memory.process)}" if memory.process else ""
    return f"weights {size(memory.weights)}, workspace {size(memory.workspace)}{process}"


def available_bytes(proc: Path = Path("/proc/meminfo"), group: int | None = None) -> int:
    """Free memory of the host, or what a control group leaves (`group`) where that is less."""
    fields = dict(line.split(":", 1) for line in proc.read_text().splitlines() if ":" in line)
    free = int(fields["MemAvailable"].split()[0]) * 1024
    return max(0, free if group is None else min(free, group))


def process_limit() -> int | None:
    """Bytes that the limit of a process's addresses (ulimit -v), which ranks inherit, leaves each for what is planned;
    None without a limit."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    return None if limit == resource.RLIM_INFINITY else max(0, limit - (ADDRESS_BYTES - PROCESS_BYTES))
