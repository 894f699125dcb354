"""EngineLoop: the engine in a thread of its own, and its outputs in the event loop. Knows no HTTP and no text.

The thread sleeps while nothing runs. A step's outputs cross to the event loop in one call; a stream's reader gets all
that has come since it last looked. When the engine ends, every open stream ends with the reason.
"""

from __future__ import annotations

import asyncio
import os
import select
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from operator import methodcaller
from typing import Protocol

from weft.engine.engine import Engine
from weft.engine.limits import Limits
from weft.engine.outputs import FinishReason, RequestOutput
from weft.errors import PeerError, RequestError, WeftError
from weft.log import get_logger
from weft.server.errors import engine_failed, not_ready, queue_full, stopping
from weft.step.sampling_params import SamplingParams

_log = get_logger(__name__)


class Executor(Protocol):
    """What the loop needs besides the engine: a sleep that notices a rank's death, and an end."""

    def wait(self, wake_fd: int) -> None:
        """Sleeps until `wake_fd` is readable. PeerError: a rank died."""

    def close(self) -> None:
        """Ends the ranks."""


def sleep_until(wake_fd: int) -> None:
    """The `wait` of executors that have nothing to watch."""
    select.select([wake_fd], [], [])


@dataclass(slots=True, eq=False)
class Stream:
    """Outputs of one HTTP request, which may hold several prompts. Belongs to the event loop's thread; one reader.

    Engine request `request_ids[p]` has choices p * n .. p * n + n - 1.
    """

    request_ids: tuple[str, ...]
    n: int
    open_outputs: int
    arrived: list[tuple[int, RequestOutput]] = field(default_factory=list)
    event: asyncio.Event = field(default_factory=asyncio.Event)
    error: RequestError | None = None

    async def next(self) -> list[tuple[int, RequestOutput]]:
        """All (choice, record) since the last call, at least one. RequestError: the request or the engine failed."""
        while not self.arrived and self.error is None:
            self.event.clear()
            await self.event.wait()
        if self.error is not None:
            raise self.error
        arrived, self.arrived = self.arrived, []
        return arrived

    def put(self, choice: int, output: RequestOutput) -> None:
        """Called by the loop only."""
        self.arrived.append((choice, output))
        self.open_outputs -= output.finish_reason is not None
        self.event.set()

    def fail(self, error: RequestError) -> None:
        """Ends the stream; the first reason stays."""
        self.error = self.error or error
        self.event.set()


class Start(Protocol):
    """Makes the engine; runs in the engine's thread."""

    def __call__(self) -> tuple[Engine, Executor]:
        """Waits for the ranks."""

    def cancel(self) -> None:
        """Ends the ranks at once, from any thread; a wait for them then raises."""


