"""Operations of a CPU with the C++ kernels: all but the embedding are one call on raw buffers each."""

from __future__ import annotations

import torch
from torch import Tensor

from weft.ops.base import AttentionMeta, KVCache, Numerics
from weft.ops.linear import Form
from weft.ops.native_kernels import Kernels
from weft.ops.torch_ops import TorchOps
from weft.ops.weights import Weight, plain


class NativeOps(TorchOps):
    """Made by `make_ops` where the libraries are there."""

    name = "native"

    def __init__(self, numerics: Numerics, device: torch.device, kernels: Kernels) -> None:
        self._kernels = kernels
        super().__init__(numerics, device)

    def forms(self) -> tuple[Form, ...]:
        return self._kernels.linear, *super().forms()

    def logits(self, x: Tensor, weight: Weight) -> Tensor:
        return self._kernels.logits(x, plain(weight), None)

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        return self._kernels.pointwise.rms_norm(x, weight, eps)

    def rope_and_cache(
        self, q: Tensor, k: Tensor, v: Tensor, cos_sin: Tensor, meta: AttentionMeta, cache: KVCache
    ) -> Tensor:
        return self._kernels.pointwise.rope_and_cache(q, k, v, cos_sin, meta, cache)

    def attention(
        self, q: Tensor, cache: KVCache, kv_of_head: Tensor, scale: float, meta: AttentionMeta, window: int
    ) -> Tensor:
        return self._kernels.attend(q, cache, kv_of_head, scale, meta, window)

    def silu_mul(self, gate_up: Tensor) -> Tensor:
        return self._kernels.pointwise.silu_mul(gate_up)
