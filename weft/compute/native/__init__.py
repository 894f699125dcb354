"""The C++ libraries and their loader (ctypes, no torch). Building lives in `weft.compute.native.build`."""

from weft.compute.native.libraries import kernels, load, missing_reason

__all__ = ["kernels", "load", "missing_reason"]
