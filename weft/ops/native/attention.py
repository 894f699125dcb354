"""Attention of the C++ step library, over a plain cache or one that its kernels read faster."""

from __future__ import annotations

import torch
from torch import Tensor

from weft.native.step_library import Pool
from weft.ops.attention import AttentionBackend, AttentionMeta, AttentionSpec, CacheLayout, KVCache
from weft.ops.native.immediate import run_now
from weft.ops.native.packed import DTYPES

TOKENS = 16
"""Blocks of a packed cache hold a multiple of so many tokens (`kKeyPanel` in cache.h)."""


class StepAttention(AttentionBackend[AttentionMeta]):
    """Kernels on `pool`."""

    name = "step"
    gives_partial = False

    def __init__(self, pool: Pool, exact: bool = False) -> None:
        self._builder = run_now(pool, exact)

    def why_not(self, spec: AttentionSpec, dtype: torch.dtype, device: torch.device) -> str:
        if device.type != "cpu":
            return f"its kernels run on the CPU, not on {device.type}"
        return "" if dtype in DTYPES else f"it has no kernels for {str(dtype).removeprefix('torch.')}"

    def cache_layout(
        self, heads: int, dim: int, block_size: int, dtype: torch.dtype, *, latent: bool = False
    ) -> CacheLayout:
        if latent or dtype != torch.bfloat16 or block_size % TOKENS or dim % 2:
            return super().cache_layout(heads, dim, block_size, dtype, latent=latent)
        # a block's keys and values of a head are neighbours, for they are read one after the other
        return CacheLayout((heads, 2, block_size, dim), packed=True)

    def prepare(self, meta: AttentionMeta) -> AttentionMeta:
        if meta.share is not None:
            raise self.no_partial()
        return meta

    def forward(
        self, q: Tensor, cache: KVCache, prepared: AttentionMeta, spec: AttentionSpec, *, partial: bool = False
    ) -> Tensor:
        if partial:
            raise self.no_partial()
        return self._builder.attention(q.flatten(1).contiguous(), cache, spec, prepared)
