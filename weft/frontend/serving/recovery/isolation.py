"""Isolation: suspects run one by one, each alone on its replica; what else comes waits, or goes to another replica.

Belongs to the event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from weft.frontend.serving.stream import Stream

ALONE_S = 30.0
"""Seconds that others wait for a suspect that runs alone, and that a suspect waits for others to end. After them they
run together: a death would then say nothing of either, and both would be suspects."""


class Isolation:
    """`serves`: whether a replica takes streams. `run` gives a stream to a replica. `freed` is called when a replica
    takes streams that are no suspects again."""

    def __init__(
        self,
        replicas: int,
        serves: Callable[[int], bool],
        run: Callable[[Stream, int], None],
        freed: Callable[[], None],
    ) -> None:
        self._serves, self._run, self._freed = serves, run, freed
        self._waiting: list[dict[Stream, None]] = [{} for _ in range(replicas)]
        self._alone: list[Stream | None] = [None] * replicas
        self._running: list[set[Stream]] = [set() for _ in range(replicas)]

    def holds(self, replica: int) -> bool:
        """Whether the replica is kept for suspects."""
        return bool(self._waiting[replica]) or self._alone[replica] is not None

    def waits(self, stream: Stream) -> bool:
        """Whether it is a suspect that has not begun."""
        return any(stream in waiting for waiting in self._waiting)

    def began(self, stream: Stream, replica: int) -> None:
        """The stream runs on the replica."""
        self._running[replica].add(stream)

    def add(self, stream: Stream, replica: int) -> None:
        """A suspect that is to run on the replica."""
        stream.replica = replica
        self._waiting[replica][stream] = None
        asyncio.get_running_loop().call_later(ALONE_S, self._together, stream, replica)
        self.turn(replica)

    def turn(self, replica: int) -> None:
        """Begins the replica's next suspect, where nothing runs there."""
        if self._running[replica] or not self._serves(replica):
            return
        if self._waiting[replica]:
            self._begin(next(iter(self._waiting[replica])), replica)
            asyncio.get_running_loop().call_later(ALONE_S, self._long, self._alone[replica], replica)

    def leave(self, stream: Stream) -> None:
        """It has ended, or is placed anew."""
        for replica in range(len(self._waiting)):
            held = self.holds(replica)
            self._waiting[replica].pop(stream, None)
            self._running[replica].discard(stream)
            if self._alone[replica] is stream:
                self._alone[replica] = None
            self.turn(replica)
            if held and not self.holds(replica):
                self._freed()

    def _begin(self, stream: Stream, replica: int) -> None:
        self._waiting[replica].pop(stream)
        self._alone[replica] = stream
        self._run(stream, replica)

    def _together(self, stream: Stream, replica: int) -> None:
        """It has waited long enough for what runs to end."""
        if stream in self._waiting[replica] and self._serves(replica) and self._alone[replica] is None:
            self._begin(stream, replica)
            self._long(stream, replica)

    def _long(self, stream: Stream | None, replica: int) -> None:
        """It has run long enough: others may run beside it."""
        if stream is None or self._alone[replica] is not stream:
            return
        self._alone[replica] = None
        self._running[replica].discard(stream)
        self.turn(replica)
        if not self.holds(replica):
            self._freed()
