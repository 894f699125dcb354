"""Memory of the host on pages of 2 MiB, which the system gives, zeroed, as they are first written."""

from __future__ import annotations

import mmap

import torch
from torch import Tensor

_HUGE = 2 << 20


def large_pages(nbytes: int) -> Tensor:
    """uint8 [nbytes], zeros, in a mapping of its own that starts on a large page; whole large pages are asked for."""
    mapping = mmap.mmap(-1, nbytes + _HUGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory = torch.frombuffer(mapping, dtype=torch.uint8)
    begin = -memory.data_ptr() % _HUGE
    whole = nbytes // _HUGE * _HUGE
    if whole and hasattr(mmap, "MADV_HUGEPAGE"):
        mapping.madvise(mmap.MADV_HUGEPAGE, begin, whole)
    return memory[begin : begin + nbytes]
