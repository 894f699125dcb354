"""Q8_0 of GGUF: [fp16 scale | 32 int8]; scale = largest magnitude of the group / 127 (ggml's quantize_row_q8_0)."""

from __future__ import annotations

import torch
from torch import Tensor

from weft.compute.native.records import WeightKind
from weft.compute.quant.base import NativeForm, PackedParts, QuantFormat, in_groups, quantize
from weft.compute.quant.gguf_blocks import blocks_of, half, numbers


class Q80(QuantFormat):
    """data uint8 [out, groups * 34]."""

    name = "Q8_0"
    native = NativeForm(WeightKind.INT8G, source=16)

    def pack(self, weight: Tensor, peaks: Tensor | None = None) -> PackedParts:
        groups = in_groups(weight.float())
        scale = (groups.abs().amax(2, keepdim=True) / 127).half()
        values = quantize(groups, scale.float(), -127, 127).to(torch.int8)
        blocks = torch.cat((scale.view(torch.uint8), values.view(torch.uint8)), 2)
        return PackedParts.of_blocks(blocks.flatten(1))

    def unpack(self, parts: PackedParts, depth: int, as_bf16: bool = True) -> Tensor:
        blocks = blocks_of(parts, 34)
        return numbers(blocks[:, 2:].view(torch.int8).float().mul_(half(blocks, 0)), parts, depth, as_bf16)


FORMAT = Q80()
