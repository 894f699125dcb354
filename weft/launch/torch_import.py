"""Imports torch in a rank, at first without the parts that serve compilers, exporters and training. Knows no rank.

They are more than a third of the time that `import torch` takes, and of the Python objects that it leaves
(`benchmarks/start.py`); a rank whose steps run in C++ does without. One that computes with torch's own operations must
call `import_rest` first: `torch.Generator`, tensors without data and `torch.compile` need `torch._meta_registrations`,
and nothing reads that by itself. Of the other modules, whoever looks for a name in one has them all read then.
"""

from __future__ import annotations

import importlib
import sys
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType
from typing import Any

PUT_OFF = (
    "torch.utils.data",
    "torch.distributions",
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
)
"""As `import torch` comes to them: they import one another, and in another order some would meet themselves half
read."""
KNOWN = ("2.13.",)
"""Versions whose import was seen to be whole without them; others are imported as they are."""


class _Later(ModuleType):
    """In the place of a module that is put off."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if _is_importing("torch"):  # which hands some functions of these modules on as its own
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


def import_torch() -> None:
    """`import torch`, with other modules in the places of `PUT_OFF`."""
    if "torch" not in sys.modules and _version().startswith(KNOWN):
        sys.modules.update({name: _Later(name) for name in PUT_OFF})
    importlib.import_module("torch")


def import_rest() -> None:
    """`PUT_OFF`, where `import_torch` has left it out."""
    missing = [name for name in PUT_OFF if isinstance(sys.modules.get(name), _Later)]
    for name in missing:
        del sys.modules[name]
    for name in missing:
        importlib.import_module(name)
    if missing:
        torch = sys.modules["torch"]
        functions = {name: found for name, found in vars(torch).items() if isinstance(found, _Function)}
        for name, function in functions.items():
            setattr(torch, name, function.itself())


def _is_importing(name: str) -> bool:
    return bool(getattr(sys.modules[name].__spec__, "_initializing", False))


def _version() -> str:
    try:
        return version("torch")
    except PackageNotFoundError:
        return ""
