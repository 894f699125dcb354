"""The libraries that the usual version runs are built before the first test."""

from __future__ import annotations

import pytest

from tests.support.native_libraries import TRIED, built
from weft.compute.native.build import find_compiler


@pytest.fixture(scope="session")
def step_library() -> None:
    """The variants of `TRIED`; without a compiler, tests of it are skipped."""
    if find_compiler() is None:
        pytest.skip("no C++ compiler on this machine")
    failed = [status.reason for status in built(TRIED) if status.state == "failed"]
    assert failed == []
