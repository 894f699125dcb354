"""Imports torch in a rank, without the part that describes operations to compilers. Knows no rank.

`torch._meta_registrations`, with the decompositions that it imports, is a quarter to a third of the time that `import
torch` takes (`benchmarks/start.py`). It says in Python what shapes operations give, for tensors without data and for
compilers.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType
from typing import Any

PUT_OFF = "torch._meta_registrations"
KNOWN = ("2.13.",)
"""Versions whose import was seen to be whole without it; others are imported as they are."""


def import_torch() -> None:
    """`import torch`, where `PUT_OFF` is read when one of its names is first asked for."""
    if "torch" in sys.modules or not _version().startswith(KNOWN):
        importlib.import_module("torch")
        return
    finder = _Finder()
    sys.meta_path.insert(0, finder)
    try:
        importlib.import_module("torch")
    finally:
        sys.meta_path.remove(finder)


def _version() -> str:
    try:
        return version("torch")
    except PackageNotFoundError:
        return ""


class _Later(ModuleType):
    """A module that runs its code at the first question for a name of its own."""

    def __getattr__(self, name: str) -> Any:
        spec = self.__spec__
        if name.startswith("__") or spec is None or not isinstance(spec.loader, _Loader):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        self.__class__ = ModuleType
        spec.loader.inner.exec_module(self)
        return getattr(self, name)


class _Loader:
    """Makes the module, and leaves its code to `inner`, later."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        return _Later(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Nothing yet."""


class _Finder:
    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != PUT_OFF:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)  # type: ignore[assignment]
        return spec
