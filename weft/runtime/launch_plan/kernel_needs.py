"""Settings that only the C++ parts can do. No torch, no process."""

from __future__ import annotations

from weft.base.errors import ConfigError
from weft.base.options import shown
from weft.base.settings import EngineConfig
from weft.compute.native import missing_reason
from weft.compute.native.step_library import open_library


def check_kernels(engine: EngineConfig) -> None:
    """ConfigError for what only the C++ parts do, where they are missing: ranks would say it after they had
    loaded."""
    asked = {
        "activations": engine.activations == "int8" and engine.quantization == "gguf",
        "compress_weights": engine.compress_weights is True,
    }
    names = [name for name, given in asked.items() if given]
    if not names or engine.device != "cpu":
        return
    if open_library() is None:
        raise _left_out(engine, names[0], f"it needs the compiled C++ parts ({missing_reason('step')})")


def _left_out(engine: EngineConfig, name: str, why: str) -> ConfigError:
    message = f"{name} {shown(getattr(engine, name))}: {why}; leave --{name.replace('_', '-')} out"
    return ConfigError(message, field=name, value=getattr(engine, name))
