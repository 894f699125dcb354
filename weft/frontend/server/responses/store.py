"""ResponseStore: responses that clients may read again, within bounds of number, memory and time. Lost at a restart."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec

from weft.base.errors import RequestError
from weft.frontend.server.responses.requests import Item

MOST_RESPONSES = 1000
MOST_BYTES = 64 * 1024 * 1024
"""Bytes of JSON of all responses and their items."""
LARGEST = 8
"""The items of one response may have at most one part in so many of the bytes: otherwise one request drops the rest."""
KEPT_S = 3600.0
"""Seconds after which a response is dropped."""


@dataclass(frozen=True, slots=True)
class Stored:
    """`body`: the response as JSON. `input`: its items, those of earlier responses first. `output`: the answer's."""

    body: bytes
    input: Sequence[Item]
    output: Sequence[Item]
    size: int
    made_at: float


class ResponseStore:
    """The responses of one key's holder. The least recently used goes first. Belongs to the event loop."""

    def __init__(
        self,
        most: int = MOST_RESPONSES,
        most_bytes: int = MOST_BYTES,
        kept_s: float = KEPT_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._most, self._most_bytes, self._kept_s, self._clock = most, most_bytes, kept_s, clock
        self._stored: OrderedDict[str, Stored] = OrderedDict()
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._stored)

    def check(self, input: Sequence[Item]) -> None:
        """RequestError: a response to these items would be too large to be stored."""
        size, most = len(msgspec.json.encode(input)), self._most_bytes // LARGEST
        if size > most:
            message = (
                f"the input, with that of earlier responses, has {size:,} bytes; a response is stored with at most"
                f" {most:,} bytes of input: give 'store': false, or start a new conversation"
            )
            raise RequestError(message, param="store")

    def put(self, id: str, body: bytes, input: Sequence[Item], output: Sequence[Item]) -> None:
        """Keeps a response, unless it alone is too large. What is over age or a bound goes."""
        size = len(body) + len(msgspec.json.encode([input, output]))
        self._stored[id] = Stored(body, input, output, size, self._clock())
        self.bytes += size
        for old in [old for old, one in self._stored.items() if self._is_over(one)]:
            self._drop(old)
        while len(self._stored) > self._most or self.bytes > self._most_bytes:
            self._drop(next(iter(self._stored)))

    def get(self, id: str, param: str | None = None) -> Stored:
        """RequestError (404): it is not there."""
        found = self._stored.get(id)
        if found is None or self._is_over(found):
            bounds = f"{self._most:,} responses and {self._most_bytes >> 20} MiB for {self._kept_s / 3600:g} h"
            message = (
                f"there is no response '{id[:80]}': it was not stored, or was dropped. The server keeps at most"
                f" {bounds} and drops the least recently used first; a restart drops all"
            )
            raise RequestError(message, param=param, status=404, code="response_not_found")
        self._stored.move_to_end(id)
        return found

    def delete(self, id: str) -> None:
        """RequestError (404): it is not there."""
        self.get(id)
        self._drop(id)

    def _is_over(self, stored: Stored) -> bool:
        return self._clock() - stored.made_at > self._kept_s

    def _drop(self, id: str) -> None:
        self.bytes -= self._stored.pop(id).size
