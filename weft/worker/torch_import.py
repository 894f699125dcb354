"""Imports torch in a rank, at first without the modules for compilers, training and the like (`DEFERRED`).

They take more than a third of the time of `import torch` (`benchmarks/start.py`), and a rank whose steps run in C++
does not need them. A rank that computes with torch's own operations must call `import_rest` first: `torch.Generator`,
tensors without data and `torch.compile` need `torch._meta_registrations`, and nothing else imports it. The other
deferred modules are imported, all together, when a name is looked up in one of them, or when any module of torch is
imported that was not imported yet. Never one alone: they import each other, and in another order than torch's own an
import would be circular.
"""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import PackageNotFoundError, entry_points, version
from importlib.util import find_spec
from types import ModuleType
from typing import Any

DEFERRED = (
    "torch.utils.data",
    "torch.distributions",
    "torch.hub",
    "torch.nested",
    "torch.optim",
    "torch.profiler",
    "torch.ao",
    "torch.nn.intrinsic",
    "torch.nn.qat",
    "torch.nn.quantizable",
    "torch.nn.quantized",
    "torch.quantization",
    "torch.masked",
    "torch.export",
    "torch.func",
    "torch._higher_order_ops",
    "torch.distributed._meta_registrations",
    "torch._meta_registrations",
    "torch.compiler",
    "torch._native",
)
"""In the order in which `import torch` imports them."""
KNOWN = ("2.13.",)
"""Versions of torch that were tested without `DEFERRED`; others are imported whole."""


class _DeferredModule(ModuleType):
    """Stands for a module of `DEFERRED` until it is imported."""

    def __init__(self, name: str, torch: Sequence[str]) -> None:
        """`torch`: the folders of package torch."""
        super().__init__(name)
        self.__spec__ = ModuleSpec(name, None)  # importlib.util.find_spec finds it
        self.__path__ = [os.path.join(folder, *name.split(".")[1:]) for folder in torch]
        self.torch_is_there = False

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if not self.torch_is_there:  # torch takes some functions into its own namespace
            return _DeferredFunction(self.__name__, name)
        import_rest()
        return getattr(importlib.import_module(self.__name__), name)


class _DeferredFunction:
    """Stands for a function of a deferred module, in the namespaces of modules that took it from there."""

    def __init__(self, module: str, name: str) -> None:
        self._module, self._name = module, name

    def __call__(self, *words: Any, **named: Any) -> Any:
        import_rest()
        return self.itself()(*words, **named)

    def itself(self) -> Any:
        return getattr(importlib.import_module(self._module), self._name)


class _RestFinder(MetaPathFinder):
    """Finds modules of torch that were not imported yet; the deferred ones are imported before them."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path, target) if name.startswith("torch.") else None
        if spec is not None and spec.loader is not None:
            spec.loader = _RestLoader(spec.loader)
        return spec


class _RestLoader(Loader):
    """Imports the deferred modules. The finder must not: other threads that import anything would wait for it, perhaps
    for ever."""

    def __init__(self, loader: Loader) -> None:
        self._loader, self._imported_with_rest = loader, False

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        import_rest()
        self._imported_with_rest = spec.name in sys.modules
        return sys.modules.get(spec.name) or self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None
        module.__loader__ = module.__spec__.loader = self._loader
        if not self._imported_with_rest:
            self._loader.exec_module(module)


def import_torch() -> None:
    """`import torch` without `DEFERRED`, where that is known to work."""
    if "torch" in sys.modules or not _is_known(_version()) or _has_extensions():
        importlib.import_module("torch")
        return
    torch = find_spec("torch")
    folders = (torch and torch.submodule_search_locations) or ()
    deferred = [_DeferredModule(name, folders) for name in DEFERRED]
    sys.modules.update(zip(DEFERRED, deferred, strict=True))
    importlib.import_module("torch")
    sys.meta_path.insert(0, _RestFinder())
    for module in deferred:
        module.torch_is_there = True
        parent, _, child = module.__name__.rpartition(".")
        if child not in vars(sys.modules[parent]):
            setattr(sys.modules[parent], child, module)


def import_rest() -> None:
    """Imports what `import_torch` has left out."""
    sys.meta_path = [
        finder
        for finder in sys.meta_path
        if type(finder) is not _RestFinder
        # a new list: another thread may iterate over the old one
    ]
    missing = [name for name in DEFERRED if isinstance(sys.modules.get(name), _DeferredModule)]
    for name in missing:
        del sys.modules[name]
    for name in missing:
        importlib.import_module(name)
    if missing:
        _put_in_place()


def _put_in_place() -> None:
    """Replaces each `_DeferredFunction` in torch's modules by the function."""
    parts = [module for name, module in list(sys.modules.items()) if name == "torch" or name.startswith("torch.")]
    for names in [vars(module) for module in parts if isinstance(module, ModuleType)]:
        for name, found in list(names.items()):
            if type(found) is _DeferredFunction:  # isinstance would trigger warnings of some objects
                names[name] = found.itself()


def _is_known(found: str) -> bool:
    """Whether it is a release of one of the `KNOWN` versions, for any device."""
    release = re.fullmatch(r"(\d+\.\d+\.)\d+(\+(cpu|cu\d+|rocm[\d.]+|xpu))?", found)
    return release is not None and release[1] in KNOWN


def _has_extensions() -> bool:
    """Whether `import torch` will import other packages' backends, which may need any module of torch."""
    return os.environ.get("TORCH_DEVICE_BACKEND_AUTOLOAD", "1") == "1" and bool(entry_points(group="torch.backends"))


def _version() -> str:
    try:
        return version("torch")
    except PackageNotFoundError:
        return ""
