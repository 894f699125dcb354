"""What rounding to 8 or 4 bits makes of a matrix: the twin, in torch, of the step library's codes.

Rules, rounding to nearest, ties to even. INT8: scale = peak / 127, where peak is the largest |x| of the row, all of it
also where a rank has a part. INT8G, per 32 of depth: largest |x| / 127 in fp16 (`quantize_row_q8_0` of ggml). INT4, per
32 of depth: number = scale * (code - zero / 4), codes 0 to 15, scale about (largest - smallest) / 15 of the numbers and
0 with 5 bits of fraction, zero about 30 - 4 * middle / scale with 6 bits, which share 16 bits (`ShortNumber` in
`weft/native/kernels/quant/scale16.h`): what leaves the smallest squares.

The numbers of a group count as bf16: a matrix in codes is a shorter spelling of a bf16 matrix.

Rows that such a matrix is multiplied with may be rounded to 8 bits too: as INT8G, but with scales that are not rounded
themselves.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from weft.native.records import WeightKind
from weft.ops.weights import Packed, Use

GROUP = 32
"""Depth that shares a scale."""


def kind_for(quantization: str, use: Use) -> WeightKind | None:
    """How a matrix for `use` is rounded; None: not at all. Logits decide what is said: of a head 8 bits are kept;
    and of what is `KEPT` all."""
    if use is Use.KEPT:
        return None
    if quantization == "int4" and use is not Use.HEAD:
        return WeightKind.INT4
    return WeightKind.INT8 if quantization in ("int8", "int4") else None


def needs_peaks(kind: WeightKind | None) -> bool:
    """Whether codes of a part of a row depend on what is not in it."""
    return kind == WeightKind.INT8


def quantized(weight: Tensor, kind: WeightKind, as_bf16: bool = True, peaks: Tensor | None = None) -> Tensor:
    """The numbers that `weight` [out, in], rounded to `kind`, stands for: fp32 [out, in]. Not `as_bf16`: a group's are
    code * scale + offset, as products of rounded rows take them. `peaks` [out]: of rows that `weight` has a part of."""
    x = weight.float()
    if kind == WeightKind.INT8:
        most = x.abs().amax(1) if peaks is None else peaks.float()
        scale = most[:, None] / 127
        return _codes(x, scale, -127, 127) * scale
    depth = x.shape[1]
    short = -depth % GROUP
    # the last group of a depth that is no multiple of 32 is filled up with its own last number
    groups = torch.cat((x, x[:, -1:].expand(-1, short)), 1).view(x.shape[0], (depth + short) // GROUP, GROUP)
    if kind == WeightKind.INT4:
        scale, offset = _short_numbers(groups)
        values = _codes(groups - offset, scale, 0, 15) * scale + offset
    else:
        scale = (groups.abs().amax(2, keepdim=True) / 127).half().float()
        values = _codes(groups, scale, -127, 127) * scale
    values = values.flatten(1)[:, :depth]
    return values.bfloat16().float() if as_bf16 else values


SMALLEST = 1e-30
"""Largest magnitudes below count as none: their inverse would be infinite."""


def rounded_rows(x: Tensor) -> Tensor:
    """The numbers that rows x [N, depth] stand for once they are rounded to 8 bits: fp32."""
    rows, depth = x.shape
    short = -depth % GROUP
    filled = torch.cat((x.float(), x.new_zeros(rows, short, dtype=torch.float32)), 1)
    groups = filled.view(rows, (depth + short) // GROUP, GROUP)  # not -1: there may be no rows
    most = groups.abs().amax(2, keepdim=True)
    # a quotient each: torch takes a number divided by a tensor as a product, and ties would fall to another code
    nothing, largest = most < SMALLEST, torch.full_like(most, 127)
    inverse, scale = ((a / b).masked_fill(nothing, 0) for a, b in ((largest, most), (most, largest)))
    return ((groups * inverse).round() * scale).flatten(1)[:, :depth]


@dataclass(frozen=True, slots=True, eq=False)
class WithRoundedRows(Packed):
    """A matrix that stands for codes, to be multiplied with rounded rows: the twin of the step library's."""

    shape: tuple[int, int]
    matrix: Tensor
    """fp32."""
    dtype: torch.dtype
    """Of what was rounded."""

    @classmethod
    def of(cls, matrix: Tensor, dtype: torch.dtype) -> WithRoundedRows:
        """For `matrix` [out, in], already rounded."""
        return cls((matrix.shape[0], matrix.shape[1]), matrix, dtype)

    @property
    def nbytes(self) -> int:
        return self.matrix.nbytes

    def unpacked(self) -> Tensor:
        return self.matrix.to(self.dtype)


def _short_numbers(groups: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and offset, fp32 [..., 1], of groups [..., 32]: of nine that are tried the first that leaves the smallest
    sum of squared differences."""
    low, high = groups.amin(2, keepdim=True).clamp(max=0), groups.amax(2, keepdim=True).clamp(min=0)
    half = ((high - low) / 15).half().view(torch.int16).int() & 0xFFFF
    near = (half + 15 + (half >> 5 & 1)) >> 5
    span = torch.where(half < 0x7C00, near.clamp(max=0x3DF), near)  # what is finite stays finite
    tried = [
        (scale, scale * ((zero + beside).clamp(0, 63) * -0.25))
        for scale in (((span + beside).clamp(min=0) << 5).short().view(torch.half).float() for beside in (0, -1, 1))
        for zero in [(30 - 2 * ((low + high) * _inverse(scale))).round()]
        for beside in (0, -1, 1)
    ]
    best_scale, best_offset = tried[0]
    least = _squares(groups, *tried[0])
    for scale, offset in tried[1:]:
        squares = _squares(groups, scale, offset)
        less = squares < least
        least, best_scale, best_offset = (
            torch.where(less, new, old) for new, old in ((squares, least), (scale, best_scale), (offset, best_offset))
        )
    return best_scale, best_offset


def _squares(groups: Tensor, scale: Tensor, offset: Tensor) -> Tensor:
    """Of the differences that codes leave, summed."""
    left = groups - (_codes(groups - offset, scale, 0, 15) * scale + offset)
    return _folded(left * left)


def _folded(x: Tensor) -> Tensor:
    """Sums of the last dimension, a power of two, [..., 1]: half by half, an order that C++ has too."""
    while x.shape[-1] > 1:
        first, second = x.chunk(2, -1)
        x = first + second
    return x


def _inverse(scale: Tensor) -> Tensor:
    return torch.where(scale == 0, torch.zeros_like(scale), 1 / scale)


def _codes(x: Tensor, scale: Tensor, low: int, high: int) -> Tensor:
    return (x * _inverse(scale)).round().clamp(low, high)
