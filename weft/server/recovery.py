"""What follows from the death of the ranks: how long to wait, when to give up, which requests not to run again.

Knows no process and no thread; time comes from a clock that tests replace.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from weft.errors import CheckpointError, ConfigError, PeerError

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
    """Requests, by digest, that were in the step that two successive deaths ended. Bounded: the oldest go first."""

    def __init__(self) -> None:
        self._suspects: frozenset[bytes] = frozenset()
        self._closed: dict[bytes, None] = {}

    @property
    def watches(self) -> bool:
        """Whether any digest matters."""
        return bool(self._suspects or self._closed)

    def died(self, running: Iterable[bytes]) -> None:
        """The ranks died while these ran. With none, the suspicion against earlier ones stays."""
        now = frozenset(running)
        if not now:
            return
        for digest in now & self._suspects:
            self._closed[digest] = None
        while len(self._closed) > MOST_QUARANTINED:
            del self._closed[next(iter(self._closed))]
        self._suspects = now - self._closed.keys()

    def ended_well(self, digest: bytes) -> None:
        """A suspect has run to its end."""
        self._suspects -= {digest}

    def __contains__(self, digest: bytes) -> bool:
        return digest in self._closed
