"""The variants of the C++ library that the usual version runs, built before the first test."""

from __future__ import annotations

import pytest

from tests.compute.native import step_cases
from tests.support.native_libraries import TRIED, built
from weft.compute.native.build import find_compiler
from weft.compute.ops.native.packed import Packing


@pytest.fixture(scope="session")
def step_library() -> None:
    """The variants of `TRIED`; without a compiler, tests of it are skipped."""
    if find_compiler() is None:
        pytest.skip("no C++ compiler on this machine")
    failed = [status.reason for status in built(TRIED) if status.state == "failed"]
    assert failed == []


@pytest.fixture(scope="module", params=step_cases.VARIANTS)
def variant(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def packing(variant: str) -> Packing:
    return step_cases.packing(variant)
