"""Paged attention in Triton: a row has the same bits alone, in any batch and in any chunk of its prompt.

Keys are taken in splits of `SPLIT` absolute positions, a split in chunks; what a split gives is merged with what the
splits before it gave, in their order. Where all runs have one row (decode), splits run beside one another and a second
kernel merges them (flash-decoding, https://crfm.stanford.edu/2023/10/12/flashdecoding.html); elsewhere one program
walks through the splits of a tile of rows. Both do the same sums: no product and sum is fused, tiles have one shape.
A tile is `lanes` queries: rows of one run, and of each the heads that read one KV head. Needs Triton.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import triton
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from weft.compute.ops.attention import AttentionBackend, AttentionMeta, AttentionSpec, KVCache
from weft.compute.ops.cuda.triton_kernels import attention as kernels

HALF = (torch.bfloat16, torch.float16)
DTYPES = (*HALF, torch.float32)
SPLIT = 256
SCRATCH_BYTES = 64 << 20
"""Most that splits beside one another may hold; with more, programs walk through them."""


@dataclass(frozen=True, slots=True)
class Heads:
    """Which query heads read which KV head: `table` int32 [KV heads * parts * group], -1 where there is none."""

    table: Tensor
    group: int
    parts: int
    kv_heads: int


def heads_of(kv_of_head: Tensor, kv_heads: int, lanes: int) -> Heads:
    """Asks the device for kv_of_head [A]: to be called once for a tensor."""
    members: list[list[int]] = [[] for _ in range(kv_heads)]
    for head, kv in enumerate(kv_of_head.tolist()):
        members[kv].append(head)
    most = max(map(len, members))
    group = min(lanes, triton.next_power_of_2(most))
    parts = -(-most // group)
    rows = [found + [-1] * (parts * group - len(found)) for found in members]
    return Heads(torch.tensor(rows, dtype=torch.int32, device=kv_of_head.device).flatten(), group, parts, kv_heads)


@dataclass(frozen=True, slots=True)
class Tile:
    """Sizes of a program: padded dims, queries, keys at a time. By the model alone, never by a batch."""

    wide: int
    lanes: int
    chunk: int

    @classmethod
    def of(cls, dim: int, dtype: torch.dtype) -> Tile:
        """So that queries and sums stay in registers."""
        wide = max(16, triton.next_power_of_2(dim))
        if dtype == torch.float32:
            return cls(wide, 16, 32 if wide <= 128 else 16)
        lanes = 64 if wide <= 128 else 32 if wide <= 256 else 16
        return cls(wide, lanes, 2 * lanes if wide <= 128 else lanes)


def single_rows(row_ends: Sequence[int]) -> bool:
    """Whether no run has more than one row."""
    before = (0, *row_ends[:-1])
    return all(end - begin <= 1 for begin, end in zip(before, row_ends, strict=True))


@dataclass(frozen=True, slots=True)
class _Call:
    """A call's numbers: arguments that both ways share, by position and by name."""

    q: Tensor
    cache: KVCache
    heads: Heads
    scale: float
    meta: AttentionMeta
    window: int
    tile: Tile

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """Where rows stand, and which heads read what."""
        return self.meta.positions, self.meta.run_of_row, self.meta.block_tables, self.heads.table

    @property
    def steps(self) -> tuple[int | float, ...]:
        """Of the cache and the tables, then scale and window."""
        return *self.cache.k.stride()[:3], self.meta.block_tables.stride(0), self.scale, self.window

    @property
    def parts(self) -> int:
        """Programs of a row."""
        return self.heads.kv_heads * self.heads.parts

    @property
    def splits(self) -> int:
        """Of the longest context that the tables have room for."""
        return -(-self.meta.block_tables.shape[1] * self.cache.k.shape[2] // SPLIT)

    @property
    def constants(self) -> dict[str, int | bool]:
        """What programs are compiled for."""
        heads, tile = self.heads, self.tile
        return {
            "SIZE": self.cache.k.shape[2], "DIM": self.q.shape[2], "WIDE": tile.wide, "LANES": tile.lanes,
            "GROUP": heads.group, "PARTS": heads.parts, "CHUNK": tile.chunk, "SPLIT": SPLIT,
            "enable_fp_fusion": False, "num_warps": 4 if tile.wide <= 256 else 8,
        }  # fmt: skip


class TritonAttention(AttentionBackend[AttentionMeta]):
    """These kernels; which heads read which KV head is asked of the device once for a layer."""

    name = "triton"
    gives_partial = False

    def __init__(self) -> None:
        self._heads = WeakTensorKeyDictionary()

    def why_not(self, spec: AttentionSpec, dtype: torch.dtype, device: torch.device) -> str:
        if device.type != "cuda":
            return f"its kernels run on CUDA devices, not on {device.type}"
        return "" if dtype in DTYPES else f"it has no kernels for {str(dtype).removeprefix('torch.')}"

    def prepare(self, meta: AttentionMeta) -> AttentionMeta:
        if meta.share is not None:
            raise self.no_partial()
        return meta

    def forward(
        self, q: Tensor, cache: KVCache, prepared: AttentionMeta, spec: AttentionSpec, *, partial: bool = False
    ) -> Tensor:
        if partial:
            raise self.no_partial()
        tile, kv_of_head = Tile.of(q.shape[2], q.dtype), spec.kv_of_head
        if kv_of_head not in self._heads:
            self._heads[kv_of_head] = heads_of(kv_of_head, cache.k.shape[1], tile.lanes)
        heads: Heads = self._heads[kv_of_head]
        return attention(q, cache, heads, spec.scale, prepared, spec.window, tile)


def attention(
    q: Tensor, cache: KVCache, heads: Heads, scale: float, meta: AttentionMeta, window: int, tile: Tile
) -> Tensor:
    """See `AttentionBackend.forward`: q [N, A, D] in bf16, fp16 or fp32; sums in fp32."""
    rows, count, dim = q.shape
    out, call = q.new_empty(rows, count * dim), _Call(q, cache, heads, scale, meta, window, tile)
    if not rows:
        return out
    if call.splits * rows * count * (dim + 2) * 4 > SCRATCH_BYTES or not single_rows(meta.row_ends):
        _walk(out, call)
    else:
        _beside(out, call)
    return out


def _walk(out: Tensor, call: _Call) -> None:
    q, cache = call.q, call.cache
    kernels.walk[len(q), call.parts](
        out, q, cache.k, cache.v, len(q), *call.tensors, *q.stride()[:2], out.stride(0), *call.steps, **call.constants
    )


def _beside(out: Tensor, call: _Call) -> None:
    q, cache, splits, (rows, count, dim) = call.q, call.cache, call.splits, call.q.shape
    sums = torch.empty(rows, count, splits, dim, dtype=torch.float32, device=q.device)
    peaks = torch.empty(rows, count, splits, 2, dtype=torch.float32, device=q.device)
    kernels.beside[rows, call.parts, splits](
        sums, peaks, q, cache.k, cache.v, *call.tensors, *q.stride()[:2], *call.steps, splits, count, **call.constants
    )
    wide = call.tile.wide
    kernels.merge[rows, count](
        out, sums, peaks, call.meta.positions, out.stride(0), call.window, splits, count,
        DIM=dim, WIDE=wide, SPLIT=SPLIT, enable_fp_fusion=False, num_warps=1 if wide <= 256 else 4,
    )  # fmt: skip
