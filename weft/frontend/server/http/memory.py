"""MemoryGuard: requests are refused while the machine, or the server's control group, has almost no memory left."""

from __future__ import annotations

import time
from collections.abc import Callable

from weft.base.errors import RequestError
from weft.base.machine.control_groups import memory_shares

SHARE, MOST_KEPT = 0.05, 1 << 30
"""What must be left of the memory: a share, and at most so many bytes."""
LOOK_S = 0.5
"""Seconds between two looks."""


class MemoryGuard:
    """`shares` gives (bytes left, bytes in all) of the machine and of each control group. Belongs to the event loop."""

    def __init__(
        self,
        shares: Callable[[], list[tuple[int, int]]] = memory_shares,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._shares, self._clock = shares, clock
        self._short, self._looked = False, -LOOK_S

    def check(self) -> None:
        """RequestError (503): memory is short."""
        now = self._clock()
        if now - self._looked >= LOOK_S:
            self._looked = now
            self._short = any(left < min(SHARE * whole, MOST_KEPT) for left, whole in self._shares())
        if self._short:
            raise RequestError("the server is short of memory; try again", status=503, code="insufficient_memory")
