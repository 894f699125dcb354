"""Operations on single rows in Triton: sums, RMSNorm, SiLU * up, and heads normed, turned and put into the cache.

A program has a row, or a head of one: no result depends on how many rows there are. Needs Triton.
"""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from weft.ops.attention import AttentionMeta, KVCache
from weft.ops.base import Heads
from weft.ops.cuda.triton_kernels import rows as kernels

COLUMNS = 1024
"""Numbers that a program computes, of a sum or of SiLU * up."""


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """See `Ops.rms_norm`: x [N, H], whose rows may lie apart."""
    rows, width = x.shape
    out = torch.empty(rows, width, dtype=weight.dtype, device=x.device)
    if rows:
        wide = triton.next_power_of_2(width)
        warps = 4 if wide <= 4096 else 8
        kernels.rms_norm[(rows,)](out, x, weight, x.stride(0), eps, WIDTH=width, WIDE=wide, num_warps=warps)
    return out


def add(x: Tensor, h: Tensor) -> Tensor:
    """See `Ops.add`: both contiguous; into x."""
    if x.numel():
        kernels.add[(triton.cdiv(x.numel(), COLUMNS),)](x, h, x.numel(), COLUMNS=COLUMNS)
    return x


def silu_mul(gate_up: Tensor) -> Tensor:
    """See `Ops.silu_mul`: [N, 2 I], contiguous, to [N, I]."""
    rows, width = gate_up.shape[0], gate_up.shape[1] // 2
    out = gate_up.new_empty(rows, width)
    if out.numel():
        kernels.silu_mul[rows, triton.cdiv(width, COLUMNS)](out, gate_up, WIDTH=width, COLUMNS=COLUMNS)
    return out


def qkv(packed: Tensor, heads: Heads, meta: AttentionMeta, cache: KVCache) -> Tensor:
    """See `Ops.qkv`: packed [N, (A + 2 K) * D] with D even, the cache in its dtype."""
    rows, half, steps = packed.shape[0], heads.dim // 2, cache.k.stride()
    q = packed.new_empty(rows, heads.q, heads.dim)
    if not rows:
        return q
    norms = heads.norms
    q_norm, k_norm, eps = (heads.cos_sin, heads.cos_sin, 0.0) if norms is None else (norms.q, norms.k, norms.eps)
    kernels.qkv[rows, heads.q + 2 * heads.kv](
        q, cache.k, cache.v, packed, heads.cos_sin, meta.positions, meta.slots, q_norm, k_norm,
        packed.stride(0), *steps[:3], eps,
        Q=heads.q, KV=heads.kv, SIZE=cache.k.shape[2], HALF=half, WIDE=triton.next_power_of_2(half),
        NORMS=norms is not None, num_warps=1,
    )  # fmt: skip
    return q
