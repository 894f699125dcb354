"""Pre-faulting of the KV cache: a thread asks the system for pages ahead of the steps that first write them.

The first write of a page waits for the system, in a virtual machine perhaps for its host too: steps in which eight
streams begin a block may take half as long again. A cache is as large as memory allows,
so it is not written whole at the start: pages are asked for a little beyond the highest block that was ever used, most
of them while nothing else is to be done.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterable
from mmap import PAGESIZE

from torch import Tensor

from weft.compute.native.step_library import Awaited
from weft.compute.native.system_pages import LARGE_PAGE, SystemPages

AHEAD_BLOCKS, MOST_BYTES = 16, 64 << 20
"""How far beyond the highest block that was ever used pages are asked for while no step runs: blocks for each slot,
bytes of all ranks that have a part of each block."""
BESIDE_BYTES = 32 << 20
"""How far beside steps, which then are slower, bytes of all those ranks: what dozens of streams take that begin a block
in the same step."""
AT_ONCE_BYTES = LARGE_PAGE
SOON_S, OFTEN_S, RARELY_S = 0.02, 0.1, 0.5
"""When the thread looks again: at the latest after pages that came beside steps; where all were there; and where
nothing has happened for a while."""
SELDOM_S, NEWS_S = 2.0, 60.0
"""When it does so although it is woken at a higher block: where more pages would be asked for if no step ran; and where
all are there, until there is one. A look takes its core from a step, and the other ranks of a layout wait with it."""
LOOKS = 20
"""How often nothing may have happened before it looks rarely."""

Steps = tuple[int, bool]
"""How many have begun, and whether one runs."""


class Prefault:
    """A thread for `memory`, uint8, whose blocks of `block_bytes` are numbered from its start; `highest`: of all that
    were ever used, by `slots` requests at a time at most. It keeps to `cpus`, if any, and not to its maker's. Where the
    system has no such request, pages come as steps write them."""

    def __init__(
        self,
        memory: Tensor,
        block_bytes: int,
        slots: int,
        highest: Callable[[], int],
        steps: Callable[[], Steps],
        cpus: Iterable[int] = (),
        sharing: int = 1,
        awaited: Awaited | None = None,
    ) -> None:
        """`sharing`: ranks that have a part of each block, and ask alike; `awaited`: where `highest` stands."""
        self._memory, self._block_bytes, self._highest, self._steps = memory, block_bytes, highest, steps
        self._cpus, self._awaited = frozenset(cpus), awaited
        self.ahead = min(MOST_BYTES // sharing, AHEAD_BLOCKS * slots * block_bytes)
        """How far pages are asked for while no step runs, bytes."""
        self.beside = min(self.ahead, BESIDE_BYTES // sharing)
        """The same beside steps."""
        self._system = SystemPages()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="prefault", daemon=True)
        self.ready = 0
        """Bytes from the start whose pages are there."""
        self._refused = False

    def start(self) -> None:
        """Looks for the first time."""
        self._thread.start()

    def close(self) -> None:
        """Ends the thread, if it was started."""
        self._ended.set()
        if self._awaited is not None:
            self._awaited.end()
        if self._thread.is_alive():
            self._thread.join()

    @property
    def done(self) -> bool:
        """Whether nothing will be asked for any more: all is there, or the system does not know how."""
        return self._refused or self.ready >= len(self._memory)

    def advance(self, ahead: int) -> bool:
        """Asks for some of what is missing `ahead` bytes beyond the highest block; whether anything came."""
        size = min(self._missing(ahead), AT_ONCE_BYTES)
        if size <= 0:
            return False
        at = self._memory.data_ptr() + self.ready
        if why_not := self._system.populate(at, size):
            self._refused = why_not == errno.EINVAL  # an older system; else there may be memory another time
            return False
        self.ready += size
        return True

    def _missing(self, ahead: int) -> int:
        """Bytes, in whole pages, `ahead` beyond the highest block; not above 0 where all is there."""
        wanted = min(len(self._memory), (self._highest() + 1) * self._block_bytes + ahead)
        return -(-wanted // PAGESIZE) * PAGESIZE - self.ready

    def _pause_s(self) -> float:
        """After a request beside steps: the shorter, the less is there. What a step does not find it waits for, with
        all its threads; and requests that come together make one step slow."""
        there = self.ready - (self._highest() + 1) * self._block_bytes
        return SOON_S * max(0, min(there, self.beside)) / self.beside

    def _rest(self, quiet: int) -> None:
        """Where nothing came; for so many looks nothing was to be done at all."""
        highest = self._highest()
        enough = (self.ready - self.beside) // self._block_bytes - 1  # the highest block at which nothing is missing
        if self._awaited is None or highest > enough:
            self._ended.wait(OFTEN_S if quiet < LOOKS else RARELY_S)
        elif self._missing(self.ahead) > 0:
            self._awaited.above(enough, SELDOM_S)
        else:
            self._awaited.above(highest, NEWS_S)

    def _run(self) -> None:
        if self._cpus:
            os.sched_setaffinity(0, self._cpus)
        quiet, seen = 0, None
        while not self.done and not self._ended.is_set():
            now = self._steps()
            idle, seen = now == seen and not now[1], now
            came = self.advance(self.ahead if idle else self.beside)
            quiet = quiet + 1 if idle and not came else 0
            if not came:
                self._rest(quiet)
            elif not idle:
                self._ended.wait(self._pause_s())
