"""Pages of libraries' code that a process went through once. Knows nothing of what the code does."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterator
from pathlib import Path

MADV_DONTNEED = 4
"""Linux's number."""

LEAST_BYTES = 1 << 20
"""Smaller mappings are not worth a call."""

_MAPPING = re.compile(
    r"^(?P<begin>[0-9a-f]+)-(?P<end>[0-9a-f]+) r-xp \S+ \S+ (?!0 )\d+ +/[^\n]*\n"
    r"(?:[A-Z][^\n]*\n)*?Anonymous: +0 kB$",
    re.MULTILINE,
)
"""Code of a file that nobody wrote to: what its pages hold is what the file holds."""


def leave_code(smaps: Path = Path("/proc/self/smaps")) -> None:
    """Large libraries' code no longer counts as this process's memory, until it is run again: what is, comes from the
    system's cache of files, which it stays in, several pages at a time.

    Importing torch alone goes through some 70 MiB of code, and serving comes back to a few. Nothing is done where the
    system does not tell mappings (Linux does), nor with a mapping that was written to, as a debugger does.
    """
    try:
        text = smaps.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return
    advise = ctypes.CDLL(None).madvise
    advise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    for begin, end in _code(text):
        advise(begin, end - begin, MADV_DONTNEED)  # the system may refuse it, as for locked memory; then it stays


def _code(smaps: str) -> Iterator[tuple[int, int]]:
    for found in _MAPPING.finditer(smaps):
        begin, end = int(found["begin"], 16), int(found["end"], 16)
        if end - begin >= LEAST_BYTES:
            yield begin, end
