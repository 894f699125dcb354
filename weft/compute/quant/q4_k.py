"""Q4_K of GGUF: 256 values in 8 groups of 32, each with a 6-bit scale and a 6-bit minimum packed in 12 bytes.

Layout of the 144 bytes: fp16 scale of the scales, fp16 scale of the minima, the 12 bytes, then the values' nibbles.
"""

from __future__ import annotations

import torch
from torch import Tensor

from weft.compute.quant.base import PackedParts, QuantFormat
from weft.compute.quant.gguf_blocks import blocks_of, half, nibbles, numbers


class Q4K(QuantFormat):
    """data uint8 [out, blocks * 144]."""

    name = "Q4_K"

    def unpack(self, parts: PackedParts, depth: int, as_bf16: bool = True) -> Tensor:
        blocks = blocks_of(parts, 144)
        low, mins, high = blocks[:, 4:16].reshape(-1, 3, 4).unbind(1)
        scale = torch.cat((low & 63, (high & 15) | ((low >> 2) & 48)), 1).float() * half(blocks, 0)
        floor = torch.cat((mins & 63, (high >> 4) | ((mins >> 2) & 48)), 1).float() * half(blocks, 2)
        values = nibbles(blocks[:, 16:], 32).view(-1, 8, 32)
        return numbers(values.mul_(scale.unsqueeze(2)).sub_(floor.unsqueeze(2)), parts, depth, as_bf16)


FORMAT = Q4K()
