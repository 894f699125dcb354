"""Requests without a slot, oldest first, and the prefixes that running requests are computing.

A request whose next full block is claimed by a running one is parked until that claim ends: it then finds the block in
the prefix cache, or computes it if the other request was aborted or preempted.
"""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heappop, heappush

from weft.engine.core.request import Request


class WaitingQueue:
    """Order is by priority, then by arrival: a preempted request comes before those of its priority that came later."""

    def __init__(self) -> None:
        self._heap: list[tuple[tuple[int, int], Request]] = []
        self._parked: dict[bytes, list[Request]] = {}
        self._claims: dict[bytes, list[Request]] = {}
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def push(self, request: Request) -> None:
        """Adds a request."""
        self._size += 1
        heappush(self._heap, (request.place, request))

    def discard(self, request: Request) -> None:
        """Counts out a request that has just been marked done; its heap entry is dropped later, by `head`."""
        self._size -= 1

    def head(self) -> Request | None:
        """The oldest request that is not parked."""
        while self._heap and self._heap[0][1].done:
            heappop(self._heap)
        return self._heap[0][1] if self._heap else None

    def pop(self) -> Request:
        """Removes and returns what `head` returned."""
        self._size -= 1
        return heappop(self._heap)[1]

    def park(self, digest: bytes) -> None:
        """Lets the head wait until the claim on `digest` ends."""
        self._parked.setdefault(digest, []).append(heappop(self._heap)[1])

    def last_claimed(self, digests: Sequence[bytes], start: int, limit: int) -> bytes | None:
        """The last digest of the claimed run that begins at `start`, at most up to `limit`; None: nothing claimed."""
        claimed = None
        for digest in digests[start:limit]:
            if digest not in self._claims:
                break
            claimed = digest
        return claimed

    def claim(self, request: Request, digests: Sequence[bytes]) -> None:
        """A running request is going to compute these blocks."""
        for digest in digests:
            self._claims.setdefault(digest, []).append(request)

    def end_claim(self, request: Request, digests: Sequence[bytes]) -> None:
        """The request has computed these blocks, or will not; requests parked for them return to the queue."""
        for digest in digests:
            claims = self._claims[digest]
            claims.remove(request)
            if not claims:
                del self._claims[digest]
                for parked in self._parked.pop(digest, ()):
                    heappush(self._heap, (parked.place, parked))
