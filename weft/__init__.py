"""weft: an inference server for large language models in which every module has its own parallel layout."""

from __future__ import annotations

TYPE_CHECKING = False
"""As that of `typing`, which takes longer to import than all that this package needs to begin."""

if TYPE_CHECKING:
    from typing import Any

    from weft.llm import LLM as LLM
    from weft.step.sampling_params import SamplingParams as SamplingParams
    from weft.step.structured_outputs import StructuredOutputs as StructuredOutputs

__all__ = ["LLM", "SamplingParams", "StructuredOutputs"]


def __getattr__(name: str) -> Any:
    """weft.LLM and its parameters, loaded when they are first asked for."""
    if name == "LLM":
        from weft.llm import LLM

        return LLM
    if name == "SamplingParams":
        from weft.step.sampling_params import SamplingParams

        return SamplingParams
    if name == "StructuredOutputs":
        from weft.step.structured_outputs import StructuredOutputs

        return StructuredOutputs
    raise AttributeError(f"module 'weft' has no attribute {name!r}")
