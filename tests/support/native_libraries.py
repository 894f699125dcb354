"""The C++ libraries that a test needs. Without a compiler it is skipped; a library that does not build fails it."""

from __future__ import annotations

import fcntl
from collections.abc import Sequence

import pytest

from weft.native import build, libraries


def built(names: Sequence[str]) -> tuple[build.BuildStatus, ...]:
    """As `build.ensure_built`, but no two workers of a run compile the same: who comes second waits for the first."""
    if all(map(libraries.find, names)):
        return build.ensure_built(names)
    with open(build.__file__) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        return build.ensure_built(names)


def need(*sources: str) -> None:
    """Builds `sources` ("comm", "step") for this machine where that was not done yet."""
    missing = [status for status in built([libraries.chosen(each) for each in sources]) if not status.path]
    if missing and build.find_compiler() is None:
        pytest.skip("no C++ compiler on this machine")
    assert not missing, "; ".join(f"{status.name}: {status.reason}" for status in missing)
