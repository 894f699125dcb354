"""Operations that layers call, behind one seam (`base.Ops`), and `make_ops`, which chooses an implementation."""

from __future__ import annotations

import torch

from weft.native import missing_reason
from weft.ops.base import AttentionMeta, KVCache, Numerics, Ops
from weft.ops.exact_ops import ExactOps
from weft.ops.linear import Invariance
from weft.ops.native_kernels import AttentionKernel, PointwiseKernels
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
    attend, pointwise = AttentionKernel.find(numerics.dtype), PointwiseKernels.find(numerics.dtype)
    if attend is None or pointwise is None:
        return TorchOps(numerics, device, _why_plain(numerics.dtype))
    return NativeOps(numerics, device, attend, pointwise)


def _why_plain(dtype: torch.dtype) -> str:
    reason = missing_reason("attention") or missing_reason("pointwise") or f"no kernels for {dtype}"
    return f"C++ kernels: {reason}; attention gathers its keys, which is slow"
