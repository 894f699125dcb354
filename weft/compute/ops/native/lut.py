"""What 4-bit values stand for with every scale there can be, for variants that look numbers up.

`weft/compute/native/kernels/quant/dequant_lut_amx.h` says in which order the numbers are stored.
"""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from weft.compute.native.records import WeightKind, WeightRecord
from weft.compute.ops.native.large_pages import large_pages


class LookupTables:
    """bf16 [scales of 16 bits, 16 values] for each table and kind of scales that is used, made once: 2 MiB each."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        self._made: dict[tuple[bytes, bool], Tensor] = {}

    def of(self, table: Tensor, scale16: bool) -> Tensor:
        """`table`: bf16 [16], a value's number before its scale; `scale16`: scales are words of
        `weft/compute/native/kernels/quant/scale16.h`, not fp16. Empty where the variant looks nothing up."""
        key = table.view(torch.uint8).numpy().tobytes(), scale16
        if key not in self._made:
            self._made[key] = self._make(table, scale16)
        return self._made[key]

    def _make(self, table: Tensor, scale16: bool) -> Tensor:
        nbytes = self._library.weft_lut_bytes()
        made = large_pages(nbytes) if nbytes else torch.empty(0, dtype=torch.uint8)
        if nbytes:
            weight = WeightRecord(kind=WeightKind.INT4, table=table.data_ptr(), scale16=scale16)
            self._library.weft_fill_lut(ctypes.addressof(weight), made.data_ptr())
        return made
