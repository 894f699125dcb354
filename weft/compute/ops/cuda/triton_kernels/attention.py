"""Paged attention in Triton, the kernels. Called by `triton_attention.py`, which says what is computed.

Untyped: Triton compiles these functions, and takes an annotation for a constant of the program.
"""

from __future__ import annotations

import triton
import triton.language as tl

NOTHING = tl.constexpr(float("-inf"))


@triton.jit
def _merged(peak, total, out, peak_then, total_then, out_then):
    higher = tl.maximum(peak, peak_then)
    level = tl.where(higher == NOTHING, 0.0, higher)  # a row that has seen no key yet keeps its zeros
    keep, keep_then = tl.exp(peak - level), tl.exp(peak_then - level)
    return higher, total * keep + total_then * keep_then, out * keep[:, None] + out_then * keep_then[:, None]


@triton.jit
def _of_split(
    q, at, last, start, k, v, table, block_step, place_step, scale, window,
    SIZE: tl.constexpr, DIM: tl.constexpr, WIDE: tl.constexpr, LANES: tl.constexpr, CHUNK: tl.constexpr,
    SPLIT: tl.constexpr,
):  # fmt: skip
    """Peak [LANES], total [LANES] and sums [LANES, WIDE] of keys [start, start + SPLIT) for queries at positions at."""
    peak = tl.full([LANES], NOTHING, tl.float32)
    total = tl.zeros([LANES], tl.float32)
    out = tl.zeros([LANES, WIDE], tl.float32)
    dims = tl.arange(0, WIDE)
    for begin in range(start, tl.minimum(start + SPLIT, last + 1), CHUNK):
        keys = begin + tl.arange(0, CHUNK)
        seen = keys <= last
        block = tl.load(table + keys // SIZE, mask=seen, other=0).to(tl.int64)
        place = block * block_step + (keys % SIZE) * place_step
        there = seen[:, None] & (dims < DIM)[None, :]
        keys_of = tl.load(k + place[:, None] + dims[None, :], mask=there, other=0.0)
        scores = tl.dot(q, tl.trans(keys_of), input_precision="ieee") * scale
        hidden = keys[None, :] > at[:, None]
        if window > 0:
            hidden = hidden | (keys[None, :] <= at[:, None] - window)
        scores = tl.where(hidden, NOTHING, scores)
        higher = tl.maximum(peak, tl.max(scores, 1))
        level = tl.where(higher == NOTHING, 0.0, higher)
        weights, keep = tl.exp(scores - level[:, None]), tl.exp(peak - level)
        values = tl.load(v + place[:, None] + dims[None, :], mask=there, other=0.0)
        total = total * keep + tl.sum(weights, 1)
        out = out * keep[:, None] + tl.dot(weights.to(values.dtype), values, input_precision="ieee")
        peak = higher
    return peak, total, out


@triton.jit
def _queries(
    q, positions, heads, first, count, part, q_row, q_head,
    DIM: tl.constexpr, WIDE: tl.constexpr, LANES: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """Of each lane: its row, head, whether there is such a query, its position (-1: none), and q [LANES, WIDE]."""
    lanes, dims = tl.arange(0, LANES), tl.arange(0, WIDE)
    row, head = first + lanes // GROUP, tl.load(heads + part * GROUP + lanes % GROUP)
    real = (lanes // GROUP < count) & (head >= 0)
    at = tl.load(positions + row, mask=real, other=-1)
    place = row.to(tl.int64)[:, None] * q_row + head[:, None] * q_head + dims[None, :]
    return row, head, real, at, tl.load(q + place, mask=real[:, None] & (dims < DIM)[None, :], other=0.0)


@triton.jit
def walk(
    out, q, k, v, rows, positions, run_of_row, tables, heads,
    q_row, q_head, out_row, block_step, head_step, place_step, table_row, scale, window,
    SIZE: tl.constexpr, DIM: tl.constexpr, WIDE: tl.constexpr, LANES: tl.constexpr, GROUP: tl.constexpr,
    PARTS: tl.constexpr, CHUNK: tl.constexpr, SPLIT: tl.constexpr,
):  # fmt: skip
    """A program: a row, and as it is the first of a tile the others of that, of part of the query heads (PARTS of them
    read one KV head). Tiles begin with a run, and where a position is a multiple of their rows; a row of run -1 has no
    query."""
    first, part = tl.program_id(0), tl.program_id(1)
    run, before = tl.load(run_of_row + first), tl.load(run_of_row + first - 1, mask=first > 0, other=-1)
    start = tl.load(positions + first)
    inside = start % (LANES // GROUP)
    if run < 0 or (before == run and inside > 0):
        return
    steps = tl.arange(0, LANES // GROUP)
    # Rows that follow in their run; a row that is left over has its own position, and keys of no request.
    alike = tl.load(run_of_row + first + steps, mask=first + steps < rows, other=-1) == run
    alike = alike & (tl.load(positions + first + steps, mask=first + steps < rows, other=-1) == start + steps)
    count = tl.sum((alike & (inside + steps < LANES // GROUP)).to(tl.int32), 0)
    row, head, real, at, queries = _queries(
        q, positions, heads, first, count, part, q_row, q_head, DIM, WIDE, LANES, GROUP
    )
    last = start + count - 1
    table, kv = tables + run.to(tl.int64) * table_row, (part // PARTS).to(tl.int64) * head_step
    peak = tl.full([LANES], NOTHING, tl.float32)
    total = tl.zeros([LANES], tl.float32)
    sums = tl.zeros([LANES, WIDE], tl.float32)
    oldest = 0
    if window > 0:
        oldest = tl.maximum(start - window + 1, 0) // SPLIT * SPLIT
    for begin in range(oldest, last + 1, SPLIT):
        peak_then, total_then, sums_then = _of_split(
            queries, at, last, begin, k + kv, v + kv, table, block_step, place_step, scale, window,
            SIZE, DIM, WIDE, LANES, CHUNK, SPLIT,
        )  # fmt: skip
        peak, total, sums = _merged(peak, total, sums, peak_then, total_then, sums_then)
    found = sums / tl.where(total == 0, 1.0, total)[:, None]
    dims = tl.arange(0, WIDE)
    place = row.to(tl.int64)[:, None] * out_row + head[:, None] * DIM + dims[None, :]
    tl.store(out + place, found.to(out.dtype.element_ty), mask=real[:, None] & (dims < DIM)[None, :])


@triton.jit
def beside(
    sums, peaks, q, k, v, positions, run_of_row, tables, heads,
    q_row, q_head, block_step, head_step, place_step, table_row, scale, window, splits, all_heads,
    SIZE: tl.constexpr, DIM: tl.constexpr, WIDE: tl.constexpr, LANES: tl.constexpr, GROUP: tl.constexpr,
    PARTS: tl.constexpr, CHUNK: tl.constexpr, SPLIT: tl.constexpr,
):  # fmt: skip
    """A program: one row, part of the heads, and one split; sums [N, A, splits, DIM], peaks [N, A, splits, 2]."""
    first, part, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    last, begin = tl.load(positions + first), split * SPLIT
    if begin > last or (window > 0 and begin + SPLIT <= last - window + 1):
        return
    row, head, real, at, queries = _queries(q, positions, heads, first, 1, part, q_row, q_head, DIM, WIDE, LANES, GROUP)
    table, kv = tables + tl.load(run_of_row + first).to(tl.int64) * table_row, (part // PARTS).to(tl.int64) * head_step
    peak, total, out = _of_split(
        queries, at, last, begin, k + kv, v + kv, table, block_step, place_step, scale, window,
        SIZE, DIM, WIDE, LANES, CHUNK, SPLIT,
    )  # fmt: skip
    dims = tl.arange(0, WIDE)
    place = (row.to(tl.int64) * all_heads + head) * splits + split
    tl.store(sums + place[:, None] * DIM + dims[None, :], out, mask=real[:, None] & (dims < DIM)[None, :])
    tl.store(peaks + 2 * place, peak, mask=real)
    tl.store(peaks + 2 * place + 1, total, mask=real)


@triton.jit
def merge(
    out, sums, peaks, positions, out_row, window, splits, all_heads,
    DIM: tl.constexpr, WIDE: tl.constexpr, SPLIT: tl.constexpr,
):  # fmt: skip
    """A program: one row and head; its splits in their order."""
    row, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    last, one, dims = tl.load(positions + row), tl.arange(0, 1), tl.arange(0, WIDE)
    peak = tl.full([1], NOTHING, tl.float32)
    total = tl.zeros([1], tl.float32)
    found = tl.zeros([1, WIDE], tl.float32)
    oldest = 0
    if window > 0:
        oldest = tl.maximum(last - window + 1, 0) // SPLIT
    for split in range(oldest, last // SPLIT + 1):
        place = (row * all_heads + head) * splits + split + one
        there = (dims < DIM)[None, :] & (one == 0)[:, None]
        sums_then = tl.load(sums + place[:, None] * DIM + dims[None, :], mask=there, other=0.0)
        peak_then, total_then = tl.load(peaks + 2 * place), tl.load(peaks + 2 * place + 1)
        peak, total, found = _merged(peak, total, found, peak_then, total_then, sums_then)
    found = found / tl.where(total == 0, 1.0, total)[:, None]
    place = row * out_row + head * DIM + dims[None, :] + one[:, None]
    tl.store(out + place, found.to(out.dtype.element_ty), mask=(dims < DIM)[None, :])
