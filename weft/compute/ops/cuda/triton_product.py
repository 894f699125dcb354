"""Products in Triton: an element is added up along the depth in one order, whatever the number of rows.

For where a library's own products depend on it: a library splits the depth for few rows, and not for many. Tiles differ
with the number of rows, the order of an element's sum does not; that a device's instructions keep to it is looked at on
the model's own weights, as of any form (`linear.py`). Needs Triton.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from weft.compute.ops.cuda.triton_kernels import product as kernels
from weft.compute.ops.reference.linear import Form

FEW = 64
"""Rows of the smallest tile: the fewest that a group of warps multiplies at once."""


@dataclass(frozen=True, slots=True)
class _Tile:
    rows: int
    columns: int
    depth: int
    stages: int
    warps: int


def _tile(rows: int, columns: int) -> _Tile:
    """Few rows: as many programs as there are multiprocessors, for the matrix is read once. Many: large tiles."""
    if rows <= FEW:
        wide = 16 if columns <= 4096 else 32 if columns <= 8192 else 64
        return _Tile(FEW, wide, 128, 5 if wide < 64 else 4, 4)
    return _Tile(FEW, 64, 64, 4, 4) if rows <= 512 else _Tile(128, 128, 64, 4, 8)


class Ordered(Form):
    """Takes bf16 and fp16."""

    name = "in one order of summation"

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return self._into(x, weight, bias, x.dtype)

    def wide(self, x: Tensor, weight: Tensor) -> Tensor:
        """x @ weight.T in fp32, as it was added up."""
        return self._into(x, weight, None, torch.float32)

    def _into(self, x: Tensor, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
        if x.stride(1) != 1 or weight.stride(1) != 1:
            x, weight = x.contiguous(), weight.contiguous()
        (rows, depth), columns = x.shape, weight.shape[0]
        out = torch.empty(rows, columns, dtype=dtype, device=x.device)
        if rows:
            tile = _tile(rows, columns)
            kernels.product[triton.cdiv(rows, tile.rows), triton.cdiv(columns, tile.columns)](
                out, x, weight, x if bias is None else bias, rows, columns, depth, x.stride(0), weight.stride(0),
                BIAS=bias is not None, EVEN=depth % tile.depth == 0, ROWS=tile.rows, COLUMNS=tile.columns,
                DEPTH=tile.depth, num_warps=tile.warps, num_stages=tile.stages,
            )  # fmt: skip
        return out
