"""Imports torch in a rank, at first without the part that describes operations to compilers. Knows no rank.

`torch._meta_registrations`, with what it imports, is a quarter to a third of the time that `import torch` takes
(`benchmarks/start.py`). It says in Python what shapes operations give, for tensors without data and for compilers; a
rank whose steps run in C++ does without. It is no longer there for whoever needs it unknowingly (`torch.Generator`,
tensors without data, `torch.compile`): a rank that computes with torch's own operations must call `import_rest` first.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import sys
import threading
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType
from typing import Any

PUT_OFF = "torch._meta_registrations"
KNOWN = ("2.13.",)
"""Versions whose import was seen to be whole without it; others are imported as they are."""


def import_torch() -> None:
    """`import torch` without `PUT_OFF`."""
    if "torch" in sys.modules or not _version().startswith(KNOWN):
        importlib.import_module("torch")
        return
    finder = _Finder()
    sys.meta_path.insert(0, finder)
    try:
        importlib.import_module("torch")
    finally:
        sys.meta_path.remove(finder)


def import_rest() -> None:
    """What `import_torch` has put off, if it was not read since."""
    module = sys.modules.get(PUT_OFF)
    if isinstance(module, _Later):
        module.fill()


def _version() -> str:
    try:
        return version("torch")
    except PackageNotFoundError:
        return ""


class _Later(ModuleType):
    """A module that runs its code at the first question for a name of its own, or when it is told to."""

    def fill(self) -> None:
        """Runs its code, once."""
        loader = self.__spec__ and self.__spec__.loader
        assert isinstance(loader, _Loader)
        loader.fill(self)

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("__"):
            self.fill()
        if name in self.__dict__:
            return self.__dict__[name]
        raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")


class _Loader:
    """Makes the module, and leaves its code to `inner`, later."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self._lock = threading.RLock()
        self._begun = False

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        return _Later(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Nothing yet."""

    def fill(self, module: ModuleType) -> None:
        """Runs the code, unless that was done, or is being done by this thread."""
        with self._lock:
            if self._begun:
                return
            self._begun = True
            try:
                self._inner.exec_module(module)
            except BaseException:
                self._begun = False
                raise


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
