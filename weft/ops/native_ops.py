"""Operations of a CPU with the C++ kernels: attention, norm, rope with cache write and SiLU * up; the rest is
torch's."""

from __future__ import annotations

import torch
from torch import Tensor

from weft.ops.base import AttentionMeta, KVCache, Numerics
from weft.ops.native_kernels import AttentionKernel, PointwiseKernels
from weft.ops.torch_ops import TorchOps


class NativeOps(TorchOps):
    """Each operation is one call on raw buffers; made by `make_ops` where the libraries are there."""

    name = "native"

    def __init__(
        self, numerics: Numerics, device: torch.device, attend: AttentionKernel, pointwise: PointwiseKernels
    ) -> None:
        super().__init__(numerics, device)
        self._attend = attend
        self._pointwise = pointwise

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        return self._pointwise.rms_norm(x, weight, eps)

    def rope_and_cache(
        self, q: Tensor, k: Tensor, v: Tensor, cos_sin: Tensor, meta: AttentionMeta, cache: KVCache
    ) -> Tensor:
        return self._pointwise.rope_and_cache(q, k, v, cos_sin, meta, cache)

    def attention(
        self, q: Tensor, cache: KVCache, kv_of_head: Tensor, scale: float, meta: AttentionMeta, window: int
    ) -> Tensor:
        return self._attend(q, cache, kv_of_head, scale, meta, window)

    def silu_mul(self, gate_up: Tensor) -> Tensor:
        return self._pointwise.silu_mul(gate_up)
