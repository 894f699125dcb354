"""Operations on single rows in Triton, the kernels. Called by `triton_rows.py`, which says what is computed.

Untyped: Triton compiles these functions, and takes an annotation for a constant of the program.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def rms_norm(out, x, weight, x_row, eps, WIDTH: tl.constexpr, WIDE: tl.constexpr):
    row, columns = tl.program_id(0).to(tl.int64), tl.arange(0, WIDE)
    inside = columns < WIDTH
    h = tl.load(x + row * x_row + columns, mask=inside, other=0.0).to(tl.float32)
    h = h * tl.rsqrt(tl.sum(h * h, 0) / WIDTH + eps)
    h = h * tl.load(weight + columns, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * WIDTH + columns, h.to(out.dtype.element_ty), mask=inside)


@triton.jit
def add(x, h, count, COLUMNS: tl.constexpr):
    place = tl.program_id(0).to(tl.int64) * COLUMNS + tl.arange(0, COLUMNS)
    inside = place < count
    found = tl.load(x + place, mask=inside, other=0.0) + tl.load(h + place, mask=inside, other=0.0)
    tl.store(x + place, found.to(x.dtype.element_ty), mask=inside)


@triton.jit
def silu_mul(out, gate_up, WIDTH: tl.constexpr, COLUMNS: tl.constexpr):
    row, columns = tl.program_id(0).to(tl.int64), tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = columns < WIDTH
    gate = tl.load(gate_up + row * 2 * WIDTH + columns, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(gate_up + row * 2 * WIDTH + WIDTH + columns, mask=inside, other=0.0).to(tl.float32)
    found = gate / (1.0 + tl.exp(-gate)) * up
    tl.store(out + row * WIDTH + columns, found.to(out.dtype.element_ty), mask=inside)


@triton.jit
def qkv(
    q, k, v, qkv, cos_sin, positions, slots, q_norm, k_norm, qkv_row, block_step, head_step, place_step, eps,
    Q: tl.constexpr, KV: tl.constexpr, SIZE: tl.constexpr, HALF: tl.constexpr, WIDE: tl.constexpr, NORMS: tl.constexpr,
):  # fmt: skip
    """A program: one row and one of its Q + 2 KV heads, in two halves."""
    row, head, half = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.arange(0, WIDE)
    inside = half < HALF
    source = qkv + row * qkv_row + head * 2 * HALF + half
    first = tl.load(source, mask=inside, other=0.0)
    second = tl.load(source + HALF, mask=inside, other=0.0)
    kind = qkv.dtype.element_ty
    if head < Q + KV:
        if NORMS:
            weights = q_norm + half
            if head >= Q:
                weights = k_norm + half
            a, b = first.to(tl.float32), second.to(tl.float32)
            factor = tl.rsqrt((tl.sum(a * a, 0) + tl.sum(b * b, 0)) / (2 * HALF) + eps)
            first = (a * factor * tl.load(weights, mask=inside, other=0.0).to(tl.float32)).to(kind)
            second = (b * factor * tl.load(weights + HALF, mask=inside, other=0.0).to(tl.float32)).to(kind)
        angles = cos_sin + tl.load(positions + row).to(tl.int64) * 2 * HALF + half
        cos, sin = tl.load(angles, mask=inside, other=0.0), tl.load(angles + HALF, mask=inside, other=0.0)
        a, b = first.to(tl.float32), second.to(tl.float32)
        first, second = (a * cos - b * sin).to(kind), (b * cos + a * sin).to(kind)
    if head < Q:
        there = q + (row * Q + head) * 2 * HALF + half
        tl.store(there, first, mask=inside)
        tl.store(there + HALF, second, mask=inside)
    else:
        slot = tl.load(slots + row).to(tl.int64)
        place = slot // SIZE * block_step + slot % SIZE * place_step + half
        if head < Q + KV:
            there = k + place + (head - Q) * head_step
            tl.store(there, first, mask=inside)
            tl.store(there + HALF, second, mask=inside)
        else:
            there = v + place + (head - Q - KV) * head_step
            tl.store(there, first, mask=inside)
            tl.store(there + HALF, second, mask=inside)
