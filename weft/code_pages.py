"""Pages of libraries' code that a process went through once. Knows nothing of what the code does."""

from __future__ import annotations

import ctypes
import mmap
import re
import sys
from collections.abc import Iterator
from pathlib import Path

MADV_DONTNEED = 4
"""Linux's number."""

LEAST_BYTES = 1 << 20
"""Smaller mappings are not worth a call."""

_CODE = re.compile(rb"^([0-9a-f]+)-([0-9a-f]+) r-xp [0-9a-f]+ \S+ (?!0 )\d+ +/", re.MULTILINE)
"""Of a file, private, not to be written to. What a file's name holds cannot begin a line (proc_pid_maps(5))."""

_ENTRY = 8
"""Bytes of /proc/PID/pagemap for a page (pagemap.rst of Linux's admin guide)."""
_KIND = _ENTRY - 1 if sys.byteorder == "little" else 0
"""Which of them tells where the page is."""
_PRESENT, _SWAPPED, _OF_THE_FILE = 0x80, 0x40, 0x20


def leave_code(proc: Path = Path("/proc/self")) -> None:
    """Large libraries' code no longer counts as this process's memory, until it is run again: what is, comes from the
    system's cache of files, several pages at a time, for as long as the system has memory to keep it there.

    Serving comes back to little of what importing torch goes through (`benchmarks/process_memory.py`). Nothing is done
    where the system does not tell of mappings and pages (Linux does), nor with a mapping that holds a page of its own,
    as where a debugger wrote to it or somebody moved code to large pages. No other thread may unmap code meanwhile.
    """
    advise = ctypes.CDLL(None).madvise
    advise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    try:
        for begin, end in _code((proc / "maps").read_bytes()):
            if _of_the_file(proc / "pagemap", begin, end):
                advise(begin, end - begin, MADV_DONTNEED)  # refused for memory that is locked, which then stays
    except OSError:
        return


def _code(maps: bytes) -> Iterator[tuple[int, int]]:
    for begin, end in ((int(one[1], 16), int(one[2], 16)) for one in _CODE.finditer(maps)):
        if end - begin >= LEAST_BYTES:
            yield begin, end


def _of_the_file(pagemap: Path, begin: int, end: int) -> bool:
    """Whether the file holds what each page of the mapping does."""
    first, count = begin // mmap.PAGESIZE, (end - begin) // mmap.PAGESIZE
    with pagemap.open("rb") as pages:
        pages.seek(first * _ENTRY)
        entries = pages.read(count * _ENTRY)
    kinds = set(entries[_KIND::_ENTRY])
    return len(entries) == count * _ENTRY and not any(
        kind & _SWAPPED or kind & (_PRESENT | _OF_THE_FILE) == _PRESENT for kind in kinds
    )
