"""Q6_K of GGUF: 256 values in 16 groups of 16, each with an int8 scale.

Layout of the 210 bytes: the low 4 bits of all values, their high 2 bits, the 16 scales, a fp16 scale of the scales.
"""

from __future__ import annotations

import torch
from torch import Tensor

from weft.compute.quant.base import PackedParts, QuantFormat
from weft.compute.quant.gguf_blocks import blocks_of, half, numbers


class Q6K(QuantFormat):
    """data uint8 [out, blocks * 210]."""

    name = "Q6_K"

    def unpack(self, parts: PackedParts, depth: int, as_bf16: bool = True) -> Tensor:
        blocks = blocks_of(parts, 210)
        low = blocks[:, :128].reshape(-1, 2, 64)
        high = blocks[:, 128:192].reshape(-1, 2, 32)
        values = torch.empty((blocks.shape[0], 2, 4, 32))
        for quarter in range(4):
            nibble = low[:, :, 32 * (quarter % 2) : 32 * (quarter % 2) + 32]
            nibble = nibble & 15 if quarter < 2 else nibble >> 4
            values[:, :, quarter] = nibble | ((high >> 2 * quarter & 3) << 4)
        scale = blocks[:, 192:208].view(torch.int8).float() * half(blocks, 208)
        return numbers(values.view(-1, 16, 16).sub_(32).mul_(scale.unsqueeze(2)), parts, depth, as_bf16)


FORMAT = Q6K()
