"""Which requests end ranks: suspects, which run again alone, and the quarantine, whose requests are not run.

Pure logic: time comes from a clock that tests replace.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection

MOST_QUARANTINED = 1024
"""Entries of each table; the oldest go first."""
LIFTED_AFTER_S = 600.0
"""How long a suspicion and a quarantine last."""
DEATHS_ALONE, KILLS_ALONE = 1, 2
"""Deaths of a suspect that runs alone after which it is quarantined: of ranks that ended themselves (a crash), and of
ranks that were killed, which may have come from outside."""


class Suspicion:
    """Of one request: the replica that died, when, and how many deaths it has had since while it ran alone."""

    def __init__(self, replica: int, at: float) -> None:
        self.replica, self.at = replica, at
        self.deaths = self.kills = 0

    @property
    def certain(self) -> bool:
        """Whether it is taken for the cause."""
        return self.deaths >= DEATHS_ALONE or self.kills >= KILLS_ALONE


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

    def died(self, running: Collection[bytes], replica: int = 0, *, killed: bool = False) -> None:
        """The replica's ranks died while these ran, one entry for each request. `killed`: by a signal that may have
        come from outside."""
        now = self._clock()
        for digest in running:
            found = self._suspects.pop(digest, None)
            suspicion = self._suspects[digest] = found or Suspicion(replica, now)
            suspicion.replica, suspicion.at = replica, now
            if found is None or len(running) > 1:
                continue
            suspicion.kills += killed
            suspicion.deaths += not killed
            if suspicion.certain:
                del self._suspects[digest]
                self._closed[digest] = now
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
