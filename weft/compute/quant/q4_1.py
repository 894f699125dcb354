"""Q4_1 of GGUF: [fp16 scale | fp16 offset | 32 values of 4 bits]; number = scale * value + offset."""

from __future__ import annotations

from torch import Tensor

from weft.compute.native.records import WeightKind
from weft.compute.quant.base import NativeForm, PackedParts, QuantFormat
from weft.compute.quant.gguf_blocks import blocks_of, half, nibbles, numbers
from weft.compute.quant.int4 import VALUES


class Q41(QuantFormat):
    """data uint8 [out, groups * 20]."""

    name = "Q4_1"
    native = NativeForm(WeightKind.INT4, VALUES, has_offset=True, source=18)

    def unpack(self, parts: PackedParts, depth: int, as_bf16: bool = True) -> Tensor:
        blocks = blocks_of(parts, 20)
        values = nibbles(blocks[:, 4:], 16).mul_(half(blocks, 0)).add_(half(blocks, 2))
        return numbers(values, parts, depth, as_bf16)


FORMAT = Q41()
