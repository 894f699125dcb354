"""Blocks of GGUF formats that are unpacked when they are loaded, by the `gguf` package."""

from __future__ import annotations

import gguf
import numpy as np
import torch
from torch import Tensor

from weft.compute.quant.base import PackedParts, QuantFormat, rounded


class PackageBlocks(QuantFormat):
    """data uint8 [out, bytes of a row]."""

    def __init__(self, name: str) -> None:
        self.name = name

    def unpack(self, parts: PackedParts, depth: int, as_bf16: bool = True) -> Tensor:
        kind = gguf.GGMLQuantizationType[self.name]
        with np.errstate(invalid="ignore"):  # what is not finite is the loader's to report
            values = torch.from_numpy(gguf.quants.dequantize(parts.data.numpy(), kind))
        return rounded(values[:, :depth], as_bf16)
