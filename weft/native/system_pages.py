"""Pages of memory, as they are asked of the system: mapped, prefaulted, large.

The numbers are those of Linux's mman.h, where Python's `mmap` has no names for them.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os

LARGE_PAGE = 2 << 20
"""Bytes."""
_HUGEPAGE, _DONTDUMP, _POPULATE_WRITE, _COLLAPSE = 14, 16, 23, 25
_FIXED_NOREPLACE, _NORESERVE = 0x100000, 0x4000


def memory_of_machine() -> int:
    """Bytes."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


class SystemPages:
    """Calls of the system. Each gives 0, or the reason as `errno` numbers it; none changes what memory holds."""

    def __init__(self) -> None:
        self._calls = ctypes.CDLL(None, use_errno=True)
        pointer, size, number = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
        self._calls.mmap.restype = pointer
        self._calls.mmap.argtypes = (pointer, size, number, number, number, ctypes.c_int64)
        self._calls.munmap.argtypes = (pointer, size)
        self._calls.madvise.argtypes = (pointer, size, number)

    def share(self, address: int, nbytes: int, fd: int, offset: int) -> int:
        """Maps a part of a file at an address where nothing is mapped yet, shared and writable. Asks for large pages;
        leaves it out of a crash's dump, which would read all of a sparse file."""
        flags, access = mmap.MAP_SHARED | _NORESERVE | _FIXED_NOREPLACE, mmap.PROT_READ | mmap.PROT_WRITE
        at = self._calls.mmap(address, nbytes, access, flags, fd, offset)
        if at == ctypes.c_void_p(-1).value:
            return ctypes.get_errno()
        if at != address:  # before Linux 4.17 the address is a wish
            self._calls.munmap(at, nbytes)
            return errno.EEXIST
        self._advise(address, nbytes, _DONTDUMP)
        self.wish_large(address, nbytes)
        return 0

    def wish_large(self, address: int, nbytes: int) -> int:
        """Pages that come are large ones, as far as the system gives them on request."""
        return self._advise(address, nbytes, _HUGEPAGE)

    def populate(self, address: int, nbytes: int) -> int:
        """Pages are there as if they had been written. Since Linux 5.14."""
        return self._advise(address, nbytes, _POPULATE_WRITE)

    def enlarge(self, address: int) -> int:
        """What begins here becomes one large page, whatever of it is there, and whatever the system's own policy.
        Since Linux 6.1 for shared memory."""
        return self.populate(address, mmap.PAGESIZE) or self._advise(address, LARGE_PAGE, _COLLAPSE)

    def _advise(self, address: int, nbytes: int, advice: int) -> int:
        return ctypes.get_errno() if self._calls.madvise(address, nbytes, advice) else 0
