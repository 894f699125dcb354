"""Pages of memory, as they are asked of the system: prefaulted, large.

The numbers are those of Linux's mman.h, where Python's `mmap` has no names for them.
"""

from __future__ import annotations

import ctypes

LARGE_PAGE = 2 << 20
"""Bytes."""
_HUGEPAGE, _POPULATE_WRITE = 14, 23


class SystemPages:
    """Calls of the system. Each gives 0, or the reason as `errno` numbers it; none changes what memory holds."""

    def __init__(self) -> None:
        self._calls = ctypes.CDLL(None, use_errno=True)
        self._calls.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)

    def wish_large(self, address: int, nbytes: int) -> int:
        """Pages that come are large ones, as far as the system gives them on request."""
        return self._advise(address, nbytes, _HUGEPAGE)

    def populate(self, address: int, nbytes: int) -> int:
        """Pages are there as if they had been written. Since Linux 5.14."""
        return self._advise(address, nbytes, _POPULATE_WRITE)

    def _advise(self, address: int, nbytes: int, advice: int) -> int:
        return ctypes.get_errno() if self._calls.madvise(address, nbytes, advice) else 0
