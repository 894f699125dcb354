"""Stream: the outputs of one HTTP request on their way from the engine to its reader."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from weft.base.errors import RequestError
from weft.base.step.sampling_params import SamplingParams
from weft.engine.core.outputs import RequestOutput

MOST_UNREAD = 64
"""Records that a stream holds for its reader, beside two of each output."""


class BegunAgain(Exception):
    """What the reader has taken so far is void: the request runs anew, from its first token."""


@dataclass(slots=True, eq=False)
class Stream:
    """Outputs of one HTTP request, which may hold several prompts. Belongs to the event loop's thread; one reader.

    Engine request `request_ids[p]` has choices p * n .. p * n + n - 1. `whole`: the client sees nothing before the
    last output has ended, so the request can run anew although its reader has taken something.
    """

    request_ids: tuple[str, ...]
    prompts: tuple[list[int], ...]
    params: SamplingParams
    whole: bool = False
    replica: int = 0
    """That runs it, or ran it last."""
    open_outputs: int = 0
    arrived: list[tuple[int, RequestOutput]] = field(default_factory=list)
    event: asyncio.Event = field(default_factory=asyncio.Event)
    error: RequestError | None = None
    direct: Callable[[list[tuple[int, RequestOutput]]], bool] | None = None
    """Passes records on at once while the reader waits, without waking it. False: now the reader must look."""
    crowded: Callable[[], None] | None = None
    """Called while the reader leaves more than MOST_UNREAD records, and two for each output."""
    refused: bool = False
    """An engine did not take a part of it, or not in time: it has not ended well."""
    answered: bool = False
    """Its reader has the whole answer, whatever the engine has still to say of it."""
    _waiting: bool = False
    _taken: bool = False
    _again: bool = False

    def __post_init__(self) -> None:
        self.open_outputs = self.n * len(self.request_ids)

    @property
    def n(self) -> int:
        """Outputs of each prompt."""
        return self.params.n

    @property
    def untouched(self) -> bool:
        """Whether nothing has come, and none of its outputs has ended."""
        return not self._taken and not self.arrived and self.open_outputs == self.n * len(self.request_ids)

    @property
    def can_begin_again(self) -> bool:
        """Whether the client has seen nothing that a second run could contradict."""
        return self.whole or not self._taken

    async def next(self) -> list[tuple[int, RequestOutput]]:
        """All (choice, record) since the last call, without those that `direct` had. RequestError: it failed.

        BegunAgain, of a `whole` stream only: forget what came before.
        """
        if not self.stirred:
            self.event.clear()
            self._waiting = True
            try:
                await self.event.wait()
            finally:
                self._waiting = False
        if self.error is not None:
            raise self.error
        if self._again:
            self._again = False
            raise BegunAgain
        arrived, self.arrived = self.arrived, []
        self._taken = True
        return arrived

    @property
    def stirred(self) -> bool:
        """Whether `next` would come back at once."""
        return bool(self.arrived) or self.error is not None or self._again

    async def wait(self, seconds: float) -> None:
        """Until `next` would come back at once, at most so long."""
        if not self.stirred:
            self.event.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self.event.wait()

    def put(self, choice: int, output: RequestOutput) -> None:
        """Called by the loop only; `flush` follows when a step's records are in."""
        self.arrived.append((choice, output))
        self.open_outputs -= output.finish_reason is not None

    def flush(self) -> None:
        """Hands over what has arrived."""
        if self.direct is None or not self._waiting or self.error is not None or self._again:
            self.event.set()
            if self.crowded is not None and len(self.arrived) > MOST_UNREAD + 2 * self.n * len(self.request_ids):
                self.crowded()
            return
        arrived, self.arrived = self.arrived, []
        self._taken = True
        if not self.direct(arrived):
            self._waiting = False
            self.event.set()

    def fail(self, error: RequestError) -> None:
        """Ends the stream; the first reason stays."""
        self.error = self.error or error
        self.event.set()

    def let_go(self) -> None:
        """The reader has ended. What refers back to it goes, so that it is freed now and not when the collector comes:
        its writer, and the error, whose traceback holds the frames that it went through."""
        self.direct = self.error = self.crowded = None

    def begin_again(self) -> None:
        """The request runs anew."""
        self.arrived.clear()
        self.open_outputs = self.n * len(self.request_ids)
        self._again, self._taken = self._again or self._taken, False
        self.event.set()

    def digest(self) -> bytes:
        """Equal for two requests that ask for the same."""
        return hashlib.sha256(repr((self.prompts, self.params)).encode(errors="backslashreplace")).digest()
