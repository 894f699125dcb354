"""Every implementation of the operations that this machine has, by name."""

from __future__ import annotations

import torch

from tests.support.native_libraries import need
from weft.compute.native.step_library import Pool, open_library
from weft.compute.ops import Numerics, Ops
from weft.compute.ops.native.step_ops import StepOps
from weft.compute.ops.reference.torch_ops import TorchOps

CPU = torch.device("cpu")


def ops_on(implementation: str, dtype: torch.dtype, threads: int) -> Ops:
    """An implementation that works on so many threads from here on."""
    torch.set_num_threads(threads)
    if implementation == "torch":
        return TorchOps(Numerics(dtype), CPU)
    need("step")
    library = open_library()
    assert library is not None
    return StepOps(Numerics(dtype), CPU, Pool(library, threads))
