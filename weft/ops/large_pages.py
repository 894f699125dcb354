"""Memory of the host on pages of 2 MiB, which the system gives, zeroed, as they are first written."""

from __future__ import annotations

import mmap
from contextlib import suppress

import torch
from torch import Tensor

from weft.errors import ConfigError

_HUGE = 2 << 20


def large_pages(nbytes: int) -> Tensor:
    """uint8 [nbytes], zeros, in a mapping of its own that starts on a large page; whole large pages are asked for.
    ConfigError: the system refuses."""
    try:
        mapping = mmap.mmap(-1, nbytes + _HUGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        raise ConfigError(
            f"the system refuses {nbytes / 2**20:.1f} MiB: {error.strerror}; raise the limit of this process"
            " (ulimit -v) or of all (vm.overcommit_memory)"
        ) from None
    memory = torch.frombuffer(mapping, dtype=torch.uint8)
    begin = -memory.data_ptr() % _HUGE
    whole = nbytes // _HUGE * _HUGE
    if whole and hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a kernel without large pages: they are small then
            mapping.madvise(mmap.MADV_HUGEPAGE, begin, whole)
    return memory[begin : begin + nbytes]
