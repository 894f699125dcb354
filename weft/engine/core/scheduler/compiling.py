"""Requests of a group whose grammars the ranks have still to compile: they wait for a slot only afterwards, so that no
step waits for a grammar."""

from __future__ import annotations

from collections import deque
from heapq import heappop, heappush

from weft.engine.core.request import Request
from weft.engine.core.waiting_queue import WaitingQueue

AHEAD = 8
"""Grammars that ranks compile, or keep, for requests without a slot: fewer than they keep."""


class Compiling:
    """A group's requests with grammars, the oldest first."""

    def __init__(self, waiting: WaitingQueue) -> None:
        """`waiting`: for a slot."""
        self._waiting = waiting
        self._heap: list[tuple[tuple[int, int], Request]] = []
        self._sent: deque[tuple[int, Request]] = deque()
        """Requests whose grammars ranks have, with how many they then have."""
        self._ahead: list[Request] = []
        """Those of them that have no slot."""
        self._count = 0
        self._arrivals: set[int] = set()

    def __len__(self) -> int:
        return len(self._arrivals)

    def queue(self, request: Request) -> None:
        """Its grammar, where it has one, is compiled in its turn: also after a preemption, for ranks keep only some."""
        if request.params.grammar is None:
            return self._waiting.push(request)
        self._arrivals.add(request.arrival)
        heappush(self._heap, (request.place, request))

    def discard(self, request: Request) -> bool:
        """Whether a request that has just been marked done was here."""
        found = request.arrival in self._arrivals
        self._arrivals.discard(request.arrival)
        return found

    def next_texts(self) -> list[str]:
        """Grammars that ranks are to compile next."""
        self._ahead = [request for request in self._ahead if request.slot < 0 and not request.done]
        texts = []
        while self._heap and len(self._ahead) < AHEAD:
            request = heappop(self._heap)[1]
            if request.done or request.params.grammar is None:
                continue
            self._count += 1
            texts.append(request.params.grammar)
            self._sent.append((self._count, request))
            self._ahead.append(request)
        return texts

    def let(self, count: int) -> None:
        """Requests with the first `count` grammars wait for a slot: every rank has compiled them."""
        while self._sent and self._sent[0][0] <= count:
            request = self._sent.popleft()[1]
            if not request.done:
                self._arrivals.remove(request.arrival)
                self._waiting.push(request)
