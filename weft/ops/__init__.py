"""Operations that layers call, behind one seam (`base.Ops`), and `make_ops`, which chooses an implementation."""

from __future__ import annotations

import torch

from weft.ops.base import AttentionMeta, KVCache, Numerics, Ops
from weft.ops.exact_ops import ExactOps
from weft.ops.linear import Invariance
from weft.ops.native_kernels import Kernels, why_missing
from weft.ops.native_ops import NativeOps
from weft.ops.torch_ops import TorchOps

__all__ = ["AttentionMeta", "Invariance", "KVCache", "Numerics", "Ops", "make_ops"]


def make_ops(numerics: Numerics, device: torch.device | str) -> Ops:
    """The fastest implementation that this machine has for `numerics` on `device`."""
    device = torch.device(device)
    if numerics.exact:
        return ExactOps(numerics, device)
    if device.type != "cpu":
        return TorchOps(numerics, device)
    kernels = Kernels.find(numerics.dtype)
    if kernels is None:
        reason = why_missing(numerics.dtype)
        return TorchOps(numerics, device, f"no C++ kernels: {reason}; attention gathers its keys, which is slow")
    return NativeOps(numerics, device, kernels)
