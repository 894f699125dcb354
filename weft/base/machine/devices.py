"""CUDA devices: whether a rank's torch may see any, asked without importing it, and what is said of too few.

No driver is asked: ranks count the devices.
"""

from __future__ import annotations

from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path

from weft.base.errors import ConfigError
from weft.base.plural import counted


def torch_without_devices() -> str | None:
    """The version of a torch that is built for CPUs alone; None: for other devices, too, or it is not installed."""
    spec = find_spec("torch")
    file = Path(spec.origin or "").with_name("version.py") if spec is not None else Path()
    build = spec_from_file_location("torch_version", file) if file.is_file() else None
    if build is None or build.loader is None:
        return None
    build.loader.exec_module(module := module_from_spec(build))
    built_for = (getattr(module, name, None) for name in ("cuda", "hip"))
    return str(getattr(module, "__version__", "")) if not any(built_for) else None


def too_few(count: int, version: str, where: str, sharing: int = 1) -> ConfigError:
    """For the rank `where`, whose device is not among `count`; `sharing` ranks have one."""
    fewer = f", at most {counted(count * sharing, 'rank')}, or a larger --ranks-per-device" if count else ""
    needs = "one of its own" if sharing == 1 else f"one for {sharing} of them"
    return ConfigError(
        f"device cuda: this process sees {counted(count, 'CUDA device')} (torch {version}), and {where} needs {needs};"
        f" legal here: cpu{fewer}",
        field="device",
        value="cuda",
        legal=("cpu",),
    )
