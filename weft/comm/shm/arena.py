"""Rooms: each rank's memory that the other ranks of the machine find at the same address as itself.

What lies in a rank's room, and points into it, another rank can work on as it is: that is how a core is lent. A rank
takes memory from its own room; the system has it back when the last process ends that has the region.
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
"""Address of the first room: far from where the system puts programs, heaps and mappings by itself."""
_LINE = 64
_OTHER, _SHARED = (Path("/sys/kernel/mm/transparent_hugepage") / name for name in ("enabled", "shmem_enabled"))
_GIVEN = ("always", "within_size", "advise", "force")
"""With these, shared memory has large pages that asks for them."""


class NoArenaError(Exception):
    """Why a process cannot have the ranks' rooms, for a person."""


class SharedArena:
    """The memory of one rank: what is taken at once from its start on, what is reserved from its middle on."""

    def __init__(self, address: int, nbytes: int) -> None:
        """Of a mapping that is there."""
        self._system = SystemPages()
        self._begin, self._next, self._middle = address, address, address + nbytes // 2
        self._there = address
        """Up to here pages are there."""
        self._reserved, self._end = self._middle, address + nbytes

    @staticmethod
    def enter(region: Region, rank: int) -> SharedArena:
        """Maps the rooms of all ranks into this process, `rank`'s own among them. NoArenaError."""
        info = region.info()
        if not info.arena_bytes:
            raise NoArenaError("a file must not be as long as ranks' rooms (ulimit -f)")
        if resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY:
            raise NoArenaError("addresses are limited (ulimit -v), of which ranks' rooms take many")
        nbytes = info.world * info.arena_bytes
        if why := SystemPages().share(_FIRST, nbytes, region.fd, info.arenas_at):
            raise NoArenaError(f"{nbytes >> 30} GiB of addresses for ranks' rooms: {os.strerror(why)}")
        room = SharedArena(_FIRST + rank * info.arena_bytes, info.arena_bytes)
        if not room.has_large_pages:
            raise NoArenaError(
                "the system has no large pages for memory that ranks share, which would be slower to read; it has since"
                " Linux 6.1, or with advise in /sys/kernel/mm/transparent_hugepage/shmem_enabled"
            )
        return room

    @property
    def has_large_pages(self) -> bool:
        """Whether its pages are as large as those of other memory can be, or will be when there is room for such."""
        refused = self._system.enlarge(self._there) == errno.EINVAL
        return not refused or _says(_SHARED, *_GIVEN) or not _says(_OTHER, "always", "madvise")

    def take(self, nbytes: int) -> int:
        """Address of so many zeros, on a cache line, which will soon be written: their large pages are there, where the
        system has some left. MemoryError: the room is full."""
        begin = -(-self._next // _LINE) * _LINE
        if begin + nbytes > self._middle:
            raise MemoryError(f"{nbytes} bytes of a room that has {self._middle - begin} left")
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
        """Whether it is the room's."""
        return self._begin <= address < self._end

    def reserve(self, nbytes: int) -> int:
        """Address of so many zeros, on a large page, whose pages come when they are first written, or asked for.
        MemoryError: the room is full."""
        begin, left = self._reserved, min(self._end - self._reserved, memory_of_machine())
        if nbytes > left:
            raise MemoryError(f"{nbytes} bytes of a room that has {left} left")
        self._reserved = begin + -(-nbytes // LARGE_PAGE) * LARGE_PAGE
        return begin


def _says(setting: Path, *words: str) -> bool:
    """Whether a setting of large pages is one of these; False where the system has no such."""
    try:
        text = setting.read_text()
    except OSError:
        return False
    return any(f"[{word}]" in text for word in words)
