"""Whether a layout fits into a rank's memory: weights, activations, exchange buffers, and the KV tokens that remain.

Activations are an estimate from shapes: at each module the rows of its block times what goes in and comes out there;
the widest module counts, plus the residual stream.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from weft.parallel.arch.config import ModelConfig
from weft.parallel.arch.shards import Shards
from weft.parallel.arch.slots import staged_slots
from weft.parallel.layout.layout import Layout
from weft.parallel.layout.ranks import describe
from weft.tools.explain.memory import RankMemoryUse, memory_of_ranks
from weft.tools.explain.proposals import StepLoad, proposals
from weft.tools.explain.traffic import OwnerTraffic, RoutedTraffic, traffic_of
from weft.tools.explain.units import binary

__all__ = ["Budget", "CacheLimits", "Fit", "StepLoad", "budget", "cache_lines", "fit", "lines"]


@dataclass(frozen=True, slots=True)
class Budget:
    """A rank's memory, and what another engine's memory fraction is for.

    `counts`: "all" (the fraction holds everything), "static" (weights and KV; the rest is for activations and buffers)
    or "free" (the KV cache's part of what everything else leaves).
    """

    memory: int
    name: str = ""
    fraction: float = 1.0
    counts: str = "all"

    def left(self, weights: int, working: int) -> int:
        """Bytes for the KV cache beside weights and working memory; negative where those do not fit."""
        whole = self.memory - weights - working
        if self.counts == "free":
            return min(whole, int(whole * self.fraction)) if whole > 0 else whole
        share = int(self.memory * self.fraction)
        return min(whole, share - weights) if self.counts == "static" else share - weights - working

    def __str__(self) -> str:
        meant = {"all": "of it for everything", "static": "of it for weights and KV", "free": "of what is left for KV"}
        fraction = f" ({self.name} {self.fraction:g}: {meant[self.counts]})" if self.name else ""
        return f"{binary(self.memory)} a rank{fraction}"


COUNTS = {"mem_fraction_static": "static", "gpu_memory_utilization": "all", "free_gpu_memory_fraction": "free"}
"""What an engine's fraction of the memory holds, by its name."""


def budget(memory: int, options: Mapping[str, object]) -> Budget:
    """The memory under the fraction that another engine's options give, if they do."""
    for name, counts in COUNTS.items():
        value = options.get(name)
        if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value <= 1:
            return Budget(memory, name, float(value), counts)
    return Budget(memory)


@dataclass(frozen=True, slots=True)
class RankFit:
    """One rank's bytes, `exchange` with room for expert slots that arrive; `kv_tokens` that remain for the cache of its
    group (negative: bytes are missing)."""

    where: str
    weights: int
    activations: int
    exchange: int
    kv_bytes_per_token: int
    budget: Budget
    bounds: int = 0
    """Of logits."""

    @property
    def left(self) -> int:
        """Bytes for the KV cache; negative where the rest does not fit."""
        return self.budget.left(self.weights, self.activations + self.exchange)

    @property
    def kv_tokens(self) -> int:
        """Tokens of KV cache that fit."""
        return max(0, self.left) // self.kv_bytes_per_token if self.kv_bytes_per_token else 0


@dataclass(frozen=True, slots=True)
class CacheLimits:
    """Of `weft serve`: bytes of each rank's KV cache and tokens of a request (None: not given), tokens of a block."""

    nbytes: int | None
    longest: int | None
    block: int

    def tokens(self, bytes_per_token: int) -> int:
        """That the cache of a rank holds, in whole blocks; of a rank without keys and values any number."""
        return (
            self.nbytes // (bytes_per_token * self.block) * self.block if self.nbytes and bytes_per_token else 1 << 62
        )


@dataclass(frozen=True, slots=True)
class Fit:
    """The tightest rank decides. `changes`: what would make room, each with what it saves on that rank."""

    tightest: RankFit
    groups: int
    changes: tuple[str, ...]

    @property
    def fits(self) -> bool:
        """Whether at least one token of KV remains on every rank."""
        return self.tightest.kv_tokens > 0


def fit(config: ModelConfig, layout: Layout, load: StepLoad, budget: Budget) -> Fit:
    """The fit into a rank's memory."""
    tightest = tightest_rank(config, layout, load, budget)
    changes = () if tightest.kv_tokens else tuple(_changes(config, layout, load, budget, tightest))
    return Fit(tightest, layout.attention.dp * layout.replicas, changes)


def tightest_rank(config: ModelConfig, layout: Layout, load: StepLoad, budget: Budget) -> RankFit:
    """The rank with the fewest tokens of KV, or where some have none with the most bytes missing."""
    return min(_ranks(config, layout, load, budget), key=lambda rank: rank.kv_tokens or rank.left / 2**60)


def lines(found: Fit) -> Iterator[str]:
    """Lines of text."""
    rank = found.tightest
    parts = (
        f"weights {binary(rank.weights)}, activations about {binary(rank.activations)}, "
        f"exchange buffers {binary(rank.exchange)}"
    )
    if found.fits:
        yield (
            f"fits {rank.budget}: on {rank.where}, the tightest, {parts}; {binary(rank.left)} remain for "
            f"{rank.kv_tokens:,} tokens of KV in its group, {rank.kv_tokens * found.groups:,} in all groups"
        )
        return
    yield f"does NOT fit {rank.budget}: {rank.where} needs {parts}; {binary(-rank.left)} are missing"
    yield from (f"  {change}" for change in found.changes)


def cache_lines(found: Fit | None, ranks: Sequence[RankMemoryUse], limits: CacheLimits) -> Iterator[str]:
    """Lines about the requests that the KV cache of each group holds: one of `limits.nbytes` a rank, or what `found`
    says that remains."""
    tokens = found.tightest.kv_tokens if found is not None else None
    if limits.nbytes is not None:
        tokens = min(limits.tokens(rank.kv_bytes_per_token) for rank in ranks)
        yield f"a KV cache of {binary(limits.nbytes)} a rank holds {tokens:,} tokens in each group"
    if tokens is not None and limits.longest is not None:
        whole = tokens // limits.block * limits.block
        requests = whole // (-(-limits.longest // limits.block) * limits.block)
        shown = f"{requests:,} at once" if requests else "not even one"
        yield f"of requests of {limits.longest:,} tokens, prompt and answer, {shown}"


def _ranks(config: ModelConfig, layout: Layout, load: StepLoad, budget: Budget) -> Iterator[RankFit]:
    shards = Shards(config, layout, storage=load.storage)
    exchange = _exchange(shards, load)
    staged = staged_slots(layout.experts) if layout.experts else 0
    for rank in memory_of_ranks(shards, load.itemsize):
        yield RankFit(
            where=describe(layout, rank.rank),
            weights=rank.total,
            activations=_activations(shards, rank.rank, load),
            exchange=exchange[rank.rank % layout.stage_size] + staged * shards.slot_bytes(rank.rank, load.itemsize),
            kv_bytes_per_token=rank.kv_bytes_per_token,
            budget=budget,
        )


def _exchange(shards: Shards, load: StepLoad) -> list[int]:
    """Per rank of a stage: room to receive the largest message of a step, and to send as much."""
    most = [0] * shards.layout.stage_size
    for passed in traffic_of(shards, load.itemsize, (load.rows,)):
        if isinstance(passed, RoutedTraffic):
            found = [passed.most[0]]
        elif isinstance(passed, OwnerTraffic) or passed.boundary.rows == "rows":
            found = [call.received[0] for call in passed.calls]
        else:
            found = []
        for received in found:
            most = [max(pair) for pair in zip(most, received.per_rank, strict=True)]
    return [2 * nbytes for nbytes in most]


def _activations(shards: Shards, rank: int, load: StepLoad) -> int:
    config, layout = shards.config, shards.layout
    t, hidden = layout.attention.tp, config.hidden_size
    share = shards.head_share(rank)
    heads, kv_heads = share.q[1] - share.q[0], share.kv[1] - share.kv[0]

    def rows(size: int) -> int:
        return -(-load.rows * size // t)

    widest = [
        rows(t) * (hidden + 2 * heads * config.query_dim + 2 * kv_heads * config.value_dim),
        rows(layout.o_proj.tp) * (hidden + config.num_heads * config.value_dim // layout.o_proj.tp),
        rows(layout.dense.tp) * (hidden + 3 * config.intermediate_size // layout.dense.tp),
        -(-load.sampled * layout.lm_head.tp // t) * (hidden + 2 * config.vocab_size // layout.lm_head.tp),
    ]
    if config.moe and layout.experts:
        block, moe = layout.experts.tp * layout.experts.ep, config.moe
        choice = hidden * 2 + 3 * moe.intermediate_size // layout.experts.tp
        widest.append(rows(block) * (hidden + moe.top_k * choice // layout.experts.ep))
    return (max(widest) + 2 * rows(t) * hidden) * load.itemsize


def _changes(config: ModelConfig, layout: Layout, load: StepLoad, budget: Budget, tightest: RankFit) -> Iterator[str]:
    """What makes room, each computed anew; then how many times as much memory would do."""

    def judge(other: Layout, lighter: StepLoad) -> int:
        return min(rank.left for rank in _ranks(config, other, lighter, budget))

    yield from proposals(config, layout, load, tightest.left, judge)
    needed = tightest.weights + tightest.activations + tightest.exchange
    yield f"more ranks: this rank needs {needed / max(1, needed + tightest.left):.2f} times what it has"
