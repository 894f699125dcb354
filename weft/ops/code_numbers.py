"""What codes of 4 bits stand for beside every scale there can be, for variants that look numbers up.

Knows no weight. How numbers lie, and who takes them, is told in `weft/native/kernels/quant/dequant_lut_amx.h`.
"""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from weft.native.records import WeightKind, WeightRecord
from weft.ops.native.pages import Pages


class CodeNumbers:
    """bf16 [words of 16 bits, 16] of each table and kind of scales that is asked for, made once: 2 MiB each."""

    def __init__(self, library: ctypes.CDLL, pages: Pages) -> None:
        self._library, self._pages = library, pages
        self._made: dict[tuple[bytes, bool], Tensor] = {}

    def of(self, table: Tensor, short_numbers: bool) -> Tensor:
        """`table`: bf16 [16], a code's number before its scale; `short_numbers`: words are those of
        `weft/native/kernels/quant/scale16.h` and not scales in fp16. Empty where the variant works numbers out."""
        key = table.view(torch.uint8).numpy().tobytes(), short_numbers
        if key not in self._made:
            self._made[key] = self._make(table, short_numbers)
        return self._made[key]

    def _make(self, table: Tensor, short_numbers: bool) -> Tensor:
        nbytes = self._library.weft_numbers_bytes()
        made = self._pages.take(nbytes) if nbytes else torch.empty(0, dtype=torch.uint8)
        if nbytes:
            weight = WeightRecord(kind=WeightKind.INT4, table=table.data_ptr(), short_numbers=short_numbers)
            self._library.weft_lay_numbers(ctypes.addressof(weight), made.data_ptr())
        return made
