"""What follows from the death of the ranks: how long to wait, when to give up, which requests not to run again.

Pure logic: time comes from a clock that tests replace.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from weft.errors import CheckpointError, ConfigError, HostMissingError, PeerError

MOST_DEATHS = 5
WINDOW_S = 60.0
LONGEST_DELAY_S = 30.0
MOST_QUARANTINED = 1024


class Recovery:
    """Delays of 1, 2, 4 .. 30 s between restarts, from 1 again after 60 s without a death; five deaths within 60 s end
    the server."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._deaths: list[float] = []
        self._in_a_row = 0

    def delay(self, error: BaseException, lived_s: float) -> float:
        """Seconds until the restart after this death. Raises what ends the server instead.

        `lived_s`: how long the ranks had been ready.
        """
        if isinstance(error, ConfigError | CheckpointError):
            raise error  # the next start would end in the same way
        if isinstance(error, HostMissingError):
            raise error  # the start has waited for the host as long as it may
        now = self._clock()
        self._deaths = [at for at in self._deaths if now - at < WINDOW_S] + [now]
        if len(self._deaths) >= MOST_DEATHS:
            raise PeerError(
                f"the ranks died {MOST_DEATHS} times within {WINDOW_S:g} s, so they are not started again; the last"
                f" time: {error}"
            ) from error
        self._in_a_row = 1 if lived_s > WINDOW_S else self._in_a_row + 1
        return min(LONGEST_DELAY_S, 2.0 ** (self._in_a_row - 1))


class Quarantine:
    """Requests, by digest, that were in the step that two deaths ended: two successive ones of a replica, or of two
    replicas the last ones. Bounded: the oldest go first."""

    def __init__(self) -> None:
        self._suspects: dict[int, frozenset[bytes]] = {}
        self._closed: dict[bytes, None] = {}

    @property
    def watches(self) -> bool:
        """Whether any digest matters."""
        return bool(self._closed) or any(self._suspects.values())

    def died(self, running: Iterable[bytes], replica: int = 0) -> None:
        """The replica's ranks died while these ran. With none, the suspicion against earlier ones stays."""
        now = frozenset(running)
        if not now:
            return
        for digest in now.intersection(frozenset().union(*self._suspects.values())):
            self._closed[digest] = None
        while len(self._closed) > MOST_QUARANTINED:
            del self._closed[next(iter(self._closed))]
        self._suspects[replica] = now
        self._suspects = {each: digests - self._closed.keys() for each, digests in self._suspects.items()}

    def suspected_at(self, digest: bytes) -> int | None:
        """The replica whose last death this may have caused."""
        return next((replica for replica, digests in self._suspects.items() if digest in digests), None)

    def ended_well(self, digest: bytes) -> None:
        """A suspect has run to its end."""
        self._suspects = {replica: digests - {digest} for replica, digests in self._suspects.items()}

    def __contains__(self, digest: bytes) -> bool:
        return digest in self._closed
