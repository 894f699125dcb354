"""Pages of the KV cache, asked of the system ahead of the steps that write them first. Knows blocks by number only.

Whoever writes a page first waits for the system, in a virtual machine perhaps for its host too: steps in which eight
streams begin a block may take half as long again (`benchmarks/first_writes.py`). A cache is as large as memory allows,
so it is not written whole at the start: pages are asked for a little beyond the last block in use, while nothing else
is to be done.
"""

from __future__ import annotations

import ctypes
import errno
import threading
from collections.abc import Callable
from mmap import PAGESIZE

from torch import Tensor

AHEAD_BLOCKS, MOST_BYTES = 16, 64 << 20
"""How far beyond the last block in use pages are asked for while no step runs: blocks for each slot, bytes."""
BESIDE_BYTES = 8 << 20
"""How far beside steps, which then are slower."""
AT_ONCE_BYTES = 2 << 20
EVERY_S = 0.02
LOOKS = 100
"""How often nothing may have happened before the thread sleeps until it is woken."""
_POPULATE_WRITE = 23
"""madvise(2), MADV_POPULATE_WRITE: since Linux 5.14; changes no content."""

Steps = tuple[int, bool]
"""How many have begun, and whether one is in hand."""


class FirstWrites:
    """A thread for `memory`, uint8, whose blocks of `block_bytes` are numbered from its start; `last_block`: the
    highest in use, by `slots` requests at most. Where the system knows no such request, pages come as steps write
    them."""

    def __init__(
        self,
        memory: Tensor,
        block_bytes: int,
        slots: int,
        last_block: Callable[[], int],
        steps: Callable[[], Steps],
    ) -> None:
        self._memory, self._block_bytes, self._last_block, self._steps = memory, block_bytes, last_block, steps
        self.ahead = min(MOST_BYTES, AHEAD_BLOCKS * slots * block_bytes)
        """How far pages are asked for while no step runs, bytes."""
        self._madvise = ctypes.CDLL(None, use_errno=True).madvise
        self._madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
        self._woken, self._ended = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="first-writes", daemon=True)
        self.ready = 0
        """Bytes from the start whose pages are there, or will not be asked for."""

    def start(self) -> None:
        """Looks for the first time."""
        self._woken.set()
        self._thread.start()

    def wake(self) -> None:
        """Blocks may come into use from now on."""
        self._woken.set()

    def close(self) -> None:
        """Ends the thread, if it was started."""
        self._ended.set()
        self._woken.set()
        if self._thread.is_alive():
            self._thread.join()

    def advance(self, ahead: int) -> bool:
        """Asks for some of what is missing `ahead` bytes beyond the last block in use; whether anything was."""
        wanted = min(len(self._memory), (self._last_block() + 1) * self._block_bytes + ahead)
        size = min(-(-wanted // PAGESIZE) * PAGESIZE - self.ready, AT_ONCE_BYTES)
        if size <= 0:
            return False
        if self._madvise(self._memory.data_ptr() + self.ready, size, _POPULATE_WRITE):
            if ctypes.get_errno() == errno.EINVAL:  # an older system; else there may be memory another time
                self.ready = len(self._memory)
            return False
        self.ready += size
        return True

    def _run(self) -> None:
        while self.ready < len(self._memory) and not self._ended.is_set():
            self._woken.wait()
            self._woken.clear()
            self._until_quiet()

    def _until_quiet(self) -> None:
        quiet, seen = 0, None
        while quiet < LOOKS and not self._ended.is_set():
            now = self._steps()
            idle, seen = now == seen and not now[1], now
            asked = self.advance(self.ahead if idle else min(self.ahead, BESIDE_BYTES))
            quiet = quiet + 1 if idle and not asked else 0
            if not (idle and asked):
                self._ended.wait(EVERY_S)
