"""Compiles the C++ libraries once, and hands out every implementation of the operations that this machine has."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from weft.native.build import ensure_built
from weft.ops import Numerics, Ops
from weft.ops.native_kernels import LIBRARIES, Kernels, why_missing
from weft.ops.native_ops import NativeOps
from weft.ops.torch_ops import TorchOps

CPU = torch.device("cpu")


@pytest.fixture(scope="session", autouse=True)
def _built() -> None:
    ensure_built(LIBRARIES)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=["torch", "native"])
def implementation(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=[torch.float32, torch.bfloat16, torch.float64], ids=["fp32", "bf16", "fp64"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    chosen: torch.dtype = request.param
    return chosen


@pytest.fixture
def ops(implementation: str, dtype: torch.dtype) -> Ops:
    """One implementation in one dtype."""
    if implementation == "torch":
        return TorchOps(Numerics(dtype), CPU)
    kernels = Kernels.find(dtype)
    if kernels is None:
        pytest.skip(why_missing(dtype))
    return NativeOps(Numerics(dtype), CPU, kernels)


@pytest.fixture
def two_threads(_one_thread: None) -> None:
    torch.set_num_threads(2)
