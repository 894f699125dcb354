"""EngineLoop: the engine in a thread of its own, and its outputs in the event loop. Knows no HTTP and no text.

The thread sleeps while nothing runs. A step's outputs cross to the event loop in one call; a stream's reader gets all
that has come since it last looked. When the ranks die they are started again: streams that a client has seen something
of end with the reason, the others run anew. When the engine ends for good, every open stream ends with the reason.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from operator import methodcaller

from weft.engine.engine import Engine
from weft.engine.limits import Limits
from weft.engine.outputs import EngineStats, FinishReason
from weft.errors import PeerError, RequestError, WeftError
from weft.log import get_logger
from weft.server.errors import engine_failed, not_ready, queue_full, restarting, stopping
from weft.server.open_streams import OpenStreams
from weft.server.readiness import Readiness, Status
from weft.server.recovery import Recovery
from weft.server.seams import Executor as Executor
from weft.server.seams import Start as Start
from weft.server.stream import Stream
from weft.step.sampling_params import SamplingParams

_log = get_logger(__name__)

STATS_S = 2.0  # how long a step may keep somebody who asks for counters waiting
AT_ONCE = 128  # outputs of a step that the event loop passes on before it looks at its sockets again
STEP_GRACE_S = 1.0  # how long a step in hand may go on when the server ends


class EngineLoop:
    """`start` makes the engine in the thread; `ended` is set, and `failure` says why, once the thread is through.

    `max_queued` outputs may wait beside those that can run. `on_ready` is called in the event loop, after a restart
    too. `recovery` None: the first death of the ranks is the end.
    """

    def __init__(
        self,
        start: Start,
        *,
        max_queued: int,
        on_ready: Callable[[], None] = lambda: None,
        recovery: Recovery | None = None,
    ) -> None:
        self._start, self._max_queued, self._on_ready, self._recovery = start, max_queued, on_ready, recovery
        self._commands: deque[tuple[int, Callable[[Engine], object]]] = deque()
        self._asleep = False
        self._open = OpenStreams()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._stopping = threading.Event()
        self._draining = False
        self._restarting = False
        self._thread = threading.Thread(target=self._run, name="engine")
        self._loop: asyncio.AbstractEventLoop | None = None
        self.engine: Engine | None = None
        """Set once it is ready. Outside its thread only `limits` may be read."""
        self.restarts = 0
        """How many sets of ranks have died, as the event loop knows; commands are for the set that they name."""
        self.failure: BaseException | None = None
        self.ended = asyncio.Event()

    def launch(self) -> None:
        """Starts the thread; call inside the event loop that will read the streams."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    @property
    def ready(self) -> bool:
        """Whether requests are taken."""
        return self._status == "ready"

    @property
    def _status(self) -> Status:
        if self.ended.is_set():
            return "stopped"
        if self._draining or self._stopping.is_set():
            return "draining"
        if self._restarting:
            return "restarting"
        return "starting" if self.engine is None else "ready"

    def readiness(self) -> Readiness:
        """Where the server and each of its ranks are."""
        return Readiness(status=self._status, restarts=self.restarts, ranks=self._start.reports())

    def check_ready(self) -> Limits:
        """The engine's limits. RequestError (503): not ready yet, restarting, or ending."""
        if self.engine is None or not self.ready:
            raise {"restarting": restarting, "draining": stopping, "stopped": stopping}.get(self._status, not_ready)()
        return self.engine.limits

    def check_room(self, outputs: int) -> Limits:
        """The engine's limits. RequestError: not ready (503), or no room in the queue for `outputs` more (429)."""
        limits = self.check_ready()
        assert self.engine is not None
        most = limits.max_num_seqs * self.engine.executor.layout.attention.dp + self._max_queued
        if self.open_outputs + outputs > most:
            raise queue_full(self.open_outputs, most)
        return limits

    def submit(
        self, request_id: str, prompts: Sequence[list[int]], params: SamplingParams, *, whole: bool = False
    ) -> Stream:
        """A stream of `params.n` outputs of every prompt; `whole`: see Stream.

        RequestError as in `check_room`, or 422: the request has ended the ranks twice.
        """
        self.check_room(params.n * len(prompts))
        stream = self._open.add(request_id, prompts, params, whole=whole)
        self._send(stream)
        return stream

    def _send(self, stream: Stream) -> None:
        for part_id, prompt in zip(stream.request_ids, stream.prompts, strict=True):
            self.tell(partial(self._admit, part_id, prompt, stream.params))

    @property
    def open_outputs(self) -> int:
        """Outputs that are queued or running."""
        return self._open.outputs

    def stop_output(self, stream: Stream, choice: int, reason: str) -> None:
        """Ends one output whose text holds a stop string; the engine answers with its last record."""
        prompt, index = divmod(choice, stream.n)
        request_id = stream.request_ids[prompt]
        self.tell(lambda engine: engine.stop_request(request_id, reason, index=index))

    def tell(self, command: Callable[[Engine], object]) -> None:
        """Runs `command` in the engine's thread, between two steps; dropped when the ranks die before."""
        self._commands.append((self.restarts, command))
        if self._asleep:  # a thread that runs a step looks at its commands afterwards anyway
            self._ring()

    def fail(self, request_id: str, error: RequestError) -> None:
        """Fails the stream of an engine request; from the engine's thread."""
        self._call(partial(self._open.fail, request_id, error))

    async def stats(self) -> EngineStats | None:
        """The engine's counters between two steps; None while there is no engine, or while it does not answer."""
        found: asyncio.Future[EngineStats] = asyncio.get_running_loop().create_future()

        def tell(engine: Engine) -> None:
            stats = engine.stats()
            self._call(lambda: None if found.done() else found.set_result(stats))

        if not self.ready:
            return None
        self.tell(tell)
        with suppress(TimeoutError):
            return await asyncio.wait_for(found, STATS_S)
        return None

    def close_stream(self, stream: Stream) -> None:
        """Nobody reads any more: what is unfinished is aborted."""
        self._open.discard(stream)
        if stream.open_outputs:
            for request_id in stream.request_ids:
                self.tell(methodcaller("abort", request_id))
        if self._draining and not self._open:
            self.stop()

    def drain(self, limit_s: float) -> None:
        """Takes no more requests and ends when the open ones have, after `limit_s` at the latest."""
        self._draining = True
        if self.engine is None or not self._open or limit_s <= 0:
            self.stop()
        else:
            assert self._loop is not None
            self._loop.call_later(limit_s, self.stop)

    def stop(self) -> None:
        """Ends the engine after the step in hand, or ends its start; open streams end with an error."""
        self._stopping.set()
        self._ring()
        if self.engine is None or self._restarting:
            self._start.cancel()
        elif self._loop is not None:
            self._loop.call_later(STEP_GRACE_S, self.kill)

    def kill(self) -> None:
        """Ends the ranks at once, whatever they do."""
        self._stopping.set()
        self._ring()
        self._start.cancel()

    def join(self) -> None:
        """Waits until the thread has ended."""
        if self._thread.is_alive():
            self._thread.join()

    # From here to `_call`: the engine's thread; what follows is the event loop's.

    def _ring(self) -> None:
        os.eventfd_write(self._wake, 1)

    def _run(self) -> None:
        failure, life = None, 0
        try:
            while not self._stopping.is_set() and self._live(life):
                life += 1
        except BaseException as error:  # the thread's last words: handed to the main thread, which ends the server
            failure = None if self._stopping.is_set() else error
        finally:
            self._call(lambda: self._end(failure))

    def _live(self, life: int) -> bool:
        """One set of ranks, from start to end. True: it died, and another is due now. Raises what ends the server."""
        engine: Engine | None = None
        executor: Executor | None = None
        try:
            engine, executor = self._start()
            began = time.monotonic()
            self._call(partial(self._begin, engine))
            self._serve(life, engine, executor)
            engine.finish()
            return False
        except Exception as error:  # of whatever kind: the ranks are lost, and the reason is told
            if self._stopping.is_set():
                return False
            if not isinstance(error, WeftError):
                _log.exception("unexpected error in the engine")
            if self._recovery is None or (life == 0 and engine is None):
                raise
            delay_s = self._recovery.delay(error, time.monotonic() - began if engine is not None else 0.0)
            _log.error("%s; starting the ranks again in %g s", error, delay_s)
            self._call(partial(self._lose, frozenset() if engine is None else engine.in_flight()))
        finally:
            if executor is not None:
                executor.close()
        return not self._stopping.wait(delay_s)

    def _serve(self, life: int, engine: Engine, executor: Executor) -> None:
        while not self._stopping.is_set():
            while self._commands:
                meant_for, command = self._commands.popleft()
                if meant_for == life:
                    command(engine)
            if engine.has_work:
                self._step(engine)
            else:
                self._sleep(executor)

    def _sleep(self, executor: Executor) -> None:
        """Until somebody rings. Commands are looked at after `_asleep` is set, so that none is missed."""
        self._asleep = True
        if not self._commands and not self._stopping.is_set():
            executor.wait(self._wake)
            with suppress(BlockingIOError):
                os.eventfd_read(self._wake)
        self._asleep = False

    def _step(self, engine: Engine) -> None:
        outputs = engine.step()
        if engine.failure is not None:
            outputs = [output for output in outputs if output.finish_reason is not FinishReason.ERROR]
        for first in range(0, len(outputs), AT_ONCE):
            self._call(partial(self._open.deliver, outputs[first : first + AT_ONCE]))
        if engine.failure is not None:
            raise PeerError(engine.failure)

    def _admit(self, request_id: str, prompt_ids: list[int], params: SamplingParams, engine: Engine) -> None:
        try:
            engine.add_request(request_id, prompt_ids, params)
        except RequestError as error:
            self.fail(request_id, error)

    def _call(self, function: Callable[[], None]) -> None:
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(function)
        except RuntimeError:
            _log.debug("the event loop has ended before the engine")

    def _begin(self, engine: Engine) -> None:
        self.engine, self._restarting = engine, False
        self._on_ready()

    def _lose(self, running: frozenset[str]) -> None:
        """The ranks died while `running` were in a step: each open stream fails, or waits for the next set."""
        self.restarts += 1
        self._restarting = True
        for stream in self._open.lose(running):
            self._send(stream)

    def _end(self, failure: BaseException | None) -> None:
        self.failure = failure
        error = stopping() if failure is None else engine_failed()
        self._open.end(error)
        self.ended.set()
