"""The text worker as the server sees it: jobs in, futures out. `TextWorker` has the process; `LocalTexts` none.

Jobs of one connection run in their order; connections take turns, so that none waits for all jobs of another. A job
whose future was cancelled before its turn is dropped: its client is gone.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections import OrderedDict, deque
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec

from weft.base.errors import PeerError, RequestError
from weft.base.log import get_logger
from weft.base.machine.interpreter import finding_weft, runs
from weft.frontend.text_worker.handler import Handler
from weft.frontend.text_worker.jobs import (
    MORE_MEMORY,
    Begin,
    Job,
    JobAnswer,
    Ready,
    named,
    pack,
    too_deep,
    unpack_result,
)
from weft.runtime.ipc.channel import Channel, ChannelClosed, channel_pair

_log = get_logger(__name__)

PROGRAM = runs("weft.frontend.text_worker.process")
MEMORY = 1 << 30
"""Bytes of address space that jobs may take beyond what the process has at its start."""
START_S = 120.0
"""Seconds that a process may take until it is ready."""
WALL = 10.0
"""A job's seconds on the clock for each second of processor time that it may take: the machine may be busy."""
TRIES = 2
"""A job is run again where its process died of something else than the job's bounds, once."""
_ENDS = {
    -signal.SIGPROF: "takes more time than loading it may",
    -signal.SIGABRT: f"takes {MORE_MEMORY}, or ends the process that loads it",
}
"""By exit code of a process that did not become ready, what its tokenizer does."""
_ONE_THREAD = {"RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}


class BeginFault(PeerError):
    """The process cannot work with this model: its tokenizer is faulty, or passed the bounds of its loading."""


class Texts(Protocol):
    """What does text jobs."""

    def submit(self, job: Job, connection: object = None) -> Future[Any]:
        """The job's result to be. `connection`: whose job it is; None: the server's own. RequestError through the
        future: it is refused, passed a bound, or the worker cannot be started (503)."""

    def close(self) -> None:
        """Ends what runs; safe to call twice."""


class LocalTexts:
    """Does jobs at once, in the caller's thread, without bounds: for tests, and a served model without a worker."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler

    def submit(self, job: Job, connection: object = None) -> Future[Any]:
        """See `Texts`."""
        done: Future[Any] = Future()
        try:
            if (error := too_deep(job)) is not None:
                raise error
            done.set_result(self._handler.do(job))
        except Exception as error:  # the future raises it again
            done.set_exception(error)
        return done

    def close(self) -> None:
        """Nothing runs."""


@dataclass(slots=True)
class _Process:
    process: subprocess.Popen[bytes]
    channel: Channel
    lifeline: int
    ready: bool = False

    def end(self) -> int:
        """Its exit code."""
        with suppress(ProcessLookupError):
            self.process.kill()
        code = self.process.wait(timeout=60)
        self.channel.close()
        if self.lifeline >= 0:
            os.close(self.lifeline)
            self.lifeline = -1
        return code


@dataclass(slots=True)
class _Queue:
    """Jobs of each connection that has any; the connection whose turn it is comes first."""

    waiting: OrderedDict[object, deque[tuple[Job, Future[Any]]]] = field(default_factory=OrderedDict)

    def put(self, connection: object, job: Job, future: Future[Any]) -> None:
        self.waiting.setdefault(connection, deque()).append((job, future))

    def take(self) -> tuple[Job, Future[Any]] | None:
        """The next job; its connection goes to the end."""
        if not self.waiting:
            return None
        connection, jobs = self.waiting.popitem(last=False)
        first = jobs.popleft()
        if jobs:
            self.waiting[connection] = jobs
        return first


class TextWorker:
    """Jobs in a process of their own, which is started at once, and again after it died. One thread of this process
    serves it."""

    def __init__(
        self, begin: Begin, *, memory: int = MEMORY, nice: int = 0, program: tuple[str, ...] = PROGRAM
    ) -> None:
        """`nice`: how much later than others the system lets it run."""
        self._nice = nice
        self._begin, self._memory, self._program = pack(begin), memory, program
        self._model = begin.checkpoint.path
        self._fault: BeginFault | None = None
        self._queue, self._change = _Queue(), threading.Condition()
        self._closed = False
        self.starts = 0
        """Processes so far."""
        self._process: _Process | None = self._spawn()
        self._thread = threading.Thread(target=self._serve, name="text worker", daemon=True)
        self._thread.start()

    @property
    def pid(self) -> int | None:
        """Of the process; None where there is none now."""
        process = self._process
        return None if process is None else process.process.pid

    def submit(self, job: Job, connection: object = None) -> Future[Any]:
        """See `Texts`."""
        future: Future[Any] = Future()
        error = too_deep(job)
        with self._change:
            if self._closed or error is not None:
                future.set_exception(error or RequestError("the server is shutting down", status=503))
                return future
            self._queue.put(connection, job, future)
            self._change.notify()
        return future

    def close(self) -> None:
        """See `Texts`: jobs that have not ended are refused."""
        with self._change:
            self._closed = True
            self._change.notify()
            process = self._process
        if process is not None:
            with suppress(ProcessLookupError):
                process.process.kill()
        self._thread.join()

    def _serve(self) -> None:
        self._prepare()
        while (taken := self._next()) is not None:
            job, future = taken
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(self._run(job))
            except Exception as error:  # the future raises it again
                future.set_exception(error)
            self._prepare()
        if self._process is not None:
            self._process.end()
            self._process = None
        while (left := self._queue.take()) is not None:
            if left[1].set_running_or_notify_cancel():
                left[1].set_exception(RequestError("the server is shutting down", status=503))

    def _prepare(self) -> None:
        """Has the process ready before the next job comes; where it cannot be started, that job says so."""
        if not self._closed and (self._process is None or not self._process.ready):
            with suppress(RequestError):
                self._ready()

    def _next(self) -> tuple[Job, Future[Any]] | None:
        """The next job, once there is one; None: the end."""
        with self._change:
            while not self._closed:
                if (taken := self._queue.take()) is not None:
                    return taken
                self._change.wait()
        return None

    def _run(self, job: Job) -> Any:
        """RequestError: why there is no result."""
        try:
            frame = pack(job)
        except (OverflowError, ValueError, TypeError, RecursionError) as error:
            message = f"{named(job)} has a value that cannot be worked on: {error}"
            raise RequestError(message, param=job.param, code="invalid_value") from error
        for _ in range(TRIES):
            process = self._ready()
            try:
                process.channel.send(frame, WALL * job.cpu_s)
                answer = msgspec.msgpack.decode(process.channel.receive(WALL * job.cpu_s), type=JobAnswer)
            except TimeoutError:
                self._restart()
                raise _took_too_long(job) from None
            except ChannelClosed:
                code = self._restart()
                if code == -signal.SIGPROF:
                    raise _took_too_long(job) from None
                if code == -signal.SIGABRT:  # so a tokenizer's own allocation fails
                    message = f"{named(job)} needs more memory than a request may take; send a smaller one"
                    raise RequestError(message, param=job.param, code="too_large") from None
                if self._closed:
                    raise RequestError("the server is shutting down", status=503) from None
                _log.warning("the text worker ended with code %d; it is started again", code)
                continue
            if answer.ends:
                self._restart()
            return unpack_result(job, answer)
        message = f"{named(job)} cannot be worked on: it ends the process that does"
        raise RequestError(message, param=job.param, code="invalid_value")

    def _ready(self) -> _Process:
        """The process, once it takes jobs. RequestError 503: it cannot be started."""
        process = self._process
        fault: Exception | None = self._fault
        try:
            if fault is None and process is None:
                process = self._process = self._spawn()
            if fault is None and process is not None and not process.ready:
                process.channel.send(self._begin, START_S)
                said = msgspec.msgpack.decode(process.channel.receive(START_S), type=Ready)
                process.ready = not said.problem
                fault = BeginFault(said.problem) if said.problem else None
            if fault is None and process is not None:
                return process
        except (OSError, PeerError, TimeoutError) as error:
            fault = error
        code = self._restart() if self._process is not None else 0
        if isinstance(fault, ChannelClosed) and code < 0 and not self._closed:
            does = _ENDS.get(code, f"ends the process that loads it (signal {-code})")
            fault = BeginFault(f"checkpoint {self._model}: its tokenizer {does}")
        if isinstance(fault, BeginFault) and self.starts == 1:  # trying again would end alike
            self._fault = fault
        elif not self._closed:
            _log.error("the text worker cannot be started: %s", fault)
        raise RequestError("the text worker cannot be started", status=503, code="text_worker_failed") from fault

    def _restart(self) -> int:
        """The exit code of the process that there was."""
        assert self._process is not None
        code = self._process.end()
        self._process = None
        return code

    def _spawn(self) -> _Process:
        channel, theirs = channel_pair()
        read_end, lifeline = os.pipe2(os.O_CLOEXEC)
        fds = (theirs.fileno(), read_end)
        words = [*self._program, *map(str, fds), str(os.getpid()), str(self._memory)]
        try:
            child = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                pass_fds=fds,
                env=finding_weft(os.environ | _ONE_THREAD),
                process_group=0,
            )
        except OSError:
            channel.close()
            os.close(lifeline)
            raise
        finally:
            theirs.close()
            os.close(read_end)
        with suppress(OSError):  # it has ended already
            os.setpriority(os.PRIO_PROCESS, child.pid, os.getpriority(os.PRIO_PROCESS, 0) + self._nice)
        self.starts += 1
        return _Process(child, channel, lifeline)


def _took_too_long(job: Job) -> RequestError:
    return RequestError(
        f"{named(job)} takes more than {job.cpu_s:g} s to {job.work}; send a smaller one",
        param=job.param,
        code="too_slow",
    )
