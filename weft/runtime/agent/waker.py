"""Waker: lets the agent sleep while no frame passes through its sessions, and wakes it when one does."""

from __future__ import annotations

import os
from contextlib import suppress


class Waker:
    """`passed` is for the sessions' threads, the rest for the agent's. A call of the system is made only for the first
    frame after a rest."""

    def __init__(self) -> None:
        self._fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._resting = self._passed = False

    def fileno(self) -> int:
        """For poll."""
        return self._fd

    def passed(self) -> None:
        """A frame has passed."""
        self._passed = True
        if self._resting and self._fd >= 0:
            os.eventfd_write(self._fd, 1)

    def rest(self) -> bool:
        """Whether no frame has passed since the last call; if so, the next one makes the descriptor readable."""
        self._resting = True  # first: a frame from now on is seen below, or wakes
        passed, self._passed = self._passed, False
        if passed:
            self._resting = False
        return not passed

    def wake(self) -> None:
        """The rest is over."""
        self._resting = False
        with suppress(BlockingIOError):
            os.eventfd_read(self._fd)

    def close(self) -> None:
        """When no session is left."""
        fd, self._fd = self._fd, -1
        os.close(fd)
