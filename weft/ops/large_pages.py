"""Memory of the host on pages of 2 MiB, which the system gives, zeroed, as they are first written."""

from __future__ import annotations

import mmap
from contextlib import suppress

import torch
from torch import Tensor

from weft.errors import ConfigError
from weft.native.system_pages import LARGE_PAGE


def large_pages(nbytes: int) -> Tensor:
    """uint8 [nbytes], zeros, in a mapping of its own that starts on a large page; whole large pages are asked for.
    ConfigError: the system refuses."""
    try:
        mapping = mmap.mmap(-1, nbytes + LARGE_PAGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        raise ConfigError(
            f"the system refuses {nbytes / 2**20:.1f} MiB: {error.strerror}; raise the limit of this process"
            " (ulimit -v) or of all (vm.overcommit_memory)"
        ) from None
    memory = torch.frombuffer(mapping, dtype=torch.uint8)
    begin = -memory.data_ptr() % LARGE_PAGE
    whole = nbytes // LARGE_PAGE * LARGE_PAGE
    if whole and hasattr(mmap, "MADVLARGE_PAGEPAGE"):
        with suppress(OSError):  # a kernel without large pages: they are small then
            mapping.madvise(mmap.MADVLARGE_PAGEPAGE, begin, whole)
    return memory[begin : begin + nbytes]
