"""The KV cache of a rank: where its blocks lie.

On the host a block's keys and values of all layers lie together: a new block takes the next few pages and not some of
each layer's. No page is taken before it is first written, or asked for ahead of that (`prefault.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from weft.base.errors import ConfigError
from weft.compute.ops.attention import KVCache
from weft.compute.ops.interface import Ops
from weft.compute.ops.native.large_pages import large_pages
from weft.parallel.arch.shards import Shards

_LINE = 64
"""Bytes: where a layer's part of a block begins."""


@dataclass(frozen=True, slots=True)
class CacheMemory:
    """K and V of every layer of the rank's stage. On the host also all of it, uint8, one block of all layers after the
    other."""

    caches: list[KVCache]
    memory: Tensor | None
    block_bytes: int


def allocate_caches(
    shards: Shards, rank: int, ops: Ops, num_blocks: int, block_size: int, device: torch.device
) -> CacheMemory:
    """For the heads of `rank`, zeros, [num_blocks + 1, heads, block size, dims] each; block 0: null block. With MLA
    K and V are one tensor, of latents. ConfigError: the system has no memory for them."""
    heads, dims = shards.cache_shape(rank)
    layers, blocks, dtype = len(shards.layers_of(rank)), num_blocks + 1, ops.numerics.cache_dtype
    latent = shards.config.mla is not None
    layout = ops.attention_backend.cache_layout(heads, dims, block_size, ops.numerics.dtype, latent=latent)
    shape = layout.shape
    numbers, line = prod(shape), _LINE // dtype.itemsize
    part = -(-numbers // line) * line
    block_bytes = layers * part * dtype.itemsize
    if device.type != "cpu":
        each = [torch.zeros(blocks, *shape, dtype=dtype, device=device) for _ in range(layers)]
        return CacheMemory([layout.cache(both) for both in each], None, block_bytes)
    try:
        memory = large_pages(blocks * block_bytes)
    except ConfigError as error:
        message = f"KV cache of {num_blocks} blocks: {error}, or give a smaller --kv-cache-memory"
        raise ConfigError(message, field="kv_cache_memory") from None
    whole = memory.view(dtype).view(blocks, layers, part)
    each = [torch.unflatten(whole[:, layer, :numbers], 1, shape) for layer in range(layers)]
    return CacheMemory([layout.cache(both) for both in each], memory, block_bytes)
