"""The dialect of vLLM and vLLM-Ascend."""

from __future__ import annotations

from weft.tools.dialects.vllm.dialect import DIALECT

__all__ = ["DIALECT"]
