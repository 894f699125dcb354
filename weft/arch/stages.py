"""Which layers, and so which weights, a rank's pipeline stage holds."""

from __future__ import annotations

from weft.arch.config import ModelConfig
from weft.arch.spec import ParamSpec
from weft.layout.layout import Layout
from weft.layout.placement import Interval
from weft.layout.ranks import coords
from weft.layout.splits import even_splits


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


def _layer(spec: ParamSpec, num_layers: int) -> int:
    """The layer of a spec; what stands before the layers counts as the first, what stands after as the last."""
    parts = spec.target.split(".")
    if parts[0] == "layers":
        return int(parts[1])
    return 0 if spec.module == "embedding" else num_layers - 1
