"""The dialect of TokenSpeed."""

from __future__ import annotations

from weft.dialects.tokenspeed.dialect import DIALECT

__all__ = ["DIALECT"]
