"""Memory of the host on pages of 2 MiB, which the system gives, zeroed, as they are first written."""

from __future__ import annotations

import mmap

import torch
from torch import Tensor

from weft.base.errors import ConfigError
from weft.compute.native.system_pages import LARGE_PAGE, SystemPages


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
    if whole := nbytes // LARGE_PAGE * LARGE_PAGE:
        SystemPages().wish_large(memory.data_ptr() + begin, whole)  # a system without large pages has small ones then
    return memory[begin : begin + nbytes]
