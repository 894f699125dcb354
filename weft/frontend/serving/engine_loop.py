"""EngineLoop: an engine in a thread of its own, and its outputs in the event loop.

The thread sleeps while nothing runs. A step's outputs cross to the event loop in one call. When the ranks die they are
started again; what that means for requests, and for the server, is the owner's to say.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Protocol

from weft.base.deaths import may_blame
from weft.base.errors import PeerError, RequestError, WeftError
from weft.base.log import get_logger
from weft.base.step.sampling_params import SamplingParams
from weft.engine.core.engine import Engine
from weft.engine.core.outputs import EngineStats, FinishReason, Outputs
from weft.frontend.serving.protocols import Start as Start
from weft.frontend.serving.protocols import WakeableExecutor as WakeableExecutor
from weft.frontend.serving.readiness import Status
from weft.frontend.serving.recovery.restarts import Recovery
from weft.runtime.ipc.report import RankReport

_log = get_logger(__name__)

STATS_S = 2.0  # how long a request for counters waits for a step to end
AT_ONCE = 128  # outputs of a step that the event loop passes on before it looks at its sockets again
STEP_GRACE_S = 1.0  # how long the current step may go on when the server ends

Running = frozenset[str]
"""Ids of the engine requests of the current step."""


class Owner(Protocol):
    """What hears of an engine; always in the event loop."""

    def begun(self, loop: EngineLoop) -> None:
        """The engine is ready, for the first time or again."""

    def deliver(self, outputs: Outputs) -> None:
        """Of a step, or a part of one."""

    def refuse(self, request_id: str, error: RequestError) -> None:
        """The engine does not take the request, or takes it no longer."""

    def lost(self, loop: EngineLoop, running: Running, *, blamed: bool) -> None:
        """The ranks died; others are started in their place. `killed`: from outside, as it seems."""

    def over(self, loop: EngineLoop, failure: BaseException | None, running: Running) -> None:
        """The thread has ended: it was stopped, or (`failure`) its ranks died and are not started again."""


class EngineLoop:
    """The engine of replica `index`, which `start` makes in the thread. `recovery` None: the first death of the ranks
    is the end."""

    def __init__(self, start: Start, owner: Owner, index: int = 0, recovery: Recovery | None = None) -> None:
        self.index = index
        self._start, self._owner, self._recovery = start, owner, recovery
        self._commands: deque[tuple[int, Callable[[Engine], object]]] = deque()
        self._asleep = False
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._stopping = threading.Event()
        self._restarting = False
        self._running: Running = frozenset()
        self._thread = threading.Thread(target=self._run, name=f"engine {index}")
        self._loop: asyncio.AbstractEventLoop | None = None
        self.engine: Engine | None = None
        """Set once it is ready. Outside its thread only `limits` and the executor's layout may be read."""
        self.restarts = 0
        """How many sets of ranks have died, as the event loop knows; commands are for the set that they name."""
        self.gone = False
        """The thread is through, or about to be."""

    def launch(self) -> None:
        """Starts the thread; call inside the event loop that will hear of it."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    @property
    def serving(self) -> bool:
        """Whether the engine takes commands."""
        return self.engine is not None and not self._restarting and not self.gone

    @property
    def status(self) -> Status:
        """Of this replica."""
        if self.gone:
            return "stopped"
        if self._stopping.is_set():
            return "draining"
        if self._restarting:
            return "restarting"
        return "ready" if self.serving else "starting"

    def lacking(self) -> str:
        """Which host its ranks are missing, in words; empty: none."""
        return self._start.lacking()

    def reports(self) -> list[RankReport]:
        """Where each of its ranks is."""
        return self._start.reports()

    def admit(self, request_id: str, prompt_ids: list[int], params: SamplingParams) -> None:
        """Hands the engine a request; the owner hears if it is refused."""
        self.tell(partial(self._admit, request_id, prompt_ids, params))

    def tell(self, command: Callable[[Engine], object]) -> None:
        """Runs `command` in the engine's thread, between two steps; dropped when the ranks are dead, or die before."""
        if not self.serving:
            return
        self._commands.append((self.restarts, command))
        if self._asleep:  # a thread that runs a step looks at its commands afterwards anyway
            self._ring()

    def refuse(self, request_id: str, error: RequestError) -> None:
        """Reports a failed request to the owner; from the engine's thread."""
        self._call(partial(self._owner.refuse, request_id, error))

    async def stats(self) -> EngineStats | None:
        """The engine's counters between two steps; None while there is no engine, or while it does not answer."""
        found: asyncio.Future[EngineStats] = asyncio.get_running_loop().create_future()

        def tell(engine: Engine) -> None:
            stats = engine.stats()
            self._call(lambda: None if found.done() else found.set_result(stats))

        if not self.serving:
            return None
        self.tell(tell)
        with suppress(TimeoutError):
            return await asyncio.wait_for(found, STATS_S)
        return None

    def stop(self) -> None:
        """Ends the engine after the current step, or ends its start."""
        self._stopping.set()
        self._ring()
        if not self.serving:
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
        except BaseException as error:  # the thread's last words: handed to the owner, which knows what ends with it
            failure = None if self._stopping.is_set() else error
        finally:
            self._call(partial(self._end, failure))

    def _live(self, life: int) -> bool:
        """One set of ranks, from start to end. True: it died, and another is due now. Raises what ends the thread."""
        engine: Engine | None = None
        executor: WakeableExecutor | None = None
        try:
            self._running = frozenset()
            engine, executor = self._start()
            began = time.monotonic()
            self._call(partial(self._begin, engine))
            self._serve(life, engine, executor)
            engine.finish()
            return False
        except Exception as error:  # of whatever kind: the ranks are lost, and the reason is reported
            if self._stopping.is_set():
                return False
            if not isinstance(error, WeftError):
                _log.exception("unexpected error in the engine")
            self._running = frozenset() if engine is None else engine.in_flight()
            if self._recovery is None or (life == 0 and engine is None):
                raise
            delay_s = self._recovery.delay(error, time.monotonic() - began if engine is not None else 0.0)
            _log.error("%s; starting the ranks again in %g s", error, delay_s)
            self._call(partial(self._lose, self._running, blamed=may_blame(error)))
        finally:
            if executor is not None:
                executor.close()
        return not self._stopping.wait(delay_s)

    def _serve(self, life: int, engine: Engine, executor: WakeableExecutor) -> None:
        while not self._stopping.is_set():
            while self._commands:
                meant_for, command = self._commands.popleft()
                if meant_for == life:
                    command(engine)
            if engine.has_work:
                self._step(engine)
            else:
                self._sleep(executor)

    def _sleep(self, executor: WakeableExecutor) -> None:
        """Until `_ring`. Commands are looked at after `_asleep` is set, so that none is missed."""
        self._asleep = True
        if not self._commands and not self._stopping.is_set():
            executor.wait(self._wake)
            with suppress(BlockingIOError):
                os.eventfd_read(self._wake)
        self._asleep = False

    def _step(self, engine: Engine) -> None:
        outputs = engine.step()
        if engine.failure is not None:
            outputs = Outputs(([each for each in outputs if each.finish_reason is not FinishReason.ERROR],))
        for piece in outputs.cut(AT_ONCE):
            self._call(partial(self._owner.deliver, piece))
        if engine.failure is not None:
            raise engine.failed_with or PeerError(engine.failure)

    def _admit(self, request_id: str, prompt_ids: list[int], params: SamplingParams, engine: Engine) -> None:
        try:
            engine.add_request(request_id, prompt_ids, params)
        except RequestError as error:
            self.refuse(request_id, error)

    def _call(self, function: Callable[[], None]) -> None:
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(function)
        except RuntimeError:
            _log.debug("the event loop has ended before the engine")

    def _begin(self, engine: Engine) -> None:
        self.engine, self._restarting = engine, False
        self._owner.begun(self)

    def _lose(self, running: Running, *, blamed: bool) -> None:
        self.restarts += 1
        self._restarting = True
        self._owner.lost(self, running, blamed=blamed)

    def _end(self, failure: BaseException | None) -> None:
        self.gone = True
        self._owner.over(self, failure, self._running)
