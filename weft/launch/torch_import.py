"""Imports torch in a rank, at first without the part that describes operations to compilers. Knows no rank.

`torch._meta_registrations`, with what it imports, is more than a quarter of the time that `import torch` takes
(`benchmarks/start.py`). It says in Python what shapes operations give, for tensors without data and for compilers; a
rank whose steps run in C++ does without. One that computes with torch's own operations must call `import_rest` first:
`torch.Generator`, tensors without data and `torch.compile` need it, and nothing reads it by itself.
"""

from __future__ import annotations

import importlib
import sys
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType

PUT_OFF = "torch._meta_registrations"
KNOWN = ("2.13.",)
"""Versions whose import was seen to be whole without it; others are imported as they are."""


def import_torch() -> None:
    """`import torch`, with an empty module in the place of `PUT_OFF`."""
    if "torch" not in sys.modules and _version().startswith(KNOWN):
        sys.modules[PUT_OFF] = ModuleType(PUT_OFF)
    importlib.import_module("torch")


def import_rest() -> None:
    """`PUT_OFF`, where `import_torch` has left it out."""
    module = sys.modules.get(PUT_OFF)
    if module is not None and module.__spec__ is None:  # it came from no file
        del sys.modules[PUT_OFF]
        importlib.import_module(PUT_OFF)


def _version() -> str:
    try:
        return version("torch")
    except PackageNotFoundError:
        return ""
