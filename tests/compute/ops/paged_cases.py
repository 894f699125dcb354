"""Paged caches with known contents, and dense attention over the same keys: the answer key of attention's tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache as cache_results

import torch
from torch import Tensor

from weft.compute.ops.attention import AttentionMeta, AttentionSpec, KVCache
from weft.compute.ops.interface import Ops

NEAR, LONGEST = 320, 1100


@dataclass(frozen=True)
class Sizes:
    """A case's head counts, head dim, block size, window; kv_of_head as assigned."""

    kv_of_head: tuple[int, ...]
    kv_heads: int
    dim: int
    block_size: int
    window: int = 0

    @property
    def scale(self) -> float:
        return float(self.dim**-0.5)


@dataclass(frozen=True)
class Case:
    q: Tensor
    cache: KVCache
    meta: AttentionMeta
    kv_of_head: Tensor


Run = tuple[int, int, int]
"""(first position, rows, request): a request's number decides its q, k and v."""


@cache_results
def request_tensors(sizes: Sizes, request: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """q [LONGEST, A, D], k and v [LONGEST, K, D] of a request."""
    heads = (len(sizes.kv_of_head), sizes.kv_heads, sizes.kv_heads)
    near, far = (torch.Generator().manual_seed(seed) for seed in (request, request + 2**32))

    def draw(rows: int, generator: torch.Generator) -> list[Tensor]:
        return [torch.randn(rows, count, sizes.dim, generator=generator).to(dtype) for count in heads]

    # Far positions are drawn apart: what lies near is the same however far they reach.
    q, k, v = (torch.cat(parts) for parts in zip(draw(NEAR, near), draw(LONGEST - NEAR, far), strict=True))
    return q, k, v


def paged(sizes: Sizes, runs: Sequence[Run], dtype: torch.dtype, seed: int = 0) -> Case:
    """The runs' caches, whole up to their last position, in shuffled blocks; everything unwritten is NaN."""
    size = sizes.block_size
    counts = [-(-(start + rows) // size) for start, rows, _ in runs]
    order = (torch.randperm(sum(counts) + 2, generator=torch.Generator().manual_seed(seed)) + 1).tolist()
    empty = torch.full((len(order) + 1, sizes.kv_heads, size, sizes.dim), torch.nan, dtype=dtype)
    cache = KVCache(empty.clone(), empty.clone())
    tables = torch.zeros(len(runs), max(counts, default=1), dtype=torch.int32)
    q_parts = [torch.empty(0, len(sizes.kv_of_head), sizes.dim, dtype=dtype)]
    positions: list[int] = []
    run_of_row: list[int] = []
    for index, (start, rows, request) in enumerate(runs):
        q, k, v = request_tensors(sizes, request, dtype)
        blocks = [order.pop() for _ in range(counts[index])]
        tables[index, : len(blocks)] = torch.tensor(blocks)
        at = torch.arange(start + rows)
        cache.k[torch.tensor(blocks)[at // size], :, at % size] = k[: start + rows]
        cache.v[torch.tensor(blocks)[at // size], :, at % size] = v[: start + rows]
        q_parts.append(q[start : start + rows])
        positions += range(start, start + rows)
        run_of_row += [index] * rows
    ends = torch.tensor([rows for _, rows, _ in runs]).cumsum(0).tolist() if runs else []
    where, owner = torch.tensor(positions, dtype=torch.int64), torch.tensor(run_of_row, dtype=torch.int64)
    slots = tables[owner, where // size] * size + where % size
    meta = AttentionMeta(where.int(), slots.int(), owner.int(), tables, tuple(ends))
    return Case(torch.cat(q_parts), cache, meta, torch.tensor(sizes.kv_of_head, dtype=torch.int32))


def dense_attention(sizes: Sizes, runs: Sequence[Run], dtype: torch.dtype) -> Tensor:
    """[N, A * D] in fp64, from whole keys and values with a mask."""
    results = [torch.empty(0, len(sizes.kv_of_head) * sizes.dim, dtype=torch.float64)]
    heads = list(sizes.kv_of_head)
    for start, rows, request in runs:
        q, k, v = (x.double() for x in request_tensors(sizes, request, dtype))
        at, keys = torch.arange(start, start + rows)[:, None], torch.arange(start + rows)[None, :]
        hidden = keys > at
        if sizes.window:
            hidden |= keys <= at - sizes.window
        scores = torch.einsum("nad,mad->anm", q[start : start + rows], k[: start + rows, heads]) * sizes.scale
        weights = scores.masked_fill(hidden, -torch.inf).softmax(-1)
        results.append(torch.einsum("anm,mad->nad", weights, v[: start + rows, heads]).flatten(1))
    return torch.cat(results)


def attended(
    ops: Ops, q: Tensor, cache: KVCache, kv_of_head: Tensor, scale: float, meta: AttentionMeta, window: int = 0
) -> Tensor:
    """Attention of `ops`, for one call."""
    spec = AttentionSpec(kv_of_head, q.shape[2], scale, window)
    return ops.attention(q, cache, ops.attention_backend.prepare(meta), spec)
