"""Whether a model's dimensions can be dealt to a layout's ranks. Knows no weights and no memory size."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from weft.arch.config import ModelConfig
from weft.errors import LayoutError
from weft.layout.layout import Layout
from weft.layout.resolve import divisors


@dataclass(frozen=True, slots=True)
class _Need:
    """A module whose every rank needs at least one unit of a dimension."""

    module: str
    size: int
    dimension: str
    units: int


def check_fit(layout: Layout, config: ModelConfig) -> None:
    """Raises LayoutError naming module, dimension, value and legal sizes where a rank would hold nothing."""
    for need in _needs(layout, config):
        if need.size > need.units:
            legal = tuple(size for size in divisors(layout.stage_size) if size <= need.units)
            raise LayoutError(
                f"{need.module} tp {need.size}: {need.dimension} is {need.units}, fewer than the ranks; "
                f"legal: {', '.join(map(str, legal))}",
                field=f"{need.module}.tp",
                value=need.size,
                legal=legal,
            )
    _check_layers(layout, config.num_layers)


def _needs(layout: Layout, config: ModelConfig) -> Iterator[_Need]:
    """o_proj needs a column a rank: its cuts may divide a head."""
    columns = config.num_heads * config.head_dim
    yield _Need("attention", layout.attention.tp, "num_attention_heads", config.num_heads)
    yield _Need("o_proj", layout.o_proj.tp, "num_attention_heads * head_dim", columns)
    yield _Need("dense", layout.dense.tp, "intermediate_size", config.intermediate_size)
    yield _Need("embedding", layout.embedding.tp, "vocab_size", config.vocab_size)
    yield _Need("lm_head", layout.lm_head.tp, "vocab_size", config.vocab_size)


def _check_layers(layout: Layout, num_layers: int) -> None:
    stages, layers = layout.pipeline.stages, layout.pipeline.layers
    if stages > num_layers:
        raise LayoutError(
            f"pipeline stages {stages}: the model has {num_layers} layers; legal: 1 to {num_layers}",
            field="pipeline.stages",
            value=stages,
            legal=tuple(range(1, num_layers + 1)),
        )
    if layers is not None and sum(layers) != num_layers:
        text = " + ".join(map(str, layers))
        raise LayoutError(
            f"pipeline layers {text} = {sum(layers)}, but the model has {num_layers} layers",
            field="pipeline.layers",
            value=layers,
        )
