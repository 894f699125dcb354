"""The seam of quantization formats: a matrix is packed into parts, and parts are unpacked to numbers.

Both are in torch, and are the reference of the C++ kernels, which store the same values in an order of their own
(`weft/compute/native/kernels/quant/weight.h`). A format without kernels is unpacked when a matrix is loaded.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from weft.compute.native.records import WeightKind

GROUP = 32
"""Input features that share a scale."""


@dataclass(frozen=True, slots=True, eq=False)
class PackedParts:
    """A packed matrix [out, in]. `data`: quantized values [out, ...]; `scale` [out, ...], empty where blocks of `data`
    hold their scales."""

    data: Tensor
    scale: Tensor

    @classmethod
    def of_blocks(cls, data: Tensor) -> PackedParts:
        """Blocks as they are in a file, uint8 [out, bytes of a row]."""
        return cls(data, data.new_empty(0))

    @property
    def nbytes(self) -> int:
        """Of memory."""
        return self.data.nbytes + self.scale.nbytes


@dataclass(frozen=True, slots=True, eq=False)
class NativeForm:
    """How the C++ kernels store a format."""

    kind: WeightKind
    values: Tensor | None = None
    """What 4-bit values 0 to 15 stand for before scale and offset: bf16 [16]."""
    has_offset: bool = False
    scale16: bool = False
    """Whether scale and offset of a group share 16 bits (`weft/compute/native/kernels/quant/scale16.h`)."""
    fixed_size: bool = True
    """Whether every matrix of one shape takes the same memory; else some have numbers that do not fit the form."""
    source: int = 0
    """Number of a file's blocks in `SourceFormat` of `weft/compute/native/kernels/quant/pack_int.h`; 0: packed from
    numbers."""


class QuantFormat(ABC):
    """A format. Its name is that of its row in `weft/base/weight_formats.py`."""

    name: str
    native: NativeForm | None = None
    """None: there are no kernels for it."""
    needs_peaks: bool = False
    """Whether values of a part of a row depend on the whole row: `pack` is then given its largest magnitude."""

    def pack(self, weight: Tensor, peaks: Tensor | None = None) -> PackedParts:
        """`weight` [out, in], rounded. `peaks` fp32 [out]: largest magnitudes of the rows that `weight` has a part of.
        TypeError for a format that is only read from files."""
        raise TypeError(f"{self.name} is only read from files")

    @abstractmethod
    def unpack(self, parts: PackedParts, depth: int, as_bf16: bool = True) -> Tensor:
        """fp32 [out, depth]: what the values stand for. `as_bf16`: values that share a scale with their group count as
        bf16, as kernels multiply them with full-precision activations; else value * scale + offset, as they do with
        int8 activations."""

    def fake_quantize(self, weight: Tensor, as_bf16: bool = True, peaks: Tensor | None = None) -> Tensor:
        """What `weight` [out, in] becomes: fp32 [out, in]."""
        return self.unpack(self.pack(weight, peaks), weight.shape[1], as_bf16)


def in_groups(x: Tensor) -> Tensor:
    """fp32 [out, groups, 32]; the last group is filled with the row's last number."""
    short = -x.shape[1] % GROUP
    filled = torch.cat((x, x[:, -1:].expand(-1, short)), 1)
    return filled.view(x.shape[0], filled.shape[1] // GROUP, GROUP)


def quantize(x: Tensor, scale: Tensor, low: int, high: int) -> Tensor:
    """x / scale to the nearest of low..high, ties to even; 0 where that is no number. fp32."""
    return (x * inverse(scale)).round().clamp(low, high).nan_to_num(0)


def inverse(scale: Tensor) -> Tensor:
    """1 / scale; 0 of 0."""
    return torch.where(scale == 0, torch.zeros_like(scale), 1 / scale)


def rounded(values: Tensor, as_bf16: bool) -> Tensor:
    """fp32, rounded to bf16 where asked."""
    return values.bfloat16().float() if as_bf16 else values
