"""The step library for benchmarks that call it by itself."""

from __future__ import annotations

import ctypes

from weft.errors import UnavailableError
from weft.native.step_library import open_library, why_missing


def step_library() -> ctypes.CDLL:
    """UnavailableError, with the reason, where there is none."""
    library = open_library()
    if library is None:
        raise UnavailableError(f"the step library is missing: {why_missing()}")
    return library
