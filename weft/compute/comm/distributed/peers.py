"""Which rank is the cause when a connection breaks or a wait ends: from the ranks' processes and their reports.

Ranks meet in a torch store. Each writes there its process id, and later that it failed.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from weft.base.machine.cores import boot_id
from weft.base.plural import numbered
from weft.parallel.layout.ranks import Group

_MOMENT = 0.2  # seconds
_GRACE = 1.0  # seconds for the others to notice the same failure and report it


class Store(Protocol):
    """The part of torch's stores that is used."""

    def set(self, key: str, value: str) -> None: ...

    def get(self, key: str) -> bytes: ...

    def check(self, keys: list[str]) -> bool: ...


class Peers:
    """Watches the processes of the other ranks of this machine by pidfd, which no reused pid can fool."""

    def __init__(self, store: Store, rank: int, world: int) -> None:
        """Waits for every rank of the world; RuntimeError (torch's) at the store's time limit."""
        self._store = store
        self._rank = rank
        self._pidfds: dict[int, int] = {}
        machine = _machine()
        store.set(f"process {rank}", f"{machine} {os.getpid()}")
        for peer in range(world):
            where, pid = store.get(f"process {peer}").decode().rsplit(" ", 1)
            if peer != rank and where == machine:
                self._watch(peer, int(pid))

    def _watch(self, peer: int, pid: int) -> None:
        try:
            self._pidfds[peer] = os.pidfd_open(pid)
        except OSError:
            self._pidfds[peer] = -1  # ended already, or a kernel without pidfd

    def ended(self) -> list[int]:
        """Ranks whose process has ended."""
        poll = select.poll()
        for fd in self._pidfds.values():
            if fd >= 0:
                poll.register(fd, select.POLLIN)
        ready = {fd for fd, _ in poll.poll(0)}
        return sorted(peer for peer, fd in self._pidfds.items() if fd in ready)

    def culprit(self, group: Group, hang_up: Callable[[], None]) -> str:
        """The ranks to name after a failed collective; empty when none is known. Takes up to 1.2 seconds.

        A process that ended is the cause. Else it is a rank that did not fail: members that were in the collective find
        the connection closed (`hang_up` closes this rank's) or their time over, and say so in the store; one that never
        came does not. No rank returns, and perhaps ends its own process, before the others have looked: so only the
        first to end is named.
        """
        ended = self._wait_for_ended()
        self._report()
        hang_up()
        silent = self._wait_for_reports([rank for rank in group if rank != self._rank and rank not in ended])
        if ended:
            return numbered(ended) + " died"
        return numbered(silent) + " did not come" if silent else ""

    def _wait_for_ended(self) -> list[int]:
        """A connection breaks a moment before its process counts as ended."""
        until = time.monotonic() + _MOMENT
        while not (ended := self.ended()) and time.monotonic() < until:
            time.sleep(0.01)
        return ended

    def _report(self) -> None:
        with suppress(RuntimeError):  # the store goes with rank 0
            self._store.set(f"failed {self._rank}", "1")

    def _wait_for_reports(self, others: list[int]) -> list[int]:
        """Waits for the others to report their failure; those that did not."""
        until = time.monotonic() + _GRACE
        try:
            while others and time.monotonic() < until:
                others = [rank for rank in others if not self._store.check([f"failed {rank}"])]
                time.sleep(0.01)
        except RuntimeError:
            time.sleep(_MOMENT)  # no store to ask; the others look just now, too
        return others

    def close(self) -> None:
        """Closes the descriptors."""
        for fd in self._pidfds.values():
            if fd >= 0:
                os.close(fd)
        self._pidfds.clear()


def _machine() -> str:
    """Equal for two processes that can see each other's pids."""
    return f"{boot_id()} {os.readlink('/proc/self/ns/pid')}"
