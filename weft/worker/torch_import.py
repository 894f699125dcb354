"""Imports torch in a rank, at first without what serves compilers, training and the like.

They are more than a third of the time that `import torch` takes (`benchmarks/start.py`); a rank whose steps run in C++
does without. One that computes with torch's own operations must call `import_rest` first: `torch.Generator`, tensors
without data and `torch.compile` need `torch._meta_registrations`, and nothing reads that otherwise. Of the others,
a look for a name in one has all of them read, and so has an import of any part of torch that was not
there yet: they import one another, and in another order than torch's own some would meet themselves half read.
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

PUT_OFF = (
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
"""As `import torch` comes to them."""
KNOWN = ("2.13.",)
"""Versions of which releases were seen to be whole without them; others are imported as they are."""


class _Later(ModuleType):
    """In the place of a module that is put off."""

    def __init__(self, name: str, torch: Sequence[str]) -> None:
        """`torch`: the folders that it lies in."""
        super().__init__(name)
        self.__spec__ = ModuleSpec(name, None)  # importlib.util.find_spec finds it
        self.__path__ = [os.path.join(folder, *name.split(".")[1:]) for folder in torch]
        self.torch_is_there = False

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if not self.torch_is_there:  # it hands some functions on as its own
            return _Function(self.__name__, name)
        import_rest()
        return getattr(importlib.import_module(self.__name__), name)


class _Function:
    """In the place of a function of a module that is put off, in torch's own namespace."""

    def __init__(self, module: str, name: str) -> None:
        self._module, self._name = module, name

    def __call__(self, *words: Any, **named: Any) -> Any:
        import_rest()
        return self.itself()(*words, **named)

    def itself(self) -> Any:
        return getattr(importlib.import_module(self._module), self._name)


class _RestFirst(MetaPathFinder):
    """Of parts of torch that were not read yet: they are read after the rest."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path, target) if name.startswith("torch.") else None
        if spec is not None and spec.loader is not None:
            spec.loader = _BehindTheRest(spec.loader)
        return spec


class _BehindTheRest(Loader):
    """Not the finder has the rest read: other threads that import anything would wait for it, perhaps for ever."""

    def __init__(self, loader: Loader) -> None:
        self._loader, self._came_with_it = loader, False

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        import_rest()
        self._came_with_it = spec.name in sys.modules
        return sys.modules.get(spec.name) or self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None
        module.__loader__ = module.__spec__.loader = self._loader
        if not self._came_with_it:
            self._loader.exec_module(module)


def import_torch() -> None:
    """`import torch`, with other modules in the places of `PUT_OFF`."""
    if "torch" in sys.modules or not _is_known(_version()) or _has_extensions():
        importlib.import_module("torch")
        return
    torch = find_spec("torch")
    folders = (torch and torch.submodule_search_locations) or ()
    put_off = [_Later(name, folders) for name in PUT_OFF]
    sys.modules.update(zip(PUT_OFF, put_off, strict=True))
    importlib.import_module("torch")
    sys.meta_path.insert(0, _RestFirst())
    for module in put_off:
        module.torch_is_there = True
        parent, _, child = module.__name__.rpartition(".")
        if child not in vars(sys.modules[parent]):
            setattr(sys.modules[parent], child, module)


def import_rest() -> None:
    """`PUT_OFF`, where `import_torch` has left it out."""
    sys.meta_path = [finder for finder in sys.meta_path if type(finder) is not _RestFirst]  # another may be in the old
    missing = [name for name in PUT_OFF if isinstance(sys.modules.get(name), _Later)]
    for name in missing:
        del sys.modules[name]
    for name in missing:
        importlib.import_module(name)
    if missing:
        _put_in_place()


def _put_in_place() -> None:
    """Of what parts of torch took from others by name before these were read: the functions themselves."""
    parts = [module for name, module in list(sys.modules.items()) if name == "torch" or name.startswith("torch.")]
    for names in [vars(module) for module in parts if isinstance(module, ModuleType)]:
        for name, found in list(names.items()):
            if type(found) is _Function:  # isinstance would ask objects that warn of every look at them
                names[name] = found.itself()


def _is_known(found: str) -> bool:
    """Whether it is a release of a version that is `KNOWN`, for whatever device."""
    release = re.fullmatch(r"(\d+\.\d+\.)\d+(\+(cpu|cu\d+|rocm[\d.]+|xpu))?", found)
    return release is not None and release[1] in KNOWN


def _has_extensions() -> bool:
    """Whether `import torch` will import a backend of others, which may need any part of it."""
    return os.environ.get("TORCH_DEVICE_BACKEND_AUTOLOAD", "1") == "1" and bool(entry_points(group="torch.backends"))


def _version() -> str:
    try:
        return version("torch")
    except PackageNotFoundError:
        return ""
