"""The C++ libraries and their loader (ctypes, no torch). Building lives in `weft.native.build`."""

from weft.native.libraries import load, missing_reason

__all__ = ["load", "missing_reason"]
