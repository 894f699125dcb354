"""Operations that layers call, behind one seam (`base.Ops`), and `make_ops`, which chooses an implementation."""

from __future__ import annotations

import torch

from weft.native.step_library import SPIN_SHARED_NS, Pool, open_library
from weft.ops.base import AttentionMeta, KVCache, Numerics, Ops
from weft.ops.exact_ops import ExactOps
from weft.ops.linear import Invariance
from weft.ops.native_kernels import Kernels, why_missing
from weft.ops.native_ops import NativeOps
from weft.ops.packed import DTYPES as PACKABLE
from weft.ops.packed import Packing
from weft.ops.step_ops import StepOps
from weft.ops.torch_ops import TorchOps

__all__ = ["AttentionMeta", "Invariance", "KVCache", "Numerics", "Ops", "make_ops"]


def make_ops(numerics: Numerics, device: torch.device | str, *, spin_ns: int = SPIN_SHARED_NS) -> Ops:
    """The fastest implementation that this machine has for `numerics` on `device`, with as many threads as torch has.

    `spin_ns`: how long its threads spin before they sleep.
    """
    device = torch.device(device)
    if numerics.exact:
        return ExactOps(numerics, device)
    if device.type != "cpu":
        return TorchOps(numerics, device)
    kernels = Kernels.find(numerics.dtype)
    if kernels is None:
        reason = why_missing(numerics.dtype)
        return TorchOps(numerics, device, f"no C++ kernels: {reason}; attention gathers its keys, which is slow")
    library, packing = open_library(), Packing.find()
    if library is None or packing is None or numerics.dtype not in PACKABLE:
        return NativeOps(numerics, device, kernels)
    pool = Pool(library, torch.get_num_threads(), spin_ns=spin_ns)
    return StepOps(numerics, device, kernels, pool, packing)
