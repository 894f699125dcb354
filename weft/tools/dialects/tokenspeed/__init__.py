"""The dialect of TokenSpeed."""

from __future__ import annotations

from weft.tools.dialects.tokenspeed.dialect import DIALECT

__all__ = ["DIALECT"]
