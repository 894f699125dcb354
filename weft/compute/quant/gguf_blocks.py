"""What the blocks of GGUF formats have in common. Bit for bit as the `gguf` package's `dequantize` reads them."""

from __future__ import annotations

import torch
from torch import Tensor

from weft.compute.quant.base import PackedParts, rounded


def blocks_of(parts: PackedParts, nbytes: int) -> Tensor:
    """uint8 [blocks, nbytes]."""
    return parts.data.reshape(-1, nbytes)


def numbers(values: Tensor, parts: PackedParts, depth: int, as_bf16: bool) -> Tensor:
    """fp32 [out, depth] of values [blocks, ...] of all blocks."""
    rows = parts.data.shape[0]
    width = values.numel() // rows if rows else depth
    return rounded(values.reshape(rows, width)[:, :depth], as_bf16)


def half(blocks: Tensor, at: int) -> Tensor:
    """The fp16 number at byte `at` of every block, as fp32 [blocks, 1]."""
    return blocks[:, at : at + 2].contiguous().view(torch.float16).float()


def nibbles(packed: Tensor, group: int) -> Tensor:
    """Low, then high nibbles of each run of `group` bytes: uint8 [blocks, bytes] -> fp32 [blocks, 2 * bytes]."""
    packed = packed.reshape(packed.shape[0], -1, group)
    found = torch.empty((packed.shape[0], packed.shape[1], 2, group))
    found[:, :, 0] = packed & 15
    found[:, :, 1] = packed >> 4
    return found.view(packed.shape[0], -1)
