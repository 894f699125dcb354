"""Q4_0 of GGUF: [fp16 scale | 32 values of 4 bits]; number = scale * (value - 8)."""

from __future__ import annotations

from torch import Tensor

from weft.compute.native.records import WeightKind
from weft.compute.quant.base import NativeForm, PackedParts, QuantFormat
from weft.compute.quant.gguf_blocks import blocks_of, half, nibbles, numbers
from weft.compute.quant.int4 import VALUES


class Q40(QuantFormat):
    """data uint8 [out, groups * 18]."""

    name = "Q4_0"
    native = NativeForm(WeightKind.INT4, VALUES - 8, source=17)

    def unpack(self, parts: PackedParts, depth: int, as_bf16: bool = True) -> Tensor:
        blocks = blocks_of(parts, 18)
        return numbers(nibbles(blocks[:, 2:], 16).sub_(8).mul_(half(blocks, 0)), parts, depth, as_bf16)


FORMAT = Q40()
