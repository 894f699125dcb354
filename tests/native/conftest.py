"""The libraries under test are built before the first test."""

from __future__ import annotations

import pytest

from weft.native.build import ensure_built, find_compiler
from weft.native.libraries import names


@pytest.fixture(scope="session")
def step_library() -> None:
    """Every variant of the step library; without a compiler, tests of it are skipped."""
    if find_compiler() is None:
        pytest.skip("no C++ compiler on this machine")
    failed = [status.reason for status in ensure_built(names()) if status.state == "failed"]
    assert failed == []
