"""int8: one fp32 scale for each row, the largest magnitude of the whole row / 127."""

from __future__ import annotations

import torch
from torch import Tensor

from weft.compute.native.records import WeightKind
from weft.compute.quant.base import NativeForm, PackedParts, QuantFormat, quantize


class Int8(QuantFormat):
    """data int8 [out, in]; scale fp32 [out, 1]."""

    name = "int8"
    native = NativeForm(WeightKind.INT8)
    needs_peaks = True

    def pack(self, weight: Tensor, peaks: Tensor | None = None) -> PackedParts:
        x = weight.float()
        most = x.abs().amax(1) if peaks is None else peaks.float()
        scale = most[:, None] / 127
        return PackedParts(quantize(x, scale, -127, 127).to(torch.int8), scale)

    def unpack(self, parts: PackedParts, depth: int, as_bf16: bool = True) -> Tensor:
        return parts.data.float() * parts.scale


FORMAT = Int8()
