"""int4: 16 bits of scale and offset for each 32 input features.

number = scale * (value - zero / 4), value 0 to 15. The word of a group holds the fp16 scale without its sign and with
5 bits of fraction, then 6 bits of zero (`weft/compute/native/kernels/quant/scale16.h`). The scale is about (largest -
smallest) / 15 of the group's numbers and 0, the zero about 30 - 4 * middle / scale: of nine pairs near these the first
that leaves the smallest sum of squared errors.
"""

from __future__ import annotations

import torch
from torch import Tensor

from weft.compute.native.records import WeightKind
from weft.compute.quant.base import NativeForm, PackedParts, QuantFormat, in_groups, inverse, quantize, rounded

VALUES = torch.arange(0.0, 16.0, dtype=torch.bfloat16)


class Int4(QuantFormat):
    """data uint8 [out, groups * 16], the first 16 values of a group in the low nibbles; scale int16 [out, groups]."""

    name = "int4"
    native = NativeForm(WeightKind.INT4, VALUES, scale16=True)

    def pack(self, weight: Tensor, peaks: Tensor | None = None) -> PackedParts:
        groups = in_groups(weight.float())
        words = _search(groups)
        values = quantize(groups - _offset(words), _scale(words), 0, 15).to(torch.uint8)
        low, high = values.chunk(2, 2)
        return PackedParts((low | high << 4).flatten(1), words.squeeze(2).short())

    def unpack(self, parts: PackedParts, depth: int, as_bf16: bool = True) -> Tensor:
        words = parts.scale.int()[..., None] & 0xFFFF
        packed = parts.data.view(*parts.scale.shape, 16)
        values = torch.cat((packed & 15, packed >> 4), 2).float() * _scale(words) + _offset(words)
        return rounded(values.flatten(1)[:, :depth], as_bf16)


FORMAT = Int4()


def _scale(words: Tensor) -> Tensor:
    return (words >> 1 & 0x7FE0).short().view(torch.half).float()


def _offset(words: Tensor) -> Tensor:
    return _scale(words) * ((words & 63).float() * -0.25)


def _search(groups: Tensor) -> Tensor:
    """Words of scale and zero, int32 [..., 1], of groups [..., 32]."""
    low, high = groups.amin(2, keepdim=True).clamp(max=0), groups.amax(2, keepdim=True).clamp(min=0)
    half = ((high - low) / 15).half().view(torch.int16).int() & 0x7FFF
    near = (half + 15 + (half >> 5 & 1)) >> 5
    span = torch.where(half < 0x7C00, near.clamp(max=0x3DF), near)  # what is finite stays finite
    tried = [
        spans << 6 | (zero + beside).clamp(0, 63).nan_to_num(0).int()
        for spans in ((span + beside).clamp(min=0) for beside in (0, -1, 1))
        for zero in [(30 - 2 * ((low + high) * inverse(_scale(spans << 6)))).round()]
        for beside in (0, -1, 1)
    ]
    best = tried[0]
    least = _squared_errors(groups, best)
    for words in tried[1:]:
        squares = _squared_errors(groups, words)
        less = squares < least
        least, best = torch.where(less, squares, least), torch.where(less, words, best)
    return best


def _squared_errors(groups: Tensor, words: Tensor) -> Tensor:
    """Their sums, [..., 1], added half by half: an order that C++ has too."""
    scale, offset = _scale(words), _offset(words)
    errors = groups - (quantize(groups - offset, scale, 0, 15) * scale + offset)
    squares = errors * errors
    while squares.shape[-1] > 1:
        first, second = squares.chunk(2, -1)
        squares = first + second
    return squares
