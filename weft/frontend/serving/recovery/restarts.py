"""Restarts of ranks that died: how long to wait, and when to give up.

Pure logic: time comes from a clock that tests replace.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from weft.base.errors import CheckpointError, ConfigError, HostMissingError, PeerError

MOST_DEATHS = 5
WINDOW_S = 60.0
LONGEST_DELAY_S = 30.0


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
