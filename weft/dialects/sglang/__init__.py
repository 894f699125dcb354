"""The dialect of SGLang."""

from __future__ import annotations

from weft.dialects.sglang.dialect import DIALECT

__all__ = ["DIALECT"]
