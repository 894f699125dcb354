"""The dialect of TensorRT-LLM."""

from __future__ import annotations

from weft.tools.dialects.trtllm.dialect import DIALECT

__all__ = ["DIALECT"]