class EngineLoop:
    """`start` makes the engine in the thread; `ended` is set, and `failure` says why, once the thread is through.

    `max_queued` outputs may wait beside those that can run. `on_ready` is called in the event loop.
    """

    def __init__(self, start: Start, *, max_queued: int, on_ready: Callable[[], None] = lambda: None) -> None:
        self._start, self._max_queued, self._on_ready = start, max_queued, on_ready
        self._commands: deque[Callable[[Engine], object]] = deque()
        self._streams: dict[str, tuple[Stream, int]] = {}
        self._open: set[Stream] = set()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._stop = False
        self._thread = threading.Thread(target=self._run, name="engine")
        self._loop: asyncio.AbstractEventLoop | None = None
        self.engine: Engine | None = None
        """Set once it is ready. Outside its thread only `limits` may be read."""
        self.failure: BaseException | None = None
        self.ended = asyncio.Event()

    def launch(self) -> None:
        """Starts the thread; call inside the event loop that will read the streams."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    @property
    def ready(self) -> bool:
        """Whether requests are taken."""
        return self.engine is not None and not self._stop and not self.ended.is_set()

    def check_room(self, outputs: int) -> Limits:
        """The engine's limits. RequestError: not ready (503), or no room in the queue for `outputs` more (429)."""
        if self.engine is None or not self.ready:
            raise not_ready()
        limits = self.engine.limits
        most = limits.max_num_seqs * self.engine.executor.layout.attention.dp + self._max_queued
        if self.open_outputs + outputs > most:
            raise queue_full(self.open_outputs, most)
        return limits

    def submit(self, request_id: str, prompts: Sequence[list[int]], params: SamplingParams) -> Stream:
        """A stream of `params.n` outputs of every prompt. RequestError as in `check_room`."""
        self.check_room(params.n * len(prompts))
        ids = tuple(f"{request_id}-{index}" for index in range(len(prompts)))
        stream = Stream(ids, params.n, params.n * len(prompts))
        self._open.add(stream)
        for index, (part_id, prompt) in enumerate(zip(ids, prompts, strict=True)):
            self._streams[part_id] = (stream, index * params.n)
            self._command(partial(self._admit, part_id, prompt, params))
        return stream

    @property
    def open_outputs(self) -> int:
        """Outputs that are queued or running."""
        return sum(stream.open_outputs for stream in self._open)

    def stop_output(self, stream: Stream, choice: int, reason: str) -> None:
        """Ends one output whose text holds a stop string; the engine answers with its last record."""
        prompt, index = divmod(choice, stream.n)
        request_id = stream.request_ids[prompt]
        self._command(lambda engine: engine.stop_request(request_id, reason, index=index))

    def close_stream(self, stream: Stream) -> None:
        """Nobody reads any more: what is unfinished is aborted."""
        self._open.discard(stream)
        for request_id in stream.request_ids:
            self._streams.pop(request_id, None)
            if stream.open_outputs:
                self._command(methodcaller("abort", request_id))

    def stop(self) -> None:
        """Ends the engine after the step in hand, or ends its start; open streams end with an error."""
        self._stop = True
        if self.engine is None:
            self._start.cancel()
        self._ring()

    def kill(self) -> None:
        """Ends the ranks at once, whatever they do."""
        self._stop = True
        self._start.cancel()

    def join(self) -> None:
        """Waits until the thread has ended."""
        if self._thread.is_alive():
            self._thread.join()

    def _command(self, command: Callable[[Engine], object]) -> None:
        self._commands.append(command)
        self._ring()

    def _ring(self) -> None:
        os.eventfd_write(self._wake, 1)

    # The engine's thread.

    def _run(self) -> None:
        executor: Executor | None = None
        failure: BaseException | None = None
        try:
            engine, executor = self._start()
            self.engine = engine
            self._call(self._on_ready)
            self._serve(engine, executor)
        except BaseException as error:  # the thread's last words: handed to the main thread, which ends the server
            failure = None if self._stop else error
            if failure is not None and not isinstance(error, WeftError):
                _log.exception("unexpected error in the engine")
        finally:
            if executor is not None:
                executor.close()
            self._call(lambda: self._end(failure))

    def _serve(self, engine: Engine, executor: Executor) -> None:
        while not self._stop:
            while self._commands:
                self._commands.popleft()(engine)
            if engine.has_work:
                self._step(engine)
            elif not self._commands and not self._stop:
                executor.wait(self._wake)
                self._silence()

    def _step(self, engine: Engine) -> None:
        outputs = engine.step()
        if outputs:
            self._call(lambda: self._deliver(outputs))
        if engine.failure is not None:
            raise PeerError(engine.failure)

    def _silence(self) -> None:
        try:
            os.eventfd_read(self._wake)
        except BlockingIOError:
            pass

    def _admit(self, request_id: str, prompt_ids: list[int], params: SamplingParams, engine: Engine) -> None:
        try:
            engine.add_request(request_id, prompt_ids, params)
        except RequestError as error:
            self._call(partial(self._fail, request_id, error))

    def _call(self, function: Callable[[], None]) -> None:
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(function)
        except RuntimeError:
            _log.debug("the event loop has ended before the engine")

    # The event loop's thread.

    def _deliver(self, outputs: list[RequestOutput]) -> None:
        for output in outputs:
            found = self._streams.get(output.request_id)
            if found is None:
                continue
            stream, first = found
            if output.finish_reason is FinishReason.ERROR:
                stream.fail(engine_failed())
            else:
                stream.put(first + output.index, output)

    def _fail(self, request_id: str, error: RequestError) -> None:
        found = self._streams.get(request_id)
        if found is not None:
            found[0].open_outputs -= found[0].n
            found[0].fail(error)

    def _end(self, failure: BaseException | None) -> None:
        self.failure = failure
        error = stopping() if failure is None else engine_failed()
        for stream in self._open:
            stream.fail(error)
        self.ended.set()
