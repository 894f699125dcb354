"""lossless_bf16: bf16 in 12 bits a number, none changed, with exponents that a group of numbers shares.

The kernels' layout is in `weft/compute/native/kernels/quant/lossless_bf16.h`; a matrix whose exponents are too far
apart stays bf16. In torch the numbers stay as they are. The idea is that of DFloat11 (Zhang et al., 2025).
"""

from __future__ import annotations

from torch import Tensor

from weft.compute.native.records import WeightKind
from weft.compute.quant.base import NativeForm, PackedParts, QuantFormat


class LosslessBf16(QuantFormat):
    """data bf16 [out, in]."""

    name = "lossless_bf16"
    native = NativeForm(WeightKind.BF16_12BIT, has_offset=True, fixed_size=False)

    def pack(self, weight: Tensor, peaks: Tensor | None = None) -> PackedParts:
        return PackedParts.of_blocks(weight.bfloat16())

    def unpack(self, parts: PackedParts, depth: int, as_bf16: bool = True) -> Tensor:
        return parts.data.float()


FORMAT = LosslessBf16()
