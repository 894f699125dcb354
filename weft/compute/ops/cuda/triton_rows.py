"""Operations on single rows in Triton, kernel and method each: sums, RMSNorm, SiLU * up, and heads normed, turned and
put into the cache.

A program has a row, or a head of one: no result depends on how many rows there are. Kernels have no types: Triton
compiles them, and takes an annotation for a constant of the program. Needs Triton.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from weft.compute.ops.attention import AttentionMeta, KVCache
from weft.compute.ops.base import Heads
from weft.compute.ops.reference.torch_ops import TorchOps

COLUMNS = 1024
"""Numbers that a program computes, of a sum or of SiLU * up."""


class TritonRows(TorchOps):
    """What a kernel does not take is the torch twin's."""

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        if x.dim() != 2 or x.stride(1) != 1:
            return super().rms_norm(x, weight, eps)
        rows, width = x.shape
        out = torch.empty(rows, width, dtype=weight.dtype, device=x.device)
        if rows:
            wide = triton.next_power_of_2(width)
            warps = 4 if wide <= 4096 else 8
            rms_norm_kernel[(rows,)](out, x, weight, x.stride(0), eps, WIDTH=width, WIDE=wide, num_warps=warps)
        return out

    def add(self, x: Tensor, h: Tensor) -> Tensor:
        if x.shape != h.shape or not (x.is_contiguous() and h.is_contiguous()):
            return super().add(x, h)
        return add_into(x, h)

    def silu_mul(self, gate_up: Tensor) -> Tensor:
        if gate_up.dim() != 2 or not gate_up.is_contiguous():
            return super().silu_mul(gate_up)
        rows, width = gate_up.shape[0], gate_up.shape[1] // 2
        out = gate_up.new_empty(rows, width)
        if out.numel():
            silu_mul_kernel[rows, triton.cdiv(width, COLUMNS)](out, gate_up, WIDTH=width, COLUMNS=COLUMNS)
        return out

    def qkv(self, qkv: Tensor, heads: Heads, meta: AttentionMeta, cache: KVCache) -> Tensor:
        """With the cache in the rows' dtype."""
        if qkv.stride(1) != 1:
            return super().qkv(qkv, heads, meta, cache)
        rows, steps, cos_sin, q_scale = qkv.shape[0], cache.k.stride(), heads.rope.cos_sin, heads.rope.q_scale
        q = qkv.new_empty(rows, heads.q, heads.dim)
        if not rows:
            return q
        norms = heads.norms
        q_norm, k_norm, eps = (cos_sin, cos_sin, 0.0) if norms is None else (norms.q, norms.k, norms.eps)
        qkv_kernel[rows, heads.q + 2 * heads.kv](
            q, cache.k, cache.v, qkv, cos_sin, cos_sin if q_scale is None else q_scale, meta.positions, meta.slots,
            q_norm, k_norm, qkv.stride(0), *steps[:3], eps,
            Q=heads.q, KV=heads.kv, SIZE=cache.k.shape[2], DIM=heads.dim, HALF=cos_sin.shape[1] // 2,
            WIDE=triton.next_power_of_2(heads.dim), NORMS=norms is not None, SCALED=q_scale is not None, num_warps=1,
        )  # fmt: skip
        return q


def add_into(x: Tensor, h: Tensor) -> Tensor:
    """x + h, both contiguous; into x."""
    if x.numel():
        add_kernel[(triton.cdiv(x.numel(), COLUMNS),)](x, h, x.numel(), COLUMNS=COLUMNS)
    return x


@triton.jit
def rms_norm_kernel(out, x, weight, x_row, eps, WIDTH: tl.constexpr, WIDE: tl.constexpr):
    row, columns = tl.program_id(0).to(tl.int64), tl.arange(0, WIDE)
    inside = columns < WIDTH
    h = tl.load(x + row * x_row + columns, mask=inside, other=0.0).to(tl.float32)
    h = h * tl.rsqrt(tl.sum(h * h, 0) / WIDTH + eps)
    h = h * tl.load(weight + columns, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * WIDTH + columns, h.to(out.dtype.element_ty), mask=inside)


@triton.jit
def add_kernel(x, h, count, COLUMNS: tl.constexpr):
    place = tl.program_id(0).to(tl.int64) * COLUMNS + tl.arange(0, COLUMNS)
    inside = place < count
    found = tl.load(x + place, mask=inside, other=0.0) + tl.load(h + place, mask=inside, other=0.0)
    tl.store(x + place, found.to(x.dtype.element_ty), mask=inside)


@triton.jit
def silu_mul_kernel(out, gate_up, WIDTH: tl.constexpr, COLUMNS: tl.constexpr):
    row, columns = tl.program_id(0).to(tl.int64), tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = columns < WIDTH
    gate = tl.load(gate_up + row * 2 * WIDTH + columns, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(gate_up + row * 2 * WIDTH + WIDTH + columns, mask=inside, other=0.0).to(tl.float32)
    found = gate / (1.0 + tl.exp(-gate)) * up
    tl.store(out + row * WIDTH + columns, found.to(out.dtype.element_ty), mask=inside)


@triton.jit
def qkv_kernel(
    q, k, v, qkv, cos_sin, q_scale, positions, slots, q_norm, k_norm, qkv_row, block_step, head_step, place_step, eps,
    Q: tl.constexpr, KV: tl.constexpr, SIZE: tl.constexpr, DIM: tl.constexpr, HALF: tl.constexpr, WIDE: tl.constexpr,
    NORMS: tl.constexpr, SCALED: tl.constexpr,
):  # fmt: skip
    """A program: one row and one of its Q + 2 KV heads. Each of the first 2 HALF dims is turned with its partner, HALF
    away from it."""
    row, head, dims = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.arange(0, WIDE)
    inside, turned = dims < DIM, dims < 2 * HALF
    source, partner = qkv + row * qkv_row + head * DIM, tl.where(dims < HALF, dims + HALF, dims - HALF)
    x = tl.load(source + dims, mask=inside, other=0.0)
    kind = qkv.dtype.element_ty
    if head < Q + KV:
        y = tl.load(source + partner, mask=turned, other=0.0)
        if NORMS:
            weights = q_norm
            if head >= Q:
                weights = k_norm
            wide = x.to(tl.float32)
            factor = tl.rsqrt(tl.sum(wide * wide, 0) / DIM + eps)
            x = (wide * factor * tl.load(weights + dims, mask=inside, other=0.0).to(tl.float32)).to(kind)
            y = (y.to(tl.float32) * factor * tl.load(weights + partner, mask=turned, other=0.0).to(tl.float32)).to(kind)
        position = tl.load(positions + row).to(tl.int64)
        angles = cos_sin + position * 2 * HALF + tl.where(dims < HALF, dims, dims - HALF)
        cos, sin = tl.load(angles, mask=turned, other=1.0), tl.load(angles + HALF, mask=turned, other=0.0)
        found = x.to(tl.float32) * cos + y.to(tl.float32) * tl.where(dims < HALF, -sin, sin)
        if SCALED:
            if head < Q:
                found = found * tl.load(q_scale + position)
        x = found.to(kind)
    if head < Q:
        tl.store(q + (row * Q + head) * DIM + dims, x, mask=inside)
    else:
        slot = tl.load(slots + row).to(tl.int64)
        place = slot // SIZE * block_step + slot % SIZE * place_step + dims
        if head < Q + KV:
            tl.store(k + place + (head - Q) * head_step, x, mask=inside)
        else:
            tl.store(v + place + (head - Q - KV) * head_step, x, mask=inside)
