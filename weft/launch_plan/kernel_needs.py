"""Settings that only the C++ parts can do. No torch, no process."""

from __future__ import annotations

from weft.errors import ConfigError
from weft.layout.boundaries import why_not_largest
from weft.layout.layout import Layout
from weft.native import missing_reason
from weft.native.isa import NO_ARGMAX_PRUNING
from weft.native.step_library import open_library
from weft.options import shown
from weft.settings import EngineConfig


def check_kernels(engine: EngineConfig, layout: Layout) -> None:
    """ConfigError for what only the C++ parts do, where they are missing or do it on other CPUs or in other layouts:
    ranks would say it after they had loaded."""
    asked = {
        "activations": engine.activations == "int8" and engine.quantization == "gguf",
        "compress_weights": engine.compress_weights is True,
        "prune_argmax": engine.prune_argmax is True,
    }
    names = [name for name, given in asked.items() if given]
    if not names or engine.device != "cpu":
        return
    library = open_library()
    if library is None:
        raise _left_out(engine, names[0], f"it needs the compiled C++ parts ({missing_reason('step')})")
    if asked["prune_argmax"] and not library.weft_suits_argmax_pruning():
        raise _left_out(engine, "prune_argmax", NO_ARGMAX_PRUNING)
    if asked["prune_argmax"] and (why_not := why_not_largest(layout)):
        raise _left_out(engine, "prune_argmax", why_not)


def _left_out(engine: EngineConfig, name: str, why: str) -> ConfigError:
    message = f"{name} {shown(getattr(engine, name))}: {why}; leave --{name.replace('_', '-')} out"
    return ConfigError(message, field=name, value=getattr(engine, name))
