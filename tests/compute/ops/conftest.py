"""Compiles the C++ libraries once, and hands out every implementation of the operations that this machine has."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tests.compute.ops.implementations import ops_on
from weft.compute.native.build import ensure_built
from weft.compute.native.libraries import needed
from weft.compute.ops import Ops


@pytest.fixture(scope="session", autouse=True)
def _built() -> None:
    ensure_built(needed())


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


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


@pytest.fixture
def two_threads(_one_thread: None) -> None:
    torch.set_num_threads(2)
