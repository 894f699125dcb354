"""Which requests end ranks: suspects, which run again alone, and the quarantine, whose requests are not run.

Pure logic: time comes from a clock that tests replace.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass

MOST_QUARANTINED = 1024
"""Entries of each table; the oldest go first."""
LIFTED_AFTER_S = 600.0
"""How long a suspicion and a quarantine last."""


@dataclass(slots=True)
class Suspicion:
    """A request whose ranks died: the replica that it ran on, and when."""

    replica: int
    at: float


class Quarantine:
    """Requests by digest. Those in flight at a death become suspects. A suspect that then has its ranks die while it
    runs alone is quarantined."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._suspects: dict[bytes, Suspicion] = {}
        self._closed: dict[bytes, float] = {}

    @property
    def watches(self) -> bool:
        """Whether any digest matters."""
        self._expire()
        return bool(self._closed or self._suspects)

    def died(self, running: Collection[bytes], replica: int = 0) -> None:
        """The replica's ranks died, by a cause that rows can bring about, while these ran; one entry a request."""
        now = self._clock()
        for digest in running:
            suspected = self._suspects.pop(digest, None) is not None
            if suspected and len(running) == 1:
                self._closed[digest] = now
            else:
                self._suspects[digest] = Suspicion(replica, now)
        for table in (self._suspects, self._closed):
            while len(table) > MOST_QUARANTINED:
                del table[next(iter(table))]

    def suspected_at(self, digest: bytes) -> int | None:
        """The replica whose last death this may have caused."""
        found = self._suspects.get(digest)
        return None if found is None else found.replica

    def ended_well(self, digest: bytes) -> None:
        """A suspect has run to its end."""
        self._suspects.pop(digest, None)

    def lifted_in_s(self) -> list[float]:
        """Seconds after which each entry of the quarantine is lifted, the first to be lifted first."""
        self._expire()
        now = self._clock()
        return [at + LIFTED_AFTER_S - now for at in self._closed.values()]

    def __contains__(self, digest: bytes) -> bool:
        self._expire()
        return digest in self._closed

    def _expire(self) -> None:
        """Both tables are in the order of their times."""
        oldest = self._clock() - LIFTED_AFTER_S
        while self._closed and next(iter(self._closed.values())) <= oldest:
            del self._closed[next(iter(self._closed))]
        while self._suspects and next(iter(self._suspects.values())).at <= oldest:
            del self._suspects[next(iter(self._suspects))]
