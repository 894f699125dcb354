"""Unpacks the quantized blocks of a checkpoint: the common ones in C++ where there is a library, else as
`weft/compute/quant/` does."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from weft.base.weight_formats import FORMATS
from weft.compute.ops.native.packed import DTYPES
from weft.compute.quant.base import PackedParts
from weft.compute.quant.registry import format_of

PLAIN = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def decode(
    raw: Tensor, name: str, columns: int, library: ctypes.CDLL | None = None, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Elements of `raw`: uint8 [rows, bytes of a row] in format `name` -> [rows, columns], in the format's own dtype
    where it is plain, where it is quantized in `dtype`, fp32 or bf16, to which fp32 is rounded. A plain result shares
    memory with `raw`. `library`: the step library."""
    if name in PLAIN:
        return raw.view(PLAIN[name])
    out = torch.empty(raw.shape[0], columns, dtype=dtype)
    if library is not None:
        blocks = raw.view(-1, FORMATS[name].nbytes)
        if library.weft_decode_blocks(name.encode(), blocks.data_ptr(), len(blocks), DTYPES[dtype], out.data_ptr()):
            return out
    return out.copy_(format_of(name).unpack(PackedParts.of_blocks(raw), columns, as_bf16=False))
