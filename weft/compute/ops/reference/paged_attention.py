"""The plain torch twin of paged attention: flat, on any device, bit-equal for a row in any batch and any chunking.

Rows are laid into tiles of `TILE` consecutive absolute positions of one run, keys are taken in chunks of `CHUNK`
places of its block table, so a row always stands at the same place of a product of the same shape (MKL's fp64 products
differ in their last bits even so). Number of torch operations: a function of the width of the block table alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from weft.compute.ops.attention import AttentionBackend, AttentionMeta, AttentionSpec, KeyShare, KVCache, pack_partial

TILE = 16
CHUNK = 128


@dataclass(frozen=True, slots=True)
class Tiles:
    """place[N]: row's place among the G * TILE places; first[G] and last[G]: first place's position, last row's
    position; tables[G, max blocks]: block table of the tile's run; `share` as of AttentionMeta."""

    count: int
    place: Tensor
    first: Tensor
    last: Tensor
    tables: Tensor
    share: KeyShare | None


def _tiles(meta: AttentionMeta) -> Tiles:
    positions, runs = meta.positions.long(), meta.run_of_row.long()
    device = positions.device
    begins = (0, *meta.row_ends[:-1])
    counts = [end - begin for begin, end in zip(begins, meta.row_ends, strict=True)]
    # The most tiles that so many consecutive positions can touch: known without asking the device for the positions.
    most = [(n + TILE - 2) // TILE + 1 if n else 0 for n in counts]
    base = torch.tensor([sum(most[:run]) for run in range(len(most))], device=device)
    run_of_tile = torch.repeat_interleave(torch.tensor(most, device=device), output_size=sum(most))
    start = positions[torch.tensor([min(b, len(positions) - 1) for b in begins], device=device)]
    end = start + torch.tensor(counts, device=device) - 1
    first_tile = start // TILE
    tile = base[runs] + positions // TILE - first_tile[runs]
    index_in_run = torch.arange(sum(most), device=device) - base[run_of_tile]
    return Tiles(
        count=sum(most),
        place=tile * TILE + positions % TILE,
        first=(first_tile[run_of_tile] + index_in_run) * TILE,
        last=end[run_of_tile],
        tables=meta.block_tables[run_of_tile].long(),
        share=meta.share,
    )


def _chunk(
    cache: KVCache, tiles: Tiles, places: Tensor, key_pos: Tensor, kv_of_head: Tensor, dtype: torch.dtype
) -> tuple[Tensor, ...]:
    """Keys and values [G, A, C, D] at places[C] of the runs' tables, whose absolute positions are key_pos[C]; values
    that no row may see are zero."""
    size = cache.k.shape[2]
    column = (places // size).clamp(max=tiles.tables.shape[1] - 1)
    blocks = tiles.tables[:, column]
    offsets = (places % size).expand_as(blocks)
    k, v = (x[blocks, :, offsets][:, :, kv_of_head].transpose(1, 2).to(dtype) for x in (cache.k, cache.v))
    # Memory of a block that nothing was written to yet may hold NaN, and 0 * NaN is NaN.
    unseen = (key_pos > tiles.last[:, None])[:, None, :, None]
    return k, v.masked_fill(unseen, 0)


def _hidden(tiles: Tiles, key_pos: Tensor, row_pos: Tensor, window: int) -> Tensor:
    """Which keys [G, TILE, C] a row does not see: later ones, and ones before its window."""
    hidden = (key_pos > row_pos[:, :, None]) | (key_pos > tiles.last[:, None, None])
    if window:
        hidden |= key_pos <= row_pos[:, :, None] - window
    return hidden


class TorchAttention(AttentionBackend[Tiles | None]):
    """Plain torch; the answer key of every other backend. Computes in fp32, or fp64 where q is fp64."""

    name = "torch"

    def prepare(self, meta: AttentionMeta) -> Tiles | None:
        return _tiles(meta) if len(meta.positions) else None

    def forward(
        self, q: Tensor, cache: KVCache, prepared: Tiles | None, spec: AttentionSpec, *, partial: bool = False
    ) -> Tensor:
        dtype = torch.promote_types(q.dtype, torch.float32)
        heads, dim = q.shape[1:]
        if prepared is None:
            return q.new_empty(0, heads * (dim + 2), dtype=dtype) if partial else q.new_empty(0, heads * dim)
        sums, level, total = (x.transpose(1, 2).flatten(0, 1) for x in _summed(q.to(dtype), cache, prepared, spec))
        if partial:
            return pack_partial(sums, level, total)[prepared.place]
        # Places without a row may have seen no key.
        result = sums / total.masked_fill(total == 0, 1)
        return result.flatten(1)[prepared.place].to(q.dtype)


def _summed(q: Tensor, cache: KVCache, tiles: Tiles, spec: AttentionSpec) -> tuple[Tensor, Tensor, Tensor]:
    """Weighted sums [G, A, TILE, D] of values, not yet divided, their levels and sums of weights [G, A, TILE, 1]."""
    heads, dim = q.shape[1:]
    flat = torch.zeros(tiles.count * TILE, heads, dim, dtype=q.dtype, device=q.device)
    flat[tiles.place] = q * spec.scale
    tiled = flat.view(tiles.count, TILE, heads, dim).transpose(1, 2).contiguous()
    row_pos = tiles.first[:, None] + torch.arange(TILE, device=q.device)
    peak = tiled.new_full((tiles.count, heads, TILE, 1), -torch.inf)
    total, out = torch.zeros_like(peak), torch.zeros_like(tiled)
    heads_index = spec.kv_of_head.long()
    for begin in range(0, tiles.tables.shape[1] * cache.k.shape[2], CHUNK):
        places = torch.arange(begin, begin + CHUNK, device=q.device)
        key_pos = places if tiles.share is None else tiles.share.positions(places, cache.k.shape[2])
        k, v = _chunk(cache, tiles, places, key_pos, heads_index, q.dtype)
        hidden = _hidden(tiles, key_pos, row_pos, spec.window)
        scores = (tiled @ k.transpose(2, 3)).masked_fill(hidden[:, None], -torch.inf)
        higher = torch.maximum(peak, scores.amax(-1, keepdim=True))
        # A row that has seen no key yet has peak -inf; any finite stand-in keeps its exponentials zero.
        level = higher.masked_fill(higher == -torch.inf, 0)
        weights, keep = torch.exp(scores - level), torch.exp(peak - level)
        total = total * keep + weights.sum(-1, keepdim=True)
        out = out * keep + weights @ v
        peak = higher
    return out, peak, total
