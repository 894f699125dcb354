"""Compiles the C++ libraries once: candidates are found by the step library where it is there."""

from __future__ import annotations

import pytest

from weft.native.build import ensure_built
from weft.native.libraries import needed


@pytest.fixture(scope="session", autouse=True)
def _built() -> None:
    ensure_built(needed())
