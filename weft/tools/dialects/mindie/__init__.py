"""The dialect of MindIE."""

from __future__ import annotations

from weft.tools.dialects.mindie.dialect import DIALECT

__all__ = ["DIALECT"]
