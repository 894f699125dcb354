"""Settings of an engine as torch and operations name them. Imports torch, so only ranks use it."""

from __future__ import annotations

import torch

from weft.base.settings import EngineConfig
from weft.compute.native import kernels
from weft.compute.ops import Numerics
from weft.compute.ops.base import RotaryTables
from weft.compute.ops.interface import Ops
from weft.compute.ops.reference.rope import build_cos_sin, build_q_scale
from weft.model.weights.storage import uses_int8_activations
from weft.parallel.arch.config import ModelConfig, RopeConfig

_DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}


def torch_dtype(name: str) -> torch.dtype:
    """KeyError for a name that settings do not allow."""
    return _DTYPES[name]


def numerics_of(engine: EngineConfig) -> Numerics:
    """What `engine` settles about numbers, with this process's kernels; its dtype is a name of `torch_dtype`."""
    return Numerics(
        torch_dtype(engine.dtype),
        moe_backend=engine.moe_backend,
        quantization=engine.quantization,
        int8_activations=uses_int8_activations(engine, kernels()),
        compress_weights=engine.compress_weights,
    )


def rotary_tables(config: ModelConfig, ops: Ops, positions: int, device: torch.device) -> list[RotaryTables]:
    """Each layer's tables of so many positions; layers that turn alike have the same."""
    wide = torch.float64 if ops.numerics.cache_dtype == torch.float64 else torch.float32
    growth = config.block.query_growth
    q_scale = None if growth is None else build_q_scale(growth, positions, dtype=wide, device=device)

    def table(rope: RopeConfig | None) -> RotaryTables:
        if rope is None:
            return RotaryTables(torch.zeros(positions, 0, dtype=wide, device=device), q_scale)
        trained = config.max_position
        cos_sin = build_cos_sin(rope, config.rope_dim, positions, trained_positions=trained, dtype=wide, device=device)
        return RotaryTables(cos_sin, q_scale)

    kinds = [config.rope_kind(layer) for layer in range(config.num_layers)]
    ropes = {"global": config.rope, "local": config.local_rope, "none": None}
    tables = {kind: table(ropes[kind]) for kind in dict.fromkeys(kinds)}
    return [tables[kind] for kind in kinds]
