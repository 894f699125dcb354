"""Which layers, and so which weights, a rank's pipeline stage holds, and what a row costs there, in multiplications."""

from __future__ import annotations

from collections import defaultdict
from math import prod

from weft.parallel.arch.config import ModelConfig
from weft.parallel.arch.params import param_specs
from weft.parallel.arch.spec import ParamSpec
from weft.parallel.layout.layout import Layout
from weft.parallel.layout.placement import Interval
from weft.parallel.layout.ranks import coords
from weft.parallel.layout.splits import even_splits


def stage_layers(layout: Layout, num_layers: int) -> tuple[Interval, ...]:
    """The layers of every stage, half-open; even unless the layout names their counts."""
    counts = layout.pipeline.layers
    if counts is None:
        return even_splits(num_layers, layout.pipeline.stages)
    ends = [sum(counts[: stage + 1]) for stage in range(len(counts))]
    return tuple((end - count, end) for end, count in zip(ends, counts, strict=True))


def held_specs(specs: tuple[ParamSpec, ...], config: ModelConfig, layout: Layout, rank: int) -> tuple[ParamSpec, ...]:
    """The specs of the rank's stage: its layers, the first stage's embedding, the last stage's norm and lm_head."""
    lo, hi = stage_layers(layout, config.num_layers)[coords(layout, rank).stage]
    return tuple(spec for spec in specs if lo <= _layer(spec, config.num_layers) < hi)


def layers_of(layout: Layout, config: ModelConfig, rank: int) -> range:
    """The layers of the rank's stage."""
    return range(*stage_layers(layout, config.num_layers)[coords(layout, rank).stage])


def _layer(spec: ParamSpec, num_layers: int) -> int:
    """The layer of a spec; what stands before the layers counts as the first, what stands after as the last."""
    parts = spec.target.split(".")
    if parts[0] == "layers":
        return int(parts[1])
    return 0 if spec.module == "embedding" else num_layers - 1


def layer_products(config: ModelConfig) -> tuple[int, ...]:
    """Of each layer: multiplications of a row with weights, of routed experts those that it chooses."""
    found: dict[int, int] = defaultdict(int)
    for spec in param_specs(config, 1):
        parts = spec.target.split(".")
        if parts[0] == "layers" and len(spec.shape) == 2:
            times = 1 if spec.expert is None or config.moe is None else config.moe.top_k
            found[int(parts[1])] += times * prod(spec.shape)
    return tuple(found[layer] for layer in range(config.num_layers))


def head_products(config: ModelConfig) -> int:
    """Multiplications of a sampled row with the lm_head."""
    return config.vocab_size * config.hidden_size


def keys_per_row(config: ModelConfig) -> float:
    """So many keys cost a row's attention as much as its products with the weights of all layers."""
    width = 2 * config.mla.latent_dim if config.mla else config.query_dim + config.value_dim
    return sum(layer_products(config)) / (config.num_layers * config.num_heads * width)
