"""The ordered sum: what every backend's reductions must give, bit for bit."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def ordered_sum(xs: Sequence[Tensor]) -> Tensor:
    """xs[0] + xs[1] + ... in that order; fp16 and bf16 are added in fp32 and rounded once. A new tensor."""
    if xs[0].dtype in (torch.float16, torch.bfloat16):
        total = xs[0].float()
        for x in xs[1:]:
            total.add_(x)
        return total.to(xs[0].dtype)
    total = xs[0] + xs[1]
    for x in xs[2:]:
        total.add_(x)
    return total
