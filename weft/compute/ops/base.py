"""What operations are made for and called with. Shapes: A query heads on this rank, D head dim."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from weft.compute.ops.weights import Weight

FP32_MAX = torch.finfo(torch.float32).max
"""What a larger setting counts as, where fp32 is computed with."""


@dataclass(frozen=True, slots=True)
class Numerics:
    """`dtype` of weights and activations; `exact`: results that are not exact numbers (norm, rope, v, attention output,
    silu * up) are computed in fp64, rounded to multiples of 2^-6 and clamped to +-4, so that fp32 sums in between are
    exact whatever their order (the exact suite; never used to serve). `moe_backend`: how routed experts are multiplied,
    "packed", "grouped" or "plain"; "auto" takes the first that the implementation has for the dtype."""

    dtype: torch.dtype
    exact: bool = False
    moe_backend: str = "auto"
    quantization: str = "none"
    """How matrices that layers multiply by are stored: none (in `dtype`), a format of `weft.base.weight_formats` that
    is chosen by option, or gguf (a file's blocks as they are, where the implementation takes them)."""
    int8_activations: bool = False
    """Whether activations are rounded to int8 before they are multiplied with quantized weights."""
    compress_weights: bool | None = None
    """Whether numbers of bf16 matrices that layers multiply by take 12 bits, none of them changed; None: where it costs
    many rows little."""

    @property
    def cache_dtype(self) -> torch.dtype:
        """dtype of the KV cache."""
        return torch.float64 if self.exact else self.dtype


@dataclass(frozen=True, slots=True)
class HeadNorms:
    """Weights [D] of the norms of q and k."""

    q: Tensor
    k: Tensor
    eps: float


@dataclass(frozen=True, slots=True)
class RotaryTables:
    """What turns q and k of a layer: `cos_sin` [max positions, R] (cos half, sin half; neox style) the first R dims of
    each head, none where R is 0. `q_scale` [max positions]: what q is multiplied by then; None: nothing."""

    cos_sin: Tensor
    q_scale: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Heads:
    """Query heads, KV heads and dims of each, on this rank; what their q and k are normed and turned by."""

    q: int
    kv: int
    dim: int
    rope: RotaryTables
    norms: HeadNorms | None = None


@dataclass(frozen=True, slots=True)
class Latents:
    """MLA: what latents are normed by (`norm` [L]), what carries queries to their space (`to_latent` [A * L, P], a
    matrix for each head), and what both are turned by (`cos_sin` [max positions, R])."""

    norm: Tensor
    eps: float
    to_latent: Weight
    cos_sin: Tensor
