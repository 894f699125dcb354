"""Compiles the C++ libraries once, and hands out every implementation of the operations that this machine has."""

from __future__ import annotations

import pytest
import torch

from tests.compute.ops.implementations import ops_on
from tests.support.torch_threads import _built, _one_thread, two_threads
from weft.compute.ops import Ops

__all__ = ["_built", "_one_thread", "two_threads"]


@pytest.fixture(params=["torch", "step"])
def implementation(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=[torch.float32, torch.bfloat16, torch.float64], ids=["fp32", "bf16", "fp64"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    chosen: torch.dtype = request.param
    return chosen


@pytest.fixture
def ops(implementation: str, dtype: torch.dtype) -> Ops:
    """One implementation in one dtype."""
    return ops_on(implementation, dtype, torch.get_num_threads())
