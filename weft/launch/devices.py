"""CUDA devices: how many a rank's torch will see, without importing it, and what is said where they are too few.

Knows no process. Numbers that only torch could tell are left to the ranks, which count again.
"""

from __future__ import annotations

import ctypes
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path

from weft.counted import counted
from weft.errors import ConfigError

DRIVER = "libcuda.so.1"
_NO_DEVICE = 100
"""The driver's CUDA_ERROR_NO_DEVICE."""


def cuda_devices() -> tuple[int | None, str]:
    """How many there are for torch, and its version; None: it is not installed, or built for other devices too."""
    spec = find_spec("torch")
    file = Path(spec.origin or "").with_name("version.py") if spec is not None else Path()
    build = spec_from_file_location("torch_version", file) if file.is_file() else None
    if build is None or build.loader is None:
        return None, ""
    build.loader.exec_module(module := module_from_spec(build))
    version = str(getattr(module, "__version__", ""))
    if getattr(module, "hip", None) is not None:
        return None, version
    return (0 if getattr(module, "cuda", None) is None else _counted_by_driver()), version


def too_few(count: int, version: str, where: str) -> ConfigError:
    """For the rank `where`, whose device is not among `count`."""
    fewer = f", or {counted(count, 'replica')}" if count else ""
    return ConfigError(
        f"device cuda: this process sees {count} CUDA devices (torch {version}), and {where} needs one of its own;"
        f" legal here: cpu{fewer}",
        field="device",
        value="cuda",
        legal=("cpu",),
    )


def _counted_by_driver() -> int | None:
    """As CUDA_VISIBLE_DEVICES leaves them; None where the driver fails otherwise than for want of devices."""
    try:
        driver = ctypes.CDLL(DRIVER)
    except OSError:
        return 0
    count = ctypes.c_int()
    failed = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    return (0 if failed == _NO_DEVICE else None) if failed else count.value
