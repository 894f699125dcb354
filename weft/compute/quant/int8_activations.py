"""Dynamic activation quantization in torch: rows rounded to int8 with an fp32 scale for each 32 features."""

from __future__ import annotations

import torch
from torch import Tensor

from weft.compute.quant.base import GROUP

SMALLEST = 1e-30
"""A group whose magnitudes are all below becomes zeros: the inverse of its scale would be infinite."""


def fake_quantize_rows(x: Tensor) -> Tensor:
    """What rows x [N, depth] become: fp32."""
    rows, depth = x.shape
    short = -depth % GROUP
    filled = torch.cat((x.float(), x.new_zeros(rows, short, dtype=torch.float32)), 1)
    groups = filled.view(rows, (depth + short) // GROUP, GROUP)  # not -1: there may be no rows
    most = groups.abs().amax(2, keepdim=True)
    # a quotient each: torch takes a number divided by a tensor as a product, and ties would fall to another value
    nothing, largest = most < SMALLEST, torch.full_like(most, 127)
    inverse, scale = ((a / b).masked_fill(nothing, 0) for a, b in ((largest, most), (most, largest)))
    return ((groups * inverse).round() * scale).flatten(1)[:, :depth]
