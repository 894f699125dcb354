"""Operations that layers call, behind one seam (`base.Ops`), and `make_ops`, which chooses an implementation."""

from __future__ import annotations

import torch

from weft.ops.base import AttentionMeta, KVCache, Numerics, Ops
from weft.ops.exact_ops import ExactOps
from weft.ops.torch_ops import TorchOps

__all__ = ["AttentionMeta", "KVCache", "Numerics", "Ops", "make_ops"]


def make_ops(numerics: Numerics, device: torch.device | str) -> Ops:
    """The fastest implementation that this machine has for `numerics` on `device`."""
    device = torch.device(device)
    if numerics.exact:
        return ExactOps(numerics, device)
    return TorchOps(numerics, device)
