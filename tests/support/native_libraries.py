"""The C++ libraries that a test needs. Without a compiler it is skipped; a library that does not build fails it."""

from __future__ import annotations

import pytest

from weft.native import build, libraries


def need(*sources: str) -> None:
    """Builds `sources` ("comm", "step") for this machine where that was not done yet."""
    missing = [status for status in build.ensure_built([libraries.chosen(each) for each in sources]) if not status.path]
    if missing and build.find_compiler() is None:
        pytest.skip("no C++ compiler on this machine")
    assert not missing, "; ".join(f"{status.name}: {status.reason}" for status in missing)
