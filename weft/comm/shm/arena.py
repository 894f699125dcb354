"""SharedArena: a rank's memory, mapped by all ranks of the machine at the same address.

Pointers into an arena are valid in every rank, so a rank can run another one's work as it is: cross-rank work stealing
is built on that. A rank allocates from its own arena; the memory is freed when the last process with the region ends.
"""

from __future__ import annotations

import ctypes
import errno
import os
import resource
from pathlib import Path

from weft.comm.shm.region import Region
from weft.native.system_pages import LARGE_PAGE, SystemPages, memory_of_machine

_FIRST = 1 << 44
"""Address of the first arena: far from the addresses that the system chooses for programs, heaps and mappings."""
_LINE = 64
_OTHER, _SHARED = (Path("/sys/kernel/mm/transparent_hugepage") / name for name in ("enabled", "shmem_enabled"))
_GIVEN = ("always", "within_size", "advise", "force")
"""With these, shared memory has large pages that asks for them."""


class NoArenaError(Exception):
    """Why a process cannot map the ranks' arenas, for a person."""


class SharedArena:
    """The memory of one rank. `take` allocates from its start on, `reserve` from its middle on."""

    def __init__(self, address: int, nbytes: int) -> None:
        """Of a mapping that is there."""
        self._system = SystemPages()
        self._begin, self._next, self._middle = address, address, address + nbytes // 2
        self._there = address
        """Up to here pages are there."""
        self._reserved, self._end = self._middle, address + nbytes

    @staticmethod
    def enter(region: Region, rank: int) -> SharedArena:
        """Maps the arenas of all ranks into this process; gives that of `rank`. NoArenaError: it cannot."""
        info = region.info()
        if not info.arena_bytes:
            raise NoArenaError("a file must not be as long as ranks' arenas (ulimit -f)")
        if resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY:
            raise NoArenaError("addresses are limited (ulimit -v), of which ranks' arenas take many")
        nbytes = info.world * info.arena_bytes
        if why := SystemPages().share(_FIRST, nbytes, region.fd, info.arenas_at):
            raise NoArenaError(f"{nbytes >> 30} GiB of addresses for ranks' arenas: {os.strerror(why)}")
        arena = SharedArena(_FIRST + rank * info.arena_bytes, info.arena_bytes)
        if not arena.has_large_pages:
            raise NoArenaError(
                "the system has no large pages for memory that ranks share, which would be slower to read; it has since"
                " Linux 6.1, or with advise in /sys/kernel/mm/transparent_hugepage/shmem_enabled"
            )
        return arena

    @property
    def has_large_pages(self) -> bool:
        """Whether its pages are as large as those of other memory can be, or will be when there is room for such."""
        refused = self._system.enlarge(self._there) == errno.EINVAL
        return not refused or _says(_SHARED, *_GIVEN) or not _says(_OTHER, "always", "madvise")

    def take(self, nbytes: int) -> int:
        """Address of so many zeros, on a cache line, which will soon be written: their large pages are there, where the
        system has some left. MemoryError: the arena is full."""
        begin = -(-self._next // _LINE) * _LINE
        if begin + nbytes > self._middle:
            raise MemoryError(f"{nbytes} bytes of an arena that has {self._middle - begin} left")
        self._next = begin + nbytes
        while self._there < self._next:
            self._system.enlarge(self._there)
            self._there += LARGE_PAGE
        return begin

    @property
    def taken(self) -> int:
        """How far memory is taken, for `give_back`."""
        return self._next

    def give_back(self, taken: int) -> None:
        """All that was taken since: zeros again."""
        ctypes.memset(taken, 0, self._next - taken)
        self._next = taken

    def holds(self, address: int) -> bool:
        """Whether it lies in the arena."""
        return self._begin <= address < self._end

    def reserve(self, nbytes: int) -> int:
        """Address of so many zeros, on a large page, whose pages come when they are first written, or asked for.
        MemoryError: the arena is full."""
        begin, left = self._reserved, min(self._end - self._reserved, memory_of_machine())
        if nbytes > left:
            raise MemoryError(f"{nbytes} bytes of an arena that has {left} left")
        self._reserved = begin + -(-nbytes // LARGE_PAGE) * LARGE_PAGE
        return begin


def _says(setting: Path, *words: str) -> bool:
    """Whether a setting of large pages is one of these; False where the system has no such."""
    try:
        text = setting.read_text()
    except OSError:
        return False
    return any(f"[{word}]" in text for word in words)
