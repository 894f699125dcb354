"""The step library's variants that this CPU runs, each as a fixture's parameter."""

from __future__ import annotations

import ctypes
from functools import cache

from weft.native import build, isa, libraries
from weft.ops.packed import Packing

VARIANTS = isa.runnable()


@cache
def packing_of(variant: str) -> Packing:
    """The library built for `variant`; compiled here if it is not there yet."""
    name = f"step-{variant}"
    (status,) = build.ensure_built([name])
    path = libraries.find(name)
    assert path is not None, status.reason
    return Packing(ctypes.CDLL(str(path)))
