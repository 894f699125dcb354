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
from typing import Protocol

from weft.engine.engine import Engine
from weft.engine.outputs import FinishReason, RequestOutput
from weft.errors import PeerError, RequestError, WeftError
from weft.log import get_logger
from weft.server.errors import engine_failed, stopping
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
    """One request's outputs, read by one task. Belongs to the event loop's thread."""

    request_id: str
    open_outputs: int
    arrived: list[RequestOutput] = field(default_factory=list)
    event: asyncio.Event = field(default_factory=asyncio.Event)
    error: RequestError | None = None

    async def next(self) -> list[RequestOutput]:
        """All records since the last call, at least one. RequestError: the request or the engine failed."""
        while not self.arrived and self.error is None:
            self.event.clear()
            await self.event.wait()
        if not self.arrived and self.error is not None:
            raise self.error
        arrived, self.arrived = self.arrived, []
        return arrived

    def put(self, output: RequestOutput) -> None:
        """Called by the loop only."""
        self.arrived.append(output)
        self.open_outputs -= output.finish_reason is not None
        self.event.set()

    def fail(self, error: RequestError) -> None:
        """Called by the loop only; the first reason stays."""
        self.error = self.error or error
        self.event.set()


Start = Callable[[], tuple[Engine, Executor]]
"""Waits for the ranks; runs in the engine's thread."""


class EngineLoop:
    """`start` makes the engine in the thread; `ended` is set, and `failure` says why, once the thread is through."""

    def __init__(self, start: Start, *, max_open: int) -> None:
        self._start, self._max_open = start, max_open
        self._commands: deque[Callable[[Engine], object]] = deque()
        self._streams: dict[str, Stream] = {}
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._stop = False
        self._thread = threading.Thread(target=self._run, name="engine")
        self._loop: asyncio.AbstractEventLoop | None = None
        self.ready = False
        self.failure: BaseException | None = None
        self.ended = asyncio.Event()

    def launch(self) -> None:
        """Starts the thread; call inside the event loop that will read the streams."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    def submit(self, request_id: str, prompt_ids: Sequence[int], params: SamplingParams) -> Stream:
        """A stream of `params.n` outputs. RequestError: not ready (503) or the queue is full (429)."""
        if not self.ready:
            raise RequestError("the model is not ready yet", status=503, code="not_ready")
        if self.open_outputs + params.n > self._max_open:
            raise RequestError(
                f"the queue is full: {self.open_outputs} outputs are open, at most {self._max_open} may be",
                status=429,
                code="queue_full",
            )
        stream = self._streams[request_id] = Stream(request_id, params.n)
        ids = list(prompt_ids)
        self._command(lambda engine: self._admit(engine, request_id, ids, params))
        return stream

    @property
    def open_outputs(self) -> int:
        """Outputs that are queued or running."""
        return sum(stream.open_outputs for stream in self._streams.values())

    def stop_output(self, stream: Stream, index: int, reason: str) -> None:
        """Ends one output whose text holds a stop string; the engine answers with its last record."""
        self._command(lambda engine: engine.stop_request(stream.request_id, reason, index=index))

    def close_stream(self, stream: Stream) -> None:
        """Nobody reads any more: what is unfinished is aborted."""
        self._streams.pop(stream.request_id, None)
        if stream.open_outputs and stream.error is None:
            self._command(lambda engine: engine.abort(stream.request_id))

    def stop(self) -> None:
        """Ends the engine after the step in hand; open streams end with an error. Safe to call twice."""
        self._stop = True
        self._ring()

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
            self._call(self._set_ready)
            self._serve(engine, executor)
        except BaseException as error:  # the thread's last words: handed to the main thread, which ends the server
            failure = error
            if not isinstance(error, WeftError):
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

    def _admit(self, engine: Engine, request_id: str, prompt_ids: list[int], params: SamplingParams) -> None:
        try:
            engine.add_request(request_id, prompt_ids, params)
        except RequestError as error:
            failed = error
            self._call(lambda: self._fail(request_id, failed))

    def _call(self, function: Callable[[], None]) -> None:
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(function)
        except RuntimeError:
            _log.debug("the event loop has ended before the engine")

    # The event loop's thread.

    def _set_ready(self) -> None:
        self.ready = True

    def _deliver(self, outputs: list[RequestOutput]) -> None:
        for output in outputs:
            stream = self._streams.get(output.request_id)
            if stream is None:
                continue
            if output.finish_reason is FinishReason.ERROR:
                stream.fail(engine_failed())
            else:
                stream.put(output)

    def _fail(self, request_id: str, error: RequestError) -> None:
        stream = self._streams.get(request_id)
        if stream is not None:
            stream.open_outputs = 0
            stream.fail(error)

    def _end(self, failure: BaseException | None) -> None:
        self.ready = False
        self.failure = failure
        error = stopping() if self._stop else engine_failed()
        for stream in self._streams.values():
            stream.fail(error)
        self.ended.set()
