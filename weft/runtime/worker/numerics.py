"""Settings of an engine as torch and operations name them. Imports torch, so only ranks use it."""

from __future__ import annotations

import torch
from torch import Tensor

from weft.base.settings import EngineConfig
from weft.compute.native import kernels
from weft.compute.ops import Numerics
from weft.compute.ops.interface import Ops
from weft.compute.ops.reference.rope import build_cos_sin
from weft.model.weights.storage import uses_int8_activations
from weft.parallel.arch.config import ModelConfig

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


def angles(config: ModelConfig, ops: Ops, positions: int, device: torch.device) -> Tensor:
    """Cosines and sines of so many positions."""
    wide = torch.float64 if ops.numerics.cache_dtype == torch.float64 else torch.float32
    return build_cos_sin(
        config.rope,
        config.rope_dim,
        positions,
        trained_positions=config.max_position,
        dtype=wide,
        device=device,
    )
