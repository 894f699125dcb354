"""The dialect of SGLang."""

from __future__ import annotations

from weft.tools.dialects.sglang.dialect import DIALECT

__all__ = ["DIALECT"]
