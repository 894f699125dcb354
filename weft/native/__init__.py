"""The C++ libraries and their loader (ctypes, no torch). Building lives in `weft.native.build`."""

from weft.native.libraries import kernels, load, missing_reason

__all__ = ["kernels", "load", "missing_reason"]
