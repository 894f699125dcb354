"""weft: an inference server for large language models in which every module has its own parallel layout."""

from __future__ import annotations

TYPE_CHECKING = False
"""As that of `typing`, which takes longer to import than all that this package needs to begin."""

if TYPE_CHECKING:
    from typing import Any

    from weft.base.step.sampling_params import SamplingParams as SamplingParams
    from weft.base.step.structured_outputs import StructuredOutputs as StructuredOutputs
    from weft.frontend.llm import LLM as LLM
    from weft.runtime.launch_plan.hosts import HostsConfig as HostsConfig

__all__ = ["LLM", "HostsConfig", "SamplingParams", "StructuredOutputs"]

_MODULES = {
    "LLM": "weft.frontend.llm",
    "HostsConfig": "weft.runtime.launch_plan.hosts",
    "SamplingParams": "weft.base.step.sampling_params",
    "StructuredOutputs": "weft.base.step.structured_outputs",
}


def __getattr__(name: str) -> Any:
    """weft.LLM and its parameters, loaded when they are first asked for."""
    if name not in _MODULES:
        raise AttributeError(f"module 'weft' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_MODULES[name]), name)
