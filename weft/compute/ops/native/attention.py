"""Attention of the C++ step library, over a plain cache or one that its kernels read faster."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from weft.compute.native.step_library import Pool
from weft.compute.ops.attention import AttentionBackend, AttentionMeta, AttentionSpec, CacheLayout, KVCache
from weft.compute.ops.native.immediate import run_now
from weft.compute.ops.native.packed import DTYPES

TOKENS = 16
"""Blocks of a packed cache hold a multiple of so many tokens (`kKeyPanel` in cache.h)."""


class StepAttention(AttentionBackend[AttentionMeta]):
    """Kernels on `pool`."""

    name = "step"

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
        return meta

    def forward(
        self, q: Tensor, cache: KVCache, prepared: AttentionMeta, spec: AttentionSpec, *, partial: bool = False
    ) -> Tensor:
        attend = self._builder.partial_attention if partial else self._builder.attention
        return attend(q.flatten(1).contiguous(), cache, spec, prepared)

    def merge(self, parts: Sequence[Tensor], heads: int) -> Tensor:
        rows, width = parts[0].shape
        out = parts[0].new_empty(rows, width - 2 * heads)
        return self._builder.merged(torch.cat(tuple(parts)), out, len(parts), heads)
