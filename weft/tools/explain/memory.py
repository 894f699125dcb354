"""What every rank holds: its slices, bytes by module and KV bytes per token. Read from `Shards`; no rule of its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace

from weft.parallel.arch.config import ModelConfig
from weft.parallel.arch.quantization import PANEL_ROWS
from weft.parallel.arch.shards import Shards
from weft.parallel.arch.spec import Cut, ParamSpec
from weft.parallel.arch.stages import stage_layers
from weft.parallel.layout.layout import Layout
from weft.parallel.layout.placement import Interval
from weft.parallel.layout.ranks import Coords, coords, node_of

MODULES = ("embedding", "attention", "o_proj", "dense", "router", "experts", "shared_experts", "norm", "lm_head")
"""In the order of a forward pass; a model shows those that it has."""


def modules_of(config: ModelConfig) -> tuple[str, ...]:
    """The modules that hold weights of this model."""
    layers = range(config.num_layers)
    missing = set() if config.moe and config.moe.shared_intermediate_size else {"shared_experts"}
    if not any(map(config.has_experts, layers)):
        missing |= {"router", "experts"}
    if all(map(config.has_experts, layers)):
        missing.add("dense")
    return tuple(module for module in MODULES if module not in missing)


Alike = tuple[tuple[ParamSpec, int], ...]
"""Weights, each for so many that are like it."""


@dataclass(frozen=True, slots=True)
class Share:
    """The interval of a module's divided dimension that a rank holds; `whole` is the dimension's length."""

    interval: Interval
    whole: int


@dataclass(frozen=True, slots=True)
class RankMemoryUse:
    """One rank. bytes: weights by module, of its own layers. shares: by module, in elements (heads for attention)."""

    rank: int
    coords: Coords
    node: int
    layers: Interval
    q_heads: Interval
    kv_heads: Interval
    slots: Interval | None
    shares: dict[str, Share]
    bytes: dict[str, int]
    kv_bytes_per_token: int
    alike: int
    """The first rank that holds the same."""

    @property
    def total(self) -> int:
        """Bytes of all its weights."""
        return sum(self.bytes.values())


def memory_of_ranks(shards: Shards, itemsize: int) -> tuple[RankMemoryUse, ...]:
    """Every rank of the world, in order; `itemsize` bytes an element."""
    first: dict[tuple[int, ...], RankMemoryUse] = {}
    weights: dict[int, Alike] = {}
    sizes, found = tuple(shards.layout.sizes.values()), []
    for rank in range(shards.layout.world):
        at = coords(shards.layout, rank)
        like = (at.stage, *(rank % size for size in sizes))
        if like not in first:
            if at.stage not in weights:
                weights[at.stage] = alike_weights(shards, rank)
            first[like] = distinct(shards, rank, itemsize, weights[at.stage])
        found.append(
            replace(first[like], rank=rank, coords=at, node=node_of(shards.layout, rank), alike=first[like].rank)
        )
    return tuple(found)


def distinct(shards: Shards, rank: int, itemsize: int, alike: Alike) -> RankMemoryUse:
    """What a rank holds, derived from the weights of its stage: once for all ranks that stand alike in every block."""
    layout, config = shards.layout, shards.config
    at = coords(layout, rank)
    layers = stage_layers(layout, config.num_layers)[at.stage]
    heads = shards.head_share(rank)
    return RankMemoryUse(
        rank=rank,
        coords=at,
        node=node_of(layout, rank),
        layers=layers,
        q_heads=heads.q,
        kv_heads=heads.kv,
        slots=shards.slots.of_rank(rank % layout.stage_size) if shards.slots else None,
        shares=_shares(shards, rank),
        bytes=held_bytes(shards, rank, itemsize, alike),
        kv_bytes_per_token=shards.kv_bytes_per_token(rank, itemsize),
        alike=rank,
    )


def held_bytes(shards: Shards, rank: int, itemsize: int, alike: Alike | None = None) -> dict[str, int]:
    """Bytes of the weights of a rank's stage, by module. `alike`: `alike_weights` of any rank of the stage."""
    held: Counter[str] = Counter(dict.fromkeys(modules_of(shards.config), 0))
    for spec, times in alike or alike_weights(shards, rank):
        held[spec.module] += times * shards.bytes_of(spec, rank, itemsize)
    for parts in _matrices(shards, rank) if shards.storage.pads else ():
        held[parts[0].module] += _padding(shards, parts, rank, itemsize)
    return dict(held)


def _padding(shards: Shards, parts: list[ParamSpec], rank: int, itemsize: int) -> int:
    """Bytes that fill up the last panels of the packed matrix of `parts` on `rank`, of each slot; 0: not packed."""
    first = parts[0]
    held = not shards.is_view(first) or shards.packs_head_again
    if shards.config.quantization or not held or not shards.multiplies(first):
        return 0
    counts = [shards.local_shape(part, rank)[0] for part in parts]
    return -sum(counts) % PANEL_ROWS * shards.bytes_of(first, rank, itemsize) // max(1, counts[0])


def _matrices(shards: Shards, rank: int) -> Iterable[list[ParamSpec]]:
    """The parts of each matrix of the rank's stage, routed experts' once."""
    found: dict[tuple[str, int | None], list[ParamSpec]] = {}
    for spec in shards.counted_of(rank):
        if len(spec.shape) == 2:
            found.setdefault((spec.target, spec.expert), []).append(spec)
    return found.values()


def alike_weights(shards: Shards, rank: int) -> Alike:
    """The weights of a rank's stage that are cut alike, as one of them and their number: layers repeat. Weights that
    keep a file's blocks are counted separately."""
    found: dict[tuple[object, ...], list[ParamSpec]] = {}
    for spec in shards.counted_of(rank):
        own = spec.name if shards.storage.blocks else ""
        found.setdefault((spec.module, spec.shape, spec.dim, spec.cut, spec.expert is None, own), []).append(spec)
    return tuple((specs[0], len(specs)) for specs in found.values())


def _shares(shards: Shards, rank: int) -> dict[str, Share]:
    """One divided weight of every module stands for the module."""
    found: dict[str, Share] = {}
    for module, spec in _representatives(shards.counted_specs).items():
        interval = shards.interval(spec, rank)
        whole = spec.shape[spec.dim] if spec.dim is not None else 0
        found[module] = Share(interval if interval is not None else (0, whole), whole)
    return found


def _representatives(specs: tuple[ParamSpec, ...]) -> dict[str, ParamSpec]:
    cut_of_module = {
        "embedding": Cut.VOCAB_IN,
        "attention": Cut.Q,
        "o_proj": Cut.O_IN,
        "dense": Cut.INTERMEDIATE,
        "experts": Cut.EXPERT,
        "shared_experts": Cut.SHARED,
        "lm_head": Cut.VOCAB_OUT,
    }
    found = {module: next((spec for spec in specs if spec.cut is cut), None) for module, cut in cut_of_module.items()}
    return {module: spec for module, spec in found.items() if spec is not None}


def bytes_of_second_copy(layout: Layout, ranks: tuple[RankMemoryUse, ...]) -> int:
    """The most bytes that a rank of the last stage holds for the lm_head: what a tied weight costs as two copies."""
    last = layout.pipeline.stages - 1
    return max(rank.bytes["lm_head"] for rank in ranks if rank.coords.stage == last)
